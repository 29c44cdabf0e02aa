//! Streams as Redis' commands see them, and as the same streams are to other protocols.

use crate::common::*;
use bytes::Bytes;
use proptest::prelude::*;
use quorate_calls::Session;
use quorate_calls::streams::{refs, resolve, xadd_split};
use quorate_machine::{Event, Machine, Outputs, Times};
use quorate_types::*;
use std::collections::BTreeMap;

fn words(text: &str) -> Vec<Blob> {
    text.split(' ').map(Blob::from).collect()
}

/// As a gateway sends it: the pairs of an XADD travel beside its words.
fn call(text: &str) -> Op {
    let (words, record) = match xadd_split(&words(text)) {
        Some((words, record)) => (words, Some(record)),
        None => (words(text), None),
    };
    Op::Call { space: Keyspace::DEFAULT, words, record }
}

/// As a script sends it: the record is kept in the state.
fn call_of_a_script(text: &str) -> Op {
    Op::Call { space: Keyspace::DEFAULT, words: words(text), record: None }
}

fn driver() -> Driver {
    let mut d = Driver::new();
    d.send(CommandBody::RaiseVersion { to: 2 });
    d
}

/// Where a payload is, in the log or in the state.
fn payload(machine: &Machine, entries: &[Entry], at: PayloadRef) -> Option<Bytes> {
    if let Some(bytes) = machine.inline_payload(at) {
        return Some(bytes);
    }
    let mut found = None;
    for command in entries.iter().find(|entry| entry.index == at.index)?.clone().commands {
        if let CommandBody::Commit { mut commit } = command.body {
            commit.for_each_payload(&mut |payload| {
                if payload.sub == at.sub {
                    found = Some(payload.bytes.clone());
                }
            });
        }
    }
    found
}

fn shown(reply: &Reply) -> String {
    let list = |items: &Replies| items.0.iter().map(shown).collect::<Vec<_>>().join(" ");
    match reply {
        Reply::Nil | Reply::NilArray => "nil".into(),
        Reply::Integer { value } => value.to_string(),
        Reply::Bulk { value } | Reply::Status { text: value } => value.to_string(),
        Reply::Array { items } => format!("[{}]", list(items)),
        Reply::Map { items } | Reply::Named { items } => format!("{{{}}}", list(items)),
        other => format!("{other:?}"),
    }
}

trait Streams {
    fn result(&mut self, op: Op) -> String;
    fn say(&mut self, text: &str) -> String;
    fn ask(&self, text: &str) -> String;
    fn show(&self, reply: Reply) -> String;
}

impl Streams for Driver {
    fn result(&mut self, op: Op) -> String {
        let outcome = self.outcome(Commit { mode: Mode::Each, ..Commit::of(vec![op]) });
        let Outcome::Committed { mut committed } = outcome else { panic!("{outcome:?}") };
        match committed.results.pop().unwrap() {
            OpResult::Reply { reply } => self.show(reply),
            OpResult::Failed { error } => error.to_string(),
            other => panic!("{other:?}"),
        }
    }
    fn say(&mut self, text: &str) -> String {
        self.result(call(text))
    }
    fn ask(&self, text: &str) -> String {
        let mut session = Session::new(Keyspace::DEFAULT);
        match self.machine.call(Times::default(), &mut session, &words(text), 7) {
            Ok(reply) => self.show(reply),
            Err(error) => error.text().to_string(),
        }
    }
    fn show(&self, reply: Reply) -> String {
        shown(&resolve(reply, &mut |at| payload(&self.machine, &self.entries, at)))
    }
}

