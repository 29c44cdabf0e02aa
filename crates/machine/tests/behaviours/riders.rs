//! Riders of batches: what decides whether a batch is appended, and what happens to keys with it.

use crate::common::*;
use quorate_types::*;

fn produce(produce: Produce) -> Op {
    Op::Produce { produce: Box::new(produce) }
}

fn batch(text: &str) -> Append {
    let Op::Append { append } = append("s", text) else { unreachable!() };
    Append { partition: PartitionChoice::Number { partition: 0 }, create: false, ..append }
}

fn with(by: Option<Numbered>, text: &str, rider: Commit) -> Op {
    produce(Produce::AppendWith { append: batch(text), by, rider: Box::new(rider) })
}

fn number(d: &mut Driver) -> ProducerId {
    match d.op(produce(Produce::Begin {})) {
        OpResult::Producer { producer, .. } => producer,
        other => panic!("a number, not {other:?}"),
    }
}

fn once(key: &str, fingerprint: u128, rider: Commit) -> Commit {
    let (ttl, fingerprint) = (Millis(60_000), Fingerprint(fingerprint));
    Commit { idempotency: Some(Idempotency { key: key.into(), ttl, fingerprint }), ..rider }
}

fn next(d: &Driver) -> u64 {
    d.machine.stream(&"s".into()).map_or(0, |view| view.partitions[0].next.0)
}

fn appended(result: &OpResult) -> u64 {
    match result {
        OpResult::Appended { first, .. } => first.0,
        other => panic!("appended, not {other:?}"),
    }
}

fn driver() -> Driver {
    let mut d = Driver::new();
    d.op(Op::CreateStream { stream: "s".into(), settings: StreamSettings::default() });
    d.lease(1, 60_000);
    d
}

#[test]
fn a_batch_and_what_rides_with_it_are_one_commit() {
    let mut d = driver();
    let token = d.acquire("l", 1);
    let rider = guarded(vec![fence("l", token), version_is("k", 0)], vec![put("k", "1"), add("n", 2)]);
    let before = d.machine.revision();
    assert_eq!(appended(&d.op(with(None, "a", rider.clone()))), 0);
    assert_eq!((d.value("k").as_deref(), d.value("n").as_deref()), (Some("1"), Some("2")));
    assert_eq!(d.machine.revision(), before.next(), "one revision");
    // The version has moved: neither the batch nor the effects.
    assert!(matches!(d.fails(with(None, "b", rider)), OpError::Guards { .. }));
    assert_eq!((next(&d), d.value("n").as_deref()), (1, Some("2")));
    // An effect that cannot be made refuses the batch too, and names itself: the first of the rider.
    let bad = Commit::of(vec![add("k2", 1), add("s", 1)]);
    assert!(matches!(d.fails(with(None, "b", bad)), OpError::Inner { op: 1, .. }));
    assert_eq!((next(&d), d.value("k2")), (1, None));
}

#[test]
fn in_mode_apart_a_refused_batch_leaves_the_others() {
    let mut d = driver();
    let refused = guarded(vec![version_is("k", 7)], vec![put("k", "x")]);
    let ops = vec![
        with(None, "a", Commit::of(vec![add("n", 1)])),
        with(None, "b", refused),
        with(None, "c", Commit::of(vec![add("n", 1)])),
    ];
    let done = d.commit(Commit { mode: Mode::Apart, ..Commit::of(ops) }).unwrap();
    assert!(matches!(done.results[1], OpResult::Failed { error: OpError::Guards { .. } }));
    assert_eq!((next(&d), d.value("n").as_deref(), d.value("k")), (2, Some("2"), None));
}

