//! Reads JSON strictly: every member must be known, of its type and there once; an error names the place.
//!
//! Text is read one level at a time and values stay as they were written, so that a stored JSON value keeps its
//! numbers and the order of its members.
//!
//! Invariant: any bytes give a value or a [`JsonError`], never a panic, and memory is bounded by the body's size.
//! Called by: `json::request` and the handlers. Read [`Fields`] first.

use super::units;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quorate_types::{Blob, Key, Keyspace, Millis, WallTime};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Why a body was not understood. Nothing was sent on: it did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON.
    #[error("the body is not JSON: {why}")]
    Syntax {
        /// What the parser says, with line and column.
        why: String,
    },
    /// It is JSON, but not what is wanted there.
    #[error("{path}: {why}")]
    Field {
        /// Where, as `then[0].put.key`; `body` is the outermost value.
        path: String,
        /// What was found, what was wanted.
        why: String,
    },
}

/// A result of reading.
pub type Read<T> = Result<T, JsonError>;

/// Where a value stands, from the outermost inwards. Only rendered for an error.
#[derive(Clone, Copy)]
enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("body"),
            Self::Field(Path::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A JSON value that has not been looked into yet, and where it stands.
#[derive(Clone, Copy)]
pub struct Node<'a, 'p> {
    text: &'a str,
    path: Path<'p>,
}

/// Reads `body` as one JSON value.
///
/// # Errors
/// [`JsonError`] from the syntax or from `read`.
pub fn parse<T>(body: &[u8], read: impl FnOnce(Node<'_, '_>) -> Read<T>) -> Read<T> {
    let raw: &RawValue =
        serde_json::from_slice(body).map_err(|error| JsonError::Syntax { why: error.to_string() })?;
    read(Node { text: raw.get(), path: Path::Root })
}

impl<'a> Node<'a, '_> {
    /// An error at this place.
    pub fn error(&self, why: impl Into<String>) -> JsonError {
        JsonError::Field { path: self.path.to_string(), why: why.into() }
    }

    fn wrong(&self, wanted: &str) -> JsonError {
        self.error(format!("wanted {wanted}, found {}", self.kind()))
    }

    fn kind(&self) -> String {
        match self.text.as_bytes().first() {
            Some(b'{') => "an object".into(),
            Some(b'[') => "a list".into(),
            Some(b'"') => format!("the text {}", shortened(self.text)),
            _ => shortened(self.text),
        }
    }

    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.text == "null"
    }

    /// Whether it is an object.
    #[must_use]
    pub fn is_object(&self) -> bool {
        self.text.starts_with('{')
    }

    /// Whether it is a text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.text.starts_with('"')
    }

    /// A text.
    ///
    /// # Errors
    /// It is something else.
    pub fn text(&self) -> Read<String> {
        if !self.is_text() {
            return Err(self.wrong("a text"));
        }
        serde_json::from_str(self.text).map_err(|error| self.error(error.to_string()))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// It is something else.
    pub fn boolean(&self) -> Read<bool> {
        match self.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.wrong("true or false")),
        }
    }

    /// A whole number of a type's range; fractions and exponents are refused, not rounded.
    ///
    /// # Errors
    /// It is something else, or out of range.
    pub fn number<T: std::str::FromStr>(&self) -> Read<T> {
        self.text.parse().map_err(|_| {
            let name = std::any::type_name::<T>();
            let sign = if name.starts_with('i') { "" } else { "0 or more, " };
            let bits = name.trim_start_matches(['i', 'u']);
            self.wrong(&format!("a whole number ({sign}at most {bits} bits)"))
        })
    }

    /// A duration: a whole number of milliseconds, or a text such as `"1h30m"`, `"90s"`, `"250ms"`.
    ///
    /// # Errors
    /// It is something else.
    pub fn duration(&self) -> Read<Millis> {
        if self.is_text() {
            units::duration(&self.text()?).map_err(|why| self.error(why))
        } else {
            self.number().map(Millis)
        }
    }

    /// A wall time: whole milliseconds since 1970, or an RFC 3339 text.
    ///
    /// # Errors
    /// It is something else.
    pub fn time(&self) -> Read<WallTime> {
        if self.is_text() {
            units::time(&self.text()?).map_err(|why| self.error(why))
        } else {
            self.number().map(WallTime)
        }
    }

    /// The bytes of a value: those of a text, or the compact form of any other JSON.
    ///
    /// # Errors
    /// A text with a lone surrogate has no bytes.
    pub fn value(&self) -> Read<Blob> {
        if self.is_text() { self.text().map(Blob::from) } else { Ok(compact(self.text).into()) }
    }

    /// The bytes of a base64 text (RFC 4648 §4).
    ///
    /// # Errors
    /// It is not base64.
    pub fn base64(&self) -> Read<Blob> {
        let text = self.text()?;
        STANDARD
            .decode(&text)
            .map(Blob::from)
            .map_err(|error| self.error(format!("not base64 (RFC 4648 §4, with padding): {error}")))
    }

    /// Reads each element of a list.
    ///
    /// # Errors
    /// It is no list, or `read` fails.
    pub fn list<T>(&self, mut read: impl FnMut(Node<'a, '_>) -> Read<T>) -> Read<Vec<T>> {
        if !self.text.starts_with('[') {
            return Err(self.wrong("a list"));
        }
        let Elements(elements) =
            serde_json::from_str(self.text).map_err(|error| self.error(error.to_string()))?;
        let mut values = Vec::with_capacity(elements.len());
        for (index, element) in elements.into_iter().enumerate() {
            values.push(read(Node { text: element.get(), path: Path::Index(&self.path, index) })?);
        }
        Ok(values)
    }

    /// Reads an object with one member, whose name says what the content is: `{"put": …}`.
    ///
    /// # Errors
    /// It is no such object, or `read` fails.
    pub fn tagged<T>(&self, what: &str, read: impl FnOnce(&str, Node<'a, '_>) -> Read<T>) -> Read<T> {
        let members = self.members()?;
        let [(name, value)] = members.as_slice() else {
            let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
            return Err(self.error(format!(
                "wanted an object with one member that names the {what}, found {} ({})",
                members.len(),
                names.join(", ")
            )));
        };
        read(name, Node { text: value.get(), path: Path::Field(&self.path, name) })
    }

    /// Reads an object's members through [`Fields`]; what `read` does not ask for is refused.
    ///
    /// # Errors
    /// It is no object, has an unknown or doubled member, or `read` fails.
    pub fn object<T>(&self, read: impl FnOnce(&mut Fields<'a, '_>) -> Read<T>) -> Read<T> {
        let members = self.members()?;
        let taken = vec![false; members.len()];
        let mut fields = Fields { path: self.path, members, taken, known: Vec::new() };
        let value = read(&mut fields)?;
        fields.finish()?;
        Ok(value)
    }

    /// Every member of an object whose names are free.
    ///
    /// # Errors
    /// It is no object, or `read` fails.
    pub fn pairs<T>(&self, mut read: impl FnMut(&str, Node<'a, '_>) -> Read<T>) -> Read<Vec<T>> {
        let members = self.members()?;
        let mut values = Vec::with_capacity(members.len());
        for (name, value) in &members {
            values.push(read(name, Node { text: value.get(), path: Path::Field(&self.path, name) })?);
        }
        Ok(values)
    }

    fn members(&self) -> Read<Vec<(String, &'a RawValue)>> {
        if !self.is_object() {
            return Err(self.wrong("an object"));
        }
        let Members(members) =
            serde_json::from_str(self.text).map_err(|error| self.error(error.to_string()))?;
        // Quadratic only for objects of a few members; larger ones are sorted.
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(self.error(format!("has the member \"{}\" twice", pair[0])));
        }
        Ok(members)
    }
}

