//! One connection of HTTP/2, as gRPC uses it: its calls and its frames are driven by one task.
//!
//! A task for each call, as servers of HTTP/2 have it, costs a call several times what it does here: it is spawned, scheduled, and wakes the
//! connection's to be written. Here the calls are polled by the task that reads and writes, so what one read brought and all of them answer
//! leaves with one write.
//!
//! Invariant: a call whose client gives it up, or whose connection ends, is dropped where it stands.
//! Invariant: a stream of answers makes no more than its client takes.
//! Called by: `serve`.
//! Source: RFC 9113; gRPC over HTTP/2 for what is in the frames.

use crate::gathered::Gathered;
use crate::metrics::Counted;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use hyper::body::{Body as _, Frame};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::http::{Request, Response};

/// How often a connection is asked whether it lives, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that a client may send ahead of what is read: of one call, and of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of a request's headers.
const HEADERS_MAX: u32 = 16 << 10;

/// Serves a connection until it ends. Once `stopped` resolves, no call begins, and the connection ends with the last.
pub(crate) async fn serve<S, F>(
    stream: S,
    handshake_timeout: Duration,
    answer: impl Fn(Request<Received>) -> F,
    stopped: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<Counted>>,
{
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS_MAX);
    let written = Gathered::of(stream);
    let shaken = builder.handshake::<_, Bytes>(written.clone());
    let shaken = tokio::time::timeout(handshake_timeout, shaken).await;
    // What goes wrong on a connection concerns it alone, and its client sees it closed.
    let Ok(Ok(mut connection)) = shaken else { return };
    let mut alive = pin!(alive(connection.ping_pong()));
    let mut stopped = pin!(stopped);
    let (mut calls, mut stopping) = (FuturesUnordered::new(), false);
    poll_fn(|cx| {
        if !stopping && stopped.as_mut().poll(cx).is_ready() {
            stopping = true;
            connection.graceful_shutdown();
        }
        if alive.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            // This reads and writes too.
            match poll_accept(&mut connection, cx) {
                Poll::Ready(Some((request, respond))) => {
                    let request = request.map(Received);
                    calls.push(call(&answer, request, respond));
                    continue;
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if !matches!(calls.poll_next_unpin(cx), Poll::Ready(Some(()))) {
                return match written.poll_leave(cx) {
                    Poll::Ready(Err(_)) => Poll::Ready(()),
                    _ => Poll::Pending,
                };
            }
            while matches!(calls.poll_next_unpin(cx), Poll::Ready(Some(()))) {}
        }
    })
    .await;
}

type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

fn poll_accept<S>(connection: &mut Connection<S, Bytes>, cx: &mut Context<'_>) -> Poll<Option<Accepted>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.poll_accept(cx).map(|next| next.and_then(Result::ok))
}

/// Resolves when the other side is gone without having said so.
async fn alive(pings: Option<PingPong>) {
    let mut pings = pings.expect("nobody took it before");
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if !matches!(tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Answers one call, unless its client gives it up first.
async fn call<F: Future<Output = Response<Counted>>>(
    answer: impl Fn(Request<Received>) -> F,
    request: Request<Received>,
    mut respond: SendResponse<Bytes>,
) {
    let answer = {
        // Made here: as an argument it would be there twice, and all of it is moved to where the call lives.
        let mut answer = pin!(answer(request));
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(answer) = answer else { return };
    let (head, body) = answer.into_parts();
    let over = body.is_end_stream();
    // What cannot be sent any more is for nobody.
    if let Ok(send) = respond.send_response(Response::from_parts(head, ()), over)
        && !over
    {
        hand_on(body, send).await;
    }
}

/// Sends what a body says, as its client takes it.
async fn hand_on(mut body: Counted, mut send: SendStream<Bytes>) {
    loop {
        let next = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(next) => Poll::Ready(Some(next)),
            Poll::Pending => send.poll_reset(cx).map(|_| None),
        });
        let sent = match next.await {
            None => return,
            Some(None) => {
                let _ = send.send_data(Bytes::new(), true);
                return;
            }
            Some(Some(Err(_))) => return send.send_reset(Reason::INTERNAL_ERROR),
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) if bytes.is_empty() => continue,
                Ok(bytes) => match room(&mut send).await {
                    true => send.send_data(bytes, false),
                    false => return,
                },
                Err(frame) => {
                    let _ = send.send_trailers(frame.into_trailers().unwrap_or_default());
                    return;
                }
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Waits until the client takes more; not when it has given up.
async fn room(send: &mut SendStream<Bytes>) -> bool {
    // A byte: what is sent raises it to what it needs, and a claim that waits for nothing would hold the connection's others up.
    send.reserve_capacity(1);
    while send.capacity() == 0 {
        let more = poll_fn(|cx| match send.poll_capacity(cx) {
            Poll::Pending => send.poll_reset(cx).map(|_| None),
            more => more,
        });
        if !matches!(more.await, Some(Ok(_))) {
            return false;
        }
    }
    true
}

/// What a client sends with a call.
pub(crate) struct Received(RecvStream);

impl hyper::body::Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.0.poll_data(cx).map(|next| {
            next.map(|bytes| {
                let bytes = bytes?;
                // It is read: the client may send as many anew.
                self.0.flow_control().release_capacity(bytes.len())?;
                Ok(Frame::data(bytes))
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
