//! Streams: declare, append, read by offset (long poll or server-sent events), trim, look at, delete.

use crate::call::{Answer, Call, Gateway, fetch, unexpected};
use crate::error::{Place, Problem};
use crate::json::answer::{group_settings, placed_record, stream_settings};
use crate::json::request;
use crate::json::write::{Object, Values, list};
use crate::reply::{Body, name, reply, with_commit, with_header};
use crate::sse::{self, Event, Source};
use hyper::Response;
use quorate_machine::{BatchRef, Batches, Machine, StreamView};
use quorate_runtime::{Handle, Interest};
use quorate_types::{
    Commit, GroupName, GroupSettings, Key, Offset, Op, OpError, OpResult, Outcome, PartitionChoice, Record,
    StreamSettings, record,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// Declares a stream, or gives it these settings.
pub(crate) async fn put(call: Call) -> Answer {
    let stream = call.key("stream")?;
    let settings = call.json(|node| node.object(request::stream_settings))?;
    let name = stream.clone();
    let there = call.read(move |machine| machine.stream(&name).is_some()).await?;
    let op = match there {
        false => Op::CreateStream { stream, settings },
        true => Op::AlterStream { stream, settings },
    };
    done(&call, op).await
}

/// Removes a stream with its records and groups.
pub(crate) async fn delete(call: Call) -> Answer {
    let stream = call.key("stream")?;
    done(&call, Op::DeleteStream { stream }).await
}

/// Forgets the records of a partition before an offset.
pub(crate) async fn trim(call: Call) -> Answer {
    let stream = call.key("stream")?;
    let (partition, before) = call.json(|node| {
        node.object(|fields| {
            Ok((fields.number_or("partition", 0)?, fields.need("before", |node| node.number().map(Offset))?))
        })
    })?;
    done(&call, Op::Trim { stream, partition, before }).await
}

pub(super) async fn done(call: &Call, op: Op) -> Answer {
    let committed = call.commit(Commit::of(vec![op]), Place::Resource).await?;
    Ok(with_commit(reply(200, Object::new().plain("revision", committed.revision).done()), &committed))
}

/// Looks at a stream: settings, bounds of its partitions, groups.
pub(crate) async fn get(call: Call) -> Answer {
    let stream = call.key("stream")?;
    let name = stream.clone();
    let found = call.read(move |machine| (machine.stream(&name), machine.groups(&name))).await?;
    match found {
        (Some(view), groups) => Ok(reply(200, stream_json(&stream, &view, &groups, call.values))),
        (None, _) => Err(Problem::of_read(&OpError::StreamMissing { stream })),
    }
}

fn stream_json(
    stream: &Key,
    view: &StreamView,
    groups: &[(GroupName, GroupSettings)],
    values: Values,
) -> String {
    let partitions = view.partitions.iter().enumerate().map(|(number, partition)| {
        Object::new()
            .plain("partition", number)
            .plain("first", partition.first)
            .plain("next", partition.next)
            .plain("bytes", partition.bytes)
            .done()
    });
    Object::new()
        .bytes("stream", &stream.name, values)
        .when(stream.space.0 != 0, |o| o.plain("keyspace", stream.space.0))
        .json("settings", stream_settings(&view.settings).done())
        .list("partitions", partitions)
        .list(
            "groups",
            groups.iter().map(|(group, settings)| {
                let object = Object::new().bytes("group", &group.0, values);
                object.json("settings", group_settings(settings).done()).done()
            }),
        )
        .done()
}

/// Lists streams.
pub(crate) async fn index(call: Call) -> Answer {
    let values = call.values;
    let prefix = call.query("prefix").cloned().unwrap_or_default();
    let found = call.read(|machine| machine.streams()).await?;
    let named = found.iter().filter(|stream| stream.name.starts_with(&prefix)).map(|stream| {
        let object = Object::new().bytes("stream", &stream.name, values);
        object.when(stream.space.0 != 0, |o| o.plain("keyspace", stream.space.0)).done()
    });
    Ok(reply(200, Object::new().json("streams", list(named)).done()))
}

/// Appends one record or many.
///
/// Records of different keys are parted by key here, as every client of a partitioned stream does; all of them
/// are appended in one commit.
pub(crate) async fn append(call: Call) -> Answer {
    let stream = call.key("stream")?;
    let (records, partition, create) = call.json(|node| {
        node.object(|fields| {
            let records = request::records(fields)?;
            let partition: Option<u32> = fields.maybe("partition", |node| node.number())?;
            Ok((records, partition, fields.maybe("create", |node| node.boolean())?.unwrap_or(true)))
        })
    })?;
    let parted = match partition {
        Some(partition) => vec![(PartitionChoice::Number { partition }, records)],
        None => {
            let name = stream.clone();
            let view = call.read(move |machine| machine.stream(&name)).await?;
            let partitions =
                view.map_or(StreamSettings::default().partitions, |view| view.settings.partitions);
            parted(records, partitions)
        }
    };
    let one = |(choice, records): (PartitionChoice, Vec<Record>)| Op::Append {
        append: request::append_of(stream.clone(), choice, &records, create),
    };
    let commit = Commit::of(parted.into_iter().map(one).collect());
    let committed = call.commit(commit, Place::Resource).await?;
    let appended = committed.results.iter().filter_map(|result| match result {
        OpResult::Appended { partition, first, next } => {
            let object =
                Object::new().plain("partition", *partition).plain("offset", *first).plain("next", *next);
            Some(object.done())
        }
        _ => None,
    });
    let body = Object::new().plain("revision", committed.revision).list("appended", appended).done();
    if committed.results.is_empty() {
        return Err(unexpected(&Outcome::Committed { committed }));
    }
    Ok(with_commit(reply(200, body), &committed))
}

/// Records by the partition of their key, each partition's in the order given. Keyless records travel together.
fn parted(records: Vec<Record>, partitions: u32) -> Vec<(PartitionChoice, Vec<Record>)> {
    let mut keyed: BTreeMap<u32, Vec<Record>> = BTreeMap::new();
    let mut keyless = Vec::new();
    for record in records {
        match &record.key {
            Some(key) => {
                let hash = record::partition_hash(key) % partitions.max(1);
                keyed.entry(hash).or_default().push(record);
            }
            None => keyless.push(record),
        }
    }
    let mut parted: Vec<_> =
        keyed.into_iter().map(|(hash, records)| (PartitionChoice::Hash { hash }, records)).collect();
    if !keyless.is_empty() {
        parted.push((PartitionChoice::Any, keyless));
    }
    parted
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    At(Offset),
    Earliest,
    Latest,
}

fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        digits => digits
            .parse()
            .map(|offset| Start::At(Offset(offset)))
            .map_err(|_| format!("\"{digits}\" is no offset: write a number, earliest or latest")),
    }
}

