//! What is compared: for every family of commands, their grammars and how their replies are held against each other.
//!
//! Invariant: a command whose reply may rightly differ between two servers says so by its sign; all others must agree to the byte.
//! Called by: `main`. A line is `SIGN WEIGHT GRAMMAR`; the signs are [`How`]'s.

use super::grammar::{self, Dice, KEYS, Word};

/// How two replies are held against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// `=`: equal.
    Exact,
    /// `*`: equal but for the order of the values.
    Unordered,
    /// `%`: equal but for the order of the pairs.
    Pairs,
    /// `~`: whole numbers are a time that runs, in seconds or milliseconds.
    Near,
    /// `?`: random values; each must be there.
    Random,
    /// `!`: takes random values away; each must have been there. What one server took is then taken from the other too.
    Pop,
    /// `@`: one call of a whole scan: what all its calls gave, as a set.
    Scan,
    /// `#`: of one type.
    Kind,
    /// `>`: may block: sent now, and answered when its connection is used next.
    Later,
    /// Nothing is sent: time passes, so many milliseconds.
    Sleep(u64),
    /// All of a key's value: its type decides what is asked.
    State,
}

/// A command, on one of the two connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) connection: usize,
    pub(crate) words: Vec<Word>,
    pub(crate) how: How,
}

/// Commands that one seed made.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) family: &'static str,
    pub(crate) seed: u64,
    /// 2 or 3.
    pub(crate) protocol: u8,
    pub(crate) steps: Vec<Step>,
}

/// A family of commands.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    lines: &'static [&'static str],
    /// Other families whose commands come in between.
    with: &'static [&'static str],
    /// Of a hundred commands, how many go to the second connection.
    second: usize,
    /// Of a hundred commands, how many are spoiled.
    spoiled: usize,
    /// Needs a server newer than 7.0.
    pub(crate) newer: bool,
    /// Real time passes in it, so that fewer sequences are run.
    pub(crate) slow: bool,
}

