//! Quorate over Kafka's protocol: every Kafka client produces to and consumes from the streams that Redis and HTTP write.
//!
//! A thin translator: a Produce request becomes a commit of appends, a Fetch a read of the streams' index and of the log. Batches stay as they
//! came (`quorate-batch`); records of other protocols are made into batches when they are served. Read `connection` for the life of a
//! request, `api` for which there are, `api::produce` and `api::fetch` for what they do.
//!
//! The protocol's bytes are read and written here, by hand: what a client says it sends is held against what it has sent before any of it is
//! believed, and every list is counted. (The crate `kafka-protocol` reserves memory for as many elements as a client claims to send; it is
//! the other side in the tests.)
//!
//! Invariant: nothing is decided here that another gateway would have to decide again.
//! Invariant: a request gives the answer, or the error, that Kafka would give, or ends its connection; none panics.
//! Called by: the server's `main`, through [`serve()`]. Source: Kafka's protocol guide and message definitions, version 4.1.

mod api;
mod config;
mod connection;
mod error;
pub mod frame;
mod gateway;
mod serve;
mod stream;
pub mod wire;

pub use config::{Config, Door};
pub use serve::{ServeError, serve};
