//! Calls: Redis' commands inside commits, over the machine's keys.

use crate::common::*;
use proptest::prelude::*;
use quorate_calls::Session;
use quorate_machine::{Event, Machine, Outputs, Times};
use quorate_types::*;

fn words(text: &str) -> Vec<Blob> {
    text.split(' ').map(Blob::from).collect()
}

pub(crate) fn call(text: &str) -> Op {
    Op::Call { space: Keyspace::DEFAULT, words: words(text), record: None }
}

/// A driver whose machine knows calls.
pub(crate) fn driver() -> Driver {
    let mut d = Driver::new();
    d.send(CommandBody::RaiseVersion { to: 2 });
    d
}

pub(crate) trait Calls {
    fn each(&mut self, calls: &[&str]) -> Vec<Result<Reply, String>>;
    fn say(&mut self, text: &str) -> Reply;
    fn ask(&self, text: &str) -> Reply;
}

impl Calls for Driver {
    /// One commit in mode `each`, as EXEC is.
    fn each(&mut self, calls: &[&str]) -> Vec<Result<Reply, String>> {
        let then = calls.iter().map(|text| call(text)).collect();
        let outcome = self.outcome(Commit { mode: Mode::Each, ..Commit::of(then) });
        let Outcome::Committed { committed } = outcome else { panic!("mode each commits: {outcome:?}") };
        let result = |result| match result {
            OpResult::Reply { reply } => Ok(reply),
            OpResult::Failed { error } => Err(error.to_string()),
            other => panic!("a call replies or fails: {other:?}"),
        };
        committed.results.into_iter().map(result).collect()
    }
    fn say(&mut self, text: &str) -> Reply {
        self.each(&[text]).pop().unwrap().unwrap()
    }
    fn ask(&self, text: &str) -> Reply {
        ask(&self.machine, text)
    }
}

pub(crate) fn ask(machine: &Machine, text: &str) -> Reply {
    let mut session = Session::new(Keyspace::DEFAULT);
    machine.call(Times::default(), &mut session, &words(text), 7).unwrap()
}

#[test]
fn a_read_sees_what_a_call_wrote() {
    let mut d = driver();
    assert_eq!(d.say("SET k v"), Reply::ok());
    assert_eq!(d.ask("GET k"), Reply::bulk("v"));
    assert_eq!(d.machine.get(&"k".into()).unwrap().value, "v".into(), "it is a key as any other");
    assert_eq!(d.say("HSET h a 1 b 2"), Reply::integer(2));
    assert_eq!(d.ask("HGET h b"), Reply::bulk("2"));
    assert_eq!(d.say("RPUSH l x y z"), Reply::integer(3));
    assert_eq!(d.ask("LINDEX l -1"), Reply::bulk("z"));
    assert_eq!(d.say("SADD s m m n"), Reply::integer(2));
    assert_eq!(d.say("ZADD z 2 b 1 a"), Reply::integer(2));
    assert_eq!(d.ask("ZRANGE z 0 -1"), Reply::array(vec![Reply::bulk("a"), Reply::bulk("b")]));
    assert_eq!(d.ask("DBSIZE"), Reply::integer(5));
}

#[test]
fn calls_are_refused_until_every_node_knows_them() {
    let mut d = Driver::new();
    let failed = d.commit(Commit::of(vec![call("SET k v")])).unwrap_err();
    assert!(failed.to_string().contains("does not know calls yet"), "{failed}");
}

#[test]
fn in_mode_each_a_failed_call_is_only_its_own_reply() {
    let mut d = driver();
    let replies = d.each(&["SET k v", "LPUSH k x", "HSET k f v", "INCR k", "SET other w"]);
    assert_eq!(replies[0], Ok(Reply::ok()));
    assert!(replies[1].as_ref().unwrap_err().contains("WRONGTYPE"), "{replies:?}");
    assert!(replies[3].as_ref().unwrap_err().contains("not an integer"), "{replies:?}");
    assert_eq!(d.ask("GET other"), Reply::bulk("w"));
}

