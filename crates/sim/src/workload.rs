//! The clients: each with a session of its own, doing what clients do, retrying what they could not know.
//!
//! What a client believes (its lease, its tokens, its deliveries) may be stale, as it is for clients; only its counters are promises:
//! every increment goes under an idempotency key until it is answered.
//!
//! Invariant: a client acts on what it was answered or has read, never on what the simulator knows.
//! Called by: the driver.

mod riders;

use crate::calls::words::Caller;
use crate::oracle::OpId;
use crate::random::Random;
use quorate_machine::Machine;
use quorate_types::{
    Append, Author, Blob, Command, CommandBody, Commit, CommittedOffset, Compare, Delivery, FencingToken,
    Fingerprint, Format, GroupMode, GroupName, GroupSettings, Guard, Idempotency, IdempotencyKey, Instance,
    Key, KeyField, KeyRange, LeaseId, LimitName, LimitPolicy, LockMode, LockName, LogTime, Membership,
    Millis, Mode, Numbered, Offset, OffsetCommit, OnRefused, Op, OpResult, Outcome, PartitionChoice,
    Principal, Produce, ProducerId, RangeRead, Record, Refusal, Resolution, Retention, Revision, Select,
    StreamOffsets, StreamSettings, TRANSACTION_MS_MAX, TaskName, WaitRequest, WallTime, When, record,
};

/// What the workload dwells on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scenario {
    /// A little of everything.
    #[default]
    Mixed,
    /// Keys, ranges, compaction.
    Keys,
    /// Streams and groups.
    Streams,
    /// Leases, locks, elections.
    Locks,
    /// Idempotency, claims, limits, timers.
    Asks,
    /// Redis calls.
    Calls,
    /// Users and what they may do, beside a little of everything.
    Users,
    /// Groups of members and their offsets, beside a little of everything.
    Members,
    /// Producers that number their batches, beside a little of everything.
    Producers,
    /// Alarms that go up and down, beside a little of everything.
    Alarms,
}

impl Scenario {
    /// Every scenario.
    pub const ALL: [Self; 10] = [
        Self::Mixed,
        Self::Keys,
        Self::Streams,
        Self::Locks,
        Self::Asks,
        Self::Calls,
        Self::Users,
        Self::Members,
        Self::Producers,
        Self::Alarms,
    ];
    /// How many of them campaigns choose from. The others have campaigns of their own: seeds that are known for what they find keep finding it.
    const CHOSEN: usize = 6;

    /// The scenario of a seed in a campaign.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        Self::ALL[(seed % Self::CHOSEN as u64) as usize]
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Keys => "keys",
            Self::Streams => "streams",
            Self::Locks => "locks",
            Self::Asks => "asks",
            Self::Calls => "calls",
            Self::Users => "users",
            Self::Members => "members",
            Self::Producers => "producers",
            Self::Alarms => "alarms",
        }
    }

    /// The scenario of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// In one of so many seeds clients say scripts: a process that has seen one pays for an interpreter at each start.
    pub(crate) fn scripts_one_in(self) -> u64 {
        if self == Self::Calls { 4 } else { 16 }
    }

    /// Weights of: keys, streams, groups, sessions, locks, limits, tasks, asks, services, anything, calls.
    fn weights(self) -> [u64; 11] {
        match self {
            Self::Mixed => [12, 10, 8, 8, 14, 8, 8, 18, 3, 8, 10],
            Self::Keys => [50, 4, 2, 4, 4, 2, 2, 12, 2, 10, 4],
            Self::Streams => [4, 34, 26, 3, 3, 2, 6, 12, 1, 8, 2],
            Self::Locks => [3, 2, 2, 22, 44, 4, 3, 10, 4, 6, 2],
            Self::Asks => [3, 3, 2, 8, 4, 18, 18, 36, 1, 6, 2],
            Self::Calls => [3, 2, 1, 2, 2, 1, 1, 8, 0, 2, 70],
            Self::Users | Self::Members | Self::Alarms => [20, 8, 4, 6, 8, 4, 4, 12, 2, 6, 6],
            Self::Producers => [8, 10, 4, 4, 4, 2, 4, 12, 1, 4, 4],
        }
    }
}

/// What a client hopes to learn from an answer.
#[derive(Clone, Debug)]
pub(crate) enum Hope {
    Nothing,
    /// That its increment has happened.
    Must,
    /// What became of its increment.
    Resolved,
    Lease,
    Token(LockName),
    Deliveries,
    Claim(IdempotencyKey),
    /// That this element was pushed into a queue; or to be given one.
    Queue(Option<Blob>),
    /// A number to produce with.
    Producer,
    /// That its batch is appended.
    Batch,
    /// That its transaction takes a step.
    Step,
}

/// An increment that must happen once.
#[derive(Clone, Debug)]
pub(crate) struct Must {
    key: IdempotencyKey,
    commit: Commit,
    since: LogTime,
    /// Sent at least once without an answer.
    unknown: bool,
}

/// What the world looks like to a client.
pub(crate) struct View<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) time: LogTime,
    pub(crate) wall: WallTime,
    /// Retries are sent without their key: a planted bug.
    pub(crate) keyless: bool,
}

/// How long the answer to an increment is kept; a client gives up asking long before.
const MUST_TTL: Millis = Millis(6_000);

