//! ConsumerGroupHeartbeat: a member of a group whose partitions the server divides says that it is alive and what it has, and is told what it is to
//! have (KIP-848).
//!
//! What is decided is decided in the log. A heartbeat that changes nothing is only a keep-alive of the member's session, as any node's state tells.
//! A regular expression is matched here, against the topics that its member may read, when it comes and whenever the topics have changed; in the log
//! are the names that it matched.
//!
//! Invariant: nothing of a group is kept here but when its expressions were last matched; any node answers any request of it.
//! Source: KIP-848; Kafka's `ConsumerGroupHeartbeatRequest.json`.

use super::committed::READ;
use super::members::{change, keep_alive, may, text};
use crate::error::{self, Code};
use crate::gateway::{Gateway, Nodes, Who, may_read, stream_of, topic_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_machine::Machine;
use quorate_types::beats::TOPICS_MAX;
use quorate_types::{
    Assignor, Beat, Beaten, Blob, GroupName, Key, LeaseId, MemberAnswer, MemberChange, Millis, Shares, Verbs,
};
use regex::{Regex, RegexBuilder};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The epoch with which a member joins; with -1 it leaves for good, and with this one to come back under its name.
const JOINS: i32 = 0;
const RETURNS: i32 = -2;
/// The first version in which clients choose their ids, and may name topics by an expression.
const NAMES_ITSELF_SINCE: i16 = 1;
/// How long what an expression matched is taken to be so, while no topic was made or deleted: rights and names may have changed.
const MATCHED_FOR: Duration = Duration::from_secs(60);
/// Bytes that a compiled expression may take.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Members whose matching is remembered; beyond, all is matched anew.
const REMEMBERED_MAX: usize = 10_000;

/// A request as it was read.
struct Request {
    group: String,
    member: String,
    epoch: i32,
    instance: Option<String>,
    rack: Option<String>,
    rebalance: i32,
    names: Option<Vec<String>>,
    regex: Option<String>,
    assignor: Option<String>,
    owned: Option<Vec<([u8; 16], Vec<i32>)>>,
}

impl Request {
    fn read(version: i16, body: &mut Reader) -> Result<Self, Malformed> {
        let request = Self {
            group: body.text()?,
            member: body.text()?,
            epoch: body.i32()?,
            instance: body.maybe_text()?,
            rack: body.maybe_text()?,
            rebalance: body.i32()?,
            names: body.maybe_list(Reader::text)?,
            regex: if version >= NAMES_ITSELF_SINCE { body.maybe_text()? } else { None },
            assignor: body.maybe_text()?,
            owned: body.maybe_list(|body| {
                let one = (body.uuid()?, body.list(Reader::i32)?);
                body.tags()?;
                Ok(one)
            })?,
        };
        body.tags()?;
        Ok(request)
    }

    /// Whether it says what one of its kind has to say.
    fn check(&self, version: i16) -> Result<(), Code> {
        let is_empty = |text: &Option<String>| text.as_ref().is_some_and(String::is_empty);
        let chooses = version >= NAMES_ITSELF_SINCE || self.epoch != JOINS;
        let wants = self.names.is_some() || self.regex.is_some();
        let names = self.names.as_ref().map_or(0, Vec::len) as u64;
        let wrong = (chooses && self.member.is_empty())
            || self.epoch < RETURNS
            || is_empty(&self.instance)
            || is_empty(&self.rack)
            || (self.epoch == JOINS && (self.rebalance < 1 || !wants))
            || (self.epoch == RETURNS && self.instance.is_none())
            || names > TOPICS_MAX;
        match () {
            () if self.group.is_empty() => Err(Code::InvalidGroupId),
            () if wrong => Err(Code::InvalidRequest),
            () => Ok(()),
        }
    }

    fn assignor(&self) -> Result<Option<Assignor>, Code> {
        let known = |name: &String| {
            let all = [Assignor::Uniform, Assignor::Range];
            all.into_iter().find(|assignor| assignor.name() == *name).ok_or(Code::UnsupportedAssignor)
        };
        self.assignor.as_ref().map(known).transpose()
    }

    /// What it says that it has. A topic that is none of this cluster's is nobody's.
    fn owned(&self, nodes: &Nodes) -> Option<Shares> {
        let one = |(id, partitions): &([u8; 16], Vec<i32>)| {
            let partitions = partitions.iter().filter_map(|partition| u32::try_from(*partition).ok());
            Some((nodes.stream_of_id(id)?, partitions.collect()))
        };
        Some(self.owned.as_ref()?.iter().filter_map(one).collect())
    }
}

pub(super) async fn heartbeat(
    gateway: &Gateway,
    who: &Who,
    host: &str,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let request = Request::read(version, body)?;
    let nodes = gateway.nodes();
    let told = match request.check(version) {
        Ok(()) => answered(gateway, who, host, &nodes, &request).await,
        Err(code) => Err(code),
    };
    put(gateway, &nodes, &request, told, out);
    Ok(())
}

async fn answered(
    gateway: &Gateway,
    who: &Who,
    host: &str,
    nodes: &Nodes,
    request: &Request,
) -> Result<Option<Beaten>, Code> {
    if request.epoch < JOINS {
        let part = MemberChange::Part {
            group: request.group.as_str().into(),
            member: request.member.as_str().into(),
            instance: request.instance.as_deref().map(Blob::from),
            returns: request.epoch == RETURNS,
        };
        return change(gateway, who, part).await.map(|_| None);
    }
    let blobs = |names: &Vec<String>| names.iter().map(|name| Blob::from(name.as_str())).collect();
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut beat = Beat {
        group: request.group.as_str().into(),
        member: request.member.as_str().into(),
        epoch: u32::try_from(request.epoch).ok().filter(|epoch| *epoch > 0),
        instance: request.instance.as_deref().map(Blob::from),
        rack: request.rack.as_deref().map(Blob::from),
        client: who.name.clone(),
        host: host.into(),
        session: Millis(ms(gateway.config.consumer_session)),
        rebalance: u64::try_from(request.rebalance).ok().filter(|ms| *ms > 0).map(Millis),
        names: request.names.as_ref().map(blobs),
        regex: request.regex.as_deref().map(Blob::from),
        matched: None,
        assignor: request.assignor()?,
        owned: request.owned(nodes),
    };
    if beat.names.iter().flatten().any(|name| name.as_text().and_then(stream_of).is_none()) {
        return Err(Code::InvalidTopicException);
    }
    beat.matched = matched(gateway, who, &beat)?;
    heard(gateway, who, beat).await.map(Some)
}

/// What becomes of a beat: a keep-alive where it changes nothing, or else a command.
async fn heard(gateway: &Gateway, who: &Who, beat: Beat) -> Result<Beaten, Code> {
    let look = |machine: &Machine| -> Result<Option<(LeaseId, Beaten)>, Code> {
        let rights = machine.rights(&who.principal);
        may(&rights, READ, Verbs::WRITE, &text(&beat.group.0))?;
        let of = |name: &Blob| Key { space: quorate_types::Keyspace::DEFAULT, name: name.clone() };
        if !beat.names.iter().flatten().all(|name| may_read(&rights, READ, &of(name))) {
            return Err(Code::TopicAuthorizationFailed);
        }
        // This node may be behind: what it takes for wrong is decided in the log.
        Ok(machine.beat_alone(&beat).ok().flatten())
    };
    let look = || gateway.handle.allowed(look).map_err(|why| error::of_group(error::runtime(&why)))?;
    if let Some((lease, _)) = look()?
        && keep_alive(gateway, lease).await?
        // What is applied here now is no older than the renewal.
        && let Some((_, told)) = look()?
    {
        return Ok(told);
    }
    match change(gateway, who, MemberChange::Beat { beat: Box::new(beat) }).await? {
        MemberAnswer::Beaten { beaten } => Ok(beaten),
        _ => Err(Code::UnknownServerError),
    }
}

fn put(
    gateway: &Gateway,
    nodes: &Nodes,
    request: &Request,
    told: Result<Option<Beaten>, Code>,
    out: &mut Writer,
) {
    out.i32(0);
    out.i16(Code::of(&told).number());
    out.maybe_text(told.as_ref().err().and_then(|code| why(*code)));
    let told = told.ok();
    let beaten = told.as_ref().and_then(Option::as_ref);
    let member = beaten.map_or_else(|| request.member.clone(), |beaten| text(&beaten.member));
    out.maybe_text(told.is_some().then_some(member.as_str()));
    // Who left is told the epoch with which it did.
    let left = if told.is_some() { request.epoch } else { 0 };
    out.i32(beaten.map_or(left, |beaten| beaten.epoch as i32));
    let every = i32::try_from(gateway.config.consumer_heartbeat.as_millis()).unwrap_or(i32::MAX);
    out.i32(if told.is_some() { every } else { 0 });
    match beaten.and_then(|beaten| beaten.given.as_ref()) {
        None => out.i8(-1),
        Some(given) => {
            out.i8(1);
            out.list(given, |out, (stream, partitions)| {
                out.uuid(nodes.id_of(*stream));
                out.list(partitions, |out, partition| out.i32(*partition as i32));
                out.tags();
            });
            out.tags();
        }
    }
    out.tags();
}

/// What helps whoever reads a client's log.
fn why(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::UnsupportedAssignor => "there are the assignors uniform and range",
        Code::InvalidRegularExpression => {
            "the expression is none, is too large, or matches more than 1000 topics"
        }
        Code::GroupIdNotFound => "the group is one of the classic protocol, and has members",
        Code::UnreleasedInstanceId => "another member has the group.instance.id, and has not left",
        Code::GroupMaxSizeReached => "a group has at most 1000 members and 20000 partitions",
        _ => return None,
    })
}