#[test]
fn a_batch_that_comes_again_is_answered_as_it_was_whatever_its_guards_say_by_now() {
    let mut d = driver();
    let producer = number(&mut d);
    let by = Some(Numbered { producer, epoch: 0, first: 0 });
    let token = d.acquire("l", 1);
    let rider = guarded(vec![fence("l", token)], vec![add("n", 1)]);
    assert_eq!(appended(&d.op(with(by, "a", rider.clone()))), 0);
    d.op(release("l", token));
    assert_eq!(appended(&d.op(with(by, "a", rider.clone()))), 0, "it has happened");
    assert_eq!(d.value("n").as_deref(), Some("1"), "once");
    let later = Some(Numbered { producer, epoch: 0, first: 1 });
    assert!(matches!(d.fails(with(later, "b", rider)), OpError::Guards { .. }));
    // What was refused was not counted: its number is the next one still.
    assert_eq!(appended(&d.op(with(later, "b", Commit::default()))), 1);
}

#[test]
fn a_known_idempotency_key_answers_another_producer_as_the_first_and_counts_its_batch() {
    let mut d = driver();
    let (one, two) = (number(&mut d), number(&mut d));
    let by = |producer, first| Some(Numbered { producer, epoch: 0, first });
    let rider = || once("order-7", 5, Commit::of(vec![add("n", 1)]));
    assert_eq!(appended(&d.op(with(by(one, 0), "a", rider()))), 0);
    assert_eq!(appended(&d.op(with(by(two, 0), "a", rider()))), 0);
    assert_eq!((next(&d), d.value("n").as_deref()), (1, Some("1")));
    assert_eq!(appended(&d.op(with(by(two, 1), "b", Commit::default()))), 1, "its next batch follows");
    let other = once("order-7", 6, Commit::of(vec![add("n", 1)]));
    assert_eq!(d.fails(with(None, "c", other)), OpError::ClaimOther { key: "order-7".into() });
    // A refused rider keeps no key.
    let refused = once("order-8", 1, guarded(vec![version_is("n", 9)], vec![]));
    d.fails(with(None, "d", refused));
    assert_eq!(appended(&d.op(with(None, "d", once("order-8", 1, Commit::default())))), 2);
    d.restart();
    assert_eq!(appended(&d.op(with(None, "a", rider()))), 0);
}

/// A transaction that is open and may append to the stream.
fn begin(d: &mut Driver, name: &str) -> Author {
    let take = Produce::TakeOver { name: name.into(), timeout: Millis(60_000), known: None };
    let OpResult::Producer { producer, epoch } = d.op(produce(take)) else { unreachable!() };
    let author = Author { name: name.into(), producer, epoch };
    open(d, &author);
    author
}

fn open(d: &mut Driver, author: &Author) {
    let parts = vec![("s".into(), 0)];
    d.op(produce(Produce::Enlist { author: author.clone(), parts, groups: vec!["g".into()] }));
}

fn hold(author: &Author, first: u32, text: &str, rider: Commit) -> Op {
    let by = Numbered { producer: author.producer, epoch: author.epoch, first };
    let name = author.name.clone();
    produce(Produce::HoldWith { name, append: batch(text), by, rider: Box::new(rider) })
}

fn end(author: &Author, commits: bool) -> Op {
    produce(Produce::End { author: author.clone(), commits })
}

#[test]
fn in_a_transaction_riders_are_decided_when_it_ends() {
    let mut d = driver();
    let me = begin(&mut d, "x");
    let token = d.acquire("l", 1);
    let rider = || guarded(vec![fence("l", token)], vec![add("n", 1)]);
    d.op(hold(&me, 0, "a", rider()));
    d.op(hold(&me, 0, "a", rider()));
    d.op(hold(&me, 1, "b", rider()));
    assert_eq!((next(&d), d.value("n")), (0, None), "nothing before the end");
    d.restart();
    d.op(release("l", token));
    assert!(matches!(d.fails(end(&me, true)), OpError::Guards { failed } if failed.len() == 1));
    assert_eq!((next(&d), d.value("n")), (0, None));
    // It is open still: whoever has the lock again may go on, and others drop it.
    assert_eq!(d.machine.transaction(&"x".into()).unwrap().stage, quorate_machine::Stage::Open);
    d.op(end(&me, false));
    open(&mut d, &me);
    let token = d.acquire("l", 1);
    d.op(hold(&me, 2, "c", guarded(vec![fence("l", token)], vec![add("n", 1)])));
    d.op(hold(&me, 3, "d", Commit::of(vec![put("k", "v")])));
    d.op(end(&me, true));
    d.op(end(&me, true));
    assert_eq!((next(&d), d.value("n").as_deref(), d.value("k").as_deref()), (2, Some("1"), Some("v")));
}

