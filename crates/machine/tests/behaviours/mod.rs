//! What the machine promises, behaviour by behaviour. Each test drives it by entries, as the log would.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod alarms;
mod calls;
mod commits;
mod consumers;
mod foreseen;
mod hash_fields;
mod idempotency;
mod keys;
mod leases;
mod limits;
mod locks;
mod members;
mod memory;
mod producers;
mod riders;
mod roles;
mod snapshots;
mod streams;
mod tasks;
mod transactions;
mod users;
