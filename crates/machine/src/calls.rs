//! Calls: the machine as the store over which Redis' commands are decided.
//!
//! Read [`Machine::call`] (reads, at the reader's times) and [`Machine::call_op`] (one operation of a commit). What a command means is
//! decided in the crate `quorate-calls`; here is only what keys, types and deadlines are.
//!
//! Invariant: a key whose deadline has passed by the times of the last entry is not there, nor is a field of a hash, whether or not it has been
//! ended yet. A clock of now hides nothing: a read waits for an entry that ends what is due, so that what one read has found gone no later one
//! finds again.
//! Invariant: a hash goes with its last field, also when that field's deadline passes.
//! Invariant: an operation that fails has changed nothing: its commit rolls it back.
//! Called by: `commit::op`; gateways, through the node's reads.

mod streams;

use crate::bodies::{BodyId, kind_of};
use crate::commit::Context;
use crate::keys::{Hang, Kind, Row};
use crate::rows::Slot;
use crate::users::{Rights, refused};
use crate::{Event, Machine, Now, Outputs};
use quorate_calls::collections::{Change, Changed, Long, Value};
use quorate_calls::events::{Classes, KeyChange, What};
use quorate_calls::streams::{ChangeStreams, LookStreams};
use quorate_calls::{Deadline, Error, Found, Library, Look, NoScripts, Session, Spec, Store, Usage};
use quorate_types::{
    Blob, Eviction, Key, Keyspace, LogTime, Mode, OpError, OpResult, Payload, Reply, Verbs, WallTime,
};

/// The times of now as a reader knows them, at or after those of the last entry: they tell how much is left of what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// For absolute deadlines.
    pub wall: WallTime,
    /// For relative ones.
    pub time: LogTime,
}

impl Machine {
    /// Answers a call that only reads. `times` are those of now. `seed` is for the random ones.
    ///
    /// # Errors
    /// In Redis' words; also when the command could change something.
    pub fn call(
        &self,
        times: Times,
        session: &mut Session,
        words: &[Blob],
        seed: u64,
    ) -> Result<Reply, Error> {
        self.call_as(&Rights::Everything, times, session, words, seed)
    }

    /// As [`Machine::call`], of somebody who may only so much; of a SCAN it is shown the names that it may do something to.
    ///
    /// # Errors
    /// As [`Machine::call`]; `NOPERM`.
    pub fn call_as(
        &self,
        rights: &Rights,
        times: Times,
        session: &mut Session,
        words: &[Blob],
        seed: u64,
    ) -> Result<Reply, Error> {
        quorate_calls::read(&self.view(rights, times, words), session, words, seed)
    }

    /// As [`Machine::call_as`], for who can hand out an answer in slices: one of many elements is left in `long`, and the reply is nil.
    ///
    /// # Errors
    /// As for [`Machine::call_as`].
    pub fn call_long(
        &self,
        rights: &Rights,
        times: Times,
        session: &mut Session,
        words: &[Blob],
        seed: u64,
        long: &mut Option<Long>,
    ) -> Result<Reply, Error> {
        quorate_calls::read_long(&self.view(rights, times, words), session, words, seed, long)
    }

    /// What a reader with these rights sees; its clock is never behind the last entry's.
    fn view<'a>(&'a self, rights: &'a Rights, times: Times, words: &[Blob]) -> View<'a> {
        let times = Times { wall: times.wall.max(self.wall), time: times.time.max(self.time) };
        let notes = self.keys.notes_uses() && quorate_calls::uses(words);
        View { machine: self, times, rights, notes }
    }

