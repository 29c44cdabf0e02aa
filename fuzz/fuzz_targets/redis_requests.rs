//! Any bytes, however they are cut, give the same Redis commands or the same protocol error, and never panic.
//!
//! Called by: `cargo +nightly fuzz run redis_requests`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_redis::resp::{Bounds, Input};

const BOUNDS: Bounds = Bounds { bulk_bytes_max: 1 << 16, command_bytes_max: 1 << 18, unknown: false };

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let (mut input, mut words, mut found) = (Input::default(), Vec::new(), Vec::new());
    for piece in pieces {
        input.extend(piece);
        assert!(input.ahead(b"GET").count() <= input.pending());
        loop {
            match input.next(&BOUNDS, &mut words) {
                Ok(true) => found.push(words.iter().map(|word| word.to_vec()).collect()),
                Ok(false) => break,
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }
    (found, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((size, bytes)) = data.split_first() else { return };
    let whole = read(std::iter::once(bytes));
    assert_eq!(read(bytes.chunks(usize::from(*size).max(1))), whole);
});
