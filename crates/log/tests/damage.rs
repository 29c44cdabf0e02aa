//! Flipped, missing, foreign and stale bytes: refused with file and offset, or cut when nothing says they were synced.
#![allow(clippy::unwrap_used)] // A test may panic.

use crate::common;
use common::*;
use quorate_log::*;
use std::sync::Arc;

/// Twenty synced entries over several segments, a snapshot, and a mark: everything is known to be synced.
fn marked_log(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 20).unwrap();
    prepare(&mut log).unwrap();
    append_synced(&mut log, 15).unwrap();
    mark(&mut log).unwrap();
    drop(log);
    disk
}

fn files(disk: &SimDisk, prefix: &str) -> Vec<FileInfo> {
    disk.list().unwrap().into_iter().filter(|file| file.name.starts_with(prefix)).collect()
}

/// Opens and drains; the last index, or the refusal.
fn recover(disk: &SimDisk) -> Result<(u64, u64), LogError> {
    let (_, recovery) = open(disk)?;
    drain(recovery)
}

#[test]
fn a_flip_of_any_byte_of_a_synced_log_is_refused_or_harmless() {
    let original = marked_log(1);
    let (mut refused, mut harmless) = (0, 0);
    for file in original.list().unwrap() {
        for offset in 0..file.bytes {
            let disk = original.fork(offset);
            disk.flip(&file.name, offset, 1 << (offset % 8));
            match recover(&disk) {
                Ok(range) => {
                    assert_eq!(range, (1, 35), "{} offset {offset}: entries were lost in silence", file.name);
                    harmless += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(&file.name), "{} offset {offset}: {text}", file.name);
                    refused += 1;
                }
            }
        }
    }
    // Every byte of 35 batches counts; what does not is unused room in segments, prepared segments and the mark.
    let stored: u64 = (1..=35).map(|index| 72 + 32 + 24 + body(index).len() as u64).sum();
    assert!(refused >= stored, "{refused} refused, {harmless} harmless, {stored} bytes stored");
}

#[test]
fn a_flip_in_the_last_batch_before_anything_says_it_was_synced_is_cut_and_said() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 5).unwrap();
    drop(log);
    let end = disk.bytes("seg-0000000000000001.qseg").unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    disk.flip("seg-0000000000000001.qseg", end as u64 - 3, 0x40);
    let (_, recovery) = open(&disk).unwrap();
    let torn = recovery.torn.clone().unwrap();
    assert_eq!((torn.file.as_str(), recovery.last), ("seg-0000000000000001.qseg", Index(4)));
    assert!(torn.bytes > 0 && torn.found.contains("body hash"), "{torn}");
    assert_eq!(drain(recovery).unwrap(), (1, 4));
    let (_, again) = open(&disk).unwrap();
    assert_eq!(again.torn, None, "cut once");
}

#[test]
fn a_cut_tail_does_not_come_back() {
    let disk = SimDisk::new(3);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 3).unwrap();
    let start =
        disk.bytes("seg-0000000000000001.qseg").unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for index in 4..=5 {
        append(&mut log, index).unwrap();
        flush(&mut log, false).unwrap();
    }
    drop(log);
    // The first unsynced batch is torn, the second is whole.
    disk.flip("seg-0000000000000001.qseg", start as u64 + 90, 1);
    let (mut log, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.last, Index(3));
    assert!(recovery.torn.is_some());
    append_synced(&mut log, 1).unwrap();
    drop(log);
    assert_eq!(recover(&disk).unwrap(), (1, 4));
}

#[test]
fn damage_to_a_batch_that_a_later_one_calls_synced_is_refused_with_file_and_offset() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 4).unwrap();
    drop(log);
    disk.flip("seg-0000000000000001.qseg", 512 + 80, 1);
    let before = disk.image_hash();
    let Err(LogError::Damage { file, offset, wanted, .. }) = open(&disk).map(|_| ()) else {
        panic!("opened a damaged log")
    };
    assert_eq!((file.as_str(), offset), ("seg-0000000000000001.qseg", 512));
    assert!(wanted.contains("synced"), "{wanted}");
    assert_eq!(disk.image_hash(), before, "a refusal changes nothing");
}

