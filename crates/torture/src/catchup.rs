//! `catchup`: a follower that was away, once for many small commits, once for many bytes.
//!
//! Called by: `main`.

use crate::error::Trouble;
use crate::fleet::{Fleet, FleetOptions};
use crate::http::{Client, Outcome};
use crate::net::Kind;
use crate::probe::Pressure;
use serde_json::json;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::spawn_local;

const COMMITS_PER_SECOND_MIN: f64 = 300_000.0;
const MEGABYTES_PER_SECOND_MIN: f64 = 200.0;
/// Bytes of one record of the second part.
const RECORD_BYTES: u64 = 256 << 10;
/// How long a follower may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(clap::Args)]
pub(crate) struct Catchup {
    #[command(flatten)]
    fleet: FleetOptions,
    /// Small commits while the follower is away; 0 leaves this part out.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    commits: u64,
    /// Mebibytes of records while it is away; 0 leaves this part out.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    mebibytes: u64,
    /// Clients that make what it misses.
    #[arg(long, value_name = "N", default_value_t = 256)]
    clients: usize,
    /// Clients that go on writing while it catches up.
    #[arg(long, value_name = "N", default_value_t = 8)]
    writers: usize,
}

impl Catchup {
    pub(crate) fn net(&self) -> Kind {
        self.fleet.net
    }

    /// Whether it was fast enough.
    pub(crate) async fn run(self) -> Result<bool, Trouble> {
        let fleet = Fleet::start(&self.fleet).await?;
        if fleet.places.len() < 3 {
            return Err(Trouble::Usage("this needs a cluster: --nodes 3 or more".into()));
        }
        let mut met = true;
        if self.commits > 0 {
            let away = self.away(&fleet).await?;
            let took = fill(&fleet, away, self.clients, self.commits, Small).await?;
            eprintln!("{} commits made in {:.1} s", self.commits, took.as_secs_f64());
            let caught = caught_up(&fleet, away, self.writers).await?;
            let rate = self.commits as f64 / caught.working.as_secs_f64();
            met &= rate >= COMMITS_PER_SECOND_MIN;
            println!(
                "{} small commits: caught up {:.2} s after its start ({:.2} s after its first sign of life), {rate:.0} commits/s (goal ≥ {COMMITS_PER_SECOND_MIN}: {}), while {:.0} writes/s went on",
                self.commits,
                caught.all.as_secs_f64(),
                caught.working.as_secs_f64(),
                verdict(rate >= COMMITS_PER_SECOND_MIN),
                caught.writes_per_second,
            );
        }
        if self.mebibytes > 0 {
            let away = self.away(&fleet).await?;
            let records = (self.mebibytes << 20) / RECORD_BYTES;
            let took = fill(&fleet, away, self.clients.min(16), records, Large).await?;
            eprintln!("{} MiB made in {:.1} s", self.mebibytes, took.as_secs_f64());
            let caught = caught_up(&fleet, away, self.writers).await?;
            let rate = (records * RECORD_BYTES) as f64 / 1e6 / caught.working.as_secs_f64();
            met &= rate >= MEGABYTES_PER_SECOND_MIN;
            println!(
                "{} MiB of records: caught up {:.2} s after its start ({:.2} s after its first sign of life), {rate:.0} MB/s (goal ≥ {MEGABYTES_PER_SECOND_MIN}: {}), while {:.0} writes/s went on",
                self.mebibytes,
                caught.all.as_secs_f64(),
                caught.working.as_secs_f64(),
                verdict(rate >= MEGABYTES_PER_SECOND_MIN),
                caught.writes_per_second,
            );
        }
        fleet.clean_up(false)?;
        Ok(met)
    }

