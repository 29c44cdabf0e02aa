//! A campaign of seeds, or the replay of one.
//!
//! Invariant: a failure prints one line that replays it, and the exit code says so.
//! Called by: people and CI.

use clap::{Args, Parser, Subcommand};
use quorate_engine::Durability;
use quorate_sim::{
    CLUSTER_PROBES, CLUSTER_RARE, ClusterOptions, ClusterPlant, Failure, Options, Plant, Probes, Report,
    Scenario, run, run_cluster,
};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Runs the production node on a simulated disk and clock, under faults that follow from a seed.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    world: Option<World>,
    /// One seed, decimal or 0x…; it is run twice and compared byte for byte.
    #[arg(long, value_parser = seed)]
    seed: Option<u64>,
    /// Seeds from A (included) to B (excluded), as A..B.
    #[arg(long, value_parser = seeds, default_value = "0..100")]
    seeds: (u64, u64),
    /// Simulated events per seed.
    #[arg(long, default_value_t = 10_000)]
    steps: u64,
    /// When commits are answered: always, interval or none; by the seed when left out.
    #[arg(long, value_parser = durability)]
    durability: Option<Durability>,
    /// What the workload dwells on: mixed, keys, streams, locks, asks or calls; a campaign goes through all when it is left out.
    #[arg(long, value_parser = scenario)]
    scenario: Option<Scenario>,
    /// Plants a bug, to see it found.
    #[arg(long, value_parser = plant)]
    plant: Option<Plant>,
    /// Tells every step on standard error.
    #[arg(long)]
    trace: bool,
    /// Threads of a campaign.
    #[arg(long, default_value_t = 2)]
    threads: u64,
}

#[derive(Subcommand)]
enum World {
    /// Replicas on a network, instead of a node alone.
    Cluster(ClusterArguments),
}

#[derive(Args)]
struct ClusterArguments {
    /// One seed, decimal or 0x…; it is run twice and compared byte for byte.
    #[arg(long, value_parser = seed)]
    seed: Option<u64>,
    /// So many seeds from 0 on, or from A (included) to B (excluded) as A..B.
    #[arg(long, value_parser = some_seeds, default_value = "100")]
    seeds: (u64, u64),
    /// Simulated events per seed, before everything is healed.
    #[arg(long, default_value_t = 20_000)]
    steps: u64,
    /// Nodes at the beginning; 3 or 5 by the seed when left out.
    #[arg(long)]
    nodes: Option<u64>,
    /// When commits are answered: always or interval; by the seed when left out.
    #[arg(long, value_parser = cluster_durability)]
    durability: Option<Durability>,
    /// What the workload dwells on: mixed, keys, streams, locks, asks or calls; a campaign goes through all when it is left out.
    #[arg(long, value_parser = scenario)]
    scenario: Option<Scenario>,
    /// Plants a bug, to see it found.
    #[arg(long, value_parser = cluster_plant)]
    plant: Option<ClusterPlant>,
    /// Tells every event on standard error.
    #[arg(long)]
    trace: bool,
    /// Threads of a campaign.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Goes on with further seeds until so many minutes have passed.
    #[arg(long, default_value_t = 0)]
    minutes: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(World::Cluster(arguments)) = &arguments.world {
        return told(clusters(arguments));
    }
    let options = Options {
        durability: arguments.durability,
        plant: arguments.plant,
        scenario: arguments.scenario.unwrap_or_default(),
        trace: arguments.trace,
    };
    told(match arguments.seed {
        Some(seed) => twice(seed, arguments.steps, options).map(|report| println!("{report:#?}")),
        None => campaign(&arguments, options),
    })
}

