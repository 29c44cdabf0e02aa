//! What scripts see and answer: beside Redis' own answers, within budgets, and nothing of one another.

use quorate_calls::{Error, Host, Interpreter, Run};
use quorate_lua::Scripts;
use quorate_types::{Blob, Reply, Score, WallTime};

/// A host with one counter, that counts its calls.
#[derive(Default)]
struct Counter {
    value: i64,
    calls: u64,
}

impl Host for Counter {
    fn call(&mut self, words: &[Blob]) -> Result<Reply, Error> {
        self.calls += 1;
        match words[0].to_ascii_lowercase().as_slice() {
            b"incr" => {
                self.value += 1;
                Ok(Reply::integer(self.value))
            }
            b"echo" => Ok(Reply::Bulk { value: words[1].clone() }),
            b"map" => Ok(Reply::map(vec![
                Reply::bulk("k"),
                Reply::Double { value: Score::new(1.5).expect("1.5 is a number") },
            ])),
            b"nil" => Ok(Reply::Nil),
            b"wrong" => Err(Error::wrong_type()),
            b"heavy" => Err(Error::Abort("ERR too heavy".into())),
            b"arity" => Err(Error::reply("ERR wrong number of arguments for 'arity' command")),
            _ => Err(Error::reply("ERR unknown command 'x', with args beginning with: ")),
        }
    }
    fn permitted(&self, words: &[Blob]) -> Result<bool, Error> {
        Ok(*words[0] != *b"forbidden")
    }
    fn wall(&self) -> WallTime {
        WallTime(1_700_000_000_000)
    }
}

fn eval_in(lua: &mut Scripts, host: &mut Counter, text: &str) -> Result<Reply, Error> {
    let text = Blob::from(text.as_bytes());
    let (keys, args) = ([Blob::from(&b"key"[..])], [Blob::from(&b"arg"[..])]);
    lua.run(&Run { text: &text, keys: &keys, args: &args, seed: 7, function: None }, host)
}
fn eval(text: &str) -> Result<Reply, Error> {
    eval_in(&mut Scripts::new(), &mut Counter::default(), text)
}
/// A reply as one line; an error of the script begins with `-`, an abort with `!`.
fn shown(answer: &Result<Reply, Error>) -> String {
    fn show(reply: &Reply) -> String {
        let list = |items: &[Reply]| items.iter().map(show).collect::<Vec<_>>().join(" ");
        match reply {
            Reply::Nil | Reply::NilArray => "nil".to_owned(),
            Reply::Status { text } => format!("+{}", String::from_utf8_lossy(text)),
            Reply::Error { text } => format!("-{}", String::from_utf8_lossy(text)),
            Reply::Integer { value } => value.to_string(),
            Reply::Double { value } => format!("d{value}"),
            Reply::Boolean { value } => format!("b{value}"),
            Reply::Bulk { value } => format!("{:?}", String::from_utf8_lossy(value)),
            Reply::Verbatim { format, text } => format!("v{format:?}{text:?}"),
            Reply::Array { items } => format!("[{}]", list(&items.0)),
            Reply::Set { items } => format!("s[{}]", list(&items.0)),
            Reply::Map { items } => format!("m[{}]", list(&items.0)),
            Reply::Pairs { items } => format!("p[{}]", list(&items.0)),
            Reply::Named { items } => format!("n[{}]", list(&items.0)),
            Reply::Record { id, .. } => format!("r{id}"),
        }
    }
    match answer {
        Ok(reply) => show(reply),
        Err(Error::Reply(text)) => format!("-{}", String::from_utf8_lossy(text)),
        Err(Error::Abort(text)) => format!("!{}", String::from_utf8_lossy(text)),
    }
}
fn check(text: &str, wanted: &str) {
    let found = shown(&eval(text));
    let found = found.split(" script: ").next().expect("a split has a first part");
    assert_eq!(found, wanted, "{text}");
}

