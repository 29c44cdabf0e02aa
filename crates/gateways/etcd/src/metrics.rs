//! How often each call was made, and how it ended: `grpc_server_started_total` and `grpc_server_handled_total`, as etcd counts them.
//!
//! Invariant: counting a call costs one look into a map and two additions, and no lock; a call that its client gave up counts as Canceled.
//! Called by: `serve`, around every call; `probe` shows it.

use crate::json::POOL;
use hyper::body::{Frame, SizeHint};
use std::collections::HashMap;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap};
use tonic::{Code, Status};

/// Names of gRPC's codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Counters of every call of the protocol, by its path.
pub(crate) struct Calls(HashMap<String, Arc<Row>>);

#[derive(Default)]
struct Row {
    labels: String,
    started: AtomicU64,
    ended: [AtomicU64; CODES.len()],
}

impl Calls {
    pub(crate) fn new() -> Self {
        let mut rows = HashMap::new();
        for service in POOL.services() {
            for method in service.methods() {
                let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
                    (false, false) => "unary",
                    (true, false) => "client_stream",
                    (false, true) => "server_stream",
                    (true, true) => "bidi_stream",
                };
                let (service, method) = (service.full_name(), method.name());
                let labels =
                    format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
                let row = Row { labels, ..Row::default() };
                rows.insert(format!("/{service}/{method}"), Arc::new(row));
            }
        }
        Self(rows)
    }

    /// Begins to count one call; whoever makes it hands its answer to [`Counting::told`].
    pub(crate) fn begin(&self, path: &str) -> Counting {
        let row = self.0.get(path).cloned();
        if let Some(row) = &row {
            row.started.fetch_add(1, Ordering::Relaxed);
        }
        Counting(row)
    }

    /// The counters as text, those that are not zero.
    pub(crate) fn text(&self) -> String {
        let mut rows: Vec<&Row> = self.0.values().map(Arc::as_ref).collect();
        rows.sort_by(|a, b| a.labels.cmp(&b.labels));
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut out = "# HELP grpc_server_started_total Total number of RPCs started on the server.\n\
                       # TYPE grpc_server_started_total counter\n"
            .to_owned();
        for row in rows.iter().filter(|row| read(&row.started) > 0) {
            let _ = writeln!(out, "grpc_server_started_total{{{}}} {}", row.labels, read(&row.started));
        }
        out.push_str(
            "# HELP grpc_server_handled_total Total number of RPCs completed on the server, regardless of success or failure.\n\
             # TYPE grpc_server_handled_total counter\n",
        );
        for row in rows {
            for (code, count) in CODES.iter().zip(&row.ended).filter(|(_, count)| read(count) > 0) {
                let (labels, count) = (&row.labels, read(count));
                let _ = writeln!(out, "grpc_server_handled_total{{grpc_code=\"{code}\",{labels}}} {count}");
            }
        }
        out
    }
}

/// A call that has begun: it is counted once, as it ends.
pub(crate) struct Counting(Option<Arc<Row>>);

impl Counting {
    /// The answer of the call, which is counted when its body ends.
    pub(crate) fn told(mut self, answer: http::Response<Body>) -> http::Response<Counted> {
        self.look(answer.headers());
        answer.map(|body| Counted { body, counting: self })
    }

    fn look(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.end(status.code());
        }
    }

    fn end(&mut self, code: Code) {
        if let Some(row) = self.0.take() {
            row.ended[code as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The body of an answer, and the call that it ends.
pub(crate) struct Counted {
    body: Body,
    counting: Counting,
}

impl hyper::body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.counting.look(trailers);
                }
            }
            Poll::Ready(Some(Err(status))) => self.counting.end(status.code()),
            Poll::Ready(None) => self.counting.end(Code::Ok),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl From<Body> for Counted {
    /// Of an answer that is no call.
    fn from(body: Body) -> Self {
        Self { body, counting: Counting(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_once_as_it_ends() {
        let calls = Calls::new();
        let path = "/etcdserverpb.KV/Put";
        drop(calls.begin(path).told(Status::not_found("x").into_http()));
        drop(calls.begin(path));
        drop(calls.begin("/no.such/Call"));
        let text = calls.text();
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        assert!(text.contains(&format!("grpc_server_started_total{{{labels}}} 2\n")), "{text}");
        for code in ["NotFound", "Canceled"] {
            let line = format!("grpc_server_handled_total{{grpc_code=\"{code}\",{labels}}} 1\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
