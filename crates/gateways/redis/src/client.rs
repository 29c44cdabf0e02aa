//! A client as others see it: what CLIENT LIST tells, and the box where others leave it something.
//!
//! Invariant: what waits in a box is bounded; a client that does not take it is told no more, and ends.
//! Called by: `connection` (its own), `pubsub` and `monitor` (pushes), `commands::client` (list, kill, unblock).

use crate::gateway::locked;
use crate::resp::Protocol;
use futures_util::task::AtomicWaker;
use quorate_types::{Blob, Principal};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Instant;

/// One connected client.
pub(crate) struct Client {
    /// Told from every other since the start.
    pub(crate) id: u64,
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// Where it reached us.
    pub(crate) local: SocketAddr,
    created: Instant,
    /// Something lies in the box.
    told: AtomicBool,
    waker: AtomicWaker,
    letters: Mutex<Letters>,
    seen: Mutex<Seen>,
}

/// What others have left.
#[derive(Default)]
pub(crate) struct Letters {
    /// Pushes, as bytes of the client's protocol.
    pub(crate) pushes: Vec<u8>,
    /// The connection is to end.
    pub(crate) killed: bool,
    /// Its wait is to end.
    pub(crate) unblock: Option<Unblock>,
}

/// How CLIENT UNBLOCK ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unblock {
    /// As if its time had passed.
    Timeout,
    /// With an error.
    Error,
}

/// What CLIENT LIST tells.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) name: Blob,
    pub(crate) library: Blob,
    pub(crate) library_version: Blob,
    pub(crate) principal: Principal,
    /// Whether it has said who it is.
    pub(crate) entered: bool,
    pub(crate) protocol: Protocol,
    pub(crate) database: u16,
    pub(crate) channels: usize,
    pub(crate) patterns: usize,
    pub(crate) shards: usize,
    /// Commands queued; nothing outside a transaction.
    pub(crate) queued: Option<usize>,
    pub(crate) watched: usize,
    pub(crate) blocked: bool,
    pub(crate) monitor: bool,
    pub(crate) no_evict: bool,
    pub(crate) no_touch: bool,
    pub(crate) readonly: bool,
    /// Whom invalidations go to while it tracks what it reads (0: itself), and whether it tracks prefixes.
    pub(crate) tracking: Option<(u64, bool)>,
    pub(crate) command: &'static str,
    pub(crate) last: Instant,
    pub(crate) input_bytes: usize,
}

impl Client {
    pub(crate) fn new(id: u64, address: SocketAddr, local: SocketAddr, principal: Principal) -> Self {
        let now = Instant::now();
        let seen = Seen {
            name: Blob::EMPTY,
            library: Blob::EMPTY,
            library_version: Blob::EMPTY,
            principal,
            entered: false,
            protocol: Protocol::Two,
            database: 0,
            channels: 0,
            patterns: 0,
            shards: 0,
            queued: None,
            watched: 0,
            blocked: false,
            monitor: false,
            no_evict: false,
            no_touch: false,
            readonly: false,
            tracking: None,
            command: "NULL",
            last: now,
            input_bytes: 0,
        };
        Self {
            id,
            address,
            local,
            created: now,
            told: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            letters: Mutex::default(),
            seen: Mutex::new(seen),
        }
    }

    /// Has the task that serves this client woken when something is left in the box.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Whether something lies in the box.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Empties the box.
    pub(crate) fn take_letters(&self) -> Letters {
        self.told.store(false, Ordering::Release);
        std::mem::take(&mut locked(&self.letters))
    }

    /// Leaves a push; beyond the bound the client's connection ends instead.
    pub(crate) fn push(&self, bytes: &[u8], max: usize) {
        let mut letters = locked(&self.letters);
        if letters.pushes.len() + bytes.len() > max {
            letters.pushes = Vec::new();
            letters.killed = true;
        } else if !letters.killed {
            letters.pushes.extend_from_slice(bytes);
        }
        drop(letters);
        self.wake();
    }

    /// Whether the connection is to end.
    pub(crate) fn is_killed(&self) -> bool {
        locked(&self.letters).killed
    }

