//! OffsetCommit, OffsetFetch and OffsetDelete: how far groups are.
//!
//! A request is one commit: whoever may not speak for the group has kept nothing. Each partition is answered for itself.

use super::members::{may, speaker, text};
use super::transactions::{APPEND, author};
use crate::error::{self, Code};
use crate::gateway::{Gateway, Who, may_read, stream_of, topic_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_machine::{Machine, Rights};
use quorate_types::membership::{METADATA_BYTES_MAX, OFFSETS_MAX};
use quorate_types::{
    Author, Commit, CommittedOffset, GroupName, Key, MemberChange, Membership, Offset, OffsetCommit, Op,
    OpResult, Produce, StreamOffsets, Verbs,
};

/// What Redis has that reads for a group.
pub(super) const READ: &str = "xreadgroup";
/// What Redis has that says how far a group is.
const ACK: &str = "xack";
/// What Redis has that removes a group.
pub(super) const DESTROY: &str = "xgroup|destroy";

struct Partition {
    number: i32,
    offset: i64,
    epoch: i32,
    metadata: Option<String>,
}

pub(super) async fn commit(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let group = body.text()?;
    let (generation, member) = (body.i32()?, body.text()?);
    let instance = if version >= 7 { body.maybe_text()? } else { None };
    if version <= 4 {
        body.i64()?; // How long they are kept is the same for all.
    }
    let topics = read_topics(body, version >= 6)?;
    body.tags()?;
    let by = speaker(generation, &member, instance.as_deref());
    let mut codes = committed(gateway, who, &group, by, &topics, |commit| Op::CommitOffsets { commit }).await;
    if version < EPOCHS_SINCE {
        without_epochs(&mut codes);
    }
    if version >= 3 {
        out.i32(0);
    }
    put(&topics, codes, out);
    Ok(())
}

/// The first version in which offsets are asked for and kept by members of groups of the consumer protocol, who know of epochs.
const EPOCHS_SINCE: i16 = 9;

/// Whoever knows of generations alone is told of these.
fn without_epochs(codes: &mut [Vec<Code>]) {
    for code in codes.iter_mut().flatten().filter(|code| **code == Code::StaleMemberEpoch) {
        *code = Code::IllegalGeneration;
    }
}

/// What a commit names; `epochs` where it says the leader's too.
fn read_topics(body: &mut Reader, epochs: bool) -> Result<Vec<(String, Vec<Partition>)>, Malformed> {
    body.list(|body| {
        let name = body.text()?;
        let partitions = body.list(|body| {
            let (number, offset) = (body.i32()?, body.i64()?);
            let epoch = if epochs { body.i32()? } else { -1 };
            let metadata = body.maybe_text()?;
            body.tags()?;
            Ok(Partition { number, offset, epoch, metadata })
        })?;
        body.tags()?;
        Ok((name, partitions))
    })
}

/// The same for every partition.
fn whole(topics: &[(String, Vec<Partition>)], code: Code) -> Vec<Vec<Code>> {
    topics.iter().map(|(_, partitions)| vec![code; partitions.len()]).collect()
}

fn put(topics: &[(String, Vec<Partition>)], codes: Vec<Vec<Code>>, out: &mut Writer) {
    out.list(topics.iter().zip(codes), |out, ((name, partitions), codes)| {
        out.text(name);
        out.list(partitions.iter().zip(codes), |out, (partition, code)| {
            out.i32(partition.number);
            out.i16(code.number());
            out.tags();
        });
        out.tags();
    });
    out.tags();
}

/// TxnOffsetCommit: the same at the end of a transaction.
pub(super) async fn in_transaction(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let (name, group) = (body.text()?, body.text()?);
    let author = author(name, body.i64()?, body.i16()?);
    let (generation, member, instance) = if version >= 3 {
        (body.i32()?, body.text()?, body.maybe_text()?)
    } else {
        (-1, String::new(), None)
    };
    let topics = read_topics(body, version >= 2)?;
    body.tags()?;
    let by = speaker(generation, &member, instance.as_deref());
    let author = match author {
        Ok(author) => may_write(gateway, who, &author).map(|()| author),
        Err(code) => Err(code),
    };
    let codes = match author {
        Ok(author) => {
            let op = |commit| Op::Produce { produce: Box::new(Produce::HoldOffsets { author, commit }) };
            let mut codes = committed(gateway, who, &group, by, &topics, op).await;
            without_epochs(&mut codes);
            codes
        }
        Err(code) => whole(&topics, code),
    };
    out.i32(0);
    put(&topics, codes, out);
    Ok(())
}

/// Whether somebody may change transactions of this name.
fn may_write(gateway: &Gateway, who: &Who, author: &Author) -> Result<(), Code> {
    let name = String::from_utf8_lossy(&author.name).into_owned();
    let allowed = gateway.handle.allowed(|machine| {
        may(&machine.rights(&who.principal), APPEND, Verbs::WRITE, &name)
            .map_err(|_| Code::TransactionalIdAuthorizationFailed)
    });
    allowed.map_err(|why| error::coordinator(error::runtime(&why)))?
}

/// What became of each partition.
async fn committed(
    gateway: &Gateway,
    who: &Who,
    group: &str,
    by: Membership,
    topics: &[(String, Vec<Partition>)],
    op: impl FnOnce(Box<OffsetCommit>) -> Op,
) -> Vec<Vec<Code>> {
    let count: usize = topics.iter().map(|(_, partitions)| partitions.len()).sum();
    if count as u64 > OFFSETS_MAX {
        return whole(topics, Code::InvalidCommitOffsetSize);
    }
    let allowed = gateway.handle.allowed(|machine| {
        let rights = machine.rights(&who.principal);
        let topic = |name: &str| {
            let stream = stream_of(name).ok_or(Code::UnknownTopicOrPartition)?;
            if may_read(&rights, READ, &stream) { Ok(stream) } else { Err(Code::TopicAuthorizationFailed) }
        };
        may(&rights, ACK, Verbs::WRITE, group)?;
        Ok(topics.iter().map(|(name, _)| topic(name)).collect::<Vec<_>>())
    });
    let allowed = match allowed.map_err(|why| error::runtime(&why)).and_then(|allowed| allowed) {
        Ok(allowed) => allowed,
        Err(code) => return whole(topics, error::of_group(code)),
    };
    let mut codes: Vec<Vec<Code>> = Vec::with_capacity(topics.len());
    let (mut offsets, mut places) = (Vec::new(), Vec::new());
    for (at, ((_, partitions), stream)) in topics.iter().zip(&allowed).enumerate() {
        let (mut each, mut kept) = (Vec::with_capacity(partitions.len()), Vec::new());
        for (place, partition) in partitions.iter().enumerate() {
            match stream.as_ref().map_err(|code| *code).and_then(|_| partition.mark()) {
                Ok(mark) => {
                    each.push(Code::None);
                    places.push((at, place));
                    kept.push(mark);
                }
                Err(code) => each.push(code),
            }
        }
        codes.push(each);
        if let Ok(stream) = stream
            && !kept.is_empty()
        {
            offsets.push(StreamOffsets { stream: stream.clone(), partitions: kept });
        }
    }
    // Who asks for nothing is told whether it may speak, too: a commit of none is held against the group as any other.
    let commit = Box::new(OffsetCommit { group: group.into(), by, offsets });
    let outcome = gateway.commit(who, Commit::of(vec![op(commit)])).await;
    match outcome.map(|committed| committed.results.into_iter().next()) {
        Ok(Some(OpResult::Kept { missing })) => {
            for place in missing {
                let (at, place) = places[place as usize];
                codes[at][place] = Code::UnknownTopicOrPartition;
            }
        }
        Ok(_) => return whole(topics, Code::UnknownServerError),
        Err(code) => {
            for (at, place) in places {
                codes[at][place] = error::of_group(code);
            }
        }
    }
    codes
}

impl Partition {
    fn mark(&self) -> Result<(u32, CommittedOffset), Code> {
        let number = u32::try_from(self.number).map_err(|_| Code::UnknownTopicOrPartition)?;
        let offset = Offset(u64::try_from(self.offset).map_err(|_| Code::InvalidRequest)?);
        let metadata = self.metadata.as_deref().unwrap_or_default();
        if metadata.len() as u64 > METADATA_BYTES_MAX {
            return Err(Code::OffsetMetadataTooLarge);
        }
        let epoch = u32::try_from(self.epoch).ok();
        Ok((number, CommittedOffset { offset, epoch, metadata: metadata.into() }))
    }
}

/// The topics of a group that are asked for; all without a list.
struct Asked {
    group: String,
    /// Who asks, as a member of a group of the consumer protocol.
    by: Option<(String, u32)>,
    topics: Option<Vec<(String, Vec<i32>)>>,
}

/// A partition as it is answered.
struct Found {
    number: i32,
    mark: Option<CommittedOffset>,
    code: Code,
}

type Topics = Vec<(String, Vec<Found>)>;

/// The first version that asks for several groups.
const SEVERAL_SINCE: i16 = 8;

pub(super) async fn fetch(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let one = |body: &mut Reader| {
        let group = body.text()?;
        let by = if version >= EPOCHS_SINCE {
            let (member, epoch) = (body.maybe_text()?, u32::try_from(body.i32()?).ok());
            member.filter(|member| !member.is_empty()).zip(epoch)
        } else {
            None
        };
        let topics = body.maybe_list(Reader::numbered)?;
        Ok(Asked { group, by, topics })
    };
    let asked = if version >= SEVERAL_SINCE {
        body.list(|body| {
            let asked = one(body)?;
            body.tags()?;
            Ok(asked)
        })?
    } else {
        vec![one(body)?]
    };
    // Whoever takes a partition over must not begin where an open transaction of the last owner's is about to move the mark from.
    let stable = version >= 7 && body.bool()?;
    body.tags()?;
    let found = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        asked.iter().map(|asked| asked.found(machine, &rights, stable)).collect::<Vec<_>>()
    });
    let found = found.await.unwrap_or_else(|code| {
        asked.iter().map(|asked| (asked.failed(error::of_group(code)), error::of_group(code))).collect()
    });
    if version >= 3 {
        out.i32(0);
    }
    let topics = |out: &mut Writer, topics: &Topics| {
        out.list(topics, |out, (name, partitions)| {
            out.text(name);
            out.list(partitions, |out, found| found.put(version, out));
            out.tags();
        });
    };
    if version >= SEVERAL_SINCE {
        out.list(asked.iter().zip(&found), |out, (asked, (found, code))| {
            out.text(&asked.group);
            topics(out, found);
            out.i16(code.number());
            out.tags();
        });
    } else if let Some((found, code)) = found.first() {
        topics(out, found);
        if version >= 2 {
            out.i16(code.number());
        }
    }
    out.tags();
    Ok(())
}

