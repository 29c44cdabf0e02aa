//! Who listens to which channel, and what they are sent.
//!
//! Nothing here is logged: a message reaches whoever listens at that moment. [`Subscriptions::publish`] is the one way out, for a client's
//! PUBLISH, for what a script has published, and for what other nodes send: the runtime gives all of them in one order.
//!
//! Invariant: a client is in the lists exactly while its connection has the subscription.
//! Called by: `commands::pubsub`, `gateway`.

use crate::client::Client;
use crate::resp::{self, Protocol};
use quorate_types::Blob;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

impl Kind {
    /// The first word of a confirmation.
    pub(crate) fn word(self, on: bool) -> &'static str {
        match (self, on) {
            (Self::Channel, true) => "subscribe",
            (Self::Channel, false) => "unsubscribe",
            (Self::Pattern, true) => "psubscribe",
            (Self::Pattern, false) => "punsubscribe",
            (Self::Shard, true) => "ssubscribe",
            (Self::Shard, false) => "sunsubscribe",
        }
    }
}

type Listeners = BTreeMap<u64, (Arc<Client>, Protocol)>;

/// Everybody's subscriptions.
#[derive(Default)]
pub(crate) struct Subscriptions {
    channels: HashMap<Blob, Listeners>,
    patterns: BTreeMap<Blob, Listeners>,
    shards: HashMap<Blob, Listeners>,
}

impl Subscriptions {
    pub(crate) fn add(&mut self, kind: Kind, name: &Blob, client: &Arc<Client>, protocol: Protocol) {
        let listeners = match kind {
            Kind::Channel => self.channels.entry(name.clone()).or_default(),
            Kind::Pattern => self.patterns.entry(name.clone()).or_default(),
            Kind::Shard => self.shards.entry(name.clone()).or_default(),
        };
        listeners.insert(client.id, (Arc::clone(client), protocol));
    }

    pub(crate) fn remove(&mut self, kind: Kind, name: &Blob, client: u64) {
        let left = |listeners: &mut Listeners| {
            listeners.remove(&client);
            listeners.is_empty()
        };
        match kind {
            Kind::Channel => {
                if self.channels.get_mut(name).is_some_and(left) {
                    self.channels.remove(name);
                }
            }
            Kind::Pattern => {
                if self.patterns.get_mut(name).is_some_and(left) {
                    self.patterns.remove(name);
                }
            }
            Kind::Shard => {
                if self.shards.get_mut(name).is_some_and(left) {
                    self.shards.remove(name);
                }
            }
        }
    }

    /// Sends a message to everybody who listens here; how many they are, a client that listens twice counted twice.
    pub(crate) fn publish(&self, channel: &Blob, message: &Blob, sharded: bool, bytes_max: usize) -> usize {
        let (exact, word) = if sharded { (&self.shards, "smessage") } else { (&self.channels, "message") };
        let mut told = 0;
        if let Some(listeners) = exact.get(channel) {
            let forms = Forms::of(&[word.as_bytes(), channel, message]);
            told += forms.send(listeners, bytes_max);
        }
        if !sharded {
            for (pattern, listeners) in &self.patterns {
                if quorate_calls::matches(pattern, channel) {
                    told += Forms::of(&[b"pmessage", pattern, channel, message]).send(listeners, bytes_max);
                }
            }
        }
        told
    }

    /// How many a message to this channel would reach, a client that listens twice counted twice.
    pub(crate) fn listeners(&self, channel: &Blob, sharded: bool) -> usize {
        let exact = self.count(sharded, channel);
        if sharded {
            return exact;
        }
        let by_pattern = self.patterns.iter().filter(|(pattern, _)| quorate_calls::matches(pattern, channel));
        exact + by_pattern.map(|(_, listeners)| listeners.len()).sum::<usize>()
    }

    /// Channels with listeners that match a pattern, sorted.
    pub(crate) fn channels(&self, sharded: bool, pattern: Option<&Blob>) -> BTreeSet<Blob> {
        let all = if sharded { self.shards.keys() } else { self.channels.keys() };
        all.filter(|name| pattern.is_none_or(|pattern| quorate_calls::matches(pattern, name)))
            .cloned()
            .collect()
    }

    /// How many listen to a channel.
    pub(crate) fn count(&self, sharded: bool, channel: &Blob) -> usize {
        let all = if sharded { &self.shards } else { &self.channels };
        all.get(channel).map_or(0, BTreeMap::len)
    }

    /// Whether a client listens to a channel.
    pub(crate) fn hears(&self, channel: &[u8], client: u64) -> bool {
        self.channels.get(&Blob::copy_from(channel)).is_some_and(|listeners| listeners.contains_key(&client))
    }

    /// Whether somebody may listen to events of keys: to such a channel, or to any pattern.
    pub(crate) fn hears_of_keys(&self) -> bool {
        !self.patterns.is_empty() || self.channels.keys().any(|name| name.starts_with(b"__key"))
    }

    /// How many patterns are listened to.
    pub(crate) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    /// How many channels are listened to.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.channels.len(), self.shards.len())
    }
}

/// A message in both dialects.
struct Forms {
    two: Vec<u8>,
    three: Vec<u8>,
}

impl Forms {
    fn of(words: &[&[u8]]) -> Self {
        let form = |protocol| {
            let mut out = Vec::with_capacity(words.iter().map(|word| word.len() + 16).sum::<usize>() + 8);
            resp::push_head(words.len(), protocol, &mut out);
            words.iter().for_each(|word| resp::bulk(word, &mut out));
            out
        };
        Self { two: form(Protocol::Two), three: form(Protocol::Three) }
    }

    fn send(&self, listeners: &Listeners, bytes_max: usize) -> usize {
        for (client, protocol) in listeners.values() {
            let bytes = if *protocol == Protocol::Three { &self.three } else { &self.two };
            client.push(bytes, bytes_max);
        }
        listeners.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: u64) -> Arc<Client> {
        let address = "127.0.0.1:5".parse().unwrap();
        Arc::new(Client::new(id, address, address, "anonymous".into()))
    }

    #[test]
    fn a_message_reaches_channel_and_pattern_each_in_its_dialect() {
        let (one, two) = (client(1), client(2));
        let mut all = Subscriptions::default();
        all.add(Kind::Channel, &"news".into(), &one, Protocol::Three);
        all.add(Kind::Pattern, &"n*".into(), &two, Protocol::Two);
        all.add(Kind::Shard, &"news".into(), &two, Protocol::Two);
        assert_eq!((all.listeners(&"news".into(), false), all.listeners(&"news".into(), true)), (2, 1));
        assert_eq!(all.publish(&"news".into(), &"hi".into(), false, 1000), 2);
        assert_eq!(one.take_letters().pushes, b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n");
        assert_eq!(
            two.take_letters().pushes,
            b"*4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$2\r\nhi\r\n"
        );
        assert_eq!(all.publish(&"news".into(), &"hi".into(), true, 1000), 1);
        assert!(two.take_letters().pushes.starts_with(b"*3\r\n$8\r\nsmessage"));
    }

    #[test]
    fn who_has_left_is_in_no_list() {
        let one = client(1);
        let mut all = Subscriptions::default();
        all.add(Kind::Channel, &"a".into(), &one, Protocol::Two);
        assert_eq!((all.count(false, &"a".into()), all.channels(false, None).len()), (1, 1));
        all.remove(Kind::Channel, &"a".into(), 1);
        assert_eq!((all.count(false, &"a".into()), all.len(), all.patterns()), (0, (0, 0), 0));
        assert_eq!(all.publish(&"a".into(), &"x".into(), false, 10), 0);
    }
}
