//! The elements of keys that are no plain values: one [`Value`] each, in a slab.
//!
//! A row of `keys` names its body; the body's place shows nowhere. Changes keep their way back until the command is over; what was
//! deleted is freed in slices, so that no command pays for ten million elements.
//!
//! Invariant: after `rollback(mark)` the bodies equal those at `mark()`, element by element and place by place.
//! Invariant: exactly one row names each body; a fallen one until it is shed or swept.
//! Invariant: `due_log` and `due_wall` name each hash of which a field has a deadline, with the soonest.
//! Invariant: the bodies a walk emits equal those when it began: one that changes ahead of the walk is pinned first.
//! Called by: `calls` (changes), `keys` (deletions), `snapshot`.

use crate::keys::{Keys, Kind};
use crate::rows::Slot;
use crate::slab::Slab;
use quorate_calls::collections::{Builder, Change, Changed, Pinned, Timed, Undo, Value};
use quorate_types::codec::{Reader, Wire, Writer};
use quorate_types::{DecodeError, Key, LogTime, WallTime};
use std::collections::{BTreeMap, BTreeSet};

/// Elements of what was deleted that are freed with each entry, about.
const FREED_PER_ENTRY: usize = 2_000;

/// Where a body lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyId(u32);

impl BodyId {
    /// No body.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

impl Default for BodyId {
    fn default() -> Self {
        Self::NONE
    }
}

#[derive(Default)]
pub(crate) struct Bodies {
    /// Each with the slot of the row that names it.
    slab: Slab<(Value, Slot)>,
    free: Vec<u32>,
    undo: Vec<Back>,
    /// A value that was taken away or could not be put, until it is put or given back.
    homeless: Vec<Value>,
    /// Values that nobody can see any more, to be freed.
    dead: Vec<Value>,
    bytes: u64,
    /// Hashes by their fields' soonest deadlines. Ties end in the order of slots, which are the same everywhere.
    due_log: BTreeSet<(LogTime, Slot)>,
    due_wall: BTreeSet<(WallTime, Slot)>,
    walk: Option<Walk>,
    /// While a snapshot is read back: a key whose elements have not all come.
    building: Option<(Key, Builder)>,
}

enum Back {
    Made(BodyId),
    Changed(BodyId, Undo),
    Dropped(BodyId, Value, Slot),
    /// Its value went to whoever took it.
    Taken(BodyId, Slot),
}

struct Walk {
    next: u32,
    end: u32,
    /// Bodies in `next..end` that have changed, as they were when the walk began.
    saved: BTreeMap<u32, Option<(Key, Pinned)>>,
    /// The one that is being written.
    current: Option<(Key, Pinned)>,
}

pub(crate) fn kind_of(value: &Value) -> Kind {
    match value {
        Value::String(_) => Kind::Plain,
        Value::Hash(_) | Value::Timed(_) => Kind::Hash,
        Value::List(_) => Kind::List,
        Value::Set(_) => Kind::Set,
        Value::Sorted(_) => Kind::Sorted,
        Value::Bloom(_) => Kind::Bloom,
    }
}

impl Bodies {
    pub(crate) fn get(&self, id: BodyId) -> &Value {
        &self.slab.get(id.0).expect("a row names a body that is there").0
    }

    /// Bytes of all elements, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn add(&mut self, value: Value) -> BodyId {
        let id = self.place(value);
        self.save(id, None);
        self.undo.push(Back::Made(id));
        id
    }

    /// Changes a part; nothing when the change is for another type.
    pub(crate) fn change(&mut self, id: BodyId, key: &Key, change: Change) -> Option<Changed> {
        self.save(id, Some(key));
        let (value, slot) = self.slab.get_mut(id.0).expect("a row names a body that is there");
        let (before, due, slot) = (value.bytes(), soonest(value), *slot);
        let (changed, undo) = value.apply(change)?;
        self.bytes = self.bytes - before + value.bytes();
        let after = soonest(value);
        self.reindex(slot, due, after);
        self.undo.extend(undo.map(|undo| Back::Changed(id, undo)));
        Some(changed)
    }

    /// The row that named it is gone.
    pub(crate) fn remove(&mut self, id: BodyId, key: &Key) {
        self.save(id, Some(key));
        let (value, slot) = self.clear(id);
        self.undo.push(Back::Dropped(id, value, slot));
    }

    /// Takes a value away from a row, to be put under another; if it never is, [`Bodies::rollback`] or [`Bodies::forget`] finds it.
    pub(crate) fn take(&mut self, id: BodyId, key: &Key) -> Value {
        self.save(id, Some(key));
        let (value, slot) = self.clear(id);
        self.undo.push(Back::Taken(id, slot));
        value
    }

    /// A value that could not be put: it may have been taken from somewhere.
    pub(crate) fn keep(&mut self, value: Value) {
        self.homeless.push(value);
    }

    pub(crate) fn mark(&self) -> usize {
        self.undo.len()
    }

