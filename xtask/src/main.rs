//! The project's chores: `cargo xtask check` and `cargo xtask test`.
//!
//! Called by: people and `.ci/run`. It depends on nothing but the standard library and cargo itself.

mod layers;
mod purity;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask test    all tests: checks, unit and end-to-end tests, the simulation campaigns, the demo, a minute of torture
cargo xtask check   does the design still hold: layers, a pure machine, files that say what they are for
cargo xtask sim     the simulation campaign alone (arguments are passed on)
";

fn main() -> ExitCode {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["check"] => check(&root),
        ["test"] => test(&root),
        ["sim", rest @ ..] => {
            cargo(&root, &[&["run", "--release", "--package", "quorate-sim", "--"], rest].concat())
        }
        _ => {
            print!("{HELP}");
            return if words.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn check(root: &Path) -> Result<(), String> {
    let mut findings = layers::check(root)?;
    findings.extend(purity::check(root)?);
    findings.extend(tidy::check(root)?);
    if findings.is_empty() {
        println!("check: layers, purity and file headers hold");
        return Ok(());
    }
    Err(format!("{}\n{} findings", findings.join("\n"), findings.len()))
}

fn test(root: &Path) -> Result<(), String> {
    check(root)?;
    cargo(root, &["test", "--workspace"])?;
    // Built in one go: one after the other, with the features that each alone wants, what they share would be built anew for each.
    let packages = ["--package", "quorate-sim", "--package", "quorate", "--package", "quorate-torture"];
    cargo(root, &[&["build", "--release"], &packages[..]].concat())?;
    // Thousands of seeds: the profile that is shipped, since the simulator is all computing.
    program(root, "quorate-sim", &["--seeds", "0..2000", "--steps", "10000"])?;
    program(root, "quorate-sim", &["cluster", "--seeds", "200"])?;
    program(root, "quorate", &["demo", "--purchases", "5000"])?;
    // Real processes on real sockets, killed, stopped and cut off from each other.
    let folder = root.join("target/torture");
    program(root, "quorate-torture", &["run", "--minutes", "1", "--folder", &folder.to_string_lossy()])
}

/// Runs what was built in release, which lies in the target folder that this program lies in.
fn program(root: &Path, name: &str, arguments: &[&str]) -> Result<(), String> {
    let this = std::env::current_exe().map_err(|error| format!("where this program lies: {error}"))?;
    let target = this.ancestors().nth(2).ok_or("this program lies in no target folder")?;
    println!("\n$ {name} {}", arguments.join(" "));
    run(Command::new(target.join("release").join(name)).args(arguments).current_dir(root), name)
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<(), String> {
    println!("\n$ cargo {}", arguments.join(" "));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    run(Command::new(cargo).args(arguments).current_dir(root), &format!("cargo {}", arguments.join(" ")))
}

fn run(command: &mut Command, shown: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` failed: {status}")),
        Err(error) => Err(format!("`{shown}` did not start: {error}")),
    }
}

/// All Rust files below a folder, in order.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
