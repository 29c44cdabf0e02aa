//! Sets: members, each at a place.
//!
//! Invariant: a new member takes the last place; when one goes, the last takes its place. So counting places downwards misses no member that stays.
//! Invariant: what shows is the same whether the set is packed or large.
//! Called by: `collections::value`, and handlers that build a set whole.

use super::dense::Dense;
use super::packed::{self, Either, Packed};
use super::shape::{Grown, Shape};
use quorate_types::Blob;

/// Members without order.
#[derive(Clone)]
pub struct Set(Shape<Dense<Blob>>);

const _: () = assert!(size_of::<Set>() == 16);

impl Set {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(Shape::new())
    }

    /// How many members.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.items()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory, nearly: a function of the members alone.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// Whether a member is there.
    #[must_use]
    pub fn contains(&self, member: &[u8]) -> bool {
        self.place(member).is_some()
    }

    /// The member at a place, from 0 to below the length.
    #[must_use]
    pub fn at(&self, place: u64) -> Option<Blob> {
        let place = usize::try_from(place).ok()?;
        match &self.0 {
            Shape::Small(packed) => packed.get(place).map(Blob::from),
            Shape::Large(dense) => dense.at(place).cloned(),
        }
    }

    /// All, by place.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Blob> + '_ {
        match &self.0 {
            Shape::Small(packed) => Either::Small(packed.iter().map(Blob::from)),
            Shape::Large(dense) => Either::Large(dense.iter().cloned()),
        }
    }

    /// Adds a member; whether it is new.
    pub fn insert(&mut self, member: Blob) -> bool {
        let new = !self.contains(&member);
        if new {
            self.push(member);
        }
        new
    }

    /// Removes a member; whether it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        self.place(member).map(|place| self.take_at(place)).is_some()
    }

    pub(super) fn place(&self, member: &[u8]) -> Option<u64> {
        match &self.0 {
            Shape::Small(packed) => packed.iter().position(|item| item == member).map(|place| place as u64),
            Shape::Large(dense) => dense.place(member).map(|place| place as u64),
        }
    }

    /// Removes what is at a place that is there; the last takes it.
    pub(super) fn take_at(&mut self, place: u64) -> Blob {
        let member = self.at(place).expect("the place was found");
        let place = place as usize;
        match &mut self.0 {
            Shape::Small(packed) => {
                let last = packed.count() - 1;
                if place != last {
                    let moved = Blob::from(packed.get(last).expect("the set is not empty"));
                    packed.splice(place, 1, &[&[&moved]]);
                }
                packed.splice(last, 1, &[]);
            }
            Shape::Large(dense) => {
                dense.take(place);
            }
        }
        self.0.shrink();
        member
    }

    /// Takes a [`Set::take_at`] back.
    pub(super) fn put_back(&mut self, place: u64, member: Blob) {
        if place == self.len() {
            return self.push(member);
        }
        match self.0.room(1, packed::size(member.len())) {
            Shape::Small(packed) => {
                let place = place as usize;
                let moved = Blob::from(packed.get(place).expect("the place is below the length"));
                packed.splice(place, 1, &[&[&member]]);
                packed.splice(packed.count(), 0, &[&[&moved]]);
            }
            Shape::Large(dense) => dense.put_back(place as usize, member),
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

    /// Adds a member that is new.
    fn push(&mut self, member: Blob) {
        match self.0.room(1, packed::size(member.len())) {
            Shape::Small(packed) => packed.splice(packed.count(), 0, &[&[&member]]),
            Shape::Large(dense) => dense.push(member),
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        if let Shape::Large(dense) = &self.0 {
            dense.check();
        }
    }
}

impl Grown for Dense<Blob> {
    fn items(&self) -> u64 {
        self.len() as u64
    }
    fn raw(&self) -> u64 {
        self.raw()
    }
    fn bytes(&self) -> u64 {
        self.bytes()
    }
    fn unpack(packed: &Packed) -> Self {
        let mut dense = Self::default();
        packed.iter().for_each(|member| dense.push(member.into()));
        dense
    }
    fn pack(&self) -> Packed {
        let mut packed = Packed::default();
        for member in self.iter() {
            packed.splice(packed.count(), 0, &[&[member]]);
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

shown!(Set, debug_set);