#[test]
fn in_mode_atomic_a_failed_call_refuses_all() {
    let mut d = driver();
    d.say("RPUSH l a b c");
    d.say("SET k v");
    let calls = ["LPOP l", "RENAME l m", "DEL k", "SADD s x", "SREM s x", "ZADD z 1 a", "INCR m"];
    let then = calls.iter().map(|text| call(text)).collect();
    let refusal = d.commit(Commit::of(then)).unwrap_err();
    assert!(matches!(refusal, Refusal::Operation { op: 6, .. }), "{refusal}");
    assert_eq!(d.ask("LRANGE l 0 -1"), Reply::array(["a", "b", "c"].map(Reply::bulk).to_vec()));
}

#[test]
fn a_deadline_ends_a_key_by_log_time_and_an_absolute_one_by_wall_time() {
    let mut d = driver();
    d.say("SET k v PX 500");
    d.say("HSET h f v");
    d.say("PEXPIRE h 700");
    d.say(&format!("SET w v PXAT {}", d.wall_ms + 600));
    d.pass(499).entry(vec![]);
    assert_eq!(d.ask("EXISTS k h w"), Reply::integer(3));
    assert_eq!(d.ask("PTTL k"), Reply::integer(1));
    let revision = d.machine.revision();
    d.sleep(1);
    assert_eq!(d.ask("EXISTS k h w"), Reply::integer(2));
    assert!(d.machine.revision() > revision, "an expiry is a change that watchers see");
    d.sleep(100);
    assert_eq!(d.ask("EXISTS k h w"), Reply::integer(1));
    d.sleep(100);
    assert_eq!(d.ask("DBSIZE"), Reply::integer(0));
}

#[test]
fn a_read_past_a_deadline_does_not_see_the_key_even_before_an_entry_ends_it() {
    let mut d = driver();
    // One is ended with each entry; the others are due too.
    d.configure(|settings| settings.expiries_per_entry = 1);
    for key in ["a", "b", "c"] {
        d.say(&format!("SET {key} v PX 500"));
    }
    d.sleep(500);
    assert_eq!(d.machine.sizes().keys, 2, "one key was ended");
    assert_eq!(d.ask("EXISTS a b c"), Reply::integer(0));
    assert_eq!(d.ask("KEYS *"), Reply::array(vec![]));
}

#[test]
fn a_clock_ahead_of_the_log_shows_what_is_left_and_hides_nothing() {
    let mut d = driver();
    d.say("SET k v PX 500");
    let at = |millis: u64, text: &str| {
        let times = Times { wall: d.machine.wall(), time: d.machine.log_time().plus(Millis(millis)) };
        d.machine.call(times, &mut Session::new(Keyspace::DEFAULT), &words(text), 0).unwrap()
    };
    assert_eq!(at(499, "PTTL k"), Reply::integer(1));
    for millis in [500, 501, 10_000] {
        assert_eq!(at(millis, "GET k"), Reply::bulk("v"), "another leader may not have come so far");
        assert_eq!(at(millis, "PTTL k"), Reply::integer(0));
    }
}

#[test]
fn what_is_no_plain_value_is_neither_read_nor_overwritten_as_one() {
    let mut d = driver();
    d.say("HSET h f v");
    for op in [get("h"), put("h", "v"), add("h", 1)] {
        let refusal = d.commit(Commit::of(vec![op])).unwrap_err();
        assert!(refusal.to_string().contains("hash"), "{refusal}");
    }
    let range = RangeRead::of(KeyRange::prefix("".into()));
    assert_eq!(d.machine.range(&range).unwrap().keys, vec![]);
    d.run(vec![delete("h")]);
    assert_eq!(d.ask("DBSIZE"), Reply::integer(0));
}

#[test]
fn watching_counts_changes_of_elements_and_keys_that_came_and_went() {
    let mut d = driver();
    d.say("SADD s a");
    for change in ["SADD s b", "SREM s a", "PEXPIRE s 10000", "SADD new x", "DEL new", "FLUSHDB"] {
        let since = d.machine.revision();
        d.say(change);
        let name = if change.contains("new") { "new" } else { "s" };
        let guard = Guard::RangeUnchanged { range: KeyRange::single(name.into()), since };
        d.commit(guarded(vec![guard], vec![put("never", "")])).unwrap_err();
    }
    let since = d.machine.revision();
    d.each(&["SADD t a", "SADD t a"]);
    let unchanged = Guard::RangeUnchanged { range: KeyRange::single("s".into()), since };
    d.commit(guarded(vec![unchanged], vec![put("passed", "")])).unwrap();
}

