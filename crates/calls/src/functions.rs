//! Libraries of functions: FUNCTION and its subcommands, FCALL.
//!
//! A library is a text. Loading it runs the text once, in a sandbox where it can do nothing but register functions; what it has registered is kept
//! beside it, so that replicas agree on it without running it again. A call runs the text anew and then the function: nothing that a function
//! leaves in variables of its library outlives the call, on any replica, after any restart.
//!
//! Invariant: no two functions have the same name, whatever its case; every library has at least one.
//! Invariant: what is loaded fits [`LIBRARIES_MAX`], [`LIBRARIES_BYTES_MAX`] and [`FUNCTION_NAMES_MAX`]; loading takes [`LOAD_UNITS_MAX`] in all.
//! Called by: `call`, through the table.

use crate::args::{integer, is};
use crate::rdb::{self, Damaged};
use crate::scripts::{Room, hosted, may_only_read};
use crate::{Error, FunctionSpec, Library, Look, Reading, Run, Writing};
use quorate_types::{Blob, Reply};
use std::collections::{BTreeMap, BTreeSet};

/// Most libraries.
pub const LIBRARIES_MAX: usize = 256;
/// Most bytes of the texts of all libraries: what FUNCTION DUMP answers fits a value and a command.
pub const LIBRARIES_BYTES_MAX: usize = 2 << 20;
/// Most functions of a library.
pub const FUNCTION_NAMES_MAX: usize = 1000;
/// Units of work that a command may take to run texts of libraries.
const LOAD_UNITS_MAX: u64 = 500_000;

type Answer = Result<Reply, Error>;

/// `FUNCTION LOAD [REPLACE] code`.
pub(crate) fn load(w: &mut Writing<'_>) -> Answer {
    let (code, options) = w.words[2..].split_last().expect("the table wants a text");
    let mut replace = false;
    for option in options {
        if !is(option, "REPLACE") {
            return Err(said("ERR Unknown option given: ", option));
        }
        replace = true;
    }
    let name = header(code)?;
    if !replace && w.store.library(&name).is_some() {
        return Err(Error::reply(format!("ERR Library '{name}' already exists")));
    }
    let mut units = LOAD_UNITS_MAX;
    let library = register(w, code, &mut units)?;
    let mut after = Libraries::of(w.look());
    after.remove(w.look(), &name);
    after.add(&name, &library)?;
    w.store.put_library(&name, Some(library));
    Ok(Reply::bulk(name))
}

/// Runs the text of a library.
fn register(w: &mut Writing<'_>, code: &Blob, units: &mut u64) -> Result<Library, Error> {
    let (functions, spent) = w.interpreter.load(code, *units)?;
    *units = units.saturating_sub(spent);
    if functions.is_empty() {
        return Err(Error::reply("ERR No functions registered"));
    }
    if functions.len() > FUNCTION_NAMES_MAX {
        return Err(Error::reply(format!(
            "ERR a library has at most {FUNCTION_NAMES_MAX} functions: divide it"
        )));
    }
    Ok(Library { code: code.clone(), functions })
}

/// What is loaded, to see whether something fits beside it.
struct Libraries {
    names: BTreeSet<Blob>,
    /// Names of functions in lower case.
    functions: BTreeSet<Blob>,
    bytes: usize,
}

impl Libraries {
    fn none() -> Self {
        Self { names: BTreeSet::new(), functions: BTreeSet::new(), bytes: 0 }
    }

    fn of(look: &dyn Look) -> Self {
        let mut all = Self::none();
        for (name, library) in libraries(look) {
            all.bytes += library.code.len();
            all.functions.extend(library.functions.iter().map(|function| folded(&function.name)));
            all.names.insert(name);
        }
        all
    }

    fn remove(&mut self, look: &dyn Look, name: &Blob) {
        if let Some(library) = look.library(name).filter(|_| self.names.remove(name)) {
            self.bytes -= library.code.len();
            for function in &library.functions {
                self.functions.remove(&folded(&function.name));
            }
        }
    }

