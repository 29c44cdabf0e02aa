//! Rewinding: a suffix that was never agreed on is overwritten, and of several copies of an index the last one counts, everywhere.
#![allow(clippy::unwrap_used)] // A test may panic.

use crate::common;
use common::{flush, mark, open, prepare, snapshot};
use proptest::prelude::*;
use quorate_log::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Entries as the model keeps them: the term stands for the copy.
type Model = Vec<u64>;

fn body_of(index: u64, term: u64) -> Vec<u8> {
    let len = 20 + (index * 37 + term * 11) % 180;
    let mut body = vec![0; 16];
    body[..8].copy_from_slice(&index.to_le_bytes());
    body[8..].copy_from_slice(&term.to_le_bytes());
    body.extend((0..len).map(|at| (index * 7 + term * 13 + at) as u8));
    body
}

fn append(log: &mut Log, term: u64) -> Result<(), LogError> {
    let index = log.last().next();
    let body = body_of(index.0, term);
    let extents = [Extent { offset: 8, len: body.len() as u32 - 8 }];
    log.append(AppendEntry { index, term: Term(term), body: &body, extents: &extents })
}

fn append_synced(log: &mut Log, term: u64, count: u64) {
    for _ in 0..count {
        append(log, term).unwrap();
        flush(log, true).unwrap();
    }
}

fn check_entry(entry: &Entry, index: u64, term: u64) {
    assert_eq!((entry.index, entry.term), (Index(index), Term(term)), "entry {index}");
    assert_eq!(entry.body.as_ref(), body_of(index, term), "body of {index}");
}

/// Everything a reader can ask says what the model says, from `from` on to `written`.
fn check_reads(reader: &LogReader, model: &[u64], from: u64, written: u64) {
    for index in from..=written {
        let term = model[index as usize - 1];
        check_entry(&reader.entry(Index(index)).unwrap(), index, term);
        assert_eq!(reader.term(Index(index)).unwrap(), Term(term));
        assert_eq!(reader.payload(Index(index), 0).unwrap().as_ref(), &body_of(index, term)[8..]);
    }
    assert!(matches!(reader.entry(Index(written + 1)), Err(LogError::Beyond { .. })));
    assert!(matches!(reader.term(Index(written + 1)), Err(LogError::Beyond { .. })));
    check_range(reader, model, from, written + 1, u64::MAX);
    let entries = reader.entries(Index(from)).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    check_run(&later_wins(entries), model, from, written);
}

fn check_range(reader: &LogReader, model: &[u64], from: u64, to: u64, max_bytes: u64) {
    let mut next = from;
    while next < to {
        let entries = reader.range(Index(next), Index(to), max_bytes).unwrap();
        assert!(!entries.is_empty());
        let bytes: usize = entries.iter().map(|entry| entry.body.len()).sum();
        assert!(entries.len() == 1 || bytes as u64 <= max_bytes);
        for entry in entries {
            check_entry(&entry, next, model[next as usize - 1]);
            next += 1;
        }
    }
    assert_eq!(next, to.max(from));
}

fn check_run(entries: &[Entry], model: &[u64], from: u64, last: u64) {
    assert_eq!(entries.len() as u64, (last + 1).saturating_sub(from));
    for (entry, index) in entries.iter().zip(from..) {
        check_entry(entry, index, model[index as usize - 1]);
    }
}

/// What `Entries` promises: the index only steps back at an entry that says so, and the later one counts.
fn later_wins(entries: Vec<Entry>) -> Vec<Entry> {
    let mut out: Vec<Entry> = Vec::new();
    for entry in entries {
        if let Some(last) = out.last().map(|entry| entry.index).filter(|last| entry.index <= *last) {
            assert!(entry.rewinds, "entry {} after {last} does not say that it rewinds", entry.index);
            out.retain(|earlier| earlier.index < entry.index);
        }
        out.push(entry);
    }
    out
}

