//! What the headers of records say on topics that opt in (`quorate.guards=true`): under which conditions a batch is appended, and what happens to keys with it.
//!
//! | header | value | |
//! | --- | --- | --- |
//! | `q-fence:LOCK` | token | refused unless the lock is held with this token |
//! | `q-version:KEY` | number | refused unless the key was written so often since it was created |
//! | `q-limit:NAME` | count, period in ms, burst, cost (1) | takes from a token bucket, or is refused |
//! | `q-idempotent:KEY` | ms | the answer is kept: the same records under the same key are appended once |
//! | `q-set:KEY` | bytes | sets a key |
//! | `q-delete:KEY` | none | deletes it |
//! | `q-add:KEY` | integer | adds to it |
//!
//! The words mean what Redis' `Q.FENCE`, `Q.VERSION`, `Q.LIMIT` and `Q.IDEMPOTENT` mean. A batch is one commit, as is a transaction: what the headers of all its
//! records name holds or refuses for all of it. On a topic that does not opt in they are headers as any others.
//!
//! Invariant: a header that begins with `q-` and is none of these refuses its batch: a guard with a slip of the pen must not pass for none.
//! Called by: `produce`.

use super::opened::Fault;
use crate::error::Code;
use quorate_types::codec::encode;
use quorate_types::{
    Blob, Commit, Compare, FencingToken, Fingerprint, Guard, Idempotency, Key, KeyField, LeaseId,
    LimitPolicy, Millis, Op, Record, record::Header,
};
use std::collections::HashSet;

const PREFIX: &[u8] = b"q-";

/// The rider of a batch; nothing when no record of it names any.
pub(super) fn of(stream: &Key, records: &[Record]) -> Result<Option<Commit>, Fault> {
    let mut rider = Rider::default();
    let mut bad = Vec::new();
    for (place, record) in (0..).zip(records) {
        let ours = record.headers.iter().filter(|header| header.name.starts_with(PREFIX));
        for header in ours {
            if let Err(why) = rider.take(header) {
                bad.push((place, format!("header {}: {why}", header.name)));
                break;
            }
        }
    }
    if let Some((_, why)) = bad.first() {
        return Err(Fault { code: Code::InvalidRecord, why: Some(why.clone()), records: bad });
    }
    let Rider { guards, then, idempotency, .. } = rider;
    if guards.is_empty() && then.is_empty() && idempotency.is_none() {
        return Ok(None);
    }
    let idempotency = idempotency.map(|(key, ttl)| Idempotency {
        key: key.into(),
        ttl,
        fingerprint: fingerprint(stream, records),
    });
    Ok(Some(Commit { idempotency, guards, then, ..Commit::default() }))
}

#[derive(Default)]
struct Rider {
    guards: Vec<Guard>,
    /// The headers whose guards are there already: many records of a batch ask for the same, and a batch may have very many.
    asked: HashSet<(Blob, Blob)>,
    then: Vec<Op>,
    idempotency: Option<(Blob, Millis)>,
}

impl Rider {
    fn take(&mut self, header: &Header) -> Result<(), &'static str> {
        let (name, value) = (&header.name, &header.value);
        let at = name.iter().position(|byte| *byte == b':').ok_or("wanted a colon and a name after it")?;
        let (word, name) = (&name[PREFIX.len()..at], Blob::copy_from(&name[at + 1..]));
        if name.is_empty() {
            return Err("wanted a name after the colon");
        }
        match word {
            b"fence" => {
                let token = FencingToken(number(value, "wanted the token, a decimal number")?);
                self.guard(header, Guard::Fence { lock: name.into(), token });
            }
            b"version" => {
                let wanted = number(value, "wanted the version, a decimal number")?;
                let (field, compare) = (KeyField::Version, Compare::Equal);
                self.guard(header, Guard::Key { key: key(name), field, compare, wanted });
            }
            b"limit" => {
                let (policy, cost) = limit(value)?;
                self.guards.push(Guard::Limit { name: name.into(), policy, cost });
            }
            b"idempotent" => {
                let ttl = Millis(number(value, "wanted how long the answer is kept, in milliseconds")?);
                let own = (name, ttl);
                if self.idempotency.as_ref().is_some_and(|other| *other != own) {
                    return Err("the batch has another idempotency key already, and is one commit");
                }
                self.idempotency = Some(own);
            }
            b"set" => {
                let value = Blob::copy_from(value);
                self.then.push(Op::Put { key: key(name), value, lease: LeaseId::ZERO, prev: false });
            }
            b"delete" if value.is_empty() => self.then.push(Op::Delete { key: key(name), prev: false }),
            b"delete" => return Err("wanted no value"),
            b"add" => {
                let by = number(value, "wanted an integer of 64 bits")?;
                self.then.push(Op::Increment { key: key(name), by, min: i64::MIN, max: i64::MAX });
            }
            _ => return Err("wanted fence, version, limit, idempotent, set, delete or add after `q-`"),
        }
        Ok(())
    }

    /// What many records of a batch ask for is asked once.
    fn guard(&mut self, header: &Header, guard: Guard) {
        if self.asked.insert((header.name.clone(), header.value.clone())) {
            self.guards.push(guard);
        }
    }
}

