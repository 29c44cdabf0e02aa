//! Transactions of producers: batches that take their places together, or never.
//!
//! A producer that comes under a name takes it over: it is given the next life (epoch), every earlier one is fenced off, and what that one
//! had open is dropped. What it sends in a transaction is logged at once and held here, as references to the payloads in the log; when the
//! transaction ends well, all of it is appended in one step, in the order in which it came. So nobody ever sees a part, no reader waits
//! for anybody's transaction, and nothing has to be marked in the log.
//!
//! A transaction that is open for longer than its producer said, in log time, is dropped, and its producer fenced off. A name under which nothing
//! was done for [`KEPT`] is forgotten; its number is then nobody's, so a producer that comes back so late is refused and one that takes
//! the name is given another.
//!
//! Invariant: whatever is held belongs to an open transaction, to a partition that it has named before.
//! Invariant: under one name, (number, epoch) never comes back once another has followed it.
//! Invariant: `open` and `idle` hold every name once: by its deadline, or since when nothing was done.
//! Invariant: ending a transaction is bounded by what one may hold.
//! Called by: `commit` ([`Machine::transact`]), `Machine::expire`, and the cleaner ([`Transactions::payloads`]). Source: KIP-98, KIP-360, KIP-588.

mod show;

pub use show::{Stage, TransactionView};

use crate::commit::Context;
use crate::producers::{Kind, Producers};
use crate::riders::Riders;
use crate::streams::{PartKey, StreamId};
use crate::table::Table;
use crate::{Event, Machine, Now, Outputs};
use quorate_types::codec::{Reader, Writer};
use quorate_types::{
    Append, Author, Blob, Commit, DecodeError, EPOCH_MAX, Format, GroupFault, GroupName, Key, LogIndex,
    LogTime, Millis, Numbered, OffsetCommit, OpError, OpResult, PayloadRef, ProduceError, ProducerId,
    StreamOffsets, wire_enum, wire_struct,
};
use std::collections::{BTreeMap, BTreeSet};

/// How long a name is remembered under which nothing is done, in log time: as Kafka's `transactional.id.expiration.ms` has it.
const KEPT: Millis = Millis(7 * 24 * 3600 * 1000);
/// How long nothing must have been done under a name for it to be forgotten for want of memory.
const QUIET: Millis = Millis(10 * 60 * 1000);
/// Names at most.
const NAMES_MAX: usize = 10_000;
/// Partitions and groups of one transaction.
const PLACES_MAX: usize = 1_000;
/// Batches that one transaction holds, and all together.
const BATCHES_MAX: u64 = 10_000;
const ALL_BATCHES_MAX: u64 = 100_000;
/// Bytes of payload that one transaction holds in the log, and all together.
const BYTES_MAX: u64 = 256 << 20;
const ALL_BYTES_MAX: u64 = 1 << 30;
/// Offsets of groups that one transaction holds, and all together, whoever sends them: each changes a row when it ends.
const OFFSETS_MAX: u64 = 10_000;
const ALL_OFFSETS_MAX: u64 = 100_000;
/// Records for compacted streams that one transaction holds: each changes a row when it ends, and no end may hold the thread for long.
const KEYED_MAX: u64 = 20_000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Transaction {
    producer: ProducerId,
    epoch: u16,
    /// What its owner was before it asked to be what it is: asked again, it is told the same.
    before: Option<(ProducerId, u16)>,
    timeout: Millis,
    state: State,
    /// When the state was entered; of one that is not open, when anything was last done.
    since: LogTime,
    /// The partitions that it may append to, ascending.
    parts: Vec<PartKey>,
    /// The groups whose cursors it may move, ascending.
    groups: Vec<GroupName>,
    /// Offsets of groups that it holds, and in how many rows.
    offsets: u64,
    offset_rows: u64,
    /// What else it holds: batches, their bytes, and records for compacted streams.
    batches: u64,
    bytes: u64,
    keyed: u64,
}
wire_struct!(Transaction {
    producer,
    epoch,
    before,
    timeout,
    state,
    since,
    parts,
    groups,
    offsets,
    offset_rows,
    batches,
    bytes,
    keyed,
});

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None has begun since the name was taken over.
    Empty,
    Open,
    /// The last one ended well.
    Committed,
    /// The last one was dropped.
    Aborted,
}
wire_enum!(State { 0 = Empty {}, 1 = Open {}, 2 = Committed {}, 3 = Aborted {} });