fn told(ran: Result<(), String>) -> ExitCode {
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn twice(seed: u64, steps: u64, options: Options) -> Result<Report, String> {
    let report = run(seed, steps, options).map_err(|failure| failure.to_string())?;
    let again =
        run(seed, steps, Options { trace: false, ..options }).map_err(|failure| failure.to_string())?;
    if report == again {
        return Ok(report);
    }
    Err(format!("seed {seed:#x} does not run the same way twice: {report:#?} and {again:#?}"))
}

/// Findings after which a campaign ends.
const FOUND_MAX: usize = 5;

/// Runs seeds from `first` on, on so many threads, while `goes_on` says so and few have found something; how many have.
fn each_seed<R>(
    threads: u64,
    first: u64,
    goes_on: impl Fn(u64) -> bool + Sync,
    run: impl Fn(u64) -> Result<R, Failure> + Sync,
    take: impl FnMut(R) + Send,
) -> usize {
    let next = AtomicU64::new(first);
    let found = AtomicUsize::new(0);
    let take = Mutex::new(take);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if found.load(Ordering::Relaxed) >= FOUND_MAX || !goes_on(seed) {
            return;
        }
        match run(seed) {
            Ok(report) => {
                let Ok(mut take) = take.lock() else { return };
                take(report);
            }
            Err(failure) => {
                eprintln!("{failure}");
                found.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    found.into_inner()
}

/// What a campaign's seeds dwell on: what was asked for, or everything in turn.
fn scenario_of(asked: Option<Scenario>, seed: u64) -> Scenario {
    asked.unwrap_or_else(|| Scenario::of_seed(seed))
}

fn campaign(arguments: &Arguments, options: Options) -> Result<(), String> {
    let (first, end) = arguments.seeds;
    let started = Instant::now();
    let (mut probes, mut steps, mut commands, mut restarts) = (Probes::default(), 0, 0, 0);
    let found = each_seed(
        arguments.threads,
        first,
        |seed| seed < end,
        |seed| {
            let scenario = scenario_of(arguments.scenario, seed);
            run(seed, arguments.steps, Options { scenario, ..options })
        },
        |report| {
            probes.merge(&report.probes);
            steps += report.steps;
            commands += report.commands;
            restarts += report.restarts;
        },
    );
    let seconds = started.elapsed().as_secs_f64();
    for name in quorate_sim::PROBES {
        println!("{:>10}  {name}", probes.count(name));
    }
    println!(
        "{} seeds, {steps} steps, {commands} commands, {restarts} restarts in {seconds:.1} s: {:.0} steps/s",
        end.saturating_sub(first),
        steps as f64 / seconds
    );
    if found > 0 {
        return Err(format!("{found} seeds found something"));
    }
    let missing = probes.missing();
    if arguments.scenario.is_none() && arguments.durability.is_none() && !missing.is_empty() {
        return Err(format!("no seed reached: {}", missing.join("; ")));
    }
    Ok(())
}

fn clusters(arguments: &ClusterArguments) -> Result<(), String> {
    let ClusterArguments { nodes, durability, plant, trace, .. } = *arguments;
    let scenario = arguments.scenario.unwrap_or_default();
    let options = ClusterOptions { durability, nodes, plant, scenario, trace };
    let Some(seed) = arguments.seed else { return cluster_campaign(arguments, options) };
    let once = run_cluster(seed, arguments.steps, options).map_err(|failure| failure.to_string())?;
    let again = run_cluster(seed, arguments.steps, ClusterOptions { trace: false, ..options });
    if again.as_ref() != Ok(&once) {
        return Err(format!("seed {seed:#x} does not run the same way twice: {once:#?} and {again:#?}"));
    }
    println!("{once:#?}");
    Ok(())
}

#[derive(Default)]
struct ClusterTotal {
    probes: Probes,
    seeds: u64,
    steps: u64,
    commands: u64,
    reads: u64,
    restarts: u64,
    elections: u64,
    simulated_ms: u64,
}

fn cluster_campaign(arguments: &ClusterArguments, options: ClusterOptions) -> Result<(), String> {
    let (first, end) = arguments.seeds;
    let started = Instant::now();
    let mut total = ClusterTotal::default();
    let found = each_seed(
        arguments.threads,
        first,
        |seed| seed < end || started.elapsed().as_secs() < arguments.minutes * 60,
        |seed| {
            let scenario = scenario_of(arguments.scenario, seed);
            run_cluster(seed, arguments.steps, ClusterOptions { scenario, ..options })
        },
        |report| {
            total.seeds += 1;
            total.probes.merge(&report.probes);
            total.steps += report.steps;
            total.commands += report.commands;
            total.reads += report.reads;
            total.restarts += report.restarts;
            total.elections += report.elections;
            total.simulated_ms += report.simulated_ms;
        },
    );
    total.seeds += found as u64;
    let seconds = started.elapsed().as_secs_f64();
    for name in CLUSTER_PROBES.iter().chain(CLUSTER_RARE) {
        println!("{:>10}  {name}", total.probes.count(name));
    }
    println!(
        "{} seeds, {} steps, {} commands, {} reads, {} restarts, {} elections, {:.1} simulated hours in {seconds:.1} s: {:.0} steps/s",
        total.seeds,
        total.steps,
        total.commands,
        total.reads,
        total.restarts,
        total.elections,
        total.simulated_ms as f64 / 3_600_000.0,
        total.steps as f64 / seconds
    );
    if found > 0 {
        return Err(format!("{found} seeds found something"));
    }
    let missing = total.probes.missing_of(CLUSTER_PROBES);
    let whole = arguments.scenario.is_none() && arguments.durability.is_none() && total.seeds >= 100;
    if whole && !missing.is_empty() {
        return Err(format!("no seed reached: {}", missing.join("; ")));
    }
    Ok(())
}

fn some_seeds(text: &str) -> Result<(u64, u64), String> {
    if text.contains("..") { seeds(text) } else { Ok((0, seed(text)?)) }
}

fn cluster_durability(text: &str) -> Result<Durability, String> {
    match durability(text)? {
        Durability::None => Err("a cluster refuses none: wanted always or interval".into()),
        other => Ok(other),
    }
}

fn cluster_plant(text: &str) -> Result<ClusterPlant, String> {
    let names = || ClusterPlant::ALL.map(ClusterPlant::name).join(", ");
    ClusterPlant::parse(text).ok_or_else(|| format!("wanted one of {}", names()))
}

fn seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{error}: wanted a number, or 0x and hexadecimal digits"))
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (first, end) = text.split_once("..").ok_or("wanted A..B")?;
    Ok((seed(first)?, seed(end)?))
}

fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "always" => Ok(Durability::Always),
        "interval" => Ok(Durability::Interval),
        "none" => Ok(Durability::None),
        _ => Err("wanted always, interval or none".into()),
    }
}

fn scenario(text: &str) -> Result<Scenario, String> {
    Scenario::parse(text)
        .ok_or_else(|| format!("wanted one of {}", Scenario::ALL.map(Scenario::name).join(", ")))
}

fn plant(text: &str) -> Result<Plant, String> {
    Plant::parse(text).ok_or_else(|| format!("wanted one of {}", Plant::ALL.map(Plant::name).join(", ")))
}
