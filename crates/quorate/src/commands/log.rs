//! `quorate log`: checks and lists a data folder that is not in use.

use crate::failure::{Exit, Failure};
use crate::output::{Output, grouped, shown};
use crate::progress::Progress;
use quorate_http::json::show;
use quorate_http::json::units::time_text;
use quorate_http::json::write::Values;
use quorate_log::{FileDisk, Index, VerifyReport, dump, verify};
use quorate_types::{Command, CommandBody, Entry, LogIndex, Term, Verdict};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Check or list a data folder that no server uses.
#[derive(clap::Args)]
pub(crate) struct Log {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Read every byte of a data folder, and say what is damaged: file and offset.
    #[command(after_help = "\
Examples:
  quorate log verify ./quorate-data
  quorate log verify /backups/monday --json

Nothing is changed. Exits with 7 when something is damaged; a torn tail, which a crash leaves, is no damage.")]
    Verify {
        /// Data folder or backup.
        dir: PathBuf,
    },
    /// List the entries of a data folder.
    #[command(after_help = "\
Examples:
  quorate log dump ./quorate-data
  quorate log dump ./quorate-data --from 1000 --to 1010 --json")]
    Dump {
        /// Data folder or backup.
        dir: PathBuf,
        /// First entry.
        #[arg(long, value_name = "INDEX", default_value_t = 1)]
        from: u64,
        /// Last entry.
        #[arg(long, value_name = "INDEX", default_value_t = u64::MAX, hide_default_value = true)]
        to: u64,
    },
}

impl Log {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        match self.what {
            What::Verify { dir } => check(&dir, output),
            What::Dump { dir, from, to } => list(&dir, Index(from), Index(to), output),
        }
    }
}

/// The folder, which must be there: opening one would make it.
fn folder(dir: &Path) -> Result<FileDisk, Failure> {
    if !dir.is_dir() {
        return Err(Failure::new(
            Exit::Missing,
            format!("{} is no folder", dir.display()),
            "name a data folder",
        ));
    }
    Ok(FileDisk::open(dir)?)
}

fn check(dir: &Path, output: Output) -> Result<(), Failure> {
    let disk = folder(dir)?;
    let mut progress = Progress::new("verify", "bytes");
    let report = verify(&disk, &mut |done, all| progress.at(done, all));
    drop(progress);
    let report = report?;
    for finding in &report.findings {
        let json = json!({"finding": {"file": finding.file, "offset": finding.offset, "what": finding.what.to_string()}});
        output.show(&json, || format!("{}:{}: {}", finding.file, finding.offset, finding.what))?;
    }
    output.show(&summary(&report), || text(dir, &report))?;
    match report.findings.len() {
        0 => Ok(()),
        found => Err(Failure::new(
            Exit::Damaged,
            format!("{}: {found} findings", dir.display()),
            "restore the files named above from a backup, and check the disk",
        )),
    }
}

fn summary(report: &VerifyReport) -> Value {
    json!({
        "good": report.findings.is_empty(),
        "findings": report.findings.len(),
        "segments": report.segments,
        "batches": report.batches,
        "entries": report.entries,
        "payloads": report.payloads,
        "snapshots": report.snapshots,
        "bytes": report.bytes,
        "first": report.first.0,
        "last": report.last.0,
        "torn": report.torn.as_ref().map(ToString::to_string),
    })
}

fn text(dir: &Path, report: &VerifyReport) -> String {
    let verdict = if report.findings.is_empty() { "good" } else { "DAMAGED" };
    let mut text = format!(
        "{}: {verdict}. {} entries ({} to {}), {} payloads in {} segments, {} snapshots, {} bytes checked",
        dir.display(),
        grouped(report.entries),
        report.first,
        report.last,
        grouped(report.payloads),
        report.segments,
        report.snapshots,
        grouped(report.bytes),
    );
    if let Some(torn) = &report.torn {
        text += &format!("\nopening it will cut a torn tail: {torn}");
    }
    text
}

fn list(dir: &Path, from: Index, to: Index, output: Output) -> Result<(), Failure> {
    let disk = folder(dir)?;
    for entry in dump(&disk, from, to)? {
        let entry = entry?;
        let index = entry.index;
        let entry =
            Entry::decode_body(LogIndex(index.0), Term(entry.term.0), &entry.body).map_err(|error| {
                let what = format!("entry {index} cannot be read: {error}");
                Failure::new(Exit::Damaged, what, "list it with the release that wrote it")
            })?;
        let json = entry_json(&entry);
        output.show(&json, || entry_text(&json))?;
    }
    Ok(())
}

