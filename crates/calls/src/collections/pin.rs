//! Values as they were at a moment, written in slices while they go on changing; and values read back from such slices.
//!
//! A slice is the number of its elements, then the elements: of a hash a field and its value, of a sorted set a member and its score, otherwise bytes.
//! Of a hash with deadlines first all its fields with their values come, then the deadlines; a byte before each tells which it is.
//!
//! Invariant: what is read back is equal, places included; or reading says what is wrong.
//! Called by: stores, for snapshots and long reads.

use super::{Bloom, Hash, List, Set, Sorted, Timed, Value};
use quorate_types::codec::{Reader, Wire, Writer};
use quorate_types::{Blob, DecodeError, Score};

/// Bytes after which a slice ends, however few its elements are.
const SLICE_BYTES: usize = 256 * 1024;

/// A value as it was when it was pinned. Taking one costs about a nanosecond for each hundred elements; while it is held, a change to the
/// value copies the few hundred elements around it once.
#[derive(Clone, Debug)]
pub struct Pinned {
    value: Value,
    at: u64,
}

impl Value {
    /// The value as it is now, kept while it goes on changing.
    #[must_use]
    pub fn pin(&self) -> Pinned {
        let value = match self {
            Self::String(value) => Self::String(value.clone()),
            Self::Hash(hash) => Self::Hash(hash.pin()),
            Self::Timed(timed) => Self::Timed(Box::new(timed.pin())),
            Self::List(list) => Self::List(list.pin()),
            Self::Set(set) => Self::Set(set.pin()),
            Self::Sorted(sorted) => Self::Sorted(sorted.pin()),
            Self::Bloom(filter) => Self::Bloom(filter.clone()),
        };
        Pinned { value, at: 0 }
    }

    /// The number that stands for its type where values are written: never reused.
    #[must_use]
    pub fn tag(&self) -> u64 {
        match self {
            Self::String(_) => 0,
            Self::Hash(_) => 1,
            Self::List(_) => 2,
            Self::Set(_) => 3,
            Self::Sorted(_) => 4,
            Self::Timed(_) => 5,
            Self::Bloom(_) => 6,
        }
    }

    /// Hands the whole value to a digest, in slices: equal values give equal bytes, and only they do.
    pub fn digest(&self, scratch: &mut Writer, sink: &mut dyn FnMut(&[u8])) {
        scratch.clear();
        scratch.varint(self.tag());
        scratch.varint(self.elements());
        sink(&scratch.buffer);
        let mut at = 0;
        while at < self.elements() {
            scratch.clear();
            at += put_some(self, at, 256, scratch);
            sink(&scratch.buffer);
        }
    }

    /// Frees up to about `max` elements of a value that is no longer wanted; whether nothing is left. Until then it can be nothing but freed.
    pub fn drop_some(&mut self, max: usize) -> bool {
        match self {
            Self::String(value) => {
                *value = Blob::EMPTY;
                true
            }
            Self::Hash(hash) => hash.drop_some(max),
            Self::Timed(timed) => timed.drop_some(max),
            Self::List(list) => list.drop_some(max),
            Self::Set(set) => set.drop_some(max),
            Self::Sorted(sorted) => sorted.drop_some(max),
            Self::Bloom(filter) => filter.drop_some(max),
        }
    }
}

impl Pinned {
    /// How many elements there are; 1 for a string.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.value.elements()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of its type, for [`Builder::new`].
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.value.tag()
    }

    /// Writes one more slice: up to `max` elements, fewer when they are long, one at least. Whether that was the last.
    pub fn put_next(&mut self, max: usize, out: &mut Writer) -> bool {
        // The number of elements is known only afterwards, as their bytes bound the slice too.
        let mut slice = Writer::default();
        let count = put_some(&self.value, self.at, max.max(1) as u64, &mut slice);
        out.varint(count);
        out.raw(&slice.buffer);
        self.at += count;
        self.at >= self.len()
    }

    /// Frees up to about `max` elements that nobody else holds any more; whether nothing is left. Nothing can be written after that.
    pub fn drop_some(&mut self, max: usize) -> bool {
        self.value.drop_some(max)
    }

    #[cfg(test)]
    pub(super) fn value_for_tests(&self) -> &Value {
        &self.value
    }
}

/// Puts a value together again from its slices.
#[derive(Debug)]
pub struct Builder {
    value: Value,
    /// Elements still to come.
    left: u64,
    last: Option<(Score, Blob)>,
    is_filter: bool,
}

impl Builder {
    /// For a value of the type `tag` with `len` elements.
    ///
    /// # Errors
    /// [`DecodeError::Tag`] for an unknown type.
    pub fn new(tag: u64, len: u64) -> Result<Self, DecodeError> {
        let value = match tag {
            0 => Value::String(Blob::EMPTY),
            1 => Value::Hash(Hash::new()),
            2 => Value::List(List::new()),
            3 => Value::Set(Set::new()),
            4 => Value::Sorted(Sorted::new()),
            5 => Value::Timed(Box::default()),
            // What it is comes with the first piece.
            6 if len > 0 => Value::String(Blob::EMPTY),
            found => return Err(DecodeError::Tag { what: "the type of a value", found }),
        };
        if tag == 0 && len != 1 {
            return Err(DecodeError::Range { what: "the number of elements of a string", found: len });
        }
        Ok(Self { value, left: len, last: None, is_filter: tag == 6 })
    }

