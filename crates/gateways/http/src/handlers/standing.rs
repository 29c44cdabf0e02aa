//! What `why` tells of a transactional id and of a group beside its history: what it is now, since when, by which entry, and what it waits for.
//!
//! The history alone would not tell: a transaction that is dropped for its time, and a member whose session ends, leave no command in the log.
//!
//! Called by: `server::why`.

use crate::json::units::{duration_text, time_text};
use crate::json::write::{Object, Values, quoted};
use quorate_machine::{
    ConsumerView, ConsumersView, Expected, Machine, MemberView, MembersView, Phase, Progress, Stage,
    TransactionView,
};
use quorate_runtime::{WhyRecord, WhyVerdict, WhyWhat};
use quorate_types::{Assignor, Blob, CommandBody, GroupName, Op, Produce, Subject};

/// A subject as it is now.
pub(crate) enum Standing {
    Transaction(TransactionView),
    Members(MembersView, Option<Expected>),
    Consumers(ConsumersView),
}

impl Standing {
    /// How a subject stands; nothing for one that is not there, and for those of which the history tells all.
    pub(crate) fn of(machine: &Machine, subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Transaction { name } => machine.transaction(name).map(Self::Transaction),
            Subject::Group { group } => Self::of_group(machine, group),
            _ => None,
        }
    }

    fn of_group(machine: &Machine, group: &GroupName) -> Option<Self> {
        if let Some(view) = machine.consumers_group(group) {
            return Some(Self::Consumers(view));
        }
        machine.member_group(group).map(|view| Self::Members(view, machine.member_group_expects(group)))
    }

    /// As JSON. `records` is what the log tells of it, oldest first.
    pub(crate) fn shown(&self, records: &[WhyRecord], values: Values) -> String {
        match self {
            Self::Transaction(view) => transaction(view, records),
            Self::Members(view, expected) => members(view, expected.as_ref(), records, values),
            Self::Consumers(view) => consumers(view, records, values),
        }
    }
}

/// The operations of a record that took effect.
fn done(record: &WhyRecord) -> &[Op] {
    match (&record.what, &record.verdict) {
        (WhyWhat::Command(body), WhyVerdict::Done(_)) => match &**body {
            CommandBody::Commit { commit } => &commit.then,
            _ => &[],
        },
        _ => &[],
    }
}

fn transaction(view: &TransactionView, records: &[WhyRecord]) -> String {
    let mut reached = None;
    for record in records {
        for op in done(record) {
            let Op::Produce { produce } = op else { continue };
            reached = match (&**produce, reached) {
                (Produce::TakeOver { .. }, _) => Some((Stage::Empty, record.index)),
                (Produce::End { commits: true, .. }, _) => Some((Stage::Committed, record.index)),
                (Produce::End { .. }, _) => Some((Stage::Aborted, record.index)),
                (Produce::Enlist { .. }, Some((Stage::Open, _))) => reached,
                (Produce::Enlist { .. }, _) => Some((Stage::Open, record.index)),
                _ => reached,
            };
        }
    }
    let entry = reached.filter(|(stage, _)| *stage == view.stage).map(|(_, index)| index);
    let stage = match view.stage {
        Stage::Empty => "empty",
        Stage::Open => "open",
        Stage::Committed => "committed",
        Stage::Aborted => "dropped",
    };
    let owner = format!("producer {} in its life {}", view.producer, view.epoch);
    let waits = (view.stage == Stage::Open).then(|| {
        let left = quorate_types::Millis(view.timeout.0.saturating_sub(view.age.0));
        format!("{owner} is to end it, or the next owner of the name; dropped in {}", duration_text(left))
    });
    let places = view.parts.iter().map(|(stream, number)| quoted(&format!("{stream}/{number}")));
    Object::new()
        .text("state", stage)
        .text("since", &time_text(view.since))
        .text("for", &duration_text(view.age))
        .when(entry.is_some(), |o| o.plain("entry", entry.unwrap_or_default()))
        // What no command did happened by itself.
        .when(view.stage == Stage::Aborted && entry.is_none(), |o| o.text("by", "its time was up"))
        .plain("producer", view.producer.0)
        .plain("epoch", u64::from(view.epoch))
        .when(view.timeout.0 > 0, |o| o.text("timeout", &duration_text(view.timeout)))
        .list("partitions", places)
        .plain("batches", view.batches)
        .when(waits.is_some(), |o| o.text("waits_for", waits.as_deref().unwrap_or_default()))
        .done()
}

