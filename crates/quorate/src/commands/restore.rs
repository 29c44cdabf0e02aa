//! `quorate restore`: a backup becomes a data folder that no token of the lost original can harm.
//!
//! The original may have granted tokens after the backup was made. Revisions are raised far past any of them, so that no
//! token is ever given twice: a restored store refuses the old holders.
//!
//! Invariant: the target folder gets its name only once revisions are raised; what broke off before is not served by accident.

use crate::commands::serve;
use crate::failure::{Exit, Failure};
use crate::output::{Output, grouped};
use crate::progress::Progress;
use quorate_log::FileDisk;
use quorate_types::{Command, CommandBody, Outcome, Revision};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// How far revisions are raised: further than any original can have gone on after its backup.
const RAISE: u64 = quorate_runtime::REVISIONS_RAISED;

/// Make a data folder from a backup.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate restore /backups/monday ./quorate-data && quorate serve --data ./quorate-data

The backup is verified before and after it is copied. Revisions are raised by 2^32, so that no fencing token which the
lost original may have given after the backup is ever given again: old holders are refused.")]
pub(crate) struct Restore {
    /// Folder of the backup.
    source: PathBuf,
    /// Data folder to make; must be new or empty.
    dest: PathBuf,
}

impl Restore {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let (source, dest) = (&self.source, &self.dest);
        if !source.is_dir() {
            return Err(Failure::new(
                Exit::Missing,
                format!("{} is no folder", source.display()),
                "name the folder of a backup",
            ));
        }
        check_empty(dest)?;
        let half = half_done(dest);
        if half.exists() {
            let what = format!("{} is left of a restore that broke off", half.display());
            return Err(Failure::new(Exit::Refused, what, "remove it, and restore again"));
        }
        let mut progress = Progress::new("restore", "bytes");
        let report =
            quorate_log::restore(&FileDisk::open(source)?, &FileDisk::open(&half)?, &mut |done, all| {
                progress.at(done, all)
            });
        drop(progress);
        let report = report.inspect_err(|_| {
            // Nothing of it is of use, and the backup is unharmed.
            let _ = fs::remove_dir_all(&half);
        })?;
        let revision = raise(&half)?;
        put_in_place(&half, dest)?;
        let answer = json!({
            "path": dest.display().to_string(),
            "files": report.files,
            "bytes": report.bytes,
            "entries": report.verified.entries,
            "revision": revision.0,
            "raised_by": RAISE,
        });
        output.show(&answer, || {
            format!(
                "{}: {} files, {} bytes, verified\nrevisions go on from {}: no token given by the original is ever given again",
                dest.display(),
                report.files,
                grouped(report.bytes),
                revision.0,
            )
        })
    }
}

fn check_empty(dest: &Path) -> Result<(), Failure> {
    let found = match fs::read_dir(dest) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io(format!("look into {}", dest.display()), &error)),
        Ok(mut found) => found.next(),
    };
    match found {
        None => Ok(()),
        Some(_) => {
            let what = format!("{} is not empty, and nothing was written", dest.display());
            Err(Failure::new(Exit::Refused, what, "choose a new or empty folder"))
        }
    }
}

/// Where the folder is prepared: beside its place, so that one rename puts it there.
fn half_done(dest: &Path) -> PathBuf {
    let mut name = dest.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    dest.with_file_name(name)
}

fn raise(folder: &Path) -> Result<Revision, Failure> {
    let database = serve::open(folder, quorate_runtime::Config::default())?;
    let failed = |why: String| {
        Failure::new(
            Exit::Failed,
            format!("raise revisions in {}: {why}", folder.display()),
            "remove that folder, and restore again",
        )
    };
    let now = database.read(|machine| machine.revision()).map_err(|error| failed(error.to_string()))?;
    let to = Revision(now.0.checked_add(RAISE).ok_or_else(|| failed("revisions have run out".into()))?);
    let command = Command::new("restore".into(), CommandBody::RaiseRevision { to });
    match database.execute(command).map_err(|error| failed(error.to_string()))? {
        Outcome::Done { revision } => {
            database.close();
            Ok(revision)
        }
        other => Err(failed(format!("{other:?}"))),
    }
}

fn put_in_place(half: &Path, dest: &Path) -> Result<(), Failure> {
    fs::rename(half, dest)
        .map_err(|error| Failure::io(format!("rename {} to {}", half.display(), dest.display()), &error))?;
    let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Failure::io(format!("sync {}", parent.display()), &error))
}
