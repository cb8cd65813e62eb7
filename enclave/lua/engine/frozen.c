// Tables that cannot be changed by scripts.

#include "lauxlib.h"

#define FROZEN 0x80

static void thaw_check(lua_State *L, Table *t)
{
    if (t->marked & FROZEN) luaG_runerror(L, "Attempt to modify a readonly table");
}

static TValue *frozen_set(lua_State *L, Table *t, const TValue *key)
{
    thaw_check(L, t);
    return luaH_set(L, t, key);
}

static TValue *frozen_setnum(lua_State *L, Table *t, int key)
{
    thaw_check(L, t);
    return luaH_setnum(L, t, key);
}

// Freezes a table, not what is in it.
static int native_freeze(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    ((Table *)lua_topointer(L, 1))->marked |= FROZEN;
    lua_settop(L, 1);
    return 1;
}

static int native_is_frozen(lua_State *L)
{
    lua_pushboolean(L, lua_type(L, 1) == LUA_TTABLE && ((const Table *)lua_topointer(L, 1))->marked & FROZEN);
    return 1;
}

// Sets a field of a frozen table.
static int native_put(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    Table *t = (Table *)lua_topointer(L, 1);
    lua_settop(L, 3);
    t->marked &= (lu_byte)~FROZEN;
    lua_rawset(L, 1);
    t->marked |= FROZEN;
    return 0;
}
