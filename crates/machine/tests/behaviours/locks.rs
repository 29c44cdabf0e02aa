//! Locks and elections: fencing, the fair queue, modes, public rows.

use crate::common::*;
use quorate_machine::Event;
use quorate_types::*;

const ALONE: LockMode = LockMode::Exclusive;
const SHARED: LockMode = LockMode::Shared;

fn permits(permits: u32) -> LockMode {
    LockMode::Semaphore { permits }
}

/// A driver with leases 1 to 9, of a minute each.
fn sessions() -> Driver {
    let mut d = Driver::new();
    for lease in 1..10 {
        d.lease(lease, 60_000);
    }
    d
}

fn granted(events: &[Event]) -> Vec<(u64, u64)> {
    let grant = |event: &Event| match event {
        Event::Granted { lease, token, .. } => Some((lease.0, token.0)),
        _ => None,
    };
    events.iter().filter_map(grant).collect()
}

fn rows(d: &Driver) -> Vec<String> {
    let range = KeyRange { start: Key { space: Keyspace::LOCKS, name: Blob::EMPTY }, end: None };
    let read = RangeRead { sort: Sort::Create, ..RangeRead::of(range) };
    d.machine.range(&read).unwrap().keys.iter().map(|row| row.key.name.to_string()).collect()
}

#[test]
fn a_deposed_holder_is_fenced_off() {
    let mut d = Driver::new();
    d.lease(1, 10_000);
    d.lease(2, 60_000);
    let old = d.acquire("orders/42", 1);
    d.commit(guarded(vec![fence("orders/42", old)], vec![put("k", "1")])).unwrap();
    d.sleep(11_000);
    let new = d.acquire("orders/42", 2);
    assert!(new > old);
    let why = d.refuses(fence("orders/42", old));
    assert_eq!(
        why.to_string(),
        format!(
            "lock orders/42 is held with token {new}, offered {old}: the lease ended or it was released, acquire the lock again"
        )
    );
    d.passes(fence("orders/42", new));
    d.op(release("orders/42", new));
    assert!(d.refuses(fence("orders/42", new)).to_string().starts_with("nobody holds lock"));
}

#[test]
fn a_token_is_the_revision_of_its_grant_and_tokens_strictly_increase() {
    let mut d = sessions();
    let mut last = FencingToken::ZERO;
    for round in 0..4 {
        let token = d.acquire("l", 1 + round % 2);
        assert_eq!(token.0, d.machine.revision().0);
        assert!(token > last);
        last = token;
        d.op(release("l", token));
        d.restart();
    }
}

#[test]
fn one_commit_never_gives_one_token_twice() {
    let mut d = sessions();
    let next = FencingToken(d.machine.revision().0 + 1);
    // Given back by name of the token, and by the end of the lease.
    let twice = vec![acquire("l", 1), release("l", next), acquire("l", 2)];
    assert!(matches!(
        d.commit(Commit::of(twice)),
        Err(Refusal::Operation { op: 2, error: OpError::LockHeld { .. } })
    ));
    let revoked = vec![acquire("l", 1), Op::LeaseRevoke { lease: LeaseId(1) }, acquire("l", 2)];
    assert!(matches!(d.commit(Commit::of(revoked)), Err(Refusal::Operation { op: 2, .. })));
    // What was taken back with an inner commit was never given.
    let inner = nested(Commit::of(vec![acquire("l", 1), Op::Cancel { task: "missing".into() }]));
    let done = d.commit(each(vec![inner, acquire("l", 2)])).unwrap();
    assert!(matches!(done.results[1], OpResult::Token { .. }));
    // Released and taken again in one commit: the older token was an older revision's.
    let old = d.machine.lock(&"l".into()).unwrap().holders[0].token;
    let results = d.run(vec![release("l", old), acquire("l", 3)]);
    assert!(matches!(results[1], OpResult::Token { token } if token > old));
}

#[test]
fn waiters_are_granted_fifo_one_revision_each() {
    let mut d = sessions();
    let held = d.acquire("l", 1);
    for (place, lease) in [2, 3, 4].into_iter().enumerate() {
        assert_eq!(d.wait("l", lease, ALONE, None), Outcome::Queued { ahead: place as u64 });
    }
    d.op(release("l", held));
    let first = granted(&d.events);
    assert_eq!(first.len(), 1, "one wake per release");
    assert_eq!(first[0], (2, d.machine.revision().0));
    d.op(release("l", FencingToken(first[0].1)));
    let second = granted(&d.events);
    assert_eq!((second[0].0, second[0].1 > first[0].1), (3, true));
}

