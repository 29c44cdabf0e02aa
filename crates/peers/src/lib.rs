//! Links between nodes: opaque frames in order, and bulk requests beside them, over TCP or mutual TLS.
//!
//! Each node dials each of its peers and *sends* on the connection it dialled; it *receives* on those it accepted. So every direction
//! of every pair has one TCP stream of its own: frames of one link arrive in the order of [`Links::queue`], or not at all. Bulk requests
//! ([`Links::fetch`]) have a connection of their own, so that a large answer never stands before a message. The bytes are in
//! docs/formats/peers.md. Read `shared.rs` first, then `dial.rs` and `accept.rs`; `pump.rs` moves the frames of every connection.
//!
//! Invariant: what one link carries is delivered in order, each frame at most once; a frame after a lost one is never delivered.
//! Invariant: after [`Host::down`] no frame that was sent before it is delivered to the peer once [`Host::up`] has been called again.
//! Invariant: no frame of an older connection is delivered after a newer one of the same peer was welcomed.
//! Invariant: memory is bounded whatever a peer sends: by what has arrived, never by what a length field claims.
//! Invariant: the host is never called inside `queue`, `flush`, `set_peers` or `stop`, so these may be called under the host's own lock.
//! Called by: the runtime (one [`Links`] per node, everything runs on the runtime it names). Knows no other crate of ours.
//! Source: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm", ATC 2014 needs no order of messages; our consensus
//! library does (one ordered stream per pair, nothing of the old one after a reconnect), hence the invariants.

mod accept;
mod bulk;
mod config;
mod dial;
mod error;
mod frame;
mod handshake;
mod notes;
mod outbox;
mod pump;
mod shared;
mod stream;
mod tls;

pub use config::LinksConfig;
pub use error::PeersError;
pub use tls::PeerTls;

use bytes::Bytes;
use shared::Shared;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Most bytes of [`Hello::features`].
pub const FEATURES_BYTES_MAX: usize = 4096;
/// Most bytes of a request given to [`Links::fetch`].
pub const FETCH_REQUEST_BYTES_MAX: usize = 1 << 20;
/// Most bytes of an answer of [`Host::fetch`].
pub const FETCH_ANSWER_BYTES_MAX: usize = 8 << 20;
/// Bulk requests that one node serves to one other at a time; [`Links::fetch`] waits for its turn.
pub const FETCHES_IN_FLIGHT_MAX: usize = 8;

/// A future on the heap, as [`Host::fetch`] returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who a node is, said at the beginning of every connection, by both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster it belongs to; 0: no member yet.
    pub cluster: u128,
    /// The node's id in its cluster.
    pub node: u64,
    /// Of the data folder: another folder is another instance, even under the same node id.
    pub instance: u64,
    /// Of the process: each start has its own.
    pub incarnation: u64,
    /// What the hosts have to tell each other (versions, advertised addresses); not interpreted here. At most [`FEATURES_BYTES_MAX`].
    pub features: Bytes,
}

/// What the links need from the node they serve, and what they tell it.
///
/// All methods are called from tasks of the runtime given to [`Links::start`], never while a lock of the links is held that
/// [`Links::queue`] takes; so each may call that, and `flush`. None may block for long: they run on the thread that serves the links.
pub trait Host: Send + Sync + 'static {
    /// Who we are now. Asked at every handshake, since a node becomes a member while it runs.
    fn hello(&self) -> Hello;

    /// Whether `peer` may talk to us (`dialled` is none), or be talked to (`dialled` is the node we meant to dial; that it is the one who
    /// answered is checked before).
    ///
    /// # Errors
    /// The reason. It is sent to the peer and given to [`Host::note`].
    fn accept(&self, peer: &Hello, dialled: Option<u64>) -> Result<(), String>;

    /// Our sending link to `node` stands (again). What was sent before the last [`Host::down`] is lost or delivered, nothing more of it
    /// will be. `link` is larger than that of every link before it.
    fn up(&self, node: u64, hello: Hello, link: u64);

    /// The sending link ended: some of what was sent may be lost. `queue` answers false until the next [`Host::up`].
    fn down(&self, node: u64, link: u64, why: &str);

    /// Every frame that one read from `node` completed, in order. One call per read, so that the host works once for all of them; it may
    /// drain the list or leave it. The frames share the read's buffer (16 KiB to 1 MiB, or a large frame's own size): copy what is kept long.
    fn frames(&self, node: u64, hello: &Hello, frames: &mut Vec<Bytes>);

    /// Serves one bulk request of `node`; the answer has at most [`FETCH_ANSWER_BYTES_MAX`]. The future is dropped when the connection ends.
    ///
    /// # Errors
    /// What the requester is told, see [`PeersError::FetchRefused`].
    fn fetch(&self, node: u64, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;

    /// Something worth telling an operator. The same about the same peer comes at most every 10 s.
    fn note(&self, text: String);
}

