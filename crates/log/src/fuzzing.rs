//! Well-sealed nonsense: arbitrary bytes under correct checksums, so that fuzzing reaches what lies behind them.
//!
//! Invariant: nothing in the product calls this.
//! Called by: fuzz/fuzz_targets/log_reader.rs, tests/bytes.rs.

use crate::format::{
    BATCH_HEADER, BatchHeader, FLAG_REWIND, FRAME_HEADER, FrameHeader, GENESIS, Manifest, SEGMENT_HEADER,
    SegmentHeader, align8, body_hash, check_frame_head, encode_frame, put, seal_frame_head,
};
use crate::{Extent, Index, Position, Term};

/// A first segment holding one batch of `count` entries whose body is `body`, with header, batch hash and frame checksums made right.
pub fn segment(body: &[u8], count: u32, first: u64) -> Vec<u8> {
    batches(&[(body, count, first, 0)])
}

/// A first segment that begins at index 1 with three small entries and goes on with a batch of `body` that rewinds to before `first`.
pub fn rewound(body: &[u8], count: u32, first: u64) -> Vec<u8> {
    let mut three = Vec::new();
    for index in 1..=3 {
        encode_frame(&mut three, Index(index), Term(1), b"body", &[Extent { offset: 1, len: 2 }]);
    }
    batches(&[(&three, 3, 1, 0), (body, count, first, FLAG_REWIND)])
}

fn batches(batches: &[(&[u8], u32, u64, u32)]) -> Vec<u8> {
    let sizes: usize = batches.iter().map(|(body, ..)| BATCH_HEADER + align8(body.len())).sum();
    let bytes = (SEGMENT_HEADER + sizes).div_ceil(512) * 512 + 512;
    let header = SegmentHeader {
        active: true,
        recycled: false,
        rewinds: false,
        sequence: 1,
        epoch: 1,
        segment_bytes: bytes as u64,
        first: Index(batches.first().map_or(1, |(_, _, first, _)| *first)),
        chain_before: GENESIS,
        end_before: 0,
    };
    let mut out = vec![0; bytes];
    put(&mut out, 0, &header.encode());
    let (mut at, mut chain) = (SEGMENT_HEADER, GENESIS);
    for (body, count, first, flags) in batches {
        let mut body = body.to_vec();
        body.resize(align8(body.len()), 0);
        seal_frames(&mut body);
        let batch = BatchHeader {
            flags: *flags,
            epoch: 1,
            first: Index(*first),
            count: *count,
            body_bytes: body.len() as u32,
            chain_before: chain,
            body_hash: body_hash(&body, header.salt()),
            synced: Position::default(),
        };
        batch.encode(header.salt(), &mut out[at..at + BATCH_HEADER]);
        put(&mut out, at + BATCH_HEADER, &body);
        at += BATCH_HEADER + body.len();
        chain = batch.chain();
    }
    out
}

/// The manifest of a new log.
pub fn manifest() -> Vec<u8> {
    Manifest::new().encode()
}

fn seal_frames(body: &mut [u8]) {
    let mut at = 0;
    while body.len() - at >= FRAME_HEADER {
        let frame = FrameHeader::peek(&body[at..]);
        let head_end = at as u64 + frame.head_bytes();
        if head_end > body.len() as u64 {
            return;
        }
        seal_frame_head(&mut body[at..head_end as usize]);
        if check_frame_head(&body[at..head_end as usize]).is_err()
            || at as u64 + frame.bytes() > body.len() as u64
        {
            return;
        }
        at += frame.bytes() as usize;
    }
}
