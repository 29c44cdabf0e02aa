//! Services: instances with health, weight, zone and metadata, each on a lease.
//!
//! An instance is a row of the keyspace [`Keyspace::SERVICES`], so that listing, watching, history and the end of its
//! lease are those of keys. The row's name is the length of the service's name, that name, and the instance's.
//!
//! Invariant: every row of that keyspace hangs on a live lease and decodes to an [`Instance`].
//! Called by: `commit` (register, deregister) and the machine's reads.

use quorate_types::codec::{Reader, Wire, Writer, decode, encode};
use quorate_types::{
    Blob, Instance, InstanceName, Key, KeyRange, KeyValue, Keyspace, Registered, ServiceName,
};

/// The key of an instance.
pub(crate) fn key(service: &ServiceName, instance: &InstanceName) -> Key {
    let mut out = Writer::default();
    service.0.put(&mut out);
    out.raw(&instance.0);
    Key { space: Keyspace::SERVICES, name: out.buffer.into() }
}

/// The keys of all instances of a service: what to watch.
#[must_use]
pub fn service_range(service: &ServiceName) -> KeyRange {
    KeyRange::prefix(key(service, &InstanceName::default()))
}

/// The keys of all instances of all services.
#[must_use]
pub fn services_range() -> KeyRange {
    KeyRange { start: Key { space: Keyspace::SERVICES, name: Blob::EMPTY }, end: None }
}

pub(crate) fn value(info: &Instance) -> Blob {
    encode(info).into()
}

/// Reads a row of the keyspace of services: the service and the instance.
///
/// Nothing when the row is not of that keyspace.
#[must_use]
pub fn registered(row: &KeyValue) -> Option<(ServiceName, Registered)> {
    if row.key.space != Keyspace::SERVICES {
        return None;
    }
    let name = bytes::Bytes::copy_from_slice(&row.key.name);
    let mut from = Reader::new(&name);
    let service = Blob::take(&mut from).ok()?;
    let instance = Blob::copy_from(&name[from.position()..]);
    let info = if row.value.is_empty() {
        Instance::default() // Only keys were read, or the row is a deletion.
    } else {
        decode(&bytes::Bytes::copy_from_slice(&row.value)).ok()?
    };
    Some((service.into(), Registered { instance, lease: row.lease, revision: row.mod_revision, info }))
}