/// Recovers, checks against the model, and that `verify` and `dump` agree.
fn check_reopened(disk: &SimDisk, model: &[u64]) -> Log {
    let report = verify(disk, &mut |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
    let dumped: Vec<_> = dump(disk, Index(0), Index(u64::MAX)).unwrap().map(Result::unwrap).collect();
    check_run(&dumped, model, report.first.0, model.len() as u64);
    let (log, recovery) = open(disk).unwrap();
    assert_eq!(recovery.last, Index(model.len() as u64));
    let from = recovery.snapshot.as_ref().map_or(recovery.first.0, |snapshot| snapshot.index().0 + 1);
    let entries = recovery.entries.map(Result::unwrap).collect();
    check_run(&later_wins(entries), model, from, model.len() as u64);
    check_reads(&log.reader(), model, log.first().0, model.len() as u64);
    log
}

fn segments(disk: &SimDisk) -> usize {
    disk.list().unwrap().iter().filter(|file| file.name.starts_with("seg-")).count()
}

#[test]
fn a_rewind_voids_the_suffix_at_once_and_the_next_entry_takes_its_place() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 8);
    log.rewind(Index(5));
    assert_eq!((log.last(), log.written(), log.synced()), (Index(5), Index(5), Index(5)));
    check_reads(&log.reader(), &[1; 5], 1, 5);
    append_synced(&mut log, 2, 2);
    let model = [1, 1, 1, 1, 1, 2, 2];
    check_reads(&log.reader(), &model, 1, 7);
    drop(log);
    disk.power_loss();
    drop(check_reopened(&disk, &model));
    assert_eq!(verify(&disk, &mut |_, _| {}).unwrap().rewinds, 1);
}

#[test]
fn entries_that_no_job_took_are_dropped_without_a_trace() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 2);
    for _ in 0..30 {
        append(&mut log, 1).unwrap();
    }
    let buffered = log.buffered_bytes();
    log.rewind(Index(4));
    assert!(log.buffered_bytes() < buffered);
    append(&mut log, 2).unwrap();
    flush(&mut log, true).unwrap();
    drop(log);
    drop(check_reopened(&disk, &[1, 1, 1, 1, 2]));
    assert_eq!(verify(&disk, &mut |_, _| {}).unwrap().rewinds, 0);
}

#[test]
fn a_rewind_across_a_segment_border_reaches_into_the_segment_before() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 10);
    let mut model: Model = vec![1; 10];
    while segments(&disk) < 2 {
        append_synced(&mut log, 1, 1);
        model.push(1);
    }
    let border = log.last().0;
    log.rewind(Index(border - 3));
    model.truncate(border as usize - 3);
    append_synced(&mut log, 2, 1);
    model.push(2);
    assert_eq!(segments(&disk), 3, "a batch below its segment's first index begins a segment");
    check_reads(&log.reader(), &model, 1, model.len() as u64);
    append_synced(&mut log, 2, 30);
    model.extend([2; 30]);
    check_reads(&log.reader(), &model, 1, model.len() as u64);
    drop(log);
    disk.power_loss();
    drop(check_reopened(&disk, &model));
}

#[test]
fn a_rewind_voids_whole_segments_and_cleaning_frees_them() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 80);
    let whole = segments(&disk);
    assert!(whole >= 5);
    log.rewind(Index(7));
    append_synced(&mut log, 2, 3);
    let model = [1, 1, 1, 1, 1, 1, 1, 2, 2, 2];
    check_reads(&log.reader(), &model, 1, 10);
    drop(log);
    disk.power_loss();
    let mut log = check_reopened(&disk, &model);
    // All that lives below the snapshot stays; the void segments go.
    snapshot(&mut log, 7).unwrap();
    let before = log.file_bytes();
    let plan = log.clean_plan(Index(u64::MAX), &|first, last| {
        assert!(first <= last, "nobody is asked about a void file");
        4000
    });
    assert!(!plan.is_empty());
    for item in plan {
        assert!(item.first() <= item.last() && item.last() <= Index(7));
        let job = log.clean(item, vec![(Index(7), 0)]).unwrap();
        log.complete_clean(job.run()).unwrap();
    }
    prepare(&mut log).unwrap();
    assert!(log.file_bytes() + 4096 * (whole as u64 - 2) <= before, "{before} → {}", log.file_bytes());
    let read = log.reader().payload(Index(7), 0).unwrap();
    assert_eq!(read.as_ref(), &body_of(7, 1)[8..]);
    append_synced(&mut log, 3, 40);
    drop(log);
    let (log, recovery) = open(&disk).unwrap();
    let entries: Vec<_> = recovery.entries.map(Result::unwrap).collect();
    assert_eq!((entries[0].index, entries.len()), (Index(8), 43));
    assert_eq!(log.reader().payload(Index(7), 0).unwrap().as_ref(), &body_of(7, 1)[8..]);
}

