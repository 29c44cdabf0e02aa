//! Sub-folders, real and simulated, and small durable files: at every crash the old content or the new.
#![allow(clippy::unwrap_used)] // A test may panic.

use crate::common;
use common::*;
use proptest::prelude::*;
use quorate_log::*;
use std::io::ErrorKind;
use std::sync::Arc;

fn dynamic(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn content(number: u32) -> Vec<u8> {
    format!("content {number}").repeat(60 + number as usize * 40).into_bytes()
}

/// Writes contents 1 to 6; returns how many are certain.
fn write_some(disk: &SimDisk) -> Result<u32, (u32, LogError)> {
    let (mut slots, found) = SlotFile::open(dynamic(disk), "vote.qslot").map_err(|error| (0, error))?;
    assert_eq!(found, None);
    for number in 1..=6 {
        slots.write(&content(number)).map_err(|error| (number - 1, error))?;
    }
    Ok(6)
}

#[test]
fn a_small_file_holds_the_old_or_the_new_content_at_every_crash() {
    let whole = SimDisk::new(0);
    assert_eq!(write_some(&whole).map_err(|(_, error)| error), Ok(6));
    for boundary in 0..=whole.operations() {
        for seed in 0..60 {
            let disk = SimDisk::new(boundary * 1000 + seed);
            disk.crash_at(boundary);
            let certain = write_some(&disk).unwrap_or_else(|(certain, _)| certain);
            disk.power_loss();
            // A crash while opening changes nothing either.
            disk.crash_at(seed % 5);
            let _ = SlotFile::open(dynamic(&disk), "vote.qslot");
            disk.power_loss();
            let (mut slots, found) = SlotFile::open(dynamic(&disk), "vote.qslot").unwrap();
            let may_be = [certain, certain + 1].map(|number| (number > 0).then(|| content(number)));
            let found = found.map(|bytes| bytes.to_vec());
            assert!(may_be.contains(&found), "boundary {boundary} seed {seed}: {certain} certain");
            slots.write(b"goes on").unwrap();
            drop(slots);
            disk.power_loss();
            let (_, found) = SlotFile::open(dynamic(&disk), "vote.qslot").unwrap();
            assert_eq!(found.unwrap().as_ref(), b"goes on");
        }
    }
}

#[test]
fn a_small_file_without_a_good_slot_is_damage_and_one_good_slot_is_enough() {
    let disk = SimDisk::new(1);
    write_some(&disk).map_err(|(_, error)| error).unwrap();
    for offset in 0..8192 {
        let disk = disk.fork(offset);
        disk.flip("vote.qslot", offset, 1 << (offset % 8));
        let (_, found) = SlotFile::open(dynamic(&disk), "vote.qslot").unwrap();
        let found = found.unwrap().to_vec();
        assert!(found == content(6) || found == content(5));
        // Only a flip in the newest slot may take the newest content away.
        assert!(found == content(6) || offset >= 4096);
    }
    disk.flip("vote.qslot", 100, 1);
    disk.flip("vote.qslot", 5000, 1);
    let refused = SlotFile::open(dynamic(&disk), "vote.qslot").map(|_| ());
    assert!(matches!(refused, Err(LogError::Damage { .. })), "{refused:?}");
    disk.put("vote.qslot", &[0; 8192]);
    assert!(SlotFile::open(dynamic(&disk), "vote.qslot").is_err(), "zeros were never written");
    disk.put("vote.qslot", &[]);
    assert!(SlotFile::open(dynamic(&disk), "vote.qslot").is_err());
}

#[test]
fn a_small_file_takes_no_more_after_a_failed_sync_and_refuses_what_does_not_fit() {
    let disk = SimDisk::new(1);
    let (mut slots, _) = SlotFile::open(dynamic(&disk), "vote.qslot").unwrap();
    slots.write(b"one").unwrap();
    assert!(matches!(slots.write(&[7; 4065]), Err(LogError::SlotTooLarge { wanted: 4064, .. })));
    slots.write(&[7; 4064]).unwrap();
    disk.fail_next(Op::Sync);
    assert!(matches!(slots.write(b"two"), Err(LogError::Io { .. })));
    assert!(matches!(slots.write(b"three"), Err(LogError::Poisoned { .. })));
}

#[test]
fn what_a_small_file_shows_after_a_failed_sync_and_a_kill_survives_power_loss() {
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let (mut slots, _) = SlotFile::open(dynamic(&disk), "vote.qslot").unwrap();
        slots.write(b"one").unwrap();
        disk.fail_next(Op::Sync);
        assert!(slots.write(b"two").is_err());
        drop(slots);
        disk.process_kill();
        let shown = SlotFile::open(dynamic(&disk), "vote.qslot").unwrap().1;
        disk.power_loss();
        assert_eq!(SlotFile::open(dynamic(&disk), "vote.qslot").unwrap().1, shown, "seed {seed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_a_small_file_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let disk = SimDisk::with_files(1, [("vote.qslot", bytes.as_slice())]);
        let _ = SlotFile::open(dynamic(&disk), "vote.qslot");
    }
}

/// One suite for the real disk and the simulated one.
fn folders(disk: Arc<dyn Disk>) {
    assert_eq!(disk.folders().unwrap(), Vec::<String>::new());
    let a = disk.folder("a").unwrap();
    let b = disk.folder("b").unwrap();
    a.create("file", 3, Fill::Growing).unwrap().write_at(0, b"in a").unwrap();
    b.create("file", 3, Fill::Growing).unwrap().write_at(0, b"in b!").unwrap();
    disk.create("file", 2, Fill::Growing).unwrap();
    a.folder("deep").unwrap().create("file", 9, Fill::Growing).unwrap();
    assert_eq!(disk.folders().unwrap(), ["a", "b"]);
    assert_eq!(a.folders().unwrap(), ["deep"]);
    let lens = |disk: &dyn Disk| disk.list().unwrap().iter().map(|file| file.bytes).collect::<Vec<_>>();
    assert_eq!((lens(&*disk), lens(&*a), lens(&*b)), (vec![2], vec![4], vec![5]));
    let again = disk.folder("a").unwrap();
    again.rename("file", "other").unwrap();
    assert_eq!(a.list().unwrap()[0].name, "other");
    // Each folder has a lock of its own.
    let held = a.lock().unwrap();
    assert!(matches!(again.lock(), Err(LogError::Locked { .. })));
    drop((b.lock().unwrap(), disk.lock().unwrap(), held));
    drop(again.lock().unwrap());
    disk.remove_folder("a").unwrap();
    assert_eq!(disk.folders().unwrap(), ["b"]);
    assert_eq!(a.list().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.remove_folder("a").unwrap_err().kind(), ErrorKind::NotFound);
    let a = disk.folder("a").unwrap();
    assert_eq!((a.list().unwrap().len(), a.folders().unwrap().len()), (0, 0));
    for name in ["", ".", "..", "a/b", "/a", "a/../..", "a\\b"] {
        assert_eq!(disk.folder(name).map(|_| ()).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        assert_eq!(disk.remove_folder(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
    }
}

#[test]
fn folders_are_disks_of_their_own() {
    folders(Arc::new(SimDisk::new(1)));
    let folder = tempfile::tempdir().unwrap();
    folders(Arc::new(FileDisk::open(folder.path()).unwrap()));
}

#[test]
fn logs_in_two_folders_survive_power_loss_side_by_side() {
    let disk = SimDisk::new(4);
    for name in ["one", "two"] {
        let sub = disk.sub(name).unwrap();
        let (mut log, _) = open(&sub).unwrap();
        append_synced(&mut log, 30).unwrap();
    }
    disk.power_loss();
    for name in ["one", "two"] {
        let (_, recovery) = open(&disk.sub(name).unwrap()).unwrap();
        assert_eq!(drain(recovery).unwrap(), (1, 30));
    }
}

#[test]
fn a_folder_is_there_after_a_crash_once_it_was_made_and_its_names_once_they_were_synced() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let sub = disk.sub("a").unwrap();
        sub.create("synced", 4, Fill::Written).unwrap();
        sub.sync_dir().unwrap();
        sub.create("unsynced", 4, Fill::Written).unwrap();
        // The folder above is another folder: its sync says nothing about names in here.
        disk.sync_dir().unwrap();
        disk.power_loss();
        assert_eq!(disk.folders().unwrap(), ["a"]);
        let names: Vec<_> = sub.list().unwrap().into_iter().map(|file| file.name).collect();
        assert!(names.contains(&"synced".to_owned()));
        if names.len() == 2 { kept += 1 } else { lost += 1 }
    }
    assert!(kept > 20 && lost > 20, "{kept} {lost}");
}

#[test]
fn a_crash_while_a_folder_is_made_or_removed_leaves_all_none_or_a_part() {
    let (mut there, mut gone, mut part) = (0, 0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        disk.crash_at(seed % 2);
        assert!(disk.sub("a").is_err());
        disk.power_loss();
        if disk.folders().unwrap().is_empty() {
            gone += 1
        } else {
            there += 1
        }
        let sub = disk.sub("a").unwrap();
        for name in ["x", "y", "z"] {
            sub.create(name, 4, Fill::Written).unwrap();
        }
        sub.sync_dir().unwrap();
        disk.crash_at(seed % 5);
        let _ = disk.remove_folder("a");
        disk.power_loss();
        match sub.list().map(|files| files.len()) {
            Ok(1..3) => part += 1,
            Ok(0 | 3) => {}
            found => assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound),
        }
        if disk.folders().unwrap() == ["a"] {
            disk.remove_folder("a").unwrap();
            disk.sync_dir().unwrap();
        }
        disk.power_loss();
        assert_eq!(disk.folders().unwrap(), Vec::<String>::new());
        assert_eq!(disk.sub("a").unwrap().list().unwrap(), []);
    }
    assert!(there > 20 && gone > 20 && part > 20, "{there} {gone} {part}");
}

#[test]
fn faults_and_the_full_disk_reach_into_folders() {
    let disk = SimDisk::new(1);
    let sub = disk.sub("a").unwrap();
    let file = sub.create("file", 1000, Fill::Reserved).unwrap();
    disk.fail_next(Op::Sync);
    assert!(file.sync_data().is_err());
    disk.set_capacity(1500);
    assert_eq!(disk.free_bytes().unwrap(), 500);
    assert_eq!(
        disk.create("big", 600, Fill::Reserved).map(|_| ()).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    disk.crash_at(0);
    assert!(file.write_at(0, b"x").is_err());
    assert!(sub.list().is_err() && disk.list().is_err());
}
