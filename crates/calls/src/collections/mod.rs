//! The types behind keys: hashes, lists, sets, sorted sets, and what can be done to a part of one.
//!
//! Every change gives its [`Undo`]; taking undos back newest first restores the collection exactly, places included.
//!
//! Invariant: the order in which a hash or set shows its elements is a function of the changes made to it, never of a hash's seed.
//! Invariant: finding, counting and ranking one element takes at most logarithmic time, whatever the size.
//! Called by: the handlers, which read; a store, which changes.

/// A collection is nothing by default, equals another with the same elements at the same places, and shows them.
macro_rules! shown {
    ($name:ident, $form:ident) => {
        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.len() == other.len() && self.iter().eq(other.iter())
            }
        }
        impl Eq for $name {}

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.$form().entries(self.iter()).finish()
            }
        }
    };
}

mod bloom;
mod dense;
mod hash;
mod index;
mod list;
mod long;
mod packed;
mod pin;
mod set;
mod shape;
mod sorted;
#[cfg(test)]
mod tests;
mod timed;
mod tree;
mod value;

pub use bloom::{Bloom, Refused};
pub use hash::Hash;
pub use index::{Entry, Index, Spot, seed_hashes};
pub use list::List;
pub use long::Long;
pub(crate) use long::Part;
pub use pin::{Builder, Pinned};
pub use set::Set;
pub use sorted::Sorted;
pub use timed::{Live, Timed};
pub use value::Undo;

use crate::Deadline;
use quorate_types::{Blob, Score};

/// What a key holds, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bytes.
    String(Blob),
    /// Fields with values.
    Hash(Hash),
    /// Fields with values, some of which end by themselves.
    Timed(Box<Timed>),
    /// Values in order.
    List(List),
    /// Members.
    Set(Set),
    /// Members with scores.
    Sorted(Sorted),
    /// Whether items were added.
    Bloom(Box<Bloom>),
}

/// A change to a part of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a field, which then has no deadline. Answers [`Changed::Value`]: what it was.
    HashSet {
        /// The field.
        field: Blob,
        /// Its new value.
        value: Blob,
    },
    /// Sets a field under the deadline that it has. Answers [`Changed::Value`]: what it was.
    HashKeep {
        /// The field.
        field: Blob,
        /// Its new value.
        value: Blob,
    },
    /// Sets or removes the deadline of a field. Answers [`Changed::Flag`]: whether that made a difference.
    HashDeadline {
        /// The field.
        field: Blob,
        /// Until when it is there.
        deadline: Option<Deadline>,
    },
    /// Removes a field. Answers [`Changed::Value`]: what it was.
    HashRemove {
        /// The field.
        field: Blob,
    },
    /// Inserts before the element at `at`; `at` = length appends. Answers [`Changed::Done`].
    ListInsert {
        /// The place, counted from the head.
        at: u64,
        /// The new element.
        value: Blob,
    },
    /// Replaces the element at `at`. Answers [`Changed::Value`]: what it was; nothing when there is none.
    ListSet {
        /// The place.
        at: u64,
        /// The new element.
        value: Blob,
    },
    /// Removes the element at `at`. Answers [`Changed::Value`]: what it was.
    ListRemove {
        /// The place.
        at: u64,
    },
    /// Adds a member. Answers [`Changed::Flag`]: whether it is new.
    SetAdd {
        /// The member.
        member: Blob,
    },
    /// Removes a member. Answers [`Changed::Flag`]: whether it was there.
    SetRemove {
        /// The member.
        member: Blob,
    },
    /// Adds a member or moves it to another score. Answers [`Changed::Score`]: what it was.
    SortedSet {
        /// The member.
        member: Blob,
        /// Its score from now on.
        score: Score,
    },
    /// Removes a member. Answers [`Changed::Score`]: what it was.
    SortedRemove {
        /// The member.
        member: Blob,
    },
    /// Adds an item to a filter that is there. Answers [`Changed::Flag`]: whether it is new; or why it has no room.
    BloomAdd {
        /// The item.
        item: Blob,
    },
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Done.
    Done,
    /// Whether it made a difference.
    Flag(bool),
    /// What was there before.
    Value(Option<Blob>),
    /// What the score was before.
    Score(Option<Score>),
    /// Nothing: there is no room for it.
    Refused(Refused),
}
