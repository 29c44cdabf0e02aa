//! JoinGroup, SyncGroup, Heartbeat and LeaveGroup: who is in a group, and what each was given.
//!
//! What is decided is decided in the log. Here somebody waits: a join for its generation, a sync for its leader's word, both told by the state when
//! it changes. Meanwhile the node that waits for a client keeps its session alive, as the client cannot.
//!
//! Invariant: nothing of a group is kept here; any node answers any request of it.

use super::committed::READ;
use crate::error::{self, Code};
use crate::gateway::{Gateway, Who};
use crate::wire::{Malformed, Reader, Writer};
use quorate_machine::{Agreed, Machine, Rights, Standing};
use quorate_node::Interest;
use quorate_types::{
    Blob, Command, CommandBody, Commit, GroupFault, GroupName, Join, Keyspace, LeaseId, MemberAnswer,
    MemberChange, Membership, Millis, Op, OpResult, Outcome, Verbs,
};
use std::time::Duration;

/// The longest session that is taken, as Kafka's default is.
const SESSION_MS_MAX: i32 = 1_800_000;
/// How much longer than a group takes anybody is waited for.
const GRACE: Duration = Duration::from_secs(10);
/// How often a session is kept alive in its time to live, while its client waits.
const KEPT_ALIVE: u64 = 3;
/// The first version in which a new member is given its id before it joins (KIP-394).
const NAMED_SINCE: i16 = 4;

/// Who speaks, as Kafka says it.
pub(super) fn speaker(generation: i32, member: &str, instance: Option<&str>) -> Membership {
    Membership {
        generation: u32::try_from(generation).ok(),
        member: member.into(),
        instance: instance.map(Blob::from),
    }
}

/// What clients said in texts, as a text.
pub(super) fn text(blob: &Blob) -> String {
    String::from_utf8_lossy(blob).into_owned()
}

/// Whether something may be done to a group.
pub(super) fn may(rights: &Rights, command: &'static str, verbs: Verbs, group: &str) -> Result<(), Code> {
    let allowed = rights.alive().is_ok()
        && rights.command(command).is_ok()
        && rights.name(verbs, Keyspace::DEFAULT, &group.into()).is_ok();
    if group.is_empty() {
        return Err(Code::InvalidGroupId);
    }
    if allowed { Ok(()) } else { Err(Code::GroupAuthorizationFailed) }
}

/// Makes a change of a group.
pub(super) async fn change(gateway: &Gateway, who: &Who, change: MemberChange) -> Result<MemberAnswer, Code> {
    let ops = vec![Op::Member { change: Box::new(change) }];
    let committed = gateway.commit(who, Commit::of(ops)).await.map_err(error::of_group)?;
    match committed.results.into_iter().next() {
        Some(OpResult::Member { answer }) => Ok(answer),
        _ => Err(Code::UnknownServerError),
    }
}

/// Looks at the state whenever the group changes, until there is something; keeps the member's session alive meanwhile.
async fn wait<R>(
    gateway: &Gateway,
    group: &GroupName,
    member: &Blob,
    longest: Duration,
    mut look: impl FnMut(&Machine) -> Option<R>,
) -> Result<Option<R>, Code> {
    let runtime = |why| error::of_group(error::runtime(&why));
    let session = |machine: &Machine| machine.member_session(group, member);
    let deadline = tokio::time::Instant::now() + longest;
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let found = gateway.handle.allowed(session).map_err(runtime)?;
        let rest = found.map_or(GRACE, |(_, ttl)| Duration::from_millis(ttl.0 / KEPT_ALIVE));
        let waited = tokio::select! {
            waited = gateway.handle.wait_here(Interest::Members(group.clone()), left.min(rest), &mut look) => {
                waited.map_err(runtime)?
            }
            () = gateway.stopped() => return Err(Code::NotCoordinator),
        };
        if waited.is_some() || left <= rest {
            return Ok(waited);
        }
        if let Some((lease, _)) = gateway.handle.allowed(session).map_err(runtime)? {
            // Should it fail, the session ends if nothing else succeeds before; the state tells.
            let _ = keep_alive(gateway, lease).await;
        }
    }
}

/// Renews a member's session; whether it was still there. Who may speak for the group was asked before: the lease itself is the server's own.
pub(super) async fn keep_alive(gateway: &Gateway, lease: LeaseId) -> Result<bool, Code> {
    let body = CommandBody::KeepAlive { leases: vec![lease] };
    let command = Command::new("server".into(), body);
    match tokio::time::timeout(gateway.config.command_timeout, gateway.handle.command(command)).await {
        Ok(Ok(Outcome::Alive { leases })) => Ok(leases.iter().all(|(_, left)| left.is_some())),
        Ok(Ok(_)) => Err(Code::UnknownServerError),
        Ok(Err(why)) => Err(error::of_group(error::runtime(&why))),
        Err(_) => Err(Code::CoordinatorNotAvailable),
    }
}

/// What a member is told that joined.
struct Joined {
    code: Code,
    member: String,
    agreed: Option<Agreed>,
}

