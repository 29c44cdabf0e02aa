//! What streams and groups promise: named behaviours, and a comparison with a naive model.
