// The library `struct`: values as C lays them out in memory, on a 64-bit machine.

struct layout {
    const char *at;
    int big;
    // Alignment that nothing exceeds: 1 unless the format says otherwise.
    size_t align;
    // Bytes so far.
    size_t total;
};

#define MOST_BYTES 32
#define NATIVE_ALIGN 8

static size_t digits(lua_State *L, struct layout *layout, size_t otherwise)
{
    if (*layout->at < '0' || *layout->at > '9') return otherwise;
    size_t number = 0;
    while (*layout->at >= '0' && *layout->at <= '9') {
        number = number * 10 + (size_t)(*layout->at++ - '0');
        if (number > INT32_MAX) luaL_error(L, "integral size overflow");
    }
    return number;
}

// The next item: its letter, size and the padding before it. 0 at the end.
static char next_item(lua_State *L, struct layout *layout, size_t *size, size_t *padding)
{
    for (;;) {
        char kind = *layout->at;
        if (!kind) return 0;
        layout->at++;
        *padding = 0;
        switch (kind) {
        case '>': layout->big = 1; continue;
        case '<': case '=': layout->big = 0; continue;
        case ' ': continue;
        case '!': {
            size_t align = digits(L, layout, NATIVE_ALIGN);
            if (!align || align & (align - 1)) luaL_error(L, "alignment is not a power of 2");
            layout->align = align;
            continue;
        }
        case 'x': *size = 1; return kind;
        case 's': *size = 0; return kind;
        case 'c': *size = digits(L, layout, 1); return kind;
        case 'b': case 'B': *size = 1; break;
        case 'h': case 'H': *size = 2; break;
        case 'i': case 'I':
            *size = digits(L, layout, 4);
            if (*size > MOST_BYTES || !*size) luaL_error(L, "integral size %d is larger than limit of %d", (int)*size, MOST_BYTES);
            break;
        case 'l': case 'L': case 'T': case 'd': *size = 8; break;
        case 'f': *size = 4; break;
        default: luaL_error(L, "invalid format option '%c'", kind);
        }
        size_t align = *size < layout->align ? *size : layout->align;
        if (align > 1) {
            if (align & (align - 1)) luaL_error(L, "alignment is not a power of 2");
            *padding = (align - (layout->total & (align - 1))) & (align - 1);
        }
        return kind;
    }
}

// A number's bytes in the layout's order; what is beyond 8 repeats its sign.
static void put_integer(luaL_Buffer *into, const struct layout *layout, uint64_t number, size_t size, int negative)
{
    for (size_t i = 0; i < size; i++) {
        size_t place = layout->big ? size - 1 - i : i;
        luaL_addchar(into, (char)(place < 8 ? number >> 8 * place : negative ? 0xff : 0));
    }
}

static int struct_pack(lua_State *L)
{
    struct layout layout = { luaL_checkstring(L, 1), 0, 1, 0 };
    int argument = 2;
    size_t size, padding;
    luaL_Buffer buffer;
    // Arguments are looked at while the buffer grows: its parts lie on another stack.
    lua_State *parts = lua_newthread(L);
    luaL_buffinit(parts, &buffer);
    for (char kind; (kind = next_item(L, &layout, &size, &padding));) {
        for (size_t i = 0; i < padding; i++) luaL_addchar(&buffer, 0);
        layout.total += padding + size;
        switch (kind) {
        case 'x': luaL_addchar(&buffer, 0); continue;
        case 's': case 'c': {
            size_t length;
            const char *text = luaL_checklstring(L, argument, &length);
            if (kind == 's' || !size) {
                layout.total += length;
                size = length;
            }
            luaL_argcheck(L, length >= size, argument, "string too short");
            luaL_addlstring(&buffer, text, size);
            if (kind == 's') {
                luaL_addchar(&buffer, 0);
                layout.total++;
            }
            break;
        }
        case 'f': {
            float single = (float)luaL_checknumber(L, argument);
            uint32_t bytes;
            memcpy(&bytes, &single, 4);
            put_integer(&buffer, &layout, bytes, 4, 0);
            break;
        }
        case 'd': {
            lua_Number number = luaL_checknumber(L, argument);
            uint64_t bytes;
            memcpy(&bytes, &number, 8);
            put_integer(&buffer, &layout, bytes, 8, 0);
            break;
        }
        default: {
            lua_Number number = luaL_checknumber(L, argument);
            put_integer(&buffer, &layout, number < 0 ? (uint64_t)(int64_t)number : (uint64_t)number, size, number < 0);
        }
        }
        argument++;
    }
    luaL_pushresult(&buffer);
    lua_xmove(parts, L, 1);
    return 1;
}

