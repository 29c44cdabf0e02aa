//! ApiVersions: which requests are served.
//!
//! Source: KIP-511: its answer never has tagged fields in its head, and a version that is not known is answered in version 0.

use super::{APIS, Row};
use crate::error::Code;
use crate::frame::{self, Head};
use crate::wire::{Malformed, Reader, Writer};

pub(super) fn answer(version: i16, body: &mut Reader, out: &mut Writer) -> Result<(), Malformed> {
    let mut named = true;
    if version >= 3 {
        let (name, software) = (body.text()?, body.text()?);
        body.tags()?;
        named = is_word(&name) && is_word(&software);
    }
    if named {
        put(Code::None, APIS, version, out)
    } else {
        put(Code::InvalidRequest, &[], version, out)
    }
    Ok(())
}

/// Whether this may name a client, or its version: letters and digits, and dots and hyphens between them.
fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    ends.is_some_and(|(first, last)| first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(byte))
}

/// The answer to a version that is not known yet.
pub(super) fn too_new(head: &Head) -> Vec<u8> {
    let mut out = frame::begin(head.correlation, false, false);
    put(Code::UnsupportedVersion, APIS, 0, &mut out);
    frame::end(out)
}

fn put(code: Code, rows: &[Row], version: i16, out: &mut Writer) {
    out.i16(code.number());
    out.list(rows, |out, row| {
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
