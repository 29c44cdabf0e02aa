//! Three nodes beside three nodes of etcd: the same disk, durability, work, machine and load generator, one after the other.
//!
//! A round starts one system's nodes afresh, fills all the keys, and measures every operation at every number of clients; then the
//! other system has its turn, and the next round begins with the other one. Both never run at once, and neither always runs first.
//! Clients are spread evenly over the nodes. Quorate is spoken to over HTTP/1.1, a kept-alive connection for each client, or with `--over etcd`
//! as etcd is: over gRPC, with the connections shared as etcd's own benchmark tool shares them, at most 100. The generator runs in this
//! process on one thread, and its CPU time is shown, as it comes out of the same cores.
//!
//! Invariant: an answer counts only if it is a success of the right size: a put that was acknowledged, a read that brought the value.
//! Called by: `main`. Read `run` first.

mod etcd;
mod http;
mod load;
mod protobuf;
mod servers;
mod wall;
mod watchers;

use crate::report::{machine, median};
use load::{Measured, Operation};
use serde_json::{Value, json};
use servers::{Fleet, Protocol, System};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
pub(crate) use wall::serve as wall;
use watchers::Delivered;

type Failure = Box<dyn std::error::Error>;

/// Bytes of every value.
const VALUE_BYTES: usize = 256;

#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// The quorate binary; by default the one beside this binary.
    #[arg(long, value_name = "PATH")]
    quorate: Option<PathBuf>,
    /// The etcd binary to measure beside, such as scripts/etcd.sh installs; without it quorate runs alone.
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,
    /// Clients at once, one measurement for each.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 64, 512])]
    clients: Vec<usize>,
    /// Length of a measurement in seconds, after a tenth of it (at least half a second) to warm up.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    seconds: f64,
    /// Rounds; medians are shown.
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeats: usize,
    /// Nodes of each system.
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: usize,
    /// Keys to choose from at random; all are written before the first measurement.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    keys: u64,
    /// How quorate is spoken to.
    #[arg(long, value_enum, default_value = "http")]
    over: Protocol,
    /// What is measured; everything but `put` and `get` wants `--over etcd`.
    #[arg(long, value_enum, value_name = "WHAT,WHAT", value_delimiter = ',', default_values = ["put", "get"])]
    operations: Vec<Operation>,
    /// Measure also how fast events reach this many watchers; wants `--over etcd`.
    #[arg(long, value_name = "N", default_value_t = 0)]
    watchers: u64,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

/// One cell of the table: what one system did in one round.
struct Sample {
    system: System,
    operation: Operation,
    clients: usize,
    measured: Measured,
}

pub(crate) fn run(options: &Options, folder: &Path) -> Result<(), Failure> {
    let quorate = match &options.quorate {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("quorate"),
    };
    let mut systems = vec![(System::Quorate, quorate)];
    systems.extend(options.etcd.clone().map(|path| (System::Etcd, path)));
    for (system, path) in &systems {
        eprintln!("{}: {}", system.name(), crate::processes::version(path)?);
    }
    let only_etcd = options.operations.iter().find(|what| !matches!(what, Operation::Put | Operation::Get));
    if options.over == Protocol::Http && (options.watchers > 0 || only_etcd.is_some()) {
        return Err("only put and get are measured over HTTP: add --over etcd".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut samples, mut scales) = (Vec::new(), Vec::new());
    for round in 0..options.repeats {
        for (system, binary) in &systems {
            let place = folder.join(format!("{}-{round}", system.name()));
            let fleet = Fleet::start(*system, options.over, binary, &place, options.nodes)?;
            let measuring = measure(options, &fleet, round);
            let (cells, scale) = tokio::task::LocalSet::new()
                .block_on(&runtime, measuring)
                .map_err(|error| format!("{}: {error}\n{}", system.name(), fleet.nodes.last_words()))?;
            samples.extend(cells);
            scales.push((*system, scale));
            drop(fleet);
            std::fs::remove_dir_all(&place)?;
        }
        systems.reverse();
    }
    let in_process = crate::commits::in_process_rate(&folder.join("in-process"), options.repeats)?;
    let versions: Vec<_> = systems
        .iter()
        .map(|(system, path)| Ok((system.name(), crate::processes::version(path)?)))
        .collect::<Result<_, Failure>>()?;
    let rows = rows(options, &samples);
    let scales: Vec<_> = [System::Etcd, System::Quorate]
        .into_iter()
        .filter_map(|system| {
            let own: Vec<_> =
                scales.iter().filter(|(of, _)| *of == system).map(|(_, scale)| *scale).collect();
            Some((system, Scale::medians(&own)?))
        })
        .collect();
    if options.json {
        println!("{:#}", as_json(options, &versions, &rows, &scales, in_process));
    } else {
        print!("{}", as_table(options, &versions, &rows, &scales, in_process));
    }
    Ok(())
}

async fn measure(options: &Options, fleet: &Fleet, round: usize) -> Result<(Vec<Sample>, Scale), Failure> {
    fleet.ready(Duration::from_secs(60)).await?;
    load::fill(fleet, options.keys).await?;
    let mut scale = Scale { resident_mb: resident_mb(fleet), delivered: None };
    let mut samples = Vec::new();
    for &clients in &options.clients {
        for &operation in &options.operations {
            let seed = (round * 1000 + clients) as u64;
            let measured =
                load::measure(fleet, operation, clients, options.keys, options.seconds, seed).await?;
            eprintln!(
                "round {}: {} {} with {clients} clients: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, CPU of servers {:.1} µs and generator {:.1} µs an operation",
                round + 1,
                fleet.system.name(),
                operation.name(),
                measured.per_second,
                measured.p50_ms,
                measured.p99_ms,
                measured.server_cpu_us,
                measured.generator_cpu_us,
            );
            samples.push(Sample { system: fleet.system, operation, clients, measured });
        }
    }
    if options.watchers > 0 {
        scale.delivered = Some(watchers::measure(fleet, options.watchers, options.seconds).await?);
    }
    eprintln!("round {}: {} {}", round + 1, fleet.system.name(), scale.line());
    Ok((samples, scale))
}

/// Megabytes of memory of a node, on average, mapped files included.
fn resident_mb(fleet: &Fleet) -> f64 {
    fleet.nodes.resident_bytes() as f64 / fleet.nodes.count() as f64 / 1e6
}

/// What one system did in one round with many keys and many watchers.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Of a node, when all keys are written.
    resident_mb: f64,
    delivered: Option<Delivered>,
}

