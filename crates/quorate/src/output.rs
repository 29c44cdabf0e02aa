//! Results on stdout: one JSON value per line for programs, text for people.
//!
//! Invariant: stdout carries results only. A reader that went away ends the command quietly.
//! Called by: every command that prints a result.

use crate::failure::{Exit, Failure};
use serde_json::Value;
use std::io::{ErrorKind, IsTerminal, Write};

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// JSON when asked for, or when nobody at a terminal reads it, unless text was asked for.
    pub(crate) fn new(json: bool, human: bool) -> Self {
        Self { json: json || (!human && !std::io::stdout().is_terminal()) }
    }

    /// Whether JSON is printed.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints one result, in the form asked for.
    pub(crate) fn show(self, json: &Value, human: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.line(&json.to_string()) } else { self.line(&human()) }
    }

    /// Prints one line as it is.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        if text.ends_with('\n') { Ok(()) } else { self.bytes(b"\n") }
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Failure::new(Exit::Closed, "stdout was closed", ""),
            _ => Failure::io("write to stdout", &error),
        })
    }
}

/// A member that is text, JSON, or base64 of bytes (`NAME_base64`), as people read it.
pub(crate) fn shown(object: &Value, name: &str) -> String {
    match &object[name] {
        Value::Null => match object[format!("{name}_base64")].as_str() {
            Some(base64) => format!("base64:{base64}"),
            None => String::new(),
        },
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A whole number with its thousands apart: 69,659.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_member_is_text_json_or_base64() {
        assert_eq!(shown(&json!({"value": "a b"}), "value"), "a b");
        assert_eq!(shown(&json!({"value": {"a": 1}}), "value"), "{\"a\":1}");
        assert_eq!(shown(&json!({"value_base64": "/w=="}), "value"), "base64:/w==");
        assert_eq!(shown(&json!({}), "value"), "");
    }

    #[test]
    fn thousands_are_kept_apart() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (69_659, "69,659"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), text);
        }
    }
}
