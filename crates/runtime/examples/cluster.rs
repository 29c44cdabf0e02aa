//! Measures three replicas in one process, over loopback: `cargo run --release -p quorate-runtime --example cluster -- [FOLDER]`.
//!
//! Clients are tasks on one thread that call the handles of all three nodes, so no gateway is in the way: what is left is ordering,
//! replication and three syncs on one disk.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be set up ends")]

use quorate_runtime::{ClusterConfig, Config, Handle, Quorate};
use quorate_types::{Commit, Key, LeaseId, NodeId, Op};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from).join("quorate-three");
    let _ = std::fs::remove_dir_all(&folder);
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let peers: Vec<_> = listeners.iter().zip(1..).map(|(l, n)| (NodeId(n), address(l))).collect();
    let nodes: Vec<Quorate> = listeners
        .into_iter()
        .zip(1..)
        .map(|(listener, n)| {
            let (address, url) = (address(&listener), String::new());
            let cluster =
                ClusterConfig { node: NodeId(n), listener, address, peers: peers.clone(), url, tls: None };
            Quorate::open_cluster(folder.join(n.to_string()), Config::default(), cluster, |_, _| {}).unwrap()
        })
        .collect();
    let handles: Vec<Handle> = nodes.iter().map(Quorate::handle).collect();
    handles[0].cluster_init().await.unwrap();
    while handles.iter().any(|handle| {
        let voters = |s: quorate_runtime::ClusterStatus| {
            s.members.iter().filter(|m| m.member.role == quorate_engine::Role::Voter {}).count()
        };
        handle.cluster_status().map_or(0, voters) < 3
    }) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("clients  at        op     per second   p50 ms   p99 ms");
    for clients in [1, 64, 512] {
        for (at, spread) in [("leader", 1), ("all nodes", 3)] {
            for op in ["put", "read"] {
                let (rate, p50, p99) = load(&handles[..spread], clients, op).await;
                println!("{clients:<8} {at:<9} {op:<6} {rate:>10.0} {p50:>8.2} {p99:>8.2}");
            }
        }
    }
    drop(nodes);
    let _ = std::fs::remove_dir_all(&folder);
}

/// Runs so many clients, spread over the nodes, for three seconds.
async fn load(handles: &[Handle], clients: usize, op: &'static str) -> (f64, f64, f64) {
    let count = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let until = begun + Duration::from_secs(3);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (handle, count) = (handles[client % handles.len()].clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < until {
                    let n = count.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                    let key = Key::new(format!("key-{:06}", n % 100_000));
                    let at = Instant::now();
                    if op == "put" {
                        let value = vec![b'v'; 256].into();
                        let put = Op::Put { key, value, lease: LeaseId(0), prev: false };
                        handle.command(Commit::of(vec![put]).into()).await.unwrap();
                    } else {
                        handle.read(|machine| machine.get(&key).is_some()).await.unwrap();
                    }
                    took.push(at.elapsed().as_secs_f64() * 1000.0);
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    let seconds = begun.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    (took.len() as f64 / seconds, at(0.5), at(0.99))
}
