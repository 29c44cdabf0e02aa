//! The differences that are meant. Every other one fails the test.
//!
//! Invariant: each row says why; a row that no run needs is taken out.
//! Called by: `run`.

use super::resp::Reply;

/// A difference that is allowed, because of its reason.
pub(crate) struct Allowed {
    /// First words of the command, in capitals; empty for any command.
    pub(crate) command: &'static str,
    /// Why Quorate answers something else, or cannot know what Redis answers.
    pub(crate) why: &'static str,
    /// Whether these two replies, the reference's first, are such a difference.
    pub(crate) applies: fn(&Reply, &Reply) -> bool,
}

/// Whether a difference is allowed, and why.
pub(crate) fn reason(
    table: &[Allowed],
    command: &str,
    reference: &Reply,
    subject: &Reply,
) -> Option<&'static str> {
    // Where UNSUBSCRIBE without a channel makes replies more than commands, only the error tells whose it is.
    let named = |text: &str| {
        let name = text.strip_prefix("ERR unknown command '").and_then(|rest| rest.split('\'').next());
        name.is_some_and(|name| NOT_BUILT.contains(&name.to_uppercase().as_str()))
    };
    let absent = error(subject).is_some_and(|text| {
        named(text) || (refused(text) && NOT_BUILT.iter().any(|built| is_of(command, built)))
    });
    if absent {
        return Some("not built: refused with a clear error");
    }
    table
        .iter()
        .find(|row| {
            (row.command.is_empty() || is_of(command, row.command)) && (row.applies)(reference, subject)
        })
        .map(|row| row.why)
}

/// Commands that are not there yet.
const NOT_BUILT: &[&str] = &["ACL CAT", "LOLWUT"];

/// Whether a command begins with these words.
fn is_of(command: &str, words: &str) -> bool {
    command == words || command.starts_with(&format!("{words} "))
}

/// Whether an error says that a command is unknown, in one of its forms.
fn refused(text: &str) -> bool {
    text.starts_with("ERR unknown command")
        || text.starts_with("ERR unknown subcommand")
        || text.ends_with("is not served here")
        || text == "ERR syntax error"
}

fn error(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Error(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

/// The number that a reply is, or holds as its only text.
fn number(reply: &Reply) -> Option<f64> {
    std::str::from_utf8(reply.text()?).ok()?.parse().ok()
}

/// Both replies are the same but for zeros that have lost their sign.
fn unsigned_zeros(reference: &Reply, subject: &Reply) -> bool {
    let (one, other) = (reference.leaves(), subject.leaves());
    let zero = |reply: &Reply, text: &[u8]| reply.text() == Some(text);
    reference.kind() == subject.kind()
        && one.len() == other.len()
        && one.iter().zip(&other).all(|(one, other)| one == other || zero(one, b"-0") && zero(other, b"0"))
}

/// A double's whole precision is 53 bits; an 80-bit one's, in which Redis sums, 64.
fn nearly(reference: &Reply, subject: &Reply) -> bool {
    match (number(reference), number(subject)) {
        (Some(one), Some(other)) => (one - other).abs() <= one.abs() * 1e-15,
        _ => false,
    }
}

/// What Quorate answers otherwise than Redis, by design.
pub(crate) const BY_DESIGN: &[Allowed] = &[
    Allowed {
        command: "INCRBYFLOAT",
        why: "decimal numbers are added exactly, where Redis' 80-bit doubles round beyond 18 digits",
        applies: nearly,
    },
    Allowed {
        command: "HINCRBYFLOAT",
        why: "decimal numbers are added exactly, where Redis' 80-bit doubles round beyond 18 digits",
        applies: nearly,
    },
    Allowed {
        command: "",
        why: "a cursor is a whole number and nothing else, where C's strtoul lets signs and spaces pass",
        applies: |_, subject| error(subject) == Some("ERR invalid cursor"),
    },
    Allowed {
        command: "",
        why: "a stream is not renamed, moved or copied: its records stay in the log under one name",
        applies: |_, subject| error(subject).is_some_and(|text| text.starts_with("ERR a stream cannot be")),
    },
    Allowed {
        command: "",
        why: "the ids of records are digits: the spaces before them that C's strtoull skips are refused",
        applies: |_, subject| {
            error(subject) == Some("ERR Invalid stream ID specified as stream command argument")
        },
    },
    Allowed {
        command: "XREAD",
        why: "the ids that an error lists are those of 7.2; 8 has one more",
        applies: |reference, subject| {
            let unbalanced =
                |reply| error(reply).is_some_and(|text| text.starts_with("ERR Unbalanced 'xread'"));
            unbalanced(reference) && unbalanced(subject)
        },
    },
    // Of any command: in RESP2 the several replies of an UNSUBSCRIBE shift those that follow it.
    Allowed {
        command: "",
        why: "READONLY, READWRITE and ASKING are taken as a Redis in cluster mode takes them",
        applies: |reference, subject| {
            error(reference) == Some("ERR This instance has cluster support disabled")
                && !matches!(subject, Reply::Error(_))
        },
    },
    Allowed {
        command: "",
        why: "what is about the connection, such as subscriptions, has no place in a commit: it is refused inside MULTI",
        applies: |reference, subject| {
            *reference == Reply::Status(b"QUEUED".to_vec())
                && error(subject) == Some("ERR Command not allowed inside a transaction")
        },
    },
    Allowed {
        command: "",
        why: "a score of minus zero is zero: scores have one total order on every replica",
        applies: unsigned_zeros,
    },
    Allowed {
        command: "",
        why: "numbers are decimal: the hexadecimal and empty ones that C's strtod takes are refused",
        applies: |reference, subject| {
            error(subject)
                .is_some_and(|text| text.ends_with("not a float") || text.ends_with("not a valid float"))
                && error(reference).is_none_or(|text| text.starts_with("WRONGTYPE "))
        },
    },
];

/// What Redis 7.0 answers otherwise than Redis since 7.2, which Quorate follows.
pub(crate) const SINCE_SEVEN: &[Allowed] = &[Allowed {
    command: "",
    why: "texts of errors have changed since 7.0; both refuse",
    applies: |reference, subject| match (error(reference), error(subject)) {
        (Some(one), Some(other)) => one.split(' ').next() == other.split(' ').next(),
        _ => false,
    },
}];
