//! Reopening a folder of two million small commits and a gibibyte in all, with a cold page cache.

use crate::report::{Report, median};
use quorate_runtime::{Config, Durability, Quorate};
use quorate_types::{Append, Command, Commit, Format, Key, LeaseId, Op, PartitionChoice, Payload};
use std::path::Path;
use std::time::Instant;

const COMMITS: u64 = 2_000_000;
const BYTES: u64 = 1 << 30;
const PAYLOAD: usize = 64 << 10;
const KEYS: u64 = 1_000_000;

pub(crate) fn run(
    report: &mut Report,
    folder: &Path,
    rounds: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    for (name, snapshots) in [("default snapshots", true), ("no snapshot: the whole log is replayed", false)]
    {
        let path = folder.join(if snapshots { "recovery" } else { "recovery-bare" });
        let mut config = Config { durability: Durability::None, audit_bytes: 4 << 30, ..Config::default() };
        if !snapshots {
            config.snapshot_commands = u64::MAX;
            config.snapshot_bytes = u64::MAX;
        }
        fill(&path, config.clone())?;
        let mut seconds = Vec::new();
        let mut replayed = 0;
        for _ in 0..rounds.min(3) {
            drop_cache(&path)?;
            let begun = Instant::now();
            let db = Quorate::open(&path, config.clone(), |_, _| {})?;
            seconds.push(begun.elapsed().as_secs_f64());
            replayed = db.report().commands;
            assert_eq!(db.read(|machine| machine.sizes().keys)?, KEYS);
            db.close();
        }
        let seconds = median(seconds);
        report.goal(
            &format!("reopening 2 M small commits and payloads to 1 GiB, cold cache, {name}"),
            format!("{seconds:.2} s ({replayed} commands replayed)"),
            "≤ 5 s",
            seconds <= 5.0,
        );
        std::fs::remove_dir_all(&path)?;
    }
    Ok(())
}

fn fill(path: &Path, config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let db = Quorate::open(path, config, |_, _| {})?;
    let handle = db.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let mut batch = Vec::new();
        for commit in 0..COMMITS {
            let key = Key::new(format!("key:{:016}", commit.wrapping_mul(0x9e37_79b9) % KEYS));
            let put = Op::Put { key, value: "0123456789abcdef".into(), lease: LeaseId(0), prev: false };
            batch.push(Command::commit(Commit::of(vec![put])));
            if batch.len() == 1000 {
                let sent: Vec<_> =
                    batch.drain(..).map(|command| tokio::spawn(send(handle.clone(), command))).collect();
                for one in sent {
                    one.await.expect("the task does not panic");
                }
            }
        }
        let written = handle.status().log_bytes;
        let payload = bytes::Bytes::from(vec![b'p'; PAYLOAD]);
        for _ in 0..BYTES.saturating_sub(written) / PAYLOAD as u64 {
            let append = Append {
                stream: "payload".into(),
                partition: PartitionChoice::Any,
                format: Format::Records,
                records: 1,
                payload: Payload::from(payload.clone()),
                create: true,
            };
            send(handle.clone(), Commit::of(vec![Op::Append { append }]).into()).await;
        }
    });
    db.close();
    Ok(())
}

async fn send(handle: quorate_runtime::Handle, command: Command) {
    handle.command(command).await.expect("the folder was just made");
}

/// Writes everything back and drops it from the page cache.
fn drop_cache(folder: &Path) -> std::io::Result<()> {
    for file in std::fs::read_dir(folder)? {
        let file = std::fs::File::open(file?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}
