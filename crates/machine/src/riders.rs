//! Riders: what a batch of a producer's is decided by, and does to keys, in the same commit as it is appended.
//!
//! A rider is a commit of guards, puts, deletes and increments, under an idempotency key if it names one. With a batch that is appended at once it is decided
//! at once. In a transaction riders are held beside the batches, and all of them are decided together when it ends: only then do its records appear, so only
//! then can a fence say that its holder was the holder when they did. A refusal leaves the transaction open: its producer drops it, or tries again.
//!
//! A batch that comes again is answered as it was and its rider is not looked at, whatever has become of the guards since: it has happened. One that
//! comes again from another producer is known by its idempotency key. In a transaction that comes again so, nothing happens but that the offsets of its
//! groups are kept: what they say was dealt with has been.
//!
//! Invariant: a batch appears if and only if its rider's guards held, and together with all that the rider does.
//! Invariant: no rider is done twice, whoever sends its batch again while that is remembered.
//! Invariant: whatever is held belongs to an open transaction; `sums` follows from the rows.
//! Called by: `producers` and `transactions`.

use crate::commit::Context;
use crate::producers::Kind;
use crate::table::Table;
use crate::transactions::Place;
use crate::{Machine, Outputs};
use quorate_types::codec::{Reader, Writer, encode};
use quorate_types::{
    Append, Author, Blob, Commit, DecodeError, Fingerprint, Guard, Idempotency, Numbered, Op, OpError,
    OpResult, Produce, ProduceError, ProducerId, Refusal,
};
use std::collections::{BTreeMap, BTreeSet};

/// Guards and operations of the riders that one transaction holds, and all together.
const PARTS_MAX: u64 = 10_000;
const ALL_PARTS_MAX: u64 = 100_000;
/// Bytes of the same. Unlike the batches they lie in memory.
const BYTES_MAX: u64 = 4 << 20;
const ALL_BYTES_MAX: u64 = 64 << 20;

/// How much is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    parts: u64,
    bytes: u64,
}

impl Sum {
    fn of(rider: &Commit) -> Self {
        let parts = (rider.guards.len() + rider.then.len()) as u64;
        Self { rows: 1, parts: parts.max(1), bytes: encode(rider).len() as u64 }
    }
    fn plus(self, other: Self) -> Self {
        let Self { rows, parts, bytes } = other;
        Self { rows: self.rows + rows, parts: self.parts + parts, bytes: self.bytes + bytes }
    }
    fn minus(self, other: Self) -> Self {
        let Self { rows, parts, bytes } = other;
        Self { rows: self.rows - rows, parts: self.parts - parts, bytes: self.bytes - bytes }
    }
}

/// The riders that open transactions hold.
#[derive(Default)]
pub(crate) struct Riders {
    rows: Table<Place, Commit>,
    sums: BTreeMap<ProducerId, Sum>,
    all: Sum,
}

impl Machine {
    /// Appends a batch with its rider, unless it was appended before.
    pub(crate) fn append_with(
        &mut self,
        context: &Context<'_>,
        append: &Append,
        by: Option<Numbered>,
        rider: &Commit,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        let part = self.part_of(append)?;
        let now = context.now.time;
        if let Some(by) = by
            && let Kind::Again(first) =
                self.numbered.kind(part, by, append.records, now).map_err(|why| OpError::Produce { why })?
        {
            let appended = |first| OpResult::Appended {
                partition: part.partition,
                first,
                next: quorate_types::Offset(first.0 + u64::from(append.records)),
            };
            return Ok(first.map_or(OpResult::Done {}, appended));
        }
        let mut whole = rider.clone();
        whole.then.insert(0, Op::Append { append: append.clone() });
        let (mut results, _) = self.ride(context, &whole, out)?;
        // An answer of long ago may be that of a batch in another partition: there it has no offset.
        let here = |result: &OpResult| match result {
            OpResult::Appended { partition, first, .. } if *partition == part.partition => Some(*first),
            _ => None,
        };
        let result = if results.is_empty() { OpResult::Done {} } else { results.swap_remove(0) };
        let base = here(&result);
        if let Some(by) = by {
            self.numbered.note(part, by, append.records, base, now);
        }
        Ok(if base.is_some() { result } else { OpResult::Done {} })
    }

