//! Small grammars for commands: from a line such as `SET k v [ NX | XX ]` to one random command.
//!
//! Invariant: the same seed makes the same commands, so a finding is told by its seed.
//! Called by: `families`. Words: `[ a | b ]` at most one of them, `( a | b )` one, `x+` or `( … )+` one to three times; a single
//! small letter stands for a random word of its kind (see [`Kind`] in [`fill`]); all else stands for itself, `'x` for `x`.

/// splitmix64: good enough to choose, and the same everywhere.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    /// Yes, in `percent` of a hundred.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A word of a command: mostly bytes, else what only a run can know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Plain(Vec<u8>),
    /// Unix time in seconds, so many from now.
    Seconds(i64),
    /// Unix time in milliseconds, so many from now.
    Millis(i64),
    /// The id of a stream record that this server gave: the one with this number, modulo how many there are.
    Id(usize),
    /// The number of the second database that a run has to itself.
    Database,
    /// A text in which `@` is that number.
    Own(Vec<u8>),
}

/// A text with the number of a run in it.
pub(crate) fn owned(text: &[u8], number: usize) -> Vec<u8> {
    String::from_utf8_lossy(text).replace('@', &number.to_string()).into_bytes()
}

/// A command from a grammar.
pub(crate) fn command(dice: &mut Dice, grammar: &str) -> Vec<Word> {
    let tokens: Vec<&str> = grammar.split_whitespace().collect();
    let mut words = Vec::new();
    let mut at = 0;
    sequence(dice, &tokens, &mut at, true, &mut words);
    assert!(at == tokens.len(), "a grammar with unmatched brackets: {grammar}");
    words
}

fn sequence(dice: &mut Dice, tokens: &[&str], at: &mut usize, live: bool, words: &mut Vec<Word>) {
    while let Some(&token) = tokens.get(*at) {
        match token {
            "]" | ")" | ")+" | "|" => return,
            "[" | "(" => {
                let open = *at + 1;
                let mut ends = vec![];
                skip(tokens, at, &mut ends);
                let again = tokens[*at - 1] == ")+";
                let times = match token {
                    "[" => usize::from(dice.chance(40)),
                    _ if again => times(dice),
                    _ => 1,
                };
                for _ in 0..if live { times } else { 0 } {
                    let choice = dice.below(ends.len());
                    let mut inner = if choice == 0 { open } else { ends[choice - 1] + 1 };
                    sequence(dice, tokens, &mut inner, live, words);
                }
            }
            _ => {
                *at += 1;
                if live {
                    let (name, times) = match token.strip_suffix('+') {
                        Some(name) if !name.is_empty() => (name, times(dice)),
                        _ => (token, 1),
                    };
                    for _ in 0..times {
                        fill(dice, name, words);
                    }
                }
            }
        }
    }
}

/// Passes one bracket, and notes where each of its alternatives ends.
fn skip(tokens: &[&str], at: &mut usize, ends: &mut Vec<usize>) {
    let mut depth = 0;
    loop {
        match tokens.get(*at).copied() {
            Some("[" | "(") => depth += 1,
            Some("|") if depth == 1 => ends.push(*at),
            Some("]" | ")" | ")+") => {
                depth -= 1;
                if depth == 0 {
                    ends.push(*at);
                    *at += 1;
                    return;
                }
            }
            Some(_) => {}
            None => panic!("a bracket is never closed: {tokens:?}"),
        }
        *at += 1;
    }
}

fn times(dice: &mut Dice) -> usize {
    dice.pick(&[1, 1, 2, 2, 3])
}

/// The keys of every test: few, so that commands meet.
pub(crate) const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
const VALUES: [&[u8]; 16] = [
    b"",
    b"x",
    b"hello",
    b"foobar",
    b"10",
    b"-3",
    b"3.5",
    b"0",
    b"00",
    b"9223372036854775807",
    b"1e3",
    b" 7",
    b"\x00\xff\r\n\x80",
    b"The quick brown fox jumps over the lazy dog, twice: the quick brown fox jumps over the lazy dog",
    b"m1",
    b"5",
];
const INTEGERS: [&str; 16] = [
    "0",
    "1",
    "1",
    "2",
    "3",
    "5",
    "7",
    "-1",
    "-2",
    "10",
    "100",
    "-100",
    "1",
    "2",
    "9223372036854775807",
    "-9223372036854775808",
];
const INDEXES: [&str; 16] =
    ["0", "0", "1", "2", "3", "4", "5", "-1", "-1", "-2", "-3", "-4", "7", "-7", "100", "-100"];