/// The place of a batch among those that its producer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) producer: ProducerId,
    pub(crate) number: u64,
}
wire_struct!(Place { producer, number });

/// A batch that waits for the end of its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) part: PartKey,
    pub(crate) at: PayloadRef,
    pub(crate) records: u32,
    pub(crate) bytes: u32,
    pub(crate) format: Format,
    /// For a compacted stream, the key of each record and whether it is a tombstone.
    pub(crate) keys: Option<Vec<(Blob, bool)>>,
}
wire_struct!(Held { part, at, records, bytes, format, keys });

/// How far a group is, once its transaction has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeldOffsets {
    group: GroupName,
    offsets: Vec<StreamOffsets>,
}
wire_struct!(HeldOffsets { group, offsets });

/// The marks of groups that open transactions hold, and how often each. It follows from the rows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Moving {
    marks: BTreeMap<(GroupName, Key, u32), u64>,
    all: u64,
}

impl Moving {
    fn add(&mut self, held: &HeldOffsets) {
        for mark in held.marks() {
            *self.marks.entry(mark).or_default() += 1;
        }
        self.all += held.count();
    }

    fn take(&mut self, held: &HeldOffsets) {
        for mark in held.marks() {
            let times = self.marks.get_mut(&mark).expect("what is held was counted");
            *times -= 1;
            if *times == 0 {
                self.marks.remove(&mark);
            }
        }
        self.all -= held.count();
    }
}

impl HeldOffsets {
    fn marks(&self) -> Vec<(GroupName, Key, u32)> {
        let of = |of: &StreamOffsets| -> Vec<(GroupName, Key, u32)> {
            let mark = |number: u32| (self.group.clone(), of.stream.clone(), number);
            of.partitions.iter().map(|(number, _)| mark(*number)).collect()
        };
        self.offsets.iter().flat_map(of).collect()
    }

    /// An empty one counts too: it is a row.
    fn count(&self) -> u64 {
        self.offsets.iter().map(|of| of.partitions.len() as u64).sum::<u64>().max(1)
    }
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    names: usize,
    held: usize,
    offsets: usize,
    riders: usize,
}

/// All transactions.
#[derive(Default)]
pub(crate) struct Transactions {
    names: Table<Blob, Transaction>,
    held: Table<Place, Held>,
    offsets: Table<Place, HeldOffsets>,
    /// Those that are open, by when they are dropped.
    open: BTreeSet<(LogTime, Blob)>,
    /// The others, by when anything was last done.
    idle: BTreeSet<(LogTime, Blob)>,
    /// Bytes that are held.
    bytes: u64,
    moving: Moving,
    pub(crate) riders: Riders,
}

impl Machine {
    /// Takes a name over.
    pub(crate) fn take_over(
        &mut self,
        context: &Context<'_>,
        name: &Blob,
        timeout: Millis,
        known: Option<(ProducerId, u16)>,
    ) -> Result<OpResult, ProduceError> {
        let dropped = self.transactions.groups_of(name);
        let Self { transactions, numbered, .. } = self;
        let (producer, epoch) = transactions.take_over(numbered, name, timeout, known, context.now)?;
        self.drop_bare(dropped);
        Ok(OpResult::Producer { producer, epoch })
    }

