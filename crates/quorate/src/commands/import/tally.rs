//! What an import has done so far: counts, failures by name, progress on stderr, the summary on stdout.
//!
//! Invariant: every key that a scan named is in exactly one count: copied, skipped, vanished, failed.
//! Invariant: memory is bounded however many keys fail: all are said, the first are kept.
//! Called by: `import`.

use crate::output::grouped;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Most failures that are kept for the summary, and most that are said one by one.
const FAILURES_MAX: usize = 100;

/// Counts of one type.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) keys: u64,
    /// Fields, items, members, records; one for a string.
    pub(super) elements: u64,
    /// Bytes of keys and elements.
    pub(super) bytes: u64,
}

/// Everything counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Keys named by the scans.
    pub(super) seen: u64,
    copied: BTreeMap<&'static str, Counts>,
    with_ttl: u64,
    skipped: BTreeMap<String, u64>,
    vanished: u64,
    /// Large keys that were read in slices, and those of them whose size was another at the end.
    sliced: u64,
    changed: u64,
    failed: u64,
    failures: Vec<Value>,
    /// Lines for stderr that were not yet written.
    pub(super) lines: Vec<String>,
}

impl Tally {
    /// A key was copied, or would be.
    pub(super) fn copied(&mut self, kind: &'static str, counts: Counts, ttl: bool) {
        let sum = self.copied.entry(kind).or_default();
        sum.keys += counts.keys;
        sum.elements += counts.elements;
        sum.bytes += counts.bytes;
        self.with_ttl += u64::from(ttl);
    }

    pub(super) fn skipped(&mut self, why: &str) {
        match self.skipped.get_mut(why) {
            Some(count) => *count += 1,
            None => drop(self.skipped.insert(why.to_owned(), 1)),
        }
    }

    /// A key that was named is gone or has expired.
    pub(super) fn vanished(&mut self) {
        self.vanished += 1;
    }

    /// A key was read in slices; `changed` when it was no longer as large as what was read.
    pub(super) fn sliced(&mut self, database: i64, key: &[u8], changed: bool) {
        self.sliced += 1;
        if changed {
            self.changed += 1;
            if self.changed as usize <= FAILURES_MAX {
                self.lines.push(format!(
                    "{} in database {database} was written to while it was read in slices: it may mix two states",
                    shown(key)
                ));
            }
        }
    }

    pub(super) fn failed(&mut self, database: i64, key: &[u8], why: &str) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.lines.push(format!("failed: {} in database {database}: {why}", shown(key)));
            let mut one = serde_json::Map::new();
            one.insert("database".into(), database.into());
            crate::names::value_member(&mut one, "key", key.to_vec());
            one.insert("why".into(), why.into());
            self.failures.push(one.into());
        } else if self.failures.len() == FAILURES_MAX && self.failed as usize == FAILURES_MAX + 1 {
            self.lines.push("failed: more keys; from here on they are only counted".into());
        }
    }

    pub(super) fn failures(&self) -> u64 {
        self.failed
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.copied.values() {
            total.keys += counts.keys;
            total.elements += counts.elements;
            total.bytes += counts.bytes;
        }
        total
    }

    fn done(&self) -> u64 {
        self.total().keys + self.skipped.values().sum::<u64>() + self.vanished + self.failed
    }

    /// The summary for programs.
    pub(super) fn json(&self, dry_run: bool, databases: &[i64], took: Duration) -> Value {
        let types: serde_json::Map<String, Value> = self
            .copied
            .iter()
            .map(|(kind, counts)| {
                let one = json!({"keys": counts.keys, "elements": counts.elements, "bytes": counts.bytes});
                ((*kind).to_owned(), one)
            })
            .collect();
        let total = self.total();
        json!({
            "dry_run": dry_run,
            "databases": databases,
            "scanned": self.seen,
            "keys": total.keys,
            "elements": total.elements,
            "bytes": total.bytes,
            "with_ttl": self.with_ttl,
            "types": types,
            "skipped": self.skipped,
            "vanished": self.vanished,
            "sliced": self.sliced,
            "changed_while_read": self.changed,
            "failed": self.failed,
            "failures": self.failures,
            "seconds": (took.as_secs_f64() * 1000.0).round() / 1000.0,
        })
    }

    /// The summary for people.
    pub(super) fn human(&self, dry_run: bool, took: Duration) -> String {
        let total = self.total();
        let verb = if dry_run { "would be copied" } else { "copied" };
        let mut text = format!(
            "{} keys {verb}, {} of them with a time to live; {} elements, {} bytes, {:.1} s\n",
            grouped(total.keys),
            grouped(self.with_ttl),
            grouped(total.elements),
            grouped(total.bytes),
            took.as_secs_f64(),
        );
        for (kind, counts) in &self.copied {
            text += &format!(
                "  {kind:<7} {:>13} keys {:>15} elements {:>17} bytes\n",
                grouped(counts.keys),
                grouped(counts.elements),
                grouped(counts.bytes)
            );
        }
        for (why, count) in &self.skipped {
            text += &format!("  skipped {:>13}: {why}\n", grouped(*count));
        }
        for (count, what) in [
            (self.vanished, "vanished or expired before they were read"),
            (
                self.changed,
                "written to while they were read in slices: freeze writes and run again with --replace",
            ),
            (self.failed, "failed; stderr names them"),
        ] {
            if count > 0 {
                text += &format!("  {:>13} {what}\n", grouped(count));
            }
        }
        text
    }
}

