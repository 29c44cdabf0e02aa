//! Counters of the gateway, in Prometheus text format 0.0.4.
//!
//! Invariant: counting costs a few relaxed additions and no lock; every route has its own row from the start.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Statuses are counted by class: 1xx to 5xx.
const CLASSES: usize = 5;

/// Counters of one route.
#[derive(Default)]
struct Row {
    answers: [AtomicU64; CLASSES],
    micros: AtomicU64,
}

/// All counters.
pub(crate) struct Metrics {
    rows: Vec<Row>,
    labels: Vec<(&'static str, &'static str)>,
    /// Connections that are open now.
    pub(crate) connections: AtomicU64,
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
    /// Connections refused because too many were open.
    pub(crate) refused: AtomicU64,
    /// Requests being handled now.
    pub(crate) in_flight: AtomicU64,
}

impl Metrics {
    /// Counters for routes with these methods and paths.
    pub(crate) fn new(labels: Vec<(&'static str, &'static str)>) -> Self {
        Self {
            rows: labels.iter().map(|_| Row::default()).collect(),
            labels,
            connections: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
        }
    }

    /// Counts an answer of a route.
    pub(crate) fn answered(&self, route: usize, status: u16, took: Duration) {
        let row = &self.rows[route];
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        row.answers[class].fetch_add(1, Ordering::Relaxed);
        row.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// The counters as text; routes that were never called are left out.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, kind, help, counter) in [
            ("quorate_http_connections", "gauge", "Connections that are open.", &self.connections),
            ("quorate_http_connections_total", "counter", "Connections accepted.", &self.accepted),
            (
                "quorate_http_connections_refused_total",
                "counter",
                "Connections refused: too many were open.",
                &self.refused,
            ),
            ("quorate_http_requests_in_flight", "gauge", "Requests being handled.", &self.in_flight),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}", read(counter));
        }
        out.push_str("# HELP quorate_http_requests_total Answers by route and class of status.\n");
        out.push_str("# TYPE quorate_http_requests_total counter\n");
        for (row, (method, path)) in self.rows.iter().zip(&self.labels) {
            for (class, count) in row.answers.iter().enumerate().filter(|(_, count)| read(count) > 0) {
                let (class, count) = (class + 1, read(count));
                let labels = format!("method=\"{method}\",route=\"{path}\",class=\"{class}xx\"");
                let _ = writeln!(out, "quorate_http_requests_total{{{labels}}} {count}");
            }
        }
        out.push_str("# HELP quorate_http_request_seconds Time from the head of a request to the head of its answer.\n");
        out.push_str("# TYPE quorate_http_request_seconds summary\n");
        for (row, (method, path)) in self.rows.iter().zip(&self.labels) {
            let count: u64 = row.answers.iter().map(read).sum();
            if count > 0 {
                let labels = format!("method=\"{method}\",route=\"{path}\"");
                let seconds = read(&row.micros) as f64 / 1e6;
                let _ = writeln!(out, "quorate_http_request_seconds_sum{{{labels}}} {seconds}");
                let _ = writeln!(out, "quorate_http_request_seconds_count{{{labels}}} {count}");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_route_and_class() {
        let metrics = Metrics::new(vec![("GET", "/a"), ("PUT", "/b")]);
        metrics.answered(0, 200, Duration::from_millis(2));
        metrics.answered(0, 404, Duration::from_millis(1));
        metrics.answered(0, 204, Duration::ZERO);
        let text = metrics.text();
        assert!(
            text.contains("quorate_http_requests_total{method=\"GET\",route=\"/a\",class=\"2xx\"} 2\n"),
            "{text}"
        );
        assert!(text.contains("quorate_http_requests_total{method=\"GET\",route=\"/a\",class=\"4xx\"} 1\n"));
        assert!(text.contains("quorate_http_request_seconds_count{method=\"GET\",route=\"/a\"} 3\n"));
        assert!(text.contains("quorate_http_request_seconds_sum{method=\"GET\",route=\"/a\"} 0.003\n"));
        assert!(!text.contains("/b"));
    }
}