/// A node's links to its peers. Dropping it stops them, as [`Links::stop`] does.
pub struct Links {
    shared: Arc<Shared>,
    local: SocketAddr,
}

impl Links {
    /// Begins to accept on `listener`. Every task runs on `rt`, which needs I/O and time enabled and may be single-threaded.
    ///
    /// # Errors
    /// [`PeersError::Config`] for limits that contradict each other, [`PeersError::Listen`] when the listener cannot be used.
    pub fn start(
        rt: &Handle,
        listener: TcpListener,
        host: Arc<dyn Host>,
        config: LinksConfig,
    ) -> Result<Links, PeersError> {
        config.check()?;
        handshake::check_features(&host.hello())?;
        let failed = |error: std::io::Error| PeersError::Listen { why: error.to_string() };
        listener.set_nonblocking(true).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let listener = {
            let _entered = rt.enter(); // A socket registers with the runtime whose context it is made in.
            tokio::net::TcpListener::from_std(listener).map_err(failed)?
        };
        let shared = Shared::new(rt.clone(), host, config);
        rt.spawn(accept::serve(shared.clone(), listener));
        Ok(Links { shared, local })
    }

    /// Dials exactly these from now on: node ids and `host:port`, resolved anew at each dial. Links to others are closed, and so are
    /// those whose address changed; a link that stands to a peer that stays is left alone.
    pub fn set_peers(&self, peers: Vec<(u64, String)>) {
        self.shared.set_peers(peers);
    }

    /// Queues a frame for `node`, to be written by [`Links::flush`]. Never blocks, and is cheap: what several calls queue becomes one write.
    ///
    /// False: dropped, because no link stands, its queue is full, or the frame is empty or larger than `frame_bytes_max`. True says
    /// nothing about delivery.
    pub fn queue(&self, node: u64, frame: Bytes) -> bool {
        self.shared.peer(node).is_some_and(|peer| peer.outbox.queue(frame))
    }

    /// [`Links::queue`] and [`Links::flush`] for a single frame.
    pub fn send(&self, node: u64, frame: Bytes) -> bool {
        self.shared.peer(node).is_some_and(|peer| peer.outbox.send(frame))
    }

    /// Writes what was queued, on the calling thread as far as the sockets take it at once; their tasks do the rest. Never blocks.
    pub fn flush(&self) {
        self.shared.flush();
    }

    /// Asks `node` for bulk data, over a connection of its own. Up to [`FETCHES_IN_FLIGHT_MAX`] at a time per node; more wait.
    ///
    /// # Errors
    /// [`PeersError::FetchRefused`] is the other host's answer; with every other error it is not known whether the request was served.
    pub async fn fetch(&self, node: u64, request: Bytes, timeout: Duration) -> Result<Bytes, PeersError> {
        let shared = self.shared.clone();
        // On the links' own runtime, where their sockets live; the caller may be on another.
        let asked = self.shared.rt.spawn(async move { bulk::fetch(&shared, node, request, timeout).await });
        joined(asked).await
    }

    /// Who answers at `host:port`, a peer or not. The host is not asked whether it accepts it.
    ///
    /// # Errors
    /// What keeps us from knowing: nobody there, no Quorate node, another version, TLS on one side only…
    pub async fn probe(&self, address: &str) -> Result<Hello, PeersError> {
        let (shared, address) = (self.shared.clone(), address.to_owned());
        let asked = self.shared.rt.spawn(async move { dial::probe(&shared, &address).await });
        joined(asked).await
    }

    /// The address that was bound: tells the port when port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Ends every link and stops listening. [`Host::down`] is still called for links that stood, by their tasks; then nothing more is.
    pub fn stop(&self) {
        self.shared.stop();
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Awaits a task and gives it up when the caller does.
async fn joined<T>(task: tokio::task::JoinHandle<Result<T, PeersError>>) -> Result<T, PeersError> {
    struct GiveUp(tokio::task::AbortHandle);
    impl Drop for GiveUp {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let _give_up = GiveUp(task.abort_handle());
    // A task that ends without a result was cut off by the end of its runtime.
    task.await.unwrap_or(Err(PeersError::Stopped))
}
