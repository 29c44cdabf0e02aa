//! Streams: what was acknowledged is there once, where the answer said, in an order that respects real time; what was refused is not
//! there; what is unclear is there at most once.
//!
//! Called by: `run`.

use super::Anomaly;
use crate::history::{AppendEvent, Fate};
use std::collections::HashMap;

/// How many are reported for one stream: one cause has many effects.
const REPORTED_MAX: usize = 10;

/// Judges appends against what is in the stream at the end: offset and record, in the stream's order.
pub(crate) fn check(stream: &str, events: &[AppendEvent], content: &[(u64, String)]) -> Vec<Anomaly> {
    let mut found = gaps(content);
    let mut places: HashMap<&str, Vec<u64>> = HashMap::new();
    for (offset, record) in content {
        places.entry(record).or_default().push(*offset);
    }
    let known: HashMap<&str, &AppendEvent> =
        events.iter().map(|event| (event.record.as_str(), event)).collect();
    for record in places.keys().filter(|record| !known.contains_key(*record)) {
        found.push(Anomaly::new("record from nowhere", format!("{record} was never sent")));
    }
    for event in events {
        let places = places.get(event.record.as_str()).map_or(&[][..], Vec::as_slice);
        found.extend(judge(event, places));
    }
    found.extend(order(events));
    found.truncate(REPORTED_MAX);
    for anomaly in &mut found {
        anomaly.what = format!("stream {stream}: {}", anomaly.what);
    }
    found
}

fn judge(event: &AppendEvent, places: &[u64]) -> Option<Anomaly> {
    let AppendEvent { record, fate, .. } = event;
    if places.len() > 1 {
        return Some(Anomaly::new("duplicate append", format!("{record} is there at offsets {places:?}")));
    }
    match (fate, places.first()) {
        (Fate::Acknowledged(offset), None) => Some(Anomaly::new(
            "lost append",
            format!("{record}, acknowledged at offset {offset}, is not there"),
        )),
        (Fate::Acknowledged(offset), Some(place)) if offset != place => {
            let what = format!("{record} was acknowledged at offset {offset} and is at {place}");
            Some(Anomaly::new("moved append", what))
        }
        (Fate::Refused, Some(place)) => Some(Anomaly::new(
            "refused append there",
            format!("{record} was refused, yet it is at offset {place}"),
        )),
        _ => None,
    }
}

/// Offsets begin at 0 and have no gap.
fn gaps(content: &[(u64, String)]) -> Vec<Anomaly> {
    let wrong = content.iter().zip(0..).find(|((offset, _), wanted)| offset != wanted);
    wrong
        .map(|((offset, record), wanted)| {
            Anomaly::new("gap in a stream", format!("{record} is at offset {offset} where {wanted} was due"))
        })
        .into_iter()
        .collect()
}

/// Whoever began after another had been acknowledged stands behind it.
fn order(events: &[AppendEvent]) -> Vec<Anomaly> {
    let acknowledged = |event: &AppendEvent| match event.fate {
        Fate::Acknowledged(offset) => Some(offset),
        _ => None,
    };
    let mut by_begin: Vec<_> =
        events.iter().filter_map(|event| Some((event, acknowledged(event)?))).collect();
    let mut by_end = by_begin.clone();
    by_begin.sort_by_key(|(event, _)| event.span.begun);
    by_end.sort_by_key(|(event, _)| event.span.ended);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<(&AppendEvent, u64)> = None;
    let mut found = Vec::new();
    for (event, offset) in by_begin {
        while let Some(other) = ended.next_if(|(other, _)| other.span.ended < event.span.begun) {
            if newest.is_none_or(|(_, newest)| newest < other.1) {
                newest = Some(other);
            }
        }
        if let Some((other, before)) = newest.filter(|(_, before)| *before >= offset) {
            let what = format!(
                "{} is at offset {offset}, though {} had been acknowledged at {before} before it was sent",
                event.record, other.record
            );
            found.push(Anomaly::new("append out of order", what));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{OPEN, Span};

    fn event(record: &str, begun: u64, ended: u64, fate: Fate<u64>) -> AppendEvent {
        AppendEvent { record: record.into(), client: 0, span: Span { begun, ended }, fate }
    }
    fn kinds(events: &[AppendEvent], content: &[&str]) -> Vec<&'static str> {
        let content: Vec<_> =
            content.iter().zip(0..).map(|(record, offset)| (offset, (*record).to_owned())).collect();
        check("s", events, &content).into_iter().map(|anomaly| anomaly.kind).collect()
    }

    #[test]
    fn acknowledged_once_unclear_at_most_once_and_refused_never() {
        let acknowledged = event("a", 0, 1, Fate::Acknowledged(0));
        let unclear = event("b", 0, OPEN, Fate::Unclear);
        let refused = event("c", 0, 1, Fate::Refused);
        let all = [acknowledged, unclear, refused];
        assert!(kinds(&all, &["a"]).is_empty());
        assert!(kinds(&all, &["a", "b"]).is_empty());
        assert_eq!(kinds(&all, &["a", "b", "b"]), ["duplicate append"]);
        assert_eq!(kinds(&all, &["a", "c"]), ["refused append there"]);
        assert_eq!(kinds(&all, &[]), ["lost append"]);
        assert_eq!(kinds(&all, &["b", "a"]), ["moved append"]);
        assert_eq!(kinds(&all, &["a", "x"]), ["record from nowhere"]);
    }

    #[test]
    fn a_duplicate_of_an_acknowledged_append_is_found() {
        assert_eq!(kinds(&[event("a", 0, 1, Fate::Acknowledged(0))], &["a", "a"]), ["duplicate append"]);
    }

    #[test]
    fn an_append_before_one_that_was_acknowledged_earlier_is_found() {
        let (first, second) =
            (event("a", 0, 1, Fate::Acknowledged(1)), event("b", 2, 3, Fate::Acknowledged(0)));
        assert_eq!(kinds(&[first, second], &["b", "a"]), ["append out of order"]);
    }

    #[test]
    fn a_gap_is_found() {
        let found = check("s", &[event("a", 0, 1, Fate::Acknowledged(1))], &[(1, "a".into())]);
        assert_eq!(found[0].kind, "gap in a stream");
    }
}
