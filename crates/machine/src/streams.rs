//! Streams: append-only topics of record batches, with partitions, offsets, retention and compaction by key.
//!
//! The bytes of a record are written once, in the log; the state holds where they are ([`PayloadRef`]) and which offsets
//! they take. A batch is stored and served as it came: only a compacted stream looks inside, for the keys. Every stream
//! has a number of its own, never used again, so that rows do not repeat its name and what is left of a deleted stream
//! never shows in a new one of the same name.
//!
//! Retention: by bytes at append, never below the bound; by age in wall time, the newest batch too. On a compacted stream
//! the newest record of a key stays whatever its age and size: there `age` is for how long a tombstone is kept, and
//! `bytes` has no effect.
//!
//! Invariant: offsets of a partition are given densely, from 0, and never again, whatever is dropped.
//! Invariant: `first` only grows; a batch all of whose records are before it is garbage and freed by [`Streams::expire`].
//! Invariant: `names` and `ids` hold the same streams; a part belongs to a stream of `names` or of `dropped`.
//! Invariant: `live` counts every batch's payload once per batch; `due` holds each part's own due time.
//! Called by: `commit` (operations), `groups` (records to deliver), and the node through the machine (reads, cleaner).
//! Read [`Streams::append`] first. Source for the vocabulary: Kreps et al., "Kafka: a Distributed Messaging System for
//! Log Processing", NetDB 2011.

mod compacted;
mod index;
mod live;
mod records;
#[cfg(test)]
mod tests;
mod times;

pub(crate) use records::{INLINE, NotPlain};

use crate::Now;
use crate::table::Table;
use crate::transactions::Held;
use compacted::Compacted;
use index::{Batch, Index};
use live::Live;
use quorate_types::codec::{Reader, Wire, Writer};
use quorate_types::{
    Append, Blob, DecodeError, Format, Key, LogIndex, Offset, OpError, OpResult, PartitionChoice, PayloadRef,
    RecordId, StreamSettings, WallTime, record, wire_struct,
};
use std::collections::{BTreeMap, BTreeSet};

/// Most records of one batch on a compacted stream: each one changes a row, and no append may hold the thread for long.
const COMPACT_RECORDS_MAX: u32 = 10_000;
/// Batches that one append or trim frees at most; [`Streams::expire`] frees the rest.
const FREED_AT_ONCE: usize = 64;

/// Number of a stream, given at its creation and never again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

impl Wire for StreamId {
    fn put(&self, out: &mut Writer) {
        out.varint(self.0);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(from.varint()?))
    }
}

/// A stream as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamView {
    /// Its number.
    pub id: StreamId,
    /// Its settings.
    pub settings: StreamSettings,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionView>,
}

/// A partition as it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionView {
    /// First offset that is kept.
    pub first: Offset,
    /// Offset of the next record.
    pub next: Offset,
    /// Bytes of the payloads it refers to.
    pub bytes: u64,
}

/// A batch as it is read: where its payload lies, and which offsets it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRef {
    /// Offset of its first record.
    pub base: Offset,
    /// Records in the payload.
    pub records: u32,
    /// When set, the batch is this one record of the payload, counting from 0 (a dead letter); it takes one offset.
    pub record: Option<u32>,
    /// Bytes of the payload.
    pub bytes: u32,
    /// When it was appended, by wall time.
    pub wall: WallTime,
    /// How the payload is laid out.
    pub format: Format,
    /// Where the payload lies.
    pub at: PayloadRef,
    /// Offsets from `base` that compaction has removed, ascending. The payload still holds them; do not serve them.
    pub dead: Vec<u32>,
}

impl BatchRef {
    /// The offset after its last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset(self.base.0 + u64::from(if self.record.is_some() { 1 } else { self.records }))
    }
}

/// What a read of a partition finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    /// First offset that is kept.
    pub first: Offset,
    /// Offset of the next record to be appended.
    pub next: Offset,
    /// Batches in order. The first may begin before the offset asked for: batches are served whole.
    pub batches: Vec<BatchRef>,
}

/// One record, where `groups` found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: Offset,
    pub(crate) at: PayloadRef,
    /// Which record of the payload.
    pub(crate) record: u32,
    /// Records in the payload.
    pub(crate) records: u32,
    /// Bytes of the payload.
    pub(crate) bytes: u32,
    pub(crate) wall: WallTime,
    pub(crate) format: Format,
}

/// A partition of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartKey {
    pub(crate) stream: StreamId,
    pub(crate) partition: u32,
}
wire_struct!(PartKey { stream, partition });

impl PartKey {
    fn at(self, offset: Offset) -> At {
        At { stream: self.stream, partition: self.partition, offset }
    }
    fn first(self) -> At {
        self.at(Offset::ZERO)
    }
    fn last(self) -> At {
        self.at(Offset(u64::MAX))
    }
}

/// A place in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    stream: StreamId,
    partition: u32,
    offset: Offset,
}
wire_struct!(At { stream, partition, offset });

impl At {
    fn part(self) -> PartKey {
        PartKey { stream: self.stream, partition: self.partition }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stream {
    id: StreamId,
    settings: StreamSettings,
}
wire_struct!(Stream { id, settings });

/// The numbers of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    first: Offset,
    next: Offset,
    /// Of the payloads of all its batches, garbage included.
    bytes: u64,
    /// On partition 0: where the next [`PartitionChoice::Any`] goes.
    turn: u32,
    /// The newest id ever given.
    last: RecordId,
    /// The greatest id that was removed.
    max_deleted: RecordId,
    /// Records ever appended, unless somebody set it.
    added: u64,
    /// Records from `first` on that were removed.
    dead: u64,
}
wire_struct!(Head { first, next, bytes, turn, last, max_deleted, added, dead });

#[derive(Default)]
struct Part {
    head: Head,
    /// Its batches, unless the stream is compacted.
    log: Index,
    /// Offsets of the batches that are dead.
    gaps: BTreeSet<Offset>,
    /// Its entry in [`Streams::due`].
    due: Option<WallTime>,
}

enum Undo {
    Head {
        key: PartKey,
        head: Head,
    },
    /// A batch was pushed at the back; `head` is from before.
    Pushed {
        key: PartKey,
        head: Head,
    },
    /// A batch was dropped at the front.
    Popped {
        key: PartKey,
        batch: Batch,
    },
    /// A batch was marked as dead.
    Killed {
        key: PartKey,
        sequence: u64,
        batch: Batch,
    },
    Added {
        key: PartKey,
    },
    Removed {
        key: PartKey,
        head: Head,
        sequence: u64,
    },
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    names: usize,
    dropped: usize,
    reserved: usize,
    inline: usize,
    compacted: compacted::Mark,
    undo: usize,
    next_id: u64,
}

/// All streams of a partition of the system.
#[derive(Default)]
pub(crate) struct Streams {
    names: Table<Key, Stream>,
    /// Deleted streams that are still being freed, with the partitions they have left.
    dropped: Table<StreamId, u32>,
    /// Names kept for streams that may be made later, with how many groups want them.
    reserved: Table<Key, u32>,
    /// Payloads that are not in the log: records that scripts appended.
    inline: Table<PayloadRef, Blob>,
    compacted: Compacted,
    parts: BTreeMap<PartKey, Part>,
    next_id: u64,
    undo: Vec<Undo>,
    walk: Option<Walk>,
    ids: BTreeMap<StreamId, Key>,
    due: BTreeSet<(WallTime, PartKey)>,
    live: Live,
}

/// Operations, reads, retention.
impl Streams {
    /// Declares a stream.
    ///
    /// # Errors
    /// [`OpError::StreamExists`], and [`OpError::Range`] for a stream without partitions.
    pub(crate) fn create(&mut self, stream: &Key, settings: &StreamSettings) -> Result<OpResult, OpError> {
        if self.names.get(stream).is_some() {
            return Err(OpError::StreamExists { stream: stream.clone() });
        }
        partitions_allowed(settings)?;
        self.declare(stream, settings.clone());
        Ok(OpResult::Done {})
    }

