//! The door: who enters, by password or token, and what whoever has entered may do. All gateways ask here.
//!
//! A password becomes a SCRAM-SHA-256 verifier on the node that takes it ([`verifier`]); only that is logged. Checking one costs thousands of
//! hashes, which is the point of it; so that a client which sends it with every request is not that slow, what was found right is remembered as
//! an HMAC under a key of this process, together with the verifier: a changed password is asked for again.
//!
//! Invariant: no secret is kept, logged or shown; an unknown name takes as long to refuse as a wrong password.
//! Called by: gateways.
//! Source: RFC 5802 §3 (SCRAM), RFC 7677 (with SHA-256), RFC 8018 §5.2 (PBKDF2).

use crate::error::RuntimeError;
use crate::handle::{Handle, off_thread};
use quorate_machine::{Access, Rights};
use quorate_types::{Blob, Digest, Principal, Scram};
use ring::{digest, hmac, pbkdf2};
use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Rounds of PBKDF2 of a new verifier; RFC 7677 §4 wants 4096 or more.
pub const ITERATIONS: u32 = 10_000;
/// Most rounds that are accepted in a verifier made elsewhere.
pub const ITERATIONS_MAX: u32 = 1_000_000;
/// Bytes of salt of a new verifier.
const SALT_BYTES: usize = 16;
/// Right passwords remembered at most; then all are asked for anew.
const REMEMBERED_MAX: usize = 4096;

/// What was found right, for [`Handle::enter`].
pub(crate) struct Remembered {
    key: hmac::Key,
    right: Mutex<HashSet<[u8; 32]>>,
}

impl Remembered {
    pub(crate) fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        // Should the system have no entropy, the seed of this process has to do: nothing of this leaves its memory.
        if getrandom::fill(&mut bytes).is_err() {
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
        }
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes), right: Mutex::default() }
    }

    fn mark(&self, verifier: &Digest, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&verifier.0);
        context.update(password);
        fixed(context.sign().as_ref())
    }

    /// The salt that a name is told which has none: always the same, so that nobody learns by asking twice that it is none.
    pub(crate) fn salt_of_nobody(&self, user: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"salt of nobody");
        context.update(user);
        fixed(context.sign().as_ref())
    }

    fn has(&self, mark: &[u8; 32]) -> bool {
        self.right.lock().unwrap_or_else(PoisonError::into_inner).contains(mark)
    }

    fn add(&self, mark: [u8; 32]) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= REMEMBERED_MAX {
            right.clear();
        }
        right.insert(mark);
    }
}

/// SHA-256 (FIPS 180-4).
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(fixed(digest::digest(&digest::SHA256, bytes).as_ref()))
}

/// A verifier for a password, with a salt of its own.
///
/// # Errors
/// [`RuntimeError::Stopped`] when the system has no entropy.
pub fn verifier(password: &[u8]) -> Result<Scram, RuntimeError> {
    Ok(verifier_of(password, Blob::copy_from(&drawn::<SALT_BYTES>()?), ITERATIONS))
}

/// So many bytes drawn at random.
///
/// # Errors
/// [`RuntimeError::Stopped`] when the system has no entropy.
pub(crate) fn drawn<const N: usize>() -> Result<[u8; N], RuntimeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| RuntimeError::Stopped { why: format!("the system gives no entropy: {error}") })?;
    Ok(bytes)
}

