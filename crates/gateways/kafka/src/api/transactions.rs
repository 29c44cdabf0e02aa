//! What a producer asks of the coordinator of its transactions: to name what it will change, and to end them.
//!
//! The transaction itself is the machine's. Produce sends what belongs to it ([`super::produce`]); nothing of that is seen before it ends well.
//!
//! Called by: `api`. Source: KIP-98, KIP-360, KIP-588; Kafka's `TransactionCoordinator` for which error says what.

use crate::error::{self, Code};
use crate::gateway::{Gateway, Who, stream_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_types::{Author, Commit, Key, Op, OpResult, Produce, ProducerId, Verbs};

/// Since when those of these requests that are not InitProducerId know a name of their own for "fenced off".
const FENCED_SINCE: i16 = 2;
/// What Redis has that appends.
pub(super) const APPEND: &str = "xadd";

/// Makes a change of a transaction, or of who has its name.
pub(super) async fn change(gateway: &Gateway, who: &Who, produce: Produce) -> Result<OpResult, Code> {
    let op = Op::Produce { produce: Box::new(produce) };
    let mut committed = gateway.commit(who, Commit::of(vec![op])).await.map_err(|code| match code {
        // What may be denied beside the name has been asked for before.
        Code::TopicAuthorizationFailed => Code::TransactionalIdAuthorizationFailed,
        other => error::coordinator(other),
    })?;
    committed.results.pop().ok_or(Code::UnknownServerError)
}

/// What versions before `since` say instead of "fenced off".
pub(super) fn fenced(code: Code, version: i16, since: i16) -> Code {
    if code == Code::InvalidProducerEpoch && version >= since { Code::ProducerFenced } else { code }
}

/// Who asks: under which name, with which number, in which life.
pub(super) fn author(name: String, producer: i64, epoch: i16) -> Result<Author, Code> {
    if name.is_empty() {
        return Err(Code::InvalidRequest);
    }
    let producer = u64::try_from(producer).map_err(|_| Code::InvalidProducerIdMapping)?;
    let epoch = u16::try_from(epoch).map_err(|_| Code::InvalidProducerEpoch)?;
    Ok(Author { name: name.into(), producer: ProducerId(producer), epoch })
}

async fn changed(gateway: &Gateway, who: &Who, version: i16, produce: Result<Produce, Code>) -> Code {
    let code = match produce {
        Ok(produce) => change(gateway, who, produce).await.err().unwrap_or(Code::None),
        Err(code) => code,
    };
    fenced(code, version, FENCED_SINCE)
}

pub(super) async fn add_partitions(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let author = author(body.text()?, body.i64()?, body.i16()?);
    let topics = body.list(Reader::numbered)?;
    body.tags()?;
    let places = places(gateway, who, &topics).await;
    let refused = places.iter().flatten().any(Result::is_err);
    let whole = if refused {
        // One that cannot be added holds up the others, as in Kafka.
        Code::OperationNotAttempted
    } else {
        let parts = places.iter().flatten().flatten().cloned().collect();
        let produce = author.map(|author| Produce::Enlist { author, parts, groups: Vec::new() });
        changed(gateway, who, version, produce).await
    };
    out.i32(0);
    out.list(topics.iter().zip(&places), |out, ((name, partitions), places)| {
        out.text(name);
        out.list(partitions.iter().zip(places), |out, (partition, place)| {
            out.i32(*partition);
            out.i16(place.as_ref().err().copied().unwrap_or(whole).number());
            out.tags();
        });
        out.tags();
    });
    out.tags();
    Ok(())
}

/// The partitions of streams that topics name, each with whether it is there and may be appended to.
async fn places(
    gateway: &Gateway,
    who: &Who,
    topics: &[(String, Vec<i32>)],
) -> Vec<Vec<Result<(Key, u32), Code>>> {
    let look = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        let may = |stream: &Key| {
            rights.command(APPEND).is_ok() && rights.name(Verbs::WRITE, stream.space, &stream.name).is_ok()
        };
        let of = |(name, partitions): &(String, Vec<i32>)| {
            let stream = stream_of(name).ok_or(Code::UnknownTopicOrPartition);
            let stream = stream
                .and_then(|stream| may(&stream).then_some(stream).ok_or(Code::TopicAuthorizationFailed));
            let count = stream.as_ref().ok().and_then(|stream| machine.stream(stream));
            let count = count.map_or(0, |view| view.settings.partitions);
            let one = |partition: &i32| {
                let stream = stream.clone()?;
                let number = u32::try_from(*partition).ok().filter(|number| *number < count);
                Ok((stream, number.ok_or(Code::UnknownTopicOrPartition)?))
            };
            partitions.iter().map(one).collect::<Vec<_>>()
        };
        topics.iter().map(of).collect::<Vec<_>>()
    });
    look.await.unwrap_or_else(|code| {
        let code = error::coordinator(code);
        topics.iter().map(|(_, partitions)| vec![Err(code); partitions.len()]).collect()
    })
}

pub(super) async fn add_offsets(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let author = author(body.text()?, body.i64()?, body.i16()?);
    let group = body.text()?;
    body.tags()?;
    let produce =
        author.map(|author| Produce::Enlist { author, parts: Vec::new(), groups: vec![group.into()] });
    let code = changed(gateway, who, version, produce).await;
    out.i32(0);
    out.i16(code.number());
    out.tags();
    Ok(())
}

pub(super) async fn end(
    gateway: &Gateway,
    who: &Who,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let author = author(body.text()?, body.i64()?, body.i16()?);
    let commits = body.bool()?;
    body.tags()?;
    let produce = author.map(|author| Produce::End { author, commits });
    let code = error::ending(changed(gateway, who, version, produce).await);
    out.i32(0);
    out.i16(code.number());
    out.tags();
    Ok(())
}
