//! Clients in cluster mode, unmodified: they find one master with all slots, and another when it goes away.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // Test code: a failure here is the test's failure.

use crate::clients::libraries;
use crate::support;

use libraries::program;
use quorate_redis::{Config, serve};
use quorate_runtime::{ClusterConfig, Handle, Quorate};
use quorate_types::NodeId;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Client, Server};
use tempfile::TempDir;
use tokio::sync::oneshot;

async fn pair() -> (Server, Server) {
    let second = Server::with(Config { cluster: Some(vec![]), ..Config::default() }).await;
    let others = Some(vec![second.address.to_string()]);
    // Servers of their own, with data of their own: it is the clients' way that is tested.
    (Server::with(Config { cluster: others, ..Config::default() }).await, second)
}

#[tokio::test]
async fn redis_py_finds_its_master_and_then_another() {
    story("cluster.py").await;
}

#[tokio::test]
async fn ioredis_finds_its_master_and_then_another() {
    story("cluster.cjs").await;
}

async fn story(name: &'static str) {
    let (first, second) = pair().await;
    let port = first.address.port().to_string();
    let (told, hear) = tokio::sync::oneshot::channel();
    let (go, wait) = std::sync::mpsc::channel();
    let story = tokio::task::spawn_blocking(move || {
        let mut child = program(name)
            .args(["127.0.0.1", &port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().transpose().unwrap();
        told.send(()).unwrap();
        wait.recv().unwrap();
        // A program that has failed does not listen any more; what it said is shown below.
        let _ = child.stdin.take().unwrap().write_all(b"go\n");
        let last = lines.next().transpose().unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(child.wait().unwrap().success(), "{name}: {errors}");
        assert_eq!((first.as_deref(), last.as_deref()), (Some("ready"), Some("done")), "{name}");
    });
    hear.await.unwrap();
    first.stop().await;
    go.send(()).unwrap();
    story.await.unwrap();
    second.stop().await;
}

#[tokio::test]
async fn whoever_is_asked_has_all_slots() {
    let (first, second) = pair().await;
    let (mut client, mut other) = (first.client().await, second.client().await);
    let (here, there) = (first.address.port(), second.address.port());
    let id = client.ask("CLUSTER MYID").await;
    let other_id = other.ask("CLUSTER MYID").await;
    let node = |port: u16, id: &str| format!("[\"127.0.0.1\", {port}, {id}, []]");
    let slots = format!("[[0, 16383, {}, {}]]", node(here, &id), node(there, &other_id));
    client.check("CLUSTER SLOTS", &slots).await;
    let alone = format!("[[0, 16383, {}]]", node(there, &other_id));
    other.check("CLUSTER SLOTS", &alone).await;
    client.check("CLUSTER KEYSLOT {foo}bar", "12182").await;
    let shards = client.ask("CLUSTER SHARDS").await;
    assert!(shards.contains("\"master\"") && shards.contains("\"replica\""), "{shards}");
    let nodes = client.ask("CLUSTER NODES").await;
    assert!(nodes.contains("myself,master - 0 0 1 connected 0-16383"), "{nodes}");
    let info = client.ask("CLUSTER INFO").await;
    assert!(info.contains("cluster_state:ok\r\n") && info.contains("cluster_known_nodes:2\r\n"), "{info}");
    client.check("MSET a 1 b 2", "OK").await;
    let hello = client.ask("HELLO 3").await;
    assert!(hello.contains("\"mode\": \"cluster\""), "{hello}");
    first.stop().await;
    second.stop().await;
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("CLUSTER SLOTS", "(error) ERR This instance has cluster support disabled").await;
    server.stop().await;
}

/// A node of a cluster in this process, with a gateway of its own.
struct Node {
    data: Quorate,
    port: u16,
    client: Client,
    _stop: oneshot::Sender<()>,
    _folder: TempDir,
}

impl Node {
    fn handle(&self) -> Handle {
        self.data.handle()
    }

    /// The ports that CLUSTER SLOTS names, the master's first.
    async fn slots(&mut self) -> Vec<u16> {
        let shown = self.client.ask("CLUSTER SLOTS").await;
        shown
            .split("\"127.0.0.1\", ")
            .skip(1)
            .map(|rest| rest.split(',').next().unwrap().parse().unwrap())
            .collect()
    }

    async fn master(&mut self) -> u16 {
        let shown = self.client.ask("SENTINEL get-master-addr-by-name any").await;
        shown.split('"').rev().nth(1).unwrap().parse().unwrap()
    }
}

async fn three() -> Vec<Node> {
    let listeners: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peers: Vec<_> =
        (1..).map(NodeId).zip(listeners.iter().map(|l| l.local_addr().unwrap().to_string())).collect();
    let mut nodes = Vec::new();
    for (listener, (node, address)) in listeners.into_iter().zip(peers.clone()) {
        let folder = tempfile::tempdir().unwrap();
        let cluster =
            ClusterConfig { node, listener, address, peers: peers.clone(), url: String::new(), tls: None };
        let data =
            Quorate::open_cluster(folder.path(), quorate_runtime::Config::default(), cluster, |_, _| {})
                .unwrap();
        let redis = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = redis.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (handle, config) = (data.handle(), Config { cluster: Some(vec![]), ..Config::default() });
        tokio::spawn(async move {
            let shutdown = async move {
                let _ = stopped.await;
            };
            serve(redis, handle, config, shutdown).await.unwrap();
        });
        let client = Client::connect(address).await;
        nodes.push(Node { data, port: address.port(), client, _stop: stop, _folder: folder });
    }
    nodes[0].handle().cluster_init().await.unwrap();
    nodes
}

/// Waits until all nodes name the same master, which is none of `but`, and all `count` nodes.
async fn agreed(nodes: &mut [Node], count: usize, but: Option<u16>) -> u16 {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let mut seen = Vec::new();
        for node in nodes.iter_mut() {
            seen.push(node.slots().await);
        }
        let first = seen[0].first().copied();
        let agree = seen.iter().all(|slots| slots.len() == count && slots.first().copied() == first);
        let leads = nodes
            .iter()
            .find(|node| Some(node.port) == first)
            .is_some_and(|node| node.handle().cluster_status().is_some_and(|status| status.standing.leads));
        if agree && leads && first != but {
            return first.unwrap();
        }
        assert!(Instant::now() < until, "waited in vain for one master: {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn every_node_names_the_leader_and_where_the_others_are() {
    let mut nodes = three().await;
    let mut ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    ports.sort_unstable();
    let leader = agreed(&mut nodes, 3, None).await;
    let mut ids = Vec::new();
    for node in &mut nodes {
        let (slots, master) = (node.slots().await, node.master().await);
        assert_eq!((slots[0], master), (leader, leader));
        let mut all = slots;
        all.sort_unstable();
        assert_eq!(all, ports);
        let shown = node.client.ask("CLUSTER NODES").await;
        let own = shown
            .lines()
            .find(|line| line.contains("myself,"))
            .unwrap_or_else(|| panic!("{shown}"))
            .to_owned();
        assert!(own.contains(&format!(":{}@", node.port)), "{own}");
        assert_eq!(own.contains("master"), node.port == leader, "{own}");
        ids.push(node.client.ask("CLUSTER MYID").await);
        let shards = node.client.ask("CLUSTER SHARDS").await;
        assert_eq!(shards.matches("\"replica\"").count(), 2, "{shards}");
    }
    let slots = nodes[2].client.ask("CLUSTER SLOTS").await;
    assert!(
        ids.iter().all(|id| slots.contains(id.as_str())),
        "a node has one id everywhere: {slots} {ids:?}"
    );
    // A write to a replica is taken there all the same.
    for node in &mut nodes {
        node.client.check("INCR n", "1").await;
        node.client.check("DEL n", "1").await;
    }
    // When it ends, the others name another.
    let gone = nodes.iter().position(|node| node.port == leader).unwrap();
    let gone = nodes.remove(gone);
    tokio::task::spawn_blocking(move || gone.data.close()).await.unwrap();
    let next = agreed(&mut nodes, 3, Some(leader)).await;
    assert!(nodes.iter().any(|node| node.port == next));
    for node in nodes {
        tokio::task::spawn_blocking(move || node.data.close()).await.unwrap();
    }
}
