//! Rate limits: take from one, or look at it. Headers follow draft-ietf-httpapi-ratelimit-headers.

use crate::call::{Answer, Call, unexpected};
use crate::error::{Place, Problem, rate_limit, sf_text};
use crate::json::answer::limit;
use crate::json::request;
use crate::json::units;
use crate::json::write::Object;
use crate::reply::{name, reply, with_commit, with_header};
use quorate_types::{Commit, Guard, LimitName, LimitPolicy, Millis, Outcome};

/// Takes from a limit: 200, or 429 with when to come back.
pub(crate) async fn take(call: Call) -> Answer {
    let (policy, cost) =
        call.json(|node| node.object(|fields| Ok((request::policy(fields)?, fields.number_or("cost", 1)?))))?;
    let name = LimitName(call.param("name"));
    let header = policy_header(&name, &policy);
    let commit = Commit { guards: vec![Guard::Limit { name, policy, cost }], ..Commit::default() };
    let committed = call
        .commit(commit, Place::Resource)
        .await
        .map_err(|problem| problem.header("ratelimit-policy", header.clone()))?;
    let Some(report) = committed.limits.first() else {
        return Err(unexpected(&Outcome::Committed { committed }));
    };
    let response = with_header(
        reply(200, Object::new().json("limit", limit(report)).done()),
        name::RATELIMIT,
        rate_limit(report),
    );
    Ok(with_commit(with_header(response, name::RATELIMIT_POLICY, header), &committed))
}

/// Looks at a limit, taking nothing.
pub(crate) async fn peek(call: Call) -> Answer {
    let policy = query_policy(&call)?;
    let cost: u64 = call.query_number("cost")?.unwrap_or(1);
    call.gateway.handle.limits().policy(&policy)?;
    let name = LimitName(call.param("name"));
    let header = policy_header(&name, &policy);
    let (report, denied) = call.read(move |machine| machine.limit_report(&name, &policy, cost)).await?;
    let body = Object::new().json("limit", limit(&report)).plain("denied", denied).done();
    let response = with_header(reply(200, body), name::RATELIMIT, rate_limit(&report));
    Ok(with_header(response, name::RATELIMIT_POLICY, header))
}

fn query_policy(call: &Call) -> Result<LimitPolicy, Problem> {
    let rate = call.query_as("rate", units::rate)?;
    let burst = call.query_number("burst")?;
    let count = call.query_number("count")?;
    let per = call.query_as("per", units::duration)?;
    match (rate, call.query_text("window")?, count, per) {
        (Some((count, period)), None, None, None) => {
            Ok(LimitPolicy::Bucket { count, period, burst: burst.unwrap_or(count) })
        }
        (None, Some("fixed"), Some(count), Some(window)) if burst.is_none() => {
            Ok(LimitPolicy::FixedWindow { count, window })
        }
        (None, Some("sliding"), Some(count), Some(window)) if burst.is_none() => {
            Ok(LimitPolicy::SlidingWindow { count, window })
        }
        _ => Err(Problem::bad_request(
            "send a policy: rate=100/s with or without burst, or window=fixed or sliding with count and per",
        )),
    }
}

/// The `RateLimit-Policy` item of a limit: its quota, and its window where that is whole seconds.
pub(crate) fn policy_header(name: &LimitName, policy: &LimitPolicy) -> String {
    let (LimitPolicy::Bucket { count, period: window, .. }
    | LimitPolicy::FixedWindow { count, window }
    | LimitPolicy::SlidingWindow { count, window }) = policy;
    let name = sf_text(&name.0);
    match window {
        Millis(millis) if *millis > 0 && millis.is_multiple_of(1000) => {
            format!("\"{name}\";q={count};w={}", millis / 1000)
        }
        _ => format!("\"{name}\";q={count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_header_has_whole_seconds_or_no_window() {
        let policy = |period| LimitPolicy::Bucket { count: 100, period: Millis(period), burst: 5 };
        assert_eq!(policy_header(&"a\"b".into(), &policy(60_000)), r#""a\"b";q=100;w=60"#);
        assert_eq!(policy_header(&"é".into(), &policy(250)), r#""%C3%A9";q=100"#);
    }
}
