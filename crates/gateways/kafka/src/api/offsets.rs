//! ListOffsets and OffsetForLeaderEpoch: where a partition begins, ends, or is at a time.
//!
//! By time: the first record that was made then or later, as producers say. The state knows when batches were appended, so the search begins
//! there, and looks at what producers said from there on. A producer whose clock is ahead may be found late; what was made long before it
//! was appended is looked for in [`SEARCH_BATCHES_MAX`] batches, after which the place where the search stands is the answer: all before it
//! is older.
//!
//! Nothing that a consumer has seen is ever taken back, so the end of every epoch is the end of the log.

use super::fetch::{READ, epoch};
use crate::error::{self, Code};
use crate::gateway::{Gateway, Nodes, Who, may_read, stream_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_machine::{BatchRef, Machine};
use quorate_types::{Format, Key, Offset, WallTime};

/// What stands for the end, and for the beginning, in place of a time.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// Batches that one search looks at, and how many at once.
const SEARCH_BATCHES_MAX: u64 = 4096;
const SEARCH_BATCHES: u64 = 64;
const SEARCH_BYTES: u64 = 4 << 20;

struct Asked {
    partition: i32,
    epoch: i32,
    time: i64,
}

pub(super) async fn list(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    body.i32()?;
    if version >= 2 {
        body.i8()?;
    }
    let topics = body.list(|body| {
        let name = body.text()?;
        let partitions = body.list(|body| {
            let partition = body.i32()?;
            let epoch = if version >= 4 { body.i32()? } else { -1 };
            let asked = Asked { partition, epoch, time: body.i64()? };
            body.tags()?;
            Ok(asked)
        })?;
        body.tags()?;
        Ok((name, partitions))
    })?;
    body.tags()?;
    let nodes = gateway.nodes();
    let mut found = Vec::new();
    for (name, partitions) in &topics {
        let mut each = Vec::new();
        for asked in partitions {
            each.push(asked.found(gateway, who, name, &nodes).await);
        }
        found.push(each);
    }
    if version >= 2 {
        out.i32(0);
    }
    out.list(topics.iter().zip(found), |out, ((name, partitions), found)| {
        out.text(name);
        out.list(partitions.iter().zip(found), |out, (asked, found)| {
            let (code, time, offset) = match found {
                Ok(Some((time, offset))) => (Code::None, time, offset.0 as i64),
                Ok(None) => (Code::None, -1, -1),
                Err(code) => (code, -1, -1),
            };
            out.i32(asked.partition);
            out.i16(code.number());
            out.i64(time);
            out.i64(offset);
            if version >= 4 {
                out.i32(nodes.epoch);
            }
            out.tags();
        });
        out.tags();
    });
    out.tags();
    Ok(())
}

/// The ends of a partition that may be read.
fn ends(machine: &Machine, who: &Who, stream: &Key, partition: i32) -> Result<(Offset, Offset), Code> {
    if !may_read(&machine.rights(&who.principal), READ, stream) {
        return Err(Code::TopicAuthorizationFailed);
    }
    let view = machine.stream(stream).ok_or(Code::UnknownTopicOrPartition)?;
    let found = usize::try_from(partition).ok().and_then(|number| view.partitions.get(number));
    found.map(|found| (found.first, found.next)).ok_or(Code::UnknownTopicOrPartition)
}

impl Asked {
    /// A time and an offset; nothing when nothing was made so late.
    async fn found(
        &self,
        gateway: &Gateway,
        who: &Who,
        topic: &str,
        nodes: &Nodes,
    ) -> Result<Option<(i64, Offset)>, Code> {
        let stream = stream_of(topic).ok_or(Code::InvalidTopicException)?;
        epoch(nodes, self.epoch)?;
        let partition = u32::try_from(self.partition).map_err(|_| Code::UnknownTopicOrPartition)?;
        let wall = WallTime(u64::try_from(self.time).unwrap_or(0));
        let (ends, start) = gateway
            .read(|machine| {
                let ends = ends(machine, who, &stream, self.partition)?;
                let start = machine.offset_at(&stream, partition, wall).map_err(|why| error::op(&why))?;
                Ok((ends, start))
            })
            .await??;
        match self.time {
            LATEST => Ok(Some((-1, ends.1))),
            EARLIEST => Ok(Some((-1, ends.0))),
            // What stands for the newest time, and for places of tiered storage, is of later versions.
            time if time < 0 => Err(Code::UnsupportedVersion),
            _ => match start {
                Some(start) => self.search(gateway, &stream, partition, start).await,
                None => Ok(None),
            },
        }
    }

    /// Looks at batches from an offset on for the first record made at the time or later.
    async fn search(
        &self,
        gateway: &Gateway,
        stream: &Key,
        partition: u32,
        mut from: Offset,
    ) -> Result<Option<(i64, Offset)>, Code> {
        let mut looked = 0;
        loop {
            let read = gateway
                .handle
                .allowed(|machine| machine.records(stream, partition, from, SEARCH_BATCHES, SEARCH_BYTES));
            let found = read.map_err(|why| error::runtime(&why))?.map_err(|why| error::op(&why))?;
            let Some(last) = found.batches.last() else { return Ok(None) };
            let end = last.end();
            looked += found.batches.len() as u64;
            let at = found.batches.iter().map(|batch| batch.at).collect();
            let payloads = gateway.handle.payloads(at).await.map_err(|why| error::runtime(&why))?;
            let time = self.time;
            let first = tokio::task::spawn_blocking(move || {
                let mut each = found.batches.iter().zip(&payloads);
                each.find_map(|(batch, payload)| first_made(batch, payload, time, from))
            });
            if let Some(first) = first.await.map_err(|_| Code::UnknownServerError)? {
                return Ok(Some(first));
            }
            from = end;
            if looked >= SEARCH_BATCHES_MAX {
                return Ok(Some((time, from)));
            }
        }
    }
}

/// The first record of a batch at or after an offset that was made at a time or later.
fn first_made(batch: &BatchRef, payload: &[u8], time: i64, from: Offset) -> Option<(i64, Offset)> {
    let is_dead = |offset: Offset| batch.dead.binary_search(&((offset.0 - batch.base.0) as u32)).is_ok();
    if batch.format == Format::Records || batch.record.is_some() {
        // It was made when it was appended.
        let wall = batch.wall.0 as i64;
        let first = (batch.base.max(from).0..batch.end().0).map(Offset).find(|offset| !is_dead(*offset));
        return first.filter(|_| wall >= time).map(|first| (wall, first));
    }
    let header = quorate_batch::Header::read(payload).ok()?;
    if header.max_timestamp < time {
        return None;
    }
    let records = quorate_batch::decode(payload, quorate_batch::unpacked_max(payload.len())).ok()?;
    let offsets = (batch.base.0..).map(Offset);
    let mut made = offsets.zip(&records).filter(|(offset, _)| *offset >= from);
    made.find(|(_, record)| record.time_ms >= time).map(|(offset, record)| (record.time_ms, offset))
}

pub(super) async fn for_epoch(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    if version >= 3 {
        body.i32()?;
    }
    let topics = body.list(|body| {
        let name = body.text()?;
        let partitions = body.list(|body| {
            let asked = (body.i32()?, body.i32()?, body.i32()?);
            body.tags()?;
            Ok(asked)
        })?;
        body.tags()?;
        Ok((name, partitions))
    })?;
    body.tags()?;
    let nodes = gateway.nodes();
    let found = gateway
        .read(|machine| {
            let one = |name: &str, (partition, now, _): &(i32, i32, i32)| {
                let stream = stream_of(name).ok_or(Code::InvalidTopicException)?;
                epoch(&nodes, *now)?;
                ends(machine, who, &stream, *partition).map(|(_, next)| next)
            };
            let each = |(name, partitions): &(String, Vec<(i32, i32, i32)>)| {
                partitions.iter().map(|asked| one(name, asked)).collect::<Vec<_>>()
            };
            topics.iter().map(each).collect::<Vec<_>>()
        })
        .await;
    let found = found.unwrap_or_else(|code| {
        topics.iter().map(|(_, partitions)| vec![Err(code); partitions.len()]).collect()
    });
    out.i32(0);
    out.list(topics.iter().zip(found), |out, ((name, partitions), found)| {
        out.text(name);
        out.list(partitions.iter().zip(found), |out, ((partition, _, wanted), found)| {
            // An epoch that never was has no end.
            let known = (0..=nodes.epoch).contains(wanted);
            let (epoch, end) = match &found {
                Ok(next) if known => (*wanted, next.0 as i64),
                _ => (-1, -1),
            };
            out.i16(found.err().unwrap_or(Code::None).number());
            out.i32(*partition);
            out.i32(epoch);
            out.i64(end);
            out.tags();
        });
        out.tags();
    });
    out.tags();
    Ok(())
}
