//! Watches: who is told of what, and how far each of them is.
//!
//! One task per node, the hub, reads each change once and hands it to the watches that it concerns. A watch is *joined* (the hub tells it) or
//! *behind*: then its stream reads history for it, in slices, from where it stands, until it stands where the hub does and joins. A stream that
//! does not take what it is handed fills its bounded queue; from then on its watches are behind, and cost nothing but a position.
//!
//! Invariant: a watch is told of every change of its range from its first revision on, once, in order, no revision split between two answers
//! but as fragments; or it is cancelled, with the revision that history begins at.
//! Invariant: nobody waits for a slow watcher: the hub never waits for a queue, and a queue is bounded.
//! Invariant: a joined watch was told, or has in its queue, everything before the hub's position.
//! Called by: `serve` runs the hub; the service Watch.

use crate::batches::{self, Gone, Teller, Told};
use crate::error;
use crate::gateway::{Gateway, shown};
use crate::protocol::etcdserverpb as pb;
use crate::protocol::etcdserverpb::watch_create_request::FilterType;
use crate::protocol::etcdserverpb::watch_request::RequestUnion;
use crate::protocol::mvccpb;
use crate::ranges::Ranges;
use crate::serve::Api;
use crate::txn;
use bytes::Bytes;
use prost::Message;
use quorate_machine::{Change, Machine, Rights};
use quorate_runtime::{Consistency, Handle, RuntimeError};
use quorate_types::{Blob, KeyRange, Keyspace, OpError, Principal, Revision, Verbs};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming};

/// Lines of history that one slice looks at, and bytes of changes after which it ends: about a millisecond.
const SLICE_LINES: usize = 4096;
const SLICE_BYTES: usize = 256 << 10;
/// What the hub told that is handed on before the client is listened to again.
const PIECES: usize = 128;
/// The id of answers that concern all watches of a stream.
const ALL: i64 = -1;

/// What a watch wants to hear of.
struct Wanted {
    range: KeyRange,
    puts: bool,
    deletes: bool,
    /// Nothing before this revision.
    from: Revision,
}

impl Wanted {
    fn wants(&self, change: &Change) -> bool {
        change.revision >= self.from && if change.now.is_some() { self.puts } else { self.deletes }
    }
}

/// A joined watch, as the hub has it.
struct Joined {
    queue: Arc<Queue>,
    id: i64,
    wanted: Wanted,
}

/// What tells a watch from all others while it has joined.
fn number(queue: &Arc<Queue>, id: i64) -> (usize, i64) {
    (Arc::as_ptr(queue) as usize, id)
}

impl Joined {
    fn number(&self) -> (usize, i64) {
        number(&self.queue, self.id)
    }
}

/// See the module's documentation.
pub(crate) struct Hub {
    state: Mutex<State>,
    queue_bytes_max: usize,
}

#[derive(Default)]
struct State {
    /// All changes before it were handed out.
    next: Revision,
    /// Watches of one key, by its name.
    singles: HashMap<Blob, Vec<Arc<Joined>>>,
    /// The others, known by their stream and id.
    ranges: Ranges<(usize, i64), Arc<Joined>>,
}

/// What waits for one stream.
#[derive(Default)]
struct Queue {
    state: Mutex<Queued>,
    filled: Notify,
}

#[derive(Default)]
struct Queued {
    /// Changes of one watch, of whole revisions.
    ready: VecDeque<(i64, Vec<Arc<Change>>)>,
    bytes: usize,
    /// Watches that are behind, and from where they go on.
    behind: BTreeMap<i64, Revision>,
    over: bool,
}

