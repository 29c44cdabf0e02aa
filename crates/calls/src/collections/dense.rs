//! Elements side by side, each at a place, found by name: what large hashes and sets are.
//!
//! Chunks of elements, pages of chunks: growing copies nothing, and a pin is a count on each page.
//!
//! Invariant: places are 0 to below the length. A new element takes the last; when one goes, the last takes its place. So whoever counts
//! places downwards sees every element that stays: an element only ever moves to a lower place, and then from the very end.
//! Invariant: the index names each element's place, except in a pin, which has no index.
//! Called by: `hash` and `set`.

use super::index::{Entry, Index, Spot, hash_of};
use super::packed;
use quorate_types::Blob;
use std::sync::Arc;

/// Elements in a chunk.
const CHUNK: usize = 256;
/// Chunks in a page.
const PAGE: usize = 64;

/// What lies at a place.
pub(super) trait Element: Clone {
    /// By which it is found.
    fn name(&self) -> &Blob;
    /// Bytes it would take packed.
    fn raw(&self) -> u64;
    /// Bytes it keeps beyond its own size.
    fn heap(&self) -> u64;
}

impl Element for Blob {
    fn name(&self) -> &Blob {
        self
    }
    fn raw(&self) -> u64 {
        packed::size(self.len()) as u64
    }
    fn heap(&self) -> u64 {
        packed::heap(self)
    }
}

impl Element for (Blob, Blob) {
    fn name(&self) -> &Blob {
        &self.0
    }
    fn raw(&self) -> u64 {
        self.0.raw() + self.1.raw()
    }
    fn heap(&self) -> u64 {
        packed::heap(&self.0) + packed::heap(&self.1)
    }
}

#[derive(Clone, Copy)]
struct Place {
    place: u32,
    hash: u32,
}

impl Entry for Place {
    fn spot(&self) -> Spot {
        self.hash.into()
    }
}

type Page<T> = Vec<Arc<Vec<T>>>;

/// The elements.
#[derive(Clone)]
pub(super) struct Dense<T> {
    pages: Vec<Arc<Page<T>>>,
    len: usize,
    raw: u64,
    heap: u64,
    index: Index<Place>,
}

impl<T> Default for Dense<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0, raw: 0, heap: 0, index: Index::default() }
    }
}

