//! Alarms raised by hand: what they refuse, on whose behalf, and that they outlive a restart.

use crate::common::*;
use quorate_types::*;

fn alarm(d: &mut Driver, member: u64, kind: AlarmKind, up: bool) {
    let outcome = d.send(CommandBody::Alarm { member: NodeId(member), kind, up });
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
}

fn up(d: &Driver) -> Vec<(u64, AlarmKind)> {
    d.machine.alarms().map(|(member, kind)| (member.0, kind)).collect()
}

/// The text with which an alarm refuses a command.
#[track_caller]
fn refused(outcome: Outcome) -> String {
    match outcome {
        Outcome::Refused { refusal: Refusal::Command { error: OpError::Call { text } } } => text.to_string(),
        other => panic!("an alarm refuses it: {other:?}"),
    }
}

#[test]
fn no_space_refuses_what_grows_and_lets_everything_else_go_on() {
    let mut d = Driver::new();
    d.lease(1, 60_000);
    d.run(vec![put("a", "1"), put_on("b", "2", 1), append("s", "x")]);
    let revision = d.machine.revision();
    alarm(&mut d, 7, AlarmKind::NoSpace, true);
    assert_eq!(d.machine.revision(), revision, "an alarm is no change of a key");
    for op in [
        put("c", "1"),
        add("n", 1),
        append("s", "y"),
        Op::LeaseGrant { lease: LeaseId(2), ttl: Millis(9000) },
    ] {
        let text = refused(d.outcome(Commit::of(vec![delete("a"), op])));
        assert!(text.starts_with("OOM"), "{text}");
    }
    assert!(refused(d.wait("l", 1, LockMode::Exclusive, None)).starts_with("OOM"));
    assert_eq!(d.value("a"), Some("1".into()), "refused whole");
    d.op(delete("a"));
    d.send(CommandBody::KeepAlive { leases: vec![LeaseId(1)] });
    d.send(CommandBody::Compact { before: d.machine.revision() });
    // What is due goes on ending.
    d.sleep(60_001);
    assert_eq!(d.value("b"), None);
    alarm(&mut d, 7, AlarmKind::NoSpace, false);
    d.op(put("c", "1"));
}

#[test]
fn corrupt_refuses_every_commit_and_compaction_but_no_keep_alive() {
    let mut d = Driver::new();
    d.lease(1, 60_000);
    d.op(put("a", "1"));
    alarm(&mut d, 1, AlarmKind::Corrupt, true);
    assert!(refused(d.outcome(Commit::of(vec![delete("a")]))).starts_with(quorate_machine::CORRUPT));
    assert!(refused(d.wait("l", 1, LockMode::Exclusive, None)).starts_with(quorate_machine::CORRUPT));
    let before = d.machine.revision();
    assert!(refused(d.send(CommandBody::Compact { before })).starts_with(quorate_machine::CORRUPT));
    let alive = d.send(CommandBody::KeepAlive { leases: vec![LeaseId(1)] });
    assert_eq!(alive, Outcome::Alive { leases: vec![(LeaseId(1), Some(Millis(60_000)))] });
}

#[test]
fn each_alarm_is_taken_down_by_itself_and_all_outlive_a_restart() {
    let mut d = Driver::new();
    alarm(&mut d, 2, AlarmKind::NoSpace, true);
    alarm(&mut d, 2, AlarmKind::NoSpace, true);
    alarm(&mut d, 1, AlarmKind::NoSpace, true);
    alarm(&mut d, 1, AlarmKind::None, true);
    d.restart();
    let all = [(1, AlarmKind::None), (1, AlarmKind::NoSpace), (2, AlarmKind::NoSpace)];
    assert_eq!(up(&d), all);
    alarm(&mut d, 2, AlarmKind::NoSpace, false);
    alarm(&mut d, 3, AlarmKind::Corrupt, false);
    refused(d.outcome(Commit::of(vec![put("a", "1")])));
    alarm(&mut d, 1, AlarmKind::NoSpace, false);
    d.op(put("a", "1"));
    assert_eq!(up(&d), [(1, AlarmKind::None)], "one that speaks against nothing is only shown");
}

#[test]
fn a_commit_that_has_happened_is_answered_again_whatever_is_up() {
    let mut d = Driver::new();
    let commit = keyed("k", Commit::of(vec![put("a", "1")]));
    let first = d.commit(commit.clone()).unwrap();
    alarm(&mut d, 1, AlarmKind::NoSpace, true);
    assert_eq!(d.commit(commit.clone()), Ok(Committed { replayed: true, ..first.clone() }));
    alarm(&mut d, 1, AlarmKind::Corrupt, true);
    assert_eq!(d.commit(commit), Ok(Committed { replayed: true, ..first }));
    refused(d.outcome(keyed("other", Commit::of(vec![delete("a")]))));
}

#[test]
fn alarms_are_bounded_in_number() {
    let mut d = Driver::new();
    let raise = |member| CommandBody::Alarm { member: NodeId(member), kind: AlarmKind::None, up: true };
    let mut refused = 0;
    for member in 0..200 {
        refused += u64::from(matches!(d.send(raise(member)), Outcome::Refused { .. }));
    }
    assert_eq!((refused, up(&d).len()), (72, 128));
    assert!(matches!(d.send(raise(5)), Outcome::Done { .. }), "it is up already");
}
