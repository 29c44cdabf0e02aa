//! Answers of a stream of watches on their way to its connection, several at a time.
//!
//! A change that many watch is an answer for each. One by one they would cost more to hand over than to make: here those that are ready together
//! go as one, and the connection finds them next to each other, so that they share its frames too.
//!
//! Invariant: answers leave in the order in which they were told, errors last.
//! Invariant: at most [`BATCHES_MAX`] wait for the connection, each of [`ANSWERS_MAX`] answers, and of [`BYTES_MAX`] but for the last of them.
//! Called by: `watch`.

use futures_util::Stream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec::IntoIter;
use tokio::sync::mpsc;
use tonic::Status;

/// What waits for the connection.
const BATCHES_MAX: usize = 8;
/// Answers that go together, and about as many bytes of them: what the connection writes at once.
const ANSWERS_MAX: usize = 128;
const BYTES_MAX: usize = 32 << 10;

/// The client is gone.
pub(crate) struct Gone;

/// Where answers are told.
pub(crate) struct Teller<T> {
    send: mpsc::Sender<Result<Vec<T>, Status>>,
    batch: Vec<T>,
    bytes: usize,
}

/// What was told.
pub(crate) struct Told<T> {
    receive: mpsc::Receiver<Result<Vec<T>, Status>>,
    batch: IntoIter<T>,
}

/// A stream of answers from both of its ends.
pub(crate) fn channel<T>() -> (Teller<T>, Told<T>) {
    let (send, receive) = mpsc::channel(BATCHES_MAX);
    (Teller { send, batch: Vec::new(), bytes: 0 }, Told { receive, batch: Vec::new().into_iter() })
}

impl<T> Teller<T> {
    /// Puts an answer of about so many bytes behind those before it; it leaves with [`Teller::flush`], or earlier.
    pub(crate) async fn tell(&mut self, answer: T, bytes: usize) -> Result<(), Gone> {
        self.batch.push(answer);
        self.bytes += bytes;
        if self.is_full() { self.flush().await } else { Ok(()) }
    }

    /// Whether the next batch would wait for this one to leave.
    fn is_full(&self) -> bool {
        self.batch.len() >= ANSWERS_MAX || self.bytes >= BYTES_MAX
    }

    /// Lets what was told leave; it waits until the connection has room.
    pub(crate) async fn flush(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        self.send.send(Ok(batch)).await.map_err(|_| Gone)
    }

    /// Ends the stream, after what was told.
    pub(crate) async fn fail(&mut self, status: Status) {
        if self.flush().await.is_ok() {
            // Whoever is gone need not hear why.
            let _ = self.send.send(Err(status)).await;
        }
    }

    /// Resolves once the client is gone.
    pub(crate) async fn closed(&self) {
        self.send.closed().await;
    }
}

impl<T: Unpin> Stream for Told<T> {
    type Item = Result<T, Status>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(answer) = self.batch.next() {
                return Poll::Ready(Some(Ok(answer)));
            }
            match self.receive.poll_recv(cx) {
                Poll::Ready(Some(Ok(batch))) => self.batch = batch.into_iter(),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    #[tokio::test]
    async fn answers_leave_in_order_and_no_more_wait_than_the_bounds_allow() {
        let (mut teller, mut told) = channel();
        let mut next = 0;
        while let Some(sent) = teller.tell(next, 1).now_or_never() {
            assert!(sent.is_ok());
            next += 1;
        }
        // Whoever gives up a telling that waits takes its batch along, as the end of its stream does.
        assert_eq!(next, (BATCHES_MAX + 1) * ANSWERS_MAX - 1, "that one waits for room");
        for wanted in 0..BATCHES_MAX * ANSWERS_MAX {
            assert!(matches!(told.next().await, Some(Ok(answer)) if answer == wanted));
        }
        assert!(told.next().now_or_never().is_none());
        assert!(teller.tell(0, BYTES_MAX).await.is_ok());
        assert!(matches!(told.next().now_or_never(), Some(Some(Ok(0)))), "a large one waits for no others");
        assert!(teller.tell(1, 1).await.is_ok());
        assert!(told.next().now_or_never().is_none(), "it waits for others");
        teller.fail(Status::unavailable("x")).await;
        assert!(matches!(told.next().await, Some(Ok(1))));
        assert!(matches!(told.next().await, Some(Err(_))));
        drop(told);
        teller.closed().await;
        assert!(teller.tell(2, BYTES_MAX).await.is_err());
    }
}
