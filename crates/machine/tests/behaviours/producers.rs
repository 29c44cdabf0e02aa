//! Producers that number their batches: what comes twice is appended once.

use crate::common::*;
use quorate_types::*;

fn begin(d: &mut Driver) -> ProducerId {
    match d.op(Op::Produce { produce: Box::new(Produce::Begin {}) }) {
        OpResult::Producer { producer, epoch: 0 } => producer,
        other => panic!("a number, not {other:?}"),
    }
}

/// A batch of so many records.
fn numbered(stream: &str, partition: u32, by: Numbered, records: u32) -> Op {
    let one = |_| Record { key: Some("k".into()), value: Some("v".into()), headers: vec![] };
    let append = Append {
        stream: stream.into(),
        partition: PartitionChoice::Number { partition },
        format: Format::Records,
        records,
        payload: record::encode(&(0..records).map(one).collect::<Vec<_>>()),
        create: false,
    };
    Op::Produce { produce: Box::new(Produce::Append { append, by }) }
}

fn by(producer: ProducerId, epoch: u16, first: u32) -> Numbered {
    Numbered { producer, epoch, first }
}

fn stream(name: &str, compact: bool) -> Op {
    let settings = StreamSettings { partitions: 2, compact, ..StreamSettings::default() };
    Op::CreateStream { stream: name.into(), settings }
}

#[track_caller]
fn offset(d: &mut Driver, op: Op) -> u64 {
    match d.op(op) {
        OpResult::Appended { first, .. } => first.0,
        other => panic!("an offset, not {other:?}"),
    }
}

#[track_caller]
fn refused(d: &mut Driver, op: Op) -> ProduceError {
    match d.fails(op) {
        OpError::Produce { why } => why,
        other => panic!("{other}"),
    }
}

fn order(producer: ProducerId, wanted: u32, offered: u32) -> ProduceError {
    ProduceError::Order { producer, wanted, offered }
}

#[test]
fn a_batch_that_comes_again_is_answered_as_it_was_and_appended_once() {
    for compact in [false, true] {
        let mut d = Driver::new();
        d.op(stream("s", compact));
        let (a, b) = (begin(&mut d), begin(&mut d));
        assert_ne!(a, b);
        assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 0), 3)), 0);
        assert_eq!(offset(&mut d, numbered("s", 0, by(b, 0, 0), 1)), 3);
        assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 3), 2)), 4);
        let revision = d.machine.revision();
        assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 0), 3)), 0, "the first one again");
        assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 3), 2)), 4, "the last one again");
        assert_eq!(offset(&mut d, numbered("s", 0, by(b, 0, 0), 1)), 3);
        assert_eq!(d.machine.revision(), revision, "nothing has changed");
        assert_eq!(d.machine.stream(&"s".into()).unwrap().partitions[0].next, Offset(6));
        assert!(d.events.is_empty(), "nobody is woken for nothing");
        // Each partition is counted for itself.
        assert_eq!(offset(&mut d, numbered("s", 1, by(a, 0, 0), 1)), 0);
        d.restart();
        assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 3), 2)), 4, "a restart forgets nothing");
        assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 5), 1)), 6);
    }
}

#[test]
fn five_batches_are_remembered_and_gaps_are_refused() {
    let mut d = Driver::new();
    d.op(stream("s", false));
    let a = begin(&mut d);
    for first in 0..6 {
        offset(&mut d, numbered("s", 0, by(a, 0, first), 1));
    }
    for first in 1..6 {
        assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, first), 1)), u64::from(first));
    }
    assert_eq!(refused(&mut d, numbered("s", 0, by(a, 0, 0), 1)), order(a, 6, 0), "nobody knows the sixth");
    assert_eq!(refused(&mut d, numbered("s", 0, by(a, 0, 7), 1)), order(a, 6, 7), "one is missing");
    assert_eq!(
        refused(&mut d, numbered("s", 0, by(a, 0, 5), 2)),
        order(a, 6, 5),
        "another batch of that number"
    );
    let next = ProducerId(a.0 + (1 << 20));
    assert_eq!(
        refused(&mut d, numbered("s", 0, by(next, 0, 0), 1)),
        ProduceError::Unknown { producer: next },
        "nobody was given it"
    );
    assert_eq!(refused(&mut d, numbered("s", 1, by(a, 0, 1), 1)), order(a, 0, 1), "its first one is missing");
    assert!(matches!(d.fails(numbered("s", 2, by(a, 0, 0), 1)), OpError::PartitionMissing { .. }));
    assert!(matches!(d.fails(numbered("none", 0, by(a, 0, 0), 1)), OpError::StreamMissing { .. }));
}