#[test]
fn shared_waiters_enter_together_each_with_its_own_token() {
    let mut d = sessions();
    let held = d.acquire("l", 1);
    for (lease, mode) in [(2, SHARED), (3, SHARED), (4, ALONE), (5, SHARED)] {
        d.wait("l", lease, mode, None);
    }
    d.op(release("l", held));
    let inside = granted(&d.events);
    assert_eq!(inside.iter().map(|(lease, _)| *lease).collect::<Vec<_>>(), [2, 3], "5 does not overtake 4");
    assert!(inside[0].1 < inside[1].1);
    d.op(release("l", FencingToken(inside[0].1)));
    assert!(granted(&d.events).is_empty());
    d.passes(fence("l", FencingToken(inside[1].1)));
    d.op(release("l", FencingToken(inside[1].1)));
    assert_eq!(granted(&d.events).iter().map(|(lease, _)| *lease).collect::<Vec<_>>(), [4]);
}

#[test]
fn shared_holders_share_and_a_try_does_not_overtake_the_queue() {
    let mut d = sessions();
    d.op(acquire_as("l", 1, 1, SHARED));
    d.op(acquire_as("l", 2, 1, SHARED));
    assert!(matches!(d.fails(acquire("l", 3)), OpError::LockHeld { waiting: 0, .. }));
    d.wait("l", 4, ALONE, None);
    assert!(matches!(d.fails(acquire_as("l", 5, 1, SHARED)), OpError::LockHeld { waiting: 1, .. }));
    assert_eq!(d.machine.lock(&"l".into()).unwrap().holders.len(), 2);
}

#[test]
fn a_semaphore_has_the_first_holders_number_of_permits_until_all_have_left() {
    let mut d = sessions();
    let take = |d: &mut Driver, lease, request, n| match d.commit(Commit::of(vec![acquire_as(
        "s",
        lease,
        request,
        permits(n),
    )])) {
        Ok(done) => match done.results[0] {
            OpResult::Token { token } => Some(token),
            ref other => panic!("{other:?}"),
        },
        Err(_) => None,
    };
    let first = take(&mut d, 1, 1, 2).unwrap();
    let second = take(&mut d, 1, 2, 50).expect("a session may hold several permits");
    assert_eq!(take(&mut d, 2, 1, 50), None);
    d.op(release("s", first));
    let third = take(&mut d, 2, 1, 50).unwrap();
    assert_eq!(take(&mut d, 3, 1, 50), None, "the number stands though its holder has left");
    d.op(release("s", second));
    d.op(release("s", third));
    for lease in 1..4 {
        take(&mut d, lease, 1, 3).expect("all had left: the number is chosen anew");
    }
    assert_eq!(take(&mut d, 4, 1, 3), None);
    assert!(matches!(d.fails(acquire("s", 5)), OpError::LockHeld { .. }));
}

#[test]
fn an_acquire_repeated_gives_the_same_token_and_another_request_is_told() {
    let mut d = sessions();
    let token = d.acquire("l", 1);
    let revision = d.machine.revision();
    assert_eq!(d.acquire("l", 1), token);
    assert_eq!(d.wait("l", 1, ALONE, None), Outcome::Granted { token });
    assert_eq!(d.machine.revision(), revision);
    let yours = OpError::LockHeldByYou { lock: "l".into(), lease: LeaseId(1), held: token };
    assert_eq!(d.fails(acquire_as("l", 1, 99, ALONE)), yours);
    assert_eq!(
        d.fails(acquire_as("l", 1, 99, permits(3))),
        yours,
        "nor as a semaphore: it would wait for itself"
    );
    let wait = CommandBody::Wait { wait: waiting("l", 1, 99, ALONE, None) };
    assert_eq!(d.send(wait), Outcome::Refused { refusal: Refusal::Command { error: yours } });
}

