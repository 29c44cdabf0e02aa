//! CreateTopics and DeleteTopics: a topic is a stream that other protocols' key commands leave alone.

use super::metadata::DESCRIBE;
use crate::error::{self, Code};
use crate::gateway::{Gateway, Who, may_read, stream_of, topic_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_types::{Commit, Key, Millis, Mode, Op, OpResult, StreamSettings};
use std::collections::BTreeSet;

/// Whether records' headers mean guards and changes of keys.
pub(super) const GUARDS: &str = "quorate.guards";

/// The settings of a topic that nobody has said anything about.
pub(super) fn settings(partitions: u32) -> StreamSettings {
    StreamSettings { partitions, protected: true, ..StreamSettings::default() }
}

/// Makes operations, each for itself; what became of each.
pub(super) async fn each(gateway: &Gateway, who: &Who, ops: Vec<Op>) -> Vec<Code> {
    let count = ops.len();
    if count == 0 {
        return Vec::new();
    }
    match gateway.commit(who, Commit { mode: Mode::Each, ..Commit::of(ops) }).await {
        Ok(committed) => committed.results.iter().map(code).collect(),
        Err(code) => vec![code; count],
    }
}

fn code(result: &OpResult) -> Code {
    if let OpResult::Failed { error } = result { error::op(error) } else { Code::None }
}

/// A topic to be made.
struct New {
    name: String,
    partitions: i32,
    replicas: i16,
    assigned: usize,
    configs: Vec<(String, Option<String>)>,
}

/// What became of it.
struct Made {
    name: String,
    code: Code,
    why: Option<String>,
    partitions: i32,
}

pub(super) async fn create(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let asked = body.list(|body| {
        let (name, partitions, replicas) = (body.text()?, body.i32()?, body.i16()?);
        let assigned = body.list(|body| {
            body.i32()?;
            body.list(Reader::i32)?;
            body.tags()
        })?;
        let configs = body.list(|body| {
            let pair = (body.text()?, body.maybe_text()?);
            body.tags()?;
            Ok(pair)
        })?;
        body.tags()?;
        Ok(New { name, partitions, replicas, assigned: assigned.len(), configs })
    })?;
    body.i32()?; // How long it may take: as long as any command.
    let only_check = body.bool()?;
    body.tags()?;

    let (mut made, mut ops, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for topic in asked {
        let (code, why, partitions) = match settings_of(gateway, &topic) {
            _ if !seen.insert(topic.name.clone()) => {
                (Code::InvalidRequest, Some("the topic is named twice".to_owned()), -1)
            }
            Ok((stream, settings)) => {
                let partitions = settings.partitions as i32;
                wanted.push(made.len());
                ops.push(Op::CreateStream { stream, settings });
                (Code::None, None, partitions)
            }
            Err((code, why)) => (code, Some(why), -1),
        };
        made.push(Made { name: topic.name, code, why, partitions });
    }
    let codes = if only_check { check(gateway, who, &ops).await } else { each(gateway, who, ops).await };
    for (place, code) in wanted.into_iter().zip(codes) {
        made[place].code = code;
        if code != Code::None {
            made[place].partitions = -1;
        }
    }
    let nodes = gateway.nodes();
    let ids = gateway.read(|machine| {
        let id = |made: &Made| {
            Some(nodes.topic_id(&machine.stream(&stream_of(&made.name)?)?))
                .filter(|_| made.code == Code::None)
        };
        made.iter().map(|made| id(made).unwrap_or_default()).collect::<Vec<_>>()
    });
    let ids = ids.await.unwrap_or_else(|_| vec![[0; 16]; made.len()]);
    out.i32(0);
    out.list(made.iter().zip(ids), |out, (made, id)| {
        out.text(&made.name);
        if version >= 7 {
            out.uuid(id);
        }
        out.i16(made.code.number());
        out.maybe_text(made.why.as_deref());
        if version >= 5 {
            out.i32(made.partitions);
            out.i16(if made.code == Code::None { 1 } else { -1 });
            out.no_list();
        }
        out.tags();
    });
    out.tags();
    Ok(())
}

/// What would become of topics that are only to be checked.
async fn check(gateway: &Gateway, who: &Who, ops: &[Op]) -> Vec<Code> {
    let look = gateway.read(|machine| {
        let there =
            |op: &Op| matches!(op, Op::CreateStream { stream, .. } if machine.stream(stream).is_some());
        // Who only asks learns no more than who does it.
        let one = |op: &Op| match machine.may(&who.principal, op) {
            Err(_) => Code::TopicAuthorizationFailed,
            Ok(()) if there(op) => Code::TopicAlreadyExists,
            Ok(()) => Code::None,
        };
        ops.iter().map(one).collect()
    });
    look.await.unwrap_or_else(|code| vec![code; ops.len()])
}

fn settings_of(gateway: &Gateway, topic: &New) -> Result<(Key, StreamSettings), (Code, String)> {
    let stream = stream_of(&topic.name).ok_or_else(|| {
        let why = "a topic has 1 to 249 letters, digits, dots, underscores and hyphens, and is not . or ..";
        (Code::InvalidTopicException, why.to_owned())
    })?;
    if topic.assigned > 0 {
        let why = "every partition is at every node: assign none".to_owned();
        return Err((Code::InvalidReplicaAssignment, why));
    }
    if topic.replicas == 0 || topic.replicas < -1 {
        return Err((Code::InvalidReplicationFactor, "wanted -1, or 1 or more".to_owned()));
    }
    let partitions = match topic.partitions {
        -1 => gateway.config.partitions,
        count => u32::try_from(count).ok().filter(|count| *count > 0).unwrap_or(0),
    };
    if !(1..=gateway.limits.partitions_max).contains(&u64::from(partitions)) {
        let why = format!("wanted 1 to {} partitions", gateway.limits.partitions_max);
        return Err((Code::InvalidPartitions, why));
    }
    let mut settings = settings(partitions);
    for (name, value) in &topic.configs {
        config(&mut settings, name, value.as_deref().unwrap_or_default())
            .map_err(|why| (Code::InvalidConfig, format!("{name}: {why}")))?;
    }
    Ok((stream, settings))
}

/// Sets what a topic's configuration says. What says that which holds anyhow is taken; what would change anything else is refused.
pub(super) fn config(settings: &mut StreamSettings, name: &str, value: &str) -> Result<(), &'static str> {
    let bound = || match value {
        "-1" => Ok(None),
        digits => digits.parse().map(Some).map_err(|_| "wanted a number, or -1 for no bound"),
    };
    let only = |fits: bool, why| if fits { Ok(()) } else { Err(why) };
    match name {
        "retention.ms" => settings.retention.age = bound()?.map(Millis),
        "retention.bytes" => settings.retention.bytes = bound()?,
        "cleanup.policy" => match value {
            "delete" => settings.compact = false,
            "compact" => settings.compact = true,
            _ => return Err("wanted delete or compact"),
        },
        GUARDS => {
            settings.guarded = match value {
                "true" => true,
                "false" => false,
                _ => return Err("wanted true or false"),
            }
        }
        "compression.type" => only(value == "producer", "batches stay as they came: wanted producer")?,
        "message.timestamp.type" => {
            only(value == "CreateTime", "batches stay as they came: wanted CreateTime")?;
        }
        "min.insync.replicas" => only(value == "1", "a quorum is always in sync: wanted 1")?,
        _ => return Err("this is not configured here"),
    }
    Ok(())
}

pub(super) async fn delete(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let asked = body.list(|body| {
        if version < 6 {
            return Ok((Some(body.text()?), [0; 16]));
        }
        let one = (body.maybe_text()?, body.uuid()?);
        body.tags()?;
        Ok(one)
    })?;
    body.i32()?;
    body.tags()?;

    let nodes = gateway.nodes();
    let named = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        let by_id = |id: [u8; 16]| {
            let stream = nodes.stream_of_id(&id).and_then(|number| machine.stream_numbered(number))?;
            let is_told = topic_of(stream).is_some() && may_read(&rights, DESCRIBE, stream);
            is_told.then(|| stream.clone())
        };
        let one = |(name, id): &(Option<String>, [u8; 16])| match name {
            Some(name) => stream_of(name).ok_or(Code::InvalidTopicException),
            None => by_id(*id).ok_or(Code::UnknownTopicId),
        };
        asked.iter().map(one).collect::<Vec<_>>()
    });
    let named = named.await.unwrap_or_else(|code| vec![Err(code); asked.len()]);
    let ops = named.iter().flatten().map(|stream| Op::DeleteStream { stream: stream.clone() });
    let mut codes = each(gateway, who, ops.collect()).await.into_iter();
    out.i32(0);
    out.list(asked.iter().zip(&named), |out, ((name, id), stream)| {
        let code = match stream {
            Ok(_) => codes.next().unwrap_or(Code::UnknownServerError),
            Err(code) => *code,
        };
        let found = stream.as_ref().ok().and_then(topic_of);
        let name = name.as_deref().or(found);
        if version >= 6 {
            out.maybe_text(name)
        } else {
            out.text(name.unwrap_or_default())
        }
        if version >= 6 {
            out.uuid(*id);
        }
        out.i16(code.number());
        if version >= 5 {
            out.maybe_text(None);
        }
        out.tags();
    });
    out.tags();
    Ok(())
}
