// The script engine as a WebAssembly reactor: Lua 5.1.5 with the few entry points that the database calls, and its natives.
//
// Lua leaves a protected call by longjmp, which WebAssembly lacks. Here each protected call goes through the host, which calls back into
// `te_invoke`; a throw is a trap that the host ends there. Everything is one translation unit, so that the two macros reach `ldo.c`.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define HOST(name) __attribute__((import_module("teemate"), import_name(name)))

typedef void (*Protected)(void *state, void *data);
HOST("try") extern void host_try(void *function, void *state, void *data);
HOST("throw") extern _Noreturn void host_throw(void);
// A request of a script, as encoded arguments. The reply is RESP, left with the host; its length.
HOST("call") extern size_t host_call(const char *request, size_t length);
HOST("take") extern void host_take(void *buffer);
HOST("log") extern void host_log(int level, const char *text, size_t length);
HOST("sha1") extern void host_sha1(const char *text, size_t length, char *hex);

#define LUA_CORE
#include "lua.h"
#undef luai_jmpbuf
#undef LUAI_THROW
#undef LUAI_TRY
#define luai_jmpbuf int
#define LUAI_THROW(L, c) host_throw()
#define LUAI_TRY(L, c, a) host_try((void *)f, L, ud)
#define tmpnam(x) (x)
#include "lapi.c"
#include "lcode.c"
#include "ldebug.c"
#include "ldo.c"
#include "ldump.c"
#include "lfunc.c"
#include "lgc.c"
#include "llex.c"
#include "lmem.c"
#include "lobject.c"
#include "lopcodes.c"
#include "lparser.c"
#include "lstate.c"
#include "lstring.c"
#include "ltable.c"
#include "ltm.c"
#include "lundump.c"
#include "lvm.c"
#include "lzio.c"
#include "lauxlib.c"
#include "lbaselib.c"
#include "lmathlib.c"
#include "lstrlib.c"
#include "ltablib.c"

EXPORT("te_invoke") void te_invoke(void *function, void *state, void *data) { ((Protected)function)(state, data); }
EXPORT("te_alloc") void *te_alloc(size_t length) { return malloc(length ? length : 1); }
EXPORT("te_free") void te_free(void *place) { free(place); }

// How deep replies and tables may be nested: as deep as Redis lets them be.
#define MAX_DEPTH 100

static lua_State *L0;
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

// A line: its kind and a text in which line ends become spaces.
static void line(char kind, const char *text, size_t length)
{
    put(&kind, 1);
    for (size_t i = 0; i < length; i++) {
        char byte = text[i] == '\r' || text[i] == '\n' ? ' ' : text[i];
        put(&byte, 1);
    }
    put("\r\n", 2);
}

static int member(lua_State *L, const char *name, int type)
{
    lua_pushstring(L, name);
    lua_rawget(L, -2);
    if (lua_type(L, -1) == type) return 1;
    lua_pop(L, 1);
    return 0;
}

