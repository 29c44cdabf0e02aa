//! Keys as resources, ranges of keys, and watching them.
//!
//! A key's `ETag` is its mod revision, so `If-Match` is a guard and a lost update is a 412.

use crate::call::{Answer, Call};
use crate::error::{Place, Problem};
use crate::json::answer::key_value;
use crate::json::request;
use crate::json::write::{Object, Values};
use crate::reply::{Body, etag, name, reply, reply_as, with_commit, with_header};
use crate::sse::{self, Event, Source};
use hyper::Response;
use hyper::header::ETAG;
use quorate_machine::{Change, Changes};
use quorate_runtime::Interest;
use quorate_types::{
    Blob, Commit, Compare, Guard, Key, KeyField, KeyRange, KeyValue, LeaseId, Op, OpError, OpResult,
    RangeRead, Revision,
};
use serde_json::value::RawValue;
use std::time::Duration;

/// Reads a key, now or at a revision.
pub(crate) async fn get(call: Call) -> Answer {
    let key = call.key("key")?;
    let at: Option<u64> = call.query_number("at")?;
    let wanted = key.clone();
    let (revision, found) = call
        .read(move |machine| {
            let found = match at {
                Some(at) => machine.get_at(&wanted, Revision(at)),
                None => machine.get_plain(&wanted),
            };
            (machine.revision(), found)
        })
        .await?;
    let Some(found) = found.map_err(|error| Problem::of_read(&error))? else {
        return Err(Problem::not_found("key_missing", format!("key {key} does not exist"))
            .header("quorate-revision", revision.to_string()));
    };
    let tag = etag(found.mod_revision);
    if call
        .header("if-none-match")?
        .is_some_and(|text| text == "*" || text.split(',').any(|named| named.trim() == tag))
    {
        return Ok(with_key(reply_as(304, media(&found.value), Body::empty()), &found, revision));
    }
    let body = bytes::Bytes::copy_from_slice(&found.value);
    Ok(with_key(reply_as(200, media(&found.value), body), &found, revision))
}

fn with_key(response: Response<Body>, found: &KeyValue, revision: Revision) -> Response<Body> {
    let response = with_header(response, ETAG, etag(found.mod_revision));
    let response = with_header(response, name::REVISION, revision);
    let response = with_header(response, name::MOD_REVISION, found.mod_revision);
    let response = with_header(response, name::CREATE_REVISION, found.create_revision);
    let response = with_header(response, name::VERSION, found.version);
    if found.lease.0 == 0 { response } else { with_header(response, name::LEASE, found.lease) }
}

fn media(value: &[u8]) -> &'static str {
    match std::str::from_utf8(value) {
        Ok(text) if text.starts_with(['{', '[']) && serde_json::from_str::<&RawValue>(text).is_ok() => {
            "application/json"
        }
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    }
}

/// Writes a key: the body is its value.
pub(crate) async fn put(call: Call) -> Answer {
    let key = call.key("key")?;
    let lease = LeaseId(call.query_number("lease")?.unwrap_or(0));
    let guards = preconditions(&call, &key)?;
    let value = Blob::from(call.body.clone());
    let commit =
        Commit { guards, then: vec![Op::Put { key, value, lease, prev: false }], ..Commit::default() };
    let committed = call.commit(commit, Place::Precondition).await?;
    let body = Object::new().plain("revision", committed.revision).done();
    let response = with_header(reply(200, body), ETAG, etag(committed.revision));
    Ok(with_commit(response, &committed))
}

/// Deletes a key.
pub(crate) async fn delete(call: Call) -> Answer {
    let key = call.key("key")?;
    let guards = preconditions(&call, &key)?;
    let commit = Commit { guards, then: vec![Op::Delete { key, prev: false }], ..Commit::default() };
    let committed = call.commit(commit, Place::Precondition).await?;
    let deleted = match committed.results.first() {
        Some(OpResult::Deleted { count, .. }) => *count,
        _ => 0,
    };
    let body = Object::new().plain("revision", committed.revision).plain("deleted", deleted).done();
    Ok(with_commit(reply(200, body), &committed))
}

/// `If-Match` and `If-None-Match` (RFC 9110 §13.1) as guards.
fn preconditions(call: &Call, key: &Key) -> Result<Vec<Guard>, Problem> {
    let mut guards = Vec::new();
    for (header, any, one) in [
        ("if-match", Compare::NotEqual, Compare::Equal),
        ("if-none-match", Compare::Equal, Compare::NotEqual),
    ] {
        let Some(text) = call.header(header)? else { continue };
        let (field, compare, wanted) = match text.trim() {
            "*" => (KeyField::Version, any, 0),
            tag => (KeyField::ModRevision, one, revision_of(header, tag)?),
        };
        guards.push(Guard::Key { key: key.clone(), field, compare, wanted });
    }
    Ok(guards)
}

