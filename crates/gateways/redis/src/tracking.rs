//! CLIENT TRACKING: clients remember what they have read, and are told when it may have changed.
//!
//! Which client has read which key is kept here, by the key's name alone, as Redis has it. What changes is told by the runtime once it is applied at
//! this node, whichever protocol or node it came from, expiries included ([`Tracking::changed`]).
//!
//! Invariant: a change after a read is told after the read's reply, on the connection that has read. A name is entered before its command
//! executes, and a connection takes what was left for it only after the replies of the commands in hand: so whatever takes a name out again
//! has left a message that comes after the reply.
//! Invariant: a change that a read has seen is not told for it, however late it is heard of here.
//! Invariant: the table is bounded; a name that makes room is told as if it had changed. A client that does not take its messages ends.
//! Invariant: while nobody tracks, nothing is kept here and the runtime notes no changes.
//! Called by: `connection`, `transaction`, `commands::client`, `gateway`.

use crate::client::Client;
use crate::connection::Connection;
use crate::gateway::{Gateway, locked};
use crate::resp::{self, Protocol};
use quorate_calls::{Kind, Spec};
use quorate_runtime::Changes;
use quorate_types::{Blob, LogIndex, Reply};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Most names in the table.
pub(crate) const KEYS_MAX: usize = 1_000_000;
/// Most bytes of them.
const KEYS_BYTES_MAX: usize = 128 << 20;
/// Where clients of RESP2 listen for those that redirect to them.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// What a connection has asked to be told of.
#[derive(Debug, Default)]
pub(crate) struct Following {
    redirect: Option<u64>,
    broadcast: bool,
    choice: Choice,
    /// CLIENT CACHING was said: YES where only such commands count, NO where all others do.
    pub(crate) caching: bool,
    prefixes: BTreeSet<Blob>,
}

/// Which reads count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Choice {
    #[default]
    All,
    /// Those after CLIENT CACHING YES.
    OptIn,
    /// All but those after CLIENT CACHING NO.
    OptOut,
}

impl Following {
    /// Whether what the command in hand reads counts.
    pub(crate) fn counts(&self) -> bool {
        !self.broadcast
            && match self.choice {
                Choice::All => true,
                Choice::OptIn => self.caching,
                Choice::OptOut => !self.caching,
            }
    }

    /// As CLIENT LIST shows it: whom it redirects to, and whether it follows prefixes.
    pub(crate) fn shown(&self) -> (u64, bool) {
        (self.redirect.unwrap_or(0), self.broadcast)
    }
}

/// What is applied at this node now. Not to be asked while the state is looked at.
pub(crate) fn applied(gateway: &Gateway) -> LogIndex {
    // A node that has stopped answers with an error, which nobody remembers.
    gateway.handle.allowed(|machine| machine.applied()).unwrap_or_default()
}

/// Who has read what, at this node.
pub(crate) struct Tracking {
    /// CONFIG SET tracking-table-max-keys.
    pub(crate) keys_max: AtomicUsize,
    /// How many track: the first has the runtime note changes, the last ends it. Never taken with the table's lock held, which is taken while the
    /// state is looked at.
    followers: Mutex<usize>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Who tracks: the client, and whom it redirects to.
    clients: BTreeMap<u64, (Arc<Client>, Option<u64>)>,
    /// Who has read a key, each once.
    keys: BTreeMap<Blob, Vec<Reader>>,
    key_bytes: usize,
    prefixes: BTreeMap<Blob, BTreeSet<u64>>,
}

/// A client that has read a key.
struct Reader {
    client: u64,
    /// What was applied at this node before it did: changes until then it has seen.
    since: LogIndex,
}

/// How much is tracked.
pub(crate) struct Sizes {
    pub(crate) clients: usize,
    pub(crate) keys: usize,
    pub(crate) prefixes: usize,
}

impl Default for Tracking {
    fn default() -> Self {
        Self { keys_max: AtomicUsize::new(KEYS_MAX), followers: Mutex::default(), table: Mutex::default() }
    }
}

impl Tracking {
    pub(crate) fn sizes(&self) -> Sizes {
        let table = locked(&self.table);
        Sizes { clients: table.clients.len(), keys: table.keys.len(), prefixes: table.prefixes.len() }
    }

