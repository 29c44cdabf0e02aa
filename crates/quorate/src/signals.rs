//! SIGTERM and ctrl-c, heard on a thread of their own by commands that have something to end in good order.
//!
//! Called by: `lock`, `elect`, `demo`. The server hears signals on its own event loop.

use crate::failure::Failure;
use tokio::signal::unix::{SignalKind, signal};

/// Calls `tell` with the number of each signal (15 or 2), until it gives back `false`. From now on they do not end this process.
pub(crate) fn listen(tell: impl Fn(u8) -> bool + Send + 'static) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io("listen for signals", &error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let number = tokio::select! {
                    _ = terminate.recv() => 15,
                    _ = interrupt.recv() => 2,
                };
                if !tell(number) {
                    return;
                }
            }
        });
    });
    Ok(())
}
