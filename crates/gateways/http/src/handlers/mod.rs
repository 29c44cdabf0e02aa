//! One file per primitive: a request becomes a commit, a command or a read, and what comes back becomes JSON.
//!
//! Invariant: no rule lives here. What two gateways would need belongs to `machine` or `node`.
//! Called by: `dispatch`, through the route table.

pub(crate) mod cluster;
pub(crate) mod commit;
pub(crate) mod groups;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod limits;
pub(crate) mod locks;
pub(crate) mod roles;
pub(crate) mod server;
pub(crate) mod services;
pub(crate) mod standing;
pub(crate) mod streams;
pub(crate) mod tasks;
pub(crate) mod users;
