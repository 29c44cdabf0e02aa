//! What the tasks of one node's links share: the peers, who dials us, and the way to the host.
//!
//! Invariant: a node has at most one task that dials it; a new one starts its work when the old one has ended, so that `down` of the
//! old link comes before `up` of the new.
//! Invariant: an older accepted connection of a node delivers nothing once a newer one was welcomed.
//! Called by: `Links`, and every task.

use crate::bulk::BulkSlot;
use crate::config::LinksConfig;
use crate::dial;
use crate::handshake::Purpose;
use crate::notes::Notes;
use crate::outbox::Outbox;
use crate::{FETCHES_IN_FLIGHT_MAX, Host};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

pub(crate) struct Shared {
    pub(crate) rt: Handle,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) config: LinksConfig,
    notes: Notes,
    links: AtomicU64,
    dials: AtomicU64,
    peers: RwLock<HashMap<u64, Arc<Peer>>>,
    /// The task that dials a node, ended ones too: the next one waits for it.
    tasks: Mutex<HashMap<u64, JoinHandle<()>>>,
    inbound: Mutex<HashMap<(u64, Purpose), Arc<Inbound>>>,
    stopped: watch::Sender<bool>,
}

/// A node we dial.
pub(crate) struct Peer {
    pub(crate) node: u64,
    pub(crate) address: String,
    pub(crate) outbox: Outbox,
    pub(crate) bulk: BulkSlot,
    /// Turns of `fetch`.
    pub(crate) fetches: Semaphore,
    /// Set when the node is no peer any more, with the reason.
    pub(crate) closed: watch::Sender<Option<&'static str>>,
    /// It dialled us: it is up.
    pub(crate) heard: Notify,
    /// The incarnation with which it dialled us last.
    pub(crate) heard_incarnation: Mutex<Option<u64>>,
}

/// Accepted connections of one node and purpose: which of them counts.
#[derive(Default)]
pub(crate) struct Inbound {
    turn: Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    generation: u64,
    end_older: Option<oneshot::Sender<()>>,
}

/// The right of an accepted connection to deliver, until a newer one takes it.
pub(crate) struct Place {
    inbound: Arc<Inbound>,
    generation: u64,
}

impl Shared {
    pub(crate) fn new(rt: Handle, host: Arc<dyn Host>, config: LinksConfig) -> Arc<Shared> {
        Arc::new(Shared {
            rt,
            host,
            config,
            notes: Notes::default(),
            links: AtomicU64::new(0),
            dials: AtomicU64::new(0),
            peers: RwLock::default(),
            tasks: Mutex::default(),
            inbound: Mutex::default(),
            stopped: watch::Sender::new(false),
        })
    }

    pub(crate) fn peer(&self, node: u64) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// See `Links::flush`.
    pub(crate) fn flush(&self) {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().for_each(|peer| peer.outbox.flush());
    }

    /// See `Links::set_peers`. Of several addresses for one node the last counts.
    pub(crate) fn set_peers(self: &Arc<Shared>, wanted: Vec<(u64, String)>) {
        let mut tasks = lock(&self.tasks); // Held throughout: two calls at once must not start two tasks.
        if *self.stopped.borrow() {
            return;
        }
        let mut old = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = HashMap::new();
        for (node, address) in wanted {
            new.insert(node, address);
        }
        old.retain(|node, peer| match new.get(node) {
            Some(address) if *address == peer.address => true,
            Some(_) => peer.close("its address changed"),
            None => peer.close("it is no peer any more"),
        });
        for (node, address) in new {
            if old.contains_key(&node) {
                continue;
            }
            let peer = Arc::new(Peer::new(node, address, &self.config));
            old.insert(node, peer.clone());
            let before = tasks.remove(&node);
            tasks.insert(node, self.rt.spawn(dial::keep(self.clone(), peer, before)));
        }
    }

    pub(crate) fn stop(&self) {
        let _tasks = lock(&self.tasks);
        self.stopped.send_replace(true);
        for (_, peer) in self.peers.write().unwrap_or_else(PoisonError::into_inner).drain() {
            peer.close("the links were stopped");
        }
    }

