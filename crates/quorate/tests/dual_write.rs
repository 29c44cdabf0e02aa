//! The dual write that is none: an order and its event in one transaction of a Redis client, read back by a Kafka client, while the server is
//! killed again and again.
//!
//! `QUORATE_KILLS=1000 cargo test --release -p quorate --test it dual_write::` is the long form.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{Server, kafka_clients};

/// Clients that order at the same time.
const CLIENTS: u64 = 4;
/// Of so many orders one asks for an event that cannot be: it must leave no order behind.
const IMPOSSIBLE: u64 = 7;
/// Kills after which state and stream are compared.
const COMPARED: u64 = 25;

#[test]
fn an_order_and_its_event_are_both_there_or_neither_however_often_the_server_is_killed() {
    let kills = std::env::var("QUORATE_KILLS").map_or(COMPARED, |kills| kills.parse().unwrap());
    let mut server = Server::with(&["--redis", "127.0.0.1:0", "--kafka", "127.0.0.1:0"]);
    let next = AtomicU64::new(0);
    let mut acknowledged = BTreeSet::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for kill in 1..=kills {
        let redis = address(&server, "redis");
        std::thread::scope(|scope| {
            let clients = [(); CLIENTS as usize].map(|()| scope.spawn(|| order(&redis, &next)));
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            std::thread::sleep(Duration::from_micros(2_000 + (seed >> 33) % 60_000));
            server.crash();
            for client in clients {
                acknowledged.extend(client.join().unwrap());
            }
        });
        server.restart();
        if kill % COMPARED == 0 || kill == kills {
            compare(&server, &acknowledged, next.load(Ordering::Relaxed));
            println!(
                "{kill} kills: {} orders acknowledged, none lost, none without its event",
                acknowledged.len()
            );
        }
    }
    assert!(acknowledged.len() as u64 > kills, "the clients got somewhere");
}

/// Orders until the server dies; the numbers that it has acknowledged.
fn order(redis: &str, next: &AtomicU64) -> Vec<u64> {
    let client = redis::Client::open(format!("redis://{redis}")).unwrap();
    let mut acknowledged = Vec::new();
    let Ok(mut connection) = client.get_connection() else { return acknowledged };
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let impossible = number.is_multiple_of(IMPOSSIBLE);
        // No stream takes a record whose id is 0-0.
        let id = if impossible { "0-0" } else { "*" };
        let mut transaction = redis::pipe();
        transaction.atomic().cmd("Q.ATOMIC").cmd("SET").arg(format!("order:{number}")).arg("paid");
        transaction.cmd("XADD").arg("orders").arg(id).arg("@key").arg(number).arg("state").arg("paid");
        match transaction.query::<redis::Value>(&mut connection) {
            Ok(_) => {
                assert!(!impossible, "order {number} has no event");
                acknowledged.push(number);
            }
            Err(error) if error.is_io_error() || error.is_connection_dropped() => return acknowledged,
            Err(error) => assert!(impossible, "order {number}: {error}"),
        }
    }
}

/// Keys as Redis' clients see them and records as kcat does.
fn compare(server: &Server, acknowledged: &BTreeSet<u64>, asked: u64) {
    let mut connection = redis::Client::open(format!("redis://{}", address(server, "redis")))
        .unwrap()
        .get_connection()
        .unwrap();
    let (mut cursor, mut state) = (0, BTreeSet::new());
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg("order:*").arg("COUNT").arg(1000);
        let found: (u64, Vec<String>) = scan.query(&mut connection).unwrap();
        state.extend(found.1.iter().map(|key| key["order:".len()..].parse::<u64>().unwrap()));
        cursor = found.0;
        if cursor == 0 {
            break;
        }
    }

    let read = Command::new(kafka_clients().join("kcat"))
        .args(["-b", &address(server, "kafka"), "-t", "orders", "-C", "-e", "-q", "-f", "%k\n"])
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let events: Vec<u64> =
        String::from_utf8(read.stdout).unwrap().lines().map(|key| key.parse().unwrap()).collect();
    let stream: BTreeSet<u64> = events.iter().copied().collect();

    assert_eq!(stream.len(), events.len(), "no event is there twice");
    assert_eq!(state, stream, "every order has its event, and every event its order");
    assert!(acknowledged.is_subset(&state), "what was acknowledged is there");
    assert!(state.iter().all(|number| !number.is_multiple_of(IMPOSSIBLE) && *number < asked));
}

fn address(server: &Server, gateway: &str) -> String {
    server.ready[gateway].as_str().unwrap().to_owned()
}
