//! Idempotency: a retried commit has one effect and one answer.
//!
//! A record keeps the answer of a commit under (principal, key) for a time to live in log time. A *claim* is the same for
//! work that spans outside calls: claimed with a token, completed with an answer.
//!
//! Invariant: no record is forgotten before its time to live has passed; when memory is full, new keys are refused.
//! Invariant: a failed commit leaves no record.
//! Invariant: `bytes` is the sum of the records' costs, and never above the cap after a record was added.
//! Called by: `Machine::commit` (look up first, remember last), `commit` (claim, complete), `Machine::expire`.
//! Source: draft-ietf-httpapi-idempotency-key-header-07; Helland, "Idempotence Is Not a Medical Condition", 2012.

use crate::rows::{Rows, Slot};
use quorate_types::codec::{Reader, Wire, Writer, decode};
use quorate_types::{
    Blob, Committed, DecodeError, FencingToken, Fingerprint, IdempotencyKey, LeaseId, LogTime, Millis,
    Principal,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Who used which key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Scope {
    pub(crate) principal: Principal,
    pub(crate) key: IdempotencyKey,
}
quorate_types::wire_struct!(Scope { principal, key });

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) expires: LogTime,
    ttl: Millis,
    /// Order of creation: decides among records that expire at one instant.
    number: u64,
    pub(crate) kind: Kind,
}
quorate_types::wire_struct!(Record { fingerprint, expires, ttl, number, kind });

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The commit took effect; its answer, encoded: most fit into the blob without an allocation.
    Answered { answer: Blob },
    /// The work is being done by whoever holds the token.
    Claimed { token: FencingToken, lease: LeaseId },
    /// The work is done.
    Completed { answer: Blob },
    /// A late original is refused.
    Cancelled {},
}
quorate_types::wire_enum!(Kind {
    1 = Answered { answer },
    2 = Claimed { token, lease },
    3 = Completed { answer },
    4 = Cancelled {},
});

impl Kind {
    /// `scratch` is memory to encode in, whatever it holds.
    pub(crate) fn answered(committed: &Committed, scratch: &mut Writer) -> Self {
        scratch.clear();
        committed.put(scratch);
        Self::Answered { answer: Blob::copy_from(&scratch.buffer) }
    }
}

/// Reads a remembered answer back.
pub(crate) fn answer(bytes: &Blob) -> Committed {
    let mut committed = read(bytes).expect("the machine encoded this answer itself, or it was verified");
    committed.replayed = true;
    committed
}

fn read(answer: &Blob) -> Result<Committed, DecodeError> {
    decode(&bytes::Bytes::copy_from_slice(answer))
}

pub(crate) struct Idempotency {
    rows: Rows<Scope, Record>,
    /// Records in the order in which they expire, a queue per time to live: most clients use one or two, so adding and
    /// expiring cost no search. An entry whose record is gone or was renewed is skipped.
    due: BTreeMap<Millis, VecDeque<(LogTime, u64, Slot)>>,
    /// The front of each queue: when, which record, which queue. However many queues there are, the first is found at once.
    fronts: BTreeSet<(LogTime, u64, Millis)>,
    claims: BTreeSet<(LeaseId, Slot)>,
    bytes: u64,
    next_number: u64,
}

pub(crate) struct Mark {
    rows: usize,
    next_number: u64,
}

impl Idempotency {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rows: Rows::new(seed),
            due: BTreeMap::new(),
            fronts: BTreeSet::new(),
            claims: BTreeSet::new(),
            bytes: 0,
            next_number: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A look at the index, so that its memory is near when the key is.
    pub(crate) fn touch(&self, scope: &Scope) -> u64 {
        self.rows.probe(self.rows.hash(scope)).map_or(0, |slot| u64::from(slot.0))
    }

    pub(crate) fn find(&self, scope: &Scope) -> Option<(Slot, &Record)> {
        let slot = self.rows.find(scope)?;
        Some((slot, &self.rows.at(slot).1))
    }

