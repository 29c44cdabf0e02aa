//! Keys of any type: deleting, naming, expiry, scanning, and what a server says of itself.
//!
//! **Cursors.** A store walks keys by their places. HSCAN and SSCAN walk places from the last down to the first; a cursor is the number of places still to be seen. A new element
//! takes the last place, and when one goes, the last takes its place: so an element that stays moves downwards only, and one that has not been
//! seen yet stays below the cursor until it is. It may be seen twice, never missed; no server keeps anything for a cursor, so any node may go on.
//!
//! Called by: `call`, through the table.

use crate::args::{self, Clock, Until, int, is, next};
use crate::call::{left, number, whole};
use crate::collections::Value;

use crate::{Error, Found, Look, Reading, Writing, glob};
use quorate_types::{Blob, Key, Reply};

type Answer = Result<Reply, Error>;

pub(crate) fn ping(r: &mut Reading<'_>) -> Answer {
    match r.words {
        [_] => Ok(Reply::status("PONG")),
        [_, text] => Ok(Reply::bulk(text.clone())),
        _ => Err(Error::reply("ERR wrong number of arguments for 'ping' command")),
    }
}

pub(crate) fn echo(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::bulk(r.words[1].clone()))
}

/// Wall time as the log has it; a connection outside transactions may look at a clock instead.
pub(crate) fn time(r: &mut Reading<'_>) -> Answer {
    let millis = r.look.clock().0.0;
    let parts = [millis / 1000, millis % 1000 * 1000];
    Ok(Reply::array(parts.iter().map(|part| Reply::bulk(part.to_string())).collect()))
}

pub(crate) fn publish(w: &mut Writing<'_>) -> Answer {
    w.store.publish(w.words[1].clone(), w.words[2].clone(), false);
    Ok(Reply::integer(0))
}

pub(crate) fn spublish(w: &mut Writing<'_>) -> Answer {
    w.store.publish(w.words[1].clone(), w.words[2].clone(), true);
    Ok(Reply::integer(0))
}

pub(crate) fn dbsize(r: &mut Reading<'_>) -> Answer {
    Ok(number(r.look.keys(r.session.space)))
}

pub(crate) fn flushdb(w: &mut Writing<'_>) -> Answer {
    flush_mode(w.words)?;
    w.store.clear(w.session.space)?;
    Ok(Reply::ok())
}

pub(crate) fn flushall(w: &mut Writing<'_>) -> Answer {
    flush_mode(w.words)?;
    // The default keyspace goes first: it is the one that may be refused.
    for number in 0..w.session.databases {
        w.store.clear(quorate_types::Keyspace(number))?;
    }
    Ok(Reply::ok())
}

fn flush_mode(words: &[Blob]) -> Result<(), Error> {
    match words {
        [_] => Ok(()),
        [_, mode] if is(mode, "ASYNC") || is(mode, "SYNC") => Ok(()),
        _ => Err(Error::syntax()),
    }
}

pub(crate) fn del(w: &mut Writing<'_>) -> Answer {
    if w.words.len() > 2 {
        for name in &w.words[1..] {
            w.store.may_write(&w.session.key(name))?;
        }
    }
    let mut gone = 0;
    for name in &w.words[1..] {
        gone += usize::from(w.store.delete(&w.session.key(name))?);
    }
    Ok(Reply::count(gone))
}

pub(crate) fn exists(r: &mut Reading<'_>) -> Answer {
    let there = |name: &&Blob| r.look.find(&r.session.key(name)).is_some();
    Ok(Reply::count(r.words[1..].iter().filter(there).count()))
}

pub(crate) fn kind(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::status(r.look.find(&r.key(1)).map_or("none", |found| found.kind())))
}

fn no_such_key() -> Error {
    Error::reply("ERR no such key")
}

pub(crate) fn rename(w: &mut Writing<'_>) -> Answer {
    let (from, to) = (w.key(1), w.key(2));
    w.store.find(&from).ok_or_else(no_such_key)?;
    if from != to {
        move_key(w, &from, &to)?;
    }
    Ok(Reply::ok())
}

pub(crate) fn renamenx(w: &mut Writing<'_>) -> Answer {
    let (from, to) = (w.key(1), w.key(2));
    w.store.find(&from).ok_or_else(no_such_key)?;
    if w.store.find(&to).is_some() {
        return Ok(Reply::integer(0));
    }
    move_key(w, &from, &to)?;
    Ok(Reply::integer(1))
}

