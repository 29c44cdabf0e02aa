//! Compaction by key: of each key only the newest record stays.
//!
//! It happens at append, not later: a record that has been superseded is dead at once, a batch whose records are all dead
//! leaves the index, a batch that is partly dead remembers which. A tombstone is a record like any other until its age
//! ends; then the key is forgotten. (Kafka cleans in the background, so readers meet old values or miss tombstones
//! depending on when it ran; here every reader meets the same records.)
//!
//! Invariant: every row of `newest` names a live record of a kept batch, and no two name the same.
//! Invariant: a kept batch has a live record.
//! Invariant: `by_offset` and `tombstones` hold what `newest` holds, in order of offset.
//! Called by: [`crate::streams`], for compacted streams.

use super::index::Batch;
use super::{At, PartKey, StreamId, section};
use crate::table::Table;
use quorate_types::codec::{Reader, Writer};
use quorate_types::{Blob, DecodeError, Offset, WallTime, wire_struct};
use std::collections::{BTreeMap, BTreeSet};

/// A batch with the marks of its dead records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) batch: Batch,
    /// Records that are not dead.
    alive: u32,
    /// A bit per record, set when it is dead; empty when none is.
    dead: Vec<u64>,
}
wire_struct!(Kept { batch, alive, dead });

impl Kept {
    fn new(batch: Batch) -> Self {
        Self { batch, alive: batch.count(), dead: Vec::new() }
    }
    pub(crate) fn is_dead(&self, record: u32) -> bool {
        self.dead.get(record as usize / 64).is_some_and(|word| word >> (record % 64) & 1 == 1)
    }
    fn kill(&mut self, record: u32) {
        if self.dead.is_empty() {
            self.dead = vec![0; (self.batch.count() as usize).div_ceil(64)];
        }
        assert!(!self.is_dead(record), "a record dies once");
        self.dead[record as usize / 64] |= 1 << (record % 64);
        self.alive -= 1;
    }
    /// Numbers of the dead records, ascending.
    pub(crate) fn dead(&self) -> Vec<u32> {
        let records = if self.dead.is_empty() { 0 } else { self.batch.count() };
        (0..records).filter(|record| self.is_dead(*record)).collect()
    }
    fn is_sound(&self) -> bool {
        let count = self.batch.count();
        let words = self.dead.len();
        let set: u32 = self.dead.iter().map(|word| word.count_ones()).sum();
        (words == 0 || words == (count as usize).div_ceil(64))
            && self.dead().len() == set as usize
            && self.alive > 0
            && u64::from(self.alive) + u64::from(set) == u64::from(count)
    }
}

/// A record key of a partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RecordKey {
    stream: StreamId,
    partition: u32,
    key: Blob,
}
wire_struct!(RecordKey { stream, partition, key });

/// The newest record of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Newest {
    offset: Offset,
    /// When it was appended, if it is a tombstone.
    tombstone: Option<WallTime>,
}
wire_struct!(Newest { offset, tombstone });

/// The batches and keys of all compacted partitions.
#[derive(Default)]
pub(crate) struct Compacted {
    kept: Table<At, Kept>,
    newest: Table<RecordKey, Newest>,
    by_offset: BTreeMap<At, Blob>,
    tombstones: BTreeMap<At, WallTime>,
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    kept: usize,
    newest: usize,
}

impl Compacted {
    /// Enters a batch with the key of each record and whether it is a tombstone; gives back the batches that it emptied.
    pub(crate) fn insert(&mut self, part: PartKey, batch: Batch, keys: Vec<(Blob, bool)>) -> Vec<Batch> {
        self.kept.set(part.at(batch.base), Some(Kept::new(batch)));
        let mut dead = Vec::new();
        for (record, (key, tombstone)) in (0u64..).zip(keys) {
            let newest =
                Newest { offset: Offset(batch.base.0 + record), tombstone: tombstone.then_some(batch.wall) };
            dead.extend(self.set_newest(part, key, Some(newest)).map(|before| before.offset));
        }
        self.kill(part, dead)
    }

    /// The oldest batch of a partition.
    pub(crate) fn front(&self, part: PartKey) -> Option<&Kept> {
        self.from(part, Offset::ZERO).next()
    }

