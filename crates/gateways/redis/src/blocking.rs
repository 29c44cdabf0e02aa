//! Waits of BLPOP and its like: who came first is served first.
//!
//! A command that finds nothing stands in the queue of each of its keys, of this node. Only the first of a queue looks at the key, woken
//! by the runtime whenever it changes, and tries its command when something is there; whoever has been served, has run out of time or is
//! gone makes room for the next. A try is a commit as any other, so among nodes, and against clients that do not wait, the log decides.
//!
//! Invariant: a connection that ends while it waits leaves every queue; one that is being served is served first.
//! Invariant: nothing is logged for a wait in vain.
//! Called by: `connection`.

use crate::client::Unblock;
use crate::connection::{Connection, Gone, call};
use crate::error;
use crate::gateway::{Gateway, locked};
use quorate_calls::{Session, Spec};
use quorate_machine::{Machine, Times};
use quorate_runtime::{Consistency, Interest};
use quorate_types::{Blob, Commit, Key, KeyRange, Mode, OpResult, Reply};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A wait without end, as far as timers are concerned.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The queues of all keys that somebody waits for at this node.
#[derive(Default)]
pub(crate) struct Queues {
    next: AtomicU64,
    waiting: AtomicUsize,
    by_key: Mutex<HashMap<Key, Queue>>,
}

/// Who waits for one key, first come first: tickets, each with what tells that it is first.
type Queue = VecDeque<(u64, Arc<Notify>)>;

impl Queues {
    /// How many clients wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn anybody(&self, keys: &[Key]) -> bool {
        let queues = locked(&self.by_key);
        keys.iter().any(|key| queues.contains_key(key))
    }

    fn enter<'a>(&'a self, keys: &'a [Key]) -> Place<'a> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut queues = locked(&self.by_key);
        let turns = keys.iter().map(|key| {
            let turn = Arc::new(Notify::new());
            let queue = queues.entry(key.clone()).or_default();
            // A key that is named twice is waited for once.
            if queue.back().is_none_or(|(last, _)| *last != ticket) {
                queue.push_back((ticket, Arc::clone(&turn)));
            }
            turn
        });
        let turns = turns.collect();
        drop(queues);
        Place { queues: self, ticket, keys, turns }
    }
}

/// A place in the queues of some keys. Dropping it makes room.
struct Place<'a> {
    queues: &'a Queues,
    ticket: u64,
    keys: &'a [Key],
    turns: Vec<Arc<Notify>>,
}

impl Place<'_> {
    /// Resolves once this is the first for its key number `at`.
    async fn turn(&self, at: usize) {
        loop {
            let first = {
                let queues = locked(&self.queues.by_key);
                queues
                    .get(&self.keys[at])
                    .and_then(|queue| queue.front())
                    .is_none_or(|(first, _)| *first == self.ticket)
            };
            if first {
                return;
            }
            self.turns[at].notified().await;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queues.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut queues = locked(&self.queues.by_key);
        for key in self.keys {
            let Some(queue) = queues.get_mut(key) else { continue };
            let was_first = queue.front().is_some_and(|(first, _)| *first == self.ticket);
            queue.retain(|(ticket, _)| *ticket != self.ticket);
            match queue.front() {
                None => drop(queues.remove(key)),
                Some((_, next)) if was_first => next.notify_one(),
                Some(_) => {}
            }
        }
    }
}

/// How a wait ended.
enum Ended {
    /// Something may be there, and it is this one's turn.
    Ready,
    Late,
    Unblocked(Unblock),
    Failed(Reply),
}

impl Connection {
    /// Executes a command that may wait.
    pub(crate) async fn wait_for(&mut self, spec: &'static Spec, words: Vec<Blob>) -> Result<Reply, Gone> {
        let gateway = Arc::clone(&self.gateway);
        let timeout = match quorate_calls::wait_of(spec, &words) {
            // Of a form that never waits.
            Ok(None) => return Ok(self.attempt(spec, &words).await),
            Ok(Some(timeout)) => timeout,
            Err(refused) => return Ok(Reply::Error { text: refused.text().clone() }),
        };
        let Some(mut waits) = Waits::of(spec, &words, self.state.session.space) else {
            // Whatever is wrong with it, its own handler says so.
            return Ok(self.attempt(spec, &words).await);
        };
        // The newest id of a stream is that of now, not of when something comes.
        let words = match &mut waits.served {
            Served::Kind(_) => words,
            Served::Stream(session, asked) => {
                let pin = |machine: &Machine, times| machine.stream_pinned(times, session, &words);
                let pinned = match self.look_now(pin).await {
                    Ok(pinned) => pinned,
                    Err(reply) => return Ok(reply),
                };
                asked.clone_from(&pinned);
                pinned
            }
        };
        let there = match self.there(&waits).await {
            Ok(there) => there,
            Err(reply) => return Ok(reply),
        };
        // What another type makes an error is said at once; what somebody else waits for is theirs first.
        let at_once = match there {
            // A consumer is made by its first try, whatever comes of it.
            There::Nothing => spec.name == "xreadgroup",
            There::Other => true,
            There::Something => !gateway.queues.anybody(&waits.keys),
        };
        if at_once {
            let reply = self.attempt(spec, &words).await;
            if !is_nothing(&reply) {
                return Ok(reply);
            }
        }
        let length = if timeout.0 == 0 { FOR_EVER } else { Duration::from_millis(timeout.0).min(FOR_EVER) };
        let deadline = Instant::now() + length;
        self.client.note(|seen| seen.blocked = true);
        let reply = self.stand(&gateway, &waits, deadline, (spec, &words)).await;
        self.client.note(|seen| seen.blocked = false);
        reply
    }

