//! The load: clients that each send their next request when the last is answered.
//!
//! Called by: `cluster::measure`.

use super::Failure;
use super::etcd::{CONNECTIONS_MAX, Connection, EtcdClient};
use super::http::HttpClient;
use super::servers::{Fleet, Protocol};
use super::wall::Wall;
use crate::processes::{Processes, cpu_seconds};
use crate::report::percentile;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, spawn_local};

/// Keys that one commit writes when the keys are made; etcd takes at most 128 operations in a transaction.
const FILL_BATCH: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Operation {
    /// One key of 256 B, durable on a quorum.
    Put,
    /// One key, linearizable.
    Get,
    /// One key, as the asked node has it.
    Serializable,
    /// A lock that nobody else wants, taken and given back.
    Lock,
    /// A lock that all clients want: one of them has it and gives it back.
    Handoff,
    /// A lease kept alive, on a stream of each client.
    #[value(name = "keepalive")]
    KeepAlive,
    /// A call that does nothing, of a server that is neither of both: what HTTP/2 itself costs here.
    Echo,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Serializable => "serializable get",
            Operation::Lock => "lock + unlock",
            Operation::Handoff => "hand-off",
            Operation::KeepAlive => "keep-alive",
            Operation::Echo => "empty call (h2 alone)",
        }
    }

    pub(crate) fn wants_lease(self) -> bool {
        matches!(self, Operation::Lock | Operation::Handoff | Operation::KeepAlive)
    }
}

/// What both protocols' clients do.
pub(crate) trait Client: 'static {
    async fn run(&mut self, operation: Operation, key: u64) -> Result<(), Failure>;
}

/// What came out of one measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU microseconds of all nodes together, an operation.
    pub(crate) server_cpu_us: f64,
    /// CPU microseconds of this process, an operation.
    pub(crate) generator_cpu_us: f64,
}

/// Writes every key once, so that reads find it.
pub(crate) async fn fill(fleet: &Fleet, keys: u64) -> Result<(), Failure> {
    let batches = (0..keys).step_by(FILL_BATCH as usize).map(|first| first..(first + FILL_BATCH).min(keys));
    match fleet.over {
        Protocol::Http => {
            let mut client = HttpClient::connect(fleet.addresses[0]).await?;
            for batch in batches {
                client.fill(batch).await?;
            }
        }
        Protocol::Etcd => {
            let mut connection = Connection::open(fleet.grpc[0]).await?;
            for batch in batches {
                connection.fill(batch).await?;
            }
        }
    }
    Ok(())
}

/// Runs `clients` clients for a time. Runs inside a `LocalSet`.
pub(crate) async fn measure(
    fleet: &Fleet,
    operation: Operation,
    clients: usize,
    keys: u64,
    seconds: f64,
    seed: u64,
) -> Result<Measured, Failure> {
    let nodes = fleet.addresses.len();
    let load = Load { operation, keys, seconds, seed };
    match fleet.over {
        Protocol::Http => {
            let mut all = Vec::new();
            for client in 0..clients {
                all.push(HttpClient::connect(fleet.addresses[client % nodes]).await?);
            }
            load.run(&fleet.nodes, all).await
        }
        Protocol::Etcd => {
            let wall = match operation {
                Operation::Echo => Some(Wall::start(&fleet.folder.join("wall")).await?),
                _ => None,
            };
            let address = |connection: usize| match &wall {
                Some(wall) => wall.address,
                None => fleet.grpc[connection % nodes],
            };
            let mut connections = Vec::new();
            for connection in 0..clients.min(CONNECTIONS_MAX / nodes * nodes) {
                connections.push(Connection::open(address(connection)).await?);
            }
            let mut all = Vec::new();
            for client in 0..clients {
                let connection = connections[client % connections.len()].clone();
                all.push(EtcdClient::new(connection, operation, client).await?);
            }
            load.run(wall.as_ref().map_or(&fleet.nodes, |wall| &wall.process), all).await
        }
    }
}

struct Load {
    operation: Operation,
    keys: u64,
    seconds: f64,
    seed: u64,
}

impl Load {
    async fn run<C: Client>(&self, servers: &Processes, clients: Vec<C>) -> Result<Measured, Failure> {
        let warm = Duration::from_secs_f64((self.seconds / 10.0).max(0.5));
        let begin = Instant::now() + warm;
        let end = begin + Duration::from_secs_f64(self.seconds);
        let running: Vec<JoinHandle<_>> = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                let random = Random::of(self.seed << 20 | number as u64);
                spawn_local(one(client, self.operation, self.keys, random, begin, end))
            })
            .collect();
        tokio::time::sleep_until(begin.into()).await;
        let (before, own) = (servers.cpu_seconds(), cpu_seconds("self"));
        tokio::time::sleep_until(end.into()).await;
        let (servers, own) = (servers.cpu_seconds() - before, cpu_seconds("self") - own);
        let mut latencies = Vec::new();
        for client in running {
            latencies
                .extend(client.await?.map_err(|error| format!("{} failed: {error}", self.operation.name()))?);
        }
        let count = latencies.len() as f64;
        if count == 0.0 {
            return Err("no operation was answered in the time of the measurement".into());
        }
        Ok(Measured {
            per_second: count / self.seconds,
            p50_ms: percentile(&mut latencies, 0.5) as f64 / 1e3,
            p99_ms: percentile(&mut latencies, 0.99) as f64 / 1e3,
            server_cpu_us: servers * 1e6 / count,
            generator_cpu_us: own * 1e6 / count,
        })
    }
}

/// One client; latencies, in microseconds, of what was answered between `begin` and `end`.
async fn one<C: Client>(
    mut client: C,
    operation: Operation,
    keys: u64,
    mut random: Random,
    begin: Instant,
    end: Instant,
) -> Result<Vec<u64>, String> {
    let mut latencies = Vec::new();
    loop {
        let key = random.next() % keys;
        let sent = Instant::now();
        client.run(operation, key).await.map_err(|error| error.to_string())?;
        let now = Instant::now();
        if now >= end {
            return Ok(latencies);
        }
        if now >= begin {
            latencies.push((now - sent).as_micros() as u64);
        }
    }
}

/// xorshift64 (Marsaglia, 2003).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
