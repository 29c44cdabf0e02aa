//! Groups of readers: declare, take (with a long poll), settle, move cursors, look at.

use super::streams::done;
use crate::call::{Answer, Call, unexpected};
use crate::error::{Place, Problem};
use crate::json::answer::{group_settings, result};
use crate::json::request;
use crate::json::write::{Object, Values};
use crate::reply::{reply, with_commit};
use crate::sse;
use quorate_machine::GroupView;
use quorate_runtime::Interest;
use quorate_types::{Commit, GroupName, Key, Op, OpError, OpResult, Outcome};
use std::time::Duration;
use tokio::time::Instant;

fn names(call: &Call) -> Result<(Key, GroupName), Problem> {
    Ok((call.key("stream")?, GroupName(call.param("group"))))
}

/// Declares a group. Declaring it again with the same settings is no change; with others, a 409.
pub(crate) async fn put(call: Call) -> Answer {
    let (stream, group) = names(&call)?;
    let settings = call.json(|node| node.object(request::group_settings))?;
    let (of, name) = (stream.clone(), group.clone());
    let found = call.read(move |machine| (machine.revision(), machine.group(&of, &name))).await?;
    match found {
        (revision, Some(view)) if view.settings == settings => {
            Ok(reply(200, Object::new().plain("revision", revision).done()))
        }
        _ => done(&call, Op::CreateGroup { stream, group, settings }).await,
    }
}

/// Removes a group.
pub(crate) async fn delete(call: Call) -> Answer {
    let (stream, group) = names(&call)?;
    done(&call, Op::DeleteGroup { stream, group }).await
}

/// Looks at a group: settings, and how far it is in each partition.
pub(crate) async fn get(call: Call) -> Answer {
    let (stream, group) = names(&call)?;
    let (of, name) = (stream.clone(), group.clone());
    match call.read(move |machine| machine.group(&of, &name)).await? {
        Some(view) => Ok(reply(200, group_json(&stream, &group, &view, call.values))),
        None => Err(Problem::of_read(&OpError::GroupMissing { stream, group: group.0 })),
    }
}

fn group_json(stream: &Key, group: &GroupName, view: &GroupView, values: Values) -> String {
    let partitions = view.partitions.iter().enumerate().map(|(number, partition)| {
        Object::new()
            .plain("partition", number)
            .plain("cursor", partition.cursor)
            .plain("floor", partition.floor)
            .plain("in_flight", partition.in_flight)
            .done()
    });
    Object::new()
        .bytes("stream", &stream.name, values)
        .bytes("group", &group.0, values)
        .json("settings", group_settings(&view.settings).done())
        .list("partitions", partitions)
        .done()
}

/// Takes records for a consumer, waiting for at most `wait` until there is one.
pub(crate) async fn take(call: Call) -> Answer {
    let (stream, group) = names(&call)?;
    let (op, wait) = call.json(|node| {
        node.object(|fields| {
            let wait = fields.maybe("wait", |node| node.duration())?.unwrap_or_default();
            Ok((request::group_operation("take", fields, stream.clone(), group.clone())?, wait))
        })
    })?;
    let until = Instant::now() + call.bounded_wait(wait);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let ready = ready(&call, &stream, &group, left).await?;
        if !ready && wait.0 > 0 {
            // A long poll without news is answered empty, and nothing was logged for it.
            return Ok(reply(200, Object::new().json("deliveries", "[]").done()));
        }
        let committed = call.commit(Commit::of(vec![op.clone()]), Place::Resource).await?;
        match committed.results.first() {
            // Another consumer was faster: wait for the rest of the time.
            Some(OpResult::Taken { deliveries })
                if deliveries.is_empty() && !committed.replayed && Instant::now() < until => {}
            Some(taken @ OpResult::Taken { .. }) => {
                let payloads = call.payloads(&committed.results).await;
                return Ok(with_commit(reply(200, result(taken, &payloads, call.values)), &committed));
            }
            _ => return Err(unexpected(&Outcome::Committed { committed })),
        }
    }
}

/// Waits until a take would give something, or is refused; whether one of them holds.
async fn ready(call: &Call, stream: &Key, group: &GroupName, wait: Duration) -> Result<bool, Problem> {
    if wait.is_zero() {
        return Ok(false);
    }
    let (of, name) = (stream.clone(), group.clone());
    let look = move |machine: &quorate_machine::Machine| {
        let missing = machine.group(&of, &name).is_none();
        (missing || machine.group_has_ready(&of, &name)).then_some(())
    };
    let interest = Interest::Group { stream: stream.clone(), group: group.clone() };
    tokio::select! {
        found = sse::wait(&call.gateway, interest, wait, look) => Ok(found?.is_some()),
        () = call.gateway.stopped() => Err(super::locks::stopping()),
    }
}

/// Moves the cursor of a partitioned group.
pub(crate) async fn cursor(call: Call) -> Answer {
    let op = group_op(&call, "cursor")?;
    done(&call, op).await
}

/// Finishes deliveries.
pub(crate) async fn ack(call: Call) -> Answer {
    settle(call, "ack").await
}

/// Gives deliveries back.
pub(crate) async fn nack(call: Call) -> Answer {
    settle(call, "nack").await
}

/// Hides deliveries for longer.
pub(crate) async fn extend(call: Call) -> Answer {
    settle(call, "extend").await
}

fn group_op(call: &Call, name: &str) -> Result<Op, Problem> {
    let (stream, group) = names(call)?;
    call.json(|node| node.object(|fields| request::group_operation(name, fields, stream, group)))
}

async fn settle(call: Call, name: &str) -> Answer {
    let op = group_op(&call, name)?;
    let committed = call.commit(Commit::of(vec![op]), Place::Resource).await?;
    match committed.results.first() {
        Some(settled @ OpResult::Settled { .. }) => {
            Ok(with_commit(reply(200, result(settled, &Default::default(), call.values)), &committed))
        }
        _ => Err(unexpected(&Outcome::Committed { committed })),
    }
}
