//! Clusters of real processes: they lose their leader, restart, grow, shrink, lose their quorum, and are used wrongly.
//!
//! Nothing here sleeps for luck: what is waited for is polled with a deadline.

#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use quorate_client::{Client, Commit, Options, Watch};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::fleet::{Fleet, Node, QUICK, fails, http};
use support::{PATIENCE, Run, quorate, run, until};

fn client(fleet: &Fleet) -> Client {
    let options = Options {
        patience: Duration::from_secs(30),
        try_timeout: Duration::from_secs(3),
        ..Options::default()
    };
    Client::with(fleet.urls(), options).unwrap()
}

/// Runs a client's work on a thread of its own.
fn on_a_thread<R: Send + 'static>(
    work: impl Future<Output = R> + Send + 'static,
) -> std::thread::JoinHandle<R> {
    std::thread::spawn(move || now(work))
}

fn now<R>(work: impl Future<Output = R>) -> R {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn the_loss_of_the_leader_loses_nothing_and_waits_and_watches_go_on() {
    let mut fleet = Fleet::start(3);
    for (writer, reader) in [(0, 1), (1, 2), (2, 0)] {
        let value = format!("by {writer}");
        fleet.nodes[writer].served("PUT", "/v1/keys/k", &value).ok();
        let read = fleet.nodes[reader].served("GET", "/v1/keys/k", "");
        assert_eq!(read.body, value, "what was written at one node is read at the next");
        assert!(read.header("quorate-applied").is_some());
    }
    let leader = fleet.leader();
    let leader_url = fleet.node(leader).url();
    let survivor = fleet.follower();
    let asked = fleet.node(survivor).http("GET", "/v1/keys/k", "").unwrap();
    assert_eq!(asked.header("quorate-leader"), Some(leader_url.as_str()));

    let commit =
        json!({"idempotency": {"key": "pay-1"}, "then": [{"append": {"stream": "s", "value": "paid"}}]});
    let first = http(&leader_url, "POST", "/v1/commit", &[], &commit.to_string()).unwrap().ok();
    let held = fleet.node(survivor).served("POST", "/v1/locks/l/acquire", r#"{"ttl":"60s"}"#).ok();
    let url = fleet.node(survivor).url();
    let waiter = std::thread::spawn(move || {
        http(&url, "POST", "/v1/locks/l/acquire", &[], r#"{"ttl":"60s","wait":"50s"}"#)
    });
    let node = fleet.node(survivor);
    until("somebody waits for the lock", || {
        let lock = node.http("GET", "/v1/locks/l", "")?.ok();
        (lock["waiting"] != json!([])).then_some(())
    });
    let survivor_client = Client::new([node.url()]).unwrap();
    let mut watch: Watch = survivor_client.watch("w/", None);
    let mut watching = now(async {
        watch.open().await.unwrap();
        watch
    });

    fleet.node(leader).kill();
    let begun = Instant::now();
    let again = fleet.node(survivor).served("POST", "/v1/commit", &commit.to_string()).ok();
    assert_eq!((&again["replayed"], &again["revision"]), (&json!(true), &first["revision"]));
    let fresh = fleet.node(survivor).served("PUT", "/v1/keys/w%2Fafter", "flows again").ok();
    eprintln!("writes flow again after {:?}", begun.elapsed());
    assert!(fresh["revision"].as_u64() > first["revision"].as_u64());
    let records = fleet.node(survivor).served("GET", "/v1/streams/s/records", "").ok();
    assert_eq!(records["records"].as_array().unwrap().len(), 1, "one effect: {records}");

    let change = now(async move { tokio::time::timeout(PATIENCE, watching.next()).await });
    assert_eq!(change.unwrap().unwrap().key, b"w/after");
    let release = json!({"token": held["token"]}).to_string();
    fleet.node(survivor).served("POST", "/v1/locks/l/release", &release).ok();
    let granted = waiter.join().unwrap().expect("the wait is answered").ok();
    assert!(granted["token"].as_u64() > held["token"].as_u64(), "{granted} after {held}");

    fleet.restart(leader);
    let back = fleet.node(leader).served("GET", "/v1/keys/w%2Fafter", "");
    assert_eq!(back.body, "flows again", "the lost node catches up");
    assert_eq!(fleet.node(leader).served("GET", "/readyz", "").status, 200);
}

#[test]
fn a_rolling_restart_loses_no_write_and_fails_none_that_is_retried() {
    let mut fleet = Fleet::start(3);
    let (client, stop) = (client(&fleet), Arc::new(AtomicBool::new(false)));
    let (writer, ends) = (client.clone(), stop.clone());
    let writing = on_a_thread(async move {
        let mut written = 0u64;
        while !ends.load(Ordering::SeqCst) {
            let commit = Commit::new().append("s", None, format!("{written}"));
            writer.commit(commit).await.map_err(|error| format!("write {written}: {error}"))?;
            written += 1;
        }
        Ok::<u64, String>(written)
    });
    for id in 1..=3 {
        assert_eq!(fleet.node(id).stop(), 0, "{}", fleet.said());
        fleet.restart(id);
        assert_eq!(fleet.node(id).served("GET", "/readyz", "").status, 200);
    }
    stop.store(true, Ordering::SeqCst);
    let written = writing.join().unwrap().unwrap();
    assert!(written > 10, "only {written} writes in all that time");
    let found = now(async move {
        let (mut found, mut next) = (Vec::new(), 0);
        loop {
            let page = client.read("s", 0, next, Duration::ZERO).await.unwrap();
            if page.records.is_empty() {
                return found;
            }
            found.extend(page.records.iter().map(|record| record["value"].as_str().unwrap().to_owned()));
            next = page.next;
        }
    });
    let wanted: Vec<String> = (0..written).map(|n| n.to_string()).collect();
    assert_eq!(found, wanted, "each once, in order");
}

#[test]
fn a_cluster_grows_shrinks_replaces_a_dead_node_and_hands_leadership_on() {
    let mut fleet = Fleet::start(3);
    fleet.nodes[0].served("PUT", "/v1/keys/k", "v").ok();
    let mut fourth = fleet.stranger(4);
    fourth.start("");
    let not_yet = fourth.http("GET", "/v1/keys/k", "").unwrap();
    assert_eq!(not_yet.status, 503, "{not_yet:?}");
    assert!(
        not_yet.json()["missing"].as_str().unwrap().contains("not a member of a cluster yet"),
        "{not_yet:?}"
    );

    fleet.nodes[0].refused(&["cluster", "add", "6", &fourth.address()], "node 4 answers, not node 6");
    let added = fleet.nodes[1].ok(&["cluster", "add", "4", &fourth.address()]).json();
    assert_eq!(role(&added, 4), "voter", "{added}");
    assert_eq!(fourth.served("GET", "/v1/keys/k", "").body, "v");
    let table = fourth.ok(&["cluster", "status", "--human"]).out;
    assert_eq!(table.lines().filter(|line| line.contains(" voter ")).count(), 4, "{table}");
    let status = fourth.ok(&["status"]).json();
    assert_eq!(status["cluster"]["node"], 4);

    let led = fleet.nodes[0].ok(&["cluster", "transfer", "4"]).json();
    assert_eq!(led["leader"], 4);
    fleet.nodes[0].refused(&["cluster", "transfer", "4"], "leads already");
    fleet.nodes[0].refused(&["cluster", "transfer", "9"], "not a member");
    let removed = fleet.nodes[0].run(&["cluster", "remove", "4"]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(removed.err.contains("node 4 leads: it hands leadership on first"), "{removed:?}");
    assert_eq!(removed.json()["members"].as_array().unwrap().len(), 3);
    fleet.nodes[0].refused(&["cluster", "remove", "4"], "not a member");
    fourth.stop();

    let lost = fleet.follower();
    let mut fifth = fleet.stranger(5);
    fifth.start("");
    fleet.node(lost).kill();
    let (old, at) = (lost.to_string(), fifth.address());
    let leader = fleet.leader();
    fleet.node(leader).refused(&["cluster", "replace", &old, &old, &at], "cannot replace itself");
    fleet.node(leader).refused(&["cluster", "replace", "8", "5", &at], "node 8 is not a member");
    let replaced = fleet.node(leader).ok(&["cluster", "replace", &old, "5", &at]).json();
    assert_eq!(role(&replaced, 5), "voter", "{replaced}");
    assert!(member(&replaced, lost).is_none(), "{replaced}");
    let stale = fifth.http("GET", "/v1/keys/k?consistency=stale", "").unwrap();
    assert_eq!(stale.body, "v");
    let metrics = fleet.node(leader).http("GET", "/metrics", "").unwrap().body;
    assert!(metrics.contains("quorate_raft_is_leader 1\n"), "{metrics}");
    assert!(metrics.contains("quorate_raft_peer_matched{node=\"5\"}"), "{metrics}");
}

fn member(status: &Value, node: u64) -> Option<&Value> {
    status["members"].as_array().unwrap().iter().find(|member| member["id"] == node)
}

#[track_caller]
fn role(status: &Value, node: u64) -> &str {
    member(status, node).unwrap()["role"].as_str().unwrap()
}

#[test]
fn wrong_use_is_told_apart_and_changes_nothing() {
    let mut fleet = Fleet::start(1);
    fleet.nodes[0].served("PUT", "/v1/keys/k", "v").ok();
    let other = Fleet::start(1);
    let alone = &fleet.nodes[0];
    alone.refused(&["cluster", "remove", "1"], "the last voter");
    alone.refused(&["cluster", "transfer"], "no other voter");
    alone.refused(&["cluster", "init"], "member");
    let twin = other.nodes[0].address();
    alone.refused(&["cluster", "add", "1", &twin], "node 1");
    alone.refused(&["cluster", "add", "2", "127.0.0.1:1"], "127.0.0.1:1");

    // A node of another cluster.
    let mut second = other.stranger(2);
    second.start("");
    other.nodes[0].ok(&["cluster", "add", "2", &second.address()]);
    alone.refused(&["cluster", "add", "2", &second.address()], "already");

    // A data folder of another node, or of a cluster, opened as something else.
    second.stop();
    let data = second.data.to_str().unwrap();
    let here = ["--http", "127.0.0.1:0", "--data", data];
    fails(&[&["serve", "--node-id", "3", "--peer-listen", "127.0.0.1:0"], &here[..]].concat(), "node 2");
    fails(&[&["serve"], &here[..]].concat(), "--node-id");

    // Two nodes with one number: the member's folder is gone, another process takes its number.
    let mut usurper = other.stranger(2);
    usurper.peers = second.peers;
    usurper.start("");
    until("the member refuses the other folder", || {
        let said = other.said() + &usurper.said();
        said.contains("another data folder than the one that joined").then_some(())
    });
    let status = usurper.status().unwrap();
    assert_eq!(status["cluster"], "0000000000000000", "{status}");
    usurper.kill();

    // Two processes on one folder.
    let twice =
        ["serve", "--http", "127.0.0.1:0", "--node-id", "1", "--peer-listen", "127.0.0.1:0", "--data"];
    fails(&[&twice[..], &[alone.data.to_str().unwrap()]].concat(), "is in use by process");
    assert_eq!(alone.served("GET", "/v1/keys/k", "").body, "v");
    assert_eq!(fleet.node(1).stop(), 0);
}

#[test]
fn a_lost_quorum_is_said_at_once_and_recovered_only_by_accepting_the_loss() {
    let mut fleet = Fleet::start(3);
    fleet.nodes[0].served("PUT", "/v1/keys/k", "kept").ok();
    let held = fleet.nodes[0].served("POST", "/v1/locks/l/acquire", r#"{"ttl":"1h"}"#).ok();
    until("node 1 has it all", || {
        let status = fleet.nodes[0].status()?;
        (fleet.nodes[0].http("GET", "/v1/locks/l?consistency=stale", "")?.ok()["holders"] != json!([]))
            .then_some(())?;
        Some(status["cluster"].clone())
    });
    let before = fleet.nodes[0].status().unwrap();
    fleet.node(2).kill();
    fleet.node(3).kill();
    let missing = until("the loss is noticed", || {
        // Its first tries may be taken before the loss is known: their fate stays open.
        let answer = fleet.nodes[0].http("PUT", "/v1/keys/open", "perhaps")?;
        (answer.status == 503).then(|| answer.json())
    });
    let why = missing["missing"].as_str().unwrap();
    assert!(why.contains("1 of 3 voters can be reached") && why.contains("node 2"), "{why}");
    assert_eq!((&missing["error"], &missing["took_effect"]), (&json!("leaderless"), &json!("no")));
    let alone = &fleet.nodes[0];
    for (method, path) in [("PUT", "/v1/keys/k"), ("GET", "/v1/keys/k"), ("GET", "/readyz")] {
        let begun = Instant::now();
        let answer = alone.http(method, path, "").unwrap();
        assert!(
            answer.status == 503 && begun.elapsed() < QUICK,
            "{method} {path}: {answer:?} {:?}",
            begun.elapsed()
        );
        assert!(answer.json()["missing"].as_str().unwrap().contains("the quorum is lost"), "{answer:?}");
    }
    assert_eq!(alone.http("GET", "/v1/keys/k?consistency=stale", "").unwrap().body, "kept");
    assert_eq!(alone.http("GET", "/healthz", "").unwrap().status, 200);
    let table = alone.ok(&["cluster", "status", "--human"]).out;
    assert!(table.contains("not serving: the quorum is lost"), "{table}");
    assert_eq!(alone.run(&["put", "k", "lost", "--timeout", "1s"]).code, 6);

    let data = alone.data.to_str().unwrap().to_owned();
    let recover = |more: &[&str]| run(&[&["cluster", "recover", "--data", &data], more].concat());
    assert_eq!(recover(&["--accept-loss"]).code, 4, "a server has it open");
    fleet.node(1).stop();
    let asked = recover(&[]);
    assert!(
        asked.code == 4 && asked.err.contains("--accept-loss") && asked.err.contains("lost"),
        "{asked:?}"
    );
    let recovered = recover(&["--accept-loss"]);
    assert_eq!(recovered.code, 0, "{recovered:?}");
    assert_eq!(recovered.json()["cluster"], before["cluster"]);
    for id in [2, 3] {
        let lost = fleet.path(&format!("lost-{id}"));
        std::fs::rename(&fleet.node(id).data, lost).unwrap();
    }
    (1..=3).for_each(|id| fleet.restart(id));
    let begun = fleet.nodes[0].ok(&["cluster", "init"]).json();
    assert_ne!(begun["cluster"], before["cluster"]);
    assert_eq!(fleet.nodes[2].served("GET", "/v1/keys/k", "").body, "kept");
    let next = fleet.nodes[1].served("POST", "/v1/locks/m/acquire", r#"{"ttl":"1h"}"#).ok();
    assert!(
        next["token"].as_u64().unwrap() > held["token"].as_u64().unwrap() + (1 << 32),
        "{next} after {held}"
    );
    // A folder of the lost cluster stays out.
    fleet.node(2).kill();
    fleet.node(2).data = fleet.path("lost-2");
    fleet.restart(2);
    until("the old folder is refused", || fleet.said().contains("belongs to cluster").then_some(()));
    assert_eq!(fleet.nodes[0].served("GET", "/v1/keys/k", "").body, "kept");
}

#[test]
fn a_backup_of_a_follower_becomes_a_new_cluster() {
    let mut fleet = Fleet::start(2);
    fleet.nodes[0].served("PUT", "/v1/keys/k", "kept").ok();
    let follower = fleet.follower();
    fleet.node(follower).served("GET", "/v1/keys/k", "");
    let (backup, folder) = (fleet.path("backup"), fleet.path("restored"));
    fleet.node(follower).ok(&["backup", backup.to_str().unwrap()]);
    let before = fleet.nodes[0].status().unwrap();
    let restored = run(&["restore", backup.to_str().unwrap(), folder.to_str().unwrap()]);
    assert_eq!(restored.code, 0, "{restored:?}");

    let mut first = Node::new(7, folder);
    first.start("");
    let begun = first.ok(&["cluster", "init"]).json();
    assert_ne!(begun["cluster"], before["cluster"]);
    assert_eq!(first.served("GET", "/v1/keys/k", "").body, "kept");
    let revision = first.served("PUT", "/v1/keys/k", "goes on").ok()["revision"].as_u64().unwrap();
    assert!(revision > 1 << 32, "{revision}");
    let mut second = fleet.stranger(8);
    second.start("");
    first.ok(&["cluster", "add", "8", &second.address()]);
    assert_eq!(second.served("GET", "/v1/keys/k", "").body, "goes on");
    assert_eq!(fleet.nodes[0].served("GET", "/v1/keys/k", "").body, "kept", "the original goes its own way");
}

/// A certificate authority, and what it signs.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// The options of a node with a certificate of this authority, which trusts the same.
    fn options(&self, folder: &Path, node: u64) -> Vec<String> {
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut options = Vec::new();
        for (option, pem) in [
            ("--peer-cert", certificate.pem()),
            ("--peer-key", key.serialize_pem()),
            ("--peer-ca", self.pem.clone()),
        ] {
            let path = folder.join(format!("{node}{option}.pem"));
            std::fs::write(&path, pem).unwrap();
            options.extend([option.to_owned(), path.to_str().unwrap().to_owned()]);
        }
        options
    }
}

#[test]
fn nodes_speak_by_mutual_tls_and_with_nobody_else() {
    let (keys, ours, theirs) =
        (tempfile::tempdir().unwrap(), Authority::new("ours"), Authority::new("theirs"));
    let fleet = Fleet::with(2, |node| ours.options(keys.path(), node));
    fleet.nodes[0].served("PUT", "/v1/keys/k", "v").ok();
    assert_eq!(fleet.nodes[1].served("GET", "/v1/keys/k", "").body, "v");
    for (id, extra) in [(3, theirs.options(keys.path(), 3)), (4, vec![])] {
        let mut stranger = fleet.stranger(id);
        stranger.extra = extra;
        stranger.start("");
        let add = fleet.nodes[0].run(&["cluster", "add", &id.to_string(), &stranger.address()]);
        assert_eq!(add.code, 4, "{add:?}");
        assert!(add.err.contains(&stranger.address()), "{add:?}");
    }
    let members = fleet.nodes[0].status().unwrap();
    assert_eq!(members["members"].as_array().unwrap().len(), 2);
}

/// `quorate up` on free ports, and what it says of itself once it runs.
fn up() -> (Child, Value) {
    let mut up = quorate(&["up", "--port", "0", "--json"]).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(up.stdout.take().unwrap()), &mut line).unwrap();
    (up, serde_json::from_str(&line).unwrap())
}

/// Kills one of its nodes as a power cut would.
fn kill(said: &Value, node: usize) {
    let pid = said["nodes"][node]["pid"].to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
}

#[test]
fn up_runs_a_cluster_that_outlives_a_node_and_never_the_command() {
    let (mut up, said) = up();
    let node = |n: usize, name: &str| said["nodes"][n][name].clone();
    let url = |n: usize| node(n, "url").as_str().unwrap().to_owned();
    let put = |n: usize| Run::of(quorate(&["put", "k", "v"]).env("QUORATE_SERVER", url(n)).output().unwrap());
    assert_eq!(put(0).code, 0);
    kill(&said, 0);
    assert_eq!(put(1).code, 0, "two of three are a quorum");
    support::terminate(&up);
    assert_eq!(up.wait().unwrap().code(), Some(0));
    for n in 0..3 {
        assert!(http(&url(n), "GET", "/healthz", &[], "").is_none(), "node {n} is gone");
    }
    assert!(!Path::new(said["data"].as_str().unwrap()).exists(), "its temporary folder is removed");
}

/// A request of etcd's JSON gateway; nothing when the node does not answer, or refuses.
fn etcd(address: &str, path: &str, body: &Value) -> Option<Value> {
    let answer = http(&format!("http://{address}"), "POST", path, &[], &body.to_string())?;
    (answer.status == 200).then(|| answer.json())
}

/// Takes and gives back one lock, `rounds` times, with a session of its own each time, at the first of these nodes that answers.
fn contend(nodes: &[String], rounds: usize, inside: &AtomicUsize) {
    let mut at = 0;
    let mut done = 0;
    let deadline = Instant::now() + PATIENCE;
    while done < rounds {
        assert!(Instant::now() < deadline, "{done} of {rounds} locks were granted in {PATIENCE:?}");
        let node = &nodes[at % nodes.len()];
        let granted = etcd(node, "/v3/lease/grant", &json!({"TTL": 10}));
        let lease = granted.as_ref().map(|granted| granted["ID"].clone());
        // "am9i" is "job".
        let ask = lease.as_ref().map(|lease| json!({"name": "am9i", "lease": lease}));
        let Some(held) = ask.and_then(|ask| etcd(node, "/v3/lock/lock", &ask)) else {
            at += 1;
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold one lock");
        inside.fetch_sub(1, Ordering::SeqCst);
        // Where the answer is lost, the end of the session gives it back.
        let back = etcd(node, "/v3/lock/unlock", &json!({"key": held["key"]}));
        let other = &nodes[(at + 1) % nodes.len()];
        if back.is_none() {
            etcd(other, "/v3/lease/revoke", &json!({"ID": lease}));
        }
        done += 1;
    }
}

#[test]
fn etcds_clients_find_all_nodes_and_one_lock_is_had_by_one_while_the_leader_dies() {
    let (mut up, said) = up();
    let nodes: Vec<String> = (0..3).map(|n| said["nodes"][n]["etcd"].as_str().unwrap().to_owned()).collect();
    let mut wanted: Vec<String> = nodes.iter().map(|node| format!("http://{node}")).collect();
    wanted.sort();
    for node in &nodes {
        until("every node knows where all are", || {
            let listed = etcd(node, "/v3/cluster/member/list", &json!({}));
            let members = listed.as_ref().and_then(|listed| listed["members"].as_array());
            let urls = members.into_iter().flatten().filter_map(|member| member["clientURLs"][0].as_str());
            let mut urls: Vec<String> = urls.map(str::to_owned).collect();
            urls.sort();
            (urls == wanted).then_some(())
        });
    }
    let inside = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for first in 0..9 {
            let mut order = nodes.clone();
            order.rotate_left(first % 3);
            let inside = &inside;
            threads.spawn(move || contend(&order, 20, inside));
        }
        let status = etcd(&nodes[0], "/v3/maintenance/status", &json!({})).unwrap();
        let leader: usize = status["leader"].as_str().unwrap().parse().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        kill(&said, leader - 1);
    });
    support::terminate(&up);
    assert_eq!(up.wait().unwrap().code(), Some(0));
}
