//! Quorate over HTTP/1.1: commits, keys, leases, locks, elections, streams, limits, timers and services as JSON.
//!
//! A thin translator: a request becomes a command or a read of the runtime, and what comes back becomes JSON,
//! server-sent events or problem+json. Read [`json::request`] for the grammar of a commit, `routes` for the routes, `dispatch` for a request's way,
//! and [`error`] for what a client is told when something goes wrong.
//!
//! Invariant: nothing is decided here that another gateway would have to decide again.
//! Invariant: every byte from a client gives an answer or a 4xx that says what was found and wanted; none panics.
//! Called by: the server's `main`, through [`serve`].

mod access;
mod call;
mod cluster;
pub mod config;
mod dispatch;
pub mod error;
mod handlers;
pub mod json;
mod metrics;
pub mod openapi;
mod reply;
mod routes;
mod serve;
mod sse;
mod tls;

pub use config::{BindRefused, Config, TlsFiles, Token, check_bind};
pub use serve::{ServeError, serve};
pub use tls::{TlsError, acceptor};