impl Queued {
    fn pop_ready(&mut self) -> Option<(i64, Vec<Arc<Change>>)> {
        let (id, changes) = self.ready.pop_front()?;
        self.bytes -= changes.iter().map(|change| bytes_of(change)).sum::<usize>();
        Some((id, changes))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a thread that panicked left behind is whole: every change here is a single step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bytes_of(change: &Change) -> usize {
    let of = |key: &Option<quorate_types::KeyValue>| key.as_ref().map_or(0, |key| key.value.len());
    change.key.name.len() + of(&change.now) + of(&change.prev) + 64
}

impl Hub {
    pub(crate) fn new(queue_bytes_max: usize) -> Self {
        Self { state: Mutex::default(), queue_bytes_max }
    }

    /// Tells watches of changes, as long as the node serves.
    pub(crate) async fn run(&self, handle: &Handle) {
        loop {
            match self.follow(handle).await {
                // The node opens its folder anew, and goes on then.
                Err(RuntimeError::Restarting) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(_) => break,
                Ok(never) => match never {},
            }
        }
        let mut state = locked(&self.state);
        let singles = std::mem::take(&mut state.singles).into_values().flatten();
        for joined in singles.chain(state.ranges.drain()) {
            locked(&joined.queue.state).over = true;
            joined.queue.filled.notify_one();
        }
    }

    async fn follow(&self, handle: &Handle) -> Result<std::convert::Infallible, RuntimeError> {
        loop {
            let told = Revision(locked(&self.state).next.0.saturating_sub(1));
            let current = handle.beyond(told).await?;
            if locked(&self.state).skip_if_alone(current) {
                continue;
            }
            let next = locked(&self.state).next;
            let read = |machine: &Machine| {
                machine.plain_changes(Keyspace::DEFAULT, None, next, SLICE_LINES, SLICE_BYTES)
            };
            match handle.read_with(Consistency::Stale, read).await? {
                Ok(mut changes) => {
                    since_before(&mut changes.changes);
                    self.tell(changes.changes, changes.next);
                }
                // Forgotten faster than it was told: each watch finds out by itself what that means for it.
                Err(_) => locked(&self.state).part_all(current.next()),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Hands changes to the watches that they concern.
    fn tell(&self, changes: Vec<Change>, next: Revision) {
        let mut state = locked(&self.state);
        // By stream and watch, so that one answer holds what one watch hears.
        let mut heard: Vec<(Arc<Joined>, Vec<Arc<Change>>)> = Vec::new();
        let mut places: HashMap<*const Joined, usize> = HashMap::new();
        for change in changes {
            let change = Arc::new(change);
            let mut tell = |joined: &Arc<Joined>| {
                if joined.wanted.wants(&change) {
                    let place = *places.entry(Arc::as_ptr(joined)).or_insert_with(|| {
                        heard.push((Arc::clone(joined), Vec::new()));
                        heard.len() - 1
                    });
                    heard[place].1.push(Arc::clone(&change));
                }
            };
            state.singles.get(&change.key.name).into_iter().flatten().for_each(&mut tell);
            state.ranges.holding(&change.key.name, &mut tell);
        }
        for (joined, changes) in heard {
            let bytes: usize = changes.iter().map(|change| bytes_of(change)).sum();
            let first = changes[0].revision;
            let full = {
                let mut queued = locked(&joined.queue.state);
                let full = queued.bytes > 0 && queued.bytes + bytes > self.queue_bytes_max;
                if full {
                    queued.behind.insert(joined.id, first);
                } else {
                    queued.bytes += bytes;
                    queued.ready.push_back((joined.id, changes));
                }
                full
            };
            if full {
                state.part(&joined);
            }
            joined.queue.filled.notify_one();
        }
        state.next = next;
    }

    /// Joins a watch that has been told of everything before `from`; where the hub stands, if that is further.
    fn join(&self, queue: &Arc<Queue>, id: i64, wanted: Wanted) -> Result<(), Revision> {
        let mut state = locked(&self.state);
        if wanted.from < state.next {
            return Err(state.next);
        }
        let range = &wanted.range;
        let single = *range == KeyRange::single(range.start.clone());
        let joined = Arc::new(Joined { queue: Arc::clone(queue), id, wanted });
        if single {
            state.singles.entry(joined.wanted.range.start.name.clone()).or_default().push(joined);
        } else {
            let number = joined.number();
            state.ranges.insert(&joined.wanted.range.clone(), number, joined);
        }
        Ok(())
    }

    /// Takes watches of a stream out, those that have joined.
    fn leave<'a>(&self, queue: &Arc<Queue>, watches: impl Iterator<Item = (i64, &'a KeyRange)>) {
        let mut state = locked(&self.state);
        for (id, range) in watches {
            state.take(queue, id, range);
        }
    }

    /// Everything before it was handed out.
    fn next(&self) -> Revision {
        locked(&self.state).next
    }
}

impl State {
    /// Goes ahead where nobody watches.
    fn skip_if_alone(&mut self, current: Revision) -> bool {
        let alone = self.singles.is_empty() && self.ranges.is_empty();
        // At least one revision has to be ahead, or it would spin.
        if alone {
            self.next = current.next();
        }
        alone
    }

    fn part(&mut self, joined: &Arc<Joined>) {
        self.take(&joined.queue, joined.id, &joined.wanted.range);
    }

    fn take(&mut self, queue: &Arc<Queue>, id: i64, range: &KeyRange) {
        if *range != KeyRange::single(range.start.clone()) {
            self.ranges.remove(range, number(queue, id));
        } else if let Some(of) = self.singles.get_mut(&range.start.name) {
            of.retain(|other| other.id != id || !Arc::ptr_eq(&other.queue, queue));
            if of.is_empty() {
                self.singles.remove(&range.start.name);
            }
        }
    }

    fn part_all(&mut self, next: Revision) {
        let singles = std::mem::take(&mut self.singles).into_values().flatten();
        for joined in singles.chain(self.ranges.drain()) {
            let from = self.next.max(joined.wanted.from);
            locked(&joined.queue.state).behind.insert(joined.id, from);
            joined.queue.filled.notify_one();
        }
        self.next = next;
    }
}

#[tonic::async_trait]
impl pb::watch_server::Watch for Api {
    type WatchStream = Told<pb::WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.0.ready_for(request.metadata()).await?;
        // A stream is not refused: each watch is, with a reason that clients know to enter anew by.
        let who = self.0.principal(request.metadata(), request.extensions().get()).await;
        let wants_leader = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        let asked = request.into_inner();
        let (answers, told) = batches::channel();
        let users = self.0.handle.users_changed();
        let stream = Stream {
            gateway: Arc::clone(&self.0),
            who,
            wants_leader,
            users,
            rights: None,
            answers,
            queue: Arc::default(),
            watches: HashMap::new(),
            next_id: 0,
            progress_asked: false,
        };
        tokio::spawn(stream.run(asked));
        Ok(Response::new(told))
    }
}

/// A watch of a stream.
struct Watch {
    range: KeyRange,
    puts: bool,
    deletes: bool,
    prev: bool,
    fragment: bool,
    notify: bool,
    /// When it was last told anything.
    told: Instant,
}

/// One stream of watches.
struct Stream {
    gateway: Arc<Gateway>,
    who: Result<Principal, Status>,
    wants_leader: bool,
    /// Whether what it may has to be asked for again.
    users: tokio::sync::watch::Receiver<u64>,
    rights: Option<Rights>,
    answers: Teller<pb::WatchResponse>,
    queue: Arc<Queue>,
    watches: HashMap<i64, Watch>,
    next_id: i64,
    progress_asked: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.gateway.hub.leave(&self.queue, self.watches.iter().map(|(id, watch)| (*id, &watch.range)));
    }
}

impl Stream {
    async fn run(mut self, mut asked: Streaming<pb::WatchRequest>) {
        let gateway = Arc::clone(&self.gateway);
        let mut ended = false;
        let mut ticks = tokio::time::interval(self.tick());
        let queue = Arc::clone(&self.queue);
        loop {
            let work = self.has_work();
            let done = tokio::select! {
                biased;
                () = gateway.stopped() => {
                    self.answers.fail(error::stopped()).await;
                    return;
                }
                () = self.answers.closed() => return,
                message = asked.message(), if !ended => match message {
                    Ok(Some(request)) => self.asked(request).await,
                    Ok(None) => { ended = true; Ok(()) }
                    Err(_) => {
                        self.answers.fail(Status::cancelled("context canceled")).await;
                        return;
                    }
                },
                () = std::future::ready(()), if work => self.work().await,
                () = queue.filled.notified() => Ok(()),
                _ = ticks.tick() => self.progress().await,
            };
            // Whoever asks for nothing more goes on hearing, as with etcd.
            if done.is_err() || self.answers.flush().await.is_err() {
                return;
            }
        }
    }

