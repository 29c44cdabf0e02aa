//! A modest campaign over every scenario and durability; CI runs the full one by the binary.
#![allow(clippy::unwrap_used)] // A test may panic.

use quorate_engine::Durability;
use quorate_sim::{
    ALARM_PROBES, MEMBER_PROBES, Options, PRODUCER_PROBES, Plant, Probes, Scenario, USER_PROBES, run,
};
use std::ops::Range;

/// Runs every seed in its scenario; the paths that were taken. Panics with the first failure.
fn campaign(seeds: Range<u64>, steps: u64, scenario: impl Fn(u64) -> Scenario) -> Probes {
    let mut probes = Probes::default();
    for seed in seeds {
        let options = Options { scenario: scenario(seed), ..Options::default() };
        match run(seed, steps, options) {
            Ok(report) => probes.merge(&report.probes),
            Err(failure) => panic!("{failure}"),
        }
    }
    probes
}

#[test]
fn a_campaign_finds_nothing_and_reaches_every_probe() {
    let probes = campaign(0..320, 6_000, Scenario::of_seed);
    assert_eq!(probes.missing(), Vec::<&str>::new(), "paths that no seed of the campaign has taken");
}

#[test]
fn every_durability_keeps_its_promise() {
    for durability in [Durability::Always, Durability::Interval, Durability::None] {
        for seed in 1000..1004 {
            let options = Options { durability: Some(durability), ..Options::default() };
            run(seed, 3_000, options).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
}

#[test]
fn the_same_seed_runs_the_same_way_to_the_byte() {
    for seed in [3, 0x5eed, u64::MAX] {
        let report = run(seed, 3_000, Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(run(seed, 3_000, Options::default()).unwrap(), report);
        let other = run(seed ^ 1, 3_000, Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
        assert_ne!(other.image_hash, report.image_hash, "another seed is another run");
    }
}

#[test]
fn a_failure_is_one_line_to_paste_and_fails_again_alike() {
    let options = Options {
        durability: Some(Durability::Always),
        plant: Some(Plant::EarlyAnswer),
        scenario: Scenario::Locks,
        trace: false,
    };
    let failure = (0..20).find_map(|seed| run(seed, 2_000, options).err()).expect("the planted bug is found");
    let line = format!(
        "replay: cargo run --release -p quorate-sim -- --seed {:#x} --steps 2000 --durability always --plant early-answer --scenario locks",
        failure.seed
    );
    assert_eq!(failure.to_string().lines().last(), Some(line.as_str()));
    assert_eq!(run(failure.seed, 2_000, options), Err(failure));
}

#[test]
fn users_are_held_to_the_rights_that_the_log_gives_them() {
    let probes = campaign(5000..5030, 4_000, |_| Scenario::Users);
    assert_eq!(probes.missing_of(USER_PROBES), Vec::<&str>::new(), "paths that no seed has taken");
}

#[test]
fn alarms_refuse_what_they_speak_against_and_nothing_else() {
    let probes = campaign(8000..8030, 4_000, |_| Scenario::Alarms);
    assert_eq!(probes.missing_of(ALARM_PROBES), Vec::<&str>::new(), "paths that no seed has taken");
}

#[test]
fn groups_of_members_keep_their_offsets_and_what_they_were_given() {
    let probes = campaign(6000..6030, 4_000, |_| Scenario::Members);
    assert_eq!(probes.missing_of(MEMBER_PROBES), Vec::<&str>::new(), "paths that no seed has taken");
}

#[test]
fn what_a_producer_sends_again_is_appended_once() {
    let probes = campaign(7000..7120, 4_000, |_| Scenario::Producers);
    assert_eq!(probes.missing_of(PRODUCER_PROBES), Vec::<&str>::new(), "paths that no seed has taken");
}
