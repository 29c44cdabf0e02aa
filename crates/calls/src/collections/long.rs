//! Long answers: the elements of a collection as they were when they were asked for, handed out in slices while the collection goes on changing.
//!
//! Invariant: what is handed out is what a single answer would have been, in its order.
//! Invariant: a slice is bounded in elements and in bytes, but for one element more.
//! Called by: handlers that answer with many elements, which make one; gateways, which hand it out. Read [`Long::next`].

use super::{Hash, List, Live, Set, Sorted, Value};
use quorate_types::{Blob, Reply};

/// Bytes after which a slice ends, however few its elements are.
const SLICE_BYTES: usize = 128 * 1024;

/// An answer that is still to be handed out. Whoever is done with it, or gives up, frees it by [`Long::drop_some`]: it may be the last that holds
/// millions of elements.
#[derive(Debug)]
pub struct Long {
    value: Value,
    show: Show,
    /// The elements that are still to come, by place or rank.
    from: u64,
    to: u64,
    reverse: bool,
    /// What is shown instead of every element: the elements at these places, in this order.
    picks: Option<Vec<u64>>,
}

/// What is shown of an element.
#[derive(Clone, Copy, Debug)]
enum Show {
    Element,
    Field,
    Value,
    Pair,
    Member,
    Scored,
}

/// A part of a hash's fields.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Fields,
    Values,
    Pairs,
}

impl Long {
    /// A hash, whole; nothing while some of its fields have passed and are not removed yet.
    pub(crate) fn hash(hash: &Live<'_>, part: Part) -> Option<Self> {
        let show = match part {
            Part::Fields => Show::Field,
            Part::Values => Show::Value,
            Part::Pairs => Show::Pair,
        };
        let hash: Hash = hash.pin()?;
        Some(Self { from: 0, to: hash.len(), value: Value::Hash(hash), show, reverse: false, picks: None })
    }

    /// A range of a list.
    pub(crate) fn list(list: &List, from: u64, to: u64) -> Self {
        Self { value: Value::List(list.pin()), show: Show::Element, from, to, reverse: false, picks: None }
    }

    /// A set, whole.
    pub(crate) fn set(set: &Set) -> Self {
        let (value, to) = (Value::Set(set.pin()), set.len());
        Self { value, show: Show::Element, from: 0, to, reverse: false, picks: None }
    }

    /// A range of ranks of a sorted set.
    pub(crate) fn sorted(sorted: &Sorted, (from, to): (u64, u64), reverse: bool, with_scores: bool) -> Self {
        let show = if with_scores { Show::Scored } else { Show::Member };
        Self { value: Value::Sorted(sorted.pin()), show, from, to, reverse, picks: None }
    }

    /// Of a long answer the elements at these places or ranks alone.
    pub(crate) fn picked(self, picks: Vec<u64>) -> Self {
        Self { from: 0, to: picks.len() as u64, picks: Some(picks), ..self }
    }

    /// How many elements are still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.to - self.from
    }

    /// The next elements, at most `max`, as the reply that they would be alone: of the type of the whole. Empty once all were handed out.
    pub fn next(&mut self, max: u64) -> Reply {
        let count = max.min(self.left());
        let (from, to) =
            if self.reverse { (self.to - count, self.to) } else { (self.from, self.from + count) };
        let (mut items, mut taken, mut bytes) = (Vec::new(), 0, 0);
        {
            let mut take = |first: Blob, second: Option<Reply>| {
                bytes += first.len() + size_of::<Reply>();
                if let Some(Reply::Bulk { value }) = &second {
                    bytes += value.len();
                }
                taken += 1;
                items.push(Reply::bulk(first));
                items.extend(second);
                bytes < SLICE_BYTES
            };
            let picks = self.picks.as_ref();
            let places = (from..to).map(|at| picks.map_or(at, |picks| picks[at as usize]));
            match (&self.value, self.show) {
                (Value::Hash(hash), show) => {
                    places.map_while(|place| hash.at(place)).all(|(field, value)| match show {
                        Show::Pair => take(field, Some(Reply::bulk(value))),
                        Show::Value => take(value, None),
                        _ => take(field, None),
                    });
                }
                (Value::List(list), _) => drop(list.range(from, to).all(|element| take(element, None))),
                (Value::Set(set), _) => {
                    places.map_while(|place| set.at(place)).all(|member| take(member, None));
                }
                (Value::Sorted(sorted), show) => {
                    let mut one = |(member, value)| {
                        take(member, matches!(show, Show::Scored).then_some(Reply::Double { value }))
                    };
                    if picks.is_some() {
                        places.map_while(|rank| sorted.at(rank)).all(&mut one);
                        return self.handed(taken, items);
                    }
                    let mut range = sorted.range(from, to);
                    if self.reverse {
                        range.rev().all(&mut one)
                    } else {
                        range.all(&mut one)
                    };
                }
                (other, _) => unreachable!("nobody makes a long answer of a {}", other.kind()),
            }
        }
        self.handed(taken, items)
    }

    /// A slice of so many elements.
    fn handed(&mut self, taken: u64, items: Vec<Reply>) -> Reply {
        if self.reverse {
            self.to -= taken;
        } else {
            self.from += taken;
        }
        match (&self.value, self.show) {
            (_, Show::Pair) if self.picks.is_some() => Reply::pairs(items),
            (Value::Set(_), _) if self.picks.is_some() => Reply::array(items),
            (_, Show::Pair) => Reply::map(items),
            (_, Show::Scored) => Reply::pairs(items),
            (Value::Set(_), _) => Reply::set(items),
            _ => Reply::array(items),
        }
    }

    /// Frees up to about `max` elements; whether nothing is left. Until then it can be nothing but freed.
    pub fn drop_some(&mut self, max: usize) -> bool {
        (self.from, self.to) = (0, 0);
        self.value.drop_some(max)
    }
}
