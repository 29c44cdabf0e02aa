//! What all connections share: the way to the runtime, who is connected, who listens, who waits, and what was counted.
//!
//! Invariant: no lock here is held across an `await`.
//! Called by: `serve` makes it, `connection` and `commands` use it.

use crate::blocking::Queues;
use crate::client::Client;
use crate::config::Config;
use crate::error;
use crate::pubsub::Subscriptions;
use crate::slowlog::Slowlog;
use bytes::Bytes;
use quorate_calls::events::Classes;
use quorate_calls::streams;
use quorate_node::Published;
use quorate_runtime::{Handle, Unreadable};
use quorate_types::{
    Blob, Command, CommandBody, Commit, Committed, Limits, OpResult, Outcome, PayloadRef, Principal, Reply,
};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

/// Locks. What a thread that panicked left behind is whole: every change here is a single step.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module's documentation.
pub(crate) struct Gateway {
    pub(crate) handle: Handle,
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Names this life of the gateway.
    pub(crate) run_id: String,
    pub(crate) started: Instant,
    pub(crate) clients: Mutex<BTreeMap<u64, Arc<Client>>>,
    pub(crate) subscriptions: Mutex<Subscriptions>,
    /// The classes of keyspace events that this node tells of.
    pub(crate) events: Mutex<Classes>,
    pub(crate) monitors: Monitors,
    pub(crate) tracking: crate::tracking::Tracking,
    pub(crate) slowlog: Slowlog,
    pub(crate) latency: crate::latency::Latency,
    pub(crate) acl_log: crate::acl::Log,
    pub(crate) queues: Queues,
    pub(crate) pause: Pause,
    pub(crate) stats: Stats,
    /// What CONFIG SET can change here.
    pub(crate) connections_max: AtomicUsize,
    /// Seconds after which a silent client is closed; 0 for never.
    pub(crate) idle_seconds: AtomicU64,
    next_client: AtomicU64,
    seed: AtomicU64,
}

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) commands: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) input_bytes: AtomicU64,
    pub(crate) output_bytes: AtomicU64,
    pub(crate) errors: AtomicU64,
    /// When the commands were last counted for a rate, how many they were, and the rate.
    pub(crate) rate: Mutex<Option<(Instant, u64, u64)>>,
}

/// Who is a client: told with every command, for `why`.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) principal: Principal,
    pub(crate) name: Blob,
}

impl Gateway {
    pub(crate) fn new(handle: Handle, config: Config, address: SocketAddr) -> Self {
        let draw = || std::hash::RandomState::new().build_hasher().finish();
        Self {
            limits: handle.limits(),
            handle,
            address,
            run_id: format!("{:016x}{:016x}{:08x}", draw(), draw(), draw() as u32),
            started: Instant::now(),
            clients: Mutex::default(),
            subscriptions: Mutex::default(),
            events: Mutex::default(),
            monitors: Monitors::default(),
            tracking: crate::tracking::Tracking::default(),
            slowlog: Slowlog::default(),
            latency: crate::latency::Latency::default(),
            acl_log: crate::acl::Log::default(),
            queues: Queues::default(),
            pause: Pause::default(),
            stats: Stats::default(),
            connections_max: AtomicUsize::new(config.connections_max),
            idle_seconds: AtomicU64::new(0),
            next_client: AtomicU64::new(1),
            seed: AtomicU64::new(draw()),
            config,
        }
    }

    /// Enters a client.
    pub(crate) fn enter(&self, address: SocketAddr, local: SocketAddr) -> Arc<Client> {
        let id = self.next_client.fetch_add(1, Ordering::Relaxed);
        let client = Arc::new(Client::new(id, address, local, "anonymous".into()));
        locked(&self.clients).insert(id, Arc::clone(&client));
        client
    }

    /// Whether whoever does not say who it is may do what the user `default` may.
    pub(crate) fn is_open(&self) -> bool {
        self.config.door.is_none() && self.handle.door_is_open()
    }