    /// Names partitions and groups that the transaction will change; it is open from then on.
    pub(crate) fn enlist(
        &mut self,
        context: &Context<'_>,
        author: &Author,
        parts: &[(Key, u32)],
        groups: &[GroupName],
    ) -> Result<OpResult, OpError> {
        let places: Result<Vec<PartKey>, OpError> =
            parts.iter().map(|(stream, partition)| self.streams.place(stream, *partition)).collect();
        let enlisted = self.transactions.enlist(author, &places?, groups, context.now.time);
        enlisted.map_err(|why| OpError::Produce { why })?;
        Ok(OpResult::Done {})
    }

    /// Holds a batch until the end of its transaction, unless it is held, or was, already.
    pub(crate) fn hold(
        &mut self,
        context: &Context<'_>,
        name: &Blob,
        append: &Append,
        by: Numbered,
        rider: Option<&Commit>,
    ) -> Result<OpResult, OpError> {
        let part = self.part_of(append)?;
        let refuse = |why| OpError::Produce { why };
        let (now, records) = (context.now, append.records);
        self.transactions.owned(name, by.producer, by.epoch).map_err(refuse)?;
        if let Kind::Again(_) = self.numbered.kind(part, by, records, now.time).map_err(refuse)? {
            return Ok(OpResult::Done {});
        }
        let held = Held {
            part,
            at: append.payload.at.unwrap_or(PayloadRef { index: now.index, sub: append.payload.sub }),
            records,
            bytes: u32::try_from(append.payload.bytes.len()).unwrap_or(u32::MAX),
            format: append.format,
            keys: self.streams.keys_for(append)?,
        };
        self.transactions.hold(name, held).map_err(refuse)?;
        rider.map_or(Ok(()), |rider| self.hold_rider(context, name, by.producer, rider))?;
        self.numbered.note(part, by, records, None, now.time);
        Ok(OpResult::Done {})
    }

    /// Holds how far a group is until the end of the transaction. Whether its producer may speak for the group is decided now, by the rule that
    /// offsets outside of transactions go by.
    pub(crate) fn hold_offsets(
        &mut self,
        context: &Context<'_>,
        author: &Author,
        commit: &OffsetCommit,
    ) -> Result<OpResult, OpError> {
        let refuse = |why| OpError::Produce { why };
        self.transactions.owned(&author.name, author.producer, author.epoch).map_err(refuse)?;
        let fault = |why: GroupFault| OpError::Group { group: commit.group.0.clone(), why };
        let lease = self.may_commit(&commit.group, &commit.by, true).map_err(fault)?;
        if let Some(lease) = lease {
            // Who says how far it is, is alive.
            self.leases.keep_alive(lease, context.now)?;
        }
        // The group is made now if it is not there: so the end does not fail for want of room.
        let times = (context.now.time, context.now.wall);
        self.offsets.put(&self.streams, &commit.group, &[], times).map_err(fault)?;
        self.transactions.hold_offsets(author, commit).map_err(refuse)?;
        let there = |(stream, partition): (&Key, u32)| self.streams.place(stream, partition).is_ok();
        let each = commit
            .offsets
            .iter()
            .flat_map(|of| of.partitions.iter().map(|(number, _)| (&of.stream, *number)));
        let missing = (0..).zip(each).filter(|(_, place)| !there(*place)).map(|(place, _)| place);
        Ok(OpResult::Kept { missing: missing.collect() })
    }

    /// Ends a transaction: all that it holds is appended, or dropped.
    pub(crate) fn end_transaction(
        &mut self,
        context: &Context<'_>,
        author: &Author,
        commits: bool,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        let refuse = |why| OpError::Produce { why };
        let transaction =
            self.transactions.owned(&author.name, author.producer, author.epoch).map_err(refuse)?;
        let (state, cost) =
            (transaction.state, transaction.batches + transaction.keyed + transaction.offsets);
        match state {
            State::Open => {}
            // It is asked again whose answer was lost.
            State::Committed if commits => return Ok(OpResult::Done {}),
            State::Aborted if !commits => return Ok(OpResult::Done {}),
            State::Empty | State::Committed | State::Aborted => {
                return Err(refuse(ProduceError::NotOpen { name: author.name.clone() }));
            }
        }
        if commits && let Some(rider) = self.transactions.riders.take(author.producer) {
            return self.end_with(context, author, rider, out);
        }
        self.touch(cost)?;
        let (held, offsets) = self.transactions.end(&author.name, commits, context.now.time);
        if commits {
            self.append_held(held, context.now, out);
            self.put_offsets(context, offsets)?;
        } else {
            self.drop_bare(offsets.into_iter().map(|held| held.group).collect());
        }
        Ok(OpResult::Done {})
    }