const FLOATS: [&str; 14] = [
    "1.5",
    "-0.25",
    "0.1",
    "0.2",
    "3.0e2",
    "5",
    "-5",
    "10.50",
    "200",
    "1e-3",
    "0",
    "100",
    "1.23456789",
    "-1",
];
const SCORES: [&str; 16] = [
    "0",
    "1",
    "2",
    "3",
    "1.5",
    "-1.5",
    "-2",
    "10",
    "0.1",
    "1e20",
    "+inf",
    "-inf",
    "1e-7",
    "123456789.125",
    "2",
    "-0",
];
const BOUNDS: [&str; 14] =
    ["0", "1", "2", "3", "(1", "(2", "(0", "-inf", "+inf", "-inf", "+inf", "(1.5", "10", "-2"];
const LEXES: [&str; 10] = ["-", "+", "-", "+", "[m1", "(m1", "[m3", "(m5", "[a", "(z"];
const MEMBERS: [&str; 12] = ["m1", "m2", "m3", "m4", "m5", "m6", "1", "2", "10", "", "foo", "3.5"];
const FIELDS: [&str; 7] = ["f1", "f2", "f3", "f4", "f5", "1", ""];
const PATTERNS: [&str; 12] =
    ["*", "*", "a*", "[ab]", "?", "m?", "m[1-3]", "[^a]", "\\a", "f*", "*1", "nothing"];
const BAD: [&str; 20] = [
    "abc",
    "",
    "1.5",
    "-1",
    "0",
    "99999999999999999999",
    "9223372036854775807",
    "-9223372036854775808",
    "nan",
    "inf",
    " 1",
    "1 ",
    "+1",
    "01",
    "1e400",
    "0x10",
    "(1",
    "NX",
    "COUNT",
    "-0",
];

/// One random word, or several, of the kind that a letter names.
fn fill(dice: &mut Dice, name: &str, words: &mut Vec<Word>) {
    let plain = |text: &str| Word::Plain(text.as_bytes().to_vec());
    let own = |text: &str| Word::Own(text.as_bytes().to_vec());
    let word = match name {
        "k" => plain(dice.pick(&KEYS)),
        "j" => {
            let count = times(dice);
            let said = if dice.chance(4) { dice.below(5) } else { count };
            words.push(plain(&said.to_string()));
            for _ in 1..count {
                words.push(plain(dice.pick(&KEYS)));
            }
            plain(dice.pick(&KEYS))
        }
        "v" => Word::Plain(dice.pick(&VALUES).to_vec()),
        "n" => plain(dice.pick(&INTEGERS)),
        "i" => plain(dice.pick(&INDEXES)),
        "c" => plain(dice.pick(&["0", "1", "1", "2", "2", "3", "5", "10", "-1"])),
        "f" => plain(dice.pick(&FLOATS)),
        "s" => plain(dice.pick(&SCORES)),
        "r" => plain(dice.pick(&BOUNDS)),
        "x" => plain(dice.pick(&LEXES)),
        "m" => plain(dice.pick(&MEMBERS)),
        "h" => plain(dice.pick(&FIELDS)),
        "p" => plain(dice.pick(&PATTERNS)),
        // No two times alike: whether one is later than another must not hang on the millisecond in which a server looks.
        "t" => plain(&(100 + dice.below(20_000)).to_string()),
        "u" => plain(&(100_000 + dice.below(20_000_000)).to_string()),
        "o" => plain(dice.pick(&["0", "1", "2", "5", "7", "8", "9", "15", "16", "31", "40", "-1"])),
        "y" => plain(dice.pick(&["0", "1", "1"])),
        "l" => plain(dice.pick(&["0", "1", "2", "3"])),
        "g" => plain(dice.pick(&["g1", "g1", "g2"])),
        "w" => plain(dice.pick(&["w1", "w1", "w2"])),
        "b" => plain(dice.pick(&["u8", "i8", "u4", "i5", "u16", "i64", "u63", "u1", "u64", "i65", "x8"])),
        "q" => plain(dice.pick(&["0", "8", "3", "#0", "#1", "#2", "16"])),
        "d" => Word::Id(dice.below(12)),
        "e" if dice.chance(15) => Word::Seconds(-10),
        "e" => Word::Seconds(100 + dice.below(20_000) as i64),
        "z" if dice.chance(15) => Word::Millis(-10_000),
        "z" => Word::Millis(100_000 + dice.below(20_000_000) as i64),
        "0db" => Word::Database,
        "a" => plain(dice.pick(&["0.05", "0.3", "0.3", "0.4"])),
        "0lon" => plain(dice.pick(&["13.361389", "15.087269", "-122.4194", "2.3522", "0", "181", "-0.1276"])),
        "0lat" => plain(dice.pick(&["38.115556", "37.502669", "37.7749", "48.8566", "0", "86", "51.5072"])),
        "0script" => plain(dice.pick(&SCRIPTS)),
        "0library" => own(dice.pick(&LIBRARIES)),
        "0function" => own(dice.pick(&["f@", "f@", "g@", "G@", "ro@", "boom@", "sand@", "none@"])),
        "0named" => own(dice.pick(&["a@", "b@", "c@", "d@", "f@", "z@"])),
        "0pattern" => own(dice.pick(&["*@", "a@", "[A-C]@", "[^a]@"])),
        "0sha" => plain(&sha1(dice.pick(&SCRIPTS).as_bytes())),
        _ => plain(name.strip_prefix('\'').unwrap_or(name)),
    };
    words.push(word);
}

