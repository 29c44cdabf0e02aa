//! How a partition is run: bounds, sizes and retention, each with a default that suits a small server.
//!
//! Called by: `Partition`, `background`; the command line has a flag for each.

use quorate_calls::Interpreter;
use quorate_engine::Durability;
use quorate_log::LogConfig;
use quorate_lua::Scripts;
use quorate_machine::{EMPTY_WHOLE, MACHINE_VERSION};
use quorate_types::{Limits, Millis, Settings};

/// How a partition is run. Every field has a default that suits a small server.
#[derive(Clone, Debug)]
pub struct Config {
    /// When commits are answered.
    pub durability: Durability,
    /// The newest rules that this build decides by; lower only to act as an older build would.
    pub machine_version: u32,
    /// Bounds of what clients send.
    pub limits: Limits,
    /// Bounds of what the machine keeps; logged when they change.
    pub settings: Settings,
    /// Sizes of the log.
    pub log: LogConfig,
    /// Commands that may wait.
    pub waiting_commands_max: u64,
    /// Bytes of commands that may wait.
    pub waiting_bytes_max: u64,
    /// Bytes of commands that go into one entry, about.
    pub entry_bytes: u64,
    /// A snapshot is taken after so many commands; after more in proportion where the last one was larger than `snapshot_bytes`.
    pub snapshot_commands: u64,
    /// A snapshot is taken after so many bytes of log, or as many as the last one has where these are more.
    pub snapshot_bytes: u64,
    /// Rows per slice of a snapshot.
    pub snapshot_rows: usize,
    /// Age of log kept for `why`, whatever snapshots would allow to drop.
    pub audit_age: Millis,
    /// Bytes of log kept for `why` at most.
    pub audit_bytes: u64,
    /// Makes what runs scripts; the same on every node of a cluster.
    pub interpreter: fn() -> Box<dyn Interpreter>,
    /// How many keys an emptied keyspace has at most for each to be told of; the same on every node of a cluster. Lower only in tests.
    pub empty_whole: u64,
    /// Refusals whose reason is logged, per name and ten thousand entries.
    pub refusals_per_name: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            durability: Durability::Always,
            machine_version: MACHINE_VERSION,
            limits: Limits::default(),
            settings: Settings::default(),
            log: LogConfig { entry_bytes_max: 16 << 20, batch_bytes_max: 32 << 20, ..LogConfig::default() },
            waiting_commands_max: 65_536,
            waiting_bytes_max: 64 << 20,
            entry_bytes: 1 << 20,
            snapshot_commands: 1_000_000,
            snapshot_bytes: 256 << 20,
            snapshot_rows: 500,
            audit_age: Millis(7 * 24 * 3600 * 1000),
            audit_bytes: 256 << 20,
            interpreter: || Box::new(Scripts::new()),
            empty_whole: EMPTY_WHOLE,
            refusals_per_name: 100,
        }
    }
}