    /// Holds a rider beside its batch.
    pub(crate) fn hold_rider(
        &mut self,
        context: &Context<'_>,
        name: &Blob,
        producer: ProducerId,
        rider: &Commit,
    ) -> Result<(), OpError> {
        let rights = self.rights(context.principal);
        // Who ends the transaction is asked again; whoever sends it must not do through that one what it may not do itself.
        let allowed = self.guards_allowed(&rights, rider);
        let allowed =
            allowed.and_then(|()| rider.then.iter().try_for_each(|op| self.op_allowed(&rights, op)));
        allowed.map_err(|denied| OpError::Denied { denied })?;
        self.transactions.riders.add(name, producer, rider).map_err(|why| OpError::Produce { why })
    }

    /// Ends a transaction well with the riders that it holds, which were taken from it.
    pub(crate) fn end_with(
        &mut self,
        context: &Context<'_>,
        author: &Author,
        mut rider: Commit,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        let produce = Box::new(Produce::End { author: author.clone(), commits: true });
        rider.then.insert(0, Op::Produce { produce });
        if self.ride(context, &rider, out)?.1 {
            self.settle_offsets(context, &author.name)?;
        }
        Ok(OpResult::Done {})
    }

    /// Commits a rider whose first operation is what it rides with; the results, and whether they are those of before.
    fn ride(
        &mut self,
        context: &Context<'_>,
        whole: &Commit,
        out: &mut Outputs,
    ) -> Result<(Vec<OpResult>, bool), OpError> {
        if whole.idempotency.is_some() && context.remembers.is_some() {
            return Err(OpError::OutermostOnly { what: "an idempotency key".into() });
        }
        let touches = self.touches;
        let decided = self.decide(context, whole, out);
        self.touches = self.touches.saturating_add(touches);
        match decided {
            Ok(committed) => Ok((committed.results, committed.replayed)),
            Err(Refusal::Operation { op: 0, error }) => Err(error),
            Err(Refusal::Operation { op, error }) => {
                Err(OpError::Inner { op: op - 1, error: Box::new(error) })
            }
            Err(Refusal::Command { error }) => Err(error),
            Err(Refusal::Guards { failed }) => Err(OpError::Guards { failed }),
            Err(Refusal::Denied { denied }) => Err(OpError::Denied { denied }),
            Err(Refusal::IdempotencyFull { kept, max }) => Err(OpError::IdempotencyFull { kept, max }),
            Err(Refusal::OtherRequest { key } | Refusal::Cancelled { key } | Refusal::Claimed { key }) => {
                Err(OpError::ClaimOther { key })
            }
            Err(Refusal::Access { .. } | Refusal::LockOut {}) => {
                unreachable!("a commit of guards and operations changes no user")
            }
        }
    }
}

impl Riders {
    /// Holds one more.
    fn add(&mut self, name: &Blob, producer: ProducerId, rider: &Commit) -> Result<(), ProduceError> {
        let within = |what: &str, found: u64, max: u64| {
            let what = what.to_owned();
            if found <= max { Ok(()) } else { Err(ProduceError::TooMuch { what, found, max }) }
        };
        let sum = Sum::of(rider);
        let (one, all) = (self.sum(producer).plus(sum), self.all.plus(sum));
        within("guards and changes of keys in a transaction", one.parts, PARTS_MAX)?;
        within("bytes of changes of keys in a transaction", one.bytes, BYTES_MAX)?;
        within("guards and changes of keys in all open transactions", all.parts, ALL_PARTS_MAX)?;
        within("bytes of changes of keys in all open transactions", all.bytes, ALL_BYTES_MAX)?;
        let key = |rider: &Commit| rider.idempotency.as_ref().map(|of| of.key.clone());
        // Only a rider with a key looks at the others: they may be thousands.
        let other = |mine| self.of(producer).find_map(|(_, held)| key(held)).filter(|other| other != mine);
        if key(rider).as_ref().and_then(other).is_some() {
            return Err(ProduceError::SecondKey { name: name.clone() });
        }
        let place = Place { producer, number: self.sum(producer).rows };
        // Bytes of its own: a slice would keep the whole entry in memory until the transaction ends.
        let own = quorate_types::codec::decode(&encode(rider).into()).expect("what was encoded decodes");
        self.set(place, Some(own));
        Ok(())
    }

