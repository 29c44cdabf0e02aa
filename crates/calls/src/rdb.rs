//! Values as Redis writes them into its files and DUMPs, both ways.
//!
//! Written are the plain forms, which every Redis since 7.2 reads; read are those and the packed ones of all versions since 2.6: ziplists, listpacks, integer
//! sets, quicklists, and texts that are compressed. Streams and modules' types are refused.
//!
//! Invariant: bytes from outside never panic: what is no value is [`Damaged`], and no more than [`VALUE_MAX`] bytes are made of any text.
//! Called by: `dump`.
//! Source: the RDB format as Redis' documentation and servers have it; LZF as in M. Lehmann's liblzf; CRC-64 with Jones' polynomial.

use crate::VALUE_MAX;
use crate::collections::{Change, Hash, List, Set, Sorted, Value};
use crate::{Deadline, Found, Look};
use quorate_types::{Blob, Score, WallTime};

/// The version of what is written; a hash with deadlines needs one more.
const VERSION: u16 = 11;
const VERSION_TIMED: u16 = 12;

const STRING: u8 = 0;
const LIST: u8 = 1;
const SET: u8 = 2;
const ZSET_TEXT: u8 = 3;
const HASH: u8 = 4;
const ZSET: u8 = 5;
const LIST_ZIPLIST: u8 = 10;
const SET_INTSET: u8 = 11;
const ZSET_ZIPLIST: u8 = 12;
const HASH_ZIPLIST: u8 = 13;
const QUICKLIST: u8 = 14;
const HASH_LISTPACK: u8 = 16;
const ZSET_LISTPACK: u8 = 17;
const QUICKLIST_2: u8 = 18;
const SET_LISTPACK: u8 = 20;
const HASH_TIMED: u8 = 24;
const HASH_TIMED_LISTPACK: u8 = 25;
const STREAMS: [u8; 3] = [15, 19, 21];
/// Before the text of a library of functions (RDB_OPCODE_FUNCTION2).
const FUNCTION: u8 = 245;

/// Why bytes are no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damaged {
    /// Their end does not fit them, or a newer server wrote them.
    Footer,
    /// They are a stream's, which stays in its log.
    Stream,
    /// Anything else.
    Format,
}

type Taken<T> = Result<T, Damaged>;

/// A value as DUMP answers it; nothing for one that Redis does not know.
pub(crate) fn encode(look: &dyn Look, found: Found<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut version = VERSION;
    match found {
        Found::String(value) => {
            out.push(STRING);
            put_text(&mut out, value);
        }
        Found::List(list) => {
            out.push(LIST);
            put_length(&mut out, list.len());
            list.iter().for_each(|value| put_text(&mut out, &value));
        }
        Found::Set(set) => {
            out.push(SET);
            put_length(&mut out, set.len());
            set.iter().for_each(|member| put_text(&mut out, &member));
        }
        Found::Sorted(sorted) => {
            out.push(ZSET);
            put_length(&mut out, sorted.len());
            for (member, score) in sorted.iter() {
                put_text(&mut out, &member);
                out.extend(score.to_bits().to_le_bytes());
            }
        }
        Found::Hash(hash) => {
            let ends = |field: &Blob| {
                let wall = crate::args::wall(look);
                hash.deadline(field).map(|at| wall.saturating_add(crate::args::left(look, at)).unsigned_abs())
            };
            let first =
                if hash.is_timed() { hash.iter().filter_map(|(field, _)| ends(&field)).min() } else { None };
            match first {
                Some(first) => {
                    version = VERSION_TIMED;
                    out.push(HASH_TIMED);
                    out.extend(first.to_le_bytes());
                }
                None => out.push(HASH),
            }
            put_length(&mut out, hash.len());
            for (field, value) in hash.iter() {
                if let Some(first) = first {
                    put_length(&mut out, ends(&field).map_or(0, |at| at - first + 1));
                }
                put_text(&mut out, &field);
                put_text(&mut out, &value);
            }
        }
        Found::Bloom(_) | Found::Stream => return None,
    }
    out.extend(version.to_le_bytes());
    let sum = crc64(&out);
    out.extend(sum.to_le_bytes());
    Some(out)
}

