//! Streams over the Kafka protocol, beside NATS JetStream: both on the same disk in turns, the durability of each said.
//!
//! Quorate's are always synced before they are acknowledged. JetStream is measured as it comes (it acknowledges what it has written, and syncs every two
//! minutes) and with `sync_interval: always`. One generator drives both, with as many records under way.
//! Called by: `main`.

mod broker;
mod jetstream;

use crate::processes::{self, Processes, free_addresses, version};
use crate::report::{machine, median, percentile, thousands};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// The binary of quorate; beside this one when absent.
    #[arg(long)]
    quorate: Option<PathBuf>,
    /// The binary of nats-server (`scripts/nats.sh` installs one).
    #[arg(long)]
    nats: PathBuf,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Repeats of each measurement; the median is shown.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Bytes of a record's value.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 1024])]
    bytes: Vec<usize>,
}

/// What producers do.
pub(super) struct Load {
    /// Connections.
    clients: usize,
    /// Requests under way on each.
    in_flight: usize,
    /// Records of a request.
    records: u32,
    /// Bytes of a record's value.
    bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Quorate,
    Written,
    Synced,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Quorate => "quorate, synced",
            Self::Written => "JetStream, written",
            Self::Synced => "JetStream, synced",
        }
    }
}

struct Server {
    which: Which,
    address: SocketAddr,
    processes: Processes,
}

struct Sample {
    per_second: f64,
    p99_ms: f64,
    cpu_us: f64,
}

pub(crate) fn run(options: &Options, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    measure(options, folder).map_err(|error| error.to_string().into())
}

fn measure(options: &Options, folder: &Path) -> Result<(), Failure> {
    let beside = std::env::current_exe()?.with_file_name("quorate");
    let binary = options.quorate.clone().unwrap_or(beside);
    let said = |binary| version(binary).map_err(|error| Failure::from(error.to_string()));
    println!("Machine: {}\n{} beside {}", machine(), said(&binary)?, said(&options.nats)?);
    println!("One node each; medians of {} repeats of {} s\n", options.repeats, options.seconds);
    println!(
        "| what | server | records /s | MB /s | p99 ms | CPU µs a record |\n| --- | --- | --- | --- | --- | --- |"
    );
    for &bytes in &options.bytes {
        let batch = (64 << 10) / (bytes as u32 + 16);
        let loads = [
            (
                format!("batches of {batch} × {bytes} B, 4 producers"),
                Load { clients: 4, in_flight: 4, records: batch, bytes },
            ),
            (
                format!("one at a time, {bytes} B, 1 producer"),
                Load { clients: 1, in_flight: 1, records: 1, bytes },
            ),
            (
                format!("one at a time, {bytes} B, 64 producers"),
                Load { clients: 64, in_flight: 1, records: 1, bytes },
            ),
        ];
        for (what, load) in &loads {
            let all = [Which::Quorate, Which::Written, Which::Synced];
            let mut samples = all.map(|which| (which, Vec::new(), Vec::new()));
            for repeat in 0..options.repeats {
                for (which, produced, consumed) in &mut samples {
                    let server = Server::start(*which, &binary, options, &folder.join(format!("{repeat}")))?;
                    let (sample, records) = server.produce(load, options.seconds)?;
                    produced.push(sample);
                    if load.records > 1 {
                        consumed.push(server.consume(records)?);
                    }
                    drop(server);
                    std::fs::remove_dir_all(folder.join(format!("{repeat}")))?;
                }
            }
            for (which, produced, _) in &samples {
                row(what, *which, bytes, produced);
            }
            for (which, _, consumed) in samples.iter().filter(|(_, _, consumed)| !consumed.is_empty()) {
                row(&format!("consume all of it, {bytes} B, 1 consumer"), *which, bytes, consumed);
            }
        }
    }
    Ok(())
}

