//! Commits whose branches are decided before anything is done, and the operations on plain values that go with them.

use crate::common::*;
use quorate_types::*;

fn foreseen(guards: Vec<Guard>, then: Vec<Op>, otherwise: Vec<Op>) -> Commit {
    Commit { guards, then, otherwise: Some(otherwise), mode: Mode::Foreseen, ..Commit::default() }
}

fn write(key: &str, value: Option<&str>, lease: Option<u64>) -> Op {
    Op::Write {
        key: key.into(),
        value: value.map(Into::into),
        lease: lease.map(LeaseId),
        prev: true,
        keep: false,
    }
}

fn erase(range: KeyRange) -> Op {
    Op::Erase { range, prev: true }
}

fn select(range: KeyRange) -> Op {
    Op::Select { select: Box::new(Select::of(range)) }
}

fn call(words: &[&str]) -> Op {
    Op::Call {
        space: Keyspace::DEFAULT,
        words: words.iter().map(|word| (*word).into()).collect(),
        record: None,
    }
}

fn all_versions(range: KeyRange, compare: Compare, wanted: u64) -> Guard {
    Guard::Keys { range, field: KeyField::Version, compare, wanted }
}

fn names(result: &OpResult) -> Vec<String> {
    let OpResult::Keys { keys, .. } = result else { panic!("{result:?}") };
    keys.iter().map(|found| found.key.name.to_string()).collect()
}

#[test]
fn inner_branches_go_by_the_state_before_the_commit() {
    let mut d = Driver::new();
    let inner =
        || nested(foreseen(vec![version_is("a", 0)], vec![put("fresh", "1")], vec![put("seen", "1")]));
    let done = d.commit(foreseen(vec![], vec![put("a", "1"), inner()], vec![])).unwrap();
    assert!(matches!(done.results[1], OpResult::Nested { branch: Branch::Then, .. }), "{:?}", done.results);
    assert_eq!((d.value("fresh").as_deref(), d.value("seen")), (Some("1"), None));
    // In the mode of other commits an inner one sees what came before it.
    let atomic = |commit: Commit| Commit { mode: Mode::Atomic, ..commit };
    let Op::Nested { commit } = inner() else { unreachable!() };
    let done =
        d.commit(atomic(foreseen(vec![], vec![delete("a"), nested(atomic(*commit))], vec![]))).unwrap();
    assert!(matches!(done.results[1], OpResult::Nested { branch: Branch::Then, .. }), "{:?}", done.results);
}

#[test]
fn a_commit_without_an_else_list_runs_nothing_when_a_guard_fails() {
    let mut d = Driver::new();
    let commit =
        Commit { otherwise: None, ..foreseen(vec![version_is("a", 1)], vec![put("a", "1")], vec![]) };
    let done = d.commit(commit).unwrap();
    assert_eq!((done.branch, done.results.len(), done.revision), (Branch::Else, 0, Revision::ZERO));
}

#[test]
fn a_value_or_a_lease_is_left_as_it_is_where_there_is_a_key() {
    let mut d = Driver::new();
    d.lease(1, 10_000);
    assert!(matches!(d.fails(write("a", None, Some(1))), OpError::KeyMissing { .. }));
    assert!(matches!(d.fails(write("a", Some("1"), None)), OpError::KeyMissing { .. }));
    d.op(write("a", Some("1"), Some(1)));
    d.op(write("a", Some("2"), None));
    assert_eq!(d.machine.get(&"a".into()).unwrap().lease, LeaseId(1));
    let OpResult::Key { found: Some(before) } = d.op(write("a", None, Some(0))) else {
        panic!("what was there")
    };
    assert_eq!((&before.value[..], before.version), (&b"2"[..], Version(2)));
    assert_eq!(
        (d.value("a").as_deref(), d.machine.get(&"a".into()).unwrap().lease),
        (Some("2"), LeaseId::ZERO)
    );
    // Whether a write can be made is decided by the state before the commit.
    let both = foreseen(vec![], vec![put("b", "1"), write("b", None, Some(0))], vec![]);
    assert!(d.commit(both).is_err());
    assert!(matches!(d.fails(write("a", Some("3"), Some(7))), OpError::LeaseMissing { .. }));
}

#[test]
fn keys_of_other_types_are_neither_read_nor_erased_nor_written() {
    let mut d = Driver::new();
    d.send(CommandBody::RaiseVersion { to: 2 });
    d.run(vec![put("a", "1"), put("c", "1"), call(&["RPUSH", "b", "x"])]);
    assert_eq!(names(&d.op(select(everything()))), ["a", "c"]);
    assert!(matches!(d.fails(write("b", Some("1"), Some(0))), OpError::WrongType { .. }));
    let OpResult::Deleted { count, prev } = d.op(erase(everything())) else { panic!("deleted") };
    assert_eq!((count, prev.len()), (2, 2));
    d.passes(version_is("b", 1));
    // A comparison of a value never meets it either: of nothing, nothing holds.
    let guard = Guard::Values { range: everything(), compare: Compare::NotEqual, wanted: "1".into() };
    assert!(matches!(d.refuses(guard), GuardFailed::Some { key: None }));
}

#[test]
fn guards_over_a_range_want_every_key_of_it() {
    let mut d = Driver::new();
    d.run(vec![put("a/1", "x"), put("a/2", "x")]);
    d.run(vec![put("a/2", "y")]);
    let range = || KeyRange::prefix("a/".into());
    d.passes(all_versions(range(), Compare::Greater, 0));
    let failed = d.refuses(all_versions(range(), Compare::Equal, 1));
    assert!(matches!(failed, GuardFailed::Some { key: Some(key) } if key == "a/2".into()));
    d.passes(all_versions(KeyRange::prefix("none/".into()), Compare::Equal, 0));
    d.refuses(all_versions(KeyRange::prefix("none/".into()), Compare::Greater, 0));
}

