//! ConsumerGroupDescribe: groups whose partitions the server divides, as people look after them.

use super::cluster::OPERATIONS_UNTOLD;
use super::committed::READ;
use super::members::{may, text};
use crate::error::{self, Code};
use crate::gateway::{Gateway, Nodes, Who, may_read, topic_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_machine::{ConsumerView, ConsumersView, Machine, Progress, Rights};
use quorate_types::{GroupName, Shares, Verbs};
use std::collections::BTreeMap;

/// What Kafka calls it.
pub(super) fn state(progress: Progress) -> &'static str {
    match progress {
        Progress::Empty => "Empty",
        Progress::Assigning => "Assigning",
        Progress::Reconciling => "Reconciling",
        Progress::Stable => "Stable",
    }
}

/// The epoch of a member that comes back under its name.
const AWAY: i32 = -2;
/// A member of this protocol, and not of the classic one.
const MEMBER_TYPE: i8 = 1;

/// A group, and what the streams of its members are called.
struct Found {
    group: ConsumersView,
    names: BTreeMap<u64, String>,
}

pub(super) async fn describe(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let asked = body.list(Reader::text)?;
    body.bool()?;
    body.tags()?;
    let nodes = gateway.nodes();
    let found = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        asked.iter().map(|name| one(machine, &rights, name)).collect::<Vec<Result<Found, Code>>>()
    });
    let found = found.await.unwrap_or_else(|code| asked.iter().map(|_| Err(error::of_group(code))).collect());
    out.i32(0);
    out.list(asked.iter().zip(&found), |out, (name, found)| {
        let (code, found) = (Code::of(found), found.as_ref().ok());
        let group = found.map(|found| &found.group);
        out.i16(code.number());
        let missing = "there is no group of the consumer protocol of this name";
        out.maybe_text((code == Code::GroupIdNotFound).then_some(missing));
        out.text(name);
        out.text(group.map_or("Unknown", |group| state(group.progress)));
        out.i32(group.map_or(0, |group| group.epoch as i32));
        out.i32(group.map_or(0, |group| group.target_epoch as i32));
        out.text(group.map_or("", |group| group.assignor.name()));
        let members = found.map_or(&[][..], |found| &found.group.members);
        out.list(members, |out, member| {
            if let Some(found) = found {
                put(&nodes, &found.names, member, version, out);
            }
        });
        out.i32(OPERATIONS_UNTOLD);
        out.tags();
    });
    out.tags();
    Ok(())
}

fn one(machine: &Machine, rights: &Rights, name: &str) -> Result<Found, Code> {
    may(rights, READ, Verbs::READ, name)?;
    let group = machine.consumers_group(&GroupName::from(name)).ok_or(Code::GroupIdNotFound)?;
    let mut names = BTreeMap::new();
    for (stream, _) in group.members.iter().flat_map(|member| member.has.iter().chain(&member.target)) {
        if names.contains_key(stream) {
            continue;
        }
        let Some(key) = machine.stream_numbered(*stream) else { continue };
        if !may_read(rights, READ, key) {
            return Err(Code::TopicAuthorizationFailed);
        }
        names.insert(*stream, topic_of(key).unwrap_or_default().to_owned());
    }
    Ok(Found { group, names })
}

fn put(nodes: &Nodes, names: &BTreeMap<u64, String>, member: &ConsumerView, version: i16, out: &mut Writer) {
    out.text(&text(&member.member));
    out.maybe_text(member.instance.as_ref().map(text).as_deref());
    out.maybe_text(member.rack.as_ref().map(text).as_deref());
    out.i32(if member.away { AWAY } else { member.epoch as i32 });
    out.text(&text(&member.client));
    out.text(&text(&member.host));
    out.list(&member.names, |out, name| out.text(&text(name)));
    out.maybe_text((!member.regex.is_empty()).then(|| text(&member.regex)).as_deref());
    for shares in [&member.has, &member.target] {
        put_shares(nodes, names, shares, out);
    }
    if version >= 1 {
        out.i8(MEMBER_TYPE);
    }
    out.tags();
}

/// Topics with partitions; those of a topic that was deleted are shown no more.
fn put_shares(nodes: &Nodes, names: &BTreeMap<u64, String>, shares: &Shares, out: &mut Writer) {
    let named = |(stream, partitions): &(u64, Vec<u32>)| {
        Some((names.get(stream)?.clone(), *stream, partitions.clone()))
    };
    let shown: Vec<_> = shares.iter().filter_map(named).collect();
    out.list(shown, |out, (name, stream, partitions)| {
        out.uuid(nodes.id_of(stream));
        out.text(&name);
        out.list(partitions, |out, partition| out.i32(partition as i32));
        out.tags();
    });
    out.tags();
}