/// Libraries of functions as FUNCTION DUMP answers them: their texts.
pub(crate) fn encode_functions<'a>(texts: impl Iterator<Item = &'a Blob>) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        out.push(FUNCTION);
        put_text(&mut out, text);
    }
    out.extend(VERSION_TIMED.to_le_bytes());
    let sum = crc64(&out);
    out.extend(sum.to_le_bytes());
    out
}

/// The texts of a FUNCTION DUMP. [`Damaged::Format`] is of bytes that are something else.
pub(crate) fn decode_functions(bytes: &[u8]) -> Taken<Vec<Blob>> {
    let mut from = Source(payload(bytes)?);
    let mut texts = Vec::new();
    while !from.0.is_empty() {
        if from.byte()? != FUNCTION {
            return Err(Damaged::Format);
        }
        texts.push(from.text()?);
    }
    Ok(texts)
}

/// How many elements the bytes of a DUMP may hold, by a look at their beginning.
pub(crate) fn elements(bytes: &[u8]) -> u64 {
    // No element takes less than a byte; a text is one.
    if bytes.first() == Some(&STRING) { 1 } else { bytes.len() as u64 / 2 }
}

/// The value of a DUMP.
pub(crate) fn decode(bytes: &[u8]) -> Taken<Value> {
    let mut from = Source(payload(bytes)?);
    let value = take_value(&mut from)?;
    if !from.0.is_empty() || value.is_empty() {
        return Err(Damaged::Format);
    }
    Ok(value)
}

/// What stands before version and sum, which fit it.
fn payload(bytes: &[u8]) -> Taken<&[u8]> {
    let body = bytes.len().checked_sub(8).filter(|end| *end >= 3).ok_or(Damaged::Footer)?;
    let (body, sum) = bytes.split_at(body);
    let (payload, version) = body.split_at(body.len() - 2);
    let version = u16::from_le_bytes(version.try_into().map_err(|_| Damaged::Footer)?);
    let sum = u64::from_le_bytes(sum.try_into().map_err(|_| Damaged::Footer)?);
    // A sum of zero says that its writer made none.
    if version > VERSION_TIMED || (sum != 0 && sum != crc64(body)) {
        return Err(Damaged::Footer);
    }
    Ok(payload)
}

fn take_value(from: &mut Source<'_>) -> Taken<Value> {
    let kind = from.byte()?;
    match kind {
        STRING => Ok(Value::String(from.text()?)),
        LIST => list(from.many(1, Source::text)?),
        SET => set(from.many(1, Source::text)?),
        HASH => {
            let pairs = from.many(2, |from| Ok((from.text()?, from.text()?, 0)))?;
            hash(pairs)
        }
        ZSET => sorted(from.many(9, |from| {
            let member = from.text()?;
            let bits = u64::from_le_bytes(from.array()?);
            Ok((member, Score::from_bits(bits).ok_or(Damaged::Format)?))
        })?),
        ZSET_TEXT => sorted(from.many(2, |from| {
            let member = from.text()?;
            let score = match from.byte()? {
                255 => Score::MIN,
                254 => Score::MAX,
                253 => return Err(Damaged::Format),
                len => Score::parse(from.bytes(usize::from(len))?).ok_or(Damaged::Format)?,
            };
            Ok((member, score))
        })?),
        LIST_ZIPLIST => list(ziplist(&from.text()?)?),
        QUICKLIST => {
            let nodes = from.many(1, Source::text)?;
            let parts = nodes.iter().map(|node| ziplist(node)).collect::<Taken<Vec<_>>>()?;
            list(parts.concat())
        }
        QUICKLIST_2 => {
            let nodes = from.many(2, |from| Ok((from.length()?, from.text()?)))?;
            let part = |(kind, node): (u64, Blob)| match kind {
                1 => Ok(vec![node]),
                2 => listpack(&node),
                _ => Err(Damaged::Format),
            };
            list(nodes.into_iter().map(part).collect::<Taken<Vec<_>>>()?.concat())
        }
        SET_INTSET => set(intset(&from.text()?)?),
        SET_LISTPACK => set(listpack(&from.text()?)?),
        HASH_ZIPLIST => hash(pairs(ziplist(&from.text()?)?)?),
        HASH_LISTPACK => hash(pairs(listpack(&from.text()?)?)?),
        ZSET_ZIPLIST => scored(ziplist(&from.text()?)?),
        ZSET_LISTPACK => scored(listpack(&from.text()?)?),
        HASH_TIMED => {
            let first = u64::from_le_bytes(from.array()?);
            hash(from.many(3, |from| {
                let after = from.length()?;
                let at = if after == 0 { 0 } else { first.checked_add(after - 1).ok_or(Damaged::Format)? };
                Ok((from.text()?, from.text()?, at))
            })?)
        }
        HASH_TIMED_LISTPACK => {
            from.bytes(8)?;
            let items = listpack(&from.text()?)?;
            if items.len() % 3 != 0 {
                return Err(Damaged::Format);
            }
            let one = |item: &[Blob]| {
                let at = crate::args::integer(&item[2]).and_then(|at| u64::try_from(at).ok());
                Ok((item[0].clone(), item[1].clone(), at.ok_or(Damaged::Format)?))
            };
            hash(items.chunks_exact(3).map(one).collect::<Taken<Vec<_>>>()?)
        }
        kind if STREAMS.contains(&kind) => Err(Damaged::Stream),
        _ => Err(Damaged::Format),
    }
}