    /// Bytes that a record costs: its rows and the heap behind them.
    pub(crate) fn cost(scope: &Scope, kind: &Kind) -> u64 {
        let heap = match kind {
            Kind::Answered { answer } | Kind::Completed { answer } => answer.heap_bytes(),
            Kind::Claimed { .. } | Kind::Cancelled {} => 0,
        };
        (size_of::<(Scope, Record)>() + 48 + scope.principal.0.heap_bytes() + scope.key.0.heap_bytes() + heap)
            as u64
    }

    /// Remembers something under a key that has no record.
    pub(crate) fn insert(
        &mut self,
        scope: Scope,
        fingerprint: Fingerprint,
        ttl: Millis,
        now: LogTime,
        kind: Kind,
    ) {
        let number = self.next_number;
        self.next_number += 1;
        let record = Record { fingerprint, expires: now.plus(ttl), ttl, number, kind };
        self.bytes += Self::cost(&scope, &record.kind);
        let expires = record.expires;
        let claim = claim_of(&record);
        let slot = self.rows.insert(scope, record);
        let queue = self.due.entry(ttl).or_default();
        if queue.is_empty() {
            self.fronts.insert((expires, number, ttl));
        }
        queue.push_back((expires, number, slot));
        if let Some(lease) = claim {
            self.claims.insert((lease, slot));
        }
    }

    /// Replaces what is remembered; the record expires as before.
    pub(crate) fn replace(&mut self, slot: Slot, kind: Kind) {
        let (scope, record) = self.rows.at(slot).clone();
        self.bytes = self.bytes - Self::cost(&scope, &record.kind) + Self::cost(&scope, &kind);
        if let Some(lease) = claim_of(&record) {
            self.claims.remove(&(lease, slot));
        }
        let record = Record { kind, ..record };
        if let Some(lease) = claim_of(&record) {
            self.claims.insert((lease, slot));
        }
        self.rows.replace(slot, record);
    }

