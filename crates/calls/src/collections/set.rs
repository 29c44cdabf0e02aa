//! Sets: members, each at a place.
//!
//! Invariant: a new member takes the last place; when one goes, the last takes its place. So counting places downwards misses no member that stays.
//! Invariant: what shows is the same whether the set is packed or large.
//! Called by: `collections::value`, and handlers that build a set whole.

use super::dense::Dense;
use super::packed::{self, Either, Packed};
use quorate_types::Blob;
use std::fmt;

/// Members without order.
#[derive(Clone)]
pub struct Set(Repr);

#[derive(Clone)]
enum Repr {
    Small(Packed),
    Large(Box<Dense<Blob>>),
}

const _: () = assert!(size_of::<Set>() == 16);

impl Set {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(Repr::Small(Packed::default()))
    }

    /// How many members.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.0 {
            Repr::Small(packed) => packed.count() as u64,
            Repr::Large(dense) => dense.len() as u64,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory, nearly: a function of the members alone.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Repr::Small(packed) => packed::packed_bytes(packed.raw() as u64),
            Repr::Large(dense) => {
                packed::small_bytes(dense.len() as u64, dense.raw()).unwrap_or_else(|| dense.bytes())
            }
        }
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
            Repr::Small(packed) => packed.get(place).map(Blob::from),
            Repr::Large(dense) => dense.at(place).cloned(),
        }
    }

    /// All, by place.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Blob> + '_ {
        match &self.0 {
            Repr::Small(packed) => Either::Small(packed.iter().map(Blob::from)),
            Repr::Large(dense) => Either::Large(dense.iter().cloned()),
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
            Repr::Small(packed) => packed.iter().position(|item| item == member).map(|place| place as u64),
            Repr::Large(dense) => dense.place(member).map(|place| place as u64),
        }
    }

    /// Removes what is at a place that is there; the last takes it.
    pub(super) fn take_at(&mut self, place: u64) -> Blob {
        let member = self.at(place).expect("the place was found");
        let place = place as usize;
        match &mut self.0 {
            Repr::Small(packed) => {
                let last = packed.count() - 1;
                if place != last {
                    let moved = Blob::from(packed.get(last).expect("the set is not empty"));
                    packed.splice(place, 1, &[&[&moved]]);
                }
                packed.splice(last, 1, &[]);
            }
            Repr::Large(dense) => {
                dense.take(place);
            }
        }
        self.shrink();
        member
    }

    /// Takes a [`Set::take_at`] back.
    pub(super) fn put_back(&mut self, place: u64, member: Blob) {
        if place == self.len() {
            return self.push(member);
        }
        match self.room(packed::size(member.len())) {
            Repr::Small(packed) => {
                let place = place as usize;
                let moved = Blob::from(packed.get(place).expect("the place is below the length"));
                packed.splice(place, 1, &[&[&member]]);
                packed.splice(packed.count(), 0, &[&[&moved]]);
            }
            Repr::Large(dense) => dense.put_back(place as usize, member),
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

    /// Adds a member that is new.
    fn push(&mut self, member: Blob) {
        match self.room(packed::size(member.len())) {
            Repr::Small(packed) => packed.splice(packed.count(), 0, &[&[&member]]),
            Repr::Large(dense) => dense.push(member),
        }
    }

    /// The set with room for one of so many bytes: large, when that is too much for a small one.
    fn room(&mut self, bytes: usize) -> &mut Repr {
        if let Repr::Small(packed) = &self.0
            && !packed.fits(1, bytes)
        {
            let mut dense = Dense::default();
            for member in packed.iter() {
                dense.push(Blob::from(member));
            }
            self.0 = Repr::Large(Box::new(dense));
        }
        &mut self.0
    }

    fn shrink(&mut self) {
        if let Repr::Large(dense) = &self.0
            && packed::packs_again(dense.len() as u64, dense.raw())
        {
            let mut packed = Packed::default();
            for member in dense.iter() {
                packed.splice(packed.count(), 0, &[&[member]]);
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

impl Default for Set {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Set {
    /// The same members at the same places.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}
impl Eq for Set {}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
