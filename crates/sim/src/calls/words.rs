//! What clients say in Redis' words: few keys, so that they collide; wrong types, conditions, transactions, scripts, all kinds of deadlines.
//!
//! Invariant: an element that is pushed into a queue is pushed once in the whole run, so that it can be told from all others.
//! Called by: the workload.

use super::{FREE, JUDGED, QUEUE, call, scripts};
use crate::random::Random;
use crate::workload::{Hope, View};
use quorate_calls::Interpreter;
use quorate_node::Config;
use quorate_types::{
    Blob, CommandBody, Commit, Eviction, Guard, Key, KeyRange, Millis, Mode, OnRefused, Op, OpResult, Reply,
    Revision, When,
};

/// Sets what the free keyspace may hold: so little that something has to go all the time.
fn limit(random: &mut Random) -> CommandBody {
    let bytes_max = Some(if random.chance(5) { 0 } else { random.between(1_000, 6_000) });
    let eviction = Eviction::ALL[random.below(Eviction::ALL.len() as u64) as usize];
    CommandBody::LimitMemory { space: FREE, bytes_max, eviction: Some(eviction) }
}

/// What one client has to remember of its calls.
#[derive(Default)]
pub(crate) struct Caller {
    number: u64,
    /// Whether it says scripts too: they cost more than all else, in every replay again.
    scripts: bool,
    next: u64,
    /// Elements whose push into a queue was acknowledged, and those that it was given by a pop.
    pub(crate) pushed: Vec<Blob>,
    pub(crate) popped: Vec<Blob>,
}

impl Caller {
    pub(crate) fn new(number: u64, scripts: bool) -> Self {
        Self { number, scripts, ..Self::default() }
    }

    /// A commit of calls.
    pub(crate) fn act(&mut self, random: &mut Random, view: &View<'_>) -> (CommandBody, Hope) {
        let commit = match random.below(40) {
            0..=9 => Commit { mode: Mode::Each, ..Commit::of(vec![self.judged(random, view)]) },
            10..=14 => self.transaction(random, view),
            15..=17 => self.refused(random, view),
            18..=20 => self.watched(random, view),
            21..=24 => return self.queue(random),
            25 | 26 if self.scripts => Commit { mode: Mode::Each, ..Commit::of(vec![self.scripted(random)]) },
            27 => self.later(random, view),
            28 if random.chance(4) => return (limit(random), Hope::Nothing),
            _ => Commit { mode: Mode::Each, ..Commit::of(vec![self.free(random, view)]) },
        };
        (CommandBody::Commit { commit }, Hope::Nothing)
    }

    /// Takes the answer to a commit at a queue.
    pub(crate) fn answered(&mut self, pushed: Option<&Blob>, results: &[OpResult]) {
        for result in results {
            match (result, pushed) {
                (OpResult::Reply { reply: Reply::Integer { .. } }, Some(element)) => {
                    self.pushed.push(element.clone());
                }
                (OpResult::Reply { reply: Reply::Bulk { value } }, None) => self.popped.push(value.clone()),
                _ => {}
            }
        }
    }

