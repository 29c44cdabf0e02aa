//! Idempotency: one effect and one answer for a retried request, claims, resolve, the memory bound.

use crate::common::*;
use quorate_types::*;

fn pay(key: &str, amount: i64) -> Commit {
    keyed(key, Commit::of(vec![add("balance", amount)]))
}

fn resolve(d: &mut Driver, key: &str) -> Resolution {
    match d.send(CommandBody::Resolve { key: key.into(), ttl: Millis(60_000) }) {
        Outcome::Resolved { resolution } => resolution,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_replay_charges_nothing() {
    let mut d = Driver::new();
    let policy = bucket(1, 60_000, 3);
    let mut commit = Commit::of(vec![add("balance", 5), append("s", "x")]);
    commit.guards = vec![limit("l", policy, 2), version_is("balance", 0)];
    let commit = keyed("pay-1", commit);
    let first = d.commit(commit.clone()).unwrap();
    assert!(!first.replayed);
    d.op(add("balance", 1));
    for _ in 0..3 {
        let revision = d.machine.revision();
        let again = d.commit(commit.clone()).unwrap();
        assert_eq!(again, Committed { replayed: true, ..first.clone() }, "the same answer, said to be one");
        assert_eq!(d.machine.revision(), revision);
        d.restart();
    }
    assert_eq!(d.value("balance"), Some("6".into()));
    assert_eq!(d.machine.limit_report(&"l".into(), &policy, 1).0.remaining, 1);
}

#[test]
fn same_key_other_request_is_refused() {
    let mut d = Driver::new();
    d.commit(pay("k", 5)).unwrap();
    assert_eq!(d.commit(pay("k", 6)), Err(Refusal::OtherRequest { key: "k".into() }));
}

#[test]
fn a_failed_commit_is_not_remembered() {
    let mut d = Driver::new();
    let mut commit = Commit::of(vec![add("balance", 5)]);
    commit.guards = vec![version_is("door", 1)];
    let commit = keyed("k", commit);
    assert!(matches!(d.commit(commit.clone()), Err(Refusal::Guards { .. })));
    d.op(put("door", "open"));
    assert!(!d.commit(commit.clone()).unwrap().replayed);
    assert!(d.commit(commit).unwrap().replayed);
}

#[test]
fn keys_are_scoped_per_principal() {
    let mut d = Driver::new();
    d.commit_as("ann", pay("k", 5)).unwrap();
    d.commit_as("bob", pay("k", 7)).unwrap();
    assert!(d.commit_as("ann", pay("k", 5)).unwrap().replayed);
    assert_eq!(d.value("balance"), Some("12".into()));
}

#[test]
fn an_answer_is_kept_for_its_time_to_live_and_no_longer() {
    let mut d = Driver::new();
    let commit = keyed_for("k", 1000, Commit::of(vec![add("balance", 5)]));
    d.commit(commit.clone()).unwrap();
    d.pass(999);
    assert!(d.commit(commit.clone()).unwrap().replayed);
    d.pass(1);
    assert!(!d.commit(commit).unwrap().replayed);
    assert_eq!(d.value("balance"), Some("10".into()));
}

#[test]
fn the_else_lists_answer_is_remembered_too() {
    let mut d = Driver::new();
    let commit = keyed(
        "k",
        Commit {
            guards: vec![version_is("door", 1)],
            then: vec![put("then", "1")],
            otherwise: Some(vec![add("else", 1)]),
            ..Commit::default()
        },
    );
    d.commit(commit.clone()).unwrap();
    d.op(put("door", "open"));
    let again = d.commit(commit).unwrap();
    assert_eq!((again.branch, again.replayed, d.value("else")), (Branch::Else, true, Some("1".into())));
}

#[test]
fn resolve_answers_what_happened() {
    let mut d = Driver::new();
    let done = d.commit(pay("k", 5)).unwrap();
    let Resolution::Committed { committed } = resolve(&mut d, "k") else { panic!("it took effect") };
    assert_eq!(committed, Committed { replayed: true, ..done });
}

#[test]
fn resolve_cancels_the_late_original() {
    let mut d = Driver::new();
    assert_eq!(resolve(&mut d, "k"), Resolution::Cancelled {});
    assert_eq!(d.commit(pay("k", 5)), Err(Refusal::Cancelled { key: "k".into() }));
    assert_eq!(resolve(&mut d, "k"), Resolution::Cancelled {});
    assert_eq!(d.value("balance"), None);
    assert!(matches!(d.fails(claim("k", 0, 1)), OpError::ClaimOther { .. }));
    d.pass(60_000);
    d.commit(pay("k", 5)).unwrap();
}

#[test]
fn idempotency_memory_refuses_rather_than_forgets() {
    let mut d = Driver::with(|s| s.idempotency_bytes_max = 2000);
    let mut kept = 0;
    let full = loop {
        match d.commit(pay(&format!("key-{kept}"), 1)) {
            Ok(_) => kept += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(full, Refusal::IdempotencyFull { kept, max: 2000 } if kept > 2000));
    assert!((2..100).contains(&kept), "{kept} fit");
    assert_eq!(d.value("balance"), Some(kept.to_string()), "the refused one had no effect");
    for n in 0..kept {
        assert!(d.commit(pay(&format!("key-{n}"), 1)).unwrap().replayed);
    }
    assert!(matches!(d.fails(claim("c", 0, 1)), OpError::IdempotencyFull { .. }));
    let late = CommandBody::Resolve { key: "late".into(), ttl: Millis(1) };
    assert!(matches!(d.send(late), Outcome::Refused { refusal: Refusal::IdempotencyFull { .. } }));
    d.pass(60_000);
    d.commit(pay("fits again", 1)).unwrap();
    assert_eq!(d.machine.sizes().idempotency_records, 1);
}

#[test]
fn an_answer_too_large_to_remember_refuses_its_commit() {
    let mut d = Driver::with(|s| s.idempotency_bytes_max = 2000);
    d.op(put("large", &"x".repeat(5000)));
    let commit = keyed("k", Commit::of(vec![get("large"), add("n", 1)]));
    assert!(matches!(d.commit(commit), Err(Refusal::IdempotencyFull { .. })));
    assert_eq!(d.value("n"), None);
}

#[test]
fn work_outside_is_claimed_once_and_completed_with_its_answer() {
    let mut d = Driver::new();
    let OpResult::Claim { answer: None, token } = d.op(claim("job", 0, 7)) else { panic!("a token") };
    assert_eq!(d.fails(claim("job", 0, 7)), OpError::ClaimHeld { key: "job".into(), token });
    assert_eq!(d.fails(claim("job", 0, 8)), OpError::ClaimOther { key: "job".into() });
    assert_eq!(resolve(&mut d, "job"), Resolution::InProgress { token });
    assert_eq!(d.commit(pay("job", 1)), Err(Refusal::Claimed { key: "job".into() }));
    let complete = |token| Op::Complete { key: "job".into(), token, answer: "done".into() };
    assert!(matches!(d.fails(complete(token.next())), OpError::ClaimLost { .. }));
    d.op(complete(token));
    assert!(matches!(d.fails(complete(token)), OpError::ClaimLost { .. }));
    let answered = OpResult::Claim { answer: Some("done".into()), token: FencingToken::ZERO };
    assert_eq!(d.op(claim("job", 0, 7)), answered);
    assert_eq!(resolve(&mut d, "job"), Resolution::Completed { answer: "done".into() });
}

#[test]
fn claims_are_freed_at_lease_end_and_the_old_token_is_lost() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    let OpResult::Claim { token: old, .. } = d.op(claim("job", 1, 7)) else { panic!("a token") };
    d.sleep(1000);
    let OpResult::Claim { token: new, answer: None } = d.op(claim("job", 0, 7)) else { panic!("a token") };
    assert!(new > old);
    let late = Op::Complete { key: "job".into(), token: old, answer: "late".into() };
    assert!(matches!(d.fails(late), OpError::ClaimLost { .. }));
}

#[test]
fn a_completed_claim_outlives_its_lease() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    let OpResult::Claim { token, .. } = d.op(claim("job", 1, 7)) else { panic!("a token") };
    d.op(Op::Complete { key: "job".into(), token, answer: "done".into() });
    d.sleep(1000);
    assert!(matches!(d.op(claim("job", 0, 7)), OpResult::Claim { answer: Some(_), .. }));
}

#[test]
fn a_commit_cannot_claim_the_key_under_which_it_is_remembered() {
    let mut d = Driver::new();
    let commit = keyed("k", Commit::of(vec![put("a", "1"), claim("k", 0, 1)]));
    let claimed = Refusal::Operation { op: 1, error: OpError::ClaimOther { key: "k".into() } };
    assert_eq!(d.commit(commit), Err(claimed));
    d.commit(keyed("k", Commit::of(vec![claim("k2", 0, 1)]))).unwrap();
    assert_eq!(d.machine.sizes().idempotency_records, 2);
}

#[test]
fn thousands_of_times_to_live_expire_each_at_its_own() {
    let mut d = Driver::new();
    let commits = (0..2000u64).map(|n| keyed_for(&format!("k{n}"), 1 + (n * 7919) % 2000, Commit::default()));
    d.entry(commits.map(Command::from).collect());
    for step in 1..=20 {
        d.sleep(100);
        assert_eq!(d.machine.sizes().idempotency_records, 2000 - step * 100);
        d.restart();
    }
    assert_eq!((d.machine.next_due(), d.machine.sizes().idempotency_bytes), ((None, None), 0));
}
