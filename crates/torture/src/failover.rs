//! `failover`, `calm`, `transfer`: what a fault, no fault and a planned change of leader do to writes under load.
//!
//! Called by: `main`.

use crate::error::Trouble;
use crate::faults::Fault;
use crate::fleet::{Fleet, FleetOptions};
use crate::http::{Client, Outcome};
use crate::net::Kind;
use crate::probe::{Ack, Pressure, spread};
use crate::random::Random;
use serde_json::json;
use std::time::{Duration, Instant};

/// Longest that writes may stand still after a fault.
const FAILOVER_MS_MAX: u64 = 1000;
/// Longest that they may around a planned transfer.
const TRANSFER_MS_MAX: u64 = 100;
/// How long is waited for what has to happen before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);
const MS: u64 = 1_000_000;

#[derive(clap::Args)]
pub(crate) struct Failover {
    #[command(flatten)]
    fleet: FleetOptions,
    /// Faults of each kind.
    #[arg(long, value_name = "N", default_value_t = 50)]
    count: usize,
    /// Kinds, one after another.
    #[arg(long, value_name = "F,F", value_delimiter = ',', default_value = "kill,stop,cut")]
    fault: Vec<Fault>,
    /// Clients that load all nodes.
    #[arg(long, value_name = "N", default_value_t = 64)]
    clients: usize,
    /// Spreads the faults over time.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
}

impl Failover {
    pub(crate) fn net(&self) -> Kind {
        self.fleet.net
    }

    /// Whether writes flowed again in time, after each fault.
    pub(crate) async fn run(self) -> Result<bool, Trouble> {
        let fleet = Fleet::start(&self.fleet).await?;
        clustered(&fleet)?;
        let mut random = Random::new(self.seed);
        let pressure = Pressure::start(&fleet, self.clients);
        pressure.probe(&fleet);
        let mut met = true;
        println!(
            "| fault of the leader | count | first write on a survivor: median / p99 / max | on every survivor: median / p99 / max | ≤ {FAILOVER_MS_MAX} ms |"
        );
        println!("| --- | --- | --- | --- | --- |");
        for fault in self.fault {
            if fault == Fault::Cut && !fleet.net.cuts() {
                return Err(Trouble::Usage("direct links cannot be cut: use --net proxy or netns".into()));
            }
            let (mut first, mut every) = (Vec::new(), Vec::new());
            for number in 0..self.count {
                tokio::time::sleep(Duration::from_millis(random.between(1000, 2000))).await;
                let (one, all) = once(&fleet, &pressure, fault).await?;
                eprintln!("{} {}: {one} ms on one, {all} ms on every survivor", fault.name(), number + 1);
                first.push(one);
                every.push(all);
            }
            let ((a, b, worst), (d, e, slowest)) = (spread(first), spread(every));
            met &= slowest <= FAILOVER_MS_MAX;
            let verdict = if slowest <= FAILOVER_MS_MAX { "met" } else { "**missed**" };
            println!(
                "| {} | {} | {a} / {b} / {worst} ms | {d} / {e} / {slowest} ms | {verdict} |",
                fault.name(),
                self.count
            );
        }
        println!(
            "\nload: {} clients, {} writes acknowledged, {} failed and sent elsewhere",
            self.clients,
            pressure.done(),
            pressure.failed()
        );
        drop(pressure);
        fleet.clean_up(false)?;
        Ok(met)
    }
}

