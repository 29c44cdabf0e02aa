//! A whole log copied to a peer, in pieces, with breaks and crashes and flipped bytes: it opens verified, or not at all.
#![allow(clippy::unwrap_used)] // A test may panic.

use crate::common;
use common::*;
use quorate_log::*;
use std::sync::Arc;

fn dynamic(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// Snapshots, a kept file, segments, and a rewind, of which readers see entries 1 to 130 as `common` makes them.
fn log() -> Log {
    let (mut log, _) = open(&SimDisk::new(7)).unwrap();
    append_synced(&mut log, 90).unwrap();
    snapshot(&mut log, 50).unwrap();
    snapshot(&mut log, 70).unwrap();
    for item in log.clean_plan(Index(60), &|first, last| (last.0 - first.0) * 20) {
        let keys = (item.first().0..=item.last().0).filter(|index| index % 3 == 0);
        let keys = keys.map(|index| (Index(index), 1)).collect();
        let job = log.clean(item, keys).unwrap();
        log.complete_clean(job.run()).unwrap();
    }
    prepare(&mut log).unwrap();
    append_synced(&mut log, 40).unwrap();
    log.rewind(Index(100));
    append_synced(&mut log, 30).unwrap();
    log
}

fn copied_opens(disk: &SimDisk) {
    assert_eq!(verify(disk, &mut |_, _| {}).unwrap().findings, []);
    let (mut log, recovery) = open(disk).unwrap();
    assert_eq!((recovery.last, &recovery.torn), (Index(130), &None));
    assert_eq!(drain(recovery).unwrap(), (71, 130));
    assert_eq!(log.reader().payload(Index(3), 1).unwrap().as_ref(), payload(3, 1));
    append_synced(&mut log, 30).unwrap();
    drop(log);
    assert_eq!(drain(open(disk).unwrap().1).unwrap(), (71, 160));
}

/// Sends what is missing in pieces of `step`; `damage` may change a piece on the way. Returns the bytes sent.
fn send(
    export: &Export,
    import: &mut Import,
    step: usize,
    damage: &mut dyn FnMut(usize, u64, &mut Vec<u8>),
) -> Result<u64, LogError> {
    let mut sent = 0;
    for (number, file) in export.files().iter().enumerate() {
        while import.have(number) < file.bytes {
            let offset = import.have(number);
            let mut bytes = export.read(number, offset, step).unwrap().to_vec();
            assert!(!bytes.is_empty() && bytes.len() <= step);
            damage(number, offset, &mut bytes);
            import.write(number, offset, &bytes)?;
            sent += bytes.len() as u64;
        }
    }
    Ok(sent)
}

fn copy(export: &Export, target: &SimDisk, step: usize) -> Result<Index, LogError> {
    let mut import = Import::begin(dynamic(target), export.files())?;
    send(export, &mut import, step, &mut |_, _, _| {})?;
    import.finish()
}

#[test]
fn a_copy_taken_while_the_log_goes_on_opens_as_it_was() {
    let mut log = log();
    let export = log.export().unwrap();
    assert_eq!(export.last(), Index(130));
    let names: Vec<_> = export.files().iter().map(|file| file.name.as_str()).collect();
    for kind in ["kept-", "seg-", "snap-00000000000000000070", "manifest.qman"] {
        assert!(names.iter().any(|name| name.starts_with(kind)), "{kind} in {names:?}");
    }
    // Life goes on between pinning and reading: growth, a rewind, death, recycling.
    append_synced(&mut log, 40).unwrap();
    log.rewind(Index(140));
    append_synced(&mut log, 40).unwrap();
    snapshot(&mut log, 160).unwrap();
    snapshot(&mut log, 170).unwrap();
    for item in log.clean_plan(Index(160), &|_, _| 0) {
        let job = log.clean(item, Vec::new()).unwrap();
        log.complete_clean(job.run()).unwrap();
    }
    prepare(&mut log).unwrap();
    append_synced(&mut log, 40).unwrap();
    for step in [97, 600, 1 << 20] {
        let target = SimDisk::new(step as u64);
        assert_eq!(copy(&export, &target, step).unwrap(), Index(130));
        target.power_loss();
        copied_opens(&target);
    }
    assert!(export.read(names.len(), 0, 9).is_err());
    assert_eq!(export.read(0, 1 << 40, 9).unwrap().len(), 0);
}

#[test]
fn a_copy_that_crashed_anywhere_goes_on_and_opens_only_when_it_is_whole() {
    let log = log();
    let export = log.export().unwrap();
    let whole = SimDisk::new(0);
    copy(&export, &whole, 700).unwrap();
    let (total, mut resumed) = (export.bytes(), 0);
    for boundary in 0..whole.operations() {
        for seed in 0..4 {
            let target = SimDisk::new(boundary * 10 + seed);
            target.crash_at(boundary);
            assert!(copy(&export, &target, 700).is_err());
            if seed % 2 == 0 {
                target.power_loss()
            } else {
                target.process_kill()
            }
            let names: Vec<_> = target.list().unwrap().into_iter().map(|file| file.name).collect();
            let under_way = names.iter().any(|name| name == "import.qslot");
            if under_way {
                assert!(matches!(open(&target), Err(LogError::Unfinished { .. })));
                let findings = verify(&target, &mut |_, _| {}).unwrap().findings;
                assert!(matches!(findings[0].what, LogError::Unfinished { .. }));
            }
            if under_way || names.is_empty() || !names.iter().any(|name| name == "manifest.qman") {
                let mut import = Import::begin(dynamic(&target), export.files()).unwrap();
                let sent = send(&export, &mut import, 700, &mut |_, _, _| {}).unwrap();
                resumed += u64::from(sent < total);
                import.finish().unwrap();
                target.power_loss();
            }
            copied_opens(&target);
        }
    }
    assert!(resumed > whole.operations(), "{resumed} of {} went on where they were", whole.operations() * 4);
}

#[test]
fn a_byte_flipped_on_the_way_is_found_and_the_next_copy_succeeds() {
    let log = log();
    let export = log.export().unwrap();
    let mut found = 0;
    for (number, file) in export.files().iter().enumerate() {
        for place in (0..file.bytes).step_by(11).chain([file.bytes - 1]) {
            let target = SimDisk::new(place);
            let mut import = Import::begin(dynamic(&target), export.files()).unwrap();
            let mut left = 1;
            let mut flip = |at: usize, offset: u64, bytes: &mut Vec<u8>| {
                if at == number && (offset..offset + bytes.len() as u64).contains(&place) && left > 0 {
                    bytes[(place - offset) as usize] ^= 1 << (place % 8);
                    left -= 1;
                }
            };
            let outcome = send(&export, &mut import, 2048, &mut flip).and_then(|_| import.finish());
            match outcome {
                Ok(last) => assert_eq!(last, Index(130)),
                Err(error) => {
                    let damage = matches!(error, LogError::NotVerified { .. } | LogError::Damage { .. });
                    assert!(
                        damage || matches!(error, LogError::Foreign { .. }),
                        "{} at {place}: {error}",
                        file.name
                    );
                    found += 1;
                    assert!(matches!(open(&target), Err(LogError::Unfinished { .. })));
                    assert_eq!(copy(&export, &target, 2048).unwrap(), Index(130));
                }
            }
            copied_opens(&target);
        }
    }
    assert!(found * 11 > export.bytes() * 9 / 10, "{found} found in {} bytes", export.bytes());
}

#[test]
fn a_copy_of_another_set_starts_afresh() {
    let mut log = log();
    let first = log.export().unwrap();
    append_synced(&mut log, 3).unwrap();
    let second = log.export().unwrap();
    let target = SimDisk::new(1);
    let mut import = Import::begin(dynamic(&target), first.files()).unwrap();
    send(&first, &mut import, 900, &mut |_, _, _| {}).unwrap();
    drop(import);
    let again = Import::begin(dynamic(&target), first.files()).unwrap();
    assert_eq!(again.have(0), first.files()[0].bytes);
    drop(again);
    let mut import = Import::begin(dynamic(&target), second.files()).unwrap();
    assert!((0..second.files().len()).all(|file| import.have(file) == 0));
    send(&second, &mut import, 900, &mut |_, _, _| {}).unwrap();
    assert_eq!(import.finish().unwrap(), Index(133));
    assert_eq!(drain(open(&target).unwrap().1).unwrap(), (71, 133));
    let refused = Import::begin(dynamic(&target), second.files()).map(|_| ());
    assert!(matches!(refused, Err(LogError::TargetNotEmpty { .. })), "a log is not overwritten");
}

#[test]
fn what_does_not_fit_is_refused() {
    let log = log();
    let export = log.export().unwrap();
    let target = SimDisk::new(1);
    let file = |name: &str, bytes| ExportFile { name: name.to_owned(), bytes };
    for files in [
        vec![],
        vec![file("seg-0000000000000001.qseg", 9)],
        vec![file("manifest.qman", 0)],
        vec![file("manifest.qman", 44), file("manifest.qman", 44)],
        vec![file("manifest.qman", 44), file("../seg-0000000000000001.qseg", 9)],
        vec![file("manifest.qman", 44), file("lock", 9)],
        vec![file("manifest.qman", 44), file("import.qslot", 9)],
        vec![file("manifest.qman", 44), file("snap-1.tmp", 9)],
    ] {
        let refused = Import::begin(dynamic(&target), &files).map(|_| ());
        assert!(matches!(refused, Err(LogError::Import { .. })), "{files:?}: {refused:?}");
    }
    assert_eq!(target.list().unwrap(), []);
    let mut import = Import::begin(dynamic(&target), export.files()).unwrap();
    assert!(matches!(Import::begin(dynamic(&target), export.files()), Err(LogError::Locked { .. })));
    let bytes = export.read(0, 0, 100).unwrap();
    assert!(matches!(import.write(0, 1, &bytes), Err(LogError::Import { .. })));
    assert!(matches!(import.write(99, 0, &bytes), Err(LogError::Import { .. })));
    assert!(matches!(import.write(0, 0, &vec![0; 1 << 20]), Err(LogError::Import { .. })));
    import.write(0, 0, &bytes).unwrap();
    assert!(matches!(import.write(0, 0, &bytes), Err(LogError::Import { .. })));
    assert!(matches!(import.finish(), Err(LogError::Import { .. })));
    copy(&export, &target, 5000).unwrap();
    copied_opens(&target);
}

#[test]
fn a_log_of_real_files_is_copied_with_all_its_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(folder.path()).unwrap();
    let config = LogConfig { segment_bytes: 1 << 20, batch_bytes_max: 1 << 18, ..small() };
    let (mut log, _) = Log::open(disk.folder("from").unwrap(), config).unwrap();
    append_synced(&mut log, 50).unwrap();
    let export = log.export().unwrap();
    let target = disk.folder("to").unwrap();
    let mut import = Import::begin(Arc::clone(&target), export.files()).unwrap();
    send(&export, &mut import, 3000, &mut |_, _, _| {}).unwrap();
    assert_eq!(import.finish().unwrap(), Index(50));
    let files = target.list().unwrap();
    let segment = files.iter().find(|file| file.name.starts_with("seg-")).unwrap();
    assert_eq!(segment.bytes, 1 << 20);
    let (_, recovery) = Log::open(target, config).unwrap();
    assert_eq!(drain(recovery).unwrap(), (1, 50));
}

#[test]
fn exports_and_imports_go_between_threads() {
    fn sends<T: Send>() {}
    fn shares<T: Send + Sync>() {}
    sends::<Import>();
    shares::<Export>();
    sends::<SlotFile>();
}
