//! DUMP and RESTORE: values as bytes that a Redis reads, and back.
//!
//! Invariant: the bytes are read whole, and the key may be written, before anything is changed.
//! Called by: `call`, through the table.

use crate::args::{self, Until, int, is, next};
use crate::rdb::{self, Damaged};
use crate::{Error, Found, Reading, Writing};
use quorate_types::Reply;

type Answer = Result<Reply, Error>;

pub(crate) fn dump(r: &mut Reading<'_>) -> Answer {
    let key = r.key(1);
    let Some(found) = r.look.find(&key) else { return Ok(Reply::Nil) };
    r.session.touch(crate::keys::length(r.look, &key))?;
    let what = match found {
        Found::Stream => "a stream cannot be dumped: its records stay in the log, read them with XRANGE",
        _ => "a filter cannot be dumped: its bits are in snapshots and backups, COPY and RENAME move it",
    };
    let bytes = rdb::encode(r.look, found).ok_or_else(|| Error::reply(format!("ERR {what}")))?;
    Ok(Reply::bulk(bytes))
}

/// `RESTORE key ttl value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`.
pub(crate) fn restore(w: &mut Writing<'_>) -> Answer {
    let (mut replace, mut absolute, mut idle, mut freq, mut at) = (false, false, false, false, 4);
    while let Some(word) = w.words.get(at) {
        match () {
            () if is(word, "REPLACE") => replace = true,
            () if is(word, "ABSTTL") => absolute = true,
            () if is(word, "IDLETIME") && at + 1 < w.words.len() && !freq => {
                idle = true;
                if int(next(w.words, &mut at)?)? < 0 {
                    return Err(Error::reply("ERR Invalid IDLETIME value, must be >= 0"));
                }
            }
            () if is(word, "FREQ") && at + 1 < w.words.len() && !idle => {
                freq = true;
                if !(0..=255).contains(&int(next(w.words, &mut at)?)?) {
                    return Err(Error::reply("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
            }
            () => return Err(Error::syntax()),
        }
        at += 1;
    }
    let key = w.key(1);
    if !replace && w.store.find(&key).is_some() {
        return Err(Error::reply("BUSYKEY Target key name already exists."));
    }
    let ttl = int(&w.words[2])?;
    if ttl < 0 {
        return Err(Error::reply("ERR Invalid TTL value, must be >= 0"));
    }
    let bytes = &w.words[3];
    w.session.touch(rdb::elements(bytes))?;
    let value = rdb::decode(bytes).map_err(|damaged| {
        Error::reply(match damaged {
            Damaged::Footer => "ERR DUMP payload version or checksum are wrong",
            Damaged::Format => "ERR Bad data format",
            Damaged::Stream => {
                "ERR a stream cannot be restored: its records are in the log, append them with XADD or import them"
            }
        })
    })?;
    if ttl == 0 {
        w.store.put(&key, value, None)?;
        return Ok(Reply::ok());
    }
    let base = if absolute { 0 } else { args::wall(w.look()) };
    let until = Until { at: ttl.saturating_add(base), relative: !absolute };
    match until.deadline(w.look()) {
        Some(deadline) => w.store.put(&key, value, Some(deadline))?,
        // It has passed: what was there goes, and nothing comes.
        None => drop(w.store.delete(&key)?),
    }
    Ok(Reply::ok())
}