/// `MOVE key db`.
pub(crate) fn move_to(w: &mut Writing<'_>) -> Answer {
    let space = w.session.database(&w.words[2])?;
    let from = w.key(1);
    let to = Key { space, name: from.name.clone() };
    if from == to {
        return Err(Error::reply("ERR source and destination objects are the same"));
    }
    if w.store.find(&from).is_none() || w.store.find(&to).is_some() {
        return Ok(Reply::integer(0));
    }
    move_key(w, &from, &to)?;
    Ok(Reply::integer(1))
}

/// The source is there, and another key than the destination.
fn move_key(w: &mut Writing<'_>, from: &Key, to: &Key) -> Result<(), Error> {
    w.store.may_write(from)?;
    w.store.may_write(to)?;
    if let Some((value, deadline)) = w.store.take(from)? {
        w.store.put(to, value, deadline)?;
    }
    Ok(())
}

pub(crate) fn copy(w: &mut Writing<'_>) -> Answer {
    let (from, mut to) = (w.key(1), w.key(2));
    let (mut replace, mut at) = (false, 3);
    while let Some(word) = w.words.get(at) {
        match () {
            () if is(word, "REPLACE") => replace = true,
            () if is(word, "DB") => to.space = w.session.database(next(w.words, &mut at)?)?,
            () => return Err(Error::syntax()),
        }
        at += 1;
    }
    if from == to {
        return Err(Error::reply("ERR source and destination objects are the same"));
    }
    let Some(found) = w.store.find(&from) else { return Ok(Reply::integer(0)) };
    if !replace && w.store.find(&to).is_some() {
        return Ok(Reply::integer(0));
    }
    w.session.touch(len_of(found))?;
    let value = whole(found)?;
    let deadline = w.store.deadline(&from);
    w.store.put(&to, value, deadline)?;
    Ok(Reply::integer(1))
}

fn len_of(found: Found<'_>) -> u64 {
    match found {
        Found::String(_) | Found::Stream => 1,
        Found::Hash(hash) => hash.len(),
        Found::List(list) => list.len(),
        Found::Set(set) => set.len(),
        Found::Sorted(sorted) => sorted.len(),
        // Its chunks are shared: copying one costs about what an element does.
        Found::Bloom(filter) => filter.bit_bytes() / 4096 + 1,
    }
}

pub(crate) fn touch(r: &mut Reading<'_>) -> Answer {
    exists(r)
}

// Expiry.

pub(crate) fn expire(w: &mut Writing<'_>) -> Answer {
    expire_by(w, Clock { seconds: true, relative: true }, "expire")
}

pub(crate) fn pexpire(w: &mut Writing<'_>) -> Answer {
    expire_by(w, Clock { seconds: false, relative: true }, "pexpire")
}

pub(crate) fn expireat(w: &mut Writing<'_>) -> Answer {
    expire_by(w, Clock { seconds: true, relative: false }, "expireat")
}

pub(crate) fn pexpireat(w: &mut Writing<'_>) -> Answer {
    expire_by(w, Clock { seconds: false, relative: false }, "pexpireat")
}

/// When a deadline is set.
#[derive(Default)]
pub(crate) struct Condition {
    pub(crate) if_none: bool,
    pub(crate) if_any: bool,
    pub(crate) if_later: bool,
    pub(crate) if_earlier: bool,
}

