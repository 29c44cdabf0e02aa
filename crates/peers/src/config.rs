//! What can be set about links, and the check that it makes sense.
//!
//! Called by: `Links::start`.

use crate::error::PeersError;
use crate::outbox::FRAME_COST;
use crate::tls::PeerTls;
use std::time::Duration;

/// How links behave. The defaults suit nodes in one region.
#[derive(Clone, Debug)]
pub struct LinksConfig {
    /// Mutual TLS; none: plain TCP. All nodes of a cluster must agree.
    pub tls: Option<PeerTls>,
    /// Largest frame sent or taken, in bytes: 64 MiB.
    pub frame_bytes_max: usize,
    /// Most bytes waiting for one peer, written ones not counted: 128 MiB.
    pub queue_bytes_max: usize,
    /// For one TCP connect: 1 s, so that a packet lost to a cut that has healed costs little.
    pub connect_timeout: Duration,
    /// For the handshake, TLS included: 3 s.
    pub handshake_timeout: Duration,
    /// A connection without a byte for this long is dropped: 5 s. Also the kernel's limit for unacknowledged bytes (RFC 5482).
    pub idle_timeout: Duration,
    /// An idle connection carries an empty frame this often, in both directions: 1 s.
    pub keepalive_interval: Duration,
    /// Wait before the first redial: 50 ms. Doubles up to the next field.
    pub redial_min: Duration,
    /// Longest wait before a redial: 1 s.
    pub redial_max: Duration,
}

impl Default for LinksConfig {
    fn default() -> LinksConfig {
        LinksConfig {
            tls: None,
            frame_bytes_max: 64 << 20,
            queue_bytes_max: 128 << 20,
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(1),
            redial_min: Duration::from_millis(50),
            redial_max: Duration::from_secs(1),
        }
    }
}

impl LinksConfig {
    pub(crate) fn check(&self) -> Result<(), PeersError> {
        let wrong = |why: String| Err(PeersError::Config { why });
        let (frame, queue) = (self.frame_bytes_max, self.queue_bytes_max);
        if frame == 0 || u32::try_from(frame).is_err() {
            return wrong(format!("frame_bytes_max is {frame}: take 1 to {}", u32::MAX));
        }
        if queue.saturating_sub(FRAME_COST) < frame {
            return wrong(format!(
                "queue_bytes_max is {queue}, so a frame of frame_bytes_max = {frame} bytes could never be sent: raise it above {}",
                frame.saturating_add(FRAME_COST)
            ));
        }
        let (idle, keepalive) = (self.idle_timeout, self.keepalive_interval);
        if keepalive.is_zero() || idle < keepalive.saturating_mul(2) {
            return wrong(format!(
                "idle_timeout is {idle:?} and keepalive_interval {keepalive:?}: idle links would be dropped; take at least twice the interval"
            ));
        }
        if self.redial_min.is_zero() || self.redial_max < self.redial_min {
            return wrong(format!(
                "redial_min is {:?} and redial_max {:?}: take a first above zero and a second not below it",
                self.redial_min, self.redial_max
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let good = LinksConfig::default();
        assert!(good.check().is_ok());
        let check = |change: fn(&mut LinksConfig), said: &str| {
            let mut config = LinksConfig::default();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        };
        check(|config| config.frame_bytes_max = 0, "frame_bytes_max is 0");
        check(|config| config.frame_bytes_max = 1 << 33, "frame_bytes_max");
        check(|config| config.queue_bytes_max = 64 << 20, "could never be sent");
        check(|config| config.idle_timeout = Duration::from_secs(1), "idle links would be dropped");
        check(|config| config.redial_max = Duration::from_millis(1), "redial_max");
    }
}