impl Asked {
    fn found(&self, machine: &Machine, rights: &Rights, stable: bool) -> (Topics, Code) {
        if let Err(code) = may(rights, READ, Verbs::READ, &self.group) {
            return (self.failed(code), code);
        }
        let group = GroupName::from(self.group.as_str());
        let fetched = |(member, epoch): &(String, u32)| {
            machine.may_fetch_offsets(&group, &member.as_str().into(), *epoch)
        };
        if let Some(Err(fault)) = self.by.as_ref().map(fetched) {
            return (Topics::new(), error::fault(fault));
        }
        let Some(topics) = &self.topics else { return (all(machine, rights, &group, stable), Code::None) };
        let found = topics.iter().map(|(name, partitions)| {
            let stream = stream_of(name);
            let may = stream.as_ref().is_none_or(|stream| may_read(rights, READ, stream));
            let one = |number: &i32| {
                if !may {
                    return Found { number: *number, mark: None, code: Code::TopicAuthorizationFailed };
                }
                let place = stream.as_ref().zip(u32::try_from(*number).ok());
                let mark =
                    place.and_then(|(stream, at)| machine.committed_offset(&group, stream, at).cloned());
                let moves = place.is_some_and(|(stream, at)| machine.is_moving(&group, stream, at));
                Found::new(*number, mark, stable && moves)
            };
            let each = partitions.iter().map(one);
            (name.clone(), each.collect())
        });
        (found.collect(), Code::None)
    }

