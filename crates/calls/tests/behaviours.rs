//! What commands answer, family by family: stories as redis-cli would show them. Replies are those of Redis 7.2.
#![allow(clippy::unwrap_used)]

use crate::common;

use common::{Redis, show, words};
use quorate_calls::collections::Value;
use quorate_calls::{Deadline, Error, FunctionSpec, Host, Interpreter, Kind, Run, Session, Store, specs};
use quorate_types::{Blob, Keyspace, LogTime, Reply, WallTime};

#[track_caller]
fn check(text: &str) {
    Redis::new().transcript(text);
}

#[test]
fn set_follows_its_conditions() {
    check(
        r#"
        SET k 1 → OK
        SET k 2 NX → nil
        SET k 2 NX GET → "1"
        SET k 2 XX GET → "1"
        SET new 1 XX → nil
        SET new 1 GET → nil
        SET k 3 NX XX → -ERR syntax error
        SET k 3 EX 10 KEEPTTL → -ERR syntax error
        SET k 3 EX 0 → -ERR invalid expire time in 'set' command
        SET k 3 EX 9223372036854775807 → -ERR invalid expire time in 'set' command
        SET k 3 EX x → -ERR value is not an integer or out of range
        SET k 3 IFEQ 1 → nil
        SET k 3 IFEQ 2 → OK
        SET k 4 IFNE 3 → nil
        SET k 4 IFNE 9 → OK
        DELEX k IFEQ 9 → 0
        DELEX k IFEQ 4 → 1
        LPUSH l a → 1
        SET l x GET → -WRONGTYPE Operation against a key holding the wrong kind of value
        SET l x → OK
        MSETEX 2 a 1 b 2 NX EX 10 → 1
        MSETEX 2 a 1 c 2 NX → 0
        TTL b → 10
        MSET a 1 b → -ERR wrong number of arguments for 'mset' command
        "#,
    );
}

#[test]
fn numbers_in_strings_count_exactly() {
    check(
        r#"
        INCR n → 1
        INCRBY n 41 → 42
        DECRBY n -9223372036854775808 → -ERR decrement would overflow
        SET n 9223372036854775807
        INCR n → -ERR increment or decrement would overflow
        SET n " 1"
        INCR n → -ERR value is not an integer or out of range
        SET f 0.1
        INCRBYFLOAT f 0.2 → "0.3"
        INCRBYFLOAT f 5.0e3 → "5000.3"
        INCRBYFLOAT f inf → -ERR increment would produce NaN or Infinity
        INCRBYFLOAT f x → -ERR value is not a valid float
        HSET h f x → 1
        HINCRBYFLOAT h f 1 → -ERR hash value is not a float
        HINCRBY h f 1 → -ERR hash value is not an integer
        HINCRBYFLOAT h g 10.5 → "10.5"
        "#,
    );
}

#[test]
fn parts_of_strings_are_read_and_written() {
    check(
        r#"
        SET k "This is a string"
        GETRANGE k 0 3 → "This"
        GETRANGE k -3 -1 → "ing"
        GETRANGE k 0 -100 → "T"
        GETRANGE k -1 -5 → ""
        SETRANGE k 8 my → 16
        SETRANGE new 2 x → 3
        GET new → "\x00\x00x"
        SETRANGE none 5 "" → 0
        EXISTS none → 0
        SETRANGE k -1 x → -ERR offset is out of range
        SETRANGE k 67108864 x → -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        APPEND k ! → 17
        SET a ohmytext
        SET b mynewtext
        LCS a b → "mytext"
        LCS a b LEN → 6
        LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN → {"len": 6, "matches": [[[4 7] [5 8] 4]]}
        "#
        .replace("\\x00", "\u{0}")
        .as_str(),
    );
}

#[test]
fn relative_times_run_in_log_time_and_absolute_ones_in_wall_time() {
    let mut redis = Redis::new();
    redis.transcript("SET k v EX 10\nPTTL k → 10000\nTTL k → 10\nEXPIRETIME k → 1700000010");
    assert_eq!(redis.store.deadline_of("k"), Some(Deadline::Log(LogTime(15_000_000_000))));
    redis.transcript("SET k v PXAT 1700000000500");
    assert_eq!(redis.store.deadline_of("k"), Some(Deadline::Wall(WallTime(1_700_000_000_500))));
    redis.transcript("PTTL k → 500\nPEXPIRETIME k → 1700000000500\nGET k → \"v\"");
    redis.store.advance(500);
    redis.transcript("GET k → nil\nTTL k → -2");
}

#[test]
fn a_time_that_has_passed_deletes_at_once() {
    check(
        r#"
        SET a 1
        EXPIRE a -1 → 1
        EXISTS a → 0
        SET a 1
        EXPIREAT a 5 → 1
        EXISTS a → 0
        SET a 1
        SET a 2 PXAT 5 → OK
        EXISTS a → 0
        SET a 1
        GETEX a EXAT 1 → "1"
        EXISTS a → 0
        EXPIRE none 10 → 0
        "#,
    );
}

#[test]
fn expiry_conditions_compare_deadlines_of_both_clocks() {
    check(
        r#"
        SET k v
        EXPIRE k 10 XX → 0
        EXPIRE k 10 GT → 0
        EXPIRE k 10 LT → 1
        EXPIRE k 10 NX → 0
        EXPIREAT k 1700000005 GT → 0
        EXPIREAT k 1700000005 LT → 1
        EXPIRE k 100 GT → 1
        TTL k → 100
        EXPIRE k 1 NX GT → -ERR NX and XX, GT or LT options at the same time are not compatible
        EXPIRE k 1 GT LT → -ERR GT and LT options at the same time are not compatible
        EXPIRE k 1 FOO → -ERR Unsupported option FOO
        EXPIRE k 9223372036854775807 → -ERR invalid expire time in 'expire' command
        PERSIST k → 1
        PERSIST k → 0
        TTL k → -1
        SETEX k 100 v → OK
        INCR n → 1
        EXPIRE n 50 → 1
        INCR n → 2
        APPEND n 0 → 2
        TTL n → 50
        SET k w KEEPTTL
        TTL k → 100
        SET k w
        TTL k → -1
        EXPIRE n 100000000000 → 1
        TTL n → 100000000000
        "#,
    );
}

