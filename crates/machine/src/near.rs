//! Brings memory near before it is needed. Each row of a large state is a few cache misses away; asked for one after the other they cost more
//! than all else that a command does, asked for together they come together.
//!
//! Invariant: nothing here changes anything, and no outcome depends on it.
//! Called by: `Machine::apply` for each run of commands, and gateways for the reads that a client has sent ahead.

use crate::{Machine, idempotency, rows};
use quorate_types::{Command, CommandBody, Keyspace, Op};

/// How many commands are looked at together: enough to overlap their cache misses, few enough to stay in the nearest cache.
pub const NEAR: usize = 32;
/// Rows of calls that are brought near at most: one command may hold many.
const NEAR_ROWS: usize = 512;
/// Rows that the caches of a processor hold anyway.
const FEW_ROWS: usize = 8_192;

impl Machine {
    /// Reads ahead what commands will write.
    pub(crate) fn bring_near(&self, commands: &[Command]) {
        let mut near = Vec::with_capacity(NEAR);
        let mut sum = 0;
        for command in commands {
            let CommandBody::Commit { commit } = &command.body else { continue };
            for op in &commit.then {
                match op {
                    Op::Put { key, .. } | Op::Increment { key, .. } | Op::Delete { key, .. } => {
                        near.push(self.keys.hash(key));
                    }
                    // Most calls name their key first; where a command does not, nothing is found, and nothing is lost.
                    Op::Call { space, words, .. } if words.len() > 1 && near.len() < NEAR_ROWS => {
                        near.push(self.keys.hash_of(*space, &words[1]));
                    }
                    _ => {}
                }
            }
            if let Some(wanted) = &commit.idempotency {
                let scope =
                    idempotency::Scope { principal: command.principal.clone(), key: wanted.key.clone() };
                sum ^= self.idempotency.touch(&scope);
            }
        }
        near.retain_mut(|hash| self.keys.probe(*hash).map(|slot| *hash = slot.0).is_some());
        sum = near.iter().fold(sum, |sum, slot| sum ^ self.keys.touch(rows::Slot(*slot)).line());
        std::hint::black_box(sum);
    }

    /// Reads ahead the plain values of keys that are about to be read: of the first [`NEAR`] names.
    pub fn bring_values_near<'a>(&self, space: Keyspace, names: impl Iterator<Item = &'a [u8]>) {
        if self.keys.row_count() < FEW_ROWS {
            return;
        }
        let (mut near, mut count) = ([0; NEAR], 0);
        for (place, name) in near.iter_mut().zip(names) {
            *place = self.keys.hash_of(space, name);
            count += 1;
        }
        let mut found = 0;
        for at in 0..count {
            if let Some(slot) = self.keys.probe(near[at]) {
                near[found] = slot.0;
                found += 1;
            }
        }
        let mut sum = 0;
        for slot in &near[..found] {
            sum ^= u64::from(self.keys.touch(rows::Slot(*slot)).value.first().copied().unwrap_or_default());
        }
        std::hint::black_box(sum);
    }
}
