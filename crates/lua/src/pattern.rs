//! Lua's patterns, matched step by step against a budget: the language's own matcher can work for hours inside one call.
//!
//! Invariant: the same matches and captures as Lua 5.1 (reference manual §5.4.1), at most [`DEPTH_MAX`] items deep.
//! Called by: `strings`.

use crate::meter::Meter;

/// Captures of one pattern, as the language has it.
const CAPTURES_MAX: usize = 32;
/// Pattern items that wait for what follows them.
const DEPTH_MAX: usize = 200;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The pattern is wrong: this is why.
    Pattern(&'static str),
    /// The run is aborted.
    Aborted,
}

/// A captured piece of the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    /// From, and how many bytes.
    Text(usize, usize),
    /// A place, from 0.
    Place(usize),
}

#[derive(Clone, Copy)]
enum Open {
    Unclosed,
    Place,
    Closed(usize),
}

/// A match in progress.
pub(crate) struct Matcher<'a> {
    subject: &'a [u8],
    pattern: &'a [u8],
    meter: &'a Meter,
    captures: Vec<(usize, Open)>,
    steps: u64,
    depth: usize,
}

type Found = Result<Option<usize>, Fault>;

impl<'a> Matcher<'a> {
    /// A matcher for a subject.
    pub(crate) fn new(subject: &'a [u8], pattern: &'a [u8], meter: &'a Meter) -> Self {
        Self { subject, pattern, meter, captures: Vec::new(), steps: 0, depth: 0 }
    }
    /// Where a match that begins at `at` ends, if there is one.
    pub(crate) fn begin(&mut self, at: usize, pattern: usize) -> Found {
        self.captures.clear();
        self.depth = 0;
        self.run(at, pattern)
    }
    /// What was captured; the whole match, if nothing is captured and `whole` is given.
    pub(crate) fn captured(&self, whole: Option<(usize, usize)>) -> Result<Vec<Capture>, Fault> {
        if let (true, Some((from, to))) = (self.captures.is_empty(), whole) {
            return Ok(vec![Capture::Text(from, to - from)]);
        }
        (0..self.captures.len()).map(|index| self.capture(index)).collect()
    }
    /// One capture, from 0.
    pub(crate) fn capture(&self, index: usize) -> Result<Capture, Fault> {
        match self.captures.get(index) {
            None => Err(Fault::Pattern("invalid capture index")),
            Some((_, Open::Unclosed)) => Err(Fault::Pattern("unfinished capture")),
            Some((from, Open::Place)) => Ok(Capture::Place(*from)),
            Some((from, Open::Closed(len))) => Ok(Capture::Text(*from, *len)),
        }
    }
    /// Pays for the steps that are not paid for yet.
    pub(crate) fn settle(&mut self) -> Result<(), Fault> {
        let steps = std::mem::take(&mut self.steps);
        self.meter.charge(steps).map_err(|_| Fault::Aborted)
    }

    fn step(&mut self) -> Result<(), Fault> {
        self.steps += 1;
        if self.steps >= 1000 { self.settle() } else { Ok(()) }
    }

