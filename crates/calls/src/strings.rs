//! Strings: SET and its conditions, counters, ranges, many at once.
//!
//! Invariant: no string grows beyond [`VALUE_MAX`].
//! Called by: `call`, through the table.

use crate::args::{self, Clock, Until, int, is, next};
use crate::call::{VALUE_MAX, number, string};
use crate::collections::Value;
use crate::decimal::{Decimal, Parsed};
use crate::{Error, Look, Reading, Writing};
use quorate_types::{Blob, Key, Reply};
use xxhash_rust::xxh3::xxh3_64;

type Answer = Result<Reply, Error>;

pub(crate) fn get(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::bulk_or_nil(string(r.look, &r.key(1))?.cloned()))
}

pub(crate) fn strlen(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::count(string(r.look, &r.key(1))?.map_or(0, |value| value.len())))
}

pub(crate) fn mget(r: &mut Reading<'_>) -> Answer {
    let one = |name| match string(r.look, &r.session.key(name)) {
        Ok(value) => Reply::bulk_or_nil(value.cloned()),
        Err(_) => Reply::Nil,
    };
    Ok(Reply::array(r.words[1..].iter().map(one).collect()))
}

pub(crate) fn getrange(r: &mut Reading<'_>) -> Answer {
    let (start, end) = (int(&r.words[2])?, int(&r.words[3])?);
    let Some(value) = string(r.look, &r.key(1))? else { return Ok(Reply::bulk("")) };
    if start < 0 && end < 0 && start > end {
        return Ok(Reply::bulk(""));
    }
    let part = args::clamped(start, end, value.len() as u64);
    Ok(Reply::bulk(part.map_or(&[][..], |(from, to)| &value[from as usize..=to as usize])))
}

/// When SET writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only<'a> {
    Always,
    IfAbsent,
    IfThere,
    IfEqual(&'a Blob),
    IfOther(&'a Blob),
    IfDigest(u64),
    IfOtherDigest(u64),
}

impl Only<'_> {
    /// Whether it holds for what is there.
    fn holds(self, look: &dyn Look, key: &Key) -> Result<bool, Error> {
        Ok(match self {
            Self::Always => true,
            Self::IfAbsent => look.find(key).is_none(),
            Self::IfThere => look.find(key).is_some(),
            Self::IfEqual(wanted) => string(look, key)? == Some(wanted),
            Self::IfOther(wanted) => string(look, key)? != Some(wanted),
            Self::IfDigest(wanted) => string(look, key)?.map(|value| xxh3_64(value)) == Some(wanted),
            Self::IfOtherDigest(wanted) => string(look, key)?.map(|value| xxh3_64(value)) != Some(wanted),
        })
    }
}

/// What becomes of the deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ttl<'a> {
    None,
    Keep,
    Persist,
    Given(&'a Blob, bool, bool),
}

impl Ttl<'_> {
    fn until(self, look: &dyn Look, command: &str) -> Result<Option<Until>, Error> {
        let Self::Given(word, seconds, relative) = self else { return Ok(None) };
        Until::read(look, word, Clock { seconds, relative }, false, command).map(Some)
    }
}

/// The switches of SET, GETEX and MSETEX.
struct Switches<'a> {
    only: Only<'a>,
    ttl: Ttl<'a>,
    get: bool,
}

