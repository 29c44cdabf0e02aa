//! All integration tests of this crate, in one program: each further one would compile and link again all that it stands on.

mod cli;
mod cluster;
mod dual_write;
mod etcd;
mod import;
mod kafka;
mod support;
