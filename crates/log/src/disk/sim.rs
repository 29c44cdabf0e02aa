//! A folder in memory that fails as real disks do, from a seed: the same seed and the same calls give the same bytes.
//!
//! Model: bytes written live in a cache until `sync_data`; at power loss every unsynced 512-byte sector comes back as any
//! of the contents it had since the last sync, each on its own (lost, torn and reordered writes). Creates, renames and
//! removes since the last `sync_dir` of their folder each happen or not, on their own. A failed sync leaves the cache readable but
//! forgotten: those bytes never reach the disk unless written again, as ext4 and xfs behave.
//!
//! Invariant: what was synced is never lost by the simulation itself; only `flip` changes it.
//! Called by: this crate's tests and the simulator.
//! Source: Rebello et al., ATC 2020 (fsync failures); Pillai et al., OSDI 2014 (crash states).

use super::{Disk, DiskFile, DiskLock, FileInfo, Fill, plain};
use crate::LogError;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;

/// What the disk was asked to do; `SimDisk::crash_at` counts these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `DiskFile::write_at`
    Write,
    /// `DiskFile::sync_data`
    Sync,
    /// `DiskFile::set_len`
    SetLen,
    /// `Disk::create`, and `Disk::folder` where it makes one
    Create,
    /// `Disk::rename`
    Rename,
    /// `Disk::remove`, and `Disk::remove_folder` for each file in it and for itself
    Remove,
    /// `Disk::sync_dir`
    SyncDir,
}

/// Faults that fire by chance, per million operations. All zero: a disk that only fails when told to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimFaults {
    /// A write fails, some of its sectors written.
    pub write_error_ppm: u32,
    /// A sync fails, and forgets what it did not write.
    pub sync_error_ppm: u32,
}

/// A simulated folder. Clones are handles on the same folder; sub-folders share its power, faults, capacity and count of operations.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    /// Empty, or the path of a sub-folder, with a slash at its end.
    prefix: String,
}

