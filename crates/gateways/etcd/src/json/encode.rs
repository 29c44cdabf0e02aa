//! From a message to JSON, as etcd's gateway writes it: names as in the protocol, nothing that has its zero value, numbers of 64 bits as strings,
//! bytes in base64, and what could end a script in a page (`<`, `>`, `&`) escaped, as Go does.
//!
//! Called by: `json`.

use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::ser::Formatter;
use std::io::{self, Write};

/// A message as JSON.
pub(super) fn text(message: &DynamicMessage) -> String {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut out = serde_json::Serializer::with_formatter(Vec::new(), Go);
    message
        .serialize_with_options(&mut out, &options)
        .expect("a vector takes everything, and every message of the protocol has its form in JSON");
    String::from_utf8(out.into_inner()).expect("JSON is written from strings")
}

/// A string as JSON.
pub(super) fn string(text: &str) -> String {
    let mut out = serde_json::Serializer::with_formatter(Vec::new(), Go);
    serde::Serialize::serialize(text, &mut out).expect("a vector takes everything");
    String::from_utf8(out.into_inner()).expect("JSON is written from strings")
}

struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let found = rest[at..].chars().next().expect("it was found there");
            write!(writer, "\\u{:04x}", u32::from(found))?;
            rest = &rest[at + found.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        assert_eq!(string("a<b>&\"c\"\u{2028}"), r#""a\u003cb\u003e\u0026\"c\"\u2028""#);
    }
}