#[test]
fn a_transaction_that_is_dropped_leaves_nothing_of_its_riders() {
    let mut d = driver();
    let me = begin(&mut d, "x");
    d.op(hold(&me, 0, "a", Commit::of(vec![put("k", "old")])));
    let me = begin(&mut d, "x");
    d.op(hold(&me, 0, "b", Commit::of(vec![put("l", "new")])));
    d.sleep(61_000);
    d.restart();
    let me = begin(&mut d, "x");
    d.op(hold(&me, 0, "c", Commit::of(vec![put("m", "newest")])));
    d.op(end(&me, true));
    assert_eq!((d.value("k"), d.value("l"), d.value("m").as_deref()), (None, None, Some("newest")));
}

#[test]
fn a_transaction_under_a_known_key_happens_once_and_moves_its_groups_on() {
    let mut d = driver();
    let mark = |offset| {
        let mark = CommittedOffset { offset: Offset(offset), ..CommittedOffset::default() };
        let offsets = vec![StreamOffsets { stream: "s".into(), partitions: vec![(0, mark)] }];
        OffsetCommit { group: "g".into(), by: Membership::default(), offsets }
    };
    for (name, offset) in [("x", 1), ("y", 2)] {
        let me = begin(&mut d, name);
        d.op(hold(&me, 0, "a", once("t", 3, Commit::of(vec![add("n", 1)]))));
        d.op(hold(&me, 1, "b", once("t", 4, Commit::default())));
        let commit = Box::new(mark(offset));
        d.op(produce(Produce::HoldOffsets { author: me.clone(), commit }));
        d.op(end(&me, true));
        assert_eq!((next(&d), d.value("n").as_deref()), (2, Some("1")));
        let found = d.machine.committed_offset(&"g".into(), &"s".into(), 0);
        assert_eq!(found.map(|found| found.offset), Some(Offset(offset)));
    }
    let me = begin(&mut d, "x");
    d.op(hold(&me, 0, "a", once("t", 3, Commit::default())));
    let second = d.fails(hold(&me, 1, "b", once("u", 4, Commit::default())));
    assert_eq!(second, OpError::Produce { why: ProduceError::SecondKey { name: "x".into() } });
    assert_eq!(d.fails(end(&me, true)), OpError::ClaimOther { key: "t".into() }, "half of it is another");
}

#[test]
fn what_a_transaction_holds_in_memory_is_bounded() {
    let mut d = driver();
    let me = begin(&mut d, "x");
    let many = |count| Commit::of(vec![add("n", 1); count]);
    d.op(hold(&me, 0, "a", many(9_999)));
    let found = d.fails(hold(&me, 1, "b", many(2)));
    assert!(matches!(found, OpError::Produce { why: ProduceError::TooMuch { max: 10_000, .. } }));
    let other = begin(&mut d, "y");
    let large = Commit::of(vec![put("k", &"x".repeat(1 << 20)); 4]);
    let found = d.fails(hold(&other, 0, "b", large));
    assert!(matches!(found, OpError::Produce { why: ProduceError::TooMuch { max: 4_194_304, .. } }));
    d.op(end(&me, true));
    assert_eq!((next(&d), d.value("n").as_deref()), (1, Some("9999")));
}
