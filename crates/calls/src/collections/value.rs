//! A value and its changes, each with its way back.
//!
//! Invariant: [`Value::revert`] with the undos of later changes taken first restores the value exactly, places included.
//! Called by: stores.

use super::bloom;
use super::{Change, Changed, Hash, List, Live, Set, Sorted, Timed, Value};
use crate::{Deadline, Found};
use quorate_types::{Blob, LogTime, Score, WallTime};

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
    /// What a change of a hash did to a field's deadline; and before that, to its pairs.
    Deadline {
        field: Blob,
        before: Option<Deadline>,
        pairs: Option<Box<Step>>,
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
    BloomAdded(bloom::Set),
}

impl Value {
    /// Its type, as `TYPE` names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.found(WallTime(0), LogTime(0)).kind()
    }

    /// The value, to be read at these times.
    #[must_use]
    pub fn found(&self, wall: WallTime, time: LogTime) -> Found<'_> {
        match self {
            Self::String(value) => Found::String(value),
            Self::Hash(hash) => Found::Hash(Live::of(hash)),
            Self::Timed(timed) => Found::Hash(Live::at_time(timed, wall, time)),
            Self::List(list) => Found::List(list),
            Self::Set(set) => Found::Set(set),
            Self::Sorted(sorted) => Found::Sorted(sorted),
            Self::Bloom(filter) => Found::Bloom(filter),
        }
    }

    /// Whether it is a collection of nothing, whose key goes with it. A string never is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::String(_) => false,
            Self::Hash(hash) => hash.is_empty(),
            Self::Timed(timed) => timed.hash.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Set(set) => set.is_empty(),
            Self::Sorted(sorted) => sorted.is_empty(),
            // Its key stays though nothing was added yet, as Redis has it.
            Self::Bloom(_) => false,
        }
    }

    /// Deadlines of fields, where there are some.
    #[must_use]
    pub fn timed(&self) -> Option<&Timed> {
        if let Self::Timed(timed) = self { Some(timed) } else { None }
    }

    /// How many elements, deadlines of fields among them; 1 for a string.
    #[must_use]
    pub fn elements(&self) -> u64 {
        match self {
            Self::String(_) => 1,
            Self::Hash(hash) => hash.len(),
            Self::Timed(timed) => timed.parts(),
            Self::List(list) => list.len(),
            Self::Set(set) => set.len(),
            Self::Sorted(sorted) => sorted.len(),
            Self::Bloom(filter) => filter.parts(),
        }
    }

    /// Bytes in memory beyond the value's own few words, nearly. A function of the elements alone, so that every replica counts the same.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::String(value) => value.heap_bytes() as u64,
            Self::Hash(hash) => hash.bytes(),
            Self::Timed(timed) => timed.bytes(),
            Self::List(list) => list.bytes(),
            Self::Set(set) => set.bytes(),
            Self::Sorted(sorted) => sorted.bytes(),
            Self::Bloom(filter) => filter.bytes(),
        }
    }

    /// The empty collection that a change is for.
    #[must_use]
    pub fn empty_for(change: &Change) -> Self {
        match change {
            Change::HashSet { .. }
            | Change::HashKeep { .. }
            | Change::HashDeadline { .. }
            | Change::HashRemove { .. } => Self::Hash(Hash::new()),
            Change::ListInsert { .. } | Change::ListSet { .. } | Change::ListRemove { .. } => {
                Self::List(List::new())
            }
            Change::SetAdd { .. } | Change::SetRemove { .. } => Self::Set(Set::new()),
            Change::SortedSet { .. } | Change::SortedRemove { .. } => Self::Sorted(Sorted::new()),
            // A filter is made with its size, and nothing is added to one that is not there.
            Change::BloomAdd { .. } => Self::String(Blob::EMPTY),
        }
    }

    /// Changes a part. Nothing when the change is for another type; no undo when nothing has changed.
    pub fn apply(&mut self, change: Change) -> Option<(Changed, Option<Undo>)> {
        if matches!(self, Self::Timed(_)) || matches!(change, Change::HashDeadline { .. }) {
            let (changed, step) = self.apply_timed(change)?;
            return Some((changed, step.map(Undo)));
        }
        let (changed, step) = match (self, change) {
            (Self::Hash(hash), Change::HashSet { field, value } | Change::HashKeep { field, value }) => {
                hash_set(hash, field, value)
            }
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
            (Self::Bloom(filter), Change::BloomAdd { item }) => match filter.add(&item) {
                Ok(set) => (Changed::Flag(set.is_some()), set.map(Step::BloomAdded)),
                Err(refused) => (Changed::Refused(refused), None),
            },
            _ => return None,
        };
        Some((changed, step.map(Undo)))
    }

    /// A change to a hash with deadlines, or one that gives it the first.
    fn apply_timed(&mut self, change: Change) -> Option<(Changed, Option<Step>)> {
        let deadline = |value: &Self, field: &Blob| value.timed().and_then(|timed| timed.deadline(field));
        match change {
            Change::HashDeadline { field, deadline: wanted } => {
                let before = deadline(self, &field);
                if before == wanted || !self.pairs()?.contains(&field) {
                    return Some((Changed::Flag(false), None));
                }
                self.set_field_deadline(&field, wanted);
                Some((Changed::Flag(true), Some(Step::Deadline { field, before, pairs: None })))
            }
            Change::HashKeep { field, value } => Some(hash_set(self.pairs()?, field, value)),
            Change::HashSet { field, value } => {
                let before = deadline(self, &field);
                let (changed, pairs) = hash_set(self.pairs()?, field.clone(), value);
                Some((changed, self.without_deadline(field, before, pairs)))
            }
            Change::HashRemove { field } => {
                let before = deadline(self, &field);
                let (changed, pairs) = hash_remove(self.pairs()?, &field);
                Some((changed, self.without_deadline(field, before, pairs)))
            }
            _ => None,
        }
    }

    /// Takes a field's deadline away, after a change to its pair.
    fn without_deadline(
        &mut self,
        field: Blob,
        before: Option<Deadline>,
        pairs: Option<Step>,
    ) -> Option<Step> {
        if before.is_none() {
            return pairs;
        }
        self.set_field_deadline(&field, None);
        Some(Step::Deadline { field, before, pairs: pairs.map(Box::new) })
    }

    /// The pairs of a hash, with or without deadlines.
    fn pairs(&mut self) -> Option<&mut Hash> {
        match self {
            Self::Hash(hash) => Some(hash),
            Self::Timed(timed) => Some(&mut timed.hash),
            _ => None,
        }
    }

    /// Sets a deadline of a field of a hash, which becomes one with deadlines by its first, and one without by its last.
    fn set_field_deadline(&mut self, field: &Blob, deadline: Option<Deadline>) {
        if let Self::Hash(hash) = self {
            *self = Self::Timed(Box::new(Timed::new(std::mem::take(hash))));
        }
        let Self::Timed(timed) = self else { unreachable!("the caller knows that it is a hash") };
        timed.set(field, deadline);
        if timed.is_empty() {
            *self = Self::Hash(std::mem::take(&mut timed.hash));
        }
    }

    /// Takes one change back. Of several, the newest goes first.
    ///
    /// # Panics
    /// When the undo is not of the newest change to this value.
    pub fn revert(&mut self, undo: Undo) {
        let step = match undo.0 {
            Step::Deadline { field, before, pairs } => {
                if let Some(step) = pairs {
                    self.revert(Undo(*step));
                }
                return self.set_field_deadline(&field, before);
            }
            step => step,
        };
        if let Self::Timed(timed) = self {
            return revert_pairs(&mut timed.hash, step);
        }
        match (self, step) {
            (Self::Hash(hash), step) => revert_pairs(hash, step),
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
            (Self::Bloom(filter), Step::BloomAdded(set)) => filter.take_back(set),
            (value, step) => panic!("the undo of another value: {step:?} for a {}", value.kind()),
        }
    }
}

fn revert_pairs(hash: &mut Hash, step: Step) {
    match step {
        Step::HashAdded => {
            hash.take_at(hash.len() - 1);
        }
        Step::HashReplaced { place, value } => {
            hash.replace_at(place, value);
        }
        Step::HashRemoved { place, field, value } => hash.put_back(place, field, value),
        step => panic!("the undo of another value: {step:?} for a hash"),
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