    /// Changes the settings of a stream. Partitions can be added; `compact` can change while no records are held, for
    /// records that are there already were not indexed by key.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::PartitionsRemoved`], [`OpError::WrongType`] for `compact` on a stream that
    /// holds records.
    pub(crate) fn alter(&mut self, stream: &Key, settings: &StreamSettings) -> Result<OpResult, OpError> {
        let row = self.row(stream)?;
        let (id, partitions, compact) = (row.id, row.settings.partitions, row.settings.compact);
        partitions_allowed(settings)?;
        if settings.partitions < partitions {
            return Err(OpError::PartitionsRemoved { stream: stream.clone(), partitions });
        }
        if settings.compact != compact && self.holds_records(id) {
            let name = |compact| if compact { "compacted stream" } else { "stream that is not compacted" };
            return Err(OpError::WrongType {
                key: stream.clone(),
                found: format!("{} that holds records", name(compact)),
                wanted: name(settings.compact).into(),
            });
        }
        self.names.set(stream.clone(), Some(Stream { id, settings: settings.clone() }));
        for partition in partitions..settings.partitions {
            self.add_part(PartKey { stream: id, partition });
        }
        for partition in 0..partitions {
            self.redue(PartKey { stream: id, partition });
        }
        Ok(OpResult::Done {})
    }

    /// Removes a stream. Its name is free at once, its batches are freed in slices by [`Streams::expire`]. The caller
    /// removes its groups: `Groups::drop_stream` with the number given back.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`].
    pub(crate) fn delete(&mut self, stream: &Key) -> Result<StreamId, OpError> {
        let row = self.row(stream)?;
        let (id, partitions) = (row.id, row.settings.partitions);
        self.names.set(stream.clone(), None);
        self.ids.remove(&id);
        self.dropped.set(id, Some(partitions));
        for partition in 0..partitions {
            self.redue(PartKey { stream: id, partition });
        }
        Ok(id)
    }

    /// Appends a batch, then drops what its partition's `retention.bytes` no longer asks for.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`] (without `create`), [`OpError::PartitionMissing`]; on a compacted stream
    /// [`OpError::BadPayload`] and [`OpError::KeylessRecord`]; [`OpError::Range`] for a batch that is empty or too large.
    pub(crate) fn append(&mut self, append: &Append, now: &Now) -> Result<OpResult, OpError> {
        let found = self.names.get(&append.stream);
        if found.is_none() && !append.create {
            return Err(OpError::StreamMissing { stream: append.stream.clone() });
        }
        let id = found.map(|row| row.id);
        let partitions = found.map_or(1, |row| row.settings.partitions);
        let compact = found.is_some_and(|row| row.settings.compact);
        let keep = found.and_then(|row| row.settings.retention.bytes);
        let partition = match append.partition {
            PartitionChoice::Any if partitions == 1 => 0,
            PartitionChoice::Any => self.turn(id, partitions),
            PartitionChoice::Number { partition } if partition < partitions => partition,
            PartitionChoice::Number { partition: asked } => {
                return Err(OpError::PartitionMissing { stream: append.stream.clone(), partitions, asked });
            }
            PartitionChoice::Hash { hash } => hash % partitions,
        };
        in_range("records of a batch", u64::from(append.records), 1, u64::from(u32::MAX))?;
        let bytes = append.payload.bytes.len() as u64;
        in_range("payload in bytes", bytes, 0, u64::from(u32::MAX))?;
        let keys = if compact { Some(keys_of(append)?) } else { None };

        // Nothing fails from here on.
        let id = id.unwrap_or_else(|| self.declare(&append.stream, StreamSettings::default()));
        let key = PartKey { stream: id, partition };
        if append.partition == PartitionChoice::Any && partitions > 1 {
            self.advance_turn(id, partitions);
        }
        let batch = Batch {
            base: Offset::ZERO,
            wall: now.wall,
            at: append.payload.at.unwrap_or(PayloadRef { index: now.index, sub: append.payload.sub }),
            records: append.records,
            bytes: bytes as u32,
            record: None,
            format: append.format,
            ..Batch::default()
        };
        let (first, next) = self.push(key, batch, keys);
        if let (Some(keep), false) = (keep, compact) {
            self.keep_bytes(key, keep);
        }
        Ok(OpResult::Appended { partition, first, next })
    }

    /// Appends one record of a payload that is in the log already: a dead letter. Makes the stream when it is missing;
    /// partitions in turn; gives back which. On a compacted stream it has no key and stays until it is trimmed.
    pub(crate) fn append_reference(&mut self, stream: &Key, found: &Found, now: &Now) -> u32 {
        let row = self.names.get(stream).map(|row| (row.id, row.settings.clone()));
        let (id, settings) = row.unwrap_or_else(|| {
            let settings = StreamSettings::default();
            (self.declare(stream, settings.clone()), settings)
        });
        let partition = self.turn(Some(id), settings.partitions);
        if settings.partitions > 1 {
            self.advance_turn(id, settings.partitions);
        }
        let batch = Batch {
            base: Offset::ZERO,
            wall: now.wall,
            at: found.at,
            records: found.records,
            bytes: found.bytes,
            record: Some(found.record),
            format: found.format,
            ..Batch::default()
        };
        let key = PartKey { stream: id, partition };
        self.push(key, batch, settings.compact.then(Vec::new));
        if let (Some(keep), false) = (settings.retention.bytes, settings.compact) {
            self.keep_bytes(key, keep);
        }
        partition
    }

