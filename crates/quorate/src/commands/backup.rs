//! `quorate backup`: a copy of a server's data, made by the server while it runs.

use crate::client::{Connect, Request};
use crate::failure::Failure;
use crate::output::{Output, grouped};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time that a backup may take.
const WAIT: Duration = Duration::from_secs(300);

/// Copy a server's data into a new folder, while it runs.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate backup /backups/monday
  quorate restore /backups/monday ./quorate-data

The folder is on the server's machine, and must be new or empty. The copy is verified before this command succeeds.")]
pub(crate) struct Backup {
    /// Folder to write, on the server's machine.
    dest: PathBuf,
    #[command(flatten)]
    connect: Connect,
}

impl Backup {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let dest = std::path::absolute(&self.dest)
            .map_err(|error| Failure::io(format!("resolve {}", self.dest.display()), &error))?;
        let body = json!({"path": dest.display().to_string()});
        eprintln!("the server copies to {} on its machine", dest.display());
        let request = Request::json("POST", "/v1/backup", &body).waiting(WAIT);
        let answer = self.connect.client()?.call(&request)?.json()?;
        output.show(&answer, || {
            format!(
                "{}: {} files, {} bytes, entries up to {}, verified",
                dest.display(),
                answer["files"],
                grouped(answer["bytes"].as_u64().unwrap_or_default()),
                answer["last"],
            )
        })
    }
}
