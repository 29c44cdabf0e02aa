//! What clients did and saw, with when: the evidence that the checks judge.
//!
//! Times are nanoseconds since the run began, taken before a request is written and after its answer is read, by one thread: an
//! interval can only be too wide, which can hide an anomaly for a few microseconds' worth of overlap, but never invent one.
//! Invariant: an operation that may have happened stays open to the end (`OPEN`).
//! Called by: `work` writes it, `check` reads it.

use crate::http::Outcome;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// The end of what never got a clear answer.
pub(crate) const OPEN: u64 = u64::MAX;

/// From before the request was sent to after the answer was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begun: u64,
    pub(crate) ended: u64,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate<T> {
    /// It happened, and this is what was said.
    Acknowledged(T),
    /// It did not happen.
    Refused,
    /// Nobody knows.
    Unclear,
}

/// A register at one time: its value and how often it was written. All zero before the first write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) version: u64,
    pub(crate) value: u64,
}

/// What was done to a register, with what was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Found this.
    Read(State),
    /// Wrote a value; `before` is what was overwritten, where the answer tells.
    Write { value: u64, before: Option<State> },
    /// Wrote a value as the version was `version`.
    Swap { version: u64, value: u64 },
    /// Would have written if the version had been `version`; it was `found`.
    NotSwapped { version: u64, found: u64 },
}

/// One operation on a register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegisterEvent {
    pub(crate) register: u32,
    pub(crate) client: u32,
    pub(crate) node: u32,
    pub(crate) span: Span,
    pub(crate) touch: Touch,
}

/// Where an operation stands in the order of the whole partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RevisionEvent {
    pub(crate) client: u32,
    pub(crate) node: u32,
    pub(crate) span: Span,
    pub(crate) revision: u64,
    /// Whether it made this revision, or only saw it.
    pub(crate) wrote: bool,
}

/// One append of a unique record; `key` is the idempotency key it was sent under, if any, and the record's text.
#[derive(Clone, Debug)]
pub(crate) struct AppendEvent {
    pub(crate) record: String,
    pub(crate) client: u32,
    pub(crate) span: Span,
    /// The offset.
    pub(crate) fate: Fate<u64>,
}

/// One try to hold a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockEvent {
    pub(crate) lock: u32,
    pub(crate) client: u32,
    /// Of the acquire.
    pub(crate) span: Span,
    pub(crate) token: u64,
    /// Until when the lease cannot have ended: its time to live after the request that granted it was sent.
    pub(crate) promised: u64,
    /// When giving it back began; `OPEN` when it was left to its lease.
    pub(crate) released: u64,
}

/// Everything that clients did.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) registers: Vec<RegisterEvent>,
    pub(crate) revisions: Vec<RevisionEvent>,
    /// Appends sent once.
    pub(crate) appends: Vec<AppendEvent>,
    /// Commits with an idempotency key, sent until answered; one event each, from the first try to the last.
    pub(crate) once: Vec<AppendEvent>,
    pub(crate) locks: Vec<LockEvent>,
    /// Appends guarded by a lock's token; the record is `LOCK:TOKEN:CLIENT-NUMBER`.
    pub(crate) fenced: Vec<AppendEvent>,
    pub(crate) counts: Counts,
    /// Why requests had no success.
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// Operations by outcome.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) not_sent: u64,
    pub(crate) unclear: u64,
    /// Retries under an idempotency key after an unclear answer.
    pub(crate) retried: u64,
    /// Of those, answers that said that the first try had happened.
    pub(crate) replayed: u64,
}

impl Counts {
    pub(crate) fn all(&self) -> u64 {
        self.acknowledged + self.refused + self.not_sent + self.unclear
    }
}

/// The clock of a run.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

impl History {
    /// Counts what became of a request.
    pub(crate) fn note(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Done(_) => &mut self.counts.acknowledged,
            Outcome::Refused(_) => &mut self.counts.refused,
            Outcome::NotSent(_) => &mut self.counts.not_sent,
            Outcome::Unclear(_) => &mut self.counts.unclear,
        } += 1;
        if let Some(reason) = outcome.reason() {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    /// One JSON value a line, for looking into an anomaly by other means.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Value> + '_ {
        let time = |span: &Span| json!([span.begun, (span.ended != OPEN).then_some(span.ended)]);
        let registers = self.registers.iter().map(move |event| {
            json!({"register": event.register, "client": event.client, "node": event.node, "time": time(&event.span),
                "did": format!("{:?}", event.touch)})
        });
        let append = move |kind: &'static str, event: &AppendEvent| {
            json!({"append": kind, "record": event.record, "client": event.client, "time": time(&event.span),
                "fate": format!("{:?}", event.fate)})
        };
        let locks = self.locks.iter().map(move |event| {
            json!({"lock": event.lock, "client": event.client, "time": time(&event.span), "token": event.token,
                "promised": event.promised, "released": (event.released != OPEN).then_some(event.released)})
        });
        registers
            .chain(self.appends.iter().map(move |event| append("plain", event)))
            .chain(self.once.iter().map(move |event| append("once", event)))
            .chain(self.fenced.iter().map(move |event| append("fenced", event)))
            .chain(locks)
    }
}
