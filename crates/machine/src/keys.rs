//! Keys: an ordered map with revisions and a bounded history.
//!
//! A row is found by hash; an ordered index serves ranges. Every change is also a line of the history: the key's row
//! before and after it. Reading at an older revision starts from the current row and steps back through those lines;
//! watching from a revision reads them forwards. Compaction drops lines from the front.
//!
//! Invariant: a state at revision R can be read iff `compacted <= R <= current`: every change after `compacted` is a line.
//! Invariant: a deleted key keeps its row (version 0) exactly as long as the line of its deletion is retained.
//! Emptying a large keyspace takes its index away and notes the number of the next history line: rows of older lines have *fallen*. They are
//! not there for anybody; their memory and slots come back in slices, with later entries ([`Keys::sweep`]).
//!
//! Invariant: `ordered` names exactly the rows that have not fallen.
//! Invariant: `by_lease` names exactly the rows that hang on a lease, `due_log` and `due_wall` those with a deadline; fallen ones until they are shed.
//! Invariant: no history that may be read tells of a fallen row, except as one that is not there (version 0).
//! Invariant: a live row has a body iff it is of another type than a plain value or a stream. Lines tell of its changes, without its elements.
//! Invariant: the history's bytes stay within its budget after every command.
//! Invariant: `bytes` sums up what the live rows of a keyspace and their elements take, by their contents alone. Fallen rows count for nothing:
//! they are going, and nobody need be evicted or refused for them.
//! Called by: `commit` (guards and operations), `locks` and `services` (their public rows), `leases::end`.

use crate::bodies::BodyId;
use crate::memory::KEY_BYTES;
use crate::names::{Leaves, Names};
use crate::recency::{Recency, Use};
use crate::rows::{Rows, Slot};
use crate::table_digest;
use quorate_calls::Deadline;
use quorate_types::codec::{Reader, Wire, Writer};
use quorate_types::{
    Blob, DecodeError, Key, KeyRange, KeyValue, Keyspace, LeaseId, LogTime, OpError, Order, RangeRead,
    Revision, Select, Sort, Version, WallTime,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// The type of a key's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    #[default]
    Plain,
    /// Fields with values.
    Hash,
    /// Values in order.
    List,
    /// Members.
    Set,
    /// Members with scores.
    Sorted,
    /// Records, which are with the streams.
    Stream,
    /// Whether items were added.
    Bloom,
}
quorate_types::wire_enum!(Kind { 0 = Plain {}, 1 = Hash {}, 2 = List {}, 3 = Set {}, 4 = Sorted {}, 5 = Stream {}, 6 = Bloom {} });

impl Kind {
    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain value",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::Sorted => "sorted set",
            Self::Stream => "stream",
            Self::Bloom => "Bloom filter",
        }
    }

    /// Whether its elements lie in a body.
    pub(crate) fn has_body(self) -> bool {
        !matches!(self, Self::Plain | Self::Stream)
    }
}

/// What ends a key by itself: a lease or a deadline, never both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hang {
    #[default]
    Nothing,
    Lease(LeaseId),
    Until(Deadline),
}

impl From<LeaseId> for Hang {
    fn from(lease: LeaseId) -> Self {
        if lease == LeaseId::ZERO { Self::Nothing } else { Self::Lease(lease) }
    }
}

impl From<Option<Deadline>> for Hang {
    fn from(deadline: Option<Deadline>) -> Self {
        deadline.map_or(Self::Nothing, Self::Until)
    }
}

/// What a row holds. `version` 0: deleted at `modified`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// Bytes of a plain value; the elements of another are in `body`.
    pub(crate) value: Blob,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) version: u64,
    /// Number of the history line that made it so.
    line: u64,
    /// A lease, a log time or a wall time, as `hung` says: rows are many, and this takes nine bytes instead of sixteen.
    hang: u64,
    hung: u8,
    pub(crate) kind: Kind,
    /// Where the elements are. Its number shows nowhere, and a row of history does not keep them.
    pub(crate) body: BodyId,
}

const _: () = assert!(size_of::<Row>() == 72);

impl Row {
    /// The number of the history line that made it so.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    pub(crate) fn hang(&self) -> Hang {
        match self.hung {
            0 => Hang::Nothing,
            1 => Hang::Lease(LeaseId(self.hang)),
            2 => Hang::Until(Deadline::Log(LogTime(self.hang))),
            _ => Hang::Until(Deadline::Wall(WallTime(self.hang))),
        }
    }

    fn hang_on(&mut self, hang: Hang) {
        (self.hung, self.hang) = match hang {
            Hang::Nothing => (0, 0),
            Hang::Lease(lease) => (1, lease.0),
            Hang::Until(Deadline::Log(time)) => (2, time.0),
            Hang::Until(Deadline::Wall(wall)) => (3, wall.0),
        };
    }

    pub(crate) fn lease(&self) -> LeaseId {
        if let Hang::Lease(lease) = self.hang() { lease } else { LeaseId::ZERO }
    }

    pub(crate) fn deadline(&self) -> Option<Deadline> {
        if let Hang::Until(deadline) = self.hang() { Some(deadline) } else { None }
    }

    /// What the first format wrote.
    fn take_first(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut row = Self {
            value: Wire::take(from)?,
            created: Wire::take(from)?,
            modified: Wire::take(from)?,
            version: Wire::take(from)?,
            ..Self::default()
        };
        row.hang_on(LeaseId::take(from)?.into());
        row.line = Wire::take(from)?;
        Ok(row)
    }
}

impl PartialEq for Row {
    /// All but where the elements lie.
    fn eq(&self, other: &Self) -> bool {
        let told =
            |row: &Self| (row.created, row.modified, row.version, row.line, row.hang, row.hung, row.kind);
        told(self) == told(other) && self.value == other.value
    }
}

impl Wire for Row {
    fn put(&self, out: &mut Writer) {
        let Self { value, created, modified, version, line, hang, hung, kind, body: _ } = self;
        value.put(out);
        created.put(out);
        modified.put(out);
        version.put(out);
        line.put(out);
        hung.put(out);
        hang.put(out);
        kind.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let row = Self {
            value: Wire::take(from)?,
            created: Wire::take(from)?,
            modified: Wire::take(from)?,
            version: Wire::take(from)?,
            line: Wire::take(from)?,
            hung: Wire::take(from)?,
            hang: Wire::take(from)?,
            kind: Wire::take(from)?,
            body: BodyId::NONE,
        };
        if row.hung > 3
            || (row.hung == 0 && row.hang != 0)
            || (row.kind != Kind::Plain && !row.value.is_empty())
        {
            return Err(DecodeError::Range { what: "row of a key, line", found: row.line });
        }
        Ok(row)
    }
}

/// A change of a key: its row before (version 0 when it did not exist) and after.
#[derive(Clone, Debug)]
struct Line {
    slot: Slot,
    time: LogTime,
    before: Row,
    after: Row,
}

impl Line {
    fn bytes(&self) -> u64 {
        (size_of::<Self>() + self.before.value.heap_bytes() + self.after.value.heap_bytes()) as u64
    }
}

/// How much history is kept; whichever bound is met first compacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) revisions: u64,
    pub(crate) age_ns: u64,
    pub(crate) bytes: u64,
}

