//! What a group waits for, for people who ask why it does not go on.
//!
//! Called by: gateways, on behalf of `why`.

use super::Phase;
use crate::Machine;
use quorate_types::{Blob, GroupName, Millis, WallTime};

/// What a group of members waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// How long its phase has lasted, in log time.
    pub age: Millis,
    /// When that began: by the wall clock, if there was a leader all the while.
    pub since: WallTime,
    /// In how long the phase ends without whoever is missing, in log time; nothing where it does not end by itself.
    pub left: Option<Millis>,
    /// Who is missing: members that have not come back to a generation that is being made, or the leader that is to say who reads what.
    pub missing: Vec<Blob>,
}

impl Machine {
    /// What a group of members by the classic protocol waits for; nothing when there is none.
    #[must_use]
    pub fn member_group_expects(&self, group: &GroupName) -> Option<Expected> {
        let row = self.members.groups.get(group)?;
        let age = self.time.millis_since(row.since);
        let away = || self.members.of(row.number).filter(|(_, member)| !member.waits);
        let missing = match row.phase {
            Phase::Joining { .. } => away().map(|(id, _)| id.member.clone()).collect(),
            Phase::Assigning => vec![row.leader.clone()],
            Phase::Empty | Phase::Stable => Vec::new(),
        };
        Some(Expected {
            age,
            since: WallTime(self.wall.0.saturating_sub(age.0)),
            left: row.deadline.map(|deadline| deadline.millis_since(self.time)),
            missing,
        })
    }
}