    /// Who is connected, in order of their ids.
    pub(crate) fn connected(&self) -> Vec<Arc<Client>> {
        locked(&self.clients).values().cloned().collect()
    }

    /// A number that nobody can foretell well, for random picks of reads, leases and names of tasks: not for secrets.
    pub(crate) fn random(&self) -> u64 {
        // SplitMix64.
        let mut x = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Commits, and waits until the answer is certain or the time is over.
    ///
    /// # Errors
    /// The reply that says what happened, or that nothing did.
    pub(crate) async fn commit(&self, who: &Who, commit: Commit) -> Result<Committed, Reply> {
        match self.command(who, CommandBody::Commit { commit }).await? {
            Outcome::Committed { mut committed } => {
                for result in &mut committed.results {
                    if let OpResult::Reply { reply } = result
                        && !streams::refs(reply).is_empty()
                    {
                        *reply = self.resolved(std::mem::replace(reply, Reply::Nil)).await;
                    }
                }
                Ok(committed)
            }
            Outcome::Refused { refusal } => Err(error::refusal(&refusal)),
            other => {
                Err(Reply::error(format!("ERR a commit was answered with {other:?}: please report this")))
            }
        }
    }

    /// A reply with the records that it names: their bytes are in the log, and are read off this thread.
    pub(crate) async fn resolved(&self, reply: Reply) -> Reply {
        let refs = streams::refs(&reply);
        let mut found: HashMap<PayloadRef, Bytes> = HashMap::with_capacity(refs.len());
        for (at, records) in refs.iter().zip(self.handle.records(refs.clone()).await.unwrap_or_default()) {
            match records {
                Ok(records) => drop(found.insert(*at, records)),
                // One that was trimmed meanwhile is gone; the others are there.
                Err(Unreadable::Log(_)) => {}
                Err(why) => return Reply::error(format!("ERR {why}")),
            }
        }
        streams::resolve(reply, &mut |at| found.get(&at).cloned())
    }

    /// Sends any command but a wait.
    ///
    /// # Errors
    /// As [`Gateway::commit`].
    pub(crate) async fn command(&self, who: &Who, body: CommandBody) -> Result<Outcome, Reply> {
        let command =
            Command { principal: who.principal.clone(), client: who.name.clone(), trace: Blob::EMPTY, body };
        match tokio::time::timeout(self.config.command_timeout, self.handle.command(command)).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(why)) => Err(error::runtime(&why)),
            Err(_) => Err(Reply::error(error::INDETERMINATE)),
        }
    }

    /// Sends a message to everybody who listens, at this node and at the others; how many listen here.
    ///
    /// # Errors
    /// The node has stopped.
    pub(crate) fn publish(&self, channel: &Blob, message: &Blob, sharded: bool) -> Result<usize, Reply> {
        let listeners = locked(&self.subscriptions).listeners(channel, sharded);
        let published = Published { channel: channel.clone(), message: message.clone(), sharded };
        // What it is given comes back by `deliver`, in one order with what others publish.
        self.handle.publish(published).map_err(|why| error::runtime(&why))?;
        Ok(listeners)
    }

    /// Has the events of keys made that somebody listens to, or none where nobody does.
    pub(crate) fn listen(&self) {
        let classes = *locked(&self.events);
        let heard = classes.tells() && locked(&self.subscriptions).hears_of_keys();
        self.handle.listen(if heard { classes } else { Classes::default() });
    }

    /// Tells the subscribers of this node, as long as the runtime has something to tell.
    pub(crate) async fn deliver(&self, mut published: UnboundedReceiver<Published>) {
        while let Some(Published { channel, message, sharded }) = published.recv().await {
            let bytes_max = self.config.pushes_bytes_max;
            locked(&self.subscriptions).publish(&channel, &message, sharded, bytes_max);
        }
    }

    /// Samples how long a command took; whether it is one for the slow log.
    pub(crate) fn is_slow(&self, took: Duration) -> bool {
        self.latency.note(took);
        self.slowlog.wants(took)
    }

    /// Tells clients that track what they have read, as long as something may change.
    pub(crate) async fn invalidate(&self, mut changes: UnboundedReceiver<quorate_runtime::Changes>) {
        while let Some(changes) = changes.recv().await {
            self.tracking.changed(self, &changes);
        }
    }

    /// Ends the connections of users that are not let in any more, and has all others look at what they may do, each time users change.
    pub(crate) async fn mind_users(&self) {
        let mut changed = self.handle.users_changed();
        while changed.changed().await.is_ok() {
            for client in self.connected() {
                let seen = client.seen();
                let alive = self.handle.rights(&seen.principal).map(|rights| rights.alive().is_ok());
                // Who has not said who it is only loses what was open; whoever waits for its node's folder is left alone.
                if alive == Ok(false) && seen.entered { client.kill() } else { client.poke() }
            }
        }
    }

    /// Where clients are told to find this gateway: host and port.
    pub(crate) fn advertised(&self) -> (String, u16) {
        let told = self.config.advertise.as_deref().and_then(|told| told.rsplit_once(':'));
        match told {
            Some((host, port)) => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                (host.to_owned(), port.parse().unwrap_or(self.address.port()))
            }
            None => (self.address.ip().to_string(), self.address.port()),
        }
    }
}

