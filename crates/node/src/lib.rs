//! A node hosts partitions; a [`Partition`] is one log and one machine, driven in turns: `turn(now) -> outputs`.
//!
//! The life of a command: [`Partition::propose`] admits it or refuses it at once; [`Partition::turn`] orders all that has
//! arrived as one entry; [`Partition::take_job`] hands out one write and one sync for it; [`Partition::complete`] applies what
//! is certain and fills [`Partition::take_replies`].
//!
//! Invariant: nothing is answered before it is applied, and nothing is applied before it is certain. So a read of the machine
//! is linearizable, but for what is due: [`Partition::overdue`] says when a read has to wait for an entry.
//! Invariant: what waits is bounded in commands and bytes; overload is refused before the log, as "did not happen".
//! Invariant: no clock, no thread, no socket: the simulator links this as it is.
//! Called by: `runtime`, and the simulator.

mod admission;
mod background;
mod cluster;
mod config;
mod evictor;
mod partition;
mod replica;
mod rounds;
mod router;
mod waiters;
mod why;

pub use admission::Refused;
pub use background::{Done, Work};
pub use cluster::{AdminRequest, Doors};
pub use config::Config;
pub use partition::{
    Changes, Fatal, NotAdmitted, OpenError, OpenReport, Partition, Published, Reply, Status,
};
pub use replica::{ALONE, ClusterStatus, MemberStatus, ReadBarrier, ReplicaConfig};
pub use router::{PartitionId, Router, SLOTS};
pub use waiters::{Interest, WatchId};
pub use why::{WhyQuery, WhyRecord, WhyVerdict, WhyWhat, search};
