//! FindCoordinator: whom to ask about a group, or a transaction.
//!
//! Every node takes every request. The cluster's leader is named, where what a group changes is ordered without another hop; who finds it gone asks
//! again, any node.

use crate::error::Code;
use crate::gateway::{Broker, Gateway};
use crate::wire::{Malformed, Reader, Writer};

/// The first version that asks for several.
const SEVERAL_SINCE: i16 = 4;
/// What may be asked for: groups and transactions.
const KINDS: std::ops::RangeInclusive<i8> = 0..=1;

pub(super) fn find(
    gateway: &Gateway,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let mut names = if version < SEVERAL_SINCE { vec![body.text()?] } else { Vec::new() };
    let kind = if version >= 1 { body.i8()? } else { 0 };
    if version >= SEVERAL_SINCE {
        names = body.list(Reader::text)?;
    }
    body.tags()?;
    let nodes = gateway.nodes();
    let leader = nodes.brokers.iter().find(|broker| broker.id == nodes.leader);
    let found = |name: &str| match leader {
        _ if !KINDS.contains(&kind) => Err(Code::InvalidRequest),
        _ if name.is_empty() => Err(Code::InvalidGroupId),
        Some(leader) => Ok(leader),
        None => Err(Code::CoordinatorNotAvailable),
    };
    if version >= 1 {
        out.i32(0);
    }
    if version < SEVERAL_SINCE {
        let found = found(names.first().map_or("", String::as_str));
        out.i16(found.err().unwrap_or(Code::None).number());
        if version >= 1 {
            out.maybe_text(None);
        }
        put(found.ok(), out);
    } else {
        out.list(&names, |out, name| {
            let found = found(name);
            out.text(name);
            put(found.ok(), out);
            out.i16(found.err().unwrap_or(Code::None).number());
            out.maybe_text(None);
            out.tags();
        });
    }
    out.tags();
    Ok(())
}

fn put(broker: Option<&Broker>, out: &mut Writer) {
    match broker {
        Some(broker) => super::cluster::put(broker, out),
        None => {
            out.i32(-1);
            out.text("");
            out.i32(-1);
        }
    }
}
