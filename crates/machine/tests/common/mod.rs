//! Drives a machine by entries, as an orderer would, and builds commands in few words.
//!
//! Invariant: every entry goes to the machine as the log would give it back: encoded, decoded, then applied. A twin with
//! another hash seed applies the same entries, and both agree on outcomes, events and digest after each.
//! Invariant: `check()` holds after every entry.
//! Called by: the tests of this folder.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use bytes::Bytes;
use quorate_machine::{Event, Fired, Machine, Outputs, Restorer};
use quorate_types::codec::Writer;
use quorate_types::*;

/// A machine, its twin, and the clocks of their orderer.
pub struct Driver {
    pub machine: Machine,
    twin: Machine,
    pub index: u64,
    /// See [`Machine::with_empty_whole`].
    empty_whole: u64,
    /// Log time in milliseconds.
    pub time_ms: u64,
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    pub events: Vec<Event>,
    pub fired: Vec<Fired>,
    /// Every entry so far.
    pub entries: Vec<Entry>,
}

/// Where wall time begins.
pub const WALL: u64 = 1_000_000;

impl Driver {
    pub fn new() -> Self {
        Self::over(Machine::new(1), Machine::new(2))
    }

    /// Whose keyspaces of more than so many keys are emptied at once.
    pub fn emptying(keys: u64) -> Self {
        let machine = |seed| Machine::new(seed).with_empty_whole(keys);
        Self { empty_whole: keys, ..Self::over(machine(1), machine(2)) }
    }

    fn over(machine: Machine, twin: Machine) -> Self {
        let (index, time_ms) = (machine.applied().0, machine.log_time().0 / 1_000_000);
        let wall_ms = machine.wall().0.max(WALL);
        let empty_whole = quorate_machine::EMPTY_WHOLE;
        Self {
            machine,
            twin,
            index,
            empty_whole,
            time_ms,
            wall_ms,
            events: vec![],
            fired: vec![],
            entries: vec![],
        }
    }

