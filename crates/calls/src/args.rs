//! Words of a command as numbers, switches, times and ranges.
//!
//! Invariant: a word is read as Redis reads it (`string2ll` and its kin): no sign before a plus, no leading zero, no blank.
//! Called by: every handler.

use crate::{Deadline, Error, Look};
use quorate_types::{Blob, Millis, Score, WallTime};

/// The integer that a word is in full; nothing for any other spelling of it.
pub(crate) fn integer(word: &[u8]) -> Option<i64> {
    let (negative, digits) = match word {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, word),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut size: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        size = size.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    if negative { 0_i64.checked_sub_unsigned(size) } else { i64::try_from(size).ok() }
}

/// An integer.
pub(crate) fn int(word: &[u8]) -> Result<i64, Error> {
    integer(word).ok_or_else(Error::not_integer)
}

/// An integer of 0 or more, with Redis' words for any other.
pub(crate) fn positive(word: &[u8]) -> Result<u64, Error> {
    integer(word)
        .and_then(|value| u64::try_from(value).ok())
        .ok_or_else(|| Error::reply("ERR value is out of range, must be positive"))
}

/// An integer whose opposite is one too: a count or a rank that may be negative.
pub(crate) fn signed(word: &[u8]) -> Result<i64, Error> {
    let value = int(word)?;
    if value == i64::MIN {
        return Err(Error::reply(
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        ));
    }
    Ok(value)
}

/// A double.
pub(crate) fn score(word: &[u8]) -> Result<Score, Error> {
    Score::parse(word).ok_or_else(Error::not_float)
}

/// Whether a word is this switch, in any case.
pub(crate) fn is(word: &[u8], switch: &str) -> bool {
    word.eq_ignore_ascii_case(switch.as_bytes())
}

/// The word after a switch.
pub(crate) fn next<'a>(words: &'a [Blob], at: &mut usize) -> Result<&'a Blob, Error> {
    *at += 1;
    words.get(*at).ok_or_else(Error::syntax)
}

/// `numkeys` followed by as many keys: the keys, and the place after them.
pub(crate) fn counted<'a>(
    words: &'a [Blob],
    at: usize,
    less: &'static str,
) -> Result<(&'a [Blob], usize), Error> {
    let count = words.get(at).and_then(|word| integer(word)).filter(|count| *count > 0);
    let count = count.ok_or_else(|| Error::reply(less))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let end = (at + 1).saturating_add(count);
    Ok((words.get(at + 1..end).ok_or_else(Error::syntax)?, end))
}

/// A range of places as Redis counts them (from the end when negative, both ends in): half open, within `len`.
pub(crate) fn range(start: i64, end: i64, len: u64) -> (u64, u64) {
    let from = from_end(start, len);
    let to = from_end(end, len);
    if to < 0 || from > to {
        return (0, 0);
    }
    let from = u64::try_from(from.max(0)).expect("not below zero").min(len);
    let to = u64::try_from(to).expect("not below zero").saturating_add(1).min(len);
    if from >= to { (0, 0) } else { (from, to) }
}

/// The first and last place of a range as the commands on strings have it: an end before the start of the string is its first place.
pub(crate) fn clamped(start: i64, end: i64, len: u64) -> Option<(u64, u64)> {
    let (from, to) = range(start, from_end(end, len).max(0), len);
    (from < to).then(|| (from, to - 1))
}

/// A place that is counted from the end when negative; below zero when before the start.
pub(crate) fn from_end(place: i64, len: u64) -> i64 {
    if place < 0 { place.saturating_add(i64::try_from(len).unwrap_or(i64::MAX)) } else { place }
}

/// When something ends, before it is known whether it may be there at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    /// Milliseconds since the epoch, of wall time.
    pub(crate) at: i64,
    /// Whether it was given as a time to live.
    pub(crate) relative: bool,
}

/// How a time is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) seconds: bool,
    pub(crate) relative: bool,
}

impl Clock {
    /// The four switches that SET, GETEX and MSETEX share.
    pub(crate) fn of(word: &[u8]) -> Option<Self> {
        let clock = |seconds, relative| Some(Self { seconds, relative });
        match () {
            () if is(word, "EX") => clock(true, true),
            () if is(word, "PX") => clock(false, true),
            () if is(word, "EXAT") => clock(true, false),
            () if is(word, "PXAT") => clock(false, false),
            () => None,
        }
    }
}

/// Two centuries: a longer time to live would not fit log time's nanoseconds, and runs in wall time.
const LOG_MILLIS_MAX: i64 = 200 * 365 * 24 * 3600 * 1000;

impl Until {
    /// Reads a time for `command`. `negative`: whether it may have passed by its very spelling, as EXPIRE allows.
    pub(crate) fn read(
        look: &dyn Look,
        word: &[u8],
        clock: Clock,
        negative: bool,
        command: &str,
    ) -> Result<Self, Error> {
        let invalid = || Error::reply(format!("ERR invalid expire time in '{command}' command"));
        let value = int(word)?;
        if value <= 0 && !negative {
            return Err(invalid());
        }
        let millis = if clock.seconds { value.checked_mul(1000).ok_or_else(invalid)? } else { value };
        let base = if clock.relative { wall(look) } else { 0 };
        Ok(Self { at: millis.checked_add(base).ok_or_else(invalid)?, relative: clock.relative })
    }

    /// The deadline; nothing when it has passed, so that what would have it must go.
    pub(crate) fn deadline(self, look: &dyn Look) -> Option<Deadline> {
        let now = wall(look);
        if self.at <= now {
            return None;
        }
        let left = self.at - now;
        if self.relative && left <= LOG_MILLIS_MAX {
            return Some(Deadline::Log(look.time().plus(Millis(left.unsigned_abs()))));
        }
        Some(Deadline::Wall(WallTime(self.at.unsigned_abs())))
    }
}

/// Wall time as Redis computes with it, to show and to set deadlines: what is there is not decided by it.
pub(crate) fn wall(look: &dyn Look) -> i64 {
    i64::try_from(look.clock().0.0).unwrap_or(i64::MAX)
}

/// Milliseconds until a deadline; 0 for one that has passed by the clock while the key is still there.
pub(crate) fn left(look: &dyn Look, deadline: Deadline) -> i64 {
    let (wall, time) = look.clock();
    let millis = match deadline {
        Deadline::Log(at) => at.millis_since(time).0,
        Deadline::Wall(at) => at.0.saturating_sub(wall.0),
    };
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_has_one_spelling() {
        for (text, value) in
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(integer(text.as_bytes()), Some(value), "{text}");
        }
        let others =
            ["", "-", "+1", "01", "-0", " 1", "1 ", "1a", "9223372036854775808", "99999999999999999999"];
        for text in others {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn ranges_count_from_the_end_when_negative() {
        assert_eq!(range(0, -1, 5), (0, 5));
        assert_eq!(range(-2, -1, 5), (3, 5));
        assert_eq!(range(-100, 100, 5), (0, 5));
        assert_eq!(range(3, 1, 5), (0, 0));
        assert_eq!(range(5, 9, 5), (0, 0));
        assert_eq!(range(0, -9, 5), (0, 0));
        assert_eq!(range(i64::MIN, i64::MAX, 5), (0, 5));
        assert_eq!(range(0, -1, 0), (0, 0));
    }
}
