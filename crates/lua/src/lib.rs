//! Runs Redis scripts: Lua 5.1 with Redis' libraries, deterministic and within budgets.
//!
//! The language itself is the original implementation, compiled in (`mlua`). What it leaves to chance or to its platform is replaced: the order of
//! tables keyed by addresses is refused, addresses are shown as numbers, randomness comes from the run's seed, the clock from its entry.
//!
//! **How a bound is the same everywhere.** Scripts run in one shared state, where a run takes microseconds but where memory in use depends on what
//! ran before. So a run there has a small part of the bounds and no collector, and meeting one decides nothing: the script runs again from its start in a
//! state of its own, its earlier calls answered as they were the first time. Only that run's verdict counts, and it depends on nothing but the
//! script, its arguments and its replies: work is counted in VM instructions (looked at every hundred), bytes gone over and bytes allocated; memory by
//! the allocator. A run that ended well in the shared state would have ended alike in a state of its own, since the bounds there are larger by more than
//! all that the shared state may hold at its start (2 MiB of garbage and the last run).
//!
//! Invariant: nothing of a run is visible to a later one. Libraries are seen through proxies made for the run; every function is one that a script
//! cannot write to.
//! Invariant: an aborted run cannot go on: `pcall`, `xpcall` and coroutines raise the abort again.
//! Known dependences on the platform: `math`'s transcendental functions (`sin`, `exp`, `pow`…) and `^` are the C library's, and bytes in use are those of a
//! 64-bit build; replicas that must agree run the same build. A table that has ever had tables or functions as keys hashes them by address: walking
//! it is refused while it has one.
//! Known limit: `..` inside the language's own code is charged by what it allocates, so a text joined again and again to the same result is charged by
//! its instructions alone.
//! Called by: the machine, through [`quorate_calls::Interpreter`].

#![forbid(unsafe_code)]

mod convert;
mod json;
mod meter;
mod msgpack;
mod number;
mod pattern;
mod redis;
mod state;
mod strings;
mod structs;

use mlua::Function;
use quorate_calls::{Error, FunctionSpec, Host, Interpreter, Run};
use quorate_types::{Blob, Reply};
use redis::Tape;
use state::{Bounds, Ran, State};
use std::collections::HashMap;

/// Units of work that a script may use: a VM instruction is one, some 10 to 20 ns. Whoever needs more than half of them in the shared state begins
/// anew in a state of its own, so that in all a script keeps others waiting for less than 50 ms.
pub const UNITS_MAX: u64 = 2_000_000;
/// Bytes of memory that a script may use.
pub const MEMORY_BYTES_MAX: usize = 64 << 20;

/// In the shared state.
const SHARED: Bounds =
    Bounds { units: UNITS_MAX / 2, memory_bytes: 8 << 20, grain: 1000, collect_bytes: None };
/// In a state of its own.
const OWN: Bounds =
    Bounds { units: UNITS_MAX, memory_bytes: MEMORY_BYTES_MAX, grain: 100, collect_bytes: Some(24 << 20) };
/// Compiled scripts that are kept.
const KEPT_MAX: usize = 1000;
/// Bytes of the texts of all of them.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// The interpreter.
#[derive(Default)]
pub struct Scripts {
    shared: Option<Shared>,
}

/// The state in which scripts run, and those it has compiled.
struct Shared {
    kept: HashMap<(bool, Blob), (Function, u64)>,
    kept_bytes: usize,
    clock: u64,
    state: State,
}

impl std::fmt::Debug for Scripts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = self.shared.as_ref().map_or(0, |shared| shared.kept.len());
        f.debug_struct("Scripts").field("kept", &kept).finish()
    }
}

