//! What rides with a producer's batch: guards that hold or do not, changes of keys, and now and then a key under which it happens once.

use super::{Client, View};
use crate::random::Random;
use quorate_types::{
    Commit, Compare, FencingToken, Fingerprint, Guard, Idempotency, IdempotencyKey, Key, KeyField, LeaseId,
    LimitPolicy, Millis, Op,
};

/// How long an answer is kept: longer than any run.
const KEPT: Millis = Millis(24 * 3600 * 1000);

impl Client {
    pub(super) fn rider(&self, random: &mut Random, view: &View<'_>, kind: &str, keys: u64) -> Commit {
        let mut rider = Commit::default();
        let key = Key::new(format!("k/{}", random.below(40)));
        match random.below(8) {
            0 | 1 => {
                let found = view.machine.get(&key).map_or(0, |found| found.version.0);
                let wanted = found + u64::from(random.chance(4));
                let (field, compare) = (KeyField::Version, Compare::Equal);
                rider.guards.push(Guard::Key { key: key.clone(), field, compare, wanted });
            }
            2 => {
                if let Some((lock, token)) = random.pick(&self.tokens).cloned() {
                    let token = if random.chance(4) { FencingToken(token.0 / 2) } else { token };
                    rider.guards.push(Guard::Fence { lock, token });
                }
            }
            3 => {
                let policy = LimitPolicy::Bucket { count: 5, period: Millis(700), burst: 8 };
                rider.guards.push(Guard::Limit { name: "lim/bucket".into(), policy, cost: 1 });
            }
            _ => {}
        }
        for _ in 0..random.between(1, 2) {
            rider.then.push(match random.below(4) {
                0 => Op::Delete { key: key.clone(), prev: false },
                1 => Op::Put { key: key.clone(), value: "rode".into(), lease: LeaseId::ZERO, prev: false },
                _ => Op::Increment {
                    key: Key::new(format!("i/{}", random.below(4))),
                    by: if random.chance(2) { 1 } else { -1 },
                    min: -50,
                    max: 60,
                },
            });
        }
        if keys > 0 && random.chance(2) {
            let number = random.below(keys);
            // The same key is the same request, whatever is in it: what comes under it later is known.
            rider.idempotency = Some(Idempotency {
                key: IdempotencyKey::from(format!("ride/{kind}/{number}").as_str()),
                ttl: KEPT,
                fingerprint: Fingerprint(u128::from(number) + 1),
            });
        }
        rider
    }
}
