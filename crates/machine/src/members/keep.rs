//! Groups and members as rows: undo, snapshot, digest, and whether they are of one piece.
//!
//! Called by: `commit` (rollback), `snapshot`.

use super::{Id, Mark, Members, Phase, index_group, index_member};
use crate::streams::{combine, section};
use crate::table::{Sections, TAG_NEXT};
use quorate_types::codec::{Reader, Writer};
use quorate_types::{DecodeError, GroupName, LeaseId};

const TAG_GROUPS: u64 = 2;
const TAG_MEMBERS: u64 = 3;
const TAG_NAMED: u64 = 4;

impl Members {
    pub(crate) fn mark(&self) -> Mark {
        let Self { groups, members, named, next, .. } = self;
        Mark { groups: groups.mark(), members: members.mark(), named: named.mark(), next: *next }
    }

    pub(crate) fn rollback(&mut self, mark: &Mark) {
        let Self { groups, members, named, names, instances, leases, due, .. } = self;
        groups.rollback(mark.groups, |name, undone, back| {
            let to = back.map(|row| (row.number, row.deadline));
            index_group(names, due, name, undone, to);
        });
        // Members first: one that came in with its id has the lease of that.
        members.rollback(mark.members, |id, undone, back| {
            index_member(instances, leases, id, undone, back);
        });
        named.rollback(mark.named, |id, undone, back| {
            undone.map(|lease| leases.remove(lease));
            back.map(|lease| leases.insert(*lease, id.clone()));
        });
        self.next = mark.next;
    }

    pub(crate) fn forget(&mut self) {
        self.groups.forget();
        self.members.forget();
        self.named.forget();
    }

    pub(crate) fn walk_begin(&mut self) {
        self.groups.walk_begin();
        self.members.walk_begin();
        self.named.walk_begin();
        self.walk = Some(Sections::new(self.next));
    }

    /// Emits one chunk of up to `rows_max` rows; returns whether the walk is over.
    pub(crate) fn walk_next(&mut self, rows_max: usize, out: &mut Writer) -> bool {
        let Self { walk, groups, members, named, .. } = self;
        let Some(walk) = walk else { return true };
        walk.go_on(TAG_NAMED, rows_max, out, |tag, left, out| match tag {
            TAG_GROUPS => section(groups, tag, left, out),
            TAG_MEMBERS => section(members, tag, left, out),
            _ => section(named, tag, left, out),
        })
    }

    pub(crate) fn walk_end(&mut self) {
        self.groups.walk_end();
        self.members.walk_end();
        self.named.walk_end();
        self.walk = None;
    }

    /// Reads one section into an empty or partly restored state. After the last one, [`Members::restored`].
    ///
    /// # Errors
    /// [`DecodeError`] says what could not be read.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        match from.varint()? {
            TAG_NEXT => self.next = from.varint()?,
            TAG_GROUPS => {
                for _ in 0..from.varint()? {
                    let (name, row) = self.groups.restore_row(from)?;
                    let to = Some((row.number, row.deadline));
                    index_group(&mut self.names, &mut self.due, &name, None, to);
                }
            }
            TAG_MEMBERS => {
                for _ in 0..from.varint()? {
                    let (id, row) = self.members.restore_row(from)?;
                    index_member(&mut self.instances, &mut self.leases, &id, None, Some(&row));
                }
            }
            TAG_NAMED => {
                for _ in 0..from.varint()? {
                    let (id, lease) = self.named.restore_row(from)?;
                    self.leases.insert(lease, id);
                }
            }
            found => return Err(DecodeError::Tag { what: "section of members", found }),
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
    ) -> Result<(), DecodeError> {
        self.verify(live, held).map_err(|what| DecodeError::Range { what, found: 0 })
    }

    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let tables = [self.groups.digest(scratch), self.members.digest(scratch), self.named.digest(scratch)];
        combine(u128::from(self.next), &tables)
    }

    /// Panics when rows and indexes disagree.
    pub(crate) fn check(&self, live: impl Fn(LeaseId) -> bool, held: impl Fn(&GroupName) -> bool) {
        if let Err(what) = self.verify(live, held) {
            panic!("members of groups: {what} does not fit");
        }
    }

    fn verify(
        &self,
        live: impl Fn(LeaseId) -> bool,
        held: impl Fn(&GroupName) -> bool,
    ) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let mut due = 0;
        for (name, group) in self.groups.iter() {
            sound(group.number < self.next, "number of a group")?;
            sound(self.names.get(&group.number) == Some(name), "name of a group")?;
            if let Some(time) = group.deadline {
                due += 1;
                sound(self.due.contains(&(time, name.clone())), "deadline of a group")?;
            }
            let empty = self.is_empty(group.number);
            sound(empty == (group.phase == Phase::Empty), "phase of a group without members")?;
            sound(held(name) != empty, "hold of a group with members")?;
            let leader = Id { group: group.number, member: group.leader.clone() };
            let led = self.members.get(&leader).is_some();
            let wanted = matches!(group.phase, Phase::Assigning | Phase::Stable);
            sound(led || !wanted, "leader of a group")?;
            let timed = group.deadline.is_some() || group.phase == Phase::Stable;
            sound(timed, "deadline of a phase")?;
        }
        sound(self.due.len() == due && self.names.len() == self.groups.len(), "count of groups")?;
        let mut instances = 0;
        for (id, member) in self.members.iter() {
            sound(self.names.contains_key(&id.group) && member.number < self.next, "group of a member")?;
            let hangs = live(member.lease) && self.leases.get(&member.lease) == Some(id);
            sound(hangs, "session of a member")?;
            if let Some(instance) = &member.instance {
                instances += 1;
                let owner = self.instances.get(&(id.group, instance.clone()));
                sound(owner == Some(&id.member), "instance of a member")?;
            }
        }
        for (id, lease) in self.named.iter() {
            sound(self.names.contains_key(&id.group), "group of an id")?;
            sound(live(*lease) && self.leases.get(lease) == Some(id), "session of an id")?;
            sound(self.members.get(id).is_none(), "an id that is a member's")?;
        }
        sound(self.instances.len() == instances, "count of instances")?;
        sound(self.leases.len() == self.members.len() + self.named.len(), "count of sessions")
    }
}
