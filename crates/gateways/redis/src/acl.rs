//! What a client may do here, and what it was refused: the machine's rights in Redis' words.
//!
//! A connection keeps the rights of its user, and asks for them again when a user may have changed. It is asked here so that a command is refused
//! with Redis' own words before anything is done; the machine asks again for every read and every logged operation, and it decides.
//!
//! Invariant: what is refused here the machine would refuse too.
//! Called by: `connection`, `transaction`, `commands::acl`.

use crate::client::Client;
use crate::gateway::locked;
use crate::slowlog::unix_time;
use quorate_calls::Spec;
use quorate_machine::Rights;
use quorate_types::{Blob, Denied, Keyspace, Reply, Score, Verbs};
use std::collections::VecDeque;
use std::sync::Mutex;

/// Entries of ACL LOG that are kept.
const ENTRIES_MAX: usize = 128;
/// How long the same refusal is counted by one entry, in milliseconds.
const TOGETHER_MS: u64 = 60_000;

/// Whether a command may be run with these words.
///
/// # Errors
/// What is not allowed.
pub(crate) fn allowed(
    rights: &Rights,
    space: Keyspace,
    name: &str,
    spec: Option<&Spec>,
    words: &[Blob],
) -> Result<(), Denied> {
    // Before somebody has said who it is, it has no other rights than to say so.
    if rights.is_everything() || matches!(name, "auth" | "hello" | "quit" | "reset") {
        return Ok(());
    }
    if let Some(spec) = spec {
        return rights.call(spec, space, words);
    }
    rights.command(name)?;
    let word = words.get(1).cloned().unwrap_or_default();
    match name {
        "publish" | "spublish" => rights.channel(Verbs::PUBLISH, &word, false),
        "subscribe" | "ssubscribe" | "psubscribe" => {
            let is_pattern = name == "psubscribe";
            words[1..].iter().try_for_each(|channel| rights.channel(Verbs::SUBSCRIBE, channel, is_pattern))
        }
        "watch" => words[1..].iter().try_for_each(|key| rights.name(Verbs::NONE, space, key)),
        "q.lock" | "q.unlock" | "q.keep" | "q.limit" => rights.name(Verbs::WRITE, Keyspace::DEFAULT, &word),
        "q.fence" => rights.name(Verbs::NONE, Keyspace::DEFAULT, &word),
        "q.version" => rights.name(Verbs::READ, space, &word),
        // A step of a name's history shows all that was done with it.
        "q.why" => rights.everything(Verbs::READ),
        "q.after" => match quorate_calls::check(words.get(2..).unwrap_or_default()) {
            Ok(spec) => rights.call(spec, space, &words[2..]),
            Err(_) => Ok(()), // It says itself what is wrong with it.
        },
        _ => Ok(()),
    }
}

/// The words of a command as others may see them: without the secrets.
pub(crate) fn redacted(words: &[Blob]) -> Option<Vec<Blob>> {
    let is = |at: usize, word: &str| {
        words.get(at).is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()))
    };
    let from = if is(0, "auth") {
        1
    } else if is(0, "acl") && is(1, "setuser") || is(0, "hello") && words.len() > 2 {
        2
    } else {
        return None;
    };
    let hidden = words.iter().enumerate();
    Some(hidden.map(|(at, word)| if at < from { word.clone() } else { "(redacted)".into() }).collect())
}

/// ACL LOG.
#[derive(Default)]
pub(crate) struct Log {
    entries: Mutex<(i64, VecDeque<Entry>)>,
}

struct Entry {
    id: i64,
    count: i64,
    reason: &'static str,
    context: &'static str,
    object: Blob,
    user: Blob,
    client: String,
    created_ms: u64,
    updated_ms: u64,
}

impl Log {
    /// Notes what was refused.
    pub(crate) fn denied(&self, denied: &Denied, context: &'static str, client: &Client) {
        let (reason, object, user) = match denied {
            Denied::Gone { user } => ("auth", Blob::EMPTY, user),
            Denied::Command { user, command } => ("command", command.clone(), user),
            Denied::Name { user, name, .. } => ("key", name.name.clone(), user),
            Denied::Channel { user, channel, .. } => ("channel", channel.clone(), user),
        };
        self.note(reason, context, object, user.clone(), client);
    }

    /// Notes a wrong password.
    pub(crate) fn wrong_password(&self, command: &str, user: &Blob, client: &Client) {
        self.note("auth", "toplevel", command.into(), user.clone(), client);
    }

    fn note(&self, reason: &'static str, context: &'static str, object: Blob, user: Blob, client: &Client) {
        let now_ms = unix_time().as_millis() as u64;
        let mut entries = locked(&self.entries);
        let (next, all) = &mut *entries;
        let same = all.iter().position(|entry| {
            entry.reason == reason
                && entry.context == context
                && entry.object == object
                && entry.user == user
                && now_ms.saturating_sub(entry.updated_ms) < TOGETHER_MS
        });
        let mut entry = match same.and_then(|at| all.remove(at)) {
            Some(entry) => entry,
            None => {
                *next += 1;
                let created_ms = now_ms;
                Entry {
                    id: *next - 1,
                    count: 0,
                    reason,
                    context,
                    object,
                    user,
                    client: String::new(),
                    created_ms,
                    updated_ms: now_ms,
                }
            }
        };
        entry.count += 1;
        entry.updated_ms = now_ms;
        entry.client = client.line();
        all.push_front(entry);
        all.truncate(ENTRIES_MAX);
    }

    /// The newest, newest first.
    pub(crate) fn newest(&self, count: usize) -> Reply {
        let now_ms = unix_time().as_millis() as u64;
        let shown = |entry: &Entry| {
            // To the millisecond, as Redis tells it.
            let age_ms = now_ms.saturating_sub(entry.created_ms);
            let age = Score::new(age_ms as f64 / 1000.0).unwrap_or_default();
            Reply::map(vec![
                Reply::bulk("count"),
                Reply::integer(entry.count),
                Reply::bulk("reason"),
                Reply::bulk(entry.reason),
                Reply::bulk("context"),
                Reply::bulk(entry.context),
                Reply::bulk("object"),
                Reply::bulk(entry.object.clone()),
                Reply::bulk("username"),
                Reply::bulk(entry.user.clone()),
                Reply::bulk("age-seconds"),
                Reply::Double { value: age },
                Reply::bulk("client-info"),
                Reply::bulk(entry.client.clone()),
                Reply::bulk("entry-id"),
                Reply::integer(entry.id),
                Reply::bulk("timestamp-created"),
                Reply::integer(entry.created_ms as i64),
                Reply::bulk("timestamp-last-updated"),
                Reply::integer(entry.updated_ms as i64),
            ])
        };
        Reply::array(locked(&self.entries).1.iter().take(count).map(shown).collect())
    }

    pub(crate) fn clear(&self) {
        locked(&self.entries).1.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_shown_to_nobody() {
        let shown = |text: &str| {
            let words: Vec<Blob> = text.split(' ').map(Blob::from).collect();
            redacted(&words).map(|words| words.iter().map(Blob::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(shown("AUTH a b").as_deref(), Some("AUTH (redacted) (redacted)"));
        assert_eq!(shown("acl SETUSER a >b").as_deref(), Some("acl SETUSER (redacted) (redacted)"));
        assert_eq!(shown("HELLO 3 AUTH a b").as_deref(), Some("HELLO 3 (redacted) (redacted) (redacted)"));
        assert_eq!(shown("HELLO 3"), None);
        assert_eq!(shown("GET k"), None);
    }
}
