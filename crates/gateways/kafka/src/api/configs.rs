//! DescribeConfigs, IncrementalAlterConfigs and AlterConfigs: the settings of topics, and what holds of every node.
//!
//! Everything that holds is shown, also what cannot be set here; what is neither is not there, and refused. A change reads the settings and writes them
//! whole: of two changes at one moment the later stands.

use super::metadata::DESCRIBE;
use super::topics;
use crate::error::Code;
use crate::gateway::{Gateway, Nodes, Who, may_read, stream_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_machine::Machine;
use quorate_types::membership::{MEMBERS_MAX, METADATA_BYTES_MAX};
use quorate_types::{Key, Op, Principal, StreamSettings};

/// Kinds of what has settings.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from: set for the topic, by whoever started the node, by nobody.
const OF_TOPIC: i8 = 1;
const OF_NODE: i8 = 4;
const DEFAULT: i8 = 5;
/// Operations of an incremental change.
const SET: i8 = 0;
const DELETE: i8 = 1;

/// What a value is.
#[derive(Clone, Copy)]
enum Kind {
    Bool = 1,
    Text = 2,
    Int = 3,
    Long = 5,
    List = 7,
}

/// A setting as it is shown.
struct Shown {
    name: &'static str,
    value: String,
    kind: Kind,
    source: i8,
    read_only: bool,
    about: &'static str,
}

impl Shown {
    fn fixed(name: &'static str, value: impl ToString, kind: Kind, about: &'static str) -> Self {
        Self { name, value: value.to_string(), kind, source: DEFAULT, read_only: true, about }
    }
}

fn bound(value: Option<u64>) -> String {
    value.map_or("-1".to_owned(), |value| value.to_string())
}

/// What holds of a topic.
fn of_topic(gateway: &Gateway, settings: &StreamSettings) -> Vec<Shown> {
    let default = topics::settings(settings.partitions);
    let policy = |compact| if compact { "compact" } else { "delete" };
    let own = |name, value: String, usual: String, kind, about| {
        let source = if value == usual { DEFAULT } else { OF_TOPIC };
        Shown { name, value, kind, source, read_only: false, about }
    };
    let age = |settings: &StreamSettings| bound(settings.retention.age.map(|age| age.0));
    let bytes = |settings: &StreamSettings| bound(settings.retention.bytes);
    vec![
        own(
            "cleanup.policy",
            policy(settings.compact).to_owned(),
            policy(default.compact).to_owned(),
            Kind::List,
            "delete by retention, or keep the newest record of each key; changed only while there are no records",
        ),
        own(
            "retention.ms",
            age(settings),
            age(&default),
            Kind::Long,
            "age after which records go; -1 for never",
        ),
        own(
            "retention.bytes",
            bytes(settings),
            bytes(&default),
            Kind::Long,
            "bytes of a partition beyond which its oldest records go; -1 for no bound",
        ),
        own(
            topics::GUARDS,
            settings.guarded.to_string(),
            default.guarded.to_string(),
            Kind::Bool,
            "headers `q-...` of records name guards, and changes of keys, that are one commit with their batch",
        ),
        Shown::fixed("compression.type", "producer", Kind::Text, "batches stay as they came"),
        Shown::fixed("message.timestamp.type", "CreateTime", Kind::Text, "batches stay as they came"),
        Shown::fixed("min.insync.replicas", 1, Kind::Int, "a quorum is always in sync"),
        Shown::fixed(
            "max.message.bytes",
            gateway.limits.payload_bytes_max,
            Kind::Int,
            "the largest batch; set by --payload-bytes-max for all topics",
        ),
        Shown::fixed("flush.messages", 1, Kind::Long, "a record is on disk before it is acknowledged"),
        Shown::fixed(
            "unclean.leader.election.enable",
            false,
            Kind::Bool,
            "who leads has all that is acknowledged",
        ),
    ]
}

/// What holds of a node.
fn of_node(gateway: &Gateway) -> Vec<Shown> {
    let (host, port) = gateway.advertised();
    let config = &gateway.config;
    let told = |name, value: String, kind, about| Shown {
        name,
        value,
        kind,
        source: OF_NODE,
        read_only: true,
        about,
    };
    vec![
        told(
            "advertised.listeners",
            format!("PLAINTEXT://{host}:{port}"),
            Kind::Text,
            "what clients are told; set by --advertise-kafka",
        ),
        Shown::fixed(
            "auto.create.topics.enable",
            true,
            Kind::Bool,
            "a topic that is asked for by name is made",
        ),
        Shown::fixed("num.partitions", config.partitions, Kind::Int, "partitions of a topic that is made so"),
        Shown::fixed("compression.type", "producer", Kind::Text, "batches stay as they came"),
        Shown::fixed("log.cleanup.policy", "delete", Kind::List, "of new topics"),
        Shown::fixed("log.retention.ms", -1, Kind::Long, "of new topics: everything is kept"),
        Shown::fixed("log.retention.bytes", -1, Kind::Long, "of new topics: everything is kept"),
        Shown::fixed("min.insync.replicas", 1, Kind::Int, "a quorum is always in sync"),
        Shown::fixed(
            "message.max.bytes",
            gateway.limits.payload_bytes_max,
            Kind::Int,
            "the largest batch; set by --payload-bytes-max",
        ),
        Shown::fixed(
            "socket.request.max.bytes",
            config.request_bytes_max,
            Kind::Int,
            "the largest request; set by --kafka-request-bytes-max",
        ),
        Shown::fixed(
            "fetch.max.bytes",
            config.fetch_bytes_max,
            Kind::Int,
            "the largest answer to a Fetch; set by --kafka-fetch-bytes-max",
        ),
        Shown::fixed("max.connections", config.connections_max, Kind::Int, "connections at once"),
        Shown::fixed(
            "group.initial.rebalance.delay.ms",
            100,
            Kind::Int,
            "how long first members wait for others",
        ),
        Shown::fixed(
            "group.min.session.timeout.ms",
            gateway.limits.lease_ttl_ms_min,
            Kind::Int,
            "the shortest session",
        ),
        Shown::fixed("group.max.session.timeout.ms", 1_800_000, Kind::Int, "the longest session"),
        Shown::fixed("group.max.size", MEMBERS_MAX, Kind::Int, "members of a group"),
        Shown::fixed(
            "offset.metadata.max.bytes",
            METADATA_BYTES_MAX,
            Kind::Int,
            "of the metadata with an offset",
        ),
        Shown::fixed("offsets.retention.minutes", 7 * 24 * 60, Kind::Int, "after the last member and commit"),
    ]
}

/// What settings are asked for: those of what, and which; all without a list.
struct Asked {
    kind: i8,
    name: String,
    keys: Option<Vec<String>>,
}

type Why = (Code, String);

pub(super) async fn describe(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let asked = body.list(|body| {
        let (kind, name) = (body.i8()?, body.text()?);
        let keys = body.maybe_list(Reader::text)?;
        body.tags()?;
        Ok(Asked { kind, name, keys })
    })?;
    let synonyms = body.bool()?;
    let about = if version >= 3 { body.bool()? } else { false };
    body.tags()?;
    // Before the state is looked at: it is locked meanwhile, and they are asked of whom it belongs to.
    let nodes = gateway.nodes();
    let found = gateway.read(|machine| {
        let one = |asked: &Asked| asked.found(gateway, &nodes, machine, &who.principal);
        asked.iter().map(one).collect::<Vec<_>>()
    });
    let found = found.await.unwrap_or_else(|code| {
        let failed = || Err((code, "nobody leads now: ask again".to_owned()));
        asked.iter().map(|_| failed()).collect()
    });
    out.i32(0);
    out.list(asked.iter().zip(&found), |out, (asked, found)| {
        put_result(asked.kind, &asked.name, found.as_ref().err(), out);
        out.list(found.as_deref().unwrap_or_default(), |out, shown| {
            shown.put(version, synonyms, about, out);
        });
        out.tags();
    });
    out.tags();
    Ok(())
}

/// The head of a result: an error before the name.
fn put_result(kind: i8, name: &str, why: Option<&Why>, out: &mut Writer) {
    out.i16(why.map_or(Code::None, |(code, _)| *code).number());
    out.maybe_text(why.map(|(_, why)| why.as_str()));
    out.i8(kind);
    out.text(name);
}

impl Asked {
    fn found(
        &self,
        gateway: &Gateway,
        nodes: &Nodes,
        machine: &Machine,
        who: &Principal,
    ) -> Result<Vec<Shown>, Why> {
        let mut all = match self.kind {
            TOPIC => of_topic(gateway, &settings_of(machine, who, &self.name)?.1),
            BROKER => {
                let asked = self.name.parse();
                // What all have alike is asked for without a name.
                let known = nodes.brokers.iter().any(|broker| Ok(broker.id) == asked);
                if !known && !self.name.is_empty() {
                    return Err((Code::InvalidRequest, "there is no such node".to_owned()));
                }
                of_node(gateway)
            }
            _ => return Err((Code::InvalidRequest, "only topics and nodes have settings".to_owned())),
        };
        if let Some(keys) = &self.keys {
            all.retain(|shown| keys.iter().any(|key| key == shown.name));
        }
        Ok(all)
    }
}

/// A topic that may be seen, with its settings.
fn settings_of(machine: &Machine, who: &Principal, topic: &str) -> Result<(Key, StreamSettings), Why> {
    let stream = stream_of(topic);
    let stream =
        stream.ok_or_else(|| (Code::InvalidTopicException, "no topic has such a name".to_owned()))?;
    if !may_read(&machine.rights(who), DESCRIBE, &stream) {
        return Err((Code::TopicAuthorizationFailed, "the topic may not be seen".to_owned()));
    }
    let view = machine.stream(&stream);
    let view = view.ok_or_else(|| (Code::UnknownTopicOrPartition, "there is no such topic".to_owned()))?;
    Ok((stream, view.settings))
}

impl Shown {
    fn put(&self, version: i16, synonyms: bool, about: bool, out: &mut Writer) {
        out.text(self.name);
        out.maybe_text(Some(&self.value));
        out.bool(self.read_only);
        out.i8(self.source);
        out.bool(false); // None of them is a secret.
        let same: &[&Self] = if synonyms { &[self] } else { &[] };
        out.list(same, |out, shown| {
            out.text(shown.name);
            out.maybe_text(Some(&shown.value));
            out.i8(shown.source);
            out.tags();
        });
        if version >= 3 {
            out.i8(self.kind as i8);
            out.maybe_text(about.then_some(self.about));
        }
        out.tags();
    }
}

/// One setting to be changed.
struct Change {
    name: String,
    operation: i8,
    value: Option<String>,
}

/// Changes what is named (`incremental`), or all: what is not named is as nobody has set it.
pub(super) async fn alter(
    gateway: &Gateway,
    who: &Who,
    incremental: bool,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let asked = body.list(|body| {
        let (kind, name) = (body.i8()?, body.text()?);
        let changes = body.list(|body| {
            let name = body.text()?;
            let operation = if incremental { body.i8()? } else { SET };
            let change = Change { name, operation, value: body.maybe_text()? };
            body.tags()?;
            Ok(change)
        })?;
        body.tags()?;
        Ok((kind, name, changes))
    })?;
    let only_check = body.bool()?;
    body.tags()?;
    let wanted = gateway.read(|machine| {
        let one = |(kind, name, changes): &(i8, String, Vec<Change>)| {
            if *kind != TOPIC {
                let why = "a node is set up by whoever starts it".to_owned();
                return Err((Code::InvalidRequest, why));
            }
            let (stream, mut settings) = settings_of(machine, &who.principal, name)?;
            if !incremental {
                let usual = topics::settings(settings.partitions);
                (settings.retention, settings.compact) = (usual.retention, usual.compact);
                settings.guarded = usual.guarded;
            }
            changes.iter().try_for_each(|change| change.apply(&mut settings))?;
            Ok(Op::AlterStream { stream, settings })
        };
        asked.iter().map(one).collect::<Vec<Result<Op, Why>>>()
    });
    let wanted = wanted.await.unwrap_or_else(|code| {
        let failed = || Err((code, "nobody leads now: ask again".to_owned()));
        asked.iter().map(|_| failed()).collect()
    });
    let ops: Vec<Op> = wanted.iter().flatten().cloned().collect();
    let codes = if only_check { vec![Code::None; ops.len()] } else { topics::each(gateway, who, ops).await };
    let mut codes = codes.into_iter();
    out.i32(0);
    out.list(asked.iter().zip(wanted), |out, ((kind, name, _), wanted)| {
        let why = match wanted {
            Err(why) => Some(why),
            Ok(_) => refused(codes.next().unwrap_or(Code::UnknownServerError)),
        };
        put_result(*kind, name, why.as_ref(), out);
        out.tags();
    });
    out.tags();
    Ok(())
}

fn refused(code: Code) -> Option<Why> {
    match code {
        Code::None => None,
        Code::InvalidTopicException => {
            Some((Code::InvalidConfig, "cleanup.policy changes only while there are no records".to_owned()))
        }
        code => Some((code, "the topic was not changed".to_owned())),
    }
}

impl Change {
    fn apply(&self, settings: &mut StreamSettings) -> Result<(), Why> {
        let why = |why: &str| (Code::InvalidConfig, format!("{}: {why}", self.name));
        let value = match (self.operation, &self.value) {
            (SET, Some(value)) => value.as_str(),
            (SET, None) | (DELETE, _) => match self.name.as_str() {
                "retention.ms" | "retention.bytes" => "-1",
                "cleanup.policy" => "delete",
                topics::GUARDS => "false",
                // What only has one value is back to it already.
                "compression.type" => "producer",
                "message.timestamp.type" => "CreateTime",
                "min.insync.replicas" => "1",
                _ => return Err(why("this is not configured here")),
            },
            _ => return Err(why("wanted set or delete: no setting here is a list of several")),
        };
        topics::config(settings, &self.name, value).map_err(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deleted_is_as_nobody_has_set_it() {
        let usual = topics::settings(3);
        let mut settings = usual.clone();
        let change = |name: &str, operation, value: Option<&str>| Change {
            name: name.to_owned(),
            operation,
            value: value.map(str::to_owned),
        };
        for (name, value) in [
            ("retention.ms", "5"),
            ("retention.bytes", "7"),
            ("cleanup.policy", "compact"),
            (topics::GUARDS, "true"),
        ] {
            change(name, SET, Some(value)).apply(&mut settings).unwrap();
            assert_ne!(settings, usual, "{name}");
            change(name, DELETE, None).apply(&mut settings).unwrap();
            assert_eq!(settings, usual, "{name}");
        }
        for bad in [change("segment.ms", SET, Some("1")), change("cleanup.policy", 2, Some("compact"))] {
            assert_eq!(bad.apply(&mut settings).unwrap_err().0, Code::InvalidConfig);
        }
        assert_eq!(settings, usual);
    }
}
