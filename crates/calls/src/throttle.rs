//! `CL.THROTTLE`, as the redis-cell module has it: a rate limit in one key, by GCRA.
//!
//! The key holds a string: the theoretical arrival time, in nanoseconds of log time; it ends when the limit is back to full.
//!
//! Source: ITU-T I.371, generic cell rate algorithm; the command's form is redis-cell's.
//! Called by: `call`, through the table.

use crate::args::int;
use crate::call::string;
use crate::collections::Value;
use crate::{Deadline, Error, Writing};
use quorate_types::{LogTime, Reply};

const SECOND: u128 = 1_000_000_000;

/// `CL.THROTTLE key max_burst count period [quantity]`: whether it is refused, the limit, what remains, and the seconds until a retry (−1 when
/// it passed) and until all is there again. Seconds are rounded up: whoever waits that long does not come too early.
pub(crate) fn throttle(w: &mut Writing<'_>) -> Result<Reply, Error> {
    if w.words.len() > 6 {
        return Err(Error::reply("ERR wrong number of arguments for 'cl.throttle' command"));
    }
    let bounded = |at: usize, least: i64| {
        let value = w.words.get(at).map_or(Ok(1), |word| int(word))?;
        let most = i64::from(u32::MAX);
        let found = u128::try_from(value).ok().filter(|_| (least..=most).contains(&value));
        found.ok_or_else(|| {
            Error::reply(format!("ERR a number of CL.THROTTLE is {value}, allowed is {least} to {most}"))
        })
    };
    let (burst, count, period, quantity) = (bounded(2, 0)?, bounded(3, 1)?, bounded(4, 1)?, bounded(5, 0)?);
    let key = w.key(1);
    let now = u128::from(w.store.time().0);
    let stored =
        string(w.look(), &key)?.map(|value| value.as_text().and_then(|text| text.parse::<u64>().ok()));
    let stored = match stored {
        None => now,
        Some(Some(at)) => u128::from(at).max(now),
        Some(None) => return Err(Error::reply("ERR this key holds a string that CL.THROTTLE did not write")),
    };
    // At least a nanosecond, so that a faster rate than that is held to it.
    let interval = (period * SECOND / count).max(1);
    let tolerance = interval * (burst + 1);
    let next = stored + interval * quantity;
    let passes = next <= now + tolerance;
    let ends = if passes { next } else { stored };
    if passes && quantity > 0 {
        let at = u64::try_from(ends).map_err(|_| Error::reply("ERR this would throttle for centuries"))?;
        w.store.put(&key, Value::String(at.to_string().into()), Some(Deadline::Log(LogTime(at))))?;
    }
    let limit = number(burst + 1);
    let remaining = number((now + tolerance).saturating_sub(ends) / interval);
    let retry = match () {
        () if passes || interval * quantity > tolerance => Reply::integer(-1),
        () => seconds(next - now - tolerance),
    };
    Ok(Reply::array(vec![Reply::flag(!passes), limit, remaining, retry, seconds(ends - now)]))
}

fn number(value: u128) -> Reply {
    Reply::integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn seconds(nanos: u128) -> Reply {
    number(nanos.div_ceil(SECOND))
}
