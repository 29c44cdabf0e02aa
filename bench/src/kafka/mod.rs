//! Streams over the Kafka protocol, beside NATS JetStream: both on the same disk in turns, the durability of each said.
//!
//! Quorate's are always synced before they are acknowledged. JetStream is measured as it comes (it acknowledges what it has written, and syncs every two
//! minutes) and with `sync_interval: always`. One generator drives both, with as many records under way, at the node that leads. Batches are measured
//! beside a bare rig too, which shows what this machine's loopback and disk allow.
//! Called by: `main`.

mod broker;
mod jetstream;
mod latency;
mod rig;
mod servers;

use crate::processes::version;
use crate::report::{machine, median, percentile, thousands};
use clap::Args;
use servers::{Programs, Server, Which};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use rig::serve as rig;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// The binary of quorate; beside this one when absent.
    #[arg(long)]
    quorate: Option<PathBuf>,
    /// The binary of nats-server (`scripts/nats.sh` installs one).
    #[arg(long)]
    nats: PathBuf,
    /// Nodes of each server, with a replica on each.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
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
    println!(
        "{} node(s) each; medians of {} repeats of {} s\n",
        options.nodes, options.repeats, options.seconds
    );
    println!(
        "| what | server | records /s | MB /s | p99 ms | CPU µs a record |\n| --- | --- | --- | --- | --- | --- |"
    );
    let programs = Programs { quorate: &binary, nats: &options.nats };
    for &bytes in &options.bytes {
        for (what, load) in loads(bytes) {
            under_load(&what, &load, options, &programs, folder)?;
        }
        on_its_way(bytes, options, &programs, folder)?;
    }
    Ok(())
}

fn loads(bytes: usize) -> [(String, Load); 3] {
    let batch = (64 << 10) / (bytes as u32 + 16);
    [
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
    ]
}

/// What producers reach together, and then a consumer that reads all of it.
fn under_load(
    what: &str,
    load: &Load,
    options: &Options,
    programs: &Programs<'_>,
    folder: &Path,
) -> Result<(), Failure> {
    let batches = load.records > 1;
    let mut all = vec![Which::Quorate, Which::Written, Which::Synced];
    if batches && options.nodes == 1 {
        all.push(Which::Rig);
    }
    let mut samples: Vec<_> = all.into_iter().map(|which| (which, Vec::new(), Vec::new())).collect();
    for _ in 0..options.repeats {
        for (which, produced, consumed) in &mut samples {
            with_server(*which, options, programs, folder, |server| {
                let (sample, records) = server.produce(load, options.seconds)?;
                produced.push(sample);
                if batches && *which != Which::Rig {
                    consumed.push(server.consume(records)?);
                }
                Ok(())
            })?;
        }
    }
    for (which, produced, _) in &samples {
        row(what, *which, load.bytes, produced);
    }
    for (which, _, consumed) in samples.iter().filter(|(_, _, consumed)| !consumed.is_empty()) {
        row(&format!("consume all of it, {} B, 1 consumer", load.bytes), *which, load.bytes, consumed);
    }
    Ok(())
}

/// What a record takes from its producer to a consumer that waits, where nothing else goes on.
fn on_its_way(
    bytes: usize,
    options: &Options,
    programs: &Programs<'_>,
    folder: &Path,
) -> Result<(), Failure> {
    let mut samples = [Which::Quorate, Which::Written, Which::Synced].map(|which| (which, Vec::new()));
    for _ in 0..options.repeats {
        for (which, taken) in &mut samples {
            with_server(*which, options, programs, folder, |server| {
                taken.push(server.latency(bytes, options.seconds)?);
                Ok(())
            })?;
        }
    }
    for (which, taken) in &samples {
        row(&format!("producer to consumer, {bytes} B, {} /s", latency::RATE), *which, bytes, taken);
    }
    Ok(())
}

fn with_server(
    which: Which,
    options: &Options,
    programs: &Programs<'_>,
    folder: &Path,
    measure: impl FnOnce(&Server) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let folder = folder.join("servers");
    let server = Server::start(which, programs, options.nodes, &folder)?;
    measure(&server)?;
    drop(server);
    Ok(std::fs::remove_dir_all(folder)?)
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
    fn produce(&self, load: &Load, seconds: f64) -> Result<(Sample, u64), Failure> {
        let before = self.processes.cpu_seconds();
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let one = || {
            if self.which.is_broker() {
                broker::Connection::open(self.address)?.produce(load, until)
            } else {
                jetstream::Connection::open(self.address)?.produce(load, until)
            }
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
        let per_answer = if self.which.is_broker() { u64::from(load.records) } else { 1 };
        let there = took.len() as u64 * per_answer;
        let p99_ms = percentile(&mut took, 0.99) as f64 / 1e3;
        let sample =
            Sample { per_second: records as f64 / seconds, p99_ms, cpu_us: cpu * 1e6 / there as f64 };
        Ok((sample, there))
    }

    fn consume(&self, there: u64) -> Result<Sample, Failure> {
        let before = self.processes.cpu_seconds();
        let begun = Instant::now();
        let read = if self.which.is_broker() {
            broker::Connection::open(self.address)?.consume()?
        } else {
            jetstream::Connection::open(self.address)?.consume(there)?
        };
        let seconds = begun.elapsed().as_secs_f64();
        if read != there {
            return Err(format!("{read} records were read of {there} that were acknowledged").into());
        }
        let cpu = self.processes.cpu_seconds() - before;
        Ok(Sample { per_second: read as f64 / seconds, p99_ms: f64::NAN, cpu_us: cpu * 1e6 / read as f64 })
    }

    fn latency(&self, bytes: usize, seconds: f64) -> Result<Sample, Failure> {
        let before = self.processes.cpu_seconds();
        let clock = Instant::now();
        let count = (seconds * f64::from(latency::RATE)) as u32;
        let mut took = std::thread::scope(|scope| {
            let consumer = scope.spawn(|| {
                if self.which.is_broker() {
                    broker::Connection::open(self.address)?.latencies(clock, count as usize)
                } else {
                    jetstream::Connection::open(self.address)?.latencies(clock, count as usize)
                }
            });
            if self.which.is_broker() {
                let mut producer = broker::Connection::open(self.address)?;
                (0..count).try_for_each(|number| {
                    producer.produce_stamped(latency::Stamp::wait(clock, number), bytes)
                })?;
            } else {
                let mut producer = jetstream::Connection::open(self.address)?;
                (0..count).try_for_each(|number| {
                    producer.produce_stamped(latency::Stamp::wait(clock, number), bytes)
                })?;
            }
            consumer.join().map_err(|_| Failure::from("a consumer panicked"))?
        })?;
        if took.len() != count as usize {
            return Err(format!("{} records arrived of {count} that were acknowledged", took.len()).into());
        }
        let cpu = self.processes.cpu_seconds() - before;
        let p99_ms = percentile(&mut took, 0.99) as f64 / 1e3;
        Ok(Sample { per_second: f64::from(latency::RATE), p99_ms, cpu_us: cpu * 1e6 / f64::from(count) })
    }
}