/// One fault of the leader: milliseconds to the first acknowledged write on any survivor, and on the last of them.
async fn once(fleet: &Fleet, pressure: &Pressure, fault: Fault) -> Result<(u64, u64), Trouble> {
    let (_, leader) = fleet.wait_for_leader(&fleet.all(), PATIENCE).await?;
    let survivors: Vec<_> = fleet.all().into_iter().filter(|node| *node != leader).collect();
    pressure.take_acks();
    let struck = pressure.clock.now();
    match fault {
        Fault::Kill => fleet.kill(leader),
        Fault::Stop => fleet.stop(leader),
        Fault::Cut => fleet.net.isolate(leader)?,
    }
    let until = Instant::now() + PATIENCE;
    let acks = loop {
        let acks: Option<Vec<u64>> = survivors.iter().map(|node| pressure.first_ack(*node, struck)).collect();
        if let Some(acks) = acks {
            break acks;
        }
        if Instant::now() > until {
            let mut seen = String::new();
            for &node in &survivors {
                let cluster = fleet.look(node, "/v1/cluster").await.unwrap_or_default();
                seen.push_str(&format!("node {}: {cluster}; ", node + 1));
            }
            let waiting: Vec<_> = survivors
                .iter()
                .filter(|node| pressure.first_ack(**node, struck).is_none())
                .map(|node| node + 1)
                .collect();
            let what =
                format!("a write on survivors {waiting:?} after {} of node {}", fault.name(), leader + 1);
            return Err(Trouble::Late { what, seconds: PATIENCE.as_secs(), seen });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    match fault {
        Fault::Kill => fleet.restart(leader)?,
        Fault::Stop => fleet.go_on(leader),
        Fault::Cut => fleet.net.heal(false)?,
    }
    fleet.ready(&fleet.all(), PATIENCE).await?;
    died(fleet)?;
    let ms = |at: Option<&u64>| at.map_or(0, |at| (at - struck).div_ceil(MS));
    Ok((ms(acks.iter().min()), ms(acks.iter().max())))
}

#[derive(clap::Args)]
pub(crate) struct Calm {
    #[command(flatten)]
    fleet: FleetOptions,
    /// How long, in minutes.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,
    /// Clients that load all nodes.
    #[arg(long, value_name = "N", default_value_t = 64)]
    clients: usize,
}

impl Calm {
    pub(crate) fn net(&self) -> Kind {
        self.fleet.net
    }

    /// Whether nobody was elected while nothing failed.
    pub(crate) async fn run(self) -> Result<bool, Trouble> {
        let fleet = Fleet::start(&self.fleet).await?;
        clustered(&fleet)?;
        let first = fleet.wait_for_leader(&fleet.all(), PATIENCE).await?;
        let pressure = Pressure::start(&fleet, self.clients);
        let begun = Instant::now();
        let until = begun + Duration::from_secs_f64(self.minutes * 60.0);
        let mut changes = Vec::new();
        let (mut last, mut unseen) = (first, 0u64);
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(250)).await;
            match fleet.leader(&fleet.all()).await {
                Some(now) if now != last => {
                    changes.push(format!(
                        "after {:.1} s: term {} of node {}",
                        begun.elapsed().as_secs_f64(),
                        now.0,
                        now.1 + 1
                    ));
                    last = now;
                }
                Some(_) => {}
                None => unseen += 1,
            }
            died(&fleet)?;
        }
        println!(
            "{} min, {} clients: {} writes ({:.0}/s), {} failed; term {} to {}, changes of leader or term: {}{}",
            self.minutes,
            self.clients,
            pressure.done(),
            pressure.done() as f64 / begun.elapsed().as_secs_f64(),
            pressure.failed(),
            first.0,
            last.0,
            changes.len(),
            if unseen > 0 { format!("; no node named a leader {unseen} times") } else { String::new() },
        );
        changes.iter().for_each(|change| println!("{change}"));
        drop(pressure);
        let met = changes.is_empty() && unseen == 0;
        fleet.clean_up(!met)?;
        Ok(met)
    }
}

#[derive(clap::Args)]
pub(crate) struct Transfer {
    #[command(flatten)]
    fleet: FleetOptions,
    /// Transfers.
    #[arg(long, value_name = "N", default_value_t = 20)]
    count: usize,
    /// Clients that load all nodes.
    #[arg(long, value_name = "N", default_value_t = 64)]
    clients: usize,
}

impl Transfer {
    pub(crate) fn net(&self) -> Kind {
        self.fleet.net
    }