fn key(name: Blob) -> Key {
    Key { space: quorate_types::Keyspace::DEFAULT, name }
}

fn number<T: std::str::FromStr>(value: &[u8], why: &'static str) -> Result<T, &'static str> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(why)
}

fn limit(value: &[u8]) -> Result<(LimitPolicy, u64), &'static str> {
    let why = "wanted count, period in milliseconds, burst, and a cost if it is not 1";
    let text = std::str::from_utf8(value).map_err(|_| why)?;
    let numbers: Vec<u64> =
        text.split_ascii_whitespace().map(|word| word.parse().map_err(|_| why)).collect::<Result<_, _>>()?;
    match numbers[..] {
        [count, period, burst] => Ok((LimitPolicy::Bucket { count, period: Millis(period), burst }, 1)),
        [count, period, burst, cost] => {
            Ok((LimitPolicy::Bucket { count, period: Millis(period), burst }, cost))
        }
        _ => Err(why),
    }
}

/// Tells a request from another by its records alone, so that one that is made again, at another time, by another producer, in other batches
/// of one transaction, is known for the same.
fn fingerprint(stream: &Key, records: &[Record]) -> Fingerprint {
    let place = xxhash_rust::xxh3::xxh3_64(&stream.name);
    let of = |record: &Record| xxhash_rust::xxh3::xxh3_128_with_seed(&encode(record), place);
    Fingerprint(records.iter().map(of).fold(0, u128::wrapping_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: &[(&str, &str)]) -> Record {
        let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: (*value).into() };
        Record { headers: headers.iter().map(header).collect(), ..Record::default() }
    }

    fn read(headers: &[(&str, &str)]) -> Result<Option<Commit>, Fault> {
        of(&"t".into(), &[record(headers)])
    }

    #[test]
    fn headers_name_guards_and_changes_of_keys() {
        let rider = read(&[
            ("by", "me"),
            ("q-fence:a:b", "42"),
            ("q-version:k", "0"),
            ("q-limit:t", "10 1000 20 2"),
            ("q-set:k", "v"),
            ("q-delete:l", ""),
            ("q-add:n", "-3"),
            ("q-idempotent:i", "60000"),
        ]);
        let rider = rider.unwrap().unwrap();
        let policy = LimitPolicy::Bucket { count: 10, period: Millis(1000), burst: 20 };
        assert_eq!(
            rider.guards,
            [
                Guard::Fence { lock: "a:b".into(), token: FencingToken(42) },
                Guard::Key { key: "k".into(), field: KeyField::Version, compare: Compare::Equal, wanted: 0 },
                Guard::Limit { name: "t".into(), policy, cost: 2 },
            ]
        );
        assert_eq!(
            rider.then,
            [
                Op::Put { key: "k".into(), value: "v".into(), lease: LeaseId::ZERO, prev: false },
                Op::Delete { key: "l".into(), prev: false },
                Op::Increment { key: "n".into(), by: -3, min: i64::MIN, max: i64::MAX },
            ]
        );
        assert_eq!(rider.idempotency.unwrap().ttl, Millis(60_000));
        assert_eq!(read(&[("by", "me")]).unwrap(), None);
    }

    #[test]
    fn what_is_not_understood_refuses_and_names_its_record() {
        for (name, value) in [
            ("q-", ""),
            ("q-fence", "1"),
            ("q-fence:", "1"),
            ("q-fence:l", "x"),
            ("q-fence:l", "-1"),
            ("q-fnece:l", "1"),
            ("q-limit:t", "1 2"),
            ("q-limit:t", "1 2 3 4 5"),
            ("q-add:n", "1.5"),
            ("q-delete:k", "x"),
            ("q-idempotent:i", ""),
        ] {
            let good = record(&[("q-add:n", "1")]);
            let fault = of(&"t".into(), &[good, record(&[(name, value)])]).unwrap_err();
            assert_eq!(fault.code, Code::InvalidRecord, "{name}");
            assert_eq!(fault.records.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1], "{name}");
        }
        let two = [record(&[("q-idempotent:i", "1")]), record(&[("q-idempotent:j", "1")])];
        assert!(of(&"t".into(), &two).is_err());
    }

    #[test]
    fn many_fences_are_one_and_many_charges_are_many() {
        let one = record(&[("q-fence:l", "1"), ("q-limit:t", "1 1 1")]);
        let rider = of(&"t".into(), &vec![one; 3]).unwrap().unwrap();
        assert_eq!(rider.guards.len(), 1 + 3);
    }

    #[test]
    fn a_request_is_known_again_by_its_records_in_any_order() {
        let of = |stream: &str, names: &[&str]| {
            let records: Vec<Record> = names.iter().map(|name| record(&[(name, "")])).collect();
            fingerprint(&stream.into(), &records).0
        };
        assert_eq!(of("t", &["a", "b"]), of("t", &["b", "a"]));
        assert_eq!(of("t", &["a", "b"]), of("t", &["a"]).wrapping_add(of("t", &["b"])));
        assert_ne!(of("t", &["a"]), of("t", &["b"]));
        assert_ne!(of("t", &["a"]), of("u", &["a"]));
        assert_ne!(of("t", &["a"]), of("t", &["a", "a"]));
    }
}