#[test]
fn records_are_found_by_id_in_order() {
    let mut d = driver();
    assert_eq!(d.say("XADD s 5-1 a 1 b 2"), "5-1");
    assert_eq!(d.say("XADD s 5-* a 3"), "5-2");
    assert_eq!(d.result(call_of_a_script("XADD s 7 a 4")), "7-0");
    assert_eq!(d.ask("XRANGE s - +"), "[[5-1 [a 1 b 2]] [5-2 [a 3]] [7-0 [a 4]]]");
    assert_eq!(d.ask("XRANGE s (5-1 6"), "[[5-2 [a 3]]]");
    assert_eq!(d.ask("XREVRANGE s + - COUNT 1"), "[[7-0 [a 4]]]");
    assert_eq!(d.ask("XREAD COUNT 1 STREAMS s none 5-1 0"), "{s [[5-2 [a 3]]]}");
    assert_eq!(d.ask("XREAD STREAMS s $"), "nil");
    assert!(d.say("XADD s 7-0 a 5").contains("equal or smaller"), "ids only ascend");
    assert_eq!(d.say("XADD s * a 5"), format!("{}-0", d.wall_ms), "the milliseconds are those of the append");
    assert_eq!(d.say("XADD s * a 6"), format!("{}-1", d.wall_ms));
    assert_eq!(d.ask("TYPE s"), "stream");
    assert!(d.say("LPUSH s x").contains("WRONGTYPE"));
    assert!(d.say("XADD s NOMKSTREAM 1-1").contains("wrong number of arguments"));
}

#[test]
fn a_stream_is_one_with_the_stream_of_the_same_name_elsewhere() {
    let mut d = driver();
    d.op(append("s", "from http"));
    let first = format!("{}-0", d.wall_ms);
    assert_eq!(d.ask("XRANGE s - +"), format!("[[{first} [@value from http]]]"));
    d.pass(10);
    assert_eq!(d.say("XADD s * @key k @h:a 1 @value v"), format!("{}-0", d.wall_ms));
    d.op(append("s", "again"));
    assert_eq!(d.ask("XREVRANGE s + - COUNT 1"), format!("[[{}-2 [@value again]]]", d.wall_ms));
    let found = d.machine.records(&"s".into(), 0, Offset(1), 1, 1000).unwrap();
    let bytes = payload(&d.machine, &d.entries, found.batches[0].at).unwrap();
    let seen = record::nth(&bytes, 0).unwrap();
    assert_eq!((seen.key, seen.value.as_deref()), (Some("k".into()), Some(&b"v"[..])));
    assert_eq!(seen.headers, vec![Header { name: "a".into(), value: "1".into() }]);
    assert!(d.events.contains(&Event::StreamAppended { stream: "s".into(), partition: 0 }));
}

#[test]
fn a_removed_record_leaves_a_gap_and_the_front_is_freed() {
    let mut d = driver();
    for at in 1..=5 {
        d.say(&format!("XADD s {at}-0 n {at}"));
    }
    assert_eq!(d.say("XDEL s 3-0 3-0 9-9"), "1");
    assert_eq!(d.ask("XLEN s"), "4");
    assert_eq!(d.ask("XRANGE s 2 4"), "[[2-0 [n 2]] [4-0 [n 4]]]");
    assert_eq!(d.machine.stream(&"s".into()).unwrap().partitions[0].first, Offset(0));
    assert_eq!(d.say("XDEL s 1-0 2-0"), "2");
    assert_eq!(
        d.machine.stream(&"s".into()).unwrap().partitions[0].first,
        Offset(3),
        "dead records go with the front"
    );
    assert_eq!(
        d.machine.live_payloads(LogIndex(0), LogIndex(u64::MAX)).len(),
        2,
        "and the log may clean them"
    );
    assert_eq!(d.say("XTRIM s MAXLEN 1"), "1");
    assert_eq!(d.say("XDEL s 5-0"), "1");
    assert_eq!(d.ask("EXISTS s"), "1", "an empty stream stays");
    assert!(
        d.ask("XINFO STREAM s").contains("last-generated-id 5-0 max-deleted-entry-id 5-0 entries-added 5")
    );
}

#[test]
fn a_record_of_a_batch_of_several_cannot_be_removed_alone() {
    let mut d = driver();
    let record = |text: &'static str| Record { value: Some(Bytes::from(text)), ..Record::default() };
    let payload = record::encode(&[record("a"), record("b"), record("c")]);
    let (stream, format) = ("s".into(), Format::Records);
    let append =
        Append { stream, partition: PartitionChoice::Any, format, records: 3, payload, create: true };
    d.op(Op::Append { append });
    let ms = d.wall_ms;
    assert_eq!(
        d.ask(&format!("XRANGE s {ms}-1 {ms}-2")),
        format!("[[{ms}-1 [@value b]] [{ms}-2 [@value c]]]")
    );
    assert!(d.say(&format!("XDEL s {ms}-1")).contains("batch of 3"));
    assert_eq!(d.say("XTRIM s MAXLEN 1"), "2");
    assert_eq!(d.ask("XRANGE s - +"), format!("[[{ms}-2 [@value c]]]"));
    assert_eq!(d.ask("XLEN s"), "1");
}

