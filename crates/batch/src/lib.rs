//! Kafka's record batch (version 2, "magic 2"), which streams store as it came and serve as it came.
//!
//! A batch that is stored is the batch that was sent, but for its first eight bytes: there a producer has nothing to say (the base offset), and
//! there [`MARK`] lies, which no payload of [`quorate_types::record`] begins with. So whoever has a payload knows what it is, and serving one
//! patches the offset and the leader's epoch; the checksum covers neither.
//!
//! Invariant: what [`check`] lets through has a right checksum, says its length and count truly, and takes one offset for each record.
//! Invariant: reading is bounded: [`decode`] makes no more bytes of a batch than it is allowed, whatever was packed into it.
//! Called by: the Kafka gateway; the runtime, for readers who want records. Source: KIP-98 and Kafka's documentation, "Record Batch".

mod header;
mod packing;
mod records;

pub use header::{Codec, HEADER_BYTES, Header, MARK, check, is_batch, served, stored};
pub use records::{Timed, build, check_records, decode, empty, to_records, unpacked_max};

/// Why bytes are no batch that can be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// They end before the batch does, or it says a length that cannot be.
    #[error("the batch is {found} bytes long and says that it has {said}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// What the batch says.
        said: i64,
    },
    /// Another version of the format.
    #[error("the batch has magic {0}, wanted 2")]
    Magic(i8),
    /// The checksum is not that of the bytes.
    #[error("the checksum is {said:#010x}, the bytes have {found:#010x}: they were damaged on their way")]
    Checksum {
        /// Of the bytes.
        found: u32,
        /// What the batch says.
        said: u32,
    },
    /// It does not hold as many records as offsets.
    #[error("the batch holds {count} records and takes {offsets} offsets: wanted one each, at least one")]
    Count {
        /// Records.
        count: i32,
        /// Offsets.
        offsets: i64,
    },
    /// Its compression is unknown.
    #[error("the batch is compressed in way {0}, known are 0 to 4")]
    Codec(u8),
    /// Its content cannot be unpacked.
    #[error("the batch cannot be unpacked: {0}")]
    Packing(String),
    /// Its content is larger than may be made of it.
    #[error("the batch unpacks to more than {max} bytes")]
    Large {
        /// The bound.
        max: usize,
    },
    /// A record in it is not as it has to be.
    #[error("record {record} of the batch: {why}")]
    Record {
        /// Which, from 0.
        record: usize,
        /// What is wrong.
        why: &'static str,
    },
}
