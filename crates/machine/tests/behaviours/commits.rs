//! The commit: guards, branches, modes, and what a refusal leaves behind (nothing).

use crate::common::*;
use quorate_machine::Event;
use quorate_types::*;

#[test]
fn a_commit_takes_one_revision_however_much_it_changes() {
    let mut d = Driver::new();
    d.lease(1, 10_000);
    let done = d
        .commit(Commit::of(vec![
            put("a", "1"),
            put("b", "2"),
            append("s", "x"),
            acquire("l", 1),
            delete("a"),
        ]))
        .unwrap();
    assert_eq!(done.revision, Revision(1));
    assert_eq!(d.machine.revision(), Revision(1));
    assert_eq!(d.machine.get(&"b".into()).unwrap().mod_revision, Revision(1));
}

#[test]
fn what_changes_no_key_stream_lock_or_leadership_takes_no_revision() {
    let mut d = Driver::new();
    d.run(vec![put("a", "1"), append("s", "x")]);
    let before = d.machine.revision();
    let cursor = |expected| Op::CursorCommit {
        stream: "s".into(),
        group: "g".into(),
        partition: 0,
        offset: Offset(1),
        expected,
    };
    let quiet = [
        Op::LeaseGrant { lease: LeaseId(5), ttl: Millis(1000) },
        Op::LeaseKeepAlive { lease: LeaseId(5) },
        Op::LeaseRevoke { lease: LeaseId(5) },
        get("a"),
        delete("nothing"),
        Op::DeleteRange { range: KeyRange::prefix("no".into()), prev: false },
        schedule("t", 1000, Commit::default(), OnRefused::Drop),
        Op::Cancel { task: "t".into() },
        claim("c", 0, 1),
        cursor(None),
    ];
    for op in quiet {
        assert_eq!(d.commit(Commit::of(vec![op.clone()])).unwrap().revision, before, "{op:?}");
    }
    d.passes(limit("l", bucket(1, 1000, 5), 1));
    assert_eq!(d.machine.revision(), before);
}

#[test]
fn operations_see_the_earlier_ones() {
    let mut d = Driver::new();
    let results = d.run(vec![add("n", 2), add("n", 3), get("n"), delete("n"), get("n")]);
    let OpResult::Key { found: Some(found) } = &results[2] else { panic!("{:?}", results[2]) };
    assert_eq!((found.value.to_string(), found.version), ("5".into(), Version(2)));
    assert_eq!(results[4], OpResult::Key { found: None });
}

#[test]
fn guards_see_the_state_before_the_first_operation() {
    let mut d = Driver::new();
    d.commit(guarded(vec![version_is("k", 0), version_is("k", 0)], vec![put("k", "v")])).unwrap();
    let refusal = d.commit(guarded(vec![version_is("k", 0)], vec![put("k", "w")])).unwrap_err();
    let text = refusal.to_string();
    assert_eq!(text, "guard 0: key k has version 1, wanted exactly 0: read it again and decide again");
}