/// The members of one object, asked for by name.
pub struct Fields<'a, 'p> {
    path: Path<'p>,
    members: Vec<(String, &'a RawValue)>,
    taken: Vec<bool>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a, '_> {
    /// An error about the object as a whole.
    pub fn error(&self, why: impl Into<String>) -> JsonError {
        JsonError::Field { path: self.path.to_string(), why: why.into() }
    }

    /// A member that may be absent or `null`.
    ///
    /// # Errors
    /// `read` fails.
    pub fn maybe<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Node<'a, '_>) -> Read<T>,
    ) -> Read<Option<T>> {
        match self.raw(name) {
            Some(text) if text != "null" => {
                read(Node { text, path: Path::Field(&self.path, name) }).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// A member that must be there.
    ///
    /// # Errors
    /// It is not, or `read` fails.
    pub fn need<T>(&mut self, name: &'static str, read: impl FnOnce(Node<'a, '_>) -> Read<T>) -> Read<T> {
        match self.raw(name) {
            Some(text) => read(Node { text, path: Path::Field(&self.path, name) }),
            None => Err(self.missing(name)),
        }
    }

    /// A whole number, or `default`.
    ///
    /// # Errors
    /// It is something else.
    pub fn number_or<T: std::str::FromStr>(&mut self, name: &'static str, default: T) -> Read<T> {
        Ok(self.maybe(name, |node| node.number())?.unwrap_or(default))
    }

    /// `true` or `false`, or `false` when absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&mut self, name: &'static str) -> Read<bool> {
        Ok(self.maybe(name, |node| node.boolean())?.unwrap_or(false))
    }

    /// A value under `name` (text, or any JSON) or under its base64 twin; absent when neither is there.
    ///
    /// # Errors
    /// Both are there, or one cannot be read.
    pub fn value(&mut self, name: &'static str, base64: &'static str) -> Read<Option<Blob>> {
        self.twin(name, base64, |node| node.value())
    }

    /// As [`Self::value`], but it must be there.
    ///
    /// # Errors
    /// Neither is there, both are, or one cannot be read.
    pub fn need_value(&mut self, name: &'static str, base64: &'static str) -> Read<Blob> {
        self.value(name, base64)?.ok_or_else(|| self.missing(&format!("{name} or {base64}")))
    }

    /// A name under `name` (a text) or its base64 twin; absent when neither is there.
    ///
    /// # Errors
    /// Both are there, or one cannot be read.
    pub fn name(&mut self, name: &'static str, base64: &'static str) -> Read<Option<Blob>> {
        self.twin(name, base64, |node| node.text().map(Blob::from))
    }

    /// As [`Self::name`], but it must be there.
    ///
    /// # Errors
    /// Neither is there, both are, or one cannot be read.
    pub fn need_name(&mut self, name: &'static str, base64: &'static str) -> Read<Blob> {
        self.name(name, base64)?.ok_or_else(|| self.missing(&format!("{name} or {base64}")))
    }

    /// The object's `keyspace`; the default one when absent.
    ///
    /// # Errors
    /// It is no small number.
    pub fn keyspace(&mut self) -> Read<Keyspace> {
        self.number_or("keyspace", 0).map(Keyspace)
    }

    /// A key: `key` or `key_base64`, and `keyspace`.
    ///
    /// # Errors
    /// Absent, doubled or unreadable.
    pub fn key(&mut self) -> Read<Key> {
        Ok(Key { space: self.keyspace()?, name: self.need_name("key", "key_base64")? })
    }

    /// A stream: `stream` or `stream_base64`, and `keyspace`.
    ///
    /// # Errors
    /// Absent, doubled or unreadable.
    pub fn stream(&mut self) -> Read<Key> {
        Ok(Key { space: self.keyspace()?, name: self.need_name("stream", "stream_base64")? })
    }

    fn twin(
        &mut self,
        name: &'static str,
        base64: &'static str,
        read: impl FnOnce(Node<'a, '_>) -> Read<Blob>,
    ) -> Read<Option<Blob>> {
        match (self.raw(name), self.raw(base64)) {
            (Some(_), Some(_)) => Err(self.error(format!("has both {name} and {base64}: send one of them"))),
            (Some(text), None) => read(Node { text, path: Path::Field(&self.path, name) }).map(Some),
            (None, Some(text)) => Node { text, path: Path::Field(&self.path, base64) }.base64().map(Some),
            (None, None) => Ok(None),
        }
    }

    fn raw(&mut self, name: &'static str) -> Option<&'a str> {
        self.known.push(name);
        let at = self.members.iter().position(|(found, _)| found == name)?;
        self.taken[at] = true;
        Some(self.members[at].1.get())
    }

    fn missing(&self, name: &str) -> JsonError {
        self.error(format!("the member {name} is missing"))
    }

    fn finish(self) -> Read<()> {
        match self.taken.iter().position(|taken| !taken) {
            None => Ok(()),
            Some(at) => Err(JsonError::Field {
                path: self.path.to_string(),
                why: format!(
                    "has the unknown member \"{}\"; known here: {}",
                    self.members[at].0,
                    self.known.join(", ")
                ),
            }),
        }
    }
}

/// The text of a JSON value without the spaces between its parts.
#[must_use]
pub fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut quoted, mut escaped) = (false, false);
    for c in json.chars() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c == '"' {
            quoted = true;
        } else if c.is_ascii_whitespace() {
            continue;
        }
        out.push(c);
    }
    out
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> serde::Deserialize<'a> for Members<'a> {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'a> Visitor<'a> for Visit {
            type Value = Members<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Members<'a>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Visit)
    }
}