#[test]
fn nothing_is_cleaned_while_a_power_loss_could_undo_a_rewind() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk).unwrap();
        append_synced(&mut log, 1, 60);
        snapshot(&mut log, 5).unwrap();
        log.rewind(Index(5));
        append(&mut log, 2).unwrap();
        flush(&mut log, false).unwrap();
        for item in log.clean_plan(Index(u64::MAX), &|_, _| 0) {
            let job = log.clean(item, Vec::new()).unwrap();
            log.complete_clean(job.run()).unwrap();
        }
        drop(log);
        disk.power_loss();
        let (_, recovery) = open(&disk).unwrap();
        assert!([5, 6, 60].contains(&recovery.last.0), "{}", recovery.last);
        later_wins(recovery.entries.map(Result::unwrap).collect());
    }
}

#[test]
fn jobs_under_way_when_the_log_is_rewound_raise_nothing_beyond_it() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 3);
    let mut jobs = VecDeque::new();
    for _ in 0..4 {
        append(&mut log, 1).unwrap();
        append(&mut log, 1).unwrap();
        jobs.push_back(log.take_job(true).unwrap());
    }
    log.rewind(Index(6));
    append(&mut log, 2).unwrap();
    jobs.push_back(log.take_job(true).unwrap());
    append(&mut log, 2).unwrap();
    jobs.push_back(log.take_job(false).unwrap());
    log.rewind(Index(7));
    let mut seen = Vec::new();
    while let Some(job) = jobs.pop_front() {
        let (written, synced) = log.complete(job.run()).unwrap();
        assert_eq!(log.reader().last(), written);
        seen.push((written.0, synced.0));
    }
    assert_eq!(seen, [(5, 5), (6, 6), (6, 6), (6, 6), (7, 7), (7, 7)]);
    check_reads(&log.reader(), &[1, 1, 1, 1, 1, 1, 2], 1, 7);
    append_synced(&mut log, 3, 1);
    assert_eq!(log.synced(), Index(8));
    drop(log);
    disk.power_loss();
    drop(check_reopened(&disk, &[1, 1, 1, 1, 1, 1, 2, 3]));
}

#[test]
fn a_rewind_that_was_not_written_is_forgotten_by_a_crash() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 9);
    log.rewind(Index(4));
    append(&mut log, 2).unwrap();
    drop(log);
    disk.power_loss();
    let mut log = check_reopened(&disk, &[1; 9]);
    log.rewind(Index(4));
    append_synced(&mut log, 2, 1);
    drop(log);
    drop(check_reopened(&disk, &[1, 1, 1, 1, 2]));
}

/// The header of the segment that a rewind begins may reach the disk and its first batch not.
#[test]
fn a_segment_begun_by_a_rewind_whose_batch_was_lost_goes_on() {
    let mut lost = 0;
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk).unwrap();
        append_synced(&mut log, 1, 60);
        prepare(&mut log).unwrap();
        log.rewind(Index(7));
        append(&mut log, 2).unwrap();
        let job = log.take_job(false).unwrap();
        log.complete(job.run()).unwrap();
        drop(log);
        disk.power_loss();
        let (mut log, recovery) = open(&disk).unwrap();
        let last = recovery.last.0;
        let mut model: Model = match last {
            7 | 60 => vec![1; last as usize],
            8 => [vec![1; 7], vec![2]].concat(),
            _ => panic!("recovered to {last}"),
        };
        lost += u64::from(last == 7);
        later_wins(recovery.entries.map(Result::unwrap).collect());
        mark(&mut log).unwrap();
        append_synced(&mut log, 3, 2);
        model.extend([3, 3]);
        log.rewind(Index(model.len() as u64 - 1));
        model.pop();
        if seed % 2 == 0 {
            log.rewind(Index(5));
            model.truncate(5);
        }
        append_synced(&mut log, 4, 20);
        model.extend([4; 20]);
        drop(log);
        drop(check_reopened(&disk, &model));
    }
    assert!(lost > 10, "{lost}");
}

