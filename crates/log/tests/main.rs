//! All integration tests of this crate, in one program: each further one would compile and link again all that it stands on.

mod bytes;
mod clean;
mod common;
mod copy;
mod crash;
mod damage;
mod disk;
mod log;
mod rewind;
