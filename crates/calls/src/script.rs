//! What runs scripts, and what a script may ask for. The interpreter itself is a crate of its own, handed in from outside.
//!
//! Invariant: a script's effects and its answer are a function of the store, its text, keys, arguments and seed: an interpreter keeps nothing from
//! one run to the next that a script could see.

use crate::Error;
use quorate_types::{Blob, Reply, WallTime};

/// Runs scripts.
pub trait Interpreter: Send {
    /// Runs a script.
    ///
    /// # Errors
    /// [`Error::Reply`]: it ended with an error, and what it did before stands. [`Error::Abort`]: it went over its budget, and all of it is taken back.
    fn run(&mut self, run: &Run<'_>, host: &mut dyn Host) -> Result<Reply, Error>;
    /// Whether a text is a script at all.
    ///
    /// # Errors
    /// Where it is not.
    fn check(&mut self, text: &Blob) -> Result<(), Error>;
    /// Runs the text of a library, which may do nothing but register functions: those, and the units of work that took.
    ///
    /// # Errors
    /// [`Error::Reply`], in Redis' words; also when it would take more than `units_max` units.
    fn load(&mut self, text: &Blob, units_max: u64) -> Result<(Vec<FunctionSpec>, u64), Error>;
    /// SHA-1 (RFC 3174), by which scripts are named.
    fn sha1(&self, bytes: &[u8]) -> [u8; 20];
}

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Its text.
    pub text: &'a Blob,
    /// `KEYS`.
    pub keys: &'a [Blob],
    /// `ARGV`.
    pub args: &'a [Blob],
    /// From which `math.random` starts.
    pub seed: u64,
    /// The function to call, where the text is a library's; it gets keys and arguments as its own.
    pub function: Option<&'a Blob>,
}

/// A function that a library has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Its name. Names of functions are told apart without regard to case.
    pub name: Blob,
    /// What it says of itself.
    pub description: Option<Blob>,
    /// What it may do: bits, in the order of [`FunctionSpec::FLAGS`].
    pub flags: u32,
}
quorate_types::wire_struct!(FunctionSpec { name, description, flags });

impl FunctionSpec {
    /// Names of the flags.
    pub const FLAGS: [&'static str; 5] =
        ["no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys"];

    /// Whether it must not change anything.
    #[must_use]
    pub fn no_writes(&self) -> bool {
        self.flags & 1 == 1
    }

    /// Whether it minds no memory limit.
    #[must_use]
    pub fn allow_oom(&self) -> bool {
        self.flags & 2 == 2
    }
}

/// A library of functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Its text, with the first line that names it.
    pub code: Blob,
    /// What it registers, in order.
    pub functions: Vec<FunctionSpec>,
}
quorate_types::wire_struct!(Library { code, functions });

/// What a running script may ask for.
pub trait Host {
    /// `redis.call`: an [`Reply::Error`] or an `Err` is an error in the script.
    ///
    /// # Errors
    /// As the command has them.
    fn call(&mut self, words: &[Blob]) -> Result<Reply, Error>;
    /// Whether the script's caller may run a command on these words.
    ///
    /// # Errors
    /// There is no such command.
    fn permitted(&self, words: &[Blob]) -> Result<bool, Error>;
    /// Wall time of the entry: what `os.time` and TIME show.
    fn wall(&self) -> WallTime;
}

/// An interpreter that refuses every script: for a build or a test without one.
#[derive(Debug, Default)]
pub struct NoScripts;

impl Interpreter for NoScripts {
    fn run(&mut self, _: &Run<'_>, _: &mut dyn Host) -> Result<Reply, Error> {
        Err(Error::reply("ERR this server was built without an interpreter for scripts"))
    }
    fn check(&mut self, _: &Blob) -> Result<(), Error> {
        Err(Error::reply("ERR this server was built without an interpreter for scripts"))
    }
    fn load(&mut self, _: &Blob, _: u64) -> Result<(Vec<FunctionSpec>, u64), Error> {
        Err(Error::reply("ERR this server was built without an interpreter for scripts"))
    }
    fn sha1(&self, _: &[u8]) -> [u8; 20] {
        [0; 20]
    }
}
