//! Memory limits of keyspaces: what is counted, what is refused, who goes.

use crate::common::*;
use quorate_calls::Session;
use quorate_machine::{Event, Hand, Machine, MemoryView, Times};
use quorate_types::*;
use std::collections::BTreeSet;

const SPACE: Keyspace = Keyspace(4);

fn words(text: &str) -> Vec<Blob> {
    text.split(' ').map(Blob::from).collect()
}

fn call(text: &str) -> Op {
    Op::Call { space: SPACE, words: words(text), record: None }
}

fn driver() -> Driver {
    let mut d = Driver::new();
    d.send(CommandBody::RaiseVersion { to: 2 });
    d
}

trait Memory {
    fn say(&mut self, text: &str) -> Result<Reply, String>;
    fn limit(&mut self, bytes_max: u64, eviction: Eviction);
    fn memory(&self) -> MemoryView;
    fn read(&self, text: &str) -> Reply;
    fn victims(&self, keys: usize, seed: u64) -> Vec<String>;
    fn evict(&mut self, names: &[&str]) -> u64;
}

impl Memory for Driver {
    fn say(&mut self, text: &str) -> Result<Reply, String> {
        let outcome = self.outcome(Commit { mode: Mode::Each, ..Commit::of(vec![call(text)]) });
        let Outcome::Committed { mut committed } = outcome else { panic!("mode each commits: {outcome:?}") };
        match committed.results.pop().unwrap() {
            OpResult::Reply { reply } => Ok(reply),
            OpResult::Failed { error } => Err(error.to_string()),
            other => panic!("a call replies or fails: {other:?}"),
        }
    }
    fn limit(&mut self, bytes_max: u64, eviction: Eviction) {
        let (bytes_max, eviction) = (Some(bytes_max), Some(eviction));
        self.send(CommandBody::LimitMemory { space: SPACE, bytes_max, eviction });
    }
    fn memory(&self) -> MemoryView {
        self.machine.memory(SPACE)
    }
    fn read(&self, text: &str) -> Reply {
        self.machine.call(Times::default(), &mut Session::new(SPACE), &words(text), 7).unwrap()
    }
    fn victims(&self, keys: usize, seed: u64) -> Vec<String> {
        let times = (self.machine.wall(), self.machine.log_time());
        let (going, mut hand) = (BTreeSet::new(), Hand::default());
        let victims = self.machine.victims(SPACE, (u64::MAX, keys), times, seed, &going, &mut hand);
        let names: BTreeSet<Blob> = victims.names.iter().cloned().collect();
        assert_eq!(names.len(), victims.names.len(), "nobody goes twice");
        victims.names.iter().map(ToString::to_string).collect()
    }
    fn evict(&mut self, names: &[&str]) -> u64 {
        let keys = names.iter().map(|name| Blob::from(*name)).collect();
        self.events.clear();
        self.send(CommandBody::Evict { space: SPACE, keys });
        self.events.iter().filter(|event| matches!(event, Event::Evicted { .. })).count() as u64
    }
}

/// How many of the names begin so.
fn share(names: &[String], start: &str) -> usize {
    names.iter().filter(|name| name.starts_with(start)).count()
}

#[test]
fn a_keyspace_counts_what_its_keys_hold_and_forgets_what_is_gone() {
    let mut d = driver();
    let long = "x".repeat(1000);
    for text in [
        format!("SET a {long}"),
        "SET b 1 EX 100".into(),
        "HSET h f v g w".into(),
        format!("RPUSH l {long} {long}"),
        "SADD s 1 2 3".into(),
        "ZADD z 1 a 2 b".into(),
        "COPY h h2".into(),
        "RENAME s t".into(),
        "XADD st * f v".into(),
    ] {
        d.say(&text).unwrap();
        d.machine.check();
    }
    assert!(d.memory().bytes > 3_000 + 8 * quorate_machine::KEY_BYTES, "{:?}", d.memory());
    let held = d.memory();
    assert!(d.say("LPUSH a x").is_err());
    assert_eq!(d.memory(), held, "what is refused leaves no bytes");
    let restored = snapshot_and_back(&mut d.machine);
    assert_eq!(restored.memory(SPACE), held);
    restored.check();
    d.say("FLUSHDB").unwrap();
    d.machine.check();
    assert_eq!(d.memory().bytes, 0);
}

