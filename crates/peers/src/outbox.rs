//! What waits to be written on one connection: bounded in bytes, filled by any thread, drained by one writer at a time.
//!
//! Whoever queued frames may write them itself (`flush`), so that a message costs no hand-over between threads. Where the socket takes
//! no more, where much waits, and under TLS, the connection's task goes on.
//!
//! Invariant: `bytes` counts what is queued and what a writer took and has not written yet, so that the bound holds for both.
//! Invariant: at most one writes, and it looks again when it is done: what was queued meanwhile is never left lying.
//! Invariant: a frame begun is finished before the next begins, whoever finishes it.
//! Called by: `Links` and `bulk` (queue, flush, send), `pump` (attach, take, written, done), `dial` (open, close).

use crate::frame;
use bytes::{Buf, Bytes, BytesMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

/// What a frame costs beside its payload: header and bookkeeping. Counted, so that many tiny frames are bounded too.
pub(crate) const FRAME_COST: usize = 64;

/// Room kept when a batch is done; a larger one is given back.
const FRAMES_KEPT_MAX: usize = 16 << 10;
/// More than this is not gathered by whoever queued it: the connection's task writes large frames from where they are.
const FLUSH_BYTES_MAX: usize = 64 << 10;

pub(crate) struct Outbox {
    state: Mutex<State>,
    wake: Notify,
    frame_bytes_max: usize,
    queue_bytes_max: usize,
}

#[derive(Default)]
struct State {
    open: bool,
    /// Which connection this is: whoever began to write on an earlier one has nothing to say any more.
    link: u64,
    frames: Vec<Bytes>,
    bytes: usize,
    losses: Losses,
    /// Somebody writes, or has left a rest that the connection's task will write.
    writing: bool,
    socket: Option<Arc<OwnedWriteHalf>>,
    /// What the socket did not take at once, and what it counts.
    rest: BytesMut,
    rest_bytes: usize,
    /// Room to gather frames in.
    room: BytesMut,
}

/// What was dropped while the connection stood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    full: u64,
    too_large: Option<usize>,
}

/// What frames count.
pub(crate) fn cost(frames: usize, payload_bytes: usize) -> usize {
    frames * FRAME_COST + payload_bytes
}

impl Outbox {
    /// A closed one: it takes nothing until `open`.
    pub(crate) fn new(frame_bytes_max: usize, queue_bytes_max: usize) -> Outbox {
        Outbox { state: Mutex::default(), wake: Notify::new(), frame_bytes_max, queue_bytes_max }
    }

    pub(crate) fn open(&self) {
        let mut state = self.state();
        *state = State { open: true, link: state.link + 1, ..State::default() };
    }

    /// Drops what is queued. Answers what was dropped before, for lack of room.
    pub(crate) fn close(&self) -> Losses {
        let mut state = self.state();
        let closed = State { link: state.link + 1, ..State::default() };
        std::mem::replace(&mut *state, closed).losses
    }

    /// From now on whoever queues may write on this socket.
    pub(crate) fn attach(&self, socket: &Arc<OwnedWriteHalf>) {
        let mut state = self.state();
        if state.open {
            state.socket = Some(Arc::clone(socket));
        }
    }

    /// Queues a frame and flushes; false when it was dropped.
    pub(crate) fn send(&self, frame: Bytes) -> bool {
        let queued = self.queue(frame);
        self.flush();
        queued
    }

    /// Queues a frame, to be flushed; false when it was dropped. An empty frame is dropped too: on the wire it is a keep-alive, never
    /// delivered.
    pub(crate) fn queue(&self, frame: Bytes) -> bool {
        let mut state = self.state();
        if !state.open || frame.is_empty() {
            return false;
        }
        if frame.len() > self.frame_bytes_max {
            state.losses.too_large = Some(frame.len());
            return false;
        }
        let bytes = state.bytes + cost(1, frame.len());
        if bytes > self.queue_bytes_max {
            state.losses.full += 1;
            return false;
        }
        state.bytes = bytes;
        state.frames.push(frame);
        true
    }

