//! A modest campaign of clusters; CI runs a larger one by the binary.
#![allow(clippy::unwrap_used)] // A test may panic.

use quorate_engine::Durability;
use quorate_sim::{CLUSTER_PROBES, ClusterOptions, ClusterPlant, Probes, Scenario, run_cluster};

#[test]
fn a_campaign_of_clusters_finds_nothing_and_reaches_every_probe() {
    let mut probes = Probes::default();
    for seed in 0..160 {
        let scenario = Scenario::of_seed(seed);
        match run_cluster(seed, 20_000, ClusterOptions { scenario, ..ClusterOptions::default() }) {
            Ok(report) => probes.merge(&report.probes),
            Err(failure) => panic!("{failure}"),
        }
    }
    let missing = probes.missing_of(CLUSTER_PROBES);
    assert_eq!(missing, Vec::<&str>::new(), "paths that no seed of the campaign has taken");
}

#[test]
fn three_and_five_nodes_keep_either_durability_promise() {
    for durability in [Durability::Always, Durability::Interval] {
        for nodes in [3, 5] {
            for seed in 1000..1004 {
                let (durability, nodes) = (Some(durability), Some(nodes));
                let options = ClusterOptions { durability, nodes, ..ClusterOptions::default() };
                run_cluster(seed, 10_000, options).unwrap_or_else(|failure| panic!("{failure}"));
            }
        }
    }
}

/// A new leader judged what was due by what it had applied when the read was asked for; entries of the old one came after and brought
/// more. With these seeds they did.
#[test]
fn entries_applied_after_a_read_was_asked_for_show_it_nothing_past_its_deadline() {
    for seed in [0x18, 0x2bc] {
        let options = ClusterOptions { scenario: Scenario::of_seed(seed), ..ClusterOptions::default() };
        run_cluster(seed, 20_000, options).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn the_same_seed_sends_the_same_frames_and_leaves_the_same_disks() {
    for seed in [3, 0x5eed, u64::MAX] {
        let options = ClusterOptions::default();
        let report = run_cluster(seed, 6_000, options).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(run_cluster(seed, 6_000, options).unwrap(), report);
        let other = run_cluster(seed ^ 1, 6_000, options).unwrap_or_else(|failure| panic!("{failure}"));
        assert_ne!(other.frames_hash, report.frames_hash, "another seed is another run");
    }
}

#[test]
fn a_failure_of_a_cluster_is_one_line_to_paste_and_fails_again_alike() {
    let options = ClusterOptions {
        durability: Some(Durability::Always),
        nodes: Some(3),
        plant: Some(ClusterPlant::StaleRead),
        scenario: Scenario::Keys,
        trace: false,
    };
    let failure = (0..60).find_map(|seed| run_cluster(seed, 20_000, options).err()).expect("it is found");
    let line = format!(
        "replay: cargo run --release -p quorate-sim -- cluster --seed {:#x} --steps 20000 --nodes 3 --durability always --plant stale-read --scenario keys",
        failure.seed
    );
    assert_eq!(failure.to_string().lines().last(), Some(line.as_str()));
    assert_eq!(run_cluster(failure.seed, 20_000, options), Err(failure));
}
