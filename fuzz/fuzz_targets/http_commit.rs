//! Any bytes as the body of `POST /v1/commit`: refused with an error that says where, or read as a commit that keeps its promises.
//!
//! Called by: `cargo +nightly fuzz run http_commit`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_http::json::{read, request};
use quorate_types::codec::{decode, encode};
use quorate_types::{Command, Commit, Limits};

fuzz_target!(|bytes: &[u8]| {
    let commit = match read::parse(bytes, request::commit) {
        Ok(commit) => commit,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    // What was read has one binary form, the same fingerprint on both sides of it, and can be weighed.
    let again: Commit = decode(&encode(&commit).into()).expect("what was encoded decodes");
    assert_eq!(again, commit);
    assert_eq!(again.fingerprint(), commit.fingerprint());
    let _ = Limits::default().check(&commit);
    let _ = Limits::default().weigh(&Command::commit(commit));
});