/// Reads records from an offset: at once, after a wait, or as server-sent events.
pub(crate) async fn read(call: Call) -> Answer {
    let stream = call.key("stream")?;
    let partition: u32 = call.query_number("partition")?.unwrap_or(0);
    let mut asked = call.query_as("offset", start)?.unwrap_or(Start::Earliest);
    let tail = call.header("accept")?.is_some_and(|accept| accept.contains("text/event-stream"));
    if let (true, Some(seen)) = (tail, call.header("last-event-id")?) {
        let seen: u64 = seen.trim().parse().map_err(|_| {
            Problem::bad_request(format!("Last-Event-ID is \"{seen}\", wanted the offset of a record"))
        })?;
        asked = Start::At(Offset(seen).next());
    }
    let from = resolve(&call, &stream, partition, asked).await?;
    let most = call.gateway.config.read_records_max;
    let max = call.query_number("max")?.unwrap_or(most).clamp(1, most);
    let place = Reading { stream, partition, max, max_bytes: call.gateway.config.read_bytes_max };
    if tail {
        let silence = call.gateway.config.sse_keepalive;
        let source = Tail { place, next: from, silence, values: call.values, opened: false, over: false };
        return sse::respond(&call, source);
    }
    let wait = call.query_wait()?;
    if !wait.is_zero() && call.relaxed()? {
        let why =
            "query parameter consistency: a long poll is linearizable, send wait or consistency, not both";
        return Err(Problem::bad_request(why));
    }
    let page = if wait.is_zero() {
        place.read(&call, from).await?
    } else {
        tokio::select! {
            page = place.wait(&call.gateway, from, wait) => page?,
            () = call.gateway.stopped() => return Err(super::locks::stopping()),
        }
    };
    let Some(page) = page else {
        // A long poll without news; without a wait, an empty page is an answer as any other.
        return Ok(if wait.is_zero() {
            page_answer(&place, &Page { next: from, end: from, records: vec![] }, call.values)
        } else {
            with_header(empty(), name::STREAM_NEXT_OFFSET, from)
        });
    };
    Ok(page_answer(&place, &page, call.values))
}

