//! Records put in the order of their keys, with bounded memory: sorted runs in a file, merged as they are read.
//!
//! Invariant: it holds one run while records come, and as much for the buffers of all runs while they are read.
//! Invariant: its file has no name, so that no crash leaves one.
//! Called by: `snapshot`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a run, and of all buffers.
const RUN_BYTES: usize = 16 << 20;
const BUFFER_BYTES_MIN: usize = 4 << 10;

/// See the module's documentation.
pub(super) struct Sorter {
    file: File,
    runs: Vec<Range<u64>>,
    run_bytes: usize,
    /// Keys and values of the run in hand.
    data: Vec<u8>,
    records: Vec<Record>,
}

/// Where a record is in the run.
struct Record {
    key: Range<usize>,
    value_end: usize,
}

impl Sorter {
    /// Begins, with a file in a folder.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn begin(folder: &Path) -> io::Result<Self> {
        Self::with(folder, RUN_BYTES)
    }

    fn with(folder: &Path, run_bytes: usize) -> io::Result<Self> {
        let file = nameless(folder)?;
        Ok(Self { file, runs: Vec::new(), run_bytes, data: Vec::new(), records: Vec::new() })
    }

    /// Takes a record, whose key is the parts one after the other.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn push(&mut self, key: &[&[u8]], value: &[u8]) -> io::Result<()> {
        let start = self.data.len();
        key.iter().for_each(|part| self.data.extend_from_slice(part));
        let key = start..self.data.len();
        self.data.extend_from_slice(value);
        self.records.push(Record { key, value_end: self.data.len() });
        let bytes = self.data.len() + self.records.len() * size_of::<Record>();
        if bytes >= self.run_bytes { self.end_run() } else { Ok(()) }
    }

    /// Bytes of the runs until now.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.end)
    }

    fn end_run(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let data = &self.data;
        self.records.sort_unstable_by(|one, other| data[one.key.clone()].cmp(&data[other.key.clone()]));
        let start = self.bytes();
        let mut end = start;
        let mut out = BufWriter::new(&self.file);
        for Record { key, value_end } in self.records.drain(..) {
            for length in [key.len(), value_end - key.end] {
                out.write_all(&(length as u32).to_le_bytes())?;
            }
            out.write_all(&data[key.start..value_end])?;
            end += 8 + (value_end - key.start) as u64;
        }
        out.flush()?;
        drop(out);
        self.runs.push(start..end);
        self.data.clear();
        Ok(())
    }

    /// All records, to be read in order.
    ///
    /// # Errors
    /// The file cannot be written or read.
    pub(super) fn merged(mut self) -> io::Result<Merged> {
        self.end_run()?;
        let buffer = (self.run_bytes / self.runs.len().max(1)).max(BUFFER_BYTES_MIN);
        let file = Arc::new(self.file);
        let part = |run| BufReader::with_capacity(buffer, Part { file: Arc::clone(&file), left: run });
        let mut merged = Merged { runs: self.runs.into_iter().map(part).collect(), heads: BinaryHeap::new() };
        for run in 0..merged.runs.len() {
            merged.advance(run)?;
        }
        Ok(merged)
    }
}

/// A record that is the next of its run: its key, the run, its value.
type Head = (Vec<u8>, usize, Vec<u8>);

/// Records of all runs, in order.
pub(super) struct Merged {
    runs: Vec<BufReader<Part>>,
    /// The next of each run.
    heads: BinaryHeap<Reverse<Head>>,
}

impl Merged {
    /// The next record, as key and value.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let Some(Reverse((key, run, value))) = self.heads.pop() else { return Ok(None) };
        self.advance(run)?;
        Ok(Some((key, value)))
    }

    fn advance(&mut self, run: usize) -> io::Result<()> {
        let from = &mut self.runs[run];
        if from.buffer().is_empty() && from.get_ref().left.is_empty() {
            return Ok(());
        }
        let mut lengths = [[0; 4]; 2];
        for length in &mut lengths {
            from.read_exact(length)?;
        }
        let [mut key, mut value] = lengths.map(|length| vec![0; u32::from_le_bytes(length) as usize]);
        from.read_exact(&mut key)?;
        from.read_exact(&mut value)?;
        self.heads.push(Reverse((key, run, value)));
        Ok(())
    }
}

/// A part of a file that several read.
struct Part {
    file: Arc<File>,
    left: Range<u64>,
}

impl Read for Part {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut into[..most], self.left.start)?;
        self.left.start += count as u64;
        Ok(count)
    }
}

/// A new file that goes with its last handle.
///
/// # Errors
/// It cannot be made.
pub(super) fn nameless(folder: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".etcd-snapshot-{}-{number}", std::process::id()));
        match File::options().read(true).write(true).create_new(true).open(&path) {
            // What a process of the same number has left.
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                let file = made?;
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_in_order_whatever_the_runs_and_nothing_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        for run_bytes in [1, 500, 1 << 20] {
            let mut sorter = Sorter::with(folder.path(), run_bytes).expect("a file");
            let mut wanted = Vec::new();
            for number in 0..300u32 {
                let key = (number.wrapping_mul(2_654_435_761) % 100).to_be_bytes();
                let value = vec![number as u8; (number % 7) as usize];
                sorter.push(&[&key[..2], &key[2..]], &value).expect("it is taken");
                wanted.push((key.to_vec(), value));
            }
            let mut merged = sorter.merged().expect("the runs");
            let mut found = Vec::new();
            while let Some(record) = merged.next().expect("a record") {
                found.push(record);
            }
            assert!(found.is_sorted_by_key(|(key, _)| key));
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }
}