pub(crate) struct Keys {
    rows: Rows<Key, Row>,
    ordered: BTreeMap<Keyspace, Names>,
    by_lease: BTreeSet<(LeaseId, Slot)>,
    /// Keys with a deadline, soonest first. Ties end in the order of slots, which are the same everywhere.
    due_log: BTreeSet<(LogTime, Slot)>,
    due_wall: BTreeSet<(WallTime, Slot)>,
    history: History,
    /// The newest revision whose changes may have been forgotten.
    compacted: Revision,
    /// Keys that exist, by keyspace.
    live: BTreeMap<Keyspace, u64>,
    /// Bytes of keys that exist and of their elements, by keyspace.
    bytes: BTreeMap<Keyspace, u64>,
    /// What elements have added and taken since the last [`Keys::forget`], to be taken back.
    weighed: Vec<(Keyspace, u64, u64)>,
    recency: Recency,
    /// Keyspaces that were emptied at once, with the number of the first line since: a row of an older line has fallen.
    fallen: BTreeMap<Keyspace, u64>,
    /// Where fallen rows are looked for next, and at how many slots still.
    sweep: Sweep,
    /// What the history does not tell of the command in hand.
    notes: Vec<Note>,
    /// Names of emptied keyspaces: nobody sees them any more, their memory is freed in slices.
    dead: Vec<Leaves>,
}

/// How far the search for fallen rows is: round all slots, from where the last search stood, so that none waits forever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sweep {
    next: u32,
    left: u32,
    /// Rows beyond came later.
    end: u32,
}

/// How to take back a change that is no line of the history.
struct Note {
    /// The number of the line that came next.
    line: u64,
    what: Noted,
}

enum Noted {
    Emptied {
        space: Keyspace,
        since: Option<u64>,
        names: Option<Names>,
        live: Option<u64>,
        bytes: Option<u64>,
        /// How many changes of elements' bytes came before.
        weighed: usize,
        compacted: Revision,
        sweep: Sweep,
    },
    Shed(Slot, Row),
}

/// Bytes of a key that exists, but for its elements; 0 for one that does not.
pub(crate) fn row_bytes(key: &Key, row: &Row) -> u64 {
    if row.version == 0 {
        return 0;
    }
    KEY_BYTES + (key.name.heap_bytes() + row.value.heap_bytes()) as u64
}

/// A change as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision of the commit that made it.
    pub revision: Revision,
    /// The key.
    pub key: Key,
    /// The key after it; absent when it was deleted.
    pub now: Option<KeyValue>,
    /// The key before it; absent when it did not exist.
    pub prev: Option<KeyValue>,
}

/// Changes from a revision on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// In order; the changes of one revision are never split.
    pub changes: Vec<Change>,
    /// The revision to ask for next.
    pub next: Revision,
}

/// The answer to a range read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The keys that fit the limit.
    pub keys: Vec<KeyValue>,
    /// How many keys the range holds; exact when nothing was cut off by the limit, or only a count was asked for.
    pub count: u64,
    /// Whether the limit cut something off.
    pub more: bool,
}

/// A range read in hand: see [`Select`].
#[derive(Clone, Debug)]
pub struct Selection {
    select: Select,
    keys: Vec<KeyValue>,
    count: u64,
}

impl Selection {
    /// Nothing looked at yet.
    #[must_use]
    pub fn of(select: Select) -> Self {
        Self { select, keys: Vec::new(), count: 0 }
    }

    /// What is asked for.
    #[must_use]
    pub fn select(&self) -> &Select {
        &self.select
    }

    /// The next key, in the order of their names.
    fn take(&mut self, key: &Key, row: &Row) {
        self.count += 1;
        let enough = self.select.enough().is_some_and(|enough| self.keys.len() as u64 >= enough);
        if self.select.count_only || enough {
            return;
        }
        let within = |(min, max): (Revision, Revision), found: Revision| {
            (min == Revision::ZERO || found >= min) && (max == Revision::ZERO || found <= max)
        };
        if within(self.select.modified, row.modified) && within(self.select.created, row.created) {
            let bare = self.select.keys_only && self.select.sort != Sort::Value;
            self.keys.push(view(key, row, bare));
        }
    }

    /// The answer, once every key was looked at.
    #[must_use]
    pub fn done(self) -> RangeAnswer {
        let Self { select, mut keys, count } = self;
        let order = select.order.or((select.sort != Sort::Key).then_some(Order::Ascending));
        if let Some(order) = order {
            keys.sort_by(|a, b| {
                let ascending = match select.sort {
                    Sort::Key => a.key.cmp(&b.key),
                    Sort::Version => a.version.cmp(&b.version),
                    Sort::Create => a.create_revision.cmp(&b.create_revision),
                    Sort::Mod => a.mod_revision.cmp(&b.mod_revision),
                    Sort::Value => a.value.cmp(&b.value),
                };
                if order == Order::Descending { ascending.reverse() } else { ascending }
            });
        }
        let limit =
            if select.limit == 0 { usize::MAX } else { usize::try_from(select.limit).unwrap_or(usize::MAX) };
        let more = keys.len() > limit;
        keys.truncate(limit);
        if select.keys_only {
            keys.iter_mut().for_each(|key| key.value = Blob::EMPTY);
        }
        RangeAnswer { keys, count, more }
    }
}

/// A point to roll back to: the history tells what every key was before.
pub(crate) struct Mark {
    lines: u64,
    weighed: usize,
    notes: usize,
}

impl Keys {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rows: Rows::new(seed),
            ordered: BTreeMap::new(),
            by_lease: BTreeSet::new(),
            due_log: BTreeSet::new(),
            due_wall: BTreeSet::new(),
            history: History::default(),
            compacted: Revision::ZERO,
            live: BTreeMap::new(),
            bytes: BTreeMap::new(),
            weighed: Vec::new(),
            recency: Recency::default(),
            fallen: BTreeMap::new(),
            sweep: Sweep::default(),
            notes: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// Bytes that a keyspace's keys and their elements take.
    pub(crate) fn bytes_of(&self, space: Keyspace) -> u64 {
        self.bytes.get(&space).copied().unwrap_or_default()
    }

    /// Elements of a key of this keyspace took `before` bytes and take `after` now.
    pub(crate) fn weigh(&mut self, space: Keyspace, before: u64, after: u64) {
        if before != after {
            self.weighed.push((space, before, after));
            self.count_bytes(space, before, after);
        }
    }

    fn count_bytes(&mut self, space: Keyspace, before: u64, after: u64) {
        let bytes = self.bytes.entry(space).or_default();
        *bytes = *bytes + after - before;
        if *bytes == 0 {
            self.bytes.remove(&space);
        }
    }

    /// Keyspaces and the bytes counted for them.
    pub(crate) fn all_bytes(&self) -> &BTreeMap<Keyspace, u64> {
        &self.bytes
    }

