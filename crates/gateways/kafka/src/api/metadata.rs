//! Metadata: which topics there are, and where. A topic that is asked for by name and is not there is made.
//!
//! Every partition of every topic is at every node, and its leader is the cluster's.

use super::cluster::{self, OPERATIONS_UNTOLD};
use super::topics;
use crate::error::Code;
use crate::gateway::{Gateway, Nodes, Who, may_read, stream_of, topic_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_machine::StreamView;
use quorate_types::Op;

/// What Redis has that tells of a stream.
pub(super) const DESCRIBE: &str = "xinfo|stream";

/// A topic as it is asked for.
struct Asked {
    id: [u8; 16],
    name: Option<String>,
}

/// A topic as it is answered.
struct Found {
    code: Code,
    name: Option<String>,
    id: [u8; 16],
    view: Option<StreamView>,
}

impl Found {
    fn missing(code: Code, name: Option<String>, id: [u8; 16]) -> Self {
        Self { code, name, id, view: None }
    }
}

pub(super) async fn answer(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let asked = body.maybe_list(|body| {
        let id = if version >= 10 { body.uuid()? } else { [0; 16] };
        let name = if version >= 10 { body.maybe_text()? } else { Some(body.text()?) };
        body.tags()?;
        Ok(Asked { id, name })
    })?;
    let may_make = if version >= 4 { body.bool()? } else { true };
    if (8..=10).contains(&version) {
        body.bool()?;
    }
    if version >= 8 {
        body.bool()?;
    }
    body.tags()?;
    // Before there was "none", an empty list asked for all.
    let asked = asked.filter(|asked| version > 0 || !asked.is_empty());

    let nodes = gateway.nodes();
    let mut found = look(gateway, who, &nodes, asked.as_deref()).await;
    if may_make
        && let Ok(found) = &mut found
        && found.iter().any(is_to_be_made)
    {
        make(gateway, who, found).await;
        let made = look(gateway, who, &nodes, asked.as_deref()).await;
        if let Ok(made) = made {
            // What could not be made says why.
            for (before, now) in found.iter_mut().zip(made) {
                if now.view.is_some() || before.code == Code::None {
                    *before = now;
                }
            }
        }
    }
    let (code, found) = match found {
        Ok(found) => (Code::None, found),
        Err(code) => {
            let each = asked.unwrap_or_default().into_iter();
            (code, each.map(|asked| Found::missing(code, asked.name, asked.id)).collect())
        }
    };
    put(&nodes, code, &found, version, out);
    Ok(())
}

fn is_to_be_made(found: &Found) -> bool {
    found.code == Code::UnknownTopicOrPartition && found.name.is_some()
}

/// Looks for the topics that are asked for, or for all that may be read.
async fn look(
    gateway: &Gateway,
    who: &Who,
    nodes: &Nodes,
    asked: Option<&[Asked]>,
) -> Result<Vec<Found>, Code> {
    gateway
        .read(|machine| {
            let rights = machine.rights(&who.principal);
            let found = |name: &str, view: StreamView| Found {
                code: Code::None,
                name: Some(name.to_owned()),
                id: nodes.topic_id(&view),
                view: Some(view),
            };
            let all = || {
                let streams = machine.streams();
                let readable = streams.into_iter().filter(|stream| may_read(&rights, DESCRIBE, stream));
                readable.filter_map(|stream| Some(found(topic_of(&stream)?, machine.stream(&stream)?)))
            };
            let Some(asked) = asked else { return all().collect() };
            let one = |asked: &Asked| {
                let Some(name) = &asked.name else {
                    let stream = nodes.stream_of_id(&asked.id).and_then(|of| machine.stream_numbered(of));
                    // One that may not be seen is as one that is not there.
                    let stream = stream.filter(|stream| may_read(&rights, DESCRIBE, stream));
                    let same = stream.and_then(|of| Some(found(topic_of(of)?, machine.stream(of)?)));
                    return same.unwrap_or_else(|| Found::missing(Code::UnknownTopicId, None, asked.id));
                };
                let missing = |code| Found::missing(code, Some(name.clone()), asked.id);
                let Some(stream) = stream_of(name) else { return missing(Code::InvalidTopicException) };
                if !may_read(&rights, DESCRIBE, &stream) {
                    return missing(Code::TopicAuthorizationFailed);
                }
                let view = machine.stream(&stream);
                view.map_or_else(|| missing(Code::UnknownTopicOrPartition), |view| found(name, view))
            };
            asked.iter().map(one).collect()
        })
        .await
}

/// Makes what is missing; what could not be made says why.
async fn make(gateway: &Gateway, who: &Who, found: &mut [Found]) {
    let wanted: Vec<&mut Found> = found.iter_mut().filter(|found| is_to_be_made(found)).collect();
    let settings = topics::settings(gateway.config.partitions);
    let ops = wanted
        .iter()
        .filter_map(|found| stream_of(found.name.as_deref()?))
        .map(|stream| Op::CreateStream { stream, settings: settings.clone() });
    let codes = topics::each(gateway, who, ops.collect()).await;
    for (found, code) in wanted.into_iter().zip(codes) {
        // Somebody else was faster.
        found.code = if code == Code::TopicAlreadyExists { Code::None } else { code };
    }
}

fn put(nodes: &Nodes, code: Code, found: &[Found], version: i16, out: &mut Writer) {
    if version >= 3 {
        out.i32(0);
    }
    out.list(&nodes.brokers, |out, broker| {
        cluster::put(broker, out);
        if version >= 1 {
            out.maybe_text(None);
        }
        out.tags();
    });
    if version >= 2 {
        out.maybe_text(Some(&nodes.cluster));
    }
    if version >= 1 {
        out.i32(nodes.leader);
    }
    out.list(found, |out, found| {
        out.i16(found.code.number());
        let name = found.name.as_deref();
        if version >= 12 {
            out.maybe_text(name)
        } else {
            out.text(name.unwrap_or_default())
        }
        if version >= 10 {
            out.uuid(found.id);
        }
        if version >= 1 {
            out.bool(false);
        }
        let partitions = found.view.as_ref().map_or(0, |view| view.settings.partitions);
        out.list(0..partitions, |out, partition| {
            out.i16(Code::None.number());
            out.i32(partition as i32);
            out.i32(nodes.leader);
            if version >= 7 {
                out.i32(nodes.epoch);
            }
            for _ in ["replicas", "replicas in sync"] {
                out.list(&nodes.brokers, |out, broker| out.i32(broker.id));
            }
            if version >= 5 {
                out.list([0; 0], Writer::i32);
            }
            out.tags();
        });
        if version >= 8 {
            out.i32(OPERATIONS_UNTOLD);
        }
        out.tags();
    });
    if (8..=10).contains(&version) {
        out.i32(OPERATIONS_UNTOLD);
    }
    if version >= 13 {
        out.i16(code.number());
    }
    out.tags();
}