    fn tick(&self) -> Duration {
        (self.gateway.config.progress_interval / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    fn has_work(&self) -> bool {
        let queued = locked(&self.queue.state);
        self.progress_asked || queued.over || !queued.ready.is_empty() || !queued.behind.is_empty()
    }

    async fn send(&mut self, answer: pb::WatchResponse) -> Result<(), Gone> {
        let bytes = answer.encoded_len();
        self.answers.tell(answer, bytes).await
    }

    /// The newest revision that this node has applied.
    async fn current(&mut self) -> Result<Revision, Gone> {
        match self.gateway.look(Consistency::Stale, Machine::revision).await {
            Ok(revision) => Ok(revision),
            Err(status) => self.fail(status).await,
        }
    }

    async fn fail<R>(&mut self, status: Status) -> Result<R, Gone> {
        self.answers.fail(status).await;
        Err(Gone)
    }

    async fn asked(&mut self, request: pb::WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => {
                if !self.forget(cancel.watch_id) {
                    return Ok(());
                }
                let current = self.current().await?;
                let header = Some(self.gateway.header(current));
                let canceled = true;
                self.send(pb::WatchResponse {
                    header,
                    watch_id: cancel.watch_id,
                    canceled,
                    ..Default::default()
                })
                .await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.progress_asked = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes a watch away; whether there was one.
    fn forget(&mut self, id: i64) -> bool {
        let Some(watch) = self.watches.remove(&id) else { return false };
        self.gateway.hub.leave(&self.queue, [(id, &watch.range)].into_iter());
        let mut queued = locked(&self.queue.state);
        queued.behind.remove(&id);
        let gone: usize = {
            let of = queued.ready.iter().filter(|(of, _)| *of == id);
            of.flat_map(|(_, changes)| changes).map(|change| bytes_of(change)).sum()
        };
        queued.ready.retain(|(of, _)| *of != id);
        queued.bytes -= gone;
        true
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> Result<(), Gone> {
        let name = if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key.clone() };
        let range = txn::range(&name, &create.range_end);
        let current = self.current().await?;
        let header = Some(self.gateway.header(current));
        let refused = self.refuses(&create, &range).err();
        if let Some(cancel_reason) = refused {
            return self
                .send(pb::WatchResponse {
                    header,
                    watch_id: ALL,
                    created: true,
                    canceled: true,
                    cancel_reason,
                    ..Default::default()
                })
                .await;
        }
        let id = if create.watch_id != 0 { create.watch_id } else { self.free_id() };
        let has = |filter: FilterType| create.filters.contains(&i32::from(filter));
        let watch = Watch {
            range,
            puts: !has(FilterType::Noput),
            deletes: !has(FilterType::Nodelete),
            prev: create.prev_kv,
            fragment: create.fragment,
            notify: create.progress_notify,
            told: Instant::now(),
        };
        self.watches.insert(id, watch);
        let start = u64::try_from(create.start_revision).ok().filter(|start| *start > 0);
        let from = start.map_or(current.next(), Revision);
        locked(&self.queue.state).behind.insert(id, from);
        self.send(pb::WatchResponse { header, watch_id: id, created: true, ..Default::default() }).await
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Whether a watch may be made.
    ///
    /// # Errors
    /// Why not, as it is told to the client.
    fn refuses(&mut self, create: &pb::WatchCreateRequest, range: &KeyRange) -> Result<(), String> {
        self.may(range).map_err(|status| go_text(code_text(&status), &status))?;
        if range.end.as_ref().is_some_and(|end| *end <= range.start.name) {
            return Err("mvcc: watcher range is empty".to_owned());
        }
        if create.watch_id != 0 && self.watches.contains_key(&create.watch_id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
        }
        if self.watches.len() >= self.gateway.config.watches_max {
            return Err(go_text("ResourceExhausted", &error::too_many_requests()));
        }
        Ok(())
    }

    fn may(&mut self, range: &KeyRange) -> Result<(), Status> {
        let who = self.who.as_ref().map_err(Clone::clone)?;
        // Told before anything later than the change can be read: what is handed on here came by rights that stood then, or later ones.
        if self.users.has_changed().unwrap_or(true) {
            self.users.mark_unchanged();
            self.rights = None;
        }
        let rights = match &mut self.rights {
            Some(rights) => rights,
            none => none.insert(self.gateway.handle.rights(who).map_err(|why| error::runtime(&why))?),
        };
        if rights.is_everything() {
            return Ok(());
        }
        rights.command("q.range").map_err(|denied| error::denied(&denied))?;
        rights.range(Verbs::READ, range).map_err(|denied| error::denied(&denied))
    }

    /// Hands on what waits: first what the hub told, some of it at a time, then what a watch that is behind finds.
    async fn work(&mut self) -> Result<(), Gone> {
        let over = locked(&self.queue.state).over;
        if over {
            return self.fail(error::stopped()).await;
        }
        let mut told = false;
        for _ in 0..PIECES {
            let next = locked(&self.queue.state).pop_ready();
            let Some((id, changes)) = next else { break };
            let revision = changes.last().map_or(Revision::ZERO, |change| change.revision);
            self.events(id, &changes, revision).await?;
            told = true;
        }
        if told {
            return Ok(());
        }
        let behind = locked(&self.queue.state).behind.pop_first();
        if let Some((id, from)) = behind {
            return self.catch_up(id, from).await;
        }
        if std::mem::take(&mut self.progress_asked) {
            // Nothing waits and nobody is behind: all watches know of everything before the hub's position.
            let told = Revision(self.gateway.hub.next().0.saturating_sub(1));
            let current = self.current().await?;
            if told < current && !self.watches.is_empty() {
                self.progress_asked = true;
                tokio::time::sleep(Duration::from_millis(1)).await;
                return Ok(());
            }
            let header = Some(self.gateway.header(current));
            return self.send(pb::WatchResponse { header, watch_id: ALL, ..Default::default() }).await;
        }
        Ok(())
    }

    /// Reads one slice of history for a watch; joins it when there is no more.
    async fn catch_up(&mut self, id: i64, from: Revision) -> Result<(), Gone> {
        let Some(watch) = self.watches.get(&id) else { return Ok(()) };
        let (range, puts, deletes) = (watch.range.clone(), watch.puts, watch.deletes);
        let wanted = |from| Wanted { range: range.clone(), puts, deletes, from };
        if self.gateway.hub.join(&self.queue, id, wanted(from)).is_ok() {
            return Ok(());
        }
        let read = |machine: &Machine| {
            let changes =
                machine.plain_changes(Keyspace::DEFAULT, Some(&range), from, SLICE_LINES, SLICE_BYTES);
            (changes, machine.oldest_shown(), machine.revision())
        };
        let (changes, oldest, current) = match self.gateway.look(Consistency::Stale, read).await {
            Ok(read) => read,
            Err(status) => return self.fail(status).await,
        };
        match changes {
            Ok(mut found) => {
                since_before(&mut found.changes);
                let of = wanted(from);
                let changes: Vec<Arc<Change>> =
                    found.changes.into_iter().filter(|change| of.wants(change)).map(Arc::new).collect();
                if !changes.is_empty() {
                    let revision = current.min(Revision(found.next.0.saturating_sub(1)));
                    self.events(id, &changes, revision).await?;
                }
                if self.watches.contains_key(&id)
                    && self.gateway.hub.join(&self.queue, id, wanted(found.next)).is_err()
                {
                    locked(&self.queue.state).behind.insert(id, found.next);
                }
                tokio::task::yield_now().await;
                Ok(())
            }
            Err(OpError::Compacted { .. }) => {
                self.forget(id);
                self.send(pb::WatchResponse {
                    header: Some(self.gateway.header(current)),
                    watch_id: id,
                    canceled: true,
                    compact_revision: shown(oldest),
                    ..Default::default()
                })
                .await
            }
            Err(why) => self.fail(error::op(&why)).await,
        }
    }

    /// Tells a watch of changes, in fragments where it wants them.
    async fn events(&mut self, id: i64, changes: &[Arc<Change>], revision: Revision) -> Result<(), Gone> {
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
        watch.told = Instant::now();
        let (prev, fragment, range) = (watch.prev, watch.fragment, watch.range.clone());
        if let Err(status) = self.may(&range) {
            self.forget(id);
            let header = Some(self.gateway.header(revision));
            let cancel_reason = go_text(code_text(&status), &status);
            return self
                .send(pb::WatchResponse {
                    header,
                    watch_id: id,
                    canceled: true,
                    cancel_reason,
                    ..Default::default()
                })
                .await;
        }
        let mut events: VecDeque<mvccpb::Event> = changes.iter().map(|change| event(change, prev)).collect();
        let bytes_max = usize::try_from(self.gateway.config.request_bytes_max).unwrap_or(usize::MAX);
        loop {
            let mut piece = Vec::new();
            let mut bytes = 0;
            while let Some(event) = events.front() {
                bytes += event.encoded_len() + 8;
                if fragment && bytes > bytes_max && !piece.is_empty() {
                    break;
                }
                piece.extend(events.pop_front());
            }
            let more = !events.is_empty();
            self.send(pb::WatchResponse {
                header: Some(self.gateway.header(revision)),
                watch_id: id,
                fragment: more,
                events: piece,
                ..Default::default()
            })
            .await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Tells watches that asked for it how far they are, when they have not heard anything for long; and ends where no leader is left.
    async fn progress(&mut self) -> Result<(), Gone> {
        if self.wants_leader
            && self.gateway.handle.cluster_status().is_some_and(|status| status.standing.leader.is_none())
        {
            return self.fail(error::no_leader()).await;
        }
        let interval = self.gateway.config.progress_interval;
        let due: Vec<i64> = {
            let queued = locked(&self.queue.state);
            let quiet =
                |id: &i64| !queued.behind.contains_key(id) && !queued.ready.iter().any(|(of, _)| of == id);
            let due =
                self.watches.iter().filter(|(_, watch)| watch.notify && watch.told.elapsed() >= interval);
            due.map(|(id, _)| *id).filter(quiet).collect()
        };
        for id in due {
            let told = Revision(self.gateway.hub.next().0.saturating_sub(1));
            if let Some(watch) = self.watches.get_mut(&id) {
                watch.told = Instant::now();
            }
            let header = Some(self.gateway.header(told));
            self.send(pb::WatchResponse { header, watch_id: id, ..Default::default() }).await?;
        }
        Ok(())
    }
}

/// Has each change tell what its key was before the revision, and not within it, as etcd does.
fn since_before(changes: &mut [Change]) {
    for of_one in changes.chunk_by_mut(|a, b| a.revision == b.revision).filter(|run| run.len() > 1) {
        let mut before = HashMap::new();
        for change in of_one {
            change.prev = before.entry(change.key.clone()).or_insert_with(|| change.prev.clone()).clone();
        }
    }
}

fn event(change: &Change, prev: bool) -> mvccpb::Event {
    use mvccpb::event::EventType;
    let prev_kv = change.prev.as_ref().filter(|_| prev).map(txn::key_value);
    match &change.now {
        Some(now) => mvccpb::Event { r#type: EventType::Put.into(), kv: Some(txn::key_value(now)), prev_kv },
        None => {
            let kv = mvccpb::KeyValue {
                key: Bytes::copy_from_slice(&change.key.name),
                mod_revision: shown(change.revision),
                ..Default::default()
            };
            mvccpb::Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv }
        }
    }
}

/// The name of a code, of those that a right that is missing has.
fn code_text(status: &Status) -> &'static str {
    match status.code() {
        Code::Unauthenticated => "Unauthenticated",
        Code::InvalidArgument => "InvalidArgument",
        Code::Unavailable => "Unavailable",
        _ => "PermissionDenied",
    }
}

/// A status in the words in which clients in Go know it.
fn go_text(code: &str, status: &Status) -> String {
    format!("rpc error: code = {code} desc = {}", status.message())
}
