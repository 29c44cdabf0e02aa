//! The cluster itself: how it is, and changes of its membership and leadership.
//!
//! A change is answered when it is ordered, not when it is complete: the answer shows the cluster as it is then, and whoever needs
//! the end looks again with `GET /v1/cluster`.

use crate::call::{Answer, Call};
use crate::cluster::json;
use crate::error::Problem;
use crate::reply::reply;
use quorate_runtime::{ALONE, RuntimeError};
use quorate_types::NodeId;

/// How the cluster is.
pub(crate) async fn status(call: Call) -> Answer {
    match call.gateway.handle.cluster_status() {
        Some(status) => Ok(reply(200, json(&status, &call.gateway.config.peers))),
        None => Err(not_now(&call)),
    }
}

/// Why there is no state of the cluster to show: the node runs alone, or opens its folder anew at this moment.
fn not_now(call: &Call) -> Problem {
    if call.gateway.config.clustered {
        return RuntimeError::Restarting.into();
    }
    Problem::new(409, "cluster_refused", ALONE)
}

/// Begins a cluster with this node.
pub(crate) async fn init(call: Call) -> Answer {
    call.json(|node| node.object(|_| Ok(())))?;
    call.gateway.handle.cluster_init().await?;
    ordered(&call)
}

/// Adds a node.
pub(crate) async fn add(call: Call) -> Answer {
    let (node, address, learner) = call.json(|node| {
        node.object(|fields| {
            Ok((
                fields.need("id", |node| node.number().map(NodeId))?,
                fields.need("address", |node| node.text())?,
                fields.flag("learner")?,
            ))
        })
    })?;
    call.gateway.handle.cluster_add(node, address, !learner).await?;
    ordered(&call)
}

/// Removes a member.
pub(crate) async fn remove(call: Call) -> Answer {
    let node = NodeId(call.param_number("id")?);
    call.gateway.handle.cluster_remove(node).await?;
    ordered(&call)
}

/// Gives a member's vote to a learner, and removes the member.
pub(crate) async fn swap(call: Call) -> Answer {
    let (remove, promote) = call.json(|node| {
        node.object(|fields| {
            Ok((
                fields.need("remove", |node| node.number().map(NodeId))?,
                fields.need("promote", |node| node.number().map(NodeId))?,
            ))
        })
    })?;
    call.gateway.handle.cluster_swap(remove, promote).await?;
    ordered(&call)
}

/// Hands leadership on.
pub(crate) async fn transfer(call: Call) -> Answer {
    let to = call.json(|node| node.object(|fields| fields.maybe("to", |node| node.number().map(NodeId))))?;
    call.gateway.handle.cluster_transfer(to).await?;
    ordered(&call)
}

/// The answer to a change that was ordered. A node that opens its folder anew has nothing more to show than that it did.
fn ordered(call: &Call) -> Answer {
    let status = call.gateway.handle.cluster_status();
    let shown = status.map(|status| json(&status, &call.gateway.config.peers));
    Ok(reply(200, shown.unwrap_or_else(|| "{}".to_owned())))
}
