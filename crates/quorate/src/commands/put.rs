//! `quorate put`: writes one key, once.

use crate::client::{Connect, Request};
use crate::failure::Failure;
use crate::names::{path, segment, value};
use crate::output::Output;

/// Write a key.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate put orders/42 '{\"state\":\"paid\"}'
  quorate put photos/1 - < photo.jpg
  quorate put orders/42 shipped --if-revision 1078     (only if nobody changed it since)
  quorate put jobs/7 taken --if-absent

A write whose condition fails exits with 4 and changes nothing.")]
pub(crate) struct Put {
    /// Key to write.
    key: String,
    /// Its value; `-` reads stdin.
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Only if its last change was at this revision (`mod_revision`).
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Only if it does not exist.
    #[arg(long, conflicts_with = "if_revision")]
    if_absent: bool,
    /// Lease that the key hangs on: it is deleted when the lease ends.
    #[arg(long, value_name = "ID")]
    lease: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

impl Put {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let lease = self.lease.map(|lease| lease.to_string());
        let path = path(&format!("/v1/keys/{}", segment(&self.key)), &[("lease", lease)]);
        let mut request = Request::new("PUT", path, value(&self.value)?).once()?;
        if let Some(revision) = self.if_revision {
            request = request.header("if-match", format!("\"{revision}\""));
        }
        if self.if_absent {
            request = request.header("if-none-match", "*");
        }
        let answer = self.connect.client()?.call(&request)?.json()?;
        output.show(&answer, || format!("{} written at revision {}", self.key, answer["revision"]))
    }
}
