//! Quorate's client over HTTP: commits with exactly one effect, sessions that know when they are lost, locks, watches.
//!
//! ```no_run
//! # async fn example() -> Result<(), quorate_client::ClientError> {
//! use quorate_client::{Client, Commit};
//! use std::time::Duration;
//! let client = Client::new(["http://127.0.0.1:8400"])?;
//! let session = client.session(Duration::from_secs(10)).await?;
//! let lock = session.lock("orders/42", Duration::from_secs(30)).await?;
//! let commit = Commit::new().guard(lock.fence()).put("orders/42", "paid").append("orders", Some("42"), "paid");
//! client.commit(commit).await?;
//! lock.release().await?;
//! # Ok(()) }
//! ```
//!
//! Given several servers of a cluster, the client learns who leads, sends its writes there, and goes on at another node when one is
//! lost.
//!
//! Invariant: every write carries an idempotency key, and is sent again under it until its answer is known or the
//! patience is over; so it has at most one effect, and an error says whether it may have had it.
//! Called by: programs; the command line. Read [`Client`] first.

mod client;
mod commit;
mod error;
mod session;
mod transport;
mod watch;

pub use client::{Appended, Client, Committed, Consistency, Expect, KeyValue, Page, Taken};
pub use commit::Commit;
pub use error::{ClientError, Problem};
pub use session::{Lock, Session, SessionState};
pub use transport::Options;
pub use watch::{Change, Watch};