    /// All keys that exist, with their rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Key, &Row)> {
        self.rows.iter().filter(|(_, key, row)| self.lives(key, row)).map(|(_, key, row)| (key, row))
    }

    /// See [`Recency::set`].
    pub(crate) fn note_uses(&mut self, on: bool, counting: bool, now: LogTime) {
        self.recency.set(on, counting, self.rows.slots(), now);
    }

    /// Whether anybody goes by how keys are used.
    pub(crate) fn notes_uses(&self) -> bool {
        self.recency.is_on()
    }

    /// Notes that a key was read.
    pub(crate) fn used(&self, slot: Slot, now: LogTime) {
        self.recency.used(slot, now);
    }

    /// How a key was used; nothing is known while nobody evicts.
    pub(crate) fn use_of(&self, slot: Slot, now: LogTime) -> Use {
        self.recency.of(slot, now)
    }

    /// The slots of up to `max` keys of a keyspace after a name, in order of names and round again; the name goes on.
    pub(crate) fn next_names(&self, space: Keyspace, after: &mut Blob, max: usize) -> Vec<Slot> {
        let Some(names) = self.ordered.get(&space) else { return Vec::new() };
        let beyond = names.range(Bound::Excluded(after), Bound::Unbounded, self.named());
        let round = names.range(Bound::Unbounded, Bound::Included(after), self.named());
        let slots: Vec<Slot> = beyond.chain(round).take(max).collect();
        if let Some(last) = slots.last() {
            *after = self.rows.at(*last).0.name.clone();
        }
        slots
    }

    /// The slots of up to `max` keys with a deadline in log time, in order and round again; the mark goes on.
    pub(crate) fn next_due_log(&self, after: &mut (LogTime, u32), max: usize) -> Vec<Slot> {
        let mark = (after.0, Slot(after.1));
        let from = (Bound::Excluded(mark), Bound::Unbounded);
        let next = self.due_log.range(from).chain(self.due_log.range(..=mark)).take(max);
        let next: Vec<(LogTime, Slot)> = next.copied().collect();
        if let Some((time, slot)) = next.last() {
            *after = (*time, slot.0);
        }
        next.into_iter().map(|(_, slot)| slot).collect()
    }

    /// As [`Keys::next_due_log`], in wall time.
    pub(crate) fn next_due_wall(&self, after: &mut (WallTime, u32), max: usize) -> Vec<Slot> {
        let mark = (after.0, Slot(after.1));
        let from = (Bound::Excluded(mark), Bound::Unbounded);
        let next = self.due_wall.range(from).chain(self.due_wall.range(..=mark)).take(max);
        let next: Vec<(WallTime, Slot)> = next.copied().collect();
        if let Some((wall, slot)) = next.last() {
            *after = (*wall, slot.0);
        }
        next.into_iter().map(|(_, slot)| slot).collect()
    }

    /// The slots of the keys that are due first, up to `max` of each clock.
    pub(crate) fn first_due(&self, max: usize) -> impl Iterator<Item = Slot> {
        let log = self.due_log.iter().take(max).map(|(_, slot)| *slot);
        log.chain(self.due_wall.iter().take(max).map(|(_, slot)| *slot))
    }

    /// Keys that exist.
    pub(crate) fn len(&self) -> u64 {
        self.live.values().sum()
    }

    /// Keys that exist in a keyspace.
    pub(crate) fn len_of(&self, space: Keyspace) -> u64 {
        self.live.get(&space).copied().unwrap_or_default()
    }

    /// The soonest deadline in log time, and in wall time.
    pub(crate) fn next_due(&self) -> (Option<LogTime>, Option<WallTime>) {
        (self.due_log.first().map(|(time, _)| *time), self.due_wall.first().map(|(wall, _)| *wall))
    }

    /// A key that is due at these times, if one is.
    pub(crate) fn due(&self, wall: WallTime, time: LogTime) -> Option<Key> {
        let log = self.due_log.first().filter(|(due, _)| *due <= time).map(|(_, slot)| *slot);
        let by_wall = || self.due_wall.first().filter(|(due, _)| *due <= wall).map(|(_, slot)| *slot);
        log.or_else(by_wall).map(|slot| self.rows.at(slot).0.clone())
    }

    /// Names of keys that exist, by slot, from a slot on, looking at no more than `max` slots; and where to go on, 0 at the end.
    pub(crate) fn scan(&self, space: Keyspace, from: u32, max: u32) -> (Vec<Slot>, u32) {
        let end = self.rows.slots().min(from.saturating_add(max));
        let live = |slot: &Slot| {
            self.rows.holds(*slot).is_some_and(|(key, row)| key.space == space && self.lives(key, row))
        };
        let found = (from..end).map(Slot).filter(live).collect();
        (found, if end == self.rows.slots() { 0 } else { end })
    }

    /// The first key that exists at or after a name, in order of names, or else the first of all.
    pub(crate) fn some_key(&self, space: Keyspace, near: &Blob) -> Option<Slot> {
        let names = self.ordered.get(&space)?;
        let live = |slot: &Slot| self.rows.at(*slot).1.version > 0;
        let after = names.range(Bound::Included(near), Bound::Unbounded, self.named()).find(live);
        after.or_else(|| names.range(Bound::Unbounded, Bound::Excluded(near), self.named()).find(live))
    }

    /// What lies at a slot, if a key that exists does.
    pub(crate) fn at(&self, slot: Slot) -> Option<(&Key, &Row)> {
        let (key, row) = self.rows.holds(slot)?;
        self.lives(key, row).then_some((key, row))
    }

    /// The key and row of a slot that an index names, fallen or not.
    pub(crate) fn held(&self, slot: Slot) -> (&Key, &Row) {
        let (key, row) = self.rows.at(slot);
        (key, row)
    }

    /// The row of a key while a snapshot is read back, fallen or not.
    pub(crate) fn restored(&self, key: &Key) -> Option<&Row> {
        let slot = self.rows.find(key)?;
        Some(&self.rows.at(slot).1).filter(|row| row.version > 0)
    }

    fn lives(&self, key: &Key, row: &Row) -> bool {
        row.version > 0 && !self.has_fallen(key.space, row)
    }

    fn has_fallen(&self, space: Keyspace, row: &Row) -> bool {
        !self.fallen.is_empty() && self.fallen.get(&space).is_some_and(|since| row.line < *since)
    }

    pub(crate) fn slots(&self) -> u32 {
        self.rows.slots()
    }

    /// Rows, those of deleted keys too.
    pub(crate) fn row_count(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn history_bytes(&self) -> u64 {
        self.history.bytes
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Row> {
        self.live_at(self.rows.find(key))
    }

    /// Where a key has its row, if it has one; it may have been deleted.
    pub(crate) fn find(&self, key: &Key) -> Option<Slot> {
        self.rows.find(key)
    }

    /// The row at a place that [`Keys::find`] gave, if the key exists.
    pub(crate) fn live_at(&self, slot: Option<Slot>) -> Option<&Row> {
        let (key, row) = self.rows.at(slot?);
        self.lives(key, row).then_some(row)
    }

    /// Half of a key's hash; then where its row seems to be; then that row, which may be another's. Three looks, each of which can be
    /// under way for many keys at once: see `near`.
    pub(crate) fn hash(&self, key: &Key) -> u32 {
        self.rows.hash(key)
    }
    pub(crate) fn hash_of(&self, space: Keyspace, name: &[u8]) -> u32 {
        /// Hashes as the [`Key`] of these parts does.
        #[derive(Hash)]
        struct Parts<'a> {
            space: Keyspace,
            name: &'a [u8],
        }
        self.rows.hash(&Parts { space, name })
    }
    pub(crate) fn probe(&self, hash: u32) -> Option<Slot> {
        self.rows.probe(hash)
    }
    pub(crate) fn touch(&self, slot: Slot) -> &Row {
        &self.rows.at(slot).1
    }

    /// Writes a key at `revision`; gives back the row before, if it existed.
    pub(crate) fn put(
        &mut self,
        key: &Key,
        value: Blob,
        hang: impl Into<Hang>,
        revision: Revision,
        time: LogTime,
    ) -> Option<&Row> {
        self.put_at(self.find(key), key, value, hang, revision, time)
    }

    /// [`Keys::put`], where the row's place is known.
    pub(crate) fn put_at(
        &mut self,
        place: Option<Slot>,
        key: &Key,
        value: Blob,
        hang: impl Into<Hang>,
        revision: Revision,
        time: LogTime,
    ) -> Option<&Row> {
        self.write(place, key, Row { value, ..Row::default() }, hang.into(), revision, time)
    }

    /// Writes a key whose elements lie in a body; where its row is.
    pub(crate) fn put_body(
        &mut self,
        place: Option<Slot>,
        key: &Key,
        (kind, body): (Kind, BodyId),
        hang: Hang,
        revision: Revision,
        time: LogTime,
    ) -> Slot {
        self.write(place, key, Row { kind, body, ..Row::default() }, hang, revision, time);
        place.or_else(|| self.find(key)).expect("it was just written")
    }

    /// Notes at `revision` that the elements of a key change; once per revision is enough.
    pub(crate) fn touch_body(&mut self, slot: Slot, revision: Revision, time: LogTime) {
        let row = &self.rows.at(slot).1;
        if row.modified != revision {
            self.rehang(slot, row.hang(), revision, time);
        }
    }

    /// Writes a key as it is, to be ended by something else.
    pub(crate) fn rehang(&mut self, slot: Slot, hang: Hang, revision: Revision, time: LogTime) {
        let (key, row) = self.rows.at(slot).clone();
        self.write(Some(slot), &key, row, hang, revision, time);
    }

    fn write(
        &mut self,
        place: Option<Slot>,
        key: &Key,
        mut after: Row,
        hang: Hang,
        revision: Revision,
        time: LogTime,
    ) -> Option<&Row> {
        (after.created, after.modified, after.version) = (revision, revision, 1);
        after.line = self.history.end();
        after.hang_on(hang);
        let (slot, before) = match place {
            Some(slot) => {
                let before = &self.rows.at(slot).1;
                if before.version > 0 {
                    (after.created, after.version) = (before.created, before.version + 1);
                }
                if self.has_fallen(key.space, before) {
                    assert!(before.version == 0, "a fallen row is shed before it is written over");
                    self.index(slot, key);
                }
                (slot, self.rows.swap(slot, after.clone()))
            }
            None => {
                let slot = self.rows.add(key.clone(), after.clone());
                self.index(slot, key);
                (slot, Row::default())
            }
        };
        self.reindex(slot, key.space, &before, &after);
        self.recency.written(slot, before.version == 0, time);
        let before = &self.history.push(Line { slot, time, before, after }).before;
        (before.version > 0).then_some(before)
    }

    /// Deletes a key at `revision`; gives back the row before, if it existed.
    pub(crate) fn delete(&mut self, key: &Key, revision: Revision, time: LogTime) -> Option<&Row> {
        let slot = self.rows.find(key)?;
        self.live_at(Some(slot))?;
        Some(self.delete_at(slot, revision, time))
    }

    /// Deletes the key of a slot at `revision`, which exists and has not fallen; gives back the row before.
    pub(crate) fn delete_at(&mut self, slot: Slot, revision: Revision, time: LogTime) -> &Row {
        let after = Row { modified: revision, line: self.history.end(), ..Row::default() };
        let before = self.rows.swap(slot, after.clone());
        let space = self.rows.at(slot).0.space;
        self.reindex(slot, space, &before, &after);
        &self.history.push(Line { slot, time, before, after }).before
    }

    /// Keys of a range that exist, in order.
    pub(crate) fn keys_in(&self, range: &KeyRange) -> Vec<Key> {
        self.slots_in(range)
            .filter(|slot| self.rows.at(*slot).1.version > 0)
            .map(|slot| self.rows.at(slot).0.clone())
            .collect()
    }

    /// How many rows a range has, no further than `max`.
    pub(crate) fn count_up_to(&self, range: &KeyRange, max: u64) -> u64 {
        self.slots_in(range).take(usize::try_from(max).unwrap_or(usize::MAX)).count() as u64
    }

    /// Keys of a keyspace that exist, in order.
    pub(crate) fn keys_of_space(&self, space: Keyspace) -> Vec<Key> {
        self.keys_in(&KeyRange { start: Key { space, name: Blob::EMPTY }, end: None })
    }

    /// Keys that exist and have a body, with it.
    pub(crate) fn bodied(&self) -> impl Iterator<Item = (&Key, BodyId)> {
        let live = self.rows.iter().filter(|(_, _, row)| row.version > 0 && row.kind.has_body());
        live.map(|(_, key, row)| (key, row.body))
    }

    /// Keys of a type that exist.
    pub(crate) fn of_kind(&self, kind: Kind) -> Vec<&Key> {
        let of = self.rows.iter().filter(|(_, _, row)| row.version > 0 && row.kind == kind);
        of.map(|(_, key, _)| key).collect()
    }

    /// Keys that hang on a lease, in the order of their names.
    pub(crate) fn keys_of(&self, lease: LeaseId) -> Vec<Key> {
        let of = (lease, Slot(0))..=(lease, Slot(u32::MAX));
        let there = self.by_lease.range(of).filter_map(|(_, slot)| self.at(*slot));
        let mut keys: Vec<Key> = there.map(|(key, _)| key.clone()).collect();
        // Slot numbers differ after a restore; names do not.
        keys.sort_unstable();
        keys
    }

    /// A key as it was at `at`.
    ///
    /// # Errors
    /// [`OpError::Compacted`], [`OpError::Future`].
    pub(crate) fn get_at(
        &self,
        key: &Key,
        at: Revision,
        current: Revision,
    ) -> Result<Option<KeyValue>, OpError> {
        self.readable(at, current)?;
        let row = self.rows.find(key).and_then(|slot| self.as_of(slot, at));
        row.map(|row| crate::commit::is_plain(key, row.kind).map(|()| view(key, row, false))).transpose()
    }

    /// Reads a range, at a revision if one is asked for.
    ///
    /// # Errors
    /// [`OpError::Compacted`], [`OpError::Future`].
    pub(crate) fn range(&self, read: &RangeRead, current: Revision) -> Result<RangeAnswer, OpError> {
        let at = read.at.unwrap_or(current);
        self.readable(at, current)?;
        let mut rows =
            self.slots_in(&read.range).filter_map(|slot| Some((slot, self.plain_as_of(slot, at)?)));
        if read.count_only {
            return Ok(RangeAnswer { count: rows.count() as u64, ..RangeAnswer::default() });
        }
        let limit = if read.limit == 0 { usize::MAX } else { read.limit as usize };
        let show = |(slot, row): (Slot, &Row)| view(&self.rows.at(slot).0, row, read.keys_only);
        if read.sort == Sort::Key && read.order == Order::Ascending {
            let keys: Vec<KeyValue> = rows.by_ref().take(limit).map(show).collect();
            let more = rows.next().is_some();
            return Ok(RangeAnswer { count: keys.len() as u64 + u64::from(more), keys, more });
        }
        let mut found: Vec<(Slot, &Row)> = rows.collect();
        found.sort_by(|a, b| {
            let order = match read.sort {
                Sort::Key => std::cmp::Ordering::Equal, // They come in this order, and the sort is stable.
                Sort::Version => a.1.version.cmp(&b.1.version),
                Sort::Create => a.1.created.cmp(&b.1.created),
                Sort::Mod => a.1.modified.cmp(&b.1.modified),
                Sort::Value => a.1.value.cmp(&b.1.value),
            };
            if read.order == Order::Descending { order.reverse() } else { order }
        });
        if read.sort == Sort::Key {
            found.reverse();
        }
        let count = found.len() as u64;
        let more = found.len() > limit;
        Ok(RangeAnswer { keys: found.into_iter().take(limit).map(show).collect(), count, more })
    }

    /// The plain values of a range, in order of their keys.
    pub(crate) fn plain_rows(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &Row)> {
        let rows = self.slots_in(range).map(|slot| self.rows.at(slot));
        rows.filter(|(_, row)| row.version > 0 && row.kind == Kind::Plain).map(|(key, row)| (key, row))
    }

    /// The places of the plain values of a range, in order of their names.
    pub(crate) fn plain_slots(&self, range: &KeyRange) -> Vec<Slot> {
        let plain = |slot: &Slot| {
            let row = &self.rows.at(*slot).1;
            row.version > 0 && row.kind == Kind::Plain
        };
        self.slots_in(range).filter(plain).collect()
    }

    /// Reads a range: see [`Select`].
    ///
    /// # Errors
    /// [`OpError::Compacted`], [`OpError::Future`].
    pub(crate) fn select(&self, select: &Select, current: Revision) -> Result<RangeAnswer, OpError> {
        let at = select.at.unwrap_or(current);
        let mut answer = Selection::of(select.clone());
        // Without a bound it goes to the end.
        self.gather(&mut answer, select.range.start.name.clone(), at, current, usize::MAX)?;
        Ok(answer.done())
    }

    /// Goes on with a read at a name, looking at no more than `max` keys; where it stopped, nothing at the end.
    ///
    /// # Errors
    /// As [`Keys::select`].
    pub(crate) fn gather(
        &self,
        into: &mut Selection,
        start: Blob,
        at: Revision,
        current: Revision,
        max: usize,
    ) -> Result<Option<Blob>, OpError> {
        self.readable(at, current)?;
        let space = into.select.range.start.space;
        let range = KeyRange { start: Key { space, name: start }, end: into.select.range.end.clone() };
        for (looked, slot) in self.slots_in(&range).enumerate() {
            if looked == max {
                return Ok(Some(self.rows.at(slot).0.name.clone()));
            }
            if let Some(row) = self.plain_as_of(slot, at) {
                into.take(&self.rows.at(slot).0, row);
            }
        }
        Ok(None)
    }

    /// Changes of plain values of a keyspace from revision `from` on, until `bytes_max` of them were found or `lines_max` lines looked at;
    /// whole revisions only. A key that becomes or was of another type counts as deleted or new.
    ///
    /// # Errors
    /// [`OpError::Compacted`] when some of them are forgotten.
    pub(crate) fn plain_changes(
        &self,
        space: Keyspace,
        range: Option<&KeyRange>,
        from: Revision,
        (lines_max, bytes_max): (usize, usize),
        current: Revision,
    ) -> Result<Changes, OpError> {
        if from <= self.compacted {
            return Err(OpError::Compacted { asked: from, oldest: self.compacted.next() });
        }
        let mut changes: Vec<Change> = Vec::new();
        let (mut bytes, mut last) = (0, from);
        for (looked, line) in self.history.since(from).enumerate() {
            let revision = line.after.modified;
            if (looked >= lines_max || bytes >= bytes_max) && revision != last {
                return Ok(Changes { changes, next: revision });
            }
            last = revision;
            let key = &self.rows.at(line.slot).0;
            if key.space != space || range.is_some_and(|range| !range.contains(key)) {
                continue;
            }
            let plain = |row: &Row| row.version > 0 && row.kind == Kind::Plain;
            if !plain(&line.before) && !plain(&line.after) {
                continue;
            }
            let show = |row: &Row| plain(row).then(|| view(key, row, false));
            bytes += key.name.len() + line.after.value.len() + line.before.value.len() + 64;
            changes.push(Change {
                revision,
                key: key.clone(),
                now: show(&line.after),
                prev: show(&line.before),
            });
        }
        Ok(Changes { changes, next: current.next().max(from) })
    }

    /// Changes of a range from revision `from` on, about `max` of them, whole revisions only.
    ///
    /// # Errors
    /// [`OpError::Compacted`] when some of them are forgotten.
    pub(crate) fn changes(
        &self,
        range: &KeyRange,
        from: Revision,
        max: usize,
        current: Revision,
    ) -> Result<Changes, OpError> {
        if from <= self.compacted {
            return Err(OpError::Compacted { asked: from, oldest: self.compacted.next() });
        }
        let mut changes: Vec<Change> = Vec::new();
        for line in self.history.since(from) {
            let revision = line.after.modified;
            if changes.len() >= max && changes.last().is_some_and(|last| last.revision != revision) {
                return Ok(Changes { changes, next: revision });
            }
            let key = &self.rows.at(line.slot).0;
            // A stream has no value to tell of; who watches it reads it.
            let is_stream = line.before.kind == Kind::Stream || line.after.kind == Kind::Stream;
            if range.contains(key) && !is_stream {
                let show = |row: &Row| (row.version > 0).then(|| view(key, row, false));
                changes.push(Change {
                    revision,
                    key: key.clone(),
                    now: show(&line.after),
                    prev: show(&line.before),
                });
            }
        }
        Ok(Changes { changes, next: current.next().max(from) })
    }

    /// Keys that changed at or after a revision, as far as history tells: for waking watchers.
    pub(crate) fn touched_since(&self, from: Revision) -> impl Iterator<Item = &Key> {
        self.history.since(from).map(|line| &self.rows.at(line.slot).0)
    }

    /// The first key of a range that changed after `since`.
    ///
    /// # Errors
    /// The oldest revision of which this can be told.
    pub(crate) fn changed_since(
        &self,
        range: &KeyRange,
        since: Revision,
        current: Revision,
    ) -> Result<Option<(Key, Revision)>, Revision> {
        if since < self.compacted || since > current {
            return Err(self.compacted);
        }
        // Whichever is likely shorter: the lines since then, or the rows of the range (deleted ones still have theirs).
        const LINES_FEW: u64 = 1000;
        if self.history.lines_since(since.next()) <= LINES_FEW {
            let mut lines = self.history.since(since.next());
            return Ok(lines.find_map(|line| {
                let key = &self.rows.at(line.slot).0;
                range.contains(key).then(|| (key.clone(), line.after.modified))
            }));
        }
        Ok(self
            .slots_in(range)
            .map(|slot| self.rows.at(slot))
            .find(|(_, row)| row.modified > since)
            .map(|(key, row)| (key.clone(), row.modified)))
    }

    /// Forgets history beyond the window. Between commits only: what it drops cannot be rolled back.
    pub(crate) fn compact(&mut self, window: Window, current: Revision, time: LogTime) {
        while let Some(line) = self.history.front() {
            let old = line.after.modified.0.saturating_add(window.revisions) < current.0
                || line.time.0.saturating_add(window.age_ns) < time.0
                || self.history.bytes > window.bytes;
            if !old {
                return;
            }
            self.drop_line();
        }
    }

    /// Forgets every change before revision `before`.
    pub(crate) fn compact_before(&mut self, before: Revision) {
        while self.history.front().is_some_and(|line| line.after.modified < before) {
            self.drop_line();
        }
        // Nothing was retained below it, so nothing below it can be read any more.
        self.compacted = self.compacted.max(Revision(before.0.saturating_sub(1)));
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { lines: self.history.end(), weighed: self.weighed.len(), notes: self.notes.len() }
    }

    pub(crate) fn rollback(&mut self, mark: &Mark) {
        while self.history.end() > mark.lines || self.notes.len() > mark.notes {
            let noted = |note: &mut Note| note.line == self.history.end();
            if let Some(note) = self.notes.pop_if(noted) {
                self.take_back(note.what);
                continue;
            }
            let Line { slot, before, after, .. } = self.history.pop_back();
            let key = self.rows.at(slot).0.clone();
            let space = key.space;
            self.reindex(slot, space, &after, &before);
            if before != Row::default() && self.has_fallen(space, &before) {
                self.unindex(&key);
            }
            if before == Row::default() {
                self.unindex(&key);
                self.rows.take_back(slot);
            } else {
                self.rows.swap(slot, before);
            }
        }
        self.unweigh(mark.weighed);
    }

    /// Takes back what elements have added and taken, but for the first `left` changes.
    fn unweigh(&mut self, left: usize) {
        while self.weighed.len() > left {
            let (space, before, after) = self.weighed.pop().expect("the length was just checked");
            self.count_bytes(space, after, before);
        }
    }

    pub(crate) fn forget(&mut self) {
        self.weighed.clear();
        self.rows.forget();
        for note in self.notes.drain(..) {
            if let Noted::Emptied { names: Some(names), .. } = note.what {
                self.dead.push(names.into_leaves());
            }
        }
    }

    /// Empties a keyspace at `revision`, whatever its size: what came before is not told any more, and cannot be read.
    pub(crate) fn empty(&mut self, space: Keyspace, revision: Revision) {
        let line = self.history.end();
        let (compacted, sweep) = (self.compacted, self.sweep);
        self.compacted = self.compacted.max(revision);
        let end = self.rows.slots();
        // There may be fewer slots than there were.
        let next = if sweep.next < end { sweep.next } else { 0 };
        self.sweep = Sweep { next, left: end, end };
        let what = Noted::Emptied {
            space,
            since: self.fallen.insert(space, line),
            names: self.ordered.remove(&space),
            live: self.live.remove(&space),
            bytes: self.bytes.remove(&space),
            weighed: self.weighed.len(),
            compacted,
            sweep,
        };
        self.notes.push(Note { line, what });
    }

    fn take_back(&mut self, what: Noted) {
        match what {
            Noted::Emptied { space, since, names, live, bytes, weighed, compacted, sweep } => {
                // What came after it comes to nothing; what came before is taken back from what there was.
                self.unweigh(weighed);
                match since {
                    Some(since) => self.fallen.insert(space, since),
                    None => self.fallen.remove(&space),
                };
                names.map(|names| self.ordered.insert(space, names));
                live.map(|live| self.live.insert(space, live));
                bytes.map(|bytes| self.bytes.insert(space, bytes));
                (self.compacted, self.sweep) = (compacted, sweep);
            }
            Noted::Shed(slot, row) => {
                let husk = self.rows.swap(slot, row.clone());
                self.rehung(slot, &husk, &row);
            }
        }
    }

    /// Whether anything was noted since.
    pub(crate) fn has_noted(&self, since: &Mark) -> bool {
        self.notes.len() > since.notes
    }

    /// Whether there are fallen rows still.
    pub(crate) fn sweeps(&self) -> bool {
        !self.fallen.is_empty()
    }

    /// Whether values that the history forgot wait to be freed. That is no state: replicas may differ in it.
    pub(crate) fn frees(&self) -> bool {
        !self.history.dead.is_empty()
    }

    /// Frees some of them.
    pub(crate) fn free_some(&mut self) {
        self.history.free_some();
    }

    /// Takes from a fallen row all that it has, so that nothing ends it and it may be written over; its body goes to the caller. Nothing for a row
    /// that has not fallen, or has nothing.
    pub(crate) fn shed(&mut self, slot: Slot) -> Option<BodyId> {
        let (key, row) = self.rows.at(slot);
        if row.version == 0 || !self.has_fallen(key.space, row) {
            return None;
        }
        let husk = Row { modified: row.modified, line: row.line, ..Row::default() };
        let row = self.rows.swap(slot, husk.clone());
        self.rehung(slot, &row, &husk);
        let body = row.body;
        self.notes.push(Note { line: self.history.end(), what: Noted::Shed(slot, row) });
        Some(body).filter(|body| *body != BodyId::NONE)
    }

    /// Frees some of what has fallen, between commands: first the lines that tell of it, then the rows, `max` at once. The bodies go to the caller.
    pub(crate) fn sweep(&mut self, max: usize, mut body: impl FnMut(BodyId, &Key)) {
        if let Some(names) = self.dead.last_mut()
            && names.by_ref().take(max).count() < max
        {
            self.dead.pop();
        }
        let Some(since) = self.fallen.values().max().copied() else { return };
        for _ in 0..max {
            if self.history.first >= since || self.history.len == 0 {
                break;
            }
            self.drop_line();
        }
        if self.history.first < since && self.history.len > 0 {
            return;
        }
        // To look at an empty slot is cheap, beside freeing a row.
        let (mut looks, mut frees) = (max * 16, max);
        while looks > 0 && frees > 0 && self.sweep.left > 0 {
            let slot = Slot(if self.sweep.next < self.sweep.end { self.sweep.next } else { 0 });
            looks -= 1;
            self.sweep.left -= 1;
            self.sweep.next = slot.0 + 1;
            let Some((key, row)) = self.rows.holds(slot).filter(|(key, row)| self.has_fallen(key.space, row))
            else {
                continue;
            };
            let (key, row) = (key.clone(), row.clone());
            if row.body != BodyId::NONE {
                body(row.body, &key);
            }
            self.rehung(slot, &row, &Row::default());
            self.rows.remove(slot);
            frees -= 1;
        }
        if self.sweep.left == 0 {
            self.fallen.clear();
            self.sweep = Sweep::default();
        }
    }

    /// Whether a restored state is of one piece; otherwise what is not.
    pub(crate) fn verify(
        &self,
        live: impl Fn(LeaseId) -> bool,
        revision: Revision,
        bytes_max: u64,
    ) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        sound(self.compacted <= revision && self.history.first < 1 << 62, "number of a history line")?;
        sound(self.history.bytes <= bytes_max, "bytes of history")?;
        let mut last = Revision::ZERO;
        for (number, line) in (self.history.first..).zip(self.history.iter()) {
            let back = line.before.line < number || line.before == Row::default();
            let Line { before, after, .. } = line;
            sound(after.line == number && back && before.modified <= after.modified, "history line")?;
            sound(last <= after.modified && after.modified <= revision, "revision of a history line")?;
            last = after.modified;
        }
        sound(
            self.fallen.values().all(|since| *since <= self.history.end()),
            "line since a keyspace is empty",
        )?;
        let within = self.sweep.left <= self.sweep.end && self.sweep.next <= self.sweep.end;
        sound(within, "slot where fallen rows are looked for")?;
        for (slot, key, row) in self.rows.iter() {
            let line = self.history.line(row.line);
            let told = line.is_some_and(|line| line.slot == slot && line.after == *row);
            let fell = self.has_fallen(key.space, row);
            let untold = row.line < self.history.first && row.version > 0;
            sound(told || untold || fell, "line of a key")?;
            sound(row.modified <= revision && row.created <= row.modified, "revision of a key")?;
            let leased = row.version > 0 && !fell && row.lease() != LeaseId::ZERO;
            sound(!leased || live(row.lease()), "lease of a key")?;
            let bodied = row.version > 0 && row.kind.has_body();
            sound(bodied == (row.body != BodyId::NONE), "elements of a key")?;
        }
        Ok(())
    }

    /// Panics when an index and the rows disagree.
    pub(crate) fn check(&self) {
        let mut live: BTreeMap<Keyspace, u64> = BTreeMap::new();
        let (mut leased, mut due_log, mut due_wall) = (0, 0, 0);
        let mut fallen = 0;
        for (slot, key, row) in self.rows.iter() {
            let fell = self.has_fallen(key.space, row);
            assert_eq!(
                self.ordered.get(&key.space).and_then(|names| names.get(&key.name, self.named())),
                (!fell).then_some(slot),
                "ordered names {key}"
            );
            fallen += usize::from(fell);
            if row.version > 0 && !fell {
                *live.entry(key.space).or_default() += 1;
            }
            match row.hang() {
                _ if row.version == 0 => {
                    assert_eq!(row.hang(), Hang::Nothing, "what is gone hangs on nothing: {key}")
                }
                Hang::Nothing => {}
                Hang::Lease(lease) => {
                    assert!(self.by_lease.contains(&(lease, slot)), "by_lease names {key}");
                    leased += 1;
                }
                Hang::Until(Deadline::Log(time)) => {
                    assert!(self.due_log.contains(&(time, slot)), "due_log names {key}");
                    due_log += 1;
                }
                Hang::Until(Deadline::Wall(wall)) => {
                    assert!(self.due_wall.contains(&(wall, slot)), "due_wall names {key}");
                    due_wall += 1;
                }
            }
            if row.version == 0 && !fell {
                assert!(row.line >= self.history.first, "a deleted key {key} goes with its line");
            }
        }
        assert_eq!(live, self.live, "live counts the keys that exist");
        assert_eq!(leased, self.by_lease.len(), "by_lease names leased keys only");
        assert_eq!(
            (due_log, due_wall),
            (self.due_log.len(), self.due_wall.len()),
            "what is due has a deadline"
        );
        assert_eq!(
            self.ordered.values().map(Names::len).sum::<usize>(),
            self.rows.len() - fallen,
            "ordered names rows only"
        );
        assert_eq!(
            self.history.iter().map(Line::bytes).sum::<u64>(),
            self.history.bytes,
            "history counts its bytes"
        );
    }

    /// Keeps `by_lease`, what is due, `live` and `bytes` in step with a row that went from one state to another.
    fn reindex(&mut self, slot: Slot, space: Keyspace, from: &Row, to: &Row) {
        self.rehung(slot, from, to);
        let key = &self.rows.at(slot).0;
        let (less, more) = (row_bytes(key, from), row_bytes(key, to));
        if less != more {
            self.count_bytes(space, less, more);
        }
        match (from.version > 0, to.version > 0) {
            (false, true) => *self.live.entry(space).or_default() += 1,
            (true, false) => {
                let live = self.live.get_mut(&space).expect("a key that existed was counted");
                *live -= 1;
                if *live == 0 {
                    self.live.remove(&space);
                }
            }
            _ => {}
        }
    }

    /// Keeps `by_lease` and what is due in step, as far as they go by what a row hangs on.
    fn rehung(&mut self, slot: Slot, from: &Row, to: &Row) {
        if (from.hung, from.hang) != (to.hung, to.hang) {
            match from.hang() {
                Hang::Nothing => false,
                Hang::Lease(lease) => self.by_lease.remove(&(lease, slot)),
                Hang::Until(Deadline::Log(time)) => self.due_log.remove(&(time, slot)),
                Hang::Until(Deadline::Wall(wall)) => self.due_wall.remove(&(wall, slot)),
            };
            match to.hang() {
                Hang::Nothing => false,
                Hang::Lease(lease) => self.by_lease.insert((lease, slot)),
                Hang::Until(Deadline::Log(time)) => self.due_log.insert((time, slot)),
                Hang::Until(Deadline::Wall(wall)) => self.due_wall.insert((wall, slot)),
            };
        }
    }

    fn index(&mut self, slot: Slot, key: &Key) {
        let rows = &self.rows;
        self.ordered.entry(key.space).or_default().insert(&key.name, slot, |slot| &rows.at(slot).0.name);
    }

    fn unindex(&mut self, key: &Key) {
        if let Some(names) = self.ordered.get_mut(&key.space) {
            names.remove(&key.name, |slot| &self.rows.at(slot).0.name);
            if names.is_empty() {
                self.ordered.remove(&key.space);
            }
        }
    }

    fn drop_line(&mut self) {
        let number = self.history.first;
        let front = self.history.front().expect("the caller saw it");
        let (slot, revision) = (front.slot, front.after.modified);
        // A look at the row costs a cache miss: only the line of a deletion can be its last. A fallen row is the sweep's.
        let deleted = front.after.version == 0 && {
            let (key, row) = self.rows.at(slot);
            row.version == 0 && row.line == number && !self.has_fallen(key.space, row)
        };
        self.history.pop_front(|| self.rows.at(slot).0.clone());
        self.compacted = self.compacted.max(revision);
        if deleted {
            let key = self.rows.at(slot).0.clone();
            self.unindex(&key);
            self.rows.remove(slot);
        }
    }

    fn slots_in(&self, range: &KeyRange) -> impl DoubleEndedIterator<Item = Slot> {
        let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.ordered.get(&range.start.space).into_iter();
        let within =
            names.map(move |names| names.range(Bound::Included(&range.start.name), end, self.named()));
        within.flatten()
    }

    /// How the name of a slot that is indexed is found.
    fn named<'a>(&'a self) -> impl Fn(Slot) -> &'a Blob {
        |slot| &self.rows.at(slot).0.name
    }

    pub(crate) fn readable(&self, at: Revision, current: Revision) -> Result<(), OpError> {
        if at < self.compacted {
            return Err(OpError::Compacted { asked: at, oldest: self.compacted });
        }
        if at > current { Err(OpError::Future { asked: at, current }) } else { Ok(()) }
    }

    /// As [`Keys::as_of`], for a plain value: other types have none that could be shown.
    fn plain_as_of(&self, slot: Slot, at: Revision) -> Option<&Row> {
        self.as_of(slot, at).filter(|row| row.kind == Kind::Plain)
    }

    /// The row at revision `at`, which must be readable; nothing if the key did not exist then.
    fn as_of(&self, slot: Slot, at: Revision) -> Option<&Row> {
        let (key, mut row) = (&self.rows.at(slot).0, &self.rows.at(slot).1);
        while row.modified > at {
            row = &self.history.line(row.line)?.before;
        }
        self.lives(key, row).then_some(row)
    }
}

