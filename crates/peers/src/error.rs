//! What can go wrong with links, and what to do about it.
//!
//! Called by: everything here; the runtime and the command line show it.

use std::path::PathBuf;
use std::time::Duration;

/// Why links could not be started, a node not reached, or a request not served.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// A limit makes no sense.
    #[error("links: {why}")]
    Config {
        /// Which, what was found, what to set.
        why: String,
    },
    /// The listening socket cannot be used.
    #[error("the listener for peers cannot be used: {why}: choose another address to listen on")]
    Listen {
        /// What the system said.
        why: String,
    },
    /// Some of certificate, key and CA are given, not all.
    #[error(
        "TLS between nodes is half configured: {missing} missing: give certificate, key and CA, or none of them"
    )]
    TlsHalf {
        /// The ones not given.
        missing: String,
    },
    /// A file cannot be read, or holds no PEM of the kind wanted.
    #[error("{}: no {wanted} could be read: {why}", .path.display())]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// What went wrong.
        why: String,
    },
    /// The files are there and do not fit together.
    #[error("{} cannot be used for TLS between nodes: {why}", .path.display())]
    TlsUnusable {
        /// The file at fault, or the certificate.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// The server name to verify is none.
    #[error(
        "{name:?} is neither a DNS name nor an IP address: give the name that the peers' certificates carry"
    )]
    TlsName {
        /// What was given.
        name: String,
    },
    /// What the host tells about itself is too long.
    #[error("the features of a hello have {found} bytes, at most {max} fit: advertise less")]
    Features {
        /// Bytes found.
        found: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The node is none of those given to `set_peers`.
    #[error("node {node} is not among the peers: add it to the cluster first")]
    NotAPeer {
        /// The node asked for.
        node: u64,
    },
    /// No connection could be made.
    #[error("{address} cannot be reached: {why}")]
    Unreachable {
        /// Where it was dialled.
        address: String,
        /// What the system said.
        why: String,
    },
    /// Somebody answered, and not as a node that we can talk to.
    #[error("{address}: {why}")]
    Handshake {
        /// Where it was dialled.
        address: String,
        /// What was found, what was wanted.
        why: String,
    },
    /// The peer refused us.
    #[error("{address} refused: {reason}")]
    Refused {
        /// Where it was dialled.
        address: String,
        /// Its reason, in its words.
        reason: String,
    },
    /// Our own host refused the peer.
    #[error("node {node} at {address} is not accepted: {reason}")]
    NotAccepted {
        /// Who answered.
        node: u64,
        /// Where it was dialled.
        address: String,
        /// The host's reason.
        reason: String,
    },
    /// Another node answers there.
    #[error("node {meant} was dialled at {address}, where node {found} answers: correct its address")]
    WrongNode {
        /// Where it was dialled.
        address: String,
        /// Whom we meant.
        meant: u64,
        /// Who answered.
        found: u64,
    },
    /// A bulk request did not come back in time.
    #[error("node {node} did not answer within {timeout:?}: ask again, or another node")]
    FetchTimeout {
        /// The node asked.
        node: u64,
        /// The caller's limit.
        timeout: Duration,
    },
    /// The connection ended before the answer came.
    #[error("the bulk connection to node {node} ended before the answer came: ask again")]
    FetchBroken {
        /// The node asked.
        node: u64,
    },
    /// The other node answered the request with an error.
    #[error("node {node} refused the request: {reason}")]
    FetchRefused {
        /// The node asked.
        node: u64,
        /// Its reason.
        reason: String,
    },
    /// The request is larger than any node takes.
    #[error("a bulk request has {found} bytes, at most {max} are taken: ask for less")]
    RequestTooLarge {
        /// Bytes found.
        found: usize,
        /// Bytes taken.
        max: usize,
    },
    /// The links were stopped.
    #[error("the links of this node were stopped")]
    Stopped,
}
