//! Snapshots: what is damaged or out of order is refused, and nothing read from outside panics.

use crate::common::*;
use bytes::Bytes;
use proptest::prelude::*;
use quorate_machine::{RestoreError, Restorer};
use quorate_types::*;

/// A state with rows in every section.
fn full() -> Driver {
    let mut d = Driver::new();
    d.lease(1, 60_000);
    d.lease(2, 60_000);
    d.run(vec![put_on("k", "v", 1), put("gone", "1"), append("s", "x"), claim("c", 1, 7)]);
    d.run(vec![delete("gone"), later(), acquire("l", 1)]);
    d.wait("l", 2, LockMode::Exclusive, Some(9000));
    let slot = Guard::Slots { name: "n".into(), max: 1, lease: LeaseId(1), slot: "s".into() };
    d.commit(keyed("idem", guarded(vec![slot, limit("lim", bucket(1, 60_000, 9), 2)], vec![add("n", 1)])))
        .unwrap();
    let shared = GroupSettings {
        mode: GroupMode::Shared { visibility: Millis(900), deliveries_max: 1, dead_letter: None },
        from_start: true,
    };
    d.run(vec![
        Op::CreateGroup { stream: "s".into(), group: "g".into(), settings: shared },
        Op::Take { stream: "s".into(), group: "g".into(), consumer: "c".into(), max: 5, visibility: None },
    ]);
    d
}

fn later() -> Op {
    schedule("t", 5000, Commit::of(vec![append("s", "y")]), OnRefused::Drop)
}

fn read(chunks: &[Vec<u8>]) -> Result<quorate_machine::Machine, RestoreError> {
    let mut restorer = Restorer::new(5);
    for chunk in chunks {
        restorer.push(&Bytes::copy_from_slice(chunk))?;
    }
    restorer.finish()
}

#[test]
fn missing_or_repeated_chunks_are_refused() {
    let mut d = full();
    let chunks = snapshot_of(&mut d.machine, 2);
    assert_eq!(read(&chunks).unwrap().digest(), d.machine.digest());
    assert!(read(&chunks[..chunks.len() - 1]).is_err());
    assert!(read(&chunks[1..]).is_err());
    let mut twice = chunks.clone();
    twice.insert(2, chunks[1].clone());
    assert!(read(&twice).is_err(), "the same keys came before");
}

#[test]
fn a_snapshot_that_is_given_up_leaves_no_trace() {
    let mut d = full();
    let digest = d.machine.digest();
    d.machine.snapshot_begin();
    d.machine.snapshot_next(1);
    d.machine.snapshot_end();
    assert_eq!(d.machine.snapshot_next(1), None);
    assert_eq!(d.machine.digest(), digest);
    d.restart();
    d.op(put("k", "w"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn a_damaged_snapshot_is_refused_or_sound_and_never_panics(
        place in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bits in 1u8..,
    ) {
        thread_local! {
            static CHUNKS: Vec<Vec<u8>> = snapshot_of(&mut full().machine, 3);
        }
        let mut chunks = CHUNKS.with(Clone::clone);
        let place = place.index(chunks.len());
        let byte = byte.index(chunks[place].len());
        chunks[place][byte] ^= bits;
        if let Ok(mut machine) = read(&chunks) {
            // It may say something else; it must be of one piece.
            machine.check();
            let mut d = Driver::new();
            let _ = snapshot_of(&mut machine, 4);
            d.index = machine.applied().0;
            let next = machine.applied().next();
            if next.0 > machine.applied().0 {
                let entry = Entry { index: next, time: LogTime(u64::MAX), wall: WallTime(u64::MAX), ..Entry::default() };
                machine.apply(&entry, &mut quorate_machine::Outputs::default());
                machine.check();
            }
        }
    }
}
