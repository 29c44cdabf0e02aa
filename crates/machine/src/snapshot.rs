//! Snapshots: the state as bytes, taken in slices while it goes on changing, and read back.
//!
//! A snapshot is a row of chunks: a header with the numbers, then rows module by module. Each chunk names its section and
//! how many rows follow. Modules save a row that changes ahead of the walk, so the chunks tell the state at one index.
//!
//! Invariant: `restore(snapshot(m)) == m`, by digest; then the same entries give the same outcomes.
//! Invariant: a slice is bounded in rows, whatever the size of the state.
//! Called by: `node` (slices at the end of turns, restore at start), the simulator.
//! Source: pre-image walks as in database online backups; no fork, no persistent structures.

use crate::bodies::BodyId;
use crate::{Machine, REVISION_MAX, table_digest};
use bytes::Bytes;
use quorate_types::codec::{Reader, Wire, Writer};
use quorate_types::{DecodeError, Key, LimitName, LogIndex, LogTime, Revision, Settings, WallTime};

/// Version of the snapshot's contents.
const VERSION: u64 = 7;

/// Sections in the order in which they are written.
const HEADER: u64 = 0;
const KEYS: u64 = 1;
const LINES: u64 = 2;
const LEASES: u64 = 3;
const HOLDS: u64 = 4;
const WAITS: u64 = 5;
const IDEMPOTENCY: u64 = 6;
const LIMITS: u64 = 7;
const SLOTS: u64 = 8;
const TASKS: u64 = 9;
const STREAMS: u64 = 10;
const GROUPS: u64 = 11;
const BODIES: u64 = 12;
const SCRIPTS: u64 = 13;
const XGROUPS: u64 = 14;
const PRODUCERS: u64 = 15;
const USERS: u64 = 16;
const LIBRARIES: u64 = 17;
const MEMORY: u64 = 18;
const ROLES: u64 = 19;
const TOKENS: u64 = 20;
const ACCESS: u64 = 21;
const OFFSETS: u64 = 22;
const MEMBERS: u64 = 23;
const SENT: u64 = 24;
const PRODUCER_NUMBERS: u64 = 25;
const NUMBERS_GIVEN: u64 = 26;
const TRANSACTIONS: u64 = 27;
const HELD: u64 = 28;
const HELD_OFFSETS: u64 = 29;
const RIDERS: u64 = 30;
const CONSUMERS: u64 = 31;
const ALARMS: u64 = 32;
const END: u64 = 33;
/// Where the first two versions ended, the third, the fourth, the fifth, and the sixth.
const END_FIRST: u64 = 12;
const END_THIRD: u64 = 22;
const END_FOURTH: u64 = 30;
const END_FIFTH: u64 = 31;
const END_SIXTH: u64 = 32;

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry in it.
    pub index: LogIndex,
    /// Its revision.
    pub revision: Revision,
}

/// Where the walk stands.
pub(crate) struct Progress {
    section: u64,
    header: Header,
    trail: u128,
    machine_version: u32,
    /// Which keyspaces hold fallen rows; nothing when none does.
    fallen: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    version: u64,
    applied: LogIndex,
    revision: Revision,
    wall: WallTime,
    time: LogTime,
    settings: Settings,
    compacted: u64,
    first_line: u64,
    next_wait: u64,
    next_number: u64,
    hand: LimitName,
}
quorate_types::wire_struct!(Header {
    version,
    applied,
    revision,
    wall,
    time,
    settings,
    compacted,
    first_line,
    next_wait,
    next_number,
    hand,
});

/// Why a snapshot could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// A chunk does not decode.
    Decode(DecodeError),
    /// Chunks are missing or out of order.
    Order {
        /// The section found.
        found: u64,
        /// The section before it.
        after: u64,
    },
}

