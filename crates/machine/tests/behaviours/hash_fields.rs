//! Fields of hashes that end by themselves.

use super::calls::{Calls, ask, call, driver};
use crate::common::*;
use quorate_machine::Outputs;
use quorate_types::*;

fn codes(codes: &[i64]) -> Reply {
    Reply::array(codes.iter().map(|code| Reply::integer(*code)).collect())
}

#[test]
fn a_field_ends_exactly_at_its_deadline_and_the_key_with_its_last() {
    let mut d = driver();
    d.say("HSET h a 1 b 2");
    assert_eq!(d.say("HPEXPIRE h 500 FIELDS 2 a none"), codes(&[1, -2]));
    let (due, _) = d.machine.next_due();
    assert_eq!(due, Some(d.machine.log_time().plus(Millis(500))), "a leader is told when to write an entry");
    d.sleep(499);
    assert_eq!(d.ask("HPTTL h FIELDS 2 a b"), codes(&[1, -1]));
    d.sleep(1);
    assert_eq!(d.ask("HGETALL h"), Reply::map(vec![Reply::bulk("b"), Reply::bulk("2")]));
    let at = d.machine.wall().0 + 300;
    assert_eq!(d.say(&format!("HPEXPIREAT h {at} FIELDS 1 b")), codes(&[1]));
    assert_eq!(d.machine.next_due(), (None, Some(WallTime(at))));
    d.sleep(299);
    assert_eq!(d.ask("EXISTS h"), Reply::integer(1));
    d.sleep(1);
    assert_eq!(d.ask("EXISTS h"), Reply::integer(0));
    assert_eq!((d.machine.sizes().keys, d.machine.sizes().element_bytes), (0, 0));
}

#[test]
fn thousands_of_fields_that_are_due_at_once_are_gone_at_once_and_freed_in_slices() {
    let mut d = driver();
    d.configure(|settings| settings.expiries_per_entry = 100);
    let fields: Vec<String> = (0..2000).map(|at| format!("f{at:04}")).collect();
    d.say(&format!("HSET h {} v", fields.join(" v ")));
    d.say(&format!("HPEXPIRE h 500 FIELDS 2000 {}", fields.join(" ")));
    d.say("RENAME h big");
    d.say("COPY big copy");
    d.say("HSET copy stays 1");
    let before = d.machine.sizes().element_bytes;
    d.sleep(500);
    assert_eq!(d.ask("EXISTS big copy"), Reply::integer(1));
    assert_eq!(d.ask("HLEN copy"), Reply::integer(1));
    assert_eq!(d.ask("HRANDFIELD copy"), Reply::bulk("stays"));
    assert_eq!(d.ask("HKEYS copy"), Reply::array(vec![Reply::bulk("stays")]));
    let after = d.machine.sizes().element_bytes;
    assert!(
        after > before * 8 / 10 && after < before,
        "one entry ends no more than it may: {before} to {after}"
    );
    // What is due is no field any more, whether or not it has been removed.
    assert_eq!(d.say("HSETNX copy f1999 new"), Reply::integer(1));
    assert_eq!(d.ask("HPTTL copy FIELDS 1 f1999"), codes(&[-1]));
    assert_eq!(d.say("HINCRBY copy f1998 5"), Reply::integer(5));
    assert_eq!(d.ask("HPTTL copy FIELDS 1 f1998"), codes(&[-1]));
    assert_eq!(
        d.say("HSET big f0000 again"),
        Reply::integer(1),
        "a key of which nothing is left is made anew"
    );
    assert_eq!(d.ask("HLEN big"), Reply::integer(1));
    for _ in 0..40 {
        d.sleep(1);
    }
    assert_eq!(d.machine.next_due(), (None, None));
    assert_eq!((d.ask("HLEN copy"), d.ask("HLEN big")), (Reply::integer(3), Reply::integer(1)));
    assert!(d.machine.sizes().element_bytes < 1000);
}

#[test]
fn deadlines_of_fields_are_in_a_snapshot_and_end_alike_after_it() {
    let mut d = driver();
    d.configure(|settings| settings.expiries_per_entry = 3);
    for at in 0..20 {
        d.say(&format!("HSET h{at} a 1 b 2 c 3"));
        d.say(&format!("HPEXPIRE h{at} 500 FIELDS 2 a b"));
        d.say(&format!("HPEXPIREAT h{at} {} FIELDS 1 c", d.machine.wall().0 + 600));
    }
    d.machine.snapshot_begin();
    let digest = d.machine.digest();
    let (mut chunks, mut at) = (Vec::new(), 0);
    while let Some(chunk) = d.machine.snapshot_next(5) {
        chunks.push(chunk);
        // What changes ahead of the walk is in it as it was.
        d.each(&[&format!("HPERSIST h{at} FIELDS 1 a"), &format!("HDEL h{at} c")]);
        at = (at + 7) % 20;
    }
    d.machine.snapshot_end();
    let mut other = restore(&chunks, 9);
    assert_eq!(other.digest(), digest);
    let from = other.applied().0;
    for _ in 0..40 {
        d.sleep(20);
    }
    for entry in d.entries.iter().filter(|entry| entry.index.0 > from) {
        other.apply(entry, &mut Outputs::default());
    }
    other.check();
    assert_eq!((other.digest(), other.trail()), (d.machine.digest(), d.machine.trail()));
    assert_eq!(ask(&other, "HGETALL h0"), d.ask("HGETALL h0"));
}

#[test]
fn a_refused_commit_gives_deadlines_back() {
    let mut d = driver();
    d.say("HSET h a 1 b 2");
    d.say("HPEXPIRE h 500 FIELDS 1 a");
    for calls in [
        &["HSET h a 2", "HPERSIST h FIELDS 1 a", "HGETDEL h FIELDS 1 a"][..],
        &["HPEXPIRE h 10 FIELDS 2 a b", "DEL h"],
        &["HGETEX h PERSIST FIELDS 1 a", "HSETEX h PX 9 FIELDS 1 b 7", "RENAME h g", "HDEL g a b"],
    ] {
        let mut then: Vec<Op> = calls.iter().map(|text| call(text)).collect();
        then.push(call("LPUSH h x SYNTAX"));
        then.push(call("HSET"));
        d.commit(Commit::of(then)).unwrap_err();
        d.machine.check();
    }
    assert_eq!(d.ask("HPTTL h FIELDS 2 a b"), codes(&[500, -1]));
}

#[test]
fn a_hash_without_deadlines_takes_no_more_memory_than_before() {
    let mut d = driver();
    d.say("HSET h a 1 b 2");
    let plain = d.machine.sizes().element_bytes;
    d.say("HPEXPIRE h 500 FIELDS 1 a");
    assert!(d.machine.sizes().element_bytes > plain);
    d.say("HPERSIST h FIELDS 1 a");
    assert_eq!(d.machine.sizes().element_bytes, plain);
}