    /// Writes what is queued, as far as the socket takes it at once; the connection's task does the rest.
    pub(crate) fn flush(&self) {
        loop {
            let mut state = self.state();
            if state.writing || state.frames.is_empty() {
                return;
            }
            let socket = state.socket.clone().filter(|_| state.bytes <= FLUSH_BYTES_MAX);
            let Some(socket) = socket else {
                drop(state);
                return self.wake.notify_one();
            };
            state.writing = true;
            let (link, bytes) = (state.link, state.bytes);
            let mut out = std::mem::take(&mut state.room);
            for payload in state.frames.drain(..) {
                frame::put_header(&mut out, &payload);
                out.extend_from_slice(&payload);
            }
            drop(state);
            let written = socket.try_write(&out);
            let mut state = self.state();
            if state.link != link {
                return;
            }
            // What is wrong with the socket, if anything is, the connection's task finds out as well.
            out.advance(written.unwrap_or(0));
            if !out.is_empty() {
                (state.rest, state.rest_bytes) = (out, bytes);
                drop(state);
                return self.wake.notify_one();
            }
            out.clear();
            state.room = out;
            state.bytes -= bytes;
            state.writing = false;
        }
    }

    /// Waits for frames and takes all of them, and what of earlier ones is left to be written, with what that counts. Whoever takes is the
    /// one who writes, until `done`. `batch` is empty before; its memory is used for what is queued next.
    pub(crate) async fn take(&self, batch: &mut Vec<Bytes>) -> (BytesMut, usize) {
        assert!(batch.is_empty(), "the last batch was written");
        loop {
            {
                let mut state = self.state();
                if !state.rest.is_empty() || (!state.writing && !state.frames.is_empty()) {
                    state.writing = true;
                    batch.shrink_to(FRAMES_KEPT_MAX);
                    std::mem::swap(&mut state.frames, batch);
                    return (std::mem::take(&mut state.rest), std::mem::take(&mut state.rest_bytes));
                }
            }
            self.wake.notified().await;
        }
    }

    /// Becomes the one who writes, unless somebody does; then false.
    pub(crate) fn claim(&self) -> bool {
        !std::mem::replace(&mut self.state().writing, true)
    }

    /// So much of what was taken was written: its room is free again.
    pub(crate) fn written(&self, bytes: usize) {
        let mut state = self.state();
        assert!(bytes <= state.bytes, "written {bytes} of {} queued bytes", state.bytes);
        state.bytes -= bytes;
    }

    /// What was taken is written. Call `take` next: something may have been queued meanwhile.
    pub(crate) fn done(&self) {
        self.state().writing = false;
    }

    /// What was dropped since it was last asked, in words.
    pub(crate) fn losses(&self) -> Option<String> {
        std::mem::take(&mut self.state().losses).text(self.frame_bytes_max, self.queue_bytes_max)
    }

