//! Three replicas in one process, over loopback: how a cluster begins, serves, and survives the end of its leader.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use quorate_machine::MACHINE_VERSION;
use quorate_runtime::{ClusterConfig, Config, Consistency, Handle, Quorate, RuntimeError};
use quorate_types::{
    Append, Commit, Format, Key, LeaseId, NodeId, Offset, Op, Outcome, PartitionChoice, Record, record,
};
use std::net::TcpListener;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Node {
    folder: TempDir,
    address: String,
    quorate: Option<Quorate>,
}

struct Cluster {
    nodes: Vec<Node>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
    }
}

/// Small logs and frequent snapshots: what takes a server days happens within a test.
fn config() -> Config {
    let mut config = Config::default();
    config.log.segment_bytes = 256 << 10;
    config.log.batch_bytes_max = 128 << 10;
    config.log.entry_bytes_max = 64 << 10;
    config.entry_bytes = 16 << 10;
    config.snapshot_commands = 2000;
    config.audit_bytes = 512 << 10;
    config
}

fn append(stream: &str, value: &str) -> Commit {
    let payload =
        record::encode(&[Record { key: None, value: Some(value.to_owned().into()), headers: Vec::new() }]);
    Commit::of(vec![Op::Append {
        append: Append {
            stream: Key::new(stream),
            partition: PartitionChoice::Any,
            format: Format::Records,
            records: 1,
            payload,
            create: true,
        },
    }])
}

fn put(key: &str, value: &str) -> Commit {
    Commit::of(vec![Op::Put { key: Key::new(key), value: value.into(), lease: LeaseId(0), prev: false }])
}

impl Cluster {
    fn of(count: u64) -> Self {
        let listeners: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let mut cluster = Self { nodes: Vec::new() };
        for (at, listener) in listeners.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let address = addresses[at].clone();
            let peers =
                addresses.iter().enumerate().map(|(n, a)| (NodeId(n as u64 + 1), a.clone())).collect();
            let quorate = open(&folder, at as u64 + 1, listener, &address, peers);
            cluster.nodes.push(Node { folder, address, quorate: Some(quorate) });
        }
        cluster
    }

    fn handle(&self, node: usize) -> Handle {
        self.nodes[node - 1].quorate.as_ref().unwrap().handle()
    }

    fn stop(&mut self, node: usize) {
        drop(self.nodes[node - 1].quorate.take());
    }

    fn start_with(&mut self, node: usize, config: Config) {
        let at = &mut self.nodes[node - 1];
        let listener = TcpListener::bind(&at.address).unwrap();
        at.quorate = Some(open_with(&at.folder, node as u64, listener, &at.address, Vec::new(), config));
    }

    fn start(&mut self, node: usize) {
        let at = &mut self.nodes[node - 1];
        let listener = TcpListener::bind(&at.address).unwrap();
        at.quorate = Some(open(&at.folder, node as u64, listener, &at.address, Vec::new()));
    }

    /// The running node that leads, once all running nodes agree.
    async fn leader(&self) -> usize {
        until("a leader that all running nodes know", || {
            let running = self.nodes.iter().filter_map(|node| node.quorate.as_ref());
            let seen: Vec<_> =
                running.map(|q| q.handle().cluster_status().and_then(|s| s.standing.leader)).collect();
            let first = seen[0]?;
            seen.iter().all(|leader| *leader == Some(first)).then_some(first.0 as usize)
        })
        .await
    }

    /// What the nodes have to say, for a test that waits in vain.
    fn tell(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(quorate) = &node.quorate else { continue };
            let handle = quorate.handle();
            eprintln!("node {}: {:#?}\n{:#?}", at + 1, handle.take_notes(), handle.cluster_status());
        }
    }

    async fn voters(&self, at: usize, count: usize) {
        until("all voters", || {
            let status = self.handle(at).cluster_status()?;
            let voters = status.members.iter().filter(|m| m.member.role == quorate_engine::Role::Voter {});
            (voters.count() == count).then_some(())
        })
        .await;
    }
}

fn open(
    folder: &TempDir,
    node: u64,
    listener: TcpListener,
    address: &str,
    peers: Vec<(NodeId, String)>,
) -> Quorate {
    open_with(folder, node, listener, address, peers, config())
}

