//! Waiting until a cluster is as it was asked to be, telling on stderr what is still missing.
//!
//! Invariant: a node that does not answer for a while, as when it opens its folder anew, does not end a wait; its deadline does.
//! Called by: `cluster`, `up`.

use crate::client::{Client, Request};
use crate::failure::{Exit, Failure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How often the cluster is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The cluster's state at this node.
pub(crate) fn status(client: &mut Client) -> Result<Value, Failure> {
    client.call(&Request::get("/v1/cluster"))?.json()
}

/// Looks again and again until `look` is content; it tells what is missing until then.
pub(crate) fn until(
    client: &mut Client,
    within: Duration,
    mut look: impl FnMut(&Value) -> Result<(), String>,
) -> Result<Value, Failure> {
    let deadline = Instant::now() + within;
    let mut said = String::new();
    loop {
        let missing = match status(client) {
            Ok(status) => match look(&status) {
                Ok(()) => return Ok(status),
                Err(missing) => missing,
            },
            Err(failure) if failure.exit == Exit::Unreachable => failure.what,
            Err(failure) => return Err(failure),
        };
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Exit::Unknown,
                format!("not done within {} s: {missing}", within.as_secs()),
                "what was begun goes on by itself: see `quorate cluster status`",
            ));
        }
        if missing != said {
            eprintln!("waiting: {missing}");
            said = missing;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
