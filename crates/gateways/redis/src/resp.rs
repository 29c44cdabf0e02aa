//! RESP2 and RESP3: requests out of bytes, replies into bytes.
//!
//! Requests come as arrays of bulk strings or as lines ("inline commands"). [`Input`] takes bytes as they arrive, however they are cut, and gives
//! whole commands; each word is copied once, from the buffer into its [`Blob`].
//!
//! Source: redis.io, "Redis serialization protocol specification"; the texts of errors are Redis 7's.
//! Invariant: any bytes give commands or a [`ProtocolError`], the same however they are cut; none panics.
//! Invariant: memory held is a small multiple of the bytes received: what is only announced takes none.
//! Called by: `connection` (both directions), `pubsub` (pushes), the fuzz target.

use quorate_types::{Blob, Reply};
use std::borrow::Cow;
use std::io::Write;

/// Longest line: an inline command, or the header of an array or of a bulk string.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// Most words of one command.
pub const WORDS_MAX: i64 = 1 << 20;
/// Most words before a client has said who it is.
const WORDS_MAX_UNKNOWN: i64 = 10;
/// Longest word before a client has said who it is.
const BULK_BYTES_MAX_UNKNOWN: i64 = 16 << 10;
/// Room kept by a buffer that holds nothing.
const KEEP_BYTES: usize = 1 << 10;

/// What may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Longest word, in bytes.
    pub bulk_bytes_max: i64,
    /// Longest command in all, in bytes.
    pub command_bytes_max: usize,
    /// Whether the client has yet to say who it is: then it may send little.
    pub unknown: bool,
}

/// The bytes are no RESP. The client is told, and its connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct ProtocolError(pub Cow<'static, str>);

impl ProtocolError {
    fn of<T>(text: &'static str) -> Result<T, Self> {
        Err(Self(Cow::Borrowed(text)))
    }
}

/// Words of a command that [`Input::ahead`] looks at.
const AHEAD_WORDS_MAX: usize = 8;

/// Bytes of a client that are not understood yet.
#[derive(Debug, Default)]
pub struct Input {
    bytes: Vec<u8>,
    /// Where the next command begins, or goes on.
    start: usize,
    /// The array under way.
    array: Option<Array>,
}

/// An array of which words are missing.
#[derive(Debug)]
struct Array {
    missing: i64,
    words: Vec<Blob>,
    /// The length of the next word, once its header was read.
    length: Option<usize>,
    bytes: usize,
}