    /// Returns when the links are stopped.
    pub(crate) async fn until_stopped(&self) {
        // The sender is ours, so it outlives the wait: this cannot fail.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// `node` dialled us and was welcomed: it is up, and links to an earlier process of it are not.
    pub(crate) fn heard(&self, node: u64, incarnation: u64) {
        if let Some(peer) = self.peer(node) {
            *lock(&peer.heard_incarnation) = Some(incarnation);
            peer.heard.notify_one();
        }
    }

    /// Makes a connection of `node` the one that counts. From here on, nothing of an older one is delivered. The receiver hears when a
    /// newer one takes its place in turn.
    pub(crate) fn take_place(&self, node: u64, purpose: Purpose) -> (Place, oneshot::Receiver<()>) {
        let inbound = lock(&self.inbound).entry((node, purpose)).or_default().clone();
        inbound.take_place()
    }

    pub(crate) fn next_link(&self) -> u64 {
        self.links.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A number that differs from dial to dial and from process to process, for jitter. No randomness is needed for that.
    pub(crate) fn dial_number(&self) -> u64 {
        let count = self.dials.fetch_add(1, Ordering::Relaxed);
        // The finalizer of SplitMix64: Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
        let mut z = self.host.hello().incarnation.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Tells the operator about a peer, unless that was told just now.
    pub(crate) fn note(&self, peer: &str, text: &str) {
        if !*self.stopped.borrow() && self.notes.admit(peer, text, Instant::now()) {
            self.host.note(format!("{peer}: {text}"));
        }
    }
}

impl Peer {
    fn new(node: u64, address: String, config: &LinksConfig) -> Peer {
        Peer {
            node,
            address,
            outbox: Outbox::new(config.frame_bytes_max, config.queue_bytes_max),
            bulk: BulkSlot::default(),
            fetches: Semaphore::new(FETCHES_IN_FLIGHT_MAX),
            closed: watch::Sender::new(None),
            heard: Notify::new(),
            heard_incarnation: Mutex::new(None),
        }
    }

    /// Ends its tasks. False, for `retain`.
    fn close(&self, why: &'static str) -> bool {
        self.outbox.close();
        self.closed.send_replace(Some(why));
        false
    }

    /// Returns when the node is no peer any more, with the reason.
    pub(crate) async fn until_closed(&self) -> &'static str {
        let mut closed = self.closed.subscribe();
        let why = closed.wait_for(Option::is_some).await.ok().and_then(|why| *why);
        why.unwrap_or("it is no peer any more") // The sender is the peer's own, so the wait cannot fail.
    }

    /// How notes call it.
    pub(crate) fn title(&self) -> String {
        format!("node {} at {}", self.node, self.address)
    }
}

impl Inbound {
    fn take_place(self: Arc<Inbound>) -> (Place, oneshot::Receiver<()>) {
        let (end, replaced) = oneshot::channel();
        let mut turn = lock(&self.turn); // Waits for a delivery under way.
        turn.generation += 1;
        let generation = turn.generation;
        if let Some(older) = turn.end_older.replace(end) {
            let _ = older.send(()); // It may have ended by itself.
        }
        drop(turn);
        (Place { inbound: self, generation }, replaced)
    }
}

impl Place {
    /// Runs `deliver`, unless a newer connection has taken the place: then false. While it runs, no newer one is welcomed.
    pub(crate) fn deliver(&self, deliver: impl FnOnce()) -> bool {
        let turn = lock(&self.inbound.turn);
        let mine = turn.generation == self.generation;
        if mine {
            deliver();
        }
        mine
    }
}

/// Locks what no panic leaves half-changed: everything locked here is replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_connection_delivers_nothing_once_a_newer_one_has_its_place() {
        let inbound = Arc::new(Inbound::default());
        let (old, mut old_replaced) = inbound.clone().take_place();
        let mut delivered = Vec::new();
        assert!(old.deliver(|| delivered.push("old")));
        assert!(old_replaced.try_recv().is_err());
        let (new, mut new_replaced) = inbound.take_place();
        // Even before the old one's task has heard of it.
        assert!(!old.deliver(|| delivered.push("late")));
        assert!(new.deliver(|| delivered.push("new")));
        assert_eq!(delivered, ["old", "new"]);
        assert!(old_replaced.try_recv().is_ok() && new_replaced.try_recv().is_err());
    }
}
