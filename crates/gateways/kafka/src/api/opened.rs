//! Batches whose records are looked at: those for compacted topics, and for topics whose records' headers mean something.
//!
//! Invariant: what is packed is unpacked off the gateways' thread, a bounded number of batches at a time, each to a bounded size.
//! Called by: `produce`.

use crate::error::{self, Code};
use crate::gateway::Gateway;
use bytes::Bytes;
use quorate_batch::{Bad, Codec};
use quorate_types::{OpError, Record};

/// Why a batch is refused: for people the reason, and which of its records it is, by place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) why: Option<String>,
    pub(crate) records: Vec<(i32, String)>,
}

impl From<Code> for Fault {
    fn from(code: Code) -> Self {
        Self { code, why: None, records: Vec::new() }
    }
}

impl From<Bad> for Fault {
    fn from(bad: Bad) -> Self {
        Self { code: error::batch(&bad), why: Some(bad.to_string()), records: Vec::new() }
    }
}

impl From<&OpError> for Fault {
    fn from(error: &OpError) -> Self {
        Self { code: error::op(error), why: Some(error.to_string()), records: Vec::new() }
    }
}

/// The records of a batch that was checked.
pub(super) async fn records(gateway: &Gateway, codec: Codec, batch: &Bytes) -> Result<Vec<Record>, Fault> {
    let most = quorate_batch::unpacked_max(batch.len());
    if codec == Codec::None {
        return Ok(read(batch, most)?);
    }
    // It is closed by nobody.
    let _permit = gateway.unpacking.acquire().await.map_err(|_| Code::UnknownServerError)?;
    let batch = batch.clone();
    let read = tokio::task::spawn_blocking(move || read(&batch, most)).await;
    Ok(read.map_err(|_| Code::UnknownServerError)??)
}

fn read(batch: &[u8], most: usize) -> Result<Vec<Record>, Bad> {
    Ok(quorate_batch::decode(batch, most)?.into_iter().map(|timed| timed.record).collect())
}
