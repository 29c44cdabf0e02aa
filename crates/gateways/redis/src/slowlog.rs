//! Commands that took long (SLOWLOG), and how commands are shown to people (MONITOR).
//!
//! The time of a read is that of its work; of a write, that until its answer, the sync of the log included.
//!
//! Invariant: so many entries are kept at most, each of a bounded size.
//! Called by: `connection`, `commands::server`.

use crate::client::Client;
use crate::gateway::locked;
use quorate_types::{Blob, Reply};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Words of an entry, and bytes of a word, at most; as Redis has it.
const WORDS_MAX: usize = 32;
const WORD_BYTES_MAX: usize = 128;

/// The commands that took long.
pub(crate) struct Slowlog {
    /// Microseconds from which on a command is noted; negative for never.
    pub(crate) threshold_us: AtomicI64,
    /// Entries kept.
    pub(crate) length_max: AtomicU64,
    entries: Mutex<(u64, VecDeque<Entry>)>,
}

struct Entry {
    id: u64,
    seconds: u64,
    micros: u64,
    words: Vec<Blob>,
    address: String,
    name: Blob,
}

impl Default for Slowlog {
    fn default() -> Self {
        Self {
            threshold_us: AtomicI64::new(10_000),
            length_max: AtomicU64::new(128),
            entries: Mutex::default(),
        }
    }
}

impl Slowlog {
    /// Whether a command that took so long is noted.
    pub(crate) fn wants(&self, took: Duration) -> bool {
        let threshold = self.threshold_us.load(Ordering::Relaxed);
        u64::try_from(threshold).is_ok_and(|threshold| took.as_micros() >= u128::from(threshold))
    }

    /// Notes a command.
    pub(crate) fn note(&self, took: Duration, words: &[Blob], client: &Client) {
        let max = usize::try_from(self.length_max.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let mut entries = locked(&self.entries);
        let id = entries.0;
        entries.0 += 1;
        entries.1.push_front(Entry {
            id,
            seconds: unix_time().as_secs(),
            micros: took.as_micros() as u64,
            words: shortened(words),
            address: client.address.to_string(),
            name: client.seen().name,
        });
        entries.1.truncate(max);
    }

    /// The newest entries, newest first; all without a number.
    pub(crate) fn newest(&self, count: Option<usize>) -> Reply {
        let entries = locked(&self.entries);
        let shown = entries.1.iter().take(count.unwrap_or(usize::MAX)).map(|entry| {
            Reply::array(vec![
                Reply::integer(entry.id as i64),
                Reply::integer(entry.seconds as i64),
                Reply::integer(entry.micros as i64),
                Reply::array(entry.words.iter().cloned().map(Reply::bulk).collect()),
                Reply::bulk(entry.address.clone()),
                Reply::bulk(entry.name.clone()),
            ])
        });
        Reply::array(shown.collect())
    }

    pub(crate) fn len(&self) -> usize {
        locked(&self.entries).1.len()
    }

    pub(crate) fn clear(&self) {
        locked(&self.entries).1.clear();
    }
}

fn shortened(words: &[Blob]) -> Vec<Blob> {
    let shown = if words.len() > WORDS_MAX { WORDS_MAX - 1 } else { words.len() };
    let mut kept: Vec<Blob> = words[..shown]
        .iter()
        .map(|word| {
            if word.len() <= WORD_BYTES_MAX {
                return word.clone();
            }
            let mut text = word[..WORD_BYTES_MAX].to_vec();
            text.extend_from_slice(format!("... ({} more bytes)", word.len() - WORD_BYTES_MAX).as_bytes());
            text.into()
        })
        .collect();
    if shown < words.len() {
        kept.push(format!("... ({} more arguments)", words.len() - shown).into());
    }
    kept
}

/// Time since the epoch.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A command as MONITOR shows it. Passwords and tokens are not shown.
pub(crate) fn monitor_line(client: &Client, database: u16, words: &[Blob]) -> Vec<u8> {
    let now = unix_time();
    let mut line =
        format!("+{}.{:06} [{database} {}]", now.as_secs(), now.subsec_micros(), client.address).into_bytes();
    let secret = words.first().is_some_and(|name| {
        name.eq_ignore_ascii_case(b"auth") || (name.eq_ignore_ascii_case(b"hello") && words.len() > 2)
    });
    for (place, word) in words.iter().enumerate() {
        line.push(b' ');
        if secret && place > 0 {
            line.extend_from_slice(b"\"(redacted)\"");
        } else {
            quoted(word, &mut line);
        }
    }
    line.extend_from_slice(b"\r\n");
    line
}

fn quoted(word: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in word {
        match byte {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            7 => out.extend_from_slice(b"\\a"),
            8 => out.extend_from_slice(b"\\b"),
            0x20..=0x7e => out.push(*byte),
            other => out.extend_from_slice(format!("\\x{other:02x}").as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let address = "127.0.0.1:5".parse().unwrap();
        Client::new(1, address, address, "anonymous".into())
    }

    #[test]
    fn it_keeps_the_newest_and_only_so_many() {
        let log = Slowlog::default();
        log.length_max.store(2, Ordering::Relaxed);
        assert!(!log.wants(Duration::from_millis(9)) && log.wants(Duration::from_millis(10)));
        for name in ["a", "b", "c"] {
            log.note(Duration::from_millis(20), &[name.into()], &client());
        }
        assert_eq!(log.len(), 2);
        let Reply::Array { items } = log.newest(Some(1)) else { panic!("a list") };
        let Reply::Array { items } = &items.0[0] else { panic!("an entry") };
        assert_eq!((&items.0[0], &items.0[2]), (&Reply::integer(2), &Reply::integer(20_000)));
        log.clear();
        assert_eq!(log.len(), 0);
    }

    #[test]
    fn long_commands_are_cut_short() {
        let words: Vec<Blob> = (0..40).map(|_| Blob::from(vec![b'x'; 200])).collect();
        let kept = shortened(&words);
        assert_eq!(kept.len(), 32);
        assert!(kept[0].ends_with(b"... (72 more bytes)"));
        assert_eq!(kept[31], "... (9 more arguments)".into());
    }

    #[test]
    fn what_monitors_see_is_one_line_without_secrets() {
        let line = monitor_line(&client(), 3, &["set".into(), "a\"b\n\x01".into()]);
        let line = String::from_utf8(line).unwrap();
        assert!(line.ends_with(" [3 127.0.0.1:5] \"set\" \"a\\\"b\\n\\x01\"\r\n"), "{line}");
        let line = String::from_utf8(monitor_line(&client(), 0, &["AUTH".into(), "secret".into()])).unwrap();
        assert!(line.ends_with("\"AUTH\" \"(redacted)\"\r\n"), "{line}");
    }
}
