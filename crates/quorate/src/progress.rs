//! How far something long has come, on stderr: one line that moves on a terminal, a line now and then elsewhere.
//!
//! Called by: recovery, verify, restore, demo, bench.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Nothing is said of what takes less than this.
const QUIET: Duration = Duration::from_millis(500);

/// Tells how far something has come.
pub(crate) struct Progress {
    what: &'static str,
    unit: &'static str,
    begun: Instant,
    said: Option<Instant>,
    every: Duration,
    terminal: bool,
}

impl Progress {
    /// `what` is being done, counted in `unit`.
    pub(crate) fn new(what: &'static str, unit: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let every = if terminal { Duration::from_millis(100) } else { Duration::from_secs(5) };
        Self { what, unit, begun: Instant::now(), said: None, every, terminal }
    }

    /// `done` of `all` are behind us.
    pub(crate) fn at(&mut self, done: u64, all: u64) {
        let since = self.said.map_or(self.begun.elapsed().saturating_sub(QUIET), |said| said.elapsed());
        let due = if self.said.is_none() { !since.is_zero() } else { since >= self.every };
        if !due {
            return;
        }
        self.said = Some(Instant::now());
        let line = line(self.what, self.unit, done, all, self.begun.elapsed());
        let mut err = std::io::stderr().lock();
        // Progress that cannot be shown is not worth failing for.
        let _ = if self.terminal { write!(err, "\r\x1b[K{line}") } else { writeln!(err, "{line}") };
        let _ = err.flush();
    }

    /// Takes the moving line away, so that what follows starts clean.
    pub(crate) fn end(&self) {
        if self.terminal && self.said.is_some() {
            eprint!("\r\x1b[K");
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(what: &str, unit: &str, done: u64, all: u64, took: Duration) -> String {
    let part = if all == 0 { 100 } else { (u128::from(done) * 100 / u128::from(all)).min(100) };
    let (done, all) = (crate::output::grouped(done), crate::output::grouped(all));
    format!("{what}: {part:>3} %  {done} of {all} {unit}, {:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress_names_part_and_whole() {
        let took = Duration::from_millis(2500);
        assert_eq!(
            line("replay", "entries", 1000, 4000, took),
            "replay:  25 %  1,000 of 4,000 entries, 2.5 s"
        );
        assert_eq!(line("replay", "entries", 0, 0, took), "replay: 100 %  0 of 0 entries, 2.5 s");
        assert_eq!(line("copy", "bytes", u64::MAX, u64::MAX, took).get(..11), Some("copy: 100 %"));
    }
}
