//! Keyspace events: what subscribers of `__keyspace@n__:key` and `__keyevent@n__:event` are told of a call.
//!
//! A store that is listened to records what a call does to its keys ([`KeyChange`]); here that becomes events, by the command's name. Nothing of it is
//! state: each node makes the events of what it applies, and none while nobody listens.
//!
//! Invariant: a call that failed tells nothing, and one that changed nothing tells nothing but where Redis does so too.
//! Called by: `call::write`; the machine, for what ends by itself; the node, which makes messages of them.
//! Source: Redis' documentation of keyspace notifications, and the event names of Redis 7.2.

use crate::table::Spec;
use crate::{Store, args};
use quorate_types::{Blob, Key, Reply};

/// Classes of events, as letters of `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(u32);

/// The letters in the order in which they are shown, the class of each, and whether `A` stands for it.
const LETTERS: [(char, Classes, bool); 14] = [
    ('g', Classes::GENERIC, true),
    ('$', Classes::STRING, true),
    ('l', Classes::LIST, true),
    ('s', Classes::SET, true),
    ('h', Classes::HASH, true),
    ('z', Classes::SORTED, true),
    ('x', Classes::EXPIRED, true),
    ('e', Classes::EVICTED, true),
    ('t', Classes::STREAM, true),
    ('d', Classes::MODULE, true),
    ('n', Classes::NEW, false),
    ('K', Classes::KEYSPACE, false),
    ('E', Classes::KEYEVENT, false),
    ('m', Classes::MISS, false),
];

impl Classes {
    /// To `__keyspace@n__:key`.
    pub const KEYSPACE: Self = Self(1);
    /// To `__keyevent@n__:event`.
    pub const KEYEVENT: Self = Self(1 << 1);
    /// Of commands for any type.
    pub const GENERIC: Self = Self(1 << 2);
    /// Of strings.
    pub const STRING: Self = Self(1 << 3);
    /// Of lists.
    pub const LIST: Self = Self(1 << 4);
    /// Of sets.
    pub const SET: Self = Self(1 << 5);
    /// Of hashes.
    pub const HASH: Self = Self(1 << 6);
    /// Of sorted sets.
    pub const SORTED: Self = Self(1 << 7);
    /// Keys that ended at their deadline.
    pub const EXPIRED: Self = Self(1 << 8);
    /// Keys that went to make room.
    pub const EVICTED: Self = Self(1 << 9);
    /// Of streams.
    pub const STREAM: Self = Self(1 << 10);
    /// Of other types.
    pub const MODULE: Self = Self(1 << 11);
    /// Keys that came to be.
    pub const NEW: Self = Self(1 << 12);
    /// Reads of keys that are not there: accepted, and never told, since reads are not logged.
    pub const MISS: Self = Self(1 << 13);

    /// The classes that letters name; nothing when one of them names none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut classes = Self(0);
        for letter in text.chars() {
            let named =
                LETTERS.iter().filter(|(other, _, in_all)| *other == letter || (letter == 'A' && *in_all));
            let named = named.fold(0, |named, (_, class, _)| named | class.0);
            if named == 0 {
                return None;
            }
            classes.0 |= named;
        }
        Some(classes)
    }

    /// Whether all of these are among them.
    #[must_use]
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether anything would be told at all.
    #[must_use]
    pub fn tells(self) -> bool {
        self.0 & (Self::KEYSPACE.0 | Self::KEYEVENT.0) != 0
            && self.0 & !(Self::KEYSPACE.0 | Self::KEYEVENT.0 | Self::MISS.0) != 0
    }
}

