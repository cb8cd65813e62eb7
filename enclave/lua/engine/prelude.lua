-- What scripts and functions find round them, over the natives of engine.c. Gives what engine.c calls for each of them.
local native = ...
local error, setmetatable, getmetatable, rawget, rawset, type, tostring, xpcall, pairs, select =
  error, setmetatable, getmetatable, rawget, rawset, type, tostring, xpcall, pairs, select
local loadstring, sub, byte, concat, find = loadstring, string.sub, string.byte, table.concat, string.find
local setfenv, freeze, is_frozen, put = setfenv, native.freeze, native.is_frozen, native.put

-- redis: what scripts and functions may do.
local redis = { LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_SLAVE = 1, REPL_REPLICA = 1, REPL_AOF = 2, REPL_ALL = 3,
  REDIS_VERSION = "7.0.15", REDIS_VERSION_NUM = 0x07000F,
  call = native.call, pcall = native.pcall, acl_check_cmd = native.may }
local function field(name, ...)
  if select("#", ...) ~= 1 or type((...)) ~= "string" then return { err = "ERR wrong number or type of arguments" } end
  return { [name] = (...) }
end
function redis.status_reply(...) return field("ok", ...) end
function redis.error_reply(...)
  local reply = field("err", ...)
  local text = reply.err
  if byte(text) == 45 then text = sub(text, 2) end
  -- What is one word alone is no kind of error, but its text.
  if not find(text, " ", 1, true) then text = text == "" and "ERR" or "ERR " .. text end
  reply.err = text
  return reply
end
function redis.sha1hex(...)
  if select("#", ...) ~= 1 then error("wrong number of arguments", 2) end
  return native.sha1hex((...))
end
function redis.log(...)
  local level = ...
  if select("#", ...) < 2 then error("redis.log() requires two arguments or more.", 2) end
  if type(level) ~= "number" then error("First argument must be a number (log level).", 2) end
  if level < redis.LOG_DEBUG or level > redis.LOG_WARNING then error("Invalid log level.", 2) end
  native.log(level, concat({ select(2, ...) }, " "))
end
function redis.setresp(...)
  if select("#", ...) ~= 1 then error("redis.setresp() requires one argument.", 2) end
  if (...) ~= 2 and (...) ~= 3 then error("RESP version must be 2 or 3.", 2) end
  native.version((...))
end
function redis.replicate_commands() return true end
-- Everything that changes something goes into the log: what is there now must be there after a restart.
function redis.set_repl(...)
  if select("#", ...) ~= 1 then error("redis.set_repl() requires one argument.", 2) end
  local flags = ...
  if type(flags) ~= "number" or flags < 0 or flags > 3 then
    error("Invalid replication flags. Please use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.", 2)
  end
end
-- There is no debugger.
function redis.breakpoint() return false end
function redis.debug() end

