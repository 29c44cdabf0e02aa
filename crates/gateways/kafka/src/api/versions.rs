//! ApiVersions: which requests are served.
//!
//! Source: KIP-511: its answer never has tagged fields in its head, and a version that is not known is answered in version 0.

use super::APIS;
use crate::error::Code;
use crate::frame::{self, Head};
use crate::wire::{Malformed, Reader, Writer};

pub(super) fn answer(version: i16, body: &mut Reader, out: &mut Writer) -> Result<(), Malformed> {
    if version >= 3 {
        // The client's name and version.
        body.text()?;
        body.text()?;
        body.tags()?;
    }
    put(Code::None, version, out);
    Ok(())
}

/// The answer to a version that is not known yet.
pub(super) fn too_new(head: &Head) -> Vec<u8> {
    let mut out = frame::begin(head.correlation, false, false);
    put(Code::UnsupportedVersion, 0, &mut out);
    frame::end(out)
}

fn put(code: Code, version: i16, out: &mut Writer) {
    out.i16(code.number());
    out.list(APIS, |out, row| {
        out.i16(row.key);
        out.i16(*row.versions.start());
        out.i16(*row.versions.end());
        out.tags();
    });
    if version >= 1 {
        out.i32(0);
    }
    out.tags();
}