    /// Takes all of a transaction's away, as one commit; nothing when there are none.
    pub(crate) fn take(&mut self, producer: ProducerId) -> Option<Commit> {
        let places: Vec<Place> = self.of(producer).map(|(place, _)| *place).collect();
        let mut riders = places.into_iter().filter_map(|place| self.set(place, None));
        let mut all = riders.next()?;
        let mut asked: BTreeSet<Vec<u8>> = all.guards.iter().map(encode).collect();
        riders.for_each(|rider| join(&mut all, &mut asked, rider));
        Some(all)
    }

    fn of(&self, producer: ProducerId) -> impl Iterator<Item = (&Place, &Commit)> {
        let at = |number| Place { producer, number };
        self.rows.range(at(0)..=at(u64::MAX))
    }

    fn sum(&self, producer: ProducerId) -> Sum {
        self.sums.get(&producer).copied().unwrap_or_default()
    }

    fn set(&mut self, place: Place, to: Option<Commit>) -> Option<Commit> {
        let after = to.as_ref().map(Sum::of);
        let before = self.rows.set(place, to);
        count(&mut self.sums, &mut self.all, place.producer, before.as_ref().map(Sum::of), after);
        before
    }
}

/// Two riders as one: a guard that both have is one guard, unless each is to be charged. `asked` has those of the first, encoded: there may be
/// thousands.
fn join(one: &mut Commit, asked: &mut BTreeSet<Vec<u8>>, other: Commit) {
    for guard in other.guards {
        let is_charged = matches!(guard, Guard::Limit { .. } | Guard::Slots { .. });
        if asked.insert(encode(&guard)) || is_charged {
            one.guards.push(guard);
        }
    }
    one.then.extend(other.then);
    one.idempotency = match (one.idempotency.take(), other.idempotency) {
        (Some(one), Some(other)) => {
            let fingerprint = Fingerprint(one.fingerprint.0.wrapping_add(other.fingerprint.0));
            Some(Idempotency { fingerprint, ..one })
        }
        (one, other) => one.or(other),
    };
}

fn count(
    sums: &mut BTreeMap<ProducerId, Sum>,
    all: &mut Sum,
    producer: ProducerId,
    from: Option<Sum>,
    to: Option<Sum>,
) {
    let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
    *all = all.plus(to).minus(from);
    let sum = sums.entry(producer).or_default();
    *sum = sum.plus(to).minus(from);
    if *sum == Sum::default() {
        sums.remove(&producer);
    }
}

/// Undo, snapshot, digest: as [`Table`] has them.
impl Riders {
    pub(crate) fn mark(&self) -> usize {
        self.rows.mark()
    }
    pub(crate) fn rollback(&mut self, mark: usize) {
        let Self { rows, sums, all } = self;
        rows.rollback(mark, |place, from, to| {
            count(sums, all, place.producer, from.map(Sum::of), to.map(Sum::of));
        });
    }
    pub(crate) fn forget(&mut self) {
        self.rows.forget();
    }
    pub(crate) fn walk_begin(&mut self) {
        self.rows.walk_begin();
    }
    pub(crate) fn walk_next(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.rows.walk_next(rows, out)
    }
    pub(crate) fn walk_end(&mut self) {
        self.rows.walk_end();
    }
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (place, rider) = self.rows.restore_row(from)?;
        count(&mut self.sums, &mut self.all, place.producer, None, Some(Sum::of(&rider)));
        Ok(())
    }
    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        self.rows.digest(scratch)
    }

    /// Whether all that is held is of transactions that `is_open` knows; otherwise what is not.
    pub(crate) fn verify(&self, is_open: impl Fn(ProducerId) -> bool) -> Result<(), &'static str> {
        let mut next = BTreeMap::<ProducerId, u64>::new();
        for (place, _) in self.rows.iter() {
            let next = next.entry(place.producer).or_default();
            if place.number != *next {
                return Err("number of a rider");
            }
            *next += 1;
        }
        if next.into_keys().all(is_open) { Ok(()) } else { Err("a rider that is held for nobody") }
    }

    pub(crate) fn check(&self) {
        let (mut sums, mut all) = (BTreeMap::new(), Sum::default());
        for (place, rider) in self.rows.iter() {
            count(&mut sums, &mut all, place.producer, None, Some(Sum::of(rider)));
        }
        assert_eq!((&self.sums, self.all), (&sums, all), "sums of riders");
    }
}
