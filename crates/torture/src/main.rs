//! `quorate-torture`: real processes on real sockets, under load and faults; what clients saw is checked.
//!
//! Everything runs on one thread, so that times are comparable and histories have one writer. The checks are in `check`, and are pure.
//! Exit codes: 0 when nothing was found and every goal was met, 1 when not, 2 when the run could not be carried through.
//! Called by: people and CI; docs/torture.md says how.

mod catchup;
mod check;
mod error;
mod failover;
mod faults;
mod fleet;
mod history;
mod http;
mod net;
mod probe;
mod random;
mod run;
mod work;

use clap::{Parser, Subcommand};
use error::Trouble;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Real processes on real sockets, under load and faults; what clients saw is checked.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo build --release -p quorate -p quorate-torture
  target/release/quorate-torture run --minutes 1
  target/release/quorate-torture run --minutes 30 --faults kill,stop,cut --net netns
  target/release/quorate-torture failover --count 50
  target/release/quorate-torture calm --minutes 10
  target/release/quorate-torture transfer --count 20
  target/release/quorate-torture catchup")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load and faults, then a verdict on what every client saw.
    Run(run::Run),
    /// Time without writes after a fault of the leader.
    Failover(failover::Failover),
    /// Load without faults: nobody may be elected.
    Calm(failover::Calm),
    /// Time without writes around a planned change of leader.
    Transfer(failover::Transfer),
    /// How fast a follower that was away catches up.
    Catchup(catchup::Catchup),
}

fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(code) => code,
        Err(trouble) => {
            eprintln!("{trouble}");
            ExitCode::from(2)
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode, Trouble> {
    let kind = match &cli.command {
        Command::Run(command) => command.net(),
        Command::Failover(command) => command.net(),
        Command::Calm(command) => command.net(),
        Command::Transfer(command) => command.net(),
        Command::Catchup(command) => command.net(),
    };
    if kind == net::Kind::Netns
        && let Some(code) = net::netns::enter()?
    {
        return Ok(ExitCode::from(code));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Trouble::io("start the event loop"))?;
    let running = async {
        match cli.command {
            Command::Run(command) => command.run().await,
            Command::Failover(command) => command.run().await,
            Command::Calm(command) => command.run().await,
            Command::Transfer(command) => command.run().await,
            Command::Catchup(command) => command.run().await,
        }
    };
    let sound = tokio::task::LocalSet::new().block_on(&runtime, async {
        // Dropping what runs ends the nodes and removes the namespaces.
        tokio::select! {
            sound = running => sound,
            stopped = stopped() => Err(stopped),
        }
    })?;
    Ok(ExitCode::from(u8::from(!sound)))
}

/// Resolves when somebody wants this to stop.
async fn stopped() -> Trouble {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => return Trouble::Io { what: "listen for SIGTERM".into(), error },
    };
    tokio::select! {
        _ = terminate.recv() => {}
        // Without ctrl-c there is still SIGTERM.
        Ok(()) = tokio::signal::ctrl_c() => {}
    }
    Trouble::Usage("stopped before there was a verdict".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