impl Input {
    /// Takes bytes that have arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > (64 << 10) && self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that are not understood yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The first arguments of the commands that come next, as far as they are whole arrays of bulk strings and have this name. A look ahead, which
    /// understands less than [`Input::next`] and takes nothing.
    pub fn ahead<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut rest =
            if self.array.is_some() { &[][..] } else { self.bytes.get(self.start..).unwrap_or_default() };
        std::iter::from_fn(move || {
            let count = ahead_number(&mut rest, b'*')?;
            if !(2..=AHEAD_WORDS_MAX).contains(&count) || ahead_word(&mut rest)? != name {
                return None;
            }
            let first = ahead_word(&mut rest)?;
            for _ in 2..count {
                ahead_word(&mut rest)?;
            }
            Some(first)
        })
    }

    /// Gives memory back, when a client is silent.
    pub fn rest(&mut self) {
        if self.pending() == 0 && self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
            self.start = 0;
        }
    }

    /// The next whole command's words into `words`; false when more bytes are needed.
    ///
    /// # Errors
    /// [`ProtocolError`]: nothing more can be understood.
    pub fn next(&mut self, bounds: &Bounds, words: &mut Vec<Blob>) -> Result<bool, ProtocolError> {
        words.clear();
        loop {
            if self.array.is_some() {
                return self.array_words(bounds, words);
            }
            match self.bytes.get(self.start) {
                None => return Ok(false),
                Some(b'*') => {
                    let Some((count, after)) =
                        self.header("too big mbulk count string", "invalid multibulk length")?
                    else {
                        return Ok(false);
                    };
                    if count > WORDS_MAX {
                        return ProtocolError::of("invalid multibulk length");
                    }
                    if bounds.unknown && count > WORDS_MAX_UNKNOWN {
                        return ProtocolError::of("unauthenticated multibulk length");
                    }
                    self.start = after;
                    // An empty array is no command.
                    if count > 0 {
                        // The announced count is believed only as far as the client may fill it with what it has sent.
                        let room = (count as usize).min(16);
                        let mut own = std::mem::take(words);
                        own.reserve(room);
                        self.array = Some(Array { missing: count, words: own, length: None, bytes: 0 });
                    }
                }
                Some(_) => match self.line(words)? {
                    None => return Ok(false),
                    // An empty line is no command.
                    Some(()) if words.is_empty() => {}
                    Some(()) => return Ok(true),
                },
            }
        }
    }

    fn array_words(&mut self, bounds: &Bounds, words: &mut Vec<Blob>) -> Result<bool, ProtocolError> {
        let mut array = self.array.take().expect("the caller has seen it");
        loop {
            if array.missing == 0 {
                *words = array.words;
                return Ok(true);
            }
            let Some(length) = self.word_length(bounds, &mut array)? else { break };
            let (from, until) = (self.start, self.start + length);
            // The two bytes of the line's end are skipped unseen, as Redis does.
            if self.bytes.len() < until + 2 {
                break;
            }
            array.words.push(Blob::copy_from(&self.bytes[from..until]));
            array.missing -= 1;
            array.length = None;
            array.bytes += length;
            self.start = until + 2;
        }
        self.array = Some(array);
        Ok(false)
    }

    /// The length of the word that comes next; nothing when its header is not whole.
    fn word_length(&mut self, bounds: &Bounds, array: &mut Array) -> Result<Option<usize>, ProtocolError> {
        if array.length.is_some() {
            return Ok(array.length);
        }
        let Some(first) = self.bytes.get(self.start) else { return Ok(None) };
        if *first != b'$' {
            // Told only once the line is whole, as Redis does, so that the same bytes give the same error however they are cut.
            let Some(_) = self.line_end("too big bulk count string")? else { return Ok(None) };
            let shown = if first.is_ascii_graphic() { char::from(*first) } else { ' ' };
            return Err(ProtocolError(Cow::Owned(format!("expected '$', got '{shown}'"))));
        }
        let Some((length, after)) = self.header("too big bulk count string", "invalid bulk length")? else {
            return Ok(None);
        };
        if bounds.unknown && length > BULK_BYTES_MAX_UNKNOWN {
            return ProtocolError::of("unauthenticated bulk length");
        }
        if length < 0
            || length > bounds.bulk_bytes_max
            || array.bytes + length as usize > bounds.command_bytes_max
        {
            return ProtocolError::of("invalid bulk length");
        }
        self.start = after;
        array.length = Some(length as usize);
        Ok(array.length)
    }

    /// The number after the first byte of a line, and where the next line begins.
    fn header(
        &self,
        too_long: &'static str,
        wrong: &'static str,
    ) -> Result<Option<(i64, usize)>, ProtocolError> {
        let Some(end) = self.line_end(too_long)? else { return Ok(None) };
        match integer(&self.bytes[self.start + 1..end]) {
            Some(number) => Ok(Some((number, end + 2))),
            None => ProtocolError::of(wrong),
        }
    }

    /// Where the line that begins at `start` has its `\r`, once the byte after it is there too.
    fn line_end(&self, too_long: &'static str) -> Result<Option<usize>, ProtocolError> {
        let rest = &self.bytes[self.start..];
        let window = &rest[..rest.len().min(LINE_BYTES_MAX)];
        match window.iter().position(|byte| *byte == b'\r') {
            Some(at) if at + 1 < rest.len() => Ok(Some(self.start + at)),
            Some(_) => Ok(None),
            None if rest.len() > LINE_BYTES_MAX => ProtocolError::of(too_long),
            None => Ok(None),
        }
    }

    /// An inline command.
    fn line(&mut self, words: &mut Vec<Blob>) -> Result<Option<()>, ProtocolError> {
        let rest = &self.bytes[self.start..];
        let window = &rest[..rest.len().min(LINE_BYTES_MAX)];
        let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
            return if rest.len() > LINE_BYTES_MAX {
                ProtocolError::of("too big inline request")
            } else {
                Ok(None)
            };
        };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        if !split(line, words) {
            return ProtocolError::of("unbalanced quotes in request");
        }
        self.start += end + 1;
        Ok(Some(()))
    }
}

