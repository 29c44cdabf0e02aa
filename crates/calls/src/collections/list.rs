//! Lists: values in order.
//!
//! Called by: `collections::value`, and handlers that build a list whole.

use quorate_types::Blob;
use std::collections::VecDeque;

/// Values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(VecDeque<Blob>);

impl List {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// How many values.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Bytes in memory, nearly.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len() * 32
    }
    /// The value at a place, counted from the head.
    #[must_use]
    pub fn get(&self, at: u64) -> Option<Blob> {
        self.0.get(at as usize).cloned()
    }
    /// Values from `from` to before `to`; what is beyond the end is left out.
    pub fn range(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = Blob> + '_ {
        let to = to.min(self.len()) as usize;
        self.0.range((from as usize).min(to)..to).cloned()
    }
    /// All.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Blob> + '_ {
        self.range(0, self.len())
    }
    /// Appends.
    pub fn push_back(&mut self, value: Blob) {
        self.0.push_back(value);
    }
    /// Puts in front of the first.
    pub fn push_front(&mut self, value: Blob) {
        self.0.push_front(value);
    }
    /// Puts before the value at `at`; beyond the end, appends.
    pub fn insert(&mut self, at: u64, value: Blob) {
        self.0.insert(at.min(self.len()) as usize, value);
    }
    /// Replaces; the value before, nothing where there is none.
    pub fn set(&mut self, at: u64, value: Blob) -> Option<Blob> {
        self.0.get_mut(at as usize).map(|old| std::mem::replace(old, value))
    }
    /// Removes; the value, nothing where there is none.
    pub fn remove(&mut self, at: u64) -> Option<Blob> {
        self.0.remove(at as usize)
    }
}
