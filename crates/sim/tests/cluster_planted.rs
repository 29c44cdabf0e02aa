//! Each bug planted in a cluster is found by a campaign of few seeds, and for the right reason.

use quorate_engine::Durability;
use quorate_sim::{ClusterOptions, ClusterPlant, Scenario, run_cluster};

/// What a lost entry, or one that two nodes tell differently, is found by.
const LOST: &[&str] = &[
    "were committed in earlier terms",
    "was committed twice",
    "committed was one of term",
    "in the place of a committed one",
    "cannot be read",
];

/// Runs seeds until one finds something, and checks that it says one of `reasons`.
fn found_by(plant: ClusterPlant, options: ClusterOptions, seeds: u64, reasons: &[&str]) {
    let options = ClusterOptions { plant: Some(plant), ..options };
    let run = |seed: u64| {
        let scenario = Scenario::of_seed(seed);
        run_cluster(seed, 20_000, ClusterOptions { scenario, ..options }).err()
    };
    let Some(failure) = (0..seeds).find_map(run) else {
        panic!("{} was planted and no seed has found it", plant.name());
    };
    assert!(
        reasons.iter().any(|reason| failure.what.contains(reason)),
        "{} was found for another reason: {failure}",
        plant.name()
    );
}

fn found(plant: ClusterPlant, reasons: &[&str]) {
    let durability = Some(Durability::Always);
    found_by(plant, ClusterOptions { durability, ..ClusterOptions::default() }, 60, reasons);
}

#[test]
fn syncs_that_lie_on_every_node_are_found() {
    let lost = [LOST, &["never got the answer", "came back with", "is refused"]].concat();
    found(ClusterPlant::LyingSync, &lost);
}

#[test]
fn a_vote_forgotten_across_a_restart_is_found() {
    found(ClusterPlant::ForgottenVote, &["it came back with", "voted for node", "both lead term"]);
}

#[test]
fn a_stale_read_on_an_old_leader_is_found() {
    found(
        ClusterPlant::StaleRead,
        &["and was answered from the state of entry", "to a read that was asked for at"],
    );
}

#[test]
fn a_follower_that_answers_reads_unasked_is_found() {
    found(ClusterPlant::FollowerRead, &["and was answered from the state of entry"]);
}

#[test]
fn log_time_that_restarts_at_failover_is_found() {
    found(ClusterPlant::TimeRestarts, &["log time restarted or stood still"]);
}

#[test]
fn the_dropped_tail_of_a_synced_log_is_found() {
    found(ClusterPlant::TailDropped, LOST);
}

#[test]
fn a_replica_that_applies_something_else_is_found() {
    found(ClusterPlant::Misapplied, &["was committed twice", "went another way"]);
}

#[test]
fn a_power_loss_that_goes_unnoticed_under_interval_is_found() {
    let durability = Some(Durability::Interval);
    let options = ClusterOptions { durability, ..ClusterOptions::default() };
    found_by(ClusterPlant::RebootUnnoticed, options, 150, LOST);
}

#[test]
fn a_restart_that_the_leader_is_not_told_of_is_found() {
    let options = ClusterOptions { durability: Some(Durability::Interval), ..ClusterOptions::default() };
    let reasons =
        [LOST, &["of 0 entries", "entries; the leader is", "never got the answer", "has not caught up"]]
            .concat();
    found_by(ClusterPlant::RestartUnnoticed, options, 150, &reasons);
}

#[test]
fn leases_that_end_early_by_a_leaping_clock_are_found() {
    found(ClusterPlant::ClockLeaps, &["log time ran ahead"]);
}

#[test]
fn a_refusal_of_what_was_passed_on_is_found() {
    found(ClusterPlant::RefusedYetSent, &["its client was told that it did not happen"]);
}

#[test]
fn a_command_ordered_twice_is_found() {
    found(ClusterPlant::SentTwice, &["is in the log twice"]);
}

#[test]
fn a_commit_before_the_quorum_is_found() {
    // It takes a leader that dies in the moment between the forged quorum and the real one.
    let durability = Some(Durability::Always);
    let options = ClusterOptions { durability, ..ClusterOptions::default() };
    found_by(ClusterPlant::ForgedAck, options, 400, &[LOST, &["was committed twice"]].concat());
}

#[test]
fn answers_given_to_the_wrong_clients_are_found() {
    found(ClusterPlant::SwappedAnswers, &["its client was told"]);
}

#[test]
fn every_plant_in_a_cluster_has_a_name_of_its_own() {
    for plant in ClusterPlant::ALL {
        assert_eq!(ClusterPlant::parse(plant.name()), Some(plant));
    }
}