    /// Forgets the records of a partition before an offset. Records of a batch that reaches beyond it are no longer
    /// served as deliveries, yet a read from `before` still returns that batch whole.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::PartitionMissing`], [`OpError::OffsetOutOfRange`] beyond the end.
    pub(crate) fn trim(&mut self, stream: &Key, partition: u32, before: Offset) -> Result<OpResult, OpError> {
        let key = self.part_key(stream, partition)?;
        let head = self.part(key).head;
        if before > head.next {
            return Err(out_of_range(stream, partition, &head, before));
        }
        self.cut_before(key, before);
        Ok(OpResult::Done {})
    }

    /// Where each partition starts and ends.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`].
    pub(crate) fn info(&self, stream: &Key) -> Result<OpResult, OpError> {
        let id = self.row(stream)?.id;
        let partitions = self.parts_of(id).map(|(_, part)| (part.head.first, part.head.next)).collect();
        Ok(OpResult::Stream { partitions })
    }

    /// Appends a batch whose payload is in the log already, at the end of a transaction; gives back to which stream. A stream that was deleted is
    /// passed by.
    pub(crate) fn append_held(&mut self, held: Held, now: &Now) -> Option<Key> {
        let name = self.ids.get(&held.part.stream)?.clone();
        let settings = self.settings_of(held.part.stream)?;
        let keep = settings.retention.bytes.filter(|_| !settings.compact);
        assert_eq!(
            settings.compact,
            held.keys.is_some(),
            "a stream is not altered while anything is held for it"
        );
        let Held { part, at, records, bytes, format, keys } = held;
        let batch = Batch {
            base: Offset::ZERO,
            wall: now.wall,
            at,
            records,
            bytes,
            record: None,
            format,
            ..Batch::default()
        };
        self.push(part, batch, keys);
        if let Some(keep) = keep {
            self.keep_bytes(part, keep);
        }
        Some(name)
    }

    /// The keys of a batch, if it goes to a compacted stream.
    ///
    /// # Errors
    /// As [`Streams::append`].
    pub(crate) fn keys_for(&self, append: &Append) -> Result<Option<Vec<(Blob, bool)>>, OpError> {
        if self.row(&append.stream)?.settings.compact { keys_of(append).map(Some) } else { Ok(None) }
    }

    /// Number of a stream, and whether it is compacted.
    pub(crate) fn compacts(&self, stream: &Key) -> Option<(StreamId, bool)> {
        self.names.get(stream).map(|row| (row.id, row.settings.compact))
    }

    /// A partition.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::PartitionMissing`].
    pub(crate) fn place(&self, stream: &Key, partition: u32) -> Result<PartKey, OpError> {
        self.part_key(stream, partition)
    }

    /// The offset that the next record of a partition takes; 0 when there is no such partition.
    pub(crate) fn next_offset(&self, stream: &Key, partition: u32) -> Offset {
        self.part_key(stream, partition).map_or(Offset::ZERO, |key| self.part(key).head.next)
    }

    /// Whether there is such a stream.
    pub(crate) fn is_there(&self, stream: &Key) -> bool {
        self.names.get(stream).is_some()
    }
    /// Whether there is a stream of this number.
    /// What a stream is called now.
    pub(crate) fn name(&self, id: StreamId) -> Option<&Key> {
        self.ids.get(&id)
    }

    pub(crate) fn is_stream(&self, id: StreamId) -> bool {
        self.ids.contains_key(&id)
    }
    /// Whether other protocols' key commands must leave it alone.
    pub(crate) fn is_protected(&self, stream: &Key) -> bool {
        self.names.get(stream).is_some_and(|stream| stream.settings.protected)
    }
    /// Whether the name belongs to streams: one is there, or a group has named it for its dead letters.
    pub(crate) fn exists(&self, stream: &Key) -> bool {
        self.names.get(stream).is_some() || self.reserved.get(stream).is_some()
    }

    /// A stream as it is shown.
    pub(crate) fn view(&self, stream: &Key) -> Option<StreamView> {
        let row = self.names.get(stream)?;
        let partitions = self
            .parts_of(row.id)
            .map(|(_, Part { head, .. })| PartitionView {
                first: head.first,
                next: head.next,
                bytes: head.bytes,
            })
            .collect();
        Some(StreamView { id: row.id, settings: row.settings.clone(), partitions })
    }

    /// All streams in order of name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &StreamSettings)> {
        self.names.iter().map(|(name, row)| (name, &row.settings))
    }

    /// Batches of a partition from the one that holds `from`: until `records_max` live records or `bytes_max` bytes of
    /// payload are reached, yet at least one when there is any. Reading at the end finds none.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::PartitionMissing`], [`OpError::OffsetOutOfRange`] for an offset that was
    /// dropped or is beyond the end.
    pub(crate) fn records(
        &self,
        stream: &Key,
        partition: u32,
        from: Offset,
        records_max: u64,
        bytes_max: u64,
    ) -> Result<Batches, OpError> {
        let key = self.part_key(stream, partition)?;
        let head = self.part(key).head;
        if from < head.first || from > head.next {
            return Err(out_of_range(stream, partition, &head, from));
        }
        let mut found = Batches { first: head.first, next: head.next, batches: Vec::new() };
        let (mut records, mut bytes) = (0, 0u64);
        for (batch, dead) in self.batches_from(key, from).filter(|(batch, _)| !batch.dead) {
            bytes += u64::from(batch.bytes);
            if !found.batches.is_empty() && (records >= records_max || bytes > bytes_max) {
                break;
            }
            records += u64::from(batch.count()) - dead.len() as u64;
            let Batch { base, wall, at, records, bytes, record, format, .. } = *batch;
            found.batches.push(BatchRef { base, records, record, bytes, wall, format, at, dead });
        }
        Ok(found)
    }

    /// When [`Streams::expire`] has something to do; 0 when it has now.
    pub(crate) fn next_due_wall(&self) -> Option<WallTime> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Drops up to `max` batches or tombstones that are past their stream's age (the newest too), that were trimmed, or
    /// whose stream was deleted; gives back how many steps it took. Fewer than `max` means that nothing is due any more.
    pub(crate) fn expire(&mut self, now: &Now, max: usize) -> usize {
        for done in 0..max {
            match self.due.first() {
                Some((due, key)) if *due <= now.wall => {
                    let key = *key;
                    self.expire_one(key);
                }
                _ => return done,
            }
        }
        max
    }

