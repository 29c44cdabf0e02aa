//! What a command may be allowed by: its categories, and what it does to its keys.
//!
//! Names of Redis have the categories and key flags of Redis 8.2 (COMMAND INFO); names that begin with `q.` are ours: they stand for what only
//! other protocols can do, so that one list of commands says what a user may do over each of them.
//!
//! Invariant: rows are sorted by name, and every command of `table` has one.
//! Called by: the machine, which checks every call; gateways, for their own commands and for the rules that users are given.

use crate::args;
use crate::table::{KeyPositions, Spec, keys_of};
use quorate_types::{Blob, Denied};

/// It reads what the name holds.
pub const READS: u8 = 1;
/// It changes what the name holds.
pub const WRITES: u8 = 2;

/// A set of categories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Categories(u32);

/// Names of all categories, in the order in which ACL CAT tells them.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

impl Categories {
    /// The category of this name, in any case.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        let place = CATEGORIES.iter().position(|known| name.eq_ignore_ascii_case(known.as_bytes()))?;
        Some(Self(1 << place))
    }

    /// Whether all of these are among them.
    #[must_use]
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        CATEGORIES
            .into_iter()
            .enumerate()
            .filter(move |(place, _)| self.0 >> place & 1 == 1)
            .map(|(_, name)| name)
    }
}

/// What it takes to be allowed to run a command.
#[derive(Clone, Copy, Debug)]
pub struct Permission {
    /// Its name, in lower case; `container|name` for a subcommand.
    pub name: &'static str,
    /// Its categories.
    pub categories: Categories,
    /// What it does to its first key: [`READS`], [`WRITES`], both, or neither (it tells only whether the key is there, or of which type).
    first: u8,
    /// The same of its other keys.
    rest: u8,
}

/// What it takes to run the command of this name (`container|name` for a subcommand).
#[must_use]
pub fn permission(name: &[u8]) -> Option<&'static Permission> {
    let found = PERMISSIONS.binary_search_by(|row| row.name.as_bytes().cmp(name));
    found.ok().map(|place| &PERMISSIONS[place])
}

/// All of them.
#[must_use]
pub fn permissions() -> &'static [Permission] {
    PERMISSIONS
}

/// Places of the keys among a command's words, and what is done to each.
///
/// # Errors
/// Nothing where the words do not say where the keys are: such a command is refused by its handler, or allowed to nobody with less than
/// all keys.
#[must_use]
pub fn touches(spec: &Spec, words: &[Blob]) -> Option<Vec<(usize, u8)>> {
    if matches!(spec.keys, KeyPositions::None) {
        return Some(Vec::new());
    }
    if spec.name == "xadd" {
        return Some(vec![(1, WRITES)]); // Its record may travel beside its words.
    }
    let permission = permission(spec.name.as_bytes())?;
    let places = keys_of(spec, words).ok()?;
    let (first, rest) = match spec.name {
        // Without GET it only writes.
        "set" if !words.iter().skip(3).any(|word| args::is(word, "GET")) => (WRITES, WRITES),
        "bitfield" if bitfield_only_reads(words) => (READS, READS),
        _ => (permission.first, permission.rest),
    };
    Some(
        places
            .into_iter()
            .enumerate()
            .map(|(number, place)| (place, if number == 0 { first } else { rest }))
            .collect(),
    )
}

/// Whether a BITFIELD has no SET and no INCRBY. What cannot be read counts as a write.
fn bitfield_only_reads(words: &[Blob]) -> bool {
    let mut rest = words.get(2..).unwrap_or_default();
    while let Some(word) = rest.first() {
        let takes = if args::is(word, "GET") {
            3
        } else if args::is(word, "OVERFLOW") {
            2
        } else {
            return false;
        };
        rest = rest.get(takes..).unwrap_or_default();
    }
    true
}

/// Commands that read or change a whole keyspace without naming keys: they need the whole of it, as a range does.
#[must_use]
pub fn whole_keyspace(name: &str) -> Option<u8> {
    match name {
        "flushall" | "flushdb" | "swapdb" => Some(WRITES),
        _ => None,
    }
}

