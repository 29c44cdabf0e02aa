//! Records by id: what Redis' commands see of a stream of one partition.
//!
//! A batch keeps the id of its first record; those after it count up. Records that other protocols append get the milliseconds of their
//! append and, as sequence, their offset: so ids order as offsets do, and one tells the other.
//!
//! Invariant: ids of a partition ascend with its offsets (only past the last possible id do they repeat).
//! Invariant: a dead batch is of one record, takes its offset and id, and refers to no payload.
//! Called by: `calls::streams`; `streams`, for ids.

use super::index::Batch;
use super::{FREED_AT_ONCE, Head, PartKey, Streams, Undo};
use crate::Now;
use quorate_calls::streams::{Entry, Facts, Trim};
use quorate_types::codec::{Reader, Wire};
use quorate_types::{
    Blob, DecodeError, Format, Key, LogIndex, Offset, PayloadRef, RecordId, StreamSettings, WallTime,
};

/// From this sub-index on, a payload is not in the log but in the state.
pub(crate) const INLINE: u32 = 1 << 31;

/// Whether a payload is in the state.
pub(crate) fn is_inline(at: PayloadRef) -> bool {
    at.sub >= INLINE
}

/// The id of a record that came without one.
pub(super) fn id_by_clock(last: RecordId, wall: WallTime, base: Offset) -> RecordId {
    if wall.0 > last.ms {
        return RecordId { ms: wall.0, seq: base.0 };
    }
    RecordId { ms: last.ms, seq: last.seq.saturating_add(1).max(base.0) }
}

/// A partition's numbers as snapshots had them before records had ids.
pub(super) fn head_before_ids(from: &mut Reader<'_>) -> Result<Head, DecodeError> {
    let first = Wire::take(from)?;
    let next: Offset = Wire::take(from)?;
    let (bytes, turn) = (Wire::take(from)?, Wire::take(from)?);
    Ok(Head { first, next, bytes, turn, added: next.0, ..Head::default() })
}

/// Why Redis' commands do not work on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotPlain {
    /// It has this many partitions.
    Partitions(u32),
    /// It is compacted by key.
    Compacted,
}

/// Reading.
impl Streams {
    /// The partition of a stream that Redis' commands work on.
    pub(crate) fn single(&self, stream: &Key) -> Option<Result<PartKey, NotPlain>> {
        let row = self.names.get(stream)?;
        Some(match row.settings {
            StreamSettings { compact: true, .. } => Err(NotPlain::Compacted),
            StreamSettings { partitions: 1, .. } => Ok(PartKey { stream: row.id, partition: 0 }),
            StreamSettings { partitions, .. } => Err(NotPlain::Partitions(partitions)),
        })
    }

    /// A partition in numbers.
    pub(crate) fn facts(&self, key: PartKey) -> Facts {
        let Head { first, next, last, max_deleted, added, dead, .. } = self.part(key).head;
        let edge = |newest_first| {
            let found = self.entries(key, RecordId::ZERO, RecordId::MAX, newest_first, 1);
            found.first().map(|entry| entry.id)
        };
        Facts {
            length: next.0 - first.0 - dead,
            last,
            max_deleted,
            added,
            first: edge(false),
            top: edge(true),
        }
    }

    /// Records between two ids, both included.
    pub(crate) fn entries(
        &self,
        key: PartKey,
        from: RecordId,
        to: RecordId,
        newest_first: bool,
        max: u64,
    ) -> Vec<Entry> {
        let part = self.part(key);
        let (log, first) = (&part.log, part.head.first);
        let mut found = Vec::new();
        if from > to || log.len() == 0 {
            return found;
        }
        let start = log.position(first).max(log.position_of(from));
        // The batch that holds `to` is the last, or the one after which it would come.
        let end = (log.position_of(to) + 1).min(log.len());
        let mut positions = start..end;
        while (found.len() as u64) < max
            && let Some(position) = if newest_first { positions.next_back() } else { positions.next() }
        {
            let Some(batch) = log.at(position).filter(|batch| !batch.dead) else { continue };
            let mut records = records_between(batch, first, from, to);
            while (found.len() as u64) < max
                && let Some(record) = if newest_first { records.next_back() } else { records.next() }
            {
                let id = RecordId { seq: batch.id.seq.saturating_add(u64::from(record)), ..batch.id };
                found.push(Entry { id, at: batch.at, record: batch.record.unwrap_or(record) });
            }
        }
        found
    }

    /// The bytes of a payload that is not in the log.
    pub(crate) fn inline(&self, at: PayloadRef) -> Option<&Blob> {
        self.inline.get(&at)
    }

    /// Where a record lies, if it is there: its sequence number among the batches.
    fn sequence_of(&self, key: PartKey, id: RecordId) -> Option<(u64, Batch)> {
        let part = self.part(key);
        let position = part.log.position_of(id);
        let batch = part.log.at(position).filter(|batch| !batch.dead)?;
        let (first, _) = part.log.sequences();
        let there = !records_between(batch, part.head.first, id, id).is_empty();
        there.then_some((first + position as u64, *batch))
    }
}

/// Which records of a batch are at or after an offset and between two ids.
fn records_between(batch: &Batch, first: Offset, from: RecordId, to: RecordId) -> std::ops::Range<u32> {
    let count = batch.count();
    let place = |steps: u64| u32::try_from(steps).unwrap_or(u32::MAX).min(count);
    let trimmed = place(first.0.saturating_sub(batch.base.0));
    let start = match from.ms.cmp(&batch.id.ms) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Equal => place(from.seq.saturating_sub(batch.id.seq)),
        std::cmp::Ordering::Greater => count,
    };
    let end = match to.ms.cmp(&batch.id.ms) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Equal if to.seq < batch.id.seq => 0,
        std::cmp::Ordering::Equal => place((to.seq - batch.id.seq).saturating_add(1)),
        std::cmp::Ordering::Greater => count,
    };
    start.max(trimmed)..end.max(start.max(trimmed))
}

