//! What all collections have in common: small ones are packed, large ones have a structure of their own, and each becomes the other as it grows and shrinks.
//!
//! Invariant: a collection is made large before it would break a bound of [`Packed`], and packed again well below them, so that it does not go back and forth.
//! Called by: `hash`, `list`, `set`, `sorted`.

use super::packed::{self, Packed};

/// A collection in one of its two forms.
#[derive(Clone)]
pub(super) enum Shape<L> {
    Small(Packed),
    Large(Box<L>),
}

/// What a large collection is.
pub(super) trait Grown: Default {
    /// Items that its elements would take packed.
    fn items(&self) -> u64;
    /// Bytes of those items.
    fn raw(&self) -> u64;
    /// Bytes in memory, nearly.
    fn bytes(&self) -> u64;
    /// The same elements as a small collection has.
    fn unpack(packed: &Packed) -> Self;
    /// Its elements, packed.
    fn pack(&self) -> Packed;
    /// The elements as they are; cheap, and not to be changed.
    fn pin(&self) -> Self;
    /// Frees up to about `max` elements; whether none is left.
    fn drop_some(&mut self, max: usize) -> bool;
}

impl<L: Grown> Shape<L> {
    pub(super) fn new() -> Self {
        Self::Small(Packed::default())
    }

    /// Items that the elements take, or would take, packed.
    pub(super) fn items(&self) -> u64 {
        match self {
            Self::Small(packed) => packed.count() as u64,
            Self::Large(large) => large.items(),
        }
    }

    /// Bytes in memory, nearly: a function of the elements alone, whichever form they are in.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Small(packed) => packed::packed_bytes(packed.raw() as u64),
            Self::Large(large) => {
                packed::small_bytes(large.items(), large.raw()).unwrap_or_else(|| large.bytes())
            }
        }
    }

    /// The elements as they are; cheap, and not to be changed.
    pub(super) fn pin(&self) -> Self {
        match self {
            Self::Small(packed) => Self::Small(packed.clone()),
            Self::Large(large) => Self::Large(Box::new(large.pin())),
        }
    }

    /// Frees up to about `max` elements; whether none is left.
    pub(super) fn drop_some(&mut self, max: usize) -> bool {
        let done = match self {
            Self::Small(_) => true,
            Self::Large(large) => large.drop_some(max),
        };
        if done {
            *self = Self::new();
        }
        done
    }

    /// The collection with room for so much more: large, when that is too much for a small one.
    pub(super) fn room(&mut self, items: usize, bytes: usize) -> &mut Self {
        if let Self::Small(packed) = self
            && !packed.fits(items, bytes)
        {
            *self = Self::Large(Box::new(L::unpack(packed)));
        }
        self
    }

    /// Packs a large collection again that has shrunk far enough.
    pub(super) fn shrink(&mut self) {
        if let Self::Large(large) = self
            && packed::packs_again(large.items(), large.raw())
        {
            *self = Self::Small(large.pack());
        }
    }
}