    /// Bytes of the payloads in the entries `first..=last` that a batch refers to; each payload counts once.
    pub(crate) fn live_bytes(&self, first: LogIndex, last: LogIndex) -> u64 {
        self.logged(first, last).map(|(_, bytes)| u64::from(bytes)).sum()
    }

    /// The payloads in the entries `first..=last` that a batch refers to, in log order.
    pub(crate) fn live(&self, first: LogIndex, last: LogIndex) -> Vec<PayloadRef> {
        self.logged(first, last).map(|(at, _)| at).collect()
    }

    fn logged(&self, first: LogIndex, last: LogIndex) -> impl Iterator<Item = (PayloadRef, u32)> {
        let live = self.live.between(first, last).filter(|(at, ..)| !records::is_inline(*at));
        live.map(|(at, _, bytes)| (at, bytes))
    }
}

/// What `groups` asks for.
impl Streams {
    /// Number of a stream.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`].
    pub(crate) fn id(&self, stream: &Key) -> Result<StreamId, OpError> {
        self.row(stream).map(|row| row.id)
    }

    /// How many streams were made, and are there.
    pub(crate) fn stamp(&self) -> (u64, u64) {
        (self.next_id, self.names.len() as u64)
    }

    /// How many partitions a stream has; nothing where there is none.
    pub(crate) fn partitions(&self, stream: &Key) -> Option<u32> {
        self.row(stream).ok().map(|row| row.settings.partitions)
    }

    /// Bounds of each partition of a stream, by number.
    pub(crate) fn bounds(&self, stream: StreamId) -> impl Iterator<Item = (Offset, Offset)> {
        self.parts_of(stream).map(|(_, part)| (part.head.first, part.head.next))
    }

    /// The first record at or after `from` that was not dropped.
    pub(crate) fn record_from(&self, stream: StreamId, partition: u32, from: Offset) -> Option<Found> {
        let key = PartKey { stream, partition };
        let from = from.max(self.parts.get(&key)?.head.first);
        let log = &self.parts.get(&key)?.log;
        let mut batches = (log.position(from)..log.len()).filter_map(|position| log.at(position));
        if let Some(batch) = batches.find(|batch| !batch.dead) {
            return Some(found_in(batch, from.max(batch.base)));
        }
        self.compacted.from(key, from).find_map(|kept| {
            let start = from.max(kept.batch.base);
            let record = (start.0 - kept.batch.base.0) as u32;
            let alive = (record..kept.batch.count()).find(|record| !kept.is_dead(*record))?;
            Some(found_in(&kept.batch, Offset(kept.batch.base.0 + u64::from(alive))))
        })
    }

    /// Keeps a name for a stream that will be made later.
    pub(crate) fn reserve(&mut self, stream: &Key) {
        let wanted = self.reserved.get(stream).copied().unwrap_or(0) + 1;
        self.reserved.set(stream.clone(), Some(wanted));
    }
    /// Names that are kept, each with how often.
    #[cfg(test)]
    pub(crate) fn reservations(&self) -> impl Iterator<Item = (&Key, u32)> {
        self.reserved.iter().map(|(name, groups)| (name, *groups))
    }
    /// Takes a [`Streams::reserve`] back.
    pub(crate) fn unreserve(&mut self, stream: &Key) {
        let wanted = self.reserved.get(stream).copied().unwrap_or(0).saturating_sub(1);
        self.reserved.set(stream.clone(), (wanted > 0).then_some(wanted));
    }
}