/// When the expressions of members were last matched by this node.
#[derive(Default)]
pub(crate) struct Matching(Mutex<HashMap<(GroupName, Blob), (Seen, Instant)>>);

/// Which topics there were, as [`Machine::topics_stamp`] tells, for which expression.
type Seen = ((u64, u64), String);

impl Matching {
    /// Whether nothing has changed since the same was matched; remembers it if not.
    fn is_fresh(&self, member: (GroupName, Blob), seen: Seen) -> bool {
        // Nothing under this lock panics, and what it guards is whole after each line.
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let fresh = |(was, when): &(Seen, Instant)| *was == seen && now.duration_since(*when) < MATCHED_FOR;
        if all.get(&member).is_some_and(fresh) {
            return true;
        }
        if all.len() >= REMEMBERED_MAX {
            all.clear();
        }
        all.insert(member, (seen, now));
        false
    }
}

/// The topics that a member's expression matches now; nothing where there is none, or that was looked at already.
fn matched(gateway: &Gateway, who: &Who, beat: &Beat) -> Result<Option<Vec<Blob>>, Code> {
    let says = beat.regex.is_some();
    let look = |machine: &Machine| {
        let kept = machine.consumer_regex(&beat.group, &beat.member).map(|(regex, _)| regex);
        let regex = beat.regex.clone().or(kept).filter(|regex| !regex.is_empty())?;
        Some((text(&regex), machine.topics_stamp()))
    };
    let runtime = |why| error::of_group(error::runtime(&why));
    let Some((regex, stamp)) = gateway.handle.allowed(look).map_err(runtime)? else { return Ok(None) };
    let member = (beat.group.clone(), beat.member.clone());
    if gateway.matching.is_fresh(member, (stamp, regex.clone())) && !says {
        return Ok(None);
    }
    let compiled = compile(&regex)?;
    let names = |machine: &Machine| {
        let rights = machine.rights(&who.principal);
        let mut streams = machine.streams();
        streams.retain(|stream| topic_of(stream).is_some() && may_read(&rights, READ, stream));
        streams
    };
    let names = gateway.handle.allowed(names).map_err(runtime)?;
    let found: Vec<Blob> = names
        .into_iter()
        .filter(|stream| topic_of(stream).is_some_and(|topic| compiled.is_match(topic)))
        .map(|stream| stream.name)
        .collect();
    if found.len() as u64 > TOPICS_MAX { Err(Code::InvalidRegularExpression) } else { Ok(Some(found)) }
}

