//! Leases: a promise with a time to live in log time, that keep-alives renew.
//!
//! Keys, locks, waiters, slots, claims and registrations hang on a lease and end with it; [`crate::Machine`] ends them.
//! An entry's log time *is* the expiry, so no replica asks a clock and no lease restarts on another leader.
//!
//! Invariant: a lease never ends before its time to live has passed in log time since its last keep-alive.
//! Invariant: `due` holds exactly one deadline for every lease.
//! Called by: `commit` (grant, keep alive, revoke, info) and `Machine::expire`.
//! Source: Gray & Cheriton, "Leases", SOSP 1989.

use crate::Now;
use crate::table::Table;
use quorate_types::codec::{Reader, Writer};
use quorate_types::{DecodeError, LeaseId, LogTime, Millis, OpError};
use std::collections::BTreeSet;
use std::ops::Bound;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) ttl: Millis,
    pub(crate) deadline: LogTime,
}
quorate_types::wire_struct!(Lease { ttl, deadline });

#[derive(Default)]
pub(crate) struct Leases {
    table: Table<LeaseId, Lease>,
    due: BTreeSet<(LogTime, LeaseId)>,
}

/// Ids chosen by the machine stay below this, so that JavaScript numbers hold them exactly.
const ID_MAX: u64 = 1 << 53;

impl Leases {
    pub(crate) fn get(&self, lease: LeaseId) -> Option<&Lease> {
        self.table.get(&lease)
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = LeaseId> {
        self.table.iter().map(|(id, _)| *id)
    }

    pub(crate) fn after(&self, after: LeaseId) -> impl Iterator<Item = (LeaseId, Millis)> {
        self.table.range((Bound::Excluded(after), Bound::Unbounded)).map(|(id, lease)| (*id, lease.ttl))
    }

    /// Whether the lease is there; 0 ("no lease") never is.
    ///
    /// # Errors
    /// [`OpError::LeaseMissing`].
    pub(crate) fn live(&self, lease: LeaseId) -> Result<(), OpError> {
        if self.table.get(&lease).is_some() { Ok(()) } else { Err(OpError::LeaseMissing { lease }) }
    }

    /// Makes a lease; id 0 lets the entry's entropy choose one.
    ///
    /// # Errors
    /// [`OpError::LeaseExists`].
    pub(crate) fn grant(
        &mut self,
        lease: LeaseId,
        ttl: Millis,
        now: &Now,
        salt: u64,
    ) -> Result<LeaseId, OpError> {
        let lease = if lease == LeaseId::ZERO { self.choose(now.seed, salt) } else { lease };
        if self.table.get(&lease).is_some() {
            return Err(OpError::LeaseExists { lease });
        }
        self.set(lease, Some(Lease { ttl, deadline: now.time.plus(ttl) }));
        Ok(lease)
    }

    /// Renews a lease: its deadline is a full time to live away, and never earlier than before.
    ///
    /// # Errors
    /// [`OpError::LeaseMissing`]: the caller must treat everything it held as lost.
    pub(crate) fn keep_alive(&mut self, lease: LeaseId, now: &Now) -> Result<Millis, OpError> {
        let Some(found) = self.table.get(&lease) else { return Err(OpError::LeaseMissing { lease }) };
        let ttl = found.ttl;
        let deadline = now.time.plus(ttl).max(found.deadline);
        self.set(lease, Some(Lease { ttl, deadline }));
        Ok(ttl)
    }

    /// Removes a lease.
    ///
    /// # Errors
    /// [`OpError::LeaseMissing`].
    pub(crate) fn remove(&mut self, lease: LeaseId) -> Result<(), OpError> {
        self.live(lease)?;
        self.set(lease, None);
        Ok(())
    }

    /// The next lease to end, and when.
    pub(crate) fn next_due(&self) -> Option<(LogTime, LeaseId)> {
        self.due.first().copied()
    }

    fn choose(&self, seed: u64, salt: u64) -> LeaseId {
        let mut input = [0; 24];
        for attempt in 0u64.. {
            input[..8].copy_from_slice(&seed.to_le_bytes());
            input[8..16].copy_from_slice(&salt.to_le_bytes());
            input[16..].copy_from_slice(&attempt.to_le_bytes());
            let id = LeaseId(xxhash_rust::xxh3::xxh3_64(&input) % ID_MAX);
            if id != LeaseId::ZERO && self.table.get(&id).is_none() {
                return id;
            }
        }
        unreachable!("memory ends long before 2^53 leases")
    }

    fn set(&mut self, lease: LeaseId, value: Option<Lease>) {
        let to = value.as_ref().map(|lease| lease.deadline);
        let from = self.table.set(lease, value).map(|lease| lease.deadline);
        reindex(&mut self.due, lease, from, to);
    }

    pub(crate) fn mark(&self) -> usize {
        self.table.mark()
    }
    pub(crate) fn rollback(&mut self, mark: usize) {
        let due = &mut self.due;
        self.table.rollback(mark, |lease, from, to| {
            reindex(due, *lease, from.map(|lease| lease.deadline), to.map(|lease| lease.deadline));
        });
    }
    pub(crate) fn forget(&mut self) {
        self.table.forget();
    }
    pub(crate) fn table(&mut self) -> &mut Table<LeaseId, Lease> {
        &mut self.table
    }
    pub(crate) fn restore_row(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (lease, row) = self.table.restore_row(from)?;
        self.due.insert((row.deadline, lease));
        Ok(())
    }
    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        self.table.digest(scratch)
    }
    /// Whether a restored state is of one piece; otherwise what is not.
    pub(crate) fn verify(&self) -> Result<(), &'static str> {
        if self.table.get(&LeaseId::ZERO).is_none() { Ok(()) } else { Err("id of a lease") }
    }
    pub(crate) fn check(&self) {
        let wanted: BTreeSet<(LogTime, LeaseId)> =
            self.table.iter().map(|(id, lease)| (lease.deadline, *id)).collect();
        assert_eq!(self.due, wanted, "due and the leases agree");
    }
}

fn reindex(
    due: &mut BTreeSet<(LogTime, LeaseId)>,
    lease: LeaseId,
    from: Option<LogTime>,
    to: Option<LogTime>,
) {
    if let Some(from) = from {
        due.remove(&(from, lease));
    }
    if let Some(to) = to {
        due.insert((to, lease));
    }
}
