//! Tasks: commits that run later, once. Relative ones are due in log time, absolute ones in wall time.
//!
//! A firing is a commit of its own. The task's row is removed in the same step, so it runs exactly once along the log;
//! a refused firing is dropped, tried again later, or leaves a record in a dead-letter stream.
//!
//! Invariant: no task fires before it is due, by the clock it was scheduled on.
//! Invariant: `due_log` and `due_wall` hold exactly one deadline for every task.
//! Called by: `commit` (schedule, cancel) and `Machine::expire` (firing).

use crate::table::Table;
use quorate_types::codec::{Reader, Writer};
use quorate_types::{
    Commit, DecodeError, LogTime, OnRefused, Payload, PayloadRef, Principal, TaskName, WallTime,
};
use std::collections::BTreeSet;

/// When a task fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// In log time.
    Log {
        /// Nanoseconds of log time.
        time: LogTime,
    },
    /// In wall time.
    Wall {
        /// Milliseconds since the epoch.
        time: WallTime,
    },
}
quorate_types::wire_enum!(Due { 1 = Log { time }, 2 = Wall { time } });

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) due: Due,
    /// Whose commit it is.
    pub(crate) principal: Principal,
    pub(crate) commit: Commit,
    pub(crate) on_refused: OnRefused,
    /// Firings that were refused so far.
    pub(crate) refused: u32,
}
quorate_types::wire_struct!(Task { due, principal, commit, on_refused, refused });

impl Task {
    /// Calls `visit` for every payload that the task may append.
    pub(crate) fn for_each_payload(&mut self, visit: &mut dyn FnMut(&mut Payload)) {
        self.commit.for_each_payload(visit);
        if let OnRefused::DeadLetter { letter } = &mut self.on_refused {
            visit(&mut letter.payload);
        }
    }
}

/// A task as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Its name.
    pub task: TaskName,
    /// When it fires.
    pub due: Due,
    /// What it does then.
    pub commit: Commit,
    /// What happens when that is refused.
    pub on_refused: OnRefused,
    /// Firings that were refused so far.
    pub refused: u32,
}

#[derive(Default)]
pub(crate) struct Tasks {
    table: Table<TaskName, Task>,
    due_log: BTreeSet<(LogTime, TaskName)>,
    due_wall: BTreeSet<(WallTime, TaskName)>,
}

impl Tasks {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Sets or replaces a task; whether there was one of this name.
    pub(crate) fn schedule(&mut self, name: TaskName, task: Task) -> bool {
        self.set(name, Some(task)).is_some()
    }

    /// Removes a task.
    pub(crate) fn take(&mut self, name: &TaskName) -> Option<Task> {
        self.table.get(name)?;
        self.set(name.clone(), None)
    }

    pub(crate) fn next_due_log(&self) -> Option<&(LogTime, TaskName)> {
        self.due_log.first()
    }
    pub(crate) fn next_due_wall(&self) -> Option<&(WallTime, TaskName)> {
        self.due_wall.first()
    }

    pub(crate) fn view(&self, name: &TaskName) -> Option<TaskView> {
        self.table.get(name).map(|task| show(name, task))
    }
    pub(crate) fn list(&self, max: usize) -> Vec<TaskView> {
        self.table.iter().take(max).map(|(name, task)| show(name, task)).collect()
    }

    /// Payloads in the log that scheduled commits will append, with their sizes.
    pub(crate) fn payloads(&self) -> Vec<(PayloadRef, u64)> {
        let mut found = Vec::new();
        for (_, task) in self.table.iter() {
            let mut task = task.clone();
            task.for_each_payload(&mut |payload| {
                if let Some(at) = payload.at {
                    found.push((at, payload.bytes.len() as u64));
                }
            });
        }
        found
    }

    fn set(&mut self, name: TaskName, task: Option<Task>) -> Option<Task> {
        let to = task.as_ref().map(|task| task.due);
        let before = self.table.set(name.clone(), task);
        reindex(&mut self.due_log, &mut self.due_wall, &name, before.as_ref().map(|task| task.due), to);
        before
    }

    pub(crate) fn mark(&self) -> usize {
        self.table.mark()
    }
    pub(crate) fn rollback(&mut self, mark: usize) {
        let Self { table, due_log, due_wall } = self;
        table.rollback(mark, |name, from, to| {
            reindex(due_log, due_wall, name, from.map(|task| task.due), to.map(|task| task.due));
        });
    }
    pub(crate) fn forget(&mut self) {
        self.table.forget();
    }
    pub(crate) fn table(&mut self) -> &mut Table<TaskName, Task> {
        &mut self.table
    }
    pub(crate) fn restore_row(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (name, task) = self.table.restore_row(from)?;
        reindex(&mut self.due_log, &mut self.due_wall, &name, None, Some(task.due));
        Ok(())
    }
    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        self.table.digest(scratch)
    }
    pub(crate) fn check(&self) {
        for (name, task) in self.table.iter() {
            match task.due {
                Due::Log { time } => assert!(self.due_log.contains(&(time, name.clone()))),
                Due::Wall { time } => assert!(self.due_wall.contains(&(time, name.clone()))),
            }
        }
        assert_eq!(self.table.len(), self.due_log.len() + self.due_wall.len(), "one deadline for every task");
    }
}

fn show(name: &TaskName, task: &Task) -> TaskView {
    TaskView {
        task: name.clone(),
        due: task.due,
        commit: task.commit.clone(),
        on_refused: task.on_refused.clone(),
        refused: task.refused,
    }
}

fn reindex(
    log: &mut BTreeSet<(LogTime, TaskName)>,
    wall: &mut BTreeSet<(WallTime, TaskName)>,
    name: &TaskName,
    from: Option<Due>,
    to: Option<Due>,
) {
    match from {
        Some(Due::Log { time }) => drop(log.remove(&(time, name.clone()))),
        Some(Due::Wall { time }) => drop(wall.remove(&(time, name.clone()))),
        None => {}
    }
    match to {
        Some(Due::Log { time }) => {
            log.insert((time, name.clone()));
        }
        Some(Due::Wall { time }) => {
            wall.insert((time, name.clone()));
        }
        None => {}
    }
}
