//! The door: who enters, by password or token, and what whoever has entered may do. All gateways ask here.
//!
//! A password becomes verifiers of SCRAM, by SHA-256 and by SHA-512, on the node that takes it ([`verifier`]); only they are logged. Checking one costs thousands of
//! hashes, which is the point of it; so that a client which sends it with every request is not that slow, what was found right is remembered as
//! an HMAC under a key of this process, together with the verifier: a changed password is asked for again.
//!
//! Invariant: no secret is kept, logged or shown; an unknown name takes as long to refuse as a wrong password.
//! Called by: gateways.
//! Source: RFC 5802 §3 (SCRAM), RFC 7677 (with SHA-256), RFC 8018 §5.2 (PBKDF2).

use crate::error::RuntimeError;
use crate::handle::{Handle, off_thread};
use quorate_machine::{Access, Rights};
use quorate_types::{Blob, Digest, Principal, Scram, ScramHash, Verifier};
use ring::{digest, hmac, pbkdf2};
use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The rule of [`is_user_name`], for people.
pub const USER_NAME: &str =
    "the name of a user has 1 to 256 bytes, and no space, colon or zero byte among them";

/// Whether a user may be named so: where names are given to users, and are told in the words of several protocols.
#[must_use]
pub fn is_user_name(name: &[u8]) -> bool {
    (1..=256).contains(&name.len()) && !name.iter().any(|byte| matches!(byte, b' ' | b':' | 0))
}

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
    pub(crate) fn salt_of_nobody(&self, hash: ScramHash, user: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(match hash {
            ScramHash::Sha256 => b"salt of nobody",
            ScramHash::Sha512 => b"wide of nobody",
        });
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

/// What a password is checked by, with salts of its own.
///
/// # Errors
/// [`RuntimeError::Stopped`] when the system has no entropy.
pub fn verifier(password: &[u8]) -> Result<Scram, RuntimeError> {
    let (one, other) = (drawn::<SALT_BYTES>()?, drawn::<SALT_BYTES>()?);
    let narrow = verifier_of(password, Blob::copy_from(&one), ITERATIONS);
    Ok(Scram::Both(narrow, verifier_of(password, Blob::copy_from(&other), ITERATIONS)))
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

/// The functions of SCRAM by one hash.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    pub(crate) hash: &'static digest::Algorithm,
    pub(crate) hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

/// Those by SHA-256.
pub(crate) fn by_sha256() -> Suite {
    Suite { hash: &digest::SHA256, hmac: hmac::HMAC_SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256 }
}

/// Those by SHA-512.
pub(crate) fn by_sha512() -> Suite {
    Suite { hash: &digest::SHA512, hmac: hmac::HMAC_SHA512, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512 }
}

const fn is_wide<const N: usize>() -> bool {
    assert!(N == 32 || N == 64, "verifiers are by SHA-256 or by SHA-512");
    N == 64
}

fn suite<const N: usize>() -> Suite {
    if const { is_wide::<N>() } { by_sha512() } else { by_sha256() }
}

/// The verifier that a password has with this salt and so many rounds (RFC 5802 §3).
#[must_use]
pub fn verifier_of<const N: usize>(password: &[u8], salt: Blob, iterations: u32) -> Verifier<N> {
    let mut salted = [0; N];
    let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(suite::<N>().pbkdf2, rounds, &salt, password, &mut salted);
    verifier_of_salted(&salted, salt, iterations)
}

/// The verifier of a password of which only this is known: what PBKDF2 has made of it with this salt and so many rounds.
#[must_use]
pub fn verifier_of_salted<const N: usize>(salted: &[u8; N], salt: Blob, iterations: u32) -> Verifier<N> {
    let Suite { hash, hmac, .. } = suite::<N>();
    let key = hmac::Key::new(hmac, salted);
    let stored_key = digest::digest(hash, hmac::sign(&key, b"Client Key").as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    Verifier {
        salt,
        iterations,
        stored_key: fixed(stored_key.as_ref()),
        server_key: fixed(server_key.as_ref()),
    }
}

/// Whether this is the password.
#[must_use]
pub fn verifies(scram: &Scram, password: &[u8]) -> bool {
    fn is<const N: usize>(wanted: &Verifier<N>, password: &[u8]) -> bool {
        let found = verifier_of::<N>(password, wanted.salt.clone(), wanted.iterations);
        same(&found.stored_key, &wanted.stored_key)
    }
    // Both would be of one password: to ask one is enough.
    match scram {
        Scram::Sha256(verifier) | Scram::Both(verifier, _) => is(verifier, password),
        Scram::Sha512(verifier) => is(verifier, password),
    }
}

/// Whether two hashes are the same, in time that does not depend on where they differ.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0 && one.len() == other.len()
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a hash and its HMAC have the hash's length")
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
        if usable.is_some_and(|access| access.user().sha256.iter().any(|other| same(&other.0, &hash.0))) {
            return Ok(Some(principal));
        }
        let mut verifiers = usable.map_or(Vec::new(), |access| access.user().scram.clone());
        let remembered = self.remembered();
        let marks: Vec<_> = verifiers.iter().map(|scram| remembered.mark(&scram.mark(), password)).collect();
        if marks.iter().any(|mark| remembered.has(mark)) {
            return Ok(Some(principal));
        }
        if verifiers.is_empty() {
            // As long as for a wrong password, so that nobody learns which names there are.
            let (stored_key, server_key) = ([0; 32], [0; 32]);
            let salt = "0123456789abcdef".into();
            verifiers.push(Scram::Sha256(Verifier { salt, iterations: ITERATIONS, stored_key, server_key }));
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
        let scram = verifier_of::<32>(b"pencil", Blob::copy_from(&salt), 4096);
        let message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let key = hmac::Key::new(hmac::HMAC_SHA256, &scram.server_key);
        let signature = hmac::sign(&key, message);
        // v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=
        assert_eq!(signature.as_ref()[..6], [0xea, 0xba, 0xe2, 0x4d, 0x10, 0x62]);
        let scram = Scram::Sha256(scram);
        assert!(verifies(&scram, b"pencil") && !verifies(&scram, b"pencils"));
    }

    #[test]
    fn a_password_is_checked_by_either_hash() {
        let one = verifier_of::<64>(b"x", "salt".into(), 10);
        assert!(verifies(&Scram::Sha512(one.clone()), b"x") && !verifies(&Scram::Sha512(one), b"y"));
        let Scram::Both(narrow, wide) = verifier(b"x").unwrap() else { panic!("a password has both") };
        assert_ne!(narrow.salt, wide.salt);
        assert!(verifies(&Scram::Sha512(wide), b"x"));
    }

    #[test]
    fn two_verifiers_of_one_password_differ() {
        let (one, two) = (verifier(b"x").unwrap(), verifier(b"x").unwrap());
        assert_ne!(one.mark(), two.mark());
        assert!(verifies(&one, b"x") && verifies(&two, b"x"));
    }
}