#[test]
fn a_snapshot_is_evidence_that_the_log_was_synced() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 4).unwrap();
    snapshot(&mut log, 4).unwrap();
    drop(log);
    let end = disk.bytes("seg-0000000000000001.qseg").unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    disk.flip("seg-0000000000000001.qseg", end as u64, 1);
    let error = recover(&disk).unwrap_err().to_string();
    assert!(error.contains("snap-00000000000000000004.qsnap"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let original = marked_log(1);
    for file in original.list().unwrap() {
        let disk = original.fork(1);
        disk.remove(&file.name).unwrap();
        let prepared = file.name > files(&disk, "seg-").last().unwrap().name;
        match recover(&disk) {
            Ok(range) => assert!(prepared && range == (1, 35), "{} missing, recovered {range:?}", file.name),
            Err(error) => assert!(error.to_string().contains(&file.name), "{} missing: {error}", file.name),
        }
    }
}

#[test]
fn a_missing_last_segment_is_refused_when_a_snapshot_or_a_prepared_one_shows_it() {
    let disk = marked_log(1);
    let active = files(&disk, "seg-");
    let last = &active[active.len() - 2].name;
    disk.remove(last).unwrap();
    assert!(matches!(recover(&disk), Err(LogError::Missing { file, .. }) if file == *last));
}

#[test]
fn foreign_and_newer_files_are_refused() {
    let disk = marked_log(1);
    let name = files(&disk, "seg-")[0].name.clone();
    let good = disk.bytes(&name).unwrap();
    disk.put(&name, &vec![b'x'; good.len()]);
    let error = recover(&disk).unwrap_err();
    assert!(matches!(&error, LogError::Foreign { file, .. } if *file == name), "{error}");

    let mut newer = good;
    newer[8] = 2;
    let sum = crc32c(&newer[..508]).to_le_bytes();
    newer[508..512].copy_from_slice(&sum);
    disk.put(&name, &newer);
    assert_eq!(recover(&disk).unwrap_err(), LogError::Version { file: name, found: 2, wanted: 1 });
}

/// Castagnoli's polynomial bit by bit: the tests' own, so that the format does not hang on a crate.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8)
            .fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (0u32.wrapping_sub(crc & 1))))
    })
}

#[test]
fn a_segment_of_another_log_is_refused_by_the_chain() {
    let disk = marked_log(1);
    let other = SimDisk::new(9);
    let (mut log, _) = open(&other).unwrap();
    for index in 1..=40 {
        let body = [7u8; 300];
        log.append(AppendEntry { index: Index(index), term: Term(1), body: &body, extents: &[] }).unwrap();
        flush(&mut log, true).unwrap();
    }
    drop(log);
    let name = "seg-0000000000000002.qseg";
    disk.put(name, &other.bytes(name).unwrap());
    assert!(matches!(recover(&disk), Err(LogError::Damage { .. })));
}

#[test]
fn a_damaged_snapshot_is_passed_over_when_the_log_reaches_back_and_said() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 30).unwrap();
    snapshot(&mut log, 10).unwrap();
    snapshot(&mut log, 20).unwrap();
    drop(log);
    let newest = "snap-00000000000000000020.qsnap";
    for offset in 0..disk.bytes(newest).unwrap().len() as u64 {
        let disk = disk.fork(offset);
        disk.flip(newest, offset, 4);
        match open(&disk) {
            Ok((_, recovery)) => {
                assert_eq!(recovery.damaged_snapshots.len(), 1, "offset {offset}");
                assert!(recovery.damaged_snapshots[0].to_string().contains(newest));
                assert_eq!(drain(recovery).unwrap(), (11, 30));
            }
            Err(error) => {
                assert!(matches!(error, LogError::Foreign { .. } | LogError::Version { .. }), "{error}")
            }
        }
    }
}