// Writes the value on top of the stack as RESP2, and pops it.
static void answer(lua_State *L, int depth)
{
    size_t length;
    const char *text;
    if (depth > MAX_DEPTH || !lua_checkstack(L, 8)) {
        static const char sentence[] = "ERR reached lua stack limit";
        line('-', sentence, sizeof sentence - 1);
        lua_pop(L, 1);
        return;
    }
    switch (lua_type(L, -1)) {
    case LUA_TSTRING: text = lua_tolstring(L, -1, &length); bulk(text, length); break;
    case LUA_TNUMBER: head(':', (long long)lua_tonumber(L, -1)); break;
    case LUA_TBOOLEAN: if (lua_toboolean(L, -1)) head(':', 1); else head('$', -1); break;
    case LUA_TTABLE:
        if (member(L, "err", LUA_TSTRING)) {
            text = lua_tolstring(L, -1, &length);
            line('-', text, length);
            lua_pop(L, 1);
            break;
        }
        if (member(L, "ok", LUA_TSTRING)) {
            text = lua_tolstring(L, -1, &length);
            line('+', text, length);
            lua_pop(L, 1);
            break;
        }
        length = 0;
        for (;; length++) {
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
        break;
    default: head('$', -1);
    }
    lua_pop(L, 1);
}

// Pushes the reply at `at` as a value; gives where the next one begins. The host wrote it: it is whole.
static const char *push(lua_State *L, const char *at, int depth)
{
    char kind = *at++;
    const char *end = strchr(at, '\r');
    if (!end || depth > MAX_DEPTH) luaL_error(L, "a reply cannot be read");
    luaL_checkstack(L, 4, "replies are nested too deep");
    long long number = kind == ':' || kind == '$' || kind == '*' ? strtoll(at, NULL, 10) : 0;
    const char *next = end + 2;
    switch (kind) {
    case ':': lua_pushnumber(L, (lua_Number)number); return next;
    case '+':
    case '-':
        lua_createtable(L, 0, 1);
        lua_pushlstring(L, at, end - at);
        lua_setfield(L, -2, kind == '+' ? "ok" : "err");
        return next;
    case '$':
        if (number < 0) { lua_pushboolean(L, 0); return next; }
        lua_pushlstring(L, next, (size_t)number);
        return next + number + 2;
    case '*':
        if (number < 0) { lua_pushboolean(L, 0); return next; }
        lua_createtable(L, (int)number, 0);
        for (int i = 1; i <= number; i++) {
            next = push(L, next, depth + 1);
            lua_rawseti(L, -2, i);
        }
        return next;
    default: luaL_error(L, "a reply of an unknown kind"); return next;
    }
}

// redis.call without its raising of errors, which the prelude does.
static int native_call(lua_State *L)
{
    int count = lua_gettop(L);
    luaL_Buffer buffer;
    for (int i = 1; i <= count; i++) {
        if (lua_type(L, i) == LUA_TNUMBER) {
            char text[64];
            lua_Number number = lua_tonumber(L, i);
            if (number == (lua_Number)(long long)number) snprintf(text, sizeof text, "%lld", (long long)number);
            else snprintf(text, sizeof text, "%.17g", number);
            lua_pushstring(L, text);
            lua_replace(L, i);
        }
    }
    luaL_buffinit(L, &buffer);
    for (int i = 1; i <= count; i++) {
        size_t length;
        const char *text = lua_tolstring(L, i, &length);
        uint32_t size = (uint32_t)length;
        luaL_addlstring(&buffer, (const char *)&size, 4);
        luaL_addlstring(&buffer, text, length);
    }
    luaL_pushresult(&buffer);
    size_t length;
    const char *request = lua_tolstring(L, -1, &length);
    size_t size = host_call(request, length);
    char *reply = lua_newuserdata(L, size + 1);
    host_take(reply);
    reply[size] = 0;
    push(L, reply, 0);
    return 1;
}

static int native_log(lua_State *L)
{
    size_t length;
    const char *text = luaL_checklstring(L, 2, &length);
    host_log((int)luaL_checknumber(L, 1), text, length);
    return 0;
}

static int native_sha1(lua_State *L)
{
    size_t length;
    char hex[40];
    const char *text = luaL_checklstring(L, 1, &length);
    host_sha1(text, length, hex);
    lua_pushlstring(L, hex, 40);
    return 1;
}

static int32_t bits(lua_State *L, int at) { return (int32_t)(int64_t)luaL_checknumber(L, at); }
static int native_tobit(lua_State *L) { lua_pushnumber(L, bits(L, 1)); return 1; }
static int native_band(lua_State *L) { int32_t x = -1; for (int i = lua_gettop(L); i; i--) x &= bits(L, i); lua_pushnumber(L, x); return 1; }
static int native_bor(lua_State *L) { int32_t x = 0; for (int i = lua_gettop(L); i; i--) x |= bits(L, i); lua_pushnumber(L, x); return 1; }
static int native_bxor(lua_State *L) { int32_t x = 0; for (int i = lua_gettop(L); i; i--) x ^= bits(L, i); lua_pushnumber(L, x); return 1; }
static int native_lshift(lua_State *L) { lua_pushnumber(L, (int32_t)((uint32_t)bits(L, 1) << (bits(L, 2) & 31))); return 1; }
static int native_rshift(lua_State *L) { lua_pushnumber(L, (int32_t)((uint32_t)bits(L, 1) >> (bits(L, 2) & 31))); return 1; }
static int native_arshift(lua_State *L) { lua_pushnumber(L, bits(L, 1) >> (bits(L, 2) & 31)); return 1; }

static const luaL_Reg natives[] = {
    { "call", native_call },     { "log", native_log },       { "sha1hex", native_sha1 },   { "tobit", native_tobit },
    { "band", native_band },     { "bor", native_bor },       { "bxor", native_bxor },      { "lshift", native_lshift },
    { "rshift", native_rshift }, { "arshift", native_arshift }, { NULL, NULL },
};

static int fail(lua_State *L, const char *what)
{
    const char *text = lua_tostring(L, -1);
    lua_pushfstring(L, "%s%s", what, text ? text : "an error without a text");
    size_t length;
    text = lua_tolstring(L, -1, &length);
    out_length = 0;
    line('-', text, length);
    lua_settop(L, 0);
    return 1;
}

static int prepare(lua_State *L)
{
    static const lua_CFunction libraries[] = { luaopen_base, luaopen_table, luaopen_string, luaopen_math };
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        lua_pushcfunction(L, libraries[i]);
        lua_pushstring(L, "");
        lua_call(L, 1, 0);
    }
    size_t length = (size_t)lua_tonumber(L, 2);
    if (luaL_loadbuffer(L, lua_touserdata(L, 1), length, "=prelude")) lua_error(L);
    lua_newtable(L);
    luaL_register(L, NULL, natives);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    lua_call(L, 1, 1);
    // What the prelude gives is called for each script.
    lua_setfield(L, LUA_REGISTRYINDEX, "teemate.run");
    return 0;
}