/// What Redis says of something that is not allowed.
#[must_use]
pub fn noperm(denied: &Denied) -> String {
    match denied {
        Denied::Gone { .. } => "NOAUTH Authentication required.".to_owned(),
        Denied::Command { user, command } => {
            format!("NOPERM User {user} has no permissions to run the '{command}' command")
        }
        Denied::Name { .. } => "NOPERM No permissions to access a key".to_owned(),
        Denied::Channel { .. } => "NOPERM No permissions to access a channel".to_owned(),
    }
}

const fn row(name: &'static str, categories: &str, first: &str, rest: &str) -> Permission {
    Permission { name, categories: Categories(mask(categories)), first: done(first), rest: done(rest) }
}

const fn done(text: &str) -> u8 {
    let (bytes, mut at, mut done) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        done |= match bytes[at] {
            b'r' => READS,
            b'w' => WRITES,
            _ => 0,
        };
        at += 1;
    }
    done
}

const fn mask(text: &str) -> u32 {
    let (bytes, mut at, mut mask) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        let start = at;
        while at < bytes.len() && bytes[at] != b' ' {
            at += 1;
        }
        let mut place = 0;
        loop {
            assert!(place < CATEGORIES.len(), "a row has a category that there is not");
            if same(CATEGORIES[place].as_bytes(), bytes, start, at) {
                break;
            }
            place += 1;
        }
        mask |= 1 << place;
        at += 1;
    }
    mask
}

const fn same(word: &[u8], text: &[u8], start: usize, end: usize) -> bool {
    if word.len() != end - start {
        return false;
    }
    let mut at = 0;
    while at < word.len() {
        if word[at] != text[start + at] {
            return false;
        }
        at += 1;
    }
    true
}

