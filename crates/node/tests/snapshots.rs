//! How often snapshots are taken.
#![allow(clippy::unwrap_used)] // A test may panic.

use quorate_engine::{Durability, Instant};
use quorate_log::{LogConfig, SimDisk};
use quorate_node::{Config, Partition};
use quorate_types::{Command, Commit, Key, LeaseId, Op, Settings};
use std::sync::Arc;

const KEYS: u64 = 200;

fn config(snapshot_commands: u64, snapshot_bytes: u64) -> Config {
    Config {
        durability: Durability::Always,
        log: LogConfig {
            segment_bytes: 64 << 10,
            segments_ready: 0,
            batch_bytes_max: 30 << 10,
            entry_bytes_max: 24 << 10,
            reserve_bytes: 0,
        },
        settings: Settings { history_bytes_max: 0, ..Settings::default() },
        snapshot_commands,
        snapshot_bytes,
        ..Config::default()
    }
}

fn open(disk: &Arc<SimDisk>, config: Config) -> Partition<u64> {
    Partition::open(Arc::clone(disk) as _, config, 1, &mut |_, _| {}).unwrap().0
}

/// Writes a kilobyte to some keys, one after the other; how many snapshots were finished meanwhile.
fn overwrite(node: &mut Partition<u64>, times: u64) -> usize {
    let (mut finished, mut newest) = (0, node.engine().log().snapshots().last().copied());
    for at in 0..times {
        let key = Key::new(format!("key-{}", at % KEYS));
        let op = Op::Put { key, value: vec![7; 1024].into(), lease: LeaseId(0), prev: false };
        node.propose(Command::commit(Commit::of(vec![op])), 0).map_err(|(_, refused)| refused).unwrap();
        node.turn(Instant { monotonic_ns: 1, wall_ms: 1_000_000 }, 1).unwrap();
        while let Some(job) = node.take_job() {
            node.complete(job.run()).unwrap();
        }
        while let Some(work) = node.take_work() {
            assert_eq!(node.work_done(work.run()), None);
        }
        let now = node.engine().log().snapshots().last().copied();
        finished += usize::from(now != newest);
        newest = now;
    }
    finished
}

#[test]
fn to_write_snapshots_costs_no_more_than_to_write_the_log() {
    for config in [config(u64::MAX, 16 << 10), config(16, 16 << 10)] {
        let disk = Arc::new(SimDisk::new(1));
        let mut node = open(&disk, config.clone());
        overwrite(&mut node, KEYS);
        // A state of 200 KiB and a log that grows by 2 MiB; after each 16 KiB of it a snapshot would be written 120 times.
        let finished = overwrite(&mut node, 2_000);
        assert!((4..=20).contains(&finished), "{finished} snapshots");
        let bytes = node.engine().log().snapshot_bytes();
        assert!(bytes > KEYS * 1024);
        drop(node);
        assert_eq!(open(&disk, config).engine().log().snapshot_bytes(), bytes, "known after a restart too");
    }
}

#[test]
fn a_small_state_has_a_snapshot_as_often_as_was_asked_for() {
    let disk = Arc::new(SimDisk::new(1));
    // An entry counts as well as its command.
    let mut node = open(&disk, config(200, 1 << 20));
    let finished = overwrite(&mut node, 1_000);
    assert!((7..=11).contains(&finished), "{finished} snapshots");
}
