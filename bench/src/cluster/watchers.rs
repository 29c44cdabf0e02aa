//! Many watchers: how long after a put was sent its event arrives, at an even pace of puts and when all watch one key.
//!
//! The watches are spread over the streams of few connections, as client libraries share them. A put carries the time at which it was sent.
//! Invariant: every event of every put is waited for; one that is missing fails the measurement.
//! Called by: `cluster::run`.

use super::Failure;
use super::etcd::{CONNECTIONS_MAX, Connection, Stream, name};
use super::protobuf::{Field, bytes, fields, find_bytes, find_number};
use super::servers::Fleet;
use crate::report::percentile;
use bytes::BytesMut;
use std::time::{Duration, Instant};
use tokio::task::spawn_local;

/// Puts a second, to keys chosen at random: far below what either server takes, so that delivery is measured and not a queue.
const PUTS_PER_SECOND: u32 = 1000;
/// Puts of the key that everybody watches.
const FANS_OUT: usize = 20;
/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came out; times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivered {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Median over the puts of one key that all watch: until the last watcher has heard of it.
    pub(crate) all_ms: f64,
    pub(crate) server_cpu_us: f64,
}

/// Each watcher watches a key of its own, and one more that all watch.
pub(crate) async fn measure(fleet: &Fleet, watchers: u64, seconds: f64) -> Result<Delivered, Failure> {
    let begun = Instant::now();
    let streams = (CONNECTIONS_MAX as u64).min(watchers);
    let mut hearing = Vec::new();
    for stream in 0..streams {
        let mut connection = Connection::open(fleet.grpc[stream as usize % fleet.grpc.len()]).await?;
        let own = (stream..watchers).step_by(streams as usize).map(name);
        let mut open: Option<Stream> = None;
        let mut created = 0;
        for key in own.clone().chain(own.map(|_| "all".to_owned())) {
            let (mut create, mut request) = (BytesMut::new(), BytesMut::new());
            bytes(&mut create, 1, key.as_bytes());
            bytes(&mut request, 1, &create);
            match &mut open {
                Some(open) => open.send(&request)?,
                None => open = Some(connection.stream("/etcdserverpb.Watch/Watch", &request).await?),
            }
            created += 1;
        }
        let mut open = open.ok_or("there is nobody to watch")?;
        while created > 0 {
            let answer = open.next().await?;
            created -= usize::from(find_number(&answer, 3)? == 1);
        }
        hearing.push((connection, open));
    }
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    for (connection, mut stream) in hearing {
        let heard = heard.clone();
        spawn_local(async move {
            // The connection lives as long as its stream is read.
            let _connection = connection;
            while let Ok(answer) = stream.next().await {
                let now = begun.elapsed().as_micros() as u64;
                let sent = times(&answer)
                    .map(|times| times.into_iter().map(|sent| now.saturating_sub(sent)).collect::<Vec<_>>());
                if heard.send(sent.map_err(|error| error.to_string())).is_err() {
                    return;
                }
            }
        });
    }
    let mut next = async |wanted: usize| -> Result<Vec<u64>, Failure> {
        let mut latencies = Vec::with_capacity(wanted);
        while latencies.len() < wanted {
            let some = tokio::time::timeout(PATIENCE, hears.recv()).await;
            let some =
                some.map_err(|_| format!("{} of {wanted} events arrived in {PATIENCE:?}", latencies.len()))?;
            latencies.extend(some.ok_or("no stream of events is left")??);
        }
        Ok(latencies)
    };
    let mut writer = Connection::open(fleet.grpc[0]).await?;
    let mut all = Vec::new();
    for _ in 0..FANS_OUT {
        let now = begun.elapsed().as_micros() as u64;
        writer.put("all", &now.to_le_bytes()).await?;
        all.push(next(usize::try_from(watchers)?).await?.into_iter().max().unwrap_or(0));
    }
    let cpu = fleet.nodes.cpu_seconds();
    let puts = (f64::from(PUTS_PER_SECOND) * seconds) as usize;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / PUTS_PER_SECOND);
    let mut sending = Vec::new();
    let mut random = super::load::Random::of(watchers);
    for _ in 0..puts {
        pace.tick().await;
        // Several writers, so that the pace does not wait for an answer.
        let mut writer = writer.clone();
        let key = name(random.next() % watchers);
        sending.push(spawn_local(async move {
            let now = begun.elapsed().as_micros() as u64;
            writer.put(&key, &now.to_le_bytes()).await.map_err(|error| error.to_string())
        }));
    }
    let mut latencies = next(puts).await?;
    for put in sending {
        put.await??;
    }
    Ok(Delivered {
        p50_ms: percentile(&mut latencies, 0.5) as f64 / 1e3,
        p99_ms: percentile(&mut latencies, 0.99) as f64 / 1e3,
        all_ms: percentile(&mut all, 0.5) as f64 / 1e3,
        server_cpu_us: (fleet.nodes.cpu_seconds() - cpu) * 1e6 / puts as f64,
    })
}

/// When the puts of an answer's events were sent.
fn times(answer: &[u8]) -> Result<Vec<u64>, Failure> {
    let mut events = Vec::new();
    fields(answer, |number, field| {
        if let (11, Field::Bytes(event)) = (number, field) {
            events.push(event);
        }
    })?;
    let time = |event: &&[u8]| -> Result<u64, Failure> {
        let value = find_bytes(find_bytes(event, 2)?, 5)?;
        Ok(u64::from_le_bytes(value.try_into().map_err(|_| "an event has the value of no put")?))
    };
    events.iter().map(time).collect()
}
