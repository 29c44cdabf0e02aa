//! All integration tests of this crate, in one program: each further one would compile and link again all that it stands on.

mod admin;
mod clients;
mod consumers;
mod gateway;
mod groups;
mod guards;
mod idle;
mod interop;
mod producers;
mod sasl;
mod support;
mod transactions;
