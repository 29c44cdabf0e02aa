//! Each planted bug is found by a campaign of few seeds, and for the right reason.

use quorate_engine::Durability;
use quorate_sim::{Options, Plant, Scenario, run};

/// How a follower that took other commands than the node is found: by its state, or by what its commands told subscribers.
const REPLAYED: [&str; 2] = ["different digests", "the node told subscribers"];

/// Runs seeds until one finds something, and checks that it says one of `reasons`.
fn found(plant: Plant, scenario: Scenario, reasons: &[&str]) {
    let options =
        Options { durability: Some(Durability::Always), plant: Some(plant), scenario, trace: false };
    let Some(failure) = (0..25).find_map(|seed| run(seed, 5_000, options).err()) else {
        panic!("{} was planted and no seed has found it", plant.name());
    };
    assert!(
        reasons.iter().any(|reason| failure.what.contains(reason)),
        "{} was found for another reason: {failure}",
        plant.name()
    );
}

#[test]
fn a_sync_that_lies_is_found() {
    found(Plant::LyingSync, Scenario::Mixed, &["synced", "were acknowledged"]);
}

#[test]
fn a_swallowed_write_is_found() {
    found(Plant::SwallowedWrite, Scenario::Mixed, &["is damaged at offset", "the log was synced to"]);
}

#[test]
fn an_answer_before_the_sync_is_found() {
    found(Plant::EarlyAnswer, Scenario::Mixed, &["were acknowledged, recovery ends at"]);
}

#[test]
fn answers_given_to_the_wrong_clients_are_found() {
    found(Plant::SwappedAnswers, Scenario::Mixed, &["its client was told"]);
}

#[test]
fn a_retry_without_its_key_is_found_to_double() {
    found(Plant::KeylessRetry, Scenario::Asks, &["one was doubled"]);
}

#[test]
fn a_token_off_by_one_is_found() {
    found(Plant::TokenOffByOne, Scenario::Locks, &["was sent as"]);
}

#[test]
fn log_time_that_jumps_at_a_restart_is_found() {
    found(Plant::ClockJump, Scenario::Mixed, &["log time ran ahead", "log time"]);
}

#[test]
fn a_clock_that_stands_still_is_found() {
    // Answers that are never forgotten leave no room for the last ones.
    let reasons = &["after a minute of peace", "never got the answer to their last commit"];
    found(Plant::StuckClock, Scenario::Mixed, reasons);
}

#[test]
fn a_command_left_out_at_replay_is_found() {
    found(Plant::ReplayDrops, Scenario::Mixed, &REPLAYED);
}

#[test]
fn commands_in_the_wrong_order_at_replay_are_found() {
    found(Plant::ReplaySwaps, Scenario::Mixed, &REPLAYED);
}

#[test]
fn a_command_applied_twice_at_replay_is_found() {
    found(Plant::ReplayRepeats, Scenario::Mixed, &REPLAYED);
}

#[test]
fn a_lost_chunk_of_a_snapshot_is_found() {
    found(
        Plant::SnapshotChunkLost,
        Scenario::Mixed,
        &["a snapshot read back differs", "a snapshot cannot be read back"],
    );
}

#[test]
fn a_live_payload_cleaned_away_is_found() {
    found(Plant::LivePayloadCleaned, Scenario::Streams, &["cannot be read"]);
}

#[test]
fn keys_that_end_by_a_node_s_own_clock_are_found() {
    // A timer by wall time is as good a finding, and of a pop the model says "the set is".
    found(Plant::OwnClock, Scenario::Calls, &["by the model with", ", the set is", "fired at"]);
}

#[test]
fn members_popped_by_a_seed_of_one_s_own_are_found() {
    found(Plant::OwnSeed, Scenario::Calls, &["its client was told", "different digests"]);
}

#[test]
fn keys_evicted_by_a_choice_of_one_s_own_are_found() {
    // In every seed tried it is an answer that differs: a client is told of a key that the follower has evicted, or the other way round. Digests are
    // compared more rarely, and would find what nobody had asked for by then.
    found(Plant::OwnEviction, Scenario::Calls, &["its client was told", "different digests"]);
}

#[test]
fn an_element_that_a_refused_commit_leaves_behind_is_found() {
    found(Plant::UndoForgotten, Scenario::Calls, &["by the model with"]);
}

#[test]
fn a_collection_written_as_it_is_instead_of_as_it_was_is_found() {
    found(
        Plant::SnapshotUnpinned,
        Scenario::Calls,
        &["a snapshot read back differs", "a snapshot cannot be read back"],
    );
}

#[test]
fn deadlines_that_restart_with_the_node_are_found() {
    let reasons = &["by the model with", "to give", "whose deadline is", "to live, by the model"];
    found(Plant::DeadlineRestarts, Scenario::Calls, reasons);
}

#[test]
fn reads_that_go_by_the_clock_of_their_node_are_found() {
    found(Plant::ReadByClock, Scenario::Calls, &["a read had found it gone"]);
}

#[test]
fn transactions_that_are_never_dropped_for_their_time_are_found() {
    found(
        Plant::TransactionOverdue,
        Scenario::Producers,
        &["was taken, the owner is", "transactions of", "was given"],
    );
}

#[test]
fn alarms_that_a_restart_forgets_are_found() {
    found(Plant::AlarmForgotten, Scenario::Alarms, &["and the log has raised", "is up"]);
}

#[test]
fn an_alarm_that_refuses_deletes_is_found() {
    found(Plant::AlarmTooWide, Scenario::Alarms, &["was refused by NoSpace"]);
}

#[test]
fn batches_without_what_rides_with_them_are_found() {
    // A key that is not what it should be, and what is counted from it.
    found(
        Plant::RiderForgotten,
        Scenario::Producers,
        &["was read as", "model Some(", "was incremented to", "a guard on", "machine Some("],
    );
}

#[test]
fn guards_that_ride_along_and_are_not_looked_at_are_found() {
    found(Plant::RiderUnguarded, Scenario::Producers, &["passed the fence", "a guard on", "gave"]);
}

#[test]
fn every_plant_has_a_name_of_its_own() {
    for plant in Plant::ALL {
        assert_eq!(Plant::parse(plant.name()), Some(plant));
    }
}
