//! Every command: its name, how many words it takes, what it may do, where its keys are, and who executes it.
//!
//! Source: the Redis 7.2 command table, as COMMAND and COMMAND DOCS show it.
//! Invariant: names are lower case and different; a subcommand is listed as `container|name`.
//! Called by: `call`, before every handler; the gateway, for queueing, permissions and COMMAND.

use crate::{Error, Reading, Writing, args};
use crate::{
    bits, bloom, dump, functions, geo, hashes, hyper, keys, lists, scripts, sets, sort, sorted, strings,
    throttle,
};
use crate::{stream_groups, streams};
use quorate_types::{Blob, Millis, Reply};

/// A command.
#[derive(Debug)]
pub struct Spec {
    /// Its name, in lower case.
    pub name: &'static str,
    /// How many words, the name included; when negative, at least as many.
    pub arity: i64,
    /// What it may do.
    pub flags: Flags,
    /// Where its keys are.
    pub keys: KeyPositions,
    /// Its family.
    pub group: &'static str,
    /// The Redis version that brought it; our own have ours.
    pub since: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Who executes it.
    pub kind: Kind,
}

/// Who executes a command.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Only reads: answered on applied state, without an entry.
    Read(fn(&mut Reading<'_>) -> Result<Reply, Error>),
    /// May change something: logged, executed at apply.
    Write(fn(&mut Writing<'_>) -> Result<Reply, Error>),
    /// The gateway itself: it is about the connection or the server.
    Connection,
    /// Nobody: one of its subcommands is called.
    Container,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read(_) => "Read",
            Self::Write(_) => "Write",
            Self::Connection => "Connection",
            Self::Container => "Container",
        })
    }
}

/// Where a command's keys are among its words.
#[derive(Clone, Copy, Debug)]
pub enum KeyPositions {
    /// It has none.
    None,
    /// From `first` to `last` (counted from the end when negative), every `step`.
    Range {
        /// Place of the first.
        first: i64,
        /// Place of the last.
        last: i64,
        /// Words from one to the next.
        step: i64,
    },
    /// As many as the word at `at` says, from after it; and one at `also`, where that is not 0.
    Counted {
        /// Where the number is.
        at: usize,
        /// Where a destination is.
        also: usize,
        /// Words from one to the next.
        step: usize,
    },
    /// The first, and one that an option names (SORT … STORE).
    Sort,
    /// The first, and one that STORE or STOREDIST names (GEORADIUS).
    Stored,
    /// After a word STREAMS: the first half of what follows it.
    Streams,
}

impl KeyPositions {
    /// First, last and step as COMMAND INFO shows them; zeros where only the words tell.
    #[must_use]
    pub fn info(&self) -> (i64, i64, i64) {
        match *self {
            Self::Range { first, last, step } => (first, last, step),
            Self::Sort | Self::Stored => (1, 1, 1),
            Self::Counted { also, .. } if also != 0 => (also as i64, also as i64, 1),
            Self::None | Self::Counted { .. } | Self::Streams => (0, 0, 0),
        }
    }

    /// Whether only the words tell where the keys are.
    #[must_use]
    pub fn is_movable(&self) -> bool {
        matches!(self, Self::Counted { .. } | Self::Sort | Self::Stored | Self::Streams)
    }
}

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal $text:literal;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            /// The names that COMMAND INFO shows.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                let all = [$((Self::$name, $text)),*];
                all.into_iter().filter(move |(flag, text)| self.has(*flag) && !text.is_empty()).map(|(_, text)| text)
            }
        }
    };
}

/// What a command may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);
flags! {
    /// It may change something.
    WRITE = 0 "write";
    /// It changes nothing.
    READONLY = 1 "readonly";
    /// It may need more memory.
    DENYOOM = 2 "denyoom";
    /// It is for operators.
    ADMIN = 3 "admin";
    /// It is about channels.
    PUBSUB = 4 "pubsub";
    /// Scripts may not call it.
    NOSCRIPT = 5 "noscript";
    /// It may wait.
    BLOCKING = 6 "blocking";
    /// It is answered while data is loaded.
    LOADING = 7 "loading";
    /// It is answered on stale data.
    STALE = 8 "stale";
    /// Its time does not grow with the data.
    FAST = 9 "fast";
    /// It is answered before authentication.
    NO_AUTH = 10 "no_auth";
    /// Transactions may not contain it.
    NO_MULTI = 11 "no_multi";
    /// Only its words tell where its keys are.
    MOVABLEKEYS = 12 "movablekeys";
    /// It may have no key.
    NO_MANDATORY_KEYS = 13 "no_mandatory_keys";
    /// It picks at random; of ours, and not shown.
    RANDOM = 14 "";
}

impl Flags {
    /// Whether all of these are among them.
    #[must_use]
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
    /// Both.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// The command of this name, in any case; `container|name` for a subcommand.
#[must_use]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    let mut slot = hash(name) as usize % SLOTS;
    while INDEX[slot] != 0 {
        let spec = &SPECS[usize::from(INDEX[slot]) - 1];
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
    None
}

/// All commands.
#[must_use]
pub fn specs() -> &'static [Spec] {
    SPECS
}

/// The command that these words are, with as many of them as it takes.
///
/// # Errors
/// In Redis' words: no such command or subcommand, or the wrong number of words.
pub fn check(words: &[Blob]) -> Result<&'static Spec, Error> {
    let name = words.first().ok_or_else(|| Error::reply("ERR no command was given"))?;
    let mut spec = lookup(name).ok_or_else(|| unknown(name, &words[1..]))?;
    if matches!(spec.kind, Kind::Container) && words.len() > 1 {
        spec = subcommand(spec, &words[1])?;
    }
    let found = i64::try_from(words.len()).unwrap_or(i64::MAX);
    if (spec.arity >= 0 && found != spec.arity) || found < -spec.arity {
        return Err(Error::reply(format!("ERR wrong number of arguments for '{}' command", spec.name)));
    }
    Ok(spec)
}