    fn add(&mut self, name: &Blob, library: &Library) -> Result<(), Error> {
        for function in &library.functions {
            if !self.functions.insert(folded(&function.name)) {
                return Err(Error::reply(format!("ERR Function {} already exists", function.name)));
            }
        }
        self.names.insert(name.clone());
        self.bytes += library.code.len();
        if self.names.len() > LIBRARIES_MAX || self.bytes > LIBRARIES_BYTES_MAX {
            return Err(Error::reply(format!(
                "ERR there would be {} libraries of {} bytes, and there may be {LIBRARIES_MAX} of {LIBRARIES_BYTES_MAX}: delete some first",
                self.names.len(),
                self.bytes
            )));
        }
        Ok(())
    }
}

fn libraries(look: &dyn Look) -> impl Iterator<Item = (Blob, &Library)> {
    look.libraries().into_iter().filter_map(|name| look.library(&name).map(|library| (name.clone(), library)))
}

fn folded(name: &Blob) -> Blob {
    Blob::from(name.to_ascii_lowercase())
}

/// The name of a library, as the first line of its text gives it: `#!lua name=NAME`.
fn header(code: &Blob) -> Result<Blob, Error> {
    if !code.starts_with(b"#!") {
        return Err(Error::reply("ERR Missing library metadata"));
    }
    let invalid = || Error::reply("ERR Invalid library metadata");
    let end = code.iter().position(|byte| *byte == b'\n').ok_or_else(invalid)?;
    let mut parts = words_of(&code[..end]).ok_or_else(invalid)?.into_iter();
    let engine = parts.next().ok_or_else(invalid)?.split_off(2);
    let mut name = None;
    for part in parts {
        if !part.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"name=")) {
            return Err(said("ERR Invalid metadata value given: ", &part));
        }
        if name.replace(Blob::copy_from(&part[5..])).is_some() {
            return Err(Error::reply("ERR Invalid metadata value, name argument was given multiple times"));
        }
    }
    let name = name.ok_or_else(|| Error::reply("ERR Library name was not given"))?;
    if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
        return Err(Error::reply(
            "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long",
        ));
    }
    if !engine.eq_ignore_ascii_case(b"lua") {
        let engine = String::from_utf8_lossy(&engine).into_owned();
        return Err(Error::reply(format!("ERR Engine '{engine}' not found")));
    }
    Ok(name)
}

/// A line as words, which quotes may hold together; nothing where a quote does not end, or something follows it at once.
fn words_of(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<Vec<u8>>, None);
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match quote {
            Some(end) if byte == end => {
                if bytes.peek().is_some_and(|next| !next.is_ascii_whitespace()) {
                    return None;
                }
                quote = None;
            }
            Some(_) => {
                let byte = if byte == b'\\' { bytes.next()? } else { byte };
                word.get_or_insert_default().push(byte);
            }
            None if byte.is_ascii_whitespace() || byte == 0 => words.extend(word.take()),
            None if matches!(byte, b'"' | b'\'') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            None => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

fn said(text: &str, word: &[u8]) -> Error {
    let shown = word.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte });
    Error::reply(text.bytes().chain(shown).collect::<Vec<u8>>())
}

pub(crate) fn delete(w: &mut Writing<'_>) -> Answer {
    let name = &w.words[2];
    if w.store.library(name).is_none() {
        return Err(Error::reply("ERR Library not found"));
    }
    w.store.put_library(name, None);
    Ok(Reply::ok())
}

pub(crate) fn flush(w: &mut Writing<'_>) -> Answer {
    match &w.words[2..] {
        [] => {}
        [mode] if is(mode, "SYNC") || is(mode, "ASYNC") => {}
        [_] => return Err(Error::reply("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")),
        _ => return Err(misused(&w.words[1])),
    }
    for name in w.store.libraries() {
        w.store.put_library(&name, None);
    }
    Ok(Reply::ok())
}

fn misused(word: &Blob) -> Error {
    let word = String::from_utf8_lossy(word).into_owned();
    Error::reply(format!(
        "ERR unknown subcommand or wrong number of arguments for '{word}'. Try FUNCTION HELP."
    ))
}