    /// Drops the transaction, or forgets the name, that is due first.
    pub(crate) fn expire_transaction(&mut self, now: LogTime) {
        let dropped = self.transactions.groups_due(now);
        self.transactions.expire_next(now);
        self.drop_bare(dropped);
    }

    /// Groups that were only made for offsets which were dropped go with them, unless another transaction is about to set some.
    fn drop_bare(&mut self, groups: BTreeSet<GroupName>) {
        for group in groups {
            if !self.transactions.moves(&group) {
                self.offsets.drop_bare(&group);
            }
        }
    }

    /// Ends a transaction of which all has happened before: only how far its groups are is kept.
    pub(crate) fn settle_offsets(&mut self, context: &Context<'_>, name: &Blob) -> Result<(), OpError> {
        let (_, offsets) = self.transactions.end(name, true, context.now.time);
        self.put_offsets(context, offsets)
    }

    fn put_offsets(&mut self, context: &Context<'_>, held: Vec<HeldOffsets>) -> Result<(), OpError> {
        let times = (context.now.time, context.now.wall);
        held.into_iter().try_for_each(|HeldOffsets { group, offsets }| {
            let put = self.offsets.put(&self.streams, &group, &offsets, times);
            put.map(drop).map_err(|why| OpError::Group { group: group.0, why })
        })
    }

    /// Appends what was held. Streams that were deleted meanwhile are passed by.
    fn append_held(&mut self, held: Vec<Held>, now: &Now, out: &mut Outputs) {
        let mut grown = BTreeSet::new();
        for held in held {
            let part = held.part;
            if let Some(stream) = self.streams.append_held(held, now) {
                grown.insert((stream, part.partition));
            }
        }
        for (stream, partition) in grown {
            self.revision_now();
            self.touch_stream(&stream, now);
            out.events.push(Event::StreamAppended { stream, partition });
        }
    }

    /// Whether an open transaction is about to say anew how far a group is in a partition (KIP-447).
    #[must_use]
    pub fn is_moving(&self, group: &GroupName, stream: &Key, partition: u32) -> bool {
        self.transactions.moving.marks.contains_key(&(group.clone(), stream.clone(), partition))
    }
}

impl Transactions {
    fn take_over(
        &mut self,
        numbered: &mut Producers,
        name: &Blob,
        timeout: Millis,
        known: Option<(ProducerId, u16)>,
        now: &Now,
    ) -> Result<(ProducerId, u16), ProduceError> {
        let (producer, epoch, before) = match self.names.get(name) {
            None => {
                self.make_room(now.time)?;
                (numbered.give(now), 0, None)
            }
            Some(found) => {
                let is = (found.producer, found.epoch);
                if known.is_some() && found.before == known {
                    return Ok(is);
                }
                if let Some((_, offered)) = known.filter(|known| *known != is) {
                    let producer = found.producer;
                    return Err(ProduceError::Epoch { producer, found: found.epoch, offered });
                }
                // The last life is kept for fencing that off which is dropped for its time.
                if found.epoch >= EPOCH_MAX - 1 {
                    (numbered.give(now), 0, known)
                } else {
                    (found.producer, found.epoch + 1, known)
                }
            }
        };
        self.drop_held(name);
        let state = State::Empty;
        let row = Transaction { before, timeout, ..Transaction::new(producer, epoch, state, now.time) };
        self.set(name, Some(row));
        Ok((producer, epoch))
    }