fn entry_json(entry: &Entry) -> Value {
    let decided: Vec<Value> = entry
        .decided
        .iter()
        .map(|decided| {
            let fired = decided.fired.iter().map(
                |fired| json!({"task": fired.task.to_string(), "verdict": verdict_text(&fired.verdict)}),
            );
            let automatic = decided.automatic.iter().map(|change| {
                let kind = if change.deleted { "delete" } else { "put" };
                json!({"key": change.key.to_string(), "revision": change.revision.0, "kind": kind})
            });
            json!({
                "index": decided.index.0,
                "verdicts": decided.commands.iter().map(verdict_text).collect::<Vec<_>>(),
                "fired": fired.collect::<Vec<_>>(),
                "automatic": automatic.collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "index": entry.index.0,
        "term": entry.term.0,
        "time": time_text(entry.wall),
        "log_time_ns": entry.time.0,
        "machine_version": entry.machine_version,
        "commands": entry.commands.iter().map(command_json).collect::<Vec<_>>(),
        "decided": decided,
    })
}

fn command_json(command: &Command) -> Value {
    let mut json = json!({"principal": command.principal.to_string()});
    if !command.client.is_empty() {
        json["client"] = command.client.to_string().into();
    }
    if !command.trace.is_empty() {
        json["traceparent"] = command.trace.to_string().into();
    }
    let (what, detail) = match &command.body {
        CommandBody::Commit { commit } => {
            let text = show::commit(commit, Values::Auto);
            ("commit", serde_json::from_str(&text).unwrap_or(Value::String(text)))
        }
        CommandBody::Wait { wait } => (
            "wait",
            json!({"lock": wait.lock.to_string(), "lease": wait.lease.0, "request": wait.request, "timeout_ms": wait.timeout.map(|timeout| timeout.0)}),
        ),
        CommandBody::CancelWait { lock, lease, request } => {
            ("cancel_wait", json!({"lock": lock.to_string(), "lease": lease.0, "request": request}))
        }
        CommandBody::KeepAlive { leases } => {
            ("keep_alive", json!(leases.iter().map(|lease| lease.0).collect::<Vec<_>>()))
        }
        CommandBody::Resolve { key, .. } => ("resolve", json!(key.to_string())),
        CommandBody::Compact { before } => ("compact", json!(before.0)),
        CommandBody::Denied { name, count } => ("denied", json!({"limit": name.to_string(), "count": count})),
        CommandBody::RaiseRevision { to } => ("raise_revision", json!(to.0)),
        CommandBody::RaiseVersion { to } => ("raise_version", json!(to)),
        CommandBody::ChangeUser { name, changes, .. } => {
            let kinds: Vec<&str> = changes.iter().map(quorate_types::UserChange::kind).collect();
            ("change_user", json!({"user": name.to_string(), "changes": kinds}))
        }
        CommandBody::RemoveUsers { names, .. } => {
            ("remove_users", json!(names.iter().map(ToString::to_string).collect::<Vec<_>>()))
        }
        CommandBody::ChangeAccess { change, .. } => {
            let (kind, name) = change.told();
            ("change_access", json!({"change": kind, "name": name.map(ToString::to_string)}))
        }
        CommandBody::Alarm { member, kind, up } => {
            ("alarm", json!({"member": member.0, "alarm": kind.name(), "up": up}))
        }
        CommandBody::LimitMemory { space, bytes_max, eviction } => (
            "limit_memory",
            json!({"keyspace": space.0, "bytes_max": bytes_max, "eviction": eviction.map(|eviction| eviction.name())}),
        ),
        CommandBody::Evict { space, keys } => (
            "evict",
            json!({"keyspace": space.0, "keys": keys.iter().map(ToString::to_string).collect::<Vec<_>>()}),
        ),
        CommandBody::Configure { settings } => ("configure", json!(format!("{settings:?}"))),
    };
    json["what"] = what.into();
    json[what] = detail;
    json
}

fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Done { revision } => format!("done at revision {revision}"),
        Verdict::Replayed {} => "replayed".into(),
        Verdict::Refused { refusal } => format!("refused: {refusal}"),
        Verdict::RefusedToo {} => "refused".into(),
    }
}

fn entry_text(entry: &Value) -> String {
    let commands = entry["commands"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = format!("{}  {}  {} commands", entry["index"], shown(entry, "time"), commands.len());
    for command in commands {
        let what = shown(command, "what");
        text += &format!("\n    {} {what} {}", shown(command, "principal"), command[&what]);
    }
    text
}