fn open_with(
    folder: &TempDir,
    node: u64,
    listener: TcpListener,
    address: &str,
    peers: Vec<(NodeId, String)>,
    config: Config,
) -> Quorate {
    let url = format!("http://node-{node}");
    let cluster =
        ClusterConfig { node: NodeId(node), listener, address: address.to_owned(), peers, url, tls: None };
    Quorate::open_cluster(folder.path(), config, cluster, |_, _| {}).unwrap()
}

async fn until<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Commits with retries of what did not happen.
async fn commit(handle: &Handle, commit: Commit) -> Result<Outcome, RuntimeError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match handle.command(commit.clone().into()).await {
            Err(RuntimeError::NoLeader { .. } | RuntimeError::Restarting) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

async fn get(handle: &Handle, key: &str) -> Option<Vec<u8>> {
    let key = Key::new(key);
    let found = handle.read_with(Consistency::Linearizable, |machine| machine.get(&key)).await.unwrap();
    found.map(|row| row.value.to_vec())
}

#[tokio::test]
async fn a_cluster_begins_with_one_node_adds_the_others_and_any_node_serves() {
    let cluster = Cluster::of(3);
    let refused = cluster.handle(2).command(put("k", "v").into()).await.unwrap_err();
    until("the refusal", || cluster.handle(2).cluster_status()?.missing).await;
    assert!(matches!(refused, RuntimeError::NoLeader { .. }), "{refused}");
    cluster.handle(1).cluster_init().await.unwrap();
    cluster.voters(1, 3).await;
    cluster.leader().await;
    for node in 1..=3 {
        let value = format!("from {node}");
        commit(&cluster.handle(node), put("k", &value)).await.unwrap();
        for reader in 1..=3 {
            assert_eq!(get(&cluster.handle(reader), "k").await, Some(value.clone().into_bytes()));
        }
    }
}

#[tokio::test]
async fn writes_go_on_when_the_leader_ends_and_it_catches_up_when_it_is_back() {
    let mut cluster = Cluster::of(3);
    cluster.handle(1).cluster_init().await.unwrap();
    cluster.voters(1, 3).await;
    let leader = cluster.leader().await;
    commit(&cluster.handle(leader), put("a", "1")).await.unwrap();
    cluster.stop(leader);
    let other = if leader == 1 { 2 } else { 1 };
    commit(&cluster.handle(other), put("b", "2")).await.unwrap();
    assert_eq!(get(&cluster.handle(other), "a").await, Some(b"1".to_vec()));
    cluster.start(leader);
    cluster.leader().await;
    assert_eq!(get(&cluster.handle(leader), "b").await, Some(b"2".to_vec()));
}

#[tokio::test]
async fn a_lost_quorum_is_said_at_once_with_what_is_missing() {
    let mut cluster = Cluster::of(3);
    cluster.handle(1).cluster_init().await.unwrap();
    cluster.voters(1, 3).await;
    cluster.leader().await;
    cluster.stop(2);
    cluster.stop(3);
    let handle = cluster.handle(1);
    until("the loss to be noticed", || handle.cluster_status()?.missing).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begun = Instant::now();
    let write = handle.command(put("k", "v").into()).await.unwrap_err();
    let read = handle.read(|machine| machine.revision()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2));
    for refused in [write, read] {
        let text = refused.to_string();
        assert!(text.contains("1 of 3 voters") && text.contains("2 are needed"), "{text}");
    }
    assert!(handle.read_with(Consistency::Stale, |machine| machine.revision()).await.is_ok());
}

