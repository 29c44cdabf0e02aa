//! Producers that number what they send, so that a batch which is sent again is appended once.
//!
//! A producer is given a number of its own and counts its records in every partition. Source: KIP-98 (Kafka's idempotent producers).

use crate::blob::Blob;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::commit::{Append, Commit};
use crate::membership::OffsetCommit;
use crate::units::{GroupName, Key, Millis};
use crate::{wire_enum, wire_struct};

/// Records are counted from 0 up to this, then from 0 again.
pub const SEQUENCE_MAX: u32 = i32::MAX as u32;
/// Longest that a transaction may be open, in log time: as Kafka's `transaction.max.timeout.ms` has it.
pub const TRANSACTION_MS_MAX: u64 = 15 * 60 * 1000;
/// The last life that a producer's number has.
pub const EPOCH_MAX: u16 = i16::MAX as u16;

/// Number of a producer, given once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub u64);

impl Wire for ProducerId {
    fn put(&self, out: &mut Writer) {
        out.varint(self.0);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(from.varint()?))
    }
}

impl std::fmt::Display for ProducerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Which batch this is among those of its producer for a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbered {
    /// Who sends it.
    pub producer: ProducerId,
    /// In which of its lives, at most [`EPOCH_MAX`].
    pub epoch: u16,
    /// Number of its first record, at most [`SEQUENCE_MAX`].
    pub first: u32,
}
wire_struct!(Numbered { producer, epoch, first });

impl Numbered {
    /// The number of the record that comes so many after one.
    #[must_use]
    pub fn after(number: u32, records: u32) -> u32 {
        ((u64::from(number) + u64::from(records)) % (u64::from(SEQUENCE_MAX) + 1)) as u32
    }
}

/// Who changes a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// The name under which it comes.
    pub name: Blob,
    /// The number that it was given when it took the name over.
    pub producer: ProducerId,
    /// The life that it was given.
    pub epoch: u16,
}
wire_struct!(Author { name, producer, epoch });

/// What a producer that numbers its batches asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Produce {
    /// To be given a number.
    Begin {},
    /// To append a batch once: sent again, it is answered as it was the first time.
    Append {
        /// What to append, and to which partition, by number.
        append: Append,
        /// Which batch it is.
        by: Numbered,
    },
    /// To take over a name: whoever had it is fenced off, and what that one had open is dropped.
    TakeOver {
        /// The name.
        name: Blob,
        /// How long each of its transactions may be open, in log time; 1 to [`TRANSACTION_MS_MAX`].
        timeout: Millis,
        /// What it was until now, if it is the one that has the name: then it is only given its next life.
        known: Option<(ProducerId, u16)>,
    },
    /// To change these partitions and the cursors of these groups in its transaction, which is open from then on.
    Enlist {
        /// Whose.
        author: Author,
        /// The partitions, by number.
        parts: Vec<(Key, u32)>,
        /// The groups.
        groups: Vec<GroupName>,
    },
    /// To append a batch when the transaction ends well.
    Hold {
        /// Under which name.
        name: Blob,
        /// What to append, and to which partition, by number.
        append: Append,
        /// Which batch it is.
        by: Numbered,
    },
    /// To keep how far a group is when the transaction ends well.
    HoldOffsets {
        /// Whose.
        author: Author,
        /// How far, and for which member.
        commit: Box<OffsetCommit>,
    },
    /// To end its transaction.
    End {
        /// Whose.
        author: Author,
        /// Whether what it holds is appended, or dropped.
        commits: bool,
    },
    /// As `Append`, with a rider: the batch is appended if the rider's guards hold, and what the rider does happens with it.
    AppendWith {
        /// What to append, and to which partition, by number.
        append: Append,
        /// Which batch it is; nothing where its producer does not count.
        by: Option<Numbered>,
        /// Its rider.
        rider: Box<Commit>,
    },
    /// As `Hold`, with a rider, which is decided and done when the transaction ends well.
    HoldWith {
        /// Under which name.
        name: Blob,
        /// What to append, and to which partition, by number.
        append: Append,
        /// Which batch it is.
        by: Numbered,
        /// Its rider.
        rider: Box<Commit>,
    },
}
wire_enum!(Produce {
    1 = Begin {},
    2 = Append { append, by },
    3 = TakeOver { name, timeout, known },
    4 = Enlist { author, parts, groups },
    5 = Hold { name, append, by },
    6 = End { author, commits },
    7 = HoldOffsets { author, commit },
    8 = AppendWith { append, by, rider },
    9 = HoldWith { name, append, by, rider },
});

