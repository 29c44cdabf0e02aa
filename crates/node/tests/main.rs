//! All integration tests of this crate, in one program: each further one would compile and link again all that it stands on.

mod cleaning;
mod entry_size;
mod rounds;
mod snapshots;
