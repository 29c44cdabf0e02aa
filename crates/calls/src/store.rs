//! What calls read and change: keys with typed values. The machine is one store; tests have a simple one of their own.
//!
//! Invariant: a key whose deadline has passed is not there, nor is a field of a hash: a store never shows it. A change of a field that has
//! passed finds none there.
//! Invariant: a collection that a change leaves empty goes with its key; a store does that, nobody else has to.
//! Invariant: a call checks everything before its first change, so that one that fails has changed nothing.
//! Called by: every handler of this crate. Implemented by: the machine.

use crate::collections::{Bloom, Change, Changed, List, Live, Set, Sorted, Value};
use crate::events::{Classes, KeyChange};
use crate::streams::{ChangeStreams, LookStreams};
use crate::{Error, Library, Spec};
use quorate_types::{Blob, Key, Keyspace, LogTime, WallTime};

/// Until when a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// A relative time to live runs in log time.
    Log(LogTime),
    /// An absolute one (EXPIREAT, PXAT…) in wall time.
    Wall(WallTime),
}

/// The value of a key, as its type.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// Bytes.
    String(&'a Blob),
    /// Fields with values.
    Hash(Live<'a>),
    /// Values in order.
    List(&'a List),
    /// Members.
    Set(&'a Set),
    /// Members with scores.
    Sorted(&'a Sorted),
    /// Whether items were added.
    Bloom(&'a Bloom),
    /// A stream; its records are not in memory.
    Stream,
}

impl Found<'_> {
    /// Its type, as `TYPE` names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::Hash(_) => "hash",
            Self::List(_) => "list",
            Self::Set(_) => "set",
            Self::Sorted(_) => "zset",
            Self::Bloom(_) => "MBbloom--",
            Self::Stream => "stream",
        }
    }
}

/// How a key was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Seconds since its last use, where uses are noted; 0 otherwise.
    pub idle_seconds: u64,
    /// About the logarithm of how often it was used, where its keyspace evicts by that.
    pub frequency: Option<u8>,
}

/// Reading.
pub trait Look {
    /// Wall time of the entry in hand; for a read, of the last entry. What is there, and what has passed, is decided by it.
    fn wall(&self) -> WallTime;
    /// Log time, likewise.
    fn time(&self) -> LogTime;
    /// Wall and log time of now, as far as a reader knows them: for what is shown of a time that is left or gone by, never for what is there.
    /// A later leader may begin with a clock that is a heartbeat behind, and would show again what a read had found gone.
    fn clock(&self) -> (WallTime, LogTime) {
        (self.wall(), self.time())
    }
    /// The value of a key.
    fn find(&self, key: &Key) -> Option<Found<'_>>;
    /// Until when a key that is there lives; nothing if it has no deadline.
    fn deadline(&self, key: &Key) -> Option<Deadline>;
    /// How many keys a keyspace holds.
    fn keys(&self, space: Keyspace) -> u64;
    /// Names of keys from a cursor on (0 to begin), looking at no more than `max` places, and the cursor to go on with; 0 when that was all. A key
    /// keeps its place for as long as it lives, and places are the same on every replica: so a scan may go on at any node, and never misses
    /// a key that is there from its beginning to its end.
    fn scan(&self, space: Keyspace, cursor: u64, max: usize) -> (Vec<Blob>, u64);
    /// A key chosen by a random number; nothing when the keyspace is empty.
    fn random_key(&self, space: Keyspace, random: u64) -> Option<Blob>;
    /// Whether a keyspace holds more than it may: a command that may need more is refused.
    fn is_full(&self, _space: Keyspace) -> bool {
        false
    }
    /// How a key was used, without counting as a use; nothing for a key that is not there, or where nobody notes uses.
    fn usage(&self, _key: &Key) -> Option<Usage> {
        None
    }
    /// A script that was loaded, by the SHA-1 of its text.
    fn script(&self, sha: &[u8; 20]) -> Option<&Blob>;
    /// A library of functions.
    fn library(&self, name: &Blob) -> Option<&Library>;
    /// Names of all libraries, sorted.
    fn libraries(&self) -> Vec<Blob>;
    /// The library that has registered a function, whose name is given in lower case.
    fn library_of(&self, function: &Blob) -> Option<&Library>;
    /// Streams, if the store has any.
    fn streams(&self) -> Option<Box<dyn LookStreams + '_>> {
        None
    }
    /// Whether whoever looks may run a command on these words, keys being of this keyspace. Asked before every handler, those that scripts
    /// call included.
    ///
    /// # Errors
    /// `NOPERM`, in Redis' words.
    fn permit(&self, _spec: &Spec, _space: Keyspace, _words: &[Blob]) -> Result<(), Error> {
        Ok(())
    }
}

/// Changing. Everything that is changed is taken back when the commit is refused.
pub trait Store: Look {
    /// Whether a key may be written at all: what a call that writes several keys asks of each before its first change.
    ///
    /// # Errors
    /// As for [`Store::put`].
    fn may_write(&self, key: &Key) -> Result<(), Error>;
    /// Writes a key whole, whatever was there.
    ///
    /// # Errors
    /// The key may not be written: it belongs to a protected stream, to a lock…
    fn put(&mut self, key: &Key, value: Value, deadline: Option<Deadline>) -> Result<(), Error>;
    /// Changes a part of a collection. An absent key is made for a change that adds, an emptied one is deleted.
    ///
    /// # Errors
    /// `WRONGTYPE`; or as for [`Store::put`].
    fn change(&mut self, key: &Key, change: Change) -> Result<Changed, Error>;
    /// Deletes a key; whether it was there.
    ///
    /// # Errors
    /// As for [`Store::put`].
    fn delete(&mut self, key: &Key) -> Result<bool, Error>;
    /// Takes a key away, to be put elsewhere.
    ///
    /// # Errors
    /// As for [`Store::put`]; a stream has no value that could be moved.
    fn take(&mut self, key: &Key) -> Result<Option<(Value, Option<Deadline>)>, Error>;
    /// Sets or removes the deadline of a key that is there.
    ///
    /// # Errors
    /// As for [`Store::put`].
    fn set_deadline(&mut self, key: &Key, deadline: Option<Deadline>) -> Result<(), Error>;
    /// Deletes all keys of a keyspace that may be deleted.
    ///
    /// # Errors
    /// The keyspace may not be flushed.
    fn clear(&mut self, space: Keyspace) -> Result<(), Error>;
    /// A number from the entry's seed: the same on every replica, another one at each call.
    fn random(&mut self) -> u64;
    /// Tells the subscribers of a channel once the commit has taken effect.
    fn publish(&mut self, channel: Blob, message: Blob, sharded: bool);
    /// Keeps a script for EVALSHA.
    fn keep_script(&mut self, sha: [u8; 20], text: Blob);
    /// Forgets all scripts.
    fn forget_scripts(&mut self);
    /// Puts a library under a name, or takes it away. Whoever puts one has seen to it that no other library has a function of the same name.
    fn put_library(&mut self, name: &Blob, library: Option<Library>);
    /// Whether somebody listens to what happens to keys.
    fn listens(&self) -> bool {
        false
    }
    /// What was done to keys since this was last asked, in order; nothing while nobody listens.
    fn take_changes(&mut self) -> Vec<KeyChange> {
        Vec::new()
    }
    /// Tells of something that happened to a key, once the commit has taken effect.
    fn happened(&mut self, _key: &Key, _class: Classes, _event: &'static str) {}
    /// Streams, if the store has any.
    fn change_streams(&mut self) -> Option<&mut dyn ChangeStreams> {
        None
    }
}