/// See the module's documentation.
pub(crate) struct Client {
    number: u64,
    principal: Principal,
    lease: Option<LeaseId>,
    tokens: Vec<(LockName, FencingToken)>,
    deliveries: Vec<Delivery>,
    claim: Option<(IdempotencyKey, FencingToken)>,
    must: Option<Must>,
    pub(crate) caller: Caller,
    producing: Producing,
    transacting: Transacting,
    next: u64,
    /// The proposal it waits for, and why.
    pub(crate) busy: Option<(OpId, Hope)>,
    /// Increments that it was told have happened.
    pub(crate) acked: u64,
    /// Increments of which it gave up learning.
    pub(crate) unknown: u64,
    /// Set once it was answered its last commit.
    pub(crate) finished: bool,
    finishing: bool,
    /// It sends transactions as etcd's clients do, too.
    transacts: bool,
}

impl Client {
    pub(crate) fn new(number: u64, scripts: bool) -> Self {
        Self {
            number,
            // Two clients share a principal, so that their keys may meet.
            principal: format!("user{}", number / 2).into(),
            lease: None,
            tokens: Vec::new(),
            deliveries: Vec::new(),
            claim: None,
            must: None,
            caller: Caller::new(number, scripts),
            producing: Producing::default(),
            transacting: Transacting::default(),
            next: 0,
            busy: None,
            acked: 0,
            unknown: 0,
            finished: false,
            finishing: false,
            transacts: false,
        }
    }

    /// The same, and it sends transactions as etcd's clients do, too.
    pub(crate) fn transacting(self) -> Self {
        Self { transacts: true, ..self }
    }

    /// The key that its increments go to.
    pub(crate) fn counter(&self) -> Key {
        Key::new(format!("n/{}", self.number))
    }

    /// From now on it only brings its affairs to an end.
    pub(crate) fn finish(&mut self) {
        self.finishing = true;
    }

    /// Takes the answer to what it waited for.
    pub(crate) fn answered(&mut self, hope: &Hope, outcome: &Outcome, random: &mut Random) {
        match (hope, outcome) {
            (Hope::Must, Outcome::Committed { .. }) => {
                self.acked += 1;
                self.must = None;
                self.finished = self.finishing;
            }
            (Hope::Must, Outcome::Refused { refusal }) => self.must_refused(refusal),
            (Hope::Resolved, Outcome::Resolved { resolution }) => self.must_resolved(resolution),
            (Hope::Lease, Outcome::Committed { committed }) => {
                if let Some(OpResult::Lease { lease, .. }) = committed.results.first() {
                    self.lease = Some(*lease);
                    self.tokens.clear();
                }
            }
            (Hope::Token(lock), Outcome::Granted { token }) => self.tokens.push((lock.clone(), *token)),
            (Hope::Token(lock), Outcome::Committed { committed }) => {
                for result in &committed.results {
                    if let OpResult::Token { token } = result {
                        self.tokens.push((lock.clone(), *token));
                    }
                }
            }
            (Hope::Deliveries, Outcome::Committed { committed }) => {
                for result in &committed.results {
                    if let OpResult::Taken { deliveries } = result {
                        self.deliveries.extend(deliveries.iter().map(|taken| taken.delivery));
                    }
                }
            }
            (Hope::Queue(pushed), Outcome::Committed { committed }) => {
                self.caller.answered(pushed.as_ref(), &committed.results);
            }
            (Hope::Claim(key), Outcome::Committed { committed }) => {
                if let Some(OpResult::Claim { answer: None, token }) = committed.results.first() {
                    self.claim = Some((key.clone(), *token));
                }
            }
            (Hope::Producer, Outcome::Committed { committed }) => {
                if let Some(OpResult::Producer { producer, epoch }) = committed.results.first() {
                    self.producing = Producing { number: Some((*producer, *epoch)), ..Producing::default() };
                }
            }
            (Hope::Batch, outcome) => self.producing.answered(outcome),
            (Hope::Step, outcome) => self.transacting.answered(outcome),
            _ => {}
        }
        if self.tokens.len() > 6 {
            let gone = random.below(self.tokens.len() as u64) as usize;
            self.tokens.remove(gone);
        }
    }

    /// It will never know from this proposal: it has to ask again.
    pub(crate) fn lost(&mut self) {
        if let Some(must) = &mut self.must {
            must.unknown = true;
        }
    }

    /// The proposal was not admitted: it did not happen.
    pub(crate) fn not_admitted(&mut self, hope: &Hope) {
        if matches!(hope, Hope::Must)
            && let Some(must) = &self.must
            && !must.unknown
            && !self.finishing
        {
            self.must = None;
        }
    }

    fn must_refused(&mut self, refusal: &Refusal) {
        match refusal {
            // Nothing under this key has happened or will, unless an earlier try whose answer was lost has.
            Refusal::Cancelled { .. } => self.must = None,
            _ => {
                if self.must.as_ref().is_some_and(|must| must.unknown) {
                    self.unknown += 1;
                }
                self.must = None;
            }
        }
    }

    fn must_resolved(&mut self, resolution: &Resolution) {
        match resolution {
            Resolution::Committed { committed }
                if matches!(committed.results[..], [OpResult::Number { .. }, ..]) =>
            {
                self.acked += 1;
                self.finished = self.finishing;
            }
            // The other request that it tried under this key came first: the increment has not happened and will not.
            Resolution::Committed { .. } | Resolution::Cancelled {} => {}
            Resolution::Completed { .. } | Resolution::InProgress { .. } => self.unknown += 1,
        }
        self.must = None;
    }