/// Undo, snapshot, digest: as [`Table`] has them.
impl Streams {
    /// A point to roll back to.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            names: self.names.mark(),
            dropped: self.dropped.mark(),
            reserved: self.reserved.mark(),
            inline: self.inline.mark(),
            compacted: self.compacted.mark(),
            undo: self.undo.len(),
            next_id: self.next_id,
        }
    }

    /// Restores the state at `mark`.
    pub(crate) fn rollback(&mut self, mark: Mark) {
        let mut touched = BTreeSet::new();
        let mut altered = Vec::new();
        let Self { names, ids, .. } = self;
        names.rollback(mark.names, |key, undone, back| {
            if let Some(undone) = undone {
                ids.remove(&undone.id);
                altered.push(undone.id);
            }
            if let Some(back) = back {
                ids.insert(back.id, key.clone());
                altered.push(back.id);
            }
        });
        self.dropped.rollback(mark.dropped, |_, _, _| {});
        self.reserved.rollback(mark.reserved, |_, _, _| {});
        self.inline.rollback(mark.inline, |_, _, _| {});
        let Self { compacted, live, .. } = self;
        compacted.rollback(mark.compacted, &mut touched, |batch, back| {
            if back {
                live.add(batch.at, batch.bytes)
            } else {
                let _ = live.remove(batch.at);
            }
        });
        while self.undo.len() > mark.undo {
            let undo = self.undo.pop().expect("the length was just checked");
            touched.insert(self.take_back(undo));
        }
        self.next_id = mark.next_id;
        for id in altered {
            touched.extend(self.parts_of(id).map(|(key, _)| *key));
        }
        for key in touched {
            self.redue(key);
        }
    }

    /// Makes everything since the last call permanent.
    pub(crate) fn forget(&mut self) {
        self.names.forget();
        self.dropped.forget();
        self.reserved.forget();
        self.inline.forget();
        self.compacted.forget();
        self.undo.clear();
    }

    /// Begins a snapshot walk over the streams as they are now.
    pub(crate) fn walk_begin(&mut self) {
        assert!(self.undo.is_empty(), "a snapshot begins between commits");
        self.names.walk_begin();
        self.dropped.walk_begin();
        self.reserved.walk_begin();
        self.inline.walk_begin();
        self.compacted.walk_begin();
        let parts = self.parts.iter().map(|(key, part)| {
            let (next, end) = part.log.sequences();
            PartWalk { key: *key, head: part.head, next, end, begun: false }
        });
        self.walk = Some(Walk {
            stage: Stage::default(),
            next_id: self.next_id,
            parts: parts.collect(),
            at: 0,
            saved: BTreeMap::new(),
        });
    }

    /// Emits one chunk of up to `rows_max` rows (1 or more) into `out`; returns whether the walk is over. Each chunk is
    /// read by one [`Streams::restore`], in order.
    pub(crate) fn walk_next(&mut self, rows_max: usize, out: &mut Writer) -> bool {
        let mut left = rows_max.max(1);
        while left > 0 {
            let Some(walk) = &mut self.walk else { break };
            let stage = walk.stage;
            let (emitted, over) = match stage {
                Stage::NextId => {
                    out.varint(TAG_NEXT_ID);
                    out.varint(walk.next_id);
                    (0, true)
                }
                Stage::Names => section(&mut self.names, TAG_NAMES, left, out),
                Stage::Dropped => section(&mut self.dropped, TAG_DROPPED, left, out),
                Stage::Reserved => section(&mut self.reserved, TAG_RESERVED, left, out),
                Stage::Parts => walk.parts(&self.parts, left, out),
                Stage::Kept => self.compacted.walk_kept(TAG_KEPT, left, out),
                Stage::Newest => self.compacted.walk_newest(TAG_NEWEST, left, out),
                Stage::Inline => section(&mut self.inline, TAG_INLINE, left, out),
                Stage::Over => break,
            };
            if !over {
                break;
            }
            walk.stage = stage.next();
            left = left.saturating_sub(emitted);
        }
        out.varint(TAG_END);
        self.walk.as_ref().is_none_or(|walk| walk.stage == Stage::Over)
    }

    /// Ends a walk, finished or not.
    pub(crate) fn walk_end(&mut self) {
        self.names.walk_end();
        self.dropped.walk_end();
        self.reserved.walk_end();
        self.inline.walk_end();
        self.compacted.walk_end();
        self.walk = None;
    }

    /// Reads one chunk into an empty or partly restored state. After the last one, [`Streams::restored`].
    ///
    /// # Errors
    /// [`DecodeError`] says what could not be read.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        loop {
            match from.varint()? {
                TAG_END => return Ok(()),
                TAG_NEXT_ID => self.next_id = from.varint()?,
                TAG_NAMES => {
                    for _ in 0..from.varint()? {
                        let (name, row) = self.names.restore_row(from)?;
                        self.ids.insert(row.id, name);
                    }
                }
                TAG_DROPPED => restore_section(&mut self.dropped, from)?,
                TAG_RESERVED => restore_section(&mut self.reserved, from)?,
                TAG_PART => self.restore_part(from, false)?,
                TAG_PART_WITH_IDS => self.restore_part(from, true)?,
                TAG_INLINE => restore_section(&mut self.inline, from)?,
                TAG_KEPT => {
                    for _ in 0..from.varint()? {
                        self.compacted.restore_kept(from)?;
                    }
                }
                TAG_NEWEST => {
                    for _ in 0..from.varint()? {
                        self.compacted.restore_newest(from)?;
                    }
                }
                found => return Err(DecodeError::Tag { what: "section of streams", found }),
            }
        }
    }

    /// Checks and indexes what was restored.
    ///
    /// # Errors
    /// [`DecodeError::Range`]: the rows do not fit together; the snapshot is damaged.
    pub(crate) fn restored(&mut self) -> Result<(), DecodeError> {
        self.verify().map_err(|what| DecodeError::Range { what, found: 0 })?;
        let plain = self.parts.values().flat_map(|part| part.log.iter());
        let batches = plain.chain(self.compacted.iter().map(|(_, kept)| &kept.batch));
        let batches = batches.filter(|batch| !batch.dead);
        self.live = Live::of(batches.map(|batch| (batch.at, batch.bytes)).collect());
        let keys: Vec<PartKey> = self.parts.keys().copied().collect();
        for key in keys {
            self.redue(key);
        }
        Ok(())
    }

    /// Hash of the state; the same on every replica that has applied the same entries.
    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let mut parts = 0u128;
        for (key, part) in &self.parts {
            scratch.clear();
            key.put(scratch);
            part.head.put(scratch);
            for batch in part.log.iter() {
                batch.put_whole(scratch);
            }
            parts = parts.wrapping_add(xxhash_rust::xxh3::xxh3_128(&scratch.buffer));
        }
        let (kept, newest) = self.compacted.digest(scratch);
        let tables = [
            self.names.digest(scratch),
            self.dropped.digest(scratch),
            self.reserved.digest(scratch),
            self.inline.digest(scratch),
            parts,
            kept,
            newest,
        ];
        combine(u128::from(self.next_id), &tables)
    }

    /// Panics when rows and indexes disagree. For tests and the simulator: it looks at everything.
    pub(crate) fn check(&self) {
        if let Err(what) = self.verify() {
            panic!("streams: {what} does not fit");
        }
        for (key, part) in &self.parts {
            assert_eq!(part.due, self.due_of(*key), "due time of {key:?}");
            assert!(part.due.is_none_or(|due| self.due.contains(&(due, *key))), "index of due times");
        }
        assert_eq!(self.due.len(), self.parts.values().filter(|part| part.due.is_some()).count());
        let mut counts = BTreeMap::<PayloadRef, u32>::new();
        let there = self.parts.values().flat_map(|part| part.log.iter());
        for batch in there.filter(|batch| !batch.dead) {
            *counts.entry(batch.at).or_default() += 1;
        }
        for (_, kept) in self.compacted.iter() {
            *counts.entry(kept.batch.at).or_default() += 1;
        }
        let inline = counts.keys().filter(|at| records::is_inline(**at));
        assert!(
            inline.eq(self.inline.iter().map(|(at, _)| at)),
            "payloads that are kept are those that are referred to"
        );
        let live = self.live.between(LogIndex::ZERO, LogIndex(u64::MAX)).map(|(at, count, _)| (at, count));
        assert!(live.eq(counts), "references to payloads are not those of the batches");
    }
}

/// Look-ups.
impl Streams {
    fn row(&self, stream: &Key) -> Result<&Stream, OpError> {
        self.names.get(stream).ok_or_else(|| OpError::StreamMissing { stream: stream.clone() })
    }

    fn part_key(&self, stream: &Key, partition: u32) -> Result<PartKey, OpError> {
        let row = self.row(stream)?;
        let partitions = row.settings.partitions;
        if partition < partitions {
            Ok(PartKey { stream: row.id, partition })
        } else {
            Err(OpError::PartitionMissing { stream: stream.clone(), partitions, asked: partition })
        }
    }

    fn part(&self, key: PartKey) -> &Part {
        self.parts.get(&key).expect("every partition of a stream has a part")
    }

    fn parts_of(&self, stream: StreamId) -> impl Iterator<Item = (&PartKey, &Part)> {
        self.parts.range(PartKey { stream, partition: 0 }..=PartKey { stream, partition: u32::MAX })
    }

    fn holds_records(&self, stream: StreamId) -> bool {
        self.parts_of(stream).any(|(key, part)| part.log.len() > 0 || self.compacted.front(*key).is_some())
    }