#[test]
fn keys_are_renamed_copied_and_moved_with_their_deadlines() {
    check(
        r#"
        SET a 1 EX 100
        RENAME a b → OK
        TTL b → 100
        RENAME a b → -ERR no such key
        RENAME b b → OK
        SET c 1
        RENAMENX b c → 0
        COPY b d → 1
        TTL d → 100
        COPY b c → 0
        COPY b c REPLACE → 1
        COPY b b → -ERR source and destination objects are the same
        COPY b b DB 1 → 1
        COPY b b DB 99 → -ERR DB index is out of range
        MOVE b 1 → 0
        MOVE d 1 → 1
        EXISTS d → 0
        DBSIZE → 2
        TYPE b → string
        TYPE none → none
        TOUCH b c none → 2
        FLUSHDB → OK
        DBSIZE → 0
        "#,
    );
}

#[test]
fn a_command_with_several_keys_asks_for_all_before_it_changes_one() {
    let mut redis = Redis::new();
    redis.transcript("SET a 1\nLPUSH l x → 1\nSADD s m → 1");
    redis.store.protected.push("p".into());
    redis.store.streams.push("stream".into());
    redis.transcript(
        r"
        MSET a 2 p 3 → -PROTECTED this key
        MSETNX b 2 p 3 → -PROTECTED this key
        DEL a p → -PROTECTED this key
        RENAME a p → -PROTECTED this key
        LMOVE l p LEFT LEFT → -PROTECTED this key
        SMOVE s p m → -PROTECTED this key
        LMOVE l stream LEFT LEFT → -WRONGTYPE Operation against a key holding the wrong kind of value
        MGET a b → [~1~ nil]
        LLEN l → 1
        SCARD s → 1
        TYPE stream → stream
        "
        .replace('~', "\"")
        .as_str(),
    );
}

#[test]
fn hashes_keep_their_order_and_go_when_empty() {
    check(
        r#"
        HSET h a 1 b 2 → 2
        HSET h a 3 c 4 → 1
        HSET h a → -ERR wrong number of arguments for 'hset' command
        HGETALL h → {"a": "3", "b": "2", "c": "4"}
        HKEYS h → ["a" "b" "c"]
        HMGET h a x → ["3" nil]
        HSETNX h a 9 → 0
        HRANDFIELD h 3 WITHVALUES → [["a" "3"] ["b" "2"] ["c" "4"]]
        HRANDFIELD none 5 → []
        HSCAN h 0 NOVALUES → ["0" ["c" "b" "a"]]
        HSCAN h 0 MATCH [ab] → ["0" ["b" "2" "a" "3"]]
        HSCAN h x → -ERR invalid cursor
        HSCAN h 0 COUNT 0 → -ERR syntax error
        HGETDEL h FIELDS 2 a x → ["3" nil]
        HDEL h b c x → 2
        EXISTS h → 0
        SET s 1
        HSET s a 1 → -WRONGTYPE Operation against a key holding the wrong kind of value
        "#,
    );
}

#[test]
fn lists_are_queues_from_both_ends() {
    check(
        r#"
        RPUSH l a b c → 3
        LPUSH l y x → 5
        LRANGE l 0 -1 → ["x" "y" "a" "b" "c"]
        LINDEX l -1 → "c"
        LINDEX l 9 → nil
        LPOP l → "x"
        RPOP l 2 → ["c" "b"]
        LPOP l 0 → []
        LPOP none → nil
        LPOP none 1 → nil[]
        LPOP l -1 → -ERR value is out of range, must be positive
        LPOP l 99 → ["y" "a"]
        EXISTS l → 0
        LPUSHX l a → 0
        RPUSH l a b a b a → 5
        LPOS l a RANK 2 → 2
        LPOS l a COUNT 0 → [0 2 4]
        LPOS l a RANK -1 COUNT 2 → [4 2]
        LPOS l x COUNT 0 → []
        LPOS l x → nil
        LREM l -2 a → 2
        LRANGE l 0 -1 → ["a" "b" "b"]
        LINSERT l BEFORE b n → 4
        LINSERT l AFTER x n → -1
        LSET l 1 z → OK
        LSET l 9 z → -ERR index out of range
        LSET none 0 z → -ERR no such key
        LTRIM l 1 -2
        LRANGE l 0 -1 → ["z" "b"]
        LTRIM l 5 9
        EXISTS l → 0
        "#,
    );
}