    /// The batches of a partition that hold `offset` or begin after it.
    pub(crate) fn from(&self, part: PartKey, offset: Offset) -> impl Iterator<Item = &Kept> {
        let holding = self
            .kept
            .range(part.first()..=part.at(offset))
            .next_back()
            .filter(|(_, kept)| kept.batch.end() > offset);
        let start = holding.map_or(part.at(offset), |(at, _)| *at);
        self.kept.range(start..=part.last()).map(|(_, kept)| kept)
    }

    /// Drops the oldest batch of a partition, and the keys whose newest record it holds.
    pub(crate) fn drop_front(&mut self, part: PartKey) -> Option<Batch> {
        let batch = self.front(part)?.batch;
        let keys: Vec<Blob> = self
            .by_offset
            .range(part.at(batch.base)..part.at(batch.end()))
            .map(|(_, key)| key.clone())
            .collect();
        for key in keys {
            self.set_newest(part, key, None);
        }
        self.kept.set(part.at(batch.base), None);
        Some(batch)
    }

    /// When the oldest tombstone of a partition was appended.
    pub(crate) fn oldest_tombstone(&self, part: PartKey) -> Option<WallTime> {
        self.tombstones.range(part.first()..=part.last()).next().map(|(_, wall)| *wall)
    }

    /// Forgets the oldest tombstone of a partition with its key; gives back the batches that this emptied.
    pub(crate) fn drop_tombstone(&mut self, part: PartKey) -> Vec<Batch> {
        let Some((at, _)) = self.tombstones.range(part.first()..=part.last()).next() else {
            return Vec::new();
        };
        let offset = at.offset;
        let key = self.by_offset.get(at).expect("a tombstone is a record of its key").clone();
        self.set_newest(part, key, None);
        self.kill(part, vec![offset])
    }

    /// Marks records dead, all of one batch in one step; gives back the batches that this emptied.
    fn kill(&mut self, part: PartKey, mut dead: Vec<Offset>) -> Vec<Batch> {
        dead.sort_unstable();
        let mut emptied = Vec::new();
        let mut left = dead.as_slice();
        while let Some(first) = left.first() {
            let (at, kept) = self
                .kept
                .range(part.first()..=part.at(*first))
                .next_back()
                .expect("a key's newest record lies in a kept batch");
            let (at, batch, alive) = (*at, kept.batch, kept.alive);
            let here = left.partition_point(|offset| *offset < batch.end());
            assert!(here > 0, "a key's newest record lies in a kept batch");
            if here as u32 == alive {
                self.kept.set(at, None);
                emptied.push(batch);
            } else {
                self.kept.update(&at, |kept| {
                    for offset in &left[..here] {
                        kept.kill((offset.0 - batch.base.0) as u32);
                    }
                });
            }
            left = &left[here..];
        }
        emptied
    }

    fn set_newest(&mut self, part: PartKey, key: Blob, newest: Option<Newest>) -> Option<Newest> {
        let row = RecordKey { stream: part.stream, partition: part.partition, key };
        let before = self.newest.set(row.clone(), newest);
        unindex(&mut self.by_offset, &mut self.tombstones, &row, before.as_ref());
        index(&mut self.by_offset, &mut self.tombstones, &row, newest.as_ref());
        before
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { kept: self.kept.mark(), newest: self.newest.mark() }
    }

    /// Restores the state at `mark`; adds every partition that changed to `touched`, and calls `each` for every batch that
    /// comes or goes, with whether it comes back.
    pub(crate) fn rollback(
        &mut self,
        mark: Mark,
        touched: &mut BTreeSet<PartKey>,
        mut each: impl FnMut(&Batch, bool),
    ) {
        self.kept.rollback(mark.kept, |at, undone, back| {
            touched.insert(at.part());
            match (undone, back) {
                (Some(undone), None) => each(&undone.batch, false),
                (None, Some(back)) => each(&back.batch, true),
                _ => {}
            }
        });
        let Self { newest, by_offset, tombstones, .. } = self;
        newest.rollback(mark.newest, |row, undone, back| {
            touched.insert(PartKey { stream: row.stream, partition: row.partition });
            unindex(by_offset, tombstones, row, undone);
            index(by_offset, tombstones, row, back);
        });
    }

