//! Timers: commits that run later, once.

use crate::call::{Answer, Call, unexpected};
use crate::error::{Place, Problem};
use crate::json::units::time_text;
use crate::json::write::{Object, Values, list};
use crate::json::{request, show};
use crate::reply::{reply, with_commit};
use quorate_machine::{Due, TaskView};
use quorate_types::{Commit, LogTime, Op, OpError, OpResult, Outcome, TaskName};

/// Schedules a commit, replacing a timer of the same name.
pub(crate) async fn put(call: Call) -> Answer {
    let task = TaskName(call.param("name"));
    let op = call.json(|node| node.object(|fields| request::schedule(fields, Some(task), 1)))?;
    let committed = call.commit(Commit::of(vec![op]), Place::Resource).await?;
    match committed.results.first() {
        Some(OpResult::Scheduled { replaced }) => {
            Ok(with_commit(reply(200, Object::new().plain("replaced", *replaced).done()), &committed))
        }
        _ => Err(unexpected(&Outcome::Committed { committed })),
    }
}

/// Takes a timer back.
pub(crate) async fn delete(call: Call) -> Answer {
    let task = TaskName(call.param("name"));
    let committed = call.commit(Commit::of(vec![Op::Cancel { task }]), Place::Resource).await?;
    Ok(with_commit(reply(200, Object::new().plain("cancelled", true).done()), &committed))
}

/// Looks at a timer.
pub(crate) async fn get(call: Call) -> Answer {
    let task = TaskName(call.param("name"));
    let name = task.clone();
    let (now, found) = call.read(move |machine| (machine.log_time(), machine.task(&name))).await?;
    match found {
        Some(view) => Ok(reply(200, task_json(&view, now, call.values))),
        None => Err(Problem::of_read(&OpError::TaskMissing { task })),
    }
}

/// Lists timers, in order of their names.
pub(crate) async fn index(call: Call) -> Answer {
    let most = call.gateway.config.range_keys_max;
    let limit = call.query_number("limit")?.unwrap_or(most).clamp(1, most) as usize;
    let (now, found) = call.read(move |machine| (machine.log_time(), machine.tasks(limit))).await?;
    let timers = found.iter().map(|view| task_json(view, now, call.values));
    Ok(reply(200, Object::new().json("timers", list(timers)).done()))
}

fn task_json(view: &TaskView, now: LogTime, values: Values) -> String {
    let object = Object::new().bytes("task", &view.task.0, values);
    let object = match view.due {
        Due::Log { time } => object.plain("left_ms", time.millis_since(now)),
        Due::Wall { time } => object.text("at", &time_text(time)),
    };
    object
        .json("commit", show::commit(&view.commit, values))
        .json("on_refused", show::on_refused(&view.on_refused, values))
        .plain("refused", view.refused)
        .done()
}