/// Changing.
impl Streams {
    /// Makes a stream as Redis' commands make one.
    pub(crate) fn make(&mut self, stream: &Key) {
        self.declare(stream, StreamSettings::default());
    }

    /// Appends a record under an id greater than all before. `inline` are its bytes, when they are not in the log. Makes the stream.
    pub(crate) fn append_record(
        &mut self,
        stream: &Key,
        id: RecordId,
        at: PayloadRef,
        bytes: u32,
        inline: Option<Blob>,
        now: &Now,
    ) {
        let found = self.names.get(stream).map(|row| (row.id, row.settings.retention.bytes));
        let (number, keep) = found.unwrap_or_else(|| (self.declare(stream, StreamSettings::default()), None));
        let key = PartKey { stream: number, partition: 0 };
        if let Some(bytes) = inline {
            self.inline.set(at, Some(bytes));
        }
        let format = Format::Records;
        let batch = Batch { wall: now.wall, at, records: 1, bytes, format, id, ..Batch::default() };
        self.push(key, batch, None);
        if let Some(keep) = keep {
            self.keep_bytes(key, keep);
        }
    }

    /// Cuts off the oldest records, no more than `max` of them; how many.
    pub(crate) fn cut(&mut self, key: PartKey, trim: Trim, max: u64) -> u64 {
        let Head { first, next, dead, .. } = self.part(key).head;
        let length = next.0 - first.0 - dead;
        let keep = match trim {
            Trim::Length(keep) => keep.min(length),
            Trim::From(id) => length - self.records_before(key, id),
        };
        let keep = keep.max(length.saturating_sub(max));
        if keep == length {
            return 0;
        }
        // As many records from the end as are kept, and the gaps among them.
        let mut before = next.0 - keep;
        for gap in self.part(key).gaps.iter().rev() {
            if gap.0 < before {
                break;
            }
            before -= 1;
        }
        self.cut_before(key, Offset(before));
        length - keep
    }

    /// How many records come before an id.
    fn records_before(&self, key: PartKey, id: RecordId) -> u64 {
        let part = self.part(key);
        let first = part.head.first;
        let end = match part.log.at(part.log.position_of(id)) {
            None => part.head.next,
            Some(batch) => {
                let skipped = if id.ms == batch.id.ms { id.seq.saturating_sub(batch.id.seq) } else { 0 };
                Offset(batch.base.0 + skipped)
            }
        };
        if end <= first {
            return 0;
        }
        end.0 - first.0 - part.gaps.range(first..end).count() as u64
    }

    /// Removes records; how many were there.
    ///
    /// # Errors
    /// The first that is part of a batch of several, and of how many; nothing happened.
    pub(crate) fn remove_records(&mut self, key: PartKey, ids: &[RecordId]) -> Result<u64, (RecordId, u32)> {
        for id in ids {
            if let Some((_, batch)) = self.sequence_of(key, *id)
                && batch.count() > 1
            {
                return Err((*id, batch.count()));
            }
        }
        let mut removed = 0;
        for id in ids {
            let Some((sequence, batch)) = self.sequence_of(key, *id) else { continue };
            self.kill(key, sequence, batch);
            removed += 1;
        }
        for _ in 0..FREED_AT_ONCE {
            if !self.front_is_garbage(key) {
                break;
            }
            self.drop_front(key);
        }
        self.redue(key);
        Ok(removed)
    }

    /// Sets what XSETID sets; `false`, and nothing, where a record that was removed still takes a greater id.
    pub(crate) fn set_ids(
        &mut self,
        key: PartKey,
        last: RecordId,
        added: Option<u64>,
        max_deleted: Option<RecordId>,
    ) -> bool {
        // What was trimmed is freed in slices; here it must not keep its ids.
        let garbage = |streams: &Self| last < streams.part(key).head.last && streams.front_is_garbage(key);
        while garbage(self) {
            self.drop_front(key);
        }
        let log = &self.part(key).log;
        let back = log.len().checked_sub(1).and_then(|back| log.at(back));
        if back.is_some_and(|batch| batch.last_id() > last) {
            self.redue(key);
            return false;
        }
        self.change_head(key, |head| {
            head.last = last;
            head.added = added.unwrap_or(head.added);
            head.max_deleted = max_deleted.unwrap_or(head.max_deleted);
        });
        self.redue(key);
        true
    }

    /// A batch refers to a payload no more; what is kept for nobody else goes.
    pub(super) fn release(&mut self, at: PayloadRef) {
        if self.live.remove(at) && is_inline(at) {
            self.inline.set(at, None);
        }
    }

    /// Marks a batch of one record as dead.
    fn kill(&mut self, key: PartKey, sequence: u64, batch: Batch) {
        if let Some(walk) = &mut self.walk {
            walk.save(key, sequence, batch);
        }
        let part = self.parts.get_mut(&key).expect("every partition of a stream has a part");
        let place = part.log.by_sequence_mut(sequence).expect("the caller found it");
        let at = PayloadRef { index: LogIndex::ZERO, sub: 0 };
        *place = Batch { dead: true, at, bytes: 0, ..batch };
        part.gaps.insert(batch.base);
        self.undo.push(Undo::Killed { key, sequence, batch });
        self.release(batch.at);
        self.change_head(key, |head| {
            head.dead += 1;
            head.bytes -= u64::from(batch.bytes);
            head.max_deleted = head.max_deleted.max(batch.id);
        });
    }
}