    /// Enters the keys of a command that is about to read them, in a state that is `since` or later.
    pub(crate) fn remember(
        &self,
        gateway: &Gateway,
        client: u64,
        since: LogIndex,
        spec: &Spec,
        words: &[Blob],
    ) {
        let may_read = matches!(spec.kind, Kind::Read(_)) || spec.group == "scripting";
        let Ok(places) = quorate_calls::keys_of(spec, words) else { return };
        if !may_read {
            return;
        }
        let mut table = locked(&self.table);
        for name in places.into_iter().filter_map(|place| words.get(place)) {
            table.enter(name, client, since);
            while table.keys.len() > self.keys_max.load(Ordering::Relaxed).max(1)
                || table.key_bytes > KEYS_BYTES_MAX
            {
                // Names are as good as random beside one another.
                let after = (Bound::Excluded(name), Bound::Unbounded);
                let victim = table.keys.range::<Blob, _>(after).next().or_else(|| table.keys.iter().next());
                let victim = victim.expect("a table over its bound has a name").0.clone();
                table.forget(gateway, &victim);
            }
        }
    }

    /// Tells a client that what it has just read is not to be remembered.
    pub(crate) fn disown(&self, gateway: &Gateway, client: u64, names: &[Blob]) {
        let table = locked(&self.table);
        for name in names {
            table.tell(gateway, client, Some(&[name]));
        }
    }

    /// Tells whoever has read what may have changed.
    pub(crate) fn changed(&self, gateway: &Gateway, changes: &Changes) {
        let mut table = locked(&self.table);
        if changes.all {
            table.keys.clear();
            table.key_bytes = 0;
            for client in table.clients.keys() {
                table.tell(gateway, *client, None);
            }
            return;
        }
        let names: BTreeSet<&Blob> = changes.keys.iter().map(|key| &key.name).collect();
        for name in &names {
            table.change(gateway, name, changes.until);
        }
        for (prefix, clients) in &table.prefixes {
            let begin = names.iter().filter(|name| name.starts_with(prefix)).copied();
            let begin: Vec<&Blob> = begin.collect();
            if !begin.is_empty() {
                clients.iter().for_each(|client| table.tell(gateway, *client, Some(&begin)));
            }
        }
    }
}

impl Table {
    fn enter(&mut self, name: &Blob, client: u64, since: LogIndex) {
        let reader = Reader { client, since };
        match self.keys.get_mut(name) {
            Some(readers) => {
                // What it read first counts: it may still remember that.
                if !readers.iter().any(|reader| reader.client == client) {
                    readers.push(reader);
                }
            }
            None => {
                self.key_bytes += name.len();
                self.keys.insert(name.clone(), vec![reader]);
            }
        }
    }

    /// Takes out, and tells, who read a name before it changed at an entry no later than `until`.
    fn change(&mut self, gateway: &Gateway, name: &Blob, until: LogIndex) {
        let Some(readers) = self.keys.remove(name) else { return };
        let (knew, later): (Vec<_>, Vec<_>) = readers.into_iter().partition(|reader| reader.since < until);
        if later.is_empty() {
            self.key_bytes -= name.len();
        } else {
            self.keys.insert(name.clone(), later);
        }
        knew.iter().for_each(|reader| self.tell(gateway, reader.client, Some(&[name])));
    }

    /// Takes a name out, and tells who has read it.
    fn forget(&mut self, gateway: &Gateway, name: &Blob) {
        let Some(readers) = self.keys.remove(name) else { return };
        self.key_bytes -= name.len();
        for reader in readers {
            // Who follows prefixes by now has forgotten what it has read.
            self.tell(gateway, reader.client, Some(&[name]));
        }
    }

    /// Leaves a message for a client, or for whom it redirects to; without names it is of everything.
    fn tell(&self, gateway: &Gateway, id: u64, names: Option<&[&Blob]>) {
        let Some((client, redirect)) = self.clients.get(&id) else { return };
        let bytes_max = gateway.config.pushes_bytes_max;
        let Some(redirect) = *redirect else {
            if client.protocol() == Protocol::Three {
                client.push(&message(Protocol::Three, names), bytes_max);
            }
            return;
        };
        let target = locked(&gateway.clients).get(&redirect).cloned();
        match target {
            Some(target) if target.protocol() == Protocol::Three => {
                target.push(&message(Protocol::Three, names), bytes_max);
            }
            Some(target) => {
                // In RESP2 only who listens to the channel can tell a message from a reply.
                let hears = locked(&gateway.subscriptions).hears(CHANNEL, redirect);
                if hears {
                    target.push(&message(Protocol::Two, names), bytes_max);
                }
            }
            None if client.protocol() == Protocol::Three => {
                let mut out = Vec::new();
                resp::push_head(2, Protocol::Three, &mut out);
                resp::bulk(b"tracking-redir-broken", &mut out);
                resp::number(b':', i64::try_from(redirect).unwrap_or(i64::MAX), &mut out);
                client.push(&out, bytes_max);
            }
            None => {}
        }
    }
}