#[test]
fn a_stream_is_a_key_unless_another_protocol_protects_it() {
    let mut d = driver();
    d.say("XADD s 1-0 a b");
    d.say("XADD t 1-0 a b");
    let settings = StreamSettings { protected: true, ..StreamSettings::default() };
    d.op(Op::CreateStream { stream: "mine".into(), settings: settings.clone() });
    d.say("XADD mine 1-0 a b");
    assert_eq!(d.ask("DBSIZE"), "2", "a protected stream is not listed");
    assert_eq!(d.ask("EXISTS s mine"), "2");
    for command in ["DEL mine", "SET mine x", "PEXPIRE mine 5", "RENAME mine x"] {
        assert!(d.say(command).contains("protected"), "{command}");
    }
    assert_eq!(d.say("SET t plain"), "OK", "as in Redis, SET overwrites");
    assert!(d.machine.stream(&"t".into()).is_none());
    assert_eq!(d.say("PEXPIRE s 50"), "1");
    d.sleep(50);
    assert_eq!(d.ask("EXISTS s"), "0");
    assert!(d.machine.stream(&"s".into()).is_none());
    d.say("XADD s 1-0 a b");
    assert_eq!(d.say("FLUSHALL"), "OK");
    assert_eq!(d.machine.streams(), vec![Key::from("mine")]);
    d.op(Op::AlterStream { stream: "mine".into(), settings: StreamSettings::default() });
    assert_eq!(d.ask("DBSIZE"), "1");
    let since = d.machine.revision();
    d.say("XADD mine 2-0 a b");
    let guard = Guard::RangeUnchanged { range: KeyRange::single("mine".into()), since };
    d.commit(guarded(vec![guard], vec![put("never", "")])).unwrap_err();
    d.op(Op::DeleteStream { stream: "mine".into() });
    assert_eq!(d.ask("DBSIZE"), "0");
}

#[test]
fn what_scripts_append_is_kept_in_the_state_and_freed_with_its_record() {
    let mut d = driver();
    d.result(call_of_a_script("XADD s 1-0 a 1"));
    let Ok(Reply::Array { items }) =
        d.machine.call(Times::default(), &mut Session::new(Keyspace::DEFAULT), &words("XRANGE s - +"), 0)
    else {
        panic!()
    };
    let at = refs(&items.0[0])[0];
    assert!(d.machine.live_payloads(LogIndex(0), LogIndex(u64::MAX)).is_empty(), "the log has none of it");
    d.restart();
    assert_eq!(d.ask("XRANGE s - +"), "[[1-0 [a 1]]]");
    d.say("XDEL s 1-0");
    assert_eq!(d.machine.inline_payload(at), None);
}

#[test]
fn streams_that_were_there_before_calls_get_their_rows_with_them() {
    let mut d = Driver::new();
    d.op(append("s", "x"));
    d.restart();
    assert_eq!(d.machine.sizes().keys, 0);
    d.send(CommandBody::RaiseVersion { to: 2 });
    assert_eq!(d.ask("DBSIZE"), "1");
    assert_eq!(d.ask("XLEN s"), "1");
}

