// The library `cmsgpack`: MessagePack (<https://github.com/msgpack/msgpack/blob/master/spec.md>).

// Tables nested deeper than this are packed as nil, as Redis does: a table may contain itself.
#define PACK_DEPTH 16
// Deeper than this nothing is unpacked: each level takes a frame of C's stack.
#define UNPACK_DEPTH 1000

static void put_byte(luaL_Buffer *into, unsigned byte) { luaL_addchar(into, (char)byte); }

// A kind, and a number of so many bytes, the highest first.
static void put_number(luaL_Buffer *into, unsigned kind, uint64_t number, int bytes)
{
    put_byte(into, kind);
    while (bytes-- > 0) put_byte(into, (unsigned)(number >> 8 * bytes) & 255);
}

static void pack_length(luaL_Buffer *into, size_t length, unsigned fix, size_t fix_end, unsigned first, int has_8)
{
    if (length < fix_end) put_byte(into, fix | (unsigned)length);
    else if (has_8 && length <= 0xff) put_number(into, first, length, 1);
    else if (length <= 0xffff) put_number(into, first + has_8, length, 2);
    else put_number(into, first + has_8 + 1, length, 4);
}

static void pack_number(luaL_Buffer *into, lua_Number number)
{
    // Within these bounds the conversion is exact where the number is whole.
    if (number >= -9223372036854775808.0 && number < 18446744073709551616.0 && number == __builtin_floor(number)) {
        if (number >= 0) {
            uint64_t n = (uint64_t)number;
            if (n < 0x80) put_byte(into, (unsigned)n);
            else if (n <= 0xff) put_number(into, 0xcc, n, 1);
            else if (n <= 0xffff) put_number(into, 0xcd, n, 2);
            else if (n <= 0xffffffff) put_number(into, 0xce, n, 4);
            else put_number(into, 0xcf, n, 8);
        } else {
            int64_t n = (int64_t)number;
            if (n >= -32) put_byte(into, (unsigned)n & 0xff);
            else if (n >= INT8_MIN) put_number(into, 0xd0, (uint64_t)n, 1);
            else if (n >= INT16_MIN) put_number(into, 0xd1, (uint64_t)n, 2);
            else if (n >= INT32_MIN) put_number(into, 0xd2, (uint64_t)n, 4);
            else put_number(into, 0xd3, (uint64_t)n, 8);
        }
        return;
    }
    float single = (float)number;
    if ((lua_Number)single == number) {
        uint32_t bytes;
        memcpy(&bytes, &single, 4);
        put_number(into, 0xca, bytes, 4);
    } else {
        uint64_t bytes;
        memcpy(&bytes, &number, 8);
        put_number(into, 0xcb, bytes, 8);
    }
}

// Whether its keys are 1, 2, and so on; and how many there are.
static int is_list(lua_State *L, int table, size_t *count)
{
    lua_Number most = 0;
    int list = 1;
    *count = 0;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        lua_Number key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
        list &= key >= 1 && key == __builtin_floor(key);
        if (key > most) most = key;
        ++*count;
    }
    return list && most == (lua_Number)*count;
}

// Packs the value at `at` of the stack. The buffer's parts lie on a stack of their own (`B->L`), so that values can be pushed here.
static void pack(lua_State *L, luaL_Buffer *into, int at, int depth)
{
    size_t length;
    luaL_checkstack(L, 6, "too many nested tables");
    switch (lua_type(L, at)) {
    case LUA_TSTRING: {
        const char *text = lua_tolstring(L, at, &length);
        pack_length(into, length, 0xa0, 32, 0xd9, 1);
        luaL_addlstring(into, text, length);
        break;
    }
    case LUA_TNUMBER: pack_number(into, lua_tonumber(L, at)); break;
    case LUA_TBOOLEAN: put_byte(into, lua_toboolean(L, at) ? 0xc3 : 0xc2); break;
    case LUA_TTABLE:
        if (depth == PACK_DEPTH) { put_byte(into, 0xc0); break; }
        if (is_list(L, at, &length)) {
            pack_length(into, length, 0x90, 16, 0xdc, 0);
            for (size_t i = 1; i <= length; i++) {
                lua_rawgeti(L, at, (int)i);
                pack(L, into, lua_gettop(L), depth + 1);
                lua_pop(L, 1);
            }
        } else {
            pack_length(into, length, 0x80, 16, 0xde, 0);
            for (lua_pushnil(L); lua_next(L, at); lua_pop(L, 1)) {
                int value = lua_gettop(L);
                pack(L, into, value - 1, depth + 1);
                pack(L, into, value, depth + 1);
            }
        }
        break;
    default: put_byte(into, 0xc0);
    }
}

static int msgpack_pack(lua_State *L)
{
    int count = lua_gettop(L);
    if (!count) return luaL_argerror(L, 0, "MessagePack pack needs input.");
    lua_State *parts = lua_newthread(L);
    luaL_Buffer buffer;
    luaL_buffinit(parts, &buffer);
    for (int i = 1; i <= count; i++) pack(L, &buffer, i, 0);
    luaL_pushresult(&buffer);
    lua_xmove(parts, L, 1);
    return 1;
}

struct input { const unsigned char *at, *end; };

static const unsigned char *take(lua_State *L, struct input *from, size_t length)
{
    if ((size_t)(from->end - from->at) < length) luaL_error(L, "Missing bytes in input.");
    from->at += length;
    return from->at - length;
}

