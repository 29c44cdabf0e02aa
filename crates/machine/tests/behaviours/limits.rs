//! Limits and slots: what may pass in log time, and how many at once.

use crate::common::*;
use quorate_types::*;

fn take(d: &mut Driver, policy: LimitPolicy, cost: u64) -> Result<u64, LimitReport> {
    match d.commit(guarded(vec![limit("l", policy, cost)], vec![])) {
        Ok(done) => Ok(done.limits[0].remaining),
        Err(Refusal::Guards { mut failed }) => match failed.remove(0).1 {
            GuardFailed::Limit { report, .. } => Err(report),
            other => panic!("{other}"),
        },
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_bucket_gives_its_burst_at_once_and_refills_evenly() {
    let mut d = Driver::new();
    let policy = bucket(10, 1000, 3);
    assert_eq!([1, 1, 1].map(|cost| take(&mut d, policy, cost).unwrap()), [2, 1, 0]);
    let report = take(&mut d, policy, 1).unwrap_err();
    assert_eq!(
        (report.limit, report.remaining, report.retry_after, report.reset),
        (3, 0, Millis(100), Millis(300))
    );
    d.pass(99);
    assert!(take(&mut d, policy, 1).is_err());
    d.pass(1);
    assert_eq!(take(&mut d, policy, 1), Ok(0));
    d.pass(1000);
    assert_eq!(take(&mut d, policy, 3), Ok(0), "never more than the burst is saved up");
}

#[test]
fn a_cost_above_the_limit_can_never_pass_and_is_told_so() {
    let mut d = Driver::new();
    let failed = d.refuses(limit("l", bucket(10, 1000, 3), 4));
    assert_eq!(failed.to_string(), "limit l has 3 of 3 left, wanted 4: it can never pass, ask for less");
}

#[test]
fn a_fixed_window_begins_anew_at_its_multiples() {
    let mut d = Driver::new();
    let policy = LimitPolicy::FixedWindow { count: 2, window: Millis(1000) };
    d.pass(1900);
    assert_eq!([1, 1].map(|cost| take(&mut d, policy, cost).unwrap()), [1, 0]);
    let report = take(&mut d, policy, 1).unwrap_err();
    assert_eq!((report.retry_after, report.reset), (Millis(100), Millis(100)));
    d.pass(99);
    assert!(take(&mut d, policy, 1).is_err());
    d.pass(1);
    assert_eq!(take(&mut d, policy, 2), Ok(0));
}

#[test]
fn a_sliding_window_counts_the_overlapping_share_of_the_previous_one() {
    let mut d = Driver::new();
    let policy = LimitPolicy::SlidingWindow { count: 10, window: Millis(1000) };
    d.pass(1000);
    assert_eq!(take(&mut d, policy, 10), Ok(0));
    d.pass(1000); // All of the previous window still overlaps.
    let report = take(&mut d, policy, 1).unwrap_err();
    assert_eq!(report.retry_after, Millis(100));
    d.pass(99);
    assert!(take(&mut d, policy, 1).is_err());
    d.pass(1);
    assert_eq!(take(&mut d, policy, 1), Ok(0));
    d.pass(400); // Half of it: 5 of 10, and one of this window.
    assert_eq!(take(&mut d, policy, 1), Ok(3));
}

#[test]
fn waiting_as_long_as_told_is_enough() {
    let policies = [
        bucket(7, 1000, 5),
        LimitPolicy::FixedWindow { count: 5, window: Millis(700) },
        LimitPolicy::SlidingWindow { count: 5, window: Millis(700) },
    ];
    for policy in policies {
        let mut d = Driver::new();
        for round in 0..200u64 {
            d.pass(round * 37 % 91);
            let cost = 1 + round % 5;
            if let Err(report) = take(&mut d, policy, cost) {
                assert!(report.retry_after > Millis(0));
                d.pass(report.retry_after.0);
                take(&mut d, policy, cost).unwrap_or_else(|report| panic!("{policy:?} {cost}: {report:?}"));
            }
        }
    }
}

#[test]
fn a_limit_that_is_full_again_leaves_no_row() {
    let mut d = Driver::new();
    for n in 0..100 {
        d.commit(guarded(vec![limit(&format!("l{n:03}"), bucket(1, 1000, 1), 1)], vec![])).unwrap();
    }
    assert_eq!(d.machine.sizes().limits, 100);
    d.pass(10_000);
    for n in 0..100 {
        d.commit(guarded(vec![limit(&format!("m{n:03}"), bucket(1, 60_000, 1), 1)], vec![])).unwrap();
    }
    assert_eq!(d.machine.sizes().limits, 100, "every new row lets two old ones be looked at");
}

#[test]
fn denials_are_counted_while_the_limit_is_in_use() {
    let mut d = Driver::new();
    let policy = bucket(1, 1000, 1);
    take(&mut d, policy, 1).unwrap();
    d.send(CommandBody::Denied { name: "l".into(), count: 5 });
    d.send(CommandBody::Denied { name: "unused".into(), count: 5 });
    assert_eq!(d.machine.limit_report(&"l".into(), &policy, 1).1, 5);
    assert_eq!(d.machine.limit_report(&"unused".into(), &policy, 1).1, 0);
}

#[test]
fn a_peek_takes_nothing() {
    let mut d = Driver::new();
    let policy = bucket(1, 1000, 2);
    for _ in 0..3 {
        let OpResult::Limit { report } = d.op(Op::LimitPeek { name: "l".into(), policy }) else {
            panic!("a report")
        };
        assert_eq!((report.remaining, report.retry_after), (2, Millis(0)));
    }
    assert_eq!(d.machine.sizes().limits, 0);
}

#[test]
fn rates_that_do_not_divide_never_let_more_pass() {
    // 3 per second is a unit each 333,333,333.3 ns: rounded down, a sixth unit would pass within the first second.
    let mut d = Driver::new();
    let policy = bucket(3, 1000, 3);
    take(&mut d, policy, 3).unwrap();
    let mut passed = 0;
    for _ in 0..999 {
        d.pass(1);
        passed += u64::from(take(&mut d, policy, 1).is_ok());
    }
    assert_eq!(passed, 2);
}

fn slot(lease: u64, slot: &str, max: u64) -> Guard {
    Guard::Slots { name: "n".into(), max, lease: LeaseId(lease), slot: slot.into() }
}

#[test]
fn slots_are_taken_once_and_freed_once() {
    let mut d = Driver::new();
    d.lease(1, 60_000);
    d.passes(slot(1, "a", 2));
    d.passes(slot(1, "a", 2));
    d.passes(slot(1, "b", 2));
    assert_eq!(d.refuses(slot(1, "c", 2)), GuardFailed::Slots { name: "n".into(), max: 2 });
    let free = |slot: &str| Op::FreeSlot { name: "n".into(), lease: LeaseId(1), slot: slot.into() };
    d.op(free("a"));
    assert_eq!(d.fails(free("a")), OpError::SlotMissing { name: "n".into() });
    d.passes(slot(1, "c", 2));
    // Two guards of one commit count together.
    d.op(free("b"));
    assert!(d.commit(guarded(vec![slot(1, "x", 2), slot(1, "y", 2)], vec![])).is_err());
    d.passes(slot(1, "x", 2));
}

#[test]
fn slots_are_freed_at_lease_end() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.lease(2, 60_000);
    d.passes(slot(1, "a", 1));
    d.restart();
    d.refuses(slot(2, "a", 1));
    d.sleep(1000);
    d.passes(slot(2, "a", 1));
}
