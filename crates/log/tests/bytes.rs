//! Any bytes in any file: refused or read, never a panic, never memory beyond the file. The fuzz targets go on where this stops.
//! And the golden folders: what a release wrote, every later one opens.
#![allow(clippy::unwrap_used)] // A test may panic.

use crate::common;
use common::*;
use proptest::prelude::*;
use quorate_log::*;
use std::path::{Path, PathBuf};

/// Everything that reads a folder, over this one.
fn read_all(disk: &SimDisk) {
    let _ = verify(disk, &mut |_, _| {});
    if let Ok(entries) = dump(disk, Index(0), Index(u64::MAX)) {
        entries.take(10_000).for_each(drop);
    }
    if let Ok((log, recovery)) = open(disk) {
        let first = recovery.first.0;
        recovery.entries.take(10_000).for_each(drop);
        if let Some(snapshot) = recovery.snapshot {
            snapshot.for_each(drop);
        }
        for index in first..first.saturating_add(5) {
            let _ = log.reader().payload(Index(index), 0);
            let _ = log.reader().entry(Index(index));
            let _ = log.reader().term(Index(index));
            let _ = log.reader().range(Index(index), log.last().next(), 500);
        }
    }
}

/// Files by what their names promise, all made by one run.
fn sample() -> SimDisk {
    let disk = SimDisk::new(7);
    let (mut log, _) = open(&disk).unwrap();
    append_synced(&mut log, 10).unwrap();
    prepare(&mut log).unwrap();
    append_synced(&mut log, 80).unwrap();
    snapshot(&mut log, 50).unwrap();
    snapshot(&mut log, 70).unwrap();
    let live = |first: Index, last: Index| (first.0..=last.0).filter(|index| index % 3 == 0);
    let bytes =
        |first: Index, last: Index| live(first, last).map(|index| payload(index, 1).len() as u64).sum();
    for item in log.clean_plan(Index(60), &bytes) {
        let keys = live(item.first(), item.last()).map(|index| (Index(index), 1)).collect();
        let job = log.clean(item, keys).unwrap();
        log.complete_clean(job.run()).unwrap();
    }
    prepare(&mut log).unwrap();
    append_synced(&mut log, 30).unwrap();
    mark(&mut log).unwrap();
    drop(log);
    disk
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().map(|file| file.name).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_file_are_refused_or_read(which in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let disk = sample();
        let names = names(&disk);
        let name: &String = which.get(&names);
        disk.put(name, &bytes);
        read_all(&disk);
    }

    #[test]
    fn any_edit_of_any_file_is_refused_or_read(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        edit in prop::collection::vec(any::<u8>(), 1..40),
        cut in any::<bool>(),
    ) {
        let disk = sample();
        let names = names(&disk);
        let name: &String = which.get(&names);
        let mut bytes = disk.bytes(name).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) }
        bytes.splice(at..(at + edit.len()).min(bytes.len()), edit);
        disk.put(name, &bytes);
        read_all(&disk);
    }

    #[test]
    fn any_batch_under_correct_checksums_is_refused_or_read(
        body in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => Just(1u8), 2 => any::<u8>()], 0..600),
        count in prop_oneof![0..9u32, any::<u32>()],
        first in prop_oneof![Just(1u64), any::<u64>()],
    ) {
        let segment = fuzzing::segment(&body, count, first);
        let manifest = fuzzing::manifest();
        let files = [("manifest.qman", manifest.as_slice()), ("seg-0000000000000001.qseg", segment.as_slice())];
        read_all(&SimDisk::with_files(1, files));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_that_rewinds_under_correct_checksums_is_refused_or_read(
        body in prop::collection::vec(prop_oneof![3 => Just(0u8), 2 => 1..5u8, 1 => any::<u8>()], 0..300),
        count in prop_oneof![4 => 0..9u32, 1 => any::<u32>()],
        first in prop_oneof![4 => 0..6u64, 1 => any::<u64>()],
    ) {
        let segment = fuzzing::rewound(&body, count, first);
        let manifest = fuzzing::manifest();
        let files = [("manifest.qman", manifest.as_slice()), ("seg-0000000000000001.qseg", segment.as_slice())];
        read_all(&SimDisk::with_files(1, files));
    }
}