impl SimDisk {
    /// An empty folder of 1 TiB whose every choice comes from `seed`.
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            random: seed,
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            names_pending: Vec::new(),
            folders: BTreeSet::new(),
            folders_durable: BTreeSet::new(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            capacity: 1 << 40,
            faults: SimFaults::default(),
            operations: 0,
            crash_at: None,
            crashed: false,
            fail_next: None,
            locked: BTreeSet::new(),
            generation: 0,
        };
        SimDisk { state: Arc::new(Mutex::new(state)), prefix: String::new() }
    }

    /// A folder holding these files, all durable.
    pub fn with_files<'a>(seed: u64, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> SimDisk {
        let disk = SimDisk::new(seed);
        let mut state = disk.state();
        for (name, bytes) in files {
            let inode = state.new_inode();
            let file = state.inode(inode);
            file.cache = bytes.to_vec();
            file.sync_whole();
            state.names.insert(name.to_owned(), inode);
            state.names_durable.insert(name.to_owned(), inode);
        }
        drop(state);
        disk
    }

    /// Sets the disk's size in bytes; writes that need more fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// Sets the faults that fire by chance.
    pub fn set_faults(&self, faults: SimFaults) {
        self.state().faults = faults;
    }

    /// The power fails in the middle of the `k`th operation from now, 0 being the next: a write is half done, a sync, create, rename or
    /// remove may have taken effect or not, and everything after it fails until [`SimDisk::power_loss`].
    pub fn crash_at(&self, k: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + k);
    }

    /// Whether the crash set by [`SimDisk::crash_at`] has come.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Operations so far (writes, syncs and changes of names; reads do not count).
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The next operation of this kind fails.
    pub fn fail_next(&self, op: Op) {
        self.state().fail_next = Some(op);
    }

    /// The power fails now and comes back: unsynced sectors and names come back as chance will have it, the lock is free, and
    /// handles opened before answer errors.
    pub fn power_loss(&self) {
        let mut state = self.state();
        state.settle_names();
        state.settle_files();
        state.restart();
    }

    /// The process dies and the machine goes on: everything written is still readable, though not all of it durable.
    pub fn process_kill(&self) {
        self.state().restart();
    }

    /// The sub-folder `name`, made when it is missing, as [`Disk::folder`] does; with the means of a simulated one.
    ///
    /// # Errors
    /// As [`Disk::folder`].
    pub fn sub(&self, name: &str) -> io::Result<SimDisk> {
        let folder = format!("{}{}/", self.prefix, plain(name)?);
        let mut state = self.state();
        state.alive()?;
        state.here(&self.prefix)?;
        if !state.folders.contains(&folder) {
            let crashing = state.begin(Op::Create)?;
            state.folders.insert(folder.clone());
            state.names_pending.push(NameOp::SetFolder { folder: folder.clone() });
            state.end(crashing)?;
        }
        state.sync_folder(&self.prefix)?;
        Ok(SimDisk { state: Arc::clone(&self.state), prefix: folder })
    }

    /// Changes one byte on the medium: `file[offset] ^= mask`.
    ///
    /// # Panics
    /// When there is no such file or byte: a test that flips nothing tests nothing.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        let mut state = self.state();
        let inode = *state.names.get(&self.path(name)).expect("flip names an existing file");
        let file = state.inode(inode);
        let at = usize::try_from(offset).expect("an offset in memory");
        file.cache[at] ^= mask;
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= mask;
        }
    }

    /// Changes one byte that was written and not synced, if there is one: what a disk's cache may do to it on its way down.
    pub fn flip_unsynced(&self) -> bool {
        let mut state = self.state();
        let (choice, mask) = (state.next(), 1 << (state.next() % 8));
        let mut unsynced = Vec::new();
        for (inode, file) in &state.inodes {
            for sector in file.dirty.keys() {
                let to = ((sector + 1) * SECTOR).min(file.cache.len());
                let changed = |at: &usize| file.durable.get(*at) != Some(&file.cache[*at]);
                unsynced.extend((sector * SECTOR..to).filter(changed).map(|at| (*inode, at)));
            }
        }
        let Some((inode, at)) = unsynced.get((choice % unsynced.len().max(1) as u64) as usize).copied()
        else {
            return false;
        };
        let file = state.inode(inode);
        file.cache[at] ^= mask;
        let content = file.sector(at / SECTOR);
        file.dirty.entry(at / SECTOR).or_default().push(content);
        true
    }

    /// The file's bytes as a reader sees them now.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = state.names.get(&self.path(name))?;
        state.inodes.get(inode).map(|file| file.cache.clone())
    }

    /// Replaces (or makes) a file, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.new_inode();
        let file = state.inode(inode);
        file.cache = bytes.to_vec();
        file.sync_whole();
        let path = self.path(name);
        state.names.insert(path.clone(), inode);
        state.names_durable.insert(path, inode);
    }

    /// A copy of the folder as it is now, with a chance of its own.
    pub fn fork(&self, seed: u64) -> SimDisk {
        let mut state = self.state().clone();
        state.random = seed;
        state.restart();
        SimDisk { state: Arc::new(Mutex::new(state)), prefix: self.prefix.clone() }
    }

    /// A hash over every name and byte, durable and cached: equal for equal seeds and equal calls.
    pub fn image_hash(&self) -> u64 {
        let state = self.state();
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for (names, tag) in [(&state.names, 1u8), (&state.names_durable, 2u8)] {
            for (name, inode) in names {
                hash.update(&[tag]);
                hash.update(name.as_bytes());
                if let Some(file) = state.inodes.get(inode) {
                    hash.update(&(file.cache.len() as u64).to_le_bytes());
                    hash.update(&file.cache);
                    hash.update(&(file.durable.len() as u64).to_le_bytes());
                    hash.update(&file.durable);
                }
            }
        }
        hash.digest()
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panicking test leaves the state as it was; reading it for the report is the point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let state = self.state();
        state.alive()?;
        state.here(&self.prefix)?;
        let info = |(path, inode): (&String, &u64)| {
            let name = inside(&self.prefix, path)?.to_owned();
            Some(FileInfo { name, bytes: state.inodes.get(inode).map_or(0, |file| file.cache.len() as u64) })
        };
        Ok(state.names.iter().filter_map(info).collect())
    }

    fn create(&self, name: &str, bytes: u64, fill: Fill) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let name = self.path(name);
        state.here(&self.prefix)?;
        let crashing = state.begin(Op::Create)?;
        state.room(bytes)?;
        let inode = state.new_inode();
        let file = state.inode(inode);
        file.cache = vec![0; usize::try_from(bytes).map_err(|_| io::ErrorKind::StorageFull)?];
        if fill == Fill::Written {
            file.sync_whole();
        }
        state.names.insert(name.clone(), inode);
        state.names_pending.push(NameOp::Set { name, inode });
        state.end(crashing)?;
        let generation = state.generation;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, generation }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        state.alive()?;
        let inode = *state.names.get(&self.path(name)).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, generation: state.generation }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let crashing = state.begin(Op::Rename)?;
        let (from, to) = (self.path(from), self.path(to));
        let inode = state.names.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.clone(), inode);
        state.names_pending.push(NameOp::Move { from, to, inode });
        state.end(crashing)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let crashing = state.begin(Op::Remove)?;
        let name = self.path(name);
        let inode = state.names.remove(&name).ok_or(io::ErrorKind::NotFound)?;
        state.names_pending.push(NameOp::Drop { name, inode });
        state.end(crashing)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.here(&self.prefix)?;
        state.sync_folder(&self.prefix)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        state.alive()?;
        Ok(state.capacity.saturating_sub(state.used()))
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LogError> {
        let mut state = self.state();
        if !state.locked.insert(self.prefix.clone()) {
            return Err(LogError::Locked { holder: None });
        }
        Ok(Box::new(SimLock { disk: self.clone(), generation: state.generation }))
    }

    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(self.sub(name)?))
    }

    fn remove_folder(&self, name: &str) -> io::Result<()> {
        let folder = format!("{}{}/", self.prefix, plain(name)?);
        let mut state = self.state();
        state.alive()?;
        if !state.folders.contains(&folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let within = |path: &String| path.starts_with(&folder);
        for path in state.names.keys().filter(|path| within(path)).cloned().collect::<Vec<_>>() {
            let crashing = state.begin(Op::Remove)?;
            if let Some(inode) = state.names.remove(&path) {
                state.names_pending.push(NameOp::Drop { name: path, inode });
            }
            state.end(crashing)?;
        }
        let crashing = state.begin(Op::Remove)?;
        state.folders.retain(|path| !path.starts_with(&folder));
        state.names_pending.push(NameOp::DropFolder { folder });
        state.end(crashing)
    }

    fn folders(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        state.here(&self.prefix)?;
        let name = |path: &String| Some(inside(&self.prefix, path.strip_suffix('/')?)?.to_owned());
        Ok(state.folders.iter().filter_map(name).collect())
    }
}

