//! Transactions of producers: batches that take their places together, or never.

use crate::common::*;
use quorate_machine::Event;
use quorate_types::*;

fn produce(produce: Produce) -> Op {
    Op::Produce { produce: Box::new(produce) }
}

fn take_over(name: &str, known: Option<(ProducerId, u16)>) -> Op {
    produce(Produce::TakeOver { name: name.into(), timeout: Millis(60_000), known })
}

#[track_caller]
fn own(d: &mut Driver, name: &str) -> Author {
    own_known(d, name, None)
}

#[track_caller]
fn own_known(d: &mut Driver, name: &str, known: Option<(ProducerId, u16)>) -> Author {
    match d.op(take_over(name, known)) {
        OpResult::Producer { producer, epoch } => Author { name: name.into(), producer, epoch },
        other => panic!("a number, not {other:?}"),
    }
}

fn enlist(author: &Author, parts: &[(&str, u32)]) -> Op {
    let parts = parts.iter().map(|(stream, partition)| ((*stream).into(), *partition)).collect();
    produce(Produce::Enlist { author: author.clone(), parts, groups: vec![] })
}

fn batch(stream: &str, partition: u32, texts: &[&str]) -> Append {
    let one = |text: &&str| Record {
        key: Some((*text).into()),
        value: Some(bytes::Bytes::from((*text).to_owned())),
        headers: vec![],
    };
    Append {
        stream: stream.into(),
        partition: PartitionChoice::Number { partition },
        format: Format::Records,
        records: texts.len() as u32,
        payload: record::encode(&texts.iter().map(one).collect::<Vec<_>>()),
        create: false,
    }
}

fn hold(author: &Author, first: u32, append: Append) -> Op {
    let by = Numbered { producer: author.producer, epoch: author.epoch, first };
    produce(Produce::Hold { name: author.name.clone(), append, by })
}

fn end(author: &Author, commits: bool) -> Op {
    produce(Produce::End { author: author.clone(), commits })
}

fn stream(name: &str, compact: bool) -> Op {
    let settings = StreamSettings { partitions: 2, compact, ..StreamSettings::default() };
    Op::CreateStream { stream: name.into(), settings }
}

fn next(d: &Driver, stream: &str, partition: usize) -> u64 {
    d.machine.stream(&stream.into()).unwrap().partitions[partition].next.0
}

#[track_caller]
fn refused(d: &mut Driver, op: Op) -> ProduceError {
    match d.fails(op) {
        OpError::Produce { why } => why,
        other => panic!("{other}"),
    }
}

fn fenced(author: &Author, found: u16) -> ProduceError {
    ProduceError::Epoch { producer: author.producer, found, offered: author.epoch }
}

fn not_open(name: &str) -> ProduceError {
    ProduceError::NotOpen { name: name.into() }
}

/// Payloads that the log must keep.
fn kept(d: &Driver) -> Vec<PayloadRef> {
    d.machine.live_payloads(LogIndex(0), LogIndex(u64::MAX))
}

#[test]
fn what_a_transaction_holds_is_there_all_at_once_and_in_order() {
    for compact in [false, true] {
        let mut d = Driver::new();
        d.run(vec![stream("a", compact), stream("b", compact)]);
        let me = own(&mut d, "tx");
        d.op(enlist(&me, &[("a", 0), ("b", 1)]));
        assert_eq!(d.op(hold(&me, 0, batch("a", 0, &["1", "2"]))), OpResult::Done {});
        d.op(hold(&me, 0, batch("b", 1, &["x"])));
        d.op(hold(&me, 2, batch("a", 0, &["3"])));
        d.op(Op::Append { append: batch("a", 0, &["of another"]) });
        let revision = d.machine.revision();
        assert_eq!((next(&d, "a", 0), next(&d, "b", 1)), (1, 0), "nothing of it is seen");
        assert_eq!(kept(&d).len(), 4, "and all of it is kept");
        d.restart();
        d.op(end(&me, true));
        assert_eq!((next(&d, "a", 0), next(&d, "b", 1)), (4, 1));
        assert_eq!(d.machine.revision().0, revision.0 + 1, "one change");
        let grown = |stream: &str, partition| Event::StreamAppended { stream: stream.into(), partition };
        assert_eq!(d.events, [grown("a", 0), grown("b", 1)], "each is told of once");
        let found = d.machine.records(&"a".into(), 0, Offset(1), 100, 1 << 20).unwrap().batches;
        assert_eq!(
            found.iter().map(|batch| batch.records).collect::<Vec<_>>(),
            [2, 1],
            "in the order they came"
        );
        assert_eq!(found[0].at, kept(&d)[0], "the bytes lie where they were logged first");
        assert_eq!(found[0].wall.0, d.wall_ms, "the time of a record is that of the end");
        assert_eq!(kept(&d).len(), 4);
        d.restart();
    }
}

