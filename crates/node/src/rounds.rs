//! How wide the entries of a leader are: what arrives while one is on its way to a quorum waits for it, and goes with the next.
//!
//! Each entry costs every node a write, a sync, two frames and as many wake-ups, however few commands it has. To send one whenever the disk
//! is free makes many small ones; to wait for the one before makes them as wide as what arrives during a round, without a timer.
//! It is worth it where a round is short beside what it costs, and only there: between distant nodes, or while a quorum is slow, entries
//! follow each other as the disk allows.
//!
//! Invariant: nothing waits longer than twice [`ROUND_MAX_NS`], and until the next look at what has arrived (a tick at most).
//! Invariant: keep-alives do not wait, nor does anything when something is due: what ends a lease must not pass what renews it.
//! Called by: `Partition` of a replica, when it orders and applies.

use quorate_types::LogIndex;

/// Rounds that take longer on the average are not waited for.
const ROUND_MAX_NS: u64 = 2_000_000;
/// So many commands are an entry of their own: it costs little beside them.
const COMMANDS_MAX: usize = 64;

/// The entry on its way, and how long the last ones took.
#[derive(Default)]
pub(crate) struct Rounds {
    under_way: Option<(LogIndex, u64)>,
    /// A moving average, of which the last is an eighth.
    took_ns: u64,
}

impl Rounds {
    /// An entry was ordered.
    pub(crate) fn ordered(&mut self, index: LogIndex, now_ns: u64) {
        self.under_way.get_or_insert((index, now_ns));
    }

    /// An entry was applied, so a quorum has it.
    pub(crate) fn applied(&mut self, index: LogIndex, now_ns: u64) {
        if let Some((_, at)) = self.under_way.take_if(|(ordered, _)| *ordered <= index) {
            self.took_ns = (self.took_ns * 7 + now_ns.saturating_sub(at)) / 8;
        }
    }

    /// Another leads, or a new term has begun: what was under way may never be applied.
    pub(crate) fn end(&mut self) {
        self.under_way = None;
    }

    /// Whether so many commands had better wait for the entry that is under way.
    pub(crate) fn waits(&self, commands: usize, now_ns: u64) -> bool {
        let Some((_, at)) = self.under_way else { return false };
        commands < COMMANDS_MAX
            && self.took_ns <= ROUND_MAX_NS
            && now_ns.saturating_sub(at) < 2 * ROUND_MAX_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of which the last hundred took so long.
    fn rounds(took_ns: u64) -> Rounds {
        let mut rounds = Rounds::default();
        for index in 1..=100 {
            rounds.ordered(LogIndex(index), 0);
            rounds.applied(LogIndex(index), took_ns);
        }
        rounds
    }

    #[test]
    fn what_arrives_during_a_short_round_waits_for_its_end() {
        let mut rounds = rounds(300_000);
        assert!(!rounds.waits(1, 0), "nothing is under way");
        rounds.ordered(LogIndex(101), 1000);
        assert!(rounds.waits(1, 1000));
        rounds.applied(LogIndex(100), 2000);
        assert!(rounds.waits(1, 2000), "an earlier one is not it");
        rounds.applied(LogIndex(101), 2000);
        assert!(!rounds.waits(1, 2000));
    }

    #[test]
    fn many_commands_slow_rounds_and_a_round_that_stalls_are_not_waited_for() {
        let mut short = rounds(300_000);
        short.ordered(LogIndex(101), 0);
        assert!(short.waits(COMMANDS_MAX - 1, 0) && !short.waits(COMMANDS_MAX, 0));
        assert!(short.waits(1, 2 * ROUND_MAX_NS - 1) && !short.waits(1, 2 * ROUND_MAX_NS));
        let mut slow = rounds(3_000_000);
        slow.ordered(LogIndex(101), 0);
        assert!(!slow.waits(1, 0));
    }

    #[test]
    fn an_entry_of_an_office_that_has_ended_holds_nothing_up() {
        let mut rounds = rounds(300_000);
        rounds.ordered(LogIndex(101), 0);
        rounds.end();
        assert!(!rounds.waits(1, 0));
    }
}
