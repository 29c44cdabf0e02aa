-- What every script sees, made once in a state. `native` has the functions of the host, `lib` the libraries, `raw` the language's own functions.
-- Rule: nothing a script can change outlives its run. It sees tables only through `proxy`s made for its run, and functions that nothing can be written to.
local native, lib, raw = ...
local settle, charge = native.settle, native.charge
local raw_pcall, raw_xpcall, raw_next, raw_type, raw_tostring = raw.pcall, raw.xpcall, raw.next, raw.type, raw.tostring
local raw_getmetatable, raw_setmetatable, raw_rawset, raw_rawget, raw_error = raw.getmetatable, raw.setmetatable, raw.rawset, raw.rawget, raw.error
local raw_setfenv, format, sub, find = raw.setfenv, raw.format, raw.sub, raw.find
local create, resume, lower = raw.create, raw.resume, raw.lower
local pointer = { table = true, ["function"] = true, thread = true, userdata = true }

local shelf = {}   -- globals: fixed functions, and what belongs to the run in hand
local proxies      -- of this run: proxy -> what it shows
local ids, last_id -- of this run: numbers shown in the place of addresses
local shot_of, shot, shot_place, shot_at -- of this run: the keys of the table that `next` walks
local made = {}    -- names of the libraries of which this run has a proxy
local in_library   -- whether this run is of a function of a library
local string_meta

local function readonly()
  raw_error("Attempt to modify a readonly table", 2)
end

local metas = {}
local function proxy(real)
  local meta = metas[real]
  if not meta then
    meta = { __index = real, __newindex = readonly, __metatable = false }
    metas[real] = meta
  end
  local made_now = raw_setmetatable({}, meta)
  proxies[made_now] = real
  return made_now
end