/// Which words are keys: COMMAND GETKEYS.
///
/// # Errors
/// The words are not a command of this kind.
pub fn keys_of(spec: &Spec, words: &[Blob]) -> Result<Vec<usize>, Error> {
    let invalid = || Error::reply("ERR Invalid arguments specified for command");
    let count = i64::try_from(words.len()).unwrap_or(i64::MAX);
    if (spec.arity >= 0 && count != spec.arity) || count < -spec.arity {
        return Err(Error::reply("ERR Invalid number of arguments specified for command"));
    }
    match spec.keys {
        KeyPositions::None => Err(Error::reply("ERR The command has no key arguments")),
        KeyPositions::Range { first, last, step } => {
            let last = if last < 0 { count + last } else { last };
            let places = (first..=last.min(count - 1)).step_by(usize::try_from(step).unwrap_or(1));
            Ok(places.filter_map(|place| usize::try_from(place).ok()).collect())
        }
        KeyPositions::Counted { at, also, step } => {
            let keys =
                words.get(at).and_then(|word| args::integer(word)).and_then(|n| usize::try_from(n).ok());
            let keys = keys.ok_or_else(invalid)?;
            let end =
                keys.checked_mul(step).and_then(|words| words.checked_add(at + 1)).ok_or_else(invalid)?;
            if end > words.len() {
                return Err(invalid());
            }
            let destination = (also != 0).then_some(also);
            Ok(destination.into_iter().chain((at + 1..end).step_by(step)).collect())
        }
        KeyPositions::Sort => {
            let store = (2..words.len().saturating_sub(1)).rfind(|at| args::is(&words[*at], "STORE"));
            Ok([Some(1), store.map(|at| at + 1)].into_iter().flatten().collect())
        }
        KeyPositions::Stored => {
            let stores = |at: &usize| args::is(&words[*at], "STORE") || args::is(&words[*at], "STOREDIST");
            let store = (5..words.len().saturating_sub(1)).rfind(stores);
            Ok([Some(1), store.map(|at| at + 1)].into_iter().flatten().collect())
        }
        KeyPositions::Streams => {
            let start = words.iter().position(|word| args::is(word, "STREAMS")).ok_or_else(invalid)? + 1;
            Ok((start..start + (words.len() - start) / 2).collect())
        }
    }
}

/// How long a command that may block is willing to wait, 0 for ever; nothing for a command that never waits.
///
/// # Errors
/// Its timeout is none.
pub fn wait_of(spec: &Spec, words: &[Blob]) -> Result<Option<Millis>, Error> {
    let place = match spec.name {
        "blpop" | "brpop" | "blmove" | "brpoplpush" | "bzpopmin" | "bzpopmax" => {
            words.len().saturating_sub(1)
        }
        "blmpop" | "bzmpop" => 1,
        "xread" | "xreadgroup" => return Ok(streams::wait_of(words)?.map(Millis)),
        _ => return Ok(None),
    };
    words.get(place).map(|word| lists::timeout(word)).transpose()
}

fn subcommand(container: &Spec, word: &Blob) -> Result<&'static Spec, Error> {
    let full = [container.name.as_bytes(), b"|", word].concat();
    lookup(&full).ok_or_else(|| {
        let shown = shown(word, 128);
        let container = container.name.to_ascii_uppercase();
        Error::reply(
            [b"ERR unknown subcommand '", &shown[..], format!("'. Try {container} HELP.").as_bytes()]
                .concat(),
        )
    })
}

fn unknown(name: &Blob, args: &[Blob]) -> Error {
    let mut text = b"ERR unknown command '".to_vec();
    text.extend(shown(name, 128));
    text.extend(b"', with args beginning with: ");
    let mut listed = 0;
    for arg in args {
        if listed >= 128 {
            break;
        }
        let arg = shown(arg, 128 - listed);
        listed += arg.len() + 3;
        text.push(b'\'');
        text.extend(arg);
        text.extend(b"' ");
    }
    Error::reply(text)
}

/// The start of a word as an error shows it: on one line, and up to a zero byte, as C shows texts.
fn shown(word: &[u8], max: usize) -> Vec<u8> {
    let bytes = word.iter().take(max).take_while(|byte| **byte != 0);
    bytes.map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect()
}

const SLOTS: usize = 2048;

/// Places in the table, plus one, by hash of the name; 0 where there is none.
static INDEX: [u16; SLOTS] = index();