impl Scripts {
    /// An interpreter. It takes its memory with its first script.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn shared(&mut self) -> Result<&mut Shared, Error> {
        if self.shared.is_none() {
            let state = State::new().map_err(internal)?;
            self.shared = Some(Shared { kept: HashMap::new(), kept_bytes: 0, clock: 0, state });
        }
        Ok(self.shared.as_mut().expect("made where it was absent"))
    }

    /// Runs in a state of its own, whose verdict counts.
    fn run_apart(run: &Run<'_>, tape: &mut Tape<'_>, wall_ms: u64) -> Result<Reply, Error> {
        tape.rewind();
        let state = State::new().map_err(internal)?;
        let main = state.compile(run.text, run.function.is_some())?;
        match state.run(run, &main, tape, wall_ms, OWN).map_err(internal)? {
            Ran::Through(answer) => answer,
            Ran::Stopped(why) => Err(Error::Abort(stopped(why, tape))),
        }
    }
}

impl Interpreter for Scripts {
    fn run(&mut self, run: &Run<'_>, host: &mut dyn Host) -> Result<Reply, Error> {
        let wall_ms = host.wall().0;
        let mut tape = Tape::new(host);
        let shared = self.shared()?;
        let main = shared.compiled(run.text, run.function.is_some())?;
        match shared.state.run(run, &main, &mut tape, wall_ms, SHARED).map_err(internal)? {
            Ran::Through(answer) => {
                drop(main);
                shared.state.tidy().map_err(internal)?;
                return answer;
            }
            Ran::Stopped(meter::Stop::Host) => return Err(Error::Abort(stopped(meter::Stop::Host, &tape))),
            Ran::Stopped(_) => {}
        }
        drop(main);
        self.shared = None; // What it holds of a run that was stopped is not worth a look.
        Self::run_apart(run, &mut tape, wall_ms)
    }

    fn check(&mut self, text: &Blob) -> Result<(), Error> {
        self.shared()?.state.compile(text, false).map(drop)
    }

    /// In a state of its own, so that what it takes is the same everywhere.
    fn load(&mut self, text: &Blob, units_max: u64) -> Result<(Vec<FunctionSpec>, u64), Error> {
        let state = State::new().map_err(internal)?;
        let main = state.compile(text, true)?;
        state.register(&main, text.len(), Bounds { units: units_max, ..OWN }).map_err(internal)?
    }

    fn sha1(&self, bytes: &[u8]) -> [u8; 20] {
        redis::sha1(bytes)
    }
}

impl Shared {
    fn compiled(&mut self, text: &Blob, is_library: bool) -> Result<Function, Error> {
        self.clock += 1;
        let chunk = (is_library, text.clone());
        if let Some((main, used)) = self.kept.get_mut(&chunk) {
            *used = self.clock;
            return Ok(main.clone());
        }
        let main = self.state.compile(text, is_library)?;
        if text.len() <= KEPT_BYTES_MAX / 4 {
            while self.kept.len() >= KEPT_MAX || self.kept_bytes + text.len() > KEPT_BYTES_MAX {
                let oldest =
                    self.kept.iter().min_by_key(|(_, (_, used))| *used).map(|(chunk, _)| chunk.clone());
                let oldest = oldest.expect("a cache over its bound is not empty");
                self.kept_bytes -= oldest.1.len();
                self.kept.remove(&oldest);
            }
            self.kept_bytes += text.len();
            self.kept.insert(chunk, (main.clone(), self.clock));
        }
        Ok(main)
    }
}

/// Why a run was aborted.
fn stopped(why: meter::Stop, tape: &Tape<'_>) -> Blob {
    match why {
        meter::Stop::Work => {
            let text = format!(
                "ERR script went over its budget of {UNITS_MAX} instructions: nothing of it happened"
            );
            Blob::from(text.as_bytes())
        }
        meter::Stop::Memory => {
            let text = format!(
                "ERR script went over its budget of {MEMORY_BYTES_MAX} bytes: nothing of it happened"
            );
            Blob::from(text.as_bytes())
        }
        meter::Stop::Host => tape.abort.clone().expect("a host that stops a run says why"),
    }
}

/// A failure of the interpreter itself: it concerns no script, so nothing of this one happens.
fn internal(error: mlua::Error) -> Error {
    Error::Abort(convert::one_line(format!("ERR the interpreter failed: {error}").as_bytes()))
}
