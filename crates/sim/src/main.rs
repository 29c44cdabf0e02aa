//! A campaign of seeds, or the replay of one.
//!
//! Invariant: a failure prints one line that replays it, and the exit code says so.
//! Called by: people and CI.

use clap::Parser;
use quorate_engine::Durability;
use quorate_sim::{Failure, Options, Plant, Probes, Report, Scenario, run};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Runs the production node on a simulated disk and clock, under faults that follow from a seed.
#[derive(Parser)]
struct Arguments {
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
    /// What the workload dwells on: mixed, keys, streams, locks or asks; a campaign goes through all when it is left out.
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        durability: arguments.durability,
        plant: arguments.plant,
        scenario: arguments.scenario.unwrap_or_default(),
        trace: arguments.trace,
    };
    let ran = match arguments.seed {
        Some(seed) => twice(seed, arguments.steps, options).map(|report| println!("{report:#?}")),
        None => campaign(&arguments, options),
    };
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

fn campaign(arguments: &Arguments, options: Options) -> Result<(), String> {
    let (first, end) = arguments.seeds;
    let next = AtomicU64::new(first);
    let found: Mutex<Vec<Failure>> = Mutex::default();
    let total: Mutex<(Probes, u64, u64, u64)> = Mutex::default();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let stop = found.lock().is_ok_and(|found| found.len() >= 5);
                    if seed >= end || stop {
                        return;
                    }
                    let scenario = arguments.scenario.unwrap_or(Scenario::ALL[(seed % 5) as usize]);
                    match run(seed, arguments.steps, Options { scenario, ..options }) {
                        Ok(report) => {
                            if let Ok(mut total) = total.lock() {
                                total.0.merge(&report.probes);
                                total.1 += report.steps;
                                total.2 += report.commands;
                                total.3 += report.restarts;
                            }
                        }
                        Err(failure) => {
                            eprintln!("{failure}");
                            if let Ok(mut found) = found.lock() {
                                found.push(failure);
                            }
                        }
                    }
                }
            });
        }
    });
    let (probes, steps, commands, restarts) = total.into_inner().unwrap_or_default();
    let found = found.into_inner().unwrap_or_default();
    let seconds = started.elapsed().as_secs_f64();
    for name in quorate_sim::PROBES {
        println!("{:>10}  {name}", probes.count(name));
    }
    println!(
        "{} seeds, {steps} steps, {commands} commands, {restarts} restarts in {seconds:.1} s: {:.0} steps/s",
        end.saturating_sub(first),
        steps as f64 / seconds
    );
    if !found.is_empty() {
        return Err(format!("{} seeds found something", found.len()));
    }
    let missing = probes.missing();
    if arguments.scenario.is_none() && arguments.durability.is_none() && !missing.is_empty() {
        return Err(format!("no seed reached: {}", missing.join("; ")));
    }
    Ok(())
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