pub(crate) fn view(key: &Key, row: &Row, keys_only: bool) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value: if keys_only { Blob::EMPTY } else { row.value.clone() },
        create_revision: row.created,
        mod_revision: row.modified,
        version: Version(row.version),
        lease: row.lease(),
    }
}

const CHUNK: usize = 1024;
/// A smaller value is freed with its line.
const DEAD_BYTES_MIN: usize = 512;
/// Values, and bytes of them, that an entry frees: a few milliseconds.
const FREED_PER_ENTRY: usize = 4096;
const FREED_BYTES_PER_ENTRY: u64 = 32 << 20;

/// Lines in the order of their revisions, numbered from the first ever.
#[derive(Default)]
struct History {
    /// All full but the last; the first `start` lines of the first are gone.
    chunks: VecDeque<Vec<Line>>,
    start: usize,
    /// Number of the first line retained.
    first: u64,
    len: u64,
    bytes: u64,
    /// Values of lines that are gone and that nothing else has, perhaps: to free 62,499 of 4 KiB takes 60 ms, so an entry frees some.
    dead: Vec<Blob>,
    /// A chunk that was used up, for the next one: asking the allocator for so much each time costs page faults.
    spare: Vec<Line>,
    walk: Option<HistoryWalk>,
}

struct HistoryWalk {
    next: u64,
    end: u64,
    /// Lines from `next` on that were dropped since the walk began.
    saved: VecDeque<(Key, Line)>,
}