impl Produce {
    /// What it appends, if it does.
    #[must_use]
    pub fn append(&self) -> Option<&Append> {
        match self {
            Self::Append { append, .. } | Self::Hold { append, .. } => Some(append),
            Self::AppendWith { append, .. } | Self::HoldWith { append, .. } => Some(append),
            Self::Begin {} | Self::TakeOver { .. } | Self::Enlist { .. } | Self::End { .. } => None,
            Self::HoldOffsets { .. } => None,
        }
    }

    /// The name under which its transactions are.
    #[must_use]
    pub fn name(&self) -> Option<&Blob> {
        match self {
            Self::Begin {} | Self::Append { .. } | Self::AppendWith { .. } => None,
            Self::TakeOver { name, .. } | Self::Hold { name, .. } | Self::HoldWith { name, .. } => Some(name),
            Self::Enlist { author, .. } | Self::End { author, .. } | Self::HoldOffsets { author, .. } => {
                Some(&author.name)
            }
        }
    }

    /// What is decided and done with what it appends: guards, an idempotency key, and plain operations on keys.
    #[must_use]
    pub fn rider(&self) -> Option<&Commit> {
        match self {
            Self::AppendWith { rider, .. } | Self::HoldWith { rider, .. } => Some(rider),
            Self::Begin {} | Self::TakeOver { .. } | Self::Enlist { .. } | Self::End { .. } => None,
            Self::Append { .. } | Self::Hold { .. } | Self::HoldOffsets { .. } => None,
        }
    }

    /// What it appends, to be changed.
    pub fn append_mut(&mut self) -> Option<&mut Append> {
        match self {
            Self::Append { append, .. } | Self::Hold { append, .. } => Some(append),
            Self::AppendWith { append, .. } | Self::HoldWith { append, .. } => Some(append),
            Self::Begin {} | Self::TakeOver { .. } | Self::Enlist { .. } | Self::End { .. } => None,
            Self::HoldOffsets { .. } => None,
        }
    }
}

impl Wire for Box<Produce> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(Produce::take(from)?))
    }
}

/// Why a producer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// Nobody was given this number.
    #[error("nobody was given producer number {producer}: ask for one first")]
    Unknown {
        /// The number.
        producer: ProducerId,
    },
    /// A later life of the producer has been here.
    #[error(
        "producer {producer} is in its life {found}, this is of life {offered}: another has taken its place"
    )]
    Epoch {
        /// Its number.
        producer: ProducerId,
        /// The newest life.
        found: u16,
        /// The one that asks.
        offered: u16,
    },
    /// A batch is missing before this one, or it was sent so long ago that nobody knows any more what became of it.
    #[error("producer {producer} sent record {offered}, the next is {wanted}: send what is missing first")]
    Order {
        /// Its number.
        producer: ProducerId,
        /// The number that would follow.
        wanted: u32,
        /// The number that came.
        offered: u32,
    },
    /// There is no memory for one more.
    #[error(
        "{kept} numbered producers of partitions are remembered, and each has sent something lately: try again later"
    )]
    Full {
        /// How many.
        kept: u64,
    },
    /// The name is another producer's, or nobody's any more.
    #[error("{name} is not the name of producer {producer}: it was forgotten, or another has taken it over")]
    OtherNumber {
        /// The name.
        name: Blob,
        /// The number that asks.
        producer: ProducerId,
    },
    /// There is no transaction that is open for this.
    #[error("no transaction of {name} is open for this: begin one, and name its partitions and groups first")]
    NotOpen {
        /// The name.
        name: Blob,
    },
    /// The transaction would hold more than it may.
    #[error("{what} would be {found}, allowed is {max}: end it in smaller parts")]
    TooMuch {
        /// What.
        what: String,
        /// How much it would be.
        found: u64,
        /// How much it may be.
        max: u64,
    },
    /// The transaction has an idempotency key already.
    #[error(
        "the transaction of {name} has another idempotency key already: it is one commit, and a commit has one"
    )]
    SecondKey {
        /// The name.
        name: Blob,
    },
}
wire_enum!(ProduceError {
    1 = Unknown { producer },
    2 = Epoch { producer, found, offered },
    3 = Order { producer, wanted, offered },
    4 = Full { kept },
    5 = OtherNumber { name, producer },
    6 = NotOpen { name },
    7 = TooMuch { what, found, max },
    8 = SecondKey { name },
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_from_0_again_after_the_last_number() {
        assert_eq!(Numbered::after(7, 3), 10);
        assert_eq!(Numbered::after(SEQUENCE_MAX, 1), 0);
        assert_eq!(Numbered::after(SEQUENCE_MAX - 1, 4), 2);
    }
}
