//! The simulator: the production partition (node, engine, machine, log) on a simulated disk and clock, under seeded faults.
//!
//! [`run`] is about a node alone, [`run_cluster`] about replicas on a network of which anything may break.
//!
//! [`run`] takes a seed and does everything from it: the clients' commands, the order in which I/O is taken, run and completed, the
//! passage of time, crashes, torn and lost writes, full disks. After every step a second account of the history holds the node to its
//! promises. What it checks, and how to use it: docs/simulation.md.
//!
//! Invariant: one seed, one run, byte for byte.
//! Invariant: nothing in the node is mocked; the disk and the clock come in by the same seams as in production.
//! Called by: its own binary (a campaign of seeds) and its tests.

mod alarms;
mod calls;
mod cluster;
mod consumers;
mod door;
mod members;
mod model;
mod oracle;
mod plant;
mod probes;
mod random;
mod users;
mod workload;
mod world;

pub use cluster::{ClusterOptions, ClusterPlant, ClusterReport, run_cluster};
pub use plant::Plant;
pub use probes::{
    ALARM_PROBES, CLUSTER_PROBES, CLUSTER_RARE, MEMBER_PROBES, PROBES, PRODUCER_PROBES, Probes, USER_PROBES,
};
pub use workload::Scenario;
pub use world::{Failure, Options, Report, durability_name, run};
