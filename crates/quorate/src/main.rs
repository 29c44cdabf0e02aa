//! The binary: reads the command line, runs one command, says what came of it.
//!
//! Only wiring lives here. Every command has a file of its own under `commands`, where its options stand once: clap makes the parser
//! and the help from them. What went wrong becomes text and an exit code in `failure`.
//!
//! Invariant: data goes to stdout, everything else to stderr.

mod client;
mod commands;
mod failure;
mod names;
mod net;
mod output;
mod progress;
mod scheduling;
mod signals;

use clap::Parser;
use commands::Command;
use output::Output;
use std::process::ExitCode;

// Commands allocate and free small things all the time, on several threads: the system's allocator is slower at that. Version 2 of mimalloc, since 3
// takes a size up for what is aligned to eight bytes (48 becomes 64), which is most of what rows keep.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// State, events, locks, limits and idempotency that change together, in one commit on one log.
#[derive(Parser)]
#[command(name = "quorate", version, max_term_width = 110, after_help = AFTER_HELP)]
struct Cli {
    /// Print JSON, one value per line (the default when stdout is no terminal).
    #[arg(long, global = true, conflicts_with = "human", help_heading = "Output")]
    json: bool,
    /// Print for people, also when stdout is no terminal.
    #[arg(long, global = true, help_heading = "Output")]
    human: bool,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  quorate serve                                  start a server on 127.0.0.1:8400, data in ./quorate-data
  quorate put greeting hello                     write a key
  quorate up                                     start a cluster of three on this machine
  quorate lock reports -- ./nightly-report       run a program while holding a lock
  quorate demo                                   watch 69,659 real purchases survive a crash

Exit codes:
  0    done
  1    failed; the message says why
  2    the command line was not understood
  3    what was asked for is not there
  4    refused by what is there (a guard, a version, a limit, a held lock): it did not happen
  5    unknown: it may or may not have happened
  6    no server answered, or it is overloaded or stopping: it did not happen
  7    a data folder is damaged or cannot be opened
  lock and elect exit as their command does (128 + the signal that ended it), and else with
  124  the lease was lost and the command was stopped
  125  the lock or leadership was not got, the command did not run
  126  the command could not be run
  127  the command was not found

Every command has its own help with examples: quorate COMMAND --help";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json, cli.human);
    match cli.command.run(&output) {
        Ok(code) => code,
        Err(failure) => failure.say(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_has_an_example_and_every_option_is_explained() {
        fn check(command: &clap::Command, path: &str, seen: &mut usize) {
            for option in command.get_arguments() {
                assert!(option.get_help().is_some(), "{path}: {} is not explained", option.get_id());
            }
            let subcommands: Vec<_> = command.get_subcommands().collect();
            if subcommands.is_empty() {
                *seen += 1;
                let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(after.contains("Example") && after.contains(path), "{path} has no example: {after}");
            }
            for inner in subcommands {
                check(inner, &format!("{path} {}", inner.get_name()), seen);
            }
        }
        let mut seen = 0;
        for command in Cli::command().get_subcommands() {
            let path = format!("quorate {}", command.get_name());
            if command.get_name() == "at" {
                // `at` takes a revision before its inner command.
                for inner in command.get_subcommands() {
                    let after = inner.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(after.contains("quorate at "), "{after}");
                }
                seen += 1;
                continue;
            }
            check(command, &path, &mut seen);
        }
        assert!(seen >= 30, "{seen} commands");
    }
}