    /// What it does next, and what it hopes for; `busy` clients only do what needs no answer.
    pub(crate) fn act(
        &mut self,
        scenario: Scenario,
        random: &mut Random,
        view: &View<'_>,
    ) -> (CommandBody, Principal, Hope) {
        // A member that does not know users yet could not read about them.
        if scenario == Scenario::Users
            && view.machine.version() >= quorate_machine::CALLS_SINCE
            && random.chance(2)
        {
            let (body, principal) = crate::users::act(random, view.machine);
            return (body, principal, Hope::Nothing);
        }
        if scenario == Scenario::Alarms && random.chance(8) {
            let (body, principal) = crate::alarms::act(random, view.machine);
            return (body, principal, Hope::Nothing);
        }
        if scenario == Scenario::Members
            && view.machine.version() >= quorate_machine::CALLS_SINCE
            && !random.chance(3)
        {
            return (crate::members::act(random, view.machine), self.principal.clone(), Hope::Nothing);
        }
        let knows = view.machine.version() >= quorate_machine::CALLS_SINCE;
        if scenario == Scenario::Producers && knows && self.busy.is_none() && random.chance(2) {
            let (body, hope) =
                if random.chance(2) { self.produce(random, view) } else { self.transact(random, view) };
            return (body, self.principal.clone(), hope);
        }
        let (body, hope) = self.choose(scenario, random, view);
        // What only a busy client's answer could tell is not asked while it waits for another.
        let hope = if self.busy.is_some() { Hope::Nothing } else { hope };
        (body, self.principal.clone(), hope)
    }

    /// The next step of a client that brings its affairs to an end; none when all is done.
    pub(crate) fn conclude(&mut self, view: &View<'_>) -> Option<(CommandBody, Principal, Hope)> {
        if self.busy.is_some() || self.finished {
            return None;
        }
        let lease = self.lease.take().filter(|lease| view.machine.lease(*lease).is_some());
        let (body, hope) = match lease {
            Some(lease) => (commit(vec![Op::LeaseRevoke { lease }]), Hope::Nothing),
            None => self.must(view),
        };
        Some((body, self.principal.clone(), hope))
    }

    fn choose(&mut self, scenario: Scenario, random: &mut Random, view: &View<'_>) -> (CommandBody, Hope) {
        if view.machine.stream(&"s/plain".into()).is_none() && random.chance(2) {
            return (commit(declarations()), Hope::Nothing);
        }
        if self.busy.is_none() && self.must.as_ref().is_some_and(|must| must.unknown) {
            return self.ask_again(random, view);
        }
        let weights = scenario.weights();
        let mut choice = random.below(weights.iter().sum());
        let mut kind = 0;
        while choice >= weights[kind] {
            choice -= weights[kind];
            kind += 1;
        }
        match kind {
            0 => (self.keys(random, view), Hope::Nothing),
            1 => (self.streams(random, view), Hope::Nothing),
            2 => self.groups(random),
            3 => self.session(random),
            4 => self.locks(random),
            5 => (self.limits(random), Hope::Nothing),
            6 => (self.tasks(random, view), Hope::Nothing),
            7 => self.asks(random, view),
            8 => (self.services(random), Hope::Nothing),
            10 => self.caller.act(random, view),
            _ => (self.anything(random, view), Hope::Nothing),
        }
    }

    /// An increment that must happen once: begun, or sent again.
    fn must(&mut self, view: &View<'_>) -> (CommandBody, Hope) {
        if let Some(must) = &self.must
            && view.time > must.since.plus(Millis(MUST_TTL.0 / 2))
        {
            // Soon the answer is forgotten, and asking again would do it again.
            self.unknown += u64::from(must.unknown);
            self.must = None;
        }
        let again = self.must.is_some();
        if !again {
            self.next += 1;
            let key = IdempotencyKey::from(format!("must-{}-{}", self.number, self.next));
            let counter = self.counter();
            let mut wanted = Commit::of(vec![
                Op::Increment { key: counter, by: 1, min: 0, max: i64::MAX },
                append("s/plain", vec![self.record(None, 24)], PartitionChoice::Any),
            ]);
            if view.machine.stream(&"s/plain".into()).is_none() {
                wanted.then.pop();
            }
            wanted.idempotency = Some(keyed(&key, MUST_TTL));
            self.must = Some(Must { key, commit: wanted, since: view.time, unknown: false });
        }
        let must = self.must.as_ref().expect("it was just set");
        let mut wanted = must.commit.clone();
        if again && view.keyless {
            wanted.idempotency = None;
        }
        (CommandBody::Commit { commit: wanted }, Hope::Must)
    }

    fn ask_again(&mut self, random: &mut Random, view: &View<'_>) -> (CommandBody, Hope) {
        let Some(must) = &self.must else { return self.must(view) };
        match random.below(10) {
            0 => {
                // Another request under the same key: refused if the first has happened. By another client of the principal.
                let mut other = Commit::of(vec![put("k/other", "x", LeaseId::ZERO)]);
                other.idempotency = Some(keyed(&must.key, Millis(1)));
                if view.machine.get(&self.counter()).is_none() {
                    return self.must(view);
                }
                (CommandBody::Commit { commit: other }, Hope::Nothing)
            }
            1 | 2 => (CommandBody::Resolve { key: must.key.clone(), ttl: MUST_TTL }, Hope::Resolved),
            _ => self.must(view),
        }
    }

