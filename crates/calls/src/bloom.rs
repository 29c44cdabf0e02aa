//! Bloom filters, as the RedisBloom module has them.
//!
//! Source: the documentation of the BF commands of Redis 8; defaults and texts of errors are those of its server.
//! Invariant: a filter is made with its size before the first item is added; items up to the first that has no room stay.
//! Called by: `call`, through the table.

use crate::args::{integer, is};
use crate::call::number;
use crate::collections::{Bloom, Change, Changed, Refused, Value};
use crate::{Error, Found, Look, Reading, Writing};
use quorate_types::{Blob, Key, Reply, Score};

type Answer = Result<Reply, Error>;

const CAPACITY_MAX: i64 = 1 << 30;
const EXPANSION_MAX: i64 = 32_768;
/// What it costs to add an item or look for one: some hundreds of nanoseconds.
const ITEM: u64 = 4;

fn filter<'a>(look: &'a dyn Look, key: &Key) -> Result<Option<&'a Bloom>, Error> {
    match look.find(key) {
        None => Ok(None),
        Some(Found::Bloom(found)) => Ok(Some(found)),
        Some(_) => Err(Error::wrong_type()),
    }
}

fn not_found() -> Error {
    Error::reply("ERR not found")
}

/// What a new filter is to be.
struct Wanted {
    capacity: u64,
    error: Score,
    expansion: Option<u32>,
}

impl Wanted {
    fn new() -> Self {
        Self { capacity: 100, error: error_rate(b"0.01").flatten().unwrap_or_default(), expansion: Some(2) }
    }

    fn make(&self) -> Result<Value, Error> {
        let filter = Bloom::new(self.capacity, self.error, self.expansion);
        Ok(Value::Bloom(Box::new(filter.ok_or_else(|| Error::reply("ERR could not create filter"))?)))
    }
}

/// A rate: nothing for what is no number, and nothing inside for one out of range. Above a quarter it is a quarter.
fn error_rate(word: &[u8]) -> Option<Option<Score>> {
    let rate = Score::parse(word)?;
    let within = rate > Score::default() && rate < Score::from_i64(1);
    Some(within.then(|| rate.min(Score::parse(b"0.25").unwrap_or_default())))
}

fn capacity(word: &[u8]) -> Option<Option<u64>> {
    let capacity = integer(word)?;
    Some((1..=CAPACITY_MAX).contains(&capacity).then(|| capacity.unsigned_abs()))
}

fn expansion(word: &[u8]) -> Option<Option<u32>> {
    let factor = integer(word)?;
    Some(u32::try_from(factor).ok().filter(|_| factor <= EXPANSION_MAX))
}

/// `BF.RESERVE key error_rate capacity [EXPANSION expansion] [NONSCALING]`.
pub(crate) fn reserve(w: &mut Writing<'_>) -> Answer {
    if w.words.len() > 7 {
        return Err(Error::reply("ERR wrong number of arguments for 'bf.reserve' command"));
    }
    let rate = error_rate(&w.words[2]).ok_or_else(|| Error::reply("ERR bad error rate"))?;
    let rate =
        rate.ok_or_else(|| Error::reply("ERR error rate must be in the range (0.000000, 1.000000)"))?;
    let items = capacity(&w.words[3]).ok_or_else(|| Error::reply("ERR bad capacity"))?;
    let items = items.ok_or_else(|| Error::reply("ERR capacity must be in the range [1, 1073741824]"))?;
    let mut wanted = Wanted { capacity: items, error: rate, ..Wanted::new() };
    let nonscaling = w.words.iter().any(|word| is(word, "NONSCALING"));
    if nonscaling {
        wanted.expansion = None;
    }
    if let Some(at) = w.words.iter().position(|word| is(word, "EXPANSION")) {
        let word = w.words.get(at + 1).ok_or_else(|| Error::reply("ERR no expansion"))?;
        let factor = expansion(word).ok_or_else(|| Error::reply("ERR bad expansion"))?;
        if nonscaling && factor != Some(0) {
            return Err(Error::reply("Nonscaling filters cannot expand"));
        }
        let range = || Error::reply("ERR expansion must be in the range [0, 32768]");
        wanted.expansion = Some(factor.ok_or_else(range)?).filter(|factor| *factor > 0);
    }
    let key = w.key(1);
    if filter(w.look(), &key)?.is_some() {
        return Err(Error::reply("ERR item exists"));
    }
    let value = wanted.make()?;
    w.store.put(&key, value, None)?;
    Ok(Reply::ok())
}

pub(crate) fn add(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    match insert(w, &key, 2, Some(&Wanted::new()))?.pop() {
        Some(Reply::Error { text }) => Err(Error::reply(text)),
        Some(reply) => Ok(reply),
        None => Err(not_found()),
    }
}

pub(crate) fn madd(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    Ok(Reply::array(insert(w, &key, 2, Some(&Wanted::new()))?))
}