/// Clients that see every command (MONITOR).
#[derive(Default)]
pub(crate) struct Monitors {
    any: AtomicBool,
    all: Mutex<Vec<Arc<Client>>>,
}

impl Monitors {
    pub(crate) fn add(&self, client: &Arc<Client>) {
        let mut all = locked(&self.all);
        if !all.iter().any(|other| other.id == client.id) {
            all.push(Arc::clone(client));
        }
        self.any.store(true, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, client: u64) {
        let mut all = locked(&self.all);
        all.retain(|other| other.id != client);
        self.any.store(!all.is_empty(), Ordering::Relaxed);
    }

    /// Shows a command to everybody who watches. A watcher that does not keep up is disconnected.
    pub(crate) fn show(&self, client: &Client, database: u16, words: &[Blob], bytes_max: usize) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let line = crate::slowlog::monitor_line(client, database, words);
        for watcher in locked(&self.all).iter() {
            watcher.push(&line, bytes_max);
        }
    }
}

/// CLIENT PAUSE.
#[derive(Default)]
pub(crate) struct Pause {
    any: AtomicBool,
    /// Until when, and whether reads wait too.
    until: Mutex<Option<(tokio::time::Instant, bool)>>,
    changed: Notify,
}

impl Pause {
    /// Has commands wait; a longer pause, and one of all commands, stands.
    pub(crate) fn begin(&self, time: Duration, all: bool) {
        let end = tokio::time::Instant::now() + time.min(Duration::from_secs(365 * 24 * 3600));
        let mut until = locked(&self.until);
        let before = until.filter(|(until, _)| *until > tokio::time::Instant::now());
        *until = Some(before.map_or((end, all), |(other, other_all)| (other.max(end), all || other_all)));
        self.any.store(true, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        *locked(&self.until) = None;
        self.any.store(false, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// Until when a command waits now.
    pub(crate) fn holds(&self, writes: bool) -> Option<tokio::time::Instant> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let until = *locked(&self.until);
        until
            .filter(|(until, all)| (writes || *all) && *until > tokio::time::Instant::now())
            .map(|(until, _)| until)
    }

    /// Waits while it holds.
    pub(crate) async fn wait(&self, writes: bool) {
        loop {
            let changed = self.changed.notified();
            let Some(until) = self.holds(writes) else { return };
            // Whichever comes first, it is looked again.
            let _ = tokio::time::timeout_at(until, changed).await;
        }
    }
}