pub(super) async fn join(
    gateway: &Gateway,
    who: &Who,
    host: &str,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let (group, session) = (body.text()?, body.i32()?);
    let rebalance = if version >= 1 { body.i32()? } else { session };
    let member = body.text()?;
    let instance = if version >= 5 { body.maybe_text()? } else { None };
    let kind = body.text()?;
    let protocols = body.list(|body| {
        let name = body.text()?;
        let said = body.maybe_bytes()?.unwrap_or_default();
        body.tags()?;
        Ok((Blob::from(name.as_str()), Blob::from(&said[..])))
    })?;
    body.tags()?;
    let millis = |asked: i32| Millis(u64::try_from(asked).unwrap_or(0));
    let join = Join {
        group: group.as_str().into(),
        member: member.as_str().into(),
        instance: instance.as_deref().map(Blob::from),
        client: if who.name.is_empty() { "client".into() } else { who.name.clone() },
        host: host.into(),
        session: millis(session),
        rebalance: Millis(millis(rebalance).0.max(1)),
        kind: kind.as_str().into(),
        protocols,
        named_first: version >= NAMED_SINCE,
    };
    let least = i32::try_from(gateway.limits.lease_ttl_ms_min).unwrap_or(i32::MAX);
    let joined = if group.is_empty() {
        Err(Code::InvalidGroupId)
    } else if !(least..=SESSION_MS_MAX).contains(&session) {
        Err(Code::InvalidSessionTimeout)
    } else {
        joined(gateway, who, join).await
    };
    let joined = joined.unwrap_or_else(|code| Joined { code, member, agreed: None });
    put_joined(&joined, version, out);
    Ok(())
}

async fn joined(gateway: &Gateway, who: &Who, join: Join) -> Result<Joined, Code> {
    let (group, instance) = (join.group.clone(), join.instance.clone());
    let longest = Duration::from_millis(join.rebalance.0.saturating_add(join.session.0)) + GRACE;
    let (member, instead) = match change(gateway, who, MemberChange::Join { join: Box::new(join) }).await? {
        MemberAnswer::Named { member } => {
            return Ok(Joined { code: Code::MemberIdRequired, member: text(&member), agreed: None });
        }
        MemberAnswer::Joined { member, leader } => (member, leader),
        _ => return Err(Code::UnknownServerError),
    };
    let by = Membership { generation: None, member: member.clone(), instance };
    let look = |machine: &Machine| match machine.standing(&group, &by) {
        Ok(Standing::Waits) => None,
        Ok(Standing::In(agreed)) => Some(Ok(*agreed)),
        Err(fault) => Some(Err(fault)),
    };
    match wait(gateway, &group, &member, longest, look).await? {
        Some(Ok(mut agreed)) => {
            if let Some(instead) = instead {
                (agreed.leader, agreed.members) = (instead, Vec::new());
            }
            Ok(Joined { code: Code::None, member: text(&member), agreed: Some(agreed) })
        }
        Some(Err(fault)) => Err(error::fault(fault)),
        None => Err(Code::RebalanceInProgress),
    }
}

fn put_joined(joined: &Joined, version: i16, out: &mut Writer) {
    if version >= 2 {
        out.i32(0);
    }
    let agreed = joined.agreed.as_ref();
    out.i16(joined.code.number());
    out.i32(agreed.map_or(-1, |agreed| agreed.generation as i32));
    if version >= 7 {
        out.maybe_text(agreed.map(|agreed| text(&agreed.kind)).as_deref());
        out.maybe_text(agreed.map(|agreed| text(&agreed.protocol)).as_deref());
    } else {
        out.text(&agreed.map_or(String::new(), |agreed| text(&agreed.protocol)));
    }
    out.text(&agreed.map_or(String::new(), |agreed| text(&agreed.leader)));
    out.text(&joined.member);
    let members = agreed.map_or(&[][..], |agreed| &agreed.members);
    out.list(members, |out, (member, instance, said)| {
        out.text(&text(member));
        if version >= 5 {
            out.maybe_text(instance.as_ref().map(text).as_deref());
        }
        out.maybe_bytes(Some(said));
        out.tags();
    });
    out.tags();
}

pub(super) async fn sync(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let (group, generation, member) = (body.text()?, body.i32()?, body.text()?);
    let instance = if version >= 3 { body.maybe_text()? } else { None };
    let agreed = if version >= 5 { (body.maybe_text()?, body.maybe_text()?) } else { (None, None) };
    let given = body.list(|body| {
        let member = body.text()?;
        let given = body.maybe_bytes()?.unwrap_or_default();
        body.tags()?;
        Ok((Blob::from(member.as_str()), Blob::from(&given[..])))
    })?;
    body.tags()?;
    let agreed =
        agreed.0.zip(agreed.1).map(|(kind, protocol)| (kind.as_str().into(), protocol.as_str().into()));
    let by = speaker(generation, &member, instance.as_deref());
    let found = synced(gateway, who, group.as_str().into(), by, agreed, given).await;
    if version >= 1 {
        out.i32(0);
    }
    out.i16(Code::of(&found).number());
    let found = found.ok();
    if version >= 5 {
        out.maybe_text(found.as_ref().map(|(_, kind, _)| text(kind)).as_deref());
        out.maybe_text(found.as_ref().map(|(_, _, protocol)| text(protocol)).as_deref());
    }
    out.maybe_bytes(Some(found.as_ref().map_or(&[][..], |(given, ..)| given)));
    out.tags();
    Ok(())
}