    /// Makes room for a name, if one may be forgotten.
    fn make_room(&mut self, now: LogTime) -> Result<(), ProduceError> {
        let kept = self.names.len();
        if kept < NAMES_MAX {
            return Ok(());
        }
        let idle = self.idle.first().filter(|(since, _)| since.plus(QUIET) <= now);
        let Some((_, name)) = idle.cloned() else { return Err(ProduceError::Full { kept: kept as u64 }) };
        self.set(&name, None);
        Ok(())
    }

    /// The transaction of a producer that nobody has taken the place of.
    fn owned(&self, name: &Blob, producer: ProducerId, epoch: u16) -> Result<&Transaction, ProduceError> {
        let found = self.names.get(name).filter(|found| found.producer == producer);
        let found = found.ok_or_else(|| ProduceError::OtherNumber { name: name.clone(), producer })?;
        if found.epoch == epoch {
            return Ok(found);
        }
        Err(ProduceError::Epoch { producer, found: found.epoch, offered: epoch })
    }

    fn enlist(
        &mut self,
        author: &Author,
        parts: &[PartKey],
        groups: &[GroupName],
        now: LogTime,
    ) -> Result<(), ProduceError> {
        let mut row = self.owned(&author.name, author.producer, author.epoch)?.clone();
        if row.state != State::Open {
            let Transaction { before, timeout, .. } = row;
            row = Transaction {
                before,
                timeout,
                ..Transaction::new(author.producer, author.epoch, State::Open, now)
            };
        }
        row.parts.extend_from_slice(parts);
        row.parts.sort_unstable();
        row.parts.dedup();
        row.groups.extend_from_slice(groups);
        row.groups.sort_unstable();
        row.groups.dedup();
        let places = row.parts.len() + row.groups.len();
        if places > PLACES_MAX {
            let what = "partitions and groups of a transaction".to_owned();
            return Err(ProduceError::TooMuch { what, found: places as u64, max: PLACES_MAX as u64 });
        }
        self.set(&author.name, Some(row));
        Ok(())
    }

    fn hold_offsets(&mut self, author: &Author, commit: &OffsetCommit) -> Result<(), ProduceError> {
        let name = &author.name;
        let found = self.names.get(name).filter(|found| found.state == State::Open);
        let found = found.filter(|found| found.groups.binary_search(&commit.group).is_ok());
        let found = found.ok_or_else(|| ProduceError::NotOpen { name: name.clone() })?;
        let place = Place { producer: found.producer, number: found.offset_rows };
        let offsets = found.offsets + commit.count().max(1);
        if offsets > OFFSETS_MAX {
            let what = "offsets of a transaction".to_owned();
            return Err(ProduceError::TooMuch { what, found: offsets, max: OFFSETS_MAX });
        }
        let all = self.moving.all + commit.count().max(1);
        if all > ALL_OFFSETS_MAX {
            let what = "offsets of all open transactions".to_owned();
            return Err(ProduceError::TooMuch { what, found: all, max: ALL_OFFSETS_MAX });
        }
        self.names.update(name, |row| {
            row.offset_rows += 1;
            row.offsets = offsets;
        });
        let held = HeldOffsets { group: commit.group.clone(), offsets: commit.offsets.clone() };
        self.moving.add(&held);
        self.offsets.set(place, Some(held));
        Ok(())
    }

