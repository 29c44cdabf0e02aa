//! Keys: revisions, history and its window, ranges, compaction.

use crate::common::*;
use quorate_types::*;

fn at(d: &Driver, key: &str, revision: u64) -> Result<Option<String>, OpError> {
    let found = d.machine.get_at(&key.into(), Revision(revision))?;
    Ok(found.map(|found| found.value.to_string()))
}

#[test]
fn a_key_counts_its_writes_and_remembers_its_creation() {
    let mut d = Driver::new();
    d.op(put("other", "x"));
    for value in ["a", "b"] {
        d.op(put("k", value));
    }
    let found = d.machine.get(&"k".into()).unwrap();
    assert_eq!(
        (found.version, found.create_revision, found.mod_revision),
        (Version(2), Revision(2), Revision(3))
    );
    d.op(delete("k"));
    d.op(put("k", "c"));
    let again = d.machine.get(&"k".into()).unwrap();
    assert_eq!(
        (again.version, again.create_revision, again.mod_revision),
        (Version(1), Revision(5), Revision(5))
    );
}

#[test]
fn delete_of_nothing_takes_no_revision() {
    let mut d = Driver::new();
    assert_eq!(d.op(delete("k")), OpResult::Deleted { count: 0, prev: vec![] });
    assert_eq!(d.machine.revision(), Revision(0));
    d.op(put("k", "v"));
    assert_eq!(d.op(delete("k")), OpResult::Deleted { count: 1, prev: vec![] });
    assert_eq!(d.op(delete("k")), OpResult::Deleted { count: 0, prev: vec![] });
    assert_eq!(d.machine.revision(), Revision(2));
}

#[test]
fn results_show_what_was_there_before_when_asked() {
    let mut d = Driver::new();
    d.run(vec![put("a", "1"), put("b", "2")]);
    let swap = Op::Put { key: "a".into(), value: "3".into(), lease: LeaseId(0), prev: true };
    let OpResult::Key { found: Some(before) } = d.op(swap) else { panic!("the row before") };
    assert_eq!((before.value, before.version), ("1".into(), Version(1)));
    let OpResult::Deleted { count: 2, prev } = d.op(Op::DeleteRange { range: everything(), prev: true })
    else {
        panic!("two rows")
    };
    assert_eq!(prev.iter().map(|row| row.value.to_string()).collect::<Vec<_>>(), ["3", "2"]);
}

#[test]
fn an_increment_stays_within_its_bounds_and_keeps_the_lease() {
    let mut d = Driver::new();
    d.lease(3, 60_000);
    d.op(put_on("n", "5", 3));
    let bounded = |by| Op::Increment { key: "n".into(), by, min: 0, max: 9 };
    assert_eq!(d.op(bounded(4)), OpResult::Number { value: 9 });
    assert_eq!(
        d.fails(bounded(1)),
        OpError::OutOfBounds { key: "n".into(), found: 9, by: 1, min: 0, max: 9 }
    );
    assert!(matches!(d.fails(bounded(i64::MAX)), OpError::OutOfBounds { .. }));
    assert_eq!(d.machine.get(&"n".into()).unwrap().lease, LeaseId(3));
    d.op(put("text", "12a"));
    assert_eq!(d.fails(add("text", 1)), OpError::NotInteger { key: "text".into() });
}

#[test]
fn a_state_is_read_as_it_was_at_any_retained_revision() {
    let mut d = Driver::new();
    d.op(put("k", "1")); // 1
    d.op(put("k", "2")); // 2
    d.op(delete("k")); // 3
    d.run(vec![put("k", "4"), put("k", "5")]); // 4
    let found: Vec<Option<String>> = (0..=4).map(|revision| at(&d, "k", revision).unwrap()).collect();
    assert_eq!(found, [None, Some("1".into()), Some("2".into()), None, Some("5".into())]);
    let read = |revision| RangeRead { at: Some(Revision(revision)), ..RangeRead::of(everything()) };
    let count = |revision| d.machine.range(&read(revision)).unwrap().keys.len();
    assert_eq!([0, 1, 2, 3, 4].map(count), [0, 1, 1, 0, 1]);
}

