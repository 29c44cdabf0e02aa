//! How the processors are shared among a server's threads.
//!
//! Its threads wake each other all the time: a request wakes who orders, a sync wakes who answers. As usual, whoever is woken may
//! interrupt whoever runs, so that on busy processors work is handed over a piece at a time. Under `SCHED_BATCH` (sched(7)) it waits for
//! a free processor or its turn, and what comes meanwhile gathers: fewer and larger entries, frames and syncs for the same requests.
//! Where processors are idle nothing changes.
//!
//! Called by: `serve`, before it starts a thread; threads take the policy of the one that starts them.

/// How threads of the server are woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scheduling {
    /// Nobody is interrupted by who is woken: most throughput on busy processors.
    Batch,
    /// As the system does for every program.
    Normal,
}

impl Scheduling {
    /// Sets the policy of this thread and of those it starts. Where the system has no such policy, or refuses it, all goes on as usual.
    pub(crate) fn apply(self) {
        #[cfg(target_os = "linux")]
        if self == Scheduling::Batch {
            batch();
        }
    }
}

#[cfg(target_os = "linux")]
fn batch() {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    // The call sets the niceness too: to what it is. The crate counts it from 99 (niceness -20) down to 0 (19).
    let Ok(nice) = rustix::process::getpriority_process(None) else { return };
    let value = (99.0 * (1.0 - (f64::from(nice) + 20.5) / 39.0)).clamp(0.0, 99.0).round();
    let Ok(value) = ThreadPriorityValue::try_from(value as u8) else { return };
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    // A refusal (a container's filter) leaves the usual policy.
    let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), policy);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::Scheduling;

    #[test]
    fn threads_started_under_batch_are_woken_that_way_and_are_as_nice_as_before() {
        let started = std::thread::spawn(|| {
            let nice = rustix::process::getpriority_process(None).unwrap();
            Scheduling::Batch.apply();
            assert_eq!(rustix::process::getpriority_process(None).unwrap(), nice);
            std::thread::spawn(|| std::fs::read_to_string("/proc/thread-self/sched").unwrap()).join().unwrap()
        });
        let sched = started.join().unwrap();
        let policy = sched.lines().find(|line| line.starts_with("policy")).unwrap();
        assert!(policy.ends_with(" 3"), "{policy}");
    }
}
