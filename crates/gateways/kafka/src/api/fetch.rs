//! Fetch: batches of several partitions, at once or when there are enough.
//!
//! There are no sessions: each request names its partitions. A batch that holds the offset is given whole, and the client skips what it did not
//! ask for. From version 13 on a topic is named by its id: a topic that was deleted and made anew is another, and is not read in its place. At least one batch is given, however large. What records of other protocols lie in is made into batches, each stored batch one of
//! them; offsets that were taken out leave gaps. Everything that is shown is certain, so both levels of isolation see the same.
//!
//! Invariant: an answer holds no more than `fetch_bytes_max` bytes of batches, and one more batch.

use crate::error::{self, Code};
use crate::gateway::{Gateway, Nodes, Who, may_read, stream_of, topic_of};
use crate::wire::{Malformed, Reader, Writer};
use bytes::Bytes;
use quorate_batch::HEADER_BYTES;
use quorate_machine::{BatchRef, Machine};
use quorate_node::Interest;
use quorate_types::{Format, Key, Offset, OpError, Principal, record};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// What Redis has that reads a stream.
pub(super) const READ: &str = "xrange";
/// The first version in which a topic is named by its id (KIP-516).
const IDS_SINCE: i16 = 13;
/// Batches of one partition in one answer: records that came one by one are one each.
const BATCHES_MAX: u64 = 10_000;

/// A partition as it is asked for.
struct Asked {
    partition: i32,
    epoch: i32,
    from: i64,
    bytes_max: i32,
}

/// A topic as it is asked for.
enum Named {
    Name(String),
    Id([u8; 16]),
}

struct Request {
    topics: Vec<(Named, Vec<Asked>)>,
    bytes_min: u64,
    bytes_max: u64,
}

/// What there is of a partition.
#[derive(Default)]
struct Found {
    code: Option<Code>,
    first: u64,
    next: u64,
    batches: Vec<BatchRef>,
    /// Nothing is left from here to the end, which the client has to be told to go on.
    gap: Option<Offset>,
}

/// What there is of all, and how many bytes.
struct Look {
    found: Vec<Vec<Found>>,
    bytes: u64,
    is_told: bool,
}

pub(super) async fn answer(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    if version < IDS_SINCE + 2 {
        body.i32()?; // No replica asks here.
    }
    let (wait, bytes_min, bytes_max) = (body.i32()?, body.i32()?, body.i32()?);
    body.i8()?;
    let session = if version >= 7 { (body.i32()?, body.i32()?) } else { (0, -1) };
    let topics = body.list(|body| {
        let name = Named::read(version, body)?;
        let partitions = body.list(|body| {
            let partition = body.i32()?;
            let epoch = if version >= 9 { body.i32()? } else { -1 };
            let from = body.i64()?;
            if version >= 12 {
                body.i32()?;
            }
            if version >= 5 {
                body.i64()?;
            }
            let bytes_max = body.i32()?;
            body.tags()?;
            Ok(Asked { partition, epoch, from, bytes_max })
        })?;
        body.tags()?;
        Ok((name, partitions))
    })?;
    if version >= 7 {
        // What a session would forget.
        body.list(|body| {
            Named::read(version, body)?;
            body.list(Reader::i32)?;
            body.tags()
        })?;
    }
    if version >= 11 {
        body.text()?;
    }
    body.tags()?;

    let bytes = |asked: i32| u64::try_from(asked).unwrap_or(0);
    let request = Request {
        topics,
        bytes_min: bytes(bytes_min),
        bytes_max: bytes(bytes_max).min(gateway.config.fetch_bytes_max),
    };
    let nodes = gateway.nodes();
    let wait = Duration::from_millis(bytes(wait)).min(gateway.config.fetch_wait_max);
    // A session that this gateway never gave.
    let found = if session.0 != 0 {
        Err(Code::FetchSessionIdNotFound)
    } else {
        request.found(gateway, &who.principal, &nodes, wait).await
    };
    let served = match found {
        Ok(found) => serve(gateway, &nodes, found).await,
        Err(code) => Err(code),
    };
    put(&request, served, version, out);
    Ok(())
}

impl Named {
    fn read(version: i16, body: &mut Reader) -> Result<Self, Malformed> {
        if version >= IDS_SINCE { body.uuid().map(Self::Id) } else { body.text().map(Self::Name) }
    }

    /// The stream that is meant now.
    fn stream(&self, machine: &Machine, nodes: &Nodes) -> Result<Key, Code> {
        match self {
            Self::Name(name) => stream_of(name).ok_or(Code::InvalidTopicException),
            Self::Id(id) => {
                let stream = nodes.stream_of_id(id).and_then(|number| machine.stream_numbered(number));
                stream.filter(|stream| topic_of(stream).is_some()).cloned().ok_or(Code::UnknownTopicId)
            }
        }
    }
}