fn list(values: Vec<Blob>) -> Taken<Value> {
    let mut list = List::new();
    values.into_iter().for_each(|value| list.push_back(value));
    Ok(Value::List(list))
}

fn set(members: Vec<Blob>) -> Taken<Value> {
    let mut set = Set::new();
    let new = members.into_iter().all(|member| set.insert(member));
    if new { Ok(Value::Set(set)) } else { Err(Damaged::Format) }
}

fn pairs(items: Vec<Blob>) -> Taken<Vec<(Blob, Blob, u64)>> {
    if !items.len().is_multiple_of(2) {
        return Err(Damaged::Format);
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone(), 0)).collect())
}

/// Fields, values, and until when each is there, in milliseconds since the epoch; 0 for ever.
fn hash(pairs: Vec<(Blob, Blob, u64)>) -> Taken<Value> {
    let mut hash = Hash::new();
    let mut ends = Vec::new();
    for (field, value, at) in pairs {
        if at > 0 {
            ends.push((field.clone(), Deadline::Wall(WallTime(at))));
        }
        if hash.insert(field, value).is_some() {
            return Err(Damaged::Format);
        }
    }
    let mut value = Value::Hash(hash);
    for (field, deadline) in ends {
        value.apply(Change::HashDeadline { field, deadline: Some(deadline) });
    }
    Ok(value)
}

fn sorted(members: Vec<(Blob, Score)>) -> Taken<Value> {
    let mut sorted = Sorted::new();
    for (member, score) in members {
        if sorted.insert(member, score).is_some() {
            return Err(Damaged::Format);
        }
    }
    Ok(Value::Sorted(sorted))
}

fn scored(items: Vec<Blob>) -> Taken<Value> {
    let score = |text: &Blob| Score::parse(text).ok_or(Damaged::Format);
    let members = pairs(items)?.into_iter().map(|(member, text, _)| Ok((member, score(&text)?)));
    sorted(members.collect::<Taken<Vec<_>>>()?)
}

