//! The life of a connection, and of the commands on it.
//!
//! Everything that has arrived is decoded and executed in order, and all replies leave with one write. Writes that follow each other become
//! one commit in mode `each` (one place in the log, one sync, a result for each); reads that follow each other are answered under one look
//! at the state. A read waits for the writes before it, so that a client reads what it has written.
//!
//! Invariant: replies come in the order of the commands, one for each, whatever fails.
//! Invariant: a client that does not take its replies is not read from: what waits for it is bounded by `output_bytes_max` and one command's reply.
//! Called by: `serve` runs a [`Connection`] per client. Read [`Connection::run`], then `execute`, then `plan`.

use crate::acl;
use crate::client::Client;
use crate::commands;
use crate::config::DATABASES;
use crate::error;
use crate::gateway::{Gateway, Who, locked};
use crate::pubsub::Kind;
use crate::resp::{self, Bounds, Input, Protocol, ProtocolError};
use crate::stream::Stream;
use crate::tracking::{self, Following};
use crate::transaction::{Transaction, Watched};
use quorate_calls::collections::Long;
use quorate_calls::permissions::noperm;
use quorate_calls::{Flags, Session, Spec, streams};
use quorate_machine::{Machine, NEAR, Rights, Times};
use quorate_runtime::Consistency;
use quorate_types::{Blob, Commit, Denied, Keyspace, LogIndex, Mode, Op, OpResult, Reply, Verbs};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Calls of one commit, and bytes, at most: so that none holds the partition for long.
const CALLS_MAX: usize = 512;
const CALL_BYTES_MAX: usize = 256 << 10;
/// Reads under one look at the state, and bytes of their replies, at most ([`TURN_MAX`] ends a look too): others want it.
const READS_MAX: usize = 256;
const READ_BYTES_MAX: usize = 256 << 10;
/// How long a connection goes on with what its client has sent before others have their turn.
const TURN_MAX: Duration = Duration::from_millis(5);
/// Elements of a long answer that are handed out, and freed, before others have their turn.
const SLICE_MAX: u64 = 1_000;
const FREED_MAX: usize = 10_000;
/// Room that an output buffer keeps when nothing is in it.
const KEEP_BYTES: usize = 1 << 10;
/// Bytes that are read ahead for a client that waits; what follows stays in the socket.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// The connection has ended.
#[derive(Debug)]
pub(crate) struct Gone;

/// One client's connection.
pub(crate) struct Connection {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) client: Arc<Client>,
    stream: Stream,
    input: Input,
    /// The command in hand.
    words: Vec<Blob>,
    /// Replies that are still to be sent.
    pub(crate) out: Vec<u8>,
    writes: Writes,
    /// Tells that users may have changed.
    users: watch::Receiver<u64>,
    pub(crate) state: State,
}

/// What a connection has been told.
pub(crate) struct State {
    pub(crate) protocol: Protocol,
    pub(crate) session: Session,
    pub(crate) who: Who,
    /// Whether the client has said who it is, or need not.
    pub(crate) known: bool,
    /// Whether it has said it, and was let in.
    pub(crate) entered: bool,
    /// What it may do.
    pub(crate) rights: Rights,
    /// The entry that made its user: a later user of the same name is another one.
    pub(crate) made: Option<LogIndex>,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) watched: Vec<Watched>,
    pub(crate) channels: BTreeSet<Blob>,
    pub(crate) patterns: BTreeSet<Blob>,
    pub(crate) shards: BTreeSet<Blob>,
    pub(crate) mute: Mute,
    pub(crate) monitor: bool,
    /// What it has asked to be told of.
    pub(crate) following: Option<Box<Following>>,
    pub(crate) consistency: Consistency,
    /// The connection ends once its replies are sent.
    pub(crate) closing: bool,
}

/// What CLIENT REPLY asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mute {
    No,
    /// The next command is not answered.
    Next,
    All,
}

/// Writes that follow each other, not sent yet.
#[derive(Default)]
struct Writes {
    calls: Vec<Op>,
    bytes: usize,
    /// The first of them, should it take long.
    first: Vec<Blob>,
}

