//! Bugs planted in a cluster: each breaks one promise on purpose, in the seams between the nodes and their simulated world (disk, clock,
//! wire, client), never in a production path.
//!
//! Invariant: without a plant nothing here changes anything.
//! Called by: the world and the network; `tests/cluster_planted.rs` holds one test for each.

/// A bug to be found in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterPlant {
    /// Syncs do nothing, and the power fails everywhere: what a quorum "has on disk" is lost, as when it was committed before that.
    LyingSync,
    /// A node's identity file comes back from an earlier moment: it votes twice in a term.
    ForgottenVote,
    /// A leader answers reads at once, without asking whether it still leads.
    StaleRead,
    /// A follower answers reads from what it has applied.
    FollowerRead,
    /// Followers are not told the log time: it restarts from the last entry at failover.
    TimeRestarts,
    /// A restart loses the tail of a log that was synced.
    TailDropped,
    /// One replica applies something else than the others.
    Misapplied,
    /// Under `interval` a power loss goes unnoticed: the replica votes though it has lost what it acknowledged.
    RebootUnnoticed,
    /// A leader is not told that a replica restarted, and goes on counting what that replica has lost.
    RestartUnnoticed,
    /// A leader's monotonic clock leaps ahead: leases end early.
    ClockLeaps,
    /// A client is told that its command did not happen, though it was passed on.
    RefusedYetSent,
    /// A node that does not know what became of a command orders it once more.
    SentTwice,
    /// A follower acknowledges one entry more than it has: the leader commits before a quorum.
    ForgedAck,
    /// Two clients are given each other's answers.
    SwappedAnswers,
}

impl ClusterPlant {
    /// Every planted bug.
    pub const ALL: [Self; 14] = [
        Self::LyingSync,
        Self::ForgottenVote,
        Self::StaleRead,
        Self::FollowerRead,
        Self::TimeRestarts,
        Self::TailDropped,
        Self::Misapplied,
        Self::RebootUnnoticed,
        Self::RestartUnnoticed,
        Self::ClockLeaps,
        Self::RefusedYetSent,
        Self::SentTwice,
        Self::ForgedAck,
        Self::SwappedAnswers,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LyingSync => "lying-sync",
            Self::ForgottenVote => "forgotten-vote",
            Self::StaleRead => "stale-read",
            Self::FollowerRead => "follower-read",
            Self::TimeRestarts => "time-restarts",
            Self::TailDropped => "tail-dropped",
            Self::Misapplied => "misapplied",
            Self::RebootUnnoticed => "reboot-unnoticed",
            Self::RestartUnnoticed => "restart-unnoticed",
            Self::ClockLeaps => "clock-leaps",
            Self::RefusedYetSent => "refused-yet-sent",
            Self::SentTwice => "sent-twice",
            Self::ForgedAck => "forged-ack",
            Self::SwappedAnswers => "swapped-answers",
        }
    }

    /// The plant of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| plant.name() == name)
    }
}
