//! Which names a command mentions: what `why` searches for, and what refusals are counted by.

use crate::command::{Command, CommandBody};
use crate::commit::{Commit, Guard, OnRefused, Op};
use crate::entry::Subject;
use crate::producers::Produce;
use crate::units::Key;
use std::collections::BTreeSet;

impl Subject {
    fn key(key: &Key) -> Self {
        Self::Key { key: key.clone() }
    }
    fn stream(stream: &Key) -> Self {
        Self::Stream { stream: stream.clone() }
    }
}

/// A range of keys that an operation reads or deletes counts as its first key's name; see [`mentions`] for the exact test.
#[must_use]
pub fn subjects(command: &Command) -> BTreeSet<Subject> {
    let mut found = BTreeSet::new();
    match &command.body {
        CommandBody::Commit { commit } => return subjects_of(commit),
        CommandBody::Wait { wait } => {
            found.insert(Subject::Lock { lock: wait.lock.clone() });
            found.insert(Subject::Lease { lease: wait.lease });
        }
        CommandBody::CancelWait { lock, lease, .. } => {
            found.insert(Subject::Lock { lock: lock.clone() });
            found.insert(Subject::Lease { lease: *lease });
        }
        CommandBody::KeepAlive { leases } => {
            found.extend(leases.iter().map(|lease| Subject::Lease { lease: *lease }))
        }
        CommandBody::Resolve { key, .. } => {
            found.insert(Subject::Idempotency { key: key.clone() });
        }
        CommandBody::Denied { name, .. } => {
            found.insert(Subject::Limit { limit: name.clone() });
        }
        CommandBody::Evict { space, keys } => {
            let key =
                |name: &crate::Blob| Subject::Key { key: crate::Key { space: *space, name: name.clone() } };
            found.extend(keys.iter().map(key));
        }
        CommandBody::Compact { .. }
        | CommandBody::LimitMemory { .. }
        | CommandBody::RaiseRevision { .. }
        | CommandBody::RaiseVersion { .. }
        | CommandBody::Configure { .. }
        | CommandBody::ChangeUser { .. }
        | CommandBody::RemoveUsers { .. }
        | CommandBody::ChangeAccess { .. }
        | CommandBody::Alarm { .. } => {}
    }
    found
}

/// The names a commit mentions, inner and scheduled commits included.
#[must_use]
pub fn subjects_of(commit: &Commit) -> BTreeSet<Subject> {
    let mut found = BTreeSet::new();
    if let Some(idempotency) = &commit.idempotency {
        found.insert(Subject::Idempotency { key: idempotency.key.clone() });
    }
    guards(commit, &mut found);
    commit.for_each_op(&mut |op| of_op(op, &mut found));
    found
}

/// Whether a command mentions a subject: by name, or by a range that holds it.
#[must_use]
pub fn mentions(command: &Command, subject: &Subject) -> bool {
    if subjects(command).contains(subject) {
        return true;
    }
    let (CommandBody::Commit { commit }, Subject::Key { key }) = (&command.body, subject) else {
        return false;
    };
    let mut covered = false;
    commit.for_each_op(&mut |op| {
        covered |=
            matches!(op, Op::DeleteRange { range, .. } | Op::Erase { range, .. } if range.contains(key))
    });
    covered
}

fn guards(commit: &Commit, found: &mut BTreeSet<Subject>) {
    for guard in &commit.guards {
        found.insert(match guard {
            Guard::Key { key, .. } | Guard::Value { key, .. } => Subject::key(key),
            Guard::RangeUnchanged { range, .. } | Guard::Keys { range, .. } | Guard::Values { range, .. } => {
                Subject::key(&range.start)
            }
            Guard::Fence { lock, .. } | Guard::Leadership { election: lock, .. } => {
                Subject::Lock { lock: lock.clone() }
            }
            Guard::Limit { name, .. } | Guard::Slots { name, .. } => Subject::Limit { limit: name.clone() },
            Guard::StreamAt { stream, .. } => Subject::stream(stream),
            Guard::NotAfter { .. } => continue,
        });
    }
    for op in commit.then.iter().chain(commit.otherwise.iter().flatten()) {
        if let Op::Nested { commit } | Op::Schedule { commit, .. } = op {
            guards(commit, found);
        }
        if let Op::Produce { produce } = op
            && let Some(rider) = produce.rider()
        {
            guards(rider, found);
            let idempotency = rider.idempotency.as_ref();
            found.extend(idempotency.map(|of| Subject::Idempotency { key: of.key.clone() }));
        }
    }
}