/// What was given, the kind of group and its protocol.
async fn synced(
    gateway: &Gateway,
    who: &Who,
    group: GroupName,
    by: Membership,
    agreed: Option<(Blob, Blob)>,
    given: Vec<(Blob, Blob)>,
) -> Result<(Blob, Blob, Blob), Code> {
    if group.0.is_empty() {
        return Err(Code::InvalidGroupId);
    }
    let asked = MemberChange::Sync { group: group.clone(), by: by.clone(), agreed, given };
    change(gateway, who, asked).await?;
    let look = |machine: &Machine| match machine.given(&group, &by) {
        Ok(None) => None,
        Ok(Some(given)) => Some(Ok(given)),
        Err(fault) => Some(Err(fault)),
    };
    // The group puts out a leader that does not give; this only bounds the wait.
    let longest = Duration::from_millis(SESSION_MS_MAX as u64) + GRACE;
    match wait(gateway, &group, &by.member, longest, look).await? {
        Some(found) => found.map_err(error::fault),
        None => Err(Code::RebalanceInProgress),
    }
}

pub(super) async fn heartbeat(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let (group, generation, member) = (body.text()?, body.i32()?, body.text()?);
    let instance = if version >= 3 { body.maybe_text()? } else { None };
    body.tags()?;
    let by = speaker(generation, &member, instance.as_deref());
    let code = beat(gateway, who, &group, &by).await.err().unwrap_or(Code::None);
    if version >= 1 {
        out.i32(0);
    }
    out.i16(code.number());
    out.tags();
    Ok(())
}

async fn beat(gateway: &Gateway, who: &Who, group: &str, by: &Membership) -> Result<(), Code> {
    let name = GroupName::from(group);
    let look = |machine: &Machine| {
        may(&machine.rights(&who.principal), READ, Verbs::WRITE, group)?;
        Ok::<_, Code>(machine.session_of(&name, by))
    };
    let here = gateway.handle.allowed(look).map_err(|why| error::of_group(error::runtime(&why)))??;
    let lease = match here {
        Ok((lease, _)) => lease,
        // This node may be behind: what nobody has heard of here may be so elsewhere.
        Err(_) => gateway.read(look).await.map_err(error::of_group)??.map_err(error::fault)?.0,
    };
    if !keep_alive(gateway, lease).await? {
        return Err(Code::UnknownMemberId);
    }
    // What is applied here now is no older than the renewal.
    let now = gateway.handle.allowed(look).map_err(|why| error::of_group(error::runtime(&why)))??;
    match now {
        Ok((_, false)) => Ok(()),
        Ok((_, true)) => Err(error::fault(GroupFault::Rebalancing)),
        Err(fault) => Err(error::fault(fault)),
    }
}

/// The first version in which several members leave at once.
const SEVERAL_SINCE: i16 = 3;

pub(super) async fn leave(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let group = body.text()?;
    let members = if version < SEVERAL_SINCE {
        vec![(body.text()?, None)]
    } else {
        body.list(|body| {
            let member = (body.text()?, body.maybe_text()?);
            if version >= 5 {
                body.maybe_text()?;
            }
            body.tags()?;
            Ok(member)
        })?
    };
    body.tags()?;
    let leaving = members
        .iter()
        .map(|(member, instance)| (Blob::from(member.as_str()), instance.as_deref().map(Blob::from)));
    let leaving = MemberChange::Leave { group: group.as_str().into(), members: leaving.collect() };
    let left = match change(gateway, who, leaving).await {
        _ if group.is_empty() => Err(Code::InvalidGroupId),
        Ok(MemberAnswer::Left { faults }) => {
            Ok(faults.into_iter().map(|fault| fault.map_or(Code::None, error::fault)).collect::<Vec<_>>())
        }
        Ok(_) => Err(Code::UnknownServerError),
        Err(code) => Err(code),
    };
    if version >= 1 {
        out.i32(0);
    }
    let whole = match &left {
        Err(code) => *code,
        // Before there were several, the one's was the answer.
        Ok(codes) if version < SEVERAL_SINCE => codes.first().copied().unwrap_or(Code::UnknownServerError),
        Ok(_) => Code::None,
    };
    out.i16(whole.number());
    if version >= SEVERAL_SINCE {
        let codes = left.unwrap_or_default();
        let told = members.iter().zip(codes).collect::<Vec<_>>();
        out.list(told, |out, ((member, instance), code)| {
            out.text(member);
            out.maybe_text(instance.as_deref());
            out.i16(code.number());
            out.tags();
        });
    }
    out.tags();
    Ok(())
}
