//! Groups whose partitions the server divides (Kafka's KIP-848): what a member says when it beats, and what it is told.
//!
//! Here a member only says what it wants to read and what it still has; who reads what is computed where the state is. Streams are named by
//! their numbers, which are never used again, so that nobody is given records of another stream of the same name. A regular expression is never
//! matched below the gateways: what a command holds are the names that it matched, so that replicas decide alike whatever built them.

use crate::blob::Blob;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::units::{GroupName, Millis};
use crate::{wire_enum, wire_struct};

/// Most streams that a member names, or that its expression matches.
pub const TOPICS_MAX: u64 = 1_000;
/// Most partitions that a member says that it has, and that a group may have for somebody to subscribe.
pub const SHARED_MAX: u64 = 20_000;

/// How partitions are divided among those who want them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    /// Everybody has as many as the others, and keeps what it has where that goes.
    #[default]
    Uniform,
    /// Of each stream everybody has a run of neighbours, the same of streams with as many partitions.
    Range,
}
wire_enum!(Assignor { 1 = Uniform {}, 2 = Range {} });

impl Assignor {
    /// What clients call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }
}

/// Partitions by stream: numbers of streams, each with numbers of partitions.
pub type Shares = Vec<(u64, Vec<u32>)>;

/// A member says that it is alive, and what has changed for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The group; made when it does not exist.
    pub group: GroupName,
    /// Its id; empty for one that joins without.
    pub member: Blob,
    /// The epoch that it takes itself to be in; nothing when it joins.
    pub epoch: Option<u32>,
    /// The name that it keeps over restarts, if it has one.
    pub instance: Option<Blob>,
    /// Where it stands, for people to read.
    pub rack: Option<Blob>,
    /// What the client calls itself, for people to read.
    pub client: Blob,
    /// Where it comes from, for people to read.
    pub host: Blob,
    /// How long it may be silent, in log time.
    pub session: Millis,
    /// How long it may take to let go of partitions, in log time; nothing where it says nothing new.
    pub rebalance: Option<Millis>,
    /// Names of streams that it wants; nothing where it says nothing new.
    pub names: Option<Vec<Blob>>,
    /// The expression by which it wants streams; empty for none, nothing where it says nothing new.
    pub regex: Option<Blob>,
    /// What that expression matches now; nothing where that is what it was.
    pub matched: Option<Vec<Blob>>,
    /// The assignor that it wants.
    pub assignor: Option<Assignor>,
    /// What it has; nothing where it says nothing new.
    pub owned: Option<Shares>,
}
wire_struct!(Beat {
    group,
    member,
    epoch,
    instance,
    rack,
    client,
    host,
    session,
    rebalance,
    names,
    regex,
    matched,
    assignor,
    owned,
});

impl Beat {
    /// Whether it says all there is, as one does that may have missed an answer.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let says = self.names.is_some() || self.regex.is_some();
        self.epoch.is_none() || (says && self.rebalance.is_some() && self.owned.is_some())
    }

    /// Bytes that it takes in an entry, never less.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of = |blob: &Blob| blob.len() + 16;
        let all = |names: &Option<Vec<Blob>>| names.iter().flatten().map(of).sum::<usize>();
        let maybe = |name: &Option<Blob>| name.as_ref().map_or(0, of);
        let owned = self.owned.iter().flatten().map(|(_, each)| 24 + 5 * each.len()).sum::<usize>();
        let words = of(&self.member) + of(&self.client) + of(&self.host) + of(&self.group.0);
        let more = maybe(&self.instance) + maybe(&self.rack) + maybe(&self.regex);
        words + more + all(&self.names) + all(&self.matched) + owned + 96
    }
}

/// What a member that has beaten is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beaten {
    /// Its id.
    pub member: Blob,
    /// Its epoch.
    pub epoch: u32,
    /// What it is to have, where that has changed or it asked for it.
    pub given: Option<Shares>,
}
wire_struct!(Beaten { member, epoch, given });

impl Wire for Box<Beat> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(Beat::take(from)?))
    }
}
