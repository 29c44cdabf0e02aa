//! Kafka's clients and a cluster: they find its nodes, follow its leader, and lose nothing that was acknowledged.
#![allow(clippy::unwrap_used, dead_code)] // Test code: a failure here is the test's failure.

use crate::support;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use support::{kafka_clients, quorate};

#[test]
fn what_a_kafka_client_was_told_outlives_the_leader() {
    while_the_leader_dies("failover.py", &["plain"]);
}

#[test]
fn a_producer_that_numbers_its_batches_loses_doubles_and_swaps_nothing_when_the_leader_is_killed() {
    while_the_leader_dies("failover.py", &["idempotent"]);
}

#[test]
fn members_of_a_group_are_told_nothing_when_the_leader_dies() {
    while_the_leader_dies("groups_failover.py", &["classic"]);
}

#[test]
fn members_of_a_group_that_the_server_divides_are_told_nothing_when_the_leader_dies() {
    while_the_leader_dies("groups_failover.py", &["consumer"]);
}

#[test]
fn a_worker_in_transactions_does_everything_once_when_it_is_killed_and_the_leader_too() {
    while_the_leader_dies("exactly_once.py", &[]);
}

/// Three nodes, and a program of a client's that says whom it takes for the leader: that one is killed then.
fn while_the_leader_dies(program: &str, arguments: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = kafka_clients();

    let mut up = quorate(&["up", "--port", "0", "--json"]).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(up.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let node = |n: usize, name: &str| said["nodes"][n][name].clone();
    let http = (0..3).map(|n| node(n, "url").as_str().unwrap().trim_start_matches("http://").to_owned());
    let http: Vec<String> = http.collect();
    let mut story = Command::new(folder.join("venv/bin/python"))
        .arg(root.join("crates/gateways/kafka/tests/clients").join(program))
        .args(arguments)
        .args((0..3).map(|n| node(n, "kafka").as_str().unwrap().to_owned()))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("QUORATE_HTTP", http.join(","))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut leader = String::new();
    BufReader::new(story.stdout.take().unwrap()).read_line(&mut leader).unwrap();
    if let Ok(leader) = leader.trim().parse::<usize>() {
        let pid = node(leader - 1, "pid").to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }
    let done = story.wait_with_output().unwrap();
    support::terminate(&up);
    assert_eq!(up.wait().unwrap().code(), Some(0));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
