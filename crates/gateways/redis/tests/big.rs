//! Collections of many elements: every command on them returns, or is refused and says why, and others hardly notice.
//!
//! A probe on a connection of its own sends PING, GET and SET in turn all the time; the longest of them while a command runs is what that command
//! made others wait. In `cargo test` collections are small and times are not judged, since the machine may be busy; for ten million elements:
//!
//! ```sh
//! cargo build --release -p quorate
//! QUORATE=target/release/quorate cargo test -p quorate-redis --test it big:: -- --ignored --nocapture
//! ```
//!
//! which prints a table, and fails where others waited for more than 50 ms and what they wait with nothing to do. `ELEMENTS=1000000` makes them
//! smaller, `TYPES=hash,set` takes some of them, `FOLDER=/dev/shm` keeps a slow disk out of it, `NODES=3` runs three nodes, of which nobody may be
//! elected anew.
//!
//! Invariant: every command of the table of calls that works on a collection is tried, or named in `ELSEWHERE` with its reason.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // Test code: a failure here is the test's failure.

use crate::fleet;

use fleet::Fleet;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest that others may wait.
const STALL_MAX: Duration = Duration::from_millis(50);

/// Commands that no collection's size changes, or that other tests try.
const ELSEWHERE: &[(&str, &str)] = &[
    ("eval_ro eval evalsha evalsha_ro", "EVAL stands for them"),
    ("script|exists script|flush script|help script|kill script|load", "about scripts"),
    ("fcall fcall_ro", "EVAL stands for them: a function is a script with a name"),
    (
        "function|delete function|dump function|flush function|help function|kill function|list function|load function|restore function|stats",
        "about libraries, which are bounded in number and bytes",
    ),
    ("object|freq object|help object|idletime object|refcount", "OBJECT ENCODING stands for them"),
    ("xgroup|help xinfo|help", "help"),
    ("cl.throttle xcfgset", "settings have no elements"),
    ("echo ping time memory|help", "about the server"),
    ("publish spublish", "about channels"),
    (
        "bf.card bf.exists bf.info bf.insert bf.loadchunk bf.madd bf.mexists",
        "a filter has no elements; BF.ADD and BF.SCANDUMP stand for them",
    ),
    ("restore", "as long as its own words"),
    ("geoadd geodist geohash geopos", "as long as their own words"),
    (
        "georadius georadius_ro georadiusbymember georadiusbymember_ro",
        "GEOSEARCH and GEOSEARCHSTORE stand for them",
    ),
    (
        "hexpire hpexpire hexpireat hpexpireat hexpiretime hpexpiretime httl hpttl hpersist hsetex hgetex",
        "as long as their own words",
    ),
    ("decr decrby incr incrby incrbyfloat lcs", "on numbers and short strings"),
    ("mset msetex msetnx psetex set setex setnx delex getex", "as long as their own words"),
    ("pfadd pfcount pfmerge", "a sketch has 12 KiB"),
    (
        "blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin",
        "where there is something they are their forms that do not wait",
    ),
    (
        "expireat expiretime pexpire pexpireat pexpiretime pttl ttl touch exists type",
        "EXPIRE and PERSIST stand for them",
    ),
];

#[test]
fn every_command_on_a_large_collection_returns() {
    let count = 4_000;
    let tried = run(count, 1, &KINDS, false);
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().flat_map(|(names, _)| names.split(' ')).collect();
    let missing: Vec<_> = quorate_calls::specs()
        .iter()
        .filter(|spec| matches!(spec.kind, quorate_calls::Kind::Read(_) | quorate_calls::Kind::Write(_)))
        .map(|spec| spec.name)
        .filter(|name| !tried.contains(*name) && !elsewhere.contains(name))
        .collect();
    // Whoever adds a command says here what it does to a collection of ten million.
    assert_eq!(missing, [""; 0], "neither tried nor named in ELSEWHERE");
}

#[test]
#[ignore = "ten million elements of each type: minutes, and gigabytes"]
fn every_command_on_ten_million_elements_returns_and_others_hardly_notice() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let kinds = std::env::var("TYPES").unwrap_or_else(|_| KINDS.join(","));
    let kinds: Vec<&str> = kinds.split(',').collect();
    run(number("ELEMENTS", 10_000_000), number("NODES", 1) as usize, &kinds, true);
}

