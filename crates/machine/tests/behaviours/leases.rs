//! Leases and services: time to live in log time, and everything that hangs on it.

use crate::common::*;
use quorate_machine::{Event, registered, service_range};
use quorate_types::*;

#[test]
fn a_lease_never_ends_early() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.op(put_on("k", "v", 1));
    assert!(d.sleep(999).is_empty());
    assert_eq!(d.value("k"), Some("v".into()));
    assert_eq!(d.machine.lease(LeaseId(1)).unwrap().left, Millis(1));
    assert_eq!(d.sleep(1), [Event::LeaseEnded { lease: LeaseId(1) }]);
    assert_eq!(d.value("k"), None);
}

#[test]
fn a_keep_alive_renews_for_the_full_time_to_live() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.pass(900);
    let renewed = d.send(CommandBody::KeepAlive { leases: vec![LeaseId(1), LeaseId(2)] });
    let leases = vec![(LeaseId(1), Some(Millis(1000))), (LeaseId(2), None)];
    assert_eq!(renewed, Outcome::Alive { leases });
    assert!(d.sleep(999).is_empty());
    assert_eq!(d.sleep(1).len(), 1);
}

#[test]
fn keepalive_in_the_expiring_entry_wins() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.lease(2, 1000);
    d.pass(5000);
    let alive = Command::new("anonymous".into(), CommandBody::KeepAlive { leases: vec![LeaseId(1)] });
    let late = Command::new("anonymous".into(), CommandBody::KeepAlive { leases: vec![LeaseId(2)] });
    let outcomes = d.entry(vec![alive, Commit::of(vec![put_on("k", "v", 1)]).into(), late]);
    assert!(matches!(&outcomes[1], Outcome::Committed { .. }));
    assert_eq!(
        d.events,
        [Event::LeaseEnded { lease: LeaseId(2) }],
        "one that comes after others comes too late"
    );
    assert_eq!(outcomes[2], Outcome::Alive { leases: vec![(LeaseId(2), None)] });
}

#[test]
fn a_lease_that_has_ended_is_a_clear_error_everywhere() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.sleep(1000);
    let gone = OpError::LeaseMissing { lease: LeaseId(1) };
    let info = Instance::default();
    let uses = vec![
        put_on("k", "v", 1),
        acquire("l", 1),
        claim("c", 1, 1),
        Op::LeaseKeepAlive { lease: LeaseId(1) },
        Op::LeaseRevoke { lease: LeaseId(1) },
        Op::LeaseInfo { lease: LeaseId(1) },
        Op::Register { service: "s".into(), instance: "i".into(), lease: LeaseId(1), info },
    ];
    for op in uses {
        assert_eq!(d.fails(op.clone()), gone, "{op:?}");
    }
    let refused = Outcome::Refused { refusal: Refusal::Command { error: gone } };
    assert_eq!(d.wait("l", 1, LockMode::Exclusive, None), refused);
    let slot = Guard::Slots { name: "n".into(), max: 1, lease: LeaseId(1), slot: "s".into() };
    assert_eq!(d.refuses(slot), GuardFailed::LeaseGone { lease: LeaseId(1) });
}

#[test]
fn everything_that_hangs_on_a_lease_ends_with_it_at_one_revision() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.lease(2, 60_000);
    d.run(vec![put_on("a", "v", 1), put_on("b", "v", 1), put("c", "v"), claim("claim", 1, 1)]);
    d.acquire("held", 1);
    d.acquire("wanted", 2);
    d.wait("wanted", 1, LockMode::Exclusive, None);
    d.op(Op::Register {
        service: "s".into(),
        instance: "i".into(),
        lease: LeaseId(1),
        info: Instance::default(),
    });
    let slot = Guard::Slots { name: "n".into(), max: 1, lease: LeaseId(1), slot: "s".into() };
    d.passes(slot);
    let view = d.machine.lease(LeaseId(1)).unwrap();
    assert_eq!((view.locks.len(), view.keys.len()), (1, 5), "two keys, two lock rows, an instance");
    let before = d.machine.revision();
    d.sleep(1000);
    assert_eq!(d.machine.revision(), before.next());
    assert_eq!([d.value("a"), d.value("b"), d.value("c")].map(|v| v.is_some()), [false, false, true]);
    assert!(d.machine.lock(&"held".into()).is_none());
    assert_eq!(d.machine.lock(&"wanted".into()).unwrap().waiting.len(), 0);
    assert!(d.machine.instances(&"s".into()).is_empty());
    let mine = Guard::Slots { name: "n".into(), max: 1, lease: LeaseId(2), slot: "s".into() };
    d.passes(mine);
    assert!(matches!(d.op(claim("claim", 2, 2)), OpResult::Claim { answer: None, .. }));
}

#[test]
fn a_revoke_inside_a_commit_ends_the_lease_there() {
    let mut d = Driver::new();
    d.lease(1, 60_000);
    d.op(put_on("k", "v", 1));
    let results = d.run(vec![Op::LeaseRevoke { lease: LeaseId(1) }, get("k"), put("k", "w")]);
    assert_eq!(results[1], OpResult::Key { found: None });
    assert_eq!(d.events, [Event::LeaseEnded { lease: LeaseId(1) }]);
    assert_eq!(d.value("k"), Some("w".into()));
}

