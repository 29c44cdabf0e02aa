//! What all connections share: the way to the runtime, who asks, and where the nodes are.
//!
//! Invariant: no lock here is held across an `await`.
//! Called by: `serve` makes it, `connection` and `api` use it.

use crate::api::Matching;
use crate::config::Config;
use crate::error::{self, Code};
use quorate_machine::{Machine, Rights, StreamView};
use quorate_runtime::{Consistency, Handle};
use quorate_types::{
    Blob, Command, CommandBody, Commit, Committed, DEFAULT_USER, Key, Limits, Outcome, Principal, Verbs,
};
use std::net::SocketAddr;
use tokio::sync::{Semaphore, watch};

/// Longest name of a topic.
const TOPIC_BYTES_MAX: usize = 249;
/// Batches that are unpacked at once: each may take 64 MiB.
const UNPACKING_MAX: usize = 2;
/// What a node is called that runs alone.
const ALONE: u64 = 1;

/// See the module's documentation.
pub(crate) struct Gateway {
    pub(crate) handle: Handle,
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Becomes true when the gateway ends.
    pub(crate) stopping: watch::Receiver<bool>,
    /// When expressions were last matched.
    pub(crate) matching: Matching,
    /// Who may unpack a batch now.
    pub(crate) unpacking: Semaphore,
}

/// Who is a client: told with every command, for `why`.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) principal: Principal,
    pub(crate) name: Blob,
}

/// A node that clients can dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broker {
    pub(crate) id: i32,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The nodes, and which of them leads.
pub(crate) struct Nodes {
    /// The cluster's name.
    pub(crate) cluster: String,
    cluster_id: u64,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) leader: i32,
    /// The leader's term.
    pub(crate) epoch: i32,
}

impl Gateway {
    pub(crate) fn new(
        handle: Handle,
        config: Config,
        address: SocketAddr,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let unpacking = Semaphore::new(UNPACKING_MAX);
        let matching = Matching::default();
        Self { limits: handle.limits(), handle, config, address, stopping, matching, unpacking }
    }

    /// Resolves once the gateway ends.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // Whoever could say it is gone: that says it too.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Whether whoever does not say who it is may do what the user `default` may.
    pub(crate) fn is_open(&self) -> bool {
        self.config.door.is_none() && self.handle.door_is_open()
    }

    /// Whose name and secret these are: an operator's token, a token or the password of a user.
    ///
    /// # Errors
    /// The node has stopped.
    pub(crate) async fn enter(&self, user: &[u8], secret: &[u8]) -> Result<Option<Principal>, Code> {
        let is_default = user == DEFAULT_USER.as_bytes();
        // A name beside a token has to be the one that the token has.
        let fits = |principal: &Principal| is_default || *principal == Principal::of_user(&user.into());
        let text = std::str::from_utf8(secret).ok();
        let operator = self.config.door.as_ref().zip(text).and_then(|(door, text)| door.principal(text));
        let named = |operator: &Principal| is_default || operator.0.as_slice() == user;
        if let Some(operator) = operator.filter(named) {
            return Ok(Some(operator));
        }
        let found = self.handle.token(secret).map_err(|why| error::runtime(&why))?.filter(fits);
        if found.is_some() {
            return Ok(found);
        }
        // With a token file nobody enters without a secret, whatever the user needs.
        let nopass = self.config.door.is_some()
            && self.handle.user(user).ok().flatten().is_some_and(|access| access.user().nopass);
        if nopass {
            return Ok(None);
        }
        self.handle.enter(user, secret).await.map_err(|why| error::runtime(&why))
    }

    /// Sends a commit; what comes back is polled to its end by the caller.
    ///
    /// # Errors
    /// Why there is no outcome, or that nothing happened.
    pub(crate) async fn commit(&self, who: &Who, commit: Commit) -> Result<Committed, Code> {
        match self.command(who, CommandBody::Commit { commit }).await? {
            Outcome::Committed { committed } => Ok(committed),
            Outcome::Refused { refusal } => Err(error::refusal(&refusal)),
            _ => Err(Code::UnknownServerError),
        }
    }

    /// Sends any command: what it came to.
    ///
    /// # Errors
    /// Why there is no outcome.
    pub(crate) async fn command(&self, who: &Who, body: CommandBody) -> Result<Outcome, Code> {
        let (principal, client) = (who.principal.clone(), who.name.clone());
        let command = Command { principal, client, trace: Blob::EMPTY, body };
        match tokio::time::timeout(self.config.command_timeout, self.handle.command(command)).await {
            Ok(outcome) => outcome.map_err(|why| error::runtime(&why)),
            Err(_) => Err(Code::RequestTimedOut),
        }
    }

    /// Reads the state as it is certain to be.
    ///
    /// # Errors
    /// The node has stopped, or no leader can be reached in time.
    pub(crate) async fn read<R>(&self, read: impl FnOnce(&Machine) -> R) -> Result<R, Code> {
        let read = self.handle.read_with(Consistency::Linearizable, read);
        match tokio::time::timeout(self.config.command_timeout, read).await {
            Ok(read) => read.map_err(|why| error::runtime(&why)),
            Err(_) => Err(Code::RequestTimedOut),
        }
    }

    /// Where clients are told to find this gateway: host and port.
    pub(crate) fn advertised(&self) -> (String, u16) {
        match self.config.advertise.as_deref().and_then(door) {
            Some(told) => told,
            None => (self.address.ip().to_string(), self.address.port()),
        }
    }