/// Spoils a command, as users do; but none that would then wait for ever.
pub(crate) fn spoil(dice: &mut Dice, words: &mut Vec<Word>) {
    let waits = |word: &Word| matches!(word, Word::Plain(text) if text == b"BLOCK" || [&b"BL"[..], b"BR", b"BZ"].iter().any(|start| text.starts_with(start)));
    if words.iter().any(waits) {
        return;
    }
    match dice.below(4) {
        0 if words.len() > 1 => {
            words.pop();
        }
        1 => words.push(Word::Plain(dice.pick(&BAD).as_bytes().to_vec())),
        _ if words.len() > 2 => {
            let at = 2 + dice.below(words.len() - 2);
            words[at] = Word::Plain(dice.pick(&BAD).as_bytes().to_vec());
        }
        _ => {}
    }
}

/// Scripts over two keys and two arguments. Those whose order Redis leaves open sort what they answer.
const SCRIPTS: [&str; 36] = [
    "return 1",
    "return {1,2,{3,'x',false,true},nil,5}",
    "return redis.call('get', KEYS[1])",
    "redis.call('set', KEYS[1], ARGV[1]) return redis.call('get', KEYS[1])",
    "return redis.call('incrby', KEYS[1], ARGV[1])",
    "return redis.pcall('incrby', KEYS[1], ARGV[1])",
    "local r = redis.pcall('lpush', KEYS[1], ARGV[1]) if type(r) == 'table' then return r.err end return r",
    "redis.call('rpush', KEYS[2], ARGV[1], ARGV[2]) return redis.call('lrange', KEYS[2], 0, -1)",
    "redis.call('sadd', KEYS[1], ARGV[1], ARGV[2]) local m = redis.call('smembers', KEYS[1]) table.sort(m) return m",
    "redis.call('zadd', KEYS[1], 1, ARGV[1], 2, ARGV[2]) return redis.call('zrange', KEYS[1], 0, -1, 'withscores')",
    "redis.call('hset', KEYS[1], ARGV[1], ARGV[2]) return redis.call('hget', KEYS[1], ARGV[1])",
    "return redis.error_reply('MYERR something went wrong')",
    "return redis.error_reply('without code')",
    "return redis.status_reply('FINE')",
    "return {err='ERR made here'}",
    "return {ok='yes'}",
    "return 3.99",
    "return '3.99'",
    "return tostring(3.99)",
    "return tonumber(ARGV[1])",
    "return #KEYS + #ARGV",
    "return cjson.encode({1,2,'x',{a=1}})",
    "local t = cjson.decode('{\"a\":[1,2.5,null,true],\"b\":\"x\"}') return {t.a[1], tostring(t.a[2]), t.a[3] == cjson.null, t.a[4], t.b}",
    "return {bit.band(255, 15), bit.bor(1, 6), bit.bxor(5, 3), bit.lshift(1, 10), bit.rshift(1024, 3), bit.tohex(255)}",
    "return cmsgpack.unpack(cmsgpack.pack({1,2,3,'x'}))",
    "return {struct.unpack('>I2h', struct.pack('>I2h', 513, -2))}",
    "return redis.sha1hex(ARGV[1])",
    "return redis.call('exists', KEYS[1], KEYS[2])",
    "return redis.call('nosuchcommand')",
    "return redis.call('get')",
    "error('on purpose')",
    "redis.call('set', KEYS[1], 'kept') redis.call('lpush', KEYS[1], 'x')",
    "return redis.call('type', KEYS[1])",
    "local s = 0 for i = 1, 1000 do s = s + i end return s",
    "redis.call('set', KEYS[1], ARGV[1], 'px', 100000) return redis.call('pttl', KEYS[1]) > 90000",
    "local t = {} for w in string.gmatch('a,b,,c', '([^,]*)') do t[#t+1] = w end return {#ARGV[1], string.upper(ARGV[1]), string.format('%05.1f|%s|%d', 3.14159, 'x', 42), unpack({7,8})}",
];