fn switches<'a>(words: &'a [Blob], allowed: &[&str]) -> Result<Switches<'a>, Error> {
    let mut found = Switches { only: Only::Always, ttl: Ttl::None, get: false };
    // A switch may be said twice, as Redis lets it; two that exclude each other may not.
    let (mut condition, mut expiry) = ("", "");
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let name = allowed.iter().find(|name| is(word, name)).ok_or_else(Error::syntax)?;
        let said = match *name {
            "GET" => &mut "",
            "NX" | "XX" | "IFEQ" | "IFNE" | "IFDEQ" | "IFDNE" => &mut condition,
            _ => &mut expiry,
        };
        if !said.is_empty() && said != name {
            return Err(Error::syntax());
        }
        *said = name;
        match *name {
            "NX" => found.only = Only::IfAbsent,
            "XX" => found.only = Only::IfThere,
            "IFEQ" => found.only = Only::IfEqual(next(words, &mut at)?),
            "IFNE" => found.only = Only::IfOther(next(words, &mut at)?),
            "IFDEQ" => found.only = Only::IfDigest(digest_of(next(words, &mut at)?)?),
            "IFDNE" => found.only = Only::IfOtherDigest(digest_of(next(words, &mut at)?)?),
            "GET" => found.get = true,
            "KEEPTTL" => found.ttl = Ttl::Keep,
            "PERSIST" => found.ttl = Ttl::Persist,
            _ => {
                let clock = Clock::of(word).expect("the other switches are times");
                found.ttl = Ttl::Given(next(words, &mut at)?, clock.seconds, clock.relative);
            }
        }
        at += 1;
    }
    Ok(found)
}

/// A digest as DIGEST shows it.
fn digest_of(word: &[u8]) -> Result<u64, Error> {
    let text = std::str::from_utf8(word).ok().filter(|text| text.len() == 16 && !text.starts_with('+'));
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(|| Error::reply("ERR must be exactly 16 hexadecimal characters"))
}

/// `DIGEST key`, of Redis 8.4. Source of the hash: xxHash's specification of XXH3, 64 bits.
pub(crate) fn digest(r: &mut Reading<'_>) -> Answer {
    let value = string(r.look, &r.key(1))?;
    Ok(Reply::bulk_or_nil(value.map(|value| Blob::from(format!("{:016x}", xxh3_64(value))))))
}

const SET: &[&str] =
    &["NX", "XX", "IFEQ", "IFNE", "IFDEQ", "IFDNE", "GET", "KEEPTTL", "EX", "PX", "EXAT", "PXAT"];

pub(crate) fn set(w: &mut Writing<'_>) -> Answer {
    let found = switches(&w.words[3..], SET)?;
    let until = found.ttl.until(w.look(), "set")?;
    let key = w.key(1);
    let was = if found.get { string(w.look(), &key)?.cloned() } else { None };
    if !found.only.holds(w.look(), &key)? {
        return Ok(Reply::bulk_or_nil(was));
    }
    let value = w.words[2].clone();
    match (until, found.ttl) {
        (Some(until), _) => put_until(w, &key, value, until)?,
        (None, Ttl::Keep) => w.put_keeping(&key, Value::String(value))?,
        (None, _) => w.store.put(&key, Value::String(value), None)?,
    }
    Ok(if found.get { Reply::bulk_or_nil(was) } else { Reply::ok() })
}

/// Writes under a time that may have passed already: then what was there goes.
fn put_until(w: &mut Writing<'_>, key: &Key, value: Blob, until: Until) -> Result<(), Error> {
    match until.deadline(w.look()) {
        Some(deadline) => w.store.put(key, Value::String(value), Some(deadline)),
        None => w.store.delete(key).map(drop),
    }
}

pub(crate) fn setnx(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    if w.store.find(&key).is_some() {
        return Ok(Reply::integer(0));
    }
    w.store.put(&key, Value::String(w.words[2].clone()), None)?;
    Ok(Reply::integer(1))
}

pub(crate) fn setex(w: &mut Writing<'_>) -> Answer {
    set_with(w, true, "setex")
}

pub(crate) fn psetex(w: &mut Writing<'_>) -> Answer {
    set_with(w, false, "psetex")
}

fn set_with(w: &mut Writing<'_>, seconds: bool, command: &str) -> Answer {
    let until = Until::read(w.look(), &w.words[2], Clock { seconds, relative: true }, false, command)?;
    put_until(w, &w.key(1), w.words[3].clone(), until)?;
    Ok(Reply::ok())
}