impl History {
    fn end(&self) -> u64 {
        self.first + self.len
    }

    fn push(&mut self, line: Line) -> &Line {
        if self.chunks.back().is_none_or(|chunk| chunk.len() == CHUNK) {
            let mut chunk = std::mem::take(&mut self.spare);
            chunk.reserve_exact(CHUNK);
            self.chunks.push_back(chunk);
        }
        self.bytes += line.bytes();
        self.len += 1;
        let chunk = self.chunks.back_mut().expect("one was just made");
        chunk.push(line);
        chunk.last().expect("it was just pushed")
    }

    fn pop_back(&mut self) -> Line {
        let chunk = self.chunks.back_mut().expect("the caller knows that there is a line");
        let line = chunk.pop().expect("no chunk is empty");
        if chunk.is_empty() {
            self.chunks.pop_back();
        }
        self.bytes -= line.bytes();
        self.len -= 1;
        line
    }

    fn front(&self) -> Option<&Line> {
        self.line(self.first)
    }

    /// Drops the first line; `key` tells whose it is. Its bytes are freed, its place is when the chunk is used up.
    fn pop_front(&mut self, key: impl FnOnce() -> Key) {
        let line = &mut self.chunks.front_mut().expect("the caller saw a line")[self.start];
        let bytes = line.bytes();
        if let Some(walk) = &mut self.walk
            && (walk.next..walk.end).contains(&self.first)
        {
            walk.saved.push_back((key(), line.clone()));
        }
        if bytes > size_of::<Line>() as u64 {
            for value in [&mut line.before.value, &mut line.after.value] {
                let value = std::mem::replace(value, Blob::EMPTY);
                if value.len() >= DEAD_BYTES_MIN {
                    self.dead.push(value);
                }
            }
        }
        self.bytes -= bytes;
        self.start += 1;
        if self.start == CHUNK || self.len == 1 {
            self.spare = self.chunks.pop_front().expect("the caller saw a line");
            self.spare.clear();
            self.start = 0;
        }
        self.first += 1;
        self.len -= 1;
    }

