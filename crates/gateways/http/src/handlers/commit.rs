//! `POST /v1/commit`: any commit; and what became of an idempotency key.

use crate::call::{Answer, Call, unexpected};
use crate::error::{Place, Problem, rate_limit};
use crate::handlers::limits::policy_header;
use crate::json::request::IDEMPOTENCY_TTL;
use crate::json::{answer, request};
use crate::reply::{name, reply, with_commit, with_header};
use quorate_types::{CommandBody, Guard, IdempotencyKey, Outcome, Resolution};

/// Runs a commit.
pub(crate) async fn commit(call: Call) -> Answer {
    if call.body.is_empty() {
        return Err(Problem::bad_request("the body is empty: send a commit, such as {\"then\":[…]}"));
    }
    let commit = call.json(request::commit)?;
    let policies: Vec<String> = commit
        .guards
        .iter()
        .filter_map(|guard| match guard {
            Guard::Limit { name, policy, .. } => Some(policy_header(name, policy)),
            _ => None,
        })
        .collect();
    let with_policies = |mut response| {
        for policy in &policies {
            response = with_header(response, name::RATELIMIT_POLICY, policy.clone());
        }
        response
    };
    let committed = match call.commit(commit, Place::Commit).await {
        Ok(committed) => committed,
        Err(problem) if problem.status == 429 => {
            return Err(policies
                .iter()
                .fold(problem, |problem, policy| problem.header("ratelimit-policy", policy)));
        }
        Err(problem) => return Err(problem),
    };
    let payloads = call.payloads(&committed.results).await;
    let mut response = reply(200, answer::committed(&committed, &payloads, call.values));
    for report in &committed.limits {
        response = with_header(response, name::RATELIMIT, rate_limit(report));
    }
    Ok(with_policies(with_commit(response, &committed)))
}

/// Answers what became of an idempotency key, or cancels its late original.
pub(crate) async fn resolve(call: Call) -> Answer {
    let ttl = call.json(|node| node.object(|fields| fields.maybe("ttl", |node| node.duration())))?;
    let key = IdempotencyKey(call.param("key"));
    match call.send(CommandBody::Resolve { key, ttl: ttl.unwrap_or(IDEMPOTENCY_TTL) }).await? {
        Outcome::Resolved { resolution } => {
            let payloads = match &resolution {
                Resolution::Committed { committed } => call.payloads(&committed.results).await,
                Resolution::Completed { .. } | Resolution::InProgress { .. } | Resolution::Cancelled {} => {
                    Default::default()
                }
            };
            Ok(reply(200, answer::resolution(&resolution, &payloads, call.values)))
        }
        Outcome::Refused { refusal } => Err(Problem::of_refusal(&refusal, Place::Resource)),
        other => Err(unexpected(&other)),
    }
}
