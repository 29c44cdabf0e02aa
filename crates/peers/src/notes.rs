//! What operators are told, without telling it again and again.
//!
//! Invariant: the same text about the same peer is told at most every 10 s; the memory of what was told is bounded.
//! Called by: `dial`, `accept`, `bulk`, by way of `Shared::note`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const SILENCE: Duration = Duration::from_secs(10);
/// When this many different notes are younger than the silence, further ones are not told: somebody is making them up.
const NOTES_MAX: usize = 1024;
/// Of what a peer says about itself, at most this many characters are shown.
const PEER_TEXT_CHARS_MAX: usize = 1000;

#[derive(Default)]
pub(crate) struct Notes {
    told: Mutex<HashMap<(String, String), Instant>>,
}

impl Notes {
    /// Whether to tell it now.
    pub(crate) fn admit(&self, peer: &str, text: &str, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (peer.to_owned(), text.to_owned());
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < SILENCE;
        if told.get(&key).is_some_and(fresh) {
            return false;
        }
        if told.len() >= NOTES_MAX {
            told.retain(|_, at| fresh(at));
        }
        if told.len() >= NOTES_MAX {
            return false;
        }
        told.insert(key, now);
        true
    }
}

/// Text from outside, fit for a log: one line, of bounded length.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(PEER_TEXT_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_about_the_same_peer_is_told_once_in_ten_seconds() {
        let (notes, start) = (Notes::default(), Instant::now());
        assert!(notes.admit("a", "gone", start));
        assert!(!notes.admit("a", "gone", start + Duration::from_millis(9_999)));
        assert!(notes.admit("b", "gone", start) && notes.admit("a", "back", start));
        assert!(notes.admit("a", "gone", start + SILENCE));
    }

    #[test]
    fn a_flood_of_different_texts_is_not_remembered_without_end() {
        let (notes, start) = (Notes::default(), Instant::now());
        let told = (0..5000).filter(|n| notes.admit("a", &n.to_string(), start)).count();
        assert_eq!(told, NOTES_MAX);
        assert!(notes.admit("a", "later", start + SILENCE));
        assert_eq!(notes.told.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_peers_words_stay_on_one_line() {
        assert_eq!(printable("a\n\u{1b}[31mb"), "a  [31mb");
        assert_eq!(printable(&"x".repeat(5000)).len(), PEER_TEXT_CHARS_MAX);
    }
}