const fn index() -> [u16; SLOTS] {
    assert!(SPECS.len() * 2 < SLOTS, "the index must stay sparse");
    let mut index = [0; SLOTS];
    let mut place = 0;
    while place < SPECS.len() {
        let mut slot = hash(SPECS[place].name.as_bytes()) as usize % SLOTS;
        while index[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        place += 1;
        index[slot] = place as u16;
    }
    index
}

/// FNV-1a over a name in lower case.
const fn hash(name: &[u8]) -> u32 {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ name[at].to_ascii_lowercase() as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

const NONE: KeyPositions = KeyPositions::None;
const ONE: KeyPositions = KeyPositions::Range { first: 1, last: 1, step: 1 };
const TWO: KeyPositions = KeyPositions::Range { first: 1, last: 2, step: 1 };
const SECOND: KeyPositions = KeyPositions::Range { first: 2, last: 2, step: 1 };
const ALL: KeyPositions = KeyPositions::Range { first: 1, last: -1, step: 1 };
const FROM_SECOND: KeyPositions = KeyPositions::Range { first: 2, last: -1, step: 1 };
const PAIRS: KeyPositions = KeyPositions::Range { first: 1, last: -1, step: 2 };
const BUT_LAST: KeyPositions = KeyPositions::Range { first: 1, last: -2, step: 1 };
const AT_1: KeyPositions = KeyPositions::Counted { at: 1, also: 0, step: 1 };
const AT_2: KeyPositions = KeyPositions::Counted { at: 2, also: 0, step: 1 };
const STORE_AT_2: KeyPositions = KeyPositions::Counted { at: 2, also: 1, step: 1 };
const PAIRS_AT_1: KeyPositions = KeyPositions::Counted { at: 1, also: 0, step: 2 };

macro_rules! kind {
    (read $handler:path) => {
        Kind::Read($handler)
    };
    (write $handler:path) => {
        Kind::Write($handler)
    };
    (connection) => {
        Kind::Connection
    };
    (container) => {
        Kind::Container
    };
}
macro_rules! base {
    (read) => {
        Flags::READONLY
    };
    (write) => {
        Flags::WRITE
    };
    (connection) => {
        Flags(0)
    };
    (container) => {
        Flags(0)
    };
}
macro_rules! specs {
    ($($group:literal { $($kind:ident $name:literal $arity:literal [$($flag:ident)*] $keys:expr, $since:literal $summary:literal $(=> $handler:path)?;)* })*) => {
        static SPECS: &[Spec] = &[$($(Spec {
            name: $name,
            arity: $arity,
            flags: flags_of(base!($kind)$(.and(Flags::$flag))*, $keys, $group),
            keys: $keys,
            group: $group,
            since: $since,
            summary: $summary,
            kind: kind!($kind $($handler)?),
        },)*)*];
    };
}

/// What follows from the rest: keys that only the words tell; and to Redis, what has no data of its own neither reads nor writes.
const fn flags_of(flags: Flags, keys: KeyPositions, group: &str) -> Flags {
    let flags = match group.as_bytes() {
        b"connection" | b"pubsub" | b"scripting" => Flags(flags.0 & !Flags::WRITE.and(Flags::READONLY).0),
        _ => flags,
    };
    let movable = matches!(
        keys,
        KeyPositions::Counted { .. } | KeyPositions::Sort | KeyPositions::Stored | KeyPositions::Streams
    );
    if movable { flags.and(Flags::MOVABLEKEYS) } else { flags }
}

specs! {
    "string" {
        write "append" 3 [DENYOOM FAST] ONE, "2.0.0" "Appends a string to the value of a key. Creates the key if it doesn't exist." => strings::append;
        write "decr" 2 [DENYOOM FAST] ONE, "1.0.0" "Subtracts one from the number at a key." => strings::decr;
        write "decrby" 3 [DENYOOM FAST] ONE, "1.0.0" "Subtracts an integer from the number at a key." => strings::decrby;
        write "delex" -2 [FAST] ONE, "8.4.0" "Deletes a key if its value is, or is not, a given one." => strings::delex;
        read "digest" 2 [FAST] ONE, "8.4.0" "Returns the XXH3 hash of a string, in hexadecimal." => strings::digest;
        read "get" 2 [FAST] ONE, "1.0.0" "Returns the string at a key." => strings::get;
        write "getdel" 2 [FAST] ONE, "6.2.0" "Returns the string at a key and deletes the key." => strings::getdel;
        write "getex" -2 [FAST] ONE, "6.2.0" "Returns the string at a key and sets or removes its expiry." => strings::getex;
        read "getrange" 4 [] ONE, "2.4.0" "Returns a part of the string at a key." => strings::getrange;
        write "getset" 3 [DENYOOM FAST] ONE, "1.0.0" "Sets a string and returns what was there." => strings::getset;
        write "incr" 2 [DENYOOM FAST] ONE, "1.0.0" "Adds one to the number at a key." => strings::incr;
        write "incrby" 3 [DENYOOM FAST] ONE, "1.0.0" "Adds an integer to the number at a key." => strings::incrby;
        write "incrbyfloat" 3 [DENYOOM FAST] ONE, "2.6.0" "Adds a decimal number to the number at a key." => strings::incrbyfloat;
        read "lcs" -3 [] TWO, "7.0.0" "Finds the longest common subsequence of two strings." => strings::lcs;
        read "mget" -2 [FAST] ALL, "1.0.0" "Returns the strings at several keys." => strings::mget;
        write "mset" -3 [DENYOOM] PAIRS, "1.0.1" "Sets several strings at once." => strings::mset;
        write "msetex" -4 [DENYOOM] PAIRS_AT_1, "8.4.0" "Sets several strings at once, on a condition and with an expiry." => strings::msetex;
        write "msetnx" -3 [DENYOOM] PAIRS, "1.0.1" "Sets several strings at once if none of their keys exists." => strings::msetnx;
        write "psetex" 4 [DENYOOM] ONE, "2.6.0" "Sets a string with a time to live in milliseconds." => strings::psetex;
        write "set" -3 [DENYOOM] ONE, "1.0.0" "Sets a string, on a condition and with an expiry if asked for." => strings::set;
        write "setex" 4 [DENYOOM] ONE, "2.0.0" "Sets a string with a time to live in seconds." => strings::setex;
        write "setnx" 3 [DENYOOM FAST] ONE, "1.0.0" "Sets a string if its key doesn't exist." => strings::setnx;
        write "setrange" 4 [DENYOOM] ONE, "2.2.0" "Overwrites a part of a string from an offset on." => strings::setrange;
        read "strlen" 2 [FAST] ONE, "2.2.0" "Returns the length of a string." => strings::strlen;
        read "substr" 4 [] ONE, "1.0.0" "Returns a part of the string at a key; the older name of GETRANGE." => strings::getrange;
    }
    "generic" {
        write "copy" -3 [DENYOOM] TWO, "6.2.0" "Copies the value of a key to another key." => keys::copy;
        write "del" -2 [] ALL, "1.0.0" "Deletes keys." => keys::del;
        read "dump" 2 [] ONE, "2.6.0" "Returns a value as bytes, as Redis writes it." => dump::dump;
        read "exists" -2 [FAST] ALL, "1.0.0" "Tells how many of the keys exist." => keys::exists;
        write "expire" -3 [FAST] ONE, "1.0.0" "Sets the time to live of a key in seconds." => keys::expire;
        write "expireat" -3 [FAST] ONE, "1.2.0" "Sets when a key expires, in seconds since the epoch." => keys::expireat;
        read "expiretime" 2 [FAST] ONE, "7.0.0" "Returns when a key expires, in seconds since the epoch." => keys::expiretime;
        read "keys" 2 [] NONE, "1.0.0" "Returns all keys that match a pattern." => keys::keys;
        write "move" 3 [FAST] ONE, "1.0.0" "Moves a key to another database." => keys::move_to;
        container "object" -2 [] NONE, "2.2.3" "Commands that look at the inside of keys.";
        read "object|encoding" 3 [] SECOND, "2.2.3" "Returns how the value of a key would be encoded by Redis." => keys::object_encoding;
        read "object|freq" 3 [] SECOND, "4.0.0" "Returns how often a key is accessed, where that is tracked." => keys::object_freq;
        read "object|help" 2 [LOADING STALE] NONE, "6.2.0" "Lists the subcommands." => keys::object_help;
        read "object|idletime" 3 [] SECOND, "2.2.3" "Returns the seconds since the last access to a key." => keys::object_idletime;
        read "object|refcount" 3 [] SECOND, "2.2.3" "Returns the reference count of a value: 1." => keys::object_refcount;
        write "persist" 2 [FAST] ONE, "2.2.0" "Removes the expiry of a key." => keys::persist;
        write "pexpire" -3 [FAST] ONE, "2.6.0" "Sets the time to live of a key in milliseconds." => keys::pexpire;
        write "pexpireat" -3 [FAST] ONE, "2.6.0" "Sets when a key expires, in milliseconds since the epoch." => keys::pexpireat;
        read "pexpiretime" 2 [FAST] ONE, "7.0.0" "Returns when a key expires, in milliseconds since the epoch." => keys::pexpiretime;
        read "pttl" 2 [FAST] ONE, "2.6.0" "Returns the time to live of a key in milliseconds." => keys::pttl;
        read "randomkey" 1 [RANDOM] NONE, "1.0.0" "Returns a key picked at random." => keys::randomkey;
        write "rename" 3 [] TWO, "1.0.0" "Renames a key, over whatever had the new name." => keys::rename;
        write "renamenx" 3 [FAST] TWO, "1.0.0" "Renames a key if nothing has the new name." => keys::renamenx;
        write "restore" -4 [DENYOOM] ONE, "2.6.0" "Makes a key of what DUMP returned, here or from a Redis." => dump::restore;
        read "scan" -2 [] NONE, "2.8.0" "Walks over the keys of a database." => keys::scan;
        read "touch" -2 [FAST] ALL, "3.2.1" "Tells how many of the keys exist." => keys::touch;
        read "ttl" 2 [FAST] ONE, "1.0.0" "Returns the time to live of a key in seconds." => keys::ttl;
        read "type" 2 [FAST] ONE, "1.0.0" "Returns the type of the value of a key." => keys::kind;
        write "unlink" -2 [FAST] ALL, "4.0.0" "Deletes keys." => keys::del;
        write "sort" -2 [DENYOOM] KeyPositions::Sort, "1.0.0" "Sorts a list, set or sorted set, and stores the result if asked for." => sort::sort;
        read "sort_ro" -2 [] KeyPositions::Sort, "7.0.0" "Sorts a list, set or sorted set." => sort::sort_ro;
        connection "wait" 3 [BLOCKING] NONE, "3.0.0" "Waits until earlier writes are replicated.";
        connection "waitaof" 4 [BLOCKING] NONE, "7.2.0" "Waits until earlier writes are on disk.";
    }
    "hash" {
        write "hdel" -3 [FAST] ONE, "2.0.0" "Deletes fields of a hash." => hashes::hdel;
        read "hexists" 3 [FAST] ONE, "2.0.0" "Tells whether a hash has a field." => hashes::hexists;
        write "hexpire" -6 [FAST] ONE, "7.4.0" "Sets the time to live of fields in seconds." => hashes::hexpire;
        write "hexpireat" -6 [FAST] ONE, "7.4.0" "Sets when fields expire, in seconds since the epoch." => hashes::hexpireat;
        read "hexpiretime" -5 [FAST] ONE, "7.4.0" "Returns when fields expire, in seconds since the epoch." => hashes::hexpiretime;
        read "hget" 3 [FAST] ONE, "2.0.0" "Returns the value of a field." => hashes::hget;
        read "hgetall" 2 [] ONE, "2.0.0" "Returns all fields and values of a hash." => hashes::hgetall;
        write "hgetdel" -5 [FAST] ONE, "8.0.0" "Returns the values of fields and deletes them." => hashes::hgetdel;
        write "hgetex" -5 [FAST] ONE, "8.0.0" "Returns the values of fields and sets or removes their expiry." => hashes::hgetex;
        write "hincrby" 4 [DENYOOM FAST] ONE, "2.0.0" "Adds an integer to the number in a field." => hashes::hincrby;
        write "hincrbyfloat" 4 [DENYOOM FAST] ONE, "2.6.0" "Adds a decimal number to the number in a field." => hashes::hincrbyfloat;
        read "hkeys" 2 [] ONE, "2.0.0" "Returns all fields of a hash." => hashes::hkeys;
        read "hlen" 2 [FAST] ONE, "2.0.0" "Returns the number of fields." => hashes::hlen;
        read "hmget" -3 [FAST] ONE, "2.0.0" "Returns the values of several fields." => hashes::hmget;
        write "hmset" -4 [DENYOOM FAST] ONE, "2.0.0" "Sets fields of a hash." => hashes::hmset;
        write "hpersist" -5 [FAST] ONE, "7.4.0" "Removes the expiry of fields." => hashes::hpersist;
        write "hpexpire" -6 [FAST] ONE, "7.4.0" "Sets the time to live of fields in milliseconds." => hashes::hpexpire;
        write "hpexpireat" -6 [FAST] ONE, "7.4.0" "Sets when fields expire, in milliseconds since the epoch." => hashes::hpexpireat;
        read "hpexpiretime" -5 [FAST] ONE, "7.4.0" "Returns when fields expire, in milliseconds since the epoch." => hashes::hpexpiretime;
        read "hpttl" -5 [FAST] ONE, "7.4.0" "Returns the time to live of fields in milliseconds." => hashes::hpttl;
        read "hrandfield" -2 [RANDOM] ONE, "6.2.0" "Returns fields picked at random." => hashes::hrandfield;
        read "hscan" -3 [] ONE, "2.8.0" "Walks over the fields of a hash." => hashes::hscan;
        write "hset" -4 [DENYOOM FAST] ONE, "2.0.0" "Sets fields of a hash; tells how many are new." => hashes::hset;
        write "hsetex" -6 [DENYOOM FAST] ONE, "8.0.0" "Sets fields of a hash, on a condition and with an expiry." => hashes::hsetex;
        write "hsetnx" 4 [DENYOOM FAST] ONE, "2.0.0" "Sets a field if it doesn't exist." => hashes::hsetnx;
        read "hstrlen" 3 [FAST] ONE, "3.2.0" "Returns the length of a field's value." => hashes::hstrlen;
        read "httl" -5 [FAST] ONE, "7.4.0" "Returns the time to live of fields in seconds." => hashes::httl;
        read "hvals" 2 [] ONE, "2.0.0" "Returns all values of a hash." => hashes::hvals;
    }
    "list" {
        write "blmove" 6 [DENYOOM BLOCKING] TWO, "6.2.0" "Moves an element between lists, or waits for one." => lists::blmove;
        write "blmpop" -5 [BLOCKING] AT_2, "7.0.0" "Pops elements from the first list that has some, or waits." => lists::blmpop;
        write "blpop" -3 [BLOCKING] BUT_LAST, "2.0.0" "Pops the first element of the first list that has one, or waits." => lists::blpop;
        write "brpop" -3 [BLOCKING] BUT_LAST, "2.0.0" "Pops the last element of the first list that has one, or waits." => lists::brpop;
        write "brpoplpush" 4 [DENYOOM BLOCKING] TWO, "2.2.0" "Moves the last element of a list to the head of another, or waits." => lists::brpoplpush;
        read "lindex" 3 [] ONE, "1.0.0" "Returns an element by its place." => lists::lindex;
        write "linsert" 5 [DENYOOM] ONE, "2.2.0" "Inserts an element before or after another." => lists::linsert;
        read "llen" 2 [FAST] ONE, "1.0.0" "Returns the length of a list." => lists::llen;
        write "lmove" 5 [DENYOOM] TWO, "6.2.0" "Moves an element between the ends of lists." => lists::lmove;
        write "lmpop" -4 [] AT_1, "7.0.0" "Pops elements from the first list that has some." => lists::lmpop;
        write "lpop" -2 [FAST] ONE, "1.0.0" "Pops the first elements of a list." => lists::lpop;
        read "lpos" -3 [] ONE, "6.0.6" "Returns the places of an element." => lists::lpos;
        write "lpush" -3 [DENYOOM FAST] ONE, "1.0.0" "Pushes elements to the head of a list." => lists::lpush;
        write "lpushx" -3 [DENYOOM FAST] ONE, "2.2.0" "Pushes elements to the head of a list that exists." => lists::lpushx;
        read "lrange" 4 [] ONE, "1.0.0" "Returns a range of elements." => lists::lrange;
        write "lrem" 4 [] ONE, "1.0.0" "Removes elements by value." => lists::lrem;
        write "lset" 4 [DENYOOM] ONE, "1.0.0" "Sets an element by its place." => lists::lset;
        write "ltrim" 4 [] ONE, "1.0.0" "Keeps a range of elements and removes the others." => lists::ltrim;
        write "rpop" -2 [FAST] ONE, "1.0.0" "Pops the last elements of a list." => lists::rpop;
        write "rpoplpush" 3 [DENYOOM] TWO, "1.2.0" "Moves the last element of a list to the head of another." => lists::rpoplpush;
        write "rpush" -3 [DENYOOM FAST] ONE, "1.0.0" "Pushes elements to the tail of a list." => lists::rpush;
        write "rpushx" -3 [DENYOOM FAST] ONE, "2.2.0" "Pushes elements to the tail of a list that exists." => lists::rpushx;
    }
    "set" {
        write "sadd" -3 [DENYOOM FAST] ONE, "1.0.0" "Adds members to a set." => sets::sadd;
        read "scard" 2 [FAST] ONE, "1.0.0" "Returns the number of members." => sets::scard;
        read "sdiff" -2 [] ALL, "1.0.0" "Returns the members of the first set that no other has." => sets::sdiff;
        write "sdiffstore" -3 [DENYOOM] ALL, "1.0.0" "Stores the members of the first set that no other has." => sets::sdiffstore;
        read "sinter" -2 [] ALL, "1.0.0" "Returns the members that all sets have." => sets::sinter;
        read "sintercard" -3 [] AT_1, "7.0.0" "Counts the members that all sets have." => sets::sintercard;
        write "sinterstore" -3 [DENYOOM] ALL, "1.0.0" "Stores the members that all sets have." => sets::sinterstore;
        read "sismember" 3 [FAST] ONE, "1.0.0" "Tells whether a set has a member." => sets::sismember;
        read "smembers" 2 [] ONE, "1.0.0" "Returns all members of a set." => sets::smembers;
        read "smismember" -3 [FAST] ONE, "6.2.0" "Tells which members a set has." => sets::smismember;
        write "smove" 4 [FAST] TWO, "1.0.0" "Moves a member to another set." => sets::smove;
        write "spop" -2 [FAST] ONE, "1.0.0" "Removes members picked at random and returns them." => sets::spop;
        read "srandmember" -2 [RANDOM] ONE, "1.0.0" "Returns members picked at random." => sets::srandmember;
        write "srem" -3 [FAST] ONE, "1.0.0" "Removes members from a set." => sets::srem;
        read "sscan" -3 [] ONE, "2.8.0" "Walks over the members of a set." => sets::sscan;
        read "sunion" -2 [] ALL, "1.0.0" "Returns the members that any set has." => sets::sunion;
        write "sunionstore" -3 [DENYOOM] ALL, "1.0.0" "Stores the members that any set has." => sets::sunionstore;
    }
    "sorted-set" {
        write "bzmpop" -5 [BLOCKING] AT_2, "7.0.0" "Pops members from the first sorted set that has some, or waits." => sorted::bzmpop;
        write "bzpopmax" -3 [BLOCKING FAST] BUT_LAST, "5.0.0" "Pops the highest member of the first sorted set that has one, or waits." => sorted::bzpopmax;
        write "bzpopmin" -3 [BLOCKING FAST] BUT_LAST, "5.0.0" "Pops the lowest member of the first sorted set that has one, or waits." => sorted::bzpopmin;
        write "zadd" -4 [DENYOOM FAST] ONE, "1.2.0" "Adds members to a sorted set, or changes their scores." => sorted::zadd;
        read "zcard" 2 [FAST] ONE, "1.2.0" "Returns the number of members." => sorted::zcard;
        read "zcount" 4 [FAST] ONE, "2.0.0" "Counts the members of a range of scores." => sorted::zcount;
        read "zdiff" -3 [] AT_1, "6.2.0" "Returns the members of the first sorted set that no other has." => sorted::zdiff;
        write "zdiffstore" -4 [DENYOOM] STORE_AT_2, "6.2.0" "Stores the members of the first sorted set that no other has." => sorted::zdiffstore;
        write "zincrby" 4 [DENYOOM FAST] ONE, "1.2.0" "Adds to the score of a member." => sorted::zincrby;
        read "zinter" -3 [] AT_1, "6.2.0" "Returns the members that all sorted sets have." => sorted::zinter;
        read "zintercard" -3 [] AT_1, "7.0.0" "Counts the members that all sorted sets have." => sorted::zintercard;
        write "zinterstore" -4 [DENYOOM] STORE_AT_2, "2.0.0" "Stores the members that all sorted sets have." => sorted::zinterstore;
        read "zlexcount" 4 [FAST] ONE, "2.8.9" "Counts the members of a range of bytes." => sorted::zlexcount;
        write "zmpop" -4 [] AT_1, "7.0.0" "Pops members from the first sorted set that has some." => sorted::zmpop;
        read "zmscore" -3 [FAST] ONE, "6.2.0" "Returns the scores of members." => sorted::zmscore;
        write "zpopmax" -2 [FAST] ONE, "5.0.0" "Pops the highest members." => sorted::zpopmax;
        write "zpopmin" -2 [FAST] ONE, "5.0.0" "Pops the lowest members." => sorted::zpopmin;
        read "zrandmember" -2 [RANDOM] ONE, "6.2.0" "Returns members picked at random." => sorted::zrandmember;
        read "zrange" -4 [] ONE, "1.2.0" "Returns a range of members." => sorted::zrange;
        read "zrangebylex" -4 [] ONE, "2.8.9" "Returns the members of a range of bytes." => sorted::zrangebylex;
        read "zrangebyscore" -4 [] ONE, "1.0.5" "Returns the members of a range of scores." => sorted::zrangebyscore;
        write "zrangestore" -5 [DENYOOM] TWO, "6.2.0" "Stores a range of members." => sorted::zrangestore;
        read "zrank" -3 [FAST] ONE, "2.0.0" "Returns the rank of a member, the lowest first." => sorted::zrank;
        write "zrem" -3 [FAST] ONE, "1.2.0" "Removes members." => sorted::zrem;
        write "zremrangebylex" 4 [] ONE, "2.8.9" "Removes the members of a range of bytes." => sorted::zremrangebylex;
        write "zremrangebyrank" 4 [] ONE, "2.0.0" "Removes the members of a range of ranks." => sorted::zremrangebyrank;
        write "zremrangebyscore" 4 [] ONE, "1.2.0" "Removes the members of a range of scores." => sorted::zremrangebyscore;
        read "zrevrange" -4 [] ONE, "1.2.0" "Returns a range of members, the highest first." => sorted::zrevrange;
        read "zrevrangebylex" -4 [] ONE, "2.8.9" "Returns the members of a range of bytes, the highest first." => sorted::zrevrangebylex;
        read "zrevrangebyscore" -4 [] ONE, "2.2.0" "Returns the members of a range of scores, the highest first." => sorted::zrevrangebyscore;
        read "zrevrank" -3 [FAST] ONE, "2.0.0" "Returns the rank of a member, the highest first." => sorted::zrevrank;
        read "zscan" -3 [] ONE, "2.8.0" "Walks over the members of a sorted set." => sorted::zscan;
        read "zscore" 3 [FAST] ONE, "1.2.0" "Returns the score of a member." => sorted::zscore;
        read "zunion" -3 [] AT_1, "6.2.0" "Returns the members that any sorted set has." => sorted::zunion;
        write "zunionstore" -4 [DENYOOM] STORE_AT_2, "2.0.0" "Stores the members that any sorted set has." => sorted::zunionstore;
    }
    "bitmap" {
        read "bitcount" -2 [] ONE, "2.6.0" "Counts the bits that are set." => bits::bitcount;
        write "bitfield" -2 [DENYOOM] ONE, "3.2.0" "Reads and changes integers of some bits in a string." => bits::bitfield;
        read "bitfield_ro" -2 [FAST] ONE, "6.0.0" "Reads integers of some bits in a string." => bits::bitfield_ro;
        write "bitop" -4 [DENYOOM] FROM_SECOND, "2.6.0" "Combines strings bit by bit and stores the result." => bits::bitop;
        read "bitpos" -3 [] ONE, "2.8.7" "Finds the first bit that is, or is not, set." => bits::bitpos;
        read "getbit" 3 [FAST] ONE, "2.2.0" "Returns a bit." => bits::getbit;
        write "setbit" 4 [DENYOOM] ONE, "2.2.0" "Sets or clears a bit." => bits::setbit;
    }
    "bf" {
        write "bf.add" 3 [DENYOOM FAST] ONE, "1.0.0" "Adds an item to a Bloom filter, and makes the filter." => bloom::add;
        read "bf.card" 2 [FAST] ONE, "2.4.4" "Returns how many items a Bloom filter has." => bloom::card;
        read "bf.exists" 3 [FAST] ONE, "1.0.0" "Tells whether a Bloom filter seems to have an item." => bloom::exists;
        read "bf.info" -2 [FAST] ONE, "1.0.0" "Tells about a Bloom filter." => bloom::info;
        write "bf.insert" -4 [DENYOOM FAST] ONE, "1.0.0" "Adds items to a Bloom filter, and makes the filter as it is told." => bloom::insert_items;
        write "bf.loadchunk" 4 [] ONE, "1.0.0" "Refused: the bits of a filter are this server's own." => bloom::no_dump;
        write "bf.madd" -3 [DENYOOM FAST] ONE, "1.0.0" "Adds items to a Bloom filter, and makes the filter." => bloom::madd;
        read "bf.mexists" -3 [FAST] ONE, "1.0.0" "Tells which items a Bloom filter seems to have." => bloom::mexists;
        write "bf.reserve" -4 [DENYOOM FAST] ONE, "1.0.0" "Makes a Bloom filter of a size and a rate of errors." => bloom::reserve;
        write "bf.scandump" 3 [] ONE, "1.0.0" "Refused: the bits of a filter are this server's own." => bloom::no_dump;
    }
    "geo" {
        write "geoadd" -5 [DENYOOM] ONE, "3.2.0" "Adds members with their places to a sorted set." => geo::geoadd;
        read "geodist" -4 [] ONE, "3.2.0" "Returns how far two members are apart." => geo::geodist;
        read "geohash" -2 [] ONE, "3.2.0" "Returns the geohashes of members." => geo::geohash;
        read "geopos" -2 [] ONE, "3.2.0" "Returns the places of members." => geo::geopos;
        write "georadius" -6 [DENYOOM] KeyPositions::Stored, "3.2.0" "Finds members within a radius of a place." => geo::georadius;
        read "georadius_ro" -6 [] ONE, "3.2.10" "Finds members within a radius of a place." => geo::georadius_ro;
        write "georadiusbymember" -5 [DENYOOM] KeyPositions::Stored, "3.2.0" "Finds members within a radius of another." => geo::georadiusbymember;
        read "georadiusbymember_ro" -5 [] ONE, "3.2.10" "Finds members within a radius of another." => geo::georadiusbymember_ro;
        read "geosearch" -7 [] ONE, "6.2.0" "Finds members within an area." => geo::geosearch;
        write "geosearchstore" -8 [DENYOOM] TWO, "6.2.0" "Finds members within an area and stores them." => geo::geosearchstore;
    }
    "hyperloglog" {
        write "pfadd" -2 [DENYOOM FAST] ONE, "2.8.9" "Adds elements to a sketch that counts them." => hyper::pfadd;
        read "pfcount" -2 [] ALL, "2.8.9" "Estimates how many different elements sketches have seen." => hyper::pfcount;
        write "pfmerge" -2 [DENYOOM] ALL, "2.8.9" "Merges sketches into one." => hyper::pfmerge;
    }
    "scripting" {
        write "eval" -3 [NOSCRIPT STALE NO_MANDATORY_KEYS] AT_2, "2.6.0" "Runs a script." => scripts::eval;
        write "eval_ro" -3 [NOSCRIPT STALE NO_MANDATORY_KEYS] AT_2, "7.0.0" "Runs a script that only reads." => scripts::eval_ro;
        write "evalsha" -3 [NOSCRIPT STALE NO_MANDATORY_KEYS] AT_2, "2.6.0" "Runs a script that was loaded." => scripts::evalsha;
        write "evalsha_ro" -3 [NOSCRIPT STALE NO_MANDATORY_KEYS] AT_2, "7.0.0" "Runs a script that was loaded and only reads." => scripts::evalsha_ro;
        write "fcall" -3 [NOSCRIPT STALE NO_MANDATORY_KEYS] AT_2, "7.0.0" "Calls a function of a library." => functions::fcall;
        write "fcall_ro" -3 [NOSCRIPT STALE NO_MANDATORY_KEYS] AT_2, "7.0.0" "Calls a function that only reads." => functions::fcall_ro;
        container "function" -2 [] NONE, "7.0.0" "Commands about libraries of functions.";
        write "function|delete" 3 [NOSCRIPT] NONE, "7.0.0" "Deletes a library and its functions." => functions::delete;
        read "function|dump" 2 [NOSCRIPT] NONE, "7.0.0" "Returns all libraries as bytes for FUNCTION RESTORE." => functions::dump;
        write "function|flush" -2 [NOSCRIPT] NONE, "7.0.0" "Deletes all libraries." => functions::flush;
        read "function|help" 2 [LOADING STALE] NONE, "7.0.0" "Lists the subcommands." => functions::help;
        read "function|kill" 2 [NOSCRIPT] NONE, "7.0.0" "Ends a running function; none is ever found running." => functions::kill;
        read "function|list" -2 [NOSCRIPT] NONE, "7.0.0" "Lists libraries and their functions." => functions::list;
        write "function|load" -3 [DENYOOM NOSCRIPT] NONE, "7.0.0" "Creates a library of functions." => functions::load;
        write "function|restore" -3 [DENYOOM NOSCRIPT] NONE, "7.0.0" "Creates libraries from the bytes of FUNCTION DUMP." => functions::restore;
        read "function|stats" 2 [NOSCRIPT] NONE, "7.0.0" "Counts libraries and functions." => functions::stats;
        container "script" -2 [] NONE, "2.6.0" "Commands about scripts.";
        read "script|exists" -3 [NOSCRIPT] NONE, "2.6.0" "Tells which scripts are loaded." => scripts::exists;
        write "script|flush" -2 [NOSCRIPT] NONE, "2.6.0" "Forgets all scripts." => scripts::flush;
        read "script|help" 2 [LOADING STALE] NONE, "5.0.0" "Lists the subcommands." => scripts::help;
        read "script|kill" 2 [NOSCRIPT] NONE, "2.6.0" "Ends a running script; none is ever found running." => scripts::kill;
        write "script|load" 3 [NOSCRIPT STALE] NONE, "2.6.0" "Keeps a script for EVALSHA." => scripts::load;
    }
    "stream" {
        write "xack" -4 [FAST] ONE, "5.0.0" "Acknowledges records of a group." => stream_groups::xack;
        write "xackdel" -6 [FAST] ONE, "8.2.0" "Acknowledges records of a group and removes them." => stream_groups::xackdel;
        write "xadd" -5 [DENYOOM FAST] ONE, "5.0.0" "Appends a record to a stream." => streams::xadd;
        write "xautoclaim" -6 [FAST] ONE, "6.2.0" "Hands records that were pending for long to a consumer." => stream_groups::xautoclaim;
        write "xcfgset" -4 [FAST] ONE, "8.6.0" "Sets for how long and how many messages of producers are remembered." => streams::xcfgset;
        write "xclaim" -6 [FAST] ONE, "5.0.0" "Hands pending records to a consumer." => stream_groups::xclaim;
        write "xdel" -3 [FAST] ONE, "5.0.0" "Removes records from a stream." => streams::xdel;
        write "xdelex" -5 [FAST] ONE, "8.2.0" "Removes records, minding the groups that refer to them." => streams::xdelex;
        container "xgroup" -2 [] NONE, "5.0.0" "Commands about groups of streams.";
        write "xgroup|create" -5 [DENYOOM] SECOND, "5.0.0" "Creates a group." => stream_groups::xgroup_create;
        write "xgroup|createconsumer" 5 [DENYOOM] SECOND, "6.2.0" "Creates a consumer of a group." => stream_groups::xgroup_createconsumer;
        write "xgroup|delconsumer" 5 [] SECOND, "5.0.0" "Deletes a consumer of a group." => stream_groups::xgroup_delconsumer;
        write "xgroup|destroy" 4 [] SECOND, "5.0.0" "Deletes a group." => stream_groups::xgroup_destroy;
        read "xgroup|help" 2 [LOADING STALE] NONE, "5.0.0" "Lists the subcommands." => stream_groups::xgroup_help;
        write "xgroup|setid" -5 [] SECOND, "5.0.0" "Sets the last id that was delivered to a group." => stream_groups::xgroup_setid;
        container "xinfo" -2 [] NONE, "5.0.0" "Commands that tell about streams.";
        read "xinfo|consumers" 4 [] SECOND, "5.0.0" "Tells about the consumers of a group." => stream_groups::xinfo_consumers;
        read "xinfo|groups" 3 [] SECOND, "5.0.0" "Tells about the groups of a stream." => stream_groups::xinfo_groups;
        read "xinfo|help" 2 [LOADING STALE] NONE, "5.0.0" "Lists the subcommands." => streams::xinfo_help;
        read "xinfo|stream" -3 [] SECOND, "5.0.0" "Tells about a stream." => streams::xinfo_stream;
        read "xlen" 2 [FAST] ONE, "5.0.0" "Returns the number of records of a stream." => streams::xlen;
        read "xpending" -3 [] ONE, "5.0.0" "Tells which records of a group are pending." => stream_groups::xpending;
        read "xrange" -4 [] ONE, "5.0.0" "Returns the records between two ids." => streams::xrange;
        read "xread" -4 [BLOCKING] KeyPositions::Streams, "5.0.0" "Returns the records after given ids; may wait for some." => streams::xread;
        write "xreadgroup" -7 [BLOCKING] KeyPositions::Streams, "5.0.0" "Returns new records for a consumer of a group; may wait for some." => stream_groups::xreadgroup;
        read "xrevrange" -4 [] ONE, "5.0.0" "Returns the records between two ids, the newest first." => streams::xrevrange;
        write "xsetid" -3 [DENYOOM FAST] ONE, "5.0.0" "Sets the last id of a stream." => streams::xsetid;
        write "xtrim" -4 [] ONE, "5.0.0" "Cuts off the oldest records of a stream." => streams::xtrim;
    }
    "connection" {
        connection "auth" -2 [NOSCRIPT LOADING STALE FAST NO_AUTH] NONE, "1.0.0" "Authenticates the connection.";
        connection "client" -2 [NOSCRIPT LOADING STALE] NONE, "2.4.0" "Commands about client connections.";
        read "echo" 2 [LOADING STALE FAST] NONE, "1.0.0" "Returns the given string." => keys::echo;
        connection "hello" -1 [NOSCRIPT LOADING STALE FAST NO_AUTH] NONE, "6.0.0" "Agrees on the protocol.";
        read "ping" -1 [LOADING STALE FAST] NONE, "1.0.0" "Tells that the server is there." => keys::ping;
        connection "quit" -1 [NOSCRIPT LOADING STALE FAST NO_AUTH NO_MULTI] NONE, "1.0.0" "Closes the connection.";
        connection "reset" 1 [NOSCRIPT LOADING STALE FAST NO_AUTH NO_MULTI] NONE, "6.2.0" "Resets the connection.";
        connection "select" 2 [LOADING STALE FAST] NONE, "1.0.0" "Changes the database of the connection.";
    }
    "transactions" {
        connection "discard" 1 [NOSCRIPT LOADING STALE FAST] NONE, "2.0.0" "Forgets a transaction.";
        connection "exec" 1 [NOSCRIPT LOADING STALE] NONE, "1.2.0" "Executes a transaction.";
        connection "multi" 1 [NOSCRIPT LOADING STALE FAST NO_MULTI] NONE, "1.2.0" "Starts a transaction.";
        connection "unwatch" 1 [NOSCRIPT LOADING STALE FAST] NONE, "2.2.0" "Forgets the watched keys.";
        connection "watch" -2 [NOSCRIPT LOADING STALE FAST NO_MULTI] ALL, "2.2.0" "Watches keys, so that a transaction executes only if none has changed.";
    }
    "pubsub" {
        connection "psubscribe" -2 [PUBSUB NOSCRIPT LOADING STALE] NONE, "2.0.0" "Listens to the channels that match patterns.";
        write "publish" 3 [PUBSUB LOADING STALE FAST] NONE, "2.0.0" "Posts a message to a channel." => keys::publish;
        connection "pubsub" -2 [PUBSUB LOADING STALE] NONE, "2.8.0" "Commands about channels.";
        connection "punsubscribe" -1 [PUBSUB NOSCRIPT LOADING STALE] NONE, "2.0.0" "Stops listening to patterns.";
        write "spublish" 3 [PUBSUB LOADING STALE FAST] ONE, "7.0.0" "Posts a message to a sharded channel." => keys::spublish;
        connection "ssubscribe" -2 [PUBSUB NOSCRIPT LOADING STALE] ALL, "7.0.0" "Listens to sharded channels.";
        connection "subscribe" -2 [PUBSUB NOSCRIPT LOADING STALE] NONE, "2.0.0" "Listens to channels.";
        connection "sunsubscribe" -1 [PUBSUB NOSCRIPT LOADING STALE] ALL, "7.0.0" "Stops listening to sharded channels.";
        connection "unsubscribe" -1 [PUBSUB NOSCRIPT LOADING STALE] NONE, "2.0.0" "Stops listening to channels.";
    }
    "server" {
        connection "acl" -2 [ADMIN NOSCRIPT LOADING STALE] NONE, "6.0.0" "Commands about access control.";
        connection "bgrewriteaof" 1 [ADMIN NOSCRIPT] NONE, "1.0.0" "Compacts what is on disk.";
        connection "bgsave" -1 [ADMIN NOSCRIPT] NONE, "1.0.0" "Saves a snapshot in the background.";
        connection "command" -1 [LOADING STALE] NONE, "2.8.13" "Commands about commands.";
        connection "config" -2 [ADMIN NOSCRIPT LOADING STALE] NONE, "2.0.0" "Commands about settings.";
        read "dbsize" 1 [FAST] NONE, "1.0.0" "Returns the number of keys." => keys::dbsize;
        write "flushall" -1 [] NONE, "1.0.0" "Deletes all keys of all databases." => keys::flushall;
        write "flushdb" -1 [] NONE, "1.0.0" "Deletes all keys of the database." => keys::flushdb;
        connection "info" -1 [LOADING STALE] NONE, "1.0.0" "Tells about the server.";
        connection "lastsave" 1 [LOADING STALE FAST] NONE, "1.0.0" "Tells when the last snapshot was saved.";
        connection "latency" -2 [ADMIN NOSCRIPT LOADING STALE] NONE, "2.8.13" "Commands about latency.";
        connection "lolwut" -1 [FAST] NONE, "5.0.0" "Shows the version.";
        container "memory" -2 [] NONE, "4.0.0" "Commands about memory.";
        connection "memory|doctor" 2 [] NONE, "4.0.0" "Reports on memory.";
        read "memory|help" 2 [LOADING STALE] NONE, "4.0.0" "Lists the subcommands." => keys::memory_help;
        connection "memory|purge" 2 [] NONE, "4.0.0" "Asks to give memory back.";
        connection "memory|stats" 2 [] NONE, "4.0.0" "Tells about the use of memory.";
        read "memory|usage" -3 [] SECOND, "4.0.0" "Estimates the memory of a key." => keys::memory_usage;
        connection "monitor" 1 [ADMIN NOSCRIPT LOADING STALE NO_MULTI] NONE, "1.0.0" "Shows every command as it comes.";
        connection "replicaof" 3 [ADMIN NOSCRIPT STALE] NONE, "5.0.0" "Refused: replication is the log's.";
        connection "role" 1 [NOSCRIPT LOADING STALE FAST] NONE, "2.8.12" "Tells the role of the server.";
        connection "save" 1 [ADMIN NOSCRIPT NO_MULTI] NONE, "1.0.0" "Saves a snapshot.";
        connection "sentinel" -2 [ADMIN NOSCRIPT LOADING STALE] NONE, "2.8.4" "Answers clients that look for a server.";
        connection "shutdown" -1 [ADMIN NOSCRIPT LOADING STALE NO_MULTI] NONE, "1.0.0" "Refused: an operator stops the process.";
        connection "slaveof" 3 [ADMIN NOSCRIPT STALE] NONE, "1.0.0" "Refused: replication is the log's.";
        connection "slowlog" -2 [ADMIN LOADING STALE] NONE, "2.2.12" "Commands about slow commands.";
        read "time" 1 [LOADING STALE FAST] NONE, "2.6.0" "Returns the time." => keys::time;
    }
    "cluster" {
        connection "asking" 1 [FAST] NONE, "3.0.0" "Accepted, without effect.";
        connection "cluster" -2 [LOADING STALE] NONE, "3.0.0" "Commands about the cluster.";
        connection "readonly" 1 [LOADING STALE FAST] NONE, "3.0.0" "Allows stale reads on this connection.";
        connection "readwrite" 1 [LOADING STALE FAST] NONE, "3.0.0" "Ends stale reads on this connection.";
    }
    "limits" {
        write "cl.throttle" -5 [DENYOOM FAST] ONE, "0.1.0" "Takes from a rate limit, as the redis-cell module has it." => throttle::throttle;
    }
    "quorate" {
        connection "q.after" -3 [NOSCRIPT] NONE, "0.1.0" "In a transaction: schedules a command for later.";
        connection "q.atomic" 1 [NOSCRIPT] NONE, "0.1.0" "First in a transaction: any error refuses all of it.";
        connection "q.fence" 3 [NOSCRIPT FAST] NONE, "0.1.0" "In a transaction: refuses it unless a lock is held with a token.";
        connection "q.idempotent" 3 [NOSCRIPT FAST] NONE, "0.1.0" "In a transaction: gives it an idempotency key.";
        connection "q.limit" -5 [NOSCRIPT FAST] NONE, "0.1.0" "In a transaction: refuses it when a rate limit is used up.";
        connection "q.lock" -3 [NOSCRIPT BLOCKING NO_MULTI] NONE, "0.1.0" "Acquires a lock; returns its fencing token.";
        connection "q.unlock" 3 [NOSCRIPT FAST] NONE, "0.1.0" "Releases a lock.";
        connection "q.version" 3 [NOSCRIPT FAST] ONE, "0.1.0" "In a transaction: refuses it unless a key has a version.";
        connection "q.why" -2 [NOSCRIPT] NONE, "0.1.0" "Tells the history of a name.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Blob> {
        text.split(' ').map(Blob::from).collect()
    }

    #[test]
    fn every_name_is_found_in_any_case_and_stands_once() {
        for spec in SPECS {
            assert_eq!(spec.name, spec.name.to_ascii_lowercase());
            let found = lookup(spec.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert!(std::ptr::eq(found, spec), "{} stands twice", spec.name);
        }
        assert!(lookup(b"nothing").is_none());
        assert!(lookup(b"").is_none());
    }

    #[test]
    fn errors_are_worded_as_redis_words_them() {
        let error = |text: &str| check(&words(text)).unwrap_err().text().to_string();
        assert_eq!(error("foo"), "ERR unknown command 'foo', with args beginning with: ");
        assert_eq!(error("foo a b"), "ERR unknown command 'foo', with args beginning with: 'a' 'b' ");
        assert_eq!(error("get"), "ERR wrong number of arguments for 'get' command");
        assert_eq!(error("OBJECT frob k"), "ERR unknown subcommand 'frob'. Try OBJECT HELP.");
        assert_eq!(error("object encoding"), "ERR wrong number of arguments for 'object|encoding' command");
        assert_eq!(error("object"), "ERR wrong number of arguments for 'object' command");
    }

    #[test]
    fn keys_are_found_among_the_words() {
        let keys = |text: &str| {
            let words = words(text);
            keys_of(check(&words).unwrap(), &words).unwrap()
        };
        assert_eq!(keys("get a"), [1]);
        assert_eq!(keys("mset a 1 b 2"), [1, 3]);
        assert_eq!(keys("del a b c"), [1, 2, 3]);
        assert_eq!(keys("object encoding a"), [2]);
        assert_eq!(keys("msetex 2 a 1 b 2 NX"), [2, 4]);
    }
}
