//! DescribeCluster: the nodes.

use crate::error::Code;
use crate::gateway::{Broker, Gateway};
use crate::wire::{Malformed, Reader, Writer};

/// What stands for "not asked for" among what a client may do.
pub(super) const OPERATIONS_UNTOLD: i32 = i32::MIN;
/// Kind of endpoints: brokers.
const BROKERS: i8 = 1;

pub(super) fn describe(
    gateway: &Gateway,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    body.bool()?;
    let endpoints = if version >= 1 { body.i8()? } else { BROKERS };
    body.tags()?;
    let nodes = gateway.nodes();
    let fits = endpoints == BROKERS;
    out.i32(0);
    out.i16(if fits { Code::None } else { Code::InvalidRequest }.number());
    out.maybe_text((!fits).then_some("the endpoints of controllers are not told: ask for brokers"));
    if version >= 1 {
        out.i8(endpoints);
    }
    out.text(&nodes.cluster);
    out.i32(nodes.leader);
    out.list(&nodes.brokers, |out, broker| {
        put(broker, out);
        out.maybe_text(None);
        out.tags();
    });
    out.i32(OPERATIONS_UNTOLD);
    out.tags();
    Ok(())
}

/// Number, host and port of a node.
pub(super) fn put(broker: &Broker, out: &mut Writer) {
    out.i32(broker.id);
    out.text(&broker.host);
    out.i32(i32::from(broker.port));
}
