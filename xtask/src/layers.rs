//! Arrows point down only: which of our crates each of our crates may depend on.
//!
//! The table below is the diagram of ARCHITECTURE.md as data. A dependency that is not in it fails the check, as does a crate that
//! the table does not know.

use crate::read;
use std::path::Path;

/// Crate folder, and what it may depend on of ours.
const LAYERS: &[(&str, &[&str])] = &[
    ("crates/types", &[]),
    ("crates/batch", &["types"]),
    ("crates/calls", &["types"]),
    ("crates/lua", &["types", "calls"]),
    ("crates/machine", &["types", "calls"]),
    ("crates/log", &[]),
    ("crates/engine", &["types", "log"]),
    ("crates/node", &["types", "calls", "lua", "machine", "log", "engine"]),
    ("crates/peers", &[]),
    ("crates/runtime", &["types", "batch", "calls", "machine", "log", "engine", "node", "peers"]),
    ("crates/gateways/http", &["types", "calls", "machine", "node", "runtime"]),
    ("crates/gateways/redis", &["types", "calls", "machine", "node", "runtime"]),
    ("crates/gateways/etcd", &["types", "calls", "machine", "node", "runtime"]),
    ("crates/gateways/kafka", &["types", "batch", "machine", "node", "runtime"]),
    ("crates/client", &[]),
    ("crates/sim", &["types", "calls", "machine", "log", "engine", "node"]),
    (
        "crates/quorate",
        &["types", "machine", "log", "engine", "node", "runtime", "etcd", "http", "kafka", "redis", "client"],
    ),
    ("crates/torture", &[]),
    ("bench", &["types", "machine", "batch", "log", "engine", "node", "runtime", "http", "client"]),
    ("xtask", &[]),
];

pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    let workspace = read(&root.join("Cargo.toml"))?;
    for member in quoted_after(&workspace, "members = [") {
        if !LAYERS.iter().any(|(folder, _)| *folder == member) {
            findings.push(format!(
                "Cargo.toml: {member} has no layer: place it in xtask/src/layers.rs and ARCHITECTURE.md"
            ));
        }
    }
    for (folder, allowed) in LAYERS {
        let manifest = read(&root.join(folder).join("Cargo.toml"))?;
        findings.extend(upward(folder, allowed, &manifest));
    }
    Ok(findings)
}

/// Dependencies on crates of ours that this layer may not know.
fn upward(folder: &str, allowed: &[&str], manifest: &str) -> Vec<String> {
    let dependencies = section(manifest, "[dependencies]");
    let ours = dependencies.lines().filter_map(|line| line.strip_prefix("quorate-"));
    let names = ours.filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| !allowed.contains(name))
        .map(|name| format!("{folder}: must not depend on {name}: arrows point down only"))
        .collect()
}

/// The lines of a TOML section.
pub(crate) fn section<'a>(manifest: &'a str, header: &str) -> &'a str {
    let Some((_, rest)) = manifest.split_once(header) else { return "" };
    rest.split_once("\n[").map_or(rest, |(section, _)| section)
}

fn quoted_after<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let list = text.split_once(start).and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
    list.split('"').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_points_up_is_found() {
        let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nquorate-types.workspace = true\nquorate-node = { path = \"..\" }\n\n[lints]\n";
        let found = upward("crates/machine", &["types"], manifest);
        assert_eq!(found, ["crates/machine: must not depend on node: arrows point down only"]);
    }
}
