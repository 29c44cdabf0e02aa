//! `quorate commit`: any commit, from a file or stdin.

use crate::client::{Connect, Request};
use crate::failure::{Exit, Failure};
use crate::names::fresh_key;
use crate::output::Output;
use serde_json::Value;

/// Run a commit: guards, then operations, all or nothing.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate commit pay.json
  echo '{\"then\":[{\"put\":{\"key\":\"a\",\"value\":1}},{\"append\":{\"stream\":\"log\",\"value\":\"a\"}}]}' | quorate commit -

The file holds the JSON of POST /v1/commit. Without an idempotency key of its own the commit is sent under a fresh one,
so that a lost answer is asked for again without doing it twice. A commit that a guard refuses exits with 4.")]
pub(crate) struct CommitFile {
    /// File of the commit's JSON; `-` reads stdin.
    file: String,
    #[command(flatten)]
    connect: Connect,
}

impl CommitFile {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let text = match self.file.as_str() {
            "-" => crate::names::value("-")?,
            file => std::fs::read(file).map_err(|error| Failure::io(format!("read {file}"), &error))?,
        };
        let commit: Value = serde_json::from_slice(&text)
            .map_err(|error| Failure::new(Exit::Usage, format!("{}: no JSON: {error}", self.file), ""))?;
        let request = Request::new("POST", "/v1/commit", text).header("content-type", "application/json");
        let request =
            match commit["idempotency"]["key"].is_null() && commit["idempotency"]["key_base64"].is_null() {
                true => request.once_as(&fresh_key()?),
                false => request.repeatable(),
            };
        let answer = self.connect.client()?.call(&request)?.json()?;
        output.show(&answer, || human(&answer))
    }
}

fn human(answer: &Value) -> String {
    let replayed =
        if answer["replayed"] == true { ", answered from memory: it had been done before" } else { "" };
    let mut text = format!(
        "committed at revision {} ({}{replayed})",
        answer["revision"],
        crate::output::shown(answer, "branch")
    );
    for (number, result) in answer["results"].as_array().into_iter().flatten().enumerate() {
        text += &format!("\n  {number}: {result}");
    }
    text
}