#[test]
fn a_wait_repeated_keeps_its_place_and_a_second_one_of_the_session_is_told() {
    let mut d = sessions();
    d.acquire("l", 1);
    assert_eq!(d.wait("l", 2, ALONE, None), Outcome::Queued { ahead: 0 });
    assert_eq!(d.wait("l", 3, ALONE, None), Outcome::Queued { ahead: 1 });
    assert_eq!(d.wait("l", 2, ALONE, None), Outcome::Queued { ahead: 0 });
    assert_eq!(d.machine.lock(&"l".into()).unwrap().waiting.len(), 2);
    let again = d.send(CommandBody::Wait { wait: waiting("l", 2, 77, ALONE, None) });
    let error = OpError::LockHeldByYou { lock: "l".into(), lease: LeaseId(2), held: FencingToken::ZERO };
    assert_eq!(again, Outcome::Refused { refusal: Refusal::Command { error } }, "it would wait for itself");
}

#[test]
fn a_free_lock_is_granted_to_a_wait_at_once() {
    let mut d = sessions();
    let Outcome::Granted { token } = d.wait("l", 1, ALONE, Some(10)) else { panic!("granted") };
    assert_eq!(token.0, d.machine.revision().0);
    d.sleep(1000);
    d.passes(fence("l", token));
}

#[test]
fn a_wait_gives_up_at_its_deadline_not_earlier_and_says_who_holds() {
    let mut d = sessions();
    let held = d.acquire("l", 1);
    d.wait("l", 2, ALONE, Some(500));
    d.wait("l", 3, ALONE, None);
    assert!(d.sleep(499).is_empty());
    let ended = d.sleep(1);
    let error = OpError::LockHeld { lock: "l".into(), held, waiting: 1 };
    assert_eq!(ended, [Event::WaitEnded { lock: "l".into(), lease: LeaseId(2), request: 2, error }]);
    d.op(release("l", held));
    assert_eq!(granted(&d.events)[0].0, 3);
}