    /// Forgets a record.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let (scope, record) = self.rows.at(slot);
        self.bytes -= Self::cost(scope, &record.kind);
        if let Some(lease) = claim_of(record) {
            self.claims.remove(&(lease, slot));
        }
        self.rows.remove(slot);
    }

    /// Claims that hang on a lease, in the order of their creation.
    pub(crate) fn claims_of(&self, lease: LeaseId) -> Vec<Slot> {
        let mut slots: Vec<Slot> =
            self.claims.range((lease, Slot(0))..=(lease, Slot(u32::MAX))).map(|(_, slot)| *slot).collect();
        slots.sort_by_key(|slot| self.rows.at(*slot).1.number);
        slots
    }

    /// When the next record expires. Drops queue entries whose record is gone.
    pub(crate) fn next_due(&mut self) -> Option<LogTime> {
        self.next_record().map(|(expires, ..)| expires)
    }

    /// The earliest time at which something may expire; may be early when that record is gone already.
    pub(crate) fn next_due_hint(&self) -> Option<LogTime> {
        self.fronts.first().map(|(expires, ..)| *expires)
    }

    /// Forgets the next record to expire.
    pub(crate) fn expire_next(&mut self) {
        if let Some((_, _, slot)) = self.next_record() {
            self.remove(slot);
        }
    }

    fn next_record(&mut self) -> Option<(LogTime, u64, Slot)> {
        while let Some((_, number, ttl)) = self.fronts.first().copied() {
            let queue = self.due.get_mut(&ttl).expect("every front has its queue");
            let front = *queue.front().expect("a queue that has a front is not empty");
            if self.rows.holds(front.2).is_some_and(|(_, record)| record.number == number) {
                return Some(front);
            }
            queue.pop_front();
            self.fronts.pop_first();
            match queue.front() {
                Some((expires, number, _)) => drop(self.fronts.insert((*expires, *number, ttl))),
                None => drop(self.due.remove(&ttl)),
            }
        }
        None
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { rows: self.rows.mark(), next_number: self.next_number }
    }

    pub(crate) fn rollback(&mut self, mark: &Mark) {
        let Self { claims, bytes, due, fronts, .. } = self;
        self.rows.rollback(mark.rows, |slot, scope, from, to| {
            if let Some(record) = from {
                *bytes -= Self::cost(scope, &record.kind);
                if let Some(lease) = claim_of(record) {
                    claims.remove(&(lease, slot));
                }
                // What was added last stands last in its queue.
                if to.is_none()
                    && let Some(queue) = due.get_mut(&record.ttl)
                {
                    queue.pop_back_if(|(_, number, _)| *number == record.number);
                    if queue.is_empty() {
                        fronts.remove(&(record.expires, record.number, record.ttl));
                        due.remove(&record.ttl);
                    }
                }
            }
            if let Some(record) = to {
                *bytes += Self::cost(scope, &record.kind);
                if let Some(lease) = claim_of(record) {
                    claims.insert((lease, slot));
                }
            }
        });
        self.next_number = mark.next_number;
    }

    pub(crate) fn forget(&mut self) {
        self.rows.forget();
    }
    pub(crate) fn rows(&mut self) -> &mut Rows<Scope, Record> {
        &mut self.rows
    }
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }
    pub(crate) fn restore_next_number(&mut self, next: u64) {
        self.next_number = next;
    }
    /// `version` is that of the snapshot.
    pub(crate) fn restore_row(&mut self, version: u64, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let slot = if version < 3 {
            self.rows.restore_first(from, Wire::take)?
        } else {
            self.rows.restore_row(from)?
        };
        let (scope, record) = self.rows.at(slot).clone();
        self.bytes += Self::cost(&scope, &record.kind);
        if let Some(lease) = claim_of(&record) {
            self.claims.insert((lease, slot));
        }
        self.due.entry(record.ttl).or_default().push_back((record.expires, record.number, slot));
        Ok(())
    }
    /// Rows come back in the order of their slots; the queues want the order of their expiry.
    pub(crate) fn restore_done(&mut self) {
        for (ttl, queue) in &mut self.due {
            queue.make_contiguous().sort_unstable();
            self.fronts.extend(queue.front().map(|(expires, number, _)| (*expires, *number, *ttl)));
        }
    }
    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        self.rows.digest(scratch).wrapping_add(u128::from(self.next_number))
    }
    /// Whether a restored state is of one piece; otherwise what is not.
    pub(crate) fn verify(&self, live: impl Fn(LeaseId) -> bool, now: LogTime) -> Result<(), &'static str> {
        let sound = self.rows.iter().all(|(_, _, record)| {
            let readable = match &record.kind {
                Kind::Answered { answer } => read(answer).is_ok(),
                Kind::Claimed { .. } | Kind::Completed { .. } | Kind::Cancelled {} => true,
            };
            readable
                && record.number < self.next_number
                && record.expires <= now.plus(record.ttl)
                && claim_of(record).is_none_or(&live)
        });
        if sound && self.next_number < 1 << 62 { Ok(()) } else { Err("idempotency record") }
    }
    pub(crate) fn check(&self) {
        let mut bytes = 0;
        let mut claims = 0;
        let queued: BTreeSet<(LogTime, u64, Slot)> = self.due.values().flatten().copied().collect();
        for (slot, scope, record) in self.rows.iter() {
            bytes += Self::cost(scope, &record.kind);
            claims += usize::from(claim_of(record).is_some());
            assert!(
                queued.contains(&(record.expires, record.number, slot)),
                "every record stands in its queue"
            );
        }
        assert_eq!(bytes, self.bytes, "bytes are counted");
        assert_eq!(claims, self.claims.len(), "claims on leases are indexed");
        assert!(self.due.values().all(|queue| queue.iter().is_sorted()), "queues are in the order of expiry");
        let front = |(ttl, queue): (&Millis, &VecDeque<(LogTime, u64, Slot)>)| {
            queue.front().map(|(expires, number, _)| (*expires, *number, *ttl))
        };
        let fronts: BTreeSet<(LogTime, u64, Millis)> = self.due.iter().filter_map(front).collect();
        assert_eq!(self.fronts, fronts, "the fronts of the queues");
        assert_eq!(self.fronts.len(), self.due.len(), "no queue is empty");
    }
}

fn claim_of(record: &Record) -> Option<LeaseId> {
    match record.kind {
        Kind::Claimed { lease, .. } if lease != LeaseId::ZERO => Some(lease),
        _ => None,
    }
}
