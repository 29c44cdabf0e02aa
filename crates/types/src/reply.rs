//! What a call answers: the values of RESP3, which a gateway writes as they are or, for RESP2, in that protocol's poorer ones.
//!
//! Source: the RESP specification (redis.io, "Redis serialization protocol specification").
//! Invariant: replies nest no deeper than [`crate::codec::DEPTH_MAX`], on both sides.

use crate::blob::Blob;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::commit::PayloadRef;
use crate::record::RecordId;
use crate::score::Score;
use crate::wire_enum;

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing. RESP2: the null bulk string.
    Nil,
    /// Nothing where a list would be. RESP2: the null array.
    NilArray,
    /// A short text such as `OK`.
    Status {
        /// Without line ends.
        text: Blob,
    },
    /// What went wrong: a code in capitals, a space, an explanation.
    Error {
        /// Without line ends.
        text: Blob,
    },
    /// A number.
    Integer {
        /// The number.
        value: i64,
    },
    /// A double. RESP2: its text.
    Double {
        /// The double.
        value: Score,
    },
    /// Yes or no. RESP2: 1 or 0.
    Boolean {
        /// Yes or no.
        value: bool,
    },
    /// Bytes.
    Bulk {
        /// The bytes.
        value: Blob,
    },
    /// Text with a format of three letters (`txt`, `mkd`). RESP2: the bytes.
    Verbatim {
        /// The format.
        format: Blob,
        /// The text.
        text: Blob,
    },
    /// Values in order.
    Array {
        /// The values.
        items: Replies,
    },
    /// Values without order. RESP2: an array.
    Set {
        /// The values.
        items: Replies,
    },
    /// Keys, each followed by its value. RESP2: one flat array.
    Map {
        /// Key, value, key, value…
        items: Replies,
    },
    /// Pairs: first, second, first, second… RESP3: an array of arrays of two. RESP2: one flat array.
    Pairs {
        /// An even number of values.
        items: Replies,
    },
    /// Names, each followed by what it has, as XREAD answers. RESP3: a map. RESP2: an array of arrays of two.
    Named {
        /// Name, value, name, value…
        items: Replies,
    },
    /// A record of a stream, whose bytes lie elsewhere: whoever writes the reply reads them first and puts an array of the id and the
    /// fields in its place.
    Record {
        /// Its id.
        id: RecordId,
        /// Where the bytes of its batch lie.
        at: PayloadRef,
        /// Which record of the batch.
        record: u32,
    },
}
wire_enum!(Reply {
    0 = Nil {},
    1 = NilArray {},
    2 = Status { text },
    3 = Error { text },
    4 = Integer { value },
    5 = Double { value },
    6 = Boolean { value },
    7 = Bulk { value },
    8 = Verbatim { format, text },
    9 = Array { items },
    10 = Set { items },
    11 = Map { items },
    12 = Pairs { items },
    13 = Named { items },
    14 = Record { id, at, record },
});

impl Reply {
    /// `+OK`.
    #[must_use]
    pub fn ok() -> Self {
        Self::status("OK")
    }
    /// A short text.
    pub fn status(text: impl Into<Blob>) -> Self {
        Self::Status { text: text.into() }
    }
    /// An error.
    pub fn error(text: impl Into<Blob>) -> Self {
        Self::Error { text: text.into() }
    }
    /// A number.
    #[must_use]
    pub fn integer(value: i64) -> Self {
        Self::Integer { value }
    }
    /// How many.
    #[must_use]
    pub fn count(value: usize) -> Self {
        Self::Integer { value: i64::try_from(value).expect("fewer than 2^63 things fit in memory") }
    }
    /// 1 or 0.
    #[must_use]
    pub fn flag(value: bool) -> Self {
        Self::Integer { value: i64::from(value) }
    }
    /// Bytes.
    pub fn bulk(value: impl Into<Blob>) -> Self {
        Self::Bulk { value: value.into() }
    }
    /// Bytes, or nothing.
    #[must_use]
    pub fn bulk_or_nil(value: Option<Blob>) -> Self {
        value.map_or(Self::Nil, |value| Self::Bulk { value })
    }
    /// Values in order.
    #[must_use]
    pub fn array(items: Vec<Self>) -> Self {
        Self::Array { items: Replies(items) }
    }
    /// Values without order.
    #[must_use]
    pub fn set(items: Vec<Self>) -> Self {
        Self::Set { items: Replies(items) }
    }
    /// Keys, each followed by its value.
    #[must_use]
    pub fn map(items: Vec<Self>) -> Self {
        Self::Map { items: Replies(items) }
    }
    /// Names, each followed by what it has.
    #[must_use]
    pub fn named(items: Vec<Self>) -> Self {
        Self::Named { items: Replies(items) }
    }
    /// First, second, first, second…
    #[must_use]
    pub fn pairs(items: Vec<Self>) -> Self {
        Self::Pairs { items: Replies(items) }
    }
}

/// Replies inside a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replies(pub Vec<Reply>);

impl Wire for Replies {
    fn put(&self, out: &mut Writer) {
        self.0.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        from.nested(|from| Ok(Self(Vec::take(from)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn a_reply_reads_back_as_written_and_too_deep_a_one_is_refused() {
        let mut reply = Reply::map(vec![Reply::bulk("k"), Reply::Double { value: Score::from_i64(2) }]);
        assert_eq!(decode::<Reply>(&encode(&reply).into()), Ok(reply.clone()));
        for _ in 0..10 {
            reply = Reply::array(vec![reply]);
        }
        assert_eq!(decode::<Reply>(&encode(&reply).into()), Err(DecodeError::Depth));
    }
}
