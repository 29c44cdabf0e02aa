//! Libraries of functions, and which of them has which function.
//!
//! Invariant: `by_function` holds, in lower case, the name of every function of every library, and nothing else.
//! Called by: `calls`, `commit` (rollback), `snapshot`.

use crate::table::Table;
use quorate_calls::Library;
use quorate_types::codec::{Reader, Writer};
use quorate_types::{Blob, DecodeError};
use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct Libraries {
    table: Table<Blob, Library>,
    by_function: BTreeMap<Blob, Blob>,
}

impl Libraries {
    pub(crate) fn get(&self, name: &Blob) -> Option<&Library> {
        self.table.get(name)
    }

    pub(crate) fn names(&self) -> Vec<Blob> {
        self.table.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The library of a function, whose name is given in lower case.
    pub(crate) fn of(&self, function: &Blob) -> Option<&Library> {
        self.table.get(self.by_function.get(function)?)
    }

    pub(crate) fn set(&mut self, name: &Blob, library: Option<Library>) {
        let before = self.table.set(name.clone(), library);
        index(&mut self.by_function, name, before.as_ref(), self.table.get(name));
    }

    pub(crate) fn mark(&self) -> usize {
        self.table.mark()
    }

    pub(crate) fn rollback(&mut self, mark: usize) {
        let Self { table, by_function } = self;
        table.rollback(mark, |name, from, to| index(by_function, name, from, to));
    }

    pub(crate) fn forget(&mut self) {
        self.table.forget();
    }

    pub(crate) fn walk_begin(&mut self) {
        self.table.walk_begin();
    }

    pub(crate) fn walk_next(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.table.walk_next(rows, out)
    }

    pub(crate) fn walk_end(&mut self) {
        self.table.walk_end();
    }

    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        self.table.digest(scratch)
    }

    pub(crate) fn restore_row(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (name, library) = self.table.restore_row(from)?;
        let before = self.by_function.len();
        index(&mut self.by_function, &name, None, Some(&library));
        if library.functions.is_empty() || self.by_function.len() != before + library.functions.len() {
            let found = library.functions.len() as u64;
            return Err(DecodeError::Range { what: "functions of a library", found });
        }
        Ok(())
    }
}

fn index(names: &mut BTreeMap<Blob, Blob>, library: &Blob, from: Option<&Library>, to: Option<&Library>) {
    let folded = |library: &Library| -> Vec<Blob> {
        library.functions.iter().map(|function| Blob::from(function.name.to_ascii_lowercase())).collect()
    };
    for function in from.map(folded).unwrap_or_default() {
        names.remove(&function);
    }
    for function in to.map(folded).unwrap_or_default() {
        names.insert(function, library.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_calls::FunctionSpec;

    fn library(functions: &[&str]) -> Option<Library> {
        let functions = functions.iter().map(|name| FunctionSpec {
            name: Blob::from(*name),
            description: None,
            flags: 0,
        });
        Some(Library { code: "text".into(), functions: functions.collect() })
    }

    /// The library of each of three functions.
    fn owners(all: &Libraries) -> [Option<Blob>; 3] {
        ["f", "g", "h"].map(|function| all.by_function.get(&Blob::from(function)).cloned())
    }

    #[test]
    fn what_is_taken_back_finds_its_functions_again() {
        let mut all = Libraries::default();
        all.set(&"a".into(), library(&["f", "G"]));
        let mark = all.mark();
        let before = owners(&all);
        assert_eq!(before, [Some("a".into()), Some("a".into()), None]);
        all.set(&"a".into(), library(&["h"]));
        all.set(&"b".into(), library(&["g"]));
        assert_eq!(owners(&all), [None, Some("b".into()), Some("a".into())]);
        all.set(&"a".into(), None);
        all.rollback(mark);
        assert_eq!(owners(&all), before);
        assert_eq!(all.of(&"g".into()), library(&["f", "G"]).as_ref());
    }

    #[test]
    fn a_snapshot_whose_libraries_share_a_function_is_refused() {
        let read = |second: &[&str]| {
            let mut all = Libraries::default();
            all.set(&"a".into(), library(&["f"]));
            all.set(&"b".into(), library(second));
            all.forget();
            all.walk_begin();
            let mut out = Writer::default();
            assert_eq!(all.walk_next(10, &mut out), (2, true));
            let (bytes, mut copy) = (Bytes::from(out.buffer), Libraries::default());
            let mut from = Reader::new(&bytes);
            copy.restore_row(&mut from).and_then(|()| copy.restore_row(&mut from)).map(|()| owners(&copy))
        };
        assert_eq!(read(&["g"]), Ok([Some("a".into()), Some("b".into()), None]));
        assert!(read(&["F"]).is_err() && read(&[]).is_err());
    }
}
