//! Field pairs as Redis has them, and the record that other protocols see: one mapping, both ways.
//!
//! `@key`, `@value` and `@h:NAME` are the record's key, value and headers. Other pairs are a JSON object, which is the value; a pair whose
//! value is no text is `{"base64": …}` in it. What this form would not give back as it was (a field that repeats, one whose name is no
//! text, or an order other than key, headers, value) is kept packed: `{"@pairs": base64}`. The last header, [`MARK`], tells which of the two
//! forms a value has; a record without it has a value of its own, which XREAD shows as `@value`, whatever it is.
//!
//! Source: RFC 8259 (JSON), RFC 4648 (base64).
//! Invariant: `of_record(to_record(pairs)) == pairs`, byte for byte and in order.
//! Called by: `streams`; a gateway that resolves records.

use bytes::Bytes;
use quorate_types::codec::{Reader, Writer};
use quorate_types::{Blob, Header, Record};

/// Name of the header that tells the form of a value made of pairs.
pub const MARK: &str = "@fields";
const JSON: &str = "json";
const PACKED: &str = "packed";

const KEY: &[u8] = b"@key";
const VALUE: &[u8] = b"@value";
const HEADER: &[u8] = b"@h:";

/// The record that field pairs are; `words` alternate names and values.
#[must_use]
pub fn to_record(words: &[Blob]) -> Record {
    plain(words).unwrap_or_else(|| packed(words))
}

/// The field pairs of a record, names and values in turn.
#[must_use]
pub fn of_record(record: &Record) -> Vec<Blob> {
    let (headers, form) = match record.headers.split_last() {
        Some((mark, rest)) if mark.name.as_slice() == MARK.as_bytes() => (rest, mark.value.as_text()),
        _ => (&record.headers[..], None),
    };
    let text = record.value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
    if form == Some(PACKED)
        && let Some(words) = text.and_then(unpack)
    {
        return words;
    }
    let pairs = if form == Some(JSON) { text.and_then(read_object) } else { None };
    // A mark that does not fit its value is a header as any other.
    let headers = if pairs.is_some() { headers } else { &record.headers[..] };
    let mut words = Vec::with_capacity(headers.len() * 2 + 4);
    if let Some(key) = &record.key {
        words.extend([Blob::copy_from(KEY), key.clone()]);
    }
    for header in headers {
        words.extend([Blob::from([HEADER, &header.name[..]].concat()), header.value.clone()]);
    }
    match (pairs, &record.value) {
        (Some(pairs), _) => words.extend(pairs),
        (None, Some(value)) => words.extend([Blob::copy_from(VALUE), Blob::copy_from(value)]),
        (None, None) => {}
    }
    words
}

/// The form that other protocols read with ease; nothing when it would lose something.
fn plain(words: &[Blob]) -> Option<Record> {
    let mut record = Record::default();
    let mut object = String::new();
    let mut names: Vec<&Blob> = Vec::new();
    for pair in words.chunks_exact(2) {
        let (name, value) = (&pair[0], &pair[1]);
        let ended = record.value.is_some() || !names.is_empty();
        if name.as_slice() == KEY {
            if record.key.is_some() || !record.headers.is_empty() || ended {
                return None;
            }
            record.key = Some(value.clone());
        } else if let Some(header) = name.strip_prefix(HEADER) {
            if ended || header == MARK.as_bytes() {
                return None;
            }
            record.headers.push(Header { name: header.into(), value: value.clone() });
        } else if name.as_slice() == VALUE {
            if ended {
                return None;
            }
            record.value = Some(Bytes::copy_from_slice(value));
        } else {
            if record.value.is_some() {
                return None;
            }
            object.push(if names.is_empty() { '{' } else { ',' });
            quote(name.as_text()?, &mut object);
            object.push(':');
            match value.as_text() {
                Some(text) => quote(text, &mut object),
                None => {
                    object.push_str("{\"base64\":\"");
                    to_base64(value, &mut object);
                    object.push_str("\"}");
                }
            }
            names.push(name);
        }
    }
    if !names.is_empty() {
        names.sort_unstable();
        if names.windows(2).any(|two| two[0] == two[1]) {
            return None;
        }
        object.push('}');
        record.value = Some(Bytes::from(object));
        record.headers.push(Header { name: MARK.into(), value: JSON.into() });
    }
    Some(record)
}

