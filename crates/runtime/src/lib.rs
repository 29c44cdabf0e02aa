//! The only crate that starts threads and reads clocks: a partition as an embedded database, and as a server's handle.
//!
//! A Rust program opens a folder with [`Quorate::open`] and commits without any socket; gateways use the same [`Handle`]
//! from async code.
//!
//! Invariant: the partition is behind one lock, which is never held across I/O.
//! Invariant: a command that was admitted is answered, or said to be indeterminate; also when the process stops in good order.
//! Called by: gateways, the command line, programs that embed Quorate.

mod accept;
mod answers;
pub mod door;
mod driver;
mod error;
mod handle;
mod metrics;
mod pages;
mod replica;
pub mod scram;

pub use accept::{Connections, accept};
pub use driver::resident_bytes;
pub use error::RuntimeError;
pub use handle::{
    CommitError, Consistency, Forgotten, Handle, Quorate, REVISIONS_RAISED, UNPACKED_BYTES_MAX, Unreadable,
    forget_cluster,
};
pub use metrics::Syncs;
pub use pages::use_small_pages;
pub use quorate_engine::{Durability, Role};
pub use quorate_log::{BackupReport, LogConfig};
pub use quorate_node::{
    ALONE, Changes, ClusterStatus, Config, Interest, MemberStatus, OpenError, OpenReport, Status, WhyRecord,
    WhyVerdict, WhyWhat,
};
pub use quorate_peers::PeerTls;
pub use replica::ClusterConfig;