fn empty() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = hyper::StatusCode::NO_CONTENT;
    response
}

fn page_answer(place: &Reading, page: &Page, values: Values) -> Response<Body> {
    let records = page.records.iter().map(|(offset, wall, record)| {
        placed_record(record, Object::new().plain("offset", *offset), *wall, values)
    });
    let body = Object::new()
        .plain("partition", place.partition)
        .list("records", records)
        .plain("next", page.next)
        .plain("end", page.end)
        .done();
    let response = with_header(reply(200, body), name::STREAM_NEXT_OFFSET, page.next);
    if page.next == page.end { with_header(response, name::STREAM_UP_TO_DATE, "true") } else { response }
}

async fn resolve(call: &Call, stream: &Key, partition: u32, start: Start) -> Result<Offset, Problem> {
    let name = stream.clone();
    let view = call.read(move |machine| machine.stream(&name)).await?;
    let view = view.ok_or_else(|| Problem::of_read(&OpError::StreamMissing { stream: stream.clone() }))?;
    let found = view.partitions.get(partition as usize).ok_or_else(|| {
        let partitions = view.settings.partitions;
        Problem::of_read(&OpError::PartitionMissing { stream: stream.clone(), partitions, asked: partition })
    })?;
    Ok(match start {
        Start::At(offset) => offset,
        Start::Earliest => found.first,
        Start::Latest => found.next,
    })
}

/// Which partition is read, and how much at once.
struct Reading {
    stream: Key,
    partition: u32,
    max: usize,
    max_bytes: usize,
}

/// Records that were read.
struct Page {
    records: Vec<(Offset, quorate_types::WallTime, Record)>,
    /// Where to read on.
    next: Offset,
    /// Where the partition ends.
    end: Offset,
}

impl Reading {
    /// Reads what is there from an offset on; nothing at its end.
    async fn read(&self, call: &Call, from: Offset) -> Result<Option<Page>, Problem> {
        let found = call.read(self.look(from)).await?;
        self.found(&call.gateway.handle, from, found).await
    }

    /// Reads from an offset, waiting until there is something or the time is over.
    async fn wait(&self, gateway: &Gateway, from: Offset, wait: Duration) -> Result<Option<Page>, Problem> {
        let interest = Interest::Stream { stream: self.stream.clone(), partition: Some(self.partition) };
        let found = sse::wait(gateway, interest, wait, self.look(from)).await?;
        self.found(&gateway.handle, from, found).await
    }

    fn look(&self, from: Offset) -> impl FnMut(&Machine) -> Option<Result<Batches, OpError>> + use<> {
        let (stream, partition) = (self.stream.clone(), self.partition);
        let (max, max_bytes) = (self.max as u64, self.max_bytes as u64);
        move |machine| match machine.records(&stream, partition, from, max, max_bytes) {
            Ok(found) if from == found.next => None,
            found => Some(found),
        }
    }

    async fn found(
        &self,
        handle: &Handle,
        from: Offset,
        found: Option<Result<Batches, OpError>>,
    ) -> Result<Option<Page>, Problem> {
        match found {
            None => Ok(None),
            Some(Err(error)) => Err(Problem::of_read(&error)),
            Some(Ok(found)) => self.page(handle, from, &found).await.map(Some),
        }
    }

