//! `quorate-torture run`: load and faults, then a verdict.
//!
//! Called by: `main`. Read `Run::run` first.

use crate::check::{self, Anomaly};
use crate::error::Trouble;
use crate::faults::{Fault, Storm, storm};
use crate::fleet::{Fleet, FleetOptions};
use crate::history::{Clock, History};
use crate::http::{Client, Outcome, segment};
use crate::net::Kind;
use crate::random::Random;
use crate::work::{APPENDS, FENCED, ONCE, Shared, Worker, counter};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long the nodes may take to become equal once nobody writes.
const EQUAL_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    fleet: FleetOptions,
    /// How long to go on, in minutes.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    minutes: f64,
    /// What to do to the nodes.
    #[arg(long, value_name = "F,F", value_delimiter = ',', default_value = "kill,stop,cut")]
    faults: Vec<Fault>,
    /// The plan of faults and operations; by default another one each time.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Clients at once.
    #[arg(long, value_name = "N", default_value_t = 8)]
    clients: u32,
    /// Keep data, logs and history even when nothing was found.
    #[arg(long)]
    keep: bool,
}

impl Run {
    pub(crate) fn net(&self) -> Kind {
        self.fleet.net
    }

    /// Whether nothing was found.
    pub(crate) async fn run(self) -> Result<bool, Trouble> {
        let seed = self
            .seed
            .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_millis() as u64));
        let fleet = Fleet::start(&self.fleet).await?;
        let mut faults = self.faults.clone();
        if !fleet.net.cuts() || fleet.places.len() == 1 {
            faults.retain(|fault| *fault != Fault::Cut);
        }
        if faults.is_empty() {
            return Err(Trouble::Usage(
                "no fault is left: links of one node, or direct links, cannot be cut".into(),
            ));
        }
        eprintln!(
            "seed {seed}: {} nodes, {} clients, {} min",
            fleet.places.len(),
            self.clients,
            self.minutes
        );
        let random = Random::new(seed);
        let shared = Rc::new(Shared {
            clock: Clock::start(),
            history: RefCell::new(History::default()),
            stop: Cell::new(false),
        });
        let addresses: Vec<_> = fleet.places.iter().map(|place| place.http).collect();
        let workers: Vec<_> = (0..self.clients)
            .map(|number| Worker::new(number, &addresses, Rc::clone(&shared), random.fork(u64::from(number))))
            .map(|worker| tokio::task::spawn_local(worker.run()))
            .collect();
        let until = Instant::now() + Duration::from_secs_f64(self.minutes * 60.0);
        let mut storm = storm(&fleet, &faults, random.fork(1 << 32), until).await?;
        shared.stop.set(true);
        for worker in workers {
            worker.await.map_err(|error| Trouble::Usage(format!("a client failed: {error}")))?;
        }
        let history = shared.history.take();
        let mut anomalies = std::mem::take(&mut storm.anomalies);
        if anomalies.is_empty() {
            match judge(&fleet, &history, self.clients).await {
                Ok(found) => anomalies.extend(found),
                // Nothing is done to the nodes any more: not to answer now is a finding.
                Err(late @ Trouble::Late { .. }) => {
                    anomalies.push(Anomaly::new("no answer after all faults were undone", late.to_string()));
                }
                Err(trouble) => return Err(trouble),
            }
            anomalies.extend(fleet.died().into_iter().map(|told| Anomaly::new("node ended by itself", told)));
        }
        say(&history, &storm, seed, &anomalies);
        let sound = anomalies.is_empty();
        if !sound || self.keep {
            save(&fleet, &history, &anomalies)?;
        }
        fleet.clean_up(!sound || self.keep)?;
        Ok(sound)
    }
}

async fn judge(fleet: &Fleet, history: &History, clients: u32) -> Result<Vec<Anomaly>, Trouble> {
    let mut found = check::registers::check(&history.registers);
    found.extend(check::revisions::check(&history.revisions));
    found.extend(check::locks::check(&history.locks));
    let content = match equal(fleet).await? {
        Ok(content) => content,
        Err(anomaly) => {
            found.push(anomaly);
            return Ok(found);
        }
    };
    let stream = |name: &str| content.streams.get(name).map_or(&[][..], Vec::as_slice);
    found.extend(check::appends::check(APPENDS, &history.appends, stream(APPENDS)));
    found.extend(check::appends::check(ONCE, &history.once, stream(ONCE)));
    found.extend(check::appends::check(FENCED, &history.fenced, stream(FENCED)));
    found.extend(check::locks::check_fenced(stream(FENCED)));
    for client in 0..clients {
        let prefix = format!("once-{client}-");
        let records = stream(ONCE).iter().filter(|(_, record)| record.starts_with(&prefix)).count() as u64;
        let counted = content
            .keys
            .get(&counter(client))
            .map_or(0, |key| key["value"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0));
        if records != counted {
            let what = format!(
                "client {client}: {records} records but a count of {counted}, though each commit makes both"
            );
            found.push(Anomaly::new("half a commit", what));
        }
    }
    Ok(found)
}

/// What a node holds.
#[derive(PartialEq)]
struct Content {
    keys: BTreeMap<String, Value>,
    streams: BTreeMap<&'static str, Vec<(u64, String)>>,
}

