//! Builds the JSON of a commit. What has no method of its own is given as JSON, as `/openapi.json` describes it.
//!
//! Called by: programs, for [`crate::Client::commit`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Guards, then operations, all or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    guards: Vec<Value>,
    then: Vec<Value>,
    otherwise: Option<Vec<Value>>,
    each: bool,
    key: Option<String>,
}

impl Commit {
    /// An empty commit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the idempotency key; a random one is used otherwise.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The idempotency key, where one was named.
    #[must_use]
    pub fn named_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Any guard, as `{"version": {…}}`.
    #[must_use]
    pub fn guard(mut self, guard: Value) -> Self {
        self.guards.push(guard);
        self
    }

    /// The key does not exist.
    #[must_use]
    pub fn if_absent(self, key: impl AsRef<[u8]>) -> Self {
        let key = named("key", key.as_ref());
        self.guard(json!({ "absent": key }))
    }

    /// The key was written so often since its creation; 0 means that it does not exist.
    #[must_use]
    pub fn if_version(self, key: impl AsRef<[u8]>, version: u64) -> Self {
        let mut content = named("key", key.as_ref());
        content.insert("is".into(), version.into());
        self.guard(json!({ "version": content }))
    }

    /// The limit allows `cost` at `rate`, such as `"100/s"`.
    #[must_use]
    pub fn limit(self, name: &str, rate: &str, cost: u64) -> Self {
        self.guard(json!({"limit": {"name": name, "rate": rate, "cost": cost}}))
    }

    /// Any operation, as `{"put": {…}}`.
    #[must_use]
    pub fn op(mut self, op: Value) -> Self {
        self.then.push(op);
        self
    }

    /// Any operation for when a guard fails.
    #[must_use]
    pub fn or_else(mut self, op: Value) -> Self {
        self.otherwise.get_or_insert_default().push(op);
        self
    }

    /// An operation that fails is only its own result.
    #[must_use]
    pub fn each(mut self) -> Self {
        self.each = true;
        self
    }

    /// Writes a key.
    #[must_use]
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let mut content = named("key", key.as_ref());
        content.extend(named("value", value.as_ref()));
        self.op(json!({ "put": content }))
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        let key = named("key", key.as_ref());
        self.op(json!({ "delete": key }))
    }

    /// Adds to a decimal integer.
    #[must_use]
    pub fn increment(self, key: impl AsRef<[u8]>, by: i64) -> Self {
        let mut content = named("key", key.as_ref());
        content.insert("by".into(), by.into());
        self.op(json!({ "increment": content }))
    }

    /// Appends a record to a stream.
    #[must_use]
    pub fn append(self, stream: impl AsRef<[u8]>, key: Option<&str>, value: impl AsRef<[u8]>) -> Self {
        let mut content = named("stream", stream.as_ref());
        content.extend(named("value", value.as_ref()));
        if let Some(key) = key {
            content.insert("key".into(), key.into());
        }
        self.op(json!({ "append": content }))
    }

    /// The body of `POST /v1/commit`, without the idempotency key, which travels as a header.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({"guards": self.guards, "then": self.then});
        if let Some(otherwise) = &self.otherwise {
            body["else"] = json!(otherwise);
        }
        if self.each {
            body["mode"] = json!("each");
        }
        body
    }
}

/// A name or value under `name`, or as base64 where it is not UTF-8.
pub(crate) fn named(name: &str, bytes: &[u8]) -> Map<String, Value> {
    let (name, value) = match std::str::from_utf8(bytes) {
        Ok(text) => (name.to_string(), text.to_string()),
        Err(_) => (format!("{name}_base64"), STANDARD.encode(bytes)),
    };
    Map::from_iter([(name, Value::String(value))])
}

/// The bytes under `name` or its base64 twin.
pub(crate) fn bytes_of(object: &Value, name: &str) -> Option<Vec<u8>> {
    match &object[name] {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Null => STANDARD.decode(object[format!("{name}_base64")].as_str()?).ok(),
        json => Some(json.to_string().into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_written_as_the_server_reads_it() {
        let commit = Commit::new()
            .key("pay-1")
            .if_absent("k")
            .limit("api", "100/s", 1)
            .put("k", b"\xff")
            .append("s", Some("k"), "v")
            .or_else(json!({"get": {"key": "k"}}))
            .each();
        assert_eq!(commit.named_key(), Some("pay-1"));
        assert_eq!(
            commit.body(),
            json!({
                "guards": [{"absent": {"key": "k"}}, {"limit": {"name": "api", "rate": "100/s", "cost": 1}}],
                "then": [{"put": {"key": "k", "value_base64": "/w=="}},
                         {"append": {"stream": "s", "key": "k", "value": "v"}}],
                "else": [{"get": {"key": "k"}}],
                "mode": "each",
            })
        );
    }

    #[test]
    fn bytes_are_read_from_text_base64_or_json() {
        let object = json!({"a": "x", "b_base64": "/w==", "c": {"d": 1}});
        assert_eq!(bytes_of(&object, "a"), Some(b"x".to_vec()));
        assert_eq!(bytes_of(&object, "b"), Some(vec![0xff]));
        assert_eq!(bytes_of(&object, "c"), Some(br#"{"d":1}"#.to_vec()));
        assert_eq!(bytes_of(&object, "e"), None);
    }
}
