//! A file of bbolt, the store beneath etcd, written once and in order: what its tools open as a database of their own.
//!
//! Pages of 4 KiB. The first two are metas, of which the one with the higher number counts; the third is the list of free pages, here empty; then
//! come the trees of the buckets, leaves first, and last the tree of all buckets. Each page begins with its number, kind, count of elements and how
//! many pages more it takes; the elements' heads follow, and after all heads their keys and values.
//!
//! Invariant: keys of a bucket, and the buckets' names, come in order; each page but an empty bucket's has an element.
//! Invariant: one page of each level of one tree is in memory, and nothing else.
//! Called by: `snapshot`.
//! Source: bbolt's README, "Database internals", and `internal/common/{page,meta,bucket}.go` for the places of the fields.

use std::io::{self, Seek, SeekFrom, Write};

/// Bytes of a page. bbolt takes the size from the meta, whatever its machine's own is.
pub(super) const PAGE: usize = 4096;
const HEAD: usize = 16;
/// Pages before the first of a tree: two metas, and the list of free ones.
const RESERVED: u64 = 3;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// What a page is, as its flags say it.
#[derive(Clone, Copy)]
enum Kind {
    Branch = 0x01,
    Leaf = 0x02,
    Meta = 0x04,
    Free = 0x10,
}

/// An element of a leaf that names the root of a bucket, instead of having a value.
const IS_BUCKET: u32 = 1;

/// See the module's documentation.
pub(super) struct Bolt<W> {
    out: W,
    next: u64,
    /// The tree that is being written, leaves first.
    levels: Vec<Page>,
    /// The bucket whose tree it is.
    open: Option<&'static str>,
    roots: Vec<(&'static str, u64)>,
}

/// A page in the making.
#[derive(Default)]
struct Page {
    elements: Vec<Element>,
    /// Keys and values, one after the other.
    data: Vec<u8>,
}

struct Element {
    key_bytes: usize,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// A value of so many bytes.
    Value { bytes: usize, flags: u32 },
    /// A page of the level below.
    Child(u64),
}

impl<W: Write + Seek> Bolt<W> {
    /// Begins a file at the start of `out`.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn begin(mut out: W) -> io::Result<Self> {
        out.write_all(&[0; RESERVED as usize * PAGE])?;
        Ok(Self { out, next: RESERVED, levels: Vec::new(), open: None, roots: Vec::new() })
    }

    /// Ends the bucket before, and begins the next one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn bucket(&mut self, name: &'static str) -> io::Result<()> {
        self.end_bucket()?;
        assert!(self.roots.last().is_none_or(|(last, _)| *last < name), "buckets come in order");
        self.open = Some(name);
        Ok(())
    }

    /// Adds a key to the bucket that is open. It is not empty, and greater than the one before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.add(0, key, value, What::Value { bytes: value.len(), flags: 0 })
    }

    /// Bytes written until now.
    pub(super) fn bytes(&self) -> u64 {
        self.next * PAGE as u64
    }

    /// Writes what is missing, the first pages last; the file, and its length.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn finish(mut self) -> io::Result<(W, u64)> {
        self.end_bucket()?;
        for (name, root) in std::mem::take(&mut self.roots) {
            // The root's page, and a sequence, which etcd does not use.
            let value = [root.to_le_bytes(), [0; 8]].concat();
            self.add(0, name.as_bytes(), &value, What::Value { bytes: value.len(), flags: IS_BUCKET })?;
        }
        let root = self.end_tree()?;
        let bytes = self.bytes();
        self.out.seek(SeekFrom::Start(0))?;
        for number in 0..2 {
            self.out.write_all(&meta(number, root, self.next))?;
        }
        let mut free = head(2, Kind::Free, 0, 0).to_vec();
        free.resize(PAGE, 0);
        self.out.write_all(&free)?;
        self.out.flush()?;
        Ok((self.out, bytes))
    }

    fn end_bucket(&mut self) -> io::Result<()> {
        let Some(name) = self.open.take() else { return Ok(()) };
        let root = self.end_tree()?;
        self.roots.push((name, root));
        Ok(())
    }

    /// Adds an element to a level of the tree; a page that it does not fit into any more is written first.
    fn add(&mut self, level: usize, key: &[u8], value: &[u8], what: What) -> io::Result<()> {
        if self.levels.len() == level {
            self.levels.push(Page::default());
        }
        let page = &mut self.levels[level];
        if !page.elements.is_empty() && page.bytes() + HEAD + key.len() + value.len() > PAGE {
            let full = std::mem::take(page);
            let number = self.write(&full)?;
            self.add(level + 1, full.first_key(), &[], What::Child(number))?;
        }
        let page = &mut self.levels[level];
        page.elements.push(Element { key_bytes: key.len(), what });
        page.data.extend_from_slice(key);
        page.data.extend_from_slice(value);
        Ok(())
    }

    /// Writes the last page of each level; the number of the root.
    fn end_tree(&mut self) -> io::Result<u64> {
        let mut level = 0;
        loop {
            let is_top = level + 1 >= self.levels.len();
            // A bucket without a key is one empty leaf.
            let page = self.levels.get_mut(level).map(std::mem::take).unwrap_or_default();
            let number = self.write(&page)?;
            if is_top {
                assert!(level == 0 || page.elements.len() > 1, "a root above others has several of them");
                self.levels.clear();
                return Ok(number);
            }
            level += 1;
            self.add(level, page.first_key(), &[], What::Child(number))?;
        }
    }

    /// Writes a page; its number.
    fn write(&mut self, page: &Page) -> io::Result<u64> {
        let number = self.next;
        let bytes = page.encoded(number);
        self.out.write_all(&bytes)?;
        self.next += (bytes.len() / PAGE) as u64;
        Ok(number)
    }
}