fn row(what: &str, which: Which, bytes: usize, samples: &[Sample]) {
    let middle = |of: fn(&Sample) -> f64| median(samples.iter().map(of).collect());
    let rate = middle(|sample| sample.per_second);
    let p99 = middle(|sample| sample.p99_ms);
    let p99 = if p99.is_nan() { String::new() } else { format!("{p99:.2}") };
    println!(
        "| {what} | {} | {} | {:.0} | {p99} | {:.2} |",
        which.name(),
        thousands(rate),
        rate * bytes as f64 / 1e6,
        middle(|sample| sample.cpu_us),
    );
}

impl Server {
    fn start(which: Which, binary: &Path, options: &Options, folder: &Path) -> Result<Self, Failure> {
        let free = free_addresses(2)?;
        let failed = |error: Box<dyn std::error::Error>| Failure::from(error.to_string());
        let mut processes = Processes::new(folder).map_err(failed)?;
        let mut command;
        if which == Which::Quorate {
            command = processes::quorate(binary, folder, 0, free[1], &[]);
            command.args(["--redis", "off", "--etcd", "off", "--kafka", &free[0].to_string()]);
        } else {
            let sync = if which == Which::Synced { "sync_interval: always" } else { "" };
            let config = folder.join("nats.conf");
            let store = folder.join("jetstream");
            let text = format!(
                "listen: \"{}\"\nmax_pending: 256MB\njetstream {{ store_dir: \"{}\", max_file_store: 64GB\n {sync} }}\n",
                free[0],
                store.display()
            );
            std::fs::write(&config, text)?;
            command = Command::new(&options.nats);
            command.arg("--config").arg(config);
        }
        processes.spawn(command, if which == Which::Quorate { "quorate" } else { "nats" }).map_err(failed)?;
        let server = Self { which, address: free[0], processes };
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let made = match which {
                Which::Quorate => {
                    broker::Connection::open(server.address).and_then(|mut made| made.make_topic())
                }
                _ => jetstream::Connection::open(server.address).and_then(|mut made| made.make_stream()),
            };
            match made {
                Ok(()) => return Ok(server),
                Err(error) if Instant::now() > end => {
                    return Err(format!("{error}; {}", server.processes.last_words()).into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn produce(&self, load: &Load, seconds: f64) -> Result<(Sample, u64), Failure> {
        let before = self.processes.cpu_seconds();
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let one = || match self.which {
            Which::Quorate => broker::Connection::open(self.address)?.produce(load, until),
            _ => jetstream::Connection::open(self.address)?.produce(load, until),
        };
        let done = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..load.clients).map(|_| scope.spawn(one)).collect();
            let ended = clients
                .into_iter()
                .map(|client| client.join().map_err(|_| Failure::from("a client panicked"))?);
            ended.collect::<Result<Vec<_>, Failure>>()
        })?;
        let cpu = self.processes.cpu_seconds() - before;
        let records: u64 = done.iter().map(|(records, _)| records).sum();
        let mut took: Vec<u64> = done.into_iter().flat_map(|(_, took)| took).collect();
        // What was still under way at the end is there too.
        let per_answer = if self.which == Which::Quorate { u64::from(load.records) } else { 1 };
        let there = took.len() as u64 * per_answer;
        let p99_ms = percentile(&mut took, 0.99) as f64 / 1e3;
        let sample =
            Sample { per_second: records as f64 / seconds, p99_ms, cpu_us: cpu * 1e6 / there as f64 };
        Ok((sample, there))
    }

    fn consume(&self, there: u64) -> Result<Sample, Failure> {
        let before = self.processes.cpu_seconds();
        let begun = Instant::now();
        let read = match self.which {
            Which::Quorate => broker::Connection::open(self.address)?.consume()?,
            _ => jetstream::Connection::open(self.address)?.consume(there)?,
        };
        let seconds = begun.elapsed().as_secs_f64();
        if read != there {
            return Err(format!("{read} records were read of {there} that were acknowledged").into());
        }
        let cpu = self.processes.cpu_seconds() - before;
        Ok(Sample { per_second: read as f64 / seconds, p99_ms: f64::NAN, cpu_us: cpu * 1e6 / read as f64 })
    }
}