    fn run(&mut self, at: usize, pattern: usize) -> Found {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::Pattern("pattern too complex"));
        }
        let found = self.walk(at, pattern);
        self.depth -= 1;
        found
    }

    fn walk(&mut self, mut s: usize, mut p: usize) -> Found {
        loop {
            self.step()?;
            let Some(&item) = self.pattern.get(p) else { return Ok(Some(s)) };
            match item {
                b'(' if self.pattern.get(p + 1) == Some(&b')') => return self.opened(s, p + 2, Open::Place),
                b'(' => return self.opened(s, p + 1, Open::Unclosed),
                b')' => return self.closed(s, p + 1),
                b'$' if p + 1 == self.pattern.len() => return Ok((s == self.subject.len()).then_some(s)),
                b'%' if self.pattern.get(p + 1) == Some(&b'b') => match self.balanced(s, p + 2)? {
                    None => return Ok(None),
                    Some(end) => (s, p) = (end, p + 4),
                },
                b'%' if self.pattern.get(p + 1) == Some(&b'f') => {
                    p += 2;
                    if self.pattern.get(p) != Some(&b'[') {
                        return Err(Fault::Pattern("missing '[' after '%f' in pattern"));
                    }
                    let end = self.class_end(p)?;
                    let before = if s == 0 { 0 } else { self.subject[s - 1] };
                    let here = self.subject.get(s).copied().unwrap_or(0);
                    if self.in_set(before, p, end - 1) || !self.in_set(here, p, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                }
                b'%' if self.pattern.get(p + 1).is_some_and(u8::is_ascii_digit) => {
                    match self.again(s, self.pattern[p + 1])? {
                        None => return Ok(None),
                        Some(end) => (s, p) = (end, p + 2),
                    }
                }
                _ => {
                    let end = self.class_end(p)?;
                    match self.pattern.get(end) {
                        Some(b'?') => {
                            if self.fits(s, p, end)
                                && let Some(found) = self.run(s + 1, end + 1)?
                            {
                                return Ok(Some(found));
                            }
                            p = end + 1;
                        }
                        Some(b'*') => return self.most(s, p, end),
                        Some(b'+') => {
                            return if self.fits(s, p, end) { self.most(s + 1, p, end) } else { Ok(None) };
                        }
                        Some(b'-') => return self.least(s, p, end),
                        _ if self.fits(s, p, end) => (s, p) = (s + 1, end),
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    fn opened(&mut self, s: usize, p: usize, open: Open) -> Found {
        if self.captures.len() >= CAPTURES_MAX {
            return Err(Fault::Pattern("too many captures"));
        }
        let level = self.captures.len();
        self.captures.push((s, open));
        let found = self.run(s, p)?;
        if found.is_none() {
            self.captures.truncate(level);
        }
        Ok(found)
    }
    fn closed(&mut self, s: usize, p: usize) -> Found {
        let open = self.captures.iter().rposition(|(_, open)| matches!(open, Open::Unclosed));
        let level = open.ok_or(Fault::Pattern("invalid pattern capture"))?;
        self.captures[level].1 = Open::Closed(s - self.captures[level].0);
        let found = self.run(s, p)?;
        if found.is_none() {
            self.captures[level].1 = Open::Unclosed;
        }
        Ok(found)
    }
    fn balanced(&mut self, s: usize, p: usize) -> Found {
        let (Some(&open), Some(&close)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return Err(Fault::Pattern("unbalanced pattern"));
        };
        if self.subject.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for at in s + 1..self.subject.len() {
            self.step()?;
            let byte = self.subject[at];
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == open {
                depth += 1;
            }
        }
        Ok(None)
    }
    fn again(&mut self, s: usize, digit: u8) -> Found {
        let index = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let Some((from, Open::Closed(len))) = self.captures.get(index).copied() else {
            return Err(Fault::Pattern("invalid capture index"));
        };
        self.steps += len as u64 / 32;
        let same = self.subject[s..].starts_with(&self.subject[from..from + len]);
        Ok(same.then_some(s + len))
    }
    fn most(&mut self, s: usize, p: usize, end: usize) -> Found {
        let mut count = 0;
        while self.fits(s + count, p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(found) = self.run(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }
    fn least(&mut self, mut s: usize, p: usize, end: usize) -> Found {
        loop {
            if let Some(found) = self.run(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.fits(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }
    fn class_end(&self, p: usize) -> Result<usize, Fault> {
        match self.pattern[p] {
            b'%' if p + 1 >= self.pattern.len() => Err(Fault::Pattern("malformed pattern (ends with '%')")),
            b'%' => Ok(p + 2),
            b'[' => {
                let missing = Fault::Pattern("malformed pattern (missing ']')");
                let mut at = p + 1;
                if self.pattern.get(at) == Some(&b'^') {
                    at += 1;
                }
                loop {
                    // The first byte of a set is one of its members, even a bracket.
                    match self.pattern.get(at) {
                        None => return Err(missing),
                        Some(b'%') => at += 2,
                        Some(_) => at += 1,
                    }
                    match self.pattern.get(at) {
                        None => return Err(missing),
                        Some(b']') => return Ok(at + 1),
                        Some(_) => {}
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }
    fn fits(&mut self, s: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.subject.get(s) else { return false };
        match self.pattern[p] {
            b'.' => true,
            b'%' => is_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1),
            literal => literal == byte,
        }
    }
    /// Whether the set between the brackets at `p` and `close` has a byte.
    fn in_set(&mut self, byte: u8, p: usize, close: usize) -> bool {
        self.steps += (close - p) as u64 / 8;
        let mut at = p + 1;
        let wanted = self.pattern.get(at) != Some(&b'^');
        if !wanted {
            at += 1;
        }
        while at < close {
            if self.pattern[at] == b'%' {
                if is_class(byte, self.pattern[at + 1]) {
                    return wanted;
                }
                at += 2;
            } else if self.pattern.get(at + 1) == Some(&b'-') && at + 2 < close {
                if (self.pattern[at]..=self.pattern[at + 2]).contains(&byte) {
                    return wanted;
                }
                at += 3;
            } else {
                if self.pattern[at] == byte {
                    return wanted;
                }
                at += 1;
            }
        }
        !wanted
    }
}

/// Whether a byte is of a class such as `%a`, in the C locale.
fn is_class(byte: u8, class: u8) -> bool {
    let inside = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => matches!(byte, b' ' | 9..=13),
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    inside != class.is_ascii_uppercase()
}