pub(crate) fn getset(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let was = string(w.look(), &key)?.cloned();
    w.store.put(&key, Value::String(w.words[2].clone()), None)?;
    Ok(Reply::bulk_or_nil(was))
}

pub(crate) fn getdel(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let was = string(w.look(), &key)?.cloned();
    if was.is_some() {
        w.store.delete(&key)?;
    }
    Ok(Reply::bulk_or_nil(was))
}

pub(crate) fn getex(w: &mut Writing<'_>) -> Answer {
    let found = switches(&w.words[2..], &["EX", "PX", "EXAT", "PXAT", "PERSIST"])?;
    let key = w.key(1);
    let Some(value) = string(w.look(), &key)?.cloned() else { return Ok(Reply::Nil) };
    let until = found.ttl.until(w.look(), "getex")?;
    match until {
        Some(until) => match until.deadline(w.look()) {
            Some(deadline) => w.store.set_deadline(&key, Some(deadline))?,
            None => drop(w.store.delete(&key)?),
        },
        None if found.ttl == Ttl::Persist && w.store.deadline(&key).is_some() => {
            w.store.set_deadline(&key, None)?
        }
        None => {}
    }
    Ok(Reply::bulk(value))
}

pub(crate) fn mset(w: &mut Writing<'_>) -> Answer {
    put_all(w, 1..w.words.len(), "mset", None)?;
    Ok(Reply::ok())
}

pub(crate) fn msetnx(w: &mut Writing<'_>) -> Answer {
    if w.words.len().is_multiple_of(2) {
        return Err(arity("msetnx"));
    }
    let mut names = w.words[1..].iter().step_by(2);
    if names.any(|name| w.store.find(&w.session.key(name)).is_some()) {
        return Ok(Reply::integer(0));
    }
    put_all(w, 1..w.words.len(), "msetnx", None)?;
    Ok(Reply::integer(1))
}

/// `MSETEX numkeys key value [key value ...] [NX | XX] [EX … | KEEPTTL]`, of Redis 8.4.
pub(crate) fn msetex(w: &mut Writing<'_>) -> Answer {
    let count = args::integer(&w.words[1]).filter(|count| *count > 0);
    let count = count.ok_or_else(|| Error::reply("ERR invalid numkeys value"))?;
    let end = usize::try_from(count).ok().and_then(|count| count.checked_mul(2)?.checked_add(2));
    let end = end.filter(|end| *end <= w.words.len()).ok_or_else(|| arity("msetex"))?;
    let found = switches(&w.words[end..], &["NX", "XX", "KEEPTTL", "EX", "PX", "EXAT", "PXAT"])?;
    let until = found.ttl.until(w.look(), "msetex")?;
    for name in w.words[2..end].iter().step_by(2) {
        if !found.only.holds(w.look(), &w.session.key(name))? {
            return Ok(Reply::integer(0));
        }
    }
    put_all(w, 2..end, "msetex", Some((found.ttl, until)))?;
    Ok(Reply::integer(1))
}

