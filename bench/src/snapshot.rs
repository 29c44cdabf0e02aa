//! What a snapshot of a million keys does to commits that overwrite them meanwhile.

use crate::report::{Report, percentile};
use quorate_runtime::{Config, Quorate};
use quorate_types::{Commit, Key, LeaseId, Op};
use std::path::Path;
use std::time::{Duration, Instant};

const KEYS: u64 = 1_000_000;
const PER_COMMIT: u64 = 1000;
const ROUNDS: usize = 3;

pub(crate) fn run(report: &mut Report, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config { snapshot_commands: u64::MAX, snapshot_bytes: u64::MAX, ..Config::default() };
    let db = Quorate::open(folder.join("snapshot"), config, |_, _| {})?;
    for first in (0..KEYS).step_by(PER_COMMIT as usize) {
        db.commit(Commit::of((first..first + PER_COMMIT).map(put).collect()))?;
    }
    let (mut quiet, mut busy, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = db.handle().status().snapshot;
        let begun = Instant::now();
        quiet.append(&mut overwrite(&db, |_| begun.elapsed() < Duration::from_secs(3))?);
        db.handle().snapshot_soon();
        let begun = Instant::now();
        busy.append(&mut overwrite(&db, |db| db.handle().status().snapshot == before)?);
        took.push(begun.elapsed().as_secs_f64());
    }
    let (without, with) = (percentile(&mut quiet, 0.99), percentile(&mut busy, 0.99));
    let added = with as f64 / 1e3 - without as f64 / 1e3;
    report.goal(
        "p99 of a durable commit while 1 M keys are snapshot under overwrites, beyond the p99 without",
        format!("{added:+.2} ms ({:.2} → {:.2} ms)", without as f64 / 1e3, with as f64 / 1e3),
        "≤ +10 ms",
        added <= 10.0,
    );
    let (slowest, seconds) = (busy.last().copied().unwrap_or(0), crate::report::median(took));
    report.row(
        "… slowest commit meanwhile, length of the snapshot",
        format!("{:.1} ms, {seconds:.1} s", slowest as f64 / 1e3),
    );
    db.close();
    Ok(())
}

fn put(key: u64) -> Op {
    Op::Put {
        key: Key::new(format!("key:{key:016}")),
        value: "0123456789abcdef".into(),
        lease: LeaseId(0),
        prev: false,
    }
}

/// Four clients overwrite random keys; latencies in microseconds.
fn overwrite(
    db: &Quorate,
    go_on: impl Fn(&Quorate) -> bool + Sync,
) -> Result<Vec<u64>, Box<dyn std::error::Error>> {
    let latencies: Result<Vec<Vec<u64>>, String> = std::thread::scope(|scope| {
        let go_on = &go_on;
        let client = |seed: u64| {
            move || {
                let (mut random, mut took) = (seed, Vec::new());
                while go_on(db) {
                    for _ in 0..16 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let sent = Instant::now();
                        db.commit(Commit::of(vec![put(random % KEYS)])).map_err(|error| error.to_string())?;
                        took.push(sent.elapsed().as_micros() as u64);
                    }
                }
                Ok(took)
            }
        };
        let threads: Vec<_> = (1..=4).map(|seed| scope.spawn(client(seed * 7919))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client does not panic")).collect()
    });
    Ok(latencies?.into_iter().flatten().collect())
}
