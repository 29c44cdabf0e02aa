//! What the log's tests share: a small configuration, and one way to append, run and read back.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)] // Shared by several test binaries; a test may panic.

use quorate_log::{AppendEntry, Disk, Extent, Index, Log, LogConfig, LogError, Recovery, SimDisk, Term};
use std::sync::Arc;

pub fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 4096,
        segments_ready: 2,
        batch_bytes_max: 2048,
        entry_bytes_max: 1024,
        reserve_bytes: 0,
    }
}

pub fn open(disk: &SimDisk) -> Result<(Log, Recovery), LogError> {
    open_with(disk, small())
}

pub fn open_with(disk: &SimDisk, config: LogConfig) -> Result<(Log, Recovery), LogError> {
    Log::open(Arc::new(disk.clone()) as Arc<dyn Disk>, config)
}

/// The body of entry `index`: recognisable, of a length that depends on it, with two payloads.
pub fn body(index: u64) -> Vec<u8> {
    let len = 16 + (index * 37 % 200) as usize;
    (0..len).map(|at| (index as u8).wrapping_mul(31).wrapping_add(at as u8)).collect()
}

pub fn extents(index: u64) -> [Extent; 2] {
    let len = body(index).len() as u32;
    [Extent { offset: 4, len: 8 }, Extent { offset: 12, len: len - 12 }]
}

pub fn payload(index: u64, sub: u32) -> Vec<u8> {
    let extent = extents(index)[sub as usize];
    body(index)[extent.offset as usize..(extent.offset + extent.len) as usize].to_vec()
}

pub fn append(log: &mut Log, index: u64) -> Result<(), LogError> {
    let (body, extents) = (body(index), extents(index));
    log.append(AppendEntry {
        index: Index(index),
        term: Term(1 + index / 10),
        body: &body,
        extents: &extents,
    })
}

/// Runs every job there is.
pub fn flush(log: &mut Log, sync: bool) -> Result<(), LogError> {
    while let Some(job) = log.take_job(sync) {
        log.complete(job.run())?;
    }
    Ok(())
}

pub fn append_synced(log: &mut Log, count: u64) -> Result<(), LogError> {
    for _ in 0..count {
        let next = log.last().0 + 1;
        append(log, next)?;
        flush(log, true)?;
    }
    Ok(())
}

pub fn prepare(log: &mut Log) -> Result<(), LogError> {
    while let Some(job) = log.prepare_job() {
        log.complete_prepare(job.run())?;
    }
    Ok(())
}

pub fn mark(log: &mut Log) -> Result<(), LogError> {
    if let Some(job) = log.mark_job() {
        log.complete(job.run())?;
    }
    Ok(())
}

pub fn snapshot(log: &mut Log, index: u64) -> Result<(), LogError> {
    let mut writer = log.snapshot_writer(Index(index), format!("meta {index}").as_bytes())?;
    for chunk in 0..3 {
        writer.push(format!("state after {index}, part {chunk}").as_bytes())?;
    }
    let done = writer.finish()?;
    log.snapshot_done(&done);
    Ok(())
}

/// Drains a recovery: snapshot contents checked, entries checked, the range of entries returned (first, last), empty when last < first.
pub fn drain(recovery: Recovery) -> Result<(u64, u64), LogError> {
    let mut first = recovery.first.0;
    if let Some(snapshot) = recovery.snapshot {
        let index = snapshot.index().0;
        assert_eq!(snapshot.meta().as_ref(), format!("meta {index}").as_bytes());
        let chunks = snapshot.collect::<Result<Vec<_>, _>>()?;
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[2].as_ref(), format!("state after {index}, part 2").as_bytes());
        first = index + 1;
    }
    let mut next = first;
    for entry in recovery.entries {
        let entry = entry?;
        assert_eq!(entry.index.0, next);
        assert_eq!(entry.body.as_ref(), body(next), "body of entry {next}");
        assert_eq!(entry.extents, extents(next));
        assert_eq!(entry.term, Term(1 + next / 10));
        next += 1;
    }
    assert_eq!(next, recovery.last.0.max(first - 1) + 1);
    Ok((first, next - 1))
}
