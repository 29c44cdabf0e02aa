//! Why: who changed something, when, at which revision; and which guard refused whom. Read from the log.
//!
//! Entries hold commands; what they came to is decided at apply, and [`Decisions`] has it logged with a later entry. So the log
//! alone tells the story, for as long as the audit retention keeps it. [`search`] reads it, off the partition's thread.
//!
//! Invariant: what an entry came to is in the log, or pending here: nothing is told twice, nothing is left out.
//! Invariant: what goes into one entry is bounded in bytes: more of it goes into several, and reasons that are too long are left out.
//! Invariant: reasons of refusals are logged at most so often per name and ten thousand entries; the commands always are.
//! Called by: `Partition` (note, take), the runtime (search).

use quorate_log::{LogError, LogReader};
use quorate_machine::{Machine, Outputs};
use quorate_types::codec::encode;
use quorate_types::subjects::{mentions, subjects, subjects_of};
use quorate_types::{
    AutomaticChange, Blob, Command, CommandBody, Commit, Decided, DecodeError, Entry, FiredTask, Keyspace,
    LogIndex, Mode, Op, Outcome, Principal, Refusal, Revision, Subject, TaskName, Term, Verdict, WallTime,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Entries after which refusals are counted anew.
const REFUSALS_WINDOW: u64 = 10_000;

/// What entries came to and is not logged yet.
pub(crate) struct Decisions {
    pending: VecDeque<Decided>,
    /// Bytes of this that one entry may carry.
    bytes_max: u64,
    /// What entries up to this one came to is in the log for certain.
    logged: LogIndex,
    /// What entries up to this one came to is on its way to the log.
    on_its_way: LogIndex,
    noted: LogIndex,
    refusals: BTreeMap<Subject, u32>,
    refusals_max: u32,
    window: u64,
}

impl Decisions {
    pub(crate) fn new(refusals_max: u32, bytes_max: u64) -> Self {
        Self {
            pending: VecDeque::new(),
            bytes_max,
            logged: LogIndex::ZERO,
            on_its_way: LogIndex::ZERO,
            noted: LogIndex::ZERO,
            refusals: BTreeMap::new(),
            refusals_max,
            window: 0,
        }
    }

    /// Notes what an entry came to, and what it tells of earlier ones.
    pub(crate) fn note(&mut self, entry: &Entry, outputs: &Outputs, machine: &Machine, before: Revision) {
        // On replay this drops what was noted again and is logged already.
        if let Some(last) = entry.decided.last() {
            self.logged = self.logged.max(last.index);
            let logged = self.logged;
            self.pending.retain(|decided| decided.index > logged);
        }
        self.noted = entry.index;
        if entry.index.0 / REFUSALS_WINDOW != self.window {
            self.window = entry.index.0 / REFUSALS_WINDOW;
            self.refusals.clear();
        }
        let mut decided = Decided { index: entry.index, ..Decided::default() };
        decided.commands.reserve(entry.commands.len());
        let mut named = BTreeSet::new();
        for (command, outcome) in entry.commands.iter().zip(&outputs.outcomes) {
            let verdict = self.verdict(outcome, machine.revision(), || subjects(command));
            if let (Verdict::Done { revision }, CommandBody::Commit { commit }) = (&verdict, &command.body)
                && names_its_changes(commit)
            {
                named.insert(*revision);
            }
            decided.commands.push(verdict);
        }
        for fired in &outputs.fired {
            let names = subjects_of(&fired.commit);
            let verdict = self.verdict(&fired.outcome, machine.revision(), || names.clone());
            decided.fired.push(FiredTask {
                task: fired.task.clone(),
                verdict,
                names: names.into_iter().collect(),
            });
        }
        if machine.revision() > before && (machine.revision().0 - before.0) as usize != named.len() {
            decided.automatic = automatic(machine, before, &named);
        }
        if !decided.commands.is_empty() || !decided.fired.is_empty() || !decided.automatic.is_empty() {
            self.pending.extend(parts(decided, self.bytes_max));
        }
    }

    /// What is pending, to go into the next entry.
    pub(crate) fn take(&mut self) -> Vec<Decided> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.pending.front() {
            bytes += decided_bytes(next);
            if bytes > self.bytes_max && !taken.is_empty() {
                break;
            }
            taken.extend(self.pending.pop_front());
        }
        // The last one says how far the log tells: when more of the same entry follows, not so far yet.
        if let (Some(last), Some(next)) = (taken.last(), self.pending.front())
            && last.index == next.index
        {
            taken.push(Decided { index: LogIndex(last.index.0 - 1), ..Decided::default() });
        }
        if let Some(last) = taken.last() {
            self.on_its_way = last.index;
        }
        taken
    }

    /// Takes back what was to go into an entry that never will be in the log.
    pub(crate) fn give_back(&mut self, decided: Vec<Decided>) {
        let logged = self.logged;
        self.pending.extend(decided.into_iter().filter(|decided| decided.index > logged));
        self.pending.make_contiguous().sort_by_key(|decided| decided.index);
        self.on_its_way = self.logged;
    }

    pub(crate) fn pending(&self) -> Vec<Decided> {
        self.pending.iter().cloned().collect()
    }

    /// The last entry of which the log tells for certain what it, and all before it, came to.
    pub(crate) fn logged(&self) -> LogIndex {
        if self.pending.is_empty() && self.on_its_way <= self.logged { self.noted } else { self.logged }
    }

    fn verdict(
        &mut self,
        outcome: &Outcome,
        revision: Revision,
        names: impl FnOnce() -> BTreeSet<Subject>,
    ) -> Verdict {
        match outcome {
            Outcome::Committed { committed } if committed.replayed => Verdict::Replayed {},
            Outcome::Committed { committed } => Verdict::Done { revision: committed.revision },
            Outcome::Granted { token } => Verdict::Done { revision: Revision(token.0) },
            Outcome::Refused { refusal } => {
                let mut often = false;
                for name in names() {
                    let count = self.refusals.entry(name).or_default();
                    *count += 1;
                    often |= *count > self.refusals_max;
                }
                if often {
                    Verdict::RefusedToo {}
                } else {
                    Verdict::Refused { refusal: Box::new(refusal.clone()) }
                }
            }
            Outcome::Queued { .. }
            | Outcome::Alive { .. }
            | Outcome::Resolved { .. }
            | Outcome::Done { .. } => Verdict::Done { revision },
        }
    }
}

