//! Quorate over the Redis protocol (RESP2 and RESP3): every Redis client is a client of the replicated log.
//!
//! A thin translator: words become calls, calls become commits or reads of the runtime, and what comes back becomes RESP. What the commands
//! mean is decided in `quorate-calls`, on every replica; here live connections, and what belongs to one: its protocol, its transaction, its
//! subscriptions, its wait. Read [`resp`] for the bytes, `connection` for the life of a command.
//!
//! Invariant: nothing is decided here that another gateway would have to decide again.
//! Invariant: every byte from a client gives a reply or a protocol error that Redis would give; none panics.
//! Called by: the server's `main`, through [`serve`].

mod acl;
mod blocking;
mod client;
mod commands;
mod config;
mod connection;
mod error;
mod gateway;
mod latency;
mod locks;
mod pubsub;
pub mod resp;
mod serve;
mod slowlog;
mod stream;
mod tracking;
mod transaction;

pub use config::{Config, Door};
pub use serve::{ServeError, serve};