    fn keys(&mut self, random: &mut Random, view: &View<'_>) -> CommandBody {
        let key = Key::new(format!("k/{}", random.below(40)));
        let value = Blob::from(Random::bytes(random.next(), [3, 20, 60, 300][random.below(4) as usize]));
        let lease = self.lease.filter(|_| random.chance(6)).unwrap_or_default();
        let ops = match random.below(if self.transacts { 14 } else { 12 }) {
            12 | 13 => return body(self.transaction(random, view, 1)),
            0..=3 => vec![Op::Put { key, value, lease, prev: random.chance(2) }],
            4 => vec![Op::Delete { key, prev: true }],
            5 => vec![
                Op::Get { key: key.clone() },
                Op::Put { key: key.clone(), value, lease, prev: true },
                Op::Get { key },
            ],
            6 => vec![Op::Range { read: RangeRead::of(some_range(random)) }],
            7 => vec![Op::Increment {
                key: Key::new(format!("i/{}", random.below(4))),
                by: 3,
                min: -50,
                max: 60,
            }],
            8 => vec![Op::DeleteRange { range: some_range(random), prev: random.chance(2) }],
            9 | 10 => {
                let found = view.machine.get(&key).map_or(0, |found| found.version.0);
                let stale = u64::from(random.chance(4));
                let guard = Guard::Key {
                    key: key.clone(),
                    field: KeyField::Version,
                    compare: Compare::Equal,
                    wanted: found + stale,
                };
                let otherwise = random.chance(2).then(|| vec![Op::Get { key: key.clone() }]);
                let then = vec![Op::Put { key, value, lease, prev: false }];
                return body(Commit { guards: vec![guard], then, otherwise, ..Commit::default() });
            }
            _ => {
                let back = random.below(60);
                let at = Revision(view.machine.revision().0.saturating_sub(back));
                if random.chance(3) {
                    return CommandBody::Compact { before: at };
                }
                let range = some_range(random);
                let guard = Guard::RangeUnchanged { range: range.clone(), since: at };
                let then = vec![Op::Range { read: RangeRead { at: Some(at), ..RangeRead::of(range) } }];
                return body(Commit { guards: vec![guard], then, ..Commit::default() });
            }
        };
        commit(ops)
    }

    /// A transaction as etcd's clients make them: all of it, inner ones too, decided by the state before it.
    fn transaction(&mut self, random: &mut Random, view: &View<'_>, depth: u32) -> Commit {
        let key = |random: &mut Random| Key::new(format!("k/{}", random.below(40)));
        let guard = |random: &mut Random| {
            let key = key(random);
            let found = view.machine.get(&key);
            let compare = [Compare::Equal, Compare::NotEqual, Compare::Less, Compare::Greater]
                [random.below(4) as usize];
            match random.below(4) {
                0 => Guard::Value { key, compare, wanted: found.map_or(Blob::EMPTY, |found| found.value) },
                1 => {
                    let wanted = view.machine.revision().0.saturating_sub(random.below(20));
                    Guard::Keys { range: some_range(random), field: KeyField::ModRevision, compare, wanted }
                }
                2 => Guard::Values { range: some_range(random), compare, wanted: Blob::EMPTY },
                _ => {
                    let wanted = found.map_or(0, |found| found.create_revision.0);
                    Guard::Key { key, field: KeyField::CreateRevision, compare, wanted }
                }
            }
        };
        let guards = (0..random.below(3)).map(|_| guard(random)).collect();
        let then = (0..1 + random.below(3)).map(|_| match random.below(6) {
            0 => Op::Erase { range: some_range(random), prev: random.chance(2) },
            1 => Op::Select { select: Box::new(Select::of(some_range(random))) },
            2 | 3 if depth > 0 => Op::Nested { commit: Box::new(self.transaction(random, view, depth - 1)) },
            _ => {
                // One that keeps what is there is refused where nothing is.
                let bytes = Random::bytes(random.next(), [3, 40][random.below(2) as usize]);
                let value = (!random.chance(8)).then(|| Blob::from(bytes));
                let lease =
                    (!random.chance(8)).then(|| self.lease.filter(|_| random.chance(4)).unwrap_or_default());
                Op::Write { key: key(random), value, lease, prev: random.chance(2), keep: false }
            }
        });
        let then = then.collect();
        let otherwise = vec![Op::Select { select: Box::new(Select::of(some_range(random))) }];
        Commit { guards, then, otherwise: Some(otherwise), mode: Mode::Foreseen, ..Commit::default() }
    }

    fn record(&mut self, key: Option<Blob>, len: usize) -> Record {
        self.next += 1;
        let value = Random::bytes(self.number << 32 | self.next, len).into();
        Record { key, value: Some(value), headers: Vec::new() }
    }

