//! What the node tells of itself in Prometheus' text format (version 0.0.4).

use quorate_node::Status;
use std::fmt::Write;

/// Upper bounds of the buckets, in microseconds.
const BUCKETS_US: [u64; 12] =
    [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 102_400, 1_000_000];

/// How long writes with their syncs took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Syncs {
    counts: [u64; BUCKETS_US.len() + 1],
    sum_us: u64,
    count: u64,
}

impl Syncs {
    pub(crate) fn note(&mut self, us: u64) {
        let bucket = BUCKETS_US.iter().position(|bound| us <= *bound).unwrap_or(BUCKETS_US.len());
        self.counts[bucket] += 1;
        self.sum_us += us;
        self.count += 1;
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

pub(crate) fn text(status: &Status, syncs: &Syncs) -> String {
    let mut out = String::with_capacity(4096);
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = writeln!(
            out,
            "# HELP quorate_{name} {help}\n# TYPE quorate_{name} {kind}\nquorate_{name} {value}"
        );
    };
    let sizes = &status.sizes;
    one("applied_index", "gauge", "Last log index applied.", status.applied.0);
    one("revision", "gauge", "Current revision.", status.revision.0);
    one("commands_total", "counter", "Commands applied.", status.commands);
    one(
        "commands_refused_total",
        "counter",
        "Commands refused by a guard, an operation or an idempotency key.",
        status.refused,
    );
    one("commands_not_admitted_total", "counter", "Commands refused before the log.", status.not_admitted);
    one("entries_total", "counter", "Entries applied.", status.entries);
    one("evicted_keys_total", "counter", "Keys evicted to make room in their keyspace.", status.evicted);
    one("commands_waiting", "gauge", "Commands that wait for their entry.", status.waiting);
    one("readers_waiting", "gauge", "Readers that wait for a change.", status.readers);
    one("log_bytes", "gauge", "Bytes of the log's files.", status.log_bytes);
    one("snapshot_index", "gauge", "Log index of the newest snapshot.", status.snapshot.0);
    one(
        "disk_low",
        "gauge",
        "1 while growth is refused because the disk is nearly full.",
        u64::from(status.disk_low),
    );
    one(
        "memory_low",
        "gauge",
        "1 while growth is refused because memory is nearly full.",
        u64::from(status.memory_low),
    );
    one("keys", "gauge", "Keys that exist.", sizes.keys);
    one("history_bytes", "gauge", "Bytes of key history.", sizes.history_bytes);
    one("leases", "gauge", "Leases.", sizes.leases);
    one("locks", "gauge", "Locks and elections held or waited for.", sizes.locks);
    one("idempotency_records", "gauge", "Idempotency records.", sizes.idempotency_records);
    one("idempotency_bytes", "gauge", "Bytes of idempotency records.", sizes.idempotency_bytes);
    one("limits", "gauge", "Limits that are not full.", sizes.limits);
    one("tasks", "gauge", "Scheduled tasks.", sizes.tasks);
    one("streams", "gauge", "Streams.", sizes.streams);
    let name = "quorate_log_write_seconds";
    let _ = writeln!(out, "# HELP {name} Time of a group commit's write and sync.\n# TYPE {name} histogram");
    let mut below = 0;
    for (bound, count) in BUCKETS_US.iter().zip(&syncs.counts) {
        below += count;
        let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", *bound as f64 / 1e6);
    }
    let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", syncs.count);
    let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", syncs.sum_us as f64 / 1e6, syncs.count);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let mut syncs = Syncs::default();
        for us in [50, 150, 150, 5_000_000] {
            syncs.note(us);
        }
        let text = text(&Status::default(), &syncs);
        assert!(text.contains("quorate_log_write_seconds_bucket{le=\"0.0001\"} 1\n"));
        assert!(text.contains("quorate_log_write_seconds_bucket{le=\"0.0002\"} 3\n"));
        assert!(text.contains("quorate_log_write_seconds_bucket{le=\"+Inf\"} 4\n"));
    }
}