impl std::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Decode(error) => write!(f, "a chunk of the snapshot cannot be read: {error}"),
            Self::Order { found, after } => {
                write!(f, "section {found} of the snapshot follows section {after}: chunks are missing")
            }
        }
    }
}
impl std::error::Error for RestoreError {}
impl From<DecodeError> for RestoreError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl Machine {
    /// Begins a snapshot of the state as it is now.
    ///
    /// # Panics
    /// When one is being taken already.
    pub fn snapshot_begin(&mut self) -> Snapshot {
        assert!(self.snapshot.is_none(), "one snapshot at a time");
        let (compacted, first_line) = self.keys.scalars();
        let header = Header {
            version: VERSION,
            applied: self.applied,
            revision: self.revision,
            wall: self.wall,
            time: self.time,
            settings: self.settings.clone(),
            compacted,
            first_line,
            next_wait: self.locks.next_wait(),
            next_number: self.idempotency.next_number(),
            hand: self.limits.hand(),
        };
        self.keys.walk_begin();
        self.bodies.walk_begin();
        self.scripts.walk_begin();
        self.libraries.walk_begin();
        self.limits_of_memory.walk_begin();
        self.alarms.walk_begin();
        self.leases.table().walk_begin();
        self.users.walk_begin();
        self.locks.walk_begin();
        self.idempotency.rows().walk_begin();
        self.limits.walk_begin();
        self.tasks.table().walk_begin();
        self.streams.walk_begin();
        self.groups.walk_begin();
        self.xgroups.walk_begin();
        self.producers.walk_begin();
        self.offsets.walk_begin();
        self.members.walk_begin();
        self.consumers.walk_begin();
        self.numbered.walk_begin();
        self.transactions.walk_begin();
        let mut fallen = Writer::default();
        if self.keys.sweeps() {
            self.keys.put_fallen(&mut fallen);
        }
        let (trail, machine_version, fallen) = (self.trail, self.version, fallen.buffer);
        self.snapshot = Some(Progress { section: HEADER, header, trail, machine_version, fallen });
        Snapshot { index: self.applied, revision: self.revision }
    }

    /// The next chunk, of about `rows_max` rows; nothing when the snapshot is complete.
    pub fn snapshot_next(&mut self, rows_max: usize) -> Option<Vec<u8>> {
        let mut progress = self.snapshot.take()?;
        if progress.section > END {
            self.snapshot_end();
            return None;
        }
        let mut rows = Writer::default();
        let (count, over) = self.slice(&progress, rows_max.max(1), &mut rows);
        let mut out = Writer::default();
        progress.section.put(&mut out);
        (count as u64).put(&mut out);
        out.raw(&rows.buffer);
        if over {
            progress.section += 1;
        }
        self.snapshot = Some(progress);
        Some(out.buffer)
    }

    /// Ends a snapshot, complete or not.
    pub fn snapshot_end(&mut self) {
        self.snapshot = None;
        self.keys.walk_end();
        self.bodies.walk_end();
        self.scripts.walk_end();
        self.libraries.walk_end();
        self.limits_of_memory.walk_end();
        self.alarms.walk_end();
        self.leases.table().walk_end();
        self.users.walk_end();
        self.locks.walk_end();
        self.idempotency.rows().walk_end();
        self.limits.walk_end();
        self.tasks.table().walk_end();
        self.streams.walk_end();
        self.groups.walk_end();
        self.xgroups.walk_end();
        self.producers.walk_end();
        self.offsets.walk_end();
        self.members.walk_end();
        self.consumers.walk_end();
        self.numbered.walk_end();
        self.transactions.walk_end();
    }

