//! Any bytes as a snapshot: refused or read, never a panic, never memory beyond the file.
//!
//! Called by: `cargo +nightly fuzz run snapshot_reader`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_log::{SimDisk, SnapshotReader};

const NAME: &str = "snap-00000000000000000001.qsnap";

fuzz_target!(|bytes: &[u8]| {
    let disk = SimDisk::with_files(1, [(NAME, bytes)]);
    if let Ok(reader) = SnapshotReader::open(&disk, NAME) {
        reader.for_each(drop);
    }
});
