//! `quorate cluster recover`: what one folder still holds, when a cluster has lost its quorum for good.
//!
//! Invariant: nothing is changed without `--accept-loss`, nor while a server has the folder open.
//! Called by: `cluster`.

use crate::failure::{Exit, Failure};
use crate::output::Output;
use quorate_log::LogError;
use quorate_runtime::{Forgotten, OpenError};
use serde_json::json;
use std::path::PathBuf;

/// Make a folder of a cluster whose quorum is lost for good the beginning of a new cluster.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate cluster recover --data /var/lib/quorate --accept-loss

Only when so many voters are lost with their disks that no majority will ever run again. Take the node whose log reaches furthest
(`quorate log verify` tells its last entry), stop every other node for good, recover that one folder, start it, run `quorate cluster init`, and
add the others with empty folders. What only the lost nodes had acknowledged is lost.")]
pub(super) struct Recover {
    /// Data folder of the node; no server may have it open.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Yes: what only the lost nodes had acknowledged is given up.
    #[arg(long)]
    accept_loss: bool,
}

impl Recover {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let shown = self.data.display();
        if !self.data.is_dir() {
            let what = format!("{shown} is no folder");
            return Err(Failure::new(Exit::Missing, what, "name the data folder of a node of the cluster"));
        }
        if !self.accept_loss {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "nothing was changed. This would make {shown} forget its cluster: commits that this node had not received are lost \
                     though they were acknowledged, the other nodes' folders become useless to it, and revisions go on 2^32 higher, so that \
                     no token is given twice"
                ),
                "if no majority of the voters will ever run again, say --accept-loss",
            ));
        }
        eprintln!("{shown} forgets its cluster, and its revisions are raised");
        let Forgotten { node, cluster, revision, raised_to } =
            quorate_runtime::forget_cluster(&self.data, quorate_runtime::Config::default()).map_err(
                |error| {
                    let exit = match &error {
                        OpenError::Log(LogError::Locked { .. }) => Exit::Refused,
                        _ => Exit::Damaged,
                    };
                    Failure::new(exit, format!("{shown}: {error}"), "")
                },
            )?;
        let cluster = format!("{cluster:016x}");
        let answer = json!({
            "path": shown.to_string(),
            "node": node.0,
            "cluster": cluster,
            "revision": revision.0,
            "raised_to": raised_to.0,
        });
        output.show(&answer, || {
            format!(
                "{shown}: node {node} of cluster {cluster} is a member of none now; revisions go on from {raised_to} (they were at {revision})\n\
                 next: start it, run `quorate cluster init` at it, and add the others with empty folders"
            )
        })
    }
}