/// `BF.INSERT key [CAPACITY n] [ERROR rate] [EXPANSION n] [NOCREATE] [NONSCALING] ITEMS item [item ...]`.
pub(crate) fn insert_items(w: &mut Writing<'_>) -> Answer {
    let arity = || Error::reply("ERR wrong number of arguments for 'bf.insert' command");
    let (mut wanted, mut creates, mut nonscaling) = (Wanted::new(), true, false);
    let mut at = 2;
    loop {
        let word = w.words.get(at).ok_or_else(arity)?;
        at += 1;
        let mut value = || {
            at += 1;
            w.words.get(at - 1).ok_or_else(arity)
        };
        match () {
            () if is(word, "ITEMS") => break,
            () if is(word, "ERROR") => {
                let rate = error_rate(value()?).flatten();
                wanted.error = rate.ok_or_else(|| Error::reply("Bad error rate"))?;
            }
            () if is(word, "CAPACITY") => {
                let items = capacity(value()?).flatten();
                wanted.capacity = items.ok_or_else(|| Error::reply("Bad capacity"))?;
            }
            () if is(word, "EXPANSION") => {
                let factor = expansion(value()?).flatten();
                wanted.expansion =
                    Some(factor.ok_or_else(|| Error::reply("Bad expansion"))?).filter(|f| *f > 0);
            }
            () if is(word, "NOCREATE") => creates = false,
            () if is(word, "NONSCALING") => nonscaling = true,
            () => return Err(Error::reply("Unknown argument received")),
        }
    }
    if at >= w.words.len() {
        return Err(arity());
    }
    if nonscaling {
        wanted.expansion = None;
    }
    let key = w.key(1);
    Ok(Reply::array(insert(w, &key, at, creates.then_some(&wanted))?))
}

/// Adds the items from a place of the words on, up to the first that has no room; what to answer for each.
fn insert(w: &mut Writing<'_>, key: &Key, at: usize, wanted: Option<&Wanted>) -> Result<Vec<Reply>, Error> {
    let items = &w.words[at..];
    w.session.touch(items.len() as u64 * ITEM)?;
    if filter(w.look(), key)?.is_none() {
        let value = wanted.ok_or_else(not_found)?.make()?;
        w.store.put(key, value, None)?;
    }
    let mut replies = Vec::with_capacity(items.len());
    for item in items {
        let reply = match w.store.change(key, Change::BloomAdd { item: item.clone() })? {
            Changed::Flag(new) => Reply::Boolean { value: new },
            Changed::Refused(Refused::Full) => Reply::error("ERR non scaling filter is full"),
            Changed::Refused(Refused::TooLarge) => {
                Reply::error("ERR the filter is full, and would be larger than one may be: begin another")
            }
            other => unreachable!("adding an item answers with a flag, not {other:?}"),
        };
        let full = matches!(reply, Reply::Error { .. });
        replies.push(reply);
        if full {
            break;
        }
    }
    Ok(replies)
}

pub(crate) fn exists(r: &mut Reading<'_>) -> Answer {
    Ok(found(r)?.pop().unwrap_or(Reply::Boolean { value: false }))
}

pub(crate) fn mexists(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::array(found(r)?))
}

fn found(r: &mut Reading<'_>) -> Result<Vec<Reply>, Error> {
    r.session.touch((r.words.len() - 2) as u64 * ITEM)?;
    // What is no filter has no items: the module answers so, and does not refuse.
    let filter = match r.look.find(&r.key(1)) {
        Some(Found::Bloom(found)) => Some(found),
        _ => None,
    };
    let has = |item: &Blob| filter.is_some_and(|filter| filter.contains(item));
    Ok(r.words[2..].iter().map(|item| Reply::Boolean { value: has(item) }).collect())
}

pub(crate) fn card(r: &mut Reading<'_>) -> Answer {
    Ok(number(filter(r.look, &r.key(1))?.map_or(0, Bloom::items)))
}

/// `BF.INFO key [CAPACITY | SIZE | FILTERS | ITEMS | EXPANSION]`.
pub(crate) fn info(r: &mut Reading<'_>) -> Answer {
    if r.words.len() > 3 {
        return Err(Error::reply("ERR wrong number of arguments for 'bf.info' command"));
    }
    let filter = filter(r.look, &r.key(1))?.ok_or_else(not_found)?;
    let expansion = filter.expansion().map_or(Reply::Nil, |factor| Reply::integer(i64::from(factor)));
    let all = [
        ("CAPACITY", "Capacity", number(filter.capacity())),
        ("SIZE", "Size", number(filter.bit_bytes())),
        ("FILTERS", "Number of filters", number(filter.layers())),
        ("ITEMS", "Number of items inserted", number(filter.items())),
        ("EXPANSION", "Expansion rate", expansion),
    ];
    let Some(word) = r.words.get(2) else {
        let pairs = all.into_iter().flat_map(|(_, name, value)| [Reply::status(name), value]);
        return Ok(Reply::map(pairs.collect()));
    };
    let one = all.into_iter().find(|(switch, ..)| is(word, switch));
    let (.., value) = one.ok_or_else(|| Error::reply("Invalid information value"))?;
    Ok(Reply::array(vec![value]))
}

/// The filter's bits are Quorate's own: another server could not read them.
pub(crate) fn no_dump(_: &mut Writing<'_>) -> Answer {
    Err(Error::reply(
        "ERR a filter is not handed out in pieces: its bits are in snapshots and backups, COPY and RENAME move it",
    ))
}
