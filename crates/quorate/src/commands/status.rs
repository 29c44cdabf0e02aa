//! `quorate status`: how a server is, and every bound in force.

use crate::client::{Connect, Request};
use crate::commands::cluster::show;
use crate::failure::Failure;
use crate::output::Output;
use serde_json::Value;

/// Show how a server is, and every bound in force.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate status
  quorate status --json | jq .sizes")]
pub(crate) struct Status {
    #[command(flatten)]
    connect: Connect,
}

impl Status {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        let mut answer = client.call(&Request::get("/v1/status"))?.json()?;
        let cluster = match client.ask(&Request::get("/v1/cluster")) {
            Ok(cluster) => Some(cluster.json()?),
            // A server that runs alone.
            Err(Ok(problem)) if problem.code == "cluster_refused" => None,
            Err(Ok(problem)) => return Err(problem.into()),
            Err(Err(failure)) => return Err(failure),
        };
        let mut text = cluster.as_ref().map(show::text).unwrap_or_default();
        if output.is_json()
            && let Some(cluster) = cluster
        {
            answer["cluster"] = cluster;
        }
        output.show(&answer, || {
            table(&answer, "", &mut text);
            text
        })
    }
}

/// Members one per line; those of objects indented under their name, after the plain ones.
fn table(object: &Value, indent: &str, text: &mut String) {
    let Some(members) = object.as_object() else { return };
    for (name, value) in members.iter().filter(|(_, value)| !value.is_object()) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        *text += &format!("{indent}{name:<24} {value}\n");
    }
    for (name, value) in members.iter().filter(|(_, value)| value.is_object()) {
        *text += &format!("{indent}{name}\n");
        table(value, &format!("{indent}  "), text);
    }
}
