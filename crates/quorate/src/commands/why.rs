//! `quorate why`: how something came to be as it is.

use crate::client::{Connect, Request};
use crate::failure::Failure;
use crate::names::{path, segment};
use crate::output::{Output, shown};
use serde_json::Value;

/// Explain how something came to be as it is: who changed it, when, and what was refused.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate why key orders/42
  quorate why lock reports
  quorate why limit tenant/acme --limit 20
  quorate why idempotency pay-7f3a
  quorate why group billing
  quorate why transaction billing-1")]
pub(crate) struct Why {
    /// Kind of thing.
    #[arg(value_parser = ["key", "lock", "election", "limit", "idempotency", "stream", "timer", "service", "group", "transaction", "lease"])]
    kind: String,
    /// Its name.
    name: String,
    /// Most steps, the newest ones.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
    #[command(flatten)]
    connect: Connect,
}

impl Why {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let base = format!("/v1/why/{}/{}", self.kind, segment(&self.name));
        let path = path(&base, &[("limit", Some(self.limit.to_string()))]);
        let answer = self.connect.client()?.call(&Request::get(path))?.json()?;
        let steps = answer["steps"].as_array().ok_or_else(|| Failure::strange("there are no steps"))?;
        if steps.is_empty() && !output.is_json() {
            eprintln!("the log that is kept tells nothing of {} {}", self.kind, self.name);
        }
        steps.iter().try_for_each(|step| output.show(step, || step_text(step)))?;
        // What it is now, of what its history does not tell it.
        match answer.get("state") {
            Some(state) => output.show(&serde_json::json!({ "state": state }), || state_text(state)),
            None => Ok(()),
        }
    }
}

fn state_text(state: &Value) -> String {
    let mut text = format!("now: {}", shown(state, "state"));
    for detail in ["since", "for", "entry", "by", "producer", "epoch", "generation", "batches"] {
        if !state[detail].is_null() {
            text += &format!("  {detail} {}", shown(state, detail));
        }
    }
    if let Some(members) = state["members"].as_array() {
        text += &format!("  members {}", members.len());
    }
    match shown(state, "waits_for") {
        waits if waits.is_empty() => text,
        waits => format!("{text}\n    waits for {waits}"),
    }
}

fn step_text(step: &Value) -> String {
    let verdict = match step["verdict"].as_str() {
        Some("done") => format!("revision {}", step["revision"]),
        Some("refused") => match step["refusal"]["detail"].as_str() {
            Some(detail) => format!("REFUSED: {detail}"),
            None => "REFUSED".into(),
        },
        Some("replayed") => "replayed: it had been done before".into(),
        _ => "outcome not in the log that is kept".into(),
    };
    let client = match shown(step, "client") {
        client if client.is_empty() => String::new(),
        client => format!(" with {client}"),
    };
    let mut text = format!(
        "{}  entry {}  {}{client}  {verdict}\n    {}",
        shown(step, "time"),
        step["index"],
        shown(step, "principal"),
        shown(step, "what"),
    );
    for detail in ["commit", "lock", "task", "key", "lease", "count"] {
        if !step[detail].is_null() {
            text += &format!(" {}", shown(step, detail));
        }
    }
    match shown(step, "traceparent") {
        trace if trace.is_empty() => text,
        trace => format!("{text}\n    trace {trace}"),
    }
}
