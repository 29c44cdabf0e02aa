//! `quorate del`: deletes one key, once.

use crate::client::{Connect, Request};
use crate::failure::Failure;
use crate::names::segment;
use crate::output::Output;

/// Delete a key.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate del orders/42
  quorate del orders/42 --if-revision 1078     (only if nobody changed it since)")]
pub(crate) struct Del {
    /// Key to delete.
    key: String,
    /// Only if its last change was at this revision (`mod_revision`).
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

impl Del {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut request =
            Request::new("DELETE", format!("/v1/keys/{}", segment(&self.key)), vec![]).once()?;
        if let Some(revision) = self.if_revision {
            request = request.header("if-match", format!("\"{revision}\""));
        }
        let answer = self.connect.client()?.call(&request)?.json()?;
        output.show(&answer, || match answer["deleted"].as_u64() {
            Some(0) => format!("{} was not there", self.key),
            _ => format!("{} deleted at revision {}", self.key, answer["revision"]),
        })
    }
}