fn of_op(op: &Op, found: &mut BTreeSet<Subject>) {
    let subject = match op {
        Op::Get { .. } | Op::Range { .. } | Op::LeaseInfo { .. } | Op::LockInfo { .. } => return, // They change nothing.
        Op::StreamInfo { .. } | Op::LimitPeek { .. } | Op::Nested { .. } | Op::Select { .. } => return,
        Op::Write { key, lease, .. } => {
            found.extend(lease.filter(|lease| lease.0 != 0).map(|lease| Subject::Lease { lease }));
            Subject::key(key)
        }
        Op::Put { key, lease, .. } => {
            if lease.0 != 0 {
                found.insert(Subject::Lease { lease: *lease });
            }
            Subject::key(key)
        }
        Op::Delete { key, .. } | Op::Increment { key, .. } => Subject::key(key),
        Op::DeleteRange { range, .. } | Op::Erase { range, .. } => Subject::key(&range.start),
        // Which words are keys is the command's own business: a word that is a key's name mentions it.
        Op::Call { space, words, .. } => {
            let names = words.iter().skip(1).filter(|word| !word.is_empty());
            found.extend(names.map(|name| Subject::key(&Key { space: *space, name: name.clone() })));
            return;
        }
        Op::CreateStream { stream, .. }
        | Op::AlterStream { stream, .. }
        | Op::DeleteStream { stream }
        | Op::Trim { stream, .. }
        | Op::CreateGroup { stream, .. }
        | Op::DeleteGroup { stream, .. }
        | Op::CursorCommit { stream, .. }
        | Op::Take { stream, .. }
        | Op::Ack { stream, .. }
        | Op::Nack { stream, .. }
        | Op::Extend { stream, .. } => Subject::stream(stream),
        Op::Append { append } => Subject::stream(&append.stream),
        Op::Produce { produce } => {
            found.extend(produce.name().map(|name| Subject::Transaction { name: name.clone() }));
            match &**produce {
                Produce::Enlist { groups, .. } => {
                    found.extend(groups.iter().map(|group| Subject::Group { group: group.clone() }));
                }
                Produce::HoldOffsets { commit, .. } => {
                    found.insert(Subject::Group { group: commit.group.clone() });
                }
                _ => {}
            }
            match produce.append() {
                Some(append) => Subject::stream(&append.stream),
                None => return,
            }
        }
        Op::LeaseGrant { lease, .. } | Op::LeaseKeepAlive { lease } | Op::LeaseRevoke { lease } => {
            Subject::Lease { lease: *lease }
        }
        Op::Acquire { lock, lease, .. } | Op::Campaign { election: lock, lease, .. } => {
            found.insert(Subject::Lease { lease: *lease });
            Subject::Lock { lock: lock.clone() }
        }
        Op::Release { lock, .. }
        | Op::Proclaim { election: lock, .. }
        | Op::Resign { election: lock, .. } => Subject::Lock { lock: lock.clone() },
        Op::Schedule { task, on_refused, .. } => {
            if let OnRefused::DeadLetter { letter } = on_refused {
                found.insert(Subject::stream(&letter.stream));
            }
            Subject::Task { task: task.clone() }
        }
        Op::Cancel { task } => Subject::Task { task: task.clone() },
        Op::Register { service, .. } | Op::Deregister { service, .. } => {
            Subject::Service { service: service.clone() }
        }
        Op::Claim { key, .. } | Op::Complete { key, .. } => Subject::Idempotency { key: key.clone() },
        Op::FreeSlot { name, .. } => Subject::Limit { limit: name.clone() },
        Op::CommitOffsets { commit } => {
            found.extend(commit.offsets.iter().map(|offsets| Subject::stream(&offsets.stream)));
            Subject::Group { group: commit.group.clone() }
        }
        Op::Member { change } => Subject::Group { group: change.group().clone() },
    };
    found.insert(subject);
}
