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
}

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
    fn sha1(&self, _: &[u8]) -> [u8; 20] {
        [0; 20]
    }
}