fn put_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..=63 => out.push(length as u8),
        64..=16_383 => out.extend([0x40 | (length >> 8) as u8, length as u8]),
        16_384..=0xffff_ffff => {
            out.push(0x80);
            out.extend((length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend(length.to_be_bytes());
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_length(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// Bytes still to be read.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn bytes(&mut self, len: usize) -> Taken<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Damaged::Format)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Taken<[u8; N]> {
        self.bytes(N)?.try_into().map_err(|_| Damaged::Format)
    }

    fn byte(&mut self) -> Taken<u8> {
        Ok(self.bytes(1)?[0])
    }

    fn length(&mut self) -> Taken<u64> {
        match self.length_or_form()? {
            (length, None) => Ok(length),
            _ => Err(Damaged::Format),
        }
    }

    /// A length, or a form of text that has none.
    fn length_or_form(&mut self) -> Taken<(u64, Option<u8>)> {
        let first = self.byte()?;
        let low = u64::from(first & 0x3f);
        Ok(match first >> 6 {
            0 => (low, None),
            1 => (low << 8 | u64::from(self.byte()?), None),
            2 if first == 0x80 => (u64::from(u32::from_be_bytes(self.array()?)), None),
            2 if first == 0x81 => (u64::from_be_bytes(self.array()?), None),
            2 => return Err(Damaged::Format),
            _ => (0, Some(first & 0x3f)),
        })
    }

    fn text(&mut self) -> Taken<Blob> {
        let (length, form) = self.length_or_form()?;
        let number = |value: i64| Blob::from(value.to_string());
        Ok(match form {
            None => Blob::copy_from(self.bytes(usize::try_from(length).map_err(|_| Damaged::Format)?)?),
            Some(0) => number(i64::from(i8::from_le_bytes(self.array()?))),
            Some(1) => number(i64::from(i16::from_le_bytes(self.array()?))),
            Some(2) => number(i64::from(i32::from_le_bytes(self.array()?))),
            Some(3) => {
                let (packed, len) = (self.length()?, self.length()?);
                let packed = self.bytes(usize::try_from(packed).map_err(|_| Damaged::Format)?)?;
                Blob::from(unpacked(packed, len)?)
            }
            Some(_) => return Err(Damaged::Format),
        })
    }

    /// As many as a length says, each of which takes some bytes at least.
    fn many<T>(&mut self, least: u64, mut one: impl FnMut(&mut Self) -> Taken<T>) -> Taken<Vec<T>> {
        let count = self.length()?;
        if count.saturating_mul(least) > self.0.len() as u64 {
            return Err(Damaged::Format);
        }
        (0..count).map(|_| one(self)).collect()
    }
}

/// A text from its LZF form.
fn unpacked(packed: &[u8], len: u64) -> Taken<Vec<u8>> {
    // Three bytes stand for 264 at most.
    if len > VALUE_MAX || len > (packed.len() as u64).saturating_mul(264) {
        return Err(Damaged::Format);
    }
    let len = len as usize;
    let mut out: Vec<u8> = Vec::with_capacity(len);
    let mut from = Source(packed);
    while !from.0.is_empty() {
        let control = usize::from(from.byte()?);
        if control < 32 {
            out.extend_from_slice(from.bytes(control + 1)?);
        } else {
            let mut run = control >> 5;
            if run == 7 {
                run += usize::from(from.byte()?);
            }
            let back = ((control & 31) << 8 | usize::from(from.byte()?)) + 1;
            let start = out.len().checked_sub(back).ok_or(Damaged::Format)?;
            // What is copied may run into what was just written.
            for at in start..start + run + 2 {
                out.push(out[at]);
            }
        }
        if out.len() > len {
            return Err(Damaged::Format);
        }
    }
    if out.len() == len { Ok(out) } else { Err(Damaged::Format) }
}

fn intset(bytes: &[u8]) -> Taken<Vec<Blob>> {
    let mut from = Source(bytes);
    let width = u32::from_le_bytes(from.array()?) as usize;
    let count = u32::from_le_bytes(from.array()?) as usize;
    if count.checked_mul(width) != Some(from.0.len()) {
        return Err(Damaged::Format);
    }
    let one = |_| {
        let value = match width {
            2 => i64::from(i16::from_le_bytes(from.array()?)),
            4 => i64::from(i32::from_le_bytes(from.array()?)),
            8 => i64::from_le_bytes(from.array()?),
            _ => return Err(Damaged::Format),
        };
        Ok(Blob::from(value.to_string()))
    };
    (0..count).map(one).collect()
}

fn signed(bytes: &[u8]) -> Blob {
    let mut wide = if bytes.last().is_some_and(|top| top & 0x80 != 0) { [0xff; 8] } else { [0; 8] };
    wide[..bytes.len()].copy_from_slice(bytes);
    Blob::from(i64::from_le_bytes(wide).to_string())
}

fn listpack(bytes: &[u8]) -> Taken<Vec<Blob>> {
    let mut from = Source(bytes);
    let total = u32::from_le_bytes(from.array()?) as usize;
    from.bytes(2)?;
    if total != bytes.len() {
        return Err(Damaged::Format);
    }
    let mut items = Vec::new();
    loop {
        let before = from.0.len();
        let first = from.byte()?;
        let low = usize::from(first);
        items.push(match first {
            0xff if from.0.is_empty() => return Ok(items),
            0..=0x7f => Blob::from(first.to_string()),
            0x80..=0xbf => Blob::copy_from(from.bytes(low & 0x3f)?),
            0xc0..=0xdf => {
                let value = ((low & 0x1f) << 8 | usize::from(from.byte()?)) as i64;
                Blob::from((if value >= 1 << 12 { value - (1 << 13) } else { value }).to_string())
            }
            0xe0..=0xef => {
                let len = (low & 0xf) << 8 | usize::from(from.byte()?);
                Blob::copy_from(from.bytes(len)?)
            }
            0xf0 => {
                let len = u32::from_le_bytes(from.array()?) as usize;
                Blob::copy_from(from.bytes(len)?)
            }
            0xf1 => signed(from.bytes(2)?),
            0xf2 => signed(from.bytes(3)?),
            0xf3 => signed(from.bytes(4)?),
            0xf4 => signed(from.bytes(8)?),
            _ => return Err(Damaged::Format),
        });
        // Behind each item stands its length, seven bits a byte.
        let size = before - from.0.len();
        let bits = (usize::BITS - size.leading_zeros()) as usize;
        from.bytes(bits.div_ceil(7))?;
    }
}

fn ziplist(bytes: &[u8]) -> Taken<Vec<Blob>> {
    let mut from = Source(bytes);
    let total = u32::from_le_bytes(from.array()?) as usize;
    from.bytes(6)?;
    if total != bytes.len() {
        return Err(Damaged::Format);
    }
    let mut items = Vec::new();
    loop {
        // The length of the item before.
        match from.byte()? {
            0xff if from.0.is_empty() => return Ok(items),
            0xff => return Err(Damaged::Format),
            0xfe => drop(from.bytes(4)?),
            _ => {}
        }
        let first = from.byte()?;
        let low = usize::from(first & 0x3f);
        items.push(match first {
            0..=0x3f => Blob::copy_from(from.bytes(low)?),
            0x40..=0x7f => {
                let len = low << 8 | usize::from(from.byte()?);
                Blob::copy_from(from.bytes(len)?)
            }
            0x80 => {
                let len = u32::from_be_bytes(from.array()?) as usize;
                Blob::copy_from(from.bytes(len)?)
            }
            0xc0 => signed(from.bytes(2)?),
            0xd0 => signed(from.bytes(4)?),
            0xe0 => signed(from.bytes(8)?),
            0xf0 => signed(from.bytes(3)?),
            0xfe => signed(from.bytes(1)?),
            0xf1..=0xfd => Blob::from(((first & 0xf) - 1).to_string()),
            _ => return Err(Damaged::Format),
        });
    }
}

/// Jones' polynomial, low bits first.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

static TABLE: [u64; 256] = table();

const fn table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u64, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum >> 8 ^ TABLE[usize::from(sum as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
    }

    /// What a Redis 8.2.3 answered to DUMP, and the elements of the value that it was of; long ones by their length.
    const DUMPS: [(&str, &str); 13] = [
        ("000568656c6c6f0c00a804ebb69f1ebe43", "hello"),
        ("00c139300c0056e2dee769d696f0", "12345"),
        ("00c3094064017878e057000178780c0096c1c2a34122fc16", "<100>"),
        ("101616000000040081610201018162028568656c6c6f06ff0c0023b3ca59142d0b14", "a 1 b hello"),
        ("1201020e0e000000030081610201010201ff0c007b95e7111ff0f9a5", "a 1 2"),
        ("0b0e02000000030000000100020003000c006e7468229744d352", "1 2 3"),
        ("140c0c00000002008161020101ff0c0042e9698050aecf88", "a 1"),
        ("111414000000040081610283312e35048162020201ff0c00317480e55532192a", "a 1.5 b 2"),
        ("0501c3094046016d6de03900016d6d000000000000f83f0c001afaa03ee49a51a4", "<70> 1.5"),
        (
            "190038d360ba0100001d1d00000006008161020101f40038d360ba0100000981620202010001ff0c00e8b40350cbdaa45a",
            "a 1 b 2",
        ),
        ("180038d360ba01000002000162c002010161c3094046017979e039000179790c0060ce7e88fa22e28d", "b 2 a <70>"),
        ("04020162017a0161c3094064017979e057000179790c00edb2a92bc6752ba2", "b z a <100>"),
        ("0201c3094064017171e057000171710c004da923ec488a98b4", "<100>"),
    ];

    fn shown(value: &Value) -> String {
        let text = |blob: Blob| if blob.len() > 64 { format!("<{}>", blob.len()) } else { blob.to_string() };
        let pair = |(field, value): (Blob, Blob)| format!("{} {}", text(field), text(value));
        let items: Vec<String> = match value {
            Value::String(value) => vec![text(value.clone())],
            Value::List(list) => list.iter().map(text).collect(),
            Value::Set(set) => set.iter().map(text).collect(),
            Value::Sorted(sorted) => sorted.iter().map(|(m, score)| format!("{} {score}", text(m))).collect(),
            value => match value.found(WallTime(0), quorate_types::LogTime(0)) {
                Found::Hash(hash) => hash.iter().map(pair).collect(),
                other => panic!("{other:?}"),
            },
        };
        items.join(" ")
    }

    #[test]
    fn what_redis_dumps_is_read() {
        for (hex, wanted) in DUMPS {
            let value = decode(&bytes(hex)).unwrap_or_else(|damaged| panic!("{hex}: {damaged:?}"));
            assert_eq!(shown(&value), wanted, "{hex}");
        }
        let timed = decode(&bytes(DUMPS[9].0)).unwrap();
        let deadline = timed.timed().and_then(|timed| timed.deadline(b"a"));
        assert_eq!(deadline, Some(Deadline::Wall(WallTime(1_900_000_000_000))));
        assert_eq!(timed.timed().and_then(|timed| timed.deadline(b"b")), None);
        let timed = decode(&bytes(DUMPS[10].0)).unwrap();
        assert_eq!(timed.timed().and_then(|timed| timed.deadline(b"a")), deadline);
    }

    #[test]
    fn older_packed_forms_are_read() {
        let dumped = |kind: u8, text: &[u8]| {
            let mut all = vec![kind];
            put_text(&mut all, text);
            all.extend(9_u16.to_le_bytes());
            let sum = crc64(&all);
            all.extend(sum.to_le_bytes());
            decode(&all)
        };
        // "ab", 2, -3, 300, and a text of 64 bytes.
        let mut items = b"\x00\x02ab\x04\xf3\x02\xfe\xfd\x03\xc0\x2c\x01\x04\x40\x40".to_vec();
        items.extend([b'x'; 64]);
        let mut list = (10 + items.len() as u32 + 1).to_le_bytes().to_vec();
        list.extend([0; 6]);
        list.extend(items);
        list.push(0xff);
        let Ok(Value::List(found)) = dumped(LIST_ZIPLIST, &list) else { panic!("a list") };
        let found: Vec<String> = found.iter().map(|item| item.to_string()).collect();
        assert_eq!(found[..4], ["ab", "2", "-3", "300"]);
        assert_eq!(found[4].len(), 64);
    }

    #[test]
    fn the_sum_is_the_one_that_redis_has() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_panic() {
        for (hex, _) in DUMPS {
            let whole = bytes(hex);
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x41;
                assert!(decode(&damaged).is_err(), "a sum finds every such change: {hex} at {at}");
                // Without a sum the forms themselves have to hold.
                let end = damaged.len() - 8;
                damaged[end..].fill(0);
                let _ = decode(&damaged);
                assert!(decode(&whole[..at]).is_err());
            }
        }
        assert_eq!(decode(b"\x07\x00\x0b\x00\0\0\0\0\0\0\0\0"), Err(Damaged::Format));
        assert_eq!(decode(b"\x15\x00\x0b\x00\0\0\0\0\0\0\0\0"), Err(Damaged::Stream));
        assert_eq!(decode(b"\x00\x00\x63\x00\0\0\0\0\0\0\0\0"), Err(Damaged::Footer));
        assert_eq!(decode(b"\x02\x00\x0b\x00\0\0\0\0\0\0\0\0"), Err(Damaged::Format), "a set of nothing");
    }
}