fn put_all(
    w: &mut Writing<'_>,
    range: std::ops::Range<usize>,
    command: &str,
    ttl: Option<(Ttl<'_>, Option<Until>)>,
) -> Result<(), Error> {
    let words = &w.words[range];
    if !words.len().is_multiple_of(2) {
        return Err(arity(command));
    }
    for pair in words.chunks_exact(2) {
        w.store.may_write(&w.session.key(&pair[0]))?;
    }
    for pair in words.chunks_exact(2) {
        let (key, value) = (w.session.key(&pair[0]), pair[1].clone());
        match ttl {
            Some((_, Some(until))) => put_until(w, &key, value, until)?,
            Some((Ttl::Keep, _)) => w.put_keeping(&key, Value::String(value))?,
            _ => w.store.put(&key, Value::String(value), None)?,
        }
    }
    Ok(())
}

fn arity(command: &str) -> Error {
    Error::reply(format!("ERR wrong number of arguments for '{command}' command"))
}

pub(crate) fn incr(w: &mut Writing<'_>) -> Answer {
    add(w, 1)
}

pub(crate) fn decr(w: &mut Writing<'_>) -> Answer {
    add(w, -1)
}

pub(crate) fn incrby(w: &mut Writing<'_>) -> Answer {
    let by = int(&w.words[2])?;
    add(w, by)
}

pub(crate) fn decrby(w: &mut Writing<'_>) -> Answer {
    let by = int(&w.words[2])?;
    let by = by.checked_neg().ok_or_else(|| Error::reply("ERR decrement would overflow"))?;
    add(w, by)
}

fn add(w: &mut Writing<'_>, by: i64) -> Answer {
    let key = w.key(1);
    let was = string(w.look(), &key)?.map_or(Ok(0), |value| int(value))?;
    let sum = was.checked_add(by).ok_or_else(|| Error::reply("ERR increment or decrement would overflow"))?;
    w.put_keeping(&key, Value::String(sum.to_string().into()))?;
    Ok(Reply::integer(sum))
}

pub(crate) fn incrbyfloat(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let was = string(w.look(), &key)?.map(|value| Decimal::parse(value));
    let (was, by) = match (was.unwrap_or_else(|| Decimal::parse(b"0")), Decimal::parse(&w.words[2])) {
        (Parsed::Finite(was), Parsed::Finite(by)) => (was, by),
        (Parsed::Nothing, _) | (_, Parsed::Nothing) => return Err(Error::not_float()),
        _ => return Err(Error::reply("ERR increment would produce NaN or Infinity")),
    };
    let sum = was.plus(&by).ok_or_else(|| Error::reply("ERR increment would produce NaN or Infinity"))?;
    let sum = Blob::from(sum.to_string());
    w.put_keeping(&key, Value::String(sum.clone()))?;
    Ok(Reply::bulk(sum))
}

pub(crate) fn append(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let tail = &w.words[2];
    let was = string(w.look(), &key)?.map_or(&[][..], |value| value);
    within(was.len() as u64, tail.len() as u64)?;
    let value = [was, tail].concat();
    let len = value.len();
    w.put_keeping(&key, Value::String(value.into()))?;
    Ok(Reply::count(len))
}

pub(crate) fn setrange(w: &mut Writing<'_>) -> Answer {
    let start = u64::try_from(int(&w.words[2])?).map_err(|_| Error::reply("ERR offset is out of range"))?;
    let (key, part) = (w.key(1), &w.words[3]);
    let was = string(w.look(), &key)?.map_or(&[][..], |value| value);
    if part.is_empty() {
        return Ok(Reply::count(was.len()));
    }
    within(start, part.len() as u64)?;
    let start = start as usize;
    let mut value = was.to_vec();
    value.resize(value.len().max(start + part.len()), 0);
    value[start..start + part.len()].copy_from_slice(part);
    let len = value.len();
    w.put_keeping(&key, Value::String(value.into()))?;
    Ok(Reply::count(len))
}

/// Refuses a string that would be longer than one may be.
pub(crate) fn within(start: u64, more: u64) -> Result<(), Error> {
    match start.checked_add(more) {
        Some(len) if len <= VALUE_MAX => Ok(()),
        _ => Err(Error::reply("ERR string exceeds maximum allowed size (proto-max-bulk-len)")),
    }
}

/// `DELEX key [IFEQ value | IFNE value | IFDEQ digest | IFDNE digest]`, of Redis 8.4.
pub(crate) fn delex(w: &mut Writing<'_>) -> Answer {
    let found = switches(&w.words[2..], &["IFEQ", "IFNE", "IFDEQ", "IFDNE"])?;
    let key = w.key(1);
    if w.store.find(&key).is_none() || !found.only.holds(w.look(), &key)? {
        return Ok(Reply::integer(0));
    }
    Ok(Reply::flag(w.store.delete(&key)?))
}

/// What LCS answers with.
struct Lcs {
    length_only: bool,
    places: bool,
    lengths: bool,
    shortest: u64,
}

/// Longest common subsequence. Source: Wagner, Fischer, "The string-to-string correction problem", JACM 21(1), 1974.
pub(crate) fn lcs(r: &mut Reading<'_>) -> Answer {
    let wrong = |_| Error::reply("ERR The specified keys must contain string values");
    let (left, right) =
        (string(r.look, &r.key(1)).map_err(wrong)?, string(r.look, &r.key(2)).map_err(wrong)?);
    let (left, right) = (left.map_or(&[][..], |value| value), right.map_or(&[][..], |value| value));
    let mut asked = Lcs { length_only: false, places: false, lengths: false, shortest: 0 };
    let mut at = 3;
    while let Some(word) = r.words.get(at) {
        match () {
            () if is(word, "IDX") => asked.places = true,
            () if is(word, "LEN") => asked.length_only = true,
            () if is(word, "WITHMATCHLEN") => asked.lengths = true,
            () if is(word, "MINMATCHLEN") => {
                asked.shortest = u64::try_from(int(next(r.words, &mut at)?)?).unwrap_or(0);
            }
            () => return Err(Error::syntax()),
        }
        at += 1;
    }
    if asked.places && asked.length_only {
        return Err(Error::reply("ERR If you want both the length and indexes, please just use IDX."));
    }
    // A cell costs far less than an element: sixteen of them count as one.
    r.session.touch((left.len() as u64).saturating_mul(right.len() as u64) / 16)?;
    Ok(lcs_of(left, right, &asked))
}

fn lcs_of(left: &[u8], right: &[u8], asked: &Lcs) -> Reply {
    let width = right.len() + 1;
    let mut lengths = vec![0_u32; (left.len() + 1) * width];
    for (row, a) in left.iter().enumerate() {
        for (column, b) in right.iter().enumerate() {
            lengths[(row + 1) * width + column + 1] = if a == b {
                lengths[row * width + column] + 1
            } else {
                lengths[(row + 1) * width + column].max(lengths[row * width + column + 1])
            };
        }
    }
    let total = lengths[left.len() * width + right.len()];
    if asked.length_only {
        return Reply::integer(i64::from(total));
    }
    let (mut row, mut column) = (left.len(), right.len());
    let mut common = Vec::with_capacity(total as usize);
    let mut matches = Vec::new();
    // The run in hand: one past its ends, and how long it is.
    let mut run: Option<(usize, usize, usize)> = None;
    while row > 0 && column > 0 {
        if left[row - 1] == right[column - 1] {
            common.push(left[row - 1]);
            run = match run {
                Some((a, b, len)) if a - len == row && b - len == column => Some((a, b, len + 1)),
                _ => {
                    matches.extend(run);
                    Some((row, column, 1))
                }
            };
            (row, column) = (row - 1, column - 1);
        } else if lengths[(row - 1) * width + column] > lengths[row * width + column - 1] {
            row -= 1;
        } else {
            column -= 1;
        }
    }
    matches.extend(run);
    if !asked.places {
        common.reverse();
        return Reply::bulk(common);
    }
    let ends = |end: usize, len: usize| Reply::array(vec![Reply::count(end - len), Reply::count(end - 1)]);
    let shown = matches.into_iter().filter(|(_, _, len)| *len as u64 >= asked.shortest).map(|(a, b, len)| {
        let mut parts = vec![ends(a, len), ends(b, len)];
        parts.extend(asked.lengths.then(|| Reply::count(len)));
        Reply::array(parts)
    });
    let shown = shown.collect();
    Reply::map(vec![
        Reply::bulk("matches"),
        Reply::array(shown),
        Reply::bulk("len"),
        number(u64::from(total)),
    ])
}