/// What an entry came to, in parts that fit an entry: verdicts first, then what happened by itself.
fn parts(mut whole: Decided, bytes_max: u64) -> Vec<Decided> {
    let mut left = bytes_max / 2;
    let verdicts = whole.commands.iter_mut().chain(whole.fired.iter_mut().map(|fired| &mut fired.verdict));
    for verdict in verdicts {
        if matches!(verdict, Verdict::Refused { .. }) {
            let bytes = verdict_bytes(verdict);
            if bytes > left {
                *verdict = Verdict::RefusedToo {};
            } else {
                left -= bytes;
            }
        }
    }
    let index = whole.index;
    if decided_bytes(&whole) <= bytes_max {
        return vec![whole];
    }
    let mut parts = vec![Decided { index, commands: whole.commands, ..Decided::default() }];
    let mut filled = decided_bytes(&parts[0]);
    for mut fired in whole.fired {
        // A task of which the names alone are too much is told by its own.
        if fired_bytes(&fired) > bytes_max / 2 {
            fired.names.clear();
        }
        part(&mut parts, &mut filled, fired_bytes(&fired), bytes_max).fired.push(fired);
    }
    for change in whole.automatic {
        part(&mut parts, &mut filled, change_bytes(&change), bytes_max).automatic.push(change);
    }
    parts
}

/// The part with room for so many bytes: the last one, or a new one.
fn part<'a>(parts: &'a mut Vec<Decided>, filled: &mut u64, bytes: u64, bytes_max: u64) -> &'a mut Decided {
    let index = parts.first().map_or(LogIndex::ZERO, |first| first.index);
    if *filled + bytes > bytes_max {
        parts.push(Decided { index, ..Decided::default() });
        *filled = 0;
    }
    *filled += bytes;
    parts.last_mut().expect("there is a first part")
}

fn decided_bytes(decided: &Decided) -> u64 {
    let commands: u64 = decided.commands.iter().map(verdict_bytes).sum();
    let fired: u64 = decided.fired.iter().map(fired_bytes).sum();
    let automatic: u64 = decided.automatic.iter().map(change_bytes).sum();
    32 + commands + fired + automatic
}

fn verdict_bytes(verdict: &Verdict) -> u64 {
    match verdict {
        Verdict::Refused { refusal } => encode(&**refusal).len() as u64 + 1,
        Verdict::Done { .. } | Verdict::Replayed {} | Verdict::RefusedToo {} => 11,
    }
}

fn fired_bytes(fired: &FiredTask) -> u64 {
    (encode(&fired.task).len() + encode(&fired.names).len()) as u64 + verdict_bytes(&fired.verdict)
}

fn change_bytes(change: &AutomaticChange) -> u64 {
    change.key.name.len() as u64 + 24
}