fn snapshot_and_back(machine: &mut Machine) -> Machine {
    restore(&snapshot_of(machine, 7), 99)
}

#[test]
fn without_eviction_growth_of_a_full_keyspace_is_refused_and_all_else_goes_on() {
    let mut d = driver();
    d.say(&format!("SET a {}", "x".repeat(5000))).unwrap();
    d.say("RPUSH l 1 2 3").unwrap();
    d.limit(4000, Eviction::None);
    let oom = "OOM command not allowed when used memory > 'maxmemory'.";
    for text in ["SET b 1", "SET a 1", "RPUSH l 4", "APPEND a x", "HSET h f v"] {
        assert!(d.say(text).unwrap_err().contains(oom), "{text}");
    }
    let put = Op::Put {
        key: Key { space: SPACE, name: "p".into() },
        value: "v".into(),
        lease: LeaseId::ZERO,
        prev: false,
    };
    assert!(d.commit(Commit::of(vec![put])).unwrap_err().to_string().contains("OOM"));
    assert_eq!(d.read("GET b"), Reply::Nil);
    assert_eq!(d.say("LPOP l").unwrap(), Reply::bulk("1"));
    assert_eq!(d.say("EXPIRE l 100").unwrap(), Reply::integer(1));
    let other = Op::Call { space: Keyspace(5), words: words("SET b 1"), record: None };
    assert!(d.commit(Commit::of(vec![other])).is_ok(), "another keyspace has a limit of its own");
    d.say("DEL a").unwrap();
    assert_eq!(d.say("SET b 1").unwrap(), Reply::ok());
    d.limit(1, Eviction::None);
    d.limit(0, Eviction::None);
    assert_eq!(d.say("SET c 1").unwrap(), Reply::ok(), "0 is no limit");
}

#[test]
fn a_limit_survives_a_snapshot_and_is_part_of_the_state() {
    let mut d = driver();
    let before = d.machine.digest();
    d.limit(123_456, Eviction::VolatileLfu);
    assert_ne!(d.machine.digest(), before);
    let restored = snapshot_and_back(&mut d.machine);
    assert_eq!(restored.digest(), d.machine.digest());
    let limit = MemoryLimit { bytes_max: 123_456, eviction: Eviction::VolatileLfu };
    assert_eq!(restored.memory(SPACE).limit, limit);
    assert_eq!(restored.memory_limits().collect::<Vec<_>>(), vec![(SPACE, limit)]);
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let mut d = driver();
    d.limit(1, Eviction::AllLru);
    d.limit(1 << 40, Eviction::AllLru);
    for n in 0..300 {
        d.say(&format!("SET cold{n} v")).unwrap();
        d.say(&format!("SET hot{n} v")).unwrap();
    }
    d.sleep(60_000);
    for n in 0..300 {
        d.read(&format!("GET hot{n}"));
    }
    d.sleep(1_000);
    let victims = d.victims(200, 3);
    assert!(share(&victims, "cold") >= 196, "{} of 200 were cold", share(&victims, "cold"));
    assert_eq!(d.read("OBJECT IDLETIME cold1"), Reply::integer(60));
    assert_eq!(d.read("OBJECT IDLETIME hot1"), Reply::integer(0));
    d.read("TTL cold1");
    d.read("EXISTS cold1");
    assert_eq!(d.read("OBJECT IDLETIME cold1"), Reply::integer(60), "asking about a key does not use it");
}

#[test]
fn what_is_used_least_often_goes_first_however_late_it_was_used() {
    let mut d = driver();
    d.limit(1 << 40, Eviction::AllLfu);
    for n in 0..100 {
        d.say(&format!("SET rare{n} v")).unwrap();
        d.say(&format!("SET often{n} v")).unwrap();
        for _ in 0..200 {
            d.read(&format!("GET often{n}"));
        }
    }
    d.sleep(100);
    for n in 0..100 {
        d.read(&format!("GET rare{n}"));
    }
    let victims = d.victims(60, 9);
    assert!(share(&victims, "rare") >= 57, "{} of 60 were rare", share(&victims, "rare"));
    let Reply::Integer { value } = d.read("OBJECT FREQ often1") else { panic!("a number") };
    assert!((8..60).contains(&value), "{value}");
}

