//! Why a call failed, in Redis' words: clients tell errors by the first word.

use quorate_types::Blob;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nothing happened; the text is the reply. (Of a script: what it did before stands.)
    Reply(Blob),
    /// It went over its budget: nothing of it happened, nor of the script that called it.
    Abort(Blob),
}

impl Error {
    /// An error with this text: a code in capitals, a space, an explanation.
    pub fn reply(text: impl Into<Blob>) -> Self {
        Self::Reply(text.into())
    }
    /// The key holds another type.
    #[must_use]
    pub fn wrong_type() -> Self {
        Self::reply("WRONGTYPE Operation against a key holding the wrong kind of value")
    }
    /// The command was not understood.
    #[must_use]
    pub fn syntax() -> Self {
        Self::reply("ERR syntax error")
    }
    /// A word is no integer of 64 bits.
    #[must_use]
    pub fn not_integer() -> Self {
        Self::reply("ERR value is not an integer or out of range")
    }
    /// A word is no double.
    #[must_use]
    pub fn not_float() -> Self {
        Self::reply("ERR value is not a valid float")
    }
    /// The reply.
    #[must_use]
    pub fn text(&self) -> &Blob {
        match self {
            Self::Reply(text) | Self::Abort(text) => text,
        }
    }
}
