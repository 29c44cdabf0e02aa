//! All integration tests of this crate, in one program: each further one would compile and link again all that it stands on.

mod acl;
mod big;
mod clients;
mod cluster_mode;
mod commands;
mod differential;
mod events;
mod failover;
mod fleet;
mod gateway;
mod memory;
mod support;
mod tracking;