    /// With other settings than the defaults.
    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut driver = Self::new();
        driver.configure(change);
        driver
    }

    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.machine.settings().clone();
        change(&mut settings);
        self.send(CommandBody::Configure { settings });
    }

    /// Lets both clocks run; the next entry is stamped with what they show.
    pub fn pass(&mut self, ms: u64) -> &mut Self {
        self.time_ms += ms;
        self.wall_ms += ms;
        self
    }

    /// Lets both clocks run, and applies an empty entry.
    pub fn sleep(&mut self, ms: u64) -> Vec<Event> {
        self.pass(ms);
        self.entry(vec![]);
        self.events.clone()
    }

    /// Applies one entry of these commands: the outcomes. Events and firings are in the fields.
    pub fn entry(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        self.index += 1;
        let mut entry = Entry {
            index: LogIndex(self.index),
            term: Term(1),
            wall: WallTime(self.wall_ms),
            time: LogTime(self.time_ms * 1_000_000),
            seed: self.index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            machine_version: 1,
            commands,
            origins: vec![],
            decided: vec![],
        };
        entry.seal();
        let mut body = Writer::default();
        entry.encode_body(&mut body);
        let read = Entry::decode_body(entry.index, entry.term, &Bytes::from(body.buffer)).unwrap();
        assert_eq!(read, entry, "an entry reads back as written");
        let (mut out, mut other) = (Outputs::default(), Outputs::default());
        self.machine.apply(&read, &mut out);
        self.twin.apply(&entry, &mut other);
        assert_eq!(out.outcomes, other.outcomes, "both decide alike");
        assert_eq!(out.events, other.events, "both tell the same");
        assert_eq!(out.fired, other.fired, "the same tasks fire");
        assert_eq!(self.machine.digest(), self.twin.digest(), "both come to the same state");
        self.machine.check();
        for outcome in &out.outcomes {
            let bytes = Bytes::from(codec::encode(outcome));
            assert_eq!(codec::decode::<Outcome>(&bytes).as_ref(), Ok(outcome), "outcomes have a binary form");
        }
        self.entries.push(entry);
        self.events = out.events;
        self.fired = out.fired;
        out.outcomes
    }

    /// Goes on with machines read back from a snapshot.
    pub fn restore_both(&mut self) {
        let chunks = snapshot_of(&mut self.machine, 3);
        let read = |seed| restore(&chunks, seed).with_empty_whole(self.empty_whole);
        let (machine, twin) = (read(11), read(12));
        assert_eq!(machine.digest(), self.machine.digest(), "a snapshot holds the whole state");
        (self.machine, self.twin) = (machine, twin);
    }

    /// One command of `anonymous`, in an entry of its own.
    pub fn send(&mut self, body: CommandBody) -> Outcome {
        self.send_as("anonymous", body)
    }

    pub fn send_as(&mut self, principal: &str, body: CommandBody) -> Outcome {
        self.entry(vec![Command::new(principal.into(), body)]).pop().unwrap()
    }

    pub fn outcome(&mut self, commit: Commit) -> Outcome {
        self.send(CommandBody::Commit { commit })
    }

    /// A commit, refused or not. A refused one must leave the state as it was, to the byte.
    pub fn commit(&mut self, commit: Commit) -> Result<Committed, Refusal> {
        self.commit_as("anonymous", commit)
    }

    pub fn commit_as(&mut self, principal: &str, commit: Commit) -> Result<Committed, Refusal> {
        let before = snapshot_of(&mut self.machine, 1000);
        match self.send_as(principal, CommandBody::Commit { commit }) {
            Outcome::Committed { committed } => Ok(committed),
            Outcome::Refused { refusal } => {
                let mut idle = restore(&before, 3).with_empty_whole(self.empty_whole);
                let entry = self.entries.last().expect("it was just applied");
                idle.apply(&Entry { commands: vec![], ..entry.clone() }, &mut Outputs::default());
                assert_eq!(self.machine.revision(), idle.revision(), "a refusal takes no revision");
                assert_eq!(self.machine.digest(), idle.digest(), "a refused commit changes nothing");
                Err(refusal)
            }
            other => panic!("a commit is committed or refused, not {other:?}"),
        }
    }

    /// Operations that must succeed: their results.
    #[track_caller]
    pub fn run(&mut self, ops: Vec<Op>) -> Vec<OpResult> {
        self.commit(Commit::of(ops)).expect("these operations succeed").results
    }

    /// One operation that must succeed.
    #[track_caller]
    pub fn op(&mut self, op: Op) -> OpResult {
        self.run(vec![op]).pop().unwrap()
    }

    /// One operation that must succeed, without a look at the whole state: for thousands of them.
    #[track_caller]
    pub fn machine_op(&mut self, op: Op) {
        let outcome = self.outcome(Commit::of(vec![op]));
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    }

    /// One operation that must fail.
    #[track_caller]
    pub fn fails(&mut self, op: Op) -> OpError {
        match self.commit(Commit::of(vec![op])).expect_err("this operation fails") {
            Refusal::Operation { op: 0, error } => error,
            other => panic!("{other}"),
        }
    }

    /// A commit of one guard that must pass.
    #[track_caller]
    pub fn passes(&mut self, guard: Guard) {
        self.commit(guarded(vec![guard], vec![])).expect("this guard passes");
    }

    /// A commit of one guard that must fail.
    #[track_caller]
    pub fn refuses(&mut self, guard: Guard) -> GuardFailed {
        match self.commit(guarded(vec![guard], vec![put("x", "x")])).expect_err("this guard fails") {
            Refusal::Guards { mut failed } if failed.len() == 1 && failed[0].0 == 0 => failed.remove(0).1,
            other => panic!("{other}"),
        }
    }

    pub fn lease(&mut self, id: u64, ttl_ms: u64) -> LeaseId {
        self.op(Op::LeaseGrant { lease: LeaseId(id), ttl: Millis(ttl_ms) });
        LeaseId(id)
    }

    #[track_caller]
    pub fn acquire(&mut self, lock: &str, lease: u64) -> FencingToken {
        let OpResult::Token { token } = self.op(acquire(lock, lease)) else { panic!("a token") };
        token
    }

    pub fn wait(&mut self, lock: &str, lease: u64, mode: LockMode, timeout_ms: Option<u64>) -> Outcome {
        self.send(CommandBody::Wait { wait: waiting(lock, lease, lease, mode, timeout_ms) })
    }

    pub fn value(&self, key: &str) -> Option<String> {
        self.machine.get(&key.into()).map(|found| found.value.to_string())
    }

    /// What a restart makes of it: a snapshot, read back.
    pub fn restart(&mut self) {
        let copies = [11, 12].map(|seed| restore(&snapshot_of(&mut self.machine, 7), seed));
        for copy in &copies {
            assert_eq!(copy.digest(), self.machine.digest(), "a snapshot tells the whole state");
            copy.check();
        }
        let [machine, twin] = copies;
        (self.machine, self.twin) = (machine, twin);
    }
}