#[test]
fn when_the_head_of_the_queue_gives_up_those_behind_it_may_fit() {
    let mut d = sessions();
    d.op(acquire_as("l", 1, 1, SHARED));
    d.wait("l", 2, ALONE, Some(500));
    d.wait("l", 3, SHARED, None);
    d.sleep(500);
    assert_eq!(granted(&d.events).iter().map(|(lease, _)| *lease).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_lock_freed_at_the_instant_a_wait_would_end_is_granted() {
    let mut d = Driver::new();
    d.lease(1, 500);
    d.lease(2, 60_000);
    d.acquire("l", 1);
    d.wait("l", 2, ALONE, Some(500));
    d.sleep(500);
    assert_eq!(granted(&d.events).len(), 1);
}

#[test]
fn a_cancelled_wait_leaves_the_queue_and_a_grant_that_came_first_stays() {
    let mut d = sessions();
    let held = d.acquire("l", 1);
    d.wait("l", 2, ALONE, None);
    d.wait("l", 3, ALONE, None);
    let cancel = |lease| CommandBody::CancelWait { lock: "l".into(), lease: LeaseId(lease), request: lease };
    assert!(matches!(d.send(cancel(2)), Outcome::Done { .. }));
    assert!(matches!(&d.events[..], [Event::WaitEnded { lease: LeaseId(2), .. }]));
    let error = OpError::NotWaiting { lock: "l".into(), lease: LeaseId(2) };
    assert_eq!(d.send(cancel(2)), Outcome::Refused { refusal: Refusal::Command { error } });
    d.op(release("l", held));
    let token = FencingToken(granted(&d.events)[0].1);
    assert!(matches!(d.send(cancel(3)), Outcome::Refused { .. }));
    d.passes(fence("l", token));
}

#[test]
fn a_lease_that_ends_frees_its_locks_and_leaves_every_queue() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.lease(2, 1000);
    d.lease(3, 60_000);
    d.acquire("l", 1);
    d.wait("l", 2, ALONE, None);
    d.wait("l", 3, ALONE, None);
    d.sleep(1000);
    assert_eq!(granted(&d.events).last().unwrap().0, 3);
    let holders = d.machine.lock(&"l".into()).unwrap().holders;
    assert_eq!(holders.iter().map(|holder| holder.lease).collect::<Vec<_>>(), [LeaseId(3)]);
}

#[test]
fn only_the_exact_token_releases() {
    let mut d = sessions();
    let token = d.acquire("l", 1);
    let wrong = FencingToken(token.0 + 1);
    assert_eq!(d.fails(release("l", wrong)), OpError::NotHolder { lock: "l".into(), offered: wrong });
    assert!(matches!(d.fails(release("other", token)), OpError::NotHolder { .. }));
    d.op(release("l", token));
    assert!(matches!(d.fails(release("l", token)), OpError::NotHolder { .. }));
}

#[test]
fn holders_and_waiters_are_rows_in_the_order_in_which_they_came() {
    let mut d = sessions();
    let held = d.acquire("l", 2);
    d.wait("l", 1, ALONE, None);
    d.wait("l", 9, ALONE, None);
    assert_eq!(rows(&d), ["l/2", "l/1", "l/9"]);
    d.op(release("l", held));
    assert_eq!(rows(&d), ["l/1", "l/9"]);
    d.send(CommandBody::CancelWait { lock: "l".into(), lease: LeaseId(9), request: 9 });
    assert_eq!(rows(&d), ["l/1"]);
}

#[test]
fn rows_of_different_locks_never_share_a_name() {
    let mut d = sessions();
    // Were a slash to part lease and request, the first of these would bear the name of the second.
    d.op(acquire_as("l", 5, 1, permits(2)));
    d.acquire("l/5", 1);
    assert_eq!(rows(&d), ["l/5:1", "l/5/1"]);
}

#[test]
fn a_queue_survives_a_restart() {
    let mut d = sessions();
    let held = d.acquire("l", 1);
    for lease in [5, 3, 4] {
        d.wait("l", lease, ALONE, Some(30_000));
    }
    d.restart();
    d.op(release("l", held));
    assert_eq!(granted(&d.events)[0].0, 5);
    d.restart();
    d.sleep(30_000);
    assert_eq!(d.events.len(), 2, "the others give up");
}

#[test]
fn a_leader_campaigns_proclaims_and_resigns() {
    let mut d = sessions();
    let campaign = |lease, value: &str| Op::Campaign {
        election: "e".into(),
        lease: LeaseId(lease),
        request: 1,
        value: value.into(),
    };
    let OpResult::Token { token } = d.op(campaign(1, "one")) else { panic!("a token") };
    assert!(matches!(d.fails(campaign(2, "two")), OpError::LockHeld { .. }));
    let mut second = waiting("e", 2, 1, ALONE, None);
    second.value = "two".into();
    d.send(CommandBody::Wait { wait: second });
    d.passes(Guard::Leadership { election: "e".into(), lease: LeaseId(1) });
    d.op(Op::Proclaim { election: "e".into(), token, value: "uno".into() });
    let leader = |d: &mut Driver| match d.op(Op::LockInfo { lock: "e".into() }) {
        OpResult::Lock { holders, waiting } => (holders[0].lease.0, holders[0].value.to_string(), waiting),
        other => panic!("{other:?}"),
    };
    assert_eq!(leader(&mut d), (1, "uno".into(), 1));
    let row = d.machine.get(&Key { space: Keyspace::LOCKS, name: "e/1".into() }).unwrap();
    assert_eq!(row.value, "uno".into());
    d.op(Op::Resign { election: "e".into(), token });
    assert_eq!(leader(&mut d), (2, "two".into(), 0));
    assert!(matches!(
        d.fails(Op::Proclaim { election: "e".into(), token, value: "x".into() }),
        OpError::NotHolder { .. }
    ));
    let failed = d.refuses(Guard::Leadership { election: "e".into(), lease: LeaseId(1) });
    assert_eq!(
        failed,
        GuardFailed::Leadership { election: "e".into(), leader: LeaseId(2), wanted: LeaseId(1) }
    );
}

#[test]
fn a_lock_released_and_wanted_in_one_entry_goes_to_the_waiter() {
    let mut d = sessions();
    let held = d.acquire("l", 1);
    d.wait("l", 2, ALONE, None);
    let outcomes =
        d.entry(vec![Commit::of(vec![release("l", held)]).into(), Commit::of(vec![acquire("l", 3)]).into()]);
    assert!(matches!(outcomes[1], Outcome::Refused { .. }));
    assert_eq!(granted(&d.events)[0].0, 2);
}
