//! Produce: batches become appends.
//!
//! A request is one commit in mode `apart`: its batches take one place in the log and one sync, and each is appended or refused for itself, as a
//! broker has it. A request that is larger than a commit may be is several, in order. The commit is under way before the next request is
//! taken, so appends of a connection stay in order.
//!
//! A batch of a producer that numbers its batches is appended once, however often it comes; the machine tells.
//!
//! Invariant: a batch is stored only when its checksum, length and count are right, and is never changed but for its first eight bytes.
//! Invariant: on a compacted topic records are stored, not batches: the machine goes by their keys.

use super::opened::{self, Fault};
use super::{PRODUCE_SINCE, riders};
use crate::connection::Session;
use crate::error::{self, Code};
use crate::frame::{self, Head};
use crate::gateway::{Gateway, Who, stream_of};
use crate::wire::{Malformed, Reader, Writer};
use bytes::Bytes;
use futures_util::FutureExt;
use quorate_batch::Codec;
use quorate_types::{
    Append, Commit, Committed, Format, Key, Mode, Numbered, Offset, Op, OpResult, PartitionChoice, Payload,
    Produce, ProducerId, StreamSettings, record,
};
use std::pin::Pin;
use std::sync::Arc;

/// Bytes of a commit beside the batches in it: each takes less than this for its name and place.
const APPEND_BYTES: u64 = 512;
/// The first version that knows of zstd.
const ZSTD_SINCE: i16 = 7;

/// A request under way.
pub(crate) enum Launched {
    /// It is answered already.
    Answer(Vec<u8>),
    /// Its answer; none where none is wanted.
    Under(Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>),
}

type Outcome = Result<Committed, Code>;
type Committing = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What a partition's batch came to, or will.
enum Slot {
    Refused(Fault),
    /// Which commit, and which of its results.
    In(usize, usize),
}

struct Batch {
    partition: i32,
    bytes: Option<Bytes>,
}

/// Begins a request: when this returns, its appends have their place among those of the connection.
pub(crate) async fn launch(
    gateway: &Arc<Gateway>,
    session: &Session,
    head: &Head,
    mut body: Reader,
) -> Result<Launched, Malformed> {
    if head.version < PRODUCE_SINCE {
        return Err(Malformed("batches of before version 3 are not taken"));
    }
    let transaction = body.maybe_text()?;
    let (acks, _timeout) = (body.i16()?, body.i32()?);
    let topics = body.list(|body| {
        let name = body.text()?;
        let batches = body.list(|body| {
            let batch = Batch { partition: body.i32()?, bytes: body.maybe_bytes()? };
            body.tags()?;
            Ok(batch)
        })?;
        body.tags()?;
        Ok((name, batches))
    })?;
    body.tags()?;
    let whole = match acks {
        -1..=1 => None,
        _ => Some(Code::InvalidRequiredAcks),
    };
    let mut commits = Commits::default();
    let mut slots = Vec::new();
    for (name, batches) in topics {
        let topic = whole.map_or_else(|| topic_of(gateway, &name), Err);
        let mut each = Vec::with_capacity(batches.len());
        for batch in batches {
            let op = match &topic {
                Ok(topic) => append_of(gateway, head.version, topic, &batch, transaction.as_deref()).await,
                Err(code) => Err((*code).into()),
            };
            let slot = match op {
                Ok(op) => commits.push(gateway, op),
                Err(fault) => Slot::Refused(fault),
            };
            each.push((batch.partition, slot));
        }
        slots.push((name, each));
    }
    let (head, flexible) = (head.clone(), body.flexible);
    let answer = move |outcomes: &[Outcome]| {
        let mut out = frame::begin(head.correlation, flexible, true);
        put(&slots, outcomes, head.version, &mut out);
        frame::end(out)
    };
    if commits.all.is_empty() && acks != 0 {
        return Ok(Launched::Answer(answer(&[])));
    }
    let under: Vec<_> = commits.all.into_iter().map(|ops| begin(gateway, &session.who, ops)).collect();
    Ok(Launched::Under(Box::pin(async move {
        let mut outcomes = Vec::with_capacity(under.len());
        for (early, rest) in under {
            outcomes.push(match early {
                Some(outcome) => outcome,
                None => rest.await,
            });
        }
        (acks != 0).then(|| answer(&outcomes))
    })))
}