/// The name of a path directly in a folder.
fn inside<'a>(folder: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(folder).filter(|name| !name.contains('/'))
}

/// The folder a path is directly in.
fn parent(path: &str) -> &str {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.rfind('/').map_or("", |at| &path[..=at])
}

struct SimLock {
    disk: SimDisk,
    generation: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // A handle from before a restart must not free the lock of the one after it.
        if state.generation == self.generation {
            state.locked.remove(&self.disk.prefix);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    generation: u64,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        state.alive()?;
        if state.generation != self.generation {
            return Err(io::Error::other("simulated restart: this handle belongs to the process that died"));
        }
        Ok(state)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state()?;
        let cache = &state.inode(self.inode).cache;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(cache.len());
        let read = into.len().min(cache.len() - from);
        into[..read].copy_from_slice(&cache[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let at = usize::try_from(offset).map_err(|_| io::ErrorKind::StorageFull)?;
        let grown = (at + bytes.len()).saturating_sub(state.inode(self.inode).cache.len());
        let begun = state.begin(Op::Write);
        let whole = matches!(begun, Ok(false));
        if whole {
            state.room(grown as u64)?;
        }
        if whole || state.crashed || begun.is_err() {
            let salt = state.next();
            state.inode(self.inode).write(at, bytes, if whole { None } else { Some(salt) });
        }
        let crashing = begun?;
        state.end(crashing)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let begun = state.begin(Op::Sync);
        let salt = state.next();
        let file = state.inode(self.inode);
        match begun {
            Ok(false) => file.sync(),
            Ok(true) => file.sync_some(salt),
            Err(_) => {
                file.sync_some(salt);
                file.forget();
            }
        }
        let crashing = begun?;
        state.end(crashing)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let grown = bytes.saturating_sub(state.inode(self.inode).cache.len() as u64);
        let crashing = state.begin(Op::SetLen)?;
        state.room(grown)?;
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::StorageFull)?;
        state.inode(self.inode).cache.resize(bytes, 0);
        state.end(crashing)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.inode(self.inode).cache.len() as u64)
    }
}