    fn streams(&mut self, random: &mut Random, view: &View<'_>) -> CommandBody {
        let len = [8, 40, 120, 120, 700][random.below(5) as usize];
        let records: Vec<Record> = (0..random.between(1, 3)).map(|_| self.record(None, len)).collect();
        let op = match random.below(12) {
            0 | 1 => append("s/plain", records, PartitionChoice::Any),
            2 | 3 => append("s/bytes", records, PartitionChoice::Hash { hash: random.next() as u32 }),
            4 | 5 => append("s/age", records, PartitionChoice::Number { partition: 0 }),
            6 | 7 => append("s/queue", records, PartitionChoice::Any),
            8 | 9 => {
                let mut keyed = Vec::new();
                for _ in 0..random.between(1, 3) {
                    let key = Blob::from(format!("key{}", random.below(12)));
                    let mut record = self.record(Some(key), len);
                    if random.chance(6) {
                        record.value = None;
                    }
                    keyed.push(record);
                }
                append("s/compact", keyed, PartitionChoice::Number { partition: 0 })
            }
            10 => Op::StreamInfo { stream: "s/plain".into() },
            _ => {
                let next = view
                    .machine
                    .stream(&"s/age".into())
                    .and_then(|view| view.partitions.first().map(|part| part.next))
                    .unwrap_or_default();
                let guard = Guard::StreamAt { stream: "s/age".into(), partition: 0, next };
                let then = vec![append("s/age", records, PartitionChoice::Number { partition: 0 })];
                return body(Commit { guards: vec![guard], then, ..Commit::default() });
            }
        };
        commit(vec![op])
    }

    /// A batch in its turn, sent until it is answered; now and then one that was answered, or the first of another life.
    fn produce(&mut self, random: &mut Random, view: &View<'_>) -> (CommandBody, Hope) {
        if view.machine.stream(&"s/plain".into()).is_none() {
            return (commit(declarations()), Hope::Nothing);
        }
        let Some((producer, epoch)) = self.producing.number else {
            return (produce(Produce::Begin {}), Hope::Producer);
        };
        if self.producing.batch.is_none() {
            if random.chance(40) {
                // What it sent in this life may still come again.
                let sent = std::mem::take(&mut self.producing.sent);
                self.producing =
                    Producing { number: Some((producer, epoch + 1)), sent, ..Producing::default() };
            } else if random.chance(60) {
                self.producing.number = None;
            }
        }
        let Some((producer, epoch)) = self.producing.number else {
            return (produce(Produce::Begin {}), Hope::Producer);
        };
        if let Some(sent) = random.pick(&self.producing.sent).filter(|_| random.chance(6)).cloned() {
            return (produce(sent), Hope::Nothing);
        }
        if self.producing.batch.is_none() {
            let records: Vec<Record> = (0..random.between(1, 3)).map(|_| self.record(None, 30)).collect();
            let Op::Append { append } =
                append("s/plain", records, PartitionChoice::Number { partition: self.number as u32 % 2 })
            else {
                unreachable!("append makes an append")
            };
            let by = Numbered { producer, epoch, first: self.producing.next };
            self.producing.batch = Some(match random.chance(2) {
                true => {
                    let rider = self.rider(random, view, "a", 6);
                    Produce::AppendWith { append, by: Some(by), rider: Box::new(rider) }
                }
                false => Produce::Append { append, by },
            });
        }
        let batch = self.producing.batch.clone().expect("it was just set");
        (produce(batch), Hope::Batch)
    }

    /// The next step of a transaction, sent until it is answered. Two clients share a name, and fence each other off.
    fn transact(&mut self, random: &mut Random, view: &View<'_>) -> (CommandBody, Hope) {
        if view.machine.stream(&"s/plain".into()).is_none() {
            return (commit(declarations()), Hope::Nothing);
        }
        if self.transacting.step.is_none() {
            let step = self.next_step(random, view);
            self.transacting.step = Some(step);
        }
        let step = self.transacting.step.clone().expect("it was just set");
        (produce(step), Hope::Step)
    }

    fn next_step(&mut self, random: &mut Random, view: &View<'_>) -> Produce {
        let name = Blob::from(format!("tx/{}", self.number / 2));
        let author = self.transacting.author.clone().filter(|_| !random.chance(30));
        let Some(author) = author else {
            let timeout = match random.chance(2) {
                true => Millis(random.between(200, 3000)),
                false => Millis(TRANSACTION_MS_MAX),
            };
            return Produce::TakeOver { name, timeout, known: None };
        };
        let partition = self.number as u32 % 2;
        if !self.transacting.open {
            let parts = vec![("s/plain".into(), partition)];
            return Produce::Enlist { author, parts, groups: vec!["sim".into()] };
        }
        if random.chance(5) {
            return Produce::End { author, commits: !random.chance(3) };
        }
        if random.chance(6) {
            let mark = CommittedOffset { offset: Offset(random.below(50)), ..CommittedOffset::default() };
            let offsets = vec![StreamOffsets { stream: "s/plain".into(), partitions: vec![(0, mark)] }];
            let commit = OffsetCommit { group: "sim".into(), by: Membership::default(), offsets };
            return Produce::HoldOffsets { author, commit: Box::new(commit) };
        }
        let records: Vec<Record> = (0..random.between(1, 3)).map(|_| self.record(None, 30)).collect();
        let Op::Append { append } = append("s/plain", records, PartitionChoice::Number { partition }) else {
            unreachable!("append makes an append")
        };
        let by = Numbered { producer: author.producer, epoch: author.epoch, first: self.transacting.next };
        if random.chance(2) {
            // Few keys, so that what one has done comes again under another's number; a transaction with two is refused.
            let keys = if self.transacting.next == 0 || random.chance(5) { 2 } else { 0 };
            let rider = self.rider(random, view, "t", keys);
            return Produce::HoldWith { name, append, by, rider: Box::new(rider) };
        }
        Produce::Hold { name, append, by }
    }