#[test]
fn a_damaged_only_snapshot_is_refused_by_name_once_the_log_no_longer_reaches_back() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 60).unwrap();
    snapshot(&mut log, 59).unwrap();
    snapshot(&mut log, 60).unwrap();
    for item in log.clean_plan(Index(60), &|_, _| 0) {
        let job = log.clean(item, Vec::new()).unwrap();
        log.complete_clean(job.run()).unwrap();
    }
    assert!(log.first() > Index(1));
    append_synced(&mut log, 5).unwrap();
    drop(log);
    disk.flip("snap-00000000000000000060.qsnap", 70, 1);
    assert_eq!(recover(&disk.fork(1)).unwrap(), (60, 65));
    disk.flip("snap-00000000000000000059.qsnap", 70, 1);
    let error = recover(&disk).unwrap_err();
    assert!(matches!(&error, LogError::Damage { file, .. } if file.starts_with("snap-")), "{error}");
}

/// A folder whose newest segment is a recycled one, not in use yet; its name, and what it holds.
fn recycled_segment() -> (SimDisk, Log, String, Vec<u8>) {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 60).unwrap();
    snapshot(&mut log, 60).unwrap();
    for item in log.clean_plan(Index(60), &|_, _| 0) {
        let job = log.clean(item, Vec::new()).unwrap();
        log.complete_clean(job.run()).unwrap();
    }
    prepare(&mut log).unwrap();
    let name = files(&disk, "seg-").last().unwrap().name.clone();
    let held = disk.bytes(&name).unwrap();
    (disk, log, name, held)
}

#[test]
fn stale_batches_of_a_recycled_segment_never_parse() {
    let (disk, mut log, recycled, stale) = recycled_segment();
    assert!(stale[512..].windows(4).any(|bytes| bytes == b"QBAT"), "the file was recycled, not made anew");
    // Fill up to the first entry in a recycled segment: right behind it lie whole, valid batches of another epoch.
    while log.reader().entries(log.last()).is_ok()
        && disk.bytes(&recycled).unwrap()[512..600] == stale[512..600]
    {
        append_synced(&mut log, 1).unwrap();
    }
    let last = log.last();
    drop(log);
    disk.power_loss();
    let (_, recovery) = open(&disk).unwrap();
    assert_eq!((recovery.last, &recovery.torn), (last, &None));
    drain(recovery).unwrap();
}

#[test]
fn a_batch_in_a_prepared_segment_whose_header_was_lost_never_comes_back() {
    // Without a sync, the first batches of a new segment may reach the disk and its header not.
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk).unwrap();
        append_synced(&mut log, 1).unwrap();
        prepare(&mut log).unwrap();
        for index in 2..=40 {
            append(&mut log, index).unwrap();
            flush(&mut log, false).unwrap();
        }
        drop(log);
        disk.power_loss();
        let (mut log, recovery) = open(&disk).unwrap();
        let last = recovery.last;
        drain(recovery).unwrap();
        append_synced(&mut log, 30).unwrap();
        drop(log);
        assert_eq!(recover(&disk).unwrap(), (1, last.0 + 30), "seed {seed}");
    }
}

/// A folder whose last segment was recycled and is in use; the segment's name.
fn in_a_recycled_segment() -> (SimDisk, Log, String) {
    let (disk, mut log, recycled, unused) = recycled_segment();
    while disk.bytes(&recycled).unwrap()[..512] == unused[..512] {
        append_synced(&mut log, 1).unwrap();
    }
    (disk, log, recycled)
}

/// Appends one entry of `bytes` bytes and writes it; where its batch begins and ends.
fn write_one(disk: &SimDisk, log: &mut Log, name: &str, bytes: usize) -> (usize, usize) {
    let before = disk.bytes(name).unwrap();
    let index = log.last().next();
    // No two alike, and no byte that stands there already.
    let body = vec![index.0 as u8 | 0x80; bytes];
    log.append(AppendEntry { index, term: Term(99), body: &body, extents: &[] }).unwrap();
    flush(log, true).unwrap();
    let after = disk.bytes(name).unwrap();
    let changed: Vec<usize> = (0..after.len()).filter(|at| after[*at] != before[*at]).collect();
    (changed[0] & !7, changed[changed.len() - 1] / 8 * 8 + 8)
}