#[test]
fn what_is_dropped_was_never_there_and_its_numbers_go_on() {
    let mut d = Driver::new();
    d.op(stream("a", false));
    let me = own(&mut d, "tx");
    d.op(enlist(&me, &[("a", 0)]));
    d.op(hold(&me, 0, batch("a", 0, &["1", "2"])));
    let revision = d.machine.revision();
    d.op(end(&me, false));
    assert_eq!((next(&d, "a", 0), d.machine.revision()), (0, revision));
    assert!(kept(&d).is_empty(), "the log may forget it");
    d.op(enlist(&me, &[("a", 0)]));
    d.op(hold(&me, 2, batch("a", 0, &["3"])));
    d.op(end(&me, true));
    assert_eq!(next(&d, "a", 0), 1);
}

#[test]
fn what_is_sent_again_happens_once() {
    let mut d = Driver::new();
    d.op(stream("a", false));
    let me = own(&mut d, "tx");
    assert_eq!(refused(&mut d, end(&me, true)), not_open("tx"), "none has begun");
    d.run(vec![enlist(&me, &[("a", 0)]), enlist(&me, &[("a", 0)])]);
    d.op(hold(&me, 0, batch("a", 0, &["1"])));
    assert_eq!(d.op(hold(&me, 0, batch("a", 0, &["1"]))), OpResult::Done {});
    d.op(end(&me, true));
    d.op(end(&me, true));
    assert_eq!(d.op(hold(&me, 0, batch("a", 0, &["1"]))), OpResult::Done {}, "late, and known");
    assert_eq!(next(&d, "a", 0), 1);
    assert_eq!(refused(&mut d, end(&me, false)), not_open("tx"), "it has ended well");
    d.op(enlist(&me, &[("a", 0)]));
    d.op(end(&me, false));
    d.op(end(&me, false));
    assert_eq!(refused(&mut d, end(&me, true)), not_open("tx"), "it was dropped");
}

#[test]
fn who_takes_a_name_over_fences_the_earlier_one_off_and_drops_what_it_had_open() {
    let mut d = Driver::new();
    d.op(stream("a", false));
    let old = own(&mut d, "tx");
    d.op(enlist(&old, &[("a", 0)]));
    d.op(hold(&old, 0, batch("a", 0, &["lost"])));
    let new = own(&mut d, "tx");
    assert_eq!((new.producer, new.epoch), (old.producer, old.epoch + 1));
    assert!(kept(&d).is_empty());
    for op in [enlist(&old, &[("a", 0)]), hold(&old, 1, batch("a", 0, &["late"])), end(&old, true)] {
        assert_eq!(refused(&mut d, op), fenced(&old, new.epoch));
    }
    d.op(enlist(&new, &[("a", 0)]));
    d.op(hold(&new, 0, batch("a", 0, &["new"])));
    d.op(end(&new, true));
    assert_eq!(next(&d, "a", 0), 1);
    // Another name is another producer, who cannot speak for this one.
    let other = own(&mut d, "other");
    let forged = Author { name: "tx".into(), ..other.clone() };
    let wanted = ProduceError::OtherNumber { name: "tx".into(), producer: other.producer };
    assert_eq!(refused(&mut d, enlist(&forged, &[("a", 0)])), wanted);
}

#[test]
fn an_owner_that_asks_for_its_next_life_gets_it_once() {
    let mut d = Driver::new();
    let me = own(&mut d, "tx");
    let is = Some((me.producer, me.epoch));
    let next = own_known(&mut d, "tx", is);
    assert_eq!(next.epoch, me.epoch + 1);
    assert_eq!(own_known(&mut d, "tx", is), next, "its answer was lost");
    let later = own(&mut d, "tx");
    assert_eq!(later.epoch, next.epoch + 1);
    assert_eq!(refused(&mut d, take_over("tx", is)), fenced(&me, later.epoch));
    assert_eq!(
        refused(&mut d, take_over("tx", Some((next.producer, next.epoch)))),
        fenced(&next, later.epoch)
    );
}