    /// Batches that hold `from` or come after it, each with its dead records. One of the two kinds is always empty.
    fn batches_from(&self, key: PartKey, from: Offset) -> impl Iterator<Item = (&Batch, Vec<u32>)> {
        let log = &self.part(key).log;
        let plain = (log.position(from)..log.len()).filter_map(|position| log.at(position));
        let kept = self.compacted.from(key, from).map(|kept| (&kept.batch, kept.dead()));
        plain.map(|batch| (batch, Vec::new())).chain(kept)
    }

    fn front(&self, key: PartKey) -> Option<&Batch> {
        let plain = self.parts.get(&key)?.log.front();
        plain.or_else(|| self.compacted.front(key).map(|kept| &kept.batch))
    }

    fn front_is_garbage(&self, key: PartKey) -> bool {
        self.front(key).is_some_and(|batch| batch.dead || batch.end() <= self.part(key).head.first)
    }

    fn turn(&self, id: Option<StreamId>, partitions: u32) -> u32 {
        id.map_or(0, |stream| self.part(PartKey { stream, partition: 0 }).head.turn % partitions)
    }

    /// Settings of a stream that was not deleted.
    fn settings_of(&self, stream: StreamId) -> Option<&StreamSettings> {
        let name = self.ids.get(&stream)?;
        Some(&self.names.get(name).expect("ids and names hold the same streams").settings)
    }
}

/// Changes. Each says to `undo` how it is taken back.
impl Streams {
    fn declare(&mut self, stream: &Key, settings: StreamSettings) -> StreamId {
        let id = StreamId(self.next_id);
        self.next_id += 1;
        for partition in 0..settings.partitions {
            self.add_part(PartKey { stream: id, partition });
        }
        self.names.set(stream.clone(), Some(Stream { id, settings }));
        self.ids.insert(id, stream.clone());
        id
    }

    fn add_part(&mut self, key: PartKey) {
        self.parts.insert(key, Part::default());
        self.undo.push(Undo::Added { key });
    }

    fn change_head(&mut self, key: PartKey, change: impl FnOnce(&mut Head)) {
        let part = self.parts.get_mut(&key).expect("every partition of a stream has a part");
        self.undo.push(Undo::Head { key, head: part.head });
        change(&mut part.head);
    }

    /// Forgets the records of a partition before an offset within it.
    fn cut_before(&mut self, key: PartKey, before: Offset) {
        let first = self.part(key).head.first;
        if before <= first {
            return;
        }
        let gaps = self.part(key).gaps.range(first..before).count() as u64;
        self.change_head(key, |head| {
            head.first = before;
            head.dead -= gaps;
        });
        for _ in 0..FREED_AT_ONCE {
            if !self.front_is_garbage(key) {
                break;
            }
            self.drop_front(key);
        }
        self.redue(key);
    }

    fn advance_turn(&mut self, stream: StreamId, partitions: u32) {
        self.change_head(PartKey { stream, partition: 0 }, |head| head.turn = (head.turn + 1) % partitions);
    }

    /// Pushes a batch at the end of a partition and gives back its bounds. `keys` on a compacted stream.
    fn push(&mut self, key: PartKey, mut batch: Batch, keys: Option<Vec<(Blob, bool)>>) -> (Offset, Offset) {
        let part = self.parts.get_mut(&key).expect("every partition of a stream has a part");
        let head = part.head;
        batch.base = head.next;
        if keys.is_none() {
            if batch.id == RecordId::ZERO {
                batch.id = records::id_by_clock(head.last, batch.wall, batch.base);
            }
            part.head.last = batch.last_id();
        }
        part.head.added = head.added.saturating_add(u64::from(batch.count()));
        part.head.next = batch.end();
        part.head.bytes += u64::from(batch.bytes);
        self.live.add(batch.at, batch.bytes);
        if let Some(keys) = keys {
            self.undo.push(Undo::Head { key, head });
            let emptied = self.compacted.insert(key, batch, keys);
            self.dropped_batches(key, &emptied);
            self.redue(key);
        } else {
            part.log.push(batch);
            let alone = part.log.len() == 1;
            self.undo.push(Undo::Pushed { key, head });
            if alone {
                self.redue(key);
            }
        }
        (batch.base, batch.end())
    }

    /// Drops the oldest batches while the rest still holds `keep` bytes.
    fn keep_bytes(&mut self, key: PartKey, keep: u64) {
        for dropped in 0..=FREED_AT_ONCE {
            let part = self.part(key);
            let front = part.log.front().map_or(u64::MAX, |batch| u64::from(batch.bytes));
            let more = front <= part.head.bytes && part.head.bytes - front >= keep;
            if !more || dropped == FREED_AT_ONCE {
                if dropped > 0 {
                    self.redue(key);
                }
                return;
            }
            self.drop_front(key);
        }
    }

    /// Drops the oldest batch of a partition; `false` when there is none.
    fn drop_front(&mut self, key: PartKey) -> bool {
        let part = self.parts.get_mut(&key).expect("every partition of a stream has a part");
        let sequence = part.log.sequences().0;
        if let Some(batch) = part.log.pop_front() {
            if let Some(walk) = &mut self.walk {
                walk.save(key, sequence, batch);
            }
            self.undo.push(Undo::Popped { key, batch });
            if batch.dead {
                part.gaps.remove(&batch.base);
            } else {
                self.release(batch.at);
            }
            self.change_head(key, |head| {
                head.dead -= u64::from(batch.dead && batch.base >= head.first);
                head.first = head.first.max(batch.end());
                head.bytes -= u64::from(batch.bytes);
            });
            true
        } else if let Some(batch) = self.compacted.drop_front(key) {
            self.dropped_batches(key, &[batch]);
            true
        } else {
            false
        }
    }

    /// Counts batches off that left the index.
    fn dropped_batches(&mut self, key: PartKey, batches: &[Batch]) {
        let bytes: u64 = batches.iter().map(|batch| u64::from(batch.bytes)).sum();
        for batch in batches {
            self.release(batch.at);
        }
        if bytes > 0 {
            self.change_head(key, |head| head.bytes -= bytes);
        }
    }

    fn expire_one(&mut self, key: PartKey) {
        match self.settings_of(key.stream) {
            None => {
                if !self.drop_front(key) {
                    self.remove_part(key);
                }
            }
            Some(settings) if settings.compact && !self.front_is_garbage(key) => {
                let emptied = self.compacted.drop_tombstone(key);
                self.dropped_batches(key, &emptied);
            }
            Some(_) => {
                self.drop_front(key);
            }
        }
        self.redue(key);
    }

