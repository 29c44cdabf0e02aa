//! DescribeProducers, DescribeTransactions and ListTransactions: producers and their transactions, as people look after them.
//!
//! Called by: `api`. Source: KIP-664, KIP-994; Kafka's message definitions, version 4.1.

use super::committed::READ;
use super::members::text;
use super::metadata::DESCRIBE;
use crate::error::{self, Code};
use crate::gateway::{Gateway, Who, may_read, stream_of, topic_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_machine::{ProducerView, Rights, Stage, TransactionView};
use quorate_types::{Blob, Keyspace, Verbs};

/// What Kafka calls a stage. None of ours is prepared first: a transaction ends in one step.
fn state(stage: Stage) -> &'static str {
    match stage {
        Stage::Empty => "Empty",
        Stage::Open => "Ongoing",
        Stage::Committed => "CompleteCommit",
        Stage::Aborted => "CompleteAbort",
    }
}

/// Whether a transactional id may be seen.
fn may(rights: &Rights, name: &Blob) -> bool {
    let seen = rights.name(Verbs::READ, Keyspace::DEFAULT, name);
    rights.alive().is_ok() && rights.command(READ).is_ok() && seen.is_ok()
}

pub(super) async fn producers(
    gateway: &Gateway,
    who: &Who,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let topics = body.list(Reader::numbered)?;
    body.tags()?;
    let found = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        let one = |name: &str, partition: i32| {
            let stream = stream_of(name).ok_or(Code::InvalidTopicException)?;
            if !may_read(&rights, DESCRIBE, &stream) {
                return Err(Code::TopicAuthorizationFailed);
            }
            let number = u32::try_from(partition).ok();
            let found = number.and_then(|number| machine.producers(&stream, number));
            found.ok_or(Code::UnknownTopicOrPartition)
        };
        let of = |(name, partitions): &(String, Vec<i32>)| {
            partitions.iter().map(|partition| one(name, *partition)).collect::<Vec<_>>()
        };
        topics.iter().map(of).collect::<Vec<_>>()
    });
    let found = found.await;
    let found = found
        .unwrap_or_else(|code| topics.iter().map(|(_, of)| of.iter().map(|_| Err(code)).collect()).collect());
    out.i32(0);
    out.list(topics.iter().zip(found), |out, ((name, partitions), found)| {
        out.text(name);
        out.list(partitions.iter().zip(found), |out, (partition, found)| {
            out.i32(*partition);
            out.i16(Code::of(&found).number());
            out.maybe_text(None);
            out.list(found.unwrap_or_default(), put_producer);
            out.tags();
        });
        out.tags();
    });
    out.tags();
    Ok(())
}

fn put_producer(out: &mut Writer, producer: ProducerView) {
    out.i64(producer.producer.0 as i64);
    out.i32(i32::from(producer.epoch));
    out.i32(producer.last as i32);
    out.i64(producer.at.0 as i64);
    out.i32(-1); // There are no markers that a coordinator would have written.
    out.i64(-1); // What a transaction holds has no offsets before it ends.
    out.tags();
}

pub(super) async fn transactions(
    gateway: &Gateway,
    who: &Who,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let names = body.list(Reader::text)?;
    body.tags()?;
    let found = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        let one = |name: &String| {
            let name = Blob::from(name.as_str());
            if !may(&rights, &name) {
                return Err(Code::TransactionalIdAuthorizationFailed);
            }
            machine.transaction(&name).ok_or(Code::TransactionalIdNotFound)
        };
        names.iter().map(one).collect::<Vec<_>>()
    });
    let found = found.await;
    let found = found.unwrap_or_else(|code| names.iter().map(|_| Err(error::coordinator(code))).collect());
    out.i32(0);
    out.list(names.iter().zip(&found), |out, (name, found)| {
        out.i16(Code::of(found).number());
        out.text(name);
        put(found.as_ref().ok(), out);
        out.tags();
    });
    out.tags();
    Ok(())
}

fn put(view: Option<&TransactionView>, out: &mut Writer) {
    let open = view.filter(|view| view.stage == Stage::Open);
    out.text(view.map_or("", |view| state(view.stage)));
    out.i32(view.map_or(0, |view| i32::try_from(view.timeout.0).unwrap_or(i32::MAX)));
    out.i64(open.map_or(-1, |view| view.since.0 as i64));
    out.i64(view.map_or(-1, |view| view.producer.0 as i64));
    out.i16(view.map_or(-1, |view| i16::try_from(view.epoch).unwrap_or(i16::MAX)));
    // Ascending by stream: each topic's partitions follow each other.
    let parts = open.map_or(&[][..], |view| &view.parts);
    let told: Vec<_> =
        parts.iter().filter_map(|(stream, number)| Some((topic_of(stream)?, *number as i32))).collect();
    let topics: Vec<_> = told.chunk_by(|one, other| one.0 == other.0).collect();
    out.list(topics, |out, parts| {
        out.text(parts[0].0);
        out.list(parts, |out, (_, number)| out.i32(*number));
        out.tags();
    });
}

/// Kafka's names of states that can be asked for.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

pub(super) async fn list(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let states = body.list(Reader::text)?;
    let producers = body.list(Reader::i64)?;
    let longer_ms = if version >= 1 { body.i64()? } else { -1 };
    body.tags()?;
    let found = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        let mut all = machine.transactions();
        all.retain(|(name, view)| {
            let is = |wanted: &String| wanted == state(view.stage);
            let mine = |wanted: &i64| u64::try_from(*wanted) == Ok(view.producer.0);
            let long = u64::try_from(longer_ms)
                .map_or(true, |longer| view.stage == Stage::Open && view.age.0 > longer);
            let wanted = (states.is_empty() || states.iter().any(is))
                && (producers.is_empty() || producers.iter().any(mine));
            wanted && long && may(&rights, name)
        });
        all
    });
    let found = found.await.map_err(error::coordinator);
    out.i32(0);
    out.i16(Code::of(&found).number());
    let unknown: Vec<_> = states.iter().filter(|name| !STATES.contains(&name.as_str())).collect();
    out.list(unknown, |out, name| out.text(name));
    out.list(found.unwrap_or_default(), |out, (name, view)| {
        out.text(&text(&name));
        out.i64(view.producer.0 as i64);
        out.text(state(view.stage));
        out.tags();
    });
    out.tags();
    Ok(())
}
