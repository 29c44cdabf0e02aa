//! Load, and probes that tell to a few milliseconds when writes are acknowledged.
//!
//! Called by: `failover`, `calm`, `transfer`, `catchup`.

use crate::fleet::Fleet;
use crate::history::Clock;
use crate::http::{Client, Outcome};
use crate::random::Random;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::MissedTickBehavior;

/// How often each node gets a probe.
const EVERY: Duration = Duration::from_millis(5);
/// Probes under way at one node: more than fit into the longest failover that is waited for are of no use.
const UNDER_WAY_MAX: usize = 400;
/// How long a probe or a request of the load may take.
const PATIENCE: Duration = Duration::from_secs(3);
const VALUE_BYTES: usize = 256;
const KEYS: u64 = 100_000;

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub(crate) node: usize,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
}

/// Load and probes that run until this is dropped.
pub(crate) struct Pressure {
    pub(crate) clock: Clock,
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: Cell<bool>,
    done: Cell<u64>,
    failed: Cell<u64>,
    acks: RefCell<Vec<Ack>>,
}

impl Pressure {
    /// Clients that write as fast as they are answered, spread over all nodes. Runs inside a `LocalSet`.
    pub(crate) fn start(fleet: &Fleet, clients: usize) -> Self {
        let pressure = Self { clock: Clock::start(), shared: Rc::default() };
        let addresses: Vec<_> = fleet.all().into_iter().map(|node| fleet.http(node)).collect();
        for number in 0..clients {
            spawn_local(load(addresses.clone(), number, Rc::clone(&pressure.shared)));
        }
        pressure
    }

    /// Sends a probe to every node every 5 ms, each without waiting for the last.
    pub(crate) fn probe(&self, fleet: &Fleet) {
        for node in fleet.all() {
            spawn_local(probe(node, fleet.http(node), self.clock, Rc::clone(&self.shared)));
        }
    }

    /// Writes of the load that were acknowledged.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.get()
    }

    /// Requests of the load without a success.
    pub(crate) fn failed(&self) -> u64 {
        self.shared.failed.get()
    }

    /// Takes out what the probes saw so far.
    pub(crate) fn take_acks(&self) -> Vec<Ack> {
        self.shared.acks.take()
    }

    /// When the first probe that a node was sent at or after a time was acknowledged.
    pub(crate) fn first_ack(&self, node: usize, after: u64) -> Option<u64> {
        let acks = self.shared.acks.borrow();
        acks.iter().filter(|ack| ack.node == node && ack.sent >= after).map(|ack| ack.acknowledged).min()
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.shared.stop.set(true);
    }
}

async fn load(addresses: Vec<SocketAddr>, number: usize, shared: Rc<Shared>) {
    let mut random = Random::new(number as u64);
    let mut at = number % addresses.len();
    let mut client = Client::new(addresses[at]);
    while !shared.stop.get() {
        let path = format!("/v1/keys/load{:08}", random.below(KEYS));
        match client.ask("PUT", &path, &[b'x'; VALUE_BYTES], PATIENCE).await {
            Outcome::Done(_) => shared.done.set(shared.done.get() + 1),
            _ => {
                // As clients do: try the next node.
                shared.failed.set(shared.failed.get() + 1);
                at = (at + 1) % addresses.len();
                client = Client::new(addresses[at]);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn probe(node: usize, address: SocketAddr, clock: Clock, shared: Rc<Shared>) {
    let idle: Rc<RefCell<Vec<Client>>> = Rc::default();
    let under_way = Rc::new(Cell::new(0usize));
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !shared.stop.get() {
        ticks.tick().await;
        if under_way.get() >= UNDER_WAY_MAX {
            continue;
        }
        under_way.set(under_way.get() + 1);
        let (idle, under_way, shared) = (Rc::clone(&idle), Rc::clone(&under_way), Rc::clone(&shared));
        spawn_local(async move {
            let free = idle.borrow_mut().pop();
            let mut client = free.unwrap_or_else(|| Client::new(address));
            let sent = clock.now();
            let path = format!("/v1/keys/probe{node}");
            if let Outcome::Done(_) = client.ask("PUT", &path, b"probe", PATIENCE).await {
                let ack = Ack { node, sent, acknowledged: clock.now() };
                shared.acks.borrow_mut().push(ack);
                idle.borrow_mut().push(client);
            }
            under_way.set(under_way.get() - 1);
        });
    }
}

/// Median, 99th percentile and greatest.
pub(crate) fn spread(mut values: Vec<u64>) -> (u64, u64, u64) {
    values.sort_unstable();
    let at = |part: f64| {
        let place = ((values.len() as f64 * part).ceil() as usize).max(1) - 1;
        values.get(place).copied().unwrap_or(0)
    };
    (at(0.5), at(0.99), at(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_by_rank() {
        assert_eq!(spread((1..=100).collect()), (50, 99, 100));
        assert_eq!(spread(vec![7]), (7, 7, 7));
        assert_eq!(spread(vec![]), (0, 0, 0));
    }
}
