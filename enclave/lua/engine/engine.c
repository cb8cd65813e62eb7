// The script engine as a WebAssembly reactor: Lua 5.1.5 with the few entry points that the database calls, and its natives.
//
// Lua leaves a protected call by longjmp, which WebAssembly lacks. Here each protected call goes through the host, which calls back into
// `te_invoke`; a throw is a trap that the host ends there. Everything is one translation unit, so that the macros reach Lua's own files.
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
// A request of a script, as encoded arguments; `ask` is one of `enum ask`. The reply is RESP, left with the host; its length.
HOST("call") extern size_t host_call(uint32_t ask, const char *request, size_t length);
HOST("take") extern void host_take(void *buffer);
HOST("log") extern void host_log(int level, const char *text, size_t length);
HOST("sha1") extern void host_sha1(const char *text, size_t length, char *hex);
// Called every so many instructions of Lua's. Does not come back when the script is to end.
HOST("tick") extern void host_tick(void);
// From now on replies come in this version of the protocol.
HOST("version") extern void host_version(uint32_t version);
HOST("seed") extern uint32_t host_seed(void);
HOST("clock") extern double host_clock(void);

enum ask { ASK_CALL = 0, ASK_MAY = 1 };

#define LUA_CORE
#include "lua.h"
#undef luai_jmpbuf
#undef LUAI_THROW
#undef LUAI_TRY
#define luai_jmpbuf int
#define LUAI_THROW(L, c) host_throw()
#define LUAI_TRY(L, c, a) host_try((void *)f, L, ud)
#define tmpnam(x) (x)
#include "ltable.c"
// Tables that scripts share and must not change: every way of changing one goes through these two functions. The bit is one that the
// collector keeps and does not use.
#include "frozen.c"
#define luaH_set frozen_set
#define luaH_setnum frozen_setnum
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

static lua_State *L0;
EXPORT("te_used") size_t te_used(void) { return L0 ? (size_t)lua_gc(L0, LUA_GCCOUNT, 0) * 1024 + (size_t)lua_gc(L0, LUA_GCCOUNTB, 0) : 0; }

#include "replies.c"
#include "bits.c"
#include "msgpack.c"
#include "structs.c"

// Instructions of Lua's between two looks at whether the script is to end.
#define TICK 50000
// Scripts between two steps of the collector.
#define COLLECT_EVERY 50

static void tick(lua_State *L, lua_Debug *record)
{
    (void)L, (void)record;
    host_tick();
}

static size_t request(lua_State *L, enum ask ask)
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
    const char *bytes = lua_tolstring(L, -1, &length);
    size_t size = host_call(ask, bytes, length);
    // There may have been as many arguments as there is room.
    lua_settop(L, 0);
    char *reply = lua_newuserdata(L, size + 1);
    host_take(reply);
    reply[size] = 0;
    push(L, reply, 0);
    return size;
}

// Leaves the table of an error on the stack.
static int error_table(lua_State *L, const char *text)
{
    lua_createtable(L, 0, 1);
    lua_pushstring(L, text);
    lua_setfield(L, -2, "err");
    return 1;
}

// redis.pcall: the reply, or the table of an error.
static int native_pcall(lua_State *L)
{
    int count = lua_gettop(L);
    if (!count) return error_table(L, "ERR Please specify at least one argument for this redis.call() call");
    for (int i = 1; i <= count; i++) {
        int type = lua_type(L, i);
        if (type != LUA_TSTRING && type != LUA_TNUMBER) {
            return error_table(L, "ERR Lua redis lib command arguments must be strings or integers");
        }
    }
    request(L, ASK_CALL);
    return 1;
}

// redis.call: an error is raised.
static int native_call(lua_State *L)
{
    native_pcall(L);
    if (lua_type(L, -1) == LUA_TTABLE && member(L, "err", LUA_TSTRING)) {
        lua_pop(L, 1);
        lua_error(L);
    }
    return 1;
}