    /// Runs a call as an operation of a commit. `record` is what an XADD appends, if it came beside the words.
    pub(crate) fn call_op(
        &mut self,
        context: &Context<'_>,
        (space, words, record): (Keyspace, &[Blob], Option<&Payload>),
        mode: Mode,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        if self.version < CALLS_SINCE {
            let text = "ERR some node of the cluster does not know calls yet: upgrade it, nothing was done";
            return Err(OpError::Call { text: text.into() });
        }
        let mut interpreter = std::mem::replace(&mut self.interpreter, Box::new(NoScripts));
        let session = Session::new(space).after(self.touches);
        let mut session = if record.is_some() { session.recorded() } else { session };
        let rights = self.rights(context.principal);
        let notes = self.keys.notes_uses() && quorate_calls::uses(words);
        let mut effects = Effects { machine: self, context, record, notes, out, rights };
        let answer = quorate_calls::write(&mut effects, &mut *interpreter, &mut session, words);
        self.interpreter = interpreter;
        self.key_changes.clear();
        self.touches = session.touched();
        match answer {
            Ok(Reply::Error { text }) if mode == Mode::Atomic => Err(OpError::Call { text }),
            Ok(reply) => Ok(OpResult::Reply { reply }),
            Err(Error::Reply(text) | Error::Abort(text)) => Err(OpError::Call { text }),
        }
    }
}

/// The version of the rules that brought calls.
pub const CALLS_SINCE: u32 = 2;

fn passed(row: &Row, times: Times) -> bool {
    row.deadline().is_some_and(|deadline| match deadline {
        Deadline::Log(time) => time <= times.time,
        Deadline::Wall(wall) => wall <= times.wall,
    })
}

/// The state, and the times of now.
#[derive(Clone, Copy)]
struct View<'a> {
    machine: &'a Machine,
    times: Times,
    rights: &'a Rights,
    /// Whether a look counts as a use.
    notes: bool,
}

impl<'a> View<'a> {
    /// The times of the last entry, or of the one in hand.
    fn applied(self) -> Times {
        Times { wall: self.machine.wall, time: self.machine.time }
    }

    fn passed(self, row: &Row) -> bool {
        self.machine.passed(row, self.applied())
    }

    fn row(self, key: &Key) -> Option<&'a Row> {
        let row = self.machine.keys.get(key)?;
        (!self.passed(row)).then_some(row)
    }

    fn found(self, key: &Key) -> Option<Found<'a>> {
        let keys = &self.machine.keys;
        let slot = keys.find(key);
        let (Some(row), Some(slot)) = (keys.live_at(slot), slot) else {
            // A protected stream has no row.
            return self.machine.streams.is_there(key).then_some(Found::Stream);
        };
        if self.passed(row) {
            return None;
        }
        if self.notes {
            keys.used(slot, self.times.time);
        }
        Some(match row.kind {
            Kind::Plain => Found::String(&row.value),
            Kind::Stream => Found::Stream,
            _ => self.machine.bodies.get(row.body).found(self.machine.wall, self.machine.time),
        })
    }

    fn names(self, space: Keyspace, cursor: u64, max: usize) -> (Vec<Blob>, u64) {
        let Ok(from) = u32::try_from(cursor) else { return (Vec::new(), 0) };
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let (slots, next) = self.machine.keys.scan(space, from, max);
        let rows = slots.iter().filter_map(|slot| self.machine.keys.at(*slot));
        let shown = rows.filter(|(key, row)| !self.passed(row) && self.shows(key));
        let names = shown.map(|(key, _)| key.name.clone());
        (names.collect(), u64::from(next))
    }

    /// A slot at random is fair; where keys are sparse among the slots, or other keyspaces fill them, a name near random bytes will do.
    fn any_name(self, space: Keyspace, random: u64) -> Option<Blob> {
        const TRIES: u64 = 64;
        let keys = &self.machine.keys;
        let mine = |(key, row): &(&Key, &Row)| key.space == space && !self.passed(row) && self.shows(key);
        let there = |slot| keys.at(slot).filter(mine);
        let slots = u64::from(keys.slots().max(1));
        let mut draw = random;
        for _ in 0..TRIES {
            draw = xxhash_rust::xxh3::xxh3_64(&draw.to_le_bytes());
            if let Some((key, _)) = there(Slot((draw % slots) as u32)) {
                return Some(key.name.clone());
            }
        }
        let near = Blob::copy_from(&draw.to_be_bytes());
        there(keys.some_key(space, &near)?).map(|(key, _)| key.name.clone())
    }

    /// Whether whoever looks may do something to a key: of others it is not told that they are there.
    fn shows(self, key: &Key) -> bool {
        self.rights.name(Verbs::NONE, key.space, &key.name).is_ok()
    }

    fn allows(self, spec: &Spec, space: Keyspace, words: &[Blob]) -> Result<(), Error> {
        self.rights.call(spec, space, words).map_err(|denied| refused(&denied))
    }

    fn usage_of(self, key: &Key) -> Option<Usage> {
        self.row(key)?;
        let slot = self.machine.keys.find(key)?;
        let used = self.machine.keys.use_of(slot, self.times.time);
        let eviction = self.machine.memory(key.space).limit.eviction;
        let by_frequency = matches!(eviction, Eviction::AllLfu | Eviction::VolatileLfu);
        Some(Usage {
            idle_seconds: used.idle_ns / 1_000_000_000,
            frequency: by_frequency.then_some(used.count),
        })
    }

    fn kept_script(self, sha: &[u8; 20]) -> Option<&'a Blob> {
        self.machine.scripts.get(&Blob::copy_from(sha))
    }
}