#[test]
fn values_become_replies_as_in_redis() {
    for (text, wanted) in [
        ("return 3.99", "3"),
        ("return -3.99", "-3"),
        ("return 1e30", "-9223372036854775808"),
        ("return 'x'", "\"x\""),
        ("return true", "1"),
        ("return false", "nil"),
        ("return {1,2,nil,4}", "[1 2]"),
        ("return {ok='fine'}", "+fine"),
        ("return {err='MY bad\\nline'}", "-MY bad line"),
        ("return {double=3.5}", "d3.5"),
        ("return {map={a=1}}", "m[\"a\" 1]"),
        ("return {set={a=true}}", "s[\"a\"]"),
        ("return {big_number='123'}", "\"123\""),
        ("redis.setresp(3) return true", "btrue"),
        ("return KEYS[1] .. ARGV[1]", "\"keyarg\""),
        ("return function() end", "nil"),
        ("return {{1},{{2}}}", "[[1] [[2]]]"),
    ] {
        check(text, wanted);
    }
    assert!(shown(&eval("local t={} for i=1,10 do t={t} end return t")).contains("nested deeper than 6"));
}

#[test]
fn replies_become_values_as_in_redis() {
    for (text, wanted) in [
        ("return type(redis.call('incr'))", "\"number\""),
        ("return tostring(redis.call('nil'))", "\"false\""),
        ("redis.setresp(3) return tostring(redis.call('nil'))", "\"nil\""),
        ("return redis.call('map')", "[\"k\" \"1.5\"]"),
        ("redis.setresp(3) return redis.call('map').map.k.double * 2", "3"),
        ("return redis.call('echo', 1e15)", "\"1000000000000000\""),
        ("return redis.call('echo', 0.1)", "\"0.1\""),
        (
            "return redis.pcall('wrong').err",
            "\"WRONGTYPE Operation against a key holding the wrong kind of value\"",
        ),
    ] {
        check(text, wanted);
    }
}

