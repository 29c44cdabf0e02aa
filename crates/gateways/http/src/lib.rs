//! The HTTP gateway.
pub mod json;