    async fn page(&self, handle: &Handle, from: Offset, found: &Batches) -> Result<Page, Problem> {
        let wanted = found.batches.iter().map(|batch| batch.at).collect();
        let payloads = fetch(handle, wanted).await;
        let mut page = Page { records: Vec::new(), next: from, end: found.next };
        for batch in &found.batches {
            let payload = match &payloads[&batch.at] {
                Ok(payload) => payload,
                Err(why) => return Err(unreadable(&self.stream, batch, why)),
            };
            let records = record::decode(payload, batch.records)
                .map_err(|error| unreadable(&self.stream, batch, &error.to_string()))?;
            let records = match batch.record {
                Some(one) => records.into_iter().skip(one as usize).take(1).collect(),
                None => records,
            };
            for (number, record) in records.into_iter().enumerate() {
                let offset = Offset(batch.base.0 + number as u64);
                let dead =
                    u32::try_from(number).is_ok_and(|number| batch.dead.binary_search(&number).is_ok());
                if offset < from || dead {
                    continue;
                }
                if page.records.len() == self.max {
                    page.next = offset;
                    return Ok(page);
                }
                page.records.push((offset, batch.wall, record));
            }
            page.next = page.next.max(batch.end());
        }
        if found.batches.is_empty() {
            page.next = found.next; // Whatever lay in between was compacted away.
        }
        Ok(page)
    }
}

fn unreadable(stream: &Key, batch: &BatchRef, why: &str) -> Problem {
    Problem::new(
        500,
        "payload_unreadable",
        format!("the batch of stream {stream} at offset {} cannot be read: {why}", batch.base),
    )
    .retry(crate::error::Retry::Same)
}

struct Tail {
    place: Reading,
    next: Offset,
    silence: Duration,
    values: Values,
    opened: bool,
    over: bool,
}

impl Source for Tail {
    async fn next(&mut self, gateway: &Gateway) -> Option<Vec<Event>> {
        if self.over {
            return None;
        }
        if !self.opened {
            self.opened = true;
            return Some(vec![Event::named("open", Object::new().plain("offset", self.next).done())]);
        }
        match self.place.wait(gateway, self.next, self.silence).await {
            Ok(Some(page)) => {
                self.next = page.next;
                let one = |(offset, wall, record): &(Offset, _, Record)| {
                    let place = Object::new().plain("offset", *offset);
                    Event::named("record", placed_record(record, place, *wall, self.values))
                        .id(offset.to_string())
                };
                Some(page.records.iter().map(one).collect())
            }
            Ok(None) => Some(vec![Event::comment()]),
            Err(problem) => {
                self.over = true;
                Some(vec![Event::named("error", problem.body())])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::Blob;

    fn keys_of(records: &[Record]) -> Vec<Option<&Blob>> {
        records.iter().map(|record| record.key.as_ref()).collect()
    }

    fn record(key: Option<&str>) -> Record {
        Record { key: key.map(Blob::from), value: Some("v".into()), headers: vec![] }
    }

    #[test]
    fn records_are_parted_by_key_and_keep_their_order() {
        let records = vec![record(Some("a")), record(None), record(Some("b")), record(Some("a"))];
        let one = parted(records.clone(), 1);
        assert_eq!(one.len(), 2);
        assert_eq!(keys_of(&one[0].1), [Some(&"a".into()), Some(&"b".into()), Some(&"a".into())]);
        assert_eq!(one[1], (PartitionChoice::Any, vec![record(None)]));
        for (choice, records) in parted(records, 64) {
            for record in records {
                let wanted = match record.key {
                    Some(key) => PartitionChoice::Hash { hash: record::partition_hash(&key) % 64 },
                    None => PartitionChoice::Any,
                };
                assert_eq!(choice, wanted);
            }
        }
    }

    #[test]
    fn a_read_starts_at_a_number_or_an_end() {
        assert_eq!(start("7"), Ok(Start::At(Offset(7))));
        assert_eq!(start("earliest"), Ok(Start::Earliest));
        assert_eq!(start("latest"), Ok(Start::Latest));
        for bad in ["", "-1", "first", "1.0"] {
            assert!(start(bad).is_err(), "{bad}");
        }
    }
}