#[test]
fn revisions_that_are_gone_or_to_come_are_clear_errors() {
    let mut d = Driver::new();
    for value in ["1", "2", "3", "4"] {
        d.op(put("k", value));
    }
    assert_eq!(at(&d, "k", 5), Err(OpError::Future { asked: Revision(5), current: Revision(4) }));
    assert!(matches!(d.send(CommandBody::Compact { before: Revision(3) }), Outcome::Done { .. }));
    assert_eq!(at(&d, "k", 1), Err(OpError::Compacted { asked: Revision(1), oldest: Revision(2) }));
    assert_eq!(at(&d, "k", 3), Ok(Some("3".into())));
    let refused = |outcome| matches!(outcome, Outcome::Refused { refusal: Refusal::Command { .. } });
    assert!(refused(d.send(CommandBody::Compact { before: Revision(2) })));
    assert!(refused(d.send(CommandBody::Compact { before: Revision(6) })));
    assert!(matches!(d.send(CommandBody::Compact { before: Revision(5) }), Outcome::Done { .. }));
    assert_eq!(at(&d, "k", 4), Ok(Some("4".into())));
    assert!(matches!(d.machine.changes(&everything(), Revision(4), 9), Err(OpError::Compacted { .. })));
    let read = RangeRead { at: Some(Revision(3)), ..RangeRead::of(everything()) };
    assert!(matches!(d.fails(Op::Range { read }), OpError::Compacted { .. }));
}

#[test]
fn history_is_bounded_by_revisions() {
    let mut d = Driver::with(|s| s.history_revisions = 3);
    for value in 0..10 {
        d.op(put("k", &value.to_string()));
    }
    assert_eq!(d.machine.oldest_revision(), Revision(6));
    assert_eq!(at(&d, "k", 6), Ok(Some("5".into())));
    assert!(at(&d, "k", 5).is_err());
}

#[test]
fn history_is_bounded_by_age_in_log_time() {
    let mut d = Driver::with(|s| s.history_age = Millis(1000));
    d.op(put("k", "1"));
    d.pass(600).op(put("k", "2"));
    d.sleep(400);
    assert_eq!(at(&d, "k", 0), Ok(None));
    d.sleep(1);
    assert!(at(&d, "k", 0).is_err());
    assert_eq!(at(&d, "k", 1), Ok(Some("1".into())));
    d.sleep(10_000);
    assert!(at(&d, "k", 1).is_err());
    assert_eq!(at(&d, "k", 2), Ok(Some("2".into())), "what is current can always be read");
}

#[test]
fn a_counter_incremented_100_thousand_times_stays_within_its_history_budget() {
    let mut d = Driver::with(|s| s.history_bytes_max = 100_000);
    let long = "x".repeat(500);
    for _ in 0..100 {
        let mut commands: Vec<Command> = (0..1000).map(|_| Commit::of(vec![add("n", 1)]).into()).collect();
        commands.push(Commit::of(vec![put("long", &long)]).into());
        d.entry(commands);
        assert!(d.machine.sizes().history_bytes <= 100_000);
    }
    assert_eq!(d.value("n"), Some("100000".into()));
    assert!(d.machine.oldest_revision() > Revision(99_000));
}

#[test]
fn a_deleted_key_leaves_no_row_once_its_deletion_is_forgotten() {
    let mut d = Driver::with(|s| s.history_revisions = 2);
    d.run(vec![put("k", "1"), delete("k")]);
    d.run(vec![put("k2", "1"), delete("k2"), put("k2", "2")]);
    for _ in 0..5 {
        d.op(put("other", "x"));
    }
    assert_eq!(d.machine.sizes().keys, 2);
    d.restart();
    assert_eq!(d.value("k2"), Some("2".into()));
}

#[test]
fn a_range_unchanged_since_a_revision_passes_and_names_what_changed_otherwise() {
    let mut d = Driver::new();
    d.run(vec![put("a/1", "x"), put("b", "x")]);
    let since =
        |revision| Guard::RangeUnchanged { range: KeyRange::prefix("a/".into()), since: Revision(revision) };
    d.op(put("b", "y"));
    d.passes(since(1));
    d.op(put("a/2", "x")); // 3
    d.passes(since(3));
    let wanted = GuardFailed::Range { key: "a/2".into(), changed: Revision(3), since: Revision(1) };
    assert_eq!(d.refuses(since(1)), wanted);
    d.op(delete("a/2")); // 4: a deletion is a change
    d.passes(since(4));
    assert!(matches!(d.refuses(since(3)), GuardFailed::Range { changed: Revision(4), .. }));
    assert!(matches!(d.refuses(since(9)), GuardFailed::RangeUnknown { .. }), "not yet");
}

#[test]
fn range_unchanged_below_compaction_refuses() {
    let mut d = Driver::with(|s| s.history_revisions = 2);
    for value in 0..6 {
        d.op(put("elsewhere", &value.to_string()));
    }
    let since =
        |revision| Guard::RangeUnchanged { range: KeyRange::prefix("a/".into()), since: Revision(revision) };
    let unknown = GuardFailed::RangeUnknown { since: Revision(2), oldest: Revision(3), current: Revision(6) };
    assert_eq!(d.refuses(since(2)), unknown);
    d.passes(since(3));
}