#[test]
fn volatile_policies_take_nothing_that_has_no_deadline() {
    for eviction in
        [Eviction::VolatileLru, Eviction::VolatileLfu, Eviction::VolatileRandom, Eviction::VolatileTtl]
    {
        let mut d = driver();
        d.limit(1 << 40, eviction);
        for n in 0..400 {
            d.say(&format!("SET stays{n} v")).unwrap();
        }
        for n in 0..20 {
            d.say(&format!("SET log{n} v PX {}", 100_000 + n)).unwrap();
            d.say(&format!("SET wall{n} v PXAT {}", d.machine.wall().0 + 200_000 + n)).unwrap();
        }
        let victims = d.victims(1000, 5);
        assert_eq!((victims.len(), share(&victims, "stays")), (40, 0), "{eviction:?}");
        if eviction == Eviction::VolatileTtl {
            let soonest: Vec<String> = (0..20).map(|n| format!("log{n}")).collect();
            assert_eq!(victims[..20], soonest, "those that end first go first");
        }
    }
}

#[test]
fn random_eviction_spares_no_part_of_the_keyspace() {
    let mut d = driver();
    d.limit(1 << 40, Eviction::AllRandom);
    for n in 0..1000 {
        d.say(&format!("SET {}k{n} v", if n < 500 { 'a' } else { 'b' })).unwrap();
    }
    let victims = d.victims(200, 11);
    assert!((70..130).contains(&share(&victims, "a")), "{}", share(&victims, "a"));
}

#[test]
fn few_keys_among_many_of_another_keyspace_are_found() {
    let mut d = driver();
    for n in 0..500 {
        d.run(vec![put(&format!("other{n}"), "v")]);
    }
    d.limit(1 << 40, Eviction::AllLru);
    for n in 0..5 {
        d.say(&format!("SET mine{n} v")).unwrap();
    }
    assert_eq!(share(&d.victims(100, 1), "mine"), 5);
}

#[test]
fn few_keys_among_many_that_history_remembers_are_found() {
    for eviction in [Eviction::AllRandom, Eviction::AllLru] {
        let mut d = driver();
        d.limit(1 << 40, eviction);
        for n in 0..1500 {
            d.say(&format!("SET gone{n} v")).unwrap();
            d.say(&format!("DEL gone{n}")).unwrap();
        }
        for n in 0..20 {
            d.say(&format!("SET there{n} v")).unwrap();
        }
        for seed in 0..20 {
            assert_eq!(share(&d.victims(15, seed), "there"), 15, "{eviction:?} {seed}");
        }
    }
}

#[test]
fn what_hangs_on_a_lease_or_is_protected_is_never_evicted() {
    let mut d = driver();
    d.limit(1 << 40, Eviction::AllLru);
    let lease = d.lease(7, 60_000);
    let key = |name: &str| Key { space: SPACE, name: name.into() };
    d.run(vec![Op::Put { key: key("leased"), value: "v".into(), lease, prev: false }]);
    let settings = StreamSettings { protected: true, ..StreamSettings::default() };
    d.run(vec![Op::CreateStream { stream: key("kept"), settings }]);
    d.say("SET plain v").unwrap();
    assert_eq!(d.victims(10, 3), ["plain"]);
    assert_eq!(d.evict(&["leased", "kept", "plain", "unknown"]), 1);
    assert_eq!(d.read("EXISTS leased kept plain"), Reply::integer(2));
    d.machine.check();
}