// redis.acl_check_cmd: whether the user may.
static int native_may(lua_State *L)
{
    int count = lua_gettop(L);
    if (!count) return luaL_error(L, "Please specify at least one argument for this redis.acl_check_cmd() call");
    for (int i = 1; i <= count; i++) {
        if (!lua_isstring(L, i)) return luaL_error(L, "redis.acl_check_cmd() arguments must be strings or integers");
    }
    request(L, ASK_MAY);
    if (lua_type(L, -1) != LUA_TNUMBER) return luaL_error(L, "Invalid command passed to redis.acl_check_cmd()");
    lua_pushboolean(L, lua_tonumber(L, -1) != 0);
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

static int native_version(lua_State *L)
{
    script_version = (int)luaL_checknumber(L, 1);
    host_version((uint32_t)script_version);
    return 0;
}

static int native_clock(lua_State *L) { lua_pushnumber(L, host_clock()); return 1; }

// Where in the script we are: "@user_script:3", or nothing.
static int native_where(lua_State *L)
{
    lua_Debug record;
    for (int level = 1; lua_getstack(L, level, &record); level++) {
        if (lua_getinfo(L, "Sl", &record) && !strncmp(record.source, "@user_", 6)) {
            lua_pushfstring(L, "%s:%d", record.source, record.currentline);
            return 1;
        }
    }
    return 0;
}

static const luaL_Reg natives[] = {
    { "call", native_call },       { "pcall", native_pcall },     { "may", native_may },     { "log", native_log },
    { "sha1hex", native_sha1 },    { "version", native_version }, { "clock", native_clock }, { "where", native_where },
    { "freeze", native_freeze },   { "is_frozen", native_is_frozen }, { "put", native_put }, { NULL, NULL },
};

static int fail(lua_State *L)
{
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    if (!text) text = "an error without a text", length = strlen(text);
    out_length = 0;
    line('-', text, length);
    lua_settop(L, 0);
    return 1;
}

static void library(lua_State *L, const char *name, const luaL_Reg *functions)
{
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    lua_setfield(L, -2, name);
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
    library(L, "bit", bits);
    library(L, "cmsgpack", msgpack);
    library(L, "struct", structs);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    lua_call(L, 1, 1);
    // What the prelude gives: what is called for scripts and functions, and the globals that they see.
    lua_getfield(L, -1, "globals");
    lua_replace(L, LUA_GLOBALSINDEX);
    lua_setfield(L, LUA_REGISTRYINDEX, "teemate.prelude");
    lua_sethook(L, tick, LUA_MASKCOUNT, TICK);
    return 0;
}

// Makes the state and runs the prelude.
EXPORT("te_init") int te_init(const char *prelude, size_t length)
{
    srand(host_seed());
    L0 = luaL_newstate();
    if (!L0) return 1;
    lua_pushcfunction(L0, prepare);
    lua_pushlightuserdata(L0, (void *)prelude);
    lua_pushnumber(L0, (lua_Number)length);
    return lua_pcall(L0, 2, 0, 0) ? fail(L0) : 0;
}

enum what { EVAL = 0, LOAD = 1, CALL = 2, COMPILE = 3 };

// What the host asked for: it is passed so because a protected call takes one pointer.
static struct {
    enum what what;
    // Of a script its SHA-1; of a library what the host calls it by; ends with 0.
    const char *name;
    // The script, the library, or the function's name.
    const char *text;
    size_t length;
    const char *arguments;
    uint32_t keys, all;
} job;

static void compile(lua_State *L, const char *chunk, const char *what)
{
    const char *why;
    if (job.length && job.text[0] == LUA_SIGNATURE[0]) why = "bytecode is not a script";
    else if (!luaL_loadbuffer(L, job.text, job.length, chunk)) return;
    else why = lua_tostring(L, -1);
    lua_pushfstring(L, "ERR Error compiling %s: %s", what, why);
    lua_error(L);
}

// Pushes a table of the arguments from one to another.
static const char *arguments(lua_State *L, const char *at, uint32_t count)
{
    lua_createtable(L, (int)count, 0);
    for (uint32_t i = 1; i <= count; i++) {
        uint32_t size;
        memcpy(&size, at, 4);
        lua_pushlstring(L, at + 4, size);
        lua_rawseti(L, -2, (int)i);
        at += 4 + size;
    }
    return at;
}

// Leaves what came of the job as RESP in `out`.
static int run(lua_State *L)
{
    static const char *const called[] = { "eval", "load", "call", "eval" };
    lua_getfield(L, LUA_REGISTRYINDEX, "teemate.prelude");
    lua_getfield(L, -1, called[job.what]);
    lua_getfield(L, LUA_REGISTRYINDEX, job.name);
    switch (job.what) {
    case EVAL:
    case COMPILE:
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            compile(L, "@user_script", "script (new function)");
            lua_pushvalue(L, -1);
            lua_setfield(L, LUA_REGISTRYINDEX, job.name);
        }
        if (job.what == COMPILE) return 0;
        break;
    case LOAD:
        lua_pop(L, 1);
        compile(L, "@user_function", "function");
        lua_call(L, 1, 2);
        // Its functions by their names are kept, and what is told of them is the reply.
        if (lua_istable(L, -1)) {
            lua_pushvalue(L, -1);
            lua_setfield(L, LUA_REGISTRYINDEX, job.name);
        }
        lua_pop(L, 1);
        answer(L, 0);
        return 0;
    case CALL:
        if (!lua_istable(L, -1)) luaL_error(L, "the library is not loaded");
        lua_pushlstring(L, job.text, job.length);
        lua_rawget(L, -2);
        lua_remove(L, -2);
        break;
    }
    arguments(L, arguments(L, job.arguments, job.keys), job.all - job.keys);
    if (job.what == CALL) lua_pushlstring(L, job.text, job.length);
    else lua_pushstring(L, job.name);
    lua_call(L, 4, 1);
    answer(L, 0);
    return 0;
}

// `out` holds the reply. 0; or it is an error: 1, one that was told to nobody yet; 2, of a command, counted already.
EXPORT("te_run")
int te_run(uint32_t what, const char *name, const char *text, size_t length, const char *arguments, uint32_t keys, uint32_t all,
    uint32_t version)
{
    static unsigned runs;
    job.what = what, job.name = name, job.text = text, job.length = length;
    job.arguments = arguments, job.keys = keys, job.all = all;
    client_version = (int)version, script_version = 2, out_length = 0, is_error = 0;
    lua_settop(L0, 0);
    lua_pushcfunction(L0, run);
    int failed = lua_pcall(L0, 0, 0, 0) ? fail(L0) : is_error;
    if (++runs % COLLECT_EVERY == 0) lua_gc(L0, LUA_GCSTEP, COLLECT_EVERY);
    return failed;
}

// A library goes.
EXPORT("te_forget") void te_forget(const char *name)
{
    lua_pushnil(L0);
    lua_setfield(L0, LUA_REGISTRYINDEX, name);
}