impl<T: Element> Dense<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }
    /// Bytes that all would take packed.
    pub(super) fn raw(&self) -> u64 {
        self.raw
    }
    /// Bytes in memory, nearly; a function of the elements alone. An index entry is eight bytes and a control byte, at two thirds of the room.
    pub(super) fn bytes(&self) -> u64 {
        192 + self.heap + self.len as u64 * (size_of::<T>() as u64 + 14)
    }
    /// The place of an element.
    pub(super) fn place(&self, name: &[u8]) -> Option<usize> {
        let same =
            |entry: &Place| self.at(entry.place as usize).is_some_and(|element| **element.name() == *name);
        self.index.find(hash_of(name), same).map(|entry| entry.place as usize)
    }
    /// The element at a place.
    pub(super) fn at(&self, place: usize) -> Option<&T> {
        self.pages.get(place / (CHUNK * PAGE))?.get(place / CHUNK % PAGE)?.get(place % CHUNK)
    }
    /// All, by place.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.pages.iter().flat_map(|page| page.iter()).flat_map(|chunk| chunk.iter())
    }
    /// Adds an element, whose name is new, at the last place.
    pub(super) fn push(&mut self, element: T) {
        let place = u32::try_from(self.len).expect("memory ends long before 2^32 elements");
        self.index.insert(Place { place, hash: hash_of(element.name()) });
        self.add(element);
    }
    /// Replaces the element at a place that is there; the index is the caller's, where the name is another.
    pub(super) fn replace(&mut self, place: usize, element: T) -> T {
        self.count(&element);
        let old = std::mem::replace(self.slot(place), element);
        self.discount(&old);
        old
    }
    /// Removes the element at a place that is there; the last takes its place.
    pub(super) fn take(&mut self, place: usize) -> T {
        let last = self.pop();
        if place == self.len {
            self.forget(&last, place);
            return last;
        }
        let moved = hash_of(last.name());
        let gone = self.replace(place, last);
        self.forget(&gone, place);
        self.moved(moved, self.len, place);
        gone
    }
    /// Takes a [`Dense::take`] back.
    pub(super) fn put_back(&mut self, place: usize, element: T) {
        if place >= self.len {
            return self.push(element);
        }
        let hash = hash_of(element.name());
        let moved = self.replace(place, element);
        self.moved(hash_of(moved.name()), place, self.len);
        self.index.insert(Place { place: place as u32, hash });
        self.add(moved);
    }
    /// The elements as they are, without the index: cheap, and not to be changed.
    pub(super) fn pin(&self) -> Self {
        Self {
            pages: self.pages.clone(),
            len: self.len,
            raw: self.raw,
            heap: self.heap,
            index: Index::default(),
        }
    }
    /// Frees up to about `max` elements from the end; whether none is left. Nothing can be found any more.
    pub(super) fn drop_some(&mut self, max: usize) -> bool {
        // A segment of the index holds no allocations of its own: freeing it costs about what a hundred elements do.
        if self.index.drop_some(max.div_ceil(128)) > 0 {
            return false;
        }
        let mut freed = 0;
        while freed < max.max(1) {
            let Some(page) = self.pages.last_mut() else { break };
            match Arc::get_mut(page) {
                Some(page) if page.len() > 1 => {
                    freed += page.pop().map_or(1, |chunk| chunk.len());
                }
                _ => {
                    freed += CHUNK;
                    self.pages.pop();
                }
            }
        }
        self.len = self.len.saturating_sub(freed);
        if self.pages.is_empty() {
            *self = Self::default();
        }
        self.pages.is_empty()
    }

    /// Puts an element into the next slot; the index is the caller's.
    fn add(&mut self, element: T) {
        self.count(&element);
        if self.len.is_multiple_of(CHUNK * PAGE) {
            self.pages.push(Arc::default());
        }
        let page = Arc::make_mut(self.pages.last_mut().expect("a page was added when there was no room"));
        if self.len.is_multiple_of(CHUNK) {
            // The first chunk grows with a collection that is still small; later ones are needed whole.
            page.push(Arc::new(Vec::with_capacity(if self.len == 0 { 0 } else { CHUNK })));
        }
        Arc::make_mut(page.last_mut().expect("a chunk was added when there was no room")).push(element);
        self.len += 1;
    }

    /// Takes the last element; the index is the caller's.
    fn pop(&mut self) -> T {
        self.len -= 1;
        let page = Arc::make_mut(self.pages.last_mut().expect("there is an element"));
        let element =
            Arc::make_mut(page.last_mut().expect("a page is not empty")).pop().expect("nor is a chunk");
        if self.len.is_multiple_of(CHUNK) {
            page.pop();
        }
        if self.len.is_multiple_of(CHUNK * PAGE) {
            self.pages.pop();
        }
        self.discount(&element);
        element
    }

    fn slot(&mut self, place: usize) -> &mut T {
        let page = Arc::make_mut(&mut self.pages[place / (CHUNK * PAGE)]);
        &mut Arc::make_mut(&mut page[place / CHUNK % PAGE])[place % CHUNK]
    }

    fn moved(&mut self, hash: u32, from: usize, to: usize) {
        let entry = self.index.find_mut(hash, |entry| entry.place as usize == from);
        entry.expect("every element is in the index").place = to as u32;
    }

    fn forget(&mut self, element: &T, place: usize) {
        let known = self.index.remove(hash_of(element.name()), |entry| entry.place as usize == place);
        assert!(known, "every element is in the index");
    }

    fn count(&mut self, element: &T) {
        self.raw += element.raw();
        self.heap += element.heap();
    }

    fn discount(&mut self, element: &T) {
        self.raw -= element.raw();
        self.heap -= element.heap();
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.iter().count(), self.len);
        assert_eq!(self.iter().map(Element::raw).sum::<u64>(), self.raw);
        assert_eq!(self.iter().map(Element::heap).sum::<u64>(), self.heap);
        for (place, element) in self.iter().enumerate() {
            assert_eq!(self.place(element.name()), Some(place));
        }
    }
}