#[test]
#[should_panic(expected = "below the snapshot")]
fn a_rewind_below_the_newest_snapshot_is_the_callers_bug() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 9);
    snapshot(&mut log, 6).unwrap();
    log.rewind(Index(5));
}

#[test]
fn a_backup_of_a_rewound_log_restores_to_the_same_log() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 70);
    log.rewind(Index(66));
    append_synced(&mut log, 2, 9);
    log.rewind(Index(20));
    append_synced(&mut log, 3, 5);
    mark(&mut log).unwrap();
    let backup = SimDisk::new(2);
    let report = log.backup().unwrap().run(&backup, &mut |_, _| {}).unwrap();
    assert_eq!((report.verified.last, report.verified.rewinds), (Index(25), 2));
    let target = SimDisk::new(3);
    restore(&backup, &target, &mut |_, _| {}).unwrap();
    drop(check_reopened(&target, &[vec![1; 20], vec![3; 5]].concat()));
}

#[test]
fn a_range_stops_at_its_bytes_and_gives_at_least_one() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 60);
    log.rewind(Index(55));
    append_synced(&mut log, 2, 5);
    let model: Model = [vec![1; 55], vec![2; 5]].concat();
    let reader = log.reader();
    for max_bytes in [0, 1, 300, 5000, u64::MAX] {
        for (from, to) in [(1, 61), (1, 2), (30, 58), (54, 57), (60, 61), (9, 9), (9, 3)] {
            check_range(&reader, &model, from, to, max_bytes);
        }
    }
    assert_eq!(reader.range(Index(1), Index(4), 0).unwrap().len(), 1);
    assert!(matches!(reader.range(Index(50), Index(62), 9), Err(LogError::Beyond { .. })));
}

/// Rewinds in one segment and across several, marks, a snapshot: everything known to be synced.
fn rewound() -> (SimDisk, Model) {
    let disk = SimDisk::new(9);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 1, 12);
    log.rewind(Index(8));
    append_synced(&mut log, 2, 14);
    log.rewind(Index(6));
    append_synced(&mut log, 3, 20);
    log.rewind(Index(24));
    append_synced(&mut log, 4, 3);
    mark(&mut log).unwrap();
    drop(log);
    let model = [vec![1; 6], vec![3; 18], vec![4; 3]].concat();
    drop(check_reopened(&disk, &model));
    (disk, model)
}