/// What to do with a command.
pub(crate) enum Plan {
    /// It only reads.
    Read,
    /// It may change something.
    Write,
    /// As [`Plan::Write`], and waits where there is nothing yet.
    Wait(&'static Spec),
    /// It is for a transaction.
    Queue(Step),
    /// It is about the connection or the server.
    Own(&'static str),
    /// It is not allowed.
    Deny(Denied),
    /// It cannot be executed.
    Refuse(Reply),
}

/// What a queued command will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A call of the commit.
    Call,
    /// Something of the connection or the server, done once the commit has taken effect.
    Own(&'static str),
}

impl State {
    pub(crate) fn new(known: bool) -> Self {
        Self {
            protocol: Protocol::Two,
            session: Session::new(Keyspace::DEFAULT),
            who: Who { principal: "anonymous".into(), name: Blob::EMPTY },
            known,
            entered: false,
            rights: Rights::Everything,
            made: None,
            transaction: None,
            watched: Vec::new(),
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            shards: BTreeSet::new(),
            mute: Mute::No,
            monitor: false,
            following: None,
            consistency: Consistency::Linearizable,
            closing: false,
        }
    }

    /// How many channels, patterns and shard channels it listens to.
    pub(crate) fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len() + self.shards.len()
    }

    /// Whether it is to be told of changes of what the command in hand reads.
    pub(crate) fn follows(&self) -> bool {
        self.following.as_ref().is_some_and(|following| following.counts())
    }

    /// CLIENT CACHING is about one command, or one transaction.
    pub(crate) fn forget_caching(&mut self) {
        if let Some(following) = &mut self.following
            && self.transaction.is_none()
        {
            following.caching = false;
        }
    }

    pub(crate) fn names(&mut self, kind: Kind) -> &mut BTreeSet<Blob> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
            Kind::Shard => &mut self.shards,
        }
    }
}

impl Connection {
    pub(crate) fn new(gateway: Arc<Gateway>, client: Arc<Client>, stream: Stream) -> Self {
        let mut state = State::new(gateway.is_open());
        let users = gateway.handle.users_changed();
        // A node that opens its folder anew tells nothing, and refuses everything else too.
        state.rights = gateway.handle.rights(&state.who.principal).unwrap_or(Rights::Everything);
        Self {
            gateway,
            client,
            stream,
            input: Input::default(),
            words: Vec::new(),
            out: Vec::new(),
            writes: Writes::default(),
            users,
            state,
        }
    }

    /// Serves the client until either side ends it.
    pub(crate) async fn run(mut self) {
        while self.turn().await.is_ok() {}
    }

    async fn turn(&mut self) -> Result<(), Gone> {
        self.wait().await?;
        self.mind_users()?;
        self.execute().await?;
        self.take_letters()?;
        self.send().await?;
        self.show();
        if self.state.closing {
            let stream = &mut self.stream;
            // What was sent is told to be the end; a client that is gone already does not hear it.
            let _ = poll_fn(|cx| stream.poll_shutdown(cx)).await;
            return Err(Gone);
        }
        Ok(())
    }

    /// Looks at what it may do, if that may have changed.
    fn mind_users(&mut self) -> Result<(), Gone> {
        if !self.users.has_changed().unwrap_or(false) {
            return Ok(());
        }
        self.users.borrow_and_update();
        self.load_rights()
    }

    /// Asks what it may do now. A connection whose user is gone, or that listens to what it may not hear any more, ends; one that never said
    /// who it is has to say so once the door is closed.
    pub(crate) fn load_rights(&mut self) -> Result<(), Gone> {
        let gateway = Arc::clone(&self.gateway);
        // A node that opens its folder anew will be asked again.
        let Ok(rights) = gateway.handle.rights(&self.state.who.principal) else { return Ok(()) };
        let state = &mut self.state;
        let made = if let Rights::User(access) = &rights { Some(access.created()) } else { None };
        if state.entered {
            let is_another = state.made.is_some() && state.made != made;
            if rights.alive().is_err() || is_another {
                return Err(Gone);
            }
            state.made = made;
        } else {
            state.known = gateway.is_open();
        }
        state.rights = rights;
        if state.subscriptions() == 0 {
            return Ok(());
        }
        let hears =
            |name: &Blob, is_pattern| state.rights.channel(Verbs::SUBSCRIBE, name, is_pattern).is_ok();
        let all = state.channels.iter().chain(&state.shards).all(|name| hears(name, false));
        let may = state.known && all && state.patterns.iter().all(|name| hears(name, true));
        if may { Ok(()) } else { Err(Gone) }
    }

