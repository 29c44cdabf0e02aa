//! Strings as bits: SETBIT and its kin, and BITFIELD's small integers. Bit 0 is the highest of the first byte.
//!
//! Invariant: no string grows beyond [`crate::VALUE_MAX`].
//! Called by: `call`, through the table.

use crate::args::{self, int, integer, is, next};
use crate::call::{VALUE_MAX, number, string};
use crate::collections::Value;
use crate::strings::within;
use crate::{Error, Look, Reading, Writing};
use quorate_types::{Blob, Key, Reply};

type Answer = Result<Reply, Error>;

/// Bytes that Redis lets a string have, and so the highest bit that it knows.
const REDIS_BYTES_MAX: u64 = 512 << 20;
/// So many bytes count as one element of a command's budget.
const BYTES_PER_ELEMENT: u64 = 256;

fn bit_offset(word: &[u8], scale: Option<u64>) -> Result<u64, Error> {
    let invalid = || Error::reply("ERR bit offset is not an integer or out of range");
    let (word, scale) = match (word, scale) {
        ([b'#', rest @ ..], Some(bits)) => (rest, bits),
        _ => (word, 1),
    };
    let offset =
        integer(word).and_then(|offset| u64::try_from(offset).ok()).and_then(|at| at.checked_mul(scale));
    offset.filter(|offset| offset / 8 < REDIS_BYTES_MAX).ok_or_else(invalid)
}

/// The bytes of a string, or none.
fn bytes<'a>(look: &'a dyn Look, key: &Key) -> Result<&'a [u8], Error> {
    Ok(string(look, key)?.map_or(&[], |value| value))
}

pub(crate) fn getbit(r: &mut Reading<'_>) -> Answer {
    let offset = bit_offset(&r.words[2], None)?;
    let byte = bytes(r.look, &r.key(1))?.get((offset / 8) as usize).unwrap_or(&0);
    Ok(Reply::integer(i64::from(byte >> (7 - offset % 8) & 1)))
}

pub(crate) fn setbit(w: &mut Writing<'_>) -> Answer {
    let offset = bit_offset(&w.words[2], None)?;
    let bit = match &w.words[3][..] {
        b"0" => 0,
        b"1" => 1,
        _ => return Err(Error::reply("ERR bit is not an integer or out of range")),
    };
    let key = w.key(1);
    let was = bytes(w.look(), &key)?;
    within(offset / 8, 1)?;
    let (at, shift) = ((offset / 8) as usize, 7 - offset % 8);
    let old = was.get(at).map_or(0, |byte| byte >> shift & 1);
    if old == bit && at < was.len() {
        return Ok(Reply::integer(i64::from(old)));
    }
    let mut value = was.to_vec();
    value.resize(value.len().max(at + 1), 0);
    value[at] = value[at] & !(1 << shift) | bit << shift;
    w.put_keeping(&key, Value::String(value.into()))?;
    Ok(Reply::integer(i64::from(old)))
}

/// The range of BITCOUNT and BITPOS: its first and last bit; nothing when it is empty.
struct Bits {
    start: i64,
    end: Option<i64>,
    by_bit: bool,
}

impl Bits {
    fn read(words: &[Blob], end_optional: bool) -> Result<Self, Error> {
        let (start, end, unit) = match words {
            [] => return Ok(Self { start: 0, end: None, by_bit: false }),
            [start] if end_optional => (start, None, None),
            [start, end] => (start, Some(end), None),
            [start, end, unit] => (start, Some(end), Some(unit)),
            _ => return Err(Error::syntax()),
        };
        let by_bit = match unit {
            None => false,
            Some(unit) if is(unit, "BYTE") => false,
            Some(unit) if is(unit, "BIT") => true,
            Some(_) => return Err(Error::syntax()),
        };
        Ok(Self { start: int(start)?, end: end.map(|end| int(end)).transpose()?, by_bit })
    }

    fn of(&self, bytes: &[u8]) -> Option<(u64, u64)> {
        let len = bytes.len() as u64 * if self.by_bit { 8 } else { 1 };
        let (first, last) = args::clamped(self.start, self.end.unwrap_or(-1), len)?;
        Some(if self.by_bit { (first, last) } else { (first * 8, last * 8 + 7) })
    }
}