/// An expression that matches a name as a whole.
fn compile(regex: &str) -> Result<Regex, Code> {
    let build = |regex: &str| RegexBuilder::new(regex).size_limit(REGEX_BYTES_MAX).build();
    // By itself first: what closes a bracket that it has not opened is no expression.
    let whole = build(regex).and_then(|_| build(&format!(r"\A(?:{regex})\z")));
    whole.map_err(|_| Code::InvalidRegularExpression)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_names_as_a_whole() {
        let is_match = |regex: &str, name: &str| compile(regex).unwrap().is_match(name);
        assert!(is_match("a|b", "b") && is_match("^orders-.*", "orders-eu") && is_match("(^a.)|(^b.)", "bx"));
        assert!(!is_match("a|b", "ab") && !is_match("orders", "orders-eu") && !is_match("^a", "ab"));
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused() {
        for regex in ["(", "a)(b", "[z-a]", r"(a)\1", "(?=a)", r"\w{900}{900}"] {
            assert_eq!(compile(regex).err(), Some(Code::InvalidRegularExpression), "{regex}");
        }
    }

    #[test]
    fn what_was_matched_is_so_until_topics_change() {
        let matching = Matching::default();
        let member = || (GroupName::from("g"), Blob::from("m"));
        let seen = |streams, regex: &str| ((streams, 7), regex.to_owned());
        assert!(!matching.is_fresh(member(), seen(1, "a")));
        assert!(matching.is_fresh(member(), seen(1, "a")));
        assert!(!matching.is_fresh(member(), seen(2, "a")));
        assert!(!matching.is_fresh(member(), seen(2, "b")));
        assert!(!matching.is_fresh((GroupName::from("h"), Blob::from("m")), seen(2, "b")));
    }
}
