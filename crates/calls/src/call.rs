//! Where a call enters: its words become a handler's work on a store, within a budget.
//!
//! Invariant: a call is checked against the table before its handler sees it, so handlers may trust the number of words.
//! Invariant: a command touches at most [`TOUCH_MAX`] elements, a script with all its commands [`SCRIPT_TOUCH_MAX`], a commit [`COMMIT_TOUCH_MAX`].
//! Called by: the machine, which has a store; `scripts`, for what scripts call.

use crate::collections::{List, Live, Long, Set, Sorted, Value};
use crate::table::{Flags, Kind, Spec, check, lookup};
use crate::{Deadline, Error, Found, Interpreter, Look, Store};
use quorate_types::{Blob, Key, Keyspace, Reply};

/// Most elements that one command may touch where each costs time: what would touch more is refused before its first change. The unit is an
/// element read in its order, some 100 to 500 ns with its part of the reply, so that nobody makes others wait for more than 50 ms. What only shows
/// a collection is not bounded by this where it can be handed out in slices ([`read_long`]).
pub const TOUCH_MAX: u64 = 100_000;
/// What it costs to find, add or remove one member of a set or hash, or one of any rank.
pub(crate) const LOOKUP: u64 = 2;
/// What it costs to add or remove one member of a sorted set.
pub(crate) const SORTED: u64 = 4;
/// What it costs to hand a script one item of a reply: made a value of its language, kept there, and thrown away by its collector.
pub(crate) const ITEM: u64 = 3;
/// Most elements that a script may touch in all; one that goes beyond is taken back whole.
pub const SCRIPT_TOUCH_MAX: u64 = 200_000;
/// Most elements that a commit may touch with all its operations: one that would go beyond is refused whole, and nothing of it happened.
pub const COMMIT_TOUCH_MAX: u64 = 250_000;
/// What an operation costs, whatever it does.
pub const OPERATION: u64 = 4;
/// What a random pick costs where the answer is given at once: each is a look at memory that is not near.
pub(crate) const PICK: u64 = 4;
/// Most elements that an answer gives at once where it could be handed out in slices.
pub(crate) const WHOLE_MAX: u64 = 2_000;
/// Largest string, in bytes: changing a part of one writes it anew, and fresh memory is what that takes longest for.
pub const VALUE_MAX: u64 = 8 << 20;
/// What a command that may need more is told when its keyspace is full.
pub const OUT_OF_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";
/// How many databases there are by default, as Redis has it.
const DATABASES: u16 = 16;

/// What a call knows of who makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The keyspace that keys without another one are of. Changes inside scripts only.
    pub space: Keyspace,
    /// How many keyspaces have a database number.
    pub databases: u16,
    /// What a running script has touched so far.
    script: Option<u64>,
    /// What the commit has touched so far, as far as this session knows.
    touched: u64,
    /// Whether a record travels beside the words.
    recorded: bool,
    /// Whether a full keyspace refuses what may need more; a script that has begun to write is let finish.
    pub(crate) minds_room: bool,
}

impl Session {
    /// A session in a keyspace, among Redis' sixteen.
    #[must_use]
    pub fn new(space: Keyspace) -> Self {
        Self { space, databases: DATABASES, script: None, touched: 0, recorded: false, minds_room: true }
    }

    /// The session of a call beside whose words a record travels.
    #[must_use]
    pub fn recorded(self) -> Self {
        Self { recorded: true, ..self }
    }

    /// The session of a call in a commit that has touched so many elements.
    #[must_use]
    pub fn after(self, touched: u64) -> Self {
        Self { touched, ..self }
    }

    /// How many elements the commit has touched, this call with it. Above [`COMMIT_TOUCH_MAX`] the call was refused, and the commit must be.
    #[must_use]
    pub fn touched(&self) -> u64 {
        self.touched
    }

    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// The key of this name.
    pub(crate) fn key(&self, name: &Blob) -> Key {
        Key { space: self.space, name: name.clone() }
    }

    /// The keyspace of a database number.
    pub(crate) fn database(&self, word: &[u8]) -> Result<Keyspace, Error> {
        let number = crate::args::int(word)?;
        if i32::try_from(number).is_err() {
            return Err(Error::reply(
                "ERR value is out of range, value must between -2147483648 and 2147483647",
            ));
        }
        let number = u16::try_from(number).ok().filter(|number| *number < self.databases);
        number.map(Keyspace).ok_or_else(|| Error::reply("ERR DB index is out of range"))
    }

    /// Says before the work how many elements it will touch.
    pub(crate) fn touch(&mut self, elements: u64) -> Result<(), Error> {
        if elements > TOUCH_MAX {
            return Err(Error::reply(format!(
                "ERR this would touch {elements} elements, or cost as much, and a command may touch {TOUCH_MAX}: \
                 take a part at a time, with a range, a count or the SCAN commands"
            )));
        }
        self.spend(elements)
    }