#[test]
fn a_group_remembers_what_is_pending_of_whom() {
    let mut d = driver();
    for at in 1..=4 {
        d.say(&format!("XADD s {at}-0 n {at}"));
    }
    assert!(d.say("XGROUP CREATE none g 0").contains("requires the key to exist"));
    assert_eq!(d.say("XGROUP CREATE s g 0"), "OK");
    assert!(d.say("XGROUP CREATE s g 0").contains("BUSYGROUP"));
    assert_eq!(d.say("XREADGROUP GROUP g c1 COUNT 2 STREAMS s >"), "{s [[1-0 [n 1]] [2-0 [n 2]]]}");
    assert_eq!(d.say("XREADGROUP GROUP g c2 STREAMS s >"), "{s [[3-0 [n 3]] [4-0 [n 4]]]}");
    assert_eq!(d.say("XREADGROUP GROUP g c2 STREAMS s >"), "nil");
    assert_eq!(d.ask("XPENDING s g"), "[4 1-0 4-0 [[c1 2] [c2 2]]]");
    d.pass(500);
    assert_eq!(d.say("XACK s g 1-0 1-0 9-0"), "1");
    d.restart();
    assert_eq!(d.ask("XPENDING s g - + 10 c1"), "[[2-0 c1 500 1]]");
    assert_eq!(d.say("XREADGROUP GROUP g c1 STREAMS s 0"), "{s [[2-0 [n 2]]]}");
    assert_eq!(d.ask("XPENDING s g IDLE 100 - + 10"), "[[3-0 c2 500 1] [4-0 c2 500 1]]");
    d.say("XDEL s 3-0");
    assert_eq!(d.say("XREADGROUP GROUP g c2 STREAMS s 0"), "{s [[3-0 nil] [4-0 [n 4]]]}");
    assert_eq!(d.say("XCLAIM s g c3 0 2-0 3-0 9-0 JUSTID"), "[2-0]");
    d.pass(1000);
    assert_eq!(d.say("XAUTOCLAIM s g c1 900 0 COUNT 1"), "[4-0 [[2-0 [n 2]]] []]");
    assert_eq!(d.say("XGROUP DELCONSUMER s g c2"), "1");
    assert!(d.ask("XINFO GROUPS s").contains("consumers 2 pending 1 last-delivered-id 4-0"));
    assert_eq!(d.say("XGROUP DESTROY s g"), "1");
    d.sleep(1);
    assert!(d.say("XREADGROUP GROUP g c1 STREAMS s >").contains("NOGROUP"));
    assert_eq!(d.say("XGROUP CREATE s g $"), "OK");
    assert_eq!(d.ask("XPENDING s g"), "[0 nil nil nil]", "nothing is left of the group before");
}