#[derive(Clone)]
struct State {
    random: u64,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    names_pending: Vec<NameOp>,
    /// Paths of sub-folders, each with a slash at its end.
    folders: BTreeSet<String>,
    folders_durable: BTreeSet<String>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    capacity: u64,
    faults: SimFaults,
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    fail_next: Option<Op>,
    /// Folders somebody holds.
    locked: BTreeSet<String>,
    /// Restarts so far: a handle knows which life it belongs to.
    generation: u64,
}

#[derive(Clone)]
enum NameOp {
    Set { name: String, inode: u64 },
    Move { from: String, to: String, inode: u64 },
    Drop { name: String, inode: u64 },
    SetFolder { folder: String },
    DropFolder { folder: String },
}

impl NameOp {
    /// The folders whose sync makes it durable.
    fn touches(&self, folder: &str) -> bool {
        match self {
            NameOp::Set { name, .. } | NameOp::Drop { name, .. } => parent(name) == folder,
            NameOp::Move { to, .. } => parent(to) == folder,
            NameOp::SetFolder { folder: path } | NameOp::DropFolder { folder: path } => {
                parent(path) == folder
            }
        }
    }
}

impl State {
    /// Counts an operation. `Ok(true)`: the crash falls into it. An error: it fails for a reason of its own.
    fn begin(&mut self, op: Op) -> io::Result<bool> {
        self.alive()?;
        let number = self.operations;
        self.operations += 1;
        if self.crash_at.is_some_and(|at| number >= at) {
            self.crashed = true;
            return Ok(true);
        }
        if self.fail_next == Some(op) {
            self.fail_next = None;
            return Err(io::Error::other("simulated fault: input/output error"));
        }
        let ppm = match op {
            Op::Write => self.faults.write_error_ppm,
            Op::Sync => self.faults.sync_error_ppm,
            _ => 0,
        };
        if ppm > 0 && self.next() % 1_000_000 < u64::from(ppm) {
            return Err(io::Error::other("simulated fault: input/output error"));
        }
        Ok(false)
    }

    fn end(&self, crashing: bool) -> io::Result<()> {
        if crashing { Err(io::Error::other("simulated power loss")) } else { Ok(()) }
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("simulated power loss: the disk is off")) } else { Ok(()) }
    }

    fn room(&self, bytes: u64) -> io::Result<()> {
        if self.used().saturating_add(bytes) > self.capacity {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "simulated full disk"));
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|inode| self.inodes.get(inode))
            .map(|file| file.cache.len() as u64)
            .sum()
    }

    fn new_inode(&mut self) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        inode
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("inodes are removed only at a restart, which ends every handle")
    }

    /// Is the folder (still) there?
    fn here(&self, folder: &str) -> io::Result<()> {
        if folder.is_empty() || self.folders.contains(folder) {
            return Ok(());
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        let crashing = self.begin(Op::SyncDir)?;
        if !crashing || self.chance(2) {
            let (mine, rest): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.names_pending).into_iter().partition(|op| op.touches(folder));
            for op in mine {
                self.settle_name(op);
            }
            self.names_pending = rest;
        }
        self.end(crashing)
    }

    /// The change of a name reaches the medium.
    fn settle_name(&mut self, op: NameOp) {
        let names = &mut self.names_durable;
        match op {
            NameOp::Set { name, inode } => {
                names.insert(name, inode);
            }
            NameOp::Move { from, to, inode } => {
                if names.get(&from) == Some(&inode) {
                    names.remove(&from);
                }
                names.insert(to, inode);
            }
            NameOp::Drop { name, inode } => {
                if names.get(&name) == Some(&inode) {
                    names.remove(&name);
                }
            }
            NameOp::SetFolder { folder } => {
                self.folders_durable.insert(folder);
            }
            NameOp::DropFolder { folder } => {
                names.retain(|name, _| !name.starts_with(&folder));
                self.folders_durable.retain(|path| !path.starts_with(&folder));
            }
        }
    }

    fn settle_names(&mut self) {
        for op in std::mem::take(&mut self.names_pending) {
            if self.chance(2) {
                self.settle_name(op);
            }
        }
        self.names = self.names_durable.clone();
        self.folders = self.folders_durable.clone();
    }

    fn settle_files(&mut self) {
        let live: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| live.contains(inode));
        let mut random = self.random;
        for file in self.inodes.values_mut() {
            file.settle(&mut random);
        }
        self.random = random;
    }

    fn restart(&mut self) {
        self.crashed = false;
        self.crash_at = None;
        self.fail_next = None;
        self.locked.clear();
        self.generation += 1;
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.next().is_multiple_of(one_in)
    }

    fn next(&mut self) -> u64 {
        splitmix(&mut self.random)
    }
}

