//! DescribeGroups, ListGroups and DeleteGroups: groups, as people look after them.

use super::cluster::OPERATIONS_UNTOLD;
use super::committed::{DESTROY, READ};
use super::consumer_groups;
use super::members::{may, text};
use crate::error::{self, Code};
use crate::gateway::{Gateway, Who};
use crate::wire::{Malformed, Reader, Writer};
use quorate_machine::{MembersView, Phase};
use quorate_types::{Commit, GroupName, MemberChange, Mode, Op, OpResult, Verbs};

/// What clients call the protocol of groups of consumers, of either kind.
const KIND: &str = "consumer";

/// What Kafka calls a phase.
fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Empty => "Empty",
        Phase::Joining { .. } => "PreparingRebalance",
        Phase::Assigning => "CompletingRebalance",
        Phase::Stable => "Stable",
    }
}

pub(super) async fn describe(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let names = body.list(Reader::text)?;
    if version >= 3 {
        body.bool()?;
    }
    body.tags()?;
    let found = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        let one = |name: &String| {
            may(&rights, READ, Verbs::READ, name)?;
            Ok(machine.member_group(&GroupName::from(name.as_str())))
        };
        names.iter().map(one).collect::<Vec<Result<_, Code>>>()
    });
    let found = found.await.unwrap_or_else(|code| names.iter().map(|_| Err(error::of_group(code))).collect());
    if version >= 1 {
        out.i32(0);
    }
    out.list(names.iter().zip(&found), |out, (name, found)| {
        let view = found.as_ref().ok().and_then(Option::as_ref);
        out.i16(Code::of(found).number());
        out.text(name);
        // One that is not there is dead, which is no error.
        let state = view.map_or(if found.is_ok() { "Dead" } else { "" }, |view| state(view.phase));
        out.text(state);
        put(view, version, out);
        if version >= 3 {
            out.i32(OPERATIONS_UNTOLD);
        }
        out.tags();
    });
    out.tags();
    Ok(())
}

fn put(view: Option<&MembersView>, version: i16, out: &mut Writer) {
    out.text(&view.map_or(String::new(), |view| text(&view.kind)));
    out.text(&view.map_or(String::new(), |view| text(&view.protocol)));
    out.list(view.map_or(&[][..], |view| &view.members), |out, member| {
        out.text(&text(&member.member));
        if version >= 4 {
            out.maybe_text(member.instance.as_ref().map(text).as_deref());
        }
        out.text(&text(&member.client));
        out.text(&text(&member.host));
        out.maybe_bytes(Some(&member.metadata));
        out.maybe_bytes(Some(&member.given));
        out.tags();
    });
}

pub(super) async fn list(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let states = if version >= 4 { body.list(Reader::text)? } else { Vec::new() };
    let types = if version >= 5 { body.list(Reader::text)? } else { Vec::new() };
    body.tags()?;
    let found = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        let members = machine.member_groups().into_iter();
        let members = members.map(|(name, phase, kind)| (name, state(phase), text(&kind), "classic"));
        let consumers = machine.consumers_groups().into_iter();
        let consumers = consumers
            .map(|(name, progress)| (name, consumer_groups::state(progress), KIND.to_owned(), "consumer"));
        let mut all: Vec<_> = members.chain(consumers).collect();
        all.retain(|(name, state, _, kind)| {
            let is = |wanted: &[String], found: &str| {
                wanted.is_empty() || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(found))
            };
            is(&states, state) && is(&types, kind) && may(&rights, READ, Verbs::READ, &text(&name.0)).is_ok()
        });
        all.sort_unstable();
        all
    });
    let found = found.await.map_err(error::of_group);
    if version >= 1 {
        out.i32(0);
    }
    out.i16(Code::of(&found).number());
    out.list(found.unwrap_or_default(), |out, (name, state, protocol, kind)| {
        out.text(&text(&name.0));
        out.text(&protocol);
        if version >= 4 {
            out.text(state);
        }
        if version >= 5 {
            out.text(kind);
        }
        out.tags();
    });
    out.tags();
    Ok(())
}

pub(super) async fn delete(
    gateway: &Gateway,
    who: &Who,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let names = body.list(Reader::text)?;
    body.tags()?;
    let allowed = gateway.handle.allowed(|machine| {
        let rights = machine.rights(&who.principal);
        names.iter().map(|name| may(&rights, DESTROY, Verbs::WRITE, name)).collect::<Vec<_>>()
    });
    let allowed = allowed.unwrap_or_else(|why| vec![Err(error::of_group(error::runtime(&why))); names.len()]);
    let named = names.iter().zip(&allowed).filter(|(_, allowed)| allowed.is_ok());
    let ops: Vec<Op> = named
        .map(|(name, _)| MemberChange::Delete { group: name.as_str().into() })
        .map(|change| Op::Member { change: Box::new(change) })
        .collect();
    let count = ops.len();
    let codes = if count == 0 {
        Vec::new()
    } else {
        match gateway.commit(who, Commit { mode: Mode::Each, ..Commit::of(ops) }).await {
            Ok(committed) => committed
                .results
                .iter()
                .map(|result| match result {
                    OpResult::Failed { error } => error::of_group(error::op(error)),
                    _ => Code::None,
                })
                .collect(),
            Err(code) => vec![error::of_group(code); count],
        }
    };
    let mut codes = codes.into_iter();
    out.i32(0);
    out.list(names.iter().zip(&allowed), |out, (name, allowed)| {
        let code = match allowed {
            Ok(()) => codes.next().unwrap_or(Code::UnknownServerError),
            Err(code) => *code,
        };
        out.text(name);
        out.i16(code.number());
        out.tags();
    });
    out.tags();
    Ok(())
}
