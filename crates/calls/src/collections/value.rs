//! A value and its changes, each with its way back.
//!
//! Invariant: [`Value::revert`] with the undos of later changes taken first restores the value exactly, places included.
//! Called by: stores.

use super::{Change, Changed, Hash, List, Set, Sorted, Value};
use crate::Found;
use quorate_types::{Blob, Score};

/// The way back from one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo(Step);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The last place is new.
    HashAdded,
    HashReplaced {
        place: u64,
        value: Blob,
    },
    HashRemoved {
        place: u64,
        field: Blob,
        value: Blob,
    },
    ListInserted {
        at: u64,
    },
    ListReplaced {
        at: u64,
        value: Blob,
    },
    ListRemoved {
        at: u64,
        value: Blob,
    },
    /// The last place is new.
    SetAdded,
    SetRemoved {
        place: u64,
        member: Blob,
    },
    SortedAdded {
        member: Blob,
    },
    SortedHad {
        member: Blob,
        score: Score,
    },
}

impl Value {
    /// Its type, as `TYPE` names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.found().kind()
    }

    /// The value, to be read.
    #[must_use]
    pub fn found(&self) -> Found<'_> {
        match self {
            Self::String(value) => Found::String(value),
            Self::Hash(hash) => Found::Hash(hash),
            Self::List(list) => Found::List(list),
            Self::Set(set) => Found::Set(set),
            Self::Sorted(sorted) => Found::Sorted(sorted),
        }
    }

    /// Whether it is a collection of nothing, whose key goes with it. A string never is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::String(_) => false,
            Self::Hash(hash) => hash.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Set(set) => set.is_empty(),
            Self::Sorted(sorted) => sorted.is_empty(),
        }
    }

    /// How many elements; 1 for a string.
    #[must_use]
    pub fn elements(&self) -> u64 {
        match self {
            Self::String(_) => 1,
            Self::Hash(hash) => hash.len(),
            Self::List(list) => list.len(),
            Self::Set(set) => set.len(),
            Self::Sorted(sorted) => sorted.len(),
        }
    }

    /// Bytes in memory beyond the value's own few words, nearly. A function of the elements alone, so that every replica counts the same.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::String(value) => value.heap_bytes() as u64,
            Self::Hash(hash) => hash.bytes(),
            Self::List(list) => list.bytes(),
            Self::Set(set) => set.bytes(),
            Self::Sorted(sorted) => sorted.bytes(),
        }
    }

    /// The empty collection that a change is for.
    #[must_use]
    pub fn empty_for(change: &Change) -> Self {
        match change {
            Change::HashSet { .. } | Change::HashRemove { .. } => Self::Hash(Hash::new()),
            Change::ListInsert { .. } | Change::ListSet { .. } | Change::ListRemove { .. } => {
                Self::List(List::new())
            }
            Change::SetAdd { .. } | Change::SetRemove { .. } => Self::Set(Set::new()),
            Change::SortedSet { .. } | Change::SortedRemove { .. } => Self::Sorted(Sorted::new()),
        }
    }

    /// Changes a part. Nothing when the change is for another type; no undo when nothing has changed.
    pub fn apply(&mut self, change: Change) -> Option<(Changed, Option<Undo>)> {
        let (changed, step) = match (self, change) {
            (Self::Hash(hash), Change::HashSet { field, value }) => hash_set(hash, field, value),
            (Self::Hash(hash), Change::HashRemove { field }) => hash_remove(hash, &field),
            (Self::List(list), Change::ListInsert { at, value }) => list_insert(list, at, value),
            (Self::List(list), Change::ListSet { at, value }) => list_set(list, at, value),
            (Self::List(list), Change::ListRemove { at }) => list_remove(list, at),
            (Self::Set(set), Change::SetAdd { member }) => {
                let new = set.insert(member);
                (Changed::Flag(new), new.then_some(Step::SetAdded))
            }
            (Self::Set(set), Change::SetRemove { member }) => {
                let gone = set.place(&member).map(|place| (place, set.take_at(place)));
                let step = gone.map(|(place, member)| Step::SetRemoved { place, member });
                (Changed::Flag(step.is_some()), step)
            }
            (Self::Sorted(sorted), Change::SortedSet { member, score }) => sorted_set(sorted, member, score),
            (Self::Sorted(sorted), Change::SortedRemove { member }) => {
                let score = sorted.remove(&member);
                (Changed::Score(score), score.map(|score| Step::SortedHad { member, score }))
            }
            _ => return None,
        };
        Some((changed, step.map(Undo)))
    }

    /// Takes one change back. Of several, the newest goes first.
    ///
    /// # Panics
    /// When the undo is not of the newest change to this value.
    pub fn revert(&mut self, undo: Undo) {
        match (self, undo.0) {
            (Self::Hash(hash), Step::HashAdded) => {
                hash.take_at(hash.len() - 1);
            }
            (Self::Hash(hash), Step::HashReplaced { place, value }) => {
                hash.replace_at(place, value);
            }
            (Self::Hash(hash), Step::HashRemoved { place, field, value }) => {
                hash.put_back(place, field, value);
            }
            (Self::List(list), Step::ListInserted { at }) => {
                list.remove(at);
            }
            (Self::List(list), Step::ListReplaced { at, value }) => {
                list.set(at, value);
            }
            (Self::List(list), Step::ListRemoved { at, value }) => list.insert(at, value),
            (Self::Set(set), Step::SetAdded) => {
                set.take_at(set.len() - 1);
            }
            (Self::Set(set), Step::SetRemoved { place, member }) => set.put_back(place, member),
            (Self::Sorted(sorted), Step::SortedAdded { member }) => {
                sorted.remove(&member);
            }
            (Self::Sorted(sorted), Step::SortedHad { member, score }) => {
                sorted.insert(member, score);
            }
            (value, step) => panic!("the undo of another value: {step:?} for a {}", value.kind()),
        }
    }
}

