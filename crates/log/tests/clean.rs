//! Cleaning, reading meanwhile, backup and restore.
#![allow(clippy::unwrap_used)] // A test may panic.

use crate::common;
use common::*;
use proptest::prelude::*;
use quorate_log::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn config(segment_bytes: u64) -> LogConfig {
    LogConfig {
        segment_bytes,
        segments_ready: 2,
        batch_bytes_max: 4096,
        entry_bytes_max: 2048,
        reserve_bytes: 0,
    }
}

/// A log whose payloads live until they are dropped: the model the cleaner is held against.
struct Store {
    disk: SimDisk,
    log: Log,
    live: BTreeMap<(Index, u32), Vec<u8>>,
    segment_bytes: u64,
}

impl Store {
    fn new(seed: u64, segment_bytes: u64) -> Store {
        let disk = SimDisk::new(seed);
        let (log, _) = open_with(&disk, config(segment_bytes)).unwrap();
        Store { disk, log, live: BTreeMap::new(), segment_bytes }
    }

    fn append(&mut self, lens: &[usize]) {
        let index = self.log.last().next();
        let (mut body, mut extents) = (b"head".to_vec(), Vec::new());
        for (sub, len) in lens.iter().enumerate() {
            extents.push(Extent { offset: body.len() as u32, len: *len as u32 });
            let payload: Vec<u8> = (0..*len).map(|at| (index.0 as usize * 7 + sub * 13 + at) as u8).collect();
            body.extend_from_slice(&payload);
            self.live.insert((index, sub as u32), payload);
        }
        self.log.append(AppendEntry { index, term: Term(1), body: &body, extents: &extents }).unwrap();
        flush(&mut self.log, true).unwrap();
    }

    fn keep(&mut self, keep: impl Fn(Index, u32) -> bool) {
        self.live.retain(|(index, sub), _| keep(*index, *sub));
    }

    fn clean(&mut self) {
        let index = self.log.synced().0;
        snapshot(&mut self.log, index).unwrap();
        let index = index - 1;
        snapshot(&mut self.log, index).unwrap();
        loop {
            let live = self.live.clone();
            let bytes = move |first: Index, last: Index| {
                live.range((first, 0)..=(last, u32::MAX)).map(|(_, payload)| payload.len() as u64).sum()
            };
            let Some(item) = self.log.clean_plan(Index(u64::MAX), &bytes).into_iter().next() else { break };
            let live =
                self.live.range((item.first(), 0)..=(item.last(), u32::MAX)).map(|(key, _)| *key).collect();
            let job = self.log.clean(item, live).unwrap();
            self.log.complete_clean(job.run()).unwrap();
        }
        prepare(&mut self.log).unwrap();
    }

    fn live_bytes(&self) -> u64 {
        self.live.values().map(|payload| payload.len() as u64).sum()
    }

    fn check(&self) {
        let reader = self.log.reader();
        for ((index, sub), payload) in &self.live {
            assert_eq!(
                reader.payload(*index, *sub).unwrap().as_ref(),
                payload,
                "entry {index} payload {sub}"
            );
        }
    }

    fn reopen(self) -> Store {
        let Store { disk, log, live, segment_bytes } = self;
        drop(log);
        let report = verify(&disk, &mut |_, _| {}).unwrap();
        assert_eq!(report.findings, []);
        let (log, recovery) = open_with(&disk, config(segment_bytes)).unwrap();
        for entry in recovery.entries {
            entry.unwrap();
        }
        Store { disk, log, live, segment_bytes }
    }
}

#[test]
fn cleaning_keeps_live_payloads_and_frees_the_rest() {
    let mut store = Store::new(1, 8192);
    for _ in 0..200 {
        store.append(&[100, 300, 50]);
    }
    let before = store.log.file_bytes();
    store.keep(|index, sub| index.0 % 5 == 0 && sub == 1);
    store.clean();
    store.check();
    assert!(store.log.file_bytes() * 3 < before, "{} of {before}", store.log.file_bytes());
    let reader = store.log.reader();
    assert_eq!(reader.payload(Index(5), 0), Err(LogError::NoPayload { index: Index(5), sub: 0 }));
    assert_eq!(reader.payload(Index(6), 1), Err(LogError::NoPayload { index: Index(6), sub: 1 }));
    assert!(matches!(reader.entry(Index(5)), Err(LogError::Compacted { .. })));
    let store = store.reopen();
    store.check();
}