/// Whether every key that a commit changes stands in it by name, at its own revision.
fn names_its_changes(commit: &Commit) -> bool {
    commit.mode == Mode::Atomic
        && commit.otherwise.is_none()
        && commit.then.iter().all(|op| {
            matches!(
                op,
                Op::Get { .. }
                    | Op::Range { .. }
                    | Op::Put { .. }
                    | Op::Delete { .. }
                    | Op::Increment { .. }
                    | Op::Append { .. }
            )
        })
}

/// Keys changed since `before` by no command that names them.
fn automatic(machine: &Machine, before: Revision, named: &BTreeSet<Revision>) -> Vec<AutomaticChange> {
    let everything =
        |space| quorate_types::KeyRange { start: quorate_types::Key { space, name: Blob::EMPTY }, end: None };
    let spaces: BTreeSet<Keyspace> = machine.touched_since(before.next()).map(|key| key.space).collect();
    let mut found = Vec::new();
    for space in spaces {
        // History may have been compacted over its byte budget already; then what is gone is not told.
        let from = before.next().max(machine.oldest_revision().next());
        let Ok(changes) = machine.changes(&everything(space), from, usize::MAX) else { continue };
        found.extend(changes.changes.into_iter().filter(|change| !named.contains(&change.revision)).map(
            |change| AutomaticChange {
                key: change.key,
                revision: change.revision,
                deleted: change.now.is_none(),
            },
        ));
    }
    found.sort_by_key(|change| change.revision);
    found
}

/// What to search for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyQuery {
    /// The subject.
    pub subject: Subject,
    /// The newest so many records are given.
    pub max: usize,
}

/// One step of a subject's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyRecord {
    /// The entry.
    pub index: LogIndex,
    /// When, by wall time.
    pub wall: WallTime,
    /// Whose command it was; `server` for what happened by itself.
    pub principal: Principal,
    /// What its client calls itself.
    pub client: Blob,
    /// Its W3C `traceparent`.
    pub trace: Blob,
    /// What was done.
    pub what: WhyWhat,
    /// What it came to.
    pub verdict: WhyVerdict,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyWhat {
    /// A command.
    Command(Box<CommandBody>),
    /// A task fired.
    Fired(TaskName),
    /// A key changed with a lease, a range, a lock's queue or an inner commit.
    Automatic(AutomaticChange),
}

/// What it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyVerdict {
    /// It took effect; the revision after it.
    Done(Revision),
    /// It was a retry, answered from memory.
    Replayed,
    /// It was refused; without a reason where its name had too many refusals to log each.
    Refused(Option<Box<Refusal>>),
    /// The log does not tell: the process ended before it was logged, or the newest entries are not applied yet.
    Unknown,
}

impl From<&Verdict> for WhyVerdict {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Done { revision } => Self::Done(*revision),
            Verdict::Replayed {} => Self::Replayed,
            Verdict::Refused { refusal } => Self::Refused(Some(refusal.clone())),
            Verdict::RefusedToo {} => Self::Refused(None),
        }
    }
}

/// Reads the log for the history of a subject, oldest first. `pending` is [`crate::Partition::decided`], taken before.
///
/// Takes as long as reading the retained log does: run it where it may wait.
///
/// # Errors
/// [`LogError`] when the log cannot be read; an entry that does not decode is damage.
pub fn search(reader: &LogReader, query: &WhyQuery, pending: &[Decided]) -> Result<Vec<WhyRecord>, LogError> {
    let mut search = Search { query, found: BTreeMap::new(), wanted: BTreeSet::new() };
    let needle = needle(&query.subject);
    let finder = memchr::memmem::Finder::new(&needle);
    for entry in reader.entries(reader.first())? {
        let entry = entry?;
        let index = LogIndex(entry.index.0);
        // Most entries do not mention the name at all; those that tell of an earlier match follow close behind it.
        if search.wanted.is_empty() && finder.find(&entry.body).is_none() {
            continue;
        }
        let decoded = Entry::decode_body(index, Term(entry.term.0), &entry.body)
            .map_err(|error| unreadable(index, &error))?;
        search.entry(&decoded);
    }
    for decided in pending {
        search.decided(decided, WallTime::ZERO);
    }
    let mut records: Vec<WhyRecord> = search.found.into_values().collect();
    let surplus = records.len().saturating_sub(query.max);
    records.drain(..surplus);
    Ok(records)
}