    fn slice(&mut self, progress: &Progress, rows: usize, out: &mut Writer) -> (usize, bool) {
        match progress.section {
            HEADER => {
                progress.header.put(out);
                out.raw(&progress.trail.to_le_bytes());
                out.varint(u64::from(progress.machine_version));
                out.raw(&progress.fallen);
                (1, true)
            }
            KEYS => self.keys.walk_rows(rows, out),
            LINES => self.keys.walk_lines(rows, out),
            USERS => self.users.walk_next(rows, out),
            ROLES => self.users.walk_roles(rows, out),
            TOKENS => self.users.walk_given(rows, out),
            ACCESS => self.users.walk_counts(rows, out),
            LEASES => self.leases.table().walk_next(rows, out),
            HOLDS => self.locks.walk_holds(rows, out),
            WAITS => self.locks.walk_waits(rows, out),
            IDEMPOTENCY => self.idempotency.rows().walk_next(rows, out),
            LIMITS => self.limits.walk_limits(rows, out),
            SLOTS => self.limits.walk_slots(rows, out),
            TASKS => self.tasks.table().walk_next(rows, out),
            STREAMS => (0, self.streams.walk_next(rows, out)),
            GROUPS => (0, self.groups.walk_next(rows, out)),
            BODIES => self.bodies.walk_next(rows, &self.keys, out),
            SCRIPTS => self.scripts.walk_next(rows, out),
            LIBRARIES => self.libraries.walk_next(rows, out),
            XGROUPS => (0, self.xgroups.walk_next(rows, out)),
            PRODUCERS => (0, self.producers.walk_next(rows, out)),
            OFFSETS => (0, self.offsets.walk_next(rows, out)),
            MEMBERS => (0, self.members.walk_next(rows, out)),
            CONSUMERS => (0, self.consumers.walk_next(rows, out)),
            MEMORY => self.limits_of_memory.walk_next(rows, out),
            ALARMS => self.alarms.walk_next(rows, out),
            SENT => self.numbered.walk_sent(rows, out),
            PRODUCER_NUMBERS => self.numbered.walk_count(rows, out),
            NUMBERS_GIVEN => self.numbered.walk_given(rows, out),
            TRANSACTIONS => self.transactions.walk_names(rows, out),
            HELD => self.transactions.walk_held(rows, out),
            HELD_OFFSETS => self.transactions.walk_offsets(rows, out),
            RIDERS => self.transactions.riders.walk_next(rows, out),
            _ => (0, true),
        }
    }

    /// Whether what was read is of one piece; otherwise what is not. Streams and groups look after themselves.
    fn verify(&self) -> Result<(), &'static str> {
        let live = |lease| self.leases.get(lease).is_some();
        if self.revision > Revision(REVISION_MAX.0 * 2 - 1) {
            return Err("revision");
        }
        self.leases.verify()?;
        self.keys.verify(live, self.revision, self.settings.history_bytes_max)?;
        self.locks.verify(live, self.revision)?;
        self.idempotency.verify(live, self.time)?;
        self.limits.verify(live)?;
        self.numbered.verify()?;
        self.transactions.verify(self.numbered.next())?;
        if self.rows_fit_streams() { Ok(()) } else { Err("rows of streams") }
    }

    fn restore_body(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let keys = &self.keys;
        let fresh = |key: &Key| keys.restored(key).filter(|row| row.body == BodyId::NONE).map(|row| row.kind);
        if let Some((key, body)) = self.bodies.restore(fresh, from)? {
            let slot = self.keys.find(&key).expect("its kind was just found");
            self.keys.restore_body(slot, body, self.bodies.get(body).bytes());
            self.bodies.settle(body, slot);
        }
        Ok(())
    }

    /// A digest of the whole state. Two machines that applied the same entries have the same one, however they came there. How they came
    /// there is [`Machine::trail`], which a refused commit moves too.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut scratch = Writer::default();
        let [users, roles, given, counts] = self.users.digests(&mut scratch);
        let [transactions, held, held_offsets, riders] = self.transactions.digests(&mut scratch);
        let [sent, producer_numbers, numbers_given] = self.numbered.digests(&mut scratch);
        let parts = [
            self.keys.digest(&mut scratch),
            self.bodies.digest(self.keys.bodied(), &mut scratch),
            self.scripts.digest(&mut scratch),
            self.libraries.digest(&mut scratch),
            self.limits_of_memory.digest(&mut scratch),
            self.alarms.digest(&mut scratch),
            self.leases.digest(&mut scratch),
            users,
            roles,
            given,
            counts,
            self.locks.digest(&mut scratch),
            self.idempotency.digest(&mut scratch),
            self.limits.digest(&mut scratch),
            self.tasks.digest(&mut scratch),
            self.streams.digest(&mut scratch),
            self.groups.digest(&mut scratch),
            self.xgroups.digest(&mut scratch),
            self.producers.digest(&mut scratch),
            self.offsets.digest(&mut scratch),
            self.members.digest(&mut scratch),
            self.consumers.digest(&mut scratch),
            sent,
            producer_numbers,
            numbers_given,
            transactions,
            held,
            held_offsets,
            riders,
        ];
        scratch.clear();
        for part in parts {
            scratch.raw(&part.to_le_bytes());
        }
        self.applied.put(&mut scratch);
        self.revision.put(&mut scratch);
        self.wall.put(&mut scratch);
        self.time.put(&mut scratch);
        self.settings.put(&mut scratch);
        self.version.put(&mut scratch);
        table_digest(&scratch)
    }
}

