//! What a connection writes, gathered until its task has done all that it could.
//!
//! The library of HTTP/2 flushes after each frame that it does not copy, so an answer with a value of some size left in two writes: each a
//! way through the kernel, a packet, and a wake-up of its client. Here a flush does nothing until the connection's task says
//! [`Gathered::poll_leave`], which it does before it waits.
//!
//! Invariant: no more than [`GATHERED_MAX`] bytes are held; a stream that takes none pushes back.
//! Called by: `connection`.

use bytes::{Buf, BytesMut};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are copied and held; longer writes pass.
const GATHERED_MAX: usize = 16 << 10;

/// A stream whose writes are gathered. Clones are the same stream.
pub(crate) struct Gathered<S>(Arc<Mutex<Held<S>>>);

struct Held<S> {
    stream: S,
    /// Without room while there is nothing: most connections are idle.
    waiting: BytesMut,
}

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    pub(crate) fn of(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Held { stream, waiting: BytesMut::new() })))
    }

    /// Writes what is held.
    ///
    /// # Errors
    /// The stream's.
    pub(crate) fn poll_leave(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.held();
        if held.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(held.poll_drain(cx))?;
        Pin::new(&mut held.stream).poll_flush(cx)
    }

    fn held(&self) -> MutexGuard<'_, Held<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Held<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                count => self.waiting.advance(count),
            }
        }
        self.waiting = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.held().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut held = self.held();
        if held.waiting.len() + bytes.len() > GATHERED_MAX {
            ready!(held.poll_drain(cx))?;
            if bytes.len() > GATHERED_MAX {
                return Pin::new(&mut held.stream).poll_write(cx, bytes);
            }
        }
        held.waiting.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Nothing: see [`Gathered::poll_leave`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.held();
        ready!(held.poll_drain(cx))?;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, duplex};

    fn write(stream: &mut Gathered<impl AsyncWrite + Unpin>, bytes: &[u8]) -> Poll<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(stream).poll_write(&mut cx, bytes).map(|written| written.expect("the other end is there"))
    }

    fn leave(stream: &Gathered<impl AsyncWrite + Unpin>) -> Poll<io::Result<()>> {
        stream.poll_leave(&mut Context::from_waker(Waker::noop()))
    }

    /// What the other end has, without waiting.
    async fn arrived(other: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        tokio::select! {
            biased;
            read = other.read(&mut bytes) => bytes.truncate(read.expect("the stream is there")),
            () = std::future::ready(()) => bytes.clear(),
        }
        bytes
    }

    #[tokio::test]
    async fn what_is_flushed_leaves_in_one_piece_when_it_is_told_to() {
        let (ours, mut other) = duplex(1 << 20);
        let mut stream = Gathered::of(ours);
        for part in [&b"head"[..], b"body", b"end"] {
            assert_eq!(write(&mut stream, part), Poll::Ready(part.len()));
            let flushed = Pin::new(&mut stream).poll_flush(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(flushed, Poll::Ready(Ok(()))));
        }
        assert!(arrived(&mut other).await.is_empty(), "a flush is no reason to write");
        assert!(matches!(leave(&stream), Poll::Ready(Ok(()))));
        assert_eq!(arrived(&mut other).await, b"headbodyend");
    }

    #[tokio::test]
    async fn a_long_write_passes_behind_what_was_held() {
        let (ours, mut other) = duplex(1 << 20);
        let mut stream = Gathered::of(ours);
        let long = vec![7; GATHERED_MAX + 1];
        assert_eq!(write(&mut stream, b"head"), Poll::Ready(4));
        assert_eq!(write(&mut stream, &long), Poll::Ready(long.len()));
        assert_eq!(arrived(&mut other).await, [&b"head"[..], &long].concat());
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_pushes_back_and_loses_nothing() {
        let (ours, mut other) = duplex(1000);
        let mut stream = Gathered::of(ours);
        let (mut sent, part) = (0, [1; 900]);
        while let Poll::Ready(count) = write(&mut stream, &part) {
            sent += count;
            assert!(sent <= GATHERED_MAX + 1000, "more is held than is allowed");
        }
        let mut came = 0;
        while came < sent {
            let _ = leave(&stream);
            let bytes = arrived(&mut other).await.len();
            assert!(bytes > 0, "{came} of {sent} bytes came");
            came += bytes;
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_takes_what_is_held_along() {
        let (ours, mut other) = duplex(1 << 20);
        let mut stream = Gathered::of(ours);
        assert_eq!(write(&mut stream, b"goodbye"), Poll::Ready(7));
        let ended = Pin::new(&mut stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(ended, Poll::Ready(Ok(()))));
        assert_eq!(arrived(&mut other).await, b"goodbye");
    }

    #[tokio::test]
    async fn an_end_that_is_gone_is_told() {
        let (ours, other) = duplex(1000);
        drop(other);
        let mut stream = Gathered::of(ours);
        assert_eq!(write(&mut stream, b"late"), Poll::Ready(4));
        assert!(matches!(leave(&stream), Poll::Ready(Err(_))));
    }
}