#[tokio::test]
async fn a_node_that_was_away_for_long_copies_the_log_with_its_payloads() {
    let mut cluster = Cluster::of(3);
    cluster.handle(1).cluster_init().await.unwrap();
    cluster.voters(1, 3).await;
    let leader = cluster.leader().await;
    let away = if leader == 3 { 2 } else { 3 };
    let first = cluster.handle(leader).command(append("events", "the first").into()).await.unwrap();
    assert!(matches!(first, Outcome::Committed { .. }), "{first:?}");
    cluster.stop(away);
    let handle = cluster.handle(leader);
    let filler = "x".repeat(2000);
    // Until the log of the others no longer reaches back to where the node left.
    for round in 0.. {
        let many: Vec<_> = (0..64)
            .map(|n| handle.command(put(&format!("k{n}"), &format!("{round}{filler}")).into()))
            .collect();
        for one in many {
            one.await.unwrap();
        }
        if handle.status().log_first.0 > 50 {
            break;
        }
        assert!(round < 500, "the log is never cleaned: {:?}", handle.status());
    }
    cluster.start(away);
    let reached = handle.status().applied;
    until("the copy to be applied", || (cluster.handle(away).status().applied >= reached).then_some(()))
        .await;
    let notes = cluster.handle(away).take_notes();
    assert!(notes.iter().any(|note| note.starts_with("copied ")), "{notes:?}");
    let at = cluster
        .handle(away)
        .read(|machine| {
            machine.records(&Key::new("events"), 0, Offset(0), 10, 1 << 20).unwrap().batches[0].at
        })
        .await
        .unwrap();
    let payload = cluster.handle(away).payload(at).await.unwrap();
    assert!(payload.windows(9).any(|window| window == b"the first"));
    // It is a full member again: with another node gone it makes the quorum.
    let third = (1..=3).find(|node| *node != leader && *node != away).unwrap();
    cluster.stop(third);
    commit(&cluster.handle(away), put("after", "1")).await.unwrap();
    assert_eq!(get(&cluster.handle(leader), "after").await, Some(b"1".to_vec()));
}

#[tokio::test]
async fn a_damaged_log_is_set_aside_and_copied_from_the_peers() {
    let mut cluster = Cluster::of(3);
    cluster.handle(1).cluster_init().await.unwrap();
    cluster.voters(1, 3).await;
    let leader = cluster.leader().await;
    let damaged = if leader == 3 { 2 } else { 3 };
    let handle = cluster.handle(leader);
    for n in 0..300 {
        handle.command(put(&format!("k{n}"), &"x".repeat(2000)).into()).await.unwrap();
    }
    cluster.stop(damaged);
    let folder = cluster.nodes[damaged - 1].folder.path().to_owned();
    let segment = folder.join("seg-0000000000000001.qseg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&segment, &bytes).unwrap();
    cluster.start(damaged);
    let report = cluster.nodes[damaged - 1].quorate.as_ref().unwrap().report().clone();
    let said = |note: &String| note.contains("seg-0000000000000001.qseg") && note.contains("copied anew");
    assert!(report.notes.iter().any(said), "{report:?}");
    until("the replica to have caught up", || {
        let status = cluster.handle(damaged).cluster_status()?;
        (!status.recovering && status.members.len() == 3).then_some(())
    })
    .await;
    assert!(segment.exists(), "the damaged files are set aside, not removed");
    let third = (1..=3).find(|node| *node != leader && *node != damaged).unwrap();
    cluster.stop(third);
    commit(&cluster.handle(damaged), put("after", "1")).await.unwrap();
    assert_eq!(get(&cluster.handle(damaged), "k299").await.map(|value| value.len()), Some(2000));
}

#[tokio::test]
async fn new_rules_are_in_force_only_once_every_member_knows_them() {
    // As a later build would: it knows rules that nobody else does.
    let newest = MACHINE_VERSION + 1;
    let newer = Config { machine_version: newest, ..config() };
    let mut cluster = Cluster::of(3);
    cluster.handle(1).cluster_init().await.unwrap();
    cluster.voters(1, 3).await;
    for node in 1..=3 {
        let before = cluster.handle(1 + node % 3).read(|machine| machine.version()).await.unwrap();
        assert!(before <= MACHINE_VERSION, "node {node} does not know the new rules yet");
        cluster.stop(node);
        cluster.start_with(node, newer.clone());
        cluster.leader().await;
        commit(&cluster.handle(node), put("k", "v")).await.unwrap();
    }
    until("the new rules", || (cluster.handle(1).status().machine_version == newest).then_some(())).await;
    commit(&cluster.handle(2), put("k", "w")).await.unwrap();
    assert_eq!(get(&cluster.handle(3), "k").await, Some(b"w".to_vec()));
}