fn packed(words: &[Blob]) -> Record {
    let mut out = Writer::default();
    for word in words {
        out.bytes(word);
    }
    let mut object = String::from("{\"@pairs\":\"");
    to_base64(&out.buffer, &mut object);
    object.push_str("\"}");
    // The first key is the record's, for those who go by keys.
    let key = words.chunks_exact(2).find(|pair| pair[0].as_slice() == KEY).map(|pair| pair[1].clone());
    Record {
        key,
        value: Some(Bytes::from(object)),
        headers: vec![Header { name: MARK.into(), value: PACKED.into() }],
    }
}

fn unpack(text: &str) -> Option<Vec<Blob>> {
    let bytes = Bytes::from(of_base64(text.strip_prefix("{\"@pairs\":\"")?.strip_suffix("\"}")?)?);
    let mut from = Reader::new(&bytes);
    let mut words = Vec::new();
    while from.left() > 0 {
        words.push(Blob::copy_from(from.bytes().ok()?));
    }
    (words.len() % 2 == 0).then_some(words)
}

fn quote(text: &str, out: &mut String) {
    out.reserve(text.len() + 2);
    out.push('"');
    let mut rest = text;
    while let Some(stop) = first_escaped(rest.as_bytes()) {
        out.push_str(&rest[..stop]);
        match rest.as_bytes()[stop] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => out.push_str(&format!("\\u{control:04x}")),
        }
        rest = &rest[stop + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

/// Where the first byte lies that JSON writes as an escape. Most text has none, so whole blocks are passed over without a branch for each byte.
fn first_escaped(bytes: &[u8]) -> Option<usize> {
    let escaped = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    let clean =
        bytes.chunks_exact(32).take_while(|block| !block.iter().fold(false, |any, byte| any | escaped(byte)));
    let start = 32 * clean.count();
    bytes[start..].iter().position(escaped).map(|at| start + at)
}

/// The pairs of an object as [`plain`] writes it; nothing for any other text.
fn read_object(text: &str) -> Option<Vec<Blob>> {
    let mut rest = text.strip_prefix('{')?;
    let mut words = Vec::new();
    loop {
        let (name, after) = read_string(rest)?;
        words.push(Blob::from(name));
        rest = after.strip_prefix(':')?;
        if let Some(coded) = rest.strip_prefix("{\"base64\":\"") {
            let (coded, after) = coded.split_once("\"}")?;
            words.push(Blob::from(of_base64(coded)?));
            rest = after;
        } else {
            let (value, after) = read_string(rest)?;
            words.push(Blob::from(value));
            rest = after;
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return (rest == "}").then_some(words),
        }
    }
}

fn read_string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('"')?;
    loop {
        let stop = rest.find(['"', '\\'])?;
        value.push_str(&rest[..stop]);
        let escaped = rest[stop..].starts_with('\\');
        rest = &rest[stop + 1..];
        if !escaped {
            return Some((value, rest));
        }
        let escape = rest.chars().next()?;
        rest = &rest[escape.len_utf8()..];
        value.push(match escape {
            '"' | '\\' => escape,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let code = u32::from_str_radix(rest.get(..4)?, 16).ok()?;
                rest = &rest[4..];
                char::from_u32(code)?
            }
            _ => return None,
        });
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_base64(bytes: &[u8], out: &mut String) {
    for group in bytes.chunks(3) {
        let mut bits = 0;
        for (place, byte) in group.iter().enumerate() {
            bits |= u32::from(*byte) << (16 - 8 * place);
        }
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit) & 63) as usize;
            out.push(if digit <= group.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
}

fn of_base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for (place, digit) in group.iter().enumerate() {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits |= u32::from(value) << (18 - 6 * place);
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(words: &[&str]) -> Vec<Blob> {
        words.iter().copied().map(Blob::from).collect()
    }

    #[test]
    fn key_value_and_headers_are_the_records_own() {
        let record = to_record(&words(&["@key", "k", "@h:a", "1", "@h:a", "2", "@value", "{\"x\":\"y\"}"]));
        assert_eq!(record.key, Some("k".into()));
        assert_eq!(record.value.as_deref(), Some(&b"{\"x\":\"y\"}"[..]));
        assert_eq!(record.headers.len(), 2);
        assert_eq!(of_record(&record)[7], "{\"x\":\"y\"}".into(), "a value that is JSON stays one value");
        let tombstone = to_record(&words(&["@key", "k"]));
        assert_eq!(tombstone.value, None);
    }

    #[test]
    fn other_pairs_are_a_json_object_in_their_order() {
        let record = to_record(&words(&["b", "1", "a", "x\"\\\n\u{1}é"]));
        assert_eq!(record.value.as_deref(), Some("{\"b\":\"1\",\"a\":\"x\\\"\\\\\\n\\u0001é\"}".as_bytes()));
        let binary = to_record(&[Blob::from("f"), Blob::from(&b"\xff\x00"[..])]);
        assert_eq!(binary.value.as_deref(), Some(&b"{\"f\":{\"base64\":\"/wA=\"}}"[..]));
    }

    #[test]
    fn an_escape_is_seen_wherever_it_lies() {
        for length in 0..100 {
            for at in 0..length {
                let mut text = "x".repeat(length);
                text.replace_range(at..=at, "\t");
                let record = to_record(&words(&["f", &text]));
                let wanted = format!("{{\"f\":\"{}\\t{}\"}}", "x".repeat(at), "x".repeat(length - at - 1));
                assert_eq!(record.value.as_deref(), Some(wanted.as_bytes()));
            }
        }
    }

    #[test]
    fn a_record_of_another_protocol_shows_its_value_and_a_false_mark() {
        let value = Some(Bytes::from_static(b"{\"a\":1}"));
        let record = Record { key: None, value: value.clone(), headers: vec![] };
        assert_eq!(of_record(&record), words(&["@value", "{\"a\":1}"]));
        let headers = vec![Header { name: MARK.into(), value: "json".into() }];
        let record = Record { key: None, value, headers };
        assert_eq!(of_record(&record), words(&["@h:@fields", "json", "@value", "{\"a\":1}"]));
    }

    fn word() -> impl Strategy<Value = Blob> {
        prop_oneof![
            3 => proptest::sample::select(vec!["@key", "@value", "@h:x", "@h:", "@h:@fields", "json", "packed", "a", "b", "", "{}", "@pairs"])
                .prop_map(Blob::from),
            1 => proptest::collection::vec(any::<u8>(), 0..9).prop_map(Blob::from),
            1 => "\\PC{0,6}".prop_map(Blob::from),
        ]
    }

    proptest! {
        #[test]
        fn pairs_come_back_byte_for_byte_and_in_order(words in proptest::collection::vec((word(), word()), 1..6)) {
            let words: Vec<Blob> = words.into_iter().flat_map(|(name, value)| [name, value]).collect();
            let payload = quorate_types::record::encode(&[to_record(&words)]);
            let back = quorate_types::record::nth(&payload.bytes, 0).unwrap();
            prop_assert_eq!(of_record(&back), words);
        }

        #[test]
        fn any_value_can_be_shown(text in "\\PC{0,30}", form in proptest::sample::select(vec!["json", "packed", "x"])) {
            let headers = vec![Header { name: MARK.into(), value: form.into() }];
            let words = of_record(&Record { key: None, value: Some(Bytes::from(text)), headers });
            prop_assert!(words.len().is_multiple_of(2));
        }
    }
}
