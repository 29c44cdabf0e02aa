//! Quorate beside redis-server, by Redis' own benchmark: the same disk, durability, commands and machine, one after the other in pairs.
//!
//! Both servers stand; only one is asked at a time. A pair measures one command on both, and the next pair begins with the other one, so that
//! what disturbs the machine for a while hits both. The ratio of each pair is what counts; its median is shown. `--nodes 3` puts a cluster
//! of three beside one redis-server, all clients at one node. `--memory` compares what the same data takes instead (`memory`).
//!
//! Writes that change nothing are cheap where a write is a sync: collections are emptied before each run, and a rate counts the members
//! that a run has added.
//!
//! Called by: `main`. Read [`run`] first.

mod memory;

use crate::processes::{self, Processes, free_addresses, version};
use crate::report::{machine, median};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// The quorate binary; by default the one beside this binary.
    #[arg(long, value_name = "PATH")]
    quorate: Option<PathBuf>,
    /// Folder with redis-server, redis-cli and redis-benchmark, such as scripts/redis.sh fills.
    #[arg(long, value_name = "DIR")]
    redis: PathBuf,
    /// Commands, as redis-benchmark's -t names them.
    #[arg(
        long,
        value_name = "C,C",
        value_delimiter = ',',
        default_value = "set,get,incr,lpush,lpop,sadd,hset,zadd,xadd,mset"
    )]
    commands: Vec<String>,
    /// Commands that each client sends before it waits, one measurement for each.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 16])]
    pipeline: Vec<u32>,
    /// When writes are on disk: `always` (appendfsync always), or `interval` (appendfsync everysec).
    #[arg(long, value_name = "HOW", default_value = "always")]
    durability: String,
    /// Length of a measurement in seconds, about.
    #[arg(long, value_name = "N", default_value_t = 1.5)]
    seconds: f64,
    /// Pairs for each command.
    #[arg(long, value_name = "N", default_value_t = 7)]
    pairs: usize,
    /// Clients at once.
    #[arg(long, value_name = "N", default_value_t = 50)]
    clients: u32,
    /// Nodes of Quorate.
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: usize,
    /// Compare the memory that the same data takes, of about so many elements, instead of speed.
    #[arg(long, value_name = "ELEMENTS", num_args = 0..=1, default_missing_value = "1000000")]
    memory: Option<u64>,
}

/// What one run of redis-benchmark said, and what the servers spent on it.
#[derive(Clone, Copy, Default)]
struct Sample {
    per_second: f64,
    p99_ms: f64,
    cpu_us: f64,
}

pub(crate) fn run(options: &Options, folder: &Path) -> Result<(), Failure> {
    let binary = match &options.quorate {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("quorate"),
    };
    println!("Machine: {}", machine());
    println!("{} beside {}", version(&binary)?, version(&options.redis.join("redis-server"))?);
    if let Some(elements) = options.memory {
        return memory::run(options, elements, &binary, folder);
    }
    println!(
        "{} clients, values of 256 B, durability {}, {} node(s) of quorate; medians of {} pairs of {} s\n",
        options.clients, options.durability, options.nodes, options.pairs, options.seconds
    );
    let redis = Server::redis(options, &folder.join("redis"))?;
    let quorate = Server::quorate(options, &binary, &folder.join("quorate"))?;
    println!(
        "| command | pipeline | quorate /s | redis /s | ratio (median, lowest, highest) | p99 ms | CPU µs per command |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for &pipeline in &options.pipeline {
        for command in &options.commands {
            let row = measure(options, command, pipeline, &quorate, &redis)?;
            println!("{row}");
        }
    }
    Ok(())
}

fn measure(
    options: &Options,
    command: &str,
    pipeline: u32,
    quorate: &Server,
    redis: &Server,
) -> Result<String, Failure> {
    let servers = [quorate, redis];
    let mut requests = [0u64; 2];
    for (server, requests) in servers.iter().zip(&mut requests) {
        // What is popped must be there; and a first run tells how many requests take as long as wanted.
        let probe = server.benchmark(options, command, pipeline, u64::from(pipeline) * 2000)?;
        *requests = ((probe.per_second * options.seconds) as u64).max(u64::from(options.clients * pipeline));
    }
    let mut samples = [Vec::new(), Vec::new()];
    for pair in 0..options.pairs {
        for turn in 0..2 {
            let which = (pair + turn) % 2;
            if command == "lpop" || command == "rpop" {
                servers[which].preload(options, requests[which])?;
            }
            samples[which].push(servers[which].benchmark(options, command, pipeline, requests[which])?);
        }
    }
    let [ours, theirs] = &samples;
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a.per_second / b.per_second).collect();
    ratios.sort_by(f64::total_cmp);
    let middle = |samples: &[Sample], what: fn(&Sample) -> f64| median(samples.iter().map(what).collect());
    let mut row = String::new();
    write!(
        row,
        "| {command} | {pipeline} | {:.0} | {:.0} | {:.2} ({:.2}, {:.2}) | {:.2} to {:.2} | {:.1} to {:.1} |",
        middle(ours, |s| s.per_second),
        middle(theirs, |s| s.per_second),
        median(ratios.clone()),
        ratios.first().copied().unwrap_or_default(),
        ratios.last().copied().unwrap_or_default(),
        middle(ours, |s| s.p99_ms),
        middle(theirs, |s| s.p99_ms),
        middle(ours, |s| s.cpu_us),
        middle(theirs, |s| s.cpu_us),
    )?;
    Ok(row)
}

/// Processes that make one server, and where it listens.
struct Server {
    address: SocketAddr,
    processes: Processes,
}