fn message(protocol: Protocol, names: Option<&[&Blob]>) -> Vec<u8> {
    let mut out = Vec::new();
    if protocol == Protocol::Three {
        resp::push_head(2, protocol, &mut out);
        resp::bulk(b"invalidate", &mut out);
    } else {
        resp::push_head(3, protocol, &mut out);
        resp::bulk(b"message", &mut out);
        resp::bulk(CHANNEL, &mut out);
    }
    match names {
        Some(names) => {
            resp::array_head(names.len(), &mut out);
            names.iter().for_each(|name| resp::bulk(name, &mut out));
        }
        None => resp::write(&Reply::Nil, protocol, &mut out),
    }
    out
}

/// Ends what a client has asked for.
pub(crate) fn leave(gateway: &Gateway, client: u64) {
    {
        let mut table = locked(&gateway.tracking.table);
        table.clients.remove(&client);
        table.prefixes.retain(|_, clients| {
            clients.remove(&client);
            !clients.is_empty()
        });
        if table.clients.is_empty() {
            table.keys.clear();
            table.key_bytes = 0;
        }
    }
    let mut followers = locked(&gateway.tracking.followers);
    *followers -= 1;
    if *followers == 0 {
        gateway.handle.follow(false);
    }
}

/// `CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX prefix ...] [BCAST] [OPTIN] [OPTOUT]`.
pub(crate) fn track(connection: &mut Connection, words: &[Blob]) -> Reply {
    let asked = match Asked::read(connection, words) {
        Ok(asked) => asked,
        Err(text) => return Reply::error(text),
    };
    let (gateway, id) = (Arc::clone(&connection.gateway), connection.client.id);
    let Some(asked) = asked else {
        if connection.state.following.take().is_some() {
            leave(&gateway, id);
        }
        return Reply::ok();
    };
    let mut following = match asked.onto(connection.state.following.as_deref()) {
        Ok(following) => following,
        Err(text) => return Reply::error(text),
    };
    if following.broadcast && following.prefixes.is_empty() {
        following.prefixes.insert(Blob::EMPTY);
    }
    connection.client.note(|seen| seen.protocol = connection.state.protocol);
    if connection.state.following.is_none() {
        let mut followers = locked(&gateway.tracking.followers);
        *followers += 1;
        gateway.handle.follow(true);
    }
    {
        let mut table = locked(&gateway.tracking.table);
        table.clients.insert(id, (Arc::clone(&connection.client), following.redirect));
        for prefix in &following.prefixes {
            table.prefixes.entry(prefix.clone()).or_default().insert(id);
        }
    }
    connection.state.following = Some(Box::new(following));
    Reply::ok()
}

/// What CLIENT TRACKING ON asks for.
#[derive(Default)]
struct Asked {
    redirect: Option<u64>,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    prefixes: Vec<Blob>,
}

impl Asked {
    /// Reads the words; nothing for OFF.
    fn read(connection: &Connection, words: &[Blob]) -> Result<Option<Self>, String> {
        let mut asked = Self::default();
        let (mut at, syntax) = (1, || "ERR syntax error".to_owned());
        while let Some(word) = words.get(at) {
            let is = |text: &str| word.eq_ignore_ascii_case(text.as_bytes());
            match words.get(at + 1) {
                Some(id) if is("redirect") => {
                    at += 1;
                    if asked.redirect.is_some() {
                        return Err("ERR A client can only redirect to a single other client".to_owned());
                    }
                    let id = resp::integer(id)
                        .ok_or_else(|| "ERR value is not an integer or out of range".to_owned())?;
                    let id = u64::try_from(id).unwrap_or(0);
                    if !locked(&connection.gateway.clients).contains_key(&id) {
                        return Err("ERR The client ID you want redirect to does not exist".to_owned());
                    }
                    asked.redirect = Some(id).filter(|id| *id != connection.client.id);
                }
                Some(prefix) if is("prefix") => {
                    at += 1;
                    asked.prefixes.push(prefix.clone());
                }
                _ if is("bcast") => asked.broadcast = true,
                _ if is("optin") => asked.opt_in = true,
                _ if is("optout") => asked.opt_out = true,
                _ if is("noloop") => {
                    return Err(
                        "ERR NOLOOP is not served here: a client is told of its own changes too, ask without it"
                            .to_owned(),
                    );
                }
                _ => return Err(syntax()),
            }
            at += 1;
        }
        match words.first() {
            Some(word) if word.eq_ignore_ascii_case(b"on") => Ok(Some(asked)),
            Some(word) if word.eq_ignore_ascii_case(b"off") => Ok(None),
            _ => Err(syntax()),
        }
    }

