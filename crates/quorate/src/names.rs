//! Small readers of what people type: durations, names in URLs, values from the command line or stdin.
//!
//! Called by: the options of the commands.

use crate::failure::Failure;
use std::io::Read;
use std::time::Duration;

/// Reads `10s`, `1h30m`, `250ms`, or whole milliseconds, with the same rules as the server.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    quorate_http::json::units::duration(text).map(|millis| Duration::from_millis(millis.0))
}

/// Milliseconds of a duration, as the server takes them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A name as one segment of a path (RFC 3986 §2.3: only unreserved characters stand for themselves).
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(byte as char),
            // A lone dot would be taken for a step in the path by what stands between.
            b'.' if name.bytes().any(|other| other != b'.') => out.push('.'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// A path with its query; absent parameters are left out.
pub(crate) fn path(base: &str, query: &[(&str, Option<String>)]) -> String {
    let mut out = base.to_owned();
    let mut mark = '?';
    for (name, value) in query {
        if let Some(value) = value {
            out.push(mark);
            out.push_str(name);
            out.push('=');
            out.push_str(&segment(value));
            mark = '&';
        }
    }
    out
}

/// A value given on the command line; `-` reads stdin to its end.
pub(crate) fn value(given: &str) -> Result<Vec<u8>, Failure> {
    if given != "-" {
        return Ok(given.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| Failure::io("read stdin", &error))?;
    Ok(bytes)
}

/// A value as members of a JSON object: text as it is, other bytes as base64.
pub(crate) fn value_member(
    object: &mut serde_json::Map<String, serde_json::Value>,
    name: &str,
    bytes: Vec<u8>,
) {
    match String::from_utf8(bytes) {
        Ok(text) => object.insert(name.into(), text.into()),
        Err(error) => {
            use base64::Engine;
            let text = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            object.insert(format!("{name}_base64"), text.into())
        }
    };
}

/// An idempotency key that nobody else uses: 128 random bits.
pub(crate) fn fresh_key() -> Result<String, Failure> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(crate::failure::Exit::Failed, format!("the system gives no random bytes: {error}"), "")
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(segment("orders/42"), "orders%2F42");
        assert_eq!(segment("a.b-c_d~é?"), "a.b-c_d~%C3%A9%3F");
        assert_eq!(segment(".."), "%2E%2E");
    }

    #[test]
    fn absent_parameters_are_left_out() {
        assert_eq!(
            path("/v1/range", &[("at", None), ("prefix", Some("a b".into())), ("limit", Some("3".into()))]),
            "/v1/range?prefix=a%20b&limit=3"
        );
        assert_eq!(path("/v1/range", &[]), "/v1/range");
    }

    #[test]
    fn bytes_that_are_no_text_travel_as_base64() {
        let mut object = serde_json::Map::new();
        value_member(&mut object, "value", b"hi".to_vec());
        value_member(&mut object, "other", vec![0xff]);
        assert_eq!(serde_json::Value::Object(object).to_string(), r#"{"other_base64":"/w==","value":"hi"}"#);
    }
}