    fn failed(&self, code: Code) -> Topics {
        let each = self.topics.iter().flatten().map(|(name, partitions)| {
            let one = |number: &i32| Found { number: *number, mark: None, code };
            (name.clone(), partitions.iter().map(one).collect())
        });
        each.collect()
    }
}

/// All marks of a group that may be read.
fn all(machine: &Machine, rights: &Rights, group: &GroupName, stable: bool) -> Topics {
    let mut topics: Topics = Vec::new();
    let is_told = |stream: &Key| topic_of(stream).is_some() && may_read(rights, READ, stream);
    for (stream, partition, mark) in machine.committed_offsets(group) {
        if !is_told(&stream) {
            continue;
        }
        let name = topic_of(&stream).unwrap_or_default();
        if topics.last().is_none_or(|(last, _)| last != name) {
            topics.push((name.to_owned(), Vec::new()));
        }
        let moves = stable && machine.is_moving(group, &stream, partition);
        let found = Found::new(partition as i32, Some(mark), moves);
        if let Some((_, each)) = topics.last_mut() {
            each.push(found);
        }
    }
    topics
}

impl Found {
    /// How far the group is, unless that is about to move for somebody who would wait for it.
    fn new(number: i32, mark: Option<CommittedOffset>, moves: bool) -> Self {
        if moves {
            return Self { number, mark: None, code: Code::UnstableOffsetCommit };
        }
        Self { number, mark, code: Code::None }
    }

