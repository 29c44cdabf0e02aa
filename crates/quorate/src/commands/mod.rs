//! One file per command: its options, and what it does.

mod append;
mod at;
mod backup;
mod bench;
mod cluster;
mod commit;
mod del;
mod demo;
mod elect;
mod get;
mod hold;
mod import;
mod limit;
mod lock;
mod log;
mod node;
mod put;
mod range;
mod read;
mod restore;
mod role;
mod serve;
mod status;
mod tail;
mod up;
mod user;
mod watch;
mod why;

use crate::failure::Failure;
use crate::output::Output;
use std::process::ExitCode;

/// Every command.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Serve(Box<serve::Serve>),
    Up(up::Up),
    Cluster(cluster::Cluster),
    Commit(commit::CommitFile),
    Get(get::Get),
    Put(put::Put),
    Del(del::Del),
    Range(range::Range),
    Watch(watch::Watch),
    Lock(lock::Lock),
    Elect(elect::Elect),
    Append(append::Append),
    Read(read::Read),
    Tail(tail::Tail),
    Limit(limit::Limit),
    User(user::User),
    Role(role::Role),
    Why(why::Why),
    At(at::At),
    Log(log::Log),
    Status(status::Status),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Import(import::Import),
    Bench(bench::Bench),
    Demo(demo::Demo),
}

impl Command {
    /// Runs it. The exit code is that of success, unless a child process had one of its own.
    pub(crate) fn run(self, output: &Output) -> Result<ExitCode, Failure> {
        let done = match self {
            Command::Lock(lock) => return lock.run(),
            Command::Elect(elect) => return elect.run(),
            Command::Serve(serve) => serve.run(*output),
            Command::Up(up) => up.run(*output),
            Command::Cluster(cluster) => cluster.run(*output),
            Command::Commit(commit) => commit.run(*output),
            Command::Get(get) => get.run(*output),
            Command::Put(put) => put.run(*output),
            Command::Del(del) => del.run(*output),
            Command::Range(range) => range.run(*output),
            Command::Watch(watch) => watch.run(*output),
            Command::Append(append) => append.run(*output),
            Command::Read(read) => read.run(*output),
            Command::Tail(tail) => tail.run(*output),
            Command::Limit(limit) => limit.run(*output),
            Command::User(user) => user.run(*output),
            Command::Role(role) => role.run(*output),
            Command::Why(why) => why.run(*output),
            Command::At(at) => at.run(*output),
            Command::Log(log) => log.run(*output),
            Command::Status(status) => status.run(*output),
            Command::Backup(backup) => backup.run(*output),
            Command::Restore(restore) => restore.run(*output),
            Command::Import(import) => import.run(*output),
            Command::Bench(bench) => bench.run(*output),
            Command::Demo(demo) => demo.run(*output),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}