    pub(crate) fn rollback(&mut self, mark: usize) {
        while self.undo.len() > mark {
            match self.undo.pop().expect("the length was just checked") {
                Back::Made(id) => {
                    let (value, _) = self.clear(id);
                    self.homeless.push(value);
                }
                Back::Changed(id, undo) => {
                    let (value, slot) = self.slab.get_mut(id.0).expect("it was changed, and is there");
                    let (due, slot) = (soonest(value), *slot);
                    self.bytes -= value.bytes();
                    value.revert(undo);
                    self.bytes += value.bytes();
                    let after = soonest(value);
                    self.reindex(slot, due, after);
                }
                Back::Dropped(id, value, slot) => self.place_at(id, value, slot),
                Back::Taken(id, slot) => {
                    let value = self.homeless.pop().expect("what was taken was put, or kept");
                    self.place_at(id, value, slot);
                }
            }
        }
        self.dead.append(&mut self.homeless);
    }

    /// Makes everything since the last call permanent.
    pub(crate) fn forget(&mut self) {
        for back in self.undo.drain(..) {
            if let Back::Dropped(_, value, _) = back {
                self.dead.push(value);
            }
        }
        self.dead.append(&mut self.homeless);
    }

    /// Frees some of what was deleted.
    pub(crate) fn free_some(&mut self) {
        let mut left = FREED_PER_ENTRY;
        while left > 0
            && let Some(value) = self.dead.last_mut()
        {
            // Of a collection that is being freed it cannot be asked how long it is, and small ones need no counting.
            let few = value.elements().min(left as u64) as usize;
            if value.drop_some(left) {
                self.dead.pop();
                left = left.saturating_sub(few.max(1));
            } else {
                left = 0;
            }
        }
    }

    /// Tells whose row names a body that was just added.
    pub(crate) fn settle(&mut self, id: BodyId, slot: Slot) {
        let body = self.slab.get_mut(id.0).expect("it was just added");
        body.1 = slot;
        let due = soonest(&body.0);
        self.reindex(slot, (None, None), due);
    }

    /// The soonest deadline of any field, in log time and in wall time.
    pub(crate) fn next_due(&self) -> (Option<LogTime>, Option<WallTime>) {
        (self.due_log.first().map(|(time, _)| *time), self.due_wall.first().map(|(wall, _)| *wall))
    }

    /// The row of a hash of which fields are due at these times, if there is one.
    pub(crate) fn due(&self, wall: WallTime, time: LogTime) -> Option<Slot> {
        let log = self.due_log.first().filter(|(due, _)| *due <= time).map(|(_, slot)| *slot);
        log.or_else(|| self.due_wall.first().filter(|(due, _)| *due <= wall).map(|(_, slot)| *slot))
    }

    /// Keeps what is due in step with a hash that went from one soonest deadline in each clock to another.
    fn reindex(&mut self, slot: Slot, from: Soonest, to: Soonest) {
        if from.0 != to.0 {
            from.0.map(|time| self.due_log.remove(&(time, slot)));
            to.0.map(|time| self.due_log.insert((time, slot)));
        }
        if from.1 != to.1 {
            from.1.map(|wall| self.due_wall.remove(&(wall, slot)));
            to.1.map(|wall| self.due_wall.insert((wall, slot)));
        }
    }

    pub(crate) fn walk_begin(&mut self) {
        assert!(self.undo.is_empty(), "a snapshot begins between commits");
        self.walk = Some(Walk { next: 0, end: self.slab.end(), saved: BTreeMap::new(), current: None });
    }

    /// Emits about `elements_max` elements; returns how many pieces, and whether the walk is over.
    pub(crate) fn walk_next(&mut self, elements_max: usize, keys: &Keys, out: &mut Writer) -> (usize, bool) {
        let Some(mut walk) = self.walk.take() else { return (0, true) };
        let (mut pieces, mut left) = (0, elements_max);
        while left > 0 {
            let begun = walk.current.is_some();
            let Some((key, mut pinned)) = walk.current.take().or_else(|| self.next_pinned(&mut walk, keys))
            else {
                break;
            };
            begun.put(out);
            if !begun {
                key.put(out);
                out.varint(pinned.tag());
                out.varint(pinned.len());
            }
            let over = pinned.put_next(left, out);
            left =
                left.saturating_sub(if over { pinned.len().min(left as u64).max(1) as usize } else { left });
            pieces += 1;
            if !over {
                walk.current = Some((key, pinned));
            }
        }
        let over = walk.current.is_none() && walk.next == walk.end;
        self.walk = Some(walk);
        (pieces, over)
    }

    pub(crate) fn walk_end(&mut self) {
        self.walk = None;
    }