#[test]
fn errors_are_worded_as_in_redis() {
    let sha = |text: &str| {
        Scripts::new().sha1(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for (text, wanted) in [
        ("error('boom')", "ERR user_script:1: boom"),
        ("return foo", "ERR user_script:1: Script attempted to access nonexistent global variable 'foo'"),
        ("foo=1", "ERR user_script:1: Attempt to modify a readonly table"),
        ("redis.x=1", "ERR user_script:1: Attempt to modify a readonly table"),
        ("rawset(_G,'x',1)", "ERR Attempt to modify a readonly table"),
        ("table.insert(redis,1)", "ERR Attempt to modify a readonly table"),
        ("return redis.call('nope')", "ERR Unknown Redis command called from script"),
        ("return redis.call('arity')", "ERR Wrong number of args calling Redis command from script"),
        ("return redis.call()", "ERR Please specify at least one argument for this redis lib call"),
        ("return redis.call({})", "ERR Lua redis lib command arguments must be strings or integers"),
        ("error({err='MY own'})", "MY own"),
        ("error(redis.error_reply('plain'))", "ERR plain"),
        ("error(redis.error_reply('-CODE a'))", "CODE a"),
        ("return ('x'):rep()", "ERR user_script:1: bad argument #1 to 'rep' (number expected, got no value)"),
        (
            "return string.format('%d','x')",
            "ERR user_script:1: bad argument #2 to 'format' (number expected, got string)",
        ),
        ("local t; t.x=1", "ERR user_script:1: attempt to index local 't' (a nil value)"),
    ] {
        let wanted = format!("-{wanted} script: {}, on @user_script:1.", sha(text));
        assert_eq!(shown(&eval(text)), wanted, "{text}");
    }
    check("x y", "-ERR Error compiling script (new function): user_script:1: '=' expected near 'y'");
    check("#!lua flags=xx\nreturn 1", "-ERR Unexpected flag in script shebang: xx");
    check("#!lua flags=no-writes\nreturn 1", "1");
    check(
        "local ok, e = pcall(redis.call, 'wrong') return e",
        "\"WRONGTYPE Operation against a key holding the wrong kind of value\"",
    );
    check("error({})", "-ERR unknown error"); // Redis 7.0 crashes here.
    check("error()", "-ERR nil");
}

#[test]
fn libraries_answer_as_those_of_redis() {
    for (text, wanted) in [
        ("return cjson.encode({a={1,2},c={}})", r#""{\"a\":[1,2],\"c\":{}}""#),
        ("return cjson.encode({1,2,nil,4})", "\"[1,2,null,4]\""),
        (
            "return cjson.encode({[11]=1})",
            "-ERR user_script:1: Cannot serialise table: excessively sparse array",
        ),
        ("return cjson.encode('/\\127')", r#""\"\\/\\u007f\"""#),
        ("return cjson.decode('[1,null,\"\\\\u00e9\\\\ud83d\\\\ude00\"]')[3]", "\"é😀\""),
        (
            "return cjson.decode('[1,x]')",
            "-ERR user_script:1: Expected value but found invalid token at character 4",
        ),
        (
            "return cjson.decode(string.rep('[',1001))",
            "-ERR user_script:1: Found too many nested data structures (1001) at character 1001",
        ),
        ("return bit.tohex(0xdeadbeef,-8)", "\"DEADBEEF\""),
        ("return bit.rol(0x12345678,12)", "1164411171"),
        ("return struct.size('!8bi8!4bi8')", "28"),
        ("return {struct.unpack('>I2i4','\\1\\2abcd')}", "[258 1633837924 7]"),
        ("return {struct.unpack('Bc0','\\2abc')}", "[\"ab\" 4]"),
        ("return #cmsgpack.pack({1,{a=1.5},-33})", "12"),
        ("return cmsgpack.unpack(cmsgpack.pack({1,'a',{2}}))", "[1 \"a\" [2]]"),
        ("return {cmsgpack.unpack_limit('\\1\\2\\3',2)}", "[2 1 2]"),
        ("return redis.sha1hex('abc')", "\"a9993e364706816aba3e25717850c26c9cd0d89d\""),
        ("return {('hello'):gsub('','-')}", "[\"-h-e-l-l-o-\" 6]"),
        ("return {('THE (quick) fox'):find('%((%a+)%)')}", "[5 11 \"quick\"]"),
        ("return {('x'):gsub('x',function() error('in it') end)}", "-ERR user_script:1: in it"),
        ("return getmetatable('x').__index == string", "1"),
        ("return tostring({}) .. tostring({})", "\"table: 0x000000000010table: 0x000000000020\""),
        ("return os.clock()", "1700000000"),
    ] {
        check(text, wanted);
    }
}

#[test]
fn a_script_that_does_not_end_is_aborted_whatever_it_catches() {
    for text in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "while true do coroutine.wrap(function() end)() end",
        "local f f = function() pcall(f) pcall(f) end f()",
        "return string.find(string.rep('a', 100000), '.-.-.-b')",
        "return string.gsub(string.rep('a', 100000), '.-b', '')",
        "local s = string.rep('a', 1000000) while true do s:lower() end",
        "local t = {} for i = 1, 100000 do t[i] = i end while true do table.insert(t, 1, 0) end",
    ] {
        let found = shown(&eval(text));
        assert!(
            found.starts_with("!ERR script went over its budget of 2000000 instructions"),
            "{text}: {found}"
        );
    }
}

#[test]
fn a_script_that_takes_all_memory_is_aborted_whatever_it_catches() {
    for text in [
        "local s = 'x' while true do s = s .. s end",
        "return #string.rep('x', 1e9)",
        "while true do pcall(string.rep, 'x', 1e9) end",
        "local t = {} for i = 1, 1e7 do t[i] = string.rep('x', 100000) .. i end",
        "local s = string.rep('x', 1e6) return (s:gsub('x', s))",
    ] {
        let found = shown(&eval(text));
        assert!(found.starts_with("!ERR script went over its budget of"), "{text}: {found}");
    }
}

#[test]
fn a_heavy_script_runs_in_a_state_of_its_own_and_calls_nothing_twice() {
    let mut host = Counter::default();
    let text = "local a = redis.call('incr') for i = 1, 400000 do local x = i * 2 end return {a, redis.call('incr')}";
    assert_eq!(shown(&eval_in(&mut Scripts::new(), &mut host, text)), "[1 2]");
    assert_eq!(host.calls, 2);
    let text = "local t = {} for i = 1, 200 do t[i] = string.rep('x', 100000) .. i end return #t + redis.call('incr')";
    assert_eq!(shown(&eval_in(&mut Scripts::new(), &mut host, text)), "203");
    assert_eq!(host.calls, 3);
}

#[test]
fn an_abort_of_the_host_aborts_the_script() {
    assert_eq!(shown(&eval("pcall(redis.call, 'heavy') return 1")), "!ERR too heavy");
}

#[test]
fn deep_recursion_is_an_error() {
    check("local function f() return f() + 1 end return f()", "-ERR user_script:1: stack overflow");
    check("local function f() return pcall(f) end return type(f())", "\"boolean\"");
    for text in [
        "local function f(s) return (s:gsub('x', f)) end return f('x')",
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k] end return t.x",
        "local t = {} for i = 1, 5000 do t = {t} end return cjson.encode(t)",
        "return cmsgpack.unpack(string.rep('\\145', 100000))",
        "return (('x'):find(string.rep('(', 100)))",
        "return (string.rep('x', 1000):find(string.rep('x?', 1000)))",
    ] {
        let found = shown(&eval(text));
        assert!(found.starts_with("-ERR "), "{text}: {found}");
    }
}

#[test]
fn nothing_of_a_script_is_seen_by_the_next() {
    let stashes = [
        "getmetatable('').x = 1",
        "rawset(string, 'x', 1)",
        "rawset(_G, 'x', 1)",
        "setmetatable(_G, {__index = function() return 1 end})",
        "setmetatable(redis, {})",
        "getmetatable(_G).x = 1",
        "table.insert(string, 'x')",
        "for k, v in pairs(redis) do if k == 'call' then redis.call = 1 end end",
        "cjson.encode_sparse_array(true) cjson.encode_max_depth(2)",
        "math.randomseed(1)",
        "redis.setresp(3)",
        "KEYS[5] = 'x'",
        "tostring({}) tostring({})",
        "local s = 'x' while true do s = s .. s end",
        "while true do end",
        "error({err='x'})",
        "loadstring('x = 1')()",
        "coroutine.wrap(function() coroutine.yield(1) end)()",
    ];
    let probe = "local n = {} for k in pairs(_G) do n[#n+1] = k end for k in pairs(string) do n[#n+1] = k end
        local deep = pcall(cjson.encode, {{{}}}) local sparse = pcall(cjson.encode, {[50]=1})
        return {table.concat(n, ' '), tostring({}), math.random(1000000), tostring(redis.call('nil')), #KEYS, tostring(deep), tostring(sparse),
            tostring(rawget(_G, 'x')), tostring(string.x), type(redis.call)}";
    let alone = shown(&eval(probe));
    assert!(alone.contains("\"false\" 1 \"true\" \"false\" \"nil\" \"nil\" \"function\""), "{alone}");
    let (mut lua, mut host) = (Scripts::new(), Counter::default());
    for stash in stashes {
        let _ = eval_in(&mut lua, &mut host, stash); // Whether it fails does not matter here.
        assert_eq!(shown(&eval_in(&mut lua, &mut host, probe)), alone, "after {stash}");
    }
}

#[test]
fn what_replicas_could_see_differently_is_absent_or_refused() {
    for name in [
        "collectgarbage",
        "gcinfo",
        "print",
        "dofile",
        "loadfile",
        "require",
        "newproxy",
        "setfenv",
        "getfenv",
        "debug",
        "io",
    ] {
        let found = shown(&eval(&format!("return {name}")));
        assert!(found.contains("nonexistent global variable"), "{name}: {found}");
    }
    check("return loadstring('\\27Lua')", "nil");
    let found = shown(&eval("local t = {[{}]=1, a=2} for k in pairs(t) do end"));
    assert!(found.contains("no order that replicas share"), "{found}");
    let found = shown(&eval("return next({[function() end]=1})"));
    assert!(found.contains("no order that replicas share"), "{found}");
    assert_eq!(eval("return math.random(1000000)"), eval("return math.random(1000000)"));
}

#[test]
fn a_check_says_whether_a_text_is_a_script() {
    let mut lua = Scripts::new();
    assert!(lua.check(&Blob::from(&b"return 1"[..])).is_ok());
    assert!(lua.check(&Blob::from(&b"return ("[..])).is_err());
    assert!(lua.check(&Blob::from(&b"\x1bLua"[..])).is_err());
}

fn load(text: &str) -> Result<Vec<String>, String> {
    let loaded = Scripts::new().load(&Blob::from(format!("#!lua name=x\n{text}")), 500_000);
    match loaded {
        Ok((functions, units)) => {
            assert!(units > 0, "loading costs something");
            let shown = functions.iter().map(|function| {
                let description = function.description.as_ref().map(|text| format!("({text})"));
                format!("{}{} {}", function.name, description.unwrap_or_default(), function.flags)
            });
            Ok(shown.collect())
        }
        Err(error) => Err(error.text().to_string()),
    }
}

#[test]
fn a_library_registers_functions_and_can_do_nothing_else() {
    let registered = |text: &str, wanted: &[&str]| {
        let wanted: Vec<String> = wanted.iter().map(|&text| text.to_owned()).collect();
        assert_eq!(load(text), Ok(wanted), "{text}");
    };
    registered("redis.register_function('f', function() end)", &["f 0"]);
    registered("redis.register_function(1, function() end)", &["1 0"]);
    registered(
        "redis.register_function{function_name='f', callback=function() end, description='d', flags={'no-writes', 'no-cluster', 'no-writes'}}",
        &["f(d) 9"],
    );
    registered("return 5", &[]);
    let refused = |text: &str, wanted: &str| {
        assert_eq!(load(text), Err(format!("ERR Error registering functions: ERR {wanted}")), "{text}");
    };
    for name in ["error", "pairs", "math", "KEYS", "server", "_G", "print"] {
        let wanted =
            format!("user_function:2: Script attempted to access nonexistent global variable '{name}'");
        refused(&format!("local v = {name}"), &wanted);
    }
    for name in ["call", "pcall", "setresp", "sha1hex", "REPL_ALL"] {
        let wanted =
            format!("user_function:2: Script attempted to access nonexistent global variable '{name}'");
        refused(&format!("local v = redis.{name}"), &wanted);
    }
    for (text, wanted) in [
        ("foo = 1", "user_function:2: Attempt to modify a readonly table"),
        ("redis.foo = 1", "user_function:2: Attempt to modify a readonly table"),
        ("local x = nil + 1", "user_function:2: attempt to perform arithmetic on a nil value"),
        ("redis.log(1)", "redis.log() requires two arguments or more."),
        ("while true do end", "FUNCTION LOAD timeout"),
    ] {
        refused(text, wanted);
    }
    let said = |text: &str, wanted: &str| refused(&format!("redis.register_function{text}"), wanted);
    let of_functions = |why: &str| format!("redis.register_function {why}");
    said("()", "wrong number of arguments to redis.register_function");
    said("('g', function() end, 1)", "wrong number of arguments to redis.register_function");
    said("('g', 1)", "second argument to redis.register_function must be a function");
    said("({}, function() end)", "first argument to redis.register_function must be a string");
    said("{}", &of_functions("must get a function name argument"));
    said("{function_name='g'}", &of_functions("must get a callback argument"));
    said(
        "{function_name=1, callback=1}",
        "callback argument given to redis.register_function must be a function",
    );
    said(
        "{function_name='g', callback=function() end, foo=1}",
        "unknown argument given to redis.register_function",
    );
    said("{function_name='g', callback=function() end, flags={'foo'}}", "unknown flag given");
    said(
        "{function_name='g', callback=function() end, flags=1}",
        "flags argument to redis.register_function must be a table representing function flags",
    );
    said(
        "('g', function() end) redis.register_function('G', function() end)",
        "Function already exists in the library",
    );
    assert_eq!(
        load("return ((("),
        Err("ERR Error compiling function: user_function:2: unexpected symbol near '<eof>'".to_owned())
    );
}

#[test]
fn a_function_gets_keys_and_arguments_and_keeps_nothing() {
    let library = r#"#!lua name=x
local count = 0
redis.register_function('args', function(keys, args) return {keys[1], args[1], #keys + #args} end)
redis.register_function('count', function() count = count + 1 return {count, redis.call('INCR')} end)
redis.register_function('global', function() foo = 1 end)
redis.register_function('keys', function() return KEYS end)
redis.register_function('late', function() redis.register_function('z', function() end) end)
redis.register_function('raise', function()
  error('x')
end)
redis.register_function('server', function() return server end)
redis.register_function('walk', function()
  local names = {}
  for name in pairs(_G) do names[#names + 1] = name end
  for name in pairs(redis) do names[#names + 1] = name end
  return table.concat(names, ',')
end)
redis.register_function('write', function() redis.foo = 1 end)
redis.register_function('spin', function() while true do end end)
"#;
    let text = Blob::from(library);
    let (mut lua, mut host) = (Scripts::new(), Counter::default());
    let (keys, args) = ([Blob::from("k")], [Blob::from("a")]);
    let mut call = |name: &str| {
        let function = Blob::from(name);
        let run = Run { text: &text, keys: &keys, args: &args, seed: 7, function: Some(&function) };
        shown(&lua.run(&run, &mut host))
    };
    assert_eq!(call("args"), r#"["k" "a" 2]"#);
    assert_eq!((call("count"), call("count")), ("[1 1]".to_owned(), "[1 2]".to_owned()));
    for (name, wanted) in [
        (
            "global",
            "user_function:5: Attempt to modify a readonly table script: global, on @user_function:5.",
        ),
        (
            "keys",
            "user_function:6: Script attempted to access nonexistent global variable 'KEYS' script: keys, on @user_function:6.",
        ),
        (
            "late",
            "user_function:7: attempt to call field 'register_function' (a nil value) script: late, on @user_function:7.",
        ),
        ("raise", "user_function:9: x script: raise, on @user_function:9."),
        (
            "server",
            "user_function:11: Script attempted to access nonexistent global variable 'server' script: server, on @user_function:11.",
        ),
        (
            "write",
            "user_function:18: Attempt to modify a readonly table script: write, on @user_function:18.",
        ),
    ] {
        assert_eq!(call(name), format!("-ERR {wanted}"));
    }
    let walked = call("walk");
    assert!(
        walked.contains("sha1hex") && walked.contains("tonumber") && !walked.contains("server"),
        "{walked}"
    );
    assert!(call("spin").starts_with("!ERR script went over its budget"));
    assert_eq!(call("args"), r#"["k" "a" 2]"#);
    // A script after it sees its own library again, and none of what functions see.
    let script = eval_in(
        &mut lua,
        &mut host,
        "return {redis.register_function == nil, KEYS[1], type(server.call), type(redis.debug)}",
    );
    assert_eq!(shown(&script), r#"[1 "key" "function" "function"]"#);
}
