//! Brings memory near before it is needed. Each row of a large state is a few cache misses away; asked for one after the other they cost more
//! than all else that a command does, asked for together they come together.
//!
//! Invariant: nothing here changes anything, and no outcome depends on it.
//! Called by: `Machine::apply` for each run of commands, and gateways for the reads that a client has sent ahead.

use crate::keys::Row;
use crate::rows::Slot;
use crate::{Machine, idempotency};
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
        sum ^= self.rows_near(&self.slots_near(&near), Row::line);
        std::hint::black_box(sum);
    }

    /// Reads ahead the plain values of keys that are about to be read: of the first [`NEAR`] names.
    pub fn bring_values_near<'a>(&self, space: Keyspace, names: impl Iterator<Item = &'a [u8]>) {
        if self.keys.row_count() < FEW_ROWS {
            return;
        }
        let near: Vec<u32> = names.take(NEAR).map(|name| self.keys.hash_of(space, name)).collect();
        let slots = self.slots_near(&near);
        // One step towards the values at a time: the length may lie where the bytes are, or where it tells where those are.
        let mut sum = self.rows_near(&slots, Row::line);
        sum ^= self.rows_near(&slots, |row| row.value.len() as u64);
        sum ^= self.rows_near(&slots, |row| row.value.first().copied().map_or(0, u64::from));
        std::hint::black_box(sum);
    }

    /// Looks at the index for all of these hashes.
    fn slots_near(&self, hashes: &[u32]) -> Vec<Slot> {
        hashes.iter().filter_map(|hash| self.keys.probe(*hash)).collect()
    }

    /// Looks at all of these rows: what `of` makes of them.
    fn rows_near(&self, slots: &[Slot], of: impl Fn(&Row) -> u64) -> u64 {
        slots.iter().fold(0, |sum, slot| sum ^ of(self.keys.touch(*slot)))
    }
}