/// What a stream with one group is, said plainly.
#[derive(Default)]
struct Model {
    /// Ids with the value of their one field.
    records: Vec<((u64, u64), u64)>,
    last: (u64, u64),
    read: (u64, u64),
    /// To whom, and how often.
    pending: BTreeMap<(u64, u64), (&'static str, u64)>,
}

impl Model {
    fn show<'a>(records: impl Iterator<Item = &'a ((u64, u64), u64)>) -> String {
        let shown = records.map(|((ms, seq), value)| format!("[{ms}-{seq} [f {value}]]"));
        format!("[{}]", shown.collect::<Vec<_>>().join(" "))
    }
    fn at(&self, id: (u64, u64)) -> Option<&((u64, u64), u64)> {
        self.records.iter().find(|record| record.0 == id)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add((u64, u64)),
    Remove((u64, u64)),
    Keep(usize),
    From((u64, u64)),
    Range((u64, u64), (u64, u64), usize),
    Take(&'static str, usize),
    Acknowledge((u64, u64)),
    Claim(&'static str, (u64, u64)),
}

fn any_step() -> impl Strategy<Value = Step> {
    let id = || (0u64..40, 0u64..3);
    let who = || proptest::sample::select(vec!["c", "d"]);
    prop_oneof![
        6 => id().prop_map(Step::Add),
        3 => id().prop_map(Step::Remove),
        1 => (0usize..9).prop_map(Step::Keep),
        1 => id().prop_map(Step::From),
        4 => (id(), id(), 1usize..9).prop_map(|(from, to, count)| Step::Range(from, to, count)),
        2 => (who(), 1usize..4).prop_map(|(who, count)| Step::Take(who, count)),
        2 => id().prop_map(Step::Acknowledge),
        2 => (who(), id()).prop_map(|(who, id)| Step::Claim(who, id)),
    ]
}

/// Takes a step in both, and compares the answers.
fn take_step(d: &mut Driver, model: &mut Model, step: Step) {
    match step {
        Step::Add(id) => {
            let value = d.index;
            let said = d.say(&format!("XADD s {}-{} f {value}", id.0, id.1));
            assert_eq!(said == format!("{}-{}", id.0, id.1), id > model.last, "{said}");
            if id > model.last {
                model.last = id;
                model.records.push((id, value));
            }
        }
        Step::Remove(id) => {
            let before = model.records.len();
            model.records.retain(|record| record.0 != id);
            assert_eq!(
                d.say(&format!("XDEL s {}-{}", id.0, id.1)),
                (before - model.records.len()).to_string()
            );
        }
        Step::Keep(count) => {
            let cut = model.records.len().saturating_sub(count);
            model.records.drain(..cut);
            assert_eq!(d.say(&format!("XTRIM s MAXLEN {count}")), cut.to_string());
        }
        Step::From(id) => {
            let cut = model.records.iter().filter(|record| record.0 < id).count();
            model.records.drain(..cut);
            assert_eq!(d.say(&format!("XTRIM s MINID {}-{}", id.0, id.1)), cut.to_string());
        }
        Step::Range(from, to, count) => {
            let within = || model.records.iter().filter(|record| (from..=to).contains(&record.0));
            let ((a, b), (x, y)) = (from, to);
            let wanted = Model::show(within().take(count));
            assert_eq!(d.ask(&format!("XRANGE s {a}-{b} {x}-{y} COUNT {count}")), wanted);
            let wanted = Model::show(within().rev().take(count));
            assert_eq!(d.ask(&format!("XREVRANGE s {x}-{y} {a}-{b} COUNT {count}")), wanted);
        }
        Step::Take(who, count) => {
            let new: Vec<_> =
                model.records.iter().filter(|record| record.0 > model.read).take(count).copied().collect();
            let said = d.say(&format!("XREADGROUP GROUP g {who} COUNT {count} STREAMS s >"));
            let wanted =
                if new.is_empty() { "nil".into() } else { format!("{{s {}}}", Model::show(new.iter())) };
            assert_eq!(said, wanted);
            for (id, _) in new {
                model.read = id;
                model.pending.insert(id, (who, 1));
            }
        }
        Step::Acknowledge(id) => {
            let there = model.pending.remove(&id).is_some();
            assert_eq!(d.say(&format!("XACK s g {}-{}", id.0, id.1)), u64::from(there).to_string());
        }
        Step::Claim(who, id) => {
            let said = d.say(&format!("XCLAIM s g {who} 0 {}-{}", id.0, id.1));
            match (model.at(id).copied(), model.pending.get(&id).copied()) {
                (Some(record), Some((_, count))) => {
                    assert_eq!(said, Model::show([record].iter()));
                    model.pending.insert(id, (who, count + 1));
                }
                _ => {
                    // What is pending of a record that is gone is forgotten when it is claimed.
                    assert_eq!(said, "[]");
                    if model.at(id).is_none() {
                        model.pending.remove(&id);
                    }
                }
            }
        }
    }
    assert_eq!(d.ask("XLEN s"), model.records.len().to_string());
    let rows = model.pending.iter().map(|((ms, seq), (who, count))| format!("[{ms}-{seq} {who} 0 {count}]"));
    assert_eq!(d.ask("XPENDING s g - + 1000"), format!("[{}]", rows.collect::<Vec<_>>().join(" ")));
}

/// Calls over few names and ids, so that they meet.
fn any_call() -> impl Strategy<Value = String> {
    let templates = vec![
        "XADD K * f N",
        "XADD K * f N",
        "XADD K I f N",
        "XADD K MAXLEN 5 * a b c d",
        "XADD K MINID I * a N",
        "XDEL K T",
        "XDEL K T T",
        "XTRIM K MAXLEN 3",
        "XTRIM K MINID T",
        "DEL K",
        "SET K v",
        "PEXPIRE K 300",
        "XGROUP CREATE K g 0 MKSTREAM",
        "XGROUP CREATE K g $",
        "XGROUP SETID K g T",
        "XGROUP DESTROY K g",
        "XGROUP CREATECONSUMER K g c",
        "XGROUP DELCONSUMER K g c",
        "XREADGROUP GROUP g c COUNT 2 STREAMS K >",
        "XREADGROUP GROUP g d STREAMS K >",
        "XREADGROUP GROUP g c NOACK STREAMS K >",
        "XREADGROUP GROUP g c STREAMS K 0",
        "XACK K g T T",
        "XCLAIM K g d 0 T T",
        "XCLAIM K g e 50 T FORCE",
        "XAUTOCLAIM K g d 100 0 COUNT 3",
        "XSETID K I",
        "RENAME K L",
        "FLUSHDB",
    ];
    let names = || proptest::sample::select(vec!["a", "b"]);
    (proptest::sample::select(templates), names(), names(), 0u64..1500, 0u64..5).prop_map(
        |(text, key, other, ms, seq)| {
            let fill = |word: &str| match word {
                "K" => key.to_string(),
                "L" => other.to_string(),
                "N" => format!("{ms}"),
                // Ids around those that the clock gives.
                "I" | "T" => format!("{}-{seq}", WALL + ms),
                word => word.to_string(),
            };
            text.split(' ').map(fill).collect::<Vec<_>>().join(" ")
        },
    )
}

fn any_op() -> impl Strategy<Value = Op> {
    let trim = |before| Op::Trim { stream: "a".into(), partition: 0, before: Offset(before) };
    prop_oneof![
        8 => any_call().prop_map(|text| call(&text)),
        2 => any_call().prop_map(|text| call_of_a_script(&text)),
        1 => Just(append("a", "x")),
        1 => (0u64..6).prop_map(trim),
        1 => any::<bool>().prop_map(|protected| Op::AlterStream {
            stream: "b".into(),
            settings: StreamSettings { protected, ..StreamSettings::default() },
        }),
        1 => Just(Op::DeleteStream { stream: "a".into() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn ids_ranges_trims_and_groups_are_those_of_a_simple_model(
        steps in proptest::collection::vec(any_step(), 1..80),
        restart in 0usize..80,
    ) {
        let mut d = driver();
        let mut model = Model::default();
        d.say("XGROUP CREATE s g 0 MKSTREAM");
        for (at, step) in steps.into_iter().enumerate() {
            if at == restart {
                d.restart();
            }
            take_step(&mut d, &mut model, step);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn refused_commits_leave_streams_as_they_were_and_restored_machines_go_on_alike(
        commits in proptest::collection::vec((proptest::collection::vec(any_op(), 1..6), any::<bool>(), 0u64..150), 1..60),
        cut in 0usize..60,
        slice in 1usize..9,
    ) {
        let mut d = driver();
        let mut other: Option<Machine> = None;
        let mut walk = None;
        for (at, (ops, refused, ms)) in commits.into_iter().enumerate() {
            if at == cut {
                let digest = d.machine.digest();
                d.machine.snapshot_begin();
                walk = Some((digest, Vec::new(), d.entries.len()));
            }
            d.pass(ms);
            let mut then = ops;
            if refused {
                then.push(call("LPUSH plain x"));
                then.push(call("INCR plain"));
            }
            // In mode `each` a failed call is taken back alone; nested and atomic, with all of its commit.
            let commit = Commit { mode: if refused { Mode::Atomic } else { Mode::Each }, ..Commit::of(then) };
            let wrapped = Commit { mode: Mode::Each, ..Commit::of(vec![nested(commit), put("always", "x")]) };
            d.outcome(wrapped);
            // The snapshot is taken while all that goes on.
            if let Some((digest, mut chunks, from)) = walk.take() {
                match d.machine.snapshot_next(slice) {
                    Some(chunk) => {
                        chunks.push(chunk);
                        walk = Some((digest, chunks, from));
                    }
                    None => {
                        let mut restored = restore(&chunks, 99);
                        prop_assert_eq!(restored.digest(), digest);
                        for entry in &d.entries[from..] {
                            restored.apply(entry, &mut Outputs::default());
                        }
                        other = Some(restored);
                        continue;
                    }
                }
            }
            if let Some(other) = &mut other {
                other.apply(d.entries.last().unwrap(), &mut Outputs::default());
                prop_assert_eq!(other.digest(), d.machine.digest());
                prop_assert_eq!(other.trail(), d.machine.trail());
            }
        }
    }

    #[test]
    fn a_commit_of_streams_that_is_refused_changes_nothing(
        commits in proptest::collection::vec((proptest::collection::vec(any_op(), 1..6), 0u64..150), 1..30),
    ) {
        let mut d = driver();
        d.say("SET plain v");
        for (ops, ms) in commits {
            d.pass(ms);
            let mut then = vec![call("XADD a * f v"), call("XDEL a 1-1")];
            then.extend(ops.clone());
            then.push(call("LPUSH never x"));
            then.push(call("INCR never"));
            d.commit(Commit::of(then)).unwrap_err(); // It looks at the state before and after.
            d.commit(each(ops)).unwrap();
        }
    }
}