impl std::fmt::Display for Classes {
    /// As CONFIG GET shows them: `A` for all that it stands for, and then not `n`, as Redis has it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = LETTERS.iter().filter(|(_, _, in_all)| *in_all).fold(0, |all, (_, class, _)| all | class.0);
        let is_all = self.has(Self(all));
        if is_all {
            f.write_str("A")?;
        }
        for (letter, class, in_all) in LETTERS {
            let shown_by_all = is_all && (in_all || letter == 'n');
            if self.has(class) && !shown_by_all {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Something that a call did to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub key: Key,
    /// What.
    pub what: What,
    /// The key was not there before.
    pub created: bool,
}

/// What a call did to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Wrote it whole; under a deadline or not.
    Put {
        /// Whether it has a deadline then.
        deadline: bool,
    },
    /// Changed a part of it.
    Changed {
        /// It was the last, and the key is gone.
        emptied: bool,
    },
    /// Deleted it.
    Deleted,
    /// Took it away, to be put elsewhere.
    Taken,
    /// Set a deadline.
    Deadline,
    /// Removed its deadline.
    Persisted,
    /// Made a consumer of a group of it.
    Consumer,
}

/// Tells what a call that succeeded did.
pub(crate) fn tell(
    store: &mut dyn Store,
    spec: &Spec,
    words: &[Blob],
    reply: &Reply,
    space: quorate_types::Keyspace,
) {
    let moves = matches!(spec.name, "lmove" | "blmove" | "rpoplpush" | "brpoplpush");
    let changes = store.take_changes();
    // A rotation pops and pushes the same key.
    let mut changes = if moves { changes } else { merged(changes) };
    if spec.group == "stream" {
        return tell_stream(store, spec, words, reply, space, &changes);
    }
    if matches!(spec.name, "rename" | "renamenx" | "move" | "copy") {
        // What was there under the new name went first.
        for change in changes.iter_mut().filter(|change| matches!(change.what, What::Put { .. })) {
            store.happened(&change.key, Classes::NEW, "new");
            change.created = false;
        }
    }
    if changes.is_empty() {
        return tell_unchanged(store, spec, words, reply, space);
    }
    // Redis tells of the push first.
    let order: Vec<&KeyChange> =
        if moves { changes.iter().rev().collect() } else { changes.iter().collect() };
    for (at, change) in order.into_iter().enumerate() {
        let KeyChange { key, what, created } = change;
        if *created {
            store.happened(key, Classes::NEW, "new");
        }
        let is_first = if moves { at == 1 } else { at == 0 };
        let (class, mut name) = name_of(spec, words, is_first);
        if name == "hexpire" && removed_fields(reply) {
            name = "hdel";
        }
        match what {
            What::Put { deadline } => {
                store.happened(key, class, name);
                if *deadline && sets_deadline(spec.name) {
                    store.happened(key, Classes::GENERIC, "expire");
                }
            }
            What::Changed { emptied } => {
                store.happened(key, class, name);
                if spec.name == "hsetex" && has_deadline(words) {
                    store.happened(key, class, "hexpire");
                }
                if *emptied {
                    store.happened(key, Classes::GENERIC, "del");
                }
            }
            What::Deleted => {
                if tells_before_del(spec) {
                    store.happened(key, class, name);
                }
                store.happened(key, Classes::GENERIC, "del");
            }
            What::Taken => {
                let name = if spec.name == "move" { "move_from" } else { "rename_from" };
                store.happened(key, Classes::GENERIC, name);
            }
            What::Deadline => store.happened(key, Classes::GENERIC, "expire"),
            What::Persisted => store.happened(key, Classes::GENERIC, "persist"),
            What::Consumer => {}
        }
    }
}

/// Tells of commands of which Redis tells though they have left everything as it was.
fn tell_unchanged(
    store: &mut dyn Store,
    spec: &Spec,
    words: &[Blob],
    reply: &Reply,
    space: quorate_types::Keyspace,
) {
    let moves = matches!(spec.name, "lmove" | "blmove" | "rpoplpush" | "brpoplpush");
    let writes = matches!(spec.name, "hset" | "hmset" | "hincrby" | "hincrbyfloat" | "lset" | "ltrim");
    let writes = writes || (spec.name == "hsetex" && *reply == Reply::integer(1));
    let key = Key { space, name: words.get(1).cloned().unwrap_or_default() };
    if !(moves || writes) || matches!(reply, Reply::Nil | Reply::Error { .. }) || store.find(&key).is_none() {
        return;
    }
    // A list that is rotated tells of the push, and then of the pop.
    for is_first in [false, true].into_iter().skip(usize::from(!moves)) {
        let (class, name) = name_of(spec, words, is_first);
        store.happened(&key, class, name);
    }
}

/// One change for each run of changes to the same key: a command that adds five members tells once.
fn merged(changes: Vec<KeyChange>) -> Vec<KeyChange> {
    let mut merged: Vec<KeyChange> = Vec::with_capacity(changes.len());
    for change in changes {
        if let Some(last) = merged.last_mut()
            && last.key == change.key
            && let (What::Changed { .. }, What::Changed { emptied }) = (last.what, change.what)
        {
            last.what = What::Changed { emptied };
            continue;
        }
        merged.push(change);
    }
    merged
}

/// Whether a deadline that comes with a write is told of too.
fn sets_deadline(name: &str) -> bool {
    matches!(name, "set" | "setex" | "psetex" | "msetex")
}

/// Whether a command that leaves nothing tells its own name first: those that take parts away do, those that store or delete whole keys do not.
fn tells_before_del(spec: &Spec) -> bool {
    let takes = matches!(spec.group, "list" | "set" | "hash" | "sorted-set");
    takes && !spec.name.ends_with("store")
}

/// Whether HEXPIRE or its kin was given a time that has passed.
fn removed_fields(reply: &Reply) -> bool {
    matches!(reply, Reply::Array { items } if items.0.contains(&Reply::integer(2)))
}

/// Whether HSETEX was given a time.
fn has_deadline(words: &[Blob]) -> bool {
    let options = words.iter().skip(2).take_while(|word| !args::is(word, "FIELDS"));
    options.into_iter().any(|word| ["EX", "PX", "EXAT", "PXAT"].iter().any(|time| args::is(word, time)))
}

fn class_of(group: &str) -> Classes {
    match group {
        "string" | "bitmap" | "hyperloglog" => Classes::STRING,
        "list" => Classes::LIST,
        "set" => Classes::SET,
        "hash" => Classes::HASH,
        "sorted-set" | "geo" => Classes::SORTED,
        "stream" => Classes::STREAM,
        "generic" => Classes::GENERIC,
        _ => Classes::MODULE,
    }
}

/// The class and name of what a command does to a key; `first` for the first key that it changes.
fn name_of(spec: &Spec, words: &[Blob], first: bool) -> (Classes, &'static str) {
    let left = |at: usize| words.get(at).is_some_and(|word| args::is(word, "LEFT"));
    let has = |switch: &str| words.iter().any(|word| args::is(word, switch));
    let pop = |left: bool| if left { "lpop" } else { "rpop" };
    let push = |left: bool| if left { "lpush" } else { "rpush" };
    let name = match spec.name {
        "set" | "setex" | "psetex" | "setnx" | "getset" | "mset" | "msetnx" | "msetex" | "bitop" => "set",
        "incr" | "decr" | "incrby" | "decrby" => "incrby",
        "setbit" | "bitfield" => "setbit",
        "pfadd" | "pfmerge" => "pfadd",
        "lpushx" => "lpush",
        "rpushx" => "rpush",
        "blpop" => "lpop",
        "brpop" => "rpop",
        "lmpop" | "blmpop" => pop(has("LEFT")),
        "lmove" | "blmove" if first => pop(left(3)),
        "lmove" | "blmove" => push(left(4)),
        "rpoplpush" | "brpoplpush" => {
            if first {
                "rpop"
            } else {
                "lpush"
            }
        }
        "smove" => {
            if first {
                "srem"
            } else {
                "sadd"
            }
        }
        "hmset" | "hsetnx" | "hsetex" => "hset",
        "hgetdel" => "hdel",
        "hgetex" if words.iter().skip(2).take(1).any(|word| args::is(word, "PERSIST")) => "hpersist",
        "hpexpire" | "hexpireat" | "hpexpireat" | "hgetex" => "hexpire",
        "zadd" if words.iter().skip(2).take(5).any(|word| args::is(word, "INCR")) => "zincr",
        "zincrby" => "zincr",
        "bzpopmin" => "zpopmin",
        "bzpopmax" => "zpopmax",
        "zmpop" | "bzmpop" => {
            if has("MIN") {
                "zpopmin"
            } else {
                "zpopmax"
            }
        }
        "geoadd" => "zadd",
        "sort" => return (Classes::LIST, "sortstore"),
        "copy" => "copy_to",
        "move" => "move_to",
        "rename" | "renamenx" => "rename_to",
        other => other,
    };
    (class_of(spec.group), name)
}

/// What streams are told of: their records are no part of the keys, so the reply says what happened.
fn tell_stream(
    store: &mut dyn Store,
    spec: &Spec,
    words: &[Blob],
    reply: &Reply,
    space: quorate_types::Keyspace,
    changes: &[KeyChange],
) {
    let at = if spec.name.contains('|') { 2 } else { 1 };
    let Some(name) = words.get(at) else { return };
    let key = Key { space, name: name.clone() };
    if changes.iter().any(|change| change.created) {
        store.happened(&key, Classes::NEW, "new");
    }
    for change in changes.iter().filter(|change| change.what == What::Consumer) {
        store.happened(&change.key, Classes::STREAM, "xgroup-createconsumer");
    }
    let some = matches!(reply, Reply::Integer { value } if *value > 0);
    let event = match spec.name {
        "xadd" if *reply != Reply::Nil => "xadd",
        "xdel" if some => "xdel",
        "xtrim" if some => "xtrim",
        "xsetid" => "xsetid",
        "xgroup|create" => "xgroup-create",
        "xgroup|delconsumer" => "xgroup-delconsumer",
        "xgroup|destroy" if some => "xgroup-destroy",
        "xgroup|setid" => "xgroup-setid",
        _ => return,
    };
    store.happened(&key, Classes::STREAM, event);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_read_and_shown_as_redis_has_them() {
        for (text, shown) in [
            ("KEA", "AKE"),
            ("AKEmn", "AKEm"),
            ("", ""),
            ("Kgx", "gxK"),
            ("KEn", "nKE"),
            ("zzz", "z"),
            ("g$lshzxetdK", "AK"),
        ] {
            assert_eq!(
                Classes::parse(text).map(|classes| classes.to_string()).as_deref(),
                Some(shown),
                "{text}"
            );
        }
        for text in ["q", "K E", "a", "KEo"] {
            assert_eq!(Classes::parse(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_is_told_without_a_class_and_a_kind_of_channel() {
        for (text, tells) in
            [("KEA", true), ("A", false), ("KE", false), ("Kx", true), ("KEm", false), ("", false)]
        {
            assert_eq!(Classes::parse(text).map(Classes::tells), Some(tells), "{text}");
        }
    }
}