impl Page {
    fn bytes(&self) -> usize {
        HEAD + self.elements.len() * HEAD + self.data.len()
    }

    fn first_key(&self) -> &[u8] {
        &self.data[..self.elements.first().map_or(0, |first| first.key_bytes)]
    }

    /// Whole pages.
    fn encoded(&self, number: u64) -> Vec<u8> {
        let whole = self.bytes().next_multiple_of(PAGE);
        let kind = match self.elements.first() {
            Some(Element { what: What::Child(_), .. }) => Kind::Branch,
            _ => Kind::Leaf,
        };
        let mut bytes = Vec::with_capacity(whole);
        bytes.extend_from_slice(&head(number, kind, self.elements.len(), whole / PAGE - 1));
        let mut at = 0;
        for (place, element) in self.elements.iter().enumerate() {
            // A place counts from the beginning of the element's own head.
            let position = (self.elements.len() - place) * HEAD + at;
            let (position, key_bytes) = (position as u32, element.key_bytes as u32);
            match element.what {
                What::Value { bytes: value_bytes, flags } => {
                    for field in [flags, position, key_bytes, value_bytes as u32] {
                        bytes.extend_from_slice(&field.to_le_bytes());
                    }
                    at += element.key_bytes + value_bytes;
                }
                What::Child(child) => {
                    bytes.extend_from_slice(&position.to_le_bytes());
                    bytes.extend_from_slice(&key_bytes.to_le_bytes());
                    bytes.extend_from_slice(&child.to_le_bytes());
                    at += element.key_bytes;
                }
            }
        }
        bytes.extend_from_slice(&self.data);
        bytes.resize(whole, 0);
        bytes
    }
}

/// What each page begins with.
fn head(number: u64, kind: Kind, count: usize, more: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&number.to_le_bytes());
    head[8..10].copy_from_slice(&(kind as u16).to_le_bytes());
    head[10..12].copy_from_slice(&(count as u16).to_le_bytes());
    head[12..].copy_from_slice(&(more as u32).to_le_bytes());
    head
}

/// A meta page: where the tree of buckets is, how many pages there are, and a checksum over itself.
fn meta(number: u64, root: u64, pages: u64) -> Vec<u8> {
    let mut fields = Vec::with_capacity(64);
    for field in [MAGIC, VERSION, PAGE as u32, 0] {
        fields.extend_from_slice(&field.to_le_bytes());
    }
    // The root bucket and its sequence, the list of free pages, the number of pages, the transaction.
    for field in [root, 0, 2, pages, number] {
        fields.extend_from_slice(&field.to_le_bytes());
    }
    let checksum = fnv1a(&fields);
    let mut page = head(number, Kind::Meta, 0, 0).to_vec();
    page.extend_from_slice(&fields);
    page.extend_from_slice(&checksum.to_le_bytes());
    page.resize(PAGE, 0);
    page
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