    fn hold(&mut self, name: &Blob, held: Held) -> Result<(), ProduceError> {
        let found = self.names.get(name).filter(|found| found.state == State::Open);
        let found = found.filter(|found| found.parts.binary_search(&held.part).is_ok());
        let found = found.ok_or_else(|| ProduceError::NotOpen { name: name.clone() })?;
        let keyed = held.keys.as_ref().map_or(0, |keys| keys.len() as u64);
        let within = |what: &str, found: u64, max: u64| {
            let what = what.to_owned();
            if found <= max { Ok(()) } else { Err(ProduceError::TooMuch { what, found, max }) }
        };
        let bytes = u64::from(held.bytes);
        within("batches of a transaction", found.batches + 1, BATCHES_MAX)?;
        within("bytes of a transaction", found.bytes + bytes, BYTES_MAX)?;
        within("records of a transaction for compacted streams", found.keyed + keyed, KEYED_MAX)?;
        within("batches of all open transactions", self.held.len() as u64 + 1, ALL_BATCHES_MAX)?;
        within("bytes of all open transactions", self.bytes + bytes, ALL_BYTES_MAX)?;
        let place = Place { producer: found.producer, number: found.batches };
        self.names.update(name, |row| {
            row.batches += 1;
            row.bytes += bytes;
            row.keyed += keyed;
        });
        self.bytes += bytes;
        self.held.set(place, Some(held));
        Ok(())
    }

    /// Ends an open transaction; gives back what it held, in order.
    fn end(&mut self, name: &Blob, commits: bool, now: LogTime) -> (Vec<Held>, Vec<HeldOffsets>) {
        let held = self.drop_held(name);
        let state = if commits { State::Committed } else { State::Aborted };
        let Some(found) = self.names.get(name) else { return held };
        let Transaction { producer, epoch, before, timeout, .. } = *found;
        let row = Transaction { before, timeout, ..Transaction::new(producer, epoch, state, now) };
        self.set(name, Some(row));
        held
    }

    /// Takes away what is held under a name.
    fn drop_held(&mut self, name: &Blob) -> (Vec<Held>, Vec<HeldOffsets>) {
        let Some(found) = self.names.get(name) else { return (Vec::new(), Vec::new()) };
        let producer = found.producer;
        let of = |number| Place { producer, number };
        self.riders.take(producer);
        let places: Vec<Place> = self.held.range(of(0)..=of(u64::MAX)).map(|(place, _)| *place).collect();
        let held: Vec<Held> = places.into_iter().filter_map(|place| self.held.set(place, None)).collect();
        self.bytes -= held.iter().map(|held| u64::from(held.bytes)).sum::<u64>();
        let places: Vec<Place> = self.offsets.range(of(0)..=of(u64::MAX)).map(|(place, _)| *place).collect();
        let taken = places.into_iter().filter_map(|place| self.offsets.set(place, None));
        let offsets: Vec<HeldOffsets> = taken.collect();
        offsets.iter().for_each(|held| self.moving.take(held));
        (held, offsets)
    }

    /// The groups of which offsets are held under a name.
    fn groups_of(&self, name: &Blob) -> BTreeSet<GroupName> {
        let Some(found) = self.names.get(name) else { return BTreeSet::new() };
        let of = |number| Place { producer: found.producer, number };
        self.offsets.range(of(0)..=of(u64::MAX)).map(|(_, held)| held.group.clone()).collect()
    }

    /// The same of the transaction that is dropped next for its time.
    fn groups_due(&self, now: LogTime) -> BTreeSet<GroupName> {
        let due = self.open.first().filter(|(deadline, _)| *deadline <= now);
        due.map_or(BTreeSet::new(), |(_, name)| self.groups_of(name))
    }

    /// Whether an open transaction is about to say anything about a group.
    fn moves(&self, group: &GroupName) -> bool {
        let first = Key { space: quorate_types::Keyspace(0), name: Blob::EMPTY };
        let next = self.moving.marks.range((group.clone(), first, 0)..).next();
        next.is_some_and(|((other, ..), _)| other == group)
    }

    /// Whether an open transaction holds anything for a stream.
    pub(crate) fn holds_for(&self, stream: StreamId) -> bool {
        self.held.iter().any(|(_, held)| held.part.stream == stream)
    }

    /// Payloads in a stretch of the log that are held, with their sizes.
    pub(crate) fn payloads(
        &self,
        first: LogIndex,
        last: LogIndex,
    ) -> impl Iterator<Item = (PayloadRef, u64)> {
        let there = self.held.iter().map(|(_, held)| (held.at, u64::from(held.bytes)));
        there.filter(move |(at, _)| (first..=last).contains(&at.index))
    }

