//! Any bytes as a log segment, raw, under correct checksums, and as a batch that rewinds: refused or read, never a panic, never memory beyond the file.
//!
//! Called by: `cargo +nightly fuzz run log_reader`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_log::{Disk, Index, Log, LogConfig, SimDisk, dump, fuzzing, verify};
use std::sync::Arc;

const CONFIG: LogConfig = LogConfig {
    segment_bytes: 4096,
    segments_ready: 1,
    batch_bytes_max: 2048,
    entry_bytes_max: 1024,
    reserve_bytes: 0,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let segment = match first & 3 {
        1 => fuzzing::segment(body, u32::from(first >> 2), 1),
        3 => fuzzing::rewound(body, u32::from(first >> 4), u64::from(first >> 2 & 3)),
        _ => body.to_vec(),
    };
    let manifest = fuzzing::manifest();
    let disk = SimDisk::with_files(
        1,
        [("manifest.qman", manifest.as_slice()), ("seg-0000000000000001.qseg", segment.as_slice())],
    );
    let _ = verify(&disk, &mut |_, _| {});
    if let Ok(entries) = dump(&disk, Index(0), Index(u64::MAX)) {
        entries.for_each(drop);
    }
    if let Ok((log, recovery)) = Log::open(Arc::new(disk) as Arc<dyn Disk>, CONFIG) {
        recovery.entries.for_each(drop);
        for index in 1..4 {
            let _ = log.reader().payload(Index(index), 0);
            let _ = log.reader().term(Index(index));
            let _ = log.reader().range(Index(index), log.last().next(), 100);
        }
    }
});
