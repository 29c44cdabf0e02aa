//! How long a partition's thread is held by an etcd client's delete of a range: what the budget of a commit is chosen by.
//!
//! `cargo run --release -p quorate-machine --example erase -- KEYS VALUE_BYTES HISTORY_BYTES` deletes so many keys at one revision, then reads the
//! delete as a watcher would. The names are in order and what they name lies in memory without any. A history that is full forgets as many
//! lines in the same turn.
#![allow(clippy::disallowed_methods)] // The clock is the measurement's: it stays outside of the machine.

use quorate_machine::{Machine, Outputs};
use quorate_types::{
    Blob, Command, CommandBody, Commit, Entry, Key, KeyRange, Keyspace, LeaseId, LogIndex, LogTime, Mode, Op,
    OpResult, Outcome, Settings, Term, WallTime,
};
use std::time::Instant;

/// Keys of one operation: what the budget lets through. In mode `apart` each operation has the budget for itself.
const STEP: u64 = 50_000;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [keys, value_bytes, history_bytes_max] = numbers[..] else {
        eprintln!("usage: erase KEYS VALUE_BYTES HISTORY_BYTES");
        return;
    };
    let mut machine = Machine::new(1);
    let settings = Settings { history_bytes_max, ..machine.settings().clone() };
    apply(&mut machine, Command::new("server".into(), CommandBody::Configure { settings }));
    for chunk in shuffled(keys).chunks(1000) {
        apply(
            &mut machine,
            Command::commit(Commit::of(chunk.iter().map(|n| put(*n, value_bytes)).collect())),
        );
    }
    let erase = |step: u64| {
        let end = Some(name(((step + 1) * STEP).min(keys)).name);
        Op::Erase { range: KeyRange { start: name(step * STEP), end }, prev: false }
    };
    let ops = (0..keys.div_ceil(STEP)).map(erase).collect();
    let command = Command::commit(Commit { mode: Mode::Apart, ..Commit::of(ops) });
    let begin = Instant::now();
    let outcome = apply(&mut machine, command);
    let took = begin.elapsed();
    let Outcome::Committed { committed } = outcome else { panic!("{outcome:?}") };
    let deleted = |result: &OpResult| if let OpResult::Deleted { count, .. } = result { *count } else { 0 };
    let deleted: u64 = committed.results.iter().map(deleted).sum();
    assert_eq!(deleted, keys, "all of them, at one revision");
    println!("{deleted} deleted in {took:?}, {} ns each", took.as_nanos() / u128::from(keys.max(1)));
    let begin = Instant::now();
    match machine.plain_changes(Keyspace::DEFAULT, None, committed.revision, 1000, 1 << 20) {
        Ok(changes) => println!("{} events read in {:?}", changes.changes.len(), begin.elapsed()),
        Err(why) => println!("no events: {why}"),
    }
}

fn apply(machine: &mut Machine, command: Command) -> Outcome {
    let index = machine.applied().0 + 1;
    let mut entry = Entry {
        index: LogIndex(index),
        term: Term(1),
        wall: WallTime(1000),
        time: LogTime(index * 1000),
        seed: index,
        machine_version: 1,
        commands: vec![command],
        origins: vec![],
        decided: vec![],
    };
    entry.seal();
    let mut out = Outputs::default();
    machine.apply(&entry, &mut out);
    out.outcomes.pop().expect("one command has one outcome")
}

fn name(number: u64) -> Key {
    Key { space: Keyspace::DEFAULT, name: Blob::copy_from(format!("registry/pods/{number:08}").as_bytes()) }
}

fn put(number: u64, bytes: u64) -> Op {
    let value = Some(Blob::copy_from(&vec![7; bytes as usize]));
    Op::Write { key: name(number), value, lease: Some(LeaseId::ZERO), prev: false, keep: false }
}

/// Numbers below a bound, in no order (a permutation by Knuth's linear congruential generator).
fn shuffled(end: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..end).collect();
    let mut state = 1u64;
    for last in (1..numbers.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(last, (state >> 33) as usize % (last + 1));
    }
    numbers
}