    /// When a transaction is dropped, or a name forgotten.
    pub(crate) fn next_due(&self) -> Option<LogTime> {
        let open = self.open.first().map(|(deadline, _)| *deadline);
        let idle = self.idle.first().map(|(since, _)| since.plus(KEPT));
        open.into_iter().chain(idle).min()
    }

    /// Drops the transaction, or forgets the name, that is due first.
    pub(crate) fn expire_next(&mut self, now: LogTime) {
        if let Some((deadline, name)) = self.open.first().cloned()
            && deadline <= now
        {
            self.drop_held(&name);
            if let Some(found) = self.names.get(&name) {
                let Transaction { producer, epoch, timeout, .. } = *found;
                let epoch = epoch.saturating_add(1).min(EPOCH_MAX);
                let row = Transaction { timeout, ..Transaction::new(producer, epoch, State::Aborted, now) };
                self.set(&name, Some(row));
            }
        } else if let Some((_, name)) = self.idle.first().cloned() {
            self.set(&name, None);
        }
    }

    fn set(&mut self, name: &Blob, to: Option<Transaction>) {
        let after = to.as_ref().map(Transaction::turn);
        let before = self.names.set(name.clone(), to).map(|before| before.turn());
        reindex(&mut self.open, &mut self.idle, name, before, after);
    }
}

impl Transaction {
    fn new(producer: ProducerId, epoch: u16, state: State, since: LogTime) -> Self {
        Self {
            producer,
            epoch,
            before: None,
            timeout: Millis(0),
            state,
            since,
            parts: Vec::new(),
            groups: Vec::new(),
            offsets: 0,
            offset_rows: 0,
            batches: 0,
            bytes: 0,
            keyed: 0,
        }
    }

    /// Whether it is open, and the time by which it is in order.
    fn turn(&self) -> (bool, LogTime) {
        let open = self.state == State::Open;
        (open, if open { self.since.plus(self.timeout) } else { self.since })
    }
}