    /// Frees some of the values that went with their lines.
    fn free_some(&mut self) {
        let (mut values, mut bytes) = (FREED_PER_ENTRY, FREED_BYTES_PER_ENTRY);
        while values > 0
            && bytes > 0
            && let Some(value) = self.dead.pop()
        {
            (values, bytes) = (values - 1, bytes.saturating_sub(value.len() as u64));
        }
        if self.dead.is_empty() {
            self.dead.shrink_to(FREED_PER_ENTRY);
        }
    }

    fn line(&self, number: u64) -> Option<&Line> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()? + self.start;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    fn iter(&self) -> impl Iterator<Item = &Line> {
        self.chunks.iter().flatten().skip(self.start)
    }

    fn first_since(&self, from: Revision) -> u64 {
        let (mut low, mut high) = (self.first, self.end());
        while low < high {
            let middle = low + (high - low) / 2;
            let line = self.line(middle).expect("it lies between the first line and the last");
            if line.after.modified < from { low = middle + 1 } else { high = middle }
        }
        low
    }

    fn lines_since(&self, from: Revision) -> u64 {
        self.end() - self.first_since(from)
    }

    fn since(&self, from: Revision) -> impl Iterator<Item = &Line> {
        (self.first_since(from)..self.end()).filter_map(|number| self.line(number))
    }
}

