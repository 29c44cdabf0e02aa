//! Quorate over etcd's API: every etcd client is a client of the replicated log.
//!
//! A thin translator: a request becomes a commit or a read of the runtime, and what comes back becomes etcd's answer, with its revisions, codes
//! and texts. What a transaction means is decided by the machine (mode `foreseen`, and the operations `select`, `write` and `erase`), on every
//! replica. Read `kv` for the translation, `watch` for who is told of what, `json` for the same over plain HTTP.
//!
//! Invariant: nothing is decided here that another gateway would have to decide again.
//! Invariant: every request gives an answer or an error that etcd would give; none panics.
//! Called by: the server's `main`, through [`serve()`].

mod alarms;
mod auth;
mod batches;
mod certificate;
mod cluster;
mod config;
mod connection;
mod error;
mod gateway;
mod gathered;
mod hash;
mod json;
mod kv;
mod lease;
mod lock;
mod metrics;
mod pieces;
mod probe;
mod queue;
mod ranges;
mod serve;
mod snapshot;
mod txn;
mod watch;

/// The messages and services of etcd's protocol, made from `proto/`.
pub mod protocol {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/protocol.rs"));
}

pub use config::{Config, Door};
pub use serve::{ServeError, serve};