    pub(crate) fn forget(&mut self) {
        self.kept.forget();
        self.newest.forget();
    }

    pub(crate) fn walk_begin(&mut self) {
        self.kept.walk_begin();
        self.newest.walk_begin();
    }
    /// Emits batches under tag `kept`; as [`section`].
    pub(crate) fn walk_kept(&mut self, tag: u64, rows_max: usize, out: &mut Writer) -> (usize, bool) {
        section(&mut self.kept, tag, rows_max, out)
    }
    /// Emits keys under tag `newest`; as [`section`].
    pub(crate) fn walk_newest(&mut self, tag: u64, rows_max: usize, out: &mut Writer) -> (usize, bool) {
        section(&mut self.newest, tag, rows_max, out)
    }
    pub(crate) fn walk_end(&mut self) {
        self.kept.walk_end();
        self.newest.walk_end();
    }

    pub(crate) fn restore_kept(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        self.kept.restore_row(from)?;
        Ok(())
    }
    pub(crate) fn restore_newest(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (row, newest) = self.newest.restore_row(from)?;
        index(&mut self.by_offset, &mut self.tombstones, &row, Some(&newest));
        Ok(())
    }

    pub(crate) fn digest(&self, scratch: &mut Writer) -> (u128, u128) {
        (self.kept.digest(scratch), self.newest.digest(scratch))
    }

    /// All batches, by partition and offset.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PartKey, &Kept)> {
        self.kept.iter().map(|(at, kept)| (at.part(), kept))
    }

    /// Whether rows and indexes agree; otherwise what does not.
    pub(crate) fn verify(&self) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let mut before: Option<(PartKey, Offset)> = None;
        for (at, kept) in self.kept.iter() {
            sound(at.offset == kept.batch.base && kept.batch.count() > 0, "batch key of a compacted stream")?;
            sound(kept.is_sound(), "marks of dead records")?;
            let apart = before.is_none_or(|(part, end)| part != at.part() || end <= at.offset);
            sound(apart, "overlap of batches of a compacted stream")?;
            before = Some((at.part(), kept.batch.end()));
        }
        sound(self.by_offset.len() == self.newest.len(), "count of keys of compacted streams")?;
        let mut tombstones = 0;
        for (row, newest) in self.newest.iter() {
            let part = PartKey { stream: row.stream, partition: row.partition };
            let at = part.at(newest.offset);
            sound(self.by_offset.get(&at) == Some(&row.key), "order of keys of a compacted stream")?;
            sound(self.tombstones.get(&at) == newest.tombstone.as_ref(), "tombstone of a compacted stream")?;
            tombstones += usize::from(newest.tombstone.is_some());
            let alive = self.from(part, newest.offset).next().is_some_and(|kept| {
                let record = newest.offset.0.wrapping_sub(kept.batch.base.0);
                record < u64::from(kept.batch.count()) && !kept.is_dead(record as u32)
            });
            sound(alive, "newest record of a key")?;
        }
        sound(tombstones == self.tombstones.len(), "count of tombstones")?;
        let keyed: u64 =
            self.kept.iter().filter(|(_, k)| k.batch.record.is_none()).map(|(_, k)| u64::from(k.alive)).sum();
        sound(keyed == self.newest.len() as u64, "count of live records of compacted streams")
    }
}

fn index(
    by_offset: &mut BTreeMap<At, Blob>,
    tombstones: &mut BTreeMap<At, WallTime>,
    row: &RecordKey,
    newest: Option<&Newest>,
) {
    if let Some(newest) = newest {
        let at = At { stream: row.stream, partition: row.partition, offset: newest.offset };
        by_offset.insert(at, row.key.clone());
        if let Some(wall) = newest.tombstone {
            tombstones.insert(at, wall);
        }
    }
}

fn unindex(
    by_offset: &mut BTreeMap<At, Blob>,
    tombstones: &mut BTreeMap<At, WallTime>,
    row: &RecordKey,
    newest: Option<&Newest>,
) {
    if let Some(newest) = newest {
        let at = At { stream: row.stream, partition: row.partition, offset: newest.offset };
        by_offset.remove(&at);
        tombstones.remove(&at);
    }
}
