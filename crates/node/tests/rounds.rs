//! What a leader's next entry waits for, and what goes at once, while an entry is on its way to a quorum.
#![allow(clippy::unwrap_used)] // A test may panic.

use quorate_engine::Instant;
use quorate_log::{LogConfig, SimDisk};
use quorate_node::{Config, Partition, ReplicaConfig};
use quorate_types::{Blob, ClusterId, Command, CommandBody, Commit, Key, LeaseId, LogIndex, NodeId, Op};
use std::sync::Arc;

/// A leader of its own cluster, whose writes are certain when the test says so.
struct Leader {
    node: Partition<u64>,
    now_ns: u64,
}

impl Leader {
    fn new() -> Self {
        let disk = Arc::new(SimDisk::new(1));
        let open = || {
            let log = LogConfig { reserve_bytes: 0, ..LogConfig::default() };
            let replica = ReplicaConfig { node: NodeId(1), life: 1, ..ReplicaConfig::default() };
            let config = Config { log, ..Config::default() };
            Partition::open_replica(disk.clone(), config, replica, 1, &mut |_, _| {}).unwrap().0
        };
        open().init_cluster(ClusterId(7), "nowhere".into()).unwrap();
        let mut leader = Self { node: open(), now_ns: 0 };
        while !leader.node.engine().standing().orders || !leader.node.is_quiet() {
            leader.now_ns += 10_000_000;
            assert!(leader.now_ns < 10_000_000_000, "nobody is elected");
            leader.turn();
            leader.write();
        }
        leader
    }

    fn turn(&mut self) {
        self.node.turn(Instant { monotonic_ns: self.now_ns, wall_ms: 1_000_000 }, 1).unwrap();
    }

    /// Lets what is under way become certain.
    fn write(&mut self) {
        while let Some(job) = self.node.take_job() {
            self.node.complete(job.run()).unwrap();
            self.turn();
        }
    }

    /// The log's last entry after a command came.
    fn last_after(&mut self, command: Command) -> LogIndex {
        assert!(self.node.propose(command, 0).is_ok());
        self.turn();
        self.node.engine().last()
    }
}

fn put(name: &str) -> Command {
    let key = Key::new(name);
    Command::commit(Commit::of(vec![Op::Put { key, value: Blob::EMPTY, lease: LeaseId(0), prev: false }]))
}

#[test]
fn a_put_waits_for_the_entry_under_way_and_a_keep_alive_does_not() {
    let mut leader = Leader::new();
    let first = leader.last_after(put("a"));
    assert_eq!(leader.last_after(put("b")), first, "it waits");
    assert_eq!(leader.last_after(put("c")), first, "it waits too");
    leader.write();
    let second = leader.node.engine().last();
    assert_eq!(second.0, first.0 + 1, "both go with the next");
    let third = leader.last_after(put("d"));
    assert_eq!(third.0, second.0 + 1, "nothing is under way any more");
    assert_eq!(leader.last_after(put("e")), third, "it waits");
    let alive = Command::new("client".into(), CommandBody::KeepAlive { leases: vec![LeaseId(9)] });
    assert_eq!(
        leader.last_after(alive).0,
        third.0 + 1,
        "a keep-alive goes at once, and takes along what waits"
    );
    leader.write();
    assert_eq!(leader.node.engine().last().0, third.0 + 1, "nothing is left");
}