const fn family(name: &'static str, lines: &'static [&'static str]) -> Family {
    Family { name, lines, with: &[], second: 0, spoiled: 5, newer: false, slow: false }
}

pub(crate) fn find(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

/// The sequence that a seed makes.
pub(crate) fn sequence(family: &'static Family, seed: u64, length: usize, protocol: u8) -> Sequence {
    let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ u64::from(protocol));
    let own = weighted(family.lines);
    let others: Vec<&str> = family
        .with
        .iter()
        .filter_map(|name| find(name))
        .flat_map(|other| other.lines.iter().copied())
        .collect();
    let mut makers = weighted(MAKERS);
    makers.retain(|line| family.name != "lexical" || !line.contains("ZADD"));
    let mut steps: Vec<Step> = (0..length)
        .map(|_| {
            let line = match dice.below(100) {
                0..8 => dice.pick(&makers),
                8..45 if !others.is_empty() => dice.pick(&others),
                _ => dice.pick(&own),
            };
            let (how, grammar) = read(line);
            let mut words = match how {
                How::Sleep(_) => vec![],
                _ => grammar::command(&mut dice, grammar),
            };
            if !words.is_empty() && dice.chance(family.spoiled) {
                grammar::spoil(&mut dice, &mut words);
            }
            if dice.chance(3)
                && let Some(Word::Plain(name)) = words.first_mut()
            {
                name.make_ascii_lowercase();
            }
            let connection = usize::from(how != How::State && dice.chance(family.second));
            Step { connection, words, how }
        })
        .collect();
    if family.name != "pubsub" {
        steps.push(Step { connection: 0, words: plain(&["DISCARD"]), how: How::Exact });
        steps.push(Step { connection: 0, words: plain(&["KEYS", "*"]), how: How::Unordered });
        steps.extend(KEYS.map(|key| Step { connection: 0, words: plain(&[key]), how: How::State }));
    }
    Sequence { family: family.name, seed, protocol, steps }
}

pub(crate) fn plain(words: &[&str]) -> Vec<Word> {
    words.iter().map(|word| Word::Plain(word.as_bytes().to_vec())).collect()
}

/// Each line as often as its weight says.
fn weighted(lines: &[&'static str]) -> Vec<&'static str> {
    lines.iter().flat_map(|line| vec![*line; weight(line).0]).collect()
}

fn weight(line: &'static str) -> (usize, &'static str) {
    let rest = line[1..].trim_start();
    let (first, grammar) = rest.split_once(' ').unwrap_or((rest, ""));
    match first.parse() {
        Ok(weight) => (weight, grammar),
        Err(_) => (1, rest),
    }
}

fn read(line: &'static str) -> (How, &'static str) {
    let grammar = weight(line).1;
    let how = match line.as_bytes()[0] {
        b'=' => How::Exact,
        b'*' => How::Unordered,
        b'%' => How::Pairs,
        b'~' => How::Near,
        b'?' => How::Random,
        b'!' => How::Pop,
        b'@' => How::Scan,
        b'#' => How::Kind,
        b'>' => How::Later,
        b'z' => How::Sleep(grammar.parse().expect("a sleep says its milliseconds")),
        sign => panic!("{sign} is no sign of a line: {line}"),
    };
    (how, grammar)
}

/// Keys of other types, that get in the way.
const MAKERS: &[&str] = &[
    "=3 SET k v",
    "=2 RPUSH k m+",
    "=2 SADD k m+",
    "=2 HSET k ( h v )+",
    "=2 ZADD k ( s m )+",
    "=4 DEL k+",
    "= EXPIRE k t",
    "= PERSIST k",
    "= RENAME k k",
    "= SET k 5",
];

pub(crate) const FAMILIES: &[Family] = &[
    family(
        "strings",
        &[
            "=6 SET k v [ NX | XX ] [ GET ] [ EX t | PX u | EXAT e | PXAT z | KEEPTTL ]",
            "=3 SET k v",
            "=4 GET k",
            "= GETSET k v",
            "= GETDEL k",
            "=2 GETEX k [ EX t | PX u | EXAT e | PXAT z | PERSIST ]",
            "= SETNX k v",
            "= SETEX k t v",
            "= PSETEX k u v",
            "=2 MSET ( k v )+",
            "=2 MSETNX ( k v )+",
            "=2 MGET k+",
            "=2 APPEND k v",
            "=2 STRLEN k",
            "=2 INCR k",
            "= DECR k",
            "=3 INCRBY k n",
            "= DECRBY k n",
            "=3 INCRBYFLOAT k f",
            "=2 SETRANGE k o v",
            "=3 GETRANGE k i i",
            "= SUBSTR k i i",
            "= TYPE k",
            "~ TTL k",
            "=2 LCS k k [ LEN | IDX [ MINMATCHLEN l ] [ WITHMATCHLEN ] ]",
            "= SET k n",
        ],
    ),
    Family {
        with: &["strings"],
        ..family(
            "keys",
            &[
                "=3 DEL k+",
                "= UNLINK k+",
                "=2 EXISTS k+",
                "=2 TYPE k",
                "= TOUCH k+",
                "=3 RENAME k k",
                "=2 RENAMENX k k",
                "=3 COPY k k [ REPLACE ]",
                "*2 KEYS p",
                "=2 DBSIZE",
                "?2 RANDOMKEY",
                "@3 SCAN 0 [ MATCH p ] [ COUNT c ] [ TYPE ( 'string | 'list | 'zset | 'nosuch ) ]",
                "=3 EXPIRE k t [ NX | XX | GT | LT ]",
                "=2 PEXPIRE k u [ NX | XX | GT | LT ]",
                "=2 EXPIREAT k e [ NX | XX | GT | LT ]",
                "=2 PEXPIREAT k z [ NX | XX | GT | LT ]",
                "~2 TTL k",
                "~2 PTTL k",
                "~ EXPIRETIME k",
                "~ PEXPIRETIME k",
                "=2 PERSIST k",
                "= EXPIRE k ( 0 | -1 )",
                "=2 MOVE k 0db",
                "= COPY k k DB 0db",
                "= MOVE k 99",
                "= OBJECT REFCOUNT k",
                "= RESTORE k ( 0 | -1 | abc | t ) v [ REPLACE ] [ ABSTTL ] [ IDLETIME n | FREQ n ]",
                "# DUMP k",
                "# OBJECT IDLETIME k",
                "=2 SORT k ALPHA [ LIMIT i c ] [ DESC | ASC ]",
                "= SORT k [ LIMIT i c ] [ DESC ]",
                "= SORT_RO k ALPHA",
                "= SORT k ALPHA STORE k",
                "* SORT k BY nosort_* ALPHA GET # GET k GET a*",
                "=2 RPUSH k ( 1 | 3 | 2 | 10 )+",
                "= SORT k GET #",
            ],
        )
    },
    Family {
        slow: true,
        spoiled: 0,
        ..family(
            "expiry",
            &[
                "=4 SET k v PX 150",
                "=2 PEXPIRE k 150",
                "=2 PSETEX k 150 v",
                "= HSET k h v",
                "= SADD k m",
                "=3 GET k",
                "=2 EXISTS k+",
                "=2 TYPE k",
                "=2 DBSIZE",
                "*2 KEYS *",
                "z3 450",
                "~ PTTL k",
                "= INCR k",
                "= APPEND k v",
                "= SET k v KEEPTTL",
                "= PERSIST k",
                "= RENAME k k",
                "= RPUSH k m",
                "= LRANGE k 0 -1",
                "= GETSET k v",
                "= PEXPIRE k 150 ( NX | XX | GT | LT )",
                "= COPY k k REPLACE",
                "= SETNX k v",
                "= SET k v PX 60000",
                "= DEL k",
                "= GETEX k PX 150",
                "? RANDOMKEY",
                "@ SCAN 0",
            ],
        )
    },
    family(
        "hashes",
        &[
            "=5 HSET k ( h v )+",
            "= HMSET k ( h v )+",
            "= HSETNX k h v",
            "=3 HGET k h",
            "=2 HMGET k h+",
            "%3 HGETALL k",
            "=2 HDEL k h+",
            "= HEXISTS k h",
            "=2 HLEN k",
            "= HSTRLEN k h",
            "*2 HKEYS k",
            "*2 HVALS k",
            "=3 HINCRBY k h n",
            "=3 HINCRBYFLOAT k h f",
            "?2 HRANDFIELD k [ c [ WITHVALUES ] ]",
            "@2 HSCAN k 0 [ MATCH p ] [ COUNT c ]",
            "= HSET k h n",
        ],
    ),
    Family {
        newer: true,
        with: &["hashes"],
        ..family(
            "hash-expiry",
            &[
                "=3 HEXPIRE k t [ NX | XX | GT | LT ] FIELDS 1 h",
                "=2 HPEXPIRE k u FIELDS 2 h h",
                "=2 HEXPIREAT k e FIELDS 1 h",
                "= HPEXPIREAT k z FIELDS 1 h",
                "~2 HTTL k FIELDS 1 h",
                "~ HPTTL k FIELDS 2 h h",
                "~ HEXPIRETIME k FIELDS 1 h",
                "~ HPEXPIRETIME k FIELDS 1 h",
                "=2 HPERSIST k FIELDS 1 h",
                "= HEXPIRE k 0 FIELDS 1 h",
                "= HEXPIRE k t FIELDS c h+",
                "=2 HGETDEL k FIELDS 1 h",
                "=2 HGETEX k [ EX t | PX u | EXAT e | PXAT z | PERSIST ] FIELDS 1 h",
                "=2 HSETEX k [ FNX | FXX ] [ EX t | PX u | KEEPTTL ] FIELDS 1 h v",
                "= HSETEX k ( FNX | FXX | EX t | KEEPTTL )+ FIELDS 2 h v h v",
                "= HSETEX k EXAT e FIELDS 2 h v h v",
                "= RENAME k k",
                "= COPY k k REPLACE",
                "= DEL k",
            ],
        )
    },
    Family {
        newer: true,
        slow: true,
        spoiled: 0,
        ..family(
            "fields-end",
            &[
                "=4 HSET k ( h v )+",
                "=4 HPEXPIRE k 150 FIELDS 2 h h",
                "=2 HSETEX k PX 150 FIELDS 1 h v",
                "=2 HGETEX k PX 150 FIELDS 1 h",
                "=2 HGET k h",
                "%2 HGETALL k",
                "=2 EXISTS k+",
                "=2 HMGET k h h",
                "=2 TYPE k",
                "*2 KEYS *",
                "z3 450",
                "~ HPTTL k FIELDS 2 h h",
                "= HINCRBY k h 1",
                "= HPERSIST k FIELDS 1 h",
                "= RENAME k k",
                "= COPY k k REPLACE",
                "= HSETNX k h v",
                "= HPEXPIRE k 150 ( NX | XX | GT | LT ) FIELDS 1 h",
            ],
        )
    },
    family(
        "lists",
        &[
            "=4 RPUSH k m+",
            "=4 LPUSH k m+",
            "= RPUSHX k m+",
            "= LPUSHX k m+",
            "=2 LPOP k [ c ]",
            "=2 RPOP k [ c ]",
            "=2 LLEN k",
            "=5 LRANGE k i i",
            "=2 LINDEX k i",
            "=2 LSET k i m",
            "=2 LREM k i m",
            "=2 LTRIM k i i",
            "=2 LINSERT k ( BEFORE | AFTER ) m m",
            "=2 LMOVE k k ( LEFT | RIGHT ) ( LEFT | RIGHT )",
            "= RPOPLPUSH k k",
            "=2 LMPOP j ( LEFT | RIGHT ) [ COUNT c ]",
            "=3 LPOS k m [ RANK i ] [ COUNT c ] [ MAXLEN l ]",
            "= BLPOP k k 0.05",
            "= BRPOP k 0.05",
            "= BLMOVE k k LEFT RIGHT 0.05",
            "= BLMPOP 0.05 j LEFT [ COUNT c ]",
            "= BRPOPLPUSH k k 0.05",
            "= BLPOP k ( abc | -1 | 0x )",
            "= BLPOP k",
            "= BLMPOP -1 1 k LEFT",
            "= BLMOVE k k LEFT UP 0.05",
            "= BRPOPLPUSH k k -1",
        ],
    ),
    family(
        "sets",
        &[
            "=6 SADD k m+",
            "=2 SREM k m+",
            "=2 SCARD k",
            "=2 SISMEMBER k m",
            "=2 SMISMEMBER k m+",
            "*3 SMEMBERS k",
            "*2 SINTER k+",
            "*2 SUNION k+",
            "*2 SDIFF k+",
            "=2 SINTERSTORE k k+",
            "=2 SUNIONSTORE k k+",
            "=2 SDIFFSTORE k k+",
            "=2 SINTERCARD j [ LIMIT l ]",
            "=2 SMOVE k k m",
            "!2 SPOP k [ c ]",
            "?2 SRANDMEMBER k [ i ]",
            "@2 SSCAN k 0 [ MATCH p ] [ COUNT c ]",
        ],
    ),
    family(
        "sorted",
        &[
            "=6 ZADD k ( s m )+",
            "=3 ZADD k [ NX | XX ] [ GT | LT ] [ CH ] ( s m )+",
            "=2 ZADD k [ NX | XX ] [ GT | LT ] INCR s m",
            "=2 ZREM k m+",
            "=2 ZCARD k",
            "=2 ZSCORE k m",
            "=2 ZMSCORE k m+",
            "=3 ZINCRBY k s m",
            "=2 ZRANK k m",
            "= ZREVRANK k m",
            "=2 ZCOUNT k r r",
            "=4 ZRANGE k i i [ REV ] [ WITHSCORES ]",
            "=3 ZRANGE k r r BYSCORE [ REV ] [ LIMIT i c ] [ WITHSCORES ]",
            "= ZREVRANGE k i i [ WITHSCORES ]",
            "= ZRANGEBYSCORE k r r [ WITHSCORES ] [ LIMIT i c ]",
            "= ZREVRANGEBYSCORE k r r [ WITHSCORES ] [ LIMIT i c ]",
            "=2 ZRANGESTORE k k i i",
            "= ZRANGESTORE k k r r BYSCORE [ LIMIT i c ]",
            "= ZREMRANGEBYRANK k i i",
            "= ZREMRANGEBYSCORE k r r",
            "=2 ZPOPMIN k [ c ]",
            "=2 ZPOPMAX k [ c ]",
            "=2 ZMPOP j ( MIN | MAX ) [ COUNT c ]",
            "=2 ZUNION j [ WEIGHTS f f ] [ AGGREGATE ( SUM | MIN | MAX ) ] [ WITHSCORES ]",
            "=2 ZINTER j [ WEIGHTS f f ] [ AGGREGATE ( SUM | MIN | MAX ) ] [ WITHSCORES ]",
            "=2 ZDIFF j [ WITHSCORES ]",
            "=2 ZUNIONSTORE k j [ WEIGHTS f f ] [ AGGREGATE ( SUM | MIN | MAX ) ]",
            "=2 ZINTERSTORE k j [ AGGREGATE ( SUM | MIN | MAX ) ]",
            "= ZDIFFSTORE k j",
            "=2 ZINTERCARD j [ LIMIT l ]",
            "?2 ZRANDMEMBER k [ i [ WITHSCORES ] ]",
            "@2 ZSCAN k 0 [ MATCH p ] [ COUNT c ]",
            "= BZPOPMIN k k 0.05",
            "= BZPOPMAX k 0.05",
            "= BZMPOP 0.05 j MIN [ COUNT c ]",
            "= BZPOPMIN k ( abc | -1 )",
            "= BZMPOP 0.05 j UP",
        ],
    ),
    // By name alone, Redis orders members of one score; among several the answer is open.
    family(
        "lexical",
        &[
            "=8 ZADD k ( 0 m )+",
            "=2 ZLEXCOUNT k x x",
            "=3 ZRANGE k x x BYLEX [ REV ] [ LIMIT i c ]",
            "=3 ZRANGEBYLEX k x x [ LIMIT i c ]",
            "=2 ZREVRANGEBYLEX k x x [ LIMIT i c ]",
            "=2 ZREMRANGEBYLEX k x x",
            "=2 ZRANGESTORE k k x x BYLEX",
            "= ZREM k m",
        ],
    ),
    Family {
        newer: true,
        with: &["sorted"],
        ..family("sorted-newer", &["=2 ZRANK k m WITHSCORE", "= ZREVRANK k m WITHSCORE"])
    },
    family(
        "bits",
        &[
            "=5 SETBIT k o y",
            "=3 GETBIT k o",
            "=3 BITCOUNT k [ i i [ BYTE | BIT ] ]",
            "=3 BITPOS k y [ i [ i [ BYTE | BIT ] ] ]",
            "=3 BITOP ( AND | OR | XOR ) k k+",
            "= BITOP NOT k k",
            "=3 BITFIELD k GET b q",
            "=3 BITFIELD k [ OVERFLOW ( WRAP | SAT | FAIL ) ] INCRBY b q n",
            "=2 BITFIELD k SET b q n",
            "=2 BITFIELD_RO k GET b q",
            "= BITFIELD k ( GET b q | SET b q n | OVERFLOW SAT | INCRBY b q n )+",
            "=2 SET k v",
            "=2 GET k",
            "= STRLEN k",
        ],
    ),
    Family {
        spoiled: 2,
        ..family(
            "hyperloglog",
            &[
                "=6 PFADD k m+",
                "= PFADD k",
                "=4 PFCOUNT k+",
                "=2 PFMERGE k k+",
                "= DEL k",
                "= TYPE k",
                "= EXISTS k",
            ],
        )
    },
    Family {
        spoiled: 3,
        ..family(
            "geo",
            &[
                "=6 GEOADD k [ NX | XX ] [ CH ] ( 0lon 0lat m )+",
                "=2 GEOPOS k m+",
                "=3 GEODIST k m m [ 'm | km | ft | mi | xx ]",
                "=2 GEOHASH k m+",
                "=3 GEOSEARCH k FROMLONLAT 0lon 0lat BYRADIUS 5000 km ( ASC | DESC ) [ COUNT c ] [ WITHDIST ] [ WITHCOORD ] [ WITHHASH ]",
                "=2 GEOSEARCH k FROMMEMBER m BYBOX 3000 3000 km ASC",
                "= GEOSEARCHSTORE k k FROMLONLAT 0lon 0lat BYRADIUS 5000 km [ STOREDIST ]",
                "= GEORADIUS k 0lon 0lat 2000 km ASC",
                "= GEORADIUSBYMEMBER k m 3000 km ASC",
                "=2 GEOSEARCH k FROMLONLAT 0lon 0lat BYBOX 9000 7000 km DESC [ WITHDIST ]",
                "= GEOSEARCH k FROMMEMBER m BYRADIUS 20000 mi ASC COUNT c",
                "= GEORADIUS_RO k 0lon 0lat 900 km DESC WITHCOORD",
                "= GEORADIUS k 0lon 0lat 9000 km STORE k",
                "= GEORADIUSBYMEMBER_RO k m 3000 ft ASC WITHHASH",
            ],
        )
    },
    Family {
        second: 30,
        with: &["strings", "lists", "sorted"],
        ..family(
            "transactions",
            &[
                "=8 MULTI",
                "=9 EXEC",
                "=2 DISCARD",
                "=4 WATCH k+",
                "= UNWATCH",
                "=2 SET k v",
                "=2 INCR k",
                "=2 DEL k",
                "= GET",
                "= NOSUCH k",
                "= SADD k m+",
                "*2 SMEMBERS k",
                "%2 HGETALL k",
                "= HSET k h v",
                "= PING",
                "= EXPIRE k -1",
            ],
        )
    },
    Family {
        second: 10,
        with: &["strings"],
        ..family(
            "scripts",
            &[
                "=20 EVAL 0script 2 k k v v",
                "=3 EVAL_RO 0script 2 k k v v",
                "=3 SCRIPT LOAD 0script",
                "=5 EVALSHA 0sha 2 k k v v",
                "=2 SCRIPT EXISTS 0sha 0sha",
                "= EVALSHA_RO 0sha 2 k k v v",
                "= EVAL 0script n k k",
                "=2 MULTI",
                "=2 EXEC",
                "= EVALSHA 'ffffffffffffffffffffffffffffffffffffffff 0",
            ],
        )
    },
    Family {
        second: 10,
        with: &["strings"],
        ..family(
            "functions",
            &[
                "=12 FUNCTION LOAD [ REPLACE ] 0library",
                "=6 FUNCTION LOAD REPLACE 0library",
                "=20 FCALL 0function 2 k k v v",
                "=5 FCALL_RO 0function 2 k k v v",
                "=3 FCALL 0function n k k",
                "=2 FUNCTION DELETE 0named",
                "*3 FUNCTION LIST LIBRARYNAME 0pattern [ WITHCODE ]",
                "#2 FUNCTION STATS",
                "= FUNCTION KILL",
                "= FUNCTION FLUSH c",
                "= FUNCTION RESTORE v",
                "= FUNCTION NOPE",
                "=2 MULTI",
                "=2 EXEC",
            ],
        )
    },
    Family {
        second: 20,
        spoiled: 3,
        ..family(
            "streams",
            &[
                "=10 XADD k * ( h v )+",
                "= XADD k NOMKSTREAM * h v",
                "= XADD k MAXLEN ( = | ~ ) c * h v",
                "=2 XLEN k",
                "=4 XRANGE k - + [ COUNT c ]",
                "=2 XREVRANGE k + - [ COUNT c ]",
                "=2 XRANGE k d d",
                "= XRANGE k d +",
                "=4 XREAD [ COUNT c ] STREAMS k d",
                "=2 XREAD STREAMS k k d 0",
                "=5 XGROUP CREATE k g ( 0 | $ | d ) [ MKSTREAM ]",
                "=6 XREADGROUP GROUP g w [ COUNT c ] [ NOACK ] STREAMS k >",
                "=2 XREADGROUP GROUP g w STREAMS k 0",
                "=3 XACK k g d d",
                "=3 XPENDING k g",
                "=3 XPENDING k g - + 10 [ w ]",
                "=2 XCLAIM k g w 0 d d [ JUSTID ]",
                "=2 XAUTOCLAIM k g w 0 0 [ COUNT c ] [ JUSTID ]",
                "=2 XDEL k d",
                "= XTRIM k MAXLEN c",
                "= XTRIM k MINID d",
                "=2 XDELEX k [ KEEPREF | DELREF | ACKED ] IDS 2 d d",
                "=2 XACKDEL k g [ KEEPREF | DELREF | ACKED ] IDS 2 d d",
                "= XTRIM k MAXLEN c ( DELREF | ACKED )",
                "= XADD k ( DELREF | ACKED ) MAXLEN c * h v",
                "=2 XINFO GROUPS k",
                "=2 XINFO CONSUMERS k g",
                "=2 XINFO STREAM k",
                "= XGROUP DELCONSUMER k g w",
                "= XGROUP DESTROY k g",
                "= XGROUP SETID k g ( 0 | $ )",
                "= XGROUP CREATECONSUMER k g w",
                ">2 XREAD BLOCK 300 STREAMS k $",
                "> XREADGROUP GROUP g w BLOCK 300 STREAMS k >",
            ],
        )
    },
    Family {
        spoiled: 3,
        ..family(
            "stream-ids",
            &[
                "=6 XADD k ( 1-1 | 1-2 | 2-1 | 2-* | 3-0 | 5-5 | 0-0 | 7 | 0-1 ) h v",
                "=4 XRANGE k ( - | 1 | 2-1 | (1-1 | 3 ) ( + | 2 | 5-4 | (5-5 )",
                "=2 XREAD COUNT c STREAMS k ( 0 | 1 | 1-1 | 2-1 )",
                "=2 XDEL k ( 1-1 | 2-1 | 5-5 )",
                "= XTRIM k MINID ( 2 | 3 )",
                "= XSETID k ( 9-9 | 1-1 )",
                "= XLEN k",
                "= XGROUP CREATE k g ( 1-1 | 2 | 0 )",
                "= XREADGROUP GROUP g w STREAMS k >",
                "= XREVRANGE k + -",
                "= XADD k abc h v",
                "= XADD k 1-1",
                "= XACK k g 1-1 2-1",
                "= XINFO STREAM k",
            ],
        )
    },
    Family {
        second: 50,
        spoiled: 1,
        ..family(
            "pubsub",
            &[
                "=4 SUBSCRIBE ( ch1 | ch2 | ch3 )+",
                "=3 PSUBSCRIBE ( ch* | ch? | *1 | [cd]h2 )+",
                "=2 UNSUBSCRIBE ( ch1 | ch2 )",
                "= PUNSUBSCRIBE ( ch* | *1 )",
                "=9 PUBLISH ( ch1 | ch2 | ch3 | other ) v",
                "=2 PUBSUB NUMSUB ch1 ch2",
                "= PUBSUB NUMPAT",
                "*2 PUBSUB CHANNELS",
                "* PUBSUB CHANNELS ch*",
                "=2 SSUBSCRIBE ( sh1 | sh2 )",
                "=3 SPUBLISH ( sh1 | sh2 ) v",
                "= SUNSUBSCRIBE sh1",
                "= PUBSUB SHARDNUMSUB sh1",
                "* PUBSUB SHARDCHANNELS",
                "= PING",
                "= GET a",
                "= SET a v",
            ],
        )
    },
    Family {
        second: 50,
        slow: true,
        spoiled: 2,
        ..family(
            "blocking",
            &[
                ">4 BLPOP k+ a",
                ">3 BRPOP k a",
                ">3 BLMOVE k k ( LEFT | RIGHT ) ( LEFT | RIGHT ) a",
                "> BRPOPLPUSH k k a",
                ">2 BLMPOP a j ( LEFT | RIGHT ) [ COUNT c ]",
                ">3 BZPOPMIN k+ a",
                "> BZPOPMAX k a",
                ">2 BZMPOP a j MIN [ COUNT c ]",
                "=6 RPUSH k m+",
                "=3 LPUSH k m+",
                "=4 ZADD k ( s m )+",
                "= SET k v",
                "=3 DEL k",
                "= LRANGE k 0 -1",
                "= ZRANGE k 0 -1",
                "= RENAME k k",
                "= MULTI",
                "=2 EXEC",
                "= LPOP k",
                "= EVAL 0script 2 k k v v",
            ],
        )
    },
    family(
        "connection",
        &[
            "= PING [ v ]",
            "= ECHO v",
            "= CLIENT SETNAME ( n1 | n2 | n3 )",
            "=2 CLIENT GETNAME",
            "# CLIENT ID",
            "# CLIENT INFO",
            "# CLIENT LIST",
            "= CLIENT SETINFO LIB-NAME lib",
            "= CLIENT NO-EVICT on",
            "= CLIENT REPLY ON",
            "= SELECT ( 99 | -1 | abc )",
            "=2 HELLO [ 2 | 3 | 4 | abc ]",
            "= RESET",
            "# COMMAND COUNT",
            "# COMMAND INFO GET",
            "# COMMAND DOCS GET",
            "* COMMAND GETKEYS MSET a 1 b 2",
            "# TIME",
            "# INFO",
            "# INFO server",
            "%2 CONFIG GET maxmemory",
            "# MEMORY USAGE k",
            "= DBSIZE",
            "= LOLWUT VERSION x",
            "= AUTH x",
            "= AUTH u p",
            "= WAIT 0 10",
            "# SLOWLOG GET",
            "# SLOWLOG LEN",
            "# LATENCY LATEST",
            "# ACL WHOAMI",
            "# ACL CAT",
            "= OBJECT HELP k",
            "= QUORUM",
            "= SET k v",
            "= NOSUCH a b",
            "# CLUSTER INFO",
            "# LASTSAVE",
            "# ROLE",
            "= CLIENT NOSUCH",
            "= SUBSTR k 0 1",
            "= CONFIG NOSUCH",
            "# CONFIG RESETSTAT",
            "= READONLY",
            "= ASKING",
        ],
    ),
    Family { spoiled: 0, ..family("errors", &["= x"]) },
    family("encoding", &["=3 OBJECT ENCODING k", "= SET k v", "= INCR k", "= APPEND k v"]),
    Family {
        newer: true,
        with: &["strings"],
        ..family(
            "newer",
            &[
                "= CLIENT SETINFO LIB-VER 1.0",
                "=2 SET k v GET NX",
                "= LPOS k m RANK -1 COUNT 0",
                "= EXPIRE k t",
                "=3 BITOP ( DIFF | DIFF1 | ANDOR | ONE ) k k k+",
                "= BITOP ( DIFF | DIFF1 | ANDOR | ONE ) k k",
            ],
        )
    },
];

/// Words whose wrong number of arguments would end, block or flood a connection, or which reach beyond one database.
const UNSAFE: [&str; 10] =
    ["LOLWUT", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "RESET", "HELLO", "x", "WAIT", "AUTH", "SELECT"];

/// For the family `errors`: the words of all other families with any number of any arguments.
pub(crate) fn wrong(seed: u64, length: usize, protocol: u8, newer: bool) -> Sequence {
    let mut dice = Dice(seed ^ 0xbad);
    let names: Vec<&str> = FAMILIES
        .iter()
        .filter(|family| newer || !family.newer)
        .flat_map(|family| family.lines.iter().map(|line| read(line)))
        .filter(|(how, _)| {
            !matches!(how, How::Sleep(_) | How::Later | How::Pop | How::Random | How::Kind | How::Scan)
        })
        .filter_map(|(_, grammar)| grammar.split_whitespace().next())
        .filter(|name| !UNSAFE.contains(name) && !name.starts_with('B') && *name != "COMMAND")
        .collect();
    let steps = (0..length)
        .map(|_| {
            let mut words = plain(&[dice.pick(&names)]);
            for _ in 0..dice.below(6) {
                let kind = dice
                    .pick(&["k", "k", "n", "v", "i", "s", "COUNT", "LIMIT", "NX", "GET", "STORE", "EX", "d"]);
                words.extend(grammar::command(&mut dice, kind));
            }
            let how = match &words[0] {
                Word::Plain(name)
                    if [&b"TTL"[..], b"PTTL", b"EXPIRETIME", b"PEXPIRETIME"].contains(&name.as_slice()) =>
                {
                    How::Near
                }
                Word::Plain(name) if matches!(name.as_slice(), b"CONFIG" | b"CLIENT" | b"OBJECT") => {
                    How::Kind
                }
                Word::Plain(name) if name == b"HGETALL" => How::Pairs,
                Word::Plain(name) if name.starts_with(b"H") || name.starts_with(b"S") || name == b"KEYS" => {
                    How::Unordered
                }
                _ => How::Exact,
            };
            Step { connection: 0, words, how }
        })
        .collect();
    Sequence { family: "errors", seed, protocol, steps }
}
