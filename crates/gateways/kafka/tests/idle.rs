//! What silent, slow and half-done clients cost, and topics that nobody uses. One test after the other: they look at the memory of the process.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use kafka_protocol::messages::*;
use quorate_kafka::Config;
use support::{Client, Server, batch, fetch, numbered, topic};
use tokio::sync::Mutex;

static ALONE: Mutex<()> = Mutex::const_new(());

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn greet(client: &mut Client) {
    let told: ApiVersionsResponse = client.ask(ApiKey::ApiVersions, 0, &ApiVersionsRequest::default()).await;
    assert_eq!(told.error_code, 0);
}

#[tokio::test]
async fn a_thousand_idle_connections_cost_little_and_harm_nobody() {
    idle(1000).await;
}

#[tokio::test]
#[ignore = "needs 20,000 file descriptors: ulimit -n 25000, then cargo test -- --ignored"]
async fn ten_thousand_idle_connections_cost_little_and_harm_nobody() {
    idle(9990).await;
}

async fn idle(count: usize) {
    let _alone = ALONE.lock().await;
    let server = Server::start().await;
    let mut other = server.client().await;
    other.make("t").await;
    let before = resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = server.client().await;
        greet(&mut client).await;
        clients.push(client);
    }
    let each = resident_bytes().saturating_sub(before) / count as u64;
    println!("{each} bytes for each of {count} connections, the test's own end of each included");
    assert!(each < 20_000, "{each} bytes for a connection");
    assert_eq!(other.produce("t", 0, batch(&["a"])).await, (0, 0));
    server.stop().await;
}

#[tokio::test]
async fn ten_thousand_idle_topics_cost_little() {
    let _alone = ALONE.lock().await;
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("first").await;
    let before = resident_bytes();
    for round in 0..20 {
        use create_topics_request::CreatableTopic;
        let one = |n: i32| {
            let name = format!("orders-of-tenant-{}", round * 500 + n);
            CreatableTopic::default()
                .with_name(topic(&name))
                .with_num_partitions(1)
                .with_replication_factor(1)
        };
        let body = CreateTopicsRequest::default().with_topics((0..500).map(one).collect());
        let answer: CreateTopicsResponse = client.ask(ApiKey::CreateTopics, 5, &body).await;
        assert!(answer.topics.iter().all(|topic| topic.error_code == 0));
    }
    let all = resident_bytes().saturating_sub(before);
    println!("{all} bytes for 10,000 topics of one partition, what was logged meanwhile included");
    assert!(all <= 20_000_000, "{all} bytes for 10,000 topics");
    assert_eq!(client.produce("orders-of-tenant-7", 0, batch(&["a"])).await, (0, 0));
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let _alone = ALONE.lock().await;
    let server = Server::start().await;
    let (mut slow, mut other) = (server.client().await, server.client().await);
    other.make("t").await;
    let large = "x".repeat(1 << 20);
    assert_eq!(other.produce("t", 0, batch(&[&large])).await, (0, 0));
    // Asks for far more than buffers hold, and reads nothing: its requests stay in the socket.
    let before = resident_bytes();
    let mut asked = Vec::new();
    for _ in 0..200 {
        asked.push(slow.send(ApiKey::Fetch, 11, &fetch(0, 1, i32::MAX, &[("t", 0, 0)])).await);
    }
    // All the while others are served, and by then whatever would pile up has.
    for n in 0..200 {
        assert_eq!(other.produce("t", 0, numbered(&["y"], -1, -1, -1)).await, (0, n + 1));
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for 200 MiB that nobody reads");
    // Nothing is lost: once it reads, all is there.
    for correlation in asked {
        let answer: FetchResponse = slow.answer(11, correlation).await;
        let found = answer.responses[0].partitions[0].records.as_ref().unwrap();
        assert!(found.len() > 1 << 20);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_frame_that_is_announced_and_never_comes_takes_no_memory() {
    let _alone = ALONE.lock().await;
    let server = Server::start().await;
    let mut other = server.client().await;
    other.make("t").await;
    let before = resident_bytes();
    let mut halves = Vec::new();
    for _ in 0..200 {
        let mut client = server.client().await;
        // The start of a Produce of 16 MB.
        client.raw(&16_000_000_i32.to_be_bytes()).await;
        client.raw(&[0, 0, 0, 8, 0, 0, 0, 1, 0]).await;
        halves.push(client);
    }
    assert_eq!(other.produce("t", 0, batch(&["a"])).await, (0, 0));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for 200 halves of a frame");
    // A client that goes in the midst of a frame leaves nothing behind either.
    drop(halves);
    assert_eq!(other.produce("t", 0, batch(&["b"])).await, (0, 1));
    server.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_the_others_go_on() {
    let _alone = ALONE.lock().await;
    let server = Server::with(Config { connections_max: 1, ..Config::default() }).await;
    let mut client = server.client().await;
    greet(&mut client).await;
    assert_eq!(server.client().await.next().await, None);
    greet(&mut client).await;
    server.stop().await;
}