#[test]
fn a_batch_that_rewinds_to_nowhere_is_torn_or_refused() {
    for (count, first, last) in [(1, 2, 2), (1, 1, 1), (1, 3, 3), (1, 4, 3), (1, 9, 3), (0, 2, 3), (1, 0, 3)]
    {
        let mut body = vec![0u8; 32];
        body[0] = 1;
        body[16] = first as u8;
        let (segment, manifest) = (fuzzing::rewound(&body, count, first), fuzzing::manifest());
        let files =
            [("manifest.qman", manifest.as_slice()), ("seg-0000000000000001.qseg", segment.as_slice())];
        let (log, recovery) = open(&SimDisk::with_files(1, files)).unwrap();
        assert_eq!((recovery.last, log.reader().last()), (Index(last), Index(last)), "{count} from {first}");
        assert_eq!(recovery.entries.map(Result::unwrap).count() as u64, last);
    }
}

#[test]
fn an_entry_of_an_unknown_kind_is_a_clear_refusal() {
    let mut body = vec![0u8; 32];
    body[0] = 9;
    body[16] = 1;
    let (segment, manifest) = (fuzzing::segment(&body, 1, 1), fuzzing::manifest());
    let files = [("manifest.qman", manifest.as_slice()), ("seg-0000000000000001.qseg", segment.as_slice())];
    let (_, recovery) = open(&SimDisk::with_files(1, files)).unwrap();
    let error = recovery.entries.last().unwrap().unwrap_err();
    assert_eq!(error, LogError::UnknownKind { file: files[1].0.to_owned(), offset: 584, kind: 9 });
}

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

/// To make the folder of a new format version: `QUORATE_GOLDEN_WRITE=1 cargo test -p quorate-log golden`. Never rewrite an old one.
fn write_golden(disk: &SimDisk, version: &str) {
    std::fs::create_dir_all(golden(version)).unwrap();
    for name in names(disk) {
        std::fs::write(golden(version).join(&name), disk.bytes(&name).unwrap()).unwrap();
    }
}

fn read_golden(version: &str) -> SimDisk {
    let disk = SimDisk::new(1);
    for entry in std::fs::read_dir(golden(version)).unwrap() {
        let entry = entry.unwrap();
        disk.put(entry.file_name().to_str().unwrap(), &std::fs::read(entry.path()).unwrap());
    }
    disk
}

#[test]
fn the_golden_folder_of_format_1_opens() {
    if std::env::var_os("QUORATE_GOLDEN_WRITE").is_some() {
        write_golden(&sample(), "v1");
    }
    let disk = read_golden("v1");
    assert!(names(&disk).iter().any(|name| name.starts_with("kept-")));
    assert_eq!(verify(&disk, &mut |_, _| {}).unwrap().findings, []);
    let (mut log, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.snapshot.as_ref().unwrap().index(), Index(70));
    assert_eq!(drain(recovery).unwrap(), (71, 120));
    let reader = log.reader();
    assert_eq!(reader.payload(Index(3), 1).unwrap().as_ref(), payload(3, 1));
    assert_eq!(reader.payload(Index(4), 1), Err(LogError::NoPayload { index: Index(4), sub: 1 }));
    append_synced(&mut log, 30).unwrap();
}

#[test]
fn format_1_is_written_as_it_was_to_the_byte() {
    let (made, golden) = (sample(), read_golden("v1"));
    assert_eq!(names(&made), names(&golden));
    for name in names(&made) {
        assert!(made.bytes(&name) == golden.bytes(&name), "{name} changed: a new format needs a new version");
    }
}