/// A whole snapshot, in slices of so many rows.
pub fn snapshot_of(machine: &mut Machine, rows: usize) -> Vec<Vec<u8>> {
    machine.snapshot_begin();
    let mut chunks = vec![];
    while let Some(chunk) = machine.snapshot_next(rows) {
        chunks.push(chunk);
    }
    chunks
}

pub fn restore(chunks: &[Vec<u8>], hash_seed: u64) -> Machine {
    let mut restorer = Restorer::new(hash_seed);
    for chunk in chunks {
        restorer.push(&Bytes::copy_from_slice(chunk)).unwrap();
    }
    restorer.finish().unwrap()
}

pub fn guarded(guards: Vec<Guard>, then: Vec<Op>) -> Commit {
    Commit { guards, then, ..Commit::default() }
}

/// The commit under an idempotency key for a minute of log time, with its fingerprint.
pub fn keyed(key: &str, commit: Commit) -> Commit {
    keyed_for(key, 60_000, commit)
}

pub fn keyed_for(key: &str, ttl_ms: u64, mut commit: Commit) -> Commit {
    let fingerprint = commit.fingerprint();
    commit.idempotency = Some(Idempotency { key: key.into(), ttl: Millis(ttl_ms), fingerprint });
    commit
}

pub fn nested(commit: Commit) -> Op {
    Op::Nested { commit: Box::new(commit) }
}

pub fn each(then: Vec<Op>) -> Commit {
    Commit { then, mode: Mode::Each, ..Commit::default() }
}

pub fn put(key: &str, value: &str) -> Op {
    put_on(key, value, 0)
}

pub fn put_on(key: &str, value: &str, lease: u64) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: LeaseId(lease), prev: false }
}

pub fn delete(key: &str) -> Op {
    Op::Delete { key: key.into(), prev: false }
}

pub fn add(key: &str, by: i64) -> Op {
    Op::Increment { key: key.into(), by, min: i64::MIN, max: i64::MAX }
}

pub fn get(key: &str) -> Op {
    Op::Get { key: key.into() }
}

pub fn append(stream: &str, text: &str) -> Op {
    let record = Record { key: None, value: Some(Bytes::copy_from_slice(text.as_bytes())), headers: vec![] };
    Op::Append {
        append: Append {
            stream: stream.into(),
            partition: PartitionChoice::Any,
            format: Format::Records,
            records: 1,
            payload: record::encode(&[record]),
            create: true,
        },
    }
}

pub fn letter(stream: &str) -> Box<Append> {
    let Op::Append { append } = append(stream, "dead") else { unreachable!() };
    Box::new(append)
}

pub fn acquire(lock: &str, lease: u64) -> Op {
    acquire_as(lock, lease, lease, LockMode::Exclusive)
}

pub fn acquire_as(lock: &str, lease: u64, request: u64, mode: LockMode) -> Op {
    Op::Acquire { lock: lock.into(), lease: LeaseId(lease), mode, request, value: Blob::EMPTY }
}

pub fn release(lock: &str, token: FencingToken) -> Op {
    Op::Release { lock: lock.into(), token }
}

pub fn waiting(lock: &str, lease: u64, request: u64, mode: LockMode, timeout_ms: Option<u64>) -> WaitRequest {
    WaitRequest {
        lock: lock.into(),
        lease: LeaseId(lease),
        mode,
        request,
        value: Blob::EMPTY,
        timeout: timeout_ms.map(Millis),
    }
}

pub fn fence(lock: &str, token: FencingToken) -> Guard {
    Guard::Fence { lock: lock.into(), token }
}

pub fn version_is(key: &str, wanted: u64) -> Guard {
    Guard::Key { key: key.into(), field: KeyField::Version, compare: Compare::Equal, wanted }
}

pub fn limit(name: &str, policy: LimitPolicy, cost: u64) -> Guard {
    Guard::Limit { name: name.into(), policy, cost }
}

pub fn bucket(count: u64, period_ms: u64, burst: u64) -> LimitPolicy {
    LimitPolicy::Bucket { count, period: Millis(period_ms), burst }
}

pub fn schedule(task: &str, after_ms: u64, commit: Commit, on_refused: OnRefused) -> Op {
    Op::Schedule {
        task: task.into(),
        when: When::In { after: Millis(after_ms) },
        commit: Box::new(commit),
        on_refused,
    }
}

pub fn claim(key: &str, lease: u64, fingerprint: u128) -> Op {
    Op::Claim {
        key: key.into(),
        ttl: Millis(60_000),
        lease: LeaseId(lease),
        fingerprint: Fingerprint(fingerprint),
    }
}

pub fn everything() -> KeyRange {
    KeyRange { start: Key::new(""), end: None }
}