    /// Reads a piece back; the key and its elements when it was the last of them.
    pub(crate) fn restore(
        &mut self,
        kind: impl FnOnce(&Key) -> Option<Kind>,
        from: &mut Reader<'_>,
    ) -> Result<Option<(Key, BodyId)>, DecodeError> {
        let what = "elements without their key, at byte";
        let missing = DecodeError::Range { what, found: from.position() as u64 };
        let (key, mut builder) = if bool::take(from)? {
            self.building.take().ok_or(missing)?
        } else {
            let key = Key::take(from)?;
            let kind = kind(&key).filter(|kind| kind.has_body() && self.building.is_none()).ok_or(missing)?;
            let tag = from.varint()?;
            if kind_of_tag(tag) != Some(kind) {
                return Err(DecodeError::Tag { what: "elements of a key", found: tag });
            }
            (key, Builder::new(tag, from.varint()?)?)
        };
        if !builder.take_next(from)? {
            self.building = Some((key, builder));
            return Ok(None);
        }
        let value = builder.finish()?;
        if value.is_empty() {
            return Err(DecodeError::Range { what: "a collection of nothing, elements", found: 0 });
        }
        Ok(Some((key, self.place(value))))
    }

    /// Sum of the hashes of a key's name and elements.
    pub(crate) fn digest<'a>(
        &self,
        named: impl Iterator<Item = (&'a Key, BodyId)>,
        scratch: &mut Writer,
    ) -> u128 {
        let mut sum = 0u128;
        for (key, id) in named {
            scratch.clear();
            key.put(scratch);
            let mut hash = xxhash_rust::xxh3::Xxh3Default::new();
            hash.update(&scratch.buffer);
            self.get(id).digest(scratch, &mut |bytes| hash.update(bytes));
            sum = sum.wrapping_add(hash.digest128());
        }
        sum
    }

    /// Panics when the bodies and those that rows name differ.
    pub(crate) fn check(&self, named: impl Iterator<Item = BodyId>) {
        let mut count = 0;
        for id in named {
            assert!(!self.get(id).is_empty(), "a collection of nothing goes with its key");
            count += 1;
        }
        let (mut due_log, mut due_wall) = (BTreeSet::new(), BTreeSet::new());
        for (_, (value, slot)) in self.slab.iter() {
            let (log, wall) = soonest(value);
            due_log.extend(log.map(|time| (time, *slot)));
            due_wall.extend(wall.map(|wall| (wall, *slot)));
        }
        assert_eq!(
            (&due_log, &due_wall),
            (&self.due_log, &self.due_wall),
            "hashes by their fields' deadlines"
        );
        let there: Vec<&Value> = self.slab.iter().map(|(_, (value, _))| value).collect();
        assert_eq!(count, there.len(), "exactly one row names each body");
        assert_eq!(
            there.iter().map(|value| value.bytes()).sum::<u64>(),
            self.bytes,
            "bodies count their bytes"
        );
        assert!(self.homeless.is_empty(), "nothing is left without a home");
    }

    fn place(&mut self, value: Value) -> BodyId {
        let id = self.free.pop().unwrap_or_else(|| self.slab.end());
        self.bytes += value.bytes();
        // Whoever adds it tells the slot as soon as there is one.
        self.slab.put(id, (value, Slot(u32::MAX)));
        BodyId(id)
    }

    fn place_at(&mut self, id: BodyId, value: Value, slot: Slot) {
        let at = self.free.iter().rposition(|free| *free == id.0).expect("a body goes back to where it was");
        self.free.swap_remove(at);
        self.bytes += value.bytes();
        let due = soonest(&value);
        self.reindex(slot, (None, None), due);
        self.slab.put(id.0, (value, slot));
    }

    fn clear(&mut self, id: BodyId) -> (Value, Slot) {
        let (value, slot) = self.slab.take(id.0).expect("a row names a body that is there");
        self.bytes -= value.bytes();
        self.reindex(slot, soonest(&value), (None, None));
        self.free.push(id.0);
        (value, slot)
    }

    /// Pins a body that is about to change, if the walk has yet to come to it; `key` is whose it is, nothing for a new one.
    fn save(&mut self, id: BodyId, key: Option<&Key>) {
        let Some(walk) = &mut self.walk else { return };
        if (walk.next..walk.end).contains(&id.0) && !walk.saved.contains_key(&id.0) {
            let was = key.zip(self.slab.get(id.0));
            walk.saved.insert(id.0, was.map(|(key, (value, _))| (key.clone(), value.pin())));
        }
    }

    /// The next body of the walk, as it was when the walk began.
    fn next_pinned(&self, walk: &mut Walk, keys: &Keys) -> Option<(Key, Pinned)> {
        while walk.next < walk.end {
            let id = walk.next;
            walk.next += 1;
            let found = match walk.saved.remove(&id) {
                Some(saved) => saved,
                None => self.slab.get(id).map(|(value, slot)| {
                    let (key, _) = keys.held(*slot);
                    (key.clone(), value.pin())
                }),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

/// Soonest deadlines of fields, in log time and in wall time.
type Soonest = (Option<LogTime>, Option<WallTime>);

fn soonest(value: &Value) -> Soonest {
    value.timed().map_or((None, None), Timed::soonest)
}

/// The type of a key whose elements a [`Builder`] knows by this number.
fn kind_of_tag(tag: u64) -> Option<Kind> {
    match tag {
        1 | 5 => Some(Kind::Hash),
        2 => Some(Kind::List),
        3 => Some(Kind::Set),
        4 => Some(Kind::Sorted),
        6 => Some(Kind::Bloom),
        _ => None,
    }
}