    async fn stand(
        &mut self,
        gateway: &Gateway,
        waits: &Waits,
        deadline: Instant,
        (spec, words): (&'static Spec, &[Blob]),
    ) -> Result<Reply, Gone> {
        self.send().await?;
        let place = gateway.queues.enter(&waits.keys);
        loop {
            match self.ready(gateway, &place, waits, deadline).await? {
                Ended::Ready => {
                    let reply = self.attempt(spec, words).await;
                    if !is_nothing(&reply) {
                        return Ok(reply);
                    }
                    if Instant::now() >= deadline {
                        return Ok(Reply::NilArray);
                    }
                }
                Ended::Late | Ended::Unblocked(Unblock::Timeout) => return Ok(Reply::NilArray),
                Ended::Unblocked(Unblock::Error) => {
                    return Ok(Reply::error("UNBLOCKED client unblocked via CLIENT UNBLOCK"));
                }
                Ended::Failed(reply) => return Ok(reply),
            }
        }
    }

    /// Waits until it is this one's turn at a key that has something, or until something else ends the wait.
    async fn ready(
        &mut self,
        gateway: &Gateway,
        place: &Place<'_>,
        waits: &Waits,
        deadline: Instant,
    ) -> Result<Ended, Gone> {
        let mut looks: Vec<Pin<Box<dyn Future<Output = Option<Reply>> + Send + '_>>> = (0..waits.keys.len())
            .map(|at| {
                Box::pin(look(gateway, place, waits, at)) as Pin<Box<dyn Future<Output = _> + Send + '_>>
            })
            .collect();
        let mut late = std::pin::pin!(tokio::time::sleep_until(deadline));
        loop {
            let ended = poll_fn(|cx| {
                for look in &mut looks {
                    if let Poll::Ready(failed) = look.as_mut().poll(cx) {
                        return Poll::Ready(Ok(Some(failed.map_or(Ended::Ready, Ended::Failed))));
                    }
                }
                if late.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(Some(Ended::Late)));
                }
                self.poll_ahead(cx).map(|letter| letter.map(|()| None))
            })
            .await?;
            if let Some(ended) = ended {
                return Ok(ended);
            }
            let letters = self.client.take_letters();
            if letters.killed {
                return Err(Gone);
            }
            self.take_pushes(letters.pushes);
            if let Some(how) = letters.unblock {
                return Ok(Ended::Unblocked(how));
            }
            self.send().await?;
        }
    }

    /// What is there now.
    async fn there(&self, waits: &Waits) -> Result<There, Reply> {
        self.look_now(|machine, times| waits.there(machine, times)).await
    }

    async fn look_now<R>(&self, look: impl FnOnce(&Machine, Times) -> R) -> Result<R, Reply> {
        let looking = self.gateway.handle.read_at(Consistency::Linearizable, look);
        match tokio::time::timeout(self.gateway.config.command_timeout, looking).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(why)) => Err(error::runtime(&why)),
            Err(_) => Err(Reply::error("CLUSTERDOWN no leader confirmed the read in time: try again later")),
        }
    }

    /// Executes it once, as it is.
    async fn attempt(&self, spec: &Spec, words: &[Blob]) -> Reply {
        let space = self.state.session.space;
        if matches!(spec.kind, quorate_calls::Kind::Read(_)) {
            let seed = self.gateway.random();
            let principal = &self.state.who.principal;
            let read = |machine: &Machine, times| {
                machine.call_as(&machine.rights(principal), times, &mut Session::new(space), words, seed)
            };
            return match self.look_now(read).await {
                Ok(Ok(reply)) => self.gateway.resolved(reply).await,
                Ok(Err(error)) => Reply::Error { text: error.text().clone() },
                Err(reply) => reply,
            };
        }
        let commit =
            Commit { then: vec![call(space, words.to_vec())], mode: Mode::Each, ..Commit::default() };
        match self.gateway.commit(&self.state.who, commit).await {
            Err(reply) => reply,
            Ok(mut committed) => match committed.results.pop() {
                Some(OpResult::Reply { reply }) => reply,
                Some(OpResult::Failed { error }) => error::op(&error),
                _ => Reply::Nil,
            },
        }
    }
}