    /// Whether writes never stood still for longer than they may.
    pub(crate) async fn run(self) -> Result<bool, Trouble> {
        let fleet = Fleet::start(&self.fleet).await?;
        clustered(&fleet)?;
        let pressure = Pressure::start(&fleet, self.clients);
        pressure.probe(&fleet);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (mut gaps, mut node_gaps, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..self.count {
            let (_, leader) = fleet.wait_for_leader(&fleet.all(), PATIENCE).await?;
            let to = (leader + 1 + number % (fleet.places.len() - 1)) % fleet.places.len();
            pressure.take_acks();
            tokio::time::sleep(Duration::from_secs(2)).await;
            let asked = pressure.clock.now();
            transfer(&fleet, leader, to).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let acks = pressure.take_acks();
            let ended = pressure.clock.now();
            let gap = longest_gap(&acks, None, asked, ended);
            let at_a_node =
                fleet.all().into_iter().map(|node| longest_gap(&acks, Some(node), asked, ended)).max();
            quiet.push(longest_gap(&acks, None, asked.saturating_sub(2000 * MS), asked) / MS);
            eprintln!("transfer {} from node {} to node {}: {} ms", number + 1, leader + 1, to + 1, gap / MS);
            gaps.push(gap / MS);
            node_gaps.push(at_a_node.unwrap_or(0) / MS);
        }
        let ((a, b, worst), (d, e, slowest), (_, _, before)) =
            (spread(gaps), spread(node_gaps), spread(quiet));
        let met = worst <= TRANSFER_MS_MAX;
        println!(
            "{} transfers, {} clients: longest gap between acknowledged writes: median {a}, p99 {b}, max {worst} ms (goal ≤ {TRANSFER_MS_MAX}: {}); \
             at one node: median {d}, p99 {e}, max {slowest} ms; in the 2 s before, without a transfer: max {before} ms",
            self.count,
            self.clients,
            if met { "met" } else { "missed" },
        );
        drop(pressure);
        fleet.clean_up(false)?;
        Ok(met)
    }
}

async fn transfer(fleet: &Fleet, leader: usize, to: usize) -> Result<(), Trouble> {
    let body = json!({"to": to + 1}).to_string();
    let mut client = Client::new(fleet.http(leader));
    let asked = client.ask("POST", "/v1/cluster/transfer", body.as_bytes(), Duration::from_secs(5)).await;
    if !matches!(asked, Outcome::Done(_)) {
        return Err(Trouble::Command {
            command: format!("transfer to node {}", to + 1),
            said: asked.to_string(),
        });
    }
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let now = fleet.leader(&fleet.all()).await;
        if now.is_some_and(|(_, leader)| leader == to) {
            return Ok(());
        }
        if Instant::now() > until {
            let what = format!("node {} being leader", to + 1);
            return Err(Trouble::Late { what, seconds: 5, seen: format!("{now:?}") });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The longest time in `from..to` without an acknowledgement, by one node or by any, in nanoseconds.
fn longest_gap(acks: &[Ack], node: Option<usize>, from: u64, to: u64) -> u64 {
    let mut times: Vec<_> = acks
        .iter()
        .filter(|ack| node.is_none_or(|node| node == ack.node))
        .map(|ack| ack.acknowledged)
        .filter(|at| (from..to).contains(at))
        .collect();
    times.extend([from, to]);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn clustered(fleet: &Fleet) -> Result<(), Trouble> {
    if fleet.places.len() < 3 {
        return Err(Trouble::Usage("this needs a cluster: --nodes 3 or more".into()));
    }
    Ok(())
}

fn died(fleet: &Fleet) -> Result<(), Trouble> {
    match fleet.died().first() {
        None => Ok(()),
        Some(told) => Err(Trouble::Usage(told.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_counts_the_ends_and_only_the_node_asked_for() {
        let ack = |node, acknowledged| Ack { node, sent: 0, acknowledged };
        let acks = [ack(0, 10), ack(1, 15), ack(0, 40)];
        assert_eq!(longest_gap(&acks, None, 0, 50), 25);
        assert_eq!(longest_gap(&acks, Some(0), 0, 50), 30);
        assert_eq!(longest_gap(&acks, Some(1), 0, 50), 35);
        assert_eq!(longest_gap(&[], None, 0, 50), 50);
    }
}
