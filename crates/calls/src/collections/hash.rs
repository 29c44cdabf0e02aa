//! Hashes: fields with values, each at a place.
//!
//! Invariant: a new field takes the last place; when one goes, the last takes its place. So counting places downwards misses no field that stays.
//! Invariant: what shows is the same whether the hash is packed or large.
//! Called by: `collections::value`, and handlers that build a hash whole.

use super::dense::Dense;
use super::packed::{self, Either, Packed};
use super::shape::{Grown, Shape};
use quorate_types::Blob;

/// Fields with values.
#[derive(Clone)]
pub struct Hash(Shape<Dense<(Blob, Blob)>>);

const _: () = assert!(size_of::<Hash>() == 16);

impl Hash {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(Shape::new())
    }

    /// How many fields.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.items() / 2
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory, nearly: a function of the fields and values alone.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &[u8]) -> Option<Blob> {
        match &self.0 {
            Shape::Small(packed) => {
                let mut items = packed.iter();
                while let (Some(name), Some(value)) = (items.next(), items.next()) {
                    if name == field {
                        return Some(value.into());
                    }
                }
                None
            }
            Shape::Large(dense) => dense.at(dense.place(field)?).map(|(_, value)| value.clone()),
        }
    }

    /// Whether a field is there.
    #[must_use]
    pub fn contains(&self, field: &[u8]) -> bool {
        self.place(field).is_some()
    }

    /// Field and value at a place, from 0 to below the length.
    #[must_use]
    pub fn at(&self, place: u64) -> Option<(Blob, Blob)> {
        let place = usize::try_from(place).ok()?;
        match &self.0 {
            Shape::Small(packed) => {
                let first = place.checked_mul(2)?;
                Some((packed.get(first)?.into(), packed.get(first + 1)?.into()))
            }
            Shape::Large(dense) => dense.at(place).cloned(),
        }
    }

    /// All, by place.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Blob, Blob)> + '_ {
        match &self.0 {
            Shape::Small(packed) => Either::Small(Pairs(packed.iter())),
            Shape::Large(dense) => Either::Large(dense.iter().cloned()),
        }
    }

    /// Sets a field; its value before.
    pub fn insert(&mut self, field: Blob, value: Blob) -> Option<Blob> {
        match self.place(&field) {
            Some(place) => Some(self.replace_at(place, value)),
            None => {
                self.push(field, value);
                None
            }
        }
    }

    /// Removes a field; its value.
    pub fn remove(&mut self, field: &[u8]) -> Option<Blob> {
        self.place(field).map(|place| self.take_at(place).1)
    }

    pub(super) fn place(&self, field: &[u8]) -> Option<u64> {
        match &self.0 {
            Shape::Small(packed) => {
                packed.iter().step_by(2).position(|name| name == field).map(|place| place as u64)
            }
            Shape::Large(dense) => dense.place(field).map(|place| place as u64),
        }
    }

    /// Adds a field that is new.
    pub(super) fn push(&mut self, field: Blob, value: Blob) {
        match self.0.room(2, packed::size(field.len()) + packed::size(value.len())) {
            Shape::Small(packed) => packed.splice(packed.count(), 0, &[&[&field], &[&value]]),
            Shape::Large(dense) => dense.push((field, value)),
        }
    }

    /// Replaces the value at a place that is there.
    pub(super) fn replace_at(&mut self, place: u64, value: Blob) -> Blob {
        let place = place as usize;
        match self.0.room(0, packed::size(value.len())) {
            Shape::Small(packed) => {
                let old = packed.get(2 * place + 1).expect("the place was found").into();
                packed.splice(2 * place + 1, 1, &[&[&value]]);
                old
            }
            Shape::Large(dense) => {
                let (field, _) = dense.at(place).expect("the place was found");
                let new = (field.clone(), value);
                let old = dense.replace(place, new).1;
                self.0.shrink();
                old
            }
        }
    }

    /// Removes what is at a place that is there; the last takes it.
    pub(super) fn take_at(&mut self, place: u64) -> (Blob, Blob) {
        let pair = self.at(place).expect("the place was found");
        let place = place as usize;
        match &mut self.0 {
            Shape::Small(packed) => {
                let last = packed.count() / 2 - 1;
                if place != last {
                    let (field, value) =
                        (Blob::from(item(packed, 2 * last)), Blob::from(item(packed, 2 * last + 1)));
                    packed.splice(2 * place, 2, &[&[&field], &[&value]]);
                }
                packed.splice(2 * last, 2, &[]);
            }
            Shape::Large(dense) => {
                dense.take(place);
            }
        }
        self.0.shrink();
        pair
    }

    /// Takes a [`Hash::take_at`] back.
    pub(super) fn put_back(&mut self, place: u64, field: Blob, value: Blob) {
        if place == self.len() {
            return self.push(field, value);
        }
        match self.0.room(2, packed::size(field.len()) + packed::size(value.len())) {
            Shape::Small(packed) => {
                let place = place as usize;
                let (last_field, last_value) =
                    (Blob::from(item(packed, 2 * place)), Blob::from(item(packed, 2 * place + 1)));
                packed.splice(2 * place, 2, &[&[&field], &[&value]]);
                packed.splice(packed.count(), 0, &[&[&last_field], &[&last_value]]);
            }
            Shape::Large(dense) => dense.put_back(place as usize, (field, value)),
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

    #[cfg(test)]
    pub(super) fn check(&self) {
        if let Shape::Large(dense) = &self.0 {
            dense.check();
        }
    }
}

impl Grown for Dense<(Blob, Blob)> {
    fn items(&self) -> u64 {
        2 * self.len() as u64
    }
    fn raw(&self) -> u64 {
        self.raw()
    }
    fn bytes(&self) -> u64 {
        self.bytes()
    }
    /// From field, value, field, value…
    fn unpack(packed: &Packed) -> Self {
        let mut dense = Self::default();
        Pairs(packed.iter()).for_each(|pair| dense.push(pair));
        dense
    }
    fn pack(&self) -> Packed {
        let mut packed = Packed::default();
        for (field, value) in self.iter() {
            packed.splice(packed.count(), 0, &[&[field], &[value]]);
        }
        packed
    }
    fn pin(&self) -> Self {
        self.pin()
    }
    fn drop_some(&mut self, max: usize) -> bool {
        self.drop_some(max)
    }
}

shown!(Hash, debug_map);

fn item(packed: &Packed, at: usize) -> &[u8] {
    packed.get(at).expect("the place is below the length")
}

/// Items two by two.
struct Pairs<'a>(packed::Items<'a>);

impl Iterator for Pairs<'_> {
    type Item = (Blob, Blob);
    fn next(&mut self) -> Option<Self::Item> {
        Some((self.0.next()?.into(), self.0.next()?.into()))
    }
}
impl DoubleEndedIterator for Pairs<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let value = self.0.next_back()?.into();
        Some((self.0.next_back()?.into(), value))
    }
}