fn hash_set(hash: &mut Hash, field: Blob, value: Blob) -> (Changed, Option<Step>) {
    let Some(place) = hash.place(&field) else {
        hash.insert(field, value);
        return (Changed::Value(None), Some(Step::HashAdded));
    };
    let before = hash.replace_at(place, value.clone());
    let step = (before != value).then(|| Step::HashReplaced { place, value: before.clone() });
    (Changed::Value(Some(before)), step)
}

fn hash_remove(hash: &mut Hash, field: &[u8]) -> (Changed, Option<Step>) {
    let Some(place) = hash.place(field) else { return (Changed::Value(None), None) };
    let (field, value) = hash.take_at(place);
    (Changed::Value(Some(value.clone())), Some(Step::HashRemoved { place, field, value }))
}

fn list_insert(list: &mut List, at: u64, value: Blob) -> (Changed, Option<Step>) {
    let at = at.min(list.len());
    list.insert(at, value);
    (Changed::Done, Some(Step::ListInserted { at }))
}

fn list_set(list: &mut List, at: u64, value: Blob) -> (Changed, Option<Step>) {
    let Some(before) = list.set(at, value.clone()) else { return (Changed::Value(None), None) };
    let step = (before != value).then(|| Step::ListReplaced { at, value: before.clone() });
    (Changed::Value(Some(before)), step)
}

fn list_remove(list: &mut List, at: u64) -> (Changed, Option<Step>) {
    let Some(value) = list.remove(at) else { return (Changed::Value(None), None) };
    (Changed::Value(Some(value.clone())), Some(Step::ListRemoved { at, value }))
}

fn sorted_set(sorted: &mut Sorted, member: Blob, score: Score) -> (Changed, Option<Step>) {
    let before = sorted.insert(member.clone(), score);
    let step = match before {
        None => Some(Step::SortedAdded { member }),
        Some(before) => (before != score).then_some(Step::SortedHad { member, score: before }),
    };
    (Changed::Score(before), step)
}
