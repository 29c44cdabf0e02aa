//! Lists: values in order.
//!
//! A small one is packed; a large one is a tree whose leaves are packed, so that ten million small values cost little more than their bytes.
//! A leaf keeps room at the end that grows: a queue's pushes and pops touch a few bytes.
//!
//! Invariant: what shows is the same whether the list is packed or large.
//! Called by: `collections::value`, and handlers that build a list whole.

use super::packed::{self, Either, Packed};
use super::shape::{Grown, Shape};
use super::tree::{Leaf, Tree};
use quorate_types::Blob;
use std::cmp::Ordering;

/// Values in order.
#[derive(Clone)]
pub struct List(Shape<Large>);

#[derive(Clone, Default)]
struct Large {
    tree: Tree<Run>,
    /// Bytes that all values would take packed.
    raw: u64,
}

const _: () = assert!(size_of::<List>() == 16);

impl List {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(Shape::new())
    }

    /// How many values.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.items()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory, nearly: a function of the values alone.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// The value at a place, counted from the head.
    #[must_use]
    pub fn get(&self, at: u64) -> Option<Blob> {
        match &self.0 {
            Shape::Small(packed) => packed.get(usize::try_from(at).ok()?).map(Blob::from),
            Shape::Large(large) => large.tree.get(at),
        }
    }

    /// Values from `from` to before `to`; what is beyond the end is left out.
    pub fn range(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = Blob> + '_ {
        let to = to.min(self.len());
        let from = from.min(to);
        match &self.0 {
            Shape::Small(packed) => Either::Small(packed.range(from as usize, to as usize).map(Blob::from)),
            Shape::Large(large) => Either::Large(large.tree.range(from, to)),
        }
    }

    /// All.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Blob> + '_ {
        self.range(0, self.len())
    }

    /// Appends.
    pub fn push_back(&mut self, value: Blob) {
        self.insert(self.len(), value);
    }

    /// Puts in front of the first.
    pub fn push_front(&mut self, value: Blob) {
        self.insert(0, value);
    }

    /// Puts before the value at `at`; beyond the end, appends.
    pub fn insert(&mut self, at: u64, value: Blob) {
        let at = at.min(self.len());
        match self.0.room(1, packed::size(value.len())) {
            Shape::Small(packed) => packed.splice(at as usize, 0, &[&[&value]]),
            Shape::Large(large) => large.insert(at, value),
        }
    }

    /// Replaces; the value before, nothing where there is none.
    pub fn set(&mut self, at: u64, value: Blob) -> Option<Blob> {
        if at >= self.len() {
            return None;
        }
        match self.0.room(0, packed::size(value.len())) {
            Shape::Small(packed) => {
                let old = packed.get(at as usize).map(Blob::from);
                packed.splice(at as usize, 1, &[&[&value]]);
                old
            }
            Shape::Large(large) => {
                let old = large.set(at, value);
                self.0.shrink();
                Some(old)
            }
        }
    }

    /// Removes; the value, nothing where there is none.
    pub fn remove(&mut self, at: u64) -> Option<Blob> {
        if at >= self.len() {
            return None;
        }
        match &mut self.0 {
            Shape::Small(packed) => {
                let old = packed.get(at as usize).map(Blob::from);
                packed.splice(at as usize, 1, &[]);
                old
            }
            Shape::Large(large) => {
                let old = large.tree.remove(at);
                large.raw -= packed::size(old.len()) as u64;
                self.0.shrink();
                Some(old)
            }
        }
    }

    /// The elements as they are; cheap, and not to be changed.
    pub(super) fn pin(&self) -> Self {
        Self(self.0.pin())
    }

    /// Frees up to about `max` elements; whether none is left.
    pub(super) fn drop_some(&mut self, max: usize) -> bool {
        self.0.drop_some(max)
    }

    /// Bytes of the leaves, with their slack.
    #[cfg(test)]
    pub(super) fn held_for_tests(&self) -> usize {
        match &self.0 {
            Shape::Small(packed) => packed.raw(),
            Shape::Large(large) => large.tree.leaves().iter().map(|run| run.bytes.capacity()).sum(),
        }
    }

    #[cfg(test)]
    pub(super) fn longest_leaf_for_tests(&self) -> usize {
        match &self.0 {
            Shape::Small(packed) => packed.raw(),
            Shape::Large(large) => {
                large.tree.leaves().iter().map(|run| run.body().len()).max().unwrap_or_default()
            }
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        if let Shape::Large(large) = &self.0 {
            large.tree.check();
            assert_eq!(large.raw, self.iter().map(|value| packed::size(value.len()) as u64).sum::<u64>());
        }
    }
}

impl Large {
    fn insert(&mut self, at: u64, value: Blob) {
        self.raw += packed::size(value.len()) as u64;
        self.tree.insert(at, value);
    }

    fn set(&mut self, at: u64, value: Blob) -> Blob {
        let old = self.tree.get(at).expect("the place is below the length");
        self.raw -= packed::size(old.len()) as u64;
        if value.len() <= old.len() {
            self.raw += packed::size(value.len()) as u64;
            self.tree.replace(at, value);
        } else {
            // A leaf must not grow past its bound, and only an insertion splits it.
            self.tree.remove(at);
            self.insert(at, value);
        }
        old
    }
}

