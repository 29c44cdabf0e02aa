//! How long a record is on its way from its producer to a consumer that waits for it.
//!
//! A record carries when it was *to be* sent, not when it was: what waits because the ones before it took long has waited.
//! Called by: `kafka`, and its two clients.

use std::time::{Duration, Instant};

const MARK: &str = "sent-at:";
const DIGITS: usize = 16;
/// Records that are sent in a second: far below what any server takes, so that none queues.
pub(super) const RATE: u32 = 250;
/// How long a consumer waits for the next one.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// When a record was to be sent, by a clock that producer and consumer share.
#[derive(Clone, Copy)]
pub(super) struct Stamp(Duration);

impl Stamp {
    /// Waits for the time of a record.
    pub(super) fn wait(clock: Instant, number: u32) -> Self {
        let at = Duration::from_secs(1) * number / RATE;
        std::thread::sleep(at.saturating_sub(clock.elapsed()));
        Self(at)
    }

    /// A value of so many bytes, at least as many as the stamp has.
    pub(super) fn value(self, bytes: usize) -> String {
        format!("{:x<bytes$}", format!("{MARK}{:0DIGITS$x}", self.0.as_nanos()))
    }
}

/// Finds the stamps in what has arrived, and adds what each record took, in microseconds.
pub(super) fn took(arrived: &[u8], now: Duration, took: &mut Vec<u64>) {
    let mut rest = arrived;
    while let Some(at) = rest.windows(MARK.len()).position(|part| part == MARK.as_bytes()) {
        rest = &rest[at + MARK.len()..];
        let digits = rest.get(..DIGITS).and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(nanos) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            took.push(now.saturating_sub(Duration::from_nanos(nanos)).as_micros() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_took_is_read_from_its_value() {
        let stamp = |micros| Stamp(Duration::from_micros(micros));
        let (one, two) = (stamp(5).value(64), stamp(70).value(100));
        assert_eq!((one.len(), two.len()), (64, 100));
        let mut found = Vec::new();
        took(format!("..{one}..{two}").as_bytes(), Duration::from_micros(100), &mut found);
        assert_eq!(found, [95, 30]);
    }
}
