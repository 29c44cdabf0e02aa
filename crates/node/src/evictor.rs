//! Room in keyspaces that evict: the leader chooses who goes, and orders it ahead of the commands that need the room.
//!
//! What a batch may add is estimated from its words, generously; what is on its way already is counted until it is applied. So a keyspace
//! stays about at its limit, and commands are refused only where nothing may go, or something grew that its words did not tell.
//!
//! Invariant: an entry evicts at most [`EVICTED_PER_ENTRY`] keys, and one eviction goes before a batch: commits never wait for a long one.
//! Invariant: nothing here is state: a new leader begins with what it has seen itself.
//! Called by: `Partition::order_all`.

use crate::partition::{Fatal, Partition};
use quorate_machine::{Hand, KEY_BYTES};
use quorate_types::{Command, CommandBody, Eviction, Keyspace, LogIndex, LogTime, Op, WallTime};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Keys that one entry evicts at most: some milliseconds.
const EVICTED_PER_ENTRY: usize = 1024;
/// Bytes that an element takes beside what it is made of, at most, nearly.
const ELEMENT_BYTES: u64 = 96;
/// A batch for a keyspace that evicts holds at most this part of its limit: so its growth stays within what may be held beyond the limit.
const BATCH_PART: u64 = 64;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Evictor {
    hands: BTreeMap<Keyspace, Hand>,
    /// Ordered and not yet applied.
    under_way: VecDeque<UnderWay>,
    /// The places of keys that are going already.
    going: BTreeSet<u32>,
    /// More is to go though nothing arrives.
    pub(crate) more: bool,
}

struct UnderWay {
    index: LogIndex,
    space: Keyspace,
    grows: u64,
    frees: u64,
    slots: Vec<u32>,
}

impl Evictor {
    /// An entry was applied.
    pub(crate) fn applied(&mut self, index: LogIndex) {
        while let Some(under_way) = self.under_way.pop_front_if(|under_way| under_way.index <= index) {
            for slot in under_way.slots {
                self.going.remove(&slot);
            }
        }
    }

    /// Somebody else orders now.
    pub(crate) fn rest(&mut self) {
        self.under_way.clear();
        self.going.clear();
        self.more = false;
    }

    /// Bytes that are coming to a keyspace and leaving it.
    fn under_way(&self, space: Keyspace) -> (u64, u64) {
        let of = self.under_way.iter().filter(|under_way| under_way.space == space);
        of.fold((0, 0), |(grows, frees), under_way| (grows + under_way.grows, frees + under_way.frees))
    }
}

impl<T> Partition<T> {
    /// Bytes that a batch may have, so that a keyspace which evicts can follow.
    pub(crate) fn batch_room(&self) -> u64 {
        let evicting = self.machine.memory_limits().filter(|(_, limit)| limit.eviction != Eviction::None);
        evicting.map(|(_, limit)| limit.bytes_max / BATCH_PART).min().unwrap_or(u64::MAX).max(1)
    }

    /// Orders what has to go before these commands; with none, what is too much already.
    pub(crate) fn make_room(
        &mut self,
        commands: &[Command],
        (wall, time, seed): (WallTime, LogTime, u64),
    ) -> Result<(), Fatal> {
        let limits: Vec<_> = self.machine.memory_limits().collect();
        self.evictor.more = false;
        if limits.is_empty() {
            return Ok(());
        }
        let (growth, mut growing) = (growth(commands), Vec::new());
        for (space, limit) in limits.into_iter().filter(|(_, limit)| limit.eviction != Eviction::None) {
            let grows = growth.get(&space).copied().unwrap_or_default();
            let (coming, leaving) = self.evictor.under_way(space);
            let held = self.machine.memory(space).bytes;
            let wanted = (held + coming + grows).saturating_sub(limit.bytes_max + leaving);
            if wanted > 0 {
                self.order_eviction(space, wanted, (wall, time, seed))?;
            }
            growing.push((space, grows));
        }
        // The commands' own entry comes behind every eviction.
        let index = self.engine.last().next();
        for (space, grows) in growing.into_iter().filter(|(_, grows)| *grows > 0) {
            let under_way = UnderWay { index, space, grows, frees: 0, slots: Vec::new() };
            self.evictor.under_way.push_back(under_way);
        }
        Ok(())
    }

    fn order_eviction(
        &mut self,
        space: Keyspace,
        wanted: u64,
        (wall, time, seed): (WallTime, LogTime, u64),
    ) -> Result<(), Fatal> {
        let hand = self.evictor.hands.entry(space).or_default();
        let bounds = (wanted, EVICTED_PER_ENTRY);
        let victims = self.machine.victims(space, bounds, (wall, time), seed, &self.evictor.going, hand);
        if victims.names.is_empty() {
            return Ok(());
        }
        let body = CommandBody::Evict { space, keys: victims.names };
        self.order(vec![Command::new("server".into(), body)], Vec::new(), (wall, time, seed))?;
        self.evictor.more = true;
        self.evictor.going.extend(&victims.slots);
        let (index, frees, slots) = (self.engine.last(), victims.bytes, victims.slots);
        self.evictor.under_way.push_back(UnderWay { index, space, grows: 0, frees, slots });
        Ok(())
    }
}

/// What commands may add to keyspaces, by their words.
fn growth(commands: &[Command]) -> BTreeMap<Keyspace, u64> {
    let mut growth: BTreeMap<Keyspace, u64> = BTreeMap::new();
    for command in commands {
        let CommandBody::Commit { commit } = &command.body else { continue };
        commit.for_each_op(&mut |op| {
            let (space, bytes) = match op {
                Op::Put { key, value, .. } => (key.space, KEY_BYTES + (key.name.len() + value.len()) as u64),
                Op::Increment { key, .. } => (key.space, KEY_BYTES + key.name.len() as u64),
                Op::Call { space, words, .. } if may_grow(words) => {
                    let bytes = words.iter().map(|word| word.len() as u64 + ELEMENT_BYTES).sum::<u64>();
                    (*space, KEY_BYTES + bytes)
                }
                _ => return,
            };
            *growth.entry(space).or_default() += bytes;
        });
    }
    growth
}

/// Whether a command may need more memory; scripts may, whatever they call.
fn may_grow(words: &[quorate_types::Blob]) -> bool {
    let spec = words.first().and_then(|name| quorate_calls::lookup(name));
    spec.is_some_and(|spec| spec.flags.has(quorate_calls::Flags::DENYOOM) || spec.group == "scripting")
}