/// Reads a snapshot back, chunk by chunk.
pub struct Restorer {
    machine: Machine,
    section: Option<u64>,
    /// Version of the snapshot.
    version: u64,
}

impl Restorer {
    /// Begins with an empty machine; `hash_seed` as for [`Machine::new`].
    #[must_use]
    pub fn new(hash_seed: u64) -> Self {
        Self { machine: Machine::new(hash_seed), section: None, version: VERSION }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`RestoreError`]; the restorer is of no further use.
    pub fn push(&mut self, chunk: &Bytes) -> Result<(), RestoreError> {
        let mut from = Reader::new(chunk);
        let section = from.varint()?;
        let count = from.varint()?;
        let in_order = match self.section {
            None => section == HEADER,
            Some(before) => section == before || section == before + 1,
        };
        if !in_order {
            return Err(RestoreError::Order { found: section, after: self.section.unwrap_or(u64::MAX) });
        }
        let ended = match self.version {
            1 | 2 => END_FIRST,
            3 => END_THIRD,
            4 => END_FOURTH,
            5 => END_FIFTH,
            6 => END_SIXTH,
            _ => END,
        };
        let section = if section == ended { END } else { section };
        self.section = Some(section);
        let (machine, version) = (&mut self.machine, self.version);
        match section {
            HEADER => self.header(&mut from)?,
            STREAMS => {
                while from.left() > 0 {
                    machine.streams.restore(&mut from)?;
                }
            }
            GROUPS => {
                while from.left() > 0 {
                    machine.groups.restore(&mut from)?;
                }
            }
            XGROUPS => {
                while from.left() > 0 {
                    machine.xgroups.restore(&mut from)?;
                }
            }
            PRODUCERS => {
                while from.left() > 0 {
                    machine.producers.restore(&mut from)?;
                }
            }
            OFFSETS => {
                while from.left() > 0 {
                    machine.offsets.restore(&mut from)?;
                }
            }
            MEMBERS => {
                while from.left() > 0 {
                    machine.members.restore(&mut from)?;
                }
            }
            CONSUMERS => {
                while from.left() > 0 {
                    machine.consumers.restore(&mut from)?;
                }
            }
            _ => {
                for _ in 0..count {
                    match section {
                        KEYS => machine.keys.restore_row(version, &mut from)?,
                        LINES => machine.keys.restore_line(version, &mut from)?,
                        LEASES => machine.leases.restore_row(&mut from)?,
                        HOLDS => machine.locks.restore_hold(&mut from)?,
                        WAITS => machine.locks.restore_wait(&mut from)?,
                        IDEMPOTENCY => machine.idempotency.restore_row(version, &mut from)?,
                        LIMITS => machine.limits.restore_limit(&mut from)?,
                        SLOTS => machine.limits.restore_slot(&mut from)?,
                        TASKS => machine.tasks.restore_row(&mut from)?,
                        BODIES => machine.restore_body(&mut from)?,
                        USERS => machine.users.restore_row(&mut from)?,
                        ROLES => machine.users.restore_role(&mut from)?,
                        TOKENS => machine.users.restore_given(&mut from)?,
                        ACCESS => machine.users.restore_count(&mut from)?,
                        SCRIPTS => drop(machine.scripts.restore_row(&mut from)?),
                        LIBRARIES => machine.libraries.restore_row(&mut from)?,
                        MEMORY => drop(machine.limits_of_memory.restore_row(&mut from)?),
                        ALARMS => drop(machine.alarms.restore_row(&mut from)?),
                        SENT => machine.numbered.restore_sent(&mut from)?,
                        PRODUCER_NUMBERS => machine.numbered.restore_count(&mut from)?,
                        NUMBERS_GIVEN => machine.numbered.restore_given(&mut from)?,
                        TRANSACTIONS => machine.transactions.restore_name(&mut from)?,
                        HELD => machine.transactions.restore_held(&mut from)?,
                        HELD_OFFSETS => machine.transactions.restore_offsets(&mut from)?,
                        RIDERS => machine.transactions.riders.restore(&mut from)?,
                        found => return Err(DecodeError::Tag { what: "snapshot section", found }.into()),
                    }
                }
            }
        }
        Ok(from.finish()?)
    }

