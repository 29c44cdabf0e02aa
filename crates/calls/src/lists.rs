//! Lists.

use crate::Error;
use crate::decimal::{Decimal, Parsed};
use quorate_types::Millis;

/// How long a command that may block waits: seconds with a fraction, 0 for ever.
pub(crate) fn timeout(word: &[u8]) -> Result<Millis, Error> {
    match Decimal::parse(word) {
        Parsed::Finite(seconds) if seconds.is_negative() => Err(Error::reply("ERR timeout is negative")),
        Parsed::Finite(seconds) => {
            seconds.millis().ok_or_else(|| Error::reply("ERR timeout is out of range"))
        }
        Parsed::Infinite | Parsed::Nothing => Err(Error::reply("ERR timeout is not a float or out of range")),
    }
}