/// Begins a commit: it is proposed before this returns.
fn begin(gateway: &Arc<Gateway>, who: &Who, ops: Vec<Op>) -> (Option<Outcome>, Committing) {
    let (gateway, who) = (Arc::clone(gateway), who.clone());
    let mut committing: Committing =
        Box::pin(async move { gateway.commit(&who, Commit { mode: Mode::Apart, ..Commit::of(ops) }).await });
    // A future does nothing before it is polled, and what follows on the connection must not overtake it.
    let early = (&mut committing).now_or_never();
    (early, committing)
}

/// The commits of a request.
#[derive(Default)]
struct Commits {
    all: Vec<Vec<Op>>,
    /// Bytes of the last, and its operations and guards with those of riders.
    bytes: u64,
    parts: u64,
}

impl Commits {
    fn push(&mut self, gateway: &Gateway, op: Op) -> Slot {
        let (payload, name) = match &op {
            Op::Append { append } => (Some(append), None),
            Op::Produce { produce } => (produce.append(), produce.name()),
            _ => (None, None),
        };
        let rider = match &op {
            Op::Produce { produce } => produce.rider(),
            _ => None,
        };
        let payload = payload.map_or(0, |append| append.payload.bytes.len());
        let bytes = (payload + name.map_or(0, |name| name.len())) as u64 + APPEND_BYTES;
        let bytes = bytes + rider.map_or(0, quorate_types::limits::weight);
        let parts = 1 + rider.map_or(0, |rider| rider.guards.len().max(rider.then.len()) as u64);
        let limits = &gateway.limits;
        let parts_max = limits.operations_max.min(limits.guards_max);
        let fits = !self.all.is_empty()
            && self.bytes + bytes <= limits.command_bytes_max
            && self.parts + parts <= parts_max;
        if !fits {
            self.all.push(Vec::new());
            (self.bytes, self.parts) = (APPEND_BYTES, 0);
        }
        self.bytes += bytes;
        self.parts += parts;
        let commit = self.all.len() - 1;
        self.all[commit].push(op);
        Slot::In(commit, self.all[commit].len() - 1)
    }
}

/// The stream that a topic is, with its settings. What this node has applied is enough to know: a topic that it does not know yet is asked for
/// again.
fn topic_of(gateway: &Gateway, topic: &str) -> Result<(Key, StreamSettings), Code> {
    let stream = stream_of(topic).ok_or(Code::InvalidTopicException)?;
    let settings = gateway.handle.allowed(|machine| machine.stream(&stream).map(|view| view.settings));
    let settings = settings.map_err(|why| error::runtime(&why))?.ok_or(Code::UnknownTopicOrPartition)?;
    Ok((stream, settings))
}

