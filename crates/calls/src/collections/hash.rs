//! Hashes: fields with values, each at a place.
//!
//! Invariant: a new field takes the last place; when one goes, the last takes its place.
//! Called by: `collections::value`, and handlers that build a hash whole.

use quorate_types::Blob;

/// Fields with values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hash(Vec<(Blob, Blob)>);

impl Hash {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// How many fields.
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
        self.len() * 64
    }
    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &[u8]) -> Option<Blob> {
        self.0.iter().find(|(f, _)| **f == *field).map(|(_, v)| v.clone())
    }
    /// Whether a field is there.
    #[must_use]
    pub fn contains(&self, field: &[u8]) -> bool {
        self.place(field).is_some()
    }
    /// Field and value at a place.
    #[must_use]
    pub fn at(&self, place: u64) -> Option<(Blob, Blob)> {
        self.0.get(place as usize).cloned()
    }
    /// All, by place.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Blob, Blob)> + '_ {
        self.0.iter().cloned()
    }
    /// Sets a field; its value before.
    pub fn insert(&mut self, field: Blob, value: Blob) -> Option<Blob> {
        match self.place(&field) {
            Some(place) => Some(self.replace_at(place, value)),
            None => {
                self.0.push((field, value));
                None
            }
        }
    }
    /// Removes a field; its value.
    pub fn remove(&mut self, field: &[u8]) -> Option<Blob> {
        self.place(field).map(|place| self.take_at(place).1)
    }
    pub(super) fn place(&self, field: &[u8]) -> Option<u64> {
        self.0.iter().position(|(f, _)| **f == *field).map(|p| p as u64)
    }
    pub(super) fn replace_at(&mut self, place: u64, value: Blob) -> Blob {
        std::mem::replace(&mut self.0[place as usize].1, value)
    }
    pub(super) fn take_at(&mut self, place: u64) -> (Blob, Blob) {
        self.0.swap_remove(place as usize)
    }
    pub(super) fn put_back(&mut self, place: u64, field: Blob, value: Blob) {
        self.0.push((field, value));
        let last = self.0.len() - 1;
        self.0.swap(place as usize, last);
    }
}