/// Snapshot: rows, then history lines, then the numbers.
impl Keys {
    pub(crate) fn walk_begin(&mut self) {
        self.rows.walk_begin();
        self.history.walk =
            Some(HistoryWalk { next: self.history.first, end: self.history.end(), saved: VecDeque::new() });
    }

    pub(crate) fn walk_rows(&mut self, slots_max: usize, out: &mut Writer) -> (usize, bool) {
        self.rows.walk_next(slots_max, out)
    }

    pub(crate) fn walk_lines(&mut self, lines_max: usize, out: &mut Writer) -> (usize, bool) {
        let Some(mut walk) = self.history.walk.take() else { return (0, true) };
        let mut emitted = 0;
        while emitted < lines_max && walk.next < walk.end {
            match walk.saved.pop_front() {
                Some((key, line)) => put_line(&key, &line, out),
                None => {
                    let line =
                        self.history.line(walk.next).expect("lines ahead of the walk are there or saved");
                    put_line(&self.rows.at(line.slot).0, line, out);
                }
            }
            walk.next += 1;
            emitted += 1;
        }
        let over = walk.next == walk.end;
        self.history.walk = Some(walk);
        (emitted, over)
    }

    pub(crate) fn walk_end(&mut self) {
        self.rows.walk_end();
        self.history.walk = None;
    }

