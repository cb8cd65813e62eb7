-- What a script finds round it, over the natives of engine.c. Gives the function that engine.c calls for each script.
local native = ...
local error, setmetatable, rawget, type, tostring, xpcall, pairs = error, setmetatable, rawget, type, tostring, xpcall, pairs
local select, loadstring, sub, byte, concat, find = select, loadstring, string.sub, string.byte, table.concat, string.find
local setfenv, pcall, load, seed = setfenv, pcall, load, math.randomseed

-- A view of a table that cannot be written through.
local function frozen(t)
  return setmetatable({}, {
    __index = t,
    __newindex = function() error("Attempt to modify a readonly table", 2) end,
    __metatable = false,
  })
end

local redis = { LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_SLAVE = 1, REPL_REPLICA = 1, REPL_AOF = 2, REPL_ALL = 3,
  REDIS_VERSION = "7.0.15", REDIS_VERSION_NUM = 0x07000F }
local function request(...)
  local count = select("#", ...)
  if count == 0 then return { err = "ERR Please specify at least one argument for this redis.call() call" } end
  for i = 1, count do
    local kind = type((select(i, ...)))
    if kind ~= "string" and kind ~= "number" then
      return { err = "ERR Lua redis lib command arguments must be strings or integers" }
    end
  end
  return native.call(...)
end
function redis.pcall(...) return request(...) end
function redis.call(...)
  local reply = request(...)
  if type(reply) == "table" and reply.err then error(reply, 0) end
  return reply
end
function redis.status_reply(text) return { ok = text } end
function redis.error_reply(text)
  if type(text) ~= "string" then return { err = "ERR wrong number or type of arguments" } end
  if byte(text) == 45 then text = sub(text, 2) elseif not find(text, " ", 1, true) then text = "ERR " .. text end
  return { err = text }
end
function redis.sha1hex(...)
  if select("#", ...) ~= 1 then error("wrong number of arguments", 2) end
  return native.sha1hex((...))
end
function redis.log(level, ...) native.log(level, concat({ ... }, " ")) end
function redis.replicate_commands() return true end
function redis.set_repl() end

local bit = { tobit = native.tobit, band = native.band, bor = native.bor, bxor = native.bxor, lshift = native.lshift,
  rshift = native.rshift, arshift = native.arshift, bnot = function(x) return native.bxor(x, -1) end }

