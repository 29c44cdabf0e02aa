//! InitProducerId: a number for a producer, so that what it sends twice is appended once; and a name for one that has transactions.
//!
//! Called by: `api`. Source: KIP-98, KIP-360.

use super::transactions::{change, fenced};
use crate::error::Code;
use crate::gateway::{Gateway, Who};
use crate::wire::{Malformed, Reader, Writer};
use quorate_types::{Millis, OpResult, Produce, ProducerId, TRANSACTION_MS_MAX};

/// Since when it knows a name of its own for "fenced off".
const FENCED_SINCE: i16 = 4;

pub(super) async fn init(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let (name, timeout) = (body.maybe_text()?, body.i32()?);
    let known = if version >= 3 { (body.i64()?, body.i16()?) } else { (-1, -1) };
    body.tags()?;
    let begun = match name {
        // What it has been does not matter: without a name it is given another number.
        None => Ok(Produce::Begin {}),
        Some(name) => take_over(name, timeout, known),
    };
    let begun = match begun {
        Ok(produce) => begin(gateway, who, produce).await,
        Err(code) => Err(code),
    };
    let (code, producer, epoch) = match begun {
        Ok((producer, epoch)) => (Code::None, producer, epoch),
        Err(code) => (fenced(code, version, FENCED_SINCE), -1, -1),
    };
    out.i32(0);
    out.i16(code.number());
    out.i64(producer);
    out.i16(epoch);
    out.tags();
    Ok(())
}

fn take_over(name: String, timeout: i32, (producer, epoch): (i64, i16)) -> Result<Produce, Code> {
    if name.is_empty() {
        return Err(Code::InvalidRequest);
    }
    let timeout = u64::try_from(timeout).ok().filter(|ms| (1..=TRANSACTION_MS_MAX).contains(ms));
    let timeout = Millis(timeout.ok_or(Code::InvalidTransactionTimeout)?);
    let known = match (u64::try_from(producer), u16::try_from(epoch)) {
        (Ok(producer), Ok(epoch)) => Some((ProducerId(producer), epoch)),
        _ if (producer, epoch) == (-1, -1) => None,
        _ => return Err(Code::InvalidRequest),
    };
    Ok(Produce::TakeOver { name: name.into(), timeout, known })
}

/// The number and the life that a producer is given.
async fn begin(gateway: &Gateway, who: &Who, produce: Produce) -> Result<(i64, i16), Code> {
    match change(gateway, who, produce).await? {
        OpResult::Producer { producer, epoch } => Ok((producer.0 as i64, epoch as i16)),
        _ => Err(Code::UnknownServerError),
    }
}