    fn put(&self, version: i16, out: &mut Writer) {
        out.i32(self.number);
        out.i64(self.mark.as_ref().map_or(-1, |mark| mark.offset.0 as i64));
        if version >= 5 {
            let epoch = self.mark.as_ref().and_then(|mark| mark.epoch);
            out.i32(epoch.map_or(-1, |epoch| epoch as i32));
        }
        out.text(&self.mark.as_ref().map_or(String::new(), |mark| text(&mark.metadata)));
        out.i16(self.code.number());
        out.tags();
    }
}

/// OffsetDelete. A classic group with members keeps all its marks, one that the server divides those of topics that somebody wants.
pub(super) async fn delete(
    gateway: &Gateway,
    who: &Who,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let group = body.text()?;
    let topics = body.list(|body| Ok((body.text()?, body.list(Reader::i32)?)))?;
    let allowed = gateway.handle.allowed(|machine| {
        let rights = machine.rights(&who.principal);
        may(&rights, DESTROY, Verbs::WRITE, &group)?;
        let topic = |name: &str| {
            let stream = stream_of(name).filter(|stream| machine.stream(stream).is_some());
            let stream = stream.ok_or(Code::UnknownTopicOrPartition)?;
            if !may_read(&rights, READ, &stream) {
                return Err(Code::TopicAuthorizationFailed);
            }
            // Decided again in the log: this is to tell which topic it is.
            let wanted = machine.is_wanted(&GroupName::from(group.as_str()), &stream);
            if wanted { Err(Code::GroupSubscribedToTopic) } else { Ok(stream) }
        };
        Ok(topics.iter().map(|(name, _)| topic(name)).collect::<Vec<_>>())
    });
    let allowed = allowed.map_err(|why| error::runtime(&why)).and_then(|allowed| allowed);
    let code = match &allowed {
        Err(code) => error::of_group(*code),
        Ok(streams) => {
            let named = streams.iter().zip(&topics).filter_map(|(stream, topic)| {
                let stream = stream.as_ref().ok()?;
                Some(topic.1.iter().filter_map(|number| Some((stream.clone(), u32::try_from(*number).ok()?))))
            });
            let change =
                MemberChange::Forget { group: group.as_str().into(), partitions: named.flatten().collect() };
            let ops = vec![Op::Member { change: Box::new(change) }];
            gateway.commit(who, Commit::of(ops)).await.err().map_or(Code::None, error::of_group)
        }
    };
    out.i16(code.number());
    out.i32(0);
    let told = if code == Code::None { allowed.unwrap_or_default() } else { Vec::new() };
    out.list(topics.iter().zip(told).collect::<Vec<_>>(), |out, ((name, partitions), stream)| {
        out.text(name);
        out.list(partitions, |out, number| {
            out.i32(*number);
            out.i16(stream.as_ref().map_or_else(|code| *code, |_| Code::None).number());
        });
    });
    Ok(())
}