    /// The numbers a snapshot needs beside rows and lines; taken when the walk begins.
    pub(crate) fn scalars(&self) -> (u64, u64) {
        (self.compacted.0, self.history.first)
    }

    pub(crate) fn restore_scalars(&mut self, compacted: u64, first: u64) {
        self.compacted = Revision(compacted);
        self.history.first = first;
    }

    /// Writes which keyspaces were emptied at once and hold fallen rows still.
    pub(crate) fn put_fallen(&self, out: &mut Writer) {
        out.varint(self.fallen.len() as u64);
        for (space, since) in &self.fallen {
            space.put(out);
            since.put(out);
        }
        self.sweep.next.put(out);
        self.sweep.left.put(out);
        self.sweep.end.put(out);
    }

    pub(crate) fn restore_fallen(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        for _ in 0..from.varint()? {
            let (space, since) = (Keyspace::take(from)?, u64::take(from)?);
            self.fallen.insert(space, since);
        }
        self.sweep = Sweep { next: u32::take(from)?, left: u32::take(from)?, end: u32::take(from)? };
        Ok(())
    }

    /// `version` is that of the snapshot.
    pub(crate) fn restore_row(&mut self, version: u64, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let slot = if version < 3 {
            self.rows.restore_first(from, Row::take_first)?
        } else {
            self.rows.restore_row(from)?
        };
        let (key, row) = self.rows.at(slot).clone();
        let fell = self.has_fallen(key.space, &row);
        if row.version == 0 && row.hang() != Hang::Nothing {
            return Err(DecodeError::Range {
                what: "a deleted key that hangs on something, line",
                found: row.line,
            });
        }
        if fell {
            self.rehung(slot, &Row::default(), &row);
        } else {
            self.index(slot, &key);
            self.reindex(slot, key.space, &Row::default(), &row);
        }
        Ok(())
    }

    /// Gives a restored key its elements, of so many bytes.
    pub(crate) fn restore_body(&mut self, slot: Slot, body: BodyId, bytes: u64) {
        let (key, mut row) = self.rows.at(slot).clone();
        if self.lives(&key, &row) {
            self.weigh(key.space, 0, bytes);
        }
        row.body = body;
        self.rows.swap(slot, row);
    }

    pub(crate) fn restore_line(&mut self, version: u64, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let row = if version < 3 { Row::take_first } else { <Row as Wire>::take };
        let key = Key::take(from)?;
        let time = LogTime::take(from)?;
        let before = row(from)?;
        let after = row(from)?;
        let slot = self
            .rows
            .find(&key)
            .ok_or(DecodeError::Range { what: "history line without its key, line", found: after.line })?;
        self.history.push(Line { slot, time, before, after });
        Ok(())
    }

    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let mut sum = self.rows.digest(scratch);
        for line in self.history.iter() {
            scratch.clear();
            put_line(&self.rows.at(line.slot).0, line, scratch);
            sum = sum.wrapping_add(table_digest(scratch));
        }
        if self.sweeps() {
            scratch.clear();
            self.put_fallen(scratch);
            sum = sum.wrapping_add(table_digest(scratch));
        }
        sum.wrapping_add(u128::from(self.compacted.0) << 64 | u128::from(self.history.first))
    }
}

fn put_line(key: &Key, line: &Line, out: &mut Writer) {
    key.put(out);
    line.time.put(out);
    line.before.put(out);
    line.after.put(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_key_hash_as_it_does() {
        let keys = Keys::new(7);
        let key = Key { space: Keyspace(3), name: "a name that is longer than what lies inline".into() };
        assert_eq!(keys.hash_of(key.space, &key.name), keys.hash(&key));
    }
}
