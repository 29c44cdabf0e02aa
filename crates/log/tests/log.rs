//! What the log promises to whoever appends, reads and opens again.
#![allow(clippy::unwrap_used)] // A test may panic.

use crate::common;
use common::*;
use quorate_log::*;
use std::io;
use std::sync::{Arc, Mutex};

#[test]
fn what_was_synced_is_there_after_power_loss_across_segments() {
    let disk = SimDisk::new(1);
    let (mut log, recovery) = open(&disk).unwrap();
    assert_eq!((recovery.first, recovery.last, recovery.torn), (Index(1), Index(0), None));
    append_synced(&mut log, 60).unwrap();
    assert!(disk.list().unwrap().len() > 3, "several segments");
    drop(log);
    disk.power_loss();
    let (log, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.torn, None);
    assert_eq!(drain(recovery).unwrap(), (1, 60));
    for index in 1..=60 {
        assert_eq!(log.reader().payload(Index(index), 0).unwrap().as_ref(), payload(index, 0));
        assert_eq!(log.reader().payload(Index(index), 1).unwrap().as_ref(), payload(index, 1));
        assert_eq!(log.reader().entry(Index(index)).unwrap().body.as_ref(), body(index));
    }
    assert!(matches!(log.reader().payload(Index(61), 0), Err(LogError::Beyond { .. })));
    assert!(matches!(log.reader().payload(Index(60), 2), Err(LogError::NoPayload { .. })));
}

#[test]
fn one_batch_takes_everything_that_waits_with_one_write_and_one_sync() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1).unwrap();
    let before = disk.operations();
    for index in 2..=8 {
        append(&mut log, index).unwrap();
    }
    assert_eq!((log.last(), log.written(), log.synced()), (Index(8), Index(1), Index(1)));
    let job = log.take_job(true).unwrap();
    assert!(log.take_job(true).is_none());
    assert_eq!(log.complete(job.run()).unwrap(), (Index(8), Index(8)));
    assert_eq!(disk.operations() - before, 2);
}

#[test]
fn unsynced_writes_are_readable_and_a_later_sync_covers_them() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    for index in 1..=3 {
        append(&mut log, index).unwrap();
        flush(&mut log, false).unwrap();
    }
    assert_eq!((log.written(), log.synced()), (Index(3), Index(0)));
    assert_eq!(log.reader().payload(Index(3), 1).unwrap().as_ref(), payload(3, 1));
    let job = log.take_job(true).expect("a sync is owed");
    assert_eq!(log.complete(job.run()).unwrap(), (Index(3), Index(3)));
    assert!(log.take_job(true).is_none(), "no sync is owed twice");
}

#[test]
fn recovery_starts_after_the_newest_snapshot() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 20).unwrap();
    snapshot(&mut log, 15).unwrap();
    drop(log);
    let (log, recovery) = open(&disk).unwrap();
    assert_eq!(log.snapshots(), [Index(15)]);
    assert_eq!(drain(recovery).unwrap(), (16, 20));
}

/// Bytes of each entry.
fn drain_sizes(recovery: Recovery) -> Vec<usize> {
    recovery.entries.map(|entry| entry.unwrap().body.len()).collect()
}

/// Sizes of the segment files, in order.
fn segments(disk: &SimDisk) -> Vec<u64> {
    let files = disk.list().unwrap();
    files.into_iter().filter(|file| file.name.starts_with("seg-")).map(|file| file.bytes).collect()
}

#[test]
fn a_segment_that_nobody_has_prepared_is_small_and_a_prepared_one_follows() {
    let config =
        LogConfig { segment_bytes: 16 << 20, batch_bytes_max: 8 << 20, entry_bytes_max: 6 << 20, ..small() };
    let entry = |log: &mut Log, index: u64, bytes: usize| {
        let body = vec![index as u8; bytes];
        let entry = AppendEntry { index: Index(index), term: Term(1), body: &body, extents: &[] };
        log.append(entry).unwrap();
        flush(log, true).unwrap();
    };
    let disk = SimDisk::new(1);
    let (mut log, _) = open_with(&disk, config).unwrap();
    entry(&mut log, 1, 1 << 20);
    assert_eq!(segments(&disk), [4 << 20]);
    let prepared = log.prepare_job().unwrap().run();
    log.complete_prepare(prepared).unwrap();
    for index in 2..=5 {
        entry(&mut log, index, 1 << 20);
    }
    assert_eq!(segments(&disk), [4 << 20, 16 << 20], "the small one is full, and the prepared one in use");
    drop(log);

    let (log, recovery) = open_with(&disk, config).unwrap();
    assert_eq!(drain_sizes(recovery), [1 << 20; 5]);
    drop(log);

    let disk = SimDisk::new(2);
    let (mut log, _) = open_with(&disk, config).unwrap();
    entry(&mut log, 1, 5 << 20);
    assert_eq!(segments(&disk), [16 << 20], "what has no room in a small one gets a full one");
    drop(log);
    let (_, recovery) = open_with(&disk, config).unwrap();
    assert_eq!(drain_sizes(recovery), [5 << 20]);
}

/// A disk that notes how new files get their room.
struct Fills {
    disk: SimDisk,
    seen: Mutex<Vec<Fill>>,
}

impl Disk for Fills {
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64, fill: Fill) -> io::Result<Arc<dyn DiskFile>> {
        if name.starts_with("prep-") {
            self.seen.lock().unwrap().push(fill);
        }
        self.disk.create(name, bytes, fill)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
    fn lock(&self) -> Result<Box<dyn DiskLock>, LogError> {
        self.disk.lock()
    }
}

/// Appends until the segment that was prepared is in use.
fn use_prepared(log: &mut Log) {
    while !log.wants_preparing() {
        append_synced(log, 1).unwrap();
    }
}

#[test]
fn a_log_that_outruns_its_preparation_has_segments_reserved_and_zeros_again_later() {
    let disk = Arc::new(Fills { disk: SimDisk::new(3), seen: Mutex::default() });
    let config = LogConfig { segments_ready: 1, ..small() };
    let (mut log, _) = Log::open(Arc::clone(&disk) as Arc<dyn Disk>, config).unwrap();
    let fills = || std::mem::take(&mut *disk.seen.lock().unwrap());
    append_synced(&mut log, 1).unwrap();
    prepare(&mut log).unwrap();
    assert_eq!(fills(), [Fill::Written; 2], "its own, and one ahead");
    use_prepared(&mut log);
    let slow = log.prepare_job().unwrap();
    loop {
        let next = log.last().0 + 1;
        append(&mut log, next).unwrap();
        match log.take_job(true) {
            Some(job) => drop(log.complete(job.run()).unwrap()),
            None => break,
        }
    }
    log.complete_prepare(slow.run()).unwrap();
    assert_eq!(fills(), [Fill::Written], "the one that was waited for");
    for _ in 0..8 {
        flush(&mut log, true).unwrap();
        use_prepared(&mut log);
        prepare(&mut log).unwrap();
        assert_eq!(fills(), [Fill::Reserved]);
    }
    use_prepared(&mut log);
    prepare(&mut log).unwrap();
    assert_eq!(fills(), [Fill::Written]);
}
