//! No command that was admitted, and nothing that an entry came to, makes an entry that the log refuses: that would stop the node.
#![allow(clippy::unwrap_used)] // A test may panic.

use quorate_engine::Instant;
use quorate_log::{LogConfig, SimDisk};
use quorate_node::{Config, Partition, Refused, WhyQuery, WhyRecord, WhyWhat, search};
use quorate_types::{
    Blob, Command, Commit, Compare, FencingToken, Guard, Key, KeyField, KeyRange, LeaseId, Limits, Op,
    Revision, Subject,
};
use std::sync::Arc;

fn open() -> Partition<u64> {
    let config = Config {
        limits: Limits { command_bytes_max: 64 << 10, ..Limits::default() },
        log: LogConfig {
            segment_bytes: 1 << 20,
            batch_bytes_max: 256 << 10,
            entry_bytes_max: 128 << 10,
            reserve_bytes: 0,
            ..LogConfig::default()
        },
        entry_bytes: 32 << 10,
        ..Config::default()
    };
    Partition::open(Arc::new(SimDisk::new(1)), config, 1, &mut |_, _| {}).unwrap().0
}

fn commit(node: &mut Partition<u64>, commit: Commit) -> Result<(), Refused> {
    node.propose(Command::commit(commit), 0).map_err(|(_, refused)| refused)?;
    turn(node);
    Ok(())
}

fn turn(node: &mut Partition<u64>) {
    node.turn(Instant { monotonic_ns: 1, wall_ms: 1_000_000 }, 1).unwrap();
    while let Some(job) = node.take_job() {
        node.complete(job.run()).unwrap();
    }
}

fn name(number: u64) -> Blob {
    format!("{number:04000}").into()
}

#[test]
fn names_count_wherever_they_stand_in_a_command() {
    let key = |number| Key::new(name(number));
    let range = |number| KeyRange::prefix(key(number));
    let ops: [fn(Key, KeyRange, Blob) -> Op; 5] = [
        |key, _, _| Op::Get { key },
        |_, range, _| Op::DeleteRange { range, prev: false },
        |_, _, name| Op::LockInfo { lock: name.into() },
        |key, _, name| Op::DeleteGroup { stream: key, group: name.into() },
        |_, _, name| Op::Cancel { task: name.into() },
    ];
    for op in ops {
        let then = (0..60).map(|number| op(key(number), range(number), name(number))).collect();
        let refused = commit(&mut open(), Commit::of(then));
        assert!(matches!(refused, Err(Refused::Invalid(_))), "240 KB of names pass as 64: {refused:?}");
    }
    let guards: [fn(KeyRange, Blob) -> Guard; 2] = [
        |_, name| Guard::Fence { lock: name.into(), token: FencingToken(1) },
        |range, _| Guard::RangeUnchanged { range, since: Revision(0) },
    ];
    for guard in guards {
        let guards = (0..60).map(|number| guard(range(number), name(number))).collect();
        let refused = commit(&mut open(), Commit { guards, ..Commit::default() });
        assert!(matches!(refused, Err(Refused::Invalid(_))), "240 KB of names pass as 64: {refused:?}");
    }
}

#[test]
fn many_keys_that_go_at_once_do_not_stop_the_node() {
    let mut node = open();
    for number in 0..2000 {
        let key = Key::new(format!("k/{number:0200}"));
        let put = Op::Put { key, value: Blob::EMPTY, lease: LeaseId(0), prev: false };
        commit(&mut node, Commit::of(vec![put])).unwrap();
    }
    let range = KeyRange::prefix("k/".into());
    commit(&mut node, Commit::of(vec![Op::DeleteRange { range, prev: false }])).unwrap();
    commit(&mut node, Commit::of(vec![Op::Get { key: "k".into() }])).unwrap();
    assert_eq!(node.machine().sizes().keys, 0);
    // All of it is told, in as many entries as it takes.
    for _ in 0..40 {
        commit(&mut node, Commit::of(vec![Op::Get { key: "k".into() }])).unwrap();
    }
    let oldest = node.machine().oldest_revision().0;
    for number in [oldest.max(1), 1000, 1999] {
        let subject = Subject::Key { key: Key::new(format!("k/{number:0200}")) };
        let told = search(&node.reader(), &WhyQuery { subject, max: 10 }, &[]).unwrap();
        let gone = |record: &&WhyRecord| matches!(&record.what, WhyWhat::Automatic(change) if change.deleted);
        assert_eq!(told.iter().filter(gone).count(), 1, "key {number}: {told:?}");
    }
}

#[test]
fn many_long_refusals_do_not_stop_the_node() {
    let mut node = open();
    for round in 0u64..12 {
        let guard = |number: u64| Guard::Key {
            key: Key::new(name(round * 100 + number)),
            field: KeyField::Version,
            compare: Compare::Equal,
            wanted: 1,
        };
        let guards = (0..15).map(guard).collect();
        node.propose(Command::commit(Commit { guards, ..Commit::default() }), 0).unwrap();
        if round % 6 == 5 {
            turn(&mut node);
        }
    }
    turn(&mut node);
    commit(&mut node, Commit::of(vec![Op::Get { key: "k".into() }])).unwrap();
}