#[test]
fn a_refusal_names_every_failed_guard_with_found_and_wanted() {
    let mut d = Driver::new();
    d.op(put("k", "v"));
    let commit = guarded(vec![version_is("k", 7), version_is("k", 1), version_is("absent", 2)], vec![]);
    let Refusal::Guards { failed } = d.commit(commit).unwrap_err() else { panic!("guards") };
    let brief: Vec<(u32, u64)> = failed
        .iter()
        .map(|(number, why)| match why {
            GuardFailed::Key { found, .. } => (*number, *found),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(brief, [(0, 1), (2, 0)]);
}

#[test]
fn each_guard_holds_and_fails_as_its_table_says() {
    let mut d = Driver::new();
    d.lease(9, 60_000);
    d.run(vec![put("a", "m"), put_on("b", "x", 9), append("s", "r")]);
    let token = d.acquire("lock", 9);
    let key = |field, compare, wanted| Guard::Key { key: "b".into(), field, compare, wanted };
    let value =
        |key: &str, compare, wanted: &str| Guard::Value { key: key.into(), compare, wanted: wanted.into() };
    let at = |partition, next| Guard::StreamAt { stream: "s".into(), partition, next: Offset(next) };
    let leads =
        |election: &str, lease| Guard::Leadership { election: election.into(), lease: LeaseId(lease) };
    let created = d.machine.get(&"b".into()).unwrap().create_revision.0;
    let table: Vec<(Guard, bool)> = vec![
        (key(KeyField::Version, Compare::Equal, 1), true),
        (key(KeyField::Version, Compare::NotEqual, 1), false),
        (key(KeyField::CreateRevision, Compare::Equal, created), true),
        (key(KeyField::ModRevision, Compare::Less, created), false),
        (key(KeyField::ModRevision, Compare::Greater, created - 1), true),
        (key(KeyField::Lease, Compare::Equal, 9), true),
        (version_is("absent", 0), true),
        (value("a", Compare::Equal, "m"), true),
        (value("a", Compare::Less, "n"), true),
        (value("a", Compare::Greater, "n"), false),
        (value("a", Compare::NotEqual, "m"), false),
        (value("absent", Compare::NotEqual, "m"), false),
        (fence("lock", token), true),
        (fence("lock", token.next()), false),
        (fence("other", token), false),
        (leads("lock", 9), true),
        (leads("lock", 8), false),
        (leads("other", 0), false),
        (at(0, 1), true),
        (at(0, 0), false),
        (at(7, 0), true),
        (Guard::NotAfter { deadline: WallTime(WALL) }, true),
        (Guard::NotAfter { deadline: WallTime(WALL - 1) }, false),
    ];
    for (guard, passes) in table {
        if passes {
            d.passes(guard);
        } else {
            d.refuses(guard);
        }
    }
}

#[test]
fn the_else_list_runs_when_a_guard_fails_and_is_a_commit_like_any_other() {
    let mut d = Driver::new();
    let commit = Commit {
        guards: vec![version_is("k", 1)],
        then: vec![put("k", "then")],
        otherwise: Some(vec![put("k", "else")]),
        ..Commit::default()
    };
    let first = d.commit(commit.clone()).unwrap();
    assert_eq!((first.branch, first.revision), (Branch::Else, Revision(1)));
    let second = d.commit(commit).unwrap();
    assert_eq!((second.branch, d.value("k")), (Branch::Then, Some("then".into())));
}

#[test]
fn a_refused_commit_changes_nothing() {
    // Each list changes something of every module, then fails; `Driver::commit` compares digests.
    let mut d = Driver::new();
    d.lease(1, 60_000);
    d.lease(2, 60_000);
    d.run(vec![put_on("k", "v", 1), append("s", "x"), add("n", 1), claim("held", 1, 7)]);
    d.run(vec![schedule("t", 5000, Commit::of(vec![put("fired", "1")]), OnRefused::Drop)]);
    let token = d.acquire("mine", 1);
    assert!(matches!(d.wait("mine", 2, LockMode::Exclusive, None), Outcome::Queued { ahead: 0 }));
    let shared = GroupSettings {
        mode: GroupMode::Shared {
            visibility: Millis(10),
            deliveries_max: 1,
            dead_letter: Some("dead".into()),
        },
        from_start: true,
    };
    d.op(Op::CreateGroup { stream: "s".into(), group: "g".into(), settings: shared.clone() });
    let changes: Vec<Op> = vec![
        put("k", "w"),
        put_on("new", "1", 2),
        delete("n"),
        Op::DeleteRange { range: everything(), prev: true },
        add("fresh", 4),
        append("s", "y"),
        append("s2", "y"),
        Op::CreateStream { stream: "s3".into(), settings: StreamSettings::default() },
        Op::Trim { stream: "s".into(), partition: 0, before: Offset(1) },
        Op::CreateGroup { stream: "s".into(), group: "h".into(), settings: shared },
        Op::Take { stream: "s".into(), group: "g".into(), consumer: "c".into(), max: 5, visibility: None },
        Op::LeaseGrant { lease: LeaseId(0), ttl: Millis(9) },
        Op::LeaseKeepAlive { lease: LeaseId(1) },
        acquire("free", 2),
        release("mine", token),
        schedule("t", 1, Commit::default(), OnRefused::Drop),
        schedule("t2", 1, Commit::default(), OnRefused::Drop),
        Op::Register {
            service: "svc".into(),
            instance: "i".into(),
            lease: LeaseId(1),
            info: Instance::default(),
        },
        claim("other", 2, 8),
        Op::DeleteStream { stream: "s".into() },
        Op::LeaseRevoke { lease: LeaseId(1) },
        Op::LeaseRevoke { lease: LeaseId(2) },
    ];
    let poison = Op::Cancel { task: "missing".into() };
    for op in &changes {
        let Err(Refusal::Operation { op: 1, .. }) = d.commit(Commit::of(vec![op.clone(), poison.clone()]))
        else {
            panic!("{op:?} then a failure")
        };
    }
    let mut all = changes.clone();
    all.push(poison.clone());
    let slots = |max| Guard::Slots { name: "slots".into(), max, lease: LeaseId(1), slot: "s".into() };
    let guards = vec![limit("lim", bucket(10, 1000, 10), 3), slots(2)];
    let refusal = d.commit(keyed("idem", guarded(guards, all))).unwrap_err();
    assert!(matches!(refusal, Refusal::Operation { op, .. } if op as usize == changes.len()));
    assert!(d.events.is_empty(), "nobody hears of what did not happen");
    // The same lists do succeed without the poison.
    d.run(changes);
}

#[test]
fn in_mode_each_a_failure_is_only_its_own_result() {
    let mut d = Driver::new();
    d.op(put("text", "abc"));
    let done = d.commit(each(vec![put("a", "1"), add("text", 1), put("b", "2")])).unwrap();
    assert!(matches!(&done.results[1], OpResult::Failed { error: OpError::NotInteger { .. } }));
    assert_eq!(
        (d.value("a"), d.value("b"), d.value("text")),
        (Some("1".into()), Some("2".into()), Some("abc".into()))
    );
}

#[test]
fn in_mode_each_a_commit_of_failures_alone_takes_no_revision() {
    let mut d = Driver::new();
    d.op(put("text", "abc"));
    let failing = nested(Commit::of(vec![put("half", "1"), add("text", 1)]));
    let done = d.commit(each(vec![add("text", 1), failing])).unwrap();
    assert_eq!(done.revision, Revision(1));
    assert!(done.results.iter().all(|result| matches!(result, OpResult::Failed { .. })));
    assert_eq!(d.value("half"), None);
}

#[test]
fn an_inner_commit_rolls_back_alone_in_mode_each_and_takes_the_outer_with_it_otherwise() {
    let mut d = Driver::new();
    let inner = Commit::of(vec![put("inner", "1"), Op::Cancel { task: "missing".into() }]);
    let ops = vec![put("before", "1"), nested(inner), put("after", "1")];
    let Refusal::Operation { op: 1, error: OpError::Inner { op: 1, .. } } =
        d.commit(Commit::of(ops.clone())).unwrap_err()
    else {
        panic!("the inner operation is named")
    };
    d.commit(each(ops)).unwrap();
    assert_eq!(
        [d.value("before"), d.value("inner"), d.value("after")].map(|v| v.is_some()),
        [true, false, true]
    );
}

#[test]
fn an_inner_commit_has_guards_and_branches_of_its_own_and_sees_the_outer_operations() {
    let mut d = Driver::new();
    let inner = Commit {
        guards: vec![version_is("k", 1)],
        then: vec![put("k", "inner")],
        otherwise: Some(vec![put("missing", "k")]),
        ..Commit::default()
    };
    let results = d.run(vec![nested(inner.clone()), put("k", "outer"), nested(inner)]);
    let branch = |result: &OpResult| match result {
        OpResult::Nested { branch, .. } => *branch,
        other => panic!("{other:?}"),
    };
    assert_eq!((branch(&results[0]), branch(&results[2])), (Branch::Else, Branch::Then));
    assert_eq!(d.value("k"), Some("inner".into()));
    let refused = nested(guarded(vec![version_is("k", 9)], vec![]));
    assert!(matches!(d.fails(refused), OpError::Guards { failed } if failed.len() == 1));
}

#[test]
fn an_idempotency_key_on_an_inner_or_scheduled_commit_is_refused() {
    let mut d = Driver::new();
    let commit = keyed("k", Commit::of(vec![put("a", "1")]));
    assert!(matches!(d.fails(nested(commit.clone())), OpError::OutermostOnly { .. }));
    assert!(matches!(d.fails(schedule("t", 1, commit, OnRefused::Drop)), OpError::OutermostOnly { .. }));
}

#[test]
fn the_servers_own_keyspaces_are_closed_to_every_effect() {
    let mut d = Driver::new();
    d.lease(1, 60_000);
    d.acquire("l", 1);
    let row = d.machine.range(&RangeRead::of(KeyRange { start: locks_key(""), end: None })).unwrap().keys[0]
        .clone();
    let key = || row.key.clone();
    let Op::Append { append: mut batch } = append("s", "x") else { unreachable!() };
    batch.stream = key();
    let mut fresh = batch.clone();
    fresh.stream.name = "fresh".into();
    let closed = vec![
        Op::Put { key: key(), value: "x".into(), lease: LeaseId(0), prev: false },
        Op::Delete { key: key(), prev: false },
        Op::DeleteRange { range: KeyRange { start: key(), end: None }, prev: false },
        Op::Increment { key: key(), by: 1, min: 0, max: 9 },
        Op::CreateStream { stream: key(), settings: StreamSettings::default() },
        Op::Append { append: batch },
        Op::Append { append: fresh },
    ];
    for op in closed {
        assert!(matches!(d.fails(op.clone()), OpError::Internal { .. }), "{op:?}");
    }
}

fn locks_key(name: &str) -> Key {
    Key { space: Keyspace::LOCKS, name: name.into() }
}

#[test]
fn one_name_has_one_type() {
    let mut d = Driver::new();
    d.run(vec![put("key", "v"), append("stream", "x")]);
    let group = |letters: &str| Op::CreateGroup {
        stream: "stream".into(),
        group: "g".into(),
        settings: GroupSettings {
            mode: GroupMode::Shared {
                visibility: Millis(9),
                deliveries_max: 1,
                dead_letter: Some(letters.into()),
            },
            from_start: true,
        },
    };
    let create = |name: &str| Op::CreateStream { stream: name.into(), settings: StreamSettings::default() };
    for op in [put("stream", "v"), add("stream", 1), append("key", "x"), create("key"), group("key")] {
        assert!(matches!(d.fails(op.clone()), OpError::WrongType { .. }), "{op:?}");
    }
    d.op(group("letters"));
    assert!(
        matches!(d.fails(put("letters", "v")), OpError::WrongType { .. }),
        "its dead letters need the name"
    );
    // Free again once it is gone; also inside one commit.
    d.run(vec![
        delete("key"),
        append("key", "x"),
        Op::DeleteStream { stream: "stream".into() },
        put("stream", "v"),
    ]);
}

#[test]
fn two_guards_on_one_limit_pay_twice_or_not_at_all() {
    let mut d = Driver::new();
    let policy = bucket(1, 60_000, 3);
    let left = |d: &mut Driver| d.machine.limit_report(&"l".into(), &policy, 1).0.remaining;
    let twice = |cost, otherwise| Commit {
        guards: vec![limit("l", policy, cost), limit("l", policy, cost)],
        then: vec![put("paid", "1")],
        otherwise,
        ..Commit::default()
    };
    let Refusal::Guards { failed } = d.commit(twice(2, None)).unwrap_err() else { panic!("guards") };
    assert!(matches!(&failed[..], [(1, GuardFailed::Limit { report, cost: 2 })] if report.remaining == 1));
    assert_eq!(left(&mut d), 3);
    // An `else` list runs, and pays for neither.
    let done = d.commit(twice(2, Some(vec![put("else", "1")]))).unwrap();
    assert_eq!((done.branch, done.limits.len(), left(&mut d)), (Branch::Else, 0, 3));
    let done = d.commit(twice(1, None)).unwrap();
    assert_eq!(done.limits.iter().map(|report| report.remaining).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(left(&mut d), 1);
}

#[test]
fn tokens_are_taken_only_if_all_guards_pass() {
    let mut d = Driver::new();
    let policy = bucket(1, 60_000, 3);
    d.commit(guarded(vec![limit("l", policy, 2), version_is("k", 9)], vec![])).unwrap_err();
    assert_eq!(d.machine.limit_report(&"l".into(), &policy, 1).0.remaining, 3);
    d.commit(guarded(vec![limit("l", policy, 2), version_is("k", 0)], vec![])).unwrap();
    assert_eq!(d.machine.limit_report(&"l".into(), &policy, 1).0.remaining, 1);
}

#[test]
fn payloads_are_named_by_entry_and_place_also_when_scheduled() {
    let mut d = Driver::new();
    let later = Commit::of(vec![append("s", "three")]);
    let commit =
        Commit::of(vec![append("s", "one"), append("s", "two"), schedule("t", 100, later, OnRefused::Drop)]);
    d.entry(vec![Commit::of(vec![append("s", "zero")]).into(), commit.into()]);
    let logged = d.index;
    assert_eq!(d.machine.live_payloads(LogIndex(0), LogIndex(99)).len(), 4, "the scheduled one is kept too");
    d.restart();
    d.sleep(100);
    let batches = d.machine.records(&"s".into(), 0, Offset(0), 10, 1 << 20).unwrap().batches;
    let places: Vec<(u64, u32)> = batches.iter().map(|batch| (batch.at.index.0, batch.at.sub)).collect();
    assert_eq!(places, [(logged, 0), (logged, 1), (logged, 2), (logged, 3)]);
    assert!(d.events.contains(&Event::StreamAppended { stream: "s".into(), partition: 0 }));
    assert_eq!(
        d.machine.live_bytes(LogIndex(logged), LogIndex(logged)),
        batches.iter().map(|b| u64::from(b.bytes)).sum()
    );
}

#[test]
fn no_numbers_in_an_entry_make_the_machine_panic() {
    // Gateways bound these; the machine must decide whatever the log holds.
    let mut d = Driver::new();
    d.lease(1, 0);
    let policies = [
        bucket(0, 0, 0),
        bucket(u64::MAX, u64::MAX, u64::MAX),
        bucket(1, u64::MAX, u64::MAX),
        LimitPolicy::FixedWindow { count: 0, window: Millis(0) },
        LimitPolicy::SlidingWindow { count: u64::MAX, window: Millis(0) },
        LimitPolicy::SlidingWindow { count: u64::MAX, window: Millis(u64::MAX) },
    ];
    for policy in policies {
        for cost in [0, 1, u64::MAX] {
            for _ in 0..3 {
                let _ = d.commit(guarded(vec![limit("l", policy, cost)], vec![]));
                d.pass(1);
            }
        }
        d.op(Op::LimitPeek { name: "l".into(), policy });
    }
    d.lease(2, u64::MAX);
    d.run(vec![
        put("max", "9223372036854775807"),
        schedule(
            "t",
            u64::MAX,
            Commit::default(),
            OnRefused::Retry { attempts: 0, backoff: Millis(u64::MAX) },
        ),
        Op::Range { read: RangeRead::of(KeyRange { start: "z".into(), end: Some("a".into()) }) },
        Op::DeleteRange { range: KeyRange { start: "z".into(), end: Some("a".into()) }, prev: true },
    ]);
    assert!(matches!(d.fails(add("max", 1)), OpError::OutOfBounds { .. }));
    for to in [u64::MAX, 1 << 62] {
        d.send(CommandBody::RaiseRevision { to: Revision(to) });
        let token = d.acquire("l2", 2);
        d.op(release("l2", token));
    }
    d.op(put("k", "v"));
    d.configure(|s| {
        *s = Settings {
            history_revisions: 0,
            history_age: Millis(0),
            history_bytes_max: 0,
            idempotency_bytes_max: 0,
            expiries_per_entry: 0,
        }
    });
    d.op(put("k", "w"));
    d.pass(10);
    d.entry(vec![]);
    d.configure(|s| {
        *s = Settings {
            history_revisions: u64::MAX,
            history_age: Millis(u64::MAX),
            history_bytes_max: u64::MAX,
            idempotency_bytes_max: u64::MAX,
            expiries_per_entry: u64::MAX,
        }
    });
    d.sleep(10);
}