/// Undo, snapshot, digest: as [`Table`] has them.
impl Transactions {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            names: self.names.mark(),
            held: self.held.mark(),
            offsets: self.offsets.mark(),
            riders: self.riders.mark(),
        }
    }
    pub(crate) fn rollback(&mut self, mark: &Mark) {
        let Self { names, held, offsets, open, idle, bytes, moving, riders } = self;
        riders.rollback(mark.riders);
        offsets.rollback(mark.offsets, |_, from, to| {
            from.into_iter().for_each(|held| moving.take(held));
            to.into_iter().for_each(|held| moving.add(held));
        });
        names.rollback(mark.names, |name, from, to| {
            reindex(open, idle, name, from.map(Transaction::turn), to.map(Transaction::turn));
        });
        held.rollback(mark.held, |_, from, to| {
            *bytes -= from.map_or(0, |held| u64::from(held.bytes));
            *bytes += to.map_or(0, |held| u64::from(held.bytes));
        });
    }
    pub(crate) fn forget(&mut self) {
        self.names.forget();
        self.held.forget();
        self.offsets.forget();
        self.riders.forget();
    }
    pub(crate) fn walk_begin(&mut self) {
        self.names.walk_begin();
        self.held.walk_begin();
        self.offsets.walk_begin();
        self.riders.walk_begin();
    }
    pub(crate) fn walk_names(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.names.walk_next(rows, out)
    }
    pub(crate) fn walk_held(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.held.walk_next(rows, out)
    }
    pub(crate) fn walk_offsets(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.offsets.walk_next(rows, out)
    }
    pub(crate) fn walk_end(&mut self) {
        self.names.walk_end();
        self.held.walk_end();
        self.offsets.walk_end();
        self.riders.walk_end();
    }
    pub(crate) fn restore_name(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (name, row) = self.names.restore_row(from)?;
        reindex(&mut self.open, &mut self.idle, &name, None, Some(row.turn()));
        Ok(())
    }
    pub(crate) fn restore_held(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (_, held) = self.held.restore_row(from)?;
        self.bytes += u64::from(held.bytes);
        Ok(())
    }
    pub(crate) fn restore_offsets(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (_, held) = self.offsets.restore_row(from)?;
        self.moving.add(&held);
        Ok(())
    }
    pub(crate) fn digests(&self, scratch: &mut Writer) -> [u128; 4] {
        let riders = self.riders.digest(scratch);
        [self.names.digest(scratch), self.held.digest(scratch), self.offsets.digest(scratch), riders]
    }

    /// Whether what is held is of one piece; otherwise what is not.
    pub(crate) fn verify(&self, next: ProducerId) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let mut sums = BTreeMap::<ProducerId, (u64, u64, u64)>::new();
        for (place, held) in self.held.iter() {
            let (batches, bytes, keyed) = sums.entry(place.producer).or_default();
            sound(place.number == *batches, "number of a batch that is held")?;
            *batches += 1;
            *bytes += u64::from(held.bytes);
            *keyed += held.keys.as_ref().map_or(0, |keys| keys.len() as u64);
        }
        let mut marks = BTreeMap::<ProducerId, (u64, u64)>::new();
        for (place, held) in self.offsets.iter() {
            let (rows, offsets) = marks.entry(place.producer).or_default();
            sound(place.number == *rows, "number of offsets that are held")?;
            *rows += 1;
            *offsets += held.count();
        }
        for (_, row) in self.names.iter() {
            let marks = marks.remove(&row.producer).unwrap_or_default();
            sound(marks == (row.offset_rows, row.offsets), "offsets of a transaction")?;
            let held = sums.remove(&row.producer).unwrap_or_default();
            sound(held == (row.batches, row.bytes, row.keyed), "sums of a transaction")?;
            sound(row.state == State::Open || row.batches + row.offset_rows == 0, "state of a transaction")?;
            sound(row.producer < next && row.epoch <= EPOCH_MAX, "producer of a transaction")?;
            sound(row.parts.is_sorted() && row.groups.is_sorted(), "places of a transaction")?;
        }
        sound(sums.is_empty() && marks.is_empty(), "something that is held for nobody")?;
        let open = self.names.iter().filter(|(_, row)| row.state == State::Open);
        let open: BTreeSet<ProducerId> = open.map(|(_, row)| row.producer).collect();
        self.riders.verify(|producer| open.contains(&producer))
    }

    pub(crate) fn check(&self, next: ProducerId) {
        if let Err(what) = self.verify(next) {
            panic!("transactions: {what} does not fit");
        }
        let turns = |open: bool| {
            let those = self.names.iter().map(|(name, row)| (row.turn(), name));
            let those = those.filter(move |((is_open, _), _)| *is_open == open);
            those.map(|((_, time), name)| (time, name.clone())).collect::<BTreeSet<_>>()
        };
        assert_eq!(self.open, turns(true), "open transactions by their deadlines");
        assert_eq!(self.idle, turns(false), "idle names by their last use");
        let bytes: u64 = self.held.iter().map(|(_, held)| u64::from(held.bytes)).sum();
        assert_eq!(self.bytes, bytes, "bytes that are held");
        let mut moving = Moving::default();
        self.offsets.iter().for_each(|(_, held)| moving.add(held));
        assert_eq!(self.moving, moving, "marks that are held");
        self.riders.check();
    }
}

fn reindex(
    open: &mut BTreeSet<(LogTime, Blob)>,
    idle: &mut BTreeSet<(LogTime, Blob)>,
    name: &Blob,
    from: Option<(bool, LogTime)>,
    to: Option<(bool, LogTime)>,
) {
    if let Some((is_open, time)) = from {
        if is_open { &mut *open } else { &mut *idle }.remove(&(time, name.clone()));
    }
    if let Some((is_open, time)) = to {
        if is_open { open } else { idle }.insert((time, name.clone()));
    }
}