fn revision_of(header: &str, text: &str) -> Result<u64, Problem> {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        Problem::bad_request(format!("{header} is {text}, wanted one ETag as it was given (\"1078\") or *"))
    })
}

/// Reads a range of keys.
pub(crate) async fn range(call: Call) -> Answer {
    let most = call.gateway.config.range_keys_max;
    let read = RangeRead {
        range: query_range(&call)?,
        limit: call.query_number("limit")?.unwrap_or(most).clamp(1, most),
        keys_only: call.query_flag("keys_only")?,
        count_only: call.query_flag("count_only")?,
        sort: call.query_as("sort", request::sort)?.unwrap_or_default(),
        order: call.query_as("order", request::order)?.unwrap_or_default(),
        at: call.query_number("at")?.map(Revision),
    };
    let (at, keys_only, by_key) =
        (read.at, read.keys_only, read.sort == Default::default() && read.order == Default::default());
    let (revision, found) = call.read(move |machine| (machine.revision(), machine.range(&read))).await?;
    let found = found.map_err(|error| Problem::of_read(&error))?;
    let mut body = Object::new()
        .plain("revision", at.unwrap_or(revision))
        .list(
            "keys",
            found
                .keys
                .iter()
                .map(|key| if keys_only { bare_key(key, call.values) } else { key_value(key, call.values) }),
        )
        .plain("count", found.count)
        .plain("more", found.more);
    if let (true, true, Some(last)) = (found.more, by_key, found.keys.last()) {
        // The next page begins right after the last key: pass it as `from`, and the revision as `at`.
        let mut next = last.key.name.to_vec();
        next.push(0);
        body = body.bytes("next", &next, call.values);
    }
    Ok(with_header(reply(200, body.done()), name::REVISION, revision))
}

fn bare_key(found: &KeyValue, values: Values) -> String {
    Object::new()
        .bytes("key", &found.key.name, values)
        .plain("version", found.version)
        .plain("create_revision", found.create_revision)
        .plain("mod_revision", found.mod_revision)
        .when(found.lease.0 != 0, |o| o.plain("lease", found.lease))
        .done()
}

/// The range that the query names: `key`, `prefix`, or `from` and `to`; each may be given as base64.
pub(crate) fn query_range(call: &Call) -> Result<KeyRange, Problem> {
    let space = call.keyspace()?;
    let name = |plain: &'static str, base64: &'static str| -> Result<Option<Blob>, Problem> {
        match (call.query(plain), call.query_text(base64)?) {
            (Some(_), Some(_)) => Err(Problem::bad_request(format!("send {plain} or {base64}, not both"))),
            (Some(name), None) => Ok(Some(name.clone())),
            (None, Some(text)) => {
                use base64::Engine;
                let engine = base64::engine::general_purpose::STANDARD;
                let bytes = engine.decode(text).map_err(|error| {
                    Problem::bad_request(format!(
                        "query parameter {base64} is not base64 (escape + as %2B): {error}"
                    ))
                })?;
                Ok(Some(bytes.into()))
            }
            (None, None) => Ok(None),
        }
    };
    let key = name("key", "key_base64")?;
    let prefix = name("prefix", "prefix_base64")?;
    let (from, to) = (name("from", "from_base64")?, name("to", "to_base64")?);
    match (key, prefix, from, to) {
        (Some(name), None, None, None) => Ok(KeyRange::single(Key { space, name })),
        // A page after the first of a prefix begins in its middle.
        (None, Some(prefix), from, None) => {
            let mut range = KeyRange::prefix(Key { space, name: prefix });
            if let Some(from) = from.filter(|from| *from > range.start.name) {
                range.start.name = from;
            }
            Ok(range)
        }
        (None, None, None, None) => Err(Problem::bad_request(
            "the range is missing: send key, prefix, or from and to (prefix= is every key)",
        )),
        (None, None, from, end) => Ok(KeyRange { start: Key { space, name: from.unwrap_or_default() }, end }),
        _ => Err(Problem::bad_request("send one range: key, or prefix, or from and to")),
    }
}

/// Watches keys from a revision on, as server-sent events.
pub(crate) async fn watch(call: Call) -> Answer {
    let range = query_range(&call)?;
    let since: Option<u64> = call.query_number("since")?;
    let resumed =
        match call.header("last-event-id")? {
            None => None,
            Some(text) => Some(text.trim().parse::<u64>().map_err(|_| {
                Problem::bad_request(format!("Last-Event-ID is \"{text}\", wanted a revision"))
            })?),
        };
    let now = call.read(|machine| machine.revision()).await?;
    // An event id is the last revision seen whole; a browser that reconnects sends it back.
    let next = resumed.map(|seen| Revision(seen).next()).or(since.map(Revision)).unwrap_or(now.next());
    let source = Watch {
        range,
        next,
        max: call.gateway.config.read_records_max,
        silence: call.gateway.config.sse_keepalive,
        values: call.values,
        state: State::Opening { revision: now },
    };
    sse::respond(&call, source)
}

