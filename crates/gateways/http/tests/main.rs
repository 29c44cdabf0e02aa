//! All integration tests of this crate, in one program: each further one would compile and link again all that it stands on.

mod gateway;
mod manual;
mod support;
mod tls;
mod users;