    /// The nodes that have such a gateway. Where those of the others are, their pings have told; an address that only their own machine can
    /// reach is left out for clients that come from elsewhere.
    pub(crate) fn nodes(&self) -> Nodes {
        let own = self.advertised();
        let epoch = |term: u64| i32::try_from(term).unwrap_or(i32::MAX);
        let broker = |id: u64, (host, port): (String, u16)| Broker { id: number(id), host, port };
        let Some(status) = self.handle.cluster_status() else {
            return Nodes {
                cluster: "quorate".to_owned(),
                cluster_id: 0,
                brokers: vec![broker(ALONE, own)],
                leader: number(ALONE),
                epoch: epoch(self.handle.term()),
            };
        };
        let mut brokers = Vec::new();
        for one in &status.members {
            if one.member.node == status.node {
                brokers.push(broker(one.member.node.0, own.clone()));
            } else if let Some(told) = door(&one.doors.kafka)
                && (is_local(&own.0) || !is_local(&told.0))
            {
                brokers.push(broker(one.member.node.0, told));
            }
        }
        // Every node takes every request: where the leader cannot be dialled, or none is known, this one does.
        let this = number(status.node.0);
        let leads = status.standing.leader.map(|node| number(node.0));
        let leader = leads.filter(|leader| brokers.iter().any(|broker| broker.id == *leader));
        Nodes {
            cluster: format!("quorate-{:016x}", status.cluster.0),
            cluster_id: status.cluster.0,
            brokers,
            leader: leader.unwrap_or(this),
            epoch: epoch(status.standing.term.0),
        }
    }
}

impl Nodes {
    /// A topic's id: the number of its stream, which is never used again, beside the cluster's. Never all zeros, which is "none".
    pub(crate) fn topic_id(&self, view: &StreamView) -> [u8; 16] {
        self.id_of(view.id.0)
    }

    /// The id of the topic that the stream of this number is.
    pub(crate) fn id_of(&self, stream: u64) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.cluster_id.to_be_bytes());
        id[8..].copy_from_slice(&(stream + 1).to_be_bytes());
        id
    }

    /// The number of the stream that a topic of this cluster's is, by its id.
    pub(crate) fn stream_of_id(&self, id: &[u8; 16]) -> Option<u64> {
        let (cluster, stream) = id.split_first_chunk::<8>()?;
        let stream = u64::from_be_bytes(stream.try_into().ok()?);
        if u64::from_be_bytes(*cluster) == self.cluster_id { stream.checked_sub(1) } else { None }
    }
}

/// The stream that a topic is; nothing when the name is none that Kafka has.
pub(crate) fn stream_of(topic: &str) -> Option<Key> {
    is_legal(topic.as_bytes()).then(|| Key::from(topic))
}

/// The topic that a stream is, where Kafka has such names.
pub(crate) fn topic_of(stream: &Key) -> Option<&str> {
    let text = stream.name.as_text()?;
    (stream.space == quorate_types::Keyspace::DEFAULT && is_legal(text.as_bytes())).then_some(text)
}

fn is_legal(name: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=TOPIC_BYTES_MAX).contains(&name.len())
        && name.iter().all(letter)
        && !matches!(name, [b'.'] | [b'.', b'.'])
}

/// Whether a topic may be read, by a command that Redis has for it.
pub(crate) fn may_read(rights: &Rights, command: &'static str, stream: &Key) -> bool {
    rights.alive().is_ok()
        && rights.command(command).is_ok()
        && rights.name(Verbs::READ, stream.space, &stream.name).is_ok()
}

fn number(node: u64) -> i32 {
    i32::try_from(node).unwrap_or(i32::MAX)
}

/// Host and port of `host:port`.
fn door(told: &str) -> Option<(String, u16)> {
    let (host, port) = told.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), port.parse().ok()?))
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_streams_with_names_that_kafka_has() {
        for name in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(topic_of(&stream_of(name).unwrap()), Some(name));
        }
        for name in ["", ".", "..", "a b", "a/b", "é", "a:0", &"x".repeat(250)] {
            assert_eq!(stream_of(name), None, "{name}");
            assert_eq!(topic_of(&Key::from(name)), None, "{name}");
        }
        assert_eq!(topic_of(&Key { space: quorate_types::Keyspace(1), name: "a".into() }), None);
    }

    #[test]
    fn an_id_leads_to_a_stream_of_its_own_cluster_alone() {
        let of = |cluster_id| Nodes {
            cluster: String::new(),
            cluster_id,
            brokers: Vec::new(),
            leader: 1,
            epoch: 1,
        };
        let (here, there) = (of(7), of(8));
        for number in [0, 1, u64::MAX - 1] {
            assert_eq!(here.stream_of_id(&here.id_of(number)), Some(number));
            assert_eq!(there.stream_of_id(&here.id_of(number)), None);
        }
        assert_eq!((of(0).stream_of_id(&[0; 16]), here.stream_of_id(&[0xff; 16])), (None, None));
    }

    #[test]
    fn a_door_is_a_host_and_a_port() {
        assert_eq!(door("[::1]:9092"), Some(("::1".to_owned(), 9092)));
        assert_eq!(door("kafka.example:1"), Some(("kafka.example".to_owned(), 1)));
        assert_eq!((door(""), door("x"), door("x:y")), (None, None, None));
    }
}