    fn groups(&mut self, random: &mut Random) -> (CommandBody, Hope) {
        let (stream, group) = (Key::new("s/queue"), GroupName::from("workers"));
        let some = self.deliveries.len().min(random.between(1, 4) as usize);
        if some == 0 || random.chance(3) {
            let consumer = Blob::from(format!("c{}", self.number));
            let visibility = random.chance(3).then(|| Millis(random.between(20, 400)));
            let max = random.between(1, 4) as u32;
            return (commit(vec![Op::Take { stream, group, consumer, max, visibility }]), Hope::Deliveries);
        }
        let deliveries: Vec<Delivery> = self.deliveries.drain(..some).collect();
        let op = match random.below(8) {
            0 | 1 => Op::Nack { stream, group, deliveries, delay: Millis(random.below(200)) },
            2 => Op::Extend { stream, group, deliveries, visibility: Millis(random.between(50, 500)) },
            3 => {
                let (group, partition) = (GroupName::from("readers"), 0);
                let offset = quorate_types::Offset(random.below(20));
                Op::CursorCommit { stream: "s/plain".into(), group, partition, offset, expected: None }
            }
            // As a consumer that died with its deliveries.
            4 => Op::StreamInfo { stream },
            _ => Op::Ack { stream, group, deliveries },
        };
        (commit(vec![op]), Hope::Nothing)
    }

    fn session(&mut self, random: &mut Random) -> (CommandBody, Hope) {
        let Some(lease) = self.lease else {
            let ttl = Millis(random.between(300, 3000));
            return (commit(vec![Op::LeaseGrant { lease: LeaseId::ZERO, ttl }]), Hope::Lease);
        };
        match random.below(12) {
            0 => {
                self.lease = None;
                (commit(vec![Op::LeaseRevoke { lease }]), Hope::Nothing)
            }
            // Forgotten: it will expire.
            1 => {
                self.lease = None;
                (commit(vec![Op::LeaseInfo { lease }]), Hope::Nothing)
            }
            2 | 3 => (commit(vec![Op::LeaseKeepAlive { lease }]), Hope::Nothing),
            _ => (CommandBody::KeepAlive { leases: vec![lease] }, Hope::Nothing),
        }
    }

    fn locks(&mut self, random: &mut Random) -> (CommandBody, Hope) {
        let Some(lease) = self.lease else { return self.session(random) };
        let (name, mode) = match random.below(8) {
            0 | 1 => ("lock/0", LockMode::Exclusive),
            2 | 3 => ("lock/1", LockMode::Exclusive),
            4 => ("rw/0", if random.chance(3) { LockMode::Exclusive } else { LockMode::Shared }),
            5 => ("sem/0", LockMode::Semaphore { permits: 2 }),
            _ => ("elect/0", LockMode::Exclusive),
        };
        let lock = LockName::from(name);
        // A request asks for one thing: asked again in another mode it would be another request.
        let request = random.below(3) + if mode == LockMode::Exclusive { 10 } else { 20 };
        let value = Blob::from(format!("c{}", self.number));
        let held = random.pick(&self.tokens).cloned();
        match (random.below(12), held) {
            (0..=3, _) => {
                let timeout = (!random.chance(4)).then(|| Millis(random.between(1, 1500)));
                let wait = WaitRequest { lock: lock.clone(), lease, mode, request, value, timeout };
                (CommandBody::Wait { wait }, Hope::Token(lock))
            }
            (4, _) => (CommandBody::CancelWait { lock, lease, request }, Hope::Nothing),
            (5, _) if name == "elect/0" => {
                let op = Op::Campaign { election: lock.clone(), lease, request, value };
                (commit(vec![op]), Hope::Token(lock))
            }
            (5, _) | (_, None) => {
                let op = Op::Acquire { lock: lock.clone(), lease, mode, request, value };
                (commit(vec![op, Op::LockInfo { lock: lock.clone() }]), Hope::Token(lock))
            }
            (6..=8, Some((lock, token))) => {
                // Its own token, or one that is certainly not the newest.
                let offered = if random.chance(5) { FencingToken(token.0 / 2) } else { token };
                let key = Key::new(format!("fenced/{lock}"));
                let then = vec![Op::Put { key, value, lease: LeaseId::ZERO, prev: false }];
                let guards = vec![Guard::Fence { lock, token: offered }];
                (body(Commit { guards, then, ..Commit::default() }), Hope::Nothing)
            }
            (9, Some((election, token))) if election.0.starts_with(b"elect") => {
                let then = vec![Op::Proclaim { election: election.clone(), token, value }];
                let guards = vec![Guard::Leadership { election, lease }];
                (body(Commit { guards, then, ..Commit::default() }), Hope::Nothing)
            }
            (_, Some((lock, token))) => {
                self.tokens.retain(|(_, held)| *held != token);
                (commit(vec![Op::Release { lock, token }]), Hope::Nothing)
            }
        }
    }

    fn limits(&mut self, random: &mut Random) -> CommandBody {
        let cost = random.between(1, 3);
        let (name, policy) = match random.below(5) {
            0 => ("lim/bucket", LimitPolicy::Bucket { count: 5, period: Millis(700), burst: 8 }),
            1 => ("lim/fixed", LimitPolicy::FixedWindow { count: 6, window: Millis(500) }),
            2 => ("lim/sliding", LimitPolicy::SlidingWindow { count: 6, window: Millis(500) }),
            3 => return CommandBody::Denied { name: "lim/bucket".into(), count: 2 },
            _ => return self.slots(random),
        };
        let name = LimitName::from(name);
        let then = vec![
            Op::LimitPeek { name: name.clone(), policy },
            put(&format!("spent/{name}"), "x", LeaseId::ZERO),
        ];
        body(Commit { guards: vec![Guard::Limit { name, policy, cost }], then, ..Commit::default() })
    }