/// Resolves once it is this one's turn at the key number `at` and the key has something; with an error when that cannot be told any more.
async fn look(gateway: &Gateway, place: &Place<'_>, waits: &Waits, at: usize) -> Option<Reply> {
    // What is read from a stream stays for the others: nobody stands before anybody.
    if matches!(waits.served, Served::Kind(_)) {
        place.turn(at).await;
    }
    let interest = Interest::Keys(KeyRange::single(waits.keys[at].clone()));
    let look = |machine: &Machine| waits.serves_waiting(machine, &waits.keys[at]).then_some(());
    match gateway.handle.wait(interest, FOR_EVER, look).await {
        Ok(_) => None,
        Err(why) => Some(error::runtime(&why)),
    }
}

/// The type of a key, as TYPE tells it.
fn kind_of(machine: &Machine, times: Times, key: &Key) -> Blob {
    let mut session = Session::new(key.space);
    match machine.call(times, &mut session, &["type".into(), key.name.clone()], 0) {
        Ok(Reply::Status { text }) => text,
        _ => "none".into(),
    }
}

fn is_nothing(reply: &Reply) -> bool {
    matches!(reply, Reply::Nil | Reply::NilArray)
}

/// What a command waits for.
struct Waits {
    keys: Vec<Key>,
    served: Served,
}

/// What serves it.
enum Served {
    /// A key of this type.
    Kind(&'static str),
    /// Records of a stream, as these words ask for them.
    Stream(Session, Vec<Blob>),
}

/// What a command finds before it waits.
enum There {
    Nothing,
    /// Something that serves it.
    Something,
    /// Something else.
    Other,
}

impl Waits {
    /// What a command waits for; nothing when its own handler would refuse it.
    fn of(spec: &Spec, words: &[Blob], space: quorate_types::Keyspace) -> Option<Self> {
        let is = |word: &Blob, one_of: &[&str]| {
            one_of.iter().any(|text| word.eq_ignore_ascii_case(text.as_bytes()))
        };
        let ends: &[&str] = &["left", "right"];
        let mut places = quorate_calls::keys_of(spec, words).ok()?;
        let served = match spec.name {
            "blpop" | "brpop" | "brpoplpush" => Served::Kind("list"),
            "blmove" if is(words.get(3)?, ends) && is(words.get(4)?, ends) => Served::Kind("list"),
            "bzpopmin" | "bzpopmax" => Served::Kind("zset"),
            "blmpop" | "bzmpop" => {
                let list = spec.name == "blmpop";
                let after = places.last()? + 1;
                let which = is(words.get(after)?, if list { ends } else { &["min", "max"] });
                let counted = match &words[after + 1..] {
                    [] => true,
                    [count, number] => {
                        is(count, &["count"]) && crate::resp::integer(number).is_some_and(|n| n > 0)
                    }
                    _ => false,
                };
                (which && counted).then_some(Served::Kind(if list { "list" } else { "zset" }))?
            }
            "xread" | "xreadgroup" => Served::Stream(Session::new(space), words.to_vec()),
            _ => return None,
        };
        if matches!(spec.name, "brpoplpush" | "blmove") {
            // The other key is where it goes.
            places.truncate(1);
        }
        let keys = places.into_iter().map(|place| Key { space, name: words[place].clone() }).collect();
        Some(Self { keys, served })
    }

    /// Whether this key has something for it, as far as one key can tell.
    fn serves(&self, machine: &Machine, times: Times, key: &Key) -> bool {
        match &self.served {
            Served::Kind(kind) => *kind_of(machine, times, key) == *kind.as_bytes(),
            Served::Stream(session, words) => machine.stream_ready(times, session, words),
        }
    }

    /// As [`Waits::serves`], for one that waits already: an XREAD does not hear of what takes its stream's place.
    fn serves_waiting(&self, machine: &Machine, key: &Key) -> bool {
        let times = Times::default();
        let reads = match &self.served {
            Served::Kind(_) => false,
            Served::Stream(_, words) => words[0].eq_ignore_ascii_case(b"xread"),
        };
        self.serves(machine, times, key) && (!reads || *kind_of(machine, times, key) == *b"stream")
    }

    /// What the first key that has something has.
    fn there(&self, machine: &Machine, times: Times) -> There {
        let Served::Kind(wanted) = &self.served else {
            return if self.serves(machine, times, &self.keys[0]) { There::Other } else { There::Nothing };
        };
        let mut kinds = self.keys.iter().map(|key| kind_of(machine, times, key));
        match kinds.find(|kind| **kind != *b"none") {
            None => There::Nothing,
            Some(kind) if *kind == *wanted.as_bytes() => There::Something,
            Some(_) => There::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_who_came_is_the_first_and_leaving_makes_room() {
        let queues = Queues::default();
        let keys: [Key; 2] = ["a".into(), "b".into()];
        let first = queues.enter(&keys[..1]);
        let second = queues.enter(&keys);
        let is_first = |place: &Place<'_>, at: usize| {
            let queues = locked(&place.queues.by_key);
            queues[&place.keys[at]].front().is_some_and(|(ticket, _)| *ticket == place.ticket)
        };
        assert!(is_first(&first, 0) && !is_first(&second, 0) && is_first(&second, 1));
        drop(first);
        assert!(is_first(&second, 0) && queues.anybody(&keys));
        drop(second);
        assert!(!queues.anybody(&keys) && queues.waiting() == 0);
    }
}
