//! The file of purchases, and the order in which they are delivered.
//!
//! Invariant: money is whole cents; a line that is not understood is an error, never skipped.

use crate::failure::{Exit, Failure};
use std::collections::BTreeMap;

/// CDNOW's purchase log; its origin is in `data/README.md`.
const FILE: &str = include_str!("../../../data/cdnow.txt");

/// One of so many purchases is delivered twice.
const TWICE_ONE_IN: u64 = 10;
/// One of so many deliveries loses its answer.
const LOSE_ONE_IN: u64 = 100;
/// A second delivery comes so many deliveries after the first, at most.
const LATER_MAX: u64 = 500;

/// A purchase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Purchase {
    /// Its line in the file: its identity.
    pub(super) line: u64,
    pub(super) customer: u32,
    /// Year, month and day as one number: 19970101.
    pub(super) date: u32,
    pub(super) cents: u64,
}

impl Purchase {
    /// The key of the customer's total.
    pub(super) fn customer_key(&self) -> String {
        customer_key(self.customer)
    }
}

/// The key of a customer's total.
pub(super) fn customer_key(customer: u32) -> String {
    format!("customers/{customer:05}")
}

/// One delivery of a purchase to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Place of the purchase.
    pub(super) purchase: u32,
    /// The worker's first answer is lost.
    pub(super) loses_answer: bool,
}

/// All purchases, in order of their dates, as they happened.
pub(super) fn all() -> Result<Vec<Purchase>, Failure> {
    let mut purchases =
        parse(FILE).map_err(|why| Failure::new(Exit::Failed, format!("cdnow.txt, {why}"), ""))?;
    purchases.sort_by_key(|purchase| purchase.date);
    Ok(purchases)
}

fn parse(text: &str) -> Result<Vec<Purchase>, String> {
    let mut purchases = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1) {
        let wrong = || format!("line {}: found \"{line}\", wanted customer, date, CDs, dollars", number + 1);
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [customer, date, _, dollars] = fields[..] else {
            if fields.is_empty() { continue } else { return Err(wrong()) }
        };
        purchases.push(Purchase {
            line: number as u64 + 1,
            customer: customer.parse().map_err(|_| wrong())?,
            date: date.parse().map_err(|_| wrong())?,
            cents: cents(dollars).ok_or_else(wrong)?,
        });
    }
    Ok(purchases)
}

/// `"11.77"` as 1177: by digits, as no binary fraction is a cent.
fn cents(dollars: &str) -> Option<u64> {
    let (whole, part) = dollars.split_once('.')?;
    if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(100)?.checked_add(part.parse().ok()?)
}

/// The deliveries of so many purchases: each once in order, some again a little later, some without an answer.
/// The same every time, so that a run can be repeated.
pub(super) fn deliveries(purchases: usize) -> Vec<Delivery> {
    let mut later: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let mut deliveries = Vec::with_capacity(purchases + purchases / TWICE_ONE_IN as usize + 1);
    let push = |deliveries: &mut Vec<Delivery>, purchase| {
        let loses_answer = mix(deliveries.len() as u64 ^ 0xa11c_e000).is_multiple_of(LOSE_ONE_IN);
        deliveries.push(Delivery { purchase, loses_answer });
    };
    for purchase in 0..purchases as u32 {
        push(&mut deliveries, purchase);
        let dice = mix(u64::from(purchase));
        if dice.is_multiple_of(TWICE_ONE_IN) {
            let at = deliveries.len() as u64 + (dice >> 32) % LATER_MAX;
            later.entry(at).or_default().push(purchase);
        }
        while let Some(due) = later.first_entry().filter(|entry| *entry.key() <= deliveries.len() as u64) {
            due.remove().into_iter().for_each(|again| push(&mut deliveries, again));
        }
    }
    later.into_values().flatten().for_each(|again| push(&mut deliveries, again));
    deliveries
}

/// A number that looks random (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_what_its_authors_say() {
        let purchases = all().unwrap();
        assert_eq!(purchases.len(), 69_659);
        let mut customers: Vec<u32> = purchases.iter().map(|purchase| purchase.customer).collect();
        customers.sort_unstable();
        customers.dedup();
        assert_eq!(customers.len(), 23_570);
        assert!(purchases.is_sorted_by_key(|purchase| purchase.date));
        assert!(purchases.iter().all(|purchase| (19_970_101..=19_980_630).contains(&purchase.date)));
        let dear = purchases.iter().find(|purchase| purchase.line == 2).unwrap();
        assert_eq!((dear.customer, dear.cents), (1, 1177));
    }

    #[test]
    fn money_is_read_by_its_digits() {
        for (text, wanted) in [("11.77", Some(1177)), ("0.00", Some(0)), ("1286.01", Some(128_601))] {
            assert_eq!(cents(text), wanted, "{text}");
        }
        for bad in ["11", "11.7", "11.777", "-1.00", "1.x0", "", "99999999999999999999.00"] {
            assert_eq!(cents(bad), None, "{bad}");
        }
        assert!(parse("head\n 00001 19970101 1\n").unwrap_err().starts_with("line 2"));
    }

    #[test]
    fn every_purchase_is_delivered_and_some_twice() {
        let deliveries = deliveries(10_000);
        let mut times = vec![0; 10_000];
        deliveries.iter().for_each(|delivery| times[delivery.purchase as usize] += 1);
        assert!(times.iter().all(|times| (1..=2).contains(times)));
        let twice = times.iter().filter(|times| **times == 2).count();
        assert!((800..1200).contains(&twice), "{twice}");
        let lost = deliveries.iter().filter(|delivery| delivery.loses_answer).count();
        assert!((60..150).contains(&lost), "{lost}");
        assert_eq!(deliveries, super::deliveries(10_000));
    }
}
