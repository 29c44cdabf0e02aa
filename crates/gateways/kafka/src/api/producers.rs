//! InitProducerId: a number for a producer, so that what it sends twice is appended once.
//!
//! Called by: `api`. Source: KIP-98, KIP-360.

use crate::error::{self, Code};
use crate::gateway::{Gateway, Who};
use crate::wire::{Malformed, Reader, Writer};
use quorate_types::{Commit, Op, OpResult, Produce};

pub(super) async fn init(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let transaction = body.maybe_text()?;
    body.i32()?;
    if version >= 3 {
        // What it has been: without a transaction it is given another number, whatever that was.
        body.i64()?;
        body.i16()?;
    }
    body.tags()?;
    let begun = match transaction {
        Some(_) => Err(Code::UnsupportedVersion),
        None => begin(gateway, who, Produce::Begin {}).await,
    };
    let (code, producer, epoch) = match begun {
        Ok((producer, epoch)) => (Code::None, producer, epoch),
        Err(code) => (code, -1, -1),
    };
    out.i32(0);
    out.i16(code.number());
    out.i64(producer);
    out.i16(epoch);
    out.tags();
    Ok(())
}

/// The number and the life that a producer is given.
async fn begin(gateway: &Gateway, who: &Who, produce: Produce) -> Result<(i64, i16), Code> {
    let committed = gateway.commit(who, Commit::of(vec![Op::Produce { produce: Box::new(produce) }])).await;
    match committed.map_err(error::coordinator)?.results[..] {
        [OpResult::Producer { producer, epoch }] => Ok((producer.0 as i64, epoch as i16)),
        _ => Err(Code::UnknownServerError),
    }
}