    /// Takes a follower away.
    async fn away(&self, fleet: &Fleet) -> Result<usize, Trouble> {
        let (_, leader) = fleet.wait_for_leader(&fleet.all(), PATIENCE).await?;
        let away = (leader + 1) % fleet.places.len();
        fleet.kill(away);
        Ok(away)
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

/// What a client sends again and again.
trait Work: Copy + 'static {
    fn request(self, number: u64) -> (&'static str, String, Vec<u8>);
}

#[derive(Clone, Copy)]
struct Small;

impl Work for Small {
    fn request(self, number: u64) -> (&'static str, String, Vec<u8>) {
        ("PUT", format!("/v1/keys/small{:06}", number % 100_000), format!("{number:016}").into_bytes())
    }
}

#[derive(Clone, Copy)]
struct Large;

impl Work for Large {
    fn request(self, number: u64) -> (&'static str, String, Vec<u8>) {
        let value = format!("{number:016}").repeat(RECORD_BYTES as usize / 16);
        ("POST", "/v1/streams/torture-large/records".into(), json!({"value": value}).to_string().into_bytes())
    }
}

/// Sends `count` requests to the nodes that are there, and waits until all were acknowledged.
async fn fill(
    fleet: &Fleet,
    away: usize,
    clients: usize,
    count: u64,
    work: impl Work,
) -> Result<Duration, Trouble> {
    let nodes: Vec<_> =
        fleet.all().into_iter().filter(|node| *node != away).map(|node| fleet.http(node)).collect();
    let begun = Instant::now();
    let next = Rc::new(Cell::new(0));
    let running: Vec<_> = (0..clients)
        .map(|client| spawn_local(send(nodes[client % nodes.len()], Rc::clone(&next), count, work)))
        .collect();
    for client in running {
        client.await.map_err(|error| Trouble::Usage(format!("a client failed: {error}")))??;
    }
    Ok(begun.elapsed())
}

async fn send(address: SocketAddr, next: Rc<Cell<u64>>, count: u64, work: impl Work) -> Result<(), Trouble> {
    let mut client = Client::new(address);
    while next.get() < count {
        let number = next.get();
        next.set(number + 1);
        let (method, path, body) = work.request(number);
        let mut tries = 0;
        loop {
            let outcome = client.ask(method, &path, &body, Duration::from_secs(20)).await;
            if matches!(outcome, Outcome::Done(_)) {
                break;
            }
            tries += 1;
            if tries == 100 {
                let what = format!("an acknowledgement of {method} {path}");
                return Err(Trouble::Late { what, seconds: 100, seen: outcome.to_string() });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

struct Caught {
    /// From the start of the process.
    all: Duration,
    /// From its first answer.
    working: Duration,
    writes_per_second: f64,
}

/// Starts a node, and waits until it has applied what the leader has, while clients write.
async fn caught_up(fleet: &Fleet, node: usize, writers: usize) -> Result<Caught, Trouble> {
    let others: Vec<_> = fleet.all().into_iter().filter(|other| *other != node).collect();
    let (_, leader) = fleet.wait_for_leader(&others, PATIENCE).await?;
    let pressure = Pressure::start(fleet, writers);
    let started = Instant::now();
    fleet.restart(node)?;
    let mut alive = None;
    loop {
        let leaders = fleet.applied(leader).await;
        let own = fleet.applied(node).await;
        if own.is_some() {
            alive = alive.or(Some(Instant::now()));
        }
        if let (Some(leaders), Some(own), Some(alive)) = (leaders, own, alive)
            && own >= leaders
        {
            let (all, done) = (started.elapsed(), pressure.done());
            let writes_per_second = done as f64 / all.as_secs_f64();
            return Ok(Caught { all, working: alive.elapsed(), writes_per_second });
        }
        if started.elapsed() > PATIENCE {
            let seen = format!(
                "it has applied {own:?}, the leader {leaders:?}; it said: {}",
                fleet.last_words(node)
            );
            let what = format!("node {} catching up", node + 1);
            return Err(Trouble::Late { what, seconds: PATIENCE.as_secs(), seen });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
