// Replies: RESP in version 2 or 3, and the values of Lua that stand for it.

// How deep replies and tables may be nested: as deep as Redis lets them be.
#define MAX_DEPTH 100

// Of who asked; and of what the script wants its replies in.
static int client_version = 2, script_version = 2;
// Whether the reply is an error: 1; one that was counted already: 2.
static int is_error;

static char *out;
static size_t out_length, out_capacity;
EXPORT("te_out") const char *te_out(void) { return out; }
EXPORT("te_out_length") size_t te_out_length(void) { return out_length; }

static void put(const void *bytes, size_t length)
{
    if (out_length + length > out_capacity) {
        size_t wanted = (out_length + length) * 2 + 64;
        char *grown = realloc(out, wanted);
        if (!grown) __builtin_trap();
        out = grown;
        out_capacity = wanted;
    }
    memcpy(out + out_length, bytes, length);
    out_length += length;
}

static void head(char kind, long long number)
{
    char text[32];
    put(text, snprintf(text, sizeof text, "%c%lld\r\n", kind, number));
}

static void bulk(const char *text, size_t length) { head('$', (long long)length); put(text, length); put("\r\n", 2); }
static void null(void) { if (client_version >= 3) put("_\r\n", 3); else put("$-1\r\n", 5); }

// Bytes in which line ends become spaces.
static void put_line(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        char byte = text[i] == '\r' || text[i] == '\n' ? ' ' : text[i];
        put(&byte, 1);
    }
}

static void line(char kind, const char *text, size_t length) { put(&kind, 1); put_line(text, length); put("\r\n", 2); }

// Pushes a field of the table on top, if it has this type.
static int member(lua_State *L, const char *name, int type)
{
    lua_pushstring(L, name);
    lua_rawget(L, -2);
    if (lua_type(L, -1) == type) return 1;
    lua_pop(L, 1);
    return 0;
}

static void answer(lua_State *L, int depth);

static long long pairs(lua_State *L)
{
    long long count = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) count++;
    return count;
}

// What a table stands for that has one of the fields of RESP3's kinds, which is on top.
static void answer_verbatim(lua_State *L)
{
    size_t length, format_length;
    if (!member(L, "format", LUA_TSTRING)) { null(); return; }
    const char *format = lua_tolstring(L, -1, &format_length);
    lua_insert(L, -2);
    if (!member(L, "string", LUA_TSTRING)) { null(); lua_remove(L, -2); return; }
    const char *text = lua_tolstring(L, -1, &length);
    if (client_version < 3) {
        bulk(text, length);
    } else {
        // Three letters, whatever was given.
        char three[4] = { ' ', ' ', ' ', ':' };
        memcpy(three, format, format_length < 3 ? format_length : 3);
        head('=', (long long)length + 4);
        put(three, 4);
        put(text, length);
        put("\r\n", 2);
    }
    lua_pop(L, 1);
    lua_remove(L, -2);
}

static void answer_table(lua_State *L, int depth)
{
    size_t length;
    const char *text;
    if (member(L, "err", LUA_TSTRING)) {
        text = lua_tolstring(L, -1, &length);
        line('-', text, length);
        lua_pop(L, 1);
        if (depth) return;
        is_error = 1;
        if (member(L, "ignore_error_stats_update", LUA_TBOOLEAN)) {
            is_error += lua_toboolean(L, -1);
            lua_pop(L, 1);
        }
    } else if (member(L, "ok", LUA_TSTRING)) {
        text = lua_tolstring(L, -1, &length);
        line('+', text, length);
        lua_pop(L, 1);
    } else if (member(L, "double", LUA_TNUMBER)) {
        char digits[40];
        int count = snprintf(digits, sizeof digits, "%.17g", lua_tonumber(L, -1));
        if (client_version >= 3) line(',', digits, (size_t)count); else bulk(digits, (size_t)count);
        lua_pop(L, 1);
    } else if (member(L, "map", LUA_TTABLE)) {
        long long count = pairs(L);
        if (client_version >= 3) head('%', count); else head('*', 2 * count);
        for (lua_pushnil(L); lua_next(L, -2);) {
            lua_pushvalue(L, -2);
            answer(L, depth + 1);
            answer(L, depth + 1);
        }
        lua_pop(L, 1);
    } else if (member(L, "set", LUA_TTABLE)) {
        head(client_version >= 3 ? '~' : '*', pairs(L));
        for (lua_pushnil(L); lua_next(L, -2);) {
            lua_pop(L, 1);
            lua_pushvalue(L, -1);
            answer(L, depth + 1);
        }
        lua_pop(L, 1);
    } else if (member(L, "big_number", LUA_TSTRING)) {
        text = lua_tolstring(L, -1, &length);
        if (client_version >= 3) { line('(', text, length); }
        else { head('$', (long long)length); put_line(text, length); put("\r\n", 2); }
        lua_pop(L, 1);
    } else if (member(L, "verbatim_string", LUA_TTABLE)) {
        answer_verbatim(L);
        lua_pop(L, 1);
    } else {
        for (length = 0;; length++) {
            lua_rawgeti(L, -1, (int)length + 1);
            int end = lua_isnil(L, -1);
            lua_pop(L, 1);
            if (end) break;
        }
        head('*', (long long)length);
        for (size_t i = 1; i <= length; i++) {
            lua_rawgeti(L, -1, (int)i);
            answer(L, depth + 1);
        }
    }
}

