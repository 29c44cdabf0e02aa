//! Sets: members, each at a place.
//!
//! Invariant: a new member takes the last place; when one goes, the last takes its place.
//! Called by: `collections::value`, and handlers that build a set whole.

use quorate_types::Blob;

/// Members without order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(Vec<Blob>);

impl Set {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// How many members.
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
        self.len() * 40
    }
    /// Whether a member is there.
    #[must_use]
    pub fn contains(&self, member: &[u8]) -> bool {
        self.place(member).is_some()
    }
    /// The member at a place.
    #[must_use]
    pub fn at(&self, place: u64) -> Option<Blob> {
        self.0.get(place as usize).cloned()
    }
    /// All, by place.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Blob> + '_ {
        self.0.iter().cloned()
    }
    /// Adds a member; whether it is new.
    pub fn insert(&mut self, member: Blob) -> bool {
        let new = !self.contains(&member);
        if new {
            self.0.push(member);
        }
        new
    }
    /// Removes a member; whether it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        self.place(member).map(|place| self.take_at(place)).is_some()
    }
    pub(super) fn place(&self, member: &[u8]) -> Option<u64> {
        self.0.iter().position(|m| **m == *member).map(|p| p as u64)
    }
    pub(super) fn take_at(&mut self, place: u64) -> Blob {
        self.0.swap_remove(place as usize)
    }
    pub(super) fn put_back(&mut self, place: u64, member: Blob) {
        self.0.push(member);
        let last = self.0.len() - 1;
        self.0.swap(place as usize, last);
    }
}