    /// A text that nobody else says.
    fn fresh(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}-{}-{}", self.number, self.next)
    }

    /// One call that the model knows.
    fn judged(&mut self, random: &mut Random, view: &View<'_>) -> Op {
        let say = |words: &[&str]| call(JUDGED, words);
        let (string, list, set, hash) =
            (name(random, "s", 3), name(random, "l", 3), name(random, "t", 2), name(random, "h", 2));
        let millis = random.between(1, 900).to_string();
        let member = format!("m{}", random.below(12));
        match random.below(33) {
            30 | 31 => say(&["HPEXPIRE", &hash, &millis, "FIELDS", "1", &member]),
            32 => say(&["HGETALL", &hash]),
            0 | 1 => say(&["SET", &string, &random.below(100).to_string()]),
            2 => say(&["SET", &string, &random.below(100).to_string(), "PX", &millis]),
            3 => say(&["SET", &string, "7", "EX", "1"]),
            4 | 5 => {
                let at = (view.wall.0 + random.below(1500)).to_string();
                say(&["SET", &string, "text", "PXAT", &at])
            }
            6 | 7 => say(&["GET", &string]),
            8 | 9 => say(&["INCR", &string]),
            10 => say(&["DEL", &string, &list]),
            11 | 12 => {
                let any = [&string, &list, &set, &hash][random.below(4) as usize];
                say(&["PEXPIRE", any, &millis])
            }
            13 => say(&["PERSIST", &list]),
            14 | 15 => say(&["RPUSH", &list, &member, "x", "y"]),
            16 => say(&["LPUSH", &list, &member]),
            17 => say(&["LPOP", &list]),
            18 => say(&["LPOP", &list, "2"]),
            19 => say(&["LRANGE", &list, "0", "-1"]),
            20 | 21 => say(&["SADD", &set, &member, &format!("n{}", random.below(9))]),
            22 => say(&["SREM", &set, &member]),
            23 => say(&["SPOP", &set]),
            24 => say(&["SPOP", &set, "3"]),
            25 => say(&["HSET", &hash, &member, &millis]),
            26 => say(&["HDEL", &hash, &member]),
            27 => say(&["RENAME", [&list, &set, &hash][random.below(3) as usize], &string]),
            28 if random.chance(6) => say(&["FLUSHDB"]),
            28 => say(&["SMEMBERS", &set]),
            _ => say(&["COPY", [&list, &set, &hash][random.below(3) as usize], &string, "REPLACE"]),
        }
    }

    /// As EXEC is: what fails is only its own answer. A message follows the commit.
    fn transaction(&mut self, random: &mut Random, view: &View<'_>) -> Commit {
        let mut then: Vec<Op> = (0..random.between(2, 4)).map(|_| self.judged(random, view)).collect();
        if random.chance(3) {
            let message = self.fresh("told");
            then.push(if !self.scripts || random.chance(2) {
                call(JUDGED, &["PUBLISH", "news", &message])
            } else {
                call(JUDGED, &["EVAL", scripts::TELL, "1", "news", &message])
            });
        }
        Commit { mode: if random.chance(4) { Mode::Apart } else { Mode::Each }, ..Commit::of(then) }
    }

    /// All or nothing, and its last call is none: elements have to go back to where they were.
    fn refused(&mut self, random: &mut Random, view: &View<'_>) -> Commit {
        let message = self.fresh("unsaid");
        let mut then =
            vec![call(JUDGED, &["RPUSH", "l0", "gone"]), call(JUDGED, &["PUBLISH", "news", &message])];
        then.extend((0..random.between(1, 4)).map(|_| self.judged(random, view)));
        if random.chance(2) {
            then.push(call(JUDGED, &["SPOP", "t0", "2"]));
            then.push(self.free(random, view));
        }
        if !random.chance(5) {
            then.push(bogus());
        }
        Commit::of(then)
    }

    /// As EXEC after WATCH.
    fn watched(&mut self, random: &mut Random, view: &View<'_>) -> Commit {
        let range = KeyRange::single(Key { space: JUDGED, name: name(random, "s", 3).into() });
        let since = Revision(view.machine.revision().0.saturating_sub(random.below(6)));
        let guards = vec![Guard::RangeUnchanged { range, since }];
        let then = vec![self.judged(random, view), self.judged(random, view)];
        Commit { guards, then, mode: Mode::Each, ..Commit::default() }
    }

    fn queue(&mut self, random: &mut Random) -> (CommandBody, Hope) {
        let (words, hope) = match random.below(4) {
            0 => (["RPUSH", "queue"], true),
            1 => (["LPOP", "queue"], false),
            2 => (["SADD", "bag"], true),
            _ => (["SPOP", "bag"], false),
        };
        let mut words: Vec<String> = words.map(str::to_owned).to_vec();
        let element = hope.then(|| self.fresh("e"));
        words.extend(element.clone());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let commit = Commit { mode: Mode::Each, ..Commit::of(vec![call(QUEUE, &words)]) };
        (CommandBody::Commit { commit }, Hope::Queue(element.map(Blob::from)))
    }

    fn scripted(&mut self, random: &mut Random) -> Op {
        let (string, list) = (name(random, "s", 3), name(random, "l", 3));
        let say = |words: &[&str]| call(JUDGED, words);
        match random.below(24) {
            0..=15 => {
                say(&["EVAL", scripts::COUNT_AND_PUSH, "2", &string, &list, &random.below(50).to_string()])
            }
            16..=18 => say(&["EVAL", scripts::OVER_BUDGET, "2", &string, "never"]),
            19 => {
                let (count, left) =
                    (random.between(200, 700).to_string(), random.between(400, 2500).to_string());
                say(&["EVAL", scripts::FILL, "1", &list, &count, "f", &left])
            }
            _ => say(&["EVAL", scripts::TELL, "1", "news", &self.fresh("told")]),
        }
    }

    /// A timer whose commit is calls: it fires inside the machine, far from any client.
    fn later(&mut self, random: &mut Random, view: &View<'_>) -> Commit {
        let inner = Commit {
            mode: if random.chance(2) { Mode::Each } else { Mode::Atomic },
            ..Commit::of(vec![self.judged(random, view), call(JUDGED, &["SADD", "t0", "timer"])])
        };
        Commit::of(vec![Op::Schedule {
            task: format!("call/{}", random.below(4)).into(),
            when: When::In { after: Millis(random.below(600)) },
            commit: Box::new(inner),
            on_refused: OnRefused::Drop,
        }])
    }

    /// What only replicas' agreement judges.
    fn free(&mut self, random: &mut Random, view: &View<'_>) -> Op {
        let a = format!("k{}", random.below(6));
        let b = format!("k{}", random.below(6));
        let (member, number) = (format!("m{}", random.below(20)), (random.below(40) as i64 - 10).to_string());
        let wall = (view.wall.0 / 1000 + random.below(3)).to_string();
        let script = [
            "return {math.random(1000000), redis.call('TIME')[1]}",
            "redis.call('SADD', KEYS[1], math.random(50)) return redis.call('SPOP', KEYS[1])",
            "local v = redis.call('TIME') redis.call('SET', KEYS[1], v[1] .. v[2]) error('after the first change')",
            "redis.call('HSET', KEYS[1], 'f', ARGV[1]) return redis.call('HINCRBYFLOAT', KEYS[1], 'f', '0.5')",
            "return cjson.encode(redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'))",
        ][random.below(5) as usize];
        let fill = [
            "for i = 1, ARGV[1] do redis.call('SADD', KEYS[1], i * 7) end redis.call('PEXPIRE', KEYS[1], ARGV[2])",
            "for i = 1, ARGV[1] do redis.call('ZADD', KEYS[1], i % 97, i) end redis.call('PEXPIRE', KEYS[1], ARGV[2])",
            "for i = 1, ARGV[1] do redis.call('HSET', KEYS[1], i, i) end redis.call('PEXPIRE', KEYS[1], ARGV[2])",
        ][random.below(3) as usize];
        let words: Vec<&str> = match random.below(64) {
            56 => vec!["HPEXPIRE", &a, "250", "FIELDS", "2", &member, "other"],
            57 => vec!["HEXPIREAT", &a, &wall, "FIELDS", "1", &member],
            58 => vec!["HSETEX", &a, "PX", "300", "FIELDS", "1", &member, &number],
            59 => vec!["HPERSIST", &a, "FIELDS", "1", &member],
            60 => vec!["BF.ADD", "bloom", &member],
            61 => vec!["BF.INSERT", "small", "CAPACITY", "4", "ITEMS", &member, &number],
            62 => vec!["GEOADD", &a, &number, &number, &member],
            63 => vec!["COPY", "bloom", &b, "REPLACE"],
            0 | 1 => vec!["HSET", &a, &member, &number, "other", "x"],
            2 => vec!["HINCRBY", &a, &member, &number],
            3 => vec!["HDEL", &a, &member, "other"],
            4 => vec!["HRANDFIELD", &a, "2"],
            5 | 6 => vec!["LPUSH", &a, &member, &number, "z"],
            7 => vec!["LINSERT", &a, "BEFORE", &member, "in"],
            8 => vec!["LSET", &a, "0", &number],
            9 => vec!["LTRIM", &a, "1", "4"],
            10 => vec!["LREM", &a, "0", &member],
            11 => vec!["LMOVE", &a, &b, "LEFT", "RIGHT"],
            12..=14 => vec!["ZADD", &a, &number, &member],
            15 => vec!["ZINCRBY", &a, "1.5", &member],
            16 => vec!["ZPOPMIN", &a, "2"],
            17 => vec!["ZREMRANGEBYRANK", &a, "0", "1"],
            18 => vec!["ZUNIONSTORE", &a, "2", &a, &b],
            19 => vec!["ZRANGESTORE", &a, &b, "0", "3"],
            20 | 21 => vec!["SADD", &a, &member, &number],
            22 => vec!["SMOVE", &a, &b, &member],
            23 => vec!["SUNIONSTORE", &a, &a, &b],
            24 => vec!["SDIFFSTORE", &a, &a, &b],
            25 => vec!["SPOP", &a, "2"],
            26 => vec!["SRANDMEMBER", &a, "-3"],
            27 => vec!["APPEND", &a, &member],
            28 => vec!["SETRANGE", &a, "3", "mid"],
            29 => vec!["SETBIT", &a, "77", "1"],
            30 => vec!["BITOP", "OR", &a, &a, &b],
            31 => vec!["PFADD", &a, &member],
            32 => vec!["INCRBYFLOAT", &a, "0.1"],
            33 => vec!["GETEX", &a, "PX", "300"],
            34 => vec!["EXPIREAT", &a, &wall],
            35 => vec!["PEXPIRE", &a, "250"],
            36 => vec!["RENAME", &a, &b],
            37 => vec!["RENAMENX", &a, "k9"],
            38 => vec!["COPY", &a, &b],
            39 => vec!["DEL", &a, &b],
            40 => vec!["SORT", &a, "ALPHA", "STORE", &b],
            41 => vec!["RANDOMKEY"],
            42 => vec!["SCAN", "0"],
            43 => vec!["MSETNX", &a, "1", &b, "2"],
            44 => vec!["SET", &a, &number, "KEEPTTL", "GET"],
            45..=53 if !self.scripts => vec!["HSET", &a, &member, &number],
            45..=49 => vec!["EVAL", script, "1", &a, &number],
            50 if random.chance(2) => vec!["SCRIPT", "LOAD", script],
            50 => return library(random, &a, &number),
            51 | 52 => return evalsha(script, &a, &number),
            53 if random.chance(12) => vec!["SCRIPT", "FLUSH"],
            53 if random.chance(3) => {
                let (count, left) =
                    (random.between(200, 1200).to_string(), random.between(300, 2000).to_string());
                return call(FREE, &["EVAL", fill, "1", &a, &count, &left]);
            }
            54 if random.chance(8) => vec!["FLUSHDB"],
            _ => vec!["SET", &a, &number],
        };
        call(FREE, &words)
    }
}

