//! What cleaning may take away, and when.
#![allow(clippy::unwrap_used)] // A test may panic.

use quorate_engine::{Durability, Instant};
use quorate_log::{LogConfig, SimDisk};
use quorate_node::{Config, Partition, Work};
use quorate_types::{
    Append, Command, Commit, Format, Key, LogIndex, Millis, Op, PartitionChoice, Record, Settings, record,
};
use std::sync::Arc;

fn append(stream: &str, bytes: usize) -> Op {
    let record = Record { key: None, value: Some(vec![7; bytes].into()), headers: Vec::new() };
    Op::Append {
        append: Append {
            stream: Key::new(stream),
            partition: PartitionChoice::Any,
            format: Format::Records,
            records: 1,
            payload: record::encode(&[record]),
            create: true,
        },
    }
}

/// Commits and writes, without a sync of its own.
fn commit(node: &mut Partition<u64>, op: Op) {
    node.propose(Command::commit(Commit::of(vec![op])), 0).map_err(|(_, refused)| refused).unwrap();
    write(node);
}

fn write(node: &mut Partition<u64>) {
    node.turn(Instant { monotonic_ns: 1, wall_ms: 1_000_000 }, 1).unwrap();
    while let Some(job) = node.take_job() {
        node.complete(job.run()).unwrap();
    }
}

fn sync(node: &mut Partition<u64>) {
    while let Some(job) = node.take_sync_job() {
        node.complete(job.run()).unwrap();
    }
}

/// Found by the simulator under `interval` and `none`: a commit made payloads dead, they were cleaned away, a power loss took the commit
/// back, and what it had made dead was alive again and gone.
#[test]
fn a_payload_is_cleaned_away_only_once_what_made_it_dead_is_synced() {
    let config = Config {
        durability: Durability::Interval,
        settings: Settings::default(),
        log: LogConfig {
            segment_bytes: 8 << 10,
            segments_ready: 0,
            batch_bytes_max: 7 << 10,
            entry_bytes_max: 6 << 10,
            reserve_bytes: 0,
        },
        audit_age: Millis(0),
        audit_bytes: 0,
        ..Config::default()
    };
    let (mut node, _) = Partition::open(Arc::new(SimDisk::new(1)), config, 1, &mut |_, _| {}).unwrap();
    for _ in 0..30 {
        commit(&mut node, append("doomed", 1000));
    }
    sync(&mut node);
    node.snapshot_soon();
    for _ in 0..20 {
        write(&mut node);
    }
    sync(&mut node);
    commit(&mut node, Op::DeleteStream { stream: Key::new("doomed") });
    for _ in 0..20 {
        // What was deleted is freed in slices, by the entries that follow.
        write(&mut node);
    }
    assert_eq!(node.machine().live_bytes(LogIndex(1), node.machine().applied()), 0);
    let (mut cleaned_early, mut cleaned) = (false, false);
    for round in 0..40 {
        if round == 20 {
            sync(&mut node);
        }
        if let Some(work) = node.take_work() {
            let unsafe_yet = node.engine().log().synced().0 < node.machine().applied().0;
            cleaned_early |= matches!(work, Work::Clean(_)) && unsafe_yet;
            cleaned |= matches!(work, Work::Clean(_));
            node.work_done(work.run());
        }
    }
    assert!(!cleaned_early, "payloads were cleaned away by a commit that a power loss could take back");
    assert!(cleaned, "they are cleaned away in the end");
}