#[test]
fn a_call_that_changes_nothing_takes_no_revision() {
    let mut d = driver();
    d.say("SADD s a");
    let revision = d.machine.revision();
    d.each(&["SADD s a", "HDEL none f", "LPOP none", "PERSIST s", "DEL none", "GET none"]);
    assert_eq!(d.machine.revision(), revision);
}

#[test]
fn elements_that_change_during_a_snapshot_are_in_it_as_they_were() {
    let mut d = driver();
    for at in 0..40 {
        d.say(&format!("RPUSH l{at} a b c"));
        d.say(&format!("ZADD z{at} 1 a 2 b"));
        d.say(&format!("HSET h{at} a 1 b 2"));
    }
    let digest = d.machine.digest();
    let index = d.machine.snapshot_begin().index;
    let mut chunks = Vec::new();
    let mut at = 0;
    while let Some(chunk) = d.machine.snapshot_next(7) {
        chunks.push(chunk);
        d.each(&[
            &format!("LPOP l{at}"),
            &format!("DEL z{at}"),
            &format!("SADD n{at} x"),
            &format!("RENAME h{at} r{at}"),
        ]);
        d.say(&format!("HSET r{at} c 3"));
        at = (at + 1) % 40;
    }
    d.machine.snapshot_end();
    let restored = restore(&chunks, 9);
    assert_eq!((restored.applied(), restored.digest()), (index, digest));
}