/// A call that is always refused for its words.
pub(crate) fn bogus() -> Op {
    call(JUDGED, &["SET", "s0", "v", "BOGUS"])
}

/// Something about libraries of functions: few names, so that they collide.
fn library(random: &mut Random, key: &str, argument: &str) -> Op {
    let (name, function) = (random.below(3), random.below(4));
    let text = format!(
        "#!lua name=l{name}\nredis.register_function('f{function}', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)"
    );
    let (name, function) = (format!("l{name}"), format!("f{function}"));
    match random.below(9) {
        0 => call(FREE, &["FUNCTION", "LOAD", &text]),
        1 | 2 => call(FREE, &["FUNCTION", "LOAD", "REPLACE", &text]),
        3 => call(FREE, &["FUNCTION", "DELETE", &name]),
        4 if random.chance(4) => call(FREE, &["FUNCTION", "FLUSH"]),
        _ => call(FREE, &["FCALL", &function, "1", key, argument]),
    }
}

fn evalsha(script: &str, key: &str, argument: &str) -> Op {
    let interpreter: Box<dyn Interpreter> = (Config::default().interpreter)();
    let sha: String = interpreter.sha1(script.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    call(FREE, &["EVALSHA", &sha, "1", key, argument])
}

/// A name of this type; sometimes of another, whose key it is not.
fn name(random: &mut Random, kind: &str, of: u64) -> String {
    let kind = if random.chance(10) { ["s", "l", "t", "h"][random.below(4) as usize] } else { kind };
    format!("{kind}{}", random.below(of))
}