impl Scale {
    fn medians(scales: &[Scale]) -> Option<Self> {
        let first = scales.first()?;
        let of = |field: &dyn Fn(&Scale) -> f64| median(scales.iter().map(field).collect());
        let delivered =
            |field: fn(&Delivered) -> f64| of(&|scale| scale.delivered.as_ref().map_or(0.0, field));
        Some(Self {
            resident_mb: of(&|scale| scale.resident_mb),
            delivered: first.delivered.map(|_| Delivered {
                p50_ms: delivered(|d| d.p50_ms),
                p99_ms: delivered(|d| d.p99_ms),
                all_ms: delivered(|d| d.all_ms),
                server_cpu_us: delivered(|d| d.server_cpu_us),
            }),
        })
    }

    fn line(&self) -> String {
        let mut line = format!("{:.0} MB resident with all keys", self.resident_mb);
        if let Some(seen) = &self.delivered {
            let _ = write!(
                line,
                "; an event reaches its watcher after {:.2} / {:.2} ms (p50 / p99, {:.0} µs of servers' CPU), one that all watch reaches the last after {:.1} ms",
                seen.p50_ms, seen.p99_ms, seen.server_cpu_us, seen.all_ms
            );
        }
        line
    }
}

/// A line of the table: medians over the rounds, each figure by itself.
struct Row {
    operation: Operation,
    clients: usize,
    quorate: Measured,
    etcd: Option<Measured>,
}

fn rows(options: &Options, samples: &[Sample]) -> Vec<Row> {
    let mut rows = Vec::new();
    for &operation in &options.operations {
        for &clients in &options.clients {
            let of = |system| {
                let chosen = samples.iter().filter(|sample| {
                    sample.system == system && sample.operation == operation && sample.clients == clients
                });
                medians(&chosen.map(|sample| &sample.measured).collect::<Vec<_>>())
            };
            if let Some(quorate) = of(System::Quorate) {
                rows.push(Row { operation, clients, quorate, etcd: of(System::Etcd) });
            }
        }
    }
    rows
}

fn medians(samples: &[&Measured]) -> Option<Measured> {
    let of = |field: fn(&Measured) -> f64| median(samples.iter().map(|sample| field(sample)).collect());
    (!samples.is_empty()).then(|| Measured {
        per_second: of(|m| m.per_second),
        p50_ms: of(|m| m.p50_ms),
        p99_ms: of(|m| m.p99_ms),
        server_cpu_us: of(|m| m.server_cpu_us),
        generator_cpu_us: of(|m| m.generator_cpu_us),
    })
}

