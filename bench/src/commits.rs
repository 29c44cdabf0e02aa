//! Durable commits in process, beside a bare `pwrite` + `fdatasync` of the same bytes on a preallocated file.

use crate::report::{Report, median, percentile, thousands};
use quorate_runtime::{Config, Quorate};
use quorate_types::codec::Writer;
use quorate_types::{Commit, Entry, Key, LeaseId, Op};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const VALUE: [u8; 256] = [b'x'; 256];
/// Batch header and frame of the log around a body.
const FRAME_BYTES: usize = 96;
const OPS: u64 = 2000;
const CLIENTS: usize = 64;

pub(crate) fn run(
    report: &mut Report,
    folder: &Path,
    rounds: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = Writer::default();
    Entry { commands: vec![put(0).into()], ..Entry::default() }.encode_body(&mut out);
    let bytes = out.buffer.len() + FRAME_BYTES;
    let file = prepared(&folder.join("bare"))?;
    let db = Quorate::open(folder.join("commits"), Config::default(), |_, _| {})?;
    let (mut bare, mut one, mut ratio, mut many, mut factor) = (vec![], vec![], vec![], vec![], vec![]);
    let mut latencies = Vec::new();
    db.commit(put(0))?;
    for round in 0..rounds as u64 {
        let limit = bare_us(&file, bytes, round)?;
        let own = one_us(&db, round)?;
        let (rate, mut took) = many_rate(&db)?;
        bare.push(limit);
        one.push(own);
        ratio.push(own / limit);
        many.push(rate);
        factor.push(rate / (1e6 / limit));
        latencies.append(&mut took);
    }
    report.row(
        &format!("bare `pwrite` + `fdatasync` of {bytes} B, preallocated file, one thread"),
        format!("{:.0} µs ({}/s)", median(bare.clone()), thousands(1e6 / median(bare))),
    );
    report.goal(
        "durable commit in process, one client, against the bare write and sync",
        format!("{:.2}× ({:.0} µs)", median(ratio.clone()), median(one)),
        "≤ 1.3×",
        median(ratio) <= 1.3,
    );
    report.goal(
        "durable commits in process, 64 clients (tasks), against the bare sync rate",
        format!("{:.1}× ({}/s)", median(factor.clone()), thousands(median(many))),
        "≥ 20×",
        median(factor) >= 20.0,
    );
    let (p50, p99) = (percentile(&mut latencies, 0.5), percentile(&mut latencies, 0.99));
    report.row("… their latency p50 / p99", format!("{p50} / {p99} µs"));
    db.close();
    Ok(())
}

/// Durable commits a second of one node in process, 64 tasks: the median of some rounds.
pub(crate) fn in_process_rate(folder: &Path, rounds: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let db = Quorate::open(folder, Config::default(), |_, _| {})?;
    let rates =
        (0..rounds).map(|_| Ok(many_rate(&db)?.0)).collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    db.close();
    Ok(median(rates))
}

fn put(key: u64) -> Commit {
    Commit::of(vec![Op::Put {
        key: Key::new(format!("key:{key:08}")),
        value: VALUE[..].into(),
        lease: LeaseId(0),
        prev: false,
    }])
}

fn prepared(path: &Path) -> std::io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    for chunk in 0..64 {
        file.write_all_at(&zeros, chunk << 20)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Median microseconds of a bare write and sync.
fn bare_us(file: &File, bytes: usize, round: u64) -> std::io::Result<f64> {
    let data = vec![round as u8 + 1; bytes];
    let mut took = Vec::new();
    for op in 0..OPS {
        let begun = Instant::now();
        file.write_all_at(&data, (round * OPS + op) * bytes as u64 % (63 << 20))?;
        file.sync_data()?;
        took.push(begun.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(median(took))
}

/// Median microseconds of a commit by one client.
fn one_us(db: &Quorate, round: u64) -> Result<f64, Box<dyn std::error::Error>> {
    let mut took = Vec::new();
    for op in 0..OPS {
        let commit = put(round * OPS + op);
        let begun = Instant::now();
        db.commit(commit)?;
        took.push(begun.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(median(took))
}

/// Commits per second of many clients, and their latencies in microseconds.
fn many_rate(db: &Quorate) -> Result<(f64, Vec<u64>), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (begun, length) = (Instant::now(), Duration::from_secs(2));
    let latencies = runtime.block_on(async {
        let client = |number: u64| {
            let handle = db.handle();
            async move {
                let mut took = Vec::new();
                while begun.elapsed() < length {
                    let commit = put(number * 1000 + took.len() as u64 % 1000);
                    let sent = Instant::now();
                    handle.command(commit.into()).await.map_err(|error| error.to_string())?;
                    took.push(sent.elapsed().as_micros() as u64);
                }
                Ok::<_, String>(took)
            }
        };
        let clients: Vec<_> = (0..CLIENTS as u64).map(|number| tokio::spawn(client(number))).collect();
        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.await.map_err(|error| error.to_string())??);
        }
        Ok::<_, String>(latencies)
    })?;
    Ok((latencies.len() as f64 / begun.elapsed().as_secs_f64(), latencies))
}