/// Everything that is read is read through a [`View`].
macro_rules! look {
    ($name:ty) => {
        impl Look for $name {
            fn wall(&self) -> WallTime {
                self.view().applied().wall
            }
            fn time(&self) -> LogTime {
                self.view().applied().time
            }
            fn clock(&self) -> (WallTime, LogTime) {
                let times = self.view().times;
                (times.wall, times.time)
            }
            fn find(&self, key: &Key) -> Option<Found<'_>> {
                self.view().found(key)
            }
            fn deadline(&self, key: &Key) -> Option<Deadline> {
                self.view().row(key)?.deadline()
            }
            fn keys(&self, space: Keyspace) -> u64 {
                self.view().machine.keys.len_of(space)
            }
            fn scan(&self, space: Keyspace, cursor: u64, max: usize) -> (Vec<Blob>, u64) {
                self.view().names(space, cursor, max)
            }
            fn random_key(&self, space: Keyspace, random: u64) -> Option<Blob> {
                self.view().any_name(space, random)
            }
            fn script(&self, sha: &[u8; 20]) -> Option<&Blob> {
                self.view().kept_script(sha)
            }
            fn library(&self, name: &Blob) -> Option<&Library> {
                self.view().machine.libraries.get(name)
            }
            fn libraries(&self) -> Vec<Blob> {
                self.view().machine.libraries.names()
            }
            fn library_of(&self, function: &Blob) -> Option<&Library> {
                self.view().machine.libraries.of(function)
            }
            fn is_full(&self, space: Keyspace) -> bool {
                self.view().machine.is_full(space)
            }
            fn usage(&self, key: &Key) -> Option<Usage> {
                self.view().usage_of(key)
            }
            fn streams(&self) -> Option<Box<dyn LookStreams + '_>> {
                Some(Box::new(self.view()))
            }
            fn permit(&self, spec: &Spec, space: Keyspace, words: &[Blob]) -> Result<(), Error> {
                self.view().allows(spec, space, words)
            }
        }
    };
}
look!(View<'_>);
look!(Effects<'_, '_>);

impl<'a> View<'a> {
    fn view(&self) -> View<'a> {
        *self
    }
}

/// The state as an operation of a commit sees and changes it.
struct Effects<'a, 'c> {
    machine: &'a mut Machine,
    context: &'a Context<'c>,
    /// What travels beside the words of an XADD.
    record: Option<&'a Payload>,
    /// Whether a look counts as a use.
    notes: bool,
    out: &'a mut Outputs,
    rights: Rights,
}

impl Effects<'_, '_> {
    fn now(&self) -> &Now {
        self.context.now
    }
    fn times(&self) -> Times {
        Times { wall: self.now().wall, time: self.now().time }
    }
    fn view(&self) -> View<'_> {
        View { machine: self.machine, times: self.times(), rights: &self.rights, notes: self.notes }
    }

    /// Where a key has its row, if it may be written; what has passed its deadline is ended first.
    fn writable(&mut self, key: &Key) -> Result<Option<Slot>, Error> {
        let slot = self.machine.keys.find(key);
        self.machine.shed(slot, key);
        match self.machine.keys.live_at(slot) {
            Some(row) if self.machine.passed(row, self.times()) => {
                self.machine.drop_key(key, self.context.now);
                self.machine.tell_expired(key, self.out);
            }
            Some(_) if !key.space.is_internal() => {}
            _ => self.may_write(key)?,
        }
        Ok(slot)
    }
}