    /// Counts what has been touched, or costs as much, against the budgets of the commit and of the script.
    pub(crate) fn spend(&mut self, elements: u64) -> Result<(), Error> {
        self.touched = self.touched.saturating_add(elements);
        if self.touched > COMMIT_TOUCH_MAX {
            return Err(Error::Abort(over_budget(self.touched).into()));
        }
        let Some(spent) = &mut self.script else { return Ok(()) };
        *spent = spent.saturating_add(elements);
        if *spent > SCRIPT_TOUCH_MAX {
            return Err(Error::Abort(
                format!(
                    "ERR the commands of this script would touch {spent} elements, more than the \
                     {SCRIPT_TOUCH_MAX} a script may: nothing of it happened, do it in several"
                )
                .into(),
            ));
        }
        Ok(())
    }

    /// Takes over what a script has touched.
    pub(crate) fn adopt(&mut self, script: &Self) {
        self.touched = script.touched;
    }

    /// The session of a script that this one runs.
    pub(crate) fn script(&self) -> Self {
        Self { script: Some(0), recorded: false, ..*self }
    }
}

/// What is said of a commit that would touch too much.
#[must_use]
pub fn over_budget(touched: u64) -> String {
    format!(
        "ERR the commands of this commit would touch {touched} elements, or cost as much, and a commit may touch {COMMIT_TOUCH_MAX}: nothing of \
         it happened, do it in several"
    )
}

/// What a handler that only reads works on.
pub struct Reading<'a> {
    /// The store.
    pub look: &'a dyn Look,
    /// Who asks.
    pub session: &'a mut Session,
    /// The command, its name first.
    pub words: &'a [Blob],
    /// Where random picks start.
    pub seed: u64,
    /// Where a long answer may be left instead of given.
    pub(crate) long: Option<&'a mut Option<Long>>,
}

impl Reading<'_> {
    /// Leaves a long answer to be handed out in slices, where it is long and whoever reads can do that; whether it was left.
    pub(crate) fn leaves(&mut self, elements: u64, long: impl FnOnce() -> Option<Long>) -> bool {
        match &mut self.long {
            Some(slot) if elements > WHOLE_MAX => {
                **slot = long();
                slot.is_some()
            }
            _ => false,
        }
    }

    /// Whether an answer may be left to be handed out in slices.
    pub(crate) fn slices(&self) -> bool {
        self.long.is_some()
    }

    /// The key at a place among the words.
    pub(crate) fn key(&self, at: usize) -> Key {
        self.session.key(&self.words[at])
    }
}

/// What a handler that changes something works on.
pub struct Writing<'a> {
    /// The store.
    pub store: &'a mut dyn Store,
    /// What runs scripts.
    pub interpreter: &'a mut dyn Interpreter,
    /// Who asks.
    pub session: &'a mut Session,
    /// The command, its name first.
    pub words: &'a [Blob],
}

impl Writing<'_> {
    /// The store, to read.
    pub(crate) fn look(&self) -> &dyn Look {
        &*self.store
    }

    /// The key at a place among the words.
    pub(crate) fn key(&self, at: usize) -> Key {
        self.session.key(&self.words[at])
    }

    /// Writes a value under the deadline that the key has.
    pub(crate) fn put_keeping(&mut self, key: &Key, value: Value) -> Result<(), Error> {
        let deadline = self.store.deadline(key);
        self.store.put(key, value, deadline)
    }

    /// Writes a whole collection, or deletes the key for an empty one: what the STORE commands do with their answer.
    pub(crate) fn put_or_delete(&mut self, key: &Key, value: Value) -> Result<Reply, Error> {
        let len = len(&value);
        if len == 0 {
            self.store.delete(key)?;
        } else {
            self.store.put(key, value, None)?;
        }
        Ok(number(len))
    }
}

/// Answers a command that only reads, on the state that is there.
///
/// # Errors
/// The command's own; or that it is none that reads.
pub fn read(look: &dyn Look, session: &mut Session, words: &[Blob], seed: u64) -> Result<Reply, Error> {
    let spec = check(words)?;
    session.touched = 0; // What reads alone is no part of a commit.
    look.permit(spec, session.space, words)?;
    match spec.kind {
        Kind::Read(handler) => handler(&mut Reading { look, session, words, seed, long: None }),
        Kind::Write(_) | Kind::Connection | Kind::Container => Err(misplaced(words)),
    }
}

/// As [`read`], for who can hand out an answer in slices: one of many elements is left in `long` as they are now, and the reply is nil.
///
/// # Errors
/// As for [`read`].
pub fn read_long(
    look: &dyn Look,
    session: &mut Session,
    words: &[Blob],
    seed: u64,
    long: &mut Option<Long>,
) -> Result<Reply, Error> {
    let spec = check(words)?;
    session.touched = 0; // What reads alone is no part of a commit.
    look.permit(spec, session.space, words)?;
    match spec.kind {
        Kind::Read(handler) => handler(&mut Reading { look, session, words, seed, long: Some(long) }),
        Kind::Write(_) | Kind::Connection | Kind::Container => Err(misplaced(words)),
    }
}

/// Whether a command that reads uses the keys it names; others only ask about them.
#[must_use]
pub fn uses(words: &[Blob]) -> bool {
    let about =
        ["object", "exists", "type", "ttl", "pttl", "expiretime", "pexpiretime", "memory", "scan", "keys"];
    words.first().is_some_and(|name| about.iter().all(|other| !crate::args::is(name, other)))
}

