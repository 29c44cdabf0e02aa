//! The machine is a pure function of the log: no clock, entropy, I/O, async, thread or randomly seeded map.
//!
//! Three nets: its dependencies are a fixed list; its source must not name what would break it; and clippy's
//! `disallowed-methods` and `disallowed-types` (crates/machine/clippy.toml) look through imports.

use crate::layers::section;
use crate::{read, rust_files};
use std::path::Path;

/// What the machine may depend on, and `types` below it.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("crates/types", &["bytes", "libm", "thiserror", "xxhash-rust"]),
    ("crates/calls", &["quorate-types", "bytes", "foldhash", "hashbrown", "xxhash-rust"]),
    ("crates/machine", &["quorate-types", "quorate-calls", "bytes", "foldhash", "hashbrown", "xxhash-rust"]),
];

/// The files that may name floats: what they do with them gives the same bits everywhere.
const FLOATS: [&str; 2] = ["crates/types/src/score.rs", "crates/types/src/geo.rs"];

/// What must not stand in its source, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("std::time", "a clock: time arrives in the entry"),
    ("SystemTime", "a clock: time arrives in the entry"),
    ("Instant::now", "a clock: time arrives in the entry"),
    ("std::fs", "I/O: the log writes, the machine decides"),
    ("std::io", "I/O: the log writes, the machine decides"),
    ("std::net", "I/O: gateways talk, the machine decides"),
    ("std::env", "I/O: settings arrive in a logged command"),
    ("std::process", "I/O: the machine starts nothing"),
    ("std::thread", "a thread: order is the log's"),
    ("std::sync::Mutex", "a thread: one partition, one thread"),
    ("async fn", "async: wake order is not the log's"),
    (".await", "async: wake order is not the log's"),
    ("tokio", "async: wake order is not the log's"),
    ("std::collections::HashMap", "a randomly seeded map: its order differs between processes"),
    ("std::collections::HashSet", "a randomly seeded map: its order differs between processes"),
    ("RandomState", "entropy: it arrives in the entry"),
    ("getrandom", "entropy: it arrives in the entry"),
    ("rand::", "entropy: it arrives in the entry"),
    ("f32", "floats: their results may differ between builds"),
    ("f64", "floats: their results may differ between builds"),
];

pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for (folder, allowed) in DEPENDENCIES {
        let manifest = read(&root.join(folder).join("Cargo.toml"))?;
        findings.extend(foreign(folder, allowed, &manifest));
        for path in rust_files(&root.join(folder).join("src"))? {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            findings.extend(impure(&name, &read(&path)?));
        }
    }
    Ok(findings)
}

fn foreign(folder: &str, allowed: &[&str], manifest: &str) -> Vec<String> {
    let lines = section(manifest, "[dependencies]")
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let names = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| !allowed.contains(name))
        .map(|name| {
            format!("{folder}: depends on {name}, which is not in its fixed list (xtask/src/purity.rs)")
        })
        .collect()
}

/// Forbidden words outside comments and tests.
fn impure(name: &str, source: &str) -> Vec<String> {
    let code = source.split_once("#[cfg(test)]").map_or(source, |(code, _)| code);
    let mut findings = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let line = line.split("//").next().unwrap_or(line);
        for (word, why) in FORBIDDEN {
            let allowed = FLOATS.contains(&name) && (*word == "f32" || *word == "f64");
            if line.contains(word) && !allowed {
                findings.push(format!("{name}:{}: `{word}`: {why}", number + 1));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_forbidden_word_is_found_in_code_and_let_be_in_comments() {
        for (word, _) in FORBIDDEN {
            assert!(!impure("x.rs", &format!("fn f() {{ {word} }}")).is_empty(), "{word} is found");
            assert!(
                impure("x.rs", &format!("fn f() {{}} // {word}")).is_empty(),
                "{word} in a comment is not"
            );
        }
    }

    #[test]
    fn a_new_dependency_is_found() {
        let manifest = "[dependencies]\nbytes.workspace = true\nrand = \"0.9\"\n\n[dev-dependencies]\nproptest = \"1\"\n";
        let found = foreign("crates/machine", &["bytes"], manifest);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("rand"));
    }
}