/// Libraries of one function each, so that LIST gives them in an order; and some that are none. Libraries are those of the whole server: `@` is the
/// number that a run has to itself.
const LIBRARIES: [&str; 24] = [
    "#!lua name=a@\nredis.register_function('f@', function(keys, args) return {#keys, #args, keys[1], args[1]} end)",
    "#!lua name=a@\nredis.register_function('f@', function(keys, args) return redis.call('set', keys[1], args[1]) end)",
    "#!lua name=b@\nredis.register_function{function_name='g@', callback=function(keys) return redis.call('get', keys[1]) end, flags={'no-writes'}, description='reads'}",
    "#!lua name=b@\nredis.register_function{function_name='g@', callback=function(keys, args) redis.call('rpush', keys[1], unpack(args)) return redis.call('llen', keys[1]) end, flags={'allow-oom', 'allow-stale'}}",
    "#!lua name=c@\nredis.register_function{function_name='ro@', callback=function(keys, args) return redis.call('set', keys[1], args[1]) end, flags={'no-writes'}}",
    "#!lua name=d@\nlocal function no() error('boom') end\nredis.register_function('boom@', function(keys, args)\n  redis.call('incr', keys[1])\n  no()\nend)",
    "#!lua name=e@\nredis.register_function('sand@', function(keys, args) return {redis.pcall('fcall', 'f', 0).err, redis.register_function == nil, redis.sha1hex('x'), redis.setresp(3), redis.call('ping')} end)",
    "#!lua name=f@\nredis.register_function('sand@', function() return {type(cjson), type(math.random()), type(os.clock()), #redis.status_reply('x').ok} end)",
    "#!lua name=g@\nredis.register_function('f@', function() return KEYS end)",
    "#!lua name=h@\nredis.register_function('g@', function() x = 1 end)",
    "#!lua name=i@\nredis.register_function('ro@', function() return {err='MINE it is'} end)",
    "#!lua name=a@\nredis.call('get', 'x')",
    "#!lua name=a@\nlocal x = math.random()",
    "#!lua name=a@\nredis.register_function('f@', 1)",
    "#!lua name=a@\nredis.register_function('f-g', function() end)",
    "#!lua name=a@\nredis.register_function{function_name='f@', callback=function() end, flags={'none'}}",
    "#!lua name=a@\nredis.register_function{function_name='f@', callback=function() end, more=1}",
    "#!lua name=a@\nredis.register_function{callback=function() end}",
    "#!lua name=a@\nreturn 1",
    "#!lua name=a@\nreturn (((",
    "#!lua name=a-b\nreturn 1",
    "#!lua\nreturn 1",
    "#!js name=a@\nreturn 1",
    "return 1",
];

/// The SHA-1 of a text in hexadecimal, by which EVALSHA names a script. Source: FIPS 180-4, §6.1.
fn sha1(text: &[u8]) -> String {
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = text.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(text.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks(64) {
        let mut words: Vec<u32> = block
            .chunks(4)
            .map(|four| four.iter().fold(0, |word, &byte| word << 8 | u32::from(byte)))
            .collect();
        for at in 16..80 {
            words.push((words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (at, word) in words.iter().enumerate() {
            let (mixed, constant) = match at / 20 {
                0 => ((b & c) | (!b & d), 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a
                .rotate_left(5)
                .wrapping_add(mixed)
                .wrapping_add(e)
                .wrapping_add(constant)
                .wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    state.iter().map(|word| format!("{word:08x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grammar_makes_what_it_says() {
        let mut dice = Dice(7);
        for _ in 0..200 {
            let words = command(&mut dice, "SET k v [ NX | XX [ GET ] ] ( EX 5 | KEEPTTL )");
            let last: Vec<&[u8]> = words[3..]
                .iter()
                .map(|word| match word {
                    Word::Plain(text) => text.as_slice(),
                    _ => panic!("{word:?}"),
                })
                .collect();
            let wanted: [&[&[u8]]; 8] = [
                &[b"EX", b"5"],
                &[b"KEEPTTL"],
                &[b"NX", b"EX", b"5"],
                &[b"NX", b"KEEPTTL"],
                &[b"XX", b"EX", b"5"],
                &[b"XX", b"KEEPTTL"],
                &[b"XX", b"GET", b"EX", b"5"],
                &[b"XX", b"GET", b"KEEPTTL"],
            ];
            assert!(wanted.contains(&last.as_slice()), "{words:?}");
        }
    }

    #[test]
    fn scripts_are_named_by_their_sha1() {
        assert_eq!(sha1(b"return 1"), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }
}
