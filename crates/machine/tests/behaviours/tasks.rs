//! Tasks: commits that run later, once.

use crate::common::*;
use quorate_types::*;

fn fired(d: &Driver) -> Vec<String> {
    d.fired.iter().map(|fired| fired.task.to_string()).collect()
}

fn later(task: &str, after_ms: u64) -> Op {
    schedule(task, after_ms, Commit::of(vec![add("fired", 1)]), OnRefused::Drop)
}

/// A commit that is refused until the key `door` is there.
fn through_the_door() -> Commit {
    let exists =
        Guard::Key { key: "door".into(), field: KeyField::Version, compare: Compare::NotEqual, wanted: 0 };
    guarded(vec![exists], vec![add("fired", 1)])
}

#[test]
fn a_timer_fires_once_and_not_early() {
    let mut d = Driver::new();
    d.op(later("t", 1000));
    d.sleep(999);
    assert!(fired(&d).is_empty());
    d.sleep(1);
    assert_eq!(fired(&d), ["t"]);
    d.sleep(10_000);
    assert!(fired(&d).is_empty());
    assert_eq!(d.value("fired"), Some("1".into()));
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines_each_with_a_revision_of_its_own() {
    let mut d = Driver::new();
    d.run(vec![later("c", 300), later("a", 200), later("b", 100), later("d", 300)]);
    let before = d.machine.revision().0;
    d.sleep(1000);
    assert_eq!(fired(&d), ["b", "a", "c", "d"]);
    let revisions: Vec<u64> = d
        .fired
        .iter()
        .map(|fired| match &fired.outcome {
            Outcome::Committed { committed } => committed.revision.0 - before,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(revisions, [1, 2, 3, 4]);
}

#[test]
fn deadlines_of_all_kinds_are_met_in_order() {
    let mut d = Driver::new();
    d.lease(1, 200);
    d.op(put_on("k", "v", 1));
    let sees = |task: &str, after| {
        schedule(task, after, guarded(vec![version_is("k", 1)], vec![put(task, "saw it")]), OnRefused::Drop)
    };
    d.run(vec![sees("early", 100), sees("late", 300)]);
    d.sleep(1000);
    assert_eq!((d.value("early").is_some(), d.value("late")), (true, None));
}

#[test]
fn absolute_times_are_of_the_wall_clock() {
    let mut d = Driver::new();
    let at = |ms| When::At { time: WallTime(WALL + ms) };
    let commit = Box::new(Commit::of(vec![add("fired", 1)]));
    d.op(Op::Schedule { task: "t".into(), when: at(500), commit, on_refused: OnRefused::Drop });
    assert_eq!(d.machine.next_due(), (None, Some(WallTime(WALL + 500))));
    d.time_ms += 10_000;
    d.sleep(0);
    assert!(fired(&d).is_empty());
    d.wall_ms += 500;
    d.sleep(0);
    assert_eq!(fired(&d), ["t"]);
}

#[test]
fn scheduling_a_name_again_replaces_it_and_cancelling_takes_it_back() {
    let mut d = Driver::new();
    assert_eq!(d.op(later("t", 100)), OpResult::Scheduled { replaced: false });
    assert_eq!(d.op(later("t", 500)), OpResult::Scheduled { replaced: true });
    d.sleep(200);
    assert!(fired(&d).is_empty());
    d.op(Op::Cancel { task: "t".into() });
    assert_eq!(d.fails(Op::Cancel { task: "t".into() }), OpError::TaskMissing { task: "t".into() });
    d.sleep(1000);
    assert!(fired(&d).is_empty() && d.machine.tasks(9).is_empty());
}

#[test]
fn a_refused_firing_is_dropped_by_default() {
    let mut d = Driver::new();
    d.op(schedule("t", 100, through_the_door(), OnRefused::Drop));
    d.sleep(100);
    assert!(matches!(&d.fired[0].outcome, Outcome::Refused { refusal: Refusal::Guards { .. } }));
    assert!(d.machine.task(&"t".into()).is_none());
}

#[test]
fn a_refused_firing_is_tried_again_with_growing_waits_and_then_dropped() {
    let mut d = Driver::new();
    let retry = OnRefused::Retry { attempts: 3, backoff: Millis(100) };
    d.op(schedule("t", 0, through_the_door(), retry));
    let mut at = Vec::new();
    for ms in 0..1000 {
        d.sleep(1);
        at.extend(d.fired.iter().map(|_| ms));
        if ms == 50 {
            d.restart();
        }
    }
    assert_eq!(at.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>(), [100, 200]);
    assert!(d.machine.task(&"t".into()).is_none());
}

#[test]
fn a_retry_that_passes_is_the_last() {
    let mut d = Driver::new();
    let retry = OnRefused::Retry { attempts: 9, backoff: Millis(100) };
    d.op(schedule("t", 0, through_the_door(), retry));
    d.sleep(1);
    assert_eq!(d.machine.task(&"t".into()).unwrap().refused, 1);
    d.op(put("door", "open"));
    d.sleep(100);
    d.sleep(10_000);
    assert_eq!(d.value("fired"), Some("1".into()));
}

#[test]
fn a_refused_firing_leaves_its_dead_letter() {
    let mut d = Driver::new();
    d.op(schedule("t", 100, through_the_door(), OnRefused::DeadLetter { letter: letter("dead") }));
    let logged = LogIndex(d.index);
    let revision = d.machine.revision();
    d.restart();
    d.sleep(100);
    let batches = d.machine.records(&"dead".into(), 0, Offset(0), 9, 999).unwrap().batches;
    assert_eq!(batches.iter().map(|batch| batch.at.index).collect::<Vec<_>>(), [logged]);
    assert_eq!(d.machine.revision(), revision.next());
}

#[test]
fn a_firing_may_schedule_itself_again() {
    let mut d = Driver::new();
    let once = Commit::of(vec![add("fired", 1), later("t", 100)]);
    d.op(schedule("t", 100, once, OnRefused::Drop));
    d.sleep(100);
    assert_eq!(fired(&d), ["t"]);
    d.sleep(100);
    assert_eq!((fired(&d), d.value("fired")), (vec!["t".into()], Some("2".into())));
}

#[test]
fn a_firing_that_schedules_without_delay_does_not_hold_the_entry_for_ever() {
    let mut commit = Commit::of(vec![add("fired", 1)]);
    for _ in 0..4 {
        commit = Commit::of(vec![add("fired", 1), schedule("t", 0, commit, OnRefused::Drop)]);
    }
    let mut d = Driver::with(|s| s.expiries_per_entry = 2);
    d.op(schedule("t", 0, commit, OnRefused::Drop));
    d.sleep(1);
    assert_eq!(d.value("fired"), Some("2".into()), "bounded per entry");
    d.sleep(0);
    d.sleep(0);
    assert_eq!(d.value("fired"), Some("5".into()));
}

#[test]
fn a_firing_runs_as_who_scheduled_it() {
    let mut d = Driver::new();
    d.commit_as(
        "ann",
        Commit::of(vec![schedule("t", 100, Commit::of(vec![claim("c", 0, 1)]), OnRefused::Drop)]),
    )
    .unwrap();
    d.sleep(100);
    assert_eq!(d.fired[0].principal, "ann".into());
    assert!(d.commit_as("bob", Commit::of(vec![claim("c", 0, 1)])).is_ok(), "the claim is ann's");
}

#[test]
fn a_firing_grants_the_lock_it_releases() {
    let mut d = Driver::new();
    d.lease(1, 60_000);
    d.lease(2, 60_000);
    let token = d.acquire("l", 1);
    d.wait("l", 2, LockMode::Exclusive, None);
    d.op(schedule("t", 100, Commit::of(vec![release("l", token)]), OnRefused::Drop));
    d.sleep(100);
    assert_eq!(d.machine.lock(&"l".into()).unwrap().holders[0].lease, LeaseId(2));
}