impl Server {
    fn redis(options: &Options, folder: &Path) -> Result<Self, Failure> {
        let address = free_addresses(1)?[0];
        let fsync = match options.durability.as_str() {
            "always" => "always",
            "interval" => "everysec",
            other => return Err(format!("durability {other:?} is neither always nor interval").into()),
        };
        let mut server = Self { address, processes: Processes::new(folder)? };
        let mut command = Command::new(options.redis.join("redis-server"));
        command
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(folder);
        command.args(["--appendonly", "yes", "--appendfsync", fsync]);
        command.args(["--auto-aof-rewrite-percentage", if options.memory.is_some() { "0" } else { "100" }]);
        server.processes.spawn(command, "redis")?;
        server.ready(options)?;
        Ok(server)
    }

    fn quorate(options: &Options, binary: &Path, folder: &Path) -> Result<Self, Failure> {
        let nodes = options.nodes.max(1);
        let (redis, http, peers) = (free_addresses(nodes)?, free_addresses(nodes)?, free_addresses(nodes)?);
        let mut server = Self { address: redis[0], processes: Processes::new(folder)? };
        for node in 0..nodes {
            let mut command = processes::quorate(binary, folder, node, http[node], &peers);
            command.args([
                "--kafka",
                "off",
                "--etcd",
                "off",
                "--redis",
                &redis[node].to_string(),
                "--durability",
                &options.durability,
            ]);
            if options.memory.is_some() {
                command.args(["--history-revisions-max", "0", "--history-bytes-max", "0"]);
            }
            server.processes.spawn(command, "quorate")?;
        }
        if nodes > 1 {
            processes::form_cluster(binary, http[0], nodes)
                .map_err(|error| format!("{error}: {}", server.processes.last_words()))?;
        }
        server.ready(options)?;
        Ok(server)
    }

    fn ready(&self, options: &Options) -> Result<(), Failure> {
        let set = || {
            let said = self.client(options, "redis-cli").args(["set", "ready", "1"]).output().ok()?;
            said.stdout.starts_with(b"OK").then_some(())
        };
        until(Duration::from_secs(30), set).ok_or_else(|| {
            format!("{} takes no writes: {}", self.address, self.processes.last_words()).into()
        })
    }

    fn client(&self, options: &Options, tool: &str) -> Command {
        let mut command = Command::new(options.redis.join(tool));
        command.args(["-h", &self.address.ip().to_string(), "-p", &self.address.port().to_string()]);
        command
    }

    /// Elements for `requests` pops.
    fn preload(&self, options: &Options, requests: u64) -> Result<(), Failure> {
        self.command(options, "lpush", 64, requests + requests / 10).output()?;
        Ok(())
    }

    fn command(&self, options: &Options, name: &str, pipeline: u32, requests: u64) -> Command {
        let mut command = self.client(options, "redis-benchmark");
        command.args(["-c", &options.clients.to_string(), "-d", "256", "-r", "1000000", "--csv"]);
        command.args(["-P", &pipeline.to_string(), "-n", &requests.to_string()]);
        match name {
            // It has no test of this name.
            "xadd" => command.args(["xadd", "mystream", "*", "myfield", &"x".repeat(256)]),
            _ => command.args(["-t", name]),
        };
        command
    }

    /// Empties what `redis-benchmark -t name` adds members to, where adding one twice changes nothing.
    fn empty(&self, options: &Options, name: &str) -> Result<(), Failure> {
        if let Some((key, _)) = members(name) {
            self.client(options, "redis-cli").args(["del", key]).output()?;
        }
        Ok(())
    }

    /// The share of `requests` since `empty` that changed something.
    fn changed(&self, options: &Options, name: &str, requests: u64) -> Result<f64, Failure> {
        let Some((key, count)) = members(name) else { return Ok(1.0) };
        let said = self.client(options, "redis-cli").args([count, key]).output()?;
        let count: f64 = String::from_utf8_lossy(&said.stdout).trim().parse()?;
        Ok(count / requests as f64)
    }

    fn benchmark(
        &self,
        options: &Options,
        name: &str,
        pipeline: u32,
        requests: u64,
    ) -> Result<Sample, Failure> {
        self.empty(options, name)?;
        let before = self.processes.cpu_seconds();
        let said = self.command(options, name, pipeline, requests).output()?;
        let cpu = self.processes.cpu_seconds() - before;
        let text = String::from_utf8_lossy(&said.stdout);
        // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
        let line = text.lines().rfind(|line| line.starts_with('"') && !line.starts_with("\"test\""));
        let fields: Vec<f64> = line
            .unwrap_or_default()
            .rsplit("\",\"")
            .map(|field| field.trim_matches('"').parse().unwrap_or(f64::NAN))
            .collect();
        let [_, p99_ms, _, _, _, _, per_second, ..] = fields[..] else {
            let error = String::from_utf8_lossy(&said.stderr);
            return Err(format!(
                "redis-benchmark -t {name} said {text:?} {error:?}; {}",
                self.processes.last_words()
            )
            .into());
        };
        let changed = self.changed(options, name, requests)?;
        Ok(Sample {
            per_second: per_second * changed,
            p99_ms,
            cpu_us: cpu * 1e6 / (requests as f64 * changed),
        })
    }
}

/// The key to which redis-benchmark adds members at random, and the command that counts them.
fn members(name: &str) -> Option<(&'static str, &'static str)> {
    match name {
        "sadd" => Some(("myset", "scard")),
        "zadd" => Some(("myzset", "zcard")),
        _ => None,
    }
}

/// Tries again every tenth of a second until there is something, or patience ends.
fn until<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
