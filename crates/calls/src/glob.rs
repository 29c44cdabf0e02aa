//! Patterns of KEYS, SCAN, PSUBSCRIBE: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a byte that is meant as it is.
//!
//! Invariant: time is at most the product of both lengths: only the last star is ever tried again, which is enough, because an earlier star
//! that took less leaves a later one more to take, never less.
//! Called by: handlers with MATCH; the gateway, for patterns of channels. Redis' semantics, its `[` without end included.

/// Whether a pattern matches all of a text.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // After the last star, and how much of the text it has swallowed up to.
    let mut again: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            if at == pattern.len() {
                return true;
            }
            again = Some((at, seen));
            continue;
        }
        match text.get(seen) {
            None => return pattern[at..].iter().all(|byte| *byte == b'*'),
            Some(byte) => {
                if let Some(next) = pattern.get(at).and_then(|_| one(pattern, at, *byte)) {
                    at = next;
                    seen += 1;
                    continue;
                }
            }
        }
        let Some((after, swallowed)) = again else { return false };
        again = Some((after, swallowed + 1));
        (at, seen) = (after, swallowed + 1);
    }
}

/// Whether a pattern matches only the text that it is.
#[must_use]
pub(crate) fn is_plain(pattern: &[u8]) -> bool {
    !pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// Matches one byte against what stands at `at`: where the pattern goes on.
fn one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match pattern[at] {
        b'?' => Some(at + 1),
        b'[' => class(pattern, at + 1, byte),
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == byte).then_some(at + 2),
        plain => (plain == byte).then_some(at + 1),
    }
}

/// A class from after its `[`.
fn class(pattern: &[u8], mut at: usize, byte: u8) -> Option<usize> {
    let not = pattern.get(at) == Some(&b'^');
    at += usize::from(not);
    let mut found = false;
    // Without an end it ends where the pattern does.
    while let Some(first) = pattern.get(at) {
        match first {
            b']' => {
                at += 1;
                break;
            }
            b'\\' if at + 1 < pattern.len() => {
                found |= pattern[at + 1] == byte;
                at += 2;
            }
            _ if at + 2 < pattern.len() && pattern[at + 1] == b'-' => {
                let (low, high) = (*first.min(&pattern[at + 2]), *first.max(&pattern[at + 2]));
                found |= (low..=high).contains(&byte);
                at += 3;
            }
            _ => {
                found |= *first == byte;
                at += 1;
            }
        }
    }
    (found != not).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_redis_has_them() {
        let table = [
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("[a\\]]", "]", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbYcZ", false),
            ("*a", "aab", false),
            ("[abc", "c", true),
            ("[^", "x", true),
            ("a**", "a", true),
            ("\\", "\\", true),
        ];
        for (pattern, text, wanted) in table {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_pattern_full_of_stars_ends_soon() {
        let pattern = "a*".repeat(1000) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(10_000).as_bytes()));
    }
}