// Writes the value on top of the stack, and pops it.
static void answer(lua_State *L, int depth)
{
    size_t length;
    const char *text;
    if (depth > MAX_DEPTH || !lua_checkstack(L, 10)) {
        static const char sentence[] = "ERR reached lua stack limit";
        line('-', sentence, sizeof sentence - 1);
        lua_pop(L, 1);
        return;
    }
    switch (lua_type(L, -1)) {
    case LUA_TSTRING: text = lua_tolstring(L, -1, &length); bulk(text, length); break;
    case LUA_TNUMBER: head(':', (long long)lua_tonumber(L, -1)); break;
    case LUA_TBOOLEAN:
        if (script_version >= 3 && client_version >= 3) put(lua_toboolean(L, -1) ? "#t\r\n" : "#f\r\n", 4);
        else if (script_version >= 3 || lua_toboolean(L, -1)) head(':', lua_toboolean(L, -1));
        else null();
        break;
    case LUA_TTABLE: answer_table(L, depth); break;
    default: null();
    }
    lua_pop(L, 1);
}

// A table with one field, whose value is on top.
static void wrap(lua_State *L, const char *name)
{
    lua_createtable(L, 0, 1);
    lua_insert(L, -2);
    lua_setfield(L, -2, name);
}

// Pushes the reply at `at` as a value; gives where the next one begins. The host wrote it: it is whole.
static const char *push(lua_State *L, const char *at, int depth)
{
    char kind = *at++;
    const char *end = strchr(at, '\r');
    if (!end || depth > MAX_DEPTH) luaL_error(L, "a reply cannot be read");
    luaL_checkstack(L, 6, "replies are nested too deep");
    int counts = kind && strchr(":$*%~=|>", kind) != NULL;
    long long number = counts ? strtoll(at, NULL, 10) : 0;
    const char *next = end + 2;
    switch (kind) {
    case ':': lua_pushnumber(L, (lua_Number)number); return next;
    case '+':
        lua_pushlstring(L, at, (size_t)(end - at));
        wrap(L, "ok");
        return next;
    case '-':
        lua_pushlstring(L, at, (size_t)(end - at));
        wrap(L, "err");
        // It was counted where it came from.
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "ignore_error_stats_update");
        return next;
    case '$':
        if (number < 0) { lua_pushboolean(L, 0); return next; }
        lua_pushlstring(L, next, (size_t)number);
        return next + number + 2;
    case '>':
    case '*':
        if (number < 0) { lua_pushboolean(L, 0); return next; }
        lua_createtable(L, (int)number, 0);
        for (int i = 1; i <= number; i++) {
            next = push(L, next, depth + 1);
            lua_rawseti(L, -2, i);
        }
        return next;
    case '_': lua_pushnil(L); return next;
    case '#': lua_pushboolean(L, *at == 't'); return next;
    case ',':
        lua_pushnumber(L, strtod(at, NULL));
        wrap(L, "double");
        return next;
    case '(':
        lua_pushlstring(L, at, (size_t)(end - at));
        wrap(L, "big_number");
        return next;
    case '=':
        lua_createtable(L, 0, 2);
        lua_pushlstring(L, next, 3);
        lua_setfield(L, -2, "format");
        lua_pushlstring(L, next + 4, (size_t)number - 4);
        lua_setfield(L, -2, "string");
        wrap(L, "verbatim_string");
        return next + number + 2;
    case '%':
        lua_createtable(L, 0, (int)number);
        while (number-- > 0) {
            next = push(L, next, depth + 1);
            next = push(L, next, depth + 1);
            lua_rawset(L, -3);
        }
        wrap(L, "map");
        return next;
    case '~':
        lua_createtable(L, 0, (int)number);
        while (number-- > 0) {
            next = push(L, next, depth + 1);
            lua_pushboolean(L, 1);
            lua_rawset(L, -3);
        }
        wrap(L, "set");
        return next;
    case '|':
        // What is told beside a reply is not shown to scripts.
        for (number *= 2; number > 0; number--) {
            next = push(L, next, depth + 1);
            lua_pop(L, 1);
        }
        return push(L, next, depth + 1);
    default: luaL_error(L, "a reply of an unknown kind"); return next;
    }
}