pub(crate) fn bitcount(r: &mut Reading<'_>) -> Answer {
    let range = Bits::read(&r.words[2..], false)?;
    let bytes = bytes(r.look, &r.key(1))?;
    // Counted from the end and the wrong way round it is empty, even where both ends lie before the start of the string; to BITPOS it is not.
    let reversed = range.start < 0 && range.end.is_some_and(|end| end < 0 && range.start > end);
    let found = if reversed { None } else { range.of(bytes) };
    let Some((first, last)) = found else { return Ok(Reply::integer(0)) };
    let (from, to) = ((first / 8) as usize, (last / 8) as usize);
    let mut count: u64 = bytes[from..=to].iter().map(|byte| u64::from(byte.count_ones())).sum();
    // What the ends have outside the range was counted too.
    count -= u64::from((bytes[from] & !(0xff >> (first % 8))).count_ones());
    count -= u64::from((bytes[to] & !(0xff << (7 - last % 8)) as u8).count_ones());
    Ok(number(count))
}

pub(crate) fn bitpos(r: &mut Reading<'_>) -> Answer {
    let bit = match int(&r.words[2])? {
        bit @ 0..=1 => bit == 1,
        _ => return Err(Error::reply("ERR The bit argument must be 1 or 0.")),
    };
    let range = Bits::read(&r.words[3..], true)?;
    let Some(bytes) = string(r.look, &r.key(1))? else { return Ok(Reply::integer(if bit { -1 } else { 0 })) };
    let Some((first, last)) = range.of(bytes) else { return Ok(Reply::integer(-1)) };
    // Without an end, a string is followed by zeros.
    let beyond = if bit || range.end.is_some() { -1 } else { bytes.len() as i64 * 8 };
    let skip = if bit { 0x00 } else { 0xff };
    let mut at = first;
    while at <= last {
        let byte = bytes[(at / 8) as usize];
        if at % 8 == 0 && byte == skip {
            at += 8;
        } else if (byte >> (7 - at % 8) & 1 == 1) == bit {
            return Ok(number(at));
        } else {
            at += 1;
        }
    }
    Ok(Reply::integer(beyond))
}

pub(crate) fn bitop(w: &mut Writing<'_>) -> Answer {
    let how = How::read(w.words)?;
    let sources = w.words[3..].iter().map(|name| bytes(&*w.store, &w.session.key(name)));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let len = sources.iter().map(|source| source.len()).max().unwrap_or(0);
    w.session.touch((len as u64).saturating_mul(sources.len() as u64) / BYTES_PER_ELEMENT)?;
    let value = combined(how, &sources, len);
    let key = w.key(2);
    if len == 0 {
        w.store.delete(&key)?;
    } else {
        w.store.put(&key, Value::String(value.into()), None)?;
    }
    Ok(Reply::count(len))
}

/// How strings are combined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    And,
    Or,
    Xor,
    Not,
    /// In the first, and in no other.
    Diff,
    /// Not in the first, and in some other.
    Diff1,
    /// In the first, and in some other.
    AndOr,
    /// In exactly one.
    One,
}

impl How {
    fn read(words: &[Blob]) -> Result<Self, Error> {
        const NAMES: [(&str, How); 8] = [
            ("AND", How::And),
            ("OR", How::Or),
            ("XOR", How::Xor),
            ("NOT", How::Not),
            ("DIFF", How::Diff),
            ("DIFF1", How::Diff1),
            ("ANDOR", How::AndOr),
            ("ONE", How::One),
        ];
        let found = NAMES.iter().find(|(name, _)| is(&words[1], name));
        let (name, how) = *found.ok_or_else(Error::syntax)?;
        match how {
            Self::Not if words.len() != 4 => {
                Err(Error::reply("ERR BITOP NOT must be called with a single source key."))
            }
            Self::Diff | Self::Diff1 | Self::AndOr if words.len() < 5 => {
                Err(Error::reply(format!("ERR BITOP {name} must be called with at least two source keys.")))
            }
            how => Ok(how),
        }
    }
}