static uint64_t take_number(lua_State *L, struct input *from, int bytes)
{
    const unsigned char *at = take(L, from, (size_t)bytes);
    uint64_t number = 0;
    while (bytes-- > 0) number = number << 8 | *at++;
    return number;
}

static void unpack_value(lua_State *L, struct input *from, int depth);

static void unpack_list(lua_State *L, struct input *from, size_t length, int depth)
{
    lua_newtable(L);
    for (size_t i = 1; i <= length; i++) {
        unpack_value(L, from, depth + 1);
        lua_rawseti(L, -2, (int)i);
    }
}

static void unpack_map(lua_State *L, struct input *from, size_t length, int depth)
{
    lua_newtable(L);
    while (length-- > 0) {
        unpack_value(L, from, depth + 1);
        unpack_value(L, from, depth + 1);
        lua_rawset(L, -3);
    }
}

static void unpack_string(lua_State *L, struct input *from, size_t length) { lua_pushlstring(L, (const char *)take(L, from, length), length); }

static void unpack_value(lua_State *L, struct input *from, int depth)
{
    if (depth > UNPACK_DEPTH) luaL_error(L, "Bad data format in input.");
    luaL_checkstack(L, 5, "too many values at once; use unpack_one or unpack_limit instead.");
    unsigned kind = *take(L, from, 1);
    switch (kind) {
    case 0xc0: lua_pushnil(L); return;
    case 0xc2: case 0xc3: lua_pushboolean(L, kind == 0xc3); return;
    case 0xca: {
        uint32_t bytes = (uint32_t)take_number(L, from, 4);
        float single;
        memcpy(&single, &bytes, 4);
        lua_pushnumber(L, single);
        return;
    }
    case 0xcb: {
        uint64_t bytes = take_number(L, from, 8);
        lua_Number number;
        memcpy(&number, &bytes, 8);
        lua_pushnumber(L, number);
        return;
    }
    case 0xcc: case 0xcd: case 0xce: case 0xcf: lua_pushnumber(L, (lua_Number)take_number(L, from, 1 << (kind - 0xcc))); return;
    case 0xd0: lua_pushnumber(L, (int8_t)take_number(L, from, 1)); return;
    case 0xd1: lua_pushnumber(L, (int16_t)take_number(L, from, 2)); return;
    case 0xd2: lua_pushnumber(L, (int32_t)take_number(L, from, 4)); return;
    case 0xd3: lua_pushnumber(L, (lua_Number)(int64_t)take_number(L, from, 8)); return;
    // Bytes are strings, too.
    case 0xc4: case 0xc5: case 0xc6: unpack_string(L, from, take_number(L, from, 1 << (kind - 0xc4))); return;
    case 0xd9: case 0xda: case 0xdb: unpack_string(L, from, take_number(L, from, 1 << (kind - 0xd9))); return;
    case 0xdc: case 0xdd: unpack_list(L, from, take_number(L, from, 2 << (kind - 0xdc)), depth); return;
    case 0xde: case 0xdf: unpack_map(L, from, take_number(L, from, 2 << (kind - 0xde)), depth); return;
    }
    if (kind < 0x80) lua_pushnumber(L, kind);
    else if (kind >= 0xe0) lua_pushnumber(L, (int8_t)kind);
    else if (kind < 0x90) unpack_map(L, from, kind & 15, depth);
    else if (kind < 0xa0) unpack_list(L, from, kind & 15, depth);
    else if (kind < 0xc0) unpack_string(L, from, kind & 31);
    else luaL_error(L, "Bad data format in input.");
}

// At most `limit` values (0: all) from `offset` on. If `told`, the first result is where the next one begins, -1 at the end.
static int unpack_from(lua_State *L, lua_Number limit, lua_Number offset, int told)
{
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    if (!(offset >= 0 && limit >= 0)) {
        return luaL_error(L, "Invalid request to unpack with offset of %d and limit of %d.", (int)offset, (int)limit);
    }
    if (offset > (lua_Number)length) return luaL_error(L, "Start offset %d greater than input length %d.", (int)offset, (int)length);
    struct input from = { (const unsigned char *)text + (size_t)offset, (const unsigned char *)text + length };
    int count = 0;
    lua_settop(L, 1);
    if (told) lua_pushnil(L);
    while (from.at < from.end && (limit == 0 || count < limit)) {
        unpack_value(L, &from, 0);
        count++;
    }
    if (told) {
        lua_pushnumber(L, from.at == from.end ? -1 : (lua_Number)(from.at - (const unsigned char *)text));
        lua_replace(L, 2);
    }
    return count + told;
}

static int msgpack_unpack(lua_State *L) { return unpack_from(L, 0, 0, 0); }
static int msgpack_unpack_one(lua_State *L) { return unpack_from(L, 1, luaL_optnumber(L, 2, 0), 1); }
static int msgpack_unpack_limit(lua_State *L) { return unpack_from(L, luaL_checknumber(L, 2), luaL_optnumber(L, 3, 0), 1); }

static const luaL_Reg msgpack[] = {
    { "pack", msgpack_pack },
    { "unpack", msgpack_unpack },
    { "unpack_one", msgpack_unpack_one },
    { "unpack_limit", msgpack_unpack_limit },
    { NULL, NULL },
};