/// `FUNCTION LIST [LIBRARYNAME pattern] [WITHCODE]`.
pub(crate) fn list(r: &mut Reading<'_>) -> Answer {
    let (mut pattern, mut with_code, mut at) = (None, false, 2);
    while let Some(word) = r.words.get(at) {
        if !with_code && is(word, "WITHCODE") {
            with_code = true;
        } else if pattern.is_none() && is(word, "LIBRARYNAME") {
            at += 1;
            let given = r.words.get(at);
            pattern = Some(given.ok_or_else(|| Error::reply("ERR library name argument was not given"))?);
        } else {
            return Err(said("ERR Unknown argument ", word));
        }
        at += 1;
    }
    let pattern = pattern.map(folded);
    let fits = |name: &Blob| pattern.as_ref().is_none_or(|pattern| crate::matches(pattern, &folded(name)));
    let shown = libraries(r.look).filter(|(name, _)| fits(name)).map(|(name, library)| {
        let mut items = vec![
            Reply::bulk("library_name"),
            Reply::bulk(name),
            Reply::bulk("engine"),
            Reply::bulk("LUA"),
            Reply::bulk("functions"),
            Reply::array(library.functions.iter().map(described).collect()),
        ];
        if with_code {
            items.extend([Reply::bulk("library_code"), Reply::bulk(library.code.clone())]);
        }
        Reply::map(items)
    });
    Ok(Reply::array(shown.collect()))
}

fn described(function: &FunctionSpec) -> Reply {
    let flags = FunctionSpec::FLAGS.iter().enumerate().filter(|(bit, _)| function.flags >> bit & 1 == 1);
    Reply::map(vec![
        Reply::bulk("name"),
        Reply::bulk(function.name.clone()),
        Reply::bulk("description"),
        Reply::bulk_or_nil(function.description.clone()),
        Reply::bulk("flags"),
        Reply::set(flags.map(|(_, name)| Reply::status(*name)).collect()),
    ])
}

pub(crate) fn stats(r: &mut Reading<'_>) -> Answer {
    let (mut count, mut functions) = (0, 0);
    for (_, library) in libraries(r.look) {
        count += 1;
        functions += library.functions.len();
    }
    Ok(Reply::map(vec![
        Reply::bulk("running_script"),
        Reply::Nil, // A function runs inside the turn that answers; none is ever found running.
        Reply::bulk("engines"),
        Reply::map(vec![
            Reply::bulk("LUA"),
            Reply::map(vec![
                Reply::bulk("libraries_count"),
                Reply::count(count),
                Reply::bulk("functions_count"),
                Reply::count(functions),
            ]),
        ]),
    ]))
}

pub(crate) fn kill(_: &mut Reading<'_>) -> Answer {
    Err(Error::reply("NOTBUSY No scripts in execution right now."))
}

pub(crate) fn dump(r: &mut Reading<'_>) -> Answer {
    let texts: Vec<Blob> = libraries(r.look).map(|(_, library)| library.code.clone()).collect();
    Ok(Reply::bulk(rdb::encode_functions(texts.iter())))
}

/// `FUNCTION RESTORE payload [FLUSH|APPEND|REPLACE]`: all of its libraries, or none.
pub(crate) fn restore(w: &mut Writing<'_>) -> Answer {
    let (mut flush, mut replace) = (false, false);
    match &w.words[3..] {
        [] => {}
        [policy] if is(policy, "APPEND") => {}
        [policy] if is(policy, "REPLACE") => replace = true,
        [policy] if is(policy, "FLUSH") => flush = true,
        [_] => {
            return Err(Error::reply(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
            ));
        }
        _ => return Err(misused(&w.words[1])),
    }
    let texts = rdb::decode_functions(&w.words[2]).map_err(|damaged| {
        Error::reply(match damaged {
            Damaged::Footer => "ERR DUMP payload version or checksum are wrong",
            Damaged::Format | Damaged::Stream => "ERR given type is not a function",
        })
    })?;
    let (mut units, mut fresh) = (LOAD_UNITS_MAX, BTreeMap::new());
    for code in &texts {
        let name = header(code)?;
        if fresh.contains_key(&name) {
            return Err(Error::reply(format!("ERR Library '{name}' already exists")));
        }
        fresh.insert(name, register(w, code, &mut units)?);
    }
    let mut after = if flush { Libraries::none() } else { Libraries::of(w.look()) };
    for name in fresh.keys() {
        if after.names.contains(name) && !replace {
            return Err(Error::reply(format!("ERR Library {name} already exists")));
        }
        after.remove(w.look(), name);
    }
    for (name, library) in &fresh {
        after.add(name, library)?;
    }
    if flush {
        for name in w.store.libraries() {
            w.store.put_library(&name, None);
        }
    }
    for (name, library) in fresh {
        w.store.put_library(&name, Some(library));
    }
    Ok(Reply::ok())
}