impl Effects<'_, '_> {
    /// Remembers what was done to a key, should somebody listen.
    fn note(&mut self, key: &Key, what: What, created: bool) {
        self.machine.note_change(key, what, created);
    }
}

impl Store for Effects<'_, '_> {
    fn may_write(&self, key: &Key) -> Result<(), Error> {
        not_internal(key.space)?;
        if self.machine.keys.get(key).is_none() && self.machine.streams.exists(key) {
            return Err(protected());
        }
        Ok(())
    }

    fn put(&mut self, key: &Key, value: Value, deadline: Option<Deadline>) -> Result<(), Error> {
        let slot = match self.writable(key) {
            Ok(slot) => slot,
            Err(error) => {
                self.machine.bodies.keep(value);
                return Err(error);
            }
        };
        let (revision, time) = (self.machine.revision_now(), self.now().time);
        let machine = &mut *self.machine;
        let before = machine.keys.live_at(slot).map(|row| (row.kind, row.body));
        match before {
            None | Some((Kind::Plain, _)) => {}
            Some((Kind::Stream, _)) => machine.drop_key(key, self.context.now),
            Some((_, body)) => machine.drop_body(body, key),
        }
        match value {
            Value::String(value) => {
                machine.keys.put_at(slot, key, value, Hang::from(deadline), revision, time);
            }
            value => machine.put_value(slot, key, value, deadline.into(), time),
        }
        self.note(key, What::Put { deadline: deadline.is_some() }, before.is_none());
        Ok(())
    }

    fn change(&mut self, key: &Key, change: Change) -> Result<Changed, Error> {
        let slot = self.writable(key)?;
        let time = self.now().time;
        let machine = &mut *self.machine;
        let Some(row) = machine.keys.live_at(slot) else {
            let mut value = Value::empty_for(&change);
            let (changed, _) = value.apply(change).ok_or_else(Error::wrong_type)?;
            if !value.is_empty() {
                machine.put_value(slot, key, value, Hang::Nothing, time);
                self.note(key, What::Changed { emptied: false }, true);
            }
            return Ok(changed);
        };
        if !row.kind.has_body() {
            return Err(Error::wrong_type());
        }
        let (body, slot) = (row.body, slot.expect("what is live has a slot"));
        let bytes = machine.bodies.bytes();
        // A field that has passed is not there: it must not be changed, but made anew.
        let passed = |field: &Blob| match machine.bodies.get(body).found(self.context.now.wall, time) {
            Found::Hash(hash) => hash.has_gaps() && !hash.contains(field),
            _ => false,
        };
        if let Change::HashSet { field, .. } | Change::HashKeep { field, .. } = &change
            && passed(field)
        {
            machine.bodies.change(body, key, Change::HashRemove { field: field.clone() });
        }
        let before = machine.bodies.mark();
        let changed = machine.bodies.change(body, key, change).ok_or_else(Error::wrong_type)?;
        machine.keys.weigh(key.space, bytes, machine.bodies.bytes());
        if machine.bodies.mark() == before {
            return Ok(changed); // Nothing has changed.
        }
        let revision = machine.revision_now();
        let emptied = machine.bodies.get(body).is_empty();
        if emptied {
            machine.drop_key(key, self.context.now);
        } else {
            machine.keys.touch_body(slot, revision, time);
        }
        self.note(key, What::Changed { emptied }, false);
        Ok(changed)
    }

    fn delete(&mut self, key: &Key) -> Result<bool, Error> {
        let was = self.view().row(key).is_some();
        self.writable(key)?;
        if was {
            self.machine.drop_key(key, self.context.now);
            self.note(key, What::Deleted, false);
        }
        Ok(was)
    }