#[test]
fn a_batch_that_lost_its_first_sector_is_not_made_whole_by_the_next_one() {
    // Of the header's 72 bytes, this many lie in the first sector.
    for first in (8..72).step_by(8) {
        let (disk, mut log, name) = in_a_recycled_segment();
        let (from, to) = write_one(&disk, &mut log, &name, 8);
        let (rest, own) = ((1024 - first - to % 512) % 512, to - from);
        write_one(&disk, &mut log, &name, 8 + (512 + rest - own % 512) % 512);
        let last = log.last();
        drop(log);
        let (mut log, recovery) = open(&disk).unwrap();
        assert_eq!(recovery.last, last);
        let before = disk.bytes(&name).unwrap();
        let (start, _) = write_one(&disk, &mut log, &name, 40);
        assert_eq!(start % 512, 512 - first);
        drop(log);
        let sector = start + first;
        // The sector with the header's beginning is lost, those behind it are not.
        let mut torn = disk.bytes(&name).unwrap();
        torn[..sector].copy_from_slice(&before[..sector]);
        disk.put(&name, &torn);
        let (mut log, recovery) = open(&disk).unwrap();
        assert_eq!(recovery.last, last);
        // The next batch is another one, and only that first sector of it is kept.
        let opened = disk.bytes(&name).unwrap();
        write_one(&disk, &mut log, &name, 64);
        drop(log);
        let mut mixed = opened;
        mixed[..sector].copy_from_slice(&disk.bytes(&name).unwrap()[..sector]);
        disk.put(&name, &mixed);
        assert_eq!(open(&disk).unwrap().1.last, last, "{first} bytes of the header in its first sector");
    }
}

#[test]
fn a_second_handle_is_refused_and_the_holder_is_named() {
    let disk = SimDisk::new(1);
    let (held, _) = open(&disk).unwrap();
    assert!(matches!(open(&disk), Err(LogError::Locked { .. })));
    drop(held);
    open(&disk).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let real = || Arc::new(FileDisk::open(folder.path()).unwrap());
    let (held, _) = Log::open(real(), small()).unwrap();
    let error = Log::open(real(), small()).map(|_| ()).unwrap_err();
    assert_eq!(error, LogError::Locked { holder: Some(std::process::id()) });
    drop(held);
    Log::open(real(), small()).unwrap();
}

#[test]
fn verify_goes_on_after_a_finding_and_names_each() {
    let disk = marked_log(1);
    let report = verify(&disk, &mut |_, _| {}).unwrap();
    assert_eq!((report.entries, report.payloads, report.first, report.last), (35, 70, Index(1), Index(35)));
    assert_eq!(report.findings, []);
    disk.flip("seg-0000000000000001.qseg", 600, 1);
    disk.flip("seg-0000000000000002.qseg", 700, 1);
    let mut steps = Vec::new();
    let report = verify(&disk, &mut |done, total| steps.push((done, total))).unwrap();
    let named: Vec<_> = report.findings.iter().map(|finding| finding.file.as_str()).collect();
    assert_eq!(named, ["seg-0000000000000001.qseg", "seg-0000000000000002.qseg"]);
    assert!(steps.is_sorted() && steps.last().is_some_and(|(done, total)| done == total));
}

#[test]
fn a_flip_of_any_stored_byte_is_found_by_verify() {
    let original = marked_log(1);
    let name = "seg-0000000000000001.qseg";
    let used = original.bytes(name).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
    for offset in 0..used {
        let disk = original.fork(offset);
        disk.flip(name, offset, 0x20);
        assert_ne!(verify(&disk, &mut |_, _| {}).unwrap().findings, [], "offset {offset}");
    }
}