#[test]
fn many_changes_since_do_not_change_the_finding() {
    let mut d = Driver::new();
    d.op(put("a/1", "x"));
    d.run((0..1500).map(|n| put(&format!("b/{n}"), "x")).collect());
    let prefix = |p: &str, revision| Guard::RangeUnchanged {
        range: KeyRange::prefix(p.into()),
        since: Revision(revision),
    };
    d.passes(prefix("a/", 1));
    assert!(matches!(d.refuses(prefix("b/", 1)), GuardFailed::Range { changed: Revision(2), .. }));
    d.op(delete("a/1"));
    assert!(matches!(d.refuses(prefix("a/", 1)), GuardFailed::Range { changed: Revision(3), .. }));
}

#[test]
fn ranges_are_sorted_limited_and_counted() {
    let mut d = Driver::new();
    d.run(vec![put("a", "3"), put("b", "2"), put("c", "1"), put("d", "0")]);
    d.op(put("b", "2"));
    d.op(delete("d"));
    let names = |read: &RangeRead| -> Vec<String> {
        d.machine.range(read).unwrap().keys.iter().map(|row| row.key.to_string()).collect()
    };
    let read = RangeRead::of(everything());
    let table = [
        (RangeRead { ..read.clone() }, "a b c"),
        (RangeRead { limit: 2, ..read.clone() }, "a b"),
        (RangeRead { order: Order::Descending, ..read.clone() }, "c b a"),
        (RangeRead { order: Order::Descending, limit: 1, ..read.clone() }, "c"),
        (RangeRead { sort: Sort::Value, ..read.clone() }, "c b a"),
        (RangeRead { sort: Sort::Mod, ..read.clone() }, "a c b"),
        (RangeRead { sort: Sort::Version, order: Order::Descending, ..read.clone() }, "b a c"),
        (RangeRead { range: KeyRange::single("b".into()), ..read.clone() }, "b"),
        (RangeRead { range: KeyRange { start: "b".into(), end: Some("c".into()) }, ..read.clone() }, "b"),
        (RangeRead { range: KeyRange { start: "c".into(), end: Some("b".into()) }, ..read.clone() }, ""),
    ];
    for (read, wanted) in table {
        assert_eq!(names(&read).join(" "), wanted, "{read:?}");
    }
    let counted = d.machine.range(&RangeRead { count_only: true, ..read.clone() }).unwrap();
    assert_eq!((counted.count, counted.keys.len()), (3, 0));
    let some = d.machine.range(&RangeRead { limit: 2, keys_only: true, ..read }).unwrap();
    assert!(some.more && some.keys.iter().all(|row| row.value.is_empty()));
}

#[test]
fn keyspaces_do_not_see_each_other() {
    let mut d = Driver::new();
    let other = Key { space: Keyspace(3), name: "k".into() };
    d.run(vec![
        put("k", "0"),
        Op::Put { key: other.clone(), value: "3".into(), lease: LeaseId(0), prev: false },
    ]);
    d.op(Op::DeleteRange { range: everything(), prev: false });
    assert_eq!(d.value("k"), None);
    assert_eq!(d.machine.get(&other).unwrap().value, "3".into());
}

#[test]
fn changes_are_told_in_order_and_revisions_are_not_split() {
    let mut d = Driver::new();
    d.run(vec![put("a", "1"), put("b", "1")]); // 1
    d.run(vec![put("a", "2"), delete("b")]); // 2
    let all = d.machine.changes(&everything(), Revision(1), 100).unwrap();
    let brief: Vec<(u64, String, bool, bool)> = all
        .changes
        .iter()
        .map(|c| (c.revision.0, c.key.to_string(), c.now.is_some(), c.prev.is_some()))
        .collect();
    let line = |revision, key: &str, now, prev| (revision, key.to_string(), now, prev);
    let wanted = [
        line(1, "a", true, false),
        line(1, "b", true, false),
        line(2, "a", true, true),
        line(2, "b", false, true),
    ];
    assert_eq!(brief, wanted);
    assert_eq!(all.next, Revision(3));
    let some = d.machine.changes(&everything(), Revision(1), 1).unwrap();
    assert_eq!((some.changes.len(), some.next), (2, Revision(2)));
    let keys: Vec<String> = d.machine.touched_since(Revision(2)).map(|key| key.to_string()).collect();
    assert_eq!(keys, ["a", "b"]);
}

#[test]
fn raised_revisions_go_on_from_there() {
    let mut d = Driver::new();
    d.op(put("k", "1"));
    d.lease(1, 60_000);
    let before = d.acquire("l", 1);
    d.send(CommandBody::RaiseRevision { to: Revision(1_000_000) });
    assert!(d.commit(Commit::of(vec![put("k", "2")])).unwrap().revision > Revision(1_000_000));
    d.op(release("l", before));
    assert!(d.acquire("l", 1) > FencingToken(1_000_000));
    d.send(CommandBody::RaiseRevision { to: Revision(5) });
    assert!(d.machine.revision() > Revision(1_000_000), "never lowered");
    assert_eq!(at(&d, "k", 500_000), Ok(Some("1".into())));
}