-- cjson: tables with only positive whole keys are arrays, an empty one is an object, numbers have 14 digits.
local format, char, gsub, match, floor, tonumber, next, rep = string.format, string.char, string.gsub, string.match, math.floor, tonumber, next, string.rep
local cjson = { _NAME = "cjson", _VERSION = "2.1.0", null = native.null }
local most_nested, most_decoded, precision, invalid, decodes_invalid = 1000, 1000, 14, false, true
local sparse = { convert = false, ratio = 2, safe = 10 }
local short = { ['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local function quoted(text)
  return '"' .. gsub(text, '[%z\1-\31"\\/\127]', function(c) return short[c] or format("\\u%04x", byte(c)) end) .. '"'
end
local function encode(value, out, depth)
  local kind = type(value)
  if kind == "string" then out[#out + 1] = quoted(value)
  elseif kind == "number" then
    if value ~= value or value == 1 / 0 or value == -1 / 0 then
      if not invalid then error("Cannot serialise number: must not be NaN or Inf", 0) end
      if invalid == "null" then out[#out + 1] = "null" return end
      out[#out + 1] = value ~= value and "nan" or value > 0 and "inf" or "-inf"
    else out[#out + 1] = format("%." .. precision .. "g", value) end
  elseif kind == "boolean" then out[#out + 1] = value and "true" or "false"
  elseif kind == "nil" or value == cjson.null then out[#out + 1] = "null"
  elseif kind == "table" then
    if depth > most_nested then error("Cannot serialise, excessive depth (" .. depth .. ")", 0) end
    local most, count = 0, 0
    for key in next, value do
      if type(key) ~= "number" or key < 1 or key ~= floor(key) then most = nil break end
      count = count + 1
      if key > most then most = key end
    end
    if most and sparse.ratio > 0 and most > sparse.safe and most > count * sparse.ratio then
      if not sparse.convert then error("Cannot serialise table: excessively sparse array", 0) end
      most = nil
    end
    if most and most > 0 then
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
        if type(key) == "number" then key = format("%." .. precision .. "g", key) end
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
    if depth > most_decoded then error("Found too many nested data structures (" .. depth .. ")", 0) end
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
  if not number and decodes_invalid then
    digits = match(text, "^-?[iI][nN][fF][iI][nN][iI][tT][yY]", at) or match(text, "^-?[iI][nN][fF]", at) or match(text, "^-?[nN][aA][nN]", at)
    if digits then number = find(digits, "^-?[nN]") and 0 / 0 or byte(digits) == 45 and -1 / 0 or 1 / 0 end
  end
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

-- Settings of cjson last until the interpreter is made anew, as in Redis.
local function setting(least, most, get, set)
  return function(value)
    if value ~= nil then
      if type(value) ~= "number" or value < least or value > most then
        error("bad argument #1 (expected integer between " .. least .. " and " .. most .. ")", 2)
      end
      set(floor(value))
    end
    return get()
  end
end
cjson.encode_max_depth = setting(1, 2 ^ 31 - 1, function() return most_nested end, function(value) most_nested = value end)
cjson.decode_max_depth = setting(1, 2 ^ 31 - 1, function() return most_decoded end, function(value) most_decoded = value end)
cjson.encode_number_precision = setting(1, 14, function() return precision end, function(value) precision = value end)
function cjson.encode_keep_buffer(keep) return keep ~= false end
function cjson.encode_invalid_numbers(how)
  if how ~= nil then
    if how ~= true and how ~= false and how ~= "on" and how ~= "off" and how ~= "null" then error("bad argument #1 (invalid option)", 2) end
    if how == "on" then invalid = true elseif how == "off" then invalid = false else invalid = how end
  end
  return invalid
end
function cjson.decode_invalid_numbers(how)
  if how ~= nil then decodes_invalid = how ~= false and how ~= "off" end
  return decodes_invalid
end
function cjson.encode_sparse_array(convert, ratio, safe)
  if convert ~= nil then sparse.convert = convert ~= false and convert ~= "off" end
  if ratio ~= nil then sparse.ratio = ratio end
  if safe ~= nil then sparse.safe = safe end
  return sparse.convert, sparse.ratio, sparse.safe
end

-- The globals. Only text is compiled: Lua 5.1 does not check bytecode.
local function compile(text, name)
  if type(text) ~= "string" then error("a script must be a string", 3) end
  if byte(text) == 27 then return nil, "bytecode is not loaded" end
  return loadstring(text, name or text)
end
local function unknown(_, name) error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2) end
local readonly = "Attempt to modify a readonly table"
local globals = {}
for _, name in pairs({ "assert", "collectgarbage", "coroutine", "error", "gcinfo", "getmetatable", "ipairs", "math", "next", "pairs", "pcall",
  "rawequal", "rawget", "rawset", "select", "string", "table", "tonumber", "tostring", "type", "unpack", "xpcall", "_VERSION" }) do
  globals[name] = _G[name]
end
globals.redis, globals.server, globals.cjson = redis, redis, cjson
globals.bit, globals.cmsgpack, globals.struct = native.bit, native.cmsgpack, native.struct
globals.os = { clock = native.clock }
globals._G = globals
function globals.setmetatable(of, to)
  if is_frozen(of) then error(readonly, 2) end
  return setmetatable(of, to)
end
globals.loadstring = function(text, name) return compile(text, name) end
globals.load = function(reader, name)
  local parts = {}
  while true do
    local part = reader()
    if part == nil or part == "" then return compile(concat(parts), name or "=(load)") end
    parts[#parts + 1] = part
  end
end
for _, value in pairs(globals) do
  if type(value) == "table" then freeze(value) end
end
freeze(setmetatable(globals, freeze({ __index = unknown })))
freeze(getmetatable(""))

-- Functions. While a library is loaded it sees `redis` alone, with what registers its functions; what it keeps of that does nothing later.
local loading
local flags = { ["no-writes"] = true, ["allow-oom"] = true, ["allow-stale"] = true, ["no-cluster"] = true, ["allow-cross-slot-keys"] = true }
local function register(...)
  local count = select("#", ...)
  local name, callback = ...
  local description, marks, told
  if count < 1 or count > 2 then error("wrong number of arguments to redis.register_function", 3) end
  if count == 1 then
    if type(name) ~= "table" then error("calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).", 3) end
    local given = name
    name, callback = nil, nil
    for key, value in next, given do
      if key == "function_name" then
        if type(value) ~= "string" then error("function_name argument given to redis.register_function must be a string", 3) end
        name = value
      elseif key == "description" then
        if type(value) ~= "string" then error("description argument given to redis.register_function must be a string", 3) end
        description = value
      elseif key == "callback" then
        if type(value) ~= "function" then error("callback argument given to redis.register_function must be a function", 3) end
        callback = value
      elseif key == "flags" then
        if type(value) ~= "table" then error("flags argument to redis.register_function must be a table representing function flags", 3) end
        marks = {}
        for at = 1, #value do
          local flag = rawget(value, at)
          if type(flag) ~= "string" or not flags[flag] then error("unknown flag given", 3) end
          marks[at] = flag
        end
      else error("unknown argument given to redis.register_function", 3) end
    end
    if not name then error("redis.register_function must get a function name argument", 3) end
    if not callback then error("redis.register_function must get a callback argument", 3) end
  else
    if type(name) ~= "string" then error("first argument to redis.register_function must be a string", 3) end
    if type(callback) ~= "function" then error("second argument to redis.register_function must be a function", 3) end
  end
  if not find(name, "^[%w_]+$") then
    error("Library names can only contain letters, numbers, or underscores(_) and must be at least one character long", 3)
  end
  if loading.functions[name] then error("Function already exists in the library", 3) end
  loading.functions[name] = callback
  told = { name, description or false }
  for at = 1, #(marks or {}) do told[at + 2] = marks[at] end
  loading.told[#loading.told + 1] = told
end
local registering = { log = redis.log, REDIS_VERSION = redis.REDIS_VERSION, REDIS_VERSION_NUM = redis.REDIS_VERSION_NUM,
  register_function = function(...)
    if not loading then error("redis.register_function can only be called on FUNCTION LOAD command", 2) end
    register(...)
  end }
for _, level in pairs({ "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING" }) do registering[level] = redis[level] end
freeze(setmetatable(registering, freeze({ __index = function(_, name)
  if loading then unknown(nil, name) end
end })))
local library = freeze(setmetatable({}, freeze({ __index = function(_, name)
  local value
  if loading then
    if name == "redis" then value = registering end
  else value = rawget(globals, name) end
  if value == nil then unknown(nil, name) end
  return value
end })))

-- An error as a reply, and where in the script it was.
local function told(value)
  local where = native.where()
  if type(value) ~= "table" then return { err = "ERR " .. tostring(value), where = where } end
  local text = rawget(value, "err")
  if type(text) ~= "string" then text = "ERR unknown error" end
  return { err = text, where = where, ignore_error_stats_update = rawget(value, "ignore_error_stats_update") == true or nil }
end
local function finish(name, done, value)
  if not done then
    -- No room even for that: then it is a text, or nothing.
    if type(value) ~= "table" then return { err = "ERR " .. tostring(value) } end
    value.err = value.err .. " script: " .. name .. (value.where and ", on " .. value.where .. "." or ".")
  end
  return value
end
return {
  globals = globals,
  eval = function(script, keys, argv, name)
    put(globals, "KEYS", keys)
    put(globals, "ARGV", argv)
    return finish(name, xpcall(script, told))
  end,
  call = function(callback, keys, argv, name)
    put(globals, "KEYS", nil)
    put(globals, "ARGV", nil)
    return finish(name, xpcall(function() return callback(keys, argv) end, told))
  end,
  -- What is told of its functions, and the functions by their names; or an error.
  load = function(chunk)
    loading = { functions = {}, told = {} }
    local mine = loading
    local done, value = xpcall(setfenv(chunk, library), told)
    loading = nil
    if not done then return { err = "ERR Error registering functions: " .. (type(value) == "table" and sub(value.err, 5) or tostring(value)) } end
    if #mine.told == 0 then return { err = "ERR No functions registered" } end
    return mine.told, mine.functions
  end,
}