    /// What comes of it for a client that may track already.
    fn onto(self, now: Option<&Following>) -> Result<Following, String> {
        let again =
            "before disabling tracking for this client, and then re-enabling it with a different mode.";
        if !self.broadcast && !self.prefixes.is_empty() {
            return Err("ERR PREFIX option requires BCAST mode to be enabled".to_owned());
        }
        if now.is_some_and(|now| now.broadcast != self.broadcast) {
            return Err(format!("ERR You can't switch BCAST mode on/off {again}"));
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".to_owned());
        }
        if self.opt_in && self.opt_out {
            return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".to_owned());
        }
        let choice = match (self.opt_in, self.opt_out) {
            (true, _) => Choice::OptIn,
            (_, true) => Choice::OptOut,
            _ => Choice::All,
        };
        let before = now.map_or(Choice::All, |now| now.choice);
        if before != choice && before != Choice::All && choice != Choice::All {
            return Err(format!("ERR You can't switch OPTIN/OPTOUT mode {again}"));
        }
        let mut prefixes = now.map(|now| now.prefixes.clone()).unwrap_or_default();
        let alone = "Prefixes for a single client must not overlap.";
        for (place, prefix) in self.prefixes.iter().enumerate() {
            let overlaps = |other: &&Blob| other.starts_with(prefix) || prefix.starts_with(other);
            if let Some(other) = prefixes.iter().find(|other| *other != prefix && overlaps(other)) {
                return Err(format!(
                    "ERR Prefix '{prefix}' overlaps with an existing prefix '{other}'. {alone}"
                ));
            }
            if let Some(other) = self.prefixes[place + 1..].iter().find(overlaps) {
                return Err(format!(
                    "ERR Prefix '{prefix}' overlaps with another provided prefix '{other}'. {alone}"
                ));
            }
        }
        prefixes.extend(self.prefixes);
        Ok(Following { redirect: self.redirect, broadcast: self.broadcast, choice, caching: false, prefixes })
    }
}

/// `CLIENT CACHING YES|NO`.
pub(crate) fn caching(connection: &mut Connection, word: &Blob) -> Reply {
    let following = connection.state.following.as_mut().filter(|following| following.choice != Choice::All);
    let Some(following) = following else {
        return Reply::error(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        );
    };
    let wanted = if word.eq_ignore_ascii_case(b"yes") {
        Choice::OptIn
    } else if word.eq_ignore_ascii_case(b"no") {
        Choice::OptOut
    } else {
        return Reply::error("ERR syntax error");
    };
    if following.choice == wanted {
        following.caching = true;
        return Reply::ok();
    }
    Reply::error(if wanted == Choice::OptIn {
        "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
    } else {
        "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."
    })
}

/// CLIENT GETREDIR.
pub(crate) fn redirect(connection: &Connection) -> Reply {
    let redirect = connection.state.following.as_ref().map(|following| following.redirect.unwrap_or(0));
    Reply::integer(redirect.map_or(-1, |id| i64::try_from(id).unwrap_or(i64::MAX)))
}

/// CLIENT TRACKINGINFO.
pub(crate) fn info(connection: &Connection) -> Reply {
    let mut flags = Vec::new();
    let mut prefixes = Vec::new();
    match &connection.state.following {
        None => flags.push("off"),
        Some(following) => {
            let broken = following
                .redirect
                .is_some_and(|redirect| !locked(&connection.gateway.clients).contains_key(&redirect));
            let opt = following.choice;
            flags.push("on");
            for (flag, is) in [
                ("bcast", following.broadcast),
                ("optin", opt == Choice::OptIn),
                ("caching-yes", opt == Choice::OptIn && following.caching),
                ("optout", opt == Choice::OptOut),
                ("caching-no", opt == Choice::OptOut && following.caching),
                ("broken_redirect", broken),
            ] {
                flags.extend(is.then_some(flag));
            }
            prefixes.extend(following.prefixes.iter().map(|prefix| Reply::bulk(prefix.clone())));
        }
    }
    Reply::map(vec![
        Reply::bulk("flags"),
        Reply::set(flags.into_iter().map(Reply::bulk).collect()),
        Reply::bulk("redirect"),
        redirect(connection),
        Reply::bulk("prefixes"),
        Reply::array(prefixes),
    ])
}
