//! Every source file opens with what it is for, and every integration test is in the program that runs them.

use crate::{read, rust_files};
use std::path::Path;

pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for folder in ["crates", "bench", "xtask", "fuzz"] {
        let folder = root.join(folder);
        if !folder.exists() {
            continue;
        }
        for path in rust_files(&folder)? {
            if path.components().any(|part| part.as_os_str() == "target") {
                continue;
            }
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            findings.extend(headless(&name, &read(&path)?));
            findings.extend(left_out(&name, &path)?);
        }
    }
    Ok(findings)
}

fn headless(name: &str, source: &str) -> Option<String> {
    // `#![no_main]` of a fuzz target has to come first.
    let first = source.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["))?;
    let header = first.strip_prefix("//!").is_some_and(|text| text.trim().len() > 10);
    (!header).then(|| format!("{name}: does not open with `//!` and what it is for"))
}

/// A file of integration tests that the one program beside it does not name: it would never be compiled.
fn left_out(name: &str, path: &Path) -> Result<Option<String>, String> {
    let beside =
        path.parent().filter(|folder| folder.ends_with("tests")).map(|folder| folder.join("main.rs"));
    let Some(program) = beside.filter(|program| program.exists() && program != path) else { return Ok(None) };
    Ok(unnamed(name, &read(&program)?))
}

fn unnamed(name: &str, program: &str) -> Option<String> {
    let module = Path::new(name).file_stem()?.to_str()?;
    let named = program.lines().any(|line| line == format!("mod {module};"));
    (!named).then(|| format!("{name}: not named in the main.rs beside it, so none of its tests runs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_tests_that_nobody_runs_is_found() {
        assert!(unnamed("crates/x/tests/new.rs", "mod old;\n").is_some());
        assert!(unnamed("crates/x/tests/old.rs", "mod old;\n").is_none());
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        assert!(headless("x.rs", "use std::fmt;\n").is_some());
        assert!(headless("x.rs", "//! x\n").is_some(), "a header that says nothing");
        assert!(headless("x.rs", "//! Locks: who may enter.\n").is_none());
    }
}
