// The library `bit`: 32-bit integers.

static int32_t bits_of(lua_State *L, int at) { return (int32_t)(int64_t)luaL_checknumber(L, at); }
static uint32_t shift_of(lua_State *L, int at) { return (uint32_t)bits_of(L, at) & 31; }
static int give(lua_State *L, uint32_t x) { lua_pushnumber(L, (int32_t)x); return 1; }

static int bit_tobit(lua_State *L) { return give(L, (uint32_t)bits_of(L, 1)); }
static int bit_bnot(lua_State *L) { return give(L, ~(uint32_t)bits_of(L, 1)); }

#define FOLD(name, operation) \
    static int name(lua_State *L) \
    { \
        uint32_t x = (uint32_t)bits_of(L, 1); \
        for (int i = lua_gettop(L); i > 1; i--) x operation (uint32_t)bits_of(L, i); \
        return give(L, x); \
    }
FOLD(bit_band, &=)
FOLD(bit_bor, |=)
FOLD(bit_bxor, ^=)

static int bit_lshift(lua_State *L) { return give(L, (uint32_t)bits_of(L, 1) << shift_of(L, 2)); }
static int bit_rshift(lua_State *L) { return give(L, (uint32_t)bits_of(L, 1) >> shift_of(L, 2)); }
static int bit_arshift(lua_State *L) { return give(L, (uint32_t)(bits_of(L, 1) >> shift_of(L, 2))); }

static int rotate(lua_State *L, uint32_t by)
{
    uint32_t x = (uint32_t)bits_of(L, 1);
    return give(L, x << (by & 31) | x >> (-by & 31));
}

static int bit_rol(lua_State *L) { return rotate(L, shift_of(L, 2)); }
static int bit_ror(lua_State *L) { return rotate(L, -shift_of(L, 2)); }
static int bit_bswap(lua_State *L) { return give(L, __builtin_bswap32((uint32_t)bits_of(L, 1))); }

// The last digits, as many as asked for, in capitals if their number is negative.
static int bit_tohex(lua_State *L)
{
    char text[8];
    uint32_t x = (uint32_t)bits_of(L, 1);
    int32_t digits = lua_isnoneornil(L, 2) ? 8 : bits_of(L, 2);
    const char *letters = digits < 0 ? "0123456789ABCDEF" : "0123456789abcdef";
    uint32_t count = digits < 0 ? -(uint32_t)digits : (uint32_t)digits;
    if (count > sizeof text) count = sizeof text;
    for (uint32_t i = count; i-- > 0; x >>= 4) text[i] = letters[x & 15];
    lua_pushlstring(L, text, count);
    return 1;
}

static const luaL_Reg bits[] = {
    { "tobit", bit_tobit },   { "bnot", bit_bnot },       { "band", bit_band }, { "bor", bit_bor }, { "bxor", bit_bxor },
    { "lshift", bit_lshift }, { "rshift", bit_rshift },   { "arshift", bit_arshift }, { "rol", bit_rol }, { "ror", bit_ror },
    { "bswap", bit_bswap },   { "tohex", bit_tohex },     { NULL, NULL },
};