/// Shorter sources end in zeros.
fn combined(how: How, sources: &[&[u8]], len: usize) -> Vec<u8> {
    let first = sources.first().copied().unwrap_or_default();
    let mut value = match how {
        // What the first is held against is gathered first.
        How::Diff | How::Diff1 | How::AndOr => Vec::new(),
        _ => first.to_vec(),
    };
    value.resize(len, 0);
    let mut each = |source: &[u8], combine: &mut dyn FnMut(usize, &mut u8, u8)| {
        let padded = source.iter().copied().chain(std::iter::repeat(0));
        value.iter_mut().zip(padded).enumerate().for_each(|(at, (byte, other))| combine(at, byte, other));
    };
    let mut twice = if how == How::One { vec![0_u8; len] } else { Vec::new() };
    for source in sources.iter().skip(1) {
        each(source, &mut |at, byte, other| match how {
            How::And => *byte &= other,
            How::Xor => *byte ^= other,
            How::One => {
                twice[at] |= *byte & other;
                *byte |= other;
            }
            How::Or | How::Not | How::Diff | How::Diff1 | How::AndOr => *byte |= other,
        });
    }
    match how {
        How::Not => value.iter_mut().for_each(|byte| *byte = !*byte),
        How::One => value.iter_mut().zip(&twice).for_each(|(byte, twice)| *byte &= !twice),
        How::Diff => each(first, &mut |_, byte, first| *byte = first & !*byte),
        How::Diff1 => each(first, &mut |_, byte, first| *byte &= !first),
        How::AndOr => each(first, &mut |_, byte, first| *byte &= first),
        How::And | How::Or | How::Xor => {}
    }
    value
}

/// What becomes of a value that does not fit its field.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// An integer of some bits at a place.
#[derive(Clone, Copy)]
struct Field {
    signed: bool,
    bits: u32,
    offset: u64,
}

/// One of BITFIELD's operations.
#[derive(Clone, Copy)]
enum Step {
    Get(Field),
    Set(Field, i64, Overflow),
    Add(Field, i64, Overflow),
}

impl Field {
    fn read(words: &[Blob], at: &mut usize) -> Result<Self, Error> {
        let kind = next(words, at)?;
        let invalid = || {
            Error::reply(
                "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
            )
        };
        let (signed, digits) = match &kind[..] {
            [b'i', rest @ ..] => (true, rest),
            [b'u', rest @ ..] => (false, rest),
            _ => return Err(invalid()),
        };
        let most = if signed { 64 } else { 63 };
        let bits = integer(digits).filter(|bits| (1..=most).contains(bits)).ok_or_else(invalid)?;
        let bits = u32::try_from(bits).expect("at most 64");
        let offset = bit_offset(next(words, at)?, Some(u64::from(bits)))?;
        Ok(Self { signed, bits, offset })
    }

    /// One past its last byte.
    fn end(self) -> u64 {
        (self.offset + u64::from(self.bits)).div_ceil(8)
    }

    fn get(self, bytes: &[u8]) -> i128 {
        let mut value: i128 = 0;
        for at in self.offset..self.offset + u64::from(self.bits) {
            let byte = bytes.get((at / 8) as usize).unwrap_or(&0);
            value = value << 1 | i128::from(byte >> (7 - at % 8) & 1);
        }
        self.wrapped(value)
    }

    fn set(self, bytes: &mut [u8], value: i128) {
        for (place, at) in (self.offset..self.offset + u64::from(self.bits)).rev().enumerate() {
            let (byte, shift) = (&mut bytes[(at / 8) as usize], 7 - at % 8);
            *byte = *byte & !(1 << shift) | ((value >> place & 1) as u8) << shift;
        }
    }

    /// The value that the lowest bits of one are.
    fn wrapped(self, value: i128) -> i128 {
        let low = value & ((1 << self.bits) - 1);
        if self.signed && low >> (self.bits - 1) & 1 == 1 { low - (1 << self.bits) } else { low }
    }