raw_setmetatable(shelf, { __index = function(_, name)
  local real = lib[name]
  if real and not (in_library and name == "server") then
    local made_now = proxy(real)
    made[#made + 1] = name
    shelf[name] = made_now
    return made_now
  end
  raw_error("Script attempted to access nonexistent global variable '" .. shelf.tostring(name) .. "'", 2)
end })
local global_meta = { __index = shelf, __newindex = readonly, __metatable = false }

for _, name in raw.ipairs { "assert", "error", "ipairs", "rawequal", "select", "setmetatable", "tonumber", "type" } do
  shelf[name] = raw[name]
end
shelf._VERSION = "Lua 5.1"
shelf.unpack = native.unpack

-- Errors. A failure of the host arrives as an object of its own, which `settle` opens; once a run is to be aborted it never comes back from there.
local function after(ok, ...)
  if ok then return true, ... end
  return false, settle((...))
end
-- As Redis 7 has it, an error object with a text arrives as that text here (and only here).
local function after_pcall(ok, ...)
  if ok then return true, ... end
  local failure = settle((...))
  if raw_type(failure) == "table" then
    local text = raw_rawget(failure, "err")
    if raw_type(text) == "string" or raw_type(text) == "number" then return false, text end
  end
  return false, failure
end
function shelf.pcall(...)
  return after_pcall(raw_pcall(...))
end
function shelf.xpcall(f, handler)
  return after(raw_xpcall(f, function(failure) return handler(settle(failure)) end))
end

-- A stack of its own counts its instructions apart, in thousands: making one costs a thousand.
local coroutine = lib.coroutine
function coroutine.create(f)
  charge(1000)
  return create(f)
end
function coroutine.resume(...)
  return after(resume(...))
end
local function unwrapped(ok, ...)
  if ok then return ... end
  raw_error(settle((...)), 0)
end
function coroutine.wrap(f)
  charge(1000)
  local thread = create(f)
  return function(...) return unwrapped(resume(thread, ...)) end
end

-- A chunk that a script loads has the globals of its run.
local function compile(text, name)
  local f, why = native.compile(text, name)
  if f then return raw_setfenv(f, shelf._G) end
  return nil, why
end
shelf.loadstring = compile
function shelf.load(reader, name)
  if raw_type(reader) ~= "function" then
    raw_error("bad argument #1 to 'load' (function expected, got " .. (reader == nil and "no value" or raw_type(reader)) .. ")", 2)
  end
  local text = {}
  while true do
    local piece = reader()
    if piece == nil or piece == "" then break end
    if raw_type(piece) ~= "string" then return nil, "reader function must return a string" end
    text[#text + 1] = piece
  end
  return compile(raw.concat(text), name or "=(load)")
end

-- Addresses differ between replicas; the order in which a run asks for names does not.
function shelf.tostring(...)
  local text = raw_tostring(...)
  local value = ...
  local kind = raw_type(value)
  if pointer[kind] and sub(text, 1, #kind + 4) == kind .. ": 0x" then
    if not ids then ids, last_id = {}, 0 end
    local id = ids[value]
    if not id then
      last_id = last_id + 16
      id = last_id
      ids[value] = id
    end
    return format("%s: 0x%012x", kind, id)
  end
  return text
end

function shelf.rawset(t, k, v)
  if proxies[t] then raw_error("Attempt to modify a readonly table", 0) end
  return raw_rawset(t, k, v)
end
function shelf.rawget(t, k)
  return raw_rawget(proxies[t] or t, k)
end
function shelf.getmetatable(...)
  local value = ...
  if raw_type(value) == "string" then
    if not string_meta then
      local real = { __index = shelf.string }
      string_meta = raw_setmetatable({}, { __index = real, __newindex = readonly, __metatable = false })
      proxies[string_meta] = real
    end
    return string_meta
  end
  return raw_getmetatable(...)
end

-- Order. Strings and numbers hash alike everywhere; what hashes by its address does not, so a table with such keys has no order to walk in.
local function keys_of(t)
  local real = proxies[t]
  if real == shelf then
    for name in raw_next, lib do
      if not (in_library and name == "server") then local _ = shelf[name] end
    end
  end
  real = real or t
  local keys, n = {}, 0
  for k in raw_next, real do
    if pointer[raw_type(k)] and k ~= native.null then
      raw_error("keys that are tables, functions or threads have no order that replicas share: this table cannot be walked", 3)
    end
    n = n + 1
    keys[n] = k
  end
  if real == shelf then raw.sort(keys) end -- Its order would show what earlier runs have touched.
  return keys, n, real
end
function shelf.pairs(...)
  local t = ...
  if raw_type(t) ~= "table" then
    raw_error("bad argument #1 to 'pairs' (table expected, got " .. (raw.select("#", ...) == 0 and "no value" or raw_type(t)) .. ")", 2)
  end
  local keys, n, real = keys_of(t)
  local i = 0
  return function()
    while i < n do
      i = i + 1
      local k = keys[i]
      local v = raw_rawget(real, k)
      if v ~= nil then return k, v end
    end
    return nil
  end, t, nil
end
function shelf.next(t, k)
  if raw_type(t) ~= "table" then
    raw_error("bad argument #1 to 'next' (table expected, got " .. raw_type(t) .. ")", 2)
  end
  if k == nil then
    if not proxies[t] and raw_next(t) == nil then return nil end
    shot, shot_of, shot_at, shot_place = keys_of(t), t, 0, nil
  elseif shot_of ~= t or shot[shot_at] ~= k then
    if shot_of ~= t then shot, shot_of, shot_place = keys_of(t), t, nil end
    if not shot_place then
      shot_place = {}
      for i, key in raw.ipairs(shot) do shot_place[key] = i end
    end
    shot_at = shot_place[k]
    if not shot_at then
      shot_of = nil
      raw_error("invalid key to 'next'", 0)
    end
  end
  local real = proxies[t] or t
  while true do
    shot_at = shot_at + 1
    local key = shot[shot_at]
    if key == nil then
      shot_of = nil
      return nil
    end
    local v = raw_rawget(real, key)
    if v ~= nil then return key, v end
  end
end
function lib.table.foreach(t, f)
  for k, v in shelf.pairs(t) do
    local answer = f(k, v)
    if answer ~= nil then return answer end
  end
end
function lib.table.foreachi(t, f)
  for i = 1, #t do
    local answer = f(i, t[i])
    if answer ~= nil then return answer end
  end
end
lib.math.random = native.random
lib.math.randomseed = native.randomseed
lib.server = lib.redis

-- Runs a chunk with globals of its own. Answers whether it ended well, and its first value or what it raised.
local function first(ok, value)
  return ok, value
end
local function begin(library)
  proxies, ids, string_meta, shot_of, shot = {}, nil, nil, nil, nil
  in_library = library
  for i = #made, 1, -1 do
    shelf[made[i]] = nil
    made[i] = nil
  end
end
local function enter(main, keys, args, call, pcall, acl_check_cmd)
  begin(false)
  local redis = lib.redis
  redis.call, redis.pcall, redis.acl_check_cmd = call, pcall, acl_check_cmd
  local globals = raw_setmetatable({}, global_meta)
  proxies[globals] = shelf
  shelf.KEYS, shelf.ARGV, shelf._G = keys, args, globals
  raw_setfenv(main, globals)
  return first(raw_xpcall(main, native.handler))
end

-- Libraries of functions. A library's text runs before each call of one of its functions, so that nothing it keeps outlives a run. While it runs it
-- sees nothing but `redis`, and of that only what registers functions; what it has registered sees the globals of a run.
local flag_bits = { ["no-writes"] = 1, ["allow-oom"] = 2, ["allow-stale"] = 4, ["no-cluster"] = 8, ["allow-cross-slot-keys"] = 16 }
local named = { function_name = true, callback = true, description = true, flags = true }
local registered, callbacks, names -- of this run: what was registered, in order; by name; names in lower case

local function refuse(text)
  raw_error({ err = "ERR " .. text })
end
local function text_of(value)
  local kind = raw_type(value)
  if kind == "string" then return value end
  if kind == "number" then return raw_tostring(value) end
end
local function add(name, callback, description, bits)
  if not find(name, "^[%w_]+$") then
    refuse("Library names can only contain letters, numbers, or underscores(_) and must be at least one character long")
  end
  local folded = lower(name)
  if names[folded] then refuse("Function already exists in the library") end
  names[folded] = true
  callbacks[name] = callback
  registered[#registered + 1] = { name, description or false, bits }
end
local function add_named(given)
  if raw_type(given) ~= "table" then
    refuse("calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).")
  end
  -- In two steps, so that which error comes does not depend on the order of the table.
  for k in raw_next, given do
    if text_of(k) == nil then refuse("named argument key given to redis.register_function is not a string") end
  end
  for k in raw_next, given do
    if not named[k] then refuse("unknown argument given to redis.register_function") end
  end
  local get = function(k) return raw_rawget(given, k) end
  local name, callback, description, flags = get("function_name"), get("callback"), get("description"), get("flags")
  if callback ~= nil and raw_type(callback) ~= "function" then
    refuse("callback argument given to redis.register_function must be a function")
  end
  if name ~= nil and text_of(name) == nil then
    refuse("function_name argument given to redis.register_function must be a string")
  end
  if description ~= nil and text_of(description) == nil then
    refuse("description argument given to redis.register_function must be a string")
  end
  if flags ~= nil and raw_type(flags) ~= "table" then
    refuse("flags argument to redis.register_function must be a table representing function flags")
  end
  local bits, seen = 0, {}
  for i = 1, flags and #flags or 0 do
    local flag = raw_rawget(flags, i)
    local bit = raw_type(flag) == "string" and flag_bits[flag]
    if not bit then refuse("unknown flag given") end
    if not seen[bit] then bits = bits + bit end
    seen[bit] = true
  end
  if name == nil then refuse("redis.register_function must get a function name argument") end
  if callback == nil then refuse("redis.register_function must get a callback argument") end
  add(text_of(name), callback, text_of(description), bits)
end
local loading = { log = lib.redis.log }
for _, name in raw.ipairs { "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING", "REDIS_VERSION", "REDIS_VERSION_NUM" } do
  loading[name] = lib.redis[name]
end
function loading.register_function(...)
  if not registered then refuse("redis.register_function can only be called on FUNCTION LOAD command") end
  local count = raw.select("#", ...)
  if count ~= 1 and count ~= 2 then refuse("wrong number of arguments to redis.register_function") end
  local name, callback = ...
  if count == 1 then return add_named(name) end
  name = text_of(name)
  if name == nil then refuse("first argument to redis.register_function must be a string") end
  if raw_type(callback) ~= "function" then refuse("second argument to redis.register_function must be a function") end
  add(name, callback, nil, 0)
end
local function nonexistent(_, name)
  raw_error("Script attempted to access nonexistent global variable '" .. raw_tostring(name) .. "'", 2)
end
raw_setmetatable(loading, { __index = nonexistent })
local load_shelf = raw_setmetatable({}, { __index = nonexistent })
local running = {}
for _, name in raw.ipairs {
  "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING", "REDIS_VERSION", "REDIS_VERSION_NUM", "REPL_NONE", "REPL_AOF", "REPL_SLAVE",
  "REPL_REPLICA", "REPL_ALL", "error_reply", "status_reply", "sha1hex", "log", "setresp", "set_repl",
} do
  running[name] = lib.redis[name]
end
local library_meta = { __newindex = readonly, __metatable = false }

-- Runs a library's text and, where one is named, a function that it registers. Answers as `enter`; without a name, what was registered.
local function enter_library(main, name, keys, args, call, pcall, acl_check_cmd)
  begin(true)
  registered, callbacks, names = {}, {}, {}
  load_shelf.redis = proxy(loading)
  library_meta.__index = load_shelf
  local globals = raw_setmetatable({}, library_meta)
  proxies[globals] = shelf
  shelf.KEYS, shelf.ARGV, shelf._G = nil, nil, globals
  raw_setfenv(main, globals)
  local ok, failure = raw_xpcall(main, native.handler)
  local all = registered
  registered = nil
  if not ok then return false, failure end
  if name == nil then return true, all end
  running.call, running.pcall, running.acl_check_cmd = call, pcall, acl_check_cmd
  shelf.redis = proxy(running)
  made[#made + 1] = "redis"
  library_meta.__index = shelf
  local f = callbacks[name]
  return first(raw_xpcall(function() return f(keys, args) end, native.handler))
end
return enter, enter_library