/// Executes any command on a store.
///
/// # Errors
/// The command's own: nothing of it happened; or [`Error::Abort`], which takes back all that was done with it.
pub fn write(
    store: &mut dyn Store,
    interpreter: &mut dyn Interpreter,
    session: &mut Session,
    words: &[Blob],
) -> Result<Reply, Error> {
    let spec = if session.recorded { recorded(words)? } else { check(words)? };
    session.touched = session.touched.saturating_add(OPERATION + words.len() as u64);
    if session.touched > COMMIT_TOUCH_MAX {
        return Err(Error::Abort(over_budget(session.touched).into()));
    }
    store.permit(spec, session.space, words)?;
    if session.minds_room && spec.flags.has(Flags::DENYOOM) && store.is_full(session.space) {
        return Err(Error::reply(OUT_OF_MEMORY));
    }
    match spec.kind {
        Kind::Write(handler) if store.listens() => {
            let answer = handler(&mut Writing { store: &mut *store, interpreter, session, words });
            match &answer {
                Ok(reply) => crate::events::tell(store, spec, words, reply, session.space),
                Err(_) => drop(store.take_changes()),
            }
            answer
        }
        Kind::Write(handler) => handler(&mut Writing { store, interpreter, session, words }),
        Kind::Read(handler) => {
            // Only who picks at random draws a number, so that other reads leave the sequence as it is.
            let seed = if spec.flags.has(Flags::RANDOM) { store.random() } else { 0 };
            handler(&mut Reading { look: &*store, session, words, seed, long: None })
        }
        Kind::Connection | Kind::Container => Err(misplaced(words)),
    }
}

/// XADD with its pairs beside it, which takes fewer words than the table says; no other command has a record.
fn recorded(words: &[Blob]) -> Result<&'static Spec, Error> {
    let spec =
        words.first().and_then(|name| lookup(name)).filter(|spec| spec.name == "xadd" && words.len() >= 3);
    spec.ok_or_else(|| Error::reply("ERR only XADD key id has a record beside it: nothing was done"))
}

fn misplaced(words: &[Blob]) -> Error {
    let name = words.first().map(|word| word.to_ascii_lowercase()).unwrap_or_default();
    let name = String::from_utf8_lossy(&name).into_owned();
    Error::reply(format!(
        "ERR '{name}' is not executed here: a connection answers it, outside transactions and scripts"
    ))
}

/// How many elements a value has; a string has one.
pub(crate) fn len(value: &Value) -> u64 {
    match value {
        Value::String(_) => 1,
        Value::Hash(hash) => hash.len(),
        Value::Timed(_) => value.elements(),
        Value::List(list) => list.len(),
        Value::Set(set) => set.len(),
        Value::Sorted(sorted) => sorted.len(),
        Value::Bloom(filter) => filter.items(),
    }
}

/// A count as a reply.
pub(crate) fn number(value: u64) -> Reply {
    Reply::integer(i64::try_from(value).unwrap_or(i64::MAX))
}

macro_rules! typed {
    ($(#[doc = $doc:literal] $name:ident $variant:ident $type:ty;)*) => {$(
        #[doc = $doc]
        pub(crate) fn $name<'a>(look: &'a dyn Look, key: &Key) -> Result<Option<&'a $type>, Error> {
            match look.find(key) {
                None => Ok(None),
                Some(Found::$variant(found)) => Ok(Some(found)),
                Some(_) => Err(Error::wrong_type()),
            }
        }
    )*};
}
typed! {
    #[doc = "The string of a key."]
    string String Blob;
    #[doc = "The list of a key."]
    list List List;
    #[doc = "The set of a key."]
    set Set Set;
    #[doc = "The sorted set of a key."]
    sorted Sorted Sorted;
}

/// The hash of a key.
pub(crate) fn hash<'a>(look: &'a dyn Look, key: &Key) -> Result<Option<Live<'a>>, Error> {
    match look.find(key) {
        None => Ok(None),
        Some(Found::Hash(found)) => Ok(Some(found)),
        Some(_) => Err(Error::wrong_type()),
    }
}

/// The value of a key, whole, without its deadline; a stream has none that could be copied.
pub(crate) fn whole(found: Found<'_>) -> Result<Value, Error> {
    Ok(match found {
        Found::String(value) => Value::String(value.clone()),
        Found::Hash(hash) => hash.value(),
        Found::List(list) => Value::List(list.clone()),
        Found::Set(set) => Value::Set(set.clone()),
        Found::Sorted(sorted) => Value::Sorted(sorted.clone()),
        Found::Bloom(filter) => Value::Bloom(Box::new(filter.clone())),
        Found::Stream => {
            return Err(Error::reply(
                "ERR a stream cannot be copied: its records stay in the log under one name",
            ));
        }
    })
}

/// A key's deadline, where it has one.
pub(crate) fn left(look: &dyn Look, key: &Key) -> Option<(Deadline, i64)> {
    look.deadline(key).map(|deadline| (deadline, crate::args::left(look, deadline)))
}