#[test]
fn a_name_is_given_another_number_when_its_lives_are_used_up() {
    let mut d = Driver::new();
    d.op(stream("a", false));
    let first = own(&mut d, "tx");
    for _ in 0..u32::from(EPOCH_MAX) - 1 {
        d.machine_op(take_over("tx", None));
    }
    let last = Author { epoch: EPOCH_MAX - 1, ..first.clone() };
    d.op(enlist(&last, &[("a", 0)]));
    d.op(hold(&last, 0, batch("a", 0, &["lost"])));
    let anew = own(&mut d, "tx");
    assert_eq!((anew.producer.0 >> 20, anew.epoch), ((first.producer.0 >> 20) + 1, 0));
    assert!(kept(&d).is_empty());
    let wanted = ProduceError::OtherNumber { name: "tx".into(), producer: first.producer };
    assert_eq!(refused(&mut d, end(&last, true)), wanted);
}

#[test]
fn a_transaction_that_is_open_for_too_long_is_dropped_and_not_earlier() {
    let mut d = Driver::new();
    d.op(stream("a", false));
    let me = own(&mut d, "tx");
    d.op(enlist(&me, &[("a", 0)]));
    d.sleep(59_999);
    d.op(hold(&me, 0, batch("a", 0, &["1"])));
    assert_eq!(d.machine.next_due().0.map(|due| due.0 / 1_000_000), Some(60_000));
    d.sleep(1);
    assert!(kept(&d).is_empty());
    assert_eq!(refused(&mut d, end(&me, true)), fenced(&me, me.epoch + 1));
    let is = Some((me.producer, me.epoch));
    assert_eq!(refused(&mut d, take_over("tx", is)), fenced(&me, me.epoch + 1));
    let again = own(&mut d, "tx");
    assert_eq!(again.epoch, me.epoch + 2);
}

#[test]
fn a_name_under_which_nothing_is_done_for_a_week_is_forgotten() {
    let mut d = Driver::new();
    d.op(stream("a", false));
    let me = own(&mut d, "tx");
    let week = 7 * 24 * 3600 * 1000;
    d.sleep(week - 1);
    d.op(enlist(&me, &[("a", 0)]));
    d.op(end(&me, true));
    d.sleep(week - 1);
    d.op(end(&me, true));
    d.sleep(1);
    let wanted = ProduceError::OtherNumber { name: "tx".into(), producer: me.producer };
    assert_eq!(refused(&mut d, enlist(&me, &[("a", 0)])), wanted);
    assert_ne!(
        own(&mut d, "tx").producer,
        me.producer,
        "who comes back so late is not taken for who comes now"
    );
}

#[test]
fn only_what_was_named_may_be_changed() {
    let mut d = Driver::new();
    d.op(stream("a", false));
    let me = own(&mut d, "tx");
    assert_eq!(refused(&mut d, hold(&me, 0, batch("a", 0, &["1"]))), not_open("tx"));
    d.op(enlist(&me, &[("a", 0)]));
    assert_eq!(refused(&mut d, hold(&me, 0, batch("a", 1, &["1"]))), not_open("tx"));
    assert!(matches!(d.fails(enlist(&me, &[("a", 2)])), OpError::PartitionMissing { .. }));
    assert!(matches!(d.fails(enlist(&me, &[("none", 0)])), OpError::StreamMissing { .. }));
    d.op(end(&me, true));
    assert_eq!(refused(&mut d, hold(&me, 0, batch("a", 0, &["1"]))), not_open("tx"), "it has ended");
}

#[test]
fn a_stream_that_is_deleted_meanwhile_takes_its_part_along_and_no_other() {
    let mut d = Driver::new();
    d.run(vec![stream("a", false), stream("b", false)]);
    let me = own(&mut d, "tx");
    d.op(enlist(&me, &[("a", 0), ("b", 0)]));
    d.op(hold(&me, 0, batch("a", 0, &["1"])));
    d.op(hold(&me, 0, batch("b", 0, &["1"])));
    let compacted = StreamSettings { partitions: 2, compact: true, ..StreamSettings::default() };
    let alter = Op::AlterStream { stream: "a".into(), settings: compacted };
    assert!(matches!(d.fails(alter.clone()), OpError::WrongType { .. }), "it would need their keys");
    d.op(Op::DeleteStream { stream: "a".into() });
    d.op(stream("a", false));
    d.op(end(&me, true));
    assert_eq!((next(&d, "a", 0), next(&d, "b", 0)), (0, 1), "the new one of that name is another");
    d.op(alter);
}

#[test]
fn what_a_task_holds_lies_where_it_was_logged_with_the_task() {
    let mut d = Driver::new();
    d.op(stream("a", false));
    let me = own(&mut d, "tx");
    d.op(enlist(&me, &[("a", 0)]));
    d.op(schedule("later", 100, Commit::of(vec![hold(&me, 0, batch("a", 0, &["1"]))]), OnRefused::Drop));
    let logged = kept(&d);
    d.sleep(100);
    assert_eq!(d.fired.len(), 1);
    assert_eq!((kept(&d), logged.len()), (logged.clone(), 1));
    d.op(end(&me, true));
    assert_eq!((kept(&d), next(&d, "a", 0)), (logged, 1));
}