// Makes the state and runs the prelude.
EXPORT("te_init") int te_init(const char *prelude, size_t length)
{
    L0 = luaL_newstate();
    if (!L0) return 1;
    lua_pushcfunction(L0, prepare);
    lua_pushlightuserdata(L0, (void *)prelude);
    lua_pushnumber(L0, (lua_Number)length);
    return lua_pcall(L0, 2, 0, 0) ? fail(L0, "") : 0;
}

static const char *name_, *text_, *arguments_;
static size_t length_;
static uint32_t keys_, all_;

// Compiles and keeps a script, or finds it, and leaves what it returns as RESP in `out`.
static int run(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "teemate.run");
    lua_getfield(L, LUA_REGISTRYINDEX, name_);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        if (length_ && text_[0] == LUA_SIGNATURE[0]) luaL_error(L, "ERR Error compiling script (new function): bytecode is not a script");
        if (luaL_loadbuffer(L, text_, length_, "@user_script")) {
            lua_pushfstring(L, "ERR Error compiling script (new function): %s", lua_tostring(L, -1));
            lua_error(L);
        }
        lua_pushvalue(L, -1);
        lua_setfield(L, LUA_REGISTRYINDEX, name_);
    }
    const char *at = arguments_;
    for (uint32_t from = 0, to = keys_, part = 0; part < 2; part++, from = keys_, to = all_) {
        lua_createtable(L, (int)(to - from), 0);
        for (uint32_t i = from; i < to; i++) {
            uint32_t size;
            memcpy(&size, at, 4);
            lua_pushlstring(L, at + 4, size);
            lua_rawseti(L, -2, (int)(i - from) + 1);
            at += 4 + size;
        }
    }
    lua_pushstring(L, name_);
    lua_call(L, 4, 1);
    out_length = 0;
    answer(L, 0);
    return 0;
}

// 0: `out` holds the reply. 1: it holds an error of the script's text; anything else cannot come.
EXPORT("te_eval") int te_eval(const char *name, const char *text, size_t length, const char *arguments, uint32_t keys, uint32_t all)
{
    name_ = name, text_ = text, length_ = length, arguments_ = arguments, keys_ = keys, all_ = all;
    lua_settop(L0, 0);
    lua_pushcfunction(L0, run);
    return lua_pcall(L0, 0, 0, 0) ? fail(L0, "") : 0;
}