impl Request {
    /// Looks until there is enough, or the time is over.
    async fn found(
        &self,
        gateway: &Gateway,
        who: &Principal,
        nodes: &Nodes,
        wait: Duration,
    ) -> Result<Vec<Vec<Found>>, Code> {
        let look = |machine: &Machine| self.look(machine, who, nodes);
        let deadline = Instant::now() + wait;
        let first = gateway.read(look).await?;
        if wait.is_zero() || self.is_enough(&first) {
            return Ok(first.found);
        }
        let of = |machine: &Machine, (named, partitions): &(Named, Vec<Asked>)| {
            let stream = named.stream(machine, nodes).ok();
            let numbers = partitions.iter().filter_map(|asked| u32::try_from(asked.partition).ok());
            numbers.filter_map(|number| Some((stream.clone()?, number))).collect::<Vec<_>>()
        };
        let places = gateway
            .handle
            .allowed(|machine| self.topics.iter().flat_map(|topic| of(machine, topic)).collect::<Vec<_>>());
        let interest = Interest::Streams(places.map_err(|why| error::runtime(&why))?.into_iter().collect());
        let left = deadline.saturating_duration_since(Instant::now());
        let enough = |machine: &Machine| Some(look(machine)).filter(|found| self.is_enough(found));
        let waited = tokio::select! {
            waited = gateway.handle.wait_here(interest, left, enough) => waited,
            // Whoever stops lets nobody wait.
            () = gateway.stopped() => Ok(None),
        };
        match waited.map_err(|why| error::runtime(&why))? {
            Some(found) => Ok(found.found),
            None => Ok(gateway.handle.allowed(look).map_err(|why| error::runtime(&why))?.found),
        }
    }

    fn is_enough(&self, look: &Look) -> bool {
        look.is_told || look.bytes >= self.bytes_min
    }

    fn look(&self, machine: &Machine, who: &Principal, nodes: &Nodes) -> Look {
        let rights = machine.rights(who);
        let mut look = Look { found: Vec::with_capacity(self.topics.len()), bytes: 0, is_told: false };
        for (named, partitions) in &self.topics {
            let stream = named.stream(machine, nodes);
            let readable = match &stream {
                Err(code) => Err(*code),
                Ok(stream) if !may_read(&rights, READ, stream) => Err(Code::TopicAuthorizationFailed),
                Ok(stream) => Ok(stream),
            };
            let mut each = Vec::with_capacity(partitions.len());
            for asked in partitions {
                let left = self.bytes_max.saturating_sub(look.bytes);
                let found =
                    readable.and_then(|stream| asked.look(machine, stream, nodes, left, look.bytes == 0));
                let found = found.unwrap_or_else(|code| Found { code: Some(code), ..Found::default() });
                look.is_told |= found.code.is_some() || found.gap.is_some();
                look.bytes += found.batches.iter().map(bytes_of).sum::<u64>();
                each.push(found);
            }
            look.found.push(each);
        }
        look
    }
}

/// Bytes that a batch takes in an answer, about.
fn bytes_of(batch: &BatchRef) -> u64 {
    let head = if batch.format == Format::RecordBatch { 0 } else { HEADER_BYTES };
    u64::from(batch.bytes) + head as u64
}