    fn take(&mut self, key: &Key) -> Result<Option<(Value, Option<Deadline>)>, Error> {
        let slot = self.writable(key)?;
        let machine = &mut *self.machine;
        let Some(row) = machine.keys.live_at(slot) else { return Ok(None) };
        let (kind, body, deadline) = (row.kind, row.body, row.deadline());
        let value = match kind {
            Kind::Plain => Value::String(row.value.clone()),
            Kind::Stream => {
                return Err(Error::reply(
                    "ERR a stream cannot be renamed or moved: its records stay in the log under one name",
                ));
            }
            _ => {
                let bytes = machine.bodies.bytes();
                let value = machine.bodies.take(body, key);
                machine.keys.weigh(key.space, bytes, machine.bodies.bytes());
                value
            }
        };
        let revision = machine.revision_now();
        machine.keys.delete(key, revision, self.context.now.time);
        self.note(key, What::Taken, false);
        Ok(Some((value, deadline)))
    }

    fn set_deadline(&mut self, key: &Key, deadline: Option<Deadline>) -> Result<(), Error> {
        let slot = self.writable(key)?;
        let time = self.now().time;
        let machine = &mut *self.machine;
        if let (Some(slot), Some(row)) = (slot, machine.keys.live_at(slot))
            && row.deadline() != deadline
        {
            let revision = machine.revision_now();
            machine.keys.rehang(slot, deadline.into(), revision, time);
            self.note(key, if deadline.is_some() { What::Deadline } else { What::Persisted }, false);
        }
        Ok(())
    }

    fn clear(&mut self, space: Keyspace) -> Result<(), Error> {
        not_internal(space)?;
        if self.machine.is_kept(space) {
            return Err(Error::reply(
                "ERR this keyspace holds keys of etcd clients, which a flush would take from them: delete keys by name, or start with --etcd-may-be-flushed",
            ));
        }
        self.out.events.push(Event::Flushed { space });
        let machine = &mut *self.machine;
        for stream in machine.streams_of(space) {
            machine.drop_key(&stream, self.context.now);
        }
        if machine.keys.len_of(space) > machine.empty_whole {
            let revision = machine.revision_now();
            machine.keys.empty(space, revision);
            return Ok(());
        }
        for key in machine.keys.keys_of_space(space) {
            machine.drop_key(&key, self.context.now);
        }
        Ok(())
    }

    fn random(&mut self) -> u64 {
        self.machine.draws += 1;
        let mut from = [0; 24];
        from[..8].copy_from_slice(&self.now().seed.to_le_bytes());
        from[8..16].copy_from_slice(&self.context.place.to_le_bytes());
        from[16..].copy_from_slice(&self.machine.draws.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&from)
    }

    fn publish(&mut self, channel: Blob, message: Blob, sharded: bool) {
        self.out.events.push(Event::Published { channel, message, sharded });
    }

    fn keep_script(&mut self, sha: [u8; 20], text: Blob) {
        if self.machine.scripts.get(&Blob::copy_from(&sha)).is_none() {
            self.machine.scripts.set(Blob::copy_from(&sha), Some(text));
        }
    }

    fn forget_scripts(&mut self) {
        let all: Vec<Blob> = self.machine.scripts.iter().map(|(sha, _)| sha.clone()).collect();
        for sha in all {
            self.machine.scripts.set(sha, None);
        }
    }

    fn put_library(&mut self, name: &Blob, library: Option<Library>) {
        self.machine.libraries.set(name, library);
    }

    fn listens(&self) -> bool {
        self.machine.listens
    }

    fn take_changes(&mut self) -> Vec<KeyChange> {
        std::mem::take(&mut self.machine.key_changes)
    }

    fn happened(&mut self, key: &Key, class: Classes, event: &'static str) {
        self.out.events.push(Event::Happened { key: key.clone(), class, event });
    }

    fn change_streams(&mut self) -> Option<&mut dyn ChangeStreams> {
        Some(self)
    }
}

fn not_internal(space: Keyspace) -> Result<(), Error> {
    if space.is_internal() {
        return Err(Error::reply("NOPERM this keyspace belongs to the server"));
    }
    Ok(())
}

fn protected() -> Error {
    Error::reply(
        "ERR this stream is protected: it was declared by another protocol, change or delete it there",
    )
}