fn as_table(
    options: &Options,
    versions: &[(&str, String)],
    rows: &[Row],
    scales: &[(System, Scale)],
    in_process: f64,
) -> String {
    let mut text = format!("Machine: {}\n\n", machine());
    for (name, version) in versions {
        let _ = writeln!(text, "{name}: {version}");
    }
    let _ = writeln!(
        text,
        "\n{} of each on this machine, values of {VALUE_BYTES} B, {} keys at random, every write on disk on a quorum before its \
         answer, reads linearizable,\nclients spread over the nodes; {} gRPC over at most {} connections; medians of {} rounds of {} s.\n\
         CPU is µs an operation: all servers together + load generator.\n",
        options.nodes,
        options.keys,
        match options.over {
            Protocol::Http => "HTTP/1.1 with a connection per client beside",
            Protocol::Etcd => "both over",
        },
        etcd::CONNECTIONS_MAX,
        options.repeats,
        options.seconds
    );
    text.push_str("| operation | clients | etcd /s | p50 / p99 ms | CPU µs | quorate /s | p50 / p99 ms | CPU µs | ratio | p99 lower |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for row in rows {
        let (ratio, lower) = match &row.etcd {
            Some(etcd) => (
                format!("{:.1}×", row.quorate.per_second / etcd.per_second),
                if row.quorate.p99_ms < etcd.p99_ms { "yes" } else { "**no**" },
            ),
            None => ("-".into(), "-"),
        };
        let etcd = row.etcd.as_ref().map_or("- | - | -".into(), cells);
        let _ = writeln!(
            text,
            "| {} | {} | {etcd} | {} | {ratio} | {lower} |",
            row.operation.name(),
            row.clients,
            cells(&row.quorate)
        );
    }
    text.push('\n');
    for (system, scale) in scales {
        let _ = writeln!(text, "{}: {}", system.name(), scale.line());
    }
    let _ = writeln!(
        text,
        "\nIn process (one node, no network, 64 tasks, durable puts of {VALUE_BYTES} B): {in_process:.0}/s"
    );
    text
}

fn cells(measured: &Measured) -> String {
    format!(
        "{:.0} | {:.2} / {:.2} | {:.0} + {:.0}",
        measured.per_second,
        measured.p50_ms,
        measured.p99_ms,
        measured.server_cpu_us,
        measured.generator_cpu_us
    )
}

fn as_json(
    options: &Options,
    versions: &[(&str, String)],
    rows: &[Row],
    scales: &[(System, Scale)],
    in_process: f64,
) -> Value {
    let cell = |measured: &Measured| {
        json!({
            "per_second": measured.per_second, "p50_ms": measured.p50_ms, "p99_ms": measured.p99_ms,
            "server_cpu_us": measured.server_cpu_us, "generator_cpu_us": measured.generator_cpu_us,
        })
    };
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "operation": row.operation.name(), "clients": row.clients, "quorate": cell(&row.quorate),
                "etcd": row.etcd.as_ref().map(cell),
                "ratio": row.etcd.as_ref().map(|etcd| row.quorate.per_second / etcd.per_second),
            })
        })
        .collect();
    let scales: serde_json::Map<_, _> = scales
        .iter()
        .map(|(system, scale)| {
            let delivered = scale.delivered.map(|seen| {
                json!({
                    "p50_ms": seen.p50_ms, "p99_ms": seen.p99_ms, "all_ms": seen.all_ms,
                    "server_cpu_us": seen.server_cpu_us,
                })
            });
            (system.name().to_owned(), json!({"resident_mb": scale.resident_mb, "events": delivered}))
        })
        .collect();
    let versions: serde_json::Map<_, _> =
        versions.iter().map(|(name, version)| ((*name).to_owned(), json!(version))).collect();
    json!({
        "machine": machine(), "versions": versions, "nodes": options.nodes, "keys": options.keys,
        "value_bytes": VALUE_BYTES, "seconds": options.seconds, "repeats": options.repeats, "rows": rows, "scale": scales,
        "in_process_per_second": in_process,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(per_second: f64, p99_ms: f64) -> Measured {
        Measured { per_second, p50_ms: p99_ms / 2.0, p99_ms, server_cpu_us: 10.0, generator_cpu_us: 5.0 }
    }

    #[test]
    fn a_row_has_the_median_of_its_own_samples_and_says_which_system_is_slower() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            options: Options,
        }
        use clap::Parser;
        let options = Only::parse_from(["x", "--clients", "8"]).options;
        let sample = |system, operation, per_second, p99| Sample {
            system,
            operation,
            clients: 8,
            measured: measured(per_second, p99),
        };
        let mut samples: Vec<_> =
            [100.0, 900.0, 300.0].map(|rate| sample(System::Quorate, Operation::Put, rate, 4.0)).into();
        samples.push(sample(System::Etcd, Operation::Put, 100.0, 3.0));
        samples.push(sample(System::Quorate, Operation::Get, 7.0, 1.0));
        let scale = |resident_mb| Scale { resident_mb, delivered: None };
        let scales = [(System::Etcd, Scale::medians(&[scale(9.0), scale(5.0), scale(7.0)]).unwrap())];
        let table = as_table(&options, &[("etcd", "v1".into())], &rows(&options, &samples), &scales, 1.0);
        assert!(
            table.contains(
                "| put | 8 | 100 | 1.50 / 3.00 | 10 + 5 | 300 | 2.00 / 4.00 | 10 + 5 | 3.0× | **no** |"
            ),
            "{table}"
        );
        assert!(table.contains("| get | 8 | - | - | - | 7 |"), "{table}");
        let json = as_json(&options, &[("etcd", "v1".into())], &rows(&options, &samples), &scales, 1.0);
        assert!(table.contains("etcd: 7 MB resident"), "{table}");
        assert_eq!(json["scale"]["etcd"]["resident_mb"], 7.0);
        assert_eq!(json["rows"][0]["ratio"], 3.0);
        assert_eq!(json["versions"]["etcd"], "v1");
    }
}
