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
    /// Longest word of a command.
    pub bulk_bytes_max: u64,
    /// Longest command in all.
    pub command_bytes_max: u64,
    /// Connections at once; one more is told so and closed.
    pub connections_max: usize,
    /// Bytes that wait for a client that listens too slowly to what is published; beyond, its connection ends.
    pub pushes_bytes_max: usize,
    /// Bytes of replies after which no further command of a connection is executed until its client has taken them.
    pub output_bytes_max: usize,
    /// How long a command may stay open, an asked-for wait not counted; then its outcome is said to be indeterminate.
    pub command_timeout: Duration,
    /// How long a client may take to shake hands by TLS.
    pub handshake_timeout: Duration,
    /// How long open commands may go on after shutdown began.
    pub shutdown_grace: Duration,
    /// Where clients are told to find this gateway, as `host:port`; the address it listens on without.
    pub advertise: Option<String>,
    /// Where clients find the nodes of this cluster, as `host:port`: with it, clients in cluster mode are answered.
    pub cluster: Option<Vec<String>>,
    /// Who may enter; everybody without.
    pub door: Option<Arc<dyn Door>>,
    /// What shakes hands with clients; plain TCP without.
    pub tls: Option<TlsAcceptor>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bulk_bytes_max: 16 << 20,
            command_bytes_max: 64 << 20,
            connections_max: 10_000,
            pushes_bytes_max: 32 << 20,
            output_bytes_max: 1 << 20,
            command_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(5),
            advertise: None,
            cluster: None,
            door: None,
            tls: None,
        }
    }
}

/// How many databases there are: number n is keyspace n.
pub(crate) const DATABASES: u16 = 16;