impl Machine {
    /// Writes a collection whole under a key that has none.
    fn put_value(&mut self, slot: Option<Slot>, key: &Key, value: Value, hang: Hang, time: LogTime) {
        let revision = self.revision_now();
        let bytes = self.bodies.bytes();
        let of = (kind_of(&value), self.bodies.add(value));
        self.keys.weigh(key.space, bytes, self.bodies.bytes());
        let slot = self.keys.put_body(slot, key, of, hang, revision, time);
        self.bodies.settle(of.1, slot);
    }

    /// Whether a key that has a row is not there any more at these times.
    fn passed(&self, row: &Row, times: Times) -> bool {
        if passed(row, times) {
            return true;
        }
        row.kind == Kind::Hash && {
            let value = self.bodies.get(row.body);
            value.timed().is_some()
                && matches!(value.found(times.wall, times.time), Found::Hash(hash) if hash.is_empty())
        }
    }

    /// Removes up to `max` fields of one hash that are due at these times, as one change of it; how many.
    pub(crate) fn drop_fields(&mut self, wall: WallTime, time: LogTime, max: usize, now: &Now) -> usize {
        let Some(slot) = self.bodies.due(wall, time) else { return 0 };
        let (key, row) = self.keys.held(slot);
        let (key, body) = (key.clone(), row.body);
        if self.shed(Some(slot), &key) {
            return 1;
        }
        let timed = self.bodies.get(body).timed().expect("only a hash with deadlines is due");
        let fields = timed.due(wall, time, max);
        let count = fields.len();
        let bytes = self.bodies.bytes();
        for field in fields {
            self.bodies.change(body, &key, Change::HashRemove { field });
        }
        self.keys.weigh(key.space, bytes, self.bodies.bytes());
        let revision = self.revision_now();
        if self.bodies.get(body).is_empty() {
            self.drop_key(&key, now);
        } else {
            self.keys.touch_body(slot, revision, now.time);
        }
        count
    }

    /// Remembers what was done to a key, should somebody listen.
    pub(crate) fn note_change(&mut self, key: &Key, what: What, created: bool) {
        if self.listens && !key.space.is_internal() {
            self.key_changes.push(KeyChange { key: key.clone(), what, created });
        }
    }

    /// Takes a key's elements away.
    fn drop_body(&mut self, body: BodyId, key: &Key) {
        let bytes = self.bodies.bytes();
        self.bodies.remove(body, key);
        self.keys.weigh(key.space, bytes, self.bodies.bytes());
    }

    /// Takes from a row that has fallen all that it has, its elements too: before it is written over, or when it is due. Whether there was anything.
    pub(crate) fn shed(&mut self, slot: Option<Slot>, key: &Key) -> bool {
        let Some(slot) = slot.filter(|_| self.keys.sweeps()) else { return false };
        let notes = self.keys.mark();
        if let Some(body) = self.keys.shed(slot) {
            self.bodies.remove(body, key);
        }
        self.keys.has_noted(&notes)
    }

    /// Frees some of what emptied keyspaces have left: about as many rows as would have been deleted at once.
    pub(crate) fn sweep(&mut self) {
        let max = usize::try_from(self.empty_whole.max(1)).unwrap_or(usize::MAX);
        let bodies = &mut self.bodies;
        self.keys.sweep(max, |body, key| bodies.remove(body, key));
        bodies.forget();
        // Also where it got no further than the lines: dropping one may take a row along.
        self.keys.forget();
    }

    /// Deletes a key that is there, whatever its type, and its elements with it. What has fallen is shed.
    pub(crate) fn drop_key(&mut self, key: &Key, now: &Now) {
        let Some(row) = self.keys.get(key) else {
            self.shed(self.keys.find(key), key);
            return;
        };
        let (kind, body) = (row.kind, row.body);
        if kind == Kind::Stream {
            self.remove_stream(key, now).expect("a row of this kind goes with its stream");
            return;
        }
        if kind.has_body() {
            self.drop_body(body, key);
        }
        let revision = self.revision_now();
        self.keys.delete(key, revision, now.time);
    }
}
