//! Server-sent events (WHATWG HTML §9.2), one at a time as the client reads them.
//!
//! Invariant: nothing is buffered ahead of a slow client: the next events are looked for when the last were sent.
//! Invariant: a stream ends when the server stops or the client leaves; no task outlives it.
//! Called by: the handlers of watch, observe, tail and services.

use crate::call::{Answer, Call, Gateway};
use crate::reply::{Body, name, reply_as, with_header};
use bytes::Bytes;
use hyper::header::CACHE_CONTROL;
use quorate_machine::Machine;
use quorate_runtime::{Interest, RuntimeError};
use std::future::Future;
use std::time::Duration;

/// Where events come from.
pub(crate) trait Source: Send + 'static {
    /// Waits for the next events; nothing when it is over. Must come back within the silence that clients are promised.
    fn next(&mut self, gateway: &Gateway) -> impl Future<Output = Option<Vec<Event>>> + Send;
}

/// One event, or a comment as a sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    id: Option<String>,
    name: Option<&'static str>,
    data: String,
}

impl Event {
    /// An event with a name and one line of JSON.
    pub(crate) fn named(name: &'static str, data: String) -> Self {
        debug_assert!(!data.contains(['\n', '\r']), "JSON is written on one line");
        Self { id: None, name: Some(name), data }
    }

    /// A comment that keeps the connection open.
    pub(crate) fn comment() -> Self {
        Self::default()
    }

    /// The same, with what the client sends back as `Last-Event-ID`.
    pub(crate) fn id(mut self, id: String) -> Self {
        self.id = Some(id);
        self
    }

    /// As it is sent.
    pub(crate) fn text(&self) -> String {
        let Some(name) = self.name else { return ":\n\n".into() };
        let id = self.id.as_ref().map(|id| format!("id: {id}\n")).unwrap_or_default();
        format!("{id}event: {name}\ndata: {}\n\n", self.data)
    }
}

/// How long to let a node be that has no leader, or opens its folder anew.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks at the state now and after each change, as [`quorate_runtime::Handle::wait`] does. A change of leader, and a node that opens its
/// folder anew, pass unnoticed: the wait goes on afterwards. Nothing when the time is over first.
///
/// # Errors
/// [`RuntimeError`] when the node stops.
pub(crate) async fn wait<R>(
    gateway: &Gateway,
    interest: Interest,
    timeout: Duration,
    mut look: impl FnMut(&Machine) -> Option<R>,
) -> Result<Option<R>, RuntimeError> {
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let once = gateway.handle.wait(interest.clone(), left, &mut look);
        match tokio::time::timeout_at(deadline + PAUSE, once).await {
            Ok(Err(RuntimeError::NoLeader { .. } | RuntimeError::Restarting)) => {
                if left.is_zero() {
                    return Ok(None);
                }
                tokio::time::sleep(PAUSE.min(left)).await;
            }
            Ok(found) => return found,
            // The read that begins a wait was not confirmed in all that time.
            Err(_) => return Ok(None),
        }
    }
}

/// The answer that streams a source's events.
///
/// # Errors
/// The request does not say what it needs.
pub(crate) fn respond(call: &Call, source: impl Source) -> Answer {
    let begin = (call.gateway.clone(), source, call.permit.clone(), false);
    let events = futures_util::stream::unfold(begin, |(gateway, mut source, permit, over)| async move {
        if over {
            return None;
        }
        let mut events = tokio::select! {
            biased;
            () = gateway.stopped() => None,
            events = source.next(&gateway) => events,
        }?;
        // What a user may see is asked for again whenever there is something to see: a right that was taken away ends the stream.
        let over = match permit.check_now(&gateway) {
            Ok(()) => false,
            Err(problem) => {
                events = vec![Event::named("error", problem.body())];
                true
            }
        };
        let text: String = events.iter().map(Event::text).collect();
        Some((Bytes::from(text), (gateway, source, permit, over)))
    });
    let response = reply_as(200, "text/event-stream", Body::Streamed(Box::pin(events)));
    // A proxy that collects the answer would hold events back.
    Ok(with_header(with_header(response, CACHE_CONTROL, "no-store"), name::X_ACCEL_BUFFERING, "no"))
}