    /// Removes a part of a deleted stream, which has no batches any more.
    fn remove_part(&mut self, key: PartKey) {
        let part = self.parts.remove(&key).expect("a due part is there");
        if let Some(due) = part.due {
            self.due.remove(&(due, key));
        }
        self.undo.push(Undo::Removed { key, head: part.head, sequence: part.log.sequences().0 });
        let left = self.dropped.get(&key.stream).copied().unwrap_or(0).saturating_sub(1);
        self.dropped.set(key.stream, (left > 0).then_some(left));
    }

    /// Takes one change back and says whose it was.
    fn take_back(&mut self, undo: Undo) -> PartKey {
        let missing = "a part that changed is there until the change is taken back";
        match undo {
            Undo::Head { key, head } => {
                self.parts.get_mut(&key).expect(missing).head = head;
                key
            }
            Undo::Pushed { key, head } => {
                let part = self.parts.get_mut(&key).expect(missing);
                part.head = head;
                let batch =
                    part.log.pop_back().expect("a batch that was pushed is there until it is taken back");
                self.live.remove(batch.at);
                key
            }
            Undo::Popped { key, batch } => {
                let part = self.parts.get_mut(&key).expect(missing);
                part.log.push_front(batch);
                if batch.dead {
                    part.gaps.insert(batch.base);
                } else {
                    self.live.add(batch.at, batch.bytes);
                }
                key
            }
            Undo::Killed { key, sequence, batch } => {
                let part = self.parts.get_mut(&key).expect(missing);
                part.gaps.remove(&batch.base);
                *part.log.by_sequence_mut(sequence).expect("a batch that was marked is there") = batch;
                self.live.add(batch.at, batch.bytes);
                key
            }
            Undo::Added { key } => {
                let part = self.parts.remove(&key).expect(missing);
                if let Some(due) = part.due {
                    self.due.remove(&(due, key));
                }
                key
            }
            Undo::Removed { key, head, sequence } => {
                self.parts.insert(key, Part { head, log: Index::starting_at(sequence), ..Part::default() });
                key
            }
        }
    }

    /// Mends a part's place among the due ones.
    fn redue(&mut self, key: PartKey) {
        let due = self.due_of(key);
        let Some(part) = self.parts.get_mut(&key) else { return };
        if part.due == due {
            return;
        }
        if let Some(before) = part.due {
            self.due.remove(&(before, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
        }
        part.due = due;
    }

    /// When a part has something to drop.
    fn due_of(&self, key: PartKey) -> Option<WallTime> {
        self.parts.get(&key)?;
        let Some(settings) = self.settings_of(key.stream) else { return Some(WallTime::ZERO) };
        if self.front_is_garbage(key) {
            return Some(WallTime::ZERO);
        }
        let age = settings.retention.age?;
        let oldest =
            if settings.compact { self.compacted.oldest_tombstone(key)? } else { self.front(key)?.wall };
        Some(oldest.plus(age))
    }
}

/// Restoring and checking.
impl Streams {
    fn restore_part(&mut self, from: &mut Reader<'_>, with_ids: bool) -> Result<(), DecodeError> {
        let key = PartKey::take(from)?;
        let head = if with_ids { Head::take(from)? } else { records::head_before_ids(from)? };
        let part = self.parts.entry(key).or_insert_with(|| Part { head, ..Part::default() });
        for _ in 0..from.varint()? {
            let mut batch = if with_ids { Batch::take_whole(from)? } else { Batch::take(from)? };
            if !with_ids && batch.count() > 0 {
                batch.id = records::id_by_clock(part.head.last, batch.wall, batch.base);
                part.head.last = batch.last_id();
            }
            if batch.dead {
                part.gaps.insert(batch.base);
            }
            part.log.push(batch);
        }
        Ok(())
    }

    /// Whether the rows fit together; otherwise what does not.
    fn verify(&self) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        sound(self.ids.len() == self.names.len(), "count of streams")?;
        let mut wanted = 0;
        for (name, row) in self.names.iter() {
            sound(self.ids.get(&row.id) == Some(name), "number of a stream")?;
            sound(row.id.0 < self.next_id && self.dropped.get(&row.id).is_none(), "number of a stream")?;
            let partitions = row.settings.partitions;
            let dense = self.parts_of(row.id).map(|(key, _)| key.partition).eq(0..partitions);
            sound(partitions > 0 && dense, "partitions of a stream")?;
            wanted += partitions as usize;
        }
        for (id, left) in self.dropped.iter() {
            sound(id.0 < self.next_id && *left > 0, "number of a deleted stream")?;
            sound(self.parts_of(*id).count() == *left as usize, "partitions of a deleted stream")?;
            wanted += *left as usize;
        }
        sound(self.parts.len() == wanted, "count of partitions")?;
        sound(self.reserved.iter().all(|(_, groups)| *groups > 0), "count of a reserved name")?;
        let mut kept = BTreeMap::<PartKey, (u64, Offset)>::new();
        for (key, row) in self.compacted.iter() {
            let sums = kept.entry(key).or_default();
            *sums = (sums.0.saturating_add(u64::from(row.batch.bytes)), row.batch.end());
        }
        for (key, part) in &self.parts {
            self.verify_part(*key, part, kept.remove(key).unwrap_or_default())?;
        }
        sound(kept.is_empty(), "partition of a compacted batch")?;
        self.compacted.verify()
    }

    fn verify_part(&self, key: PartKey, part: &Part, kept: (u64, Offset)) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let (kept_bytes, kept_end) = kept;
        let settings = self.settings_of(key.stream);
        let stray =
            settings.is_some_and(|s| if s.compact { part.log.len() > 0 } else { kept_end > Offset::ZERO });
        sound(!stray, "kind of batches of a partition")?;
        sound(part.head.first <= part.head.next && kept_end <= part.head.next, "bounds of a partition")?;
        let mut bytes = kept_bytes;
        let mut end = part.log.front().map_or(part.head.next, |batch| batch.base);
        let mut id = RecordId::ZERO;
        let (mut dead, first) = (0, part.head.first);
        for batch in part.log.iter() {
            sound(batch.base == end && batch.count() > 0, "offset of a batch")?;
            sound(id <= batch.id && batch.last_id() <= part.head.last, "id of a batch")?;
            let is_gap = part.gaps.contains(&batch.base);
            sound(batch.dead == is_gap && (!is_gap || batch.bytes == 0), "mark of a batch")?;
            dead += u64::from(batch.dead && batch.base >= first);
            id = batch.last_id();
            end = batch.end();
            bytes = bytes.saturating_add(u64::from(batch.bytes));
        }
        sound(end == part.head.next, "last offset of a partition")?;
        sound(dead == part.head.dead, "removed records of a partition")?;
        sound(bytes == part.head.bytes, "bytes of a partition")
    }
}

