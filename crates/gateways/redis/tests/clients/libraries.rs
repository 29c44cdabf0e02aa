//! The client libraries that the stories run, and how a story is run.
//!
//! Called by: `clients`, `failover`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A program of `tests/clients` in Python or JavaScript, with its libraries.
pub(crate) fn program(name: &str) -> Command {
    let libraries = libraries();
    let mut command = match name.rsplit_once('.') {
        Some((_, "py")) => Command::new(libraries.join("venv/bin/python")),
        _ => Command::new("node"),
    };
    command.env("NODE_PATH", libraries.join("node_modules")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name));
    command
}

/// The folder with the libraries, filled at first use.
pub(crate) fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let folder = root.join("target/redis-clients");
        let done = Command::new(root.join("scripts/redis-clients.sh")).arg(&folder).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        folder.canonicalize().unwrap()
    })
}