/// The newest entry by which somebody changed a group, not only how far it is.
fn changed(records: &[WhyRecord]) -> Option<quorate_types::LogIndex> {
    let changes = |record: &&WhyRecord| done(record).iter().any(|op| matches!(op, Op::Member { .. }));
    records.iter().rev().find(changes).map(|record| record.index)
}

/// What is told of a member of either kind of group: its id, its instance if it is a static one, its client and where that is.
fn member((id, instance): (&Blob, Option<&Blob>), (client, host): (&Blob, &Blob), values: Values) -> Object {
    Object::new()
        .bytes("member", id, values)
        .when(instance.is_some(), |o| o.bytes("instance", instance.unwrap_or(&Blob::EMPTY), values))
        .bytes("client", client, values)
        .bytes("host", host, values)
}

fn members(view: &MembersView, expected: Option<&Expected>, records: &[WhyRecord], values: Values) -> String {
    let state = match view.phase {
        Phase::Empty => "empty",
        Phase::Joining { .. } => "joining",
        Phase::Assigning => "assigning",
        Phase::Stable => "stable",
    };
    let entry = changed(records);
    let left = expected.and_then(|expected| expected.left).map(duration_text);
    let within =
        left.map_or(String::new(), |left| format!("; it goes on without whoever is missing in {left}"));
    let missing = expected.map_or(0, |expected| expected.missing.len());
    let waits = match view.phase {
        Phase::Joining { first: true } => Some(format!("more members to come{within}")),
        Phase::Joining { first: false } => Some(format!("{missing} members to come back{within}")),
        Phase::Assigning => Some(format!("its leader to say who reads what{within}")),
        Phase::Empty | Phase::Stable => None,
    };
    let one =
        |of: &MemberView| member((&of.member, of.instance.as_ref()), (&of.client, &of.host), values).done();
    let names = expected.map_or(&[][..], |expected| &expected.missing);
    Object::new()
        .text("state", state)
        .when(expected.is_some(), |o| {
            let (since, age) = expected.map_or_else(Default::default, |of| (of.since, of.age));
            o.text("since", &time_text(since)).text("for", &duration_text(age))
        })
        .when(entry.is_some(), |o| o.plain("entry", entry.unwrap_or_default()))
        .text("protocol", "classic")
        .plain("generation", u64::from(view.generation))
        .list("members", view.members.iter().map(one))
        .when(waits.is_some(), |o| {
            let missing = names.iter().map(|name| Object::new().bytes("member", name, values).done());
            o.text("waits_for", waits.as_deref().unwrap_or_default()).list("missing", missing)
        })
        .done()
}

fn consumers(view: &ConsumersView, records: &[WhyRecord], values: Values) -> String {
    let state = match view.progress {
        Progress::Empty => "empty",
        Progress::Assigning => "assigning",
        Progress::Reconciling => "reconciling",
        Progress::Stable => "stable",
    };
    let entry = changed(records);
    let held_up =
        |member: &&ConsumerView| !member.away && (member.epoch != view.epoch || !member.giving_up.is_empty());
    let missing: Vec<&ConsumerView> = view.members.iter().filter(held_up).collect();
    let waits = match view.progress {
        Progress::Empty | Progress::Stable => None,
        Progress::Assigning => Some("a heartbeat, with which the partitions are divided"),
        Progress::Reconciling => {
            Some("members to let go of partitions, or to be told what they have, with their next heartbeats")
        }
    };
    let one = |of: &ConsumerView| {
        member((&of.member, of.instance.as_ref()), (&of.client, &of.host), values)
            .plain("epoch", u64::from(of.epoch))
            .plain("away", of.away)
            .done()
    };
    let assignor = match view.assignor {
        Assignor::Uniform => "uniform",
        Assignor::Range => "range",
    };
    Object::new()
        .text("state", state)
        .when(entry.is_some(), |o| o.plain("entry", entry.unwrap_or_default()))
        .text("protocol", "consumer")
        .plain("epoch", u64::from(view.epoch))
        .plain("target_epoch", u64::from(view.target_epoch))
        .text("assignor", assignor)
        .list("members", view.members.iter().map(one))
        .when(waits.is_some(), |o| {
            let missing = missing.iter().map(|one| Object::new().bytes("member", &one.member, values).done());
            o.text("waits_for", waits.unwrap_or_default()).list("missing", missing)
        })
        .done()
}