pub(crate) fn fcall(w: &mut Writing<'_>) -> Answer {
    call(w, false)
}

pub(crate) fn fcall_ro(w: &mut Writing<'_>) -> Answer {
    call(w, true)
}

/// `FCALL function numkeys [key ...] [arg ...]`.
fn call(w: &mut Writing<'_>, read_only: bool) -> Answer {
    let wanted = &w.words[1];
    let library = w.store.library_of(&folded(wanted));
    let found = library.and_then(|library| {
        let mut functions = library.functions.iter();
        let function = functions.find(|function| function.name.eq_ignore_ascii_case(wanted))?;
        Some((library.code.clone(), function.clone()))
    });
    let (code, function) = found.ok_or_else(|| Error::reply("ERR Function not found"))?;
    let count = integer(&w.words[2]).ok_or_else(|| Error::reply("ERR Bad number of keys provided"))?;
    let rest = &w.words[3..];
    if count > rest.len() as i64 {
        return Err(Error::reply("ERR Number of keys can't be greater than number of args"));
    }
    let count = usize::try_from(count).map_err(|_| Error::reply("ERR Number of keys can't be negative"))?;
    let room = Room { asks_first: !function.no_writes(), allow_oom: function.allow_oom() };
    room.ask(w)?;
    may_only_read(read_only, !function.no_writes())?;
    let (keys, args) = rest.split_at(count);
    let seed = w.store.random();
    let run = Run { text: &code, keys, args, seed, function: Some(&function.name) };
    hosted(w, &run, read_only || function.no_writes(), room)
}

pub(crate) fn help(_: &mut Reading<'_>) -> Answer {
    Ok(crate::keys::help(&[
        "FUNCTION DELETE library",
        "FUNCTION DUMP",
        "FUNCTION FLUSH [ASYNC|SYNC]",
        "FUNCTION KILL",
        "FUNCTION LIST [LIBRARYNAME pattern] [WITHCODE]",
        "FUNCTION LOAD [REPLACE] code",
        "FUNCTION RESTORE payload [FLUSH|APPEND|REPLACE]",
        "FUNCTION STATS",
        "FUNCTION HELP",
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_library() {
        let named = |text: &str| header(&text.into()).map_err(|error| error.text().to_string());
        let name_rule = "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";
        for (text, wanted) in [
            ("#!lua name=a_1\n", Ok("a_1")),
            ("#!LUA NAME=\"xy\"\nreturn", Ok("xy")),
            ("return 1", Err("ERR Missing library metadata")),
            ("#!lua", Err("ERR Invalid library metadata")),
            ("#!lua name=\"x\n", Err("ERR Invalid library metadata")),
            ("#!lua name=\"x\"y\n", Err("ERR Invalid library metadata")),
            ("#!lua\n", Err("ERR Library name was not given")),
            ("#!\nreturn", Err("ERR Library name was not given")),
            ("#!lua name=\n", Err(name_rule)),
            ("#!js name=x-y\n", Err(name_rule)),
            ("#!js name=x\n", Err("ERR Engine 'js' not found")),
            ("#!lua foo=x\n", Err("ERR Invalid metadata value given: foo=x")),
            (
                "#!lua name=x name=y\n",
                Err("ERR Invalid metadata value, name argument was given multiple times"),
            ),
        ] {
            assert_eq!(named(text), wanted.map(Blob::from).map_err(str::to_owned), "{text:?}");
        }
    }
}