#[test]
fn leases_end_in_the_order_of_their_deadlines_and_bounded_per_entry() {
    let mut d = Driver::with(|s| s.expiries_per_entry = 2);
    for (lease, ttl) in [(1, 3000), (2, 1000), (3, 2000), (4, 1000)] {
        d.lease(lease, ttl);
    }
    let ended = |events: &[Event]| -> Vec<u64> {
        let lease = |event: &Event| match event {
            Event::LeaseEnded { lease } => lease.0,
            other => panic!("{other:?}"),
        };
        events.iter().map(lease).collect()
    };
    let first = d.sleep(10_000);
    assert_eq!(ended(&first), [2, 4]);
    assert_eq!(d.machine.next_due().0, Some(LogTime(2_000_000_000)), "the rest is due at once");
    let rest = d.sleep(0);
    assert_eq!(ended(&rest), [3, 1]);
    assert_eq!(d.machine.next_due().0, None);
}

#[test]
fn no_bound_on_expiries_stops_them_for_ever() {
    let mut d = Driver::with(|s| s.expiries_per_entry = 0);
    d.lease(1, 1000);
    assert_eq!(d.sleep(1000).len(), 1);
}

#[test]
fn ids_are_chosen_from_the_entrys_entropy_and_never_twice() {
    let mut d = Driver::new();
    let grant = || Op::LeaseGrant { lease: LeaseId(0), ttl: Millis(60_000) };
    let results = d.run(vec![grant(), grant(), grant()]);
    d.entry(vec![Commit::of(vec![grant()]).into(), Commit::of(vec![grant()]).into()]);
    assert_eq!(results.len(), 3);
    assert_eq!(d.machine.leases().count(), 5);
    assert!(d.machine.leases().all(|lease| lease.0 > 0 && lease.0 < 1 << 53));
    let taken = d.machine.leases().next().unwrap();
    let error = d.fails(Op::LeaseGrant { lease: taken, ttl: Millis(1) });
    assert_eq!(error, OpError::LeaseExists { lease: taken });
}

#[test]
fn a_key_has_one_lease_and_the_last_write_says_which() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.lease(2, 2000);
    d.run(vec![put_on("moved", "v", 1), put_on("freed", "v", 1)]);
    d.run(vec![put_on("moved", "v", 2), put("freed", "v")]);
    d.sleep(1000);
    assert!(d.value("moved").is_some() && d.value("freed").is_some());
    d.sleep(1000);
    assert!(d.value("moved").is_none() && d.value("freed").is_some());
}

#[test]
fn log_time_alone_ends_leases() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.wall_ms += 1_000_000; // A wall clock that jumps must not matter.
    assert!(d.sleep(999).is_empty());
    assert_eq!(d.sleep(1).len(), 1);
}

#[test]
fn a_lease_goes_on_after_a_restart_where_it_was() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.sleep(600);
    d.restart();
    assert!(d.sleep(399).is_empty());
    assert_eq!(d.sleep(1).len(), 1);
}

#[test]
fn services_are_listed_and_watched_as_rows_of_their_keyspace() {
    let mut d = Driver::new();
    d.lease(1, 1000);
    d.lease(2, 60_000);
    let info = |address: &str, healthy| Instance {
        address: address.into(),
        weight: 3,
        zone: "z".into(),
        healthy,
        metadata: vec![("k".into(), "v".into())],
    };
    let register = |service: &str, instance: &str, lease, info| Op::Register {
        service: service.into(),
        instance: instance.into(),
        lease: LeaseId(lease),
        info,
    };
    // Names that a plain concatenation would confuse.
    d.run(vec![
        register("a", "bc", 1, info("1", true)),
        register("ab", "c", 2, info("2", true)),
        register("a", "a", 2, info("3", true)),
    ]);
    d.op(register("a", "a", 2, info("3", false)));
    assert_eq!(d.machine.services(), ["a".into(), "ab".into()]);
    let names: Vec<String> = d
        .machine
        .instances(&"a".into())
        .iter()
        .map(|i| format!("{}={}", i.instance, i.info.healthy))
        .collect();
    assert_eq!(names, ["a=false", "bc=true"]);
    d.sleep(1000);
    let changes = d.machine.changes(&service_range(&"a".into()), Revision(1), 100).unwrap().changes;
    let told: Vec<(u64, String, bool)> = changes
        .iter()
        .map(|c| {
            let row = c.now.as_ref().or(c.prev.as_ref()).unwrap();
            (c.revision.0, registered(row).unwrap().1.instance.to_string(), c.now.is_some())
        })
        .collect();
    let line = |revision, name: &str, there| (revision, name.to_string(), there);
    assert_eq!(told, [line(1, "bc", true), line(1, "a", true), line(2, "a", true), line(3, "bc", false)]);
    let gone = Op::Deregister { service: "a".into(), instance: "bc".into() };
    assert_eq!(d.fails(gone), OpError::InstanceMissing { service: "a".into() });
    d.op(Op::Deregister { service: "a".into(), instance: "a".into() });
    assert!(d.machine.instances(&"a".into()).is_empty());
}
