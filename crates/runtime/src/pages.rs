//! How a server's memory comes from the system.
//!
//! Allocators ask for huge pages where the system leaves that to programs (`madvise`). Whoever touches one first then waits until the kernel
//! has found, perhaps made room for, and cleared two megabytes, in the middle of somebody's request; and a page of which little is
//! used is held whole. A state of small rows gains nothing from them that could be measured. redis-server turns them off for the same reason.
//!
//! Called by: `serve` and the benchmarks, before they start a thread.

/// Has this process, and those it starts, get memory in small pages only (Linux: prctl(2), `PR_SET_THP_DISABLE`). Where the system has no
/// such thing, or refuses it, all goes on as usual.
pub fn use_small_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_process_can_do_without_huge_pages() {
        super::use_small_pages();
        assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
    }
}