    /// Reads one slice; whether it was the last.
    ///
    /// # Errors
    /// The bytes end, or an element comes twice, out of order, or beyond the number that was announced.
    pub fn take_next(&mut self, from: &mut Reader<'_>) -> Result<bool, DecodeError> {
        let count = from.length()? as u64;
        if count > self.left {
            return Err(DecodeError::Range { what: "the number of elements of a slice", found: count });
        }
        for _ in 0..count {
            self.take_one(from)?;
            self.left -= 1;
        }
        Ok(self.left == 0)
    }

    /// The value.
    ///
    /// # Errors
    /// Elements are missing.
    pub fn finish(self) -> Result<Value, DecodeError> {
        if self.left > 0 {
            return Err(DecodeError::Range {
                what: "the number of missing elements of a value",
                found: self.left,
            });
        }
        if self.value.timed().is_some_and(Timed::is_empty) {
            return Err(DecodeError::Range {
                what: "the deadlines of a hash that is to have some",
                found: 0,
            });
        }
        Ok(self.value)
    }

    fn take_one(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        if self.is_filter {
            match &mut self.value {
                Value::Bloom(filter) => filter.take_next(from)?,
                value => *value = Value::Bloom(Box::new(Bloom::take_first(from)?)),
            }
            return Ok(());
        }
        let at = from.position() as u64;
        let twice = DecodeError::Range { what: "an element that came before, at byte", found: at };
        let kind = match &self.value {
            Value::Timed(_) => u64::from(u8::take(from)?),
            _ => 0,
        };
        let element = Blob::take(from)?;
        match &mut self.value {
            Value::Bloom(_) => unreachable!("a filter was read above"),
            Value::Timed(timed) => match kind {
                0 if timed.hash.contains(&element) => return Err(twice),
                0 => timed.hash.push(element, Blob::take(from)?),
                1 | 2 => {
                    if !timed.restore(kind == 2, &element) {
                        let what = "a deadline of no field, at byte";
                        return Err(DecodeError::Range { what, found: at });
                    }
                }
                found => return Err(DecodeError::Tag { what: "part of a hash", found }),
            },
            Value::String(value) => *value = element,
            Value::List(list) => list.push_back(element),
            Value::Set(set) => {
                if !set.insert(element) {
                    return Err(twice);
                }
            }
            Value::Hash(hash) => {
                if hash.contains(&element) {
                    return Err(twice);
                }
                hash.push(element, Blob::take(from)?);
            }
            Value::Sorted(sorted) => {
                let next = (Score::take(from)?, element);
                if self.last.as_ref().is_some_and(|last| *last >= next) {
                    return Err(DecodeError::Range { what: "a member out of order, at byte", found: at });
                }
                if sorted.insert(next.1.clone(), next.0).is_some() {
                    return Err(twice);
                }
                self.last = Some(next);
            }
        }
        Ok(())
    }
}

/// Writes up to `max` elements from number `at` on; how many.
fn put_some(value: &Value, at: u64, max: u64, out: &mut Writer) -> u64 {
    let to = at.saturating_add(max).min(value.elements());
    let mut written = 0;
    let bound = out.buffer.len() + SLICE_BYTES;
    let mut more = |out: &Writer| {
        written += 1;
        out.buffer.len() < bound
    };
    match value {
        Value::String(value) if at == 0 => {
            value.put(out);
            more(out);
        }
        Value::String(_) => {}
        Value::Hash(hash) => {
            for place in at..to {
                hash.at(place).expect("the place is below the length").put(out);
                if !more(out) {
                    break;
                }
            }
        }
        Value::Timed(timed) => {
            let pairs = timed.hash.len();
            for place in at..to.min(pairs) {
                0u8.put(out);
                timed.hash.at(place).expect("the place is below the length").put(out);
                if !more(out) {
                    return written;
                }
            }
            for (is_wall, entry) in timed.deadlines(at.max(pairs) - pairs, to.max(pairs) - pairs) {
                (1 + u8::from(is_wall)).put(out);
                entry.put(out);
                if !more(out) {
                    break;
                }
            }
        }
        Value::Set(set) => {
            for place in at..to {
                set.at(place).expect("the place is below the length").put(out);
                if !more(out) {
                    break;
                }
            }
        }
        Value::List(list) => {
            for value in list.range(at, to) {
                value.put(out);
                if !more(out) {
                    break;
                }
            }
        }
        // A filter has no more pieces than are asked for: each is counted.
        Value::Bloom(filter) => {
            let mut left = to - at;
            if left > 0 {
                filter.put(at, out, |out| {
                    left -= 1;
                    more(out) && left > 0
                });
            }
        }
        Value::Sorted(sorted) => {
            for pair in sorted.range(at, to) {
                pair.put(out);
                if !more(out) {
                    break;
                }
            }
        }
    }
    written
}
