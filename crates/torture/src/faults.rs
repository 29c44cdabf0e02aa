//! The storm: faults one after another and two at once, each undone, and progress demanded after each.
//!
//! Invariant: at the end every node runs and every link is whole.
//! Called by: `run`.

use crate::check::Anomaly;
use crate::error::Trouble;
use crate::fleet::Fleet;
use crate::http::{Client, Outcome};
use crate::random::Random;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the nodes may take, once all faults are undone, until each takes a write again.
const RECOVERY_MAX: Duration = Duration::from_secs(30);

/// What may be done to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Stop,
    /// Links that let nothing through, one way or both, or are slow.
    Cut,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9",
            Fault::Stop => "SIGSTOP",
            Fault::Cut => "cut links",
        }
    }
}

/// What came of a storm.
#[derive(Default)]
pub(crate) struct Storm {
    /// Faults by name.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// How long each return to writes on every node took, in milliseconds.
    pub(crate) recoveries_ms: Vec<u64>,
    pub(crate) anomalies: Vec<Anomaly>,
}

/// How to undo a fault.
enum Undo {
    Restart(Vec<usize>),
    Continue(Vec<usize>),
    Heal { reset: bool },
}

/// Injects faults until the time is over or a node does not come back.
pub(crate) async fn storm(
    fleet: &Fleet,
    kinds: &[Fault],
    mut random: Random,
    until: Instant,
) -> Result<Storm, Trouble> {
    let mut storm = Storm::default();
    while Instant::now() < until {
        pause(random.between(500, 3000)).await;
        let mut undo = Vec::new();
        for _ in 0..if random.percent(25) { 2 } else { 1 } {
            let (name, how) = strike(fleet, *random.pick(kinds), &mut random).await?;
            *storm.counts.entry(name).or_default() += 1;
            undo.push(how);
            if random.percent(50) {
                pause(random.between(0, 800)).await;
            }
        }
        // Mostly around the election timeout, where things are decided; sometimes long.
        let longest = if random.percent(20) { 6000 } else { 2000 };
        pause(random.between(50, longest)).await;
        for how in undo {
            take_back(fleet, how, &mut random).await?;
        }
        storm
            .anomalies
            .extend(fleet.died().into_iter().map(|told| Anomaly::new("node ended by itself", told)));
        match recovered(fleet).await {
            Ok(took) => storm.recoveries_ms.push(took.as_millis() as u64),
            Err(told) => {
                storm.anomalies.push(Anomaly::new("no progress after all faults were undone", told));
                return Ok(storm);
            }
        }
    }
    Ok(storm)
}

async fn strike(fleet: &Fleet, kind: Fault, random: &mut Random) -> Result<(&'static str, Undo), Trouble> {
    let victims = victims(fleet, random).await;
    Ok(match kind {
        Fault::Kill => {
            victims.iter().for_each(|node| fleet.kill(*node));
            let all = victims.len() == fleet.places.len() && victims.len() > 1;
            (if all { "kill -9 of all" } else { "kill -9" }, Undo::Restart(victims))
        }
        Fault::Stop => {
            victims.iter().for_each(|node| fleet.stop(*node));
            ("SIGSTOP", Undo::Continue(victims))
        }
        Fault::Cut => (cut(fleet, victims[0], random)?, Undo::Heal { reset: random.percent(40) }),
    })
}

/// The leader often, as most depends on it; sometimes two; sometimes all.
async fn victims(fleet: &Fleet, random: &mut Random) -> Vec<usize> {
    let mut all = fleet.all();
    let first = match random.below(100) {
        0..50 => fleet.leader(&all).await.map(|(_, leader)| leader),
        _ => None,
    };
    let first = first.unwrap_or_else(|| *random.pick(&all));
    match random.below(100) {
        0..80 => vec![first],
        80..92 => {
            let second = *random.pick(&all);
            if second == first { vec![first] } else { vec![first, second] }
        }
        _ => {
            all.sort_by_key(|node| *node != first);
            all
        }
    }
}

fn cut(fleet: &Fleet, node: usize, random: &mut Random) -> Result<&'static str, Trouble> {
    let others: Vec<_> = fleet.all().into_iter().filter(|other| *other != node).collect();
    if others.is_empty() {
        return Ok("cut of nothing");
    }
    let other = *random.pick(&others);
    let net = &fleet.net;
    match random.below(if net.delays() { 6 } else { 5 }) {
        0 => {
            net.isolate(node)?;
            Ok("node cut off")
        }
        1 => {
            for &other in &others {
                net.cut(node, other)?;
            }
            Ok("node mute")
        }
        2 => {
            for &other in &others {
                net.cut(other, node)?;
            }
            Ok("node deaf")
        }
        3 => {
            net.cut(node, other)?;
            net.cut(other, node)?;
            Ok("link cut")
        }
        4 => {
            net.cut(node, other)?;
            Ok("link cut one way")
        }
        _ => {
            net.delay(Duration::from_millis(random.between(5, 150)));
            Ok("links slow")
        }
    }
}

async fn take_back(fleet: &Fleet, how: Undo, random: &mut Random) -> Result<(), Trouble> {
    match how {
        Undo::Restart(nodes) => {
            for node in nodes {
                // Two faults may have chosen the same node.
                fleet.kill(node);
                fleet.restart(node)?;
                if random.percent(50) {
                    pause(random.between(0, 500)).await;
                }
            }
        }
        Undo::Continue(nodes) => nodes.into_iter().for_each(|node| fleet.go_on(node)),
        Undo::Heal { reset } => fleet.net.heal(reset)?,
    }
    Ok(())
}

/// Waits until every node takes a write; how long that took.
async fn recovered(fleet: &Fleet) -> Result<Duration, String> {
    let begun = Instant::now();
    for node in fleet.all() {
        let mut client = Client::new(fleet.http(node));
        loop {
            let seen = client.ask("PUT", "/v1/keys/torture-recovered", b"1", Duration::from_secs(2)).await;
            if matches!(seen, Outcome::Done(_)) {
                break;
            }
            if begun.elapsed() > RECOVERY_MAX {
                let words = fleet.last_words(node);
                return Err(format!("node {} answers a write with {seen}; it said: {words}", node + 1));
            }
            pause(20).await;
        }
    }
    Ok(begun.elapsed())
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