impl Grown for Large {
    fn items(&self) -> u64 {
        self.tree.len()
    }
    fn raw(&self) -> u64 {
        self.raw
    }
    /// A leaf of 4 KiB, or of 128 values, costs about 128 bytes beside them.
    fn bytes(&self) -> u64 {
        192 + self.raw + self.raw / 32 + self.tree.len()
    }
    fn unpack(packed: &Packed) -> Self {
        let mut large = Self::default();
        packed.iter().for_each(|value| large.insert(large.tree.len(), value.into()));
        large
    }
    fn pack(&self) -> Packed {
        let mut packed = Packed::default();
        for value in self.tree.range(0, self.tree.len()) {
            packed.splice(packed.count(), 0, &[&[&value]]);
        }
        packed
    }
    fn pin(&self) -> Self {
        self.clone()
    }
    fn drop_some(&mut self, max: usize) -> bool {
        self.tree.drop_some(max)
    }
}

shown!(List, debug_list);

/// Most bytes of a leaf, unless one value alone is longer.
const RUN_BYTES: usize = 4096;
/// Most values of a leaf.
const RUN_ITEMS: usize = 128;

/// Values packed in one buffer from `start` on: the room in front is for what is pushed there.
#[derive(Clone, Default)]
struct Run {
    bytes: Vec<u8>,
    start: u32,
    count: u32,
}

impl Run {
    fn body(&self) -> &[u8] {
        &self.bytes[self.start as usize..]
    }

    /// Where the item `at` starts in `bytes`.
    fn offset(&self, at: usize) -> usize {
        self.start as usize + packed::offset(self.body(), self.count as usize, at)
    }

    fn push_front(&mut self, value: &[u8]) {
        let size = packed::size(value.len());
        if (self.start as usize) < size {
            // As much room again as there are bytes, within the leaf's bound: pushes share the cost of moving.
            let used = self.body().len();
            let room = size.max(used.min(RUN_BYTES.saturating_sub(used)));
            let mut bytes = Vec::with_capacity(room + used);
            bytes.resize(room, 0);
            bytes.extend_from_slice(self.body());
            self.bytes = bytes;
            self.start = u32::try_from(room).expect("a value is smaller than 4 GiB: admission bounds it");
        }
        self.start -= size as u32;
        let start = self.start as usize;
        packed::write(&mut self.bytes[start..start + size], value);
        self.count += 1;
    }
}

impl Leaf for Run {
    type Item = Blob;
    type Key = ();
    fn key(_: &Blob) {}
    fn rough(_: &()) -> u64 {
        0
    }
    fn first_key(&self) {}
    fn len(&self) -> usize {
        self.count as usize
    }
    fn full_for(&self, item: &Blob) -> bool {
        self.len() >= RUN_ITEMS || self.body().len() + packed::size(item.len()) > RUN_BYTES
    }
    fn sparse(&self) -> bool {
        self.len() <= RUN_ITEMS / 4 && self.body().len() <= RUN_BYTES / 4
    }
    fn absorbs(&self, next: &Self) -> bool {
        self.len() + next.len() <= RUN_ITEMS * 3 / 4
            && self.body().len() + next.body().len() <= RUN_BYTES * 3 / 4
    }
    fn insert(&mut self, at: usize, item: Blob) {
        if at == 0 && self.count > 0 {
            return self.push_front(&item);
        }
        if at == self.len() {
            if self.start as usize > self.body().len().max(64) {
                // What was popped in front is more than what is left: a short queue that goes on for ever stays short.
                self.bytes.drain(..self.start as usize);
                self.start = 0;
            }
            packed::put(&mut self.bytes, &[&item]);
        } else {
            let here = self.offset(at);
            let mut new = Vec::with_capacity(packed::size(item.len()));
            packed::put(&mut new, &[&item]);
            self.bytes.splice(here..here, new);
        }
        self.count += 1;
    }
    fn remove(&mut self, at: usize) -> Blob {
        let here = self.offset(at);
        let mut end = here;
        let item = Blob::from(packed::next(&self.bytes, &mut end));
        self.count -= 1;
        if at == 0 {
            self.start = end as u32;
        } else {
            self.bytes.drain(here..end);
        }
        item
    }
    fn replace(&mut self, at: usize, item: Blob) -> Blob {
        let here = self.offset(at);
        let mut end = here;
        let old = Blob::from(packed::next(&self.bytes, &mut end));
        let mut new = Vec::with_capacity(packed::size(item.len()));
        packed::put(&mut new, &[&item]);
        self.bytes.splice(here..end, new);
        old
    }
    fn split(&mut self) -> Self {
        let half = self.len() / 2;
        let at = self.offset(half);
        let right = Self { bytes: self.bytes[at..].to_vec(), start: 0, count: self.count - half as u32 };
        self.bytes.truncate(at);
        self.bytes.shrink_to(RUN_BYTES);
        self.count = half as u32;
        right
    }
    fn append(&mut self, next: Self) {
        self.bytes.extend_from_slice(next.body());
        self.count += next.count;
    }
    fn settle(&mut self) {
        if self.start > 0 || self.bytes.capacity() > self.bytes.len() + self.bytes.len() / 16 {
            self.bytes = self.body().to_vec();
            self.start = 0;
        }
    }
    fn passing(&self, _: &mut impl FnMut(&()) -> bool) -> usize {
        unreachable!("a list is not ordered by keys, and nobody searches it")
    }
    fn find(&self, _: &mut impl FnMut(&()) -> Ordering) -> Option<usize> {
        unreachable!("a list is not ordered by keys, and nobody searches it")
    }
    fn point(&self, at: usize) -> usize {
        self.offset(at)
    }
    fn next(&self, point: &mut usize) -> Blob {
        packed::next(&self.bytes, point).into()
    }
    fn previous(&self, point: &mut usize) -> Blob {
        packed::previous(&self.bytes, point).into()
    }
}
