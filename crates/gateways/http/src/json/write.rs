//! Writes JSON text directly, members in the order given, so that stored JSON is answered as it was written.
//!
//! Invariant: what comes out is valid JSON of one line (no raw control characters), so it fits an SSE `data:` field.
//! Called by: `json::answer`, `error` and the handlers.

use super::read::compact;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

/// How byte strings are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Values {
    /// JSON objects and lists as JSON, other UTF-8 as text, the rest as base64.
    #[default]
    Auto,
    /// Always base64 (`?values=base64`).
    Base64,
}

/// An object being written.
#[derive(Debug)]
pub struct Object {
    out: String,
}

impl Default for Object {
    fn default() -> Self {
        Self { out: "{".into() }
    }
}

impl Object {
    /// An empty object.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn name(&mut self, name: &str) {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        quote(name, &mut self.out);
        self.out.push(':');
    }

    /// A number, `true` or `false`.
    #[must_use]
    pub fn plain(mut self, name: &str, value: impl Plain) -> Self {
        self.name(name);
        value.put(&mut self.out);
        self
    }

    /// A text.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        quote(value, &mut self.out);
        self
    }

    /// JSON that is written already.
    #[must_use]
    pub fn json(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.name(name);
        self.out.push_str(value.as_ref());
        self
    }

    /// A list of JSON that is written already.
    #[must_use]
    pub fn list(self, name: &str, values: impl IntoIterator<Item = String>) -> Self {
        self.json(name, list(values))
    }

    /// A value: `NAME` as text or JSON, or `NAME_base64`.
    #[must_use]
    pub fn value(mut self, name: &str, bytes: &[u8], values: Values) -> Self {
        match readable(bytes, values) {
            Some(text) if is_container(text) => {
                self.name(name);
                self.out.push_str(&compact(text));
                self
            }
            Some(text) => self.text(name, text),
            None => self.base64(name, bytes),
        }
    }

    /// A name: `NAME` as text, or `NAME_base64`.
    #[must_use]
    pub fn bytes(self, name: &str, bytes: &[u8], values: Values) -> Self {
        match readable(bytes, values) {
            Some(text) => self.text(name, text),
            None => self.base64(name, bytes),
        }
    }

    fn base64(self, name: &str, bytes: &[u8]) -> Self {
        self.text(&format!("{name}_base64"), &STANDARD.encode(bytes))
    }

    /// Whatever `more` adds, if `when` holds.
    #[must_use]
    pub fn when(self, when: bool, more: impl FnOnce(Self) -> Self) -> Self {
        if when { more(self) } else { self }
    }

    /// The object's text.
    #[must_use]
    pub fn done(mut self) -> String {
        self.out.push('}');
        self.out
    }
}

/// A value that JSON writes as Rust does.
pub trait Plain {
    /// Appends it.
    fn put(&self, out: &mut String);
}
macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Plain for $type {
            fn put(&self, out: &mut String) {
                out.push_str(&self.to_string());
            }
        }
    )*};
}
plain!(
    bool,
    i64,
    u16,
    u32,
    u64,
    usize,
    quorate_types::LogIndex,
    quorate_types::Revision,
    quorate_types::Version,
    quorate_types::LeaseId,
    quorate_types::Offset,
    quorate_types::FencingToken,
    quorate_types::Millis
);

/// A list of JSON that is written already.
#[must_use]
pub fn list(values: impl IntoIterator<Item = String>) -> String {
    let mut out = String::from("[");
    for value in values {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&value);
    }
    out.push(']');
    out
}

/// A text as a JSON value.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quote(text, &mut out);
    out
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // U+2028 and U+2029 end lines in old JavaScript; escaping them costs nothing.
            c if c < ' ' || c == '\u{2028}' || c == '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", c as u32))
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn readable(bytes: &[u8], values: Values) -> Option<&str> {
    match values {
        Values::Auto => std::str::from_utf8(bytes).ok(),
        Values::Base64 => None,
    }
}

fn is_container(text: &str) -> bool {
    text.starts_with(['{', '[']) && serde_json::from_str::<&RawValue>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_answered_as_json_text_or_base64() {
        let write = |bytes: &[u8]| Object::new().value("value", bytes, Values::Auto).done();
        assert_eq!(write(br#"{ "b": 1.0, "a": "x y" }"#), r#"{"value":{"b":1.0,"a":"x y"}}"#);
        assert_eq!(write(b"[1,\r\n2]"), r#"{"value":[1,2]}"#);
        assert_eq!(write(b"{oops"), r#"{"value":"{oops"}"#);
        assert_eq!(write(b"123"), r#"{"value":"123"}"#);
        assert_eq!(write(b""), r#"{"value":""}"#);
        assert_eq!(write(b"\xff"), r#"{"value_base64":"/w=="}"#);
        assert_eq!(Object::new().value("v", b"{}", Values::Base64).done(), r#"{"v_base64":"e30="}"#);
        assert_eq!(Object::new().bytes("key", b"{}", Values::Auto).done(), r#"{"key":"{}"}"#);
    }

    #[test]
    fn any_text_is_read_back_as_written_and_stays_on_one_line() {
        let text: String = (0..0x3000).filter_map(char::from_u32).chain(['😀']).collect();
        let json = quoted(&text);
        assert!(!json.contains(['\n', '\r']));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn members_stand_in_the_order_given() {
        let json = Object::new()
            .plain("z", 1u64)
            .plain("a", true)
            .list("l", ["1".to_string(), quoted("x")])
            .when(false, |o| o.text("no", "no"))
            .done();
        assert_eq!(json, r#"{"z":1,"a":true,"l":[1,"x"]}"#);
        assert_eq!(Object::new().done(), "{}");
    }
}
