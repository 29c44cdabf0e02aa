//! The index of one partition: its batches in order, in chunks, so that growing never copies what is there.
//!
//! Invariant: batches are contiguous: each begins at the offset where the one before it ends.
//! Invariant: every chunk but the last is full, and slots = `front` + `len`.
//! Called by: [`crate::streams`], for streams that are not compacted. Payloads stay in the log; a batch says where.

use quorate_types::codec::{Reader, Wire, Writer};
use quorate_types::{DecodeError, Format, Offset, PayloadRef, RecordId, WallTime};
use std::collections::VecDeque;

const CHUNK: usize = 512;

/// One batch of a partition, as the state keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Offset of its first record.
    pub(crate) base: Offset,
    /// When it was appended.
    pub(crate) wall: WallTime,
    /// The payload.
    pub(crate) at: PayloadRef,
    /// Records in the payload.
    pub(crate) records: u32,
    /// Bytes of the payload.
    pub(crate) bytes: u32,
    /// The batch is this one record of the payload: a dead letter.
    pub(crate) record: Option<u32>,
    /// How the payload is laid out.
    pub(crate) format: Format,
    /// Whether its record was removed: it still takes its offset and its id, and refers to nothing.
    pub(crate) dead: bool,
    /// Id of its first record; those after it count up. On compacted streams there are none.
    pub(crate) id: RecordId,
}
// Without its id and mark: this is also how a batch lies in rows of compacted streams, which have neither.
impl Wire for Batch {
    fn put(&self, out: &mut Writer) {
        let Self { base, wall, at, records, bytes, record, format, dead: _, id: _ } = self;
        base.put(out);
        wall.put(out);
        at.put(out);
        records.put(out);
        bytes.put(out);
        record.put(out);
        format.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            base: Wire::take(from)?,
            wall: Wire::take(from)?,
            at: Wire::take(from)?,
            records: Wire::take(from)?,
            bytes: Wire::take(from)?,
            record: Wire::take(from)?,
            format: Wire::take(from)?,
            dead: false,
            id: RecordId::ZERO,
        })
    }
}

const _: () = assert!(size_of::<Batch>() <= 72);

impl Batch {
    /// Offsets it takes.
    pub(crate) fn count(&self) -> u32 {
        if self.record.is_some() { 1 } else { self.records }
    }
    /// Id of its last record.
    pub(crate) fn last_id(&self) -> RecordId {
        RecordId { seq: self.id.seq.saturating_add(u64::from(self.count()) - 1), ..self.id }
    }
    /// Writes all of it.
    pub(crate) fn put_whole(&self, out: &mut Writer) {
        self.put(out);
        self.id.put(out);
        self.dead.put(out);
    }
    /// Reads what [`Batch::put_whole`] wrote.
    pub(crate) fn take_whole(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let batch = Self::take(from)?;
        Ok(Self { id: Wire::take(from)?, dead: Wire::take(from)?, ..batch })
    }
    /// The offset after its last record.
    pub(crate) fn end(&self) -> Offset {
        Offset(self.base.0.saturating_add(u64::from(self.count())))
    }
}

/// The batches of a partition. A batch's sequence number counts the batches of the partition since it was made; unlike
/// its position it stays when the front is dropped.
#[derive(Default)]
pub(crate) struct Index {
    chunks: VecDeque<Vec<Batch>>,
    /// Slots of the first chunk that are no longer used.
    front: usize,
    len: usize,
    /// Sequence number of the front batch.
    popped: u64,
}

