//! Clients in cluster mode, unmodified: they find one master with all slots, and another when it goes away.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // Test code: a failure here is the test's failure.

#[path = "clients/libraries.rs"]
mod libraries;
mod support;

use libraries::program;
use quorate_redis::Config;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use support::Server;

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