#[test]
fn a_later_life_counts_from_0_and_fences_the_earlier_ones_off() {
    let mut d = Driver::new();
    d.op(stream("s", false));
    let a = begin(&mut d);
    offset(&mut d, numbered("s", 0, by(a, 0, 0), 2));
    assert_eq!(refused(&mut d, numbered("s", 0, by(a, 2, 2), 1)), order(a, 0, 2));
    assert_eq!(offset(&mut d, numbered("s", 0, by(a, 2, 0), 2)), 2, "the same numbers in another life");
    let fenced = ProduceError::Epoch { producer: a, found: 2, offered: 1 };
    assert_eq!(refused(&mut d, numbered("s", 0, by(a, 1, 0), 2)), fenced);
    assert_eq!(offset(&mut d, numbered("s", 0, by(a, 2, 0), 2)), 2);
}

#[test]
fn numbers_go_round() {
    let mut d = Driver::new();
    d.op(stream("s", false));
    let a = begin(&mut d);
    let day = 24 * 3600 * 1000;
    d.sleep(day);
    // As an old producer goes on that was forgotten.
    offset(&mut d, numbered("s", 0, by(a, 0, SEQUENCE_MAX - 1), 3));
    assert_eq!(refused(&mut d, numbered("s", 0, by(a, 0, 0), 1)), order(a, 1, 0));
    assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 1), 1)), 3);
    assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, SEQUENCE_MAX - 1), 3)), 0);
}

#[test]
fn who_is_silent_for_a_day_is_forgotten_and_no_earlier() {
    let mut d = Driver::new();
    d.op(stream("s", false));
    let a = begin(&mut d);
    offset(&mut d, numbered("s", 0, by(a, 0, 0), 1));
    let day = 24 * 3600 * 1000;
    d.sleep(day - 1);
    assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 0), 1)), 0, "its answer is kept");
    d.sleep(1);
    assert_eq!(
        offset(&mut d, numbered("s", 0, by(a, 0, 0), 1)),
        1,
        "what comes again so late is taken for new"
    );
    d.sleep(day - 1);
    assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 1), 1)), 2, "each batch begins the day anew");
    d.sleep(day - 1);
    assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 1), 1)), 2);
}

#[test]
fn a_commit_that_is_refused_leaves_the_producer_where_it_was() {
    let mut d = Driver::new();
    d.op(stream("s", false));
    let a = begin(&mut d);
    let commit = Commit::of(vec![
        Op::Produce { produce: Box::new(Produce::Begin {}) },
        numbered("s", 0, by(a, 0, 0), 1),
        delete("nothing is wrong with that"),
        Op::Cancel { task: "there is none".into() },
    ]);
    d.commit(commit).unwrap_err();
    assert_eq!(begin(&mut d).0 >> 20, (a.0 >> 20) + 1, "a number that nobody heard of is given to the next");
    assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 0), 1)), 0);
    // Two of one commit see each other; with each for itself, one that is refused does not hold the others up.
    let ops = vec![
        numbered("s", 0, by(a, 0, 1), 1),
        numbered("s", 0, by(a, 0, 3), 1),
        numbered("s", 0, by(a, 0, 2), 1),
        numbered("s", 0, by(a, 0, 1), 1),
    ];
    let results = d.commit(Commit { mode: Mode::Apart, ..Commit::of(ops) }).unwrap().results;
    let appended = |first| OpResult::Appended { partition: 0, first: Offset(first), next: Offset(first + 1) };
    assert_eq!(results[0], appended(1));
    assert_eq!(results[1], OpResult::Failed { error: OpError::Produce { why: order(a, 2, 3) } });
    assert_eq!(results[2..], [appended(2), appended(1)]);
}

#[test]
fn a_stream_of_the_same_name_knows_nothing_of_the_one_before() {
    let mut d = Driver::new();
    d.op(stream("s", false));
    let a = begin(&mut d);
    offset(&mut d, numbered("s", 0, by(a, 0, 0), 2));
    d.op(Op::DeleteStream { stream: "s".into() });
    d.op(stream("s", false));
    assert_eq!(refused(&mut d, numbered("s", 0, by(a, 0, 2), 2)), order(a, 0, 2));
    assert_eq!(offset(&mut d, numbered("s", 0, by(a, 0, 0), 2)), 0);
}
