//! Watching keys: changes in order, resumed where a connection was cut.
//!
//! Invariant: every change from the first revision on is given at least once and in order; after a cut in the middle of
//! a revision its changes are given again, never skipped.
//! Called by: programs.

use crate::client::Client;
use crate::commit::bytes_of;
use crate::error::{ClientError, Problem};
use crate::transport::{Ask, encoded};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::Value;
use std::time::Duration;

/// Longest silence on a connection: the server sends a sign of life every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// A change of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The revision that made it.
    pub revision: u64,
    /// The key.
    pub key: Vec<u8>,
    /// Its value after the change; nothing when it was deleted.
    pub value: Option<Bytes>,
    /// The whole event, as the server writes it.
    pub event: Value,
}

/// Changes of keys with a prefix.
pub struct Watch {
    client: Client,
    prefix: String,
    since: Option<u64>,
    seen: Option<String>,
    body: Option<Incoming>,
    read: Vec<u8>,
}

impl Watch {
    pub(crate) fn new(client: Client, prefix: &[u8], since: Option<u64>) -> Self {
        Self { client, prefix: encoded(prefix, false), since, seen: None, body: None, read: Vec::new() }
    }

    /// Connects now, so that everything from here on is seen; the revision at which that was.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open(&mut self) -> Result<u64, ClientError> {
        self.connect().await?;
        loop {
            let Some(event) = self.event().await else {
                self.connect().await?;
                continue;
            };
            if event.name == "open" {
                self.since = self.since.or(event.data["since"].as_u64());
                return Ok(event.data["revision"].as_u64().unwrap_or(0));
            }
        }
    }

    /// The next change. A lost connection is made again, within the client's patience.
    ///
    /// # Errors
    /// [`ClientError::Problem`] with `compacted` when changes were forgotten before they were seen.
    pub async fn next(&mut self) -> Result<Change, ClientError> {
        loop {
            if self.body.is_none() {
                self.connect().await?;
            }
            let Some(event) = self.event().await else {
                self.body = None;
                continue;
            };
            if let Some(id) = &event.id {
                self.seen = Some(id.clone());
            }
            match event.name.as_str() {
                // Known from here on, even if nothing changes before the connection is cut.
                "open" if self.since.is_none() => self.since = event.data["since"].as_u64(),
                "change" => return self.change(event.data),
                "compacted" => return Err(self.problem(&event.data)),
                // The server stops, or its log failed: another try tells.
                "error" => self.body = None,
                _ => {}
            }
        }
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        self.read.clear();
        let since = self.since.map(|since| format!("&since={since}")).unwrap_or_default();
        let path = format!("/v1/watch?values=base64&prefix={}{since}", self.prefix);
        let mut ask = Ask::new(Method::GET, path).header("accept", "text/event-stream");
        if let Some(seen) = &self.seen {
            ask = ask.header("last-event-id", seen.clone());
        }
        self.body = Some(self.client.transport.open(&ask).await?);
        Ok(())
    }

    /// The next event; nothing when the connection is lost.
    async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n") {
                let text: Vec<u8> = self.read.drain(..end + 2).collect();
                match Event::read(&text) {
                    Some(event) => return Some(event),
                    None => continue, // A comment.
                }
            }
            let body = self.body.as_mut()?;
            let frame = tokio::time::timeout(SILENCE_MAX, body.frame()).await.ok()??.ok()?;
            self.read.extend_from_slice(frame.data_ref()?);
        }
    }

    fn change(&self, event: Value) -> Result<Change, ClientError> {
        let wrong = || ClientError::Unexpected { url: "the watch".into(), why: format!("a change: {event}") };
        let revision = event["revision"].as_u64().ok_or_else(wrong)?;
        let key = bytes_of(&event, "key").ok_or_else(wrong)?;
        let value = bytes_of(&event["now"], "value").map(Bytes::from);
        Ok(Change { revision, key, value, event })
    }

    fn problem(&self, data: &Value) -> ClientError {
        let status = data["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
        match Problem::read(status, data.to_string().as_bytes()) {
            Some(problem) => ClientError::Problem(Box::new(problem)),
            None => ClientError::Unexpected { url: "the watch".into(), why: data.to_string() },
        }
    }
}

struct Event {
    id: Option<String>,
    name: String,
    data: Value,
}

impl Event {
    /// Reads one event (WHATWG HTML §9.2.6); nothing for a comment.
    fn read(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let (mut id, mut name, mut data) = (None, String::new(), String::new());
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => id = Some(value.to_string()),
                "event" => name = value.to_string(),
                "data" => data.push_str(value),
                _ => {}
            }
        }
        (!name.is_empty()).then(|| Self {
            id,
            name,
            data: serde_json::from_str(&data).unwrap_or(Value::Null),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_and_a_comment_is_none() {
        let event = Event::read(b"id: 7\nevent: change\ndata: {\"a\":1}\n\n").unwrap();
        assert_eq!((event.id.as_deref(), event.name.as_str()), (Some("7"), "change"));
        assert_eq!(event.data, serde_json::json!({"a": 1}));
        assert!(Event::read(b":\n\n").is_none());
    }
}