/// A key as people read it: quoted where it is text, base64 where it is not.
pub(super) fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) => format!("{text:?}"),
        Err(_) => {
            use base64::Engine;
            format!("base64:{}", base64::engine::general_purpose::STANDARD.encode(key))
        }
    }
}

/// The line on stderr: a moving one on a terminal, one now and then elsewhere.
pub(super) struct Line {
    begun: Instant,
    said: Instant,
    moved: bool,
    terminal: bool,
}

impl Line {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, said: now, moved: false, terminal: std::io::stderr().is_terminal() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Says what is new, and how far it is: `all` is what the source holds.
    pub(super) fn say(&mut self, tally: &mut Tally, all: u64) {
        let lines = std::mem::take(&mut tally.lines);
        let every = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(5) };
        let due = self.said.elapsed() >= every;
        if lines.is_empty() && !due {
            return;
        }
        self.clear();
        let mut err = std::io::stderr().lock();
        for line in lines {
            // What cannot be said on stderr is in the summary too.
            let _ = writeln!(err, "{line}");
        }
        if due {
            self.said = Instant::now();
            let line = progress(tally.done(), all, self.begun.elapsed());
            let _ = if self.terminal { write!(err, "{line}") } else { writeln!(err, "{line}") };
            self.moved = true;
        }
        let _ = err.flush();
    }

    /// Takes the moving line away.
    pub(super) fn clear(&mut self) {
        if self.terminal && self.moved {
            eprint!("\r\x1b[K");
            self.moved = false;
        }
    }
}

fn progress(done: u64, all: u64, took: Duration) -> String {
    // A scan may name a key twice, and keys come and go: more than all is still all.
    let all = all.max(done);
    let part = if all == 0 { 100 } else { u128::from(done) * 100 / u128::from(all) };
    let rate = done as f64 / took.as_secs_f64().max(0.001);
    let left = if rate > 0.0 {
        let seconds = ((all - done) as f64 / rate).ceil() as u64;
        format!(", {}:{:02}:{:02} left", seconds / 3600, seconds / 60 % 60, seconds % 60)
    } else {
        String::new()
    };
    format!(
        "import: {part:>3} %  {} of {} keys, {} keys/s{left}",
        grouped(done),
        grouped(all),
        grouped(rate as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress_names_part_rate_and_what_is_left() {
        assert_eq!(
            progress(2_000, 10_000, Duration::from_secs(2)),
            "import:  20 %  2,000 of 10,000 keys, 1,000 keys/s, 0:00:08 left"
        );
        assert_eq!(progress(0, 0, Duration::from_secs(1)), "import: 100 %  0 of 0 keys, 0 keys/s");
        assert!(progress(12, 10, Duration::from_secs(1)).starts_with("import: 100 %  12 of 12 keys"));
    }

    #[test]
    fn every_failure_is_counted_and_only_the_first_are_kept() {
        let mut tally = Tally::default();
        for n in 0..1000 {
            tally.failed(0, format!("k{n}").as_bytes(), "no");
        }
        assert_eq!(
            (tally.failures(), tally.failures.len(), tally.lines.len()),
            (1000, FAILURES_MAX, FAILURES_MAX + 1)
        );
        let json = tally.json(false, &[0], Duration::from_secs(1));
        assert_eq!(json["failed"], 1000);
        assert_eq!(json["failures"][0]["key"], "k0");
    }

    #[test]
    fn a_key_that_is_no_text_is_shown_as_base64() {
        assert_eq!(shown(b"a\nb"), "\"a\\nb\"");
        assert_eq!(shown(&[0xff]), "base64:/w==");
    }
}
