//! What a group that the server divides is, as gateways show it.
//!
//! Called by: `reads` of gateways.

use super::{Id, Member, shares};
use crate::Machine;
use crate::streams::StreamId;
use quorate_types::{Assignor, Blob, GroupFault, GroupName, Key, Shares};

/// How far a group is on its way to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nobody is in.
    Empty,
    /// The target is not computed yet: the next beat does it.
    Assigning,
    /// Not everybody has its target.
    Reconciling,
    /// Everybody has it.
    Stable,
}

/// A group as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumersView {
    /// How far it is.
    pub progress: Progress,
    /// Its epoch.
    pub epoch: u32,
    /// The epoch for which the targets were computed.
    pub target_epoch: u32,
    /// By which.
    pub assignor: Assignor,
    /// Its members, in the order of their ids.
    pub members: Vec<ConsumerView>,
}

/// A member as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerView {
    /// Its id.
    pub member: Blob,
    /// The name that it keeps over restarts.
    pub instance: Option<Blob>,
    /// Where it stands.
    pub rack: Option<Blob>,
    /// What the client calls itself.
    pub client: Blob,
    /// Where it comes from.
    pub host: Blob,
    /// Its epoch.
    pub epoch: u32,
    /// It comes back under its name.
    pub away: bool,
    /// Streams that it names.
    pub names: Vec<Blob>,
    /// Its expression; empty for none.
    pub regex: Blob,
    /// What it has; by numbers of streams.
    pub has: Shares,
    /// What it is to let go of.
    pub giving_up: Shares,
    /// What it is to have.
    pub target: Shares,
}

impl Machine {
    /// A group that the server divides.
    #[must_use]
    pub fn consumers_group(&self, name: &GroupName) -> Option<ConsumersView> {
        let group = self.consumers.groups.get(name)?;
        let view = |(id, member): (&Id, &Member)| ConsumerView {
            member: id.member.clone(),
            instance: member.instance.clone(),
            rack: member.rack.clone(),
            client: member.client.clone(),
            host: member.host.clone(),
            epoch: member.epoch,
            away: member.away,
            names: member.names.clone(),
            regex: member.regex.clone(),
            has: shares(&member.has),
            giving_up: shares(&member.giving_up),
            target: shares(&member.target),
        };
        Some(ConsumersView {
            progress: self.progress(name)?,
            epoch: group.epoch,
            target_epoch: group.target_epoch,
            assignor: group.assignor,
            members: self.consumers.of(group.number).map(view).collect(),
        })
    }

    fn progress(&self, name: &GroupName) -> Option<Progress> {
        let group = self.consumers.groups.get(name)?;
        let there =
            |member: &Member| member.epoch == group.epoch && !member.waits && member.giving_up.is_empty();
        Some(if self.consumers.is_empty(group.number) {
            Progress::Empty
        } else if group.epoch != group.target_epoch {
            Progress::Assigning
        } else if self.consumers.of(group.number).all(|(_, member)| member.away || there(member)) {
            Progress::Stable
        } else {
            Progress::Reconciling
        })
    }

    /// All groups that the server divides, in the order of their names.
    #[must_use]
    pub fn consumers_groups(&self) -> Vec<(GroupName, Progress)> {
        let names = self.consumers.groups.iter().map(|(name, _)| name);
        names.filter_map(|name| Some((name.clone(), self.progress(name)?))).collect()
    }

    /// The expression of a member, and what it matched when it last said so.
    #[must_use]
    pub fn consumer_regex(&self, group: &GroupName, member: &Blob) -> Option<(Blob, Vec<Blob>)> {
        let (_, _, row) = self.consumers.known(group, member, None).ok()?;
        (!row.regex.is_empty()).then(|| (row.regex.clone(), row.matched.clone()))
    }

    /// Whether a member may be told how far its group is.
    ///
    /// # Errors
    /// [`GroupFault`]: it is out, or in another epoch.
    pub fn may_fetch_offsets(&self, group: &GroupName, member: &Blob, epoch: u32) -> Result<(), GroupFault> {
        self.consumers.may_fetch(group, member, epoch)
    }

    /// What the stream of this number is called.
    #[must_use]
    pub fn stream_numbered(&self, number: u64) -> Option<&Key> {
        self.streams.name(StreamId(number))
    }

    /// Which streams there are, as far as it can be told by two numbers: no stream was made or deleted while they are the same.
    #[must_use]
    pub fn topics_stamp(&self) -> (u64, u64) {
        self.streams.stamp()
    }

    /// Whether a member of a group that the server divides wants a stream.
    #[must_use]
    pub fn is_wanted(&self, group: &GroupName, stream: &Key) -> bool {
        self.consumers.wants(group, stream)
    }
}
