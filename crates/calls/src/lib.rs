//! Calls: what Redis' commands mean, over any [`Store`]. Pure and deterministic: no clock, no entropy, no I/O.
//!
//! A gateway sends a command's words as they came; the machine decides them here when their entry is applied, and answers reads here without
//! one. `table.rs` knows every command; each family has a module of its own. `collections` are the types behind the keys.
//!
//! Invariant: the same store, words, times and seed give the same reply and the same changes, byte for byte, on every replica and every replay.
//! Invariant: no command takes longer than its budget: what would is refused before its first change.
//! Called by: `machine`, at apply and for reads; the Redis gateway asks the table.

mod args;
mod bits;
mod bloom;
mod call;
pub mod collections;
mod decimal;
mod dice;
mod dump;
mod error;
pub mod events;
pub mod fields;
mod functions;
mod geo;
mod glob;
mod hashes;
mod hyper;
mod keys;
mod lists;
pub mod permissions;
mod rdb;
pub mod script;
mod scripts;
mod sets;
mod sort;
mod sorted;
pub mod store;
mod stream_groups;
pub mod streams;
mod strings;
mod table;
mod throttle;

pub use call::{
    COMMIT_TOUCH_MAX, OPERATION, OUT_OF_MEMORY, Reading, SCRIPT_TOUCH_MAX, Session, TOUCH_MAX, VALUE_MAX,
    Writing, over_budget, read, read_long, uses, write,
};
pub use error::Error;
pub use functions::{FUNCTION_NAMES_MAX, LIBRARIES_BYTES_MAX, LIBRARIES_MAX};
pub use glob::matches;
pub use permissions::{Permission, permission};
pub use script::{FunctionSpec, Host, Interpreter, Library, NoScripts, Run};
pub use store::{Deadline, Found, Look, Store, Usage};
pub use table::{Flags, KeyPositions, Kind, Spec, check, keys_of, lookup, specs, wait_of};
