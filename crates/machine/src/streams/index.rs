//! The index of one partition: its batches in order, in chunks, so that growing never copies what is there.
//!
//! Invariant: batches are contiguous: each begins at the offset where the one before it ends.
//! Invariant: every chunk but the last is full, and slots = `front` + `len`.
//! Called by: [`crate::streams`], for streams that are not compacted. Payloads stay in the log; a batch says where.

use quorate_types::{Format, Offset, PayloadRef, WallTime, wire_struct};
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
}
wire_struct!(Batch { base, wall, at, records, bytes, record, format });

const _: () = assert!(size_of::<Batch>() <= 64);

impl Batch {
    /// Offsets it takes.
    pub(crate) fn count(&self) -> u32 {
        if self.record.is_some() { 1 } else { self.records }
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
    pub(crate) fn front(&self) -> Option<&Batch> {
        self.at(0)
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Batch> {
        self.chunks.iter().flatten().skip(self.front)
    }

    /// Position of the first batch that holds `offset` or begins after it; [`Index::len`] when there is none.
    pub(crate) fn position(&self, offset: Offset) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.at(middle).is_some_and(|batch| batch.end() <= offset) {
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
        Batch { base: Offset(base), records: 1, ..Batch::default() }
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
                }
                prop_assert_eq!(index.sequences().0, dropped.len() as u64);
            }
        }
    }
}