static PERMISSIONS: &[Permission] = &[
    row("acl", "slow", "", ""),
    row("acl|cat", "slow", "", ""),
    row("acl|deluser", "admin slow dangerous", "", ""),
    row("acl|dryrun", "admin slow dangerous", "", ""),
    row("acl|genpass", "slow", "", ""),
    row("acl|getuser", "admin slow dangerous", "", ""),
    row("acl|help", "slow", "", ""),
    row("acl|list", "admin slow dangerous", "", ""),
    row("acl|load", "admin slow dangerous", "", ""),
    row("acl|log", "admin slow dangerous", "", ""),
    row("acl|save", "admin slow dangerous", "", ""),
    row("acl|setuser", "admin slow dangerous", "", ""),
    row("acl|users", "admin slow dangerous", "", ""),
    row("acl|whoami", "slow", "", ""),
    row("append", "write string fast", "w", "w"),
    row("asking", "fast connection", "", ""),
    row("auth", "fast connection", "", ""),
    row("bf.add", "write slow", "rw", "rw"),
    row("bf.card", "read fast", "r", "r"),
    row("bf.exists", "read fast", "r", "r"),
    row("bf.info", "read fast", "r", "r"),
    row("bf.insert", "write slow", "rw", "rw"),
    row("bf.loadchunk", "write slow", "w", "w"),
    row("bf.madd", "write slow", "rw", "rw"),
    row("bf.mexists", "read slow", "r", "r"),
    row("bf.reserve", "write fast", "w", "w"),
    row("bf.scandump", "read slow", "r", "r"),
    row("bgrewriteaof", "admin slow dangerous", "", ""),
    row("bgsave", "admin slow dangerous", "", ""),
    row("bitcount", "read bitmap slow", "r", "r"),
    row("bitfield", "write bitmap slow", "rw", "rw"),
    row("bitfield_ro", "read bitmap fast", "r", "r"),
    row("bitop", "write bitmap slow", "w", "r"),
    row("bitpos", "read bitmap slow", "r", "r"),
    row("blmove", "write list slow blocking", "rw", "w"),
    row("blmpop", "write list slow blocking", "rw", "rw"),
    row("blpop", "write list slow blocking", "rw", "rw"),
    row("brpop", "write list slow blocking", "rw", "rw"),
    row("brpoplpush", "write list slow blocking", "rw", "w"),
    row("bzmpop", "write sortedset slow blocking", "rw", "rw"),
    row("bzpopmax", "write sortedset fast blocking", "rw", "rw"),
    row("bzpopmin", "write sortedset fast blocking", "rw", "rw"),
    row("cl.throttle", "write fast", "rw", "rw"),
    row("client", "slow", "", ""),
    row("client|caching", "slow connection", "", ""),
    row("client|getname", "slow connection", "", ""),
    row("client|getredir", "slow connection", "", ""),
    row("client|id", "slow connection", "", ""),
    row("client|info", "slow connection", "", ""),
    row("client|kill", "admin slow dangerous connection", "", ""),
    row("client|list", "admin slow dangerous connection", "", ""),
    row("client|maint_notifications", "slow connection", "", ""),
    row("client|no-evict", "admin slow dangerous connection", "", ""),
    row("client|no-touch", "slow connection", "", ""),
    row("client|pause", "admin slow dangerous connection", "", ""),
    row("client|reply", "slow connection", "", ""),
    row("client|setinfo", "slow connection", "", ""),
    row("client|setname", "slow connection", "", ""),
    row("client|tracking", "slow connection", "", ""),
    row("client|trackinginfo", "slow connection", "", ""),
    row("client|unblock", "admin slow dangerous connection", "", ""),
    row("client|unpause", "admin slow dangerous connection", "", ""),
    row("cluster", "slow", "", ""),
    row("cluster|countkeysinslot", "slow", "", ""),
    row("cluster|getkeysinslot", "slow", "", ""),
    row("cluster|info", "slow", "", ""),
    row("cluster|keyslot", "slow", "", ""),
    row("cluster|myid", "slow", "", ""),
    row("cluster|myshardid", "slow", "", ""),
    row("cluster|nodes", "slow", "", ""),
    row("cluster|replicas", "admin slow dangerous", "", ""),
    row("cluster|shards", "slow", "", ""),
    row("cluster|slaves", "admin slow dangerous", "", ""),
    row("cluster|slots", "slow", "", ""),
    row("command", "slow connection", "", ""),
    row("command|count", "slow connection", "", ""),
    row("command|docs", "slow connection", "", ""),
    row("command|getkeys", "slow connection", "", ""),
    row("command|info", "slow connection", "", ""),
    row("command|list", "slow connection", "", ""),
    row("config", "slow", "", ""),
    row("config|get", "admin slow dangerous", "", ""),
    row("config|resetstat", "admin slow dangerous", "", ""),
    row("config|rewrite", "admin slow dangerous", "", ""),
    row("config|set", "admin slow dangerous", "", ""),
    row("copy", "keyspace write slow", "r", "w"),
    row("dbsize", "keyspace read fast", "", ""),
    row("debug", "admin slow dangerous", "", ""),
    row("decr", "write string fast", "rw", "rw"),
    row("decrby", "write string fast", "rw", "rw"),
    row("del", "keyspace write slow", "w", "w"),
    row("delex", "write string fast", "rw", "rw"),
    row("digest", "read string fast", "r", "r"),
    row("discard", "fast transaction", "", ""),
    row("dump", "keyspace read slow", "r", "r"),
    row("echo", "fast connection", "", ""),
    row("eval", "slow scripting", "rw", "rw"),
    row("eval_ro", "slow scripting", "r", "r"),
    row("evalsha", "slow scripting", "rw", "rw"),
    row("evalsha_ro", "slow scripting", "r", "r"),
    row("exec", "slow transaction", "", ""),
    row("exists", "keyspace read fast", "-", "-"),
    row("expire", "keyspace write fast", "w", "w"),
    row("expireat", "keyspace write fast", "w", "w"),
    row("expiretime", "keyspace read fast", "r", "r"),
    row("failover", "admin slow dangerous", "", ""),
    row("fcall", "slow scripting", "rw", "rw"),
    row("fcall_ro", "slow scripting", "r", "r"),
    row("flushall", "keyspace write slow dangerous", "", ""),
    row("flushdb", "keyspace write slow dangerous", "", ""),
    row("function", "slow", "", ""),
    row("function|delete", "write slow scripting", "", ""),
    row("function|dump", "slow scripting", "", ""),
    row("function|flush", "write slow scripting", "", ""),
    row("function|help", "slow scripting", "", ""),
    row("function|kill", "slow scripting", "", ""),
    row("function|list", "slow scripting", "", ""),
    row("function|load", "write slow scripting", "", ""),
    row("function|restore", "write slow scripting", "", ""),
    row("function|stats", "slow scripting", "", ""),
    row("geoadd", "write geo slow", "w", "w"),
    row("geodist", "read geo slow", "r", "r"),
    row("geohash", "read geo slow", "r", "r"),
    row("geopos", "read geo slow", "r", "r"),
    row("georadius", "write geo slow", "r", "w"),
    row("georadius_ro", "read geo slow", "r", "r"),
    row("georadiusbymember", "write geo slow", "r", "w"),
    row("georadiusbymember_ro", "read geo slow", "r", "r"),
    row("geosearch", "read geo slow", "r", "r"),
    row("geosearchstore", "write geo slow", "w", "r"),
    row("get", "read string fast", "r", "r"),
    row("getbit", "read bitmap fast", "r", "r"),
    row("getdel", "write string fast", "rw", "rw"),
    row("getex", "write string fast", "rw", "rw"),
    row("getrange", "read string slow", "r", "r"),
    row("getset", "write string fast", "rw", "rw"),
    row("hdel", "write hash fast", "w", "w"),
    row("hello", "fast connection", "", ""),
    row("hexists", "read hash fast", "-", "-"),
    row("hexpire", "write hash fast", "w", "w"),
    row("hexpireat", "write hash fast", "w", "w"),
    row("hexpiretime", "read hash fast", "r", "r"),
    row("hget", "read hash fast", "r", "r"),
    row("hgetall", "read hash slow", "r", "r"),
    row("hgetdel", "write hash fast", "rw", "rw"),
    row("hgetex", "write hash fast", "rw", "rw"),
    row("hincrby", "write hash fast", "rw", "rw"),
    row("hincrbyfloat", "write hash fast", "rw", "rw"),
    row("hkeys", "read hash slow", "r", "r"),
    row("hlen", "read hash fast", "-", "-"),
    row("hmget", "read hash fast", "r", "r"),
    row("hmset", "write hash fast", "w", "w"),
    row("hpersist", "write hash fast", "w", "w"),
    row("hpexpire", "write hash fast", "w", "w"),
    row("hpexpireat", "write hash fast", "w", "w"),
    row("hpexpiretime", "read hash fast", "r", "r"),
    row("hpttl", "read hash fast", "r", "r"),
    row("hrandfield", "read hash slow", "r", "r"),
    row("hscan", "read hash slow", "r", "r"),
    row("hset", "write hash fast", "w", "w"),
    row("hsetex", "write hash fast", "w", "w"),
    row("hsetnx", "write hash fast", "w", "w"),
    row("hstrlen", "read hash fast", "-", "-"),
    row("httl", "read hash fast", "r", "r"),
    row("hvals", "read hash slow", "r", "r"),
    row("incr", "write string fast", "rw", "rw"),
    row("incrby", "write string fast", "rw", "rw"),
    row("incrbyfloat", "write string fast", "rw", "rw"),
    row("info", "slow dangerous", "", ""),
    row("keys", "keyspace read slow dangerous", "", ""),
    row("lastsave", "admin fast dangerous", "", ""),
    row("latency", "slow", "", ""),
    row("latency|doctor", "admin slow dangerous", "", ""),
    row("latency|graph", "admin slow dangerous", "", ""),
    row("latency|help", "slow", "", ""),
    row("latency|histogram", "admin slow dangerous", "", ""),
    row("latency|history", "admin slow dangerous", "", ""),
    row("latency|latest", "admin slow dangerous", "", ""),
    row("latency|reset", "admin slow dangerous", "", ""),
    row("lcs", "read string slow", "r", "r"),
    row("lindex", "read list slow", "r", "r"),
    row("linsert", "write list slow", "w", "w"),
    row("llen", "read list fast", "-", "-"),
    row("lmove", "write list slow", "rw", "w"),
    row("lmpop", "write list slow", "rw", "rw"),
    row("lolwut", "read fast", "", ""),
    row("lpop", "write list fast", "rw", "rw"),
    row("lpos", "read list slow", "r", "r"),
    row("lpush", "write list fast", "w", "w"),
    row("lpushx", "write list fast", "w", "w"),
    row("lrange", "read list slow", "r", "r"),
    row("lrem", "write list slow", "w", "w"),
    row("lset", "write list slow", "w", "w"),
    row("ltrim", "write list slow", "w", "w"),
    row("memory", "slow", "", ""),
    row("memory|doctor", "slow", "", ""),
    row("memory|help", "slow", "", ""),
    row("memory|purge", "slow", "", ""),
    row("memory|stats", "slow", "", ""),
    row("memory|usage", "read slow", "-", "-"),
    row("mget", "read string fast", "r", "r"),
    row("module|list", "admin slow dangerous", "", ""),
    row("monitor", "admin slow dangerous", "", ""),
    row("move", "keyspace write fast", "rw", "rw"),
    row("mset", "write string slow", "w", "w"),
    row("msetex", "write string slow", "w", "w"),
    row("msetnx", "write string slow", "w", "w"),
    row("multi", "fast transaction", "", ""),
    row("object", "slow", "", ""),
    row("object|encoding", "keyspace read slow", "-", "-"),
    row("object|freq", "keyspace read slow", "-", "-"),
    row("object|help", "keyspace slow", "", ""),
    row("object|idletime", "keyspace read slow", "-", "-"),
    row("object|refcount", "keyspace read slow", "-", "-"),
    row("persist", "keyspace write fast", "w", "w"),
    row("pexpire", "keyspace write fast", "w", "w"),
    row("pexpireat", "keyspace write fast", "w", "w"),
    row("pexpiretime", "keyspace read fast", "r", "r"),
    row("pfadd", "write hyperloglog fast", "w", "w"),
    row("pfcount", "read hyperloglog slow", "r", "r"),
    row("pfmerge", "write hyperloglog slow", "rw", "r"),
    row("ping", "fast connection", "", ""),
    row("psetex", "write string slow", "w", "w"),
    row("psubscribe", "pubsub slow", "", ""),
    row("pttl", "keyspace read fast", "r", "r"),
    row("publish", "pubsub fast", "", ""),
    row("pubsub", "slow", "", ""),
    row("pubsub|channels", "pubsub slow", "", ""),
    row("pubsub|numpat", "pubsub slow", "", ""),
    row("pubsub|numsub", "pubsub slow", "", ""),
    row("pubsub|shardchannels", "pubsub slow", "", ""),
    row("pubsub|shardnumsub", "pubsub slow", "", ""),
    row("punsubscribe", "pubsub slow", "", ""),
    row("q.after", "write slow", "", ""),
    row("q.atomic", "fast transaction", "", ""),
    row("q.backup", "admin slow dangerous", "", ""),
    row("q.cluster", "admin slow dangerous", "", ""),
    row("q.compact", "admin slow dangerous", "", ""),
    row("q.configure", "admin slow dangerous", "", ""),
    row("q.fence", "fast transaction", "", ""),
    row("q.follow", "read slow blocking", "", ""),
    row("q.idempotent", "write fast transaction", "", ""),
    row("q.info", "read fast", "", ""),
    row("q.keep", "write fast", "", ""),
    row("q.limit", "write fast", "", ""),
    row("q.lock", "write slow blocking", "", ""),
    row("q.range", "read slow", "", ""),
    row("q.register", "write fast", "", ""),
    row("q.stream", "write stream fast", "", ""),
    row("q.unlock", "write fast", "", ""),
    row("q.version", "read fast transaction", "", ""),
    row("q.why", "read slow", "", ""),
    row("quit", "fast connection", "", ""),
    row("randomkey", "keyspace read slow", "", ""),
    row("readonly", "fast connection", "", ""),
    row("readwrite", "fast connection", "", ""),
    row("rename", "keyspace write slow", "rw", "w"),
    row("renamenx", "keyspace write fast", "rw", "w"),
    row("replicaof", "admin slow dangerous", "", ""),
    row("reset", "fast connection", "", ""),
    row("restore", "keyspace write slow dangerous", "w", "w"),
    row("role", "admin fast dangerous", "", ""),
    row("rpop", "write list fast", "rw", "rw"),
    row("rpoplpush", "write list slow", "rw", "w"),
    row("rpush", "write list fast", "w", "w"),
    row("rpushx", "write list fast", "w", "w"),
    row("sadd", "write set fast", "w", "w"),
    row("save", "admin slow dangerous", "", ""),
    row("scan", "keyspace read slow", "", ""),
    row("scard", "read set fast", "-", "-"),
    row("script", "slow", "", ""),
    row("script|exists", "slow scripting", "", ""),
    row("script|flush", "slow scripting", "", ""),
    row("script|help", "slow scripting", "", ""),
    row("script|kill", "slow scripting", "", ""),
    row("script|load", "slow scripting", "", ""),
    row("sdiff", "read set slow", "r", "r"),
    row("sdiffstore", "write set slow", "w", "r"),
    row("select", "fast connection", "", ""),
    row("sentinel", "slow connection", "", ""),
    row("sentinel|ckquorum", "slow connection", "", ""),
    row("sentinel|get-master-addr-by-name", "slow connection", "", ""),
    row("sentinel|master", "slow connection", "", ""),
    row("sentinel|masters", "slow connection", "", ""),
    row("sentinel|myid", "slow connection", "", ""),
    row("sentinel|replicas", "slow connection", "", ""),
    row("sentinel|sentinels", "slow connection", "", ""),
    row("sentinel|slaves", "slow connection", "", ""),
    row("set", "write string slow", "rw", "rw"),
    row("setbit", "write bitmap slow", "rw", "rw"),
    row("setex", "write string slow", "w", "w"),
    row("setnx", "write string fast", "w", "w"),
    row("setrange", "write string slow", "w", "w"),
    row("shutdown", "admin slow dangerous", "", ""),
    row("sinter", "read set slow", "r", "r"),
    row("sintercard", "read set slow", "r", "r"),
    row("sinterstore", "write set slow", "w", "r"),
    row("sismember", "read set fast", "-", "-"),
    row("slaveof", "admin slow dangerous", "", ""),
    row("slowlog", "slow", "", ""),
    row("slowlog|get", "admin slow dangerous", "", ""),
    row("slowlog|len", "admin slow dangerous", "", ""),
    row("slowlog|reset", "admin slow dangerous", "", ""),
    row("smembers", "read set slow", "r", "r"),
    row("smismember", "read set fast", "r", "r"),
    row("smove", "write set fast", "rw", "w"),
    row("sort", "write set sortedset list slow dangerous", "r", "w"),
    row("sort_ro", "read set sortedset list slow dangerous", "r", "r"),
    row("spop", "write set fast", "rw", "rw"),
    row("spublish", "pubsub fast", "", ""),
    row("srandmember", "read set slow", "r", "r"),
    row("srem", "write set fast", "w", "w"),
    row("sscan", "read set slow", "r", "r"),
    row("ssubscribe", "pubsub slow", "", ""),
    row("strlen", "read string fast", "-", "-"),
    row("subscribe", "pubsub slow", "", ""),
    row("substr", "read string slow", "r", "r"),
    row("sunion", "read set slow", "r", "r"),
    row("sunionstore", "write set slow", "w", "r"),
    row("sunsubscribe", "pubsub slow", "", ""),
    row("time", "fast", "", ""),
    row("touch", "keyspace read fast", "-", "-"),
    row("ttl", "keyspace read fast", "r", "r"),
    row("type", "keyspace read fast", "-", "-"),
    row("unlink", "keyspace write fast", "w", "w"),
    row("unsubscribe", "pubsub slow", "", ""),
    row("unwatch", "fast transaction", "", ""),
    row("wait", "slow blocking connection", "", ""),
    row("waitaof", "slow blocking connection", "", ""),
    row("watch", "fast transaction", "-", "-"),
    row("xack", "write stream fast", "w", "w"),
    row("xackdel", "write stream fast", "w", "w"),
    row("xadd", "write stream fast", "w", "w"),
    row("xautoclaim", "write stream fast", "w", "w"),
    row("xcfgset", "write stream fast", "w", "w"),
    row("xclaim", "write stream fast", "w", "w"),
    row("xdel", "write stream fast", "w", "w"),
    row("xdelex", "write stream fast", "w", "w"),
    row("xgroup", "slow", "", ""),
    row("xgroup|create", "write stream slow", "w", "w"),
    row("xgroup|createconsumer", "write stream slow", "w", "w"),
    row("xgroup|delconsumer", "write stream slow", "w", "w"),
    row("xgroup|destroy", "write stream slow", "w", "w"),
    row("xgroup|help", "stream slow", "", ""),
    row("xgroup|setid", "write stream slow", "w", "w"),
    row("xinfo", "slow", "", ""),
    row("xinfo|consumers", "read stream slow", "r", "r"),
    row("xinfo|groups", "read stream slow", "r", "r"),
    row("xinfo|help", "stream slow", "", ""),
    row("xinfo|stream", "read stream slow", "r", "r"),
    row("xlen", "read stream fast", "-", "-"),
    row("xpending", "read stream slow", "r", "r"),
    row("xrange", "read stream slow", "r", "r"),
    row("xread", "read stream slow blocking", "r", "r"),
    row("xreadgroup", "write stream slow blocking", "r", "r"),
    row("xrevrange", "read stream slow", "r", "r"),
    row("xsetid", "write stream fast", "w", "w"),
    row("xtrim", "write stream slow", "w", "w"),
    row("zadd", "write sortedset fast", "w", "w"),
    row("zcard", "read sortedset fast", "-", "-"),
    row("zcount", "read sortedset fast", "r", "r"),
    row("zdiff", "read sortedset slow", "r", "r"),
    row("zdiffstore", "write sortedset slow", "w", "r"),
    row("zincrby", "write sortedset fast", "rw", "rw"),
    row("zinter", "read sortedset slow", "r", "r"),
    row("zintercard", "read sortedset slow", "r", "r"),
    row("zinterstore", "write sortedset slow", "w", "r"),
    row("zlexcount", "read sortedset fast", "r", "r"),
    row("zmpop", "write sortedset slow", "rw", "rw"),
    row("zmscore", "read sortedset fast", "r", "r"),
    row("zpopmax", "write sortedset fast", "rw", "rw"),
    row("zpopmin", "write sortedset fast", "rw", "rw"),
    row("zrandmember", "read sortedset slow", "r", "r"),
    row("zrange", "read sortedset slow", "r", "r"),
    row("zrangebylex", "read sortedset slow", "r", "r"),
    row("zrangebyscore", "read sortedset slow", "r", "r"),
    row("zrangestore", "write sortedset slow", "w", "r"),
    row("zrank", "read sortedset fast", "r", "r"),
    row("zrem", "write sortedset fast", "w", "w"),
    row("zremrangebylex", "write sortedset slow", "w", "w"),
    row("zremrangebyrank", "write sortedset slow", "w", "w"),
    row("zremrangebyscore", "write sortedset slow", "w", "w"),
    row("zrevrange", "read sortedset slow", "r", "r"),
    row("zrevrangebylex", "read sortedset slow", "r", "r"),
    row("zrevrangebyscore", "read sortedset slow", "r", "r"),
    row("zrevrank", "read sortedset fast", "r", "r"),
    row("zscan", "read sortedset slow", "r", "r"),
    row("zscore", "read sortedset fast", "r", "r"),
    row("zunion", "read sortedset slow", "r", "r"),
    row("zunionstore", "write sortedset slow", "w", "r"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lookup, specs};

    #[test]
    fn rows_are_sorted_and_every_command_has_one() {
        assert!(PERMISSIONS.is_sorted_by(|a, b| a.name < b.name));
        for spec in specs() {
            assert!(permission(spec.name.as_bytes()).is_some(), "{} has no row", spec.name);
        }
    }

    fn check(text: &str, wanted: &[(usize, u8)]) {
        let words: Vec<Blob> = text.split(' ').map(Blob::from).collect();
        let spec = lookup(&words[0]).unwrap();
        assert_eq!(touches(spec, &words).as_deref(), Some(wanted), "{text}");
    }

    #[test]
    fn what_is_done_to_each_key_is_as_redis_has_it() {
        check("GET k", &[(1, READS)]);
        check("SET k v", &[(1, WRITES)]);
        check("SET k v GET", &[(1, READS | WRITES)]);
        check("SET GET v", &[(1, WRITES)]);
        check("TYPE k", &[(1, 0)]);
        check("COPY a b", &[(1, READS), (2, WRITES)]);
        check("SINTERSTORE d a b", &[(1, WRITES), (2, READS), (3, READS)]);
        check("SORT k BY x STORE d", &[(1, READS), (5, WRITES)]);
        check("BITFIELD k GET u8 0 OVERFLOW SAT GET u8 1", &[(1, READS)]);
        check("BITFIELD k GET u8 0 SET u8 1 1", &[(1, READS | WRITES)]);
        check("XREAD STREAMS a b 0 0", &[(2, READS), (3, READS)]);
        check("EVAL x 2 a b c", &[(3, READS | WRITES), (4, READS | WRITES)]);
        check("PING", &[]);
    }

    #[test]
    fn categories_have_names() {
        let get = permission(b"get").unwrap();
        assert_eq!(get.categories.names().collect::<Vec<_>>(), ["read", "string", "fast"]);
        assert!(get.categories.has(Categories::named(b"READ").unwrap()));
        assert_eq!(Categories::named(b"nope"), None);
    }
}
