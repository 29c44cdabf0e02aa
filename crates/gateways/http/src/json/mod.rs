//! JSON to and from the vocabulary of `quorate-types`.
//!
//! Conventions: `value` is text, or any JSON kept as its compact text; `value_base64` is bytes. Names likewise. Durations
//! are texts such as `"90s"` or whole milliseconds; times are RFC 3339 or milliseconds since 1970.
//!
//! Called by: the handlers. Read [`request`] for what is understood.

pub mod answer;
pub mod read;
pub mod request;
pub mod show;
pub mod units;
pub mod write;
