-- What every script sees, made once in a state. `native` has the functions of the host, `lib` the libraries, `raw` the language's own functions.
-- Rule: nothing a script can change outlives its run. It sees tables only through `proxy`s made for its run, and functions that nothing can be written to.
local native, lib, raw = ...
local settle, charge = native.settle, native.charge
local raw_pcall, raw_xpcall, raw_next, raw_type, raw_tostring = raw.pcall, raw.xpcall, raw.next, raw.type, raw.tostring
local raw_getmetatable, raw_setmetatable, raw_rawset, raw_rawget, raw_error = raw.getmetatable, raw.setmetatable, raw.rawset, raw.rawget, raw.error
local raw_setfenv, format, sub, find = raw.setfenv, raw.format, raw.sub, raw.find
local create, resume = raw.create, raw.resume
local pointer = { table = true, ["function"] = true, thread = true, userdata = true }

local shelf = {}   -- globals: fixed functions, and what belongs to the run in hand
local proxies      -- of this run: proxy -> what it shows
local ids, last_id -- of this run: numbers shown in the place of addresses
local shot_of, shot, shot_place, shot_at -- of this run: the keys of the table that `next` walks
local made = {}    -- names of the libraries of which this run has a proxy
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
  if real then
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
    for name in raw_next, lib do local _ = shelf[name] end
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
local function enter(main, keys, args, call, pcall, acl_check_cmd)
  proxies, ids, string_meta, shot_of, shot = {}, nil, nil, nil, nil
  for i = #made, 1, -1 do
    shelf[made[i]] = nil
    made[i] = nil
  end
  local redis = lib.redis
  redis.call, redis.pcall, redis.acl_check_cmd = call, pcall, acl_check_cmd
  local globals = raw_setmetatable({}, global_meta)
  proxies[globals] = shelf
  shelf.KEYS, shelf.ARGV, shelf._G = keys, args, globals
  raw_setfenv(main, globals)
  return first(raw_xpcall(main, native.handler))
end
return enter