    fn slots(&mut self, random: &mut Random) -> CommandBody {
        let lease = self.lease.unwrap_or(LeaseId(7));
        let (name, slot) = (LimitName::from("slots"), Blob::from(format!("s{}", random.below(3))));
        if random.chance(3) {
            return commit(vec![Op::FreeSlot { name, lease, slot }]);
        }
        let guards = vec![Guard::Slots { name, max: 3, lease, slot }];
        body(Commit { guards, then: vec![put("slotted", "x", LeaseId::ZERO)], ..Commit::default() })
    }

    fn tasks(&mut self, random: &mut Random, view: &View<'_>) -> CommandBody {
        let task = TaskName::from(format!("task/{}", random.below(12)));
        if random.chance(8) {
            return commit(vec![Op::Cancel { task }]);
        }
        let when = if random.chance(3) {
            When::At { time: WallTime(view.wall.0 + random.below(1200)) }
        } else {
            When::In { after: Millis(random.below(1500)) }
        };
        let mut then =
            vec![Op::Increment { key: Key::new(format!("f/{task}")), by: 1, min: 0, max: i64::MAX }];
        if random.chance(2) {
            then.push(append("s/fired", vec![self.record(None, 40)], PartitionChoice::Any));
        }
        let mut inner = Commit::of(then);
        let mut on_refused = OnRefused::Drop;
        if random.chance(2) {
            // A guard that fails until the key has been written so often. No lease takes that key away in the middle of an entry.
            inner.guards.push(Guard::Key {
                key: Key::new(format!("i/{}", random.below(4))),
                field: KeyField::Version,
                compare: Compare::Greater,
                wanted: random.below(30),
            });
            on_refused = match random.below(3) {
                0 => OnRefused::Drop,
                1 => OnRefused::Retry {
                    attempts: random.between(1, 4) as u32,
                    backoff: Millis(random.between(1, 200)),
                },
                _ => {
                    let record = self.record(None, 30);
                    let Op::Append { append } = append("dead/tasks", vec![record], PartitionChoice::Any)
                    else {
                        unreachable!("append makes an append")
                    };
                    OnRefused::DeadLetter { letter: Box::new(append) }
                }
            };
        }
        commit(vec![Op::Schedule { task, when, commit: Box::new(inner), on_refused }])
    }

    fn asks(&mut self, random: &mut Random, view: &View<'_>) -> (CommandBody, Hope) {
        if let Some((key, token)) = self.claim.take().filter(|_| random.chance(2)) {
            let answer = Blob::from(format!("done by {}", self.number));
            return (commit(vec![Op::Complete { key, token, answer }]), Hope::Nothing);
        }
        // Shared with the other client of the principal.
        let key = IdempotencyKey::from(format!("shared-{}", random.below(20)));
        match random.below(10) {
            0 => {
                let lease = self.lease.filter(|_| random.chance(2)).unwrap_or_default();
                let key = IdempotencyKey::from(format!("claim-{}", random.below(5)));
                let (ttl, fingerprint) = (Millis(random.between(50, 2000)), Fingerprint(1));
                (commit(vec![Op::Claim { key: key.clone(), ttl, lease, fingerprint }]), Hope::Claim(key))
            }
            1 => (CommandBody::Resolve { key, ttl: Millis(random.between(20, 800)) }, Hope::Nothing),
            2 | 3 => {
                let mut wanted =
                    Commit::of(vec![Op::Increment { key: "shared".into(), by: 1, min: 0, max: i64::MAX }]);
                if random.chance(6) {
                    wanted.then.push(put("k/1", "another request", LeaseId::ZERO));
                }
                wanted.idempotency = Some(keyed(&key, Millis(random.between(20, 3000))));
                (body(wanted), Hope::Nothing)
            }
            _ if self.busy.is_none() => self.must(view),
            _ => (commit(vec![Op::Get { key: self.counter() }]), Hope::Nothing),
        }
    }

    fn services(&mut self, random: &mut Random) -> CommandBody {
        let (service, instance) = ("web".into(), format!("i{}", self.number).into());
        let Some(lease) = self.lease.filter(|_| !random.chance(4)) else {
            return commit(vec![Op::Deregister { service, instance }]);
        };
        let info =
            Instance { address: "10.0.0.1:80".into(), weight: 1, healthy: true, ..Instance::default() };
        commit(vec![Op::Register { service, instance, lease, info }])
    }

    /// A commit of several parts, some of which fail, inner commits included.
    fn anything(&mut self, random: &mut Random, view: &View<'_>) -> CommandBody {
        if random.chance(300) {
            return CommandBody::RaiseRevision {
                to: Revision(view.machine.revision().0 + random.below(500)),
            };
        }
        let mut ops = Vec::new();
        for _ in 0..random.between(1, 4) {
            let made = match random.below(8) {
                7 => self.caller.act(random, view).0,
                0 => self.streams(random, view),
                1 => self.groups(random).0,
                2 => self.tasks(random, view),
                3 => self.limits(random),
                4 => self.locks(random).0,
                _ => self.keys(random, view),
            };
            match made {
                // It is no part of another.
                CommandBody::Commit { commit } if commit.mode == Mode::Foreseen => return body(commit),
                CommandBody::Commit { commit }
                    if commit.guards.is_empty() && commit.idempotency.is_none() =>
                {
                    ops.extend(commit.then);
                }
                CommandBody::Commit { commit } => ops.push(Op::Nested { commit: Box::new(commit) }),
                _ => {}
            }
        }
        if random.chance(4) {
            // Fails, so that everything before it must be undone.
            ops.push(Op::Increment { key: self.counter(), by: -1_000_000, min: 0, max: i64::MAX });
        }
        let mode = if random.chance(3) { Mode::Each } else { Mode::Atomic };
        body(Commit { then: ops, mode, ..Commit::default() })
    }
}