#[test]
fn what_one_transaction_holds_is_bounded() {
    let mut d = Driver::new();
    d.op(stream("c", true));
    let me = own(&mut d, "tx");
    d.op(enlist(&me, &[("c", 0)]));
    let texts: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    d.op(hold(&me, 0, batch("c", 0, &texts)));
    d.op(hold(&me, 10_000, batch("c", 0, &texts)));
    let over = refused(&mut d, hold(&me, 20_000, batch("c", 0, &["one more"])));
    assert!(matches!(over, ProduceError::TooMuch { found: 20_001, max: 20_000, .. }), "{over}");
    d.op(end(&me, true));
    assert_eq!(next(&d, "c", 0), 20_000);
}

fn hold_offset(author: &Author, partition: u32, offset: u64) -> Op {
    let mark = CommittedOffset { offset: Offset(offset), ..CommittedOffset::default() };
    let offsets = vec![StreamOffsets { stream: "s".into(), partitions: vec![(partition, mark)] }];
    let commit = OffsetCommit { group: "g".into(), by: Membership::default(), offsets };
    produce(Produce::HoldOffsets { author: author.clone(), commit: Box::new(commit) })
}

#[test]
fn a_mark_that_an_open_transaction_holds_is_moving_until_that_ends() {
    let mut d = Driver::new();
    d.op(stream("s", false));
    let me = own(&mut d, "tx");
    let begin = || produce(Produce::Enlist { author: me.clone(), parts: vec![], groups: vec!["g".into()] });
    let moving =
        |d: &Driver| [0, 1].map(|partition| d.machine.is_moving(&"g".into(), &"s".into(), partition));
    let mark = |d: &Driver| d.machine.committed_offset(&"g".into(), &"s".into(), 0).map(|mark| mark.offset.0);

    d.op(begin());
    assert_eq!(moving(&d), [false, false]);
    d.op(hold_offset(&me, 0, 4));
    d.op(hold_offset(&me, 0, 5));
    let zombie = Author { epoch: 7, ..me.clone() };
    assert!(d.commit(Commit::of(vec![hold_offset(&me, 1, 1), end(&zombie, true)])).is_err());
    assert_eq!(moving(&d), [true, false], "what was refused holds nothing");
    assert!(d.commit(Commit::of(vec![end(&me, true), end(&zombie, true)])).is_err());
    assert_eq!((moving(&d), mark(&d)), ([true, false], None), "an end that was refused has ended nothing");
    d.restart();
    assert_eq!(moving(&d), [true, false]);
    d.op(end(&me, false));
    assert_eq!((moving(&d), mark(&d)), ([false, false], None));

    d.op(begin());
    d.op(hold_offset(&me, 0, 4));
    d.op(hold_offset(&me, 0, 5));
    d.op(hold_offset(&me, 1, 1));
    assert_eq!(moving(&d), [true, true]);
    d.op(end(&me, true));
    assert_eq!((moving(&d), mark(&d)), ([false, false], Some(5)));

    d.op(begin());
    d.op(hold_offset(&me, 0, 6));
    d.sleep(60_000);
    assert_eq!((moving(&d), mark(&d)), ([false, false], Some(5)), "one that is open for too long is dropped");
}

#[test]
fn offsets_that_all_open_transactions_hold_are_bounded() {
    let mut d = Driver::new();
    d.op(stream("s", false));
    let many = |author: &Author, count: u32| {
        let mark = CommittedOffset::default();
        let partitions = (0..count).map(|number| (number, mark.clone())).collect();
        let offsets = vec![StreamOffsets { stream: "s".into(), partitions }];
        let commit = OffsetCommit { group: "g".into(), by: Membership::default(), offsets };
        produce(Produce::HoldOffsets { author: author.clone(), commit: Box::new(commit) })
    };
    let begun = |d: &mut Driver, name: &str| {
        let me = own(d, name);
        d.op(produce(Produce::Enlist { author: me.clone(), parts: vec![], groups: vec!["g".into()] }));
        me
    };
    let first = begun(&mut d, "tx-0");
    d.op(many(&first, 10_000));
    for number in 1..10 {
        let me = begun(&mut d, &format!("tx-{number}"));
        d.op(many(&me, 10_000));
    }
    let last = begun(&mut d, "tx-last");
    let over = refused(&mut d, many(&last, 1));
    assert!(matches!(over, ProduceError::TooMuch { found: 100_001, max: 100_000, .. }), "{over}");
    d.op(end(&first, false));
    d.op(many(&last, 1));
}
