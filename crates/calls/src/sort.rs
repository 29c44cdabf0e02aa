//! SORT: the elements of a list, set or sorted set, by themselves or by what other keys say of them.
//!
//! Invariant: elements of equal weight are ordered by their bytes, those of equal text as they came: there is one answer.
//! Called by: `call`, through the table.

use crate::args::{int, is, next};
use crate::call::{LOOKUP, hash, string};
use crate::collections::{List, Value};
use crate::{Error, Found, Look, Reading, Session, Writing, keys};
use quorate_types::{Blob, Key, Reply, Score};

type Answer = Result<Reply, Error>;

#[derive(Default)]
struct Sort<'a> {
    by: Option<&'a Blob>,
    limit: Option<(i64, i64)>,
    shows: Vec<&'a Blob>,
    descending: bool,
    alpha: bool,
    store: Option<&'a Blob>,
}

pub(crate) fn sort_ro(r: &mut Reading<'_>) -> Answer {
    let sort = Sort::read(r.words, false)?;
    Ok(Reply::array(sort.run(r.look, r.session, &r.key(1))?.into_iter().map(Reply::bulk_or_nil).collect()))
}

pub(crate) fn sort(w: &mut Writing<'_>) -> Answer {
    let sort = Sort::read(w.words, true)?;
    let found = sort.run(&*w.store, w.session, &w.key(1))?;
    let Some(store) = sort.store else {
        return Ok(Reply::array(found.into_iter().map(Reply::bulk_or_nil).collect()));
    };
    let mut list = List::new();
    found.into_iter().for_each(|value| list.push_back(value.unwrap_or_default()));
    w.put_or_delete(&w.session.key(store), Value::List(list))
}

impl<'a> Sort<'a> {
    fn read(words: &'a [Blob], may_store: bool) -> Result<Self, Error> {
        let (mut sort, mut at) = (Self::default(), 2);
        while let Some(word) = words.get(at) {
            match () {
                () if is(word, "ASC") => sort.descending = false,
                () if is(word, "DESC") => sort.descending = true,
                () if is(word, "ALPHA") => sort.alpha = true,
                () if is(word, "LIMIT") => {
                    let (start, count) = (next(words, &mut at)?, next(words, &mut at)?);
                    sort.limit = Some((int(start)?, int(count)?));
                }
                () if is(word, "BY") => sort.by = Some(next(words, &mut at)?),
                () if is(word, "GET") => sort.shows.push(next(words, &mut at)?),
                () if is(word, "STORE") && may_store => sort.store = Some(next(words, &mut at)?),
                () => return Err(Error::syntax()),
            }
            at += 1;
        }
        Ok(sort)
    }

    /// The elements, or what GET shows of each.
    fn run(&self, look: &dyn Look, session: &mut Session, key: &Key) -> Result<Vec<Option<Blob>>, Error> {
        let found = look.find(key);
        if !matches!(found, None | Some(Found::List(_) | Found::Set(_) | Found::Sorted(_))) {
            return Err(Error::wrong_type());
        }
        let looks = 1 + LOOKUP * (u64::from(self.by.is_some()) + self.shows.len() as u64);
        session.touch(keys::length(look, key).saturating_mul(looks))?;
        let mut elements = keys::members(look, key)?;
        // A pattern without a star says nothing of an element, which is how clients ask for no order at all.
        let unsorted = self.by.is_some_and(|by| !by.contains(&b'*'));
        let is_set = matches!(found, Some(Found::Set(_)));
        if unsorted && is_set && self.store.is_some() {
            // What is stored must have an order.
            elements.sort();
        } else if unsorted {
            if self.descending && matches!(found, Some(Found::Sorted(_))) {
                elements.reverse();
            }
        } else {
            elements = self.sorted(look, session, elements)?;
        }
        let (from, to) = self.window(elements.len());
        Ok(self.shown(look, session, &elements[from..to]))
    }

    fn sorted(&self, look: &dyn Look, session: &Session, elements: Vec<Blob>) -> Result<Vec<Blob>, Error> {
        let weight = |element: &Blob| match self.by {
            None => Some(element.clone()),
            Some(by) => resolve(look, session, by, element),
        };
        let mut weighed = Vec::with_capacity(elements.len());
        for element in elements {
            let weight = weight(&element);
            let score = match &weight {
                Some(weight) if !self.alpha => number(weight)?,
                _ => Score::default(),
            };
            weighed.push((score, weight.filter(|_| self.alpha), element));
        }
        weighed.sort_by(|a, b| {
            // Texts that are equal stay as they were.
            let order = if self.alpha { a.1.cmp(&b.1) } else { a.0.cmp(&b.0).then_with(|| a.2.cmp(&b.2)) };
            if self.descending { order.reverse() } else { order }
        });
        Ok(weighed.into_iter().map(|(_, _, element)| element).collect())
    }

    fn window(&self, len: usize) -> (usize, usize) {
        let Some((start, count)) = self.limit else { return (0, len) };
        let from = usize::try_from(start).unwrap_or(0).min(len);
        let to = match usize::try_from(count) {
            Ok(count) => from.saturating_add(count).min(len),
            Err(_) => len,
        };
        (from, to)
    }

    fn shown(&self, look: &dyn Look, session: &Session, elements: &[Blob]) -> Vec<Option<Blob>> {
        if self.shows.is_empty() {
            return elements.iter().cloned().map(Some).collect();
        }
        let each = |element| self.shows.iter().map(move |pattern| resolve(look, session, pattern, element));
        elements.iter().flat_map(each).collect()
    }
}

/// As C reads a double: blanks before it are skipped, a zero byte ends it, nothing at all is 0.
fn number(text: &[u8]) -> Result<Score, Error> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let text = text[..end].trim_ascii_start();
    if text.is_empty() {
        return Ok(Score::default());
    }
    Score::parse(text).ok_or_else(|| Error::reply("ERR One or more scores can't be converted into double"))
}

/// What a pattern means for an element: `#` is itself; else its star becomes the element, and what follows `->` is a field.
fn resolve(look: &dyn Look, session: &Session, pattern: &[u8], element: &Blob) -> Option<Blob> {
    if pattern == b"#" {
        return Some(element.clone());
    }
    let star = pattern.iter().position(|byte| *byte == b'*')?;
    let arrow = pattern[star + 1..].windows(2).position(|pair| pair == b"->").map(|at| star + 1 + at);
    let arrow = arrow.filter(|at| at + 2 < pattern.len());
    let name = [&pattern[..star], element, &pattern[star + 1..arrow.unwrap_or(pattern.len())]].concat();
    let key = session.key(&name.into());
    match arrow {
        Some(at) => hash(look, &key).ok()??.get(&pattern[at + 2..]),
        None => string(look, &key).ok()?.cloned(),
    }
}