static uint64_t get_integer(const struct layout *layout, const char *at, size_t size)
{
    uint64_t number = 0;
    for (size_t i = 0; i < size; i++) {
        size_t place = layout->big ? size - 1 - i : i;
        if (place < 8) number |= (uint64_t)(unsigned char)at[i] << 8 * place;
    }
    return number;
}

static int struct_unpack(lua_State *L)
{
    struct layout layout = { luaL_checkstring(L, 1), 0, 1, 0 };
    size_t length, size, padding;
    const char *data = luaL_checklstring(L, 2, &length);
    lua_Number start = luaL_optnumber(L, 3, 1);
    luaL_argcheck(L, start >= 1 && start - 1 <= (lua_Number)length, 3, "offset must be 1 or greater, and not beyond the data");
    size_t at = (size_t)start - 1;
    int count = 0;
    lua_settop(L, 2);
    for (char kind; (kind = next_item(L, &layout, &size, &padding));) {
        // Alignment counts from the beginning of the data.
        layout.total = at;
        luaL_argcheck(L, padding <= length - at && size <= length - at - padding, 2, "data string too short");
        at += padding;
        luaL_checkstack(L, 2, "too many results");
        const char *here = data + at;
        switch (kind) {
        case 'x': break;
        case 's': {
            const char *end = memchr(here, 0, length - at);
            if (!end) return luaL_error(L, "unfinished string in data");
            size = (size_t)(end - here) + 1;
            lua_pushlstring(L, here, size - 1);
            count++;
            break;
        }
        case 'c':
            if (!size) {
                if (!count || lua_type(L, -1) != LUA_TNUMBER) return luaL_error(L, "format 'c0' needs a previous size");
                lua_Number wanted = lua_tonumber(L, -1);
                lua_pop(L, 1);
                count--;
                luaL_argcheck(L, wanted >= 0 && wanted <= (lua_Number)(length - at), 2, "data string too short");
                size = (size_t)wanted;
            }
            lua_pushlstring(L, here, size);
            count++;
            break;
        case 'f': {
            uint32_t bytes = (uint32_t)get_integer(&layout, here, 4);
            float single;
            memcpy(&single, &bytes, 4);
            lua_pushnumber(L, single);
            count++;
            break;
        }
        case 'd': {
            uint64_t bytes = get_integer(&layout, here, 8);
            lua_Number number;
            memcpy(&number, &bytes, 8);
            lua_pushnumber(L, number);
            count++;
            break;
        }
        default: {
            uint64_t number = get_integer(&layout, here, size);
            int is_signed = kind == 'b' || kind == 'h' || kind == 'i' || kind == 'l';
            if (is_signed) {
                size_t unused = size < 8 ? 64 - 8 * size : 0;
                lua_pushnumber(L, (lua_Number)((int64_t)(number << unused) >> unused));
            } else {
                lua_pushnumber(L, (lua_Number)number);
            }
            count++;
        }
        }
        at += size;
        layout.total = at;
    }
    lua_pushnumber(L, (lua_Number)at + 1);
    return count + 1;
}

static int struct_size(lua_State *L)
{
    struct layout layout = { luaL_checkstring(L, 1), 0, 1, 0 };
    size_t size, padding;
    for (char kind; (kind = next_item(L, &layout, &size, &padding));) {
        if (kind == 's') return luaL_error(L, "variable-size format in 'size'");
        if (kind == 'c' && !size) return luaL_error(L, "variable-length format in 'size'");
        layout.total += padding + size;
    }
    lua_pushnumber(L, (lua_Number)layout.total);
    return 1;
}

static const luaL_Reg structs[] = { { "pack", struct_pack }, { "unpack", struct_unpack }, { "size", struct_size }, { NULL, NULL } };