struct Watch {
    range: KeyRange,
    next: Revision,
    max: usize,
    silence: Duration,
    values: Values,
    state: State,
}

enum State {
    Opening { revision: Revision },
    Open,
    Over,
}

impl Source for Watch {
    async fn next(&mut self, gateway: &crate::call::Gateway) -> Option<Vec<Event>> {
        match self.state {
            State::Over => return None,
            State::Opening { revision } => {
                self.state = State::Open;
                let data = Object::new().plain("revision", revision).plain("since", self.next).done();
                return Some(vec![Event::named("open", data)]);
            }
            State::Open => {}
        }
        let (range, from, max) = (self.range.clone(), self.next, self.max);
        let (seen, mut kept) = (std::sync::Arc::new(std::sync::Mutex::new(from)), from);
        let progress = seen.clone();
        let found = sse::wait(gateway, Interest::Keys(range.clone()), self.silence, move |machine| {
            // Nothing has happened yet at a future revision: wait until it has.
            let found = if from > machine.revision() {
                Ok(Changes { changes: vec![], next: from })
            } else {
                machine.changes(&range, from, max)
            };
            match found {
                Ok(changes) if changes.changes.is_empty() => {
                    *progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = changes.next;
                    None
                }
                found => Some(found),
            }
        })
        .await;
        match found {
            Ok(Some(Ok(changes))) => {
                self.next = changes.next;
                Some(change_events(&changes.changes, self.values))
            }
            Ok(Some(Err(error))) => {
                self.state = State::Over;
                Some(vec![lost(&error)])
            }
            Ok(None) => {
                kept = kept.max(*seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
                let moved = kept > self.next;
                self.next = kept;
                // Revisions that did not touch the range are done with too: a later resume starts after them.
                Some(vec![if moved { progress_event(kept) } else { Event::comment() }])
            }
            Err(error) => {
                self.state = State::Over;
                Some(vec![Event::named("error", Problem::from(error).body())])
            }
        }
    }
}

fn progress_event(next: Revision) -> Event {
    let seen = next.0.saturating_sub(1);
    Event::named("progress", Object::new().plain("revision", seen).done()).id(seen.to_string())
}

fn lost(error: &OpError) -> Event {
    let name = if matches!(error, OpError::Compacted { .. }) { "compacted" } else { "error" };
    Event::named(name, Problem::of_read(error).body())
}

/// One event for each change. Only the last of a revision carries its id: whoever is cut off in the middle of a
/// revision resumes before it and sees it whole.
fn change_events(changes: &[Change], values: Values) -> Vec<Event> {
    let mut events = Vec::with_capacity(changes.len());
    for (place, change) in changes.iter().enumerate() {
        let last = changes.get(place + 1).is_none_or(|next| next.revision != change.revision);
        let object = Object::new()
            .plain("revision", change.revision)
            .text("kind", if change.now.is_some() { "put" } else { "delete" })
            .bytes("key", &change.key.name, values);
        let object = change.now.iter().fold(object, |object, now| object.json("now", key_value(now, values)));
        let object =
            change.prev.iter().fold(object, |object, prev| object.json("prev", key_value(prev, values)));
        let event = Event::named("change", object.done());
        events.push(if last { event.id(change.revision.to_string()) } else { event });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_change_of_a_revision_carries_its_id() {
        let change = |revision, key: &str| Change {
            revision: Revision(revision),
            key: key.into(),
            now: None,
            prev: None,
        };
        let events = change_events(&[change(5, "a"), change(5, "b"), change(6, "a")], Values::Auto);
        let texts: Vec<String> = events.iter().map(Event::text).collect();
        assert_eq!(
            texts,
            [
                "event: change\ndata: {\"revision\":5,\"kind\":\"delete\",\"key\":\"a\"}\n\n",
                "id: 5\nevent: change\ndata: {\"revision\":5,\"kind\":\"delete\",\"key\":\"b\"}\n\n",
                "id: 6\nevent: change\ndata: {\"revision\":6,\"kind\":\"delete\",\"key\":\"a\"}\n\n",
            ]
        );
    }

    #[test]
    fn an_etag_is_a_quoted_revision() {
        assert_eq!(revision_of("if-match", "\"1078\""), Ok(1078));
        for bad in ["1078", "\"\"", "W/\"1\"", "\"1\", \"2\"", "\"x\""] {
            assert!(revision_of("if-match", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_media_type_is_what_the_bytes_are() {
        assert_eq!(media(b"{}"), "application/json");
        assert_eq!(media(b"{"), "text/plain; charset=utf-8");
        assert_eq!(media(b"\xff"), "application/octet-stream");
    }
}