-- cjson: tables with only positive whole keys are arrays, an empty one is an object, numbers have 14 digits.
local format, char, gsub, match, floor, tonumber, next, rep = string.format, string.char, string.gsub, string.match, math.floor, tonumber, next, string.rep
local cjson = { _NAME = "cjson", _VERSION = "2.1.0", null = native.null }
local MAX_NESTING = 1000
local short = { ['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local function quoted(text)
  return '"' .. gsub(text, '[%z\1-\31"\\/\127]', function(c) return short[c] or format("\\u%04x", byte(c)) end) .. '"'
end
local function encode(value, out, depth)
  local kind = type(value)
  if kind == "string" then out[#out + 1] = quoted(value)
  elseif kind == "number" then
    if value ~= value or value == 1 / 0 or value == -1 / 0 then error("Cannot serialise number: must not be NaN or Inf", 0) end
    out[#out + 1] = format("%.14g", value)
  elseif kind == "boolean" then out[#out + 1] = value and "true" or "false"
  elseif kind == "nil" or value == cjson.null then out[#out + 1] = "null"
  elseif kind == "table" then
    if depth > MAX_NESTING then error("Cannot serialise, excessive depth (" .. depth .. ")", 0) end
    local most, count = 0, 0
    for key in next, value do
      if type(key) ~= "number" or key < 1 or key ~= floor(key) then most = nil break end
      count = count + 1
      if key > most then most = key end
    end
    if most and most > 0 then
      if most > 10 and most > count * 2 then error("Cannot serialise table: excessively sparse array", 0) end
      out[#out + 1] = "["
      for i = 1, most do
        if i > 1 then out[#out + 1] = "," end
        encode(rawget(value, i), out, depth + 1)
      end
      out[#out + 1] = "]"
    else
      local first = true
      out[#out + 1] = "{"
      for key, item in next, value do
        if type(key) == "number" then key = format("%.14g", key) end
        if type(key) ~= "string" then error("Cannot serialise table: table key must be a number or string", 0) end
        out[#out + 1] = (first and "" or ",") .. quoted(key) .. ":"
        first = false
        encode(item, out, depth + 1)
      end
      out[#out + 1] = "}"
    end
  else error("Cannot serialise " .. kind .. ": type not supported", 0) end
end
function cjson.encode(...)
  if select("#", ...) ~= 1 then error("bad argument #1 to 'encode' (expected 1 argument)", 2) end
  local out = {}
  encode((...), out, 1)
  return concat(out)
end
local function utf8(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xc0 + floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then return char(0xe0 + floor(code / 4096), 0x80 + floor(code / 64) % 64, 0x80 + code % 64) end
  return char(0xf0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64, 0x80 + floor(code / 64) % 64, 0x80 + code % 64)
end
local long = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }
local function wanted(what, at) error("Expected " .. what .. " but found invalid token at character " .. at, 0) end
local function decode_string(text, at)
  local parts, from = {}, at + 1
  while true do
    local place = find(text, '["\\%c]', from)
    if not place then wanted("string end", #text + 1) end
    parts[#parts + 1] = sub(text, from, place - 1)
    local c = sub(text, place, place)
    if c == '"' then return concat(parts), place + 1 end
    if c ~= "\\" then
      if c ~= "\127" then wanted("value", place) end
      parts[#parts + 1] = c
      from = place + 1
    else
      local mark = sub(text, place + 1, place + 1)
      if mark == "u" then
        local digits = match(text, "^%x%x%x%x", place + 2)
        if not digits then wanted("value", place) end
        local code = tonumber(digits, 16)
        from = place + 6
        if code >= 0xd800 and code < 0xdc00 then
          local low = match(text, "^\\u(%x%x%x%x)", from)
          low = low and tonumber(low, 16)
          if not low or low < 0xdc00 or low > 0xdfff then wanted("value", place) end
          code, from = 0x10000 + (code - 0xd800) * 1024 + low - 0xdc00, from + 6
        end
        parts[#parts + 1] = utf8(code)
      else
        if not long[mark] then wanted("value", place) end
        parts[#parts + 1] = long[mark]
        from = place + 2
      end
    end
  end
end
local function space(text, at) return find(text, "[^ \t\r\n]", at) or #text + 1 end
local words = { t = { "true", true }, f = { "false", false }, n = { "null", cjson.null } }
local function decode(text, at, depth)
  at = space(text, at)
  local c = sub(text, at, at)
  if c == '"' then return decode_string(text, at) end
  if c == "{" or c == "[" then
    if depth > MAX_NESTING then error("Found too many nested data structures (" .. depth .. ")", 0) end
    local result, count, close = {}, 0, c == "{" and "}" or "]"
    at = space(text, at + 1)
    if sub(text, at, at) == close then return result, at + 1 end
    while true do
      local key, value
      if c == "{" then
        at = space(text, at)
        if sub(text, at, at) ~= '"' then wanted("object key string", at) end
        key, at = decode_string(text, at)
        at = space(text, at)
        if sub(text, at, at) ~= ":" then wanted("colon", at) end
        at = at + 1
      else
        count = count + 1
        key = count
      end
      value, at = decode(text, at, depth + 1)
      result[key] = value
      at = space(text, at)
      local mark = sub(text, at, at)
      if mark == close then return result, at + 1 end
      if mark ~= "," then wanted(c == "{" and "comma or object end" or "comma or array end", at) end
      at = at + 1
    end
  end
  local word = words[c]
  if word and sub(text, at, at + #word[1] - 1) == word[1] then return word[2], at + #word[1] end
  local digits = match(text, "^-?%d+%.?%d*[eE]?[+-]?%d*", at)
  local number = digits and tonumber(digits)
  if not number then wanted("value", at) end
  return number, at + #digits
end
function cjson.decode(text)
  if type(text) == "number" then text = tostring(text) end
  if type(text) ~= "string" then error("bad argument #1 to 'decode' (string expected, got " .. type(text) .. ")", 2) end
  local value, at = decode(text, 1, 1)
  at = space(text, at)
  if at <= #text then wanted("the end", at) end
  return value
end

-- Only text is compiled: Lua 5.1 does not check bytecode.
local all = {}
local function compile(text, name)
  if type(text) ~= "string" then error("a script must be a string", 3) end
  if byte(text) == 27 then return nil, "bytecode is not loaded" end
  local chunk, reason = loadstring(text, name or text)
  if not chunk then return nil, reason end
  return setfenv(chunk, all.globals)
end
local base = {}
for _, name in pairs({ "assert", "collectgarbage", "error", "gcinfo", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal",
  "rawget", "select", "setmetatable", "tonumber", "tostring", "type", "unpack", "xpcall", "_VERSION" }) do base[name] = _G[name] end
base.loadstring = function(text, name) return compile(text, name) end
base.load = function(reader, name)
  local parts = {}
  while true do
    local part = reader()
    if part == nil or part == "" then return compile(concat(parts), name or "=(load)") end
    parts[#parts + 1] = part
  end
end
string.dump = nil
base.string, base.table, base.math, base.coroutine = frozen(string), frozen(table), frozen(math), frozen(coroutine)
base.redis, base.bit, base.cjson = frozen(redis), frozen(bit), frozen(cjson)
base.server = base.redis
local text = getmetatable("")
text.__index, text.__metatable = base.string, false

-- The globals of one script: what is above, KEYS and ARGV, and nothing that a script adds.
local function globals(keys, argv)
  local here = { KEYS = keys, ARGV = argv }
  local view = setmetatable({}, {
    __index = function(_, name)
      local value = here[name]
      if value == nil then value = base[name] end
      if value == nil then error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2) end
      return value
    end,
    __newindex = function() error("Attempt to modify a readonly table", 2) end,
    __metatable = false,
  })
  here._G = view
  return view
end

return function(script, keys, argv, name)
  all.globals = globals(keys, argv)
  setfenv(script, all.globals)
  seed(0)
  local done, value = pcall(script)
  if done then return value end
  if type(value) == "table" then value = rawget(value, "err") or "ERR unknown error" else value = "ERR " .. tostring(value) end
  return { err = value .. " script: " .. name .. ", on @user_script." }
end