struct Elements<'a>(Vec<&'a RawValue>);

impl<'a> serde::Deserialize<'a> for Elements<'a> {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'a> Visitor<'a> for Visit {
            type Value = Elements<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Elements<'a>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }
        from.deserialize_seq(Visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_its_numbers_and_order_and_loses_only_spaces() {
        let body = br#" { "b" : 1.10, "a" : [ 1e400 , "x \" y\\" ], "n": 123456789012345678901234567890 } "#;
        let value = parse(body, |node| node.value()).unwrap();
        assert_eq!(
            value.as_text().unwrap(),
            r#"{"b":1.10,"a":[1e400,"x \" y\\"],"n":123456789012345678901234567890}"#
        );
    }

    #[test]
    fn an_error_names_the_place_what_was_found_and_what_was_wanted() {
        let read = |body: &str| {
            parse(body.as_bytes(), |node| {
                node.object(|fields| {
                    fields.need("list", |node| node.list(|node| node.object(|f| f.number_or::<u8>("n", 7))))
                })
            })
            .map_err(|error| error.to_string())
        };
        assert_eq!(read(r#"{"list":[{"n":1},{}]}"#), Ok(vec![1, 7]));
        assert_eq!(
            read(r#"{"list":[{"n":1},{"n":"x"}]}"#),
            Err(r#"list[1].n: wanted a whole number (0 or more, at most 8 bits), found the text "x""#.into())
        );
        assert!(read(r#"{"list":[{"n":256}]}"#).unwrap_err().starts_with("list[0].n: wanted a whole number"));
        assert!(read(r#"{"list":[{"n":1.0}]}"#).unwrap_err().ends_with("found 1.0"));
        assert_eq!(read(r#"{"list":{}}"#), Err("list: wanted a list, found an object".into()));
        assert_eq!(read("{}"), Err("body: the member list is missing".into()));
        assert_eq!(
            read(r#"{"list":[],"lost":1}"#),
            Err(r#"body: has the unknown member "lost"; known here: list"#.into())
        );
        assert_eq!(read(r#"{"list":[],"list":[]}"#), Err(r#"body: has the member "list" twice"#.into()));
        assert!(read("{").unwrap_err().starts_with("the body is not JSON: EOF"));
        assert!(read("").unwrap_err().starts_with("the body is not JSON: EOF"));
    }

    #[test]
    fn exactly_one_of_a_value_and_its_base64_is_taken() {
        let read = |body: &str| {
            parse(body.as_bytes(), |node| node.object(|f| f.need_value("value", "value_base64")))
                .map_err(|error| error.to_string())
        };
        assert_eq!(read(r#"{"value":"a\u00e9"}"#), Ok("aé".into()));
        assert_eq!(read(r#"{"value":null}"#), Ok("null".into()));
        assert_eq!(read(r#"{"value_base64":"/wA="}"#), Ok(Blob::from(&[0xff, 0][..])));
        assert!(read(r#"{"value_base64":"*"}"#).unwrap_err().starts_with("value_base64: not base64"));
        assert!(read(r#"{"value":1,"value_base64":""}"#).unwrap_err().contains("both"));
        assert!(read("{}").unwrap_err().contains("value or value_base64 is missing"));
    }

    #[test]
    fn bytes_that_are_not_utf_8_and_deep_nesting_are_errors_or_values_never_panics() {
        assert!(parse(b"{\"a\":\"\xff\"}", |node| node.value()).is_err());
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(parse(deep.as_bytes(), |node| node.value()).map(|v| v.len()), Ok(200_000));
        assert!(parse(b"\"\\ud800\"", |node| node.value()).is_err());
    }
}
