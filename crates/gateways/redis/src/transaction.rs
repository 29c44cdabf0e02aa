//! MULTI … EXEC: one commit in mode `each`, with a guard per watched key; and our own words inside it.
//!
//! As Redis has it, an error of a queued command is only its own reply, and the other effects stand. Nothing happens when a command could
//! not be queued, when a watched key has changed (deletes and expiries count), or when a guard of ours fails; with `Q.ATOMIC` first, when
//! any command fails. What is about the connection or the server (SELECT, PUBLISH, CLIENT…) is done once the commit has taken effect.
//!
//! Invariant: `MULTI … EXEC` sends exactly one commit, or none.
//! Called by: `connection` queues, `commands` begins and ends.

use crate::acl;
use crate::commands;
use crate::connection::{Connection, Gone, Mute, Step, answer_result, call, database, too_long};
use crate::error;
use crate::resp;
use quorate_calls::OUT_OF_MEMORY;
use quorate_calls::permissions::noperm;
use quorate_runtime::Consistency;
use quorate_types::{
    Blob, Commit, Committed, Compare, FencingToken, Fingerprint, Guard, Idempotency, Key, KeyField, KeyRange,
    Keyspace, LimitPolicy, Millis, Mode, OnRefused, Op, Reply, Revision, TaskName, When,
};

/// A key that EXEC wants unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) key: Key,
    /// The revision that WATCH has seen.
    pub(crate) since: Revision,
}

/// What was queued since MULTI.
#[derive(Debug)]
pub(crate) struct Transaction {
    queued: Vec<Queued>,
    /// The keyspace of the commands that follow.
    space: Keyspace,
    guards: Vec<Guard>,
    idempotency: Option<Idempotency>,
    mode: Mode,
    bytes: usize,
    /// A command could not be queued.
    spoilt: bool,
}

/// Where the reply to a queued command comes from.
#[derive(Debug)]
enum Queued {
    /// The next result of the commit.
    Op(Box<Op>),
    /// The commit has taken effect, so this guard has held.
    Guard,
    /// What a limit has left: the report of this number.
    Limit(usize),
    /// Done afterwards.
    Own(&'static str, Vec<Blob>),
}

impl Transaction {
    pub(crate) fn new(space: Keyspace) -> Self {
        Self {
            queued: Vec::new(),
            space,
            guards: Vec::new(),
            idempotency: None,
            mode: Mode::Each,
            bytes: 0,
            spoilt: false,
        }
    }

    /// The keyspace of the commands that follow.
    pub(crate) fn space(&self) -> Keyspace {
        self.space
    }

    /// How many commands are queued.
    pub(crate) fn len(&self) -> usize {
        self.queued.len()
    }

    /// Notes that a command could not be queued: EXEC will do nothing.
    pub(crate) fn spoil(&mut self) {
        self.spoilt = true;
    }

    fn limits(&self) -> usize {
        self.guards.iter().filter(|guard| matches!(guard, Guard::Limit { .. })).count()
    }
}

impl Connection {
    /// Queues the command in hand.
    pub(crate) fn queue(&mut self, step: Step) {
        let words = self.take_words();
        let reply = self.queued(step, words).map_or_else(
            |refused| {
                if let Some(transaction) = &mut self.state.transaction {
                    transaction.spoil();
                }
                refused
            },
            |()| Reply::status("QUEUED"),
        );
        self.answer(&reply);
    }