#[test]
fn what_may_block_tries_once() {
    check(
        r#"
        BLPOP a b 0 → nil[]
        BLPOP a -1 → -ERR timeout is negative
        BLPOP a x → -ERR timeout is not a float or out of range
        BLMOVE a b LEFT LEFT 1 → nil
        BZPOPMIN a 0 → nil[]
        BLMPOP 0 2 a b LEFT → nil[]
        RPUSH b 1 2 3 → 3
        BLPOP a b 0.5 → ["b" "1"]
        BLMPOP 0 2 a b LEFT COUNT 5 → ["b" ["2" "3"]]
        RPUSH l 1 2 3 → 3
        LMOVE l l LEFT RIGHT → "1"
        RPOPLPUSH l m → "1"
        BRPOPLPUSH l m 0 → "3"
        LRANGE m 0 -1 → ["3" "1"]
        ZADD z 1 a 2 b → 2
        BZPOPMAX y z 0 → ["z" "b" ,2]
        BZMPOP 0 1 z MIN → ["z" [["a" ,1]]]
        "#,
    );
    let wait = |line: &str| {
        let words = words(line);
        quorate_calls::wait_of(quorate_calls::check(&words).unwrap(), &words).unwrap().map(|millis| millis.0)
    };
    assert_eq!(wait("BLPOP a b 0.25"), Some(250));
    assert_eq!(wait("BLMPOP 2 1 a LEFT"), Some(2000));
    assert_eq!(wait("LPOP a"), None);
}

#[test]
fn sets_are_combined() {
    check(
        r#"
        SADD a 1 2 3 4 → 4
        SADD b 3 4 5 → 3
        SINTER a b → {"3" "4"}
        SUNION a b → {"1" "2" "3" "4" "5"}
        SDIFF a b none → {"1" "2"}
        SINTERCARD 2 a b LIMIT 1 → 1
        SINTERCARD 0 a → -ERR numkeys should be greater than 0
        SINTERCARD 3 a → -ERR Number of keys can't be greater than number of args
        SINTERSTORE d a b → 2
        SINTERSTORE d a none → 0
        EXISTS d → 0
        SMISMEMBER a 1 9 → [1 0]
        SMOVE a b 1 → 1
        SMOVE a b 9 → 0
        SPOP b 99 → {"1" "3" "4" "5"}
        EXISTS b → 0
        SPOP b → nil
        SPOP b 1 → {}
        SRANDMEMBER a 99 → ["4" "2" "3"]
        SET s x
        SINTER none s → -WRONGTYPE Operation against a key holding the wrong kind of value
        "#,
    );
}