/// So many bytes drawn at random, in hexadecimal digits: a secret for somebody.
///
/// # Errors
/// [`RuntimeError::Stopped`] when the system has no entropy.
pub fn secret(bytes: usize) -> Result<String, RuntimeError> {
    use std::fmt::Write;
    let mut drawn = vec![0; bytes];
    getrandom::fill(&mut drawn)
        .map_err(|error| RuntimeError::Stopped { why: format!("the system gives no entropy: {error}") })?;
    let mut text = String::with_capacity(bytes * 2);
    for byte in drawn {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// The verifier that a password has with this salt and so many rounds (RFC 5802 §3).
#[must_use]
pub fn verifier_of(password: &[u8], salt: Blob, iterations: u32) -> Scram {
    let mut salted = [0; 32];
    let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password, &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let server_key = hmac::sign(&key, b"Server Key");
    Scram {
        salt,
        iterations,
        stored_key: sha256(client_key.as_ref()),
        server_key: Digest(fixed(server_key.as_ref())),
    }
}

/// Whether this is the verifier's password.
#[must_use]
pub fn verifies(scram: &Scram, password: &[u8]) -> bool {
    let found = verifier_of(password, scram.salt.clone(), scram.iterations);
    same(&found.stored_key, &scram.stored_key)
}

/// Whether two hashes are the same, in time that does not depend on where they differ.
pub(crate) fn same(one: &Digest, other: &Digest) -> bool {
    let difference = one.0.iter().zip(other.0).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn fixed(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().expect("SHA-256 and its HMAC have 32 bytes")
}

impl Handle {
    /// Lets somebody in by name and password: its principal; nothing when the pair is wrong, or the user is disabled.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub async fn enter(&self, user: &[u8], password: &[u8]) -> Result<Option<Principal>, RuntimeError> {
        let access = self.user(user)?;
        let principal = Principal::of_user(&Blob::copy_from(user));
        let usable = access.as_ref().filter(|access| access.user().enabled);
        if usable.is_some_and(|access| access.user().nopass) {
            return Ok(Some(principal));
        }
        let hash = sha256(password);
        if usable.is_some_and(|access| access.user().sha256.iter().any(|other| same(other, &hash))) {
            return Ok(Some(principal));
        }
        let mut verifiers = usable.map_or(Vec::new(), |access| access.user().scram.clone());
        let remembered = self.remembered();
        let marks: Vec<_> =
            verifiers.iter().map(|scram| remembered.mark(&scram.stored_key, password)).collect();
        if marks.iter().any(|mark| remembered.has(mark)) {
            return Ok(Some(principal));
        }
        if verifiers.is_empty() {
            // As long as for a wrong password, so that nobody learns which names there are.
            let nobody = Digest::default();
            verifiers.push(Scram {
                salt: "0123456789abcdef".into(),
                iterations: ITERATIONS,
                stored_key: nobody,
                server_key: nobody,
            });
        }
        let password = password.to_vec();
        let right =
            off_thread(move || Ok(verifiers.iter().position(|scram| verifies(scram, &password)))).await?;
        Ok(right.and_then(|at| marks.get(at)).map(|mark| {
            remembered.add(*mark);
            principal
        }))
    }

    /// A verifier of a password that none of these is one of yet.
    ///
    /// # Errors
    /// [`RuntimeError::Stopped`] when the system has no entropy.
    pub async fn verifier(&self, password: Blob, known: Vec<Scram>) -> Result<Option<Scram>, RuntimeError> {
        off_thread(move || {
            if known.iter().any(|scram| verifies(scram, &password)) {
                return Ok(None);
            }
            verifier(&password).map(Some)
        })
        .await
    }

    /// Names of all users, in order, as they are on this node now.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub fn user_names(&self) -> Result<Vec<Blob>, RuntimeError> {
        self.look(quorate_machine::Machine::user_names)
    }

    /// Whose bearer token this is, if an enabled user has it.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub fn token(&self, token: &[u8]) -> Result<Option<Principal>, RuntimeError> {
        let hash = sha256(token);
        self.look(|machine| {
            let user = machine.user_of_token(&hash)?;
            let enabled = machine.user(user).is_some_and(|access| access.user().enabled);
            enabled.then(|| Principal::of_user(user))
        })
    }

    /// A user, as it is on this node now.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub fn user(&self, name: &[u8]) -> Result<Option<Arc<Access>>, RuntimeError> {
        self.look(|machine| machine.user(name))
    }

    /// What a principal may do on this node now.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub fn rights(&self, principal: &Principal) -> Result<Rights, RuntimeError> {
        self.look(|machine| machine.rights(principal))
    }

    /// Asks what is applied here whether something is allowed.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub fn allowed<R>(&self, ask: impl FnOnce(&quorate_machine::Machine) -> R) -> Result<R, RuntimeError> {
        self.look(ask)
    }

    /// Changes whenever a user may have changed on this node: rights that were asked for earlier are to be asked for again.
    #[must_use]
    pub fn users_changed(&self) -> watch::Receiver<u64> {
        self.users_receiver()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 §3: user `user`, password `pencil`.
    #[test]
    fn a_verifier_is_that_of_the_rfc() {
        let salt =
            [0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];
        let scram = verifier_of(b"pencil", Blob::copy_from(&salt), 4096);
        let message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let key = hmac::Key::new(hmac::HMAC_SHA256, &scram.server_key.0);
        let signature = hmac::sign(&key, message);
        // v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=
        assert_eq!(signature.as_ref()[..6], [0xea, 0xba, 0xe2, 0x4d, 0x10, 0x62]);
        assert!(verifies(&scram, b"pencil") && !verifies(&scram, b"pencils"));
    }

    #[test]
    fn two_verifiers_of_one_password_differ() {
        let (one, two) = (verifier(b"x").unwrap(), verifier(b"x").unwrap());
        assert!(one.salt != two.salt && one.stored_key != two.stored_key);
        assert!(verifies(&one, b"x") && verifies(&two, b"x"));
    }
}
