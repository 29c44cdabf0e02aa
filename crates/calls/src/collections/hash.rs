//! Hashes: fields with values, each at a place.
//!
//! Invariant: a new field takes the last place; when one goes, the last takes its place. So counting places downwards misses no field that stays.
//! Invariant: what shows is the same whether the hash is packed or large.
//! Called by: `collections::value`, and handlers that build a hash whole.

use super::dense::Dense;
use super::packed::{self, Either, Packed};
use quorate_types::Blob;
use std::fmt;

/// Fields with values.
#[derive(Clone)]
pub struct Hash(Repr);

#[derive(Clone)]
enum Repr {
    /// Field, value, field, value…
    Small(Packed),
    Large(Box<Dense<(Blob, Blob)>>),
}

const _: () = assert!(size_of::<Hash>() == 16);

impl Hash {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(Repr::Small(Packed::default()))
    }

    /// How many fields.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.0 {
            Repr::Small(packed) => packed.count() as u64 / 2,
            Repr::Large(dense) => dense.len() as u64,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory, nearly: a function of the fields and values alone.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Repr::Small(packed) => packed::packed_bytes(packed.raw() as u64),
            Repr::Large(dense) => {
                packed::small_bytes(2 * dense.len() as u64, dense.raw()).unwrap_or_else(|| dense.bytes())
            }
        }
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &[u8]) -> Option<Blob> {
        match &self.0 {
            Repr::Small(packed) => {
                let mut items = packed.iter();
                while let (Some(name), Some(value)) = (items.next(), items.next()) {
                    if name == field {
                        return Some(value.into());
                    }
                }
                None
            }
            Repr::Large(dense) => dense.at(dense.place(field)?).map(|(_, value)| value.clone()),
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
            Repr::Small(packed) => {
                let first = place.checked_mul(2)?;
                Some((packed.get(first)?.into(), packed.get(first + 1)?.into()))
            }
            Repr::Large(dense) => dense.at(place).cloned(),
        }
    }

    /// All, by place.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Blob, Blob)> + '_ {
        match &self.0 {
            Repr::Small(packed) => Either::Small(Pairs(packed.iter())),
            Repr::Large(dense) => Either::Large(dense.iter().cloned()),
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
            Repr::Small(packed) => {
                packed.iter().step_by(2).position(|name| name == field).map(|place| place as u64)
            }
            Repr::Large(dense) => dense.place(field).map(|place| place as u64),
        }
    }

    /// Adds a field that is new.
    pub(super) fn push(&mut self, field: Blob, value: Blob) {
        match self.room(2, packed::size(field.len()) + packed::size(value.len())) {
            Repr::Small(packed) => packed.splice(packed.count(), 0, &[&[&field], &[&value]]),
            Repr::Large(dense) => dense.push((field, value)),
        }
    }

    /// Replaces the value at a place that is there.
    pub(super) fn replace_at(&mut self, place: u64, value: Blob) -> Blob {
        let place = place as usize;
        match self.room(0, packed::size(value.len())) {
            Repr::Small(packed) => {
                let old = packed.get(2 * place + 1).expect("the place was found").into();
                packed.splice(2 * place + 1, 1, &[&[&value]]);
                old
            }
            Repr::Large(dense) => {
                let (field, _) = dense.at(place).expect("the place was found");
                let new = (field.clone(), value);
                let old = dense.replace(place, new).1;
                self.shrink();
                old
            }
        }
    }

    /// Removes what is at a place that is there; the last takes it.
    pub(super) fn take_at(&mut self, place: u64) -> (Blob, Blob) {
        let pair = self.at(place).expect("the place was found");
        let place = place as usize;
        match &mut self.0 {
            Repr::Small(packed) => {
                let last = packed.count() / 2 - 1;
                if place != last {
                    let (field, value) =
                        (Blob::from(item(packed, 2 * last)), Blob::from(item(packed, 2 * last + 1)));
                    packed.splice(2 * place, 2, &[&[&field], &[&value]]);
                }
                packed.splice(2 * last, 2, &[]);
            }
            Repr::Large(dense) => {
                dense.take(place);
            }
        }
        self.shrink();
        pair
    }

    /// Takes a [`Hash::take_at`] back.
    pub(super) fn put_back(&mut self, place: u64, field: Blob, value: Blob) {
        if place == self.len() {
            return self.push(field, value);
        }
        match self.room(2, packed::size(field.len()) + packed::size(value.len())) {
            Repr::Small(packed) => {
                let place = place as usize;
                let (last_field, last_value) =
                    (Blob::from(item(packed, 2 * place)), Blob::from(item(packed, 2 * place + 1)));
                packed.splice(2 * place, 2, &[&[&field], &[&value]]);
                packed.splice(packed.count(), 0, &[&[&last_field], &[&last_value]]);
            }
            Repr::Large(dense) => dense.put_back(place as usize, (field, value)),
        }
    }

    /// The elements as they are; cheap, and not to be changed.
    pub(super) fn pin(&self) -> Self {
        match &self.0 {
            Repr::Small(_) => self.clone(),
            Repr::Large(dense) => Self(Repr::Large(Box::new(dense.pin()))),
        }
    }

    /// Frees up to about `max` elements; whether none is left.
    pub(super) fn drop_some(&mut self, max: usize) -> bool {
        let done = match &mut self.0 {
            Repr::Small(_) => true,
            Repr::Large(dense) => dense.drop_some(max),
        };
        if done {
            *self = Self::new();
        }
        done
    }

    /// The hash with room for so much more: large, when that is too much for a small one.
    fn room(&mut self, items: usize, bytes: usize) -> &mut Repr {
        if let Repr::Small(packed) = &self.0
            && !packed.fits(items, bytes)
        {
            let mut dense = Dense::default();
            for pair in Pairs(packed.iter()) {
                dense.push(pair);
            }
            self.0 = Repr::Large(Box::new(dense));
        }
        &mut self.0
    }

    fn shrink(&mut self) {
        if let Repr::Large(dense) = &self.0
            && packed::packs_again(2 * dense.len() as u64, dense.raw())
        {
            let mut packed = Packed::default();
            for (field, value) in dense.iter() {
                packed.splice(packed.count(), 0, &[&[field], &[value]]);
            }
            self.0 = Repr::Small(packed);
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        if let Repr::Large(dense) = &self.0 {
            dense.check();
        }
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Hash {
    /// The same fields and values at the same places.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}
impl Eq for Hash {}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

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
