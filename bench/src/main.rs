//! `quorate-bench`: each figure beside what it is measured against, in one run, medians of several rounds.
//!
//! The machines this runs on are noisy: trust the ratios. Every row says its limit, and whether it was met.
//! Called by: people; the README's table is its output.

mod cluster;
mod commits;
mod kafka;
mod machine;
mod processes;
mod recovery;
mod redis;
mod report;
mod snapshot;

use clap::{Parser, Subcommand};
use report::Report;
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about, after_help = "Example: cargo run --release -p quorate-bench -- all --folder /var/tmp")]
struct Options {
    #[command(subcommand)]
    what: What,
    /// Where data goes: a folder on the disk to be measured. Everything made there is removed again.
    #[arg(long, global = true, default_value = ".")]
    folder: PathBuf,
    /// Rounds of each measurement; the median is shown.
    #[arg(long, global = true, default_value_t = 5)]
    rounds: usize,
}

#[derive(Clone, Subcommand)]
enum What {
    /// Everything.
    All,
    /// The machine alone, on decoded entries: puts, five-part commits, memory per key.
    Machine,
    /// Durable commits in process, beside a bare write and sync of the same bytes.
    Commits,
    /// What a snapshot of a million keys does to commits that run beside it.
    Snapshot,
    /// Reopening a folder with a cold cache.
    Recovery,
    /// Three nodes as processes, beside three of etcd.
    #[command(after_help = CLUSTER_HELP)]
    Cluster(cluster::Options),
    /// The Redis protocol, beside redis-server.
    #[command(after_help = REDIS_HELP)]
    Redis(redis::Options),
    /// The Kafka protocol, beside NATS JetStream.
    #[command(after_help = KAFKA_HELP)]
    Kafka(kafka::Options),
    /// A server of gRPC that does nothing, for `cluster` to measure.
    #[command(hide = true)]
    Wall { address: std::net::SocketAddr },
    /// A server of batches that does nothing else, for `kafka` to measure.
    #[command(hide = true)]
    Rig { address: std::net::SocketAddr, file: PathBuf },
}

const REDIS_HELP: &str = "\
Example:
  cargo build --release -p quorate -p quorate-bench
  scripts/redis.sh /var/tmp/redis
  target/release/quorate-bench redis --folder /var/tmp --redis /var/tmp/redis";

const KAFKA_HELP: &str = "\
Example:
  cargo build --release -p quorate -p quorate-bench
  target/release/quorate-bench kafka --folder /var/tmp --nats \"$(scripts/nats.sh /var/tmp/nats)\"
  target/release/quorate-bench kafka --folder /var/tmp --nats \"$(scripts/nats.sh /var/tmp/nats)\" --nodes 3";

const CLUSTER_HELP: &str = "\
Example:
  cargo build --release -p quorate -p quorate-bench
  target/release/quorate-bench cluster --folder /var/tmp --etcd \"$(scripts/etcd.sh /var/tmp/etcd)\"
  target/release/quorate-bench cluster --folder /var/tmp --etcd \"$(scripts/etcd.sh /var/tmp/etcd)\" \\
    --over etcd --operations put,get,serializable,lock,handoff,keepalive,echo --watchers 10000";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    // What runs in this process is to have its memory as a server has.
    quorate_runtime::use_small_pages();
    if let What::Wall { address } = options.what {
        return cluster::wall(address);
    }
    if let What::Rig { address, file } = &options.what {
        return kafka::rig(*address, file).map_err(|error| error.to_string().into());
    }
    let mut report = Report::new();
    let folder = options.folder.join(format!("quorate-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let all = matches!(options.what, What::All);
    let run = || -> Result<(), Box<dyn std::error::Error>> {
        if let What::Cluster(options) = &options.what {
            return cluster::run(options, &folder);
        }
        if let What::Redis(options) = &options.what {
            return redis::run(options, &folder);
        }
        if let What::Kafka(options) = &options.what {
            return kafka::run(options, &folder);
        }
        if all || matches!(options.what, What::Machine) {
            machine::run(&mut report, options.rounds);
        }
        if all || matches!(options.what, What::Commits) {
            commits::run(&mut report, &folder, options.rounds)?;
        }
        if all || matches!(options.what, What::Snapshot) {
            snapshot::run(&mut report, &folder)?;
        }
        if all || matches!(options.what, What::Recovery) {
            recovery::run(&mut report, &folder, options.rounds)?;
        }
        Ok(())
    };
    let mut run = run;
    let done = run();
    std::fs::remove_dir_all(&folder)?;
    done?;
    if !matches!(options.what, What::Cluster(_) | What::Redis(_) | What::Kafka(_)) {
        report.print();
    }
    Ok(())
}
