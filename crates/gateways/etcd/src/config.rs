//! Every bound and switch of the gateway, with its default.
//!
//! Called by: the server's `main`, and `serve`.

use quorate_types::Principal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// Tells whose secret this is: the door that all gateways share.
pub trait Door: Send + Sync {
    /// Whose secret it is; nothing when it is nobody's.
    fn principal(&self, secret: &str) -> Option<Principal>;
}

/// Settings of the gateway. Sizes are in bytes.
#[derive(Clone)]
pub struct Config {
    /// Largest request.
    pub request_bytes_max: u64,
    /// Most comparisons, or operations of one list, of a transaction, inner ones included.
    pub operations_max: u64,
    /// Connections at once; one more is closed.
    pub connections_max: usize,
    /// Bytes of events that wait for one stream of watches; beyond, its watches read history at their own pace.
    pub watch_bytes_max: usize,
    /// Watches of one stream at once.
    pub watches_max: usize,
    /// Silence after which a watch that asked for it is told how far it is.
    pub progress_interval: Duration,
    /// How long a token of Authenticate lives that nobody uses.
    pub token_ttl: Duration,
    /// How long a command may stay open; then its outcome is said to be indeterminate.
    pub command_timeout: Duration,
    /// How long a client may take to shake hands by TLS.
    pub handshake_timeout: Duration,
    /// How long open requests may go on after shutdown began.
    pub shutdown_grace: Duration,
    /// Where clients are told to find this gateway, as `host:port`; the address it listens on without.
    pub advertise: Option<String>,
    /// Whether FLUSHDB and FLUSHALL may take what etcd clients have written.
    pub may_be_flushed: bool,
    /// Where a snapshot is put together, in files without names: as large as the keys, twice for a while.
    pub scratch: PathBuf,
    /// Who may enter; everybody without.
    pub door: Option<Arc<dyn Door>>,
    /// What shakes hands with clients; plain TCP without.
    pub tls: Option<TlsAcceptor>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            request_bytes_max: 3 << 19,
            operations_max: 128,
            connections_max: 10_000,
            watch_bytes_max: 1 << 20,
            watches_max: 100_000,
            progress_interval: Duration::from_secs(600),
            token_ttl: Duration::from_secs(600),
            command_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(5),
            advertise: None,
            may_be_flushed: false,
            scratch: std::env::temp_dir(),
            door: None,
            tls: None,
        }
    }
}