    /// Waits for bytes, or for something that others have left.
    async fn wait(&mut self) -> Result<(), Gone> {
        let idle = self.gateway.idle_seconds.load(Ordering::Relaxed);
        let Self { stream, input, client, out, words, .. } = self;
        let something = poll_fn(|cx| {
            client.register(cx.waker());
            if client.is_told() {
                return Poll::Ready(Ok(1));
            }
            let arrived = stream.poll_input(input, cx);
            if arrived.is_pending() {
                input.rest();
                if out.capacity() > KEEP_BYTES {
                    *out = Vec::new();
                }
                if words.capacity() > 64 {
                    *words = Vec::new();
                }
            }
            arrived
        });
        let arrived = if idle > 0 && self.state.subscriptions() == 0 {
            tokio::time::timeout(Duration::from_secs(idle), something).await.map_err(|_| Gone)?
        } else {
            something.await
        };
        match arrived {
            Ok(0) | Err(_) => Err(Gone),
            Ok(bytes) => {
                self.gateway.stats.input_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Reads ahead while the client waits for something else; nothing ends it but the end of the connection, or a letter.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        loop {
            self.client.register(cx.waker());
            if self.client.is_told() {
                return Poll::Ready(Ok(()));
            }
            if self.input.pending() >= AHEAD_BYTES_MAX {
                return Poll::Pending;
            }
            match ready!(self.stream.poll_input(&mut self.input, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Gone)),
                Ok(_) => {}
            }
        }
    }

    /// Takes what others have left: pushes are sent, and a connection that is to end ends.
    fn take_letters(&mut self) -> Result<(), Gone> {
        if !self.client.is_told() {
            return Ok(());
        }
        let letters = self.client.take_letters();
        if letters.killed {
            return Err(Gone);
        }
        self.take_pushes(letters.pushes);
        Ok(())
    }

    pub(crate) fn take_pushes(&mut self, pushes: Vec<u8>) {
        if self.out.is_empty() {
            self.out = pushes;
        } else {
            self.out.extend_from_slice(&pushes);
        }
    }

    /// Sends all replies. Nothing is read meanwhile.
    pub(crate) async fn send(&mut self) -> Result<(), Gone> {
        if self.out.is_empty() {
            return Ok(());
        }
        let Self { stream, out, client, .. } = self;
        let mut at = 0;
        poll_fn(|cx| {
            while at < out.len() {
                match stream.poll_write(&out[at..], cx) {
                    Poll::Ready(Ok(written)) if written > 0 => at += written,
                    Poll::Ready(_) => return Poll::Ready(Err(Gone)),
                    Poll::Pending => {
                        client.register(cx.waker());
                        return if client.is_told() && client.is_killed() {
                            Poll::Ready(Err(Gone))
                        } else {
                            Poll::Pending
                        };
                    }
                }
            }
            stream.poll_flush(cx).map_err(|_| Gone)
        })
        .await?;
        self.gateway.stats.output_bytes.fetch_add(self.out.len() as u64, Ordering::Relaxed);
        self.out.clear();
        Ok(())
    }

    /// Has others see what the client is at.
    fn show(&self) {
        let state = &self.state;
        let input_bytes = self.input.pending();
        self.client.note(|seen| {
            seen.last = Instant::now();
            seen.input_bytes = input_bytes;
            seen.protocol = state.protocol;
            seen.database = state.session.space.0;
            seen.channels = state.channels.len();
            seen.patterns = state.patterns.len();
            seen.shards = state.shards.len();
            seen.queued = state.transaction.as_ref().map(Transaction::len);
            seen.watched = state.watched.len();
            seen.monitor = state.monitor;
            seen.readonly = state.consistency == Consistency::Stale;
            seen.tracking = state.following.as_ref().map(|following| following.shown());
        });
    }

    /// Executes every whole command that has arrived.
    async fn execute(&mut self) -> Result<(), Gone> {
        let mut in_hand = false;
        let mut begun = Instant::now();
        loop {
            if !in_hand {
                let bounds = bounds(&self.gateway, &self.state);
                match self.input.next(&bounds, &mut self.words) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        self.flush().await;
                        self.refuse_bytes(&error);
                        break;
                    }
                }
            }
            in_hand = self.step().await?;
            if self.state.closing {
                break;
            }
            if self.out.len() >= self.gateway.config.output_bytes_max {
                self.flush().await;
                self.send().await?;
            }
            if begun.elapsed() > TURN_MAX {
                self.flush().await;
                tokio::task::yield_now().await;
                begun = Instant::now();
            }
        }
        self.flush().await;
        Ok(())
    }

    fn refuse_bytes(&mut self, error: &ProtocolError) {
        resp::error(&format!("ERR {error}"), &mut self.out);
        self.state.closing = true;
    }

    /// Executes the command in hand. True when another is in hand then already.
    async fn step(&mut self) -> Result<bool, Gone> {
        if is_web_page(&self.words[0]) {
            return Err(Gone);
        }
        self.mind_users()?;
        let plan = plan(&self.state, &self.words);
        let muted = self.state.mute != Mute::No;
        if self.state.mute == Mute::Next {
            self.state.mute = Mute::No;
        }
        let answers_itself = matches!(plan, Plan::Own("client|reply"));
        if muted {
            self.flush().await;
        }
        let before = self.out.len();
        self.note(&plan);
        let names_caching = matches!(plan, Plan::Own("client|caching"));
        let mut in_hand = false;
        match plan {
            Plan::Write => {
                self.follow_script();
                self.write().await;
            }
            Plan::Read => {
                self.flush().await;
                in_hand = self.read(muted).await?;
            }
            Plan::Wait(spec) => {
                self.flush().await;
                let words = std::mem::take(&mut self.words);
                let places = quorate_calls::keys_of(spec, &words).unwrap_or_default();
                let names: Vec<Blob> = places.into_iter().filter_map(|at| words.get(at).cloned()).collect();
                let reply = self.wait_for(spec, words).await?;
                self.answer(&reply);
                if self.state.follows() && matches!(spec.kind, quorate_calls::Kind::Read(_)) {
                    // Pushes were sent while it waited: what it has read is not to be remembered.
                    self.gateway.tracking.disown(&self.gateway, self.client.id, &names);
                }
            }
            Plan::Queue(step) => self.queue(step),
            Plan::Own(name) => {
                self.flush().await;
                self.own_step(name).await?;
            }
            Plan::Deny(denied) => {
                self.flush().await;
                let context = if self.state.transaction.is_some() { "multi" } else { "toplevel" };
                self.gateway.acl_log.denied(&denied, context, &self.client);
                let reply = self.spoil(Reply::error(noperm(&denied)));
                self.gateway.stats.errors.fetch_add(1, Ordering::Relaxed);
                self.answer(&reply);
            }
            Plan::Refuse(reply) => {
                self.flush().await;
                let reply = self.spoil(reply);
                self.gateway.stats.errors.fetch_add(1, Ordering::Relaxed);
                self.answer(&reply);
            }
        }
        if muted && !answers_itself {
            self.flush().await;
            self.out.truncate(before);
        }
        if !names_caching && !in_hand {
            self.state.forget_caching();
        }
        Ok(in_hand)
    }

    /// Of a script, the keys that it declares may be read.
    fn follow_script(&mut self) {
        if !self.state.follows() || !is_script(&self.words[0]) {
            return;
        }
        if let Ok(spec) = quorate_calls::check(&self.words) {
            let since = crate::tracking::applied(&self.gateway);
            self.gateway.tracking.remember(&self.gateway, self.client.id, since, spec, &self.words);
        }
    }

    /// What a refused command means for the transaction it was to be in; its reply.
    fn spoil(&mut self, reply: Reply) -> Reply {
        if let Reply::Error { text } = &reply
            && self.words[0].eq_ignore_ascii_case(b"exec")
        {
            self.state.transaction = None;
            self.state.watched.clear();
            let why = String::from_utf8_lossy(text.strip_prefix(b"ERR ").unwrap_or(text)).into_owned();
            return Reply::error(format!("EXECABORT Transaction discarded because of: {why}"));
        }
        if let Some(transaction) = &mut self.state.transaction {
            transaction.spoil();
        }
        reply
    }

    /// The command in hand.
    pub(crate) fn take_words(&mut self) -> Vec<Blob> {
        std::mem::take(&mut self.words)
    }

    fn note(&self, plan: &Plan) {
        self.gateway.stats.commands.fetch_add(1, Ordering::Relaxed);
        if !matches!(plan, Plan::Own("monitor" | "exec") | Plan::Refuse(_) | Plan::Deny(_)) {
            let database = self.state.session.space.0;
            let bytes_max = self.gateway.config.pushes_bytes_max;
            let hidden = if matches!(plan, Plan::Own(_)) { acl::redacted(&self.words) } else { None };
            let words = hidden.as_ref().unwrap_or(&self.words);
            self.gateway.monitors.show(&self.client, database, words, bytes_max);
        }
    }

    pub(crate) fn answer(&mut self, reply: &Reply) {
        resp::write(reply, self.state.protocol, &mut self.out);
    }

    async fn own_step(&mut self, name: &'static str) -> Result<(), Gone> {
        let begun = Instant::now();
        let words = std::mem::take(&mut self.words);
        self.client.note(|seen| (seen.command, seen.last) = (name, begun));
        if let Some(reply) = commands::run(self, name, &words).await? {
            self.answer(&reply);
        }
        let took = begun.elapsed();
        // Where a wait was asked for, its length says nothing.
        if name != "q.lock" && self.gateway.is_slow(took) {
            let hidden = acl::redacted(&words);
            self.gateway.slowlog.note(took, hidden.as_ref().unwrap_or(&words), &self.client);
        }
        self.words = words;
        Ok(())
    }

    /// Adds the write in hand to those that are sent together.
    async fn write(&mut self) {
        if self.gateway.pause.holds(true).is_some() {
            self.flush().await;
            self.gateway.pause.wait(true).await;
        }
        let (mut bytes, mut longest) = (0, 0);
        for word in &self.words {
            bytes += word.len();
            longest = longest.max(word.len());
        }
        if let Some(reply) = too_long(&self.gateway, longest, bytes) {
            self.flush().await;
            self.answer(&reply);
            return;
        }
        // A script that goes over its budget takes its whole commit back: it gets one of its own. So does what may take long: others have their
        // turn between two of them.
        let alone = is_script(&self.words[0]) || may_be_long(&self.words);
        if alone || self.writes.calls.len() >= CALLS_MAX || self.writes.bytes + bytes > CALL_BYTES_MAX {
            self.flush().await;
        }
        let words = std::mem::take(&mut self.words);
        if self.writes.calls.is_empty() {
            self.writes.first.clone_from(&words);
        }
        self.writes.bytes += bytes;
        self.writes.calls.push(call(self.state.session.space, words));
        if alone {
            self.flush().await;
        }
    }

    /// Sends the writes that wait, and answers them.
    pub(crate) async fn flush(&mut self) {
        if self.writes.calls.is_empty() {
            return;
        }
        let calls = std::mem::take(&mut self.writes.calls);
        self.writes.bytes = 0;
        let count = calls.len();
        let begun = Instant::now();
        let commit = Commit { then: calls, mode: Mode::Apart, ..Commit::default() };
        match self.gateway.commit(&self.state.who, commit).await {
            Ok(committed) => {
                for result in &committed.results {
                    answer_result(result, self.state.protocol, &mut self.out);
                }
            }
            Err(reply) => (0..count).for_each(|_| self.answer(&reply)),
        }
        let took = begun.elapsed();
        if self.gateway.is_slow(took) {
            if count > 1 {
                self.writes.first.push(format!("... ({} more commands with it)", count - 1).into());
            }
            self.gateway.slowlog.note(took, &self.writes.first, &self.client);
        }
    }

    /// Answers the read in hand, and all reads that follow it. True when another command is in hand then.
    async fn read(&mut self, alone: bool) -> Result<bool, Gone> {
        if self.gateway.pause.holds(false).is_some() {
            self.gateway.pause.wait(false).await;
        }
        let gateway = Arc::clone(&self.gateway);
        let reader = Reader {
            gateway: &gateway,
            client: &self.client,
            input: &mut self.input,
            words: &mut self.words,
            out: &mut self.out,
            state: &mut self.state,
        };
        let consistency = reader.state.consistency;
        let reading = gateway.handle.read_at(consistency, |machine, times| reader.run(machine, times, alone));
        Ok(match tokio::time::timeout(gateway.config.command_timeout, reading).await {
            Ok(Ok(After::Nothing)) => false,
            Ok(Ok(After::Command)) => true,
            Ok(Ok(After::Records(reply))) => {
                let reply = self.gateway.resolved(reply).await;
                self.answer(&reply);
                false
            }
            Ok(Ok(After::Long(mut long))) => {
                let handed = if alone { Ok(()) } else { self.hand_out(&mut long).await };
                while !long.drop_some(FREED_MAX) {
                    tokio::task::yield_now().await;
                }
                handed?;
                false
            }
            Ok(Ok(After::Broken(error))) => {
                self.refuse_bytes(&error);
                false
            }
            Ok(Err(why)) => {
                self.answer(&error::runtime(&why));
                false
            }
            Err(_) => {
                self.answer(&Reply::error(
                    "CLUSTERDOWN no leader confirmed the read in time: try again later or at another node",
                ));
                false
            }
        })
    }

    /// Answers with a collection as it was when it was asked for: a slice, then others have their turn. A client that does not take what it has
    /// asked for makes nobody wait, and of the answer no more than `output_bytes_max` and a slice is in memory.
    async fn hand_out(&mut self, long: &mut Long) -> Result<(), Gone> {
        let (mut elements, protocol) = (long.left(), self.state.protocol);
        resp::long_head(&long.next(0), elements, protocol, &mut self.out);
        while elements > 0 {
            resp::items(&long.next(SLICE_MAX), protocol, &mut self.out);
            assert!(long.left() < elements, "a slice of a long answer has an element");
            elements = long.left();
            if self.out.len() >= self.gateway.config.output_bytes_max {
                self.send().await?;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let id = self.client.id;
        self.gateway.monitors.remove(id);
        if self.state.following.is_some() {
            tracking::leave(&self.gateway, id);
        }
        {
            let mut all = locked(&self.gateway.subscriptions);
            let State { channels, patterns, shards, .. } = &self.state;
            for (kind, names) in [(Kind::Channel, channels), (Kind::Pattern, patterns), (Kind::Shard, shards)]
            {
                names.iter().for_each(|name| all.remove(kind, name, id));
            }
        }
        if self.state.subscriptions() > 0 {
            self.gateway.listen();
        }
        locked(&self.gateway.clients).remove(&id);
    }
}

/// A command as an operation of a commit. The record of an XADD travels beside its words: it stays where it is logged.
pub(crate) fn call(space: Keyspace, words: Vec<Blob>) -> Op {
    match streams::xadd_split(&words) {
        Some((words, record)) => Op::Call { space, words, record: Some(record) },
        None => Op::Call { space, words, record: None },
    }
}

/// Why a command is too long to be logged.
pub(crate) fn too_long(gateway: &Gateway, longest: usize, bytes: usize) -> Option<Reply> {
    let limits = &gateway.limits;
    if longest as u64 > limits.value_bytes_max {
        return Some(Reply::error(format!(
            "ERR a word of {longest} bytes is longer than the {} that a value may have: nothing happened, raise --value-bytes-max",
            limits.value_bytes_max
        )));
    }
    (bytes as u64 > limits.command_bytes_max).then(|| {
        Reply::error(format!(
            "ERR a command of {bytes} bytes is longer than the {} allowed: nothing happened, send it in parts or raise --command-bytes-max",
            limits.command_bytes_max
        ))
    })
}

/// Whether this is how a browser begins, or goes on: some page tries to reach us through it (as Redis, we end that at once).
fn is_web_page(name: &Blob) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

fn is_script(name: &Blob) -> bool {
    let evaluates = name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"eval"));
    let calls = ["fcall", "fcall_ro", "function", "script"];
    evaluates || calls.iter().any(|word| name.eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether a write's work may grow with what is there, instead of with its words.
fn may_be_long(words: &[Blob]) -> bool {
    const COUNTED: [&str; 5] = ["lpop", "rpop", "spop", "zpopmax", "zpopmin"];
    const LONG: [&str; 16] = [
        "bitop",
        "copy",
        "linsert",
        "lrem",
        "ltrim",
        "sdiffstore",
        "sinterstore",
        "sort",
        "sunionstore",
        "zdiffstore",
        "zinterstore",
        "zrangestore",
        "zremrangebylex",
        "zremrangebyrank",
        "zremrangebyscore",
        "zunionstore",
    ];
    let is = |name: &&str| words[0].eq_ignore_ascii_case(name.as_bytes());
    LONG.iter().any(is) || (words.len() > 2 && COUNTED.iter().any(is))
}

/// What a client may send now.
fn bounds(gateway: &Gateway, state: &State) -> Bounds {
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    Bounds {
        bulk_bytes_max: size(gateway.config.bulk_bytes_max),
        command_bytes_max: usize::try_from(gateway.config.command_bytes_max).unwrap_or(usize::MAX),
        unknown: !state.known,
    }
}

/// What to do with a command.
pub(crate) fn plan(state: &State, words: &[Blob]) -> Plan {
    let (name, spec) = match quorate_calls::check(words) {
        Ok(spec) if matches!(spec.kind, quorate_calls::Kind::Connection) || commands::is_ours(spec.name) => {
            match commands::own(words) {
                Some(Ok(name)) => (name, None),
                Some(Err(reply)) => return Plan::Refuse(reply),
                None => return Plan::Refuse(commands::not_served(spec.name)),
            }
        }
        Ok(spec) => (spec.name, Some(spec)),
        Err(refused) => match commands::own(words) {
            Some(Ok(name)) => (name, None),
            Some(Err(reply)) => return Plan::Refuse(reply),
            None => return Plan::Refuse(Reply::Error { text: refused.text().clone() }),
        },
    };
    if !state.known && !matches!(name, "auth" | "hello" | "quit" | "reset") {
        return Plan::Refuse(Reply::error("NOAUTH Authentication required."));
    }
    if !state.rights.is_everything() {
        let space = state.transaction.as_ref().map_or(state.session.space, Transaction::space);
        if let Err(denied) = acl::allowed(&state.rights, space, name, spec, words) {
            return Plan::Deny(denied);
        }
    }
    let listens = state.protocol == Protocol::Two && state.subscriptions() > 0;
    if listens && !commands::while_listening(name) {
        return Plan::Refuse(Reply::error(format!(
            "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        )));
    }
    let kind = spec.map(|spec| &spec.kind);
    if state.transaction.is_some()
        && !matches!(name, "exec" | "discard" | "multi" | "watch" | "quit" | "reset")
    {
        return match kind {
            Some(quorate_calls::Kind::Read(_) | quorate_calls::Kind::Write(_)) => Plan::Queue(Step::Call),
            _ if !commands::in_transactions(name) => {
                Plan::Refuse(Reply::error("ERR Command not allowed inside a transaction"))
            }
            _ => Plan::Queue(Step::Own(name)),
        };
    }
    match (kind, spec) {
        (Some(quorate_calls::Kind::Read(_)), Some(spec)) if !waits(spec, words) => Plan::Read,
        (Some(quorate_calls::Kind::Read(_) | quorate_calls::Kind::Write(_)), Some(spec)) => {
            if spec.flags.has(Flags::BLOCKING) { Plan::Wait(spec) } else { Plan::Write }
        }
        _ => Plan::Own(name),
    }
}

/// Whether a command of this form would wait.
fn waits(spec: &Spec, words: &[Blob]) -> bool {
    spec.flags.has(Flags::BLOCKING) && matches!(quorate_calls::wait_of(spec, words), Ok(Some(_)))
}

/// Writes what an operation of a commit came to.
pub(crate) fn answer_result(result: &OpResult, protocol: Protocol, out: &mut Vec<u8>) {
    match result {
        OpResult::Reply { reply } => resp::write(reply, protocol, out),
        OpResult::Failed { error } => resp::write(&error::op(error), protocol, out),
        // Of our own words; calls have replies.
        OpResult::Number { value } => resp::number(b':', *value, out),
        _ => resp::write(&Reply::ok(), protocol, out),
    }
}

/// What is needed to answer reads, while the state is looked at.
struct Reader<'a> {
    gateway: &'a Gateway,
    client: &'a Client,
    input: &'a mut Input,
    words: &'a mut Vec<Blob>,
    out: &'a mut Vec<u8>,
    state: &'a mut State,
}

/// What comes after a run of reads.
enum After {
    /// Nothing whole has arrived, or others want the state.
    Nothing,
    /// The command in hand is for others.
    Command,
    /// The command in hand is answered once the records that this names are read.
    Records(Reply),
    /// The command in hand has a long answer.
    Long(Long),
    Broken(ProtocolError),
}

impl Reader<'_> {
    fn run(self, machine: &Machine, times: Times, alone: bool) -> After {
        let until = self.out.len() + READ_BYTES_MAX;
        let started = Instant::now();
        let mut begun = started;
        // As of this state: what was allowed when the command arrived may be so no more.
        let rights = machine.rights(&self.state.who.principal);
        for place in 0..READS_MAX {
            if place % NEAR == 0 && !alone && self.words.len() > 1 {
                let mut next = self.input.ahead(&self.words[0]).peekable();
                if next.peek().is_some() {
                    let names = std::iter::once(&*self.words[1]).chain(next);
                    machine.bring_values_near(self.state.session.space, names);
                }
            }
            if self.state.follows() {
                // No later than the read: whatever changes after it is told, and after its reply.
                let spec = quorate_calls::check(self.words).ok();
                spec.into_iter().for_each(|spec| {
                    self.gateway.tracking.remember(
                        self.gateway,
                        self.client.id,
                        machine.applied(),
                        spec,
                        self.words,
                    );
                });
            }
            let seed = self.gateway.random();
            let mut long = None;
            let called =
                machine.call_long(&rights, times, &mut self.state.session, self.words, seed, &mut long);
            if let Some(long) = long {
                return After::Long(long);
            }
            match called {
                Ok(reply) if !streams::refs(&reply).is_empty() => return After::Records(reply),
                Ok(reply) => resp::write(&reply, self.state.protocol, self.out),
                Err(error) => {
                    let text = error.text().clone();
                    resp::write(&Reply::Error { text }, self.state.protocol, self.out);
                }
            }
            self.state.forget_caching();
            let now = Instant::now();
            if self.gateway.is_slow(now - begun) {
                self.gateway.slowlog.note(now - begun, self.words, self.client);
            }
            begun = now;
            if alone || self.out.len() > until || now - started > TURN_MAX {
                return After::Nothing;
            }
            match self.input.next(&bounds(self.gateway, self.state), self.words) {
                Ok(false) => return After::Nothing,
                Err(error) => return After::Broken(error),
                Ok(true) if !matches!(plan(self.state, self.words), Plan::Read) => {
                    return After::Command;
                }
                Ok(true) if self.gateway.pause.holds(false).is_some() => return After::Command,
                Ok(true) => {
                    self.gateway.stats.commands.fetch_add(1, Ordering::Relaxed);
                    let database = self.state.session.space.0;
                    let bytes_max = self.gateway.config.pushes_bytes_max;
                    self.gateway.monitors.show(self.client, database, self.words, bytes_max);
                }
            }
        }
        // The last command decoded was not answered: it is in hand.
        After::Command
    }
}

/// The keyspace of a database number.
pub(crate) fn database(word: &[u8]) -> Result<Keyspace, Reply> {
    let number =
        resp::integer(word).ok_or_else(|| Reply::error("ERR value is not an integer or out of range"))?;
    u16::try_from(number)
        .ok()
        .filter(|number| *number < DATABASES)
        .map(Keyspace)
        .ok_or_else(|| Reply::error("ERR DB index is out of range"))
}