const KINDS: [&str; 7] = ["hash", "list", "set", "zset", "stream", "string", "keys"];

/// Fills, tries every command, and tells what was tried.
fn run(count: u64, nodes: usize, kinds: &[&str], judge: bool) -> BTreeSet<String> {
    // What is measured is computing; a sync would only add the disk's time to the probe's.
    let mut fleet = Fleet::start(nodes, &["--durability", "interval"]);
    let (leader, term) = fleet.leader();
    let at = fleet.nodes[leader].redis;
    let probe = Probe::start(at);
    std::thread::sleep(Duration::from_secs(if judge { 5 } else { 0 }));
    // What the machine itself makes anybody wait, with nothing to do, is not the server's.
    let noise = probe.longest();
    println!(
        "{count} elements, {nodes} node(s); with nothing to do the probe waited at most {} ms",
        ms(noise)
    );
    println!("| type | command | reply | ms | computed ms | others waited ms | memory MB |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let (mut tried, mut stalls, mut worst_memory) = (BTreeSet::new(), Vec::new(), 0);
    let mut client = Client::connect(at);
    for kind in kinds {
        client.ask("FLUSHALL");
        let begun = Instant::now();
        fill(at, kind, count);
        let filled = begun.elapsed();
        let memory = fleet.memory(leader);
        println!("| {kind} | filled | | {} | | {} | {} |", ms(filled), ms(probe.longest()), memory >> 20);
        for line in lines(kind, count) {
            probe.longest();
            let (begun, before) = (Instant::now(), fleet.computed(leader));
            let reply = client.ask(&line);
            let took = begun.elapsed();
            // What it left to be done is done in the turns that follow.
            std::thread::sleep(Duration::from_millis(if judge { 60 } else { 0 }));
            let (waited, computed) = (probe.longest(), busiest(&before, &fleet.computed(leader)));
            worst_memory = worst_memory.max(fleet.memory(leader));
            let shown: String = line.chars().take(70).collect();
            let reply: String = reply.chars().take(60).collect();
            let memory = fleet.memory(leader) >> 20;
            println!(
                "| {kind} | {shown} | {reply} | {} | {} | {} | {memory} |",
                ms(took),
                ms(computed),
                ms(waited)
            );
            assert!(
                !reply.starts_with("-ERR unknown")
                    && !reply.starts_with("-ERR wrong number")
                    && !reply.starts_with("-ERR syntax")
                    && !reply.starts_with("-WRONGTYPE"),
                "{line}: {reply}"
            );
            // A server that computed little made nobody wait, whatever else the machine did.
            if judge && waited.min(computed) > STALL_MAX + noise {
                stalls.push(format!(
                    "{kind}: {shown}: {} ms, {} of them computing",
                    ms(waited),
                    ms(computed)
                ));
            }
            tried.extend(names(&line));
            assert_eq!(fleet.died(), Vec::<String>::new());
        }
    }
    assert_eq!(fleet.leader(), (leader, term), "nobody was elected");
    println!("most memory: {} MB; commands tried: {}", worst_memory >> 20, tried.len());
    probe.stop();
    assert!(
        stalls.is_empty(),
        "others waited for more than {STALL_MAX:?}, and {noise:?} that they do anyway:\n{}",
        stalls.join("\n")
    );
    tried
}

/// How long the thread computed that computed most in between.
fn busiest(before: &BTreeMap<String, Duration>, after: &BTreeMap<String, Duration>) -> Duration {
    let since = |(thread, time): (&String, &Duration)| {
        time.saturating_sub(before.get(thread).copied().unwrap_or_default())
    };
    after.iter().map(since).max().unwrap_or_default()
}

/// Milliseconds, with one decimal.
fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

/// The names that a line is listed under: a command, and a subcommand of it.
fn names(line: &str) -> Vec<String> {
    let words: Vec<String> = line.split(' ').take(2).map(str::to_ascii_lowercase).collect();
    let whole = words.join("|");
    vec![words[0].clone(), whole]
}

/// Fills key `big` with so many elements, `mid` with as many as one command may touch or fewer, and `small` with three.
fn fill(at: SocketAddr, kind: &str, count: u64) {
    let mid = count.min(touch_max());
    let element = |words: &mut Vec<Vec<u8>>, n: u64| match kind {
        "hash" => words.extend([format!("f{n:08}").into_bytes(), format!("v{n:08}").into_bytes()]),
        "zset" => words.extend([n.to_string().into_bytes(), format!("m{n:08}").into_bytes()]),
        _ => words.push(format!("m{n:08}").into_bytes()),
    };
    let verb = match kind {
        "hash" => "HSET",
        "list" => "RPUSH",
        "set" => "SADD",
        "zset" => "ZADD",
        "stream" => {
            return fill_with(
                at,
                (0..count).map(|n| {
                    vec![
                        b"XADD".to_vec(),
                        b"big".to_vec(),
                        format!("{}-0", n + 1).into_bytes(),
                        b"f".to_vec(),
                        format!("v{n:08}").into_bytes(),
                    ]
                }),
            );
        }
        "keys" => {
            return fill_with(
                at,
                (0..count.div_ceil(100)).map(|group| {
                    let mut words = vec![b"MSET".to_vec()];
                    (group * 100..(group * 100 + 100).min(count))
                        .for_each(|n| words.extend([format!("k{n:08}").into_bytes(), b"v".to_vec()]));
                    words
                }),
            );
        }
        _ => return,
    };
    for (key, count) in [("small", 3), ("mid", mid), ("big", count)] {
        fill_with(
            at,
            (0..count.div_ceil(1000)).map(|group| {
                let mut words = vec![verb.as_bytes().to_vec(), key.as_bytes().to_vec()];
                (group * 1000..(group * 1000 + 1000).min(count)).for_each(|n| element(&mut words, n));
                words
            }),
        );
    }
}

/// Sends commands in pipelines.
fn fill_with(at: SocketAddr, mut commands: impl Iterator<Item = Vec<Vec<u8>>>) {
    let mut client = Client::connect(at);
    loop {
        let (mut bytes, mut sent) = (Vec::new(), 0);
        while bytes.len() < 1 << 19
            && let Some(words) = commands.next()
        {
            write!(bytes, "*{}\r\n", words.len()).unwrap();
            for word in words {
                write!(bytes, "${}\r\n", word.len()).unwrap();
                bytes.extend_from_slice(&word);
                bytes.extend_from_slice(b"\r\n");
            }
            sent += 1;
        }
        if sent == 0 {
            return;
        }
        client.stream.write_all(&bytes).unwrap();
        for _ in 0..sent {
            let reply = client.reply();
            assert!(!reply.starts_with('-'), "{reply}");
        }
    }
}

/// As many elements as one command may touch.
fn touch_max() -> u64 {
    quorate_calls::TOUCH_MAX
}

/// What is tried on each type; what changes much comes last.
fn lines(kind: &str, count: u64) -> Vec<String> {
    let (mid, last, cost) = (count / 2, count - 1, touch_max());
    let half = cost / 2;
    let picked = cost / 6;
    let text = match kind {
        "hash" => format!(
            "BGSAVE
HGET big f{mid:08}
HMGET big f00000001 f{mid:08} none
HLEN big
HEXISTS big none
HSTRLEN big f{mid:08}
HSET big new v
HMSET big new v
HSETNX big new v
HINCRBY big number 5
HINCRBYFLOAT big number 0.5
HDEL big new number
HGETDEL big FIELDS 1 f00000007
HRANDFIELD big
HRANDFIELD big 1000 WITHVALUES
HRANDFIELD big {half}
HRANDFIELD big -{half}
HRANDFIELD big {count} WITHVALUES
HSCAN big 0 COUNT 1000
HSCAN big 0 COUNT {cost}
HSCAN big 0 MATCH nothing COUNT {count}
HGETALL mid
HKEYS mid
HVALS mid
HGETALL big
HKEYS big
HVALS big
OBJECT ENCODING big
MEMORY USAGE big
DUMP mid
DUMP big
EXPIRE big 1000
PERSIST big
TYPE big
EVAL redis.call('hset',KEYS[1],'x','y')return·#redis.call('hkeys',KEYS[1]) 1 mid
EVAL return·#redis.call('hgetall',KEYS[1]) 1 big
COPY big copy
HSET big after copy
RENAME big renamed
RENAMENX renamed big
MOVE copy 3
SET small x
RENAME big small
RENAME small big
DEL big
HGET mid f00000001
UNLINK mid"
        ),
        "list" => format!(
            "BGSAVE
LINDEX big {mid}
DUMP big
LLEN big
LRANGE big 0 -1
LRANGE big {mid} {}
LRANGE mid 0 -1
LPOS big none
LPOS big m{last:08}
LPOS big m{last:08} RANK -1
LPOS big none MAXLEN {half}
LPOS mid none
LPUSH big a
RPUSH big b
LPUSHX big a
RPUSHX big b
LPOP big 2
RPOP big 2
LSET big {mid} m{mid:08}
LINSERT big BEFORE m00000100 x
LINSERT big AFTER m{mid:08} x
LINSERT mid BEFORE none x
LREM big 1 m00000100
LREM big 0 none
LREM big -1 m{last:08}
LREM mid 0 none
LREM mid 0 m00000005
LMOVE big small LEFT RIGHT
RPOPLPUSH big small
LMPOP 1 big LEFT COUNT {half}
LPOP big {half}
LPOP big {count}
SORT mid ALPHA LIMIT 0 10
SORT_RO mid ALPHA
SORT big ALPHA LIMIT 0 10
SORT mid BY nosort STORE sorted
SORT big BY nosort LIMIT 5 10
COPY big copy
LSET big 7 z
EVAL return·#redis.call('lrange',KEYS[1],0,-1) 1 mid
LTRIM big 1 -2
LTRIM copy {mid} {}
LTRIM mid 5 -5
LTRIM big 1 0
DEL copy",
            mid + half.min(count / 2),
            mid + 10
        ),
        "set" => format!(
            "BGSAVE
SISMEMBER big m{mid:08}
DUMP big
SMISMEMBER big m{mid:08} none
SCARD big
SADD big new
SREM big new
SMOVE big small m{mid:08}
SRANDMEMBER big
SRANDMEMBER big {half}
SRANDMEMBER big -{half}
SRANDMEMBER big {count}
SSCAN big 0 COUNT 1000
SSCAN big 0 COUNT {cost}
SSCAN big 0 MATCH nothing COUNT {count}
SMEMBERS mid
SMEMBERS big
SINTER big small
SINTER mid big
SINTER mid mid
SINTERCARD 2 mid big
SINTERCARD 2 big big LIMIT 10
SUNION small mid
SUNION big mid
SDIFF small big
SDIFF mid big
SDIFF big small
SINTERSTORE out big mid
SINTERSTORE out big small
SUNIONSTORE out big small
SUNIONSTORE out mid small
SDIFFSTORE out mid small
SDIFFSTORE out big small
SORT mid ALPHA LIMIT 0 5
COPY big copy
SADD big new
SPOP big
SPOP big 1000
SPOP big {picked}
SPOP big {half}
SPOP big {count}
EVAL return·#redis.call('smembers',KEYS[1]) 1 mid
EVAL local·n=0·for·i=1,100000·do·n=n+redis.call('sismember',KEYS[1],i)end·return·n 1 big
SPOP mid {cost}
UNLINK copy big
SCARD small"
        ),
        "zset" => format!(
            "BGSAVE
ZSCORE big m{mid:08}
DUMP big
GEOSEARCH big FROMLONLAT 0 0 BYBOX 40000 40000 km COUNT 10
GEOSEARCH mid FROMLONLAT 0 0 BYRADIUS 1000 km ASC COUNT 10
GEOSEARCHSTORE out big FROMLONLAT 0 0 BYBOX 40000 40000 km
ZMSCORE big m{mid:08} none
ZCARD big
ZRANK big m{mid:08}
ZREVRANK big m{mid:08} WITHSCORE
ZCOUNT big -inf +inf
ZLEXCOUNT big - +
ZADD big 5.5 new
ZINCRBY big 1000 new
ZREM big new
ZRANGE big 0 -1
ZRANGE big {mid} {} WITHSCORES
ZRANGE mid 0 -1 WITHSCORES
ZRANGE big -inf +inf BYSCORE LIMIT {mid} 10
ZRANGEBYSCORE big -inf +inf
ZRANGEBYSCORE mid -inf +inf WITHSCORES
ZRANGEBYLEX big - +
ZRANGEBYLEX mid - +
ZREVRANGE big 0 -1
ZREVRANGE mid 0 -1
ZREVRANGEBYSCORE big +inf -inf
ZREVRANGEBYSCORE mid +inf -inf
ZREVRANGEBYLEX big + -
ZREVRANGEBYLEX mid + -
ZRANGESTORE out big 0 1000
ZRANGESTORE out mid 0 -1
ZRANGESTORE out mid 0 {}
ZRANGESTORE out big 0 -1
ZRANDMEMBER big
ZRANDMEMBER big {half}
ZRANDMEMBER big -{half} WITHSCORES
ZRANDMEMBER big {count}
ZSCAN big 0 COUNT 1000
ZSCAN big 0 COUNT {cost}
ZUNION 2 small big
ZUNION 2 small mid
ZINTER 2 small big
ZINTER 2 mid big
ZINTERCARD 2 mid big
ZINTERCARD 2 mid mid LIMIT 10
ZDIFF 2 small big
ZDIFF 2 mid small
ZUNIONSTORE out 2 small mid
ZUNIONSTORE out 2 big mid
ZINTERSTORE out 2 mid big
ZDIFFSTORE out 2 mid small
SORT mid ALPHA LIMIT 0 5
COPY big copy
ZADD big 1 m00000009
ZPOPMIN big
ZPOPMAX big 1000
ZPOPMIN big {}
ZPOPMIN big {count}
ZMPOP 1 big MAX COUNT {}
EVAL return·#redis.call('zrange',KEYS[1],0,-1) 1 mid
ZREMRANGEBYRANK big 0 999
ZREMRANGEBYRANK big 0 {}
ZREMRANGEBYRANK big 10 -10
ZREMRANGEBYSCORE big -inf +inf
ZREMRANGEBYSCORE copy -inf {}
ZREMRANGEBYLEX copy [m [z
ZREMRANGEBYLEX mid - +
ZREMRANGEBYRANK mid 0 -1
ZREMRANGEBYRANK big 0 -1
DEL copy",
            mid + half.min(count / 2),
            cost / 4 - 1,
            cost / 8,
            cost / 8,
            cost / 8,
            cost / 8
        ),
        "stream" => format!(
            "BGSAVE
XLEN big
XRANGE big - + COUNT 1000
XRANGE big - +
XREVRANGE big + - COUNT 1000
XREVRANGE big + -
XREAD COUNT 1000 STREAMS big 0
XREAD STREAMS big 0
XADD big * f v
XADD big MAXLEN ~ {count} * f v
XINFO STREAM big
XINFO STREAM big FULL COUNT 0
XGROUP CREATE big g 0
XGROUP CREATECONSUMER big g c
XREADGROUP GROUP g c COUNT 1000 STREAMS big >
XREADGROUP GROUP g c COUNT 100000 STREAMS big >
XREADGROUP GROUP g c STREAMS big >
XREADGROUP GROUP g c COUNT 100000 STREAMS big 0
XPENDING big g
XPENDING big g - + 1000
XPENDING big g - + {count}
XINFO GROUPS big
XINFO CONSUMERS big g
XACK big g 1-0 2-0
XCLAIM big g d 0 3-0 4-0
XAUTOCLAIM big g d 0 0 COUNT 1000
XAUTOCLAIM big g d 0 0 COUNT 100000
XDEL big 5-0
XDELEX big KEEPREF IDS 2 6-0 7-0
XACKDEL big g KEEPREF IDS 2 8-0 9-0
XGROUP SETID big g $
XSETID big 99999999999999-0
XGROUP DELCONSUMER big g c
XGROUP DESTROY big g
XTRIM big MAXLEN ~ {mid}
XTRIM big MAXLEN {}
XTRIM big MINID {}
XTRIM big MAXLEN 0
DEL big",
            mid - 1,
            count - 100
        ),
        "string" => {
            let bytes = 4 << 20;
            format!(
                "SETRANGE big {} x
SETRANGE other {} y
STRLEN big
DIGEST big
DUMP big
BF.RESERVE bloom 0.001 10000000
BF.ADD bloom x
BF.SCANDUMP bloom 0
GETRANGE big 0 -1
SUBSTR big 0 100
GET big
MGET big other
APPEND big tail
BITCOUNT big
BITCOUNT big 5 -5 BIT
BITPOS big 1
BITPOS big 0
GETBIT big 7
SETBIT big 7 1
SETBIT huge 536870911 1
SETBIT huge 4294967295 1
SETRANGE huge 536870911 x
BITCOUNT huge
BITPOS huge 1
BITOP NOT out big
BITOP AND out big other
BITOP XOR out big other big other
BITOP OR out huge huge
BITFIELD big GET u8 0 SET u8 100 7 INCRBY u5 90 1
BITFIELD_RO big GET u8 0
LCS big other LEN
GETSET big x
COPY other copy
RENAME other big
EVAL return·#redis.call('get',KEYS[1]) 1 copy
GETDEL copy
DEL big huge",
                bytes - 10,
                bytes - 10
            )
        }
        "keys" => format!(
            "BGSAVE
DBSIZE
SCAN 0 COUNT 1000
SCAN 0 MATCH nothing COUNT {count}
SCAN 0 COUNT {cost}
KEYS k0000000*
KEYS *
RANDOMKEY
INFO
FLUSHDB
SET k v
FLUSHALL
SET k v
GET k"
        ),
        _ => panic!("no such type: {kind}"),
    };
    text.lines().map(str::to_owned).collect()
}

/// A connection that counts replies instead of keeping them. Spaces part the words of a line; `·` stands for one within a word.
struct Client {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Client {
    fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let replies = BufReader::with_capacity(1 << 16, stream.try_clone().unwrap());
        Self { stream, replies }
    }

    /// Sends a line; its reply in short.
    fn ask(&mut self, line: &str) -> String {
        let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.replace('·', " ").into_bytes()).collect();
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            write!(bytes, "${}\r\n", word.len()).unwrap();
            bytes.extend_from_slice(&word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&bytes).unwrap();
        self.reply()
    }

    fn reply(&mut self) -> String {
        let mut line = Vec::new();
        self.replies.read_until(b'\n', &mut line).unwrap();
        assert!(line.ends_with(b"\r\n"), "the connection ended: {}", line.escape_ascii());
        let text = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
        let size = text.get(1..).and_then(|rest| rest.parse::<i64>().ok()).unwrap_or(-1);
        match text.as_bytes()[0] {
            b'$' | b'=' if size >= 0 => {
                let skipped =
                    std::io::copy(&mut (&mut self.replies).take(size as u64 + 2), &mut std::io::sink())
                        .unwrap();
                assert_eq!(skipped, size as u64 + 2, "the connection ended");
            }
            b'*' | b'~' | b'>' if size >= 0 => (0..size).for_each(|_| drop(self.reply())),
            b'%' if size >= 0 => (0..size * 2).for_each(|_| drop(self.reply())),
            _ => {}
        }
        text
    }
}

/// Somebody else: sends PING, GET and SET in turn, and remembers the longest that one took.
struct Probe {
    longest_ns: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Probe {
    fn start(at: SocketAddr) -> Self {
        let (longest_ns, stopping) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (longest, stop) = (Arc::clone(&longest_ns), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            let mut client = Client::connect(at);
            // A database of its own: what is flushed and moved is others'.
            client.ask("SELECT 9");
            while !stop.load(Ordering::Relaxed) {
                for line in ["PING", "GET probe", "SET probe x"] {
                    let begun = Instant::now();
                    let reply = client.ask(line);
                    assert!(!reply.starts_with('-'), "{line}: {reply}");
                    longest.fetch_max(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { longest_ns, stopping, thread }
    }

    /// The longest since this was asked last.
    fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.swap(0, Ordering::Relaxed))
    }

    fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().expect("every command of the probe was answered");
    }
}