    fn fitted(self, value: i128, overflow: Overflow) -> Option<i128> {
        let (low, high) = if self.signed {
            (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
        } else {
            (0, (1 << self.bits) - 1)
        };
        match overflow {
            _ if (low..=high).contains(&value) => Some(value),
            Overflow::Wrap => Some(self.wrapped(value)),
            Overflow::Saturate => Some(value.clamp(low, high)),
            Overflow::Fail => None,
        }
    }
}

fn steps(words: &[Blob], read_only: bool) -> Result<Vec<Step>, Error> {
    let (mut steps, mut overflow, mut at) = (Vec::new(), Overflow::Wrap, 0);
    while let Some(word) = words.get(at) {
        // How many words a step takes is looked at before any of them.
        let left = words.len() - at - 1;
        if is(word, "GET") && left >= 2 {
            steps.push(Step::Get(Field::read(words, &mut at)?));
        } else if (is(word, "SET") || is(word, "INCRBY")) && left >= 3 {
            let field = Field::read(words, &mut at)?;
            let value = int(next(words, &mut at)?)?;
            let step = if is(word, "SET") { Step::Set } else { Step::Add };
            steps.push(step(field, value, overflow));
        } else if is(word, "OVERFLOW") {
            let how = next(words, &mut at)?;
            overflow = match () {
                () if is(how, "WRAP") => Overflow::Wrap,
                () if is(how, "SAT") => Overflow::Saturate,
                () if is(how, "FAIL") => Overflow::Fail,
                () => return Err(Error::reply("ERR Invalid OVERFLOW type specified")),
            };
        } else {
            return Err(Error::syntax());
        }
        at += 1;
    }
    if read_only && steps.iter().any(|step| !matches!(step, Step::Get(_))) {
        return Err(Error::reply("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    Ok(steps)
}

pub(crate) fn bitfield_ro(r: &mut Reading<'_>) -> Answer {
    let steps = steps(&r.words[2..], true)?;
    let bytes = bytes(r.look, &r.key(1))?;
    Ok(Reply::array(steps.iter().map(|step| run(*step, Bytes::Shared(bytes))).collect()))
}

pub(crate) fn bitfield(w: &mut Writing<'_>) -> Answer {
    let steps = steps(&w.words[2..], false)?;
    let key = w.key(1);
    let was = bytes(w.look(), &key)?;
    let end = steps.iter().filter_map(|step| match step {
        Step::Get(_) => None,
        Step::Set(field, ..) | Step::Add(field, ..) => Some(field.end()),
    });
    let Some(end) = end.max() else {
        return Ok(Reply::array(steps.iter().map(|step| run(*step, Bytes::Shared(was))).collect()));
    };
    within(end.min(VALUE_MAX + 1), 0)?;
    let mut value = was.to_vec();
    value.resize(value.len().max(end as usize), 0);
    let replies = steps.iter().map(|step| run(*step, Bytes::Owned(&mut value))).collect();
    w.put_keeping(&key, Value::String(value.into()))?;
    Ok(Reply::array(replies))
}

/// Bytes to read, or to read and write.
enum Bytes<'a> {
    Shared(&'a [u8]),
    Owned(&'a mut [u8]),
}

fn run(step: Step, bytes: Bytes<'_>) -> Reply {
    let shown =
        |value: i128| Reply::integer(i64::try_from(value).expect("a field has at most 64 bits, 63 unsigned"));
    match (step, bytes) {
        (Step::Get(field), Bytes::Shared(bytes)) => shown(field.get(bytes)),
        (Step::Get(field), Bytes::Owned(bytes)) => shown(field.get(bytes)),
        (Step::Set(field, value, overflow), Bytes::Owned(bytes)) => {
            let old = field.get(bytes);
            // An unsigned field takes a negative number for the large one with the same bits.
            let value = if field.signed { i128::from(value) } else { i128::from(value as u64) };
            match field.fitted(value, overflow) {
                None => Reply::Nil,
                Some(value) => {
                    field.set(bytes, value);
                    shown(old)
                }
            }
        }
        (Step::Add(field, by, overflow), Bytes::Owned(bytes)) => {
            match field.fitted(field.get(bytes) + i128::from(by), overflow) {
                None => Reply::Nil,
                Some(value) => {
                    field.set(bytes, value);
                    shown(value)
                }
            }
        }
        (Step::Set(..) | Step::Add(..), Bytes::Shared(_)) => unreachable!("only GET runs on bytes to read"),
    }
}