struct Search<'a> {
    query: &'a WhyQuery,
    /// By entry and place in it: commands first, then what happened by itself.
    found: BTreeMap<(LogIndex, u8, u64), WhyRecord>,
    /// Entries of which what they came to is still to be read.
    wanted: BTreeSet<LogIndex>,
}

impl Search<'_> {
    fn entry(&mut self, entry: &Entry) {
        for decided in &entry.decided {
            self.decided(decided, entry.wall);
        }
        for (place, command) in entry.commands.iter().enumerate() {
            if mentions(command, &self.query.subject) {
                self.found.insert((entry.index, 0, place as u64), record(entry, command));
                self.wanted.insert(entry.index);
            }
        }
        while self.found.len() > self.query.max.saturating_mul(2).max(64) {
            self.found.pop_first();
        }
    }

    fn decided(&mut self, decided: &Decided, wall: WallTime) {
        self.wanted.remove(&decided.index);
        let of_entry = (decided.index, 0, 0)..(decided.index, 1, 0);
        for ((_, _, place), found) in self.found.range_mut(of_entry) {
            if let Some(verdict) = decided.commands.get(*place as usize) {
                found.verdict = verdict.into();
            }
        }
        let server = |what, verdict| WhyRecord {
            index: decided.index,
            wall,
            principal: "server".into(),
            client: Blob::EMPTY,
            trace: Blob::EMPTY,
            what,
            verdict,
        };
        for fired in &decided.fired {
            let mine = matches!(&self.query.subject, Subject::Task { task } if *task == fired.task);
            if mine || fired.names.contains(&self.query.subject) {
                let found = server(WhyWhat::Fired(fired.task.clone()), (&fired.verdict).into());
                self.by_itself(1, found);
            }
        }
        for change in decided.automatic.iter().filter(|change| concerns(change, &self.query.subject)) {
            let found = server(WhyWhat::Automatic(change.clone()), WhyVerdict::Done(change.revision));
            self.by_itself(2, found);
        }
    }
}

impl Search<'_> {
    /// Adds what happened by itself, unless a crash between two parts had it told again.
    fn by_itself(&mut self, kind: u8, record: WhyRecord) {
        let index = record.index;
        let told = self.found.range((index, kind, 0)..=(index, kind, u64::MAX));
        if told.clone().all(|(_, other)| other.what != record.what) {
            let place = told.last().map_or(0, |((_, _, place), _)| place + 1);
            self.found.insert((index, kind, place), record);
        }
    }
}

fn record(entry: &Entry, command: &Command) -> WhyRecord {
    WhyRecord {
        index: entry.index,
        wall: entry.wall,
        principal: command.principal.clone(),
        client: command.client.clone(),
        trace: command.trace.clone(),
        what: WhyWhat::Command(Box::new(command.body.clone())),
        verdict: WhyVerdict::Unknown,
    }
}

/// Whether a key that changed by itself belongs to a subject.
fn concerns(change: &AutomaticChange, subject: &Subject) -> bool {
    match subject {
        Subject::Key { key } => change.key == *key,
        Subject::Lock { lock } => {
            let row = change
                .key
                .name
                .strip_prefix(lock.0.as_slice())
                .is_some_and(|rest| rest.first() == Some(&b'/'));
            change.key.space == Keyspace::LOCKS && row
        }
        Subject::Service { service } => quorate_machine::service_range(service).contains(&change.key),
        Subject::Lease { lease } => {
            change.key.space == Keyspace::LOCKS
                && change.key.name.ends_with(format!("/{:x}", lease.0).as_bytes())
        }
        Subject::Limit { .. }
        | Subject::Idempotency { .. }
        | Subject::Stream { .. }
        | Subject::Group { .. }
        | Subject::Transaction { .. }
        | Subject::Task { .. } => false,
    }
}

/// Bytes that every entry mentioning the subject contains.
fn needle(subject: &Subject) -> Vec<u8> {
    match subject {
        Subject::Key { key } | Subject::Stream { stream: key } => key.name.to_vec(),
        Subject::Lock { lock } => lock.0.to_vec(),
        Subject::Limit { limit } => limit.0.to_vec(),
        Subject::Idempotency { key } => key.0.to_vec(),
        Subject::Task { task } => task.0.to_vec(),
        Subject::Service { service } => service.0.to_vec(),
        Subject::Group { group } => group.0.to_vec(),
        Subject::Transaction { name } => name.to_vec(),
        // A lease is a number: nothing to look for, every entry is read.
        Subject::Lease { .. } => Vec::new(),
    }
}

fn unreadable(index: LogIndex, error: &DecodeError) -> LogError {
    LogError::Config(format!("entry {index} cannot be read: {error}: open it with the release that wrote it"))
}
