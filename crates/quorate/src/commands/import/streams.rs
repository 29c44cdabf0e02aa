//! Copies a stream: its records under their ids, its last id, its groups with their consumers and what is pending.
//!
//! A stream is written under its own name, since streams cannot be renamed. One that breaks off is removed again, so that a later run with
//! `--skip-existing` does not take half of it for the whole.
//!
//! Called by: `copy`.

use super::Existing;
use super::copy::{ALREADY, Broken, Copier, Head, SLICE, not_understood, wall_ms};
use super::tally::Counts;
use super::wire::{Words, bytes_of, items_of, list_of, member, number_of, text_of, words};
use crate::failure::Failure;
use redis::Value;

/// Bytes of records that are sent at once.
const WRITE_BYTES_MAX: usize = 1 << 20;

impl Copier<'_> {
    pub(super) fn stream(&mut self, head: &Head) -> Result<(), Failure> {
        if self.plan.existing != Existing::Replace && self.there(std::slice::from_ref(head))? == [true] {
            self.tally().skipped(ALREADY);
            return Ok(());
        }
        let mut attempt = 0;
        let mut begun = self.plan.existing == Existing::Replace;
        loop {
            attempt += 1;
            match self.stream_anew(head, &mut begun) {
                Ok(()) => return Ok(()),
                Err(Broken::Fatal(failure)) => return Err(failure),
                Err(Broken::Target(lost)) => self.recover(&lost, attempt)?,
                Err(Broken::Key(why)) => {
                    if begun {
                        // Half of a stream is worse than none. Where this fails too, the failure names the key.
                        let _ = self.target.ask(&[words(&[b"DEL", &head.key])]);
                    }
                    self.fail(&head.key, &why);
                    return Ok(());
                }
            }
        }
    }

    fn stream_anew(&mut self, head: &Head, begun: &mut bool) -> Result<(), Broken> {
        let key = &head.key;
        let info = self.source_one(words(&[b"XINFO", b"STREAM", key]));
        let info = match info {
            Err(Broken::Key(why)) if why.contains("no such key") => {
                self.tally().vanished();
                return Ok(());
            }
            other => items_of(other?).ok_or_else(not_understood)?,
        };
        let groups = self.source_one(words(&[b"XINFO", b"GROUPS", key]))?;
        let groups = items_of(groups).ok_or_else(not_understood)?;
        if *begun {
            self.fill_target(vec![words(&[b"DEL", key])])?;
        }
        *begun = true;
        let (counts, last) = self.records(head)?;
        self.last_id(key, &info, counts.elements, last)?;
        let grouped = groups.into_iter().try_for_each(|group| self.stream_group(key, group));
        self.stream_deadline(key, counts, grouped)
    }

    /// Copies the records, page by page; the id of the last one.
    fn records(&mut self, head: &Head) -> Result<(Counts, Vec<u8>), Broken> {
        let key = &head.key;
        let mut counts = Counts { keys: 1, elements: 0, bytes: key.len() as u64 };
        let mut from = b"-".to_vec();
        let mut last = Vec::new();
        loop {
            let page = self.source_one(words(&[b"XRANGE", key, &from, b"+", b"COUNT", SLICE]))?;
            let page = items_of(page).ok_or_else(not_understood)?;
            if page.is_empty() {
                return Ok((counts, last));
            }
            let (mut commands, mut waiting) = (Vec::new(), 0);
            for record in page {
                let mut record = items_of(record).ok_or_else(not_understood)?.into_iter();
                let id = record.next().as_ref().and_then(bytes_of).ok_or_else(not_understood)?;
                let fields = record.next().and_then(list_of).ok_or_else(not_understood)?;
                let bytes: usize = fields.iter().map(Vec::len).sum();
                if waiting > 0 && waiting + bytes > WRITE_BYTES_MAX {
                    self.fill_target(std::mem::take(&mut commands))?;
                    waiting = 0;
                }
                counts.elements += 1;
                counts.bytes += bytes as u64;
                waiting += bytes;
                let mut add = words(&[b"XADD", key, &id]);
                add.extend(fields);
                commands.push(add);
                last = id;
            }
            self.fill_target(commands)?;
            from = [b"(", last.as_slice()].concat();
        }
    }

    /// The last id, and the counters that readers compute their lag from.
    fn last_id(&mut self, key: &[u8], info: &[Value], records: u64, last: Vec<u8>) -> Result<(), Broken> {
        let Some(newest) = member(info, "last-generated-id").as_ref().and_then(bytes_of) else {
            return Ok(());
        };
        let added = member(info, "entries-added").as_ref().and_then(number_of);
        let deleted = member(info, "max-deleted-entry-id").as_ref().and_then(bytes_of);
        let mut commands = Vec::new();
        if records == 0 {
            // A stream without a record comes into being by a group.
            commands.push(words(&[b"XGROUP", b"CREATE", key, b"import", b"0", b"MKSTREAM"]));
            commands.push(words(&[b"XGROUP", b"DESTROY", key, b"import"]));
        }
        let removed = added.is_some_and(|added| u64::try_from(added).is_ok_and(|added| added > records));
        // What was added while the records were read has moved the source's last id, not this copy's.
        if newest != b"0-0" && (last.is_empty() || removed || after(&newest, &last)) {
            let mut set = words(&[b"XSETID", key, &newest]);
            if let (Some(added), Some(deleted)) = (added, deleted) {
                set.extend(words(&[
                    b"ENTRIESADDED",
                    added.to_string().as_bytes(),
                    b"MAXDELETEDID",
                    &deleted,
                ]));
            }
            if !after(&last, &newest) {
                commands.push(set);
            }
        }
        if commands.is_empty() {
            return Ok(());
        }
        self.fill_target(commands).map(drop)
    }

    fn stream_group(&mut self, key: &[u8], group: Value) -> Result<(), Broken> {
        let group = items_of(group).ok_or_else(not_understood)?;
        let name = member(&group, "name").as_ref().and_then(bytes_of).ok_or_else(not_understood)?;
        let delivered =
            member(&group, "last-delivered-id").as_ref().and_then(bytes_of).ok_or_else(not_understood)?;
        let mut create = words(&[b"XGROUP", b"CREATE", key, &name, &delivered]);
        if let Some(read) = member(&group, "entries-read").as_ref().and_then(number_of) {
            create.extend(words(&[b"ENTRIESREAD", read.to_string().as_bytes()]));
        }
        let consumers = self.source_one(words(&[b"XINFO", b"CONSUMERS", key, &name]))?;
        let mut commands = vec![create];
        for consumer in items_of(consumers).ok_or_else(not_understood)? {
            let consumer = items_of(consumer).ok_or_else(not_understood)?;
            let consumer =
                member(&consumer, "name").as_ref().and_then(bytes_of).ok_or_else(not_understood)?;
            commands.push(words(&[b"XGROUP", b"CREATECONSUMER", key, &name, &consumer]));
        }
        self.fill_target(commands)?;
        self.pending(key, &name)
    }

    /// What was delivered and not acknowledged, to whom, how often, how long ago.
    fn pending(&mut self, key: &[u8], group: &[u8]) -> Result<(), Broken> {
        let mut from = b"-".to_vec();
        loop {
            let page = self.source_one(words(&[b"XPENDING", key, group, &from, b"+", SLICE]))?;
            let page = items_of(page).ok_or_else(not_understood)?;
            if page.is_empty() {
                return Ok(());
            }
            let mut commands: Vec<Words> = Vec::new();
            for one in page {
                let one = items_of(one).ok_or_else(not_understood)?;
                let [id, consumer, idle, deliveries] = one.as_slice() else { return Err(not_understood()) };
                let (Some(id), Some(consumer), Some(idle), Some(deliveries)) =
                    (bytes_of(id), bytes_of(consumer), text_of(idle), text_of(deliveries))
                else {
                    return Err(not_understood());
                };
                let (idle, deliveries) = (idle.as_bytes(), deliveries.as_bytes());
                let mut claim = words(&[b"XCLAIM", key, group, &consumer, b"0", &id, b"IDLE", idle]);
                claim.extend(words(&[b"RETRYCOUNT", deliveries, b"FORCE", b"JUSTID"]));
                commands.push(claim);
                from = [b"(", id.as_slice()].concat();
            }
            self.fill_target(commands)?;
        }
    }

    fn stream_deadline(
        &mut self,
        key: &[u8],
        counts: Counts,
        grouped: Result<(), Broken>,
    ) -> Result<(), Broken> {
        let asked = [words(&[b"TIME"]), words(&[self.plan.deadline_command(), key])];
        let mut answers = self.source.ask_again(&asked).map_err(Broken::Fatal)?.into_iter().map(Result::ok);
        let mut next = || answers.next().flatten();
        let now = next().and_then(wall_ms).unwrap_or(0);
        let left = next().as_ref().and_then(number_of).unwrap_or(-1);
        let deadline = self.plan.deadline(now, left);
        if let Some(at) = deadline {
            self.fill_target(vec![words(&[b"PEXPIREAT", key, at.to_string().as_bytes()])])?;
        }
        match grouped {
            Ok(()) => self.tally().copied("stream", counts, deadline.is_some()),
            // The records are whole, and worth keeping.
            Err(Broken::Key(why)) => {
                self.fail(key, &format!("its records are at the target, its groups are not all: {why}"));
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }
}

/// Whether an id comes after another.
fn after(id: &[u8], other: &[u8]) -> bool {
    let parts = |id: &[u8]| {
        let text = std::str::from_utf8(id).unwrap_or_default();
        let (ms, sequence) = text.split_once('-').unwrap_or((text, "0"));
        (ms.parse::<u64>().unwrap_or(0), sequence.parse::<u64>().unwrap_or(0))
    };
    parts(id) > parts(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_as_numbers() {
        assert!(
            after(b"10-0", b"9-5") && after(b"9-10", b"9-9") && !after(b"9-9", b"9-9") && after(b"1-0", b"")
        );
    }
}