/// What a client produces that numbers its batches.
#[derive(Default)]
struct Producing {
    number: Option<(ProducerId, u16)>,
    /// Number of the next record.
    next: u32,
    /// The batch that is not answered yet.
    batch: Option<Produce>,
    /// The last that were.
    sent: Vec<Produce>,
}

impl Producing {
    fn answered(&mut self, outcome: &Outcome) {
        let Outcome::Committed { .. } = outcome else {
            // A member that was restored from before the batch, or has another view of who is let in: begin anew.
            *self = Self::default();
            return;
        };
        let Some(batch) = self.batch.take() else { return };
        if let Produce::Append { append, by } | Produce::AppendWith { append, by: Some(by), .. } = &batch {
            self.next = Numbered::after(by.first, append.records);
        }
        self.sent.push(batch);
        if self.sent.len() > 5 {
            self.sent.remove(0);
        }
    }
}

/// A client's transactions.
#[derive(Default)]
struct Transacting {
    author: Option<Author>,
    open: bool,
    /// Number of the next record.
    next: u32,
    /// What it waits for.
    step: Option<Produce>,
}

impl Transacting {
    fn answered(&mut self, outcome: &Outcome) {
        let Some(step) = self.step.take() else { return };
        let Outcome::Committed { committed } = outcome else {
            // The other one has the name now, or all of it was lost: it has to be taken over.
            *self = Self::default();
            return;
        };
        match (step, committed.results.first()) {
            (Produce::TakeOver { name, .. }, Some(OpResult::Producer { producer, epoch })) => {
                let author = Some(Author { name, producer: *producer, epoch: *epoch });
                *self = Self { author, ..Self::default() };
            }
            (Produce::Enlist { .. }, _) => self.open = true,
            (Produce::Hold { append, by, .. } | Produce::HoldWith { append, by, .. }, _) => {
                self.next = Numbered::after(by.first, append.records);
            }
            (Produce::End { .. }, _) => self.open = false,
            _ => {}
        }
    }
}

fn produce(produce: Produce) -> CommandBody {
    commit(vec![Op::Produce { produce: Box::new(produce) }])
}

/// A command as a proposal is sent: the client's name is the proposal's number.
pub(crate) fn command(op: OpId, principal: Principal, body: CommandBody) -> Command {
    Command { client: op.to_string().into(), ..Command::new(principal, body) }
}

fn declarations() -> Vec<Op> {
    let stream = |name: &str, settings: StreamSettings| Op::CreateStream { stream: name.into(), settings };
    let retention = |bytes, age: Option<u64>| Retention { bytes, age: age.map(Millis) };
    let group = |mode| GroupSettings { mode, from_start: true };
    vec![
        stream("s/plain", StreamSettings { partitions: 2, ..StreamSettings::default() }),
        stream(
            "s/bytes",
            StreamSettings {
                partitions: 2,
                retention: retention(Some(3000), None),
                ..StreamSettings::default()
            },
        ),
        stream(
            "s/age",
            StreamSettings { retention: retention(None, Some(1500)), ..StreamSettings::default() },
        ),
        stream("s/compact", StreamSettings { compact: true, ..StreamSettings::default() }),
        stream("s/queue", StreamSettings { partitions: 2, ..StreamSettings::default() }),
        Op::CreateGroup {
            stream: "s/queue".into(),
            group: "workers".into(),
            settings: group(GroupMode::Shared {
                visibility: Millis(250),
                deliveries_max: 3,
                dead_letter: Some("dead/queue".into()),
            }),
        },
        Op::CreateGroup {
            stream: "s/plain".into(),
            group: "readers".into(),
            settings: group(GroupMode::Partitioned),
        },
    ]
}

fn commit(then: Vec<Op>) -> CommandBody {
    body(Commit::of(then))
}

fn body(commit: Commit) -> CommandBody {
    CommandBody::Commit { commit }
}

fn put(key: &str, value: &str, lease: LeaseId) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease, prev: false }
}

fn keyed(key: &IdempotencyKey, ttl: Millis) -> Idempotency {
    Idempotency { key: key.clone(), ttl, fingerprint: Fingerprint::default() }
}

fn append(stream: &str, records: Vec<Record>, partition: PartitionChoice) -> Op {
    Op::Append {
        append: Append {
            stream: stream.into(),
            partition,
            format: Format::Records,
            records: records.len() as u32,
            payload: record::encode(&records),
            create: stream.starts_with("dead/") || stream == "s/fired",
        },
    }
}

fn some_range(random: &mut Random) -> KeyRange {
    let prefix = ["k/1", "k/2", "k/3", "i/", "k/39"][random.below(5) as usize];
    KeyRange::prefix(prefix.into())
}
