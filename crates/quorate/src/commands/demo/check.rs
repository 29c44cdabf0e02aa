//! What the server holds, read back whole and compared with the file.
//!
//! Invariant: every customer and every record is looked at, in both directions: what is missing, and what should not be there.

use super::purchases::{Purchase, customer_key};
use crate::client::{Client, Connect, Request};
use crate::failure::Failure;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Most keys or records asked for at once.
const PAGE: usize = 1000;

/// The comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) customers: u64,
    /// Purchases that are in no record.
    pub(super) lost: u64,
    /// Records too many of a purchase.
    pub(super) doubled: u64,
    /// Customers whose total or count is not what the file says, missing and unknown ones included.
    pub(super) customers_wrong: u64,
    pub(super) total_cents: u64,
    pub(super) expected_cents: u64,
    pub(super) first_difference: Option<String>,
}

impl Found {
    pub(super) fn is_good(&self) -> bool {
        self.lost == 0
            && self.doubled == 0
            && self.customers_wrong == 0
            && self.total_cents == self.expected_cents
    }

    fn differs(&mut self, what: impl FnOnce() -> String) {
        self.first_difference.get_or_insert_with(what);
    }
}

/// A customer's total in cents, the number of purchases, and how often the key was written: once for each.
type Total = (u64, u64, u64);

/// Reads everything back, and compares.
pub(super) fn compare(purchases: &[Purchase], url: &str) -> Result<Found, Failure> {
    let connect = Connect { server: url.to_owned(), token: None, ca: None, timeout: Duration::from_secs(30) };
    let mut client = connect.client()?;
    Ok(judge(purchases, &totals(&mut client)?, &records(&mut client)?))
}

/// Every customer key.
fn totals(client: &mut Client) -> Result<BTreeMap<String, Total>, Failure> {
    let (mut totals, mut from) = (BTreeMap::new(), "customers/".to_owned());
    loop {
        let path =
            format!("/v1/range?prefix=customers%2F&limit={PAGE}&from={}", crate::names::segment(&from));
        let page = client.call(&Request::get(path))?.json()?;
        let keys = page["keys"].as_array().ok_or_else(|| Failure::strange("a range has no keys"))?;
        for found in keys {
            let key = found["key"].as_str().ok_or_else(|| Failure::strange(found))?.to_owned();
            let value = &found["value"];
            let total = (number(&value["cents"])?, number(&value["purchases"])?, number(&found["version"])?);
            totals.insert(key, total);
        }
        match page["next"].as_str() {
            Some(next) if page["more"] == true => from = next.to_owned(),
            _ if page["more"] == true => {
                return Err(Failure::strange("a range does not say where it goes on"));
            }
            _ => return Ok(totals),
        }
    }
}

/// The purchase and cents of every record.
fn records(client: &mut Client) -> Result<Vec<(u64, u64)>, Failure> {
    let (mut records, mut offset) = (Vec::new(), 0);
    loop {
        let path = format!("/v1/streams/purchases/records?offset={offset}&max={PAGE}");
        let page = client.call(&Request::get(path))?.json()?;
        for record in page["records"].as_array().into_iter().flatten() {
            records.push((number(&record["value"]["purchase"])?, number(&record["value"]["cents"])?));
        }
        let (next, end) = (number(&page["next"])?, number(&page["end"])?);
        if next == end || next == offset {
            return Ok(records);
        }
        offset = next;
    }
}

fn number(value: &Value) -> Result<u64, Failure> {
    value.as_u64().ok_or_else(|| Failure::strange(format!("{value} where a number should be")))
}

fn judge(purchases: &[Purchase], totals: &BTreeMap<String, Total>, records: &[(u64, u64)]) -> Found {
    let mut found =
        Found { total_cents: totals.values().map(|(cents, _, _)| cents).sum(), ..Found::default() };
    let mut wanted: BTreeMap<String, Total> = BTreeMap::new();
    for purchase in purchases {
        let total = wanted.entry(customer_key(purchase.customer)).or_default();
        *total = (total.0 + purchase.cents, total.1 + 1, total.2 + 1);
        found.expected_cents += purchase.cents;
    }
    found.customers = wanted.len() as u64;
    for (key, total) in &wanted {
        if totals.get(key) != Some(total) {
            found.customers_wrong += 1;
            found.differs(|| {
                format!("{key} is {:?}, the file says {total:?} (cents, purchases, writes)", totals.get(key))
            });
        }
    }
    for key in totals.keys().filter(|key| !wanted.contains_key(*key)) {
        found.customers_wrong += 1;
        found.differs(|| format!("{key} is there, and not in the file"));
    }
    let mut times: HashMap<(u64, u64), u64> = HashMap::new();
    records.iter().for_each(|record| *times.entry(*record).or_default() += 1);
    for purchase in purchases {
        match times.remove(&(purchase.line, purchase.cents)) {
            Some(1) => {}
            None => {
                found.lost += 1;
                found.differs(|| format!("purchase {} is in no record", purchase.line));
            }
            Some(times) => {
                found.doubled += times - 1;
                found.differs(|| format!("purchase {} is in {times} records", purchase.line));
            }
        }
    }
    for ((line, cents), times) in times {
        found.doubled += times;
        found.differs(|| format!("a record says purchase {line} of {cents} cents, which is not in the file"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purchase(line: u64, customer: u32, cents: u64) -> Purchase {
        Purchase { line, customer, date: 19_970_101, cents }
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let purchases = [purchase(2, 1, 100), purchase(3, 1, 50), purchase(4, 2, 7)];
        let totals = |first: Total, second: Total| {
            BTreeMap::from([("customers/00001".to_owned(), first), ("customers/00002".to_owned(), second)])
        };
        let good = totals((150, 2, 2), (7, 1, 1));
        let records = [(2, 100), (3, 50), (4, 7)];
        let found = judge(&purchases, &good, &records);
        assert!(found.is_good(), "{found:?}");
        assert_eq!((found.customers, found.total_cents), (2, 157));
        let lost = judge(&purchases, &good, &records[..2]);
        assert_eq!((lost.lost, lost.is_good()), (1, false));
        let doubled = judge(&purchases, &good, &[records[0], records[0], records[1], records[2]]);
        assert_eq!((doubled.doubled, doubled.is_good()), (1, false));
        let invented = judge(&purchases, &good, &[records[0], records[1], records[2], (9, 1)]);
        assert_eq!((invented.doubled, invented.is_good()), (1, false));
        let cent = judge(&purchases, &totals((151, 2, 2), (6, 1, 1)), &records);
        assert_eq!((cent.customers_wrong, cent.is_good()), (2, false));
        let twice = judge(&purchases, &totals((150, 2, 3), (7, 1, 1)), &records);
        assert_eq!((twice.customers_wrong, twice.is_good()), (1, false));
        let mut more = good.clone();
        more.insert("customers/00009".into(), (0, 0, 0));
        assert_eq!(judge(&purchases, &more, &records).customers_wrong, 1);
    }
}