    /// The machine, once the last chunk was taken.
    ///
    /// # Errors
    /// [`RestoreError::Order`] when chunks are missing.
    pub fn finish(mut self) -> Result<Machine, RestoreError> {
        if self.section != Some(END) {
            return Err(RestoreError::Order { found: END, after: self.section.unwrap_or(u64::MAX) });
        }
        let applied = self.machine.applied;
        self.machine.users.restored(applied);
        self.machine.idempotency.restore_done();
        self.machine.streams.restored()?;
        self.machine.groups.restored()?;
        self.machine.xgroups.restored(|id| self.machine.streams.is_stream(id))?;
        self.machine.producers.restored(|id| self.machine.streams.is_stream(id))?;
        self.machine.offsets.restored(|id| self.machine.streams.is_stream(id))?;
        let live = |lease| self.machine.leases.get(lease).is_some();
        self.machine.members.restored(live, |group| self.machine.offsets.is_held(group))?;
        let other = |group: &_| self.machine.members.has(group);
        self.machine.consumers.restored(live, |group| self.machine.offsets.is_held(group), other)?;
        self.machine.verify().map_err(|what| DecodeError::Range { what, found: 0 })?;
        self.machine.forget();
        self.machine.note_uses(self.machine.time);
        Ok(self.machine)
    }

    fn header(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let header = Header::take(from)?;
        let machine = &mut self.machine;
        match header.version {
            // The first version had no trail, and rules of the first version only.
            1 => {}
            2..=VERSION => {
                let trail = from.raw(16)?.try_into().expect("16 bytes were read");
                machine.trail = u128::from_le_bytes(trail);
                machine.version = Wire::take(from)?;
                if from.left() > 0 {
                    machine.keys.restore_fallen(from)?;
                }
            }
            found => return Err(DecodeError::Version { what: "snapshot", found, wanted: VERSION }),
        }
        self.version = header.version;
        machine.applied = header.applied;
        machine.revision = header.revision;
        machine.wall = header.wall;
        machine.time = header.time;
        machine.settings = header.settings;
        machine.keys.restore_scalars(header.compacted, header.first_line);
        machine.locks.restore_next_wait(header.next_wait);
        machine.idempotency.restore_next_number(header.next_number);
        machine.limits.restore_hand(header.hand);
        Ok(())
    }
}