/// Whether a client's epoch is that of now.
pub(super) fn epoch(nodes: &Nodes, asked: i32) -> Result<(), Code> {
    match asked {
        -1 => Ok(()),
        older if older < nodes.epoch => Err(Code::FencedLeaderEpoch),
        newer if newer > nodes.epoch => Err(Code::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

impl Asked {
    fn look(
        &self,
        machine: &Machine,
        stream: &Key,
        nodes: &Nodes,
        left: u64,
        is_first: bool,
    ) -> Result<Found, Code> {
        epoch(nodes, self.epoch)?;
        let partition = u32::try_from(self.partition).map_err(|_| Code::UnknownTopicOrPartition)?;
        let from = Offset(u64::try_from(self.from).map_err(|_| Code::OffsetOutOfRange)?);
        let bytes_max = left.min(u64::try_from(self.bytes_max).unwrap_or(0));
        let found = match machine.records(stream, partition, from, BATCHES_MAX, bytes_max) {
            Ok(found) => found,
            // The ends are told beside it.
            Err(OpError::OffsetOutOfRange { first, next, .. }) => {
                let code = Some(Code::OffsetOutOfRange);
                return Ok(Found { code, first: first.0, next: next.0, ..Found::default() });
            }
            Err(why) => return Err(error::op(&why)),
        };
        let gap = (found.batches.is_empty() && from < found.next).then_some(from);
        let mut batches = found.batches;
        if !is_first && batches.first().is_some_and(|batch| bytes_of(batch) > bytes_max) {
            // Only the first of all is given whatever its size.
            batches.clear();
        }
        Ok(Found { code: None, first: found.first.0, next: found.next.0, batches, gap })
    }
}

/// A partition as it is answered.
struct Served {
    code: Code,
    first: i64,
    next: i64,
    batches: Vec<u8>,
}

/// Reads and makes what was found, off this thread.
async fn serve(gateway: &Gateway, nodes: &Nodes, found: Vec<Vec<Found>>) -> Result<Vec<Vec<Served>>, Code> {
    let refs: Vec<_> =
        found.iter().flatten().flat_map(|found| found.batches.iter().map(|batch| batch.at)).collect();
    let payloads = if refs.is_empty() {
        HashMap::new()
    } else {
        let read = gateway.handle.payloads(refs.clone()).await.map_err(|why| error::runtime(&why))?;
        refs.into_iter().zip(read).collect()
    };
    let epoch = nodes.epoch;
    let all = move || {
        let each = found
            .into_iter()
            .map(|each| each.into_iter().map(|found| one(&found, &payloads, epoch)).collect());
        each.collect()
    };
    // What was sent as batches is copied once; records of other protocols are taken apart and put together.
    tokio::task::spawn_blocking(all).await.map_err(|_| Code::UnknownServerError)
}

fn one(found: &Found, payloads: &HashMap<quorate_types::PayloadRef, Bytes>, epoch: i32) -> Served {
    let mut served = Served {
        code: found.code.unwrap_or(Code::None),
        first: if found.code.is_some() && found.next == 0 { -1 } else { found.first as i64 },
        next: if found.code.is_some() && found.next == 0 { -1 } else { found.next as i64 },
        batches: Vec::new(),
    };
    if let Some(from) = found.gap {
        let last = u32::try_from(found.next - from.0 - 1).unwrap_or(i32::MAX as u32).min(i32::MAX as u32);
        quorate_batch::empty(from, last, epoch, &mut served.batches);
    }
    for batch in &found.batches {
        let made =
            payloads.get(&batch.at).map(|payload| put_batch(batch, payload, epoch, &mut served.batches));
        if made != Some(Ok(())) {
            // What was made before it is given; it is asked for again, and then it is the first.
            if served.batches.is_empty() {
                served.code = Code::KafkaStorageError;
            }
            break;
        }
    }
    served
}

/// Writes a stored batch as consumers get it.
fn put_batch(batch: &BatchRef, payload: &Bytes, epoch: i32, out: &mut Vec<u8>) -> Result<(), ()> {
    if batch.format == Format::RecordBatch && batch.record.is_none() {
        quorate_batch::served(payload, batch.base, epoch, out);
        return Ok(());
    }
    let payload = quorate_batch::to_records(payload, usize::MAX).map_err(drop)?;
    let records = record::decode(&payload, batch.records).map_err(drop)?;
    let last = (batch.end().0 - batch.base.0 - 1) as u32;
    match batch.record {
        Some(one) => {
            let record = records.get(one as usize).ok_or(())?;
            quorate_batch::build([(0, record)], batch.base, last, batch.wall, epoch, out);
        }
        None => {
            let live = (0..).zip(&records).filter(|(place, _)| batch.dead.binary_search(place).is_err());
            quorate_batch::build(live, batch.base, last, batch.wall, epoch, out);
        }
    }
    Ok(())
}

fn put(request: &Request, served: Result<Vec<Vec<Served>>, Code>, version: i16, out: &mut Writer) {
    out.i32(0);
    // Before version 7 an error was one of the partitions.
    let (code, served) = match served {
        Ok(served) => (Code::None, served),
        Err(code) => {
            let failed = || Served { code, first: -1, next: -1, batches: Vec::new() };
            let each = request.topics.iter();
            (code, each.map(|(_, asked)| asked.iter().map(|_| failed()).collect()).collect())
        }
    };
    if version >= 7 {
        out.i16(if code == Code::FetchSessionIdNotFound { code } else { Code::None }.number());
        out.i32(0);
    }
    out.list(request.topics.iter().zip(&served), |out, ((named, asked), served)| {
        match named {
            Named::Name(name) => out.text(name),
            Named::Id(id) => out.uuid(*id),
        }
        out.list(asked.iter().zip(served), |out, (asked, served)| {
            out.i32(asked.partition);
            out.i16(served.code.number());
            out.i64(served.next);
            out.i64(served.next);
            if version >= 5 {
                out.i64(served.first);
            }
            out.no_list();
            if version >= 11 {
                out.i32(-1);
            }
            out.maybe_bytes(Some(&served.batches));
            out.tags();
        });
        out.tags();
    });
    out.tags();
}