    /// [`Outbox::losses`] of what `close` answered.
    pub(crate) fn say(&self, losses: Losses) -> Option<String> {
        losses.text(self.frame_bytes_max, self.queue_bytes_max)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing here panics half-way: a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Losses {
    fn text(self, frame_bytes_max: usize, queue_bytes_max: usize) -> Option<String> {
        if let Some(found) = self.too_large {
            return Some(format!(
                "a message of {found} bytes was dropped: links carry at most {frame_bytes_max}"
            ));
        }
        // Without the count, which differs each time: the same text is told once in a while only.
        (self.full > 0).then(|| {
            format!(
                "messages are dropped: it reads slower than we send, and {queue_bytes_max} bytes wait for it"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_counts_what_was_taken_and_not_yet_written() {
        let outbox = Outbox::new(100, 2 * (100 + FRAME_COST));
        let frame = || Bytes::from(vec![1; 100]);
        assert!(!outbox.queue(frame()), "closed");
        outbox.open();
        assert!(outbox.queue(frame()) && outbox.queue(frame()) && !outbox.queue(frame()));
        let mut batch = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(outbox.take(&mut batch));
        assert_eq!(batch.len(), 2);
        assert!(!outbox.queue(frame()), "both are in flight");
        outbox.written(cost(1, 100));
        assert!(outbox.queue(frame()) && !outbox.queue(frame()));
        assert!(outbox.losses().unwrap().contains("reads slower"));
        assert_eq!(outbox.losses(), None);
    }

    #[test]
    fn closing_drops_what_is_queued() {
        let outbox = Outbox::new(100, 1000);
        outbox.open();
        assert!(outbox.queue(Bytes::from_static(b"old")));
        outbox.close();
        outbox.open();
        assert!(outbox.queue(Bytes::from_static(b"new")));
        let mut batch = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(outbox.take(&mut batch));
        assert_eq!(batch, [Bytes::from_static(b"new")]);
    }

    #[test]
    fn tiny_frames_are_bounded_too_and_large_or_empty_ones_refused() {
        let outbox = Outbox::new(100, 1000);
        outbox.open();
        let taken = (0..1000).filter(|_| outbox.queue(Bytes::from_static(b"x"))).count();
        assert_eq!(taken, 1000 / (FRAME_COST + 1));
        assert!(!outbox.queue(Bytes::new()));
        assert!(!outbox.queue(Bytes::from(vec![0; 101])));
        assert!(outbox.losses().unwrap().contains("101 bytes"));
    }

    /// An outbox attached to one end of a connection, and the other end.
    async fn attached() -> (Outbox, Arc<OwnedWriteHalf>, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let (_, writer) = near.into_split();
        let (writer, outbox) = (Arc::new(writer), Outbox::new(1 << 20, 64 << 20));
        outbox.open();
        outbox.attach(&writer);
        writer.writable().await.unwrap();
        (outbox, writer, far)
    }

    #[tokio::test]
    async fn whoever_queued_writes_itself_and_what_the_socket_refuses_is_left_whole() {
        use tokio::io::AsyncReadExt;
        let (outbox, writer, mut far) = attached().await;
        assert!(outbox.queue(Bytes::from_static(b"first")));
        outbox.flush();
        assert_eq!(outbox.state().bytes, 0, "it is written, by this thread");
        // Nobody reads: at some point the socket is full, in the middle of a frame.
        let mut queued = 0;
        while outbox.state().rest.is_empty() {
            assert!(outbox.queue(Bytes::from(vec![queued as u8; 50_000])));
            queued += 1;
            outbox.flush();
        }
        assert!(outbox.queue(Bytes::from_static(b"last")));
        outbox.flush();
        assert_eq!(outbox.state().frames.len(), 1, "nothing overtakes a frame that was begun");
        assert!(!outbox.claim());
        let reading = tokio::spawn(async move {
            let (mut decoder, mut frames) = (frame::Decoder::new(1 << 20), Vec::new());
            while frames.last() != Some(&Bytes::from_static(b"last")) {
                let bytes = far.read_buf(decoder.room()).await.unwrap();
                decoder.came(bytes);
                while let Some(frame) = decoder.next().unwrap() {
                    frames.push(frame);
                }
            }
            frames
        });
        // What the connection's task does.
        let mut batch = Vec::new();
        let (mut rest, bytes) = outbox.take(&mut batch).await;
        assert_eq!((batch.len(), bytes), (1, cost(1, 50_000)));
        while !rest.is_empty() {
            writer.writable().await.unwrap();
            let _ = writer.try_write(&rest).map(|written| rest.advance(written));
        }
        outbox.written(bytes);
        batch.clear();
        outbox.written(cost(1, 4));
        outbox.done();
        assert_eq!(outbox.state().bytes, 0);
        assert!(outbox.queue(Bytes::from_static(b"last")));
        outbox.flush();
        let frames = reading.await.unwrap();
        assert_eq!(frames.len(), queued + 2);
        assert!(frames[1..=queued].iter().enumerate().all(|(n, frame)| **frame == vec![n as u8; 50_000]));
    }

    #[tokio::test]
    async fn much_is_left_to_the_task_and_so_is_everything_without_a_socket() {
        let (outbox, _writer, _far) = attached().await;
        assert!(outbox.queue(Bytes::from(vec![0; FLUSH_BYTES_MAX])));
        outbox.flush();
        let mut batch = Vec::new();
        outbox.take(&mut batch).await;
        assert_eq!(batch.len(), 1);
        outbox.close();
        outbox.open();
        assert!(outbox.queue(Bytes::from_static(b"x")));
        outbox.flush();
        batch.clear();
        outbox.take(&mut batch).await;
        assert_eq!(batch, [Bytes::from_static(b"x")]);
    }
}
