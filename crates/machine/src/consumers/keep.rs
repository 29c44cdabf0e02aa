//! Groups and members as rows: undo, snapshot, digest, and whether they are of one piece.
//!
//! Called by: `commit` (rollback), `snapshot`.

use super::{Consumers, Ends, Indexes, Mark, Parts, index_group, index_member};
use crate::streams::{combine, section};
use crate::table::{Sections, TAG_NEXT};
use quorate_types::codec::{Reader, Writer};
use quorate_types::{DecodeError, GroupName, LeaseId};
use std::collections::BTreeSet;

const TAG_GROUPS: u64 = 2;
const TAG_MEMBERS: u64 = 3;

impl Consumers {
    pub(crate) fn mark(&self) -> Mark {
        Mark { groups: self.groups.mark(), members: self.members.mark(), next: self.next }
    }

    pub(crate) fn rollback(&mut self, mark: &Mark) {
        let Self { groups, members, names, instances, leases, owners, due, .. } = self;
        groups.rollback(mark.groups, |name, undone, back| index_group(names, due, name, undone, back));
        members.rollback(mark.members, |id, undone, back| {
            index_member(&mut Indexes { instances, leases, owners, due }, id, undone, back);
        });
        self.next = mark.next;
    }

    pub(crate) fn forget(&mut self) {
        self.groups.forget();
        self.members.forget();
    }

    pub(crate) fn walk_begin(&mut self) {
        self.groups.walk_begin();
        self.members.walk_begin();
        self.walk = Some(Sections::new(self.next));
    }

    /// Emits one chunk of up to `rows_max` rows; returns whether the walk is over.
    pub(crate) fn walk_next(&mut self, rows_max: usize, out: &mut Writer) -> bool {
        let Self { walk, groups, members, .. } = self;
        let Some(walk) = walk else { return true };
        walk.go_on(TAG_MEMBERS, rows_max, out, |tag, left, out| match tag {
            TAG_GROUPS => section(groups, tag, left, out),
            _ => section(members, tag, left, out),
        })
    }

    pub(crate) fn walk_end(&mut self) {
        self.groups.walk_end();
        self.members.walk_end();
        self.walk = None;
    }

    /// Reads one section into an empty or partly restored state. After the last one, [`Consumers::restored`].
    ///
    /// # Errors
    /// [`DecodeError`] says what could not be read.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        match from.varint()? {
            TAG_NEXT => self.next = from.varint()?,
            TAG_GROUPS => {
                for _ in 0..from.varint()? {
                    let (name, row) = self.groups.restore_row(from)?;
                    index_group(&mut self.names, &mut self.due, &name, None, Some(&row));
                }
            }
            TAG_MEMBERS => {
                for _ in 0..from.varint()? {
                    let (id, row) = self.members.restore_row(from)?;
                    let Self { instances, leases, owners, due, .. } = self;
                    index_member(&mut Indexes { instances, leases, owners, due }, &id, None, Some(&row));
                }
            }
            found => return Err(DecodeError::Tag { what: "section of consumers", found }),
        }
        Ok(())
    }

    /// Checks what was restored.
    ///
    /// # Errors
    /// [`DecodeError::Range`]: the rows do not fit together; the snapshot is damaged.
    pub(crate) fn restored(
        &self,
        live: impl Fn(LeaseId) -> bool,
        held: impl Fn(&GroupName) -> bool,
        other: impl Fn(&GroupName) -> bool,
    ) -> Result<(), DecodeError> {
        self.verify(live, held, other).map_err(|what| DecodeError::Range { what, found: 0 })
    }

    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let tables = [self.groups.digest(scratch), self.members.digest(scratch)];
        combine(u128::from(self.next), &tables)
    }

    /// Panics when rows and indexes disagree.
    pub(crate) fn check(
        &self,
        live: impl Fn(LeaseId) -> bool,
        held: impl Fn(&GroupName) -> bool,
        other: impl Fn(&GroupName) -> bool,
    ) {
        if let Err(what) = self.verify(live, held, other) {
            panic!("consumers: {what} does not fit");
        }
    }

    /// `live` tells of leases, `held` of groups whose offsets are kept for members, `other` of groups of the other kind.
    fn verify(
        &self,
        live: impl Fn(LeaseId) -> bool,
        held: impl Fn(&GroupName) -> bool,
        other: impl Fn(&GroupName) -> bool,
    ) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let in_order = |parts: &Parts| parts.windows(2).all(|pair| pair[0] < pair[1]);
        let mut due = 0;
        for (name, group) in self.groups.iter() {
            sound(!other(name), "group of two kinds")?;
            sound(group.number < self.next, "number of a group")?;
            sound(self.names.get(&group.number) == Some(name), "name of a group")?;
            let empty = self.is_empty(group.number);
            sound(empty == group.due.is_some(), "time of a group without members")?;
            sound(!empty || group.target_epoch == group.epoch, "target of a group without members")?;
            sound(held(name) != empty, "hold of a group with members")?;
            sound(group.target_epoch <= group.epoch, "epoch of a group")?;
            if let Some(time) = group.due {
                due += 1;
                sound(self.due.contains(&(time, Ends::Group(name.clone()))), "time of a group")?;
            }
            let mut seen = BTreeSet::new();
            for (_, member) in self.of(group.number) {
                sound(in_order(&member.target), "order of a target")?;
                sound(member.epoch <= group.epoch, "epoch of a member")?;
                sound(member.target.iter().all(|part| seen.insert(*part)), "target of two members")?;
            }
            let divided: usize = group.topics.iter().map(|(_, count)| *count as usize).sum();
            sound(
                group.target_epoch != group.epoch || seen.len() == divided,
                "target that leaves partitions out",
            )?;
        }
        let (mut instances, mut owned) = (0, 0);
        for (id, member) in self.members.iter() {
            sound(self.names.contains_key(&id.group), "group of a member")?;
            let hangs = live(member.lease) && self.leases.get(&member.lease) == Some(id);
            sound(hangs, "session of a member")?;
            sound(in_order(&member.has) && in_order(&member.giving_up), "order of partitions")?;
            sound(member.due.is_some() != member.giving_up.is_empty(), "time of giving up")?;
            if let Some(time) = member.due {
                due += 1;
                sound(self.due.contains(&(time, Ends::Member(id.clone()))), "time of a member")?;
            }
            for part in member.has.iter().chain(&member.giving_up) {
                owned += 1;
                sound(self.owners.get(&(id.group, *part)) == Some(&id.member), "owner of a partition")?;
            }
            if let Some(instance) = &member.instance {
                instances += 1;
                let owner = self.instances.get(&(id.group, instance.clone()));
                sound(owner == Some(&id.member), "instance of a member")?;
            }
        }
        sound(self.due.len() == due && self.names.len() == self.groups.len(), "count of groups")?;
        sound(self.owners.len() == owned, "count of owners")?;
        sound(self.instances.len() == instances, "count of instances")?;
        sound(self.leases.len() == self.members.len(), "count of sessions")
    }
}
