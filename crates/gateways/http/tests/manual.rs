//! The manual `docs/http.md` against the server: it names every route, and what it shows is what happens.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use serde_json::Value;
use support::Server;

const MANUAL: &str = include_str!("../../../../docs/http.md");

#[test]
fn every_route_is_in_the_manual() {
    let document = quorate_http::openapi::document();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let wanted = format!("`{} {path}`", method.to_uppercase());
            assert!(MANUAL.contains(&wanted), "docs/http.md does not name {wanted}");
        }
    }
}

#[test]
fn every_operation_and_guard_is_in_the_manual() {
    let document = quorate_http::openapi::document();
    for schema in ["Operation", "Guard"] {
        for name in document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys() {
            assert!(MANUAL.contains(&format!("`{name}`")), "docs/http.md does not name {name}");
        }
    }
}

/// The JSON bodies of the manual's `curl` examples, with their method and path.
fn examples() -> Vec<(String, String, String)> {
    let joined = MANUAL.replace("\\\n", " ");
    let mut found = Vec::new();
    for part in joined.split("curl ").skip(1) {
        let end = part.find("\n```").unwrap_or(part.len());
        let text = &part[..end];
        let (command, body) = match text.split_once("-d '") {
            Some((command, rest)) => (command, rest.split('\'').next().unwrap().to_string()),
            None => (text.lines().next().unwrap(), String::new()),
        };
        let path = command.split("$Q").nth(1).unwrap().split([' ', '"', ';']).next().unwrap();
        let method = match command.split_once("-X ") {
            Some((_, rest)) => rest.split_whitespace().next().unwrap(),
            None if body.is_empty() => "GET",
            None => "POST",
        };
        found.push((method.trim_end_matches([';', '\n']).into(), path.trim().into(), body));
    }
    found
}

#[tokio::test]
async fn every_example_of_the_manual_is_understood() {
    let server = Server::start().await;
    let examples = examples();
    assert!(examples.len() > 60, "{}", examples.len());
    for (method, path, body) in examples {
        if path.starts_with("/v1/backup") || path.contains("wait=") || body.contains("\"wait\"") {
            continue; // A folder of another machine; and what waits is tested elsewhere.
        }
        let response = server.open(&method, &path, &[], body.clone()).await;
        let status = response.status().as_u16();
        if response.headers().get("content-type").is_some_and(|media| media == "text/event-stream") {
            continue;
        }
        use http_body_util::BodyExt;
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        let code = serde_json::from_slice::<Value>(&answer)
            .ok()
            .and_then(|body| body["error"].as_str().map(String::from));
        // Numbers of leases, tokens, offsets and revisions are examples; a request that is not understood is a defect.
        let wrong = ["bad_json", "bad_request", "out_of_bounds", "no_route"];
        let misunderstood =
            [405, 500].contains(&status) || code.is_some_and(|code| wrong.contains(&code.as_str()));
        assert!(!misunderstood, "{method} {path} {body}: {status} {}", String::from_utf8_lossy(&answer));
    }
    server.stop().await;
}
