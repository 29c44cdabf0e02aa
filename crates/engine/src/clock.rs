//! The two clocks of an entry: wall time, and log time.
//!
//! Log time advances only while an orderer is in office, by its monotonic clock. A stall (a paused process, a suspended
//! machine) counts at most a second, so that nobody loses a lease to the orderer's own absence.
//!
//! Invariant: neither reading ever decreases, across restarts too: both begin from the last entry of the log.
//! Source: DESIGN's two clocks; Gray & Cheriton, "Leases", SOSP 1989, §5 (clock failures).

use quorate_types::{LogTime, WallTime};

/// Readings of the machine's clocks, as the driver of a turn took them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant {
    /// A monotonic clock, in nanoseconds from any origin.
    pub monotonic_ns: u64,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// How much of a gap between two ticks counts.
const STALL_NS_MAX: u64 = 1_000_000_000;

/// The orderer's clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    wall: WallTime,
    time: LogTime,
    ticked: Option<u64>,
}

impl Clock {
    /// Goes on from the last entry's readings. Time out of office does not count: the first tick adds nothing.
    #[must_use]
    pub fn resume(wall: WallTime, time: LogTime) -> Self {
        Self { wall, time, ticked: None }
    }

    /// Advances both clocks to `now` and reads them.
    pub fn tick(&mut self, now: Instant) -> (WallTime, LogTime) {
        let passed = self.ticked.map_or(0, |ticked| now.monotonic_ns.saturating_sub(ticked));
        self.ticked = Some(self.ticked.unwrap_or(0).max(now.monotonic_ns));
        self.time = LogTime(self.time.0.saturating_add(passed.min(STALL_NS_MAX)));
        self.wall = self.wall.max(WallTime(now.wall_ms));
        (self.wall, self.time)
    }

    /// The last reading.
    #[must_use]
    pub fn read(&self) -> (WallTime, LogTime) {
        (self.wall, self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, wall_ms: u64) -> Instant {
        Instant { monotonic_ns: ms * 1_000_000, wall_ms }
    }

    #[test]
    fn log_time_counts_office_time_and_at_most_a_second_of_a_stall() {
        let mut clock = Clock::resume(WallTime(50), LogTime(7_000_000));
        assert_eq!(
            clock.tick(at(1000, 60)).1,
            LogTime(7_000_000),
            "what passed before office does not count"
        );
        assert_eq!(clock.tick(at(1250, 61)).1, LogTime(257_000_000));
        assert_eq!(clock.tick(at(99_000, 62)).1, LogTime(1_257_000_000), "a stall counts a second");
    }

    #[test]
    fn neither_clock_runs_backwards() {
        let mut clock = Clock::resume(WallTime(50), LogTime(0));
        clock.tick(at(10, 100));
        assert_eq!(clock.tick(at(5, 90)), (WallTime(100), LogTime(0)));
        assert_eq!(clock.tick(at(10, 95)).1, LogTime(0), "the same stretch is not counted twice");
    }
}
