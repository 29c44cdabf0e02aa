//! What waits to be written on one connection: bounded in bytes, filled by any thread, drained by the connection's task.
//!
//! Invariant: `bytes` counts what is queued and what the task took and has not written yet, so that the bound holds for both.
//! Invariant: `push` wakes the task only when it made the queue non-empty: one wake per batch.
//! Called by: `Links::send` and `bulk` (push), `pump` (take, written), `dial` (open, close).

use bytes::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What a frame costs beside its payload: header and bookkeeping. Counted, so that many tiny frames are bounded too.
pub(crate) const FRAME_COST: usize = 64;

/// Room kept when a batch is done; a larger one is given back.
const FRAMES_KEPT_MAX: usize = 16 << 10;

pub(crate) struct Outbox {
    state: Mutex<State>,
    wake: Notify,
    frame_bytes_max: usize,
    queue_bytes_max: usize,
}

#[derive(Default)]
struct State {
    open: bool,
    frames: Vec<Bytes>,
    bytes: usize,
    losses: Losses,
}

/// What was dropped while the connection stood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    full: u64,
    too_large: Option<usize>,
}

impl Outbox {
    /// A closed one: it takes nothing until `open`.
    pub(crate) fn new(frame_bytes_max: usize, queue_bytes_max: usize) -> Outbox {
        Outbox { state: Mutex::default(), wake: Notify::new(), frame_bytes_max, queue_bytes_max }
    }

    pub(crate) fn open(&self) {
        *self.state() = State { open: true, ..State::default() };
    }

    /// Drops what is queued. Answers what was dropped before, for lack of room.
    pub(crate) fn close(&self) -> Losses {
        std::mem::take(&mut *self.state()).losses
    }

    /// Queues a frame; false when it was dropped. An empty frame is dropped too: on the wire it is a keep-alive, never delivered.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        let mut state = self.state();
        if !state.open || frame.is_empty() {
            return false;
        }
        if frame.len() > self.frame_bytes_max {
            state.losses.too_large = Some(frame.len());
            return false;
        }
        let bytes = state.bytes + FRAME_COST + frame.len();
        if bytes > self.queue_bytes_max {
            state.losses.full += 1;
            return false;
        }
        let wake = state.frames.is_empty();
        state.bytes = bytes;
        state.frames.push(frame);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        true
    }

    /// Waits for frames and takes all of them. `batch` is empty before; its memory is used for what is queued next.
    pub(crate) async fn take(&self, batch: &mut Vec<Bytes>) {
        assert!(batch.is_empty(), "the last batch was written");
        loop {
            {
                let mut state = self.state();
                if !state.frames.is_empty() {
                    batch.shrink_to(FRAMES_KEPT_MAX);
                    std::mem::swap(&mut state.frames, batch);
                    return;
                }
            }
            self.wake.notified().await;
        }
    }

    /// Frames of the batch were written: their room is free again.
    pub(crate) fn written(&self, frames: usize, payload_bytes: usize) {
        let mut state = self.state();
        let bytes = frames * FRAME_COST + payload_bytes;
        assert!(bytes <= state.bytes, "written {bytes} of {} queued bytes", state.bytes);
        state.bytes -= bytes;
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
        assert!(!outbox.push(frame()), "closed");
        outbox.open();
        assert!(outbox.push(frame()) && outbox.push(frame()) && !outbox.push(frame()));
        let mut batch = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(outbox.take(&mut batch));
        assert_eq!(batch.len(), 2);
        assert!(!outbox.push(frame()), "both are in flight");
        outbox.written(1, 100);
        assert!(outbox.push(frame()) && !outbox.push(frame()));
        assert!(outbox.losses().unwrap().contains("reads slower"));
        assert_eq!(outbox.losses(), None);
    }

    #[test]
    fn closing_drops_what_is_queued() {
        let outbox = Outbox::new(100, 1000);
        outbox.open();
        assert!(outbox.push(Bytes::from_static(b"old")));
        outbox.close();
        outbox.open();
        assert!(outbox.push(Bytes::from_static(b"new")));
        let mut batch = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(outbox.take(&mut batch));
        assert_eq!(batch, [Bytes::from_static(b"new")]);
    }

    #[test]
    fn tiny_frames_are_bounded_too_and_large_or_empty_ones_refused() {
        let outbox = Outbox::new(100, 1000);
        outbox.open();
        let taken = (0..1000).filter(|_| outbox.push(Bytes::from_static(b"x"))).count();
        assert_eq!(taken, 1000 / (FRAME_COST + 1));
        assert!(!outbox.push(Bytes::new()));
        assert!(!outbox.push(Bytes::from(vec![0; 101])));
        assert!(outbox.losses().unwrap().contains("101 bytes"));
    }
}