impl Condition {
    fn read(words: &[Blob]) -> Result<Self, Error> {
        let mut condition = Self::default();
        for word in words {
            match () {
                () if is(word, "NX") => condition.if_none = true,
                () if is(word, "XX") => condition.if_any = true,
                () if is(word, "GT") => condition.if_later = true,
                () if is(word, "LT") => condition.if_earlier = true,
                () => return Err(Error::reply(format!("ERR Unsupported option {word}"))),
            }
        }
        if condition.if_none && (condition.if_any || condition.if_later || condition.if_earlier) {
            return Err(Error::reply("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if condition.if_later && condition.if_earlier {
            return Err(Error::reply("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(condition)
    }

    /// Whether a deadline at `new` may replace one at `old`; both in wall time, a key without one lives forever.
    pub(crate) fn holds(&self, old: Option<i64>, new: i64) -> bool {
        !(self.if_none && old.is_some()
            || self.if_any && old.is_none()
            || self.if_later && old.is_none_or(|old| new <= old)
            || self.if_earlier && old.is_some_and(|old| new >= old))
    }
}

fn expire_by(w: &mut Writing<'_>, clock: Clock, command: &str) -> Answer {
    let condition = Condition::read(&w.words[3..])?;
    let until = Until::read(w.look(), &w.words[2], clock, true, command)?;
    let key = w.key(1);
    if w.store.find(&key).is_none() {
        return Ok(Reply::integer(0));
    }
    let old = left(w.look(), &key).map(|(_, left)| args::wall(w.look()).saturating_add(left));
    if !condition.holds(old, until.at) {
        return Ok(Reply::integer(0));
    }
    match until.deadline(w.look()) {
        Some(deadline) => w.store.set_deadline(&key, Some(deadline))?,
        None => drop(w.store.delete(&key)?),
    }
    Ok(Reply::integer(1))
}

pub(crate) fn persist(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let has = w.store.find(&key).is_some() && w.store.deadline(&key).is_some();
    if has {
        w.store.set_deadline(&key, None)?;
    }
    Ok(Reply::flag(has))
}

pub(crate) fn ttl(r: &mut Reading<'_>) -> Answer {
    ttl_as(r, |_, millis| millis.saturating_add(500) / 1000)
}

pub(crate) fn pttl(r: &mut Reading<'_>) -> Answer {
    ttl_as(r, |_, millis| millis)
}

pub(crate) fn expiretime(r: &mut Reading<'_>) -> Answer {
    ttl_as(r, |wall, millis| wall.saturating_add(millis).saturating_add(500) / 1000)
}

pub(crate) fn pexpiretime(r: &mut Reading<'_>) -> Answer {
    ttl_as(r, i64::saturating_add)
}

/// −2: no such key; −1: it has no deadline.
fn ttl_as(r: &mut Reading<'_>, show: fn(i64, i64) -> i64) -> Answer {
    let key = r.key(1);
    if r.look.find(&key).is_none() {
        return Ok(Reply::integer(-2));
    }
    let left = left(r.look, &key).map(|(_, millis)| show(args::wall(r.look), millis));
    Ok(Reply::integer(left.unwrap_or(-1)))
}

// Finding keys.

pub(crate) fn randomkey(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::bulk_or_nil(r.look.random_key(r.session.space, r.seed)))
}

pub(crate) fn keys(r: &mut Reading<'_>) -> Answer {
    let (pattern, space) = (&r.words[1], r.session.space);
    if glob::is_plain(pattern) {
        let found = r.look.find(&r.key(1)).map(|_| Reply::bulk(pattern.clone()));
        return Ok(Reply::array(found.into_iter().collect()));
    }
    let count = r.look.keys(space);
    r.session.touch(count)?;
    let (mut cursor, mut found) = (0, Vec::new());
    loop {
        let (names, next) = r.look.scan(space, cursor, KEYS_AT_ONCE);
        let matching = names.into_iter().filter(|name| glob::matches(pattern, name));
        found.extend(matching.map(Reply::bulk));
        if next == 0 {
            return Ok(Reply::array(found));
        }
        cursor = next;
    }
}

/// How many names KEYS holds at once beside its answer.
const KEYS_AT_ONCE: usize = 4096;

/// Most places that one step of a scan looks at, whatever its COUNT.
const SCAN_COUNT_MAX: u64 = 20_000;
/// Collections up to this long are answered whole, as Redis answers its compact ones.
const SCAN_WHOLE_MAX: u64 = 128;

/// The switches of SCAN, HSCAN, SSCAN and ZSCAN.
pub(crate) struct Scan<'a> {
    /// Where it goes on; 0 at the start.
    pub(crate) cursor: u64,
    /// How much to look at.
    pub(crate) count: u64,
    pattern: Option<&'a Blob>,
    kind: Option<&'a Blob>,
    /// HSCAN: only the fields.
    pub(crate) no_values: bool,
}

impl<'a> Scan<'a> {
    /// Reads the cursor.
    pub(crate) fn cursor(word: &[u8]) -> Result<u64, Error> {
        let cursor = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok());
        cursor.ok_or_else(|| Error::reply("ERR invalid cursor"))
    }

    /// Reads the switches, from after the cursor at `at`.
    pub(crate) fn read(words: &'a [Blob], mut at: usize, allowed: &[&str]) -> Result<Self, Error> {
        let cursor = Self::cursor(&words[at])?;
        let mut scan = Self { cursor, count: 10, pattern: None, kind: None, no_values: false };
        at += 1;
        while let Some(word) = words.get(at) {
            match () {
                () if is(word, "COUNT") => {
                    let count = int(next(words, &mut at)?)?;
                    // How much is looked at is the server's to say: a walk that is told to take large steps takes more of them.
                    scan.count = u64::try_from(count).ok().filter(|c| *c > 0).ok_or_else(Error::syntax)?;
                    scan.count = scan.count.min(SCAN_COUNT_MAX);
                }
                () if is(word, "MATCH") => scan.pattern = Some(next(words, &mut at)?),
                () if is(word, "TYPE") && allowed.contains(&"TYPE") => {
                    scan.kind = Some(next(words, &mut at)?)
                }
                () if is(word, "NOVALUES") && allowed.contains(&"NOVALUES") => scan.no_values = true,
                () => return Err(Error::syntax()),
            }
            at += 1;
        }
        Ok(scan)
    }

    /// Which places of a collection are seen now, and the cursor after them.
    pub(crate) fn places(&self, len: u64) -> (std::ops::Range<u64>, u64) {
        if self.is_whole(len) {
            return (0..len, 0);
        }
        let end = if self.cursor == 0 { len } else { self.cursor.min(len) };
        let start = end.saturating_sub(self.count);
        (start..end, start)
    }

    /// Whether a collection this long is answered whole.
    pub(crate) fn is_whole(&self, len: u64) -> bool {
        len <= SCAN_WHOLE_MAX
    }

    /// Whether a name is asked for.
    pub(crate) fn shows(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }

    /// The reply.
    pub(crate) fn reply(cursor: u64, items: Vec<Reply>) -> Reply {
        Reply::array(vec![Reply::bulk(cursor.to_string()), Reply::array(items)])
    }
}

pub(crate) fn scan(r: &mut Reading<'_>) -> Answer {
    let scan = Scan::read(r.words, 1, &["TYPE"])?;
    let max = scan.count.min(r.look.keys(r.session.space).max(1));
    r.session.touch(max)?;
    let (names, cursor) =
        r.look.scan(r.session.space, scan.cursor, usize::try_from(max).unwrap_or(usize::MAX));
    let asked = |name: &Blob| scan.shows(name) && scan.kind.is_none_or(|kind| is_kind(r, name, kind));
    let names = names.into_iter().filter(asked);
    Ok(Scan::reply(cursor, names.map(Reply::bulk).collect()))
}

fn is_kind(r: &Reading<'_>, name: &Blob, kind: &Blob) -> bool {
    r.look.find(&r.session.key(name)).is_some_and(|found| is(kind, found.kind()))
}

// What a key is made of.

pub(crate) fn object_encoding(r: &mut Reading<'_>) -> Answer {
    Ok(r.look.find(&r.key(2)).map_or(Reply::Nil, |found| Reply::bulk(encoding(found))))
}

/// The encoding that Redis 7.2 would use with its default settings.
fn encoding(found: Found<'_>) -> &'static str {
    const ENTRIES_MAX: u64 = 128;
    const ENTRY_BYTES_MAX: usize = 64;
    let short = |blob: &[u8]| blob.len() <= ENTRY_BYTES_MAX;
    let pick = |compact: bool, small: &'static str, large| if compact { small } else { large };
    match found {
        Found::String(value) if args::integer(value).is_some() => "int",
        Found::String(value) => pick(value.len() <= 44, "embstr", "raw"),
        Found::Hash(hash) => {
            let compact = hash.len() <= ENTRIES_MAX && hash.iter().all(|(f, v)| short(&f) && short(&v));
            pick(compact, if hash.is_timed() { "listpackex" } else { "listpack" }, "hashtable")
        }
        Found::List(list) => {
            // One node of a quicklist holds 8 KiB; beyond that many elements each takes two bytes at least.
            let compact =
                list.len() <= 4096 && list.iter().map(|value| value.len() + 2).sum::<usize>() <= 8192 - 7;
            pick(compact, "listpack", "quicklist")
        }
        Found::Set(set) => {
            if set.len() <= 512 && set.iter().all(|member| args::integer(&member).is_some()) {
                return "intset";
            }
            pick(set.len() <= ENTRIES_MAX && set.iter().all(|member| short(&member)), "listpack", "hashtable")
        }
        Found::Sorted(sorted) => {
            let compact =
                sorted.len() <= ENTRIES_MAX && sorted.range(0, sorted.len()).all(|(m, _)| short(&m));
            pick(compact, "listpack", "skiplist")
        }
        Found::Stream => "stream",
        Found::Bloom(_) => "raw",
    }
}

pub(crate) fn object_refcount(r: &mut Reading<'_>) -> Answer {
    Ok(r.look.find(&r.key(2)).map_or(Reply::Nil, |_| Reply::integer(1)))
}

/// What this node knows: reads leave no trace in the log.
pub(crate) fn object_idletime(r: &mut Reading<'_>) -> Answer {
    let key = r.key(2);
    if r.look.find(&key).is_none() {
        return Ok(Reply::Nil);
    }
    let usage = r.look.usage(&key);
    if usage.is_some_and(|usage| usage.frequency.is_some()) {
        return Err(Error::reply(
            "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between \
             policies at runtime LRU and LFU data will take some time to adjust.",
        ));
    }
    Ok(number(usage.map_or(0, |usage| usage.idle_seconds)))
}

pub(crate) fn object_freq(r: &mut Reading<'_>) -> Answer {
    let key = r.key(2);
    if r.look.find(&key).is_none() {
        return Ok(Reply::Nil);
    }
    match r.look.usage(&key).and_then(|usage| usage.frequency) {
        Some(frequency) => Ok(number(u64::from(frequency))),
        None => Err(Error::reply(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        )),
    }
}

pub(crate) fn object_help(_: &mut Reading<'_>) -> Answer {
    Ok(help(&[
        "OBJECT ENCODING key",
        "OBJECT FREQ key",
        "OBJECT IDLETIME key",
        "OBJECT REFCOUNT key",
        "OBJECT HELP",
    ]))
}

/// The lines of a container's HELP.
pub(crate) fn help(lines: &[&str]) -> Reply {
    Reply::array(lines.iter().map(|line| Reply::status(*line)).collect())
}

/// Estimated bytes of a key, its name and its value.
pub(crate) fn memory_usage(r: &mut Reading<'_>) -> Answer {
    let mut at = 3;
    while let Some(word) = r.words.get(at) {
        // Every element is counted as it comes and goes; there is nothing to sample.
        if !is(word, "SAMPLES") {
            return Err(Error::syntax());
        }
        int(next(r.words, &mut at)?)?;
        at += 1;
    }
    let key = r.key(2);
    let Some(found) = r.look.find(&key) else { return Ok(Reply::Nil) };
    let value = match found {
        Found::String(value) => value.heap_bytes() as u64,
        Found::Hash(hash) => hash.bytes(),
        Found::List(list) => list.bytes(),
        Found::Set(set) => set.bytes(),
        Found::Sorted(sorted) => sorted.bytes(),
        Found::Bloom(filter) => filter.bytes(),
        Found::Stream => 0,
    };
    let overhead = (size_of::<Key>() + size_of::<Value>()) as u64;
    Ok(number(value + overhead + key.name.heap_bytes() as u64))
}

pub(crate) fn memory_help(_: &mut Reading<'_>) -> Answer {
    Ok(help(&["MEMORY USAGE key [SAMPLES count]", "MEMORY HELP"]))
}

/// The value of a key as a list of its members: what SORT and set operations start from.
pub(crate) fn members(look: &dyn Look, key: &Key) -> Result<Vec<Blob>, Error> {
    Ok(match look.find(key) {
        None => Vec::new(),
        Some(Found::List(list)) => list.iter().collect(),
        Some(Found::Set(set)) => set.iter().collect(),
        Some(Found::Sorted(sorted)) => sorted.range(0, sorted.len()).map(|(member, _)| member).collect(),
        Some(_) => return Err(Error::wrong_type()),
    })
}

/// How many elements a key has, whatever its type.
pub(crate) fn length(look: &dyn Look, key: &Key) -> u64 {
    look.find(key).map_or(0, len_of)
}