/// The append that a batch is: at once, once, or at the end of a transaction.
async fn append_of(
    gateway: &Gateway,
    version: i16,
    (stream, settings): &(Key, StreamSettings),
    batch: &Batch,
    transaction: Option<&str>,
) -> Result<Op, Fault> {
    let partition = u32::try_from(batch.partition).ok().filter(|number| *number < settings.partitions);
    let partition = partition.ok_or(Code::UnknownTopicOrPartition)?;
    let bytes = batch.bytes.as_ref().ok_or(Code::InvalidRecord)?;
    if bytes.len() as u64 > gateway.limits.payload_bytes_max {
        return Err(Code::MessageTooLarge.into());
    }
    let header = quorate_batch::check(bytes)?;
    if header.is_control() {
        return Err(Code::InvalidRecord.into());
    }
    let by = numbered(&header)?;
    let codec = header.codec()?;
    if codec == Codec::Zstd && version < ZSTD_SINCE {
        return Err(Code::UnsupportedCompressionType.into());
    }
    let opened = if settings.compact || settings.guarded {
        Some(opened::records(gateway, codec, bytes).await?)
    } else {
        None
    };
    let rider = match &opened {
        Some(records) if settings.guarded => riders::of(stream, records)?.map(Box::new),
        _ => None,
    };
    let (format, payload) = if let Some(records) = opened.filter(|_| settings.compact) {
        let payload = record::encode(&records);
        if payload.bytes.len() as u64 > gateway.limits.payload_bytes_max {
            return Err(Code::MessageTooLarge.into());
        }
        (Format::Records, payload)
    } else {
        if codec == Codec::None && !settings.guarded {
            // What is not packed is looked at, so that nobody stores what no reader can read. It costs little beside the checksum.
            quorate_batch::check_records(bytes)?;
        }
        (Format::RecordBatch, Payload::from(quorate_batch::stored(bytes)))
    };
    let records = u32::try_from(header.count).map_err(|_| Code::InvalidRecord)?;
    let partition = PartitionChoice::Number { partition };
    let append = Append { stream: stream.clone(), partition, format, records, payload, create: false };
    let produce = match (by, transaction, rider) {
        (Some(by), Some(name), rider) if header.is_transactional() => {
            let name = name.into();
            match rider {
                Some(rider) => Produce::HoldWith { name, append, by, rider },
                None => Produce::Hold { name, append, by },
            }
        }
        _ if header.is_transactional() => return Err(Code::InvalidTxnState.into()),
        (by, _, Some(rider)) => Produce::AppendWith { append, by, rider },
        (Some(by), _, None) => Produce::Append { append, by },
        (None, _, None) => return Ok(Op::Append { append }),
    };
    Ok(Op::Produce { produce: Box::new(produce) })
}

/// Which batch of its producer it is; nothing where nobody counts.
fn numbered(header: &quorate_batch::Header) -> Result<Option<Numbered>, Code> {
    let Ok(producer) = u64::try_from(header.producer_id) else { return Ok(None) };
    let epoch = u16::try_from(header.producer_epoch).map_err(|_| Code::InvalidRecord)?;
    let first = u32::try_from(header.base_sequence).map_err(|_| Code::InvalidRecord)?;
    Ok(Some(Numbered { producer: ProducerId(producer), epoch, first }))
}

fn put(slots: &[(String, Vec<(i32, Slot)>)], outcomes: &[Outcome], version: i16, out: &mut Writer) {
    out.list(slots, |out, (name, slots)| {
        out.text(name);
        out.list(slots, |out, (partition, slot)| {
            let found = match slot {
                Slot::Refused(fault) => Err(fault.clone()),
                Slot::In(commit, place) => result(&outcomes[*commit], *place),
            };
            let (fault, first) = match found {
                Ok(first) => (Fault::from(Code::None), first),
                Err(fault) => (fault, None),
            };
            out.i32(*partition);
            out.i16(fault.code.number());
            out.i64(first.map_or(-1, |first| first.0 as i64));
            out.i64(-1); // Times are those of the producer.
            if version >= 5 {
                // Where the log begins is not looked up for it; clients go by Fetch.
                out.i64(-1);
            }
            if version >= 8 {
                out.list(&fault.records, |out, (place, why)| {
                    out.i32(*place);
                    out.maybe_text(Some(why));
                    out.tags();
                });
                out.maybe_text(fault.why.as_deref());
            }
            out.tags();
        });
        out.tags();
    });
    out.i32(0);
    out.tags();
}

fn result(outcome: &Outcome, place: usize) -> Result<Option<Offset>, Fault> {
    let committed = outcome.as_ref().map_err(|code| *code)?;
    match committed.results.get(place) {
        Some(OpResult::Appended { first, .. }) => Ok(Some(*first)),
        // Held until its transaction ends, or one of another partition that comes again: it has no offset.
        Some(OpResult::Done {}) => Ok(None),
        Some(OpResult::Failed { error }) => Err(error.into()),
        _ => Err(Code::UnknownServerError.into()),
    }
}
