//! Every bound and switch of the gateway, with its default.
//!
//! Called by: the server's `main`, and `serve`.

use quorate_types::Principal;
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
    /// Most bytes of batches in one answer to a Fetch, whatever it asks for; one batch is given whole.
    pub fetch_bytes_max: u64,
    /// Longest that a Fetch waits for records, whatever it asks for.
    pub fetch_wait_max: Duration,
    /// Partitions of a topic that is made because somebody asked for it.
    pub partitions: u32,
    /// How long a member of a group of the consumer protocol may be silent.
    pub consumer_session: Duration,
    /// How often such a member is asked to beat.
    pub consumer_heartbeat: Duration,
    /// Connections at once; one more is closed.
    pub connections_max: usize,
    /// How long a command may stay open; then its outcome is said to be indeterminate.
    pub command_timeout: Duration,
    /// How long a client may take to shake hands by TLS.
    pub handshake_timeout: Duration,
    /// How long open requests may go on after shutdown began.
    pub shutdown_grace: Duration,
    /// Where clients are told to find this gateway, as `host:port`; the address it listens on without.
    pub advertise: Option<String>,
    /// Who may enter; everybody without.
    pub door: Option<Arc<dyn Door>>,
    /// What shakes hands with clients; plain TCP without.
    pub tls: Option<TlsAcceptor>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            request_bytes_max: 16 << 20,
            fetch_bytes_max: 16 << 20,
            fetch_wait_max: Duration::from_secs(30),
            partitions: 1,
            consumer_session: Duration::from_secs(45),
            consumer_heartbeat: Duration::from_secs(5),
            connections_max: 10_000,
            command_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(5),
            advertise: None,
            door: None,
            tls: None,
        }
    }
}