#[test]
fn a_flip_of_any_byte_of_a_rewound_log_is_refused_or_harmless() {
    let (original, model) = rewound();
    let (mut refused, mut harmless) = (0, 0);
    for file in original.list().unwrap() {
        for offset in 0..file.bytes {
            let disk = original.fork(offset);
            disk.flip(&file.name, offset, 1 << (offset % 8));
            let entries =
                open(&disk).and_then(|(_, recovery)| recovery.entries.collect::<Result<Vec<_>, _>>());
            match entries {
                Ok(entries) => {
                    check_run(&later_wins(entries), &model, 1, model.len() as u64);
                    harmless += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains(&file.name), "{} {offset}: {error}", file.name);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 5000 && harmless > 1000, "{refused} refused, {harmless} harmless");
}

#[test]
fn readers_on_other_threads_never_see_a_void_entry_take_back_what_was_certain() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FileDisk::open(folder.path()).unwrap());
    let config = LogConfig { segment_bytes: 8192, ..common::small() };
    let (mut log, _) = Log::open(disk, config).unwrap();
    // Entries up to `certain` are never rewound; their term is 1. Those beyond come and go.
    let certain = Arc::new(AtomicU64::new(0));
    let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..2u64)
        .map(|salt| {
            let (reader, certain) = (log.reader(), Arc::clone(&certain));
            let (stop, reads) = (Arc::clone(&stop), Arc::clone(&reads));
            std::thread::spawn(move || {
                let mut random = salt + 1;
                while !stop.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                    let sure = certain.load(Ordering::Acquire);
                    let from = (random >> 33) % sure.max(1) + 1;
                    let last = reader.last().0;
                    let to = last.min(from + (random >> 20) % 40);
                    match reader.range(Index(from), Index(to + 1), (random >> 12) % 4000) {
                        Ok(entries) => {
                            for (entry, index) in entries.iter().zip(from..) {
                                let term = if index <= sure { 1 } else { entry.term.0 };
                                check_entry(entry, index, term);
                            }
                        }
                        Err(LogError::Beyond { .. }) => assert!(to > sure || sure == 0),
                        Err(error) => panic!("range {from} to {to} of {last}: {error}"),
                    }
                    let index = Index(to.max(1));
                    match (reader.term(index), reader.entry(index)) {
                        (Ok(term), Ok(entry)) => {
                            check_entry(&entry, index.0, entry.term.0);
                            assert!(index.0 > sure || (term, entry.term) == (Term(1), Term(1)));
                        }
                        (Err(LogError::Beyond { .. }), _) | (_, Err(LogError::Beyond { .. })) => {
                            assert!(index.0 > sure);
                        }
                        (term, entry) => panic!("entry {index}: {term:?} {entry:?}"),
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut term = 1;
    let started = std::time::Instant::now();
    while started.elapsed().as_secs() < 2 {
        let base = log.last();
        term += 1;
        for _ in 0..term % 30 {
            append(&mut log, term).unwrap();
            flush(&mut log, false).unwrap();
        }
        if base < log.last() {
            log.rewind(base);
        }
        for _ in 0..5 {
            append(&mut log, 1).unwrap();
        }
        flush(&mut log, term % 20 == 0).unwrap();
        certain.store(log.written().0, Ordering::Release);
        prepare(&mut log).unwrap();
        assert!(readers.iter().all(|reader| !reader.is_finished()), "a reader failed");
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    assert!(reads.load(Ordering::Relaxed) > 200, "{reads:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Append { count: u8 },
    Rewind { back: u8 },
    Take { sync: bool },
    Complete { count: u8 },
    Prepare,
    Mark,
    Snapshot,
    Clean { live: bool },
    Reads,
    Crash { power: bool },
    CrashIn { operations: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..14u8).prop_map(|count| Step::Append { count }),
        6 => prop_oneof![3 => 1..6u8, 2 => 1..40u8].prop_map(|back| Step::Rewind { back }),
        6 => any::<bool>().prop_map(|sync| Step::Take { sync }),
        6 => (1..5u8).prop_map(|count| Step::Complete { count }),
        2 => Just(Step::Prepare),
        1 => Just(Step::Mark),
        1 => Just(Step::Snapshot),
        2 => any::<bool>().prop_map(|live| Step::Clean { live }),
        2 => Just(Step::Reads),
        1 => any::<bool>().prop_map(|power| Step::Crash { power }),
        2 => (0..9u8).prop_map(|operations| Step::CrashIn { operations }),
    ]
}

/// The naive log: what it holds now, what each job took, and every content a crash may leave.
#[derive(Default)]
struct Naive {
    now: Model,
    term: u64,
    written: u64,
    synced: u64,
    /// Below it entries may be cleaned.
    snapshot: u64,
    /// Contents since the last that was surely durable, oldest first: after each batch taken, and after each cut that came with one.
    states: Vec<Model>,
    /// Per job under way: what is written and how much of it counts once it completes, the count of `states` then, and whether it syncs.
    jobs: VecDeque<Taken>,
    pending: VecDeque<Batch>,
}

/// Entries that one job will take.
struct Batch {
    first: u64,
    count: u64,
}

fn frame(index: u64, term: u64) -> usize {
    (32 + 12 + body_of(index, term).len()).div_ceil(8) * 8
}

impl Naive {
    /// Puts the last entry into the last batch with room, as the log says it does.
    fn gather(&mut self) {
        let last = self.now.len() as u64;
        let bytes = |index: u64| frame(index, self.now[index as usize - 1]);
        match self.pending.back_mut() {
            Some(batch) if 72 + (batch.first..=last).map(bytes).sum::<usize>() <= 2048 => batch.count += 1,
            _ => self.pending.push_back(Batch { first: last, count: 1 }),
        }
    }
}

struct Taken {
    job: WriteJob,
    upto: u64,
    states: usize,
}

struct Run {
    disk: SimDisk,
    log: Option<Log>,
    model: Naive,
    /// What the log holds once every job taken is done.
    taken: Model,
}

impl Run {
    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn step(&mut self, step: &Step) -> Result<(), LogError> {
        match *step {
            Step::Append { count } => {
                for _ in 0..count {
                    let term = self.model.term;
                    append(self.log(), term)?;
                    self.model.now.push(term);
                    self.model.gather();
                }
            }
            Step::Rewind { back } => {
                let to = (self.model.now.len() as u64).saturating_sub(back.into()).max(self.model.snapshot);
                self.model.now.truncate(to as usize);
                self.model.term += 1;
                self.model.pending.retain(|batch| batch.first <= to);
                if let Some(batch) =
                    self.model.pending.back_mut().filter(|batch| batch.first + batch.count > to)
                {
                    batch.count = to - batch.first + 1;
                }
                self.model.written = self.model.written.min(to);
                self.model.synced = self.model.synced.min(to);
                for taken in &mut self.model.jobs {
                    taken.upto = taken.upto.min(to);
                }
                self.log().rewind(Index(to));
            }
            Step::Take { sync } => self.take(sync),
            Step::Complete { count } => {
                for _ in 0..count {
                    self.complete()?;
                }
            }
            Step::Prepare => prepare(self.log())?,
            Step::Mark => {
                self.drain()?;
                mark(self.log())?;
            }
            Step::Snapshot => {
                let index = self.model.synced;
                if index > self.model.snapshot {
                    snapshot(self.log(), index)?;
                    self.model.snapshot = index;
                }
            }
            Step::Clean { live } => self.clean(live)?,
            Step::Reads => self.check_reads(),
            Step::Crash { .. } => {}
            Step::CrashIn { operations } => self.disk.crash_at(operations.into()),
        }
        self.check_promises();
        Ok(())
    }

    fn take(&mut self, sync: bool) {
        while let Some(job) = self.log().take_job(sync) {
            let before = self.model.jobs.back().map_or(self.model.written, |taken| taken.upto);
            let upto = match self.model.pending.pop_front() {
                Some(batch) => {
                    let upto = batch.first + batch.count - 1;
                    let cut = batch.first as usize - 1;
                    if cut < self.taken.len() {
                        self.taken.truncate(cut);
                        self.model.states.push(self.taken.clone());
                    }
                    self.taken.extend_from_slice(&self.model.now[cut..upto as usize]);
                    self.model.states.push(self.taken.clone());
                    upto
                }
                None => before,
            };
            let states = self.model.states.len();
            self.model.jobs.push_back(Taken { job, upto, states });
        }
        assert_eq!(self.model.pending.len(), 0);
    }

    fn complete(&mut self) -> Result<(), LogError> {
        let Some(taken) = self.model.jobs.pop_front() else { return Ok(()) };
        let syncs = taken.job.syncs();
        let done = taken.job.run();
        let (written, synced) = self.log().complete(done)?;
        self.model.written = taken.upto;
        assert_eq!(written.0, self.model.written, "written");
        // A new segment syncs the one before it, so that more may be synced than was asked for.
        assert!(synced.0 >= self.model.synced, "synced never goes back by itself");
        assert!(!syncs || synced.0 == taken.upto, "synced");
        self.model.synced = synced.0;
        if syncs {
            let gone = taken.states - 1;
            self.model.states.drain(..gone);
            for taken in &mut self.model.jobs {
                taken.states -= gone;
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), LogError> {
        self.take(true);
        while !self.model.jobs.is_empty() {
            self.complete()?;
        }
        Ok(())
    }

    fn clean(&mut self, live: bool) -> Result<(), LogError> {
        let bytes = |first: Index, last: Index| if live { (last.0 - first.0) * 40 } else { 0 };
        for item in self.log().clean_plan(Index(u64::MAX), &bytes) {
            assert!(item.last() <= Index(self.model.snapshot) && item.first() <= item.last());
            let payloads = (item.first().0.max(1)..=item.last().0).filter(|_| live);
            let payloads = payloads.map(|index| (Index(index), 0)).collect();
            let job = self.log().clean(item, payloads)?;
            self.log().complete_clean(job.run())?;
        }
        Ok(())
    }

    fn check_promises(&mut self) {
        let (last, written) = (self.model.now.len() as u64, self.model.written);
        let log = self.log();
        assert_eq!((log.last().0, log.written().0), (last, written));
        assert!(log.synced() <= log.written());
    }

    fn check_reads(&mut self) {
        let log = self.log.as_ref().unwrap();
        check_reads(&log.reader(), &self.model.now, log.first().0, self.model.written);
        let (from, to) = (log.first().0, self.model.written + 1);
        check_range(&log.reader(), &self.model.now, from, to, 700);
    }

    /// Opens again after a crash: the content is one of those a crash may leave.
    fn reopen(&mut self, power: bool) {
        drop(self.log.take());
        if power {
            self.disk.power_loss()
        } else {
            self.disk.process_kill()
        }
        let (log, recovery) = open(&self.disk).unwrap_or_else(|error| panic!("refused: {error}"));
        let last = recovery.last.0;
        let entries = later_wins(recovery.entries.map(Result::unwrap).collect());
        let first = entries.first().map_or(last + 1, |entry| entry.index.0);
        // Those before the snapshot that are still whole tell apart what the others do not.
        let reader = log.reader();
        let whole = reader.first();
        let found: Model = (whole.0..=last).map(|index| reader.term(Index(index)).unwrap().0).collect();
        let fits = |state: &&Model| {
            state.len() as u64 == last && state.get(whole.0 as usize - 1..).is_some_and(|rest| rest == found)
        };
        let state = self.model.states.iter().find(fits);
        let state = state.unwrap_or_else(|| {
            panic!("recovered {first} to {last}: {found:?}, which is none of {:?}", self.model.states)
        });
        // One that a crash cut short may be there whole.
        let snapshot = log.snapshots().last().map_or(0, |newest| newest.0);
        assert!((self.model.snapshot..=last).contains(&snapshot));
        let (now, term) = (state.clone(), self.model.term + 1);
        check_run(&entries, &now, first, last);
        let (taken, states) = (now.clone(), vec![now.clone()]);
        self.taken = taken;
        let empty = Naive::default();
        self.model = Naive { now, term, written: last, synced: last, snapshot, states, ..empty };
        self.log = Some(log);
        self.check_reads();
    }
}

fn play(seed: u64, steps: &[Step]) {
    let disk = SimDisk::new(seed);
    let log = open(&disk).unwrap().0;
    let model = Naive { term: 1, states: vec![Model::new()], ..Naive::default() };
    let mut run = Run { disk, log: Some(log), model, taken: Model::new() };
    for (number, step) in steps.iter().enumerate() {
        let result = run.step(step);
        let crash = matches!(step, Step::Crash { .. });
        if crash || result.is_err() || run.disk.crashed() {
            assert!(crash || run.disk.crashed(), "step {number}: {result:?}");
            let power = matches!(step, Step::Crash { power: true }) || (!crash && number % 2 == 0);
            run.reopen(power);
        }
    }
    run.disk.crash_at(1 << 40);
    run.drain().unwrap();
    run.check_promises();
    run.check_reads();
    run.log = None;
    let report = verify(&run.disk, &mut |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
    run.reopen(true);
    assert_eq!(run.model.synced, run.model.now.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_run_of_appends_rewinds_jobs_crashes_and_cleanings_agrees_with_the_naive_log(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        play(seed, &steps);
    }
}
