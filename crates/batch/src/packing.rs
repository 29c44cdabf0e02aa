//! Unpacking, within a bound.
//!
//! All decoders are of Rust alone and read from memory; none makes more than it is asked for, so a small batch cannot fill the memory.
//! Called by: `records`.

use crate::{Bad, Codec};
use std::borrow::Cow;
use std::io::Read;

/// How the chunks of snappy's Java library begin: its name, and two version numbers of which nothing depends.
const CHUNKED: &[u8] = b"\x82SNAPPY\x00";
const CHUNKED_HEAD: usize = 16;

/// The records of a batch, unpacked.
///
/// # Errors
/// [`Bad::Packing`], [`Bad::Large`] beyond `max` bytes.
pub(crate) fn unpack(codec: Codec, packed: &[u8], max: usize) -> Result<Cow<'_, [u8]>, Bad> {
    let unpacked = match codec {
        Codec::None => return Ok(Cow::Borrowed(packed)),
        Codec::Gzip => drain(flate2::read::MultiGzDecoder::new(packed), max)?,
        Codec::Snappy => snappy(packed, max)?,
        Codec::Lz4 => drain(lz4_flex::frame::FrameDecoder::new(packed), max)?,
        Codec::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(bad)?;
            drain(decoder, max)?
        }
    };
    Ok(Cow::Owned(unpacked))
}

fn drain(from: impl Read, max: usize) -> Result<Vec<u8>, Bad> {
    let mut out = Vec::new();
    from.take(max as u64 + 1).read_to_end(&mut out).map_err(bad)?;
    if out.len() > max { Err(Bad::Large { max }) } else { Ok(out) }
}

fn snappy(packed: &[u8], max: usize) -> Result<Vec<u8>, Bad> {
    let mut out = Vec::new();
    if !packed.starts_with(CHUNKED) {
        chunk(packed, max, &mut out)?;
        return Ok(out);
    }
    let mut rest = packed.get(CHUNKED_HEAD..).ok_or_else(|| bad("the chunks have no head"))?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (one, after) = after.split_at_checked(length).ok_or_else(|| bad("a chunk is cut off"))?;
        chunk(one, max, &mut out)?;
        rest = after;
    }
    if rest.is_empty() { Ok(out) } else { Err(bad("bytes follow the last chunk")) }
}

fn chunk(packed: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), Bad> {
    let length = snap::raw::decompress_len(packed).map_err(bad)?;
    if length > max - out.len() {
        return Err(Bad::Large { max });
    }
    // What it says is within the bound, and is made in full before it is looked at: that much and no more.
    let start = out.len();
    out.resize(start + length, 0);
    let made = snap::raw::Decoder::new().decompress(packed, &mut out[start..]).map_err(bad)?;
    out.truncate(start + made);
    Ok(())
}

fn bad(why: impl std::fmt::Display) -> Bad {
    Bad::Packing(why.to_string())
}
