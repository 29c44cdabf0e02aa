//! Measures the log against the bare disk: one durable commit beside a bare `pwrite` + `fdatasync` of the same bytes, and recovery.
//!
//! `cargo run --release -p quorate-log --example measure -- FOLDER [ENTRIES] [TOTAL_MIB]`; the folder must be empty. The page cache is as
//! you left it: run `recover` mode (`measure FOLDER recover`) after dropping it to measure a cold start.
//!
//! Called by: people; numbers in docs/formats/log.md come from it.
#![allow(clippy::unwrap_used)] // A measurement stops at the first error.

use quorate_log::{AppendEntry, Disk, Extent, FileDisk, Fill, Index, Log, LogConfig, Term};
use std::sync::Arc;
use std::time::{Duration, Instant};

const COMMITS: usize = 2000;
const COMMIT_BYTES: usize = 256;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("a folder is named");
    let second = arguments.next();
    if second.as_deref() == Some("recover") {
        return recover(&folder);
    }
    let entries = second.map_or(2_000_000, |text| text.parse().unwrap());
    let total_mib: u64 = arguments.next().map_or(1024, |text| text.parse().unwrap());
    commits(&format!("{folder}/commits"));
    cpu(&format!("{folder}/cpu"));
    fill(&format!("{folder}/recovery"), entries, total_mib << 20);
    recover(&format!("{folder}/recovery"));
}

/// Alternates the bare disk and the log, so that a noisy machine is noisy for both.
fn commits(folder: &str) {
    let disk = Arc::new(FileDisk::open(folder).unwrap());
    let (mut log, _) = Log::open(Arc::clone(&disk) as Arc<dyn Disk>, LogConfig::default()).unwrap();
    while let Some(job) = log.prepare_job() {
        log.complete_prepare(job.run()).unwrap();
    }
    let bare = disk.create("bare", 64 << 20, Fill::Written).unwrap();
    let body = vec![7u8; COMMIT_BYTES];
    let bytes = vec![7u8; COMMIT_BYTES + 104];
    let (mut bare_times, mut log_times) = (Vec::new(), Vec::new());
    for number in 0..COMMITS {
        let start = Instant::now();
        bare.write_at((number * bytes.len()) as u64, &bytes).unwrap();
        bare.sync_data().unwrap();
        bare_times.push(start.elapsed());
        let start = Instant::now();
        let index = log.last().next();
        log.append(AppendEntry { index, term: Term(1), body: &body, extents: &[] }).unwrap();
        let job = log.take_job(true).unwrap();
        log.complete(job.run()).unwrap();
        log_times.push(start.elapsed());
    }
    let (bare, log) = (median(bare_times), median(log_times));
    println!(
        "durable commit of {COMMIT_BYTES} B: bare {bare:?}, log {log:?}, ratio {:.3}",
        log.as_secs_f64() / bare.as_secs_f64()
    );
}

/// The log's own time per commit: the same without any sync.
fn cpu(folder: &str) {
    let disk = Arc::new(FileDisk::open(folder).unwrap());
    let (mut log, _) = Log::open(Arc::clone(&disk) as Arc<dyn Disk>, LogConfig::default()).unwrap();
    while let Some(job) = log.prepare_job() {
        log.complete_prepare(job.run()).unwrap();
    }
    let bare = disk.create("bare", 64 << 20, Fill::Written).unwrap();
    let body = vec![7u8; COMMIT_BYTES];
    let bytes = vec![7u8; COMMIT_BYTES + 104];
    let rounds = 100_000;
    let start = Instant::now();
    for number in 0..rounds {
        bare.write_at((number * bytes.len()) as u64, &bytes).unwrap();
    }
    let bare = start.elapsed() / rounds as u32;
    let start = Instant::now();
    for _ in 0..rounds {
        let index = log.last().next();
        log.append(AppendEntry { index, term: Term(1), body: &body, extents: &[] }).unwrap();
        let job = log.take_job(false).unwrap();
        log.complete(job.run()).unwrap();
    }
    let own = start.elapsed() / rounds as u32;
    println!("unsynced commit of {COMMIT_BYTES} B: bare write {bare:?}, log {own:?}");
}

/// `entries` small commits, every tenth with a payload, to `total` bytes; in batches of 64 as under load.
fn fill(folder: &str, entries: u64, total: u64) {
    let disk = Arc::new(FileDisk::open(folder).unwrap());
    let (mut log, _) = Log::open(disk, LogConfig::default()).unwrap();
    let small = vec![1u8; 96];
    let room = (total - entries * (96 + 34)) / (entries / 10);
    let big = vec![2u8; 96 + room as usize];
    let extent = [Extent { offset: 96, len: room as u32 }];
    let start = Instant::now();
    for index in 1..=entries {
        let (body, extents): (&[u8], &[Extent]) =
            if index % 10 == 0 { (&big, &extent) } else { (&small, &[]) };
        log.append(AppendEntry { index: Index(index), term: Term(1), body, extents }).unwrap();
        if index % 64 == 0 || index == entries {
            while let Some(job) = log.take_job(index == entries) {
                log.complete(job.run()).unwrap();
            }
        }
    }
    if let Some(job) = log.mark_job() {
        log.complete(job.run()).unwrap();
    }
    println!("filled {entries} entries, {} MiB in {:?}", log.file_bytes() >> 20, start.elapsed());
}

fn recover(folder: &str) {
    let disk = Arc::new(FileDisk::open(folder).unwrap());
    let start = Instant::now();
    let (log, recovery) = Log::open(disk, LogConfig::default()).unwrap();
    let opened = start.elapsed();
    let (mut count, mut bytes) = (0u64, 0u64);
    for entry in recovery.entries {
        let entry = entry.unwrap();
        count += 1;
        bytes += entry.body.len() as u64;
    }
    let took = start.elapsed();
    println!("recovered {count} entries, {} MiB of bodies in {took:?} ({opened:?} to open)", bytes >> 20);
    let reader = log.reader();
    let last = log.last().0;
    let start = Instant::now();
    for number in 0..100_000u64 {
        let index = (number * 7_919 * 10) % (last / 10 * 10) + 10;
        reader.payload(Index(index - index % 10), 0).unwrap();
    }
    println!("payload read at random: {:?}", start.elapsed() / 100_000);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