#[test]
fn a_flushed_keyspace_holds_nothing_at_once_and_nobody_goes_for_rows_that_are_going() {
    let mut d = Driver::emptying(2);
    d.send(CommandBody::RaiseVersion { to: 2 });
    for at in 0..60 {
        d.say(&format!("SET gone{at} v PX {}", 10_000 + at)).unwrap();
    }
    d.say("HSET h f v g w").unwrap();
    let held = d.memory().bytes;
    d.limit(held, Eviction::AllLru);
    // What is refused after it gives back what was held, before the flush and after.
    let then = [
        "SET new v",
        "HSET h i v",
        "FLUSHDB",
        "SET new w",
        "HSET h f v",
        "FLUSHDB",
        "SET new u",
        "LPUSH new x",
    ];
    d.commit(Commit::of(then.map(call).to_vec())).unwrap_err();
    assert_eq!(d.memory().bytes, held);
    d.say("FLUSHDB").unwrap();
    assert!(d.machine.sweeps(), "rows are there still");
    assert_eq!(d.memory().bytes, 0);
    assert!(!d.machine.is_full(SPACE));
    assert_eq!(d.say("SET stays v PX 90000"), Ok(Reply::ok()));
    assert_eq!(d.say("HSET h f v"), Ok(Reply::integer(1)));
    d.say("PEXPIRE h 80000").unwrap();
    let (bytes, digest) = (d.memory().bytes, d.machine.digest());
    for policy in [Eviction::AllLru, Eviction::VolatileLfu, Eviction::AllRandom, Eviction::VolatileTtl] {
        d.limit(1, policy);
        let mut gone = d.victims(10, 3);
        gone.sort();
        assert_eq!(gone, ["h", "stays"], "{policy:?}");
    }
    assert!(d.machine.sweeps(), "and rows lay between them until now");
    d.limit(held, Eviction::AllLru);
    d.restore_both();
    assert_eq!(d.memory().bytes, bytes, "{digest}");
    assert_eq!(d.evict(&["gone1", "stays"]), 1);
    while d.machine.sweeps() {
        d.sleep(1);
    }
    d.say("DEL h").unwrap();
    assert_eq!(d.memory().bytes, 0);
}

#[test]
fn the_soonest_deadline_is_found_behind_thousands_of_flushed_ones() {
    let mut d = driver();
    for from in (0..9_000).step_by(3_000) {
        let then = (from..from + 3_000).map(|at| call(&format!("SET gone{at} v PX {}", 10_000 + at)));
        d.run(then.collect());
    }
    d.say("FLUSHDB").unwrap();
    for (name, ms) in [("late", 90_000), ("soon", 50_000), ("later", 95_000)] {
        let commit = Commit::of(vec![call(&format!("SET {name} v PX {ms}"))]);
        d.commit(commit).unwrap();
    }
    d.limit(1, Eviction::VolatileTtl);
    assert!(d.machine.sweeps());
    assert_eq!(d.victims(1, 3), ["soon"]);
    assert_eq!(d.victims(3, 3), ["soon", "late", "later"]);
}

#[test]
fn an_eviction_deletes_exactly_what_was_chosen_and_may_still_go() {
    let mut d = driver();
    d.limit(1 << 40, Eviction::VolatileLru);
    d.say("SET a v EX 100").unwrap();
    d.say("SET b v EX 100").unwrap();
    d.say("SET c v EX 100").unwrap();
    // Between the choice and its place in the log.
    d.say("PERSIST b").unwrap();
    let revision = d.machine.revision();
    assert_eq!(d.evict(&["a", "b"]), 1);
    assert_eq!(d.read("EXISTS a b c"), Reply::integer(2));
    assert_eq!(d.machine.revision(), revision.next(), "an eviction is a change that watchers see");
    let watched = KeyRange::prefix(Key { space: SPACE, name: "a".into() });
    let guards = vec![Guard::RangeUnchanged { range: watched, since: revision }];
    assert!(d.commit(Commit { guards, ..Commit::default() }).is_err());
    d.limit(1 << 40, Eviction::None);
    assert_eq!(d.evict(&["c"]), 0, "the policy was changed before the eviction had its place");
}

#[test]
fn an_evicting_keyspace_may_hold_a_little_more_while_room_is_made() {
    let mut d = driver();
    d.say(&format!("SET a {}", "x".repeat(10_000))).unwrap();
    let held = d.memory().bytes;
    d.limit(held - 1, Eviction::AllLru);
    assert_eq!(d.say("SET b 1").unwrap(), Reply::ok());
    d.limit(held / 2, Eviction::AllLru);
    assert!(d.say("SET c 1").unwrap_err().contains("OOM"), "nobody made room for so much");
}
