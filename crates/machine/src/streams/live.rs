//! Which payloads of the log are still referred to, and how often: what the log's cleaner must not drop.
//!
//! Derived from the batches: neither snapshotted nor digested, and mended by whoever rolls batches back.
//!
//! Invariant: chunks are sorted and disjoint; a chunk's key is at most its first payload; `live` of its entries count more
//! than 0 references, and that is at least one.
//! Invariant: `count` of a payload = batches that refer to it.
//! Called by: [`crate::streams`].

use quorate_types::{LogIndex, PayloadRef};
use std::collections::BTreeMap;

const CHUNK: usize = 256;

#[derive(Clone, Copy)]
struct Entry {
    at: PayloadRef,
    count: u32,
    bytes: u32,
}

#[derive(Default)]
struct Chunk {
    /// Entries without references stay until half of the chunk is: retention takes them one by one from the front.
    entries: Vec<Entry>,
    live: usize,
}

/// Payloads in log order. Nearly every one is added at the end, so that sorted chunks beat a tree of single rows.
#[derive(Default)]
pub(crate) struct Live {
    chunks: BTreeMap<PayloadRef, Chunk>,
}

impl Live {
    /// Counts the references of many batches at once.
    pub(crate) fn of(mut all: Vec<(PayloadRef, u32)>) -> Self {
        all.sort();
        let mut live = Self::default();
        for (at, bytes) in all {
            live.add(at, bytes);
        }
        live
    }

    /// Counts one more reference to a payload of this many bytes.
    pub(crate) fn add(&mut self, at: PayloadRef, bytes: u32) {
        let entry = Entry { at, count: 1, bytes };
        if let Some(mut last) = self.chunks.last_entry() {
            let chunk = last.get_mut();
            if chunk.entries.last().is_some_and(|newest| newest.at < at) {
                if chunk.entries.len() < CHUNK {
                    chunk.entries.push(entry);
                    chunk.live += 1;
                } else {
                    self.chunks.insert(at, Chunk { entries: vec![entry], live: 1 });
                }
                return;
            }
        }
        let Some((_, chunk)) = self.chunks.range_mut(..=at).next_back() else {
            self.chunks.insert(at, Chunk { entries: vec![entry], live: 1 });
            return;
        };
        match chunk.entries.binary_search_by_key(&at, |entry| entry.at) {
            Ok(found) => {
                let entry = &mut chunk.entries[found];
                chunk.live += usize::from(entry.count == 0);
                entry.count += 1;
            }
            Err(place) => {
                chunk.entries.insert(place, entry);
                chunk.live += 1;
                if chunk.entries.len() > CHUNK {
                    self.split(at);
                }
            }
        }
    }

    /// Counts one reference less; whether it was the last one.
    pub(crate) fn remove(&mut self, at: PayloadRef) -> bool {
        let counted = "every batch's payload is counted";
        let (&key, chunk) = self.chunks.range_mut(..=at).next_back().expect(counted);
        let found = chunk.entries.binary_search_by_key(&at, |entry| entry.at).expect(counted);
        let entry = &mut chunk.entries[found];
        entry.count = entry.count.checked_sub(1).expect(counted);
        if entry.count > 0 {
            return false;
        }
        chunk.live -= 1;
        if chunk.live == 0 {
            self.chunks.remove(&key);
        } else if chunk.live * 2 < chunk.entries.len() {
            chunk.entries.retain(|entry| entry.count > 0);
            chunk.entries.shrink_to(chunk.live * 2);
        }
        true
    }

    /// Cuts the chunk that holds `at` in two.
    fn split(&mut self, at: PayloadRef) {
        let (_, chunk) = self.chunks.range_mut(..=at).next_back().expect("it was just found");
        chunk.entries.retain(|entry| entry.count > 0);
        if chunk.entries.len() > CHUNK / 2 {
            let upper = chunk.entries.split_off(chunk.entries.len() / 2);
            chunk.live = chunk.entries.len();
            self.chunks.insert(upper[0].at, Chunk { live: upper.len(), entries: upper });
        }
    }

    /// Payloads of the entries from `first` to `last`, both included: each with its references and bytes.
    pub(crate) fn between(
        &self,
        first: LogIndex,
        last: LogIndex,
    ) -> impl Iterator<Item = (PayloadRef, u32, u32)> {
        let start = PayloadRef { index: first, sub: 0 };
        let end = PayloadRef { index: last, sub: u32::MAX };
        // The chunk before the first key in range may reach into it.
        let from = self.chunks.range(..=start).next_back().map_or(start, |(key, _)| *key);
        let chunks = if from <= end { Some(self.chunks.range(from..=end)) } else { None };
        chunks
            .into_iter()
            .flatten()
            .flat_map(|(_, chunk)| &chunk.entries)
            .filter(move |entry| entry.count > 0 && entry.at >= start && entry.at <= end)
            .map(|entry| (entry.at, entry.count, entry.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_counts_as_a_map_would(steps in proptest::collection::vec((0u64..600, 0u32..3, 0u8..3), 0..2000)) {
            let mut live = Live::default();
            let mut model = BTreeMap::<PayloadRef, u32>::new();
            for (index, sub, what) in steps {
                let at = PayloadRef { index: LogIndex(index), sub };
                if what < 2 {
                    live.add(at, 7);
                    *model.entry(at).or_default() += 1;
                } else if let Some(count) = model.get_mut(&at) {
                    live.remove(at);
                    *count -= 1;
                    if *count == 0 { model.remove(&at); }
                }
            }
            for (first, last) in [(0, 600), (100, 200), (300, 300), (5, 4)] {
                let found: Vec<(PayloadRef, u32)> =
                    live.between(LogIndex(first), LogIndex(last)).map(|(at, count, _)| (at, count)).collect();
                let wanted: Vec<(PayloadRef, u32)> = model.iter()
                    .filter(|(at, _)| (first..=last).contains(&at.index.0))
                    .map(|(at, count)| (*at, *count)).collect();
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
