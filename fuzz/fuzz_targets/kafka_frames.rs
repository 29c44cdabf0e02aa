//! Any bytes as what a Kafka client sends: frames come out whole or the connection ends; a body is read within its bytes; a batch is checked, read
//! within its bound, and what is read can be built and read again.
//!
//! Called by: `scripts/fuzz.sh kafka_frames`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_kafka::frame::{Input, head};
use quorate_types::{Offset, Record, WallTime};

/// Bytes that are made of a batch at most.
const UNPACKED_MAX: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::default();
    for part in bytes.chunks(7) {
        input.extend(part);
        while let Ok(Some(frame)) = input.next(1 << 16) {
            if let Ok((_, mut body)) = head(frame, |_, version| Some(version % 2 == 1)) {
                let _ = body.maybe_list(|body| {
                    let name = body.maybe_text()?;
                    let inner = body.list(|body| Ok((body.i32()?, body.maybe_bytes()?)))?;
                    body.tags()?;
                    Ok((name, inner))
                });
            }
        }
    }
    let _ = quorate_batch::check(bytes);
    let _ = quorate_batch::check_records(bytes);
    let Ok(read) = quorate_batch::decode(bytes, UNPACKED_MAX) else { return };
    if read.is_empty() {
        return;
    }
    let records: Vec<Record> = read.into_iter().map(|timed| timed.record).collect();
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    let last = records.len() as u32 - 1;
    quorate_batch::build((0..).zip(&records), Offset(0), last, WallTime(1), 0, &mut once);
    quorate_batch::check(&once).expect("what is built is a batch");
    let again = quorate_batch::decode(&once, usize::MAX).expect("what is built can be read");
    let again: Vec<Record> = again.into_iter().map(|timed| timed.record).collect();
    // Names of headers are texts from here on.
    quorate_batch::build((0..).zip(&again), Offset(0), last, WallTime(1), 0, &mut twice);
    assert_eq!(once, twice);
});