/// A decimal number as Redis reads it: no sign but `-`, no leading zeros.
#[must_use]
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = i64::from(digit - b'0');
        value = value.checked_mul(10)?;
        value = if negative { value.checked_sub(digit)? } else { value.checked_add(digit)? };
    }
    Some(value)
}

/// Splits a line into words as the command line of redis-cli does; false for quotes that do not close, or close within a word.
fn split(line: &[u8], words: &mut Vec<Blob>) -> bool {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    let mut rest = line;
    loop {
        while let [first, after @ ..] = rest
            && space(first)
        {
            rest = after;
        }
        if rest.is_empty() {
            return true;
        }
        let mut word = Vec::new();
        loop {
            match rest {
                [] | [b' ' | b'\n' | b'\r' | b'\t' | 0, ..] => break,
                [b'"', after @ ..] => match double_quoted(after, &mut word) {
                    Some(after) if after.first().is_none_or(space) => {
                        rest = after;
                        break;
                    }
                    _ => return false,
                },
                [b'\'', after @ ..] => match single_quoted(after, &mut word) {
                    Some(after) if after.first().is_none_or(space) => {
                        rest = after;
                        break;
                    }
                    _ => return false,
                },
                [byte, after @ ..] => {
                    word.push(*byte);
                    rest = after;
                }
            }
        }
        if let [0, after @ ..] = rest {
            rest = after;
        }
        words.push(word.into());
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'"', after @ ..] => return Some(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return Some(after),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

/// The dialect of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, until `HELLO 3`.
    #[default]
    Two,
    /// RESP3.
    Three,
}

impl Protocol {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// Writes a reply.
pub fn write(reply: &Reply, protocol: Protocol, out: &mut Vec<u8>) {
    let three = protocol == Protocol::Three;
    match reply {
        Reply::Nil | Reply::NilArray if three => out.extend_from_slice(b"_\r\n"),
        Reply::Nil => out.extend_from_slice(b"$-1\r\n"),
        Reply::NilArray => out.extend_from_slice(b"*-1\r\n"),
        Reply::Status { text } => line(b'+', text, out),
        Reply::Error { text } => line(b'-', text, out),
        Reply::Integer { value } => number(b':', *value, out),
        Reply::Double { value } if three => line(b',', value.to_string().as_bytes(), out),
        Reply::Double { value } => bulk(value.to_string().as_bytes(), out),
        Reply::Boolean { value } if three => {
            out.extend_from_slice(if *value { b"#t\r\n" } else { b"#f\r\n" })
        }
        Reply::Boolean { value } => number(b':', i64::from(*value), out),
        Reply::Bulk { value } => bulk(value, out),
        Reply::Verbatim { format, text } if three => {
            number(b'=', (text.len() + format.len() + 1) as i64, out);
            out.extend_from_slice(format);
            out.push(b':');
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
        Reply::Verbatim { text, .. } => bulk(text, out),
        Reply::Array { items } => all(b'*', items.0.len(), &items.0, protocol, out),
        Reply::Set { items } => all(if three { b'~' } else { b'*' }, items.0.len(), &items.0, protocol, out),
        Reply::Map { items } if three => all(b'%', items.0.len() / 2, &items.0, protocol, out),
        Reply::Map { items } => all(b'*', items.0.len(), &items.0, protocol, out),
        Reply::Pairs { items } if three => {
            number(b'*', (items.0.len() / 2) as i64, out);
            for pair in items.0.chunks(2) {
                all(b'*', pair.len(), pair, protocol, out);
            }
        }
        Reply::Pairs { items } => all(b'*', items.0.len(), &items.0, protocol, out),
        Reply::Named { items } if three => all(b'%', items.0.len() / 2, &items.0, protocol, out),
        Reply::Named { items } => {
            number(b'*', (items.0.len() / 2) as i64, out);
            for pair in items.0.chunks(2) {
                all(b'*', pair.len(), pair, protocol, out);
            }
        }
        // Its bytes have been put in its place wherever they could be read.
        Reply::Record { id, .. } => {
            number(b'*', 2, out);
            bulk(id.to_string().as_bytes(), out);
            write(&Reply::NilArray, protocol, out);
        }
    }
}

/// Writes the head of a reply of this type that has so many elements, whose items follow; a pair is one element.
pub fn long_head(kind: &Reply, elements: u64, protocol: Protocol, out: &mut Vec<u8>) {
    let three = protocol == Protocol::Three;
    let elements = i64::try_from(elements).unwrap_or(i64::MAX);
    match kind {
        Reply::Set { .. } if three => number(b'~', elements, out),
        Reply::Map { .. } if three => number(b'%', elements, out),
        Reply::Pairs { .. } if three => number(b'*', elements, out),
        Reply::Map { .. } | Reply::Pairs { .. } => number(b'*', elements.saturating_mul(2), out),
        _ => number(b'*', elements, out),
    }
}

/// Writes the items of a reply whose head was written.
pub fn items(reply: &Reply, protocol: Protocol, out: &mut Vec<u8>) {
    match reply {
        Reply::Pairs { items } if protocol == Protocol::Three => {
            items.0.chunks(2).for_each(|pair| all(b'*', pair.len(), pair, protocol, out));
        }
        Reply::Array { items } | Reply::Set { items } | Reply::Map { items } | Reply::Pairs { items } => {
            items.0.iter().for_each(|item| write(item, protocol, out));
        }
        other => write(other, protocol, out),
    }
}

/// Writes the head of an array, whose items follow.
pub fn array_head(length: usize, out: &mut Vec<u8>) {
    number(b'*', length as i64, out);
}

/// Writes the head of a message that nobody asked for: a push in RESP3, an array in RESP2.
pub fn push_head(length: usize, protocol: Protocol, out: &mut Vec<u8>) {
    number(if protocol == Protocol::Three { b'>' } else { b'*' }, length as i64, out);
}

/// Writes an error.
pub fn error(text: &str, out: &mut Vec<u8>) {
    line(b'-', text.as_bytes(), out);
}

/// Writes bytes.
pub fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    number(b'$', bytes.len() as i64, out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number with the byte that says what it means.
pub fn number(kind: u8, value: i64, out: &mut Vec<u8>) {
    out.push(kind);
    if let Ok(digit) = u8::try_from(value)
        && digit < 10
    {
        out.push(b'0' + digit);
    } else {
        // A vector takes everything.
        let _ = write!(out, "{value}");
    }
    out.extend_from_slice(b"\r\n");
}

fn all(kind: u8, count: usize, items: &[Reply], protocol: Protocol, out: &mut Vec<u8>) {
    number(kind, count as i64, out);
    for item in items {
        write(item, protocol, out);
    }
}

fn line(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    // A line end within would begin another reply.
    out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    out.extend_from_slice(b"\r\n");
}

/// For [`Input::ahead`]: a short number behind its sign.
fn ahead_number(rest: &mut &[u8], sign: u8) -> Option<usize> {
    let (first, digits) = rest.split_first()?;
    let end = digits.iter().take(8).position(|byte| *byte == b'\r')?;
    if *first != sign || end == 0 {
        return None;
    }
    let mut number = 0;
    for digit in &digits[..end] {
        number = 10 * number + usize::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
    }
    *rest = digits.get(end + 2..)?;
    Some(number)
}

/// For [`Input::ahead`]: a bulk string.
fn ahead_word<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = ahead_number(rest, b'$')?;
    let word = rest.get(..length)?;
    *rest = rest.get(length + 2..)?;
    Some(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_types::Score;

    const BOUNDS: Bounds = Bounds { bulk_bytes_max: 1 << 20, command_bytes_max: 4 << 20, unknown: false };

    /// Every command that pieces give, and the error that ends them.
    fn read(pieces: &[&[u8]], bounds: Bounds) -> (Vec<Vec<Blob>>, Option<String>) {
        let (mut input, mut words, mut found) = (Input::default(), Vec::new(), Vec::new());
        for piece in pieces {
            input.extend(piece);
            loop {
                match input.next(&bounds, &mut words) {
                    Ok(true) => found.push(words.clone()),
                    Ok(false) => break,
                    Err(error) => return (found, Some(error.to_string())),
                }
            }
        }
        (found, None)
    }

    #[track_caller]
    fn check(bytes: &[u8], wanted: &[&[&str]]) {
        let wanted: Vec<Vec<Blob>> =
            wanted.iter().map(|words| words.iter().map(|word| Blob::from(*word)).collect()).collect();
        assert_eq!(read(&[bytes], BOUNDS), (wanted, None));
    }

    #[track_caller]
    fn fails(bytes: &[u8], unknown: bool, wanted: &str) {
        let (_, error) = read(&[bytes], Bounds { unknown, ..BOUNDS });
        assert_eq!(error.as_deref(), Some(format!("Protocol error: {wanted}").as_str()));
    }

    #[test]
    fn arrays_and_lines_are_commands() {
        check(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*0\r\n\r\nPING\r\n", &[&["GET", "k"], &["PING"]]);
        check(b"set a 'b c' \"x\\x41\\n\"\nping\n", &[&["set", "a", "b c", "xA\n"], &["ping"]]);
        check(b"*-1\r\nset a ''\r\n", &[&["set", "a", ""]]);
        check(b"*1\r\n$4\r\nPI", &[]);
    }

    #[test]
    fn what_is_no_command_is_named_as_redis_names_it() {
        fails(b"*x\r\n", false, "invalid multibulk length");
        fails(b"*99999999\r\n", false, "invalid multibulk length");
        fails(b"*1\r\n:4\r\n", false, "expected '$', got ':'");
        fails(b"*1\r\n$-1\r\n", false, "invalid bulk length");
        fails(b"*1\r\n$999999999\r\n", false, "invalid bulk length");
        fails(b"set \"a\r\n", false, "unbalanced quotes in request");
        fails(b"set \"a\"b\r\n", false, "unbalanced quotes in request");
        fails(&vec![b'a'; LINE_BYTES_MAX + 1], false, "too big inline request");
        fails(
            &[b"*".as_slice(), &vec![b'1'; LINE_BYTES_MAX + 1]].concat(),
            false,
            "too big mbulk count string",
        );
        fails(
            &[b"*1\r\n$".as_slice(), &vec![b'1'; LINE_BYTES_MAX + 1]].concat(),
            false,
            "too big bulk count string",
        );
        fails(b"*11\r\n", true, "unauthenticated multibulk length");
        fails(b"*1\r\n$16385\r\n", true, "unauthenticated bulk length");
    }

    #[test]
    fn numbers_are_read_strictly() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            ("", None),
            ("-", None),
            ("1 ", None),
        ] {
            assert_eq!(integer(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn replies_are_written_in_both_dialects() {
        let pairs = Reply::pairs(vec![Reply::bulk("a"), Reply::Double { value: Score::from_i64(2) }]);
        let verbatim = Reply::Verbatim { format: "txt".into(), text: "hi".into() };
        for (reply, two, three) in [
            (Reply::Nil, "$-1\r\n", "_\r\n"),
            (Reply::NilArray, "*-1\r\n", "_\r\n"),
            (Reply::ok(), "+OK\r\n", "+OK\r\n"),
            (Reply::error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (Reply::integer(-12), ":-12\r\n", ":-12\r\n"),
            (Reply::Double { value: Score::new(1.5).unwrap() }, "$3\r\n1.5\r\n", ",1.5\r\n"),
            (Reply::Boolean { value: true }, ":1\r\n", "#t\r\n"),
            (verbatim, "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
            (Reply::set(vec![Reply::integer(1)]), "*1\r\n:1\r\n", "~1\r\n:1\r\n"),
            (
                Reply::map(vec![Reply::bulk("k"), Reply::Nil]),
                "*2\r\n$1\r\nk\r\n$-1\r\n",
                "%1\r\n$1\r\nk\r\n_\r\n",
            ),
            (pairs, "*2\r\n$1\r\na\r\n$1\r\n2\r\n", "*1\r\n*2\r\n$1\r\na\r\n,2\r\n"),
        ] {
            for (protocol, wanted) in [(Protocol::Two, two), (Protocol::Three, three)] {
                let mut out = Vec::new();
                write(&reply, protocol, &mut out);
                assert_eq!(String::from_utf8(out).unwrap(), wanted, "{reply:?}");
            }
        }
    }

    #[test]
    fn a_look_ahead_names_what_comes_and_takes_nothing() {
        let bytes: Vec<u8> = ["GET a", "GET bb", "GET", "GET c"]
            .iter()
            .flat_map(|line| {
                encoded(&line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>())
            })
            .collect();
        let mut input = Input::default();
        input.extend(&bytes);
        assert_eq!(
            input.ahead(b"GET").collect::<Vec<_>>(),
            [&b"a"[..], b"bb"],
            "up to the first that has no argument"
        );
        assert_eq!(input.ahead(b"SET").next(), None);
        assert_eq!(input.pending(), bytes.len());
        for (text, why) in [
            ("GET a\r\n", "a line"),
            ("*2\r\n$3\r\nGET\r\n$1\r\na", "not whole"),
            ("*2\r\n$3\r\nGET\r\n$-1\r\n", "no length"),
            ("*9\r\n$3\r\nGET\r\n$1\r\na\r\n", "many words"),
            ("*2\r\n$3\r\nGET\r\n$99999999\r\na\r\n", "a length that is not there"),
        ] {
            let mut input = Input::default();
            input.extend(text.as_bytes());
            assert_eq!(input.ahead(b"GET").next(), None, "{why}");
        }
    }

    #[test]
    fn a_silent_client_holds_no_buffer() {
        let mut input = Input::default();
        let mut words = Vec::new();
        input.extend(format!("*1\r\n$100000\r\n{}\r\n", "x".repeat(100_000)).as_bytes());
        assert_eq!(input.next(&BOUNDS, &mut words), Ok(true));
        input.rest();
        assert_eq!((input.pending(), input.bytes.capacity()), (0, 0));
    }

    fn encoded(words: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        array_head(words.len(), &mut out);
        words.iter().for_each(|word| bulk(word, &mut out));
        out
    }

    fn pieces<'a>(mut bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, rest) = bytes.split_at(cut % (bytes.len() + 1));
            pieces.push(piece);
            bytes = rest;
        }
        pieces.push(bytes);
        pieces
    }

    proptest! {
        #[test]
        fn commands_come_out_as_they_went_in_however_they_are_cut(
            commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 0..6),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let bytes: Vec<u8> = commands.iter().flat_map(|words| encoded(words)).collect();
            let (found, error) = read(&pieces(&bytes, &cuts), BOUNDS);
            let found: Vec<Vec<Vec<u8>>> =
                found.into_iter().map(|words| words.into_iter().map(|word| word.to_vec()).collect()).collect();
            prop_assert_eq!(error, None);
            prop_assert_eq!(found, commands);
        }

        #[test]
        fn any_bytes_mean_the_same_however_they_are_cut(
            bytes in prop::collection::vec(prop_oneof![
                Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'2'), Just(b'"'), Just(b'\''), Just(b'\\'), any::<u8>()
            ], 0..200),
            cuts in prop::collection::vec(any::<usize>(), 0..30),
            unknown: bool,
        ) {
            let bounds = Bounds { unknown, ..BOUNDS };
            prop_assert_eq!(read(&pieces(&bytes, &cuts), bounds), read(&[&bytes], bounds));
        }

        #[test]
        fn what_is_seen_ahead_comes(commands in prop::collection::vec(prop::collection::vec("[a-b]{0,3}", 1..4), 1..8), cut: usize) {
            let bytes: Vec<u8> = commands
                .iter()
                .flat_map(|words| encoded(&words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>()))
                .collect();
            let mut input = Input::default();
            input.extend(&bytes[..cut % (bytes.len() + 1)]);
            let seen: Vec<Vec<u8>> = input.ahead(commands[0][0].as_bytes()).map(<[u8]>::to_vec).collect();
            let mut words = Vec::new();
            for name in seen {
                prop_assert_eq!(input.next(&BOUNDS, &mut words), Ok(true));
                prop_assert_eq!((&*words[0], &*words[1]), (commands[0][0].as_bytes(), &*name));
            }
        }

        #[test]
        fn any_bytes_are_looked_at_without_harm(bytes in prop::collection::vec(prop_oneof![
            Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'2'), any::<u8>()
        ], 0..200)) {
            let mut input = Input::default();
            input.extend(&bytes);
            prop_assert!(input.ahead(&bytes[..bytes.len().min(1)]).count() <= bytes.len());
        }
    }
}