#[test]
fn sorted_sets_are_ordered_by_score_then_bytes() {
    check(
        r#"
        ZADD z 1 a 1 b 2 c → 3
        ZADD z XX CH 5 a 9 new → 1
        ZADD z GT 4 a → 0
        ZADD z NX 1 n → 1
        ZADD z INCR 2 a → ,7
        ZADD z NX INCR 2 a → nil
        ZADD z NX GT 1 a → -ERR GT, LT, and/or NX options at the same time are not compatible
        ZADD z 1 → -ERR wrong number of arguments for 'zadd' command
        ZADD z 1 x 2 → -ERR syntax error
        ZADD z 1 x nan y → -ERR value is not a valid float
        ZSCORE z x → nil
        ZRANGE z 0 -1 WITHSCORES → [["b" ,1] ["n" ,1] ["c" ,2] ["a" ,7]]
        ZRANGE z (1 +inf BYSCORE LIMIT 0 1 → ["c"]
        ZRANGE z +inf (1 BYSCORE REV → ["a" "c"]
        ZREVRANGEBYSCORE z 7 1 LIMIT 1 2 → ["c" "n"]
        ZRANGE z 0 1 LIMIT 0 1 → -ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX
        ZRANK z c → 2
        ZREVRANK z c WITHSCORE → [1 ,2]
        ZRANK z x WITHSCORE → nil[]
        ZCOUNT z 1 2 → 3
        ZPOPMIN z → ["b" ,1]
        ZPOPMAX z 2 → [["a" ,7] ["c" ,2]]
        ZMPOP 1 z MAX COUNT 9 → ["z" [["n" ,1]]]
        EXISTS z → 0
        ZADD z inf a → 1
        ZINCRBY z -inf a → -ERR resulting score is not a number (NaN)
        ZADD l 0 a 0 b 0 c 0 d → 4
        ZRANGEBYLEX l [b (d → ["b" "c"]
        ZREVRANGEBYLEX l + (b LIMIT 0 1 → ["d"]
        ZLEXCOUNT l - + → 4
        ZRANGEBYLEX l b d → -ERR min or max not valid string range item
        ZREMRANGEBYLEX l [b [c → 2
        ZREMRANGEBYRANK l 0 -1 → 2
        EXISTS l → 0
        "#,
    );
}

#[test]
fn sorted_sets_are_combined_with_weights() {
    check(
        r#"
        ZADD a 1 x 2 y → 2
        ZADD b 10 y 20 z → 2
        SADD s x → 1
        ZUNION 2 a b WITHSCORES → [["x" ,1] ["y" ,12] ["z" ,20]]
        ZUNION 2 a b WEIGHTS 2 1 AGGREGATE MAX WITHSCORES → [["x" ,2] ["y" ,10] ["z" ,20]]
        ZINTER 2 a s WITHSCORES → [["x" ,2]]
        ZDIFF 2 a b WITHSCORES → [["x" ,1]]
        ZINTERCARD 2 a b LIMIT 1 → 1
        ZADD i inf x → 1
        ZINTER 2 i i WEIGHTS 1 0 AGGREGATE MIN WITHSCORES → [["x" ,inf]]
        ZINTER 2 i i WEIGHTS 1 0 WITHSCORES → [["x" ,0]]
        ZUNIONSTORE d 2 a b → 3
        ZINTERSTORE d 2 a none → 0
        EXISTS d → 0
        ZRANGESTORE d b 0 0 → 1
        ZUNION 0 a → -ERR at least 1 input key is needed for 'zunion' command
        ZUNION 1 a WEIGHTS x → -ERR weight value is not a float
        "#,
    );
}

#[test]
fn bits_are_counted_from_the_highest_of_the_first_byte() {
    check(
        r#"
        SETBIT k 7 1 → 0
        SETBIT k 7 1 → 1
        GET k → "\x01"
        SETBIT k 1 2 → -ERR bit is not an integer or out of range
        SETBIT k 4294967296 1 → -ERR bit offset is not an integer or out of range
        SETBIT k 4294967295 1 → -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        SET m foobar
        BITCOUNT m → 26
        BITCOUNT m 1 1 → 6
        BITCOUNT m 5 30 BIT → 17
        BITPOS m 1 2 → 17
        BITPOS m 0 → 0
        BITPOS none 0 → 0
        BITPOS none 1 → -1
        BITFIELD b SET u8 0 255 GET u4 #1 INCRBY i8 0 1 → [0 15 0]
        BITFIELD b OVERFLOW FAIL INCRBY u2 100 5 OVERFLOW SAT INCRBY u2 102 5 → [nil 3]
        BITFIELD b SET u64 0 1 → -ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.
        BITFIELD_RO b SET u8 0 1 → -ERR BITFIELD_RO only supports the GET subcommand
        SET x abc
        SET y ab
        BITOP AND d x y → 3
        GET d → "ab0"
        BITOP NOT d x y → -ERR BITOP NOT must be called with a single source key.
        "#
        .replace("ab0", "ab\u{0}")
        .replace("\\x01", "\u{1}")
        .as_str(),
    );
}

#[test]
fn sketches_count_what_is_different() {
    let mut redis = Redis::new();
    redis.transcript("PFADD a x y z → 1\nPFADD a x → 0\nPFADD b z w → 1\nPFCOUNT a → 3\nPFCOUNT a b → 4");
    redis.transcript("PFMERGE c a b → OK\nPFCOUNT c none → 4\nPFADD e → 1\nPFCOUNT e → 0\nSET s x\n");
    redis.transcript("PFADD s x → -WRONGTYPE Key is not a valid HyperLogLog string value.");
}

#[test]
fn a_rate_limit_lets_a_burst_through_and_then_one_at_a_time() {
    let mut redis = Redis::new();
    redis.transcript(
        r"
        CL.THROTTLE t 2 1 10 → [0 3 2 -1 10]
        CL.THROTTLE t 2 1 10 2 → [0 3 0 -1 30]
        CL.THROTTLE t 2 1 10 → [1 3 0 10 30]
        CL.THROTTLE t 2 1 10 0 → [0 3 0 -1 30]
        CL.THROTTLE t 2 1 10 4 → [1 3 0 -1 30]
        ",
    );
    redis.store.advance(9_999);
    redis.transcript("CL.THROTTLE t 2 1 10 → [1 3 0 1 21]");
    redis.store.advance(1);
    redis.transcript("CL.THROTTLE t 2 1 10 → [0 3 0 -1 30]");
    redis.store.advance(30_000);
    redis.transcript(
        "EXISTS t → 0\nCL.THROTTLE t 2 0 10 → -ERR a number of CL.THROTTLE is 0, allowed is 1 to 4294967295",
    );
}

#[test]
fn sort_orders_by_elements_or_by_other_keys() {
    check(
        r#"
        RPUSH l 3 1 10 2 → 4
        SORT l → ["1" "2" "3" "10"]
        SORT l ALPHA DESC → ["3" "2" "10" "1"]
        SORT l LIMIT 1 2 → ["2" "3"]
        MSET w1 4 w2 3 w3 2 w10 1 n1 one n3 three
        SORT l BY w* → ["10" "3" "2" "1"]
        SORT l BY w* GET # GET n* → ["10" nil "3" "three" "2" nil "1" "one"]
        HSET h1 f 9 → 1
        SORT l BY h*->f DESC LIMIT 0 1 → ["1"]
        SORT l BY nosort → ["3" "1" "10" "2"]
        SORT l STORE d → 4
        LRANGE d 0 -1 → ["1" "2" "3" "10"]
        SORT_RO l STORE d → -ERR syntax error
        RPUSH l x → 5
        SORT l → -ERR One or more scores can't be converted into double
        "#,
    );
}

#[test]
fn a_scan_of_keys_filters_by_pattern_and_type() {
    let mut redis = Redis::new();
    redis.transcript("MSET k1 a k2 b\nSADD k3 x → 1\nKEYS k[12] → [\"k1\" \"k2\"]\nKEYS k1 → [\"k1\"]");
    redis.transcript("SCAN 0 TYPE set → [\"0\" [\"k3\"]]\nSCAN 0 MATCH *2 COUNT 100 → [\"0\" [\"k2\"]]\nSCAN x → -ERR invalid cursor");
}

#[test]
fn a_large_answer_is_refused_before_the_first_change() {
    let mut redis = Redis::new();
    let mut hash = quorate_calls::collections::Hash::new();
    let mut list = quorate_calls::collections::List::new();
    for n in 0..100_001_u32 {
        hash.insert(n.to_string().into(), Blob::EMPTY);
        list.push_back("x".into());
    }
    redis.store.put(&"h".into(), Value::Hash(hash), None).unwrap();
    redis.store.put(&"l".into(), Value::List(list), None).unwrap();
    for line in [
        "HGETALL h",
        "LRANGE l 0 -1",
        "LREM l 0 nothing",
        "LPOP l 2000000",
        "LPOS l nothing",
        "COPY l d",
        "SORT l ALPHA",
    ] {
        let reply = redis.run(line);
        assert!(reply.starts_with("-ERR this would touch 100001 elements"), "{line}: {reply}");
    }
    // What needs few of them goes on.
    redis.transcript(
        "LREM l 1 x → 1\nLLEN l → 100000\nLPOS l x → 0\nHLEN h → 100001\nLTRIM l 0 1 → OK\nDEL h → 1",
    );
}

#[test]
fn fields_end_by_themselves() {
    let mut redis = Redis::new();
    redis.transcript(
        r#"
        HSET h a 1 b 2 c 3 → 3
        HEXPIRE h 10 FIELDS 2 a none → [1 -2]
        HEXPIRE h 20 NX FIELDS 2 a b → [0 1]
        HEXPIRE h 5 GT FIELDS 1 a → [0]
        HPEXPIRE h 5000 LT FIELDS 1 a → [1]
        HTTL h FIELDS 3 a b c → [5 20 -1]
        HPEXPIRETIME h FIELDS 1 a → [1700000005000]
        HEXPIRETIME h FIELDS 1 a → [1700000005]
        HPERSIST h FIELDS 3 b c none → [1 -1 -2]
        HINCRBY h a 1 → 2
        HPTTL h FIELDS 1 a → [5000]
        OBJECT ENCODING h → "listpackex"
        HSET h a 5 → 0
        HPTTL h FIELDS 1 a → [-1]
        OBJECT ENCODING h → "listpack"
        HSETEX h FXX PX 700 FIELDS 2 a 1 b 2 → 1
        HSETEX h FNX FIELDS 2 z 1 b 2 → 0
        HGETEX h PERSIST FIELDS 2 a none → ["1" nil]
        HPTTL h FIELDS 2 a b → [-1 700]
        HEXPIRE h 0 FIELDS 1 a → [2]
        HGETALL h → {"b": "2", "c": "3"}
        HGETDEL h FIELDS 1 c → ["3"]
        HEXPIRE none 10 FIELDS 1 f → [-2]
        HEXPIRE h -1 FIELDS 1 f → -ERR invalid expire time, must be >= 0
        HEXPIRE h 10 FIELDS 0 f → -ERR Parameter `numFields` should be greater than 0
        HEXPIRE h 10 FIELDS 2 f → -ERR The `numfields` parameter must match the number of arguments
        HEXPIRE h 10 UP FIELDS 1 f → -ERR Mandatory argument FIELDS is missing or not at the right position
        HPEXPIREAT h 70368744177664 FIELDS 1 b → -ERR invalid expire time in 'hpexpireat' command
        "#,
    );
    redis.store.advance(700);
    redis.transcript("EXISTS h → 0");
}

#[test]
fn places_are_found_near_others() {
    let mut redis = Redis::new();
    redis.transcript(
        r#"
        GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania → 2
        GEOADD g NX CH 1 1 Palermo → 0
        GEODIST g Palermo Catania km → "166.2742"
        GEODIST g Palermo none → nil
        GEOHASH g Palermo none → ["sqc8b49rny0" nil]
        GEOPOS g Palermo none → [[,13.361389338970184 ,38.1155563954963] nil[]]
        GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km DESC → ["Palermo" "Catania"]
        GEOSEARCH g FROMLONLAT 15 37 BYBOX 400 400 km ASC COUNT 1 WITHDIST → [["Catania" "56.4413"]]
        GEOSEARCHSTORE d g FROMMEMBER Catania BYRADIUS 300 km → 2
        ZCARD d → 2
        GEORADIUS g 15 37 100 km STORE d → 1
        GEORADIUSBYMEMBER_RO g Palermo 1 m → ["Palermo"]
        GEOADD g 181 1 x → -ERR invalid longitude,latitude pair 181.000000,1.000000
        GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 1 yd → -ERR unsupported unit provided. please use M, KM, FT, MI
        GEOSEARCH none FROMMEMBER x BYRADIUS 1 km → []
        "#,
    );
}

#[test]
fn filters_answer_as_the_module_does() {
    let mut redis = Redis::new();
    redis.transcript(
        r#"
        BF.RESERVE f 0.01 2 NONSCALING → OK
        BF.ADD f a → #true
        BF.MADD f a b c d → [#false #true -ERR non scaling filter is full]
        BF.ADD f c → -ERR non scaling filter is full
        BF.EXISTS f b → #true
        BF.MEXISTS f a zz → [#true #false]
        BF.CARD f → 2
        BF.CARD none → 0
        BF.EXISTS none x → #false
        BF.RESERVE f 0.01 2 → -ERR item exists
        BF.RESERVE g 2 2 → -ERR error rate must be in the range (0.000000, 1.000000)
        BF.RESERVE g 0.1 0 → -ERR capacity must be in the range [1, 1073741824]
        BF.RESERVE g 0.1 9 EXPANSION 2 NONSCALING → -Nonscaling filters cannot expand
        BF.INSERT g NOCREATE ITEMS a → -ERR not found
        BF.INSERT g CAPACITY 1 EXPANSION 3 ITEMS a b → [#true #true]
        BF.INFO g CAPACITY → [4]
        BF.INFO g FILTERS → [2]
        BF.INFO f EXPANSION → [nil]
        BF.INFO none → -ERR not found
        TYPE g → MBbloom--
        OBJECT ENCODING g → "raw"
        COPY g h → 1
        BF.ADD h zz → #true
        BF.EXISTS g zz → #false
        RENAME h i → OK
        BF.CARD i → 3
        SET s v → OK
        BF.ADD s x → -WRONGTYPE Operation against a key holding the wrong kind of value
        SADD g x → -WRONGTYPE Operation against a key holding the wrong kind of value
        GET g → -WRONGTYPE Operation against a key holding the wrong kind of value
        DEL g → 1
        "#,
    );
    assert!(redis.run("BF.SCANDUMP i 0").starts_with("-ERR a filter is not handed out in pieces"));
}

#[test]
fn values_are_compared_by_their_digest() {
    let mut redis = Redis::new();
    redis.transcript(
        r#"
        SET k "Hello world" → OK
        DIGEST k → "b6acb9d84a38ff74"
        DIGEST none → nil
        SET k two IFDEQ 0000000000000000 → nil
        SET k two IFDEQ b6acb9d84a38ff74 → OK
        SET none x IFDEQ b6acb9d84a38ff74 → nil
        SET none x IFDNE b6acb9d84a38ff74 → OK
        DELEX k IFDEQ b6acb9d84a38ff74 → 0
        DELEX k IFDNE b6acb9d84a38ff74 → 1
        SET k v IFDEQ xyz → -ERR must be exactly 16 hexadecimal characters
        MSET a \x0f b \x35 c \x56 → OK
        BITOP DIFF d b a c → 1
        GET d → " "
        BITOP ONE d a b c → 1
        BITOP DIFF1 d b a c → 1
        GET d → "J"
        BITOP ANDOR d c a b → 1
        BITOP DIFF d a → -ERR BITOP DIFF must be called with at least two source keys.
        "#,
    );
}

/// An interpreter of a language with one statement a line: a command; `fail` ends with an error, `abort` goes over its budget.
struct Lines;

impl Interpreter for Lines {
    fn run(&mut self, run: &Run<'_>, host: &mut dyn Host) -> Result<Reply, Error> {
        let mut last = Reply::Nil;
        for line in run.text.as_text().unwrap().lines().filter(|line| !line.is_empty()) {
            match line {
                "fail" => return Err(Error::reply("ERR it failed")),
                "abort" => return Err(Error::Abort("ERR over budget".into())),
                "keys" => last = Reply::array(run.keys.iter().map(|key| Reply::bulk(key.clone())).collect()),
                line => {
                    last = host.call(&words(line)).unwrap_or_else(|error| Reply::error(error.text().clone()))
                }
            }
        }
        Ok(last)
    }
    fn check(&mut self, text: &Blob) -> Result<(), Error> {
        if text.contains(&b'!') { Err(Error::reply("ERR not a script")) } else { Ok(()) }
    }
    /// Each line `NAME FLAGS COST` registers a function.
    fn load(&mut self, text: &Blob, units_max: u64) -> Result<(Vec<FunctionSpec>, u64), Error> {
        let (mut functions, mut spent) = (Vec::new(), 0);
        for line in text.as_text().unwrap().lines().skip(1) {
            let parts: Vec<&str> = line.split(' ').collect();
            spent += parts[2].parse::<u64>().unwrap();
            let flags = parts[1].parse().unwrap();
            functions.push(FunctionSpec { name: parts[0].into(), description: None, flags });
        }
        if spent > units_max { Err(Error::reply("ERR too long")) } else { Ok((functions, spent)) }
    }
    fn sha1(&self, bytes: &[u8]) -> [u8; 20] {
        let mut sha = [bytes.len() as u8; 20];
        sha[..bytes.len().min(20)].copy_from_slice(&bytes[..bytes.len().min(20)]);
        sha
    }
}

fn with_scripts() -> Redis {
    Redis { interpreter: Box::new(Lines), ..Redis::new() }
}

fn eval(redis: &mut Redis, name: &str, script: &str, rest: &str) -> String {
    let words: Vec<Blob> = [Blob::from(name), Blob::from(script)].into_iter().chain(words(rest)).collect();
    show(&redis.call(&words))
}

#[test]
fn scripts_change_what_commands_change_and_an_error_leaves_it() {
    let mut redis = with_scripts();
    assert_eq!(eval(&mut redis, "EVAL", "SET a 1\nINCR a", "0"), "2");
    assert_eq!(eval(&mut redis, "EVAL", "INCR a\nfail", "0"), "-ERR it failed");
    assert_eq!(redis.run("GET a"), "\"3\"");
    assert_eq!(eval(&mut redis, "EVAL", "keys", "2 a b c"), "[\"a\" \"b\"]");
    assert_eq!(
        eval(&mut redis, "EVAL", "keys", "3 a"),
        "-ERR Number of keys can't be greater than number of args"
    );
    assert_eq!(eval(&mut redis, "EVAL", "keys", "-1"), "-ERR Number of keys can't be negative");
    assert_eq!(eval(&mut redis, "EVAL", "oops!", "0"), "-ERR not a script");
    let aborted = quorate_calls::write(
        &mut redis.store,
        &mut Lines,
        &mut Session::new(Keyspace::DEFAULT),
        &[Blob::from("EVAL"), "abort".into(), "0".into()],
    );
    assert_eq!(aborted, Err(Error::Abort("ERR over budget".into())));
}

#[test]
fn scripts_may_not_call_everything() {
    let mut redis = with_scripts();
    let refused = "-ERR This Redis command is not allowed from script";
    for line in ["EVAL x 0", "SUBSCRIBE c", "MULTI", "INFO", "SCRIPT LOAD x"] {
        assert_eq!(eval(&mut redis, "EVAL", line, "0"), refused, "{line}");
    }
    assert_eq!(eval(&mut redis, "EVAL", "FOO", "0"), "-ERR Unknown Redis command called from script");
    assert_eq!(
        eval(&mut redis, "EVAL", "GET", "0"),
        "-ERR Wrong number of args calling Redis command from script"
    );
    let read_only = "-ERR Write commands are not allowed from read-only scripts.";
    assert_eq!(eval(&mut redis, "EVAL_RO", "SET a 1", "0"), read_only);
    assert_eq!(eval(&mut redis, "EVAL", "#!lua flags=no-writes\nSET a 1", "0"), read_only);
    // One that says what it is has to say that it only reads.
    let may_write = "-ERR Can not execute a script with write flag using *_ro command.";
    assert_eq!(eval(&mut redis, "EVAL_RO", "#!lua\nGET a", "0"), may_write);
    assert_eq!(eval(&mut redis, "EVAL_RO", "#!lua flags=allow-oom\nGET a", "0"), may_write);
    assert_eq!(eval(&mut redis, "EVAL_RO", "#!lua flags=no-writes\nGET a", "0"), "nil");
    assert_eq!(eval(&mut redis, "EVAL_RO", "GET a", "0"), "nil");
    assert_eq!(
        eval(&mut redis, "EVAL", "#!js\nSET a 1", "0"),
        "-ERR Unexpected engine in script shebang: js"
    );
    assert_eq!(eval(&mut redis, "EVAL", "BLPOP l 0", "0"), "nil[]");
}

fn function(redis: &mut Redis, words: &[&str]) -> String {
    let words: Vec<Blob> = words.iter().map(|word| Blob::from(*word)).collect();
    show(&redis.call(&words))
}

#[test]
fn libraries_come_and_go_whole() {
    let mut redis = with_scripts();
    let load = |redis: &mut Redis, text: &str| function(redis, &["FUNCTION", "LOAD", text]);
    assert_eq!(load(&mut redis, "#!lua name=a\nf 0 1\ng 1 1"), "\"a\"");
    assert_eq!(load(&mut redis, "#!lua name=a\nh 0 1"), "-ERR Library 'a' already exists");
    assert_eq!(load(&mut redis, "#!lua name=b\nh 0 1\nF 0 1"), "-ERR Function F already exists");
    assert_eq!(load(&mut redis, "#!lua name=b"), "-ERR Invalid library metadata");
    assert_eq!(load(&mut redis, "#!lua name=b\n"), "-ERR No functions registered");
    assert_eq!(load(&mut redis, "#!lua name=b\nh 0 500001"), "-ERR too long");
    assert_eq!(redis.store.libraries.len(), 1);
    let replaced = function(&mut redis, &["FUNCTION", "LOAD", "REPLACE", "#!lua name=a\nf 0 1\nh 1 1"]);
    assert_eq!(replaced, "\"a\"");
    assert_eq!(function(&mut redis, &["FCALL", "g", "0"]), "-ERR Function not found");
    let read_only = "-ERR Can not execute a script with write flag using *_ro command.";
    assert_eq!(function(&mut redis, &["FCALL_RO", "f", "0"]), read_only);
    for (words, wanted) in [
        ("FCALL none x", "-ERR Function not found"),
        ("FCALL f x", "-ERR Bad number of keys provided"),
        ("FCALL f -1", "-ERR Number of keys can't be negative"),
        ("FCALL f 2 k", "-ERR Number of keys can't be greater than number of args"),
        ("FUNCTION DELETE b", "-ERR Library not found"),
        ("FUNCTION LIST LIBRARYNAME", "-ERR library name argument was not given"),
        ("FUNCTION LIST NOPE", "-ERR Unknown argument NOPE"),
        ("FUNCTION KILL", "-NOTBUSY No scripts in execution right now."),
        ("FUNCTION FLUSH NOW", "-ERR FUNCTION FLUSH only supports SYNC|ASYNC option"),
        ("FUNCTION RESTORE x", "-ERR DUMP payload version or checksum are wrong"),
    ] {
        assert_eq!(redis.run(words), wanted, "{words}");
    }
}

#[test]
fn what_function_dump_gives_function_restore_takes_whole_or_not_at_all() {
    let mut redis = with_scripts();
    let load = |redis: &mut Redis, text: &str| function(redis, &["FUNCTION", "LOAD", text]);
    load(&mut redis, "#!lua name=a\nf 0 300000");
    load(&mut redis, "#!lua name=b\ng 0 1");
    let all = redis.store.libraries.clone();
    let Reply::Bulk { value: dump } = redis.call(&words("FUNCTION DUMP")) else { panic!("bytes") };
    let restore = |redis: &mut Redis, policy: &str| {
        show(&redis.call(&["FUNCTION".into(), "RESTORE".into(), dump.clone(), policy.into()]))
    };
    assert_eq!(restore(&mut redis, "APPEND"), "-ERR Library a already exists");
    assert_eq!(restore(&mut redis, "REPLACE"), "OK");
    assert_eq!(redis.run("FUNCTION FLUSH"), "OK");
    load(&mut redis, "#!lua name=c\nG 0 1");
    assert_eq!(restore(&mut redis, "REPLACE"), "-ERR Function g already exists");
    assert_eq!(redis.store.libraries.len(), 1);
    assert_eq!(restore(&mut redis, "FLUSH"), "OK");
    assert_eq!(redis.store.libraries, all);
    load(&mut redis, "#!lua name=d\nh 0 300000");
    let Reply::Bulk { value: dump } = redis.call(&words("FUNCTION DUMP")) else { panic!("bytes") };
    let long = redis.call(&["FUNCTION".into(), "RESTORE".into(), dump, "FLUSH".into()]);
    assert_eq!((show(&long).as_str(), redis.store.libraries.len()), ("-ERR too long", 3));
}

#[test]
fn libraries_are_bounded() {
    let mut redis = with_scripts();
    let load = |redis: &mut Redis, text: &str| function(redis, &["FUNCTION", "LOAD", text]);
    for number in 0..quorate_calls::LIBRARIES_MAX {
        assert_eq!(
            load(&mut redis, &format!("#!lua name=l{number}\nf{number} 0 1")),
            format!("\"l{number}\"")
        );
    }
    let more = load(&mut redis, "#!lua name=more\nmore 0 1");
    assert!(more.starts_with("-ERR there would be 257 libraries"), "{more}");
    redis.run("FUNCTION FLUSH");
    let long = format!("#!lua name=a {}\nf 0 1", " ".repeat(quorate_calls::LIBRARIES_BYTES_MAX));
    assert!(load(&mut redis, &long).starts_with("-ERR there would be 1 libraries of 2097171 bytes"));
    let many: String =
        (0..=quorate_calls::FUNCTION_NAMES_MAX).map(|number| format!("\nf{number} 0 1")).collect();
    let many = load(&mut redis, &format!("#!lua name=a{many}"));
    assert_eq!(many, "-ERR a library has at most 1000 functions: divide it");
}

#[test]
fn a_script_selects_for_itself_alone_and_publishes_with_its_commit() {
    let mut redis = with_scripts();
    assert_eq!(eval(&mut redis, "EVAL", "SELECT 1\nSET k 1\nPUBLISH c m", "0"), "0");
    assert_eq!(redis.run("GET k"), "nil");
    assert_eq!(redis.store.published, [("c".into(), "m".into(), false)]);
    redis.session.space = Keyspace(1);
    assert_eq!(redis.run("GET k"), "\"1\"");
    assert_eq!(eval(&mut redis, "EVAL", "SELECT 99", "0"), "-ERR DB index is out of range");
}

#[test]
fn a_script_that_touches_too_much_is_taken_back() {
    let mut redis = with_scripts();
    let many: String = (0..10_000).map(|n| format!(" m{n}")).collect();
    redis.run(&format!("SADD big{many}"));
    // Each of its members counts four times: once found, three times as what the script is given.
    let script = "SMEMBERS big\n".repeat(6);
    let words = [Blob::from("EVAL"), script.into(), "0".into()];
    let ended = quorate_calls::write(&mut redis.store, &mut Lines, &mut redis.session, &words);
    assert!(matches!(ended, Err(Error::Abort(_))), "{ended:?}");
    assert!(eval(&mut redis, "EVAL", &"SMEMBERS big\n".repeat(5), "0").starts_with('{'));
    let counted = eval(&mut redis, "EVAL", &"SINTERCARD 1 big\n".repeat(9), "0");
    assert!(!counted.starts_with('-'), "what it is not given costs less: {counted}");
}

#[test]
fn scripts_are_kept_by_their_hash() {
    let mut redis = with_scripts();
    let sha = eval(&mut redis, "SCRIPT", "LOAD", "PING").trim_matches('"').to_owned();
    assert_eq!(sha.len(), 40);
    assert_eq!(redis.run(&format!("EVALSHA {} 0", sha.to_uppercase())), "PONG");
    assert_eq!(redis.run(&format!("SCRIPT EXISTS {sha} abc")), "[1 0]");
    redis
        .transcript("SCRIPT FLUSH FOO → -ERR SCRIPT FLUSH only support SYNC|ASYNC option\nSCRIPT FLUSH → OK");
    let missing = "-NOSCRIPT No matching script. Please use EVAL.";
    assert_eq!(redis.run(&format!("EVALSHA {sha} 0")), missing);
    assert_eq!(redis.run("EVALSHA abc 0"), missing);
}

#[test]
fn a_read_never_needs_an_entry_and_answers_the_same() {
    let mut redis = Redis::new();
    redis.transcript("RPUSH l a b → 2\nHSET h f v → 1");
    for line in ["LRANGE l 0 -1", "HGETALL h", "PING", "FOO", "GET l"] {
        let answered = quorate_calls::read(&redis.store, &mut redis.session.clone(), &words(line), 7);
        let shown = show(&answered.unwrap_or_else(|error| Reply::error(error.text().clone())));
        assert_eq!(shown, redis.run(line), "{line}");
    }
    // One after the other, they have no budget in common.
    let many: Vec<String> = (0..90_000).map(|n| n.to_string()).collect();
    redis.run(&format!("RPUSH long {}", many.join(" ")));
    for _ in 0..4 {
        let answered = quorate_calls::read(&redis.store, &mut redis.session, &words("LPOS long none"), 7);
        assert_eq!(answered, Ok(Reply::Nil));
    }
    let refused = quorate_calls::read(&redis.store, &mut redis.session, &words("SET a b"), 7);
    assert!(refused.is_err());
}

/// Any words after any command's name: a reply or an error, never a panic.
#[test]
fn no_words_make_a_command_panic() {
    let mut redis = with_scripts();
    let vocabulary = [
        "",
        "0",
        "1",
        "-1",
        "2",
        "k",
        "l",
        "h",
        "z",
        "s",
        "9223372036854775807",
        "-9223372036854775808",
        "(1",
        "[a",
        "*",
        "LIMIT",
        "COUNT",
        "MATCH",
        "WITHSCORES",
        "BY",
        "GET",
        "SET",
        "u8",
        "i64",
        "#1",
        "LEFT",
        "MIN",
        "FIELDS",
        "STORE",
        "inf",
    ];
    let mut state = 1_u64;
    let mut pick = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % bound as u64) as usize
    };
    for round in 0..20_000 {
        if round % 500 == 0 {
            redis.transcript("FLUSHALL → OK\nSET k foobar → OK\nRPUSH l a b c → 3\nHSET h a 1 → 1\nZADD z 1 a → 1\nSADD s a → 1");
        }
        let spec = &specs()[pick(specs().len())];
        if !matches!(spec.kind, Kind::Read(_) | Kind::Write(_)) {
            continue;
        }
        let mut line: Vec<Blob> = spec.name.split('|').map(Blob::from).collect();
        while (line.len() as i64) < spec.arity.abs() || (spec.arity < 0 && pick(3) > 0) {
            line.push(vocabulary[pick(vocabulary.len())].into());
        }
        let _ = redis.call(&line);
    }
}