#[test]
fn what_was_done_is_undone_when_a_later_operation_fails() {
    let mut d = Driver::new();
    d.run(vec![put("a", "1"), put("n", "text")]);
    // The driver compares the whole state with one in which nothing happened.
    let failed = d.commit(foreseen(vec![], vec![erase(KeyRange::single("a".into())), add("n", 1)], vec![]));
    assert!(matches!(failed, Err(Refusal::Operation { op: 1, .. })), "{failed:?}");
    assert_eq!(d.value("a").as_deref(), Some("1"));
}

#[test]
fn a_read_without_an_entry_shows_what_a_commit_would() {
    let mut d = Driver::new();
    d.run(vec![put("a", "1"), put("b", "2")]);
    let inner =
        nested(foreseen(vec![version_is("b", 7)], vec![], vec![select(KeyRange::single("b".into()))]));
    let commit = foreseen(vec![version_is("a", 1)], vec![select(everything()), inner], vec![]);
    let (branch, results) = d.machine.read_foreseen(&"anonymous".into(), &commit).unwrap();
    let done = d.commit(commit).unwrap();
    assert_eq!((branch, results), (done.branch, done.results));
    let changing = foreseen(vec![], vec![put("a", "2")], vec![]);
    assert!(d.machine.read_foreseen(&"anonymous".into(), &changing).is_err());
}

#[test]
fn what_guards_look_at_counts_against_the_budget_of_a_commit() {
    let mut d = Driver::new();
    for hundreds in 0..100 {
        d.entry(vec![Command::new(
            "anonymous".into(),
            CommandBody::Commit {
                commit: Commit::of((0..100).map(|n| put(&format!("{hundreds:02}{n:02}"), "")).collect()),
            },
        )]);
    }
    let guards = |count| vec![all_versions(everything(), Compare::Greater, 0); count];
    let is_over = |answer: Result<(), Refusal>| match answer {
        Ok(()) => false,
        Err(Refusal::Operation { error: OpError::Range { .. }, .. }) => true,
        Err(other) => panic!("{other}"),
    };
    for (count, over) in [(20, false), (26, true)] {
        assert_eq!(is_over(d.commit(guarded(guards(count), vec![])).map(drop)), over, "{count} guards");
        let commit = foreseen(guards(count), vec![], vec![]);
        assert_eq!(is_over(d.machine.read_foreseen(&"anonymous".into(), &commit).map(drop)), over);
        assert_eq!(is_over(d.commit(commit).map(drop)), over);
        let reads = foreseen(vec![], vec![select(everything()); count], vec![]);
        assert_eq!(is_over(d.machine.read_foreseen(&"anonymous".into(), &reads).map(drop)), over);
    }
    // In sum, with the inner ones.
    let inner = || nested(foreseen(guards(13), vec![], vec![]));
    assert!(is_over(d.commit(foreseen(vec![], vec![inner(), inner()], vec![])).map(drop)));
}

#[test]
fn as_many_keys_as_the_budget_reaches_are_erased_at_one_revision_and_one_more_is_refused_whole() {
    // Each costs 4 of 250,000 elements touched, as does the operation itself.
    const MOST: usize = 62_499;
    let mut d = Driver::new();
    for from in (0..=MOST).step_by(10_000) {
        let upto = (from + 10_000).min(MOST + 1);
        d.run((from..upto).map(|n| put(&format!("{n:06}"), "v")).collect());
    }
    let refused = d.commit(Commit::of(vec![erase(everything())])).unwrap_err();
    assert!(matches!(refused, Refusal::Operation { error: OpError::Range { .. }, .. }), "{refused}");
    let before = d.machine.revision();
    let most = KeyRange { start: "".into(), end: Some(format!("{MOST:06}").as_str().into()) };
    let committed = d.commit(Commit::of(vec![erase(most)])).unwrap();
    assert!(matches!(&committed.results[..], [OpResult::Deleted { count, .. }] if *count == MOST as u64));
    assert_eq!(committed.revision, before.next());
    // A watcher is told of each, with what it was; what was not in the range stays.
    let told = d.machine.changes(&everything(), committed.revision, usize::MAX).unwrap().changes;
    assert_eq!(told.len(), MOST);
    for (n, change) in told.iter().enumerate() {
        assert_eq!(change.key.name.to_string(), format!("{n:06}"));
        assert!(change.now.is_none() && change.prev.is_some() && change.revision == committed.revision);
    }
    assert_eq!(d.value(&format!("{MOST:06}")).as_deref(), Some("v"));
    assert_eq!(d.machine.range(&RangeRead::of(everything())).unwrap().count, 1);
}

#[test]
fn values_that_a_large_delete_pushes_out_of_the_history_are_freed_a_part_by_each_entry() {
    const KEYS: usize = 20_000;
    let mut d = Driver::with(|settings| settings.history_bytes_max = 8 << 20);
    let value = "v".repeat(1024);
    for from in (0..KEYS).step_by(2000) {
        d.run((from..from + 2000).map(|n| put(&format!("{n:06}"), &value)).collect());
    }
    d.run(vec![]);
    assert!(!d.machine.sweeps(), "a put pushes out no more than its entry frees");
    let committed = d.commit(Commit::of(vec![erase(everything())])).unwrap();
    assert!(matches!(&committed.results[..], [OpResult::Deleted { count, .. }] if *count == KEYS as u64));
    let mut entries = 0;
    while d.machine.sweeps() {
        d.run(vec![]);
        entries += 1;
    }
    // 20,000 and those of the history before, 4,096 an entry, the delete's own among them.
    assert!((3..=8).contains(&entries), "{entries} entries");
}