    fn queued(&mut self, step: Step, words: Vec<Blob>) -> Result<(), Reply> {
        let bytes: usize = words.iter().map(|word| word.len() + 8).sum();
        let longest = words.iter().map(|word| word.len()).max().unwrap_or_default();
        let gateway = std::sync::Arc::clone(&self.gateway);
        let transaction = self.state.transaction.as_mut().expect("only a transaction queues");
        if let Some(refused) = too_long(&gateway, longest, transaction.bytes + bytes) {
            return Err(refused);
        }
        if transaction.queued.len() as u64 >= gateway.limits.operations_max {
            let max = gateway.limits.operations_max;
            return Err(Reply::error(format!("ERR a transaction has at most {max} commands")));
        }
        if step == Step::Call && may_need_more(&words) && gateway.handle.is_full(transaction.space) {
            return Err(Reply::error(OUT_OF_MEMORY));
        }
        let queued = match step {
            Step::Call => Queued::Op(Box::new(call(transaction.space, words))),
            Step::Own("select") => {
                // From here on commands are of that database; the connection follows when the commit has taken effect.
                if let Ok(space) = database(&words[1]) {
                    transaction.space = space;
                }
                Queued::Own("select", words)
            }
            Step::Own(name) if name.starts_with("q.") => transaction.word(name, words, gateway.random())?,
            Step::Own(name) => Queued::Own(name, words),
        };
        transaction.bytes += bytes;
        transaction.queued.push(queued);
        Ok(())
    }

    /// EXEC.
    pub(crate) async fn exec(&mut self) -> Result<Option<Reply>, Gone> {
        let Some(transaction) = self.state.transaction.take() else {
            return Ok(Some(Reply::error("ERR EXEC without MULTI")));
        };
        let watched = std::mem::take(&mut self.state.watched);
        if transaction.spoilt {
            return Ok(Some(Reply::error("EXECABORT Transaction discarded because of previous errors.")));
        }
        let Transaction { queued, mut guards, idempotency, mode, .. } = transaction;
        let limits_from = guards.len();
        guards.extend(watched.into_iter().map(|watched| Guard::RangeUnchanged {
            range: KeyRange::single(watched.key),
            since: watched.since,
        }));
        debug_assert!(limits_from <= guards.len());
        let (mut ops, mut replies) = (Vec::new(), Vec::with_capacity(queued.len()));
        for step in queued {
            replies.push(match step {
                Queued::Op(op) => {
                    ops.push(*op);
                    Answer::Result
                }
                Queued::Guard => Answer::Held,
                Queued::Limit(report) => Answer::Limit(report),
                Queued::Own(name, words) => Answer::Own(name, words),
            });
        }
        // As Redis has it, nothing of it is done then. What fills up between this look and its place in the log refuses single commands.
        let refused = |op: &Op| matches!(op, Op::Call { space, words, .. } if may_need_more(words) && self.gateway.handle.is_full(*space));
        if ops.iter().any(refused) {
            return Ok(Some(Reply::error(format!(
                "EXECABORT Transaction discarded because of: {OUT_OF_MEMORY}"
            ))));
        }
        let mut committed = Committed::default();
        if !(ops.is_empty() && guards.is_empty()) {
            self.gateway.pause.wait(true).await;
            if self.state.follows() {
                let since = crate::tracking::applied(&self.gateway);
                for op in &ops {
                    if let Op::Call { words, .. } = op
                        && let Ok(spec) = quorate_calls::check(words)
                    {
                        self.gateway.tracking.remember(&self.gateway, self.client.id, since, spec, words);
                    }
                }
            }
            let commit = Commit { idempotency, guards, then: ops, otherwise: None, mode };
            committed = match self.gateway.commit(&self.state.who, commit).await {
                Ok(committed) => committed,
                Err(reply) => return Ok(Some(reply)),
            };
        }
        self.answer_exec(replies, committed).await?;
        Ok(None)
    }

    async fn answer_exec(&mut self, replies: Vec<Answer>, committed: Committed) -> Result<(), Gone> {
        resp::array_head(replies.len(), &mut self.out);
        let mut results = committed.results.iter();
        for reply in replies {
            match reply {
                Answer::Result => match results.next() {
                    Some(result) => answer_result(result, self.state.protocol, &mut self.out),
                    None => self.answer(&Reply::Nil),
                },
                Answer::Held => self.answer(&Reply::ok()),
                Answer::Limit(report) => {
                    let left = committed.limits.get(report).map_or(0, |report| report.remaining);
                    self.answer(&Reply::integer(i64::try_from(left).unwrap_or(i64::MAX)));
                }
                Answer::Own(name, words) => {
                    // What was allowed when it was queued may be so no more.
                    let rights = &self.state.rights;
                    if let Err(denied) = acl::allowed(rights, self.state.session.space, name, None, &words) {
                        self.gateway.acl_log.denied(&denied, "multi", &self.client);
                        self.answer(&Reply::error(noperm(&denied)));
                        continue;
                    }
                    // CLIENT REPLY within a transaction would tear its array apart.
                    let done = Box::pin(commands::run(self, name, &words)).await?;
                    self.state.mute = Mute::No;
                    self.answer(&done.unwrap_or(Reply::Nil));
                }
            }
        }
        Ok(())
    }