impl Index {
    /// An empty index whose next batch has this sequence number.
    pub(crate) fn starting_at(sequence: u64) -> Self {
        Self { popped: sequence, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
    /// Sequence numbers of the front batch and of the next one to be pushed.
    pub(crate) fn sequences(&self) -> (u64, u64) {
        (self.popped, self.popped + self.len as u64)
    }

    pub(crate) fn at(&self, position: usize) -> Option<&Batch> {
        if position >= self.len {
            return None;
        }
        let slot = self.front + position;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)
    }
    pub(crate) fn by_sequence(&self, sequence: u64) -> Option<&Batch> {
        self.at(usize::try_from(sequence.checked_sub(self.popped)?).ok()?)
    }
    /// What lies at a sequence number, to be changed.
    pub(crate) fn by_sequence_mut(&mut self, sequence: u64) -> Option<&mut Batch> {
        let position =
            usize::try_from(sequence.checked_sub(self.popped)?).ok().filter(|at| *at < self.len)?;
        let slot = self.front + position;
        self.chunks.get_mut(slot / CHUNK)?.get_mut(slot % CHUNK)
    }
    /// Position of the first batch whose last id is `id` or greater; [`Index::len`] when there is none.
    pub(crate) fn position_of(&self, id: RecordId) -> usize {
        // Both ends are asked for by most, and are told without a search.
        if id == RecordId::ZERO {
            return 0;
        }
        if self.at(self.len.wrapping_sub(1)).is_none_or(|last| last.last_id() < id) {
            return self.len;
        }
        self.first_where(|batch| batch.last_id() >= id)
    }
    pub(crate) fn front(&self) -> Option<&Batch> {
        self.at(0)
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Batch> {
        self.chunks.iter().flatten().skip(self.front)
    }

    /// Position of the first batch that holds `offset` or begins after it; [`Index::len`] when there is none.
    pub(crate) fn position(&self, offset: Offset) -> usize {
        if self.front().is_some_and(|front| front.end() > offset) {
            return 0;
        }
        self.first_where(|batch| batch.end() > offset)
    }

    /// Position of the first batch of which something holds that holds of all after it.
    fn first_where(&self, holds: impl Fn(&Batch) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.at(middle).is_some_and(|batch| !holds(batch)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    pub(crate) fn push(&mut self, batch: Batch) {
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK => last.push(batch),
            // The first chunk grows with its stream, for many streams are small; later ones are made at full size.
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(batch);
                self.chunks.push_back(chunk);
            }
            None => self.chunks.push_back(vec![batch]),
        }
        self.len += 1;
    }

    /// Takes the last push back.
    pub(crate) fn pop_back(&mut self) -> Option<Batch> {
        if self.len == 0 {
            return None;
        }
        let last = self.chunks.back_mut()?;
        let batch = last.pop();
        if last.is_empty() {
            self.chunks.pop_back();
        }
        self.len -= 1;
        batch
    }

    pub(crate) fn pop_front(&mut self) -> Option<Batch> {
        let batch = *self.front()?;
        self.front += 1;
        self.len -= 1;
        self.popped += 1;
        if self.front == CHUNK {
            self.chunks.pop_front();
            self.front = 0;
        }
        Some(batch)
    }

    /// Takes the last [`Index::pop_front`] back.
    pub(crate) fn push_front(&mut self, batch: Batch) {
        if self.front == 0 {
            self.chunks.push_front(vec![Batch::default(); CHUNK]);
            self.front = CHUNK;
        }
        self.front -= 1;
        self.chunks[0][self.front] = batch;
        self.len += 1;
        self.popped = self.popped.checked_sub(1).expect("only what was popped is pushed back to the front");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(base: u64) -> Batch {
        Batch { base: Offset(base), records: 1, id: id(base), ..Batch::default() }
    }

    /// Ids leave gaps, so that what is looked for may lie between two.
    fn id(base: u64) -> RecordId {
        RecordId { ms: base * 2 + 1, seq: 0 }
    }

    proptest! {
        #[test]
        fn it_is_a_deque_that_finds_by_offset(steps in proptest::collection::vec((0u8..4, 1usize..900), 1..40)) {
            let mut index = Index::default();
            let mut model = VecDeque::new();
            let mut dropped = Vec::new();
            let mut next = 0;
            for (what, times) in steps {
                for _ in 0..times {
                    match what {
                        0 | 1 => { index.push(batch(next)); model.push_back(batch(next)); next += 1; }
                        2 => {
                            let found = index.pop_front();
                            prop_assert_eq!(found, model.pop_front());
                            dropped.extend(found);
                        }
                        _ => if let Some(back) = dropped.pop() { index.push_front(back); model.push_front(back); }
                    }
                }
                if times % 7 == 0 {
                    let found = index.pop_back();
                    prop_assert_eq!(found, model.pop_back());
                    if found.is_some() { next -= 1; }
                }
                prop_assert_eq!(index.len(), model.len());
                prop_assert!(index.iter().eq(model.iter()));
                for offset in [0, next / 2, next] {
                    let wanted = model.iter().position(|b| b.end() > Offset(offset)).unwrap_or(model.len());
                    prop_assert_eq!(index.position(Offset(offset)), wanted);
                    for ms in [0, offset * 2, offset * 2 + 1] {
                        let id = RecordId { ms, seq: 0 };
                        let wanted = model.iter().position(|b| b.last_id() >= id).unwrap_or(model.len());
                        prop_assert_eq!(index.position_of(id), wanted);
                    }
                }
                prop_assert_eq!(index.sequences().0, dropped.len() as u64);
            }
        }
    }
}