const TAG_END: u64 = 0;
const TAG_NEXT_ID: u64 = 1;
const TAG_NAMES: u64 = 2;
const TAG_DROPPED: u64 = 3;
const TAG_RESERVED: u64 = 4;
const TAG_PART: u64 = 5;
const TAG_KEPT: u64 = 6;
const TAG_NEWEST: u64 = 7;
/// Since records have ids; before, a part was a [`TAG_PART`].
const TAG_PART_WITH_IDS: u64 = 8;
const TAG_INLINE: u64 = 9;

/// What a walk emits next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    NextId,
    Names,
    Dropped,
    Reserved,
    Parts,
    Kept,
    Newest,
    Inline,
    Over,
}

impl Stage {
    fn next(self) -> Self {
        match self {
            Self::NextId => Self::Names,
            Self::Names => Self::Dropped,
            Self::Dropped => Self::Reserved,
            Self::Reserved => Self::Parts,
            Self::Parts => Self::Kept,
            Self::Kept => Self::Newest,
            Self::Newest => Self::Inline,
            Self::Inline | Self::Over => Self::Over,
        }
    }
}

struct Walk {
    stage: Stage,
    next_id: u64,
    /// The parts when the walk began, in order.
    parts: Vec<PartWalk>,
    /// Which of them is emitted now.
    at: usize,
    /// Batches dropped or marked ahead of the walk, as they were.
    saved: BTreeMap<(PartKey, u64), Batch>,
}

struct PartWalk {
    key: PartKey,
    head: Head,
    /// Sequence number of the next batch to be emitted.
    next: u64,
    /// Where the part ended when the walk began.
    end: u64,
    begun: bool,
}

impl Walk {
    fn save(&mut self, key: PartKey, sequence: u64, batch: Batch) {
        let Ok(place) = self.parts.binary_search_by_key(&key, |part| part.key) else { return };
        let part = &self.parts[place];
        if place >= self.at && (part.next..part.end).contains(&sequence) {
            self.saved.entry((key, sequence)).or_insert(batch);
        }
    }

    /// Emits parts, where a part counts as a row and so does each of its batches; as [`Table::walk_next`].
    fn parts(&mut self, parts: &BTreeMap<PartKey, Part>, rows_max: usize, out: &mut Writer) -> (usize, bool) {
        let mut emitted = 0;
        while emitted < rows_max && self.at < self.parts.len() {
            let part = &mut self.parts[self.at];
            let stop = part.end.min(part.next + (rows_max - emitted) as u64);
            out.varint(TAG_PART_WITH_IDS);
            part.key.put(out);
            part.head.put(out);
            out.varint(stop - part.next);
            emitted += usize::from(!part.begun) + (stop - part.next) as usize;
            part.begun = true;
            while part.next < stop {
                let saved = self.saved.remove(&(part.key, part.next));
                let live = || parts.get(&part.key).and_then(|live| live.log.by_sequence(part.next)).copied();
                saved.or_else(live).expect("a batch ahead of the walk is there or was saved").put_whole(out);
                part.next += 1;
            }
            if part.next == part.end {
                self.at += 1;
            }
        }
        (emitted, self.at == self.parts.len())
    }
}

/// Emits a tag, a count and up to `rows_max` rows of a table, nothing when there are none; as [`Table::walk_next`].
pub(crate) fn section<K: Ord + Clone + Wire, V: Clone + Wire>(
    table: &mut Table<K, V>,
    tag: u64,
    rows_max: usize,
    out: &mut Writer,
) -> (usize, bool) {
    let mut rows = Writer::default();
    let (emitted, over) = table.walk_next(rows_max, &mut rows);
    if emitted > 0 {
        out.varint(tag);
        out.varint(emitted as u64);
        out.raw(&rows.buffer);
    }
    (emitted, over)
}

/// Reads the count and rows of a [`section`] into a table that no index belongs to.
pub(crate) fn restore_section<K: Ord + Clone + Wire, V: Clone + Wire>(
    table: &mut Table<K, V>,
    from: &mut Reader<'_>,
) -> Result<(), DecodeError> {
    for _ in 0..from.varint()? {
        table.restore_row(from)?;
    }
    Ok(())
}

/// One digest of several tables. The multiplier is odd, so that no table's sum is lost, and tables do not swap places.
pub(crate) fn combine(seed: u128, tables: &[u128]) -> u128 {
    const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    tables.iter().fold(seed, |sum, table| sum.wrapping_mul(ODD).wrapping_add(*table))
}

fn found_in(batch: &Batch, offset: Offset) -> Found {
    Found {
        offset,
        at: batch.at,
        record: batch.record.unwrap_or((offset.0 - batch.base.0) as u32),
        records: batch.records,
        bytes: batch.bytes,
        wall: batch.wall,
        format: batch.format,
    }
}

/// The keys of a batch for a compacted stream, each with whether its record is a tombstone.
fn keys_of(append: &Append) -> Result<Vec<(Blob, bool)>, OpError> {
    let records = append.records;
    in_range(
        "records of a batch on a compacted stream",
        u64::from(records),
        1,
        u64::from(COMPACT_RECORDS_MAX),
    )?;
    if append.format == Format::RecordBatch {
        // It may be compressed, and no append may hold the thread for long.
        let why = "a compacted stream goes by keys: append records, not a batch as it came".to_owned();
        return Err(OpError::BadPayload { records, why });
    }
    record::keys(&append.payload.bytes, records)
        .map_err(|why| OpError::BadPayload { records, why: why.to_string() })?
        .into_iter()
        .map(|(key, tombstone)| Some((key?, tombstone)))
        .collect::<Option<_>>()
        .ok_or_else(|| OpError::KeylessRecord { stream: append.stream.clone() })
}

fn partitions_allowed(settings: &StreamSettings) -> Result<(), OpError> {
    in_range("partitions", u64::from(settings.partitions), 1, u64::from(u32::MAX))
}

fn in_range(what: &str, found: u64, min: u64, max: u64) -> Result<(), OpError> {
    if (min..=max).contains(&found) {
        Ok(())
    } else {
        Err(OpError::Range { what: what.into(), found, min, max })
    }
}

fn out_of_range(stream: &Key, partition: u32, head: &Head, asked: Offset) -> OpError {
    let Head { first, next, .. } = *head;
    OpError::OffsetOutOfRange { stream: stream.clone(), partition, first, next, asked }
}