    /// WATCH.
    pub(crate) async fn watch(&mut self, names: &[Blob]) -> Reply {
        if self.state.transaction.is_some() {
            return Reply::error("ERR WATCH inside MULTI is not allowed");
        }
        let read =
            self.gateway.handle.read_with(Consistency::Linearizable, quorate_machine::Machine::revision);
        let since = match tokio::time::timeout(self.gateway.config.command_timeout, read).await {
            Ok(Ok(since)) => since,
            Ok(Err(why)) => return error::runtime(&why),
            Err(_) => {
                return Reply::error("CLUSTERDOWN no leader confirmed the read in time: try again later");
            }
        };
        for name in names {
            let key = Key { space: self.state.session.space, name: name.clone() };
            // What is watched already stays watched from where it was.
            if !self.state.watched.iter().any(|watched| watched.key == key) {
                self.state.watched.push(Watched { key, since });
            }
        }
        Reply::ok()
    }

    /// `Q.AFTER` alone: a commit that schedules one.
    pub(crate) async fn after(&mut self, words: &[Blob]) -> Reply {
        let name = format!("redis/{:016x}", self.gateway.random());
        let op = match schedule(self.state.session.space, words, name.clone()) {
            Ok(op) => op,
            Err(reply) => return reply,
        };
        match self.gateway.commit(&self.state.who, Commit::of(vec![op])).await {
            Ok(_) => Reply::bulk(name),
            Err(reply) => reply,
        }
    }
}

enum Answer {
    Result,
    Held,
    Limit(usize),
    Own(&'static str, Vec<Blob>),
}

impl Transaction {
    /// One of our own words.
    fn word(&mut self, name: &'static str, words: Vec<Blob>, random: u64) -> Result<Queued, Reply> {
        match name {
            "q.atomic" if self.queued.is_empty() => {
                self.mode = Mode::Atomic;
                Ok(Queued::Guard)
            }
            "q.atomic" => Err(Reply::error("ERR Q.ATOMIC comes first in its transaction")),
            "q.fence" => {
                let token = FencingToken(number(&words[2], "the token")?);
                self.guards.push(Guard::Fence { lock: words[1].clone().into(), token });
                Ok(Queued::Guard)
            }
            "q.version" => {
                let key = Key { space: self.space, name: words[1].clone() };
                let wanted = number(&words[2], "the version")?;
                self.guards.push(Guard::Key {
                    key,
                    field: KeyField::Version,
                    compare: Compare::Equal,
                    wanted,
                });
                Ok(Queued::Guard)
            }
            "q.limit" => {
                let policy = LimitPolicy::Bucket {
                    count: number(&words[2], "the count")?,
                    period: Millis(number(&words[3], "the period in milliseconds")?),
                    burst: number(&words[4], "the burst")?,
                };
                let cost = words.get(5).map_or(Ok(1), |word| number(word, "the cost"))?;
                let report = self.limits();
                self.guards.push(Guard::Limit { name: words[1].clone().into(), policy, cost });
                Ok(Queued::Limit(report))
            }
            "q.idempotent" if self.idempotency.is_none() => {
                let ttl = Millis(number(&words[2], "the time to live in milliseconds")?);
                let key = words[1].clone().into();
                self.idempotency = Some(Idempotency { key, ttl, fingerprint: Fingerprint::default() });
                Ok(Queued::Guard)
            }
            "q.idempotent" => Err(Reply::error("ERR a transaction has one Q.IDEMPOTENT")),
            "q.after" => {
                // Under an idempotency key a retry has to be the same commit, the names of its tasks included.
                let task = match &self.idempotency {
                    Some(idempotency) => format!("redis/{}/{}", idempotency.key, self.queued.len()),
                    None => format!("redis/{random:016x}"),
                };
                schedule(self.space, &words, task).map(|op| Queued::Op(Box::new(op)))
            }
            other => Err(Reply::error(format!("ERR {} is not for transactions", other.to_ascii_uppercase()))),
        }
    }
}

/// Whether a command is refused where a keyspace is full.
fn may_need_more(words: &[Blob]) -> bool {
    let spec = words.first().and_then(|name| quorate_calls::lookup(name));
    spec.is_some_and(|spec| spec.flags.has(quorate_calls::Flags::DENYOOM))
}

/// `Q.AFTER delay-ms command…`
fn schedule(space: Keyspace, words: &[Blob], task: String) -> Result<Op, Reply> {
    let after = Millis(number(&words[1], "the delay in milliseconds")?);
    let later = words[2..].to_vec();
    let spec =
        quorate_calls::check(&later).map_err(|refused| Reply::Error { text: refused.text().clone() })?;
    if !matches!(spec.kind, quorate_calls::Kind::Write(_) | quorate_calls::Kind::Read(_)) {
        return Err(Reply::error(format!(
            "ERR '{}' is about a connection: it cannot be done later",
            spec.name
        )));
    }
    let commit = Commit::of(vec![call(space, later)]);
    Ok(Op::Schedule {
        task: TaskName::from(task),
        when: When::In { after },
        commit: Box::new(commit),
        on_refused: OnRefused::Drop,
    })
}

/// A whole number of ours.
pub(crate) fn number(word: &[u8], what: &str) -> Result<u64, Reply> {
    let found = resp::integer(word).and_then(|number| u64::try_from(number).ok());
    found.ok_or_else(|| {
        Reply::error(format!(
            "ERR {what} is \"{}\", wanted a whole number from 0 up",
            String::from_utf8_lossy(word)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Blob> {
        text.split(' ').map(Blob::from).collect()
    }

    #[test]
    fn our_words_become_guards_of_the_commit() {
        let mut transaction = Transaction::new(Keyspace(3));
        assert!(transaction.word("q.atomic", words("Q.ATOMIC"), 0).is_ok());
        assert!(transaction.word("q.fence", words("Q.FENCE l 42"), 0).is_ok());
        assert!(transaction.word("q.version", words("Q.VERSION k 0"), 0).is_ok());
        assert!(transaction.word("q.limit", words("Q.LIMIT t 10 1000 20 2"), 0).is_ok());
        assert!(transaction.word("q.idempotent", words("Q.IDEMPOTENT i 60000"), 0).is_ok());
        assert!(transaction.word("q.idempotent", words("Q.IDEMPOTENT j 60000"), 0).is_err());
        assert!(transaction.word("q.fence", words("Q.FENCE l -1"), 0).is_err());
        assert_eq!(transaction.mode, Mode::Atomic);
        let key = Key { space: Keyspace(3), name: "k".into() };
        let policy = LimitPolicy::Bucket { count: 10, period: Millis(1000), burst: 20 };
        assert_eq!(
            transaction.guards,
            [
                Guard::Fence { lock: "l".into(), token: FencingToken(42) },
                Guard::Key { key, field: KeyField::Version, compare: Compare::Equal, wanted: 0 },
                Guard::Limit { name: "t".into(), policy, cost: 2 },
            ]
        );
    }

    #[test]
    fn a_command_for_later_is_a_scheduled_commit_of_one_call() {
        let op = schedule(Keyspace(1), &words("Q.AFTER 500 SET k v"), "t".into()).unwrap();
        let Op::Schedule { when, commit, .. } = op else { panic!("a task") };
        assert_eq!(when, When::In { after: Millis(500) });
        assert_eq!(commit.then, [call(Keyspace(1), words("SET k v"))]);
        for wrong in ["Q.AFTER x SET k v", "Q.AFTER 1 SET k", "Q.AFTER 1 NOPE", "Q.AFTER 1 SUBSCRIBE c"] {
            assert!(schedule(Keyspace(1), &words(wrong), "t".into()).is_err(), "{wrong}");
        }
    }
}