/// Waits until every node has applied the same, and compares all that they hold, byte for byte.
async fn equal(fleet: &Fleet) -> Result<Result<Content, Anomaly>, Trouble> {
    let all = fleet.all();
    fleet.ready(&all, EQUAL_TIMEOUT).await?;
    let until = Instant::now() + EQUAL_TIMEOUT;
    loop {
        let mut states = Vec::new();
        for &node in &all {
            let status = fleet.look(node, "/v1/status").await.unwrap_or_default();
            states.push((status["applied"].as_u64(), status["digest"].to_string()));
        }
        let same = |pick: fn(&(Option<u64>, String)) -> String| {
            states.iter().all(|state| pick(state) == pick(&states[0]))
        };
        if states[0].0.is_some() && same(|state| format!("{:?}", state.0)) {
            if !same(|state| state.1.clone()) {
                return Ok(Err(Anomaly::new(
                    "nodes differ",
                    format!("digests at the same entry: {states:?}"),
                )));
            }
            break;
        }
        if Instant::now() > until {
            return Ok(Err(Anomaly::new("nodes do not catch up", format!("applied and digest: {states:?}"))));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let first = content(fleet, 0, false).await?;
    for &node in all.iter().filter(|_| all.len() > 1) {
        let other = content(fleet, node, true).await?;
        if other != first {
            let what = format!(
                "node {} holds other things than node 1 answers: {}",
                node + 1,
                difference(&first, &other)
            );
            return Ok(Err(Anomaly::new("nodes differ", what)));
        }
    }
    Ok(Ok(first))
}

fn difference(first: &Content, other: &Content) -> String {
    let keys = first.keys.keys().chain(other.keys.keys());
    if let Some(key) = keys.into_iter().find(|key| first.keys.get(*key) != other.keys.get(*key)) {
        return format!("key {key}: {:?} and {:?}", first.keys.get(key), other.keys.get(key));
    }
    let stream = first.streams.keys().find(|name| first.streams.get(*name) != other.streams.get(*name));
    format!("stream {stream:?}")
}

/// Everything a node holds; with `stale`, what it has itself, without asking anybody.
async fn content(fleet: &Fleet, node: usize, stale: bool) -> Result<Content, Trouble> {
    let mut client = Client::new(fleet.http(node));
    let consistency = if stale { "&consistency=stale" } else { "" };
    let mut keys = BTreeMap::new();
    let mut from = String::new();
    loop {
        // An empty prefix is every key; the nodes are at rest, so pages need no common revision.
        let path = format!("/v1/range?prefix={from}&limit=1000{consistency}");
        let page = get(&mut client, &path).await?;
        for key in page["keys"].as_array().into_iter().flatten() {
            keys.insert(key["key"].as_str().unwrap_or_default().to_owned(), key.clone());
        }
        match page["next"].as_str() {
            Some(next) if page["more"] == true => from = format!("&from={}", segment(next)),
            _ => break,
        }
    }
    let mut streams = BTreeMap::new();
    for name in [APPENDS, ONCE, FENCED] {
        let mut records = Vec::new();
        loop {
            let next = records.last().map_or(0, |(offset, _)| offset + 1);
            let path = format!("/v1/streams/{name}/records?offset={next}&max=1000{consistency}");
            let page = get(&mut client, &path).await?;
            let read = page["records"].as_array().map_or(&[][..], Vec::as_slice);
            if read.is_empty() {
                break;
            }
            records.extend(read.iter().map(|record| {
                (
                    record["offset"].as_u64().unwrap_or(u64::MAX),
                    record["value"].as_str().unwrap_or_default().to_owned(),
                )
            }));
        }
        streams.insert(name, records);
    }
    Ok(Content { keys, streams })
}

async fn get(client: &mut Client, path: &str) -> Result<Value, Trouble> {
    let mut seen = String::new();
    for _ in 0..20 {
        match client.ask("GET", path, b"", Duration::from_secs(10)).await {
            Outcome::Done(answer) => return Ok(answer.json()),
            // A stream that nobody wrote to is an empty one.
            Outcome::Refused(answer) if answer.json()["error"] == "stream_missing" => return Ok(Value::Null),
            other => seen = other.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(Trouble::Late { what: format!("an answer to GET {path}"), seconds: 4, seen })
}

fn say(history: &History, storm: &Storm, seed: u64, anomalies: &[Anomaly]) {
    let counts = history.counts;
    println!(
        "operations: {} ({} acknowledged, {} refused, {} not sent, {} unclear); {} sent again under their key, {} of those had happened",
        counts.all(),
        counts.acknowledged,
        counts.refused,
        counts.not_sent,
        counts.unclear,
        counts.retried,
        counts.replayed,
    );
    for (reason, count) in &history.reasons {
        println!("  {count} {reason}");
    }
    println!(
        "checked: {} register operations, {} revisions, {} appends, {} commits once each, {} grants of locks, {} fenced writes",
        history.registers.len(),
        history.revisions.len(),
        history.appends.len(),
        history.once.len(),
        history.locks.len(),
        history.fenced.len(),
    );
    let faults: Vec<_> = storm.counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let mut recoveries = storm.recoveries_ms.clone();
    recoveries.sort_unstable();
    println!(
        "faults: {}; writes on every node after the last was undone: median {} ms, longest {} ms",
        faults.join(", "),
        recoveries.get(recoveries.len() / 2).copied().unwrap_or(0),
        recoveries.last().copied().unwrap_or(0),
    );
    for anomaly in anomalies {
        println!("ANOMALY {anomaly}");
    }
    println!("anomalies: {} (seed {seed})", anomalies.len());
}

fn save(fleet: &Fleet, history: &History, anomalies: &[Anomaly]) -> Result<(), Trouble> {
    let history: Vec<_> = history.lines().map(|line| line.to_string()).collect();
    let anomalies: Vec<_> = anomalies.iter().map(ToString::to_string).collect();
    for (name, lines) in [("history.jsonl", history), ("anomalies.txt", anomalies)] {
        let path = fleet.folder().join(name);
        std::fs::write(&path, lines.join("\n")).map_err(Trouble::io(format!("write {}", path.display())))?;
    }
    Ok(())
}