#[test]
fn nothing_above_the_floor_or_the_oldest_snapshot_is_cleaned() {
    let mut store = Store::new(1, 8192);
    for _ in 0..100 {
        store.append(&[300]);
    }
    assert!(store.log.clean_plan(Index(100), &|_, _| 0).is_empty(), "no snapshot yet");
    snapshot(&mut store.log, 50).unwrap();
    snapshot(&mut store.log, 90).unwrap();
    let plan = store.log.clean_plan(Index(100), &|_, _| 0);
    assert!(!plan.is_empty() && plan.iter().all(|item| item.last() <= Index(50)));
    assert!(store.log.clean_plan(Index(10), &|_, _| 0).is_empty(), "the audit floor");
}

#[test]
fn small_kept_files_are_merged_so_that_their_count_stays_bounded() {
    let mut store = Store::new(1, 8192);
    for round in 0..40 {
        for _ in 0..40 {
            store.append(&[200]);
        }
        store.keep(|index, _| index.0 % 20 == 0 || index.0 > round * 40);
        store.clean();
    }
    store.check();
    let names: Vec<_> = store.disk.list().unwrap().into_iter().map(|file| file.name).collect();
    let kept = names.iter().filter(|name| name.starts_with("kept-")).count() as u64;
    // Each kept file of a quarter of a segment or more may have a few small ones before it.
    assert!(
        kept <= 4 + store.live_bytes() / 2048 * 2,
        "{kept} kept files for {} bytes: {names:?}",
        store.live_bytes()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Streams of different payload sizes and retentions, cleaned as they go: the disk holds at most twice what lives, beyond
    /// what is never cleaned (the segment in use, one whole segment, and a few headers).
    #[test]
    fn disk_use_stays_within_twice_the_live_bytes(
        seed in any::<u64>(),
        rounds in prop::collection::vec(prop::collection::vec((64..900usize, 1..8u64), 1..60), 1..10),
    ) {
        let segment = 16_384;
        let mut store = Store::new(seed, segment);
        let mut ends: BTreeMap<Index, u64> = BTreeMap::new();
        for (round, entries) in rounds.iter().enumerate() {
            for (len, life) in entries {
                store.append(&[*len]);
                ends.insert(store.log.last(), round as u64 + life);
            }
            store.keep(|index, _| ends[&index] > round as u64);
            store.clean();
            store.check();
            let used = store.log.file_bytes();
            let bound = store.live_bytes() * 2 + 3 * segment;
            prop_assert!(used <= bound, "round {round}: {used} bytes for {} live", store.live_bytes());
        }
        store.reopen().check();
    }
}

#[test]
fn readers_on_other_threads_see_every_payload_while_the_log_grows_and_is_cleaned() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FileDisk::open(folder.path()).unwrap());
    let (mut log, _) = Log::open(disk, config(16_384)).unwrap();
    let (written, stop, reads) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..3u64)
        .map(|salt| {
            let (reader, written, stop, reads) =
                (log.reader(), Arc::clone(&written), Arc::clone(&stop), Arc::clone(&reads));
            std::thread::spawn(move || {
                let mut random = salt + 1;
                while !stop.load(Ordering::Relaxed) {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let last = written.load(Ordering::Acquire);
                    let index = (random >> 33) % last.max(1) + 1;
                    // Entries whose index is a multiple of four live for ever.
                    if index > last || index % 4 != 0 {
                        continue;
                    }
                    assert_eq!(reader.payload(Index(index), 1).unwrap().as_ref(), payload(index, 1));
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..30 {
        for _ in 0..100 {
            let next = log.last().0 + 1;
            append(&mut log, next).unwrap();
            flush(&mut log, next % 50 == 0).unwrap();
            written.store(next, Ordering::Release);
        }
        flush(&mut log, true).unwrap();
        let index = log.synced().0;
        snapshot(&mut log, index - 1).unwrap();
        snapshot(&mut log, index).unwrap();
        let live = |first: Index, last: Index| (first.0..=last.0).filter(|index| index % 4 == 0);
        let bytes =
            |first: Index, last: Index| live(first, last).map(|index| body(index).len() as u64 - 4).sum();
        for item in log.clean_plan(Index(index), &bytes) {
            let keys = live(item.first(), item.last())
                .flat_map(|index| [(Index(index), 0), (Index(index), 1)])
                .collect();
            let job = log.clean(item, keys).unwrap();
            log.complete_clean(job.run()).unwrap();
        }
        prepare(&mut log).unwrap();
        assert!(readers.iter().all(|reader| !reader.is_finished()), "a reader failed in round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    assert!(reads.load(Ordering::Relaxed) > 1000);
}

#[test]
fn an_iterator_over_entries_survives_the_cleaning_of_its_files() {
    let mut store = Store::new(1, 8192);
    for _ in 0..100 {
        store.append(&[300]);
    }
    let mut entries = store.log.reader().entries(Index(1)).unwrap();
    for index in 1..=10 {
        assert_eq!(entries.next().unwrap().unwrap().index, Index(index));
    }
    store.keep(|_, _| false);
    store.clean();
    for _ in 0..100 {
        store.append(&[300]);
    }
    assert_eq!(
        entries.map(Result::unwrap).map(|entry| entry.index.0).collect::<Vec<_>>(),
        (11..=100).collect::<Vec<_>>()
    );
}

#[test]
fn a_backup_taken_while_running_restores_to_the_same_log() {
    let mut store = Store::new(1, 8192);
    for _ in 0..120 {
        store.append(&[100, 200]);
    }
    store.keep(|index, sub| index.0 > 80 || (index.0 % 4 == 0 && sub == 0));
    store.clean();
    let pinned = store.live.clone();
    let job = store.log.backup().unwrap();
    assert_eq!(job.last(), Index(120));
    // Life goes on between pinning and copying: growth, death, cleaning, recycling.
    for _ in 0..120 {
        store.append(&[100, 200]);
    }
    store.keep(|index, _| index.0 > 200);
    store.clean();
    store.check();

    let backup = SimDisk::new(2);
    let mut seen = 0;
    let report = job.run(&backup, &mut |done, total| seen = done * 100 / total).unwrap();
    assert_eq!((report.verified.last, seen), (Index(120), 100));
    assert!(matches!(
        store.log.backup().unwrap().run(&backup, &mut |_, _| {}),
        Err(LogError::TargetNotEmpty { .. })
    ));

    let target = SimDisk::new(3);
    restore(&backup, &target, &mut |_, _| {}).unwrap();
    let (log, recovery) = open_with(&target, config(8192)).unwrap();
    assert_eq!((recovery.last, &recovery.torn), (Index(120), &None));
    for ((index, sub), payload) in &pinned {
        assert_eq!(log.reader().payload(*index, *sub).unwrap().as_ref(), payload);
    }
    assert!(matches!(restore(&backup, &target, &mut |_, _| {}), Err(LogError::TargetNotEmpty { .. })));
}

#[test]
fn a_damaged_or_half_written_backup_is_not_restored() {
    let mut store = Store::new(1, 8192);
    for _ in 0..60 {
        store.append(&[300]);
    }
    let backup = SimDisk::new(2);
    store.log.backup().unwrap().run(&backup, &mut |_, _| {}).unwrap();
    let target = SimDisk::new(3);
    let damaged = backup.fork(4);
    damaged.flip("seg-0000000000000001.qseg", 900, 1);
    assert!(matches!(restore(&damaged, &target, &mut |_, _| {}), Err(LogError::NotVerified { .. })));
    let half = backup.fork(5);
    half.remove("manifest.qman").unwrap();
    assert!(matches!(restore(&half, &target, &mut |_, _| {}), Err(LogError::NotVerified { .. })));
    assert_eq!(target.list().unwrap(), []);
}

#[test]
fn dump_lists_the_entries_asked_for() {
    let mut store = Store::new(1, 8192);
    for _ in 0..60 {
        store.append(&[100]);
    }
    drop(store.log);
    let entries: Vec<_> = dump(&store.disk, Index(20), Index(25)).unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.iter().map(|entry| entry.index.0).collect::<Vec<_>>(), (20..=25).collect::<Vec<_>>());
    assert_eq!(dump(&store.disk, Index(55), Index(900)).unwrap().count(), 6);
}
