//! Answers: what they are made of, and their headers.
//!
//! Invariant: a header's name is checked when the program is built. A value that no header can hold is left out.
//! Called by: the handlers, `dispatch`, `error`, `sse`.

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use quorate_types::{Committed, LeaseId, Offset, Revision, Version};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Names of Quorate's own headers, and of those that have no constant elsewhere.
pub(crate) mod name {
    use hyper::header::HeaderName;

    pub(crate) const APPLIED: HeaderName = HeaderName::from_static("quorate-applied");
    pub(crate) const CREATE_REVISION: HeaderName = HeaderName::from_static("quorate-create-revision");
    pub(crate) const LEADER: HeaderName = HeaderName::from_static("quorate-leader");
    pub(crate) const LEASE: HeaderName = HeaderName::from_static("quorate-lease");
    pub(crate) const MOD_REVISION: HeaderName = HeaderName::from_static("quorate-mod-revision");
    pub(crate) const REVISION: HeaderName = HeaderName::from_static("quorate-revision");
    pub(crate) const VERSION: HeaderName = HeaderName::from_static("quorate-version");
    pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
    pub(crate) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
    pub(crate) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
    pub(crate) const STREAM_NEXT_OFFSET: HeaderName = HeaderName::from_static("stream-next-offset");
    pub(crate) const STREAM_UP_TO_DATE: HeaderName = HeaderName::from_static("stream-up-to-date");
    pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
}

/// Room for the headers that a key's answer has, so that its map never grows.
const HEADERS: usize = 12;

/// The body of an answer.
pub(crate) enum Body {
    /// Bytes that are there.
    Whole(Full<Bytes>),
    /// Bytes as they come.
    Streamed(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self::Whole(Full::default())
    }
}

impl<B: Into<Bytes>> From<B> for Body {
    fn from(bytes: B) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Streamed(stream) => {
                stream.as_mut().poll_next(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

/// What can stand in a header.
pub(crate) trait Value {
    /// The value; nothing when no header can hold it.
    fn value(self) -> Option<HeaderValue>;
}

impl Value for u64 {
    fn value(self) -> Option<HeaderValue> {
        Some(self.into())
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn value(self) -> Option<HeaderValue> {
                self.0.value()
            }
        }
    )*};
}

numbers!(Offset, Revision, Version);

impl Value for LeaseId {
    fn value(self) -> Option<HeaderValue> {
        self.to_string().value()
    }
}

impl Value for &'static str {
    fn value(self) -> Option<HeaderValue> {
        Some(HeaderValue::from_static(self))
    }
}

impl Value for String {
    fn value(self) -> Option<HeaderValue> {
        self.try_into().ok()
    }
}

/// A revision as an entity tag.
pub(crate) fn etag(revision: Revision) -> String {
    format!("\"{revision}\"")
}

/// A JSON answer.
pub(crate) fn reply(status: u16, json: String) -> Response<Body> {
    reply_as(status, "application/json", json)
}

/// An answer of some media type.
pub(crate) fn reply_as(status: u16, media: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).expect("handlers give statuses from 200 to 304");
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    // Stored bytes come from anybody: a browser must not guess a livelier type than was said.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    *response.headers_mut() = headers;
    response
}

/// The answer with one more header.
pub(crate) fn with_header(
    mut response: Response<Body>,
    name: HeaderName,
    value: impl Value,
) -> Response<Body> {
    if let Some(value) = value.value() {
        response.headers_mut().append(name, value);
    }
    response
}

/// The headers that every committed answer has.
pub(crate) fn with_commit(response: Response<Body>, committed: &Committed) -> Response<Body> {
    let response = with_header(response, name::REVISION, committed.revision);
    if committed.replayed { with_header(response, name::IDEMPOTENT_REPLAYED, "true") } else { response }
}
