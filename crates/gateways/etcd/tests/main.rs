//! All integration tests of this crate, in one program: each further one would compile and link again all that it stands on.

mod alarms;
mod auth;
mod clients;
mod gateway;
mod json;
mod peers;
mod pieces;
mod ranges;
mod snapshot;
mod support;
mod tls;
