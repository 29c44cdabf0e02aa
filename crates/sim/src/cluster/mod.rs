//! Whole clusters: production replicas on a simulated network, disks and clocks, under seeded faults; then everything is healed and
//! progress is demanded. What is checked, and how to use it: docs/simulation.md.
//!
//! Invariant: one seed, one run, byte for byte: every frame, every disk, every answer.
//! Called by: the binary and the tests.

mod faults;
mod frame;
mod network;
mod plant;
mod safety;
mod server;
mod truth;
mod world;

pub use plant::ClusterPlant;

use crate::probes::Probes;
use crate::workload::Scenario;
use crate::world::{Failure, caught, durability_name};
use quorate_engine::Durability;

/// What a run is about, beside its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterOptions {
    /// When commits are answered; by the seed when absent. A cluster refuses [`Durability::None`].
    pub durability: Option<Durability>,
    /// Nodes at the beginning; 3 or 5 by the seed when absent.
    pub nodes: Option<u64>,
    /// A bug to plant.
    pub plant: Option<ClusterPlant>,
    /// What the workload dwells on.
    pub scenario: Scenario,
    /// Tell every event on standard error.
    pub trace: bool,
}

/// What a run that found nothing has been through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterReport {
    /// Events simulated, those of forming and healing included.
    pub steps: u64,
    /// Milliseconds of true time simulated.
    pub simulated_ms: u64,
    /// Commands in the log.
    pub commands: u64,
    /// Reads that were confirmed and held against the history.
    pub reads: u64,
    /// Entries in the log.
    pub entries: u64,
    /// Times a process died.
    pub restarts: u64,
    /// Terms with a leader.
    pub elections: u64,
    /// Hash over all disks at the end.
    pub images_hash: u64,
    /// Hash of every frame, in the order sent.
    pub frames_hash: u64,
    /// Hash of every answer, in order.
    pub answers_hash: u64,
    /// Digest of the state at the end.
    pub digest: u128,
    /// Rare paths reached.
    pub probes: Probes,
}

/// Runs one seed for so many events, then heals everything and demands progress.
///
/// # Errors
/// [`Failure`]: what was found, and the line that replays it. A panic below is a finding too.
pub fn run_cluster(seed: u64, steps: u64, options: ClusterOptions) -> Result<ClusterReport, Failure> {
    let step = std::cell::Cell::new(0);
    let ran = caught(|| world::World::new(seed, options).run(steps, &step));
    let arguments = || arguments(&options);
    ran.map_err(|what| Failure {
        command: "cluster ",
        seed,
        steps,
        step: step.get(),
        what,
        arguments: arguments(),
    })
}

fn arguments(options: &ClusterOptions) -> String {
    let mut text = String::new();
    if let Some(nodes) = options.nodes {
        text += &format!(" --nodes {nodes}");
    }
    if let Some(durability) = options.durability {
        text += &format!(" --durability {}", durability_name(durability));
    }
    if let Some(plant) = options.plant {
        text += &format!(" --plant {}", plant.name());
    }
    if options.scenario != Scenario::Mixed {
        text += &format!(" --scenario {}", options.scenario.name());
    }
    text
}
