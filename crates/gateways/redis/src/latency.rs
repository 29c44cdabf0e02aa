//! LATENCY: when commands took long, second by second.
//!
//! One event is sampled, `command`: the work of reads, and of writes the time until their answer, the sync of the log included. Nothing is
//! sampled while `latency-monitor-threshold` is 0, as it is by default.
//!
//! Invariant: [`SAMPLES_MAX`] samples are kept, one for a second at most: the longest of it.
//! Called by: `connection`, `commands::server`.

use crate::gateway::locked;
use crate::slowlog::unix_time;
use quorate_types::{Blob, Reply};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Samples that are kept, as Redis has it.
const SAMPLES_MAX: usize = 160;
const EVENT: &str = "command";

/// What took long.
#[derive(Default)]
pub(crate) struct Latency {
    /// Milliseconds from which on a command is sampled; 0 for never.
    pub(crate) threshold_ms: AtomicU64,
    samples: Mutex<Samples>,
}

#[derive(Default)]
struct Samples {
    /// Unix time in seconds, and milliseconds that it took.
    kept: VecDeque<(u64, u64)>,
    longest_ms: u64,
}

impl Latency {
    /// Samples a command that took so long, where it counts.
    pub(crate) fn note(&self, took: Duration) {
        let threshold = self.threshold_ms.load(Ordering::Relaxed);
        let took_ms = took.as_millis() as u64;
        if threshold > 0 && took_ms >= threshold {
            locked(&self.samples).add(unix_time().as_secs(), took_ms);
        }
    }

    /// LATENCY LATEST.
    pub(crate) fn latest(&self) -> Reply {
        let samples = locked(&self.samples);
        let row = samples.kept.back().map(|(second, took)| {
            Reply::array(vec![Reply::bulk(EVENT), number(*second), number(*took), number(samples.longest_ms)])
        });
        Reply::array(row.into_iter().collect())
    }

    /// LATENCY HISTORY.
    pub(crate) fn history(&self, event: &Blob) -> Reply {
        let samples = locked(&self.samples);
        let known = event.as_slice() == EVENT.as_bytes();
        let rows = samples.kept.iter().filter(|_| known);
        Reply::array(rows.map(|(second, took)| Reply::array(vec![number(*second), number(*took)])).collect())
    }

    /// LATENCY RESET: how many events were reset.
    pub(crate) fn reset(&self, events: &[Blob]) -> Reply {
        let mut samples = locked(&self.samples);
        let named = events.is_empty() || events.iter().any(|event| event.as_slice() == EVENT.as_bytes());
        let is_reset = named && !samples.kept.is_empty();
        if is_reset {
            *samples = Samples::default();
        }
        Reply::flag(is_reset)
    }

    /// LATENCY GRAPH.
    pub(crate) fn graph(&self, event: &Blob) -> Reply {
        let known = event.as_slice() == EVENT.as_bytes() && !locked(&self.samples).kept.is_empty();
        if known {
            return Reply::error("ERR no pictures are drawn here: LATENCY HISTORY has the numbers");
        }
        Reply::error(format!("ERR No samples available for event '{event}'"))
    }
}

impl Samples {
    fn add(&mut self, second: u64, took_ms: u64) {
        self.longest_ms = self.longest_ms.max(took_ms);
        if let Some((last, longest)) = self.kept.back_mut()
            && *last == second
        {
            *longest = took_ms.max(*longest);
            return;
        }
        self.kept.push_back((second, took_ms));
        if self.kept.len() > SAMPLES_MAX {
            self.kept.pop_front();
        }
    }
}

fn number(value: u64) -> Reply {
    Reply::integer(i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_a_second_is_kept_for_so_many_seconds() {
        let mut samples = Samples::default();
        for (second, took) in [(1, 20), (1, 50), (1, 30), (2, 25)] {
            samples.add(second, took);
        }
        assert_eq!((samples.kept.make_contiguous(), samples.longest_ms), (&mut [(1, 50), (2, 25)][..], 50));
        (3..=200).for_each(|second| samples.add(second, 1));
        assert_eq!((samples.kept.len(), samples.kept[0]), (SAMPLES_MAX, (41, 1)));
    }

    #[test]
    fn nothing_is_sampled_unless_it_is_asked_for() {
        let latency = Latency::default();
        latency.note(Duration::from_secs(9));
        assert_eq!(latency.latest(), Reply::array(vec![]));
        latency.threshold_ms.store(100, Ordering::Relaxed);
        latency.note(Duration::from_millis(99));
        assert_eq!(latency.reset(&[]), Reply::integer(0));
        latency.note(Duration::from_millis(100));
        let Reply::Array { items } = latency.history(&EVENT.into()) else { panic!("samples") };
        assert_eq!(items.0.len(), 1);
        assert_eq!(latency.history(&"fork".into()), Reply::array(vec![]));
        assert_eq!(latency.reset(&["fork".into()]), Reply::integer(0));
        assert_eq!(latency.reset(&[EVENT.into()]), Reply::integer(1));
        assert_eq!(latency.latest(), Reply::array(vec![]));
    }
}