    /// Ends the connection.
    pub(crate) fn kill(&self) {
        locked(&self.letters).killed = true;
        self.wake();
    }

    /// Has its task look around.
    pub(crate) fn poke(&self) {
        self.wake();
    }

    /// Ends its wait, if it has one.
    pub(crate) fn unblock(&self, how: Unblock) -> bool {
        if !locked(&self.seen).blocked {
            return false;
        }
        locked(&self.letters).unblock = Some(how);
        self.wake();
        true
    }

    fn wake(&self) {
        self.told.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Notes what the client is at now.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut locked(&self.seen));
    }

    /// What the client is at.
    pub(crate) fn seen(&self) -> Seen {
        locked(&self.seen).clone()
    }

    /// What it speaks.
    pub(crate) fn protocol(&self) -> Protocol {
        locked(&self.seen).protocol
    }

    /// How long it has been connected, in seconds.
    pub(crate) fn age(&self) -> u64 {
        self.created.elapsed().as_secs()
    }

    /// Its kind, as CLIENT LIST TYPE has it.
    pub(crate) fn kind(&self) -> &'static str {
        let seen = locked(&self.seen);
        if seen.channels + seen.patterns + seen.shards > 0 { "pubsub" } else { "normal" }
    }

    /// Its line of CLIENT LIST.
    pub(crate) fn line(&self) -> String {
        let seen = self.seen();
        let mut flags = String::new();
        for (flag, is) in [
            ('O', seen.monitor),
            ('P', seen.channels + seen.patterns + seen.shards > 0),
            ('b', seen.blocked),
            ('r', seen.readonly),
            ('t', seen.tracking.is_some()),
            ('B', seen.tracking.is_some_and(|(_, broadcast)| broadcast)),
            ('x', seen.queued.is_some()),
            ('e', seen.no_evict),
            ('T', seen.no_touch),
        ] {
            if is {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let waiting = locked(&self.letters).pushes.len();
        let queued = seen.queued.map_or(-1, |queued| i64::try_from(queued).unwrap_or(i64::MAX));
        let mut line = String::with_capacity(256);
        // A string takes everything.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db={} sub={} psub={} ssub={} multi={queued} watch={} qbuf={} omem={waiting} user={} redir={} resp={} lib-name={} lib-ver={} cmd={}",
            self.id,
            self.address,
            self.local,
            seen.name,
            self.age(),
            seen.last.elapsed().as_secs(),
            seen.database,
            seen.channels,
            seen.patterns,
            seen.shards,
            seen.watched,
            seen.input_bytes,
            user(&seen.principal),
            seen.tracking.map_or(-1, |(redirect, _)| i64::try_from(redirect).unwrap_or(i64::MAX)),
            seen.protocol.number(),
            seen.library,
            seen.library_version,
            seen.command,
        );
        line
    }
}

/// The name of a user, as Redis clients know them.
pub(crate) fn user(principal: &Principal) -> String {
    crate::commands::shown_name(principal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let address = "127.0.0.1:5".parse().unwrap();
        Client::new(7, address, address, "anonymous".into())
    }

    #[test]
    fn a_client_that_takes_nothing_ends_instead_of_filling_memory() {
        let client = client();
        client.push(b"1234", 6);
        assert!(client.is_told());
        client.push(b"5678", 6);
        let letters = client.take_letters();
        assert!(letters.killed && letters.pushes.is_empty());
    }

    #[test]
    fn only_who_waits_is_unblocked() {
        let client = client();
        assert!(!client.unblock(Unblock::Error));
        client.note(|seen| seen.blocked = true);
        assert!(client.unblock(Unblock::Timeout));
        assert_eq!(client.take_letters().unblock, Some(Unblock::Timeout));
    }

    #[test]
    fn its_line_says_what_it_is_at() {
        let client = client();
        client.note(|seen| (seen.database, seen.channels) = (3, 1));
        let line = client.line();
        assert!(line.starts_with("id=7 addr=127.0.0.1:5 laddr=127.0.0.1:5 "), "{line}");
        assert!(line.contains(" flags=P db=3 sub=1 ") && line.contains(" user=default "), "{line}");
    }
}
