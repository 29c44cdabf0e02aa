//! `quorate cluster`: begin a cluster, look at it, change who belongs to it and who leads it, and save it when its quorum is lost.
//!
//! Invariant: a change is done when this command ends with success, unless `--no-wait` was said: what is waited for is said on stderr.
//! Called by: `commands`; `up` and `status` show a cluster with [`show::text`].

mod change;
mod recover;
pub(crate) mod show;
pub(crate) mod wait;

pub(crate) use change::whole;

use crate::client::{Connect, Request};
use crate::failure::Failure;
use crate::names::duration;
use crate::output::Output;
use std::time::Duration;

/// Begin a cluster, look at it, change it.
#[derive(clap::Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Init(change::Init),
    Status(Status),
    Add(change::Add),
    Remove(change::Remove),
    Replace(change::Replace),
    Transfer(change::Transfer),
    Recover(recover::Recover),
}

impl Cluster {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        match self.command {
            Command::Init(init) => init.run(output),
            Command::Status(status) => status.run(output),
            Command::Add(add) => add.run(output),
            Command::Remove(remove) => remove.run(output),
            Command::Replace(replace) => replace.run(output),
            Command::Transfer(transfer) => transfer.run(output),
            Command::Recover(recover) => recover.run(output),
        }
    }
}

/// How long to wait for the end of a change.
#[derive(clap::Args)]
pub(crate) struct Patience {
    /// Do not wait until the change is done.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait until the change is done; it goes on by itself afterwards.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, conflicts_with = "no_wait")]
    wait: Duration,
}

/// Show the cluster as a node sees it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate cluster status
  quorate cluster status --server http://10.0.0.2:8400 --json | jq .members")]
struct Status {
    #[command(flatten)]
    connect: Connect,
}

impl Status {
    fn run(self, output: Output) -> Result<(), Failure> {
        let status = self.connect.client()?.call(&Request::get("/v1/cluster"))?.json()?;
        output.show(&status, || show::text(&status))
    }
}