#[derive(Clone, Default)]
struct Inode {
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// Sector number → the contents it had since the last sync, oldest first.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl Inode {
    /// Writes all of it, or with a salt only the sectors that the salt's bits choose.
    fn write(&mut self, at: usize, bytes: &[u8], torn: Option<u64>) {
        let end = at + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        let mut salt = torn.unwrap_or(0);
        let mut from = at;
        while from < end {
            let sector = from / SECTOR;
            let to = ((sector + 1) * SECTOR).min(end);
            if torn.is_none() || splitmix(&mut salt).is_multiple_of(2) {
                self.cache[from..to].copy_from_slice(&bytes[from - at..to - at]);
                let content = self.sector(sector);
                self.dirty.entry(sector).or_default().push(content);
            }
            from = to;
        }
    }

    fn sector(&self, sector: usize) -> Vec<u8> {
        let from = (sector * SECTOR).min(self.cache.len());
        let to = (from + SECTOR).min(self.cache.len());
        self.cache[from..to].to_vec()
    }

    fn sync(&mut self) {
        self.durable.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            let content = self.sector(sector);
            let from = sector * SECTOR;
            self.durable[from..from + content.len()].copy_from_slice(&content);
        }
    }

    /// For bytes put there without a write (a new file's zeros, a test's image), which have no dirty sectors.
    fn sync_whole(&mut self) {
        self.durable.clone_from(&self.cache);
        self.dirty.clear();
    }

    /// A sync cut short: some of the dirty sectors reach the medium.
    fn sync_some(&mut self, mut salt: u64) {
        if splitmix(&mut salt).is_multiple_of(2) {
            self.durable.resize(self.cache.len(), 0);
        }
        for sector in self.dirty.keys().copied().collect::<Vec<_>>() {
            let content = self.sector(sector);
            let from = sector * SECTOR;
            if from + content.len() <= self.durable.len() && splitmix(&mut salt).is_multiple_of(2) {
                self.durable[from..from + content.len()].copy_from_slice(&content);
                self.dirty.remove(&sector);
            }
        }
    }

    /// What a failed sync leaves: the cache can still be read, but nothing will write it out.
    fn forget(&mut self) {
        self.dirty.clear();
    }

    fn settle(&mut self, random: &mut u64) {
        if self.durable.len() != self.cache.len() && splitmix(random).is_multiple_of(2) {
            self.durable.resize(self.cache.len(), 0);
        }
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let pick = splitmix(random) % (versions.len() as u64 + 1);
            let from = sector * SECTOR;
            // The last choice is what was durable before all of them.
            if let Some(content) = versions.get(pick as usize) {
                let to = (from + content.len()).min(self.durable.len());
                if from < to {
                    self.durable[from..to].copy_from_slice(&content[..to - from]);
                }
            }
        }
        self.cache.clone_from(&self.durable);
    }
}

/// Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