#[test]
fn a_scan_goes_on_after_a_restore_where_it_stood() {
    let mut d = driver();
    for at in 0..1000 {
        d.say(&format!("SET k{at} v"));
        d.say(&format!("SADD s{at} v"));
        if at % 3 == 0 {
            d.say(&format!("DEL k{}", at / 2));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut cursor = 0;
    let chunks = snapshot_of(&mut d.machine, 50);
    let restored = restore(&chunks, 77);
    for turn in 0.. {
        let machine = if turn % 2 == 0 { &d.machine } else { &restored };
        let Reply::Array { items } = ask(machine, &format!("SCAN {cursor} COUNT 17")) else { panic!() };
        let (Reply::Bulk { value: next }, Reply::Array { items: names }) = (&items.0[0], &items.0[1]) else {
            panic!()
        };
        seen.extend(names.0.iter().map(|name| format!("{name:?}")));
        cursor = next.as_text().unwrap().parse::<u64>().unwrap();
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(seen.len() as u64, d.machine.sizes().keys);
}

#[test]
fn a_message_that_is_sent_again_is_one_record_while_it_is_remembered() {
    let mut d = driver();
    let first = d.say("XADD s IDMP p 1 * f v");
    let Reply::Bulk { .. } = first else { panic!("{first:?}") };
    d.sleep(10);
    assert_eq!(d.say("XADD s IDMP p 1 * f other"), first);
    assert_ne!(d.say("XADD s IDMP q 1 * f v"), first, "another producer's message is another one");
    let by_pairs = d.say("XADD s IDMPAUTO p * f v");
    assert_eq!(d.say("XADD s IDMPAUTO p * f v"), by_pairs);
    assert_ne!(d.say("XADD s IDMPAUTO p * f w"), by_pairs);
    assert_eq!(d.ask("XLEN s"), Reply::integer(4));
    let info = |d: &Driver, name: &str| {
        let Reply::Map { items } = d.ask("XINFO STREAM s") else { panic!("a map") };
        let found = items.0.chunks(2).find(|pair| pair[0] == Reply::bulk(name.as_bytes().to_vec()));
        found.map(|pair| pair[1].clone())
    };
    assert_eq!(info(&d, "pids-tracked"), Some(Reply::integer(2)));
    assert_eq!(info(&d, "iids-added"), Some(Reply::integer(4)));
    assert_eq!(info(&d, "iids-duplicates"), Some(Reply::integer(2)));
    d.restart();
    assert_eq!(d.say("XADD s IDMP p 1 * f v"), first, "it is remembered over a restart");
    // For a hundred seconds of log time.
    d.sleep(99_000);
    assert_eq!(d.say("XADD s IDMP p 1 * f v"), first);
    d.sleep(1_000);
    assert_ne!(d.say("XADD s IDMP p 1 * f v"), first);
    assert_eq!(
        info(&d, "pids-tracked"),
        Some(Reply::integer(1)),
        "a producer that says nothing is forgotten"
    );
    // No more than so many of each.
    assert_eq!(d.say("XCFGSET s IDMP-MAXSIZE 2 IDMP-DURATION 5"), Reply::ok());
    let ids: Vec<Reply> =
        ["a", "b", "c"].iter().map(|id| d.say(&format!("XADD s IDMP p {id} * f v"))).collect();
    assert_eq!(d.say("XADD s IDMP p c * f v"), ids[2]);
    assert_ne!(d.say("XADD s IDMP p a * f v"), ids[0], "the oldest is forgotten");
    assert_eq!(info(&d, "iids-tracked"), Some(Reply::integer(2)));
    d.say("DEL s");
    assert_eq!(d.ask("XLEN s"), Reply::integer(0));
    for bad in ["XADD s IDMP p 1 1-1 f v", "XCFGSET s IDMP-MAXSIZE 0", "XCFGSET none IDMP-MAXSIZE 5"] {
        assert!(d.each(&[bad])[0].is_err(), "{bad}");
    }
}

#[test]
fn producers_are_in_a_snapshot_and_a_refused_message_is_not_remembered() {
    let mut d = driver();
    d.say("XADD s IDMP p 1 * f v");
    let refused = vec![call("XADD s IDMP p 2 * f v"), call("LPUSH s x")];
    d.commit(Commit::of(refused)).unwrap_err();
    let mut other = restore(&snapshot_of(&mut d.machine, 1), 5);
    let again = d.say("XADD s IDMP p 2 * f v");
    d.each(&[
        "XADD s IDMP p 1 * f v",
        "XADD s IDMP q 1 * f v",
        "XCFGSET s IDMP-DURATION 9",
        "XADD s IDMP p 1 * f v",
    ]);
    let from = other.applied();
    for entry in d.entries.iter().filter(|entry| entry.index > from) {
        other.apply(entry, &mut Outputs::default());
    }
    other.check();
    assert_eq!((other.digest(), other.trail()), (d.machine.digest(), d.machine.trail()));
    assert!(matches!(again, Reply::Bulk { .. }));
    assert_eq!(d.ask("XLEN s"), Reply::integer(4));
}

/// Calls over few names, so that they meet.
fn any_call() -> impl Strategy<Value = String> {
    let templates = vec![
        "SET K M",
        "SET K M PX 300",
        "INCR K",
        "APPEND K M",
        "DEL K",
        "RENAME K L",
        "COPY K L REPLACE",
        "PEXPIRE K 200",
        "PERSIST K",
        "HSET K M 1",
        "HSET K M 2 x 3",
        "HDEL K M",
        "HINCRBY K M 2",
        "HPEXPIRE K 200 FIELDS 1 M",
        "HPEXPIRE K 100 FIELDS 2 M x",
        "HPERSIST K FIELDS 1 M",
        "HSETEX K PX 150 FIELDS 1 M 3",
        "HGETDEL K FIELDS 1 M",
        "BF.ADD K M",
        "BF.INSERT K CAPACITY 2 ITEMS M x y",
        "BF.RESERVE K 0.1 2 NONSCALING",
        "GEOADD K 13 38 M",
        "RPUSH K M M",
        "LPUSH K M",
        "LPOP K",
        "RPOP K 2",
        "LINSERT K BEFORE M new",
        "LSET K 0 M",
        "LREM K 0 M",
        "LTRIM K 0 1",
        "LMOVE K L LEFT RIGHT",
        "SADD K M",
        "SADD K x y z w",
        "SREM K M",
        "SPOP K",
        "SPOP K 2",
        "SMOVE K L M",
        "SUNIONSTORE K K L",
        "ZADD K 1 M",
        "ZADD K 3 x 1 y",
        "ZINCRBY K 2 M",
        "ZREM K M",
        "ZPOPMIN K",
        "ZREMRANGEBYRANK K 0 0",
        "ZUNIONSTORE K 2 K L",
        "FLUSHDB",
        "RENAMENX K L",
        "SETRANGE K 2 M",
        "GETDEL K",
        "MSET K M L M",
    ];
    let names = || proptest::sample::select(vec!["a", "b", "c"]);
    let members = proptest::sample::select(vec!["x", "y", "z", "w"]);
    // Only words of one letter are places to fill.
    (proptest::sample::select(templates), names(), names(), members).prop_map(|(text, key, other, member)| {
        let fill = |word| match word {
            "K" => key,
            "L" => other,
            "M" => member,
            word => word,
        };
        text.split(' ').map(fill).collect::<Vec<_>>().join(" ")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn refused_commits_leave_elements_as_they_were_and_restored_machines_go_on_alike(
        commits in proptest::collection::vec((proptest::collection::vec(any_call(), 1..5), any::<bool>(), 0u64..150), 1..60),
        cut in 0usize..60,
    ) {
        let mut d = driver();
        let mut other: Option<Machine> = None;
        for (at, (calls, atomic, ms)) in commits.into_iter().enumerate() {
            if at == cut {
                other = Some(restore(&snapshot_of(&mut d.machine, 3), 99));
            }
            d.pass(ms);
            let mut then: Vec<Op> = calls.iter().map(|text| call(text)).collect();
            if atomic {
                then.push(call("SET plain v"));
                then.push(call("LPUSH plain x")); // It fails: `commit` sees that nothing has changed.
            }
            let mode = if atomic { Mode::Atomic } else { Mode::Each };
            let done = d.commit(Commit { mode, ..Commit::of(then) });
            prop_assert_eq!(done.is_err(), atomic);
            if let Some(other) = &mut other {
                other.apply(d.entries.last().unwrap(), &mut Outputs::default());
                prop_assert_eq!(other.digest(), d.machine.digest());
                prop_assert_eq!(other.trail(), d.machine.trail());
            }
        }
    }
}

/// A driver whose keyspaces are emptied at once, however small.
fn emptying() -> Driver {
    let mut d = Driver::emptying(0);
    d.send(CommandBody::RaiseVersion { to: 2 });
    d
}

/// What every reader sees of a few names.
fn seen(machine: &Machine) -> Vec<String> {
    let mut all =
        vec![format!("{:?}", ask(machine, "DBSIZE")), format!("{:?}", ask(machine, "SCAN 0 COUNT 1000"))];
    for name in ["a", "b", "c", "d", "e", "f"] {
        for command in ["TYPE", "PTTL", "DUMP"] {
            let (mut session, words) = (Session::new(Keyspace::DEFAULT), words(&format!("{command} {name}")));
            all.push(format!(
                "{command} {name}: {:?}",
                machine.call(Times::default(), &mut session, &words, 7)
            ));
        }
    }
    let range = KeyRange { start: "".into(), end: None };
    let read = RangeRead::of(range);
    all.push(format!(
        "{:?}",
        machine.range(&read).map(|found| found
            .keys
            .into_iter()
            .map(|kv| (kv.key, kv.value))
            .collect::<Vec<_>>())
    ));
    all
}

#[test]
fn an_emptied_keyspace_is_gone_at_once_and_its_memory_comes_back_with_later_entries() {
    let mut d = driver();
    let fill = |d: &mut Driver| {
        for from in (0..9_000).step_by(1_000) {
            let mset = (from..from + 1_000).fold("MSET".to_owned(), |text, at| format!("{text} k{at} v"));
            d.entry(vec![Command::new(
                "anonymous".into(),
                CommandBody::Commit { commit: Commit::of(vec![call(&mset)]) },
            )]);
        }
        d.each(&[
            "PEXPIRE k7 500",
            "HSET h f v",
            "HPEXPIRE h 700 FIELDS 1 f",
            "XADD x 1-1 f v",
            "SADD s a b",
        ]);
    };
    fill(&mut d);
    d.say("FLUSHALL");
    assert!(d.machine.sweeps() && d.events.contains(&Event::Flushed { space: Keyspace::DEFAULT }));
    assert_eq!(d.ask("DBSIZE"), Reply::integer(0));
    for name in ["k7", "k8999", "h", "x", "s"] {
        assert_eq!(d.ask(&format!("EXISTS {name}")), Reply::integer(0), "{name}");
    }
    assert_eq!(d.ask("RANDOMKEY"), Reply::Nil);
    // What has fallen ends nobody's time, and is written over as if it were not there.
    assert_eq!(d.say("HSET k8 f v"), Reply::integer(1));
    assert_eq!(d.say("SADD h m"), Reply::integer(1));
    assert_eq!(d.say("XADD s 1-1 f v"), Reply::bulk("1-1"));
    d.restore_both();
    d.sleep(1_000);
    assert_eq!(d.ask("DBSIZE"), Reply::integer(3));
    let mut entries = 0;
    while d.machine.sweeps() {
        d.sleep(1);
        entries += 1;
        assert!(entries < 10, "each entry frees a part");
    }
    assert_eq!(seen(&d.machine)[0], format!("{:?}", Reply::integer(3)));
    assert_eq!(d.machine.sizes().keys, 3);
    fill(&mut d);
    assert_eq!(d.ask("DBSIZE"), Reply::integer(9_003), "the new s and h stayed, x and all k but one are new");
}

#[test]
fn a_refused_commit_gives_an_emptied_keyspace_back() {
    let mut d = emptying();
    d.each(&["SET a 1", "HSET b f v", "SADD c x", "SET d 1 PX 90000", "XADD e 1-1 f v"]);
    d.each(&["FLUSHDB", "SET a 1", "HSET b f v"]);
    let before = seen(&d.machine);
    for fails in ["LPUSH a x", "INCR b"] {
        let then = [
            "SET f 1",
            "SET d 1",
            "FLUSHDB",
            "HSET a f v",
            "SET b 1",
            "DEL d",
            "SADD c y",
            "FLUSHDB",
            "SET a 2",
            "SET b 2",
        ];
        let then = then.iter().chain([&"LPUSH a x", &fails]).map(|text| call(text)).collect();
        d.commit(Commit::of(then)).unwrap_err();
        assert_eq!(seen(&d.machine), before);
    }
}

#[test]
fn who_watches_an_emptied_keyspace_is_told_to_begin_anew_and_misses_nothing_after() {
    let mut d = emptying();
    d.each(&["SET a 1", "SET b 1"]);
    let since = d.machine.revision();
    let single = |name: &str| KeyRange::single(name.into());
    d.each(&["SET a 2", "FLUSHDB", "SET b 2"]);
    let emptied = d.machine.revision();
    for name in ["a", "b", "never"] {
        let guard = Guard::RangeUnchanged { range: single(name), since };
        assert!(matches!(d.refuses(guard), GuardFailed::RangeUnknown { .. }), "{name}");
        assert!(matches!(d.machine.changes(&single(name), since.next(), 9), Err(OpError::Compacted { .. })));
    }
    assert!(matches!(d.machine.get_at(&"a".into(), since), Err(OpError::Compacted { .. })));
    assert_eq!(d.machine.get_at(&"a".into(), emptied), Ok(None));
    assert_eq!(d.machine.get_at(&"b".into(), emptied).unwrap().unwrap().version, Version(1), "a new key");
    d.say("SET a 3");
    let told = d.machine.changes(&single("a"), emptied.next(), 9).unwrap().changes;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].prev.clone(), told[0].now.clone().map(|kv| kv.version)), (None, Some(Version(1))));
    d.passes(Guard::RangeUnchanged { range: single("b"), since: emptied });
}

#[test]
fn what_changes_beside_a_flush_is_told_whole() {
    let mut d = emptying();
    d.each(&["SET a 1", "SET b 1", "SET c 1", "SET d 1 PX 5"]);
    let since = d.machine.revision();
    let other = Op::Call { space: Keyspace(1), words: words("SET x 1"), record: None };
    let commits = [vec![other], vec![call("SET a 2")], vec![call("FLUSHDB")], vec![call("SET b 2")]];
    let command = |then| Command::new("anonymous".into(), CommandBody::Commit { commit: Commit::of(then) });
    d.entry(commits.map(command).to_vec());
    let touched: Vec<String> =
        d.machine.touched_since(since.next()).map(|key| key.name.to_string()).collect();
    assert_eq!(touched, ["x", "a", "b"]);
    assert!(d.events.contains(&Event::Flushed { space: Keyspace::DEFAULT }));
    assert!(d.machine.compacted() > since, "and the others are not known to be as they were");
}

#[test]
fn a_key_that_fell_does_not_expire() {
    let mut machine = Machine::new(1).with_empty_whole(1);
    machine.listen(true);
    let mut out = Outputs::default();
    let mut apply = |time_ms: u64, bodies: Vec<CommandBody>| {
        let commands = bodies.into_iter().map(|body| Command::new("anonymous".into(), body)).collect();
        let index = machine.applied().next();
        let (wall, time) = (WallTime(1_000 + time_ms), LogTime(time_ms * 1_000_000));
        let entry = Entry {
            index,
            term: Term(1),
            wall,
            time,
            seed: index.0,
            machine_version: 1,
            commands,
            origins: vec![],
            decided: vec![],
        };
        out.clear();
        machine.apply(&entry, &mut out);
        let expired = |event: &&Event| matches!(event, Event::Happened { event: "expired", .. });
        (out.events.iter().filter(expired).count(), machine.revision())
    };
    let commit =
        |text: &str| CommandBody::Commit { commit: Commit::of(text.split("; ").map(call).collect()) };
    apply(1, vec![CommandBody::RaiseVersion { to: 2 }]);
    apply(
        1,
        vec![commit(
            "SET a 1 PX 50; SET b 1 PX 50; SET c 1 PX 50; SET d 1 PX 50; SET e 1 PX 50; SET f 1 PX 50",
        )],
    );
    apply(2, vec![commit("FLUSHDB; SET g 1 PX 50")]);
    let (_, before) = apply(3, vec![commit("GET x")]);
    let (expired, after) = apply(60, vec![]);
    assert_eq!((expired, after), (1, before.next()), "only g");
}

/// Runs steps where keyspaces are emptied at once, and where key by key, and compares what readers see.
fn emptied_alike(steps: Vec<(usize, usize, u64, bool)>) {
    let (mut at_once, mut one_by_one) = (emptying(), driver());
    for (what, name, rest, whole) in steps {
        let name = ["a", "b", "c", "d", "e", "f"][name];
        let text = match what {
            0 | 1 => format!("SET {name} {rest}"),
            2 => format!("HSET {name} f{rest} v"),
            3 => format!("SADD {name} m{rest}"),
            4 => format!("PEXPIRE {name} {}", 1 + rest * 40),
            5 => format!("HPEXPIRE {name} {} FIELDS 1 f{rest}", 1 + rest * 30),
            6 => format!("DEL {name}"),
            7 => format!("RENAME {name} {}", ["a", "b", "c", "d"][rest as usize]),
            8 => format!("XADD {name} * f v"),
            9 => format!("PEXPIREAT {name} {}", at_once.wall_ms + 1 + rest * 40),
            10 | 11 => "FLUSHDB".into(),
            12 => format!("COPY {name} {} REPLACE", ["c", "d", "e", "f"][rest as usize]),
            _ => format!("INCR {name}"),
        };
        let mode = if whole { Mode::Atomic } else { Mode::Each };
        for d in [&mut at_once, &mut one_by_one] {
            d.pass(rest * 7);
        }
        let commit = || Commit {
            mode,
            ..Commit::of(vec![call("SET a 0"), call(&text), call(&format!("LPUSH {name} x"))])
        };
        let result = |d: &mut Driver| format!("{:?}", d.commit(commit()).map(|committed| committed.results));
        assert_eq!(result(&mut at_once), result(&mut one_by_one));
        if what == 13 {
            at_once.restore_both();
        }
        let (a, b) = (seen(&at_once.machine), seen(&one_by_one.machine));
        // Slots are free a little later, so that a scan may go in another order.
        assert_eq!(&a[0], &b[0]);
        assert_eq!(&a[2..], &b[2..]);
    }
}

#[test]
fn a_snapshot_can_be_read_when_there_are_fewer_slots_than_at_the_flush_before() {
    emptied_alike(vec![
        (4, 4, 0, false),
        (0, 0, 0, false),
        (0, 1, 0, false),
        (10, 5, 0, false),
        (8, 5, 0, false),
        (0, 2, 0, false),
        (0, 0, 0, true),
        (12, 2, 1, false),
        (0, 0, 0, true),
        (0, 0, 0, false),
        (10, 0, 0, false),
        (0, 0, 0, true),
        (10, 4, 0, false),
        (0, 0, 0, false),
        (0, 0, 0, false),
        (0, 0, 0, false),
        (0, 2, 0, false),
        (4, 5, 0, false),
        (0, 0, 0, false),
        (0, 0, 0, false),
        (0, 1, 0, false),
        (0, 0, 0, false),
        (10, 0, 0, false),
        (7, 2, 3, true),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Emptied at once or key by key: nobody who reads can tell, whatever goes on meanwhile.
    #[test]
    fn emptying_at_once_shows_as_deleting_every_key(
        steps in proptest::collection::vec((0usize..14, 0usize..6, 0u64..4, any::<bool>()), 1..80),
    ) {
        emptied_alike(steps);
    }
}

#[test]
fn a_commit_over_its_budget_is_refused_whole_in_every_mode() {
    let mut d = driver();
    let elements =
        |from: u32| (from..from + 10_000).fold("SADD s".to_owned(), |text, at| format!("{text} {at}"));
    for from in (0..50_000).step_by(10_000) {
        d.say(&elements(from));
    }
    let heavy = |times: usize| vec![call("SUNIONSTORE t s"); times];
    for mode in [Mode::Atomic, Mode::Each] {
        let few = Commit { mode, ..Commit::of(heavy(1)) };
        d.commit(few).expect("within the budget");
        let mut then = vec![call("SET before 1")];
        then.extend(heavy(20));
        let refused = d.commit(Commit { mode, ..Commit::of(then) }).unwrap_err();
        let Refusal::Operation { error, .. } = refused else { panic!("{refused}") };
        assert!(error.to_string().contains("a commit may touch 250000"), "{error}");
        assert_eq!(d.ask("EXISTS before"), Reply::integer(0), "nothing of it happened");
    }
    // What only came together is judged apart.
    let outcome = d.outcome(Commit { mode: Mode::Apart, ..Commit::of(heavy(20)) });
    let Outcome::Committed { committed } = outcome else { panic!("{outcome:?}") };
    assert!(
        committed
            .results
            .iter()
            .all(|result| matches!(result, OpResult::Reply { reply: Reply::Integer { .. } }))
    );
    // Other protocols' operations count too.
    let all = RangeRead::of(KeyRange { start: "".into(), end: None });
    d.run((0..2_000).map(|at| put(&format!("k{at}"), "v")).collect());
    d.run(vec![Op::Range { read: all.clone() }; 50]);
    let refused = d.commit(Commit::of(vec![Op::Range { read: all }; 200])).unwrap_err();
    assert!(matches!(refused, Refusal::Operation { error: OpError::Range { .. }, .. }), "{refused}");
}

#[test]
fn many_random_picks_are_handed_out_in_slices_and_are_those_of_a_single_answer() {
    let mut d = driver();
    let ten = |verb: &str, element: &dyn Fn(u32) -> String| {
        (0..10_000).fold(verb.to_owned(), |text, at| format!("{text} {}", element(at)))
    };
    d.say(&ten("HSET h", &|at| format!("f{at} v{at}")));
    d.say(&ten("SADD s", &|at| format!("m{at}")));
    d.say(&ten("ZADD z", &|at| format!("{at} m{at}")));
    for text in [
        "HRANDFIELD h 5000",
        "HRANDFIELD h -5000 WITHVALUES",
        "SRANDMEMBER s 5000",
        "SRANDMEMBER s -5000",
        "ZRANDMEMBER z 5000",
        "ZRANDMEMBER z -5000 WITHSCORES",
    ] {
        let (mut session, mut long) = (Session::new(Keyspace::DEFAULT), None);
        let (rights, times) = (quorate_machine::Rights::Everything, Times::default());
        d.machine.call_long(&rights, times, &mut session, &words(text), 7, &mut long).unwrap();
        let mut long = long.unwrap_or_else(|| panic!("{text} is handed out"));
        let items = |reply: Reply| match reply {
            Reply::Array { items } => (false, items.0),
            Reply::Pairs { items } => (true, items.0),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(long.left(), 5000);
        let (of, mut all) = items(long.next(0));
        while long.left() > 0 {
            let before = long.left();
            all.extend(items(long.next(700)).1);
            assert!(long.left() < before && before - long.left() <= 700, "{text}");
        }
        assert_eq!((of, all), items(ask(&d.machine, text)), "{text}");
    }
}
