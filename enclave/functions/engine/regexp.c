// Regular expressions: QuickJS-ng's matcher, and before it a filter that finds the places where a match can begin.
//
// QuickJS-ng looks for a match by trying each position of the text in turn with its backtracking interpreter, some thirty instructions of
// bytecode machinery for a position that the first character already rules out. Here the expression's bytecode is looked at once: which
// characters can be the first, second, ... of a match, up to eight. A shift-and automaton over these sets then runs over the text, one
// table lookup a character, and only where it says so the interpreter is started, there and nowhere else. An expression that begins with
// `^` is tried at the start of the text only.
//
// The sets are supersets: what the analysis does not know ends them, so a filter can let too much through, never too little. Order and
// result of the attempts are those of the original, which begins with `split, any, goto` to try positions one after the other.
#define lre_exec original_lre_exec
#include "libregexp.c"
#undef lre_exec

// Characters that the filter looks at: one bit of a byte each.
#define DEPTH 8
// Bytecode of an expression that is worth a filter. Each use compares it with the copy that the filter was made from.
#define LONGEST 512
#define CACHED 16
// Text, or uses of an expression with less text, from which on a filter is made: making one takes as long as some hundred attempts.
#define MUCH_TEXT 256
#define MANY_USES 16
// `split_goto_first +6, any, goto -11`: what lre_compile puts before an expression that is not sticky.
#define SEARCH 11

struct filter {
    const uint8_t *code;
    uint32_t length, uses;
    // Characters that the table looks at. 0: the filter rules nothing out.
    uint8_t depth;
    bool made, anchored;
    uint8_t copy[LONGEST];
    // For each character below 256, at which places it can be; the last entry for all others.
    uint8_t table[257];
};

static struct filter filters[CACHED];

static bool in_ranges(const uint8_t *ranges, int count, uint32_t c, bool wide)
{
    for (int i = 0; i < count; i++) {
        uint32_t low = wide ? get_u32(ranges + i * 8) : get_u16(ranges + i * 4);
        uint32_t high = wide ? get_u32(ranges + i * 8 + 4) : get_u16(ranges + i * 4 + 2);
        if (c >= low && c <= high) return true;
    }
    return false;
}

// Whether the instruction at `code`, which reads one character, takes `c`.
static bool takes(const uint8_t *code, uint32_t c, bool is_unicode)
{
    switch (code[0]) {
    case REOP_char: return c == get_u16(code + 1);
    case REOP_char_i: return (uint32_t)lre_canonicalize(c, is_unicode) == get_u16(code + 1);
    case REOP_char32: return c == get_u32(code + 1);
    case REOP_char32_i: return (uint32_t)lre_canonicalize(c, is_unicode) == get_u32(code + 1);
    case REOP_dot: return !is_line_terminator(c);
    case REOP_space: return lre_is_space(c);
    case REOP_not_space: return !lre_is_space(c);
    case REOP_range: return in_ranges(code + 3, get_u16(code + 1), c, false);
    case REOP_range_i: return in_ranges(code + 3, get_u16(code + 1), lre_canonicalize(c, is_unicode), false);
    case REOP_range32: return in_ranges(code + 3, get_u16(code + 1), c, true);
    case REOP_range32_i: return in_ranges(code + 3, get_u16(code + 1), lre_canonicalize(c, is_unicode), true);
    default: return true; // REOP_any
    }
}

static void make(struct filter *filter, const uint8_t *code, bool is_unicode)
{
    // Where the interpreter can be after so many characters: a bit of `seen` for each, and the ones that are still to be followed.
    static uint8_t seen[LONGEST];
    static uint16_t left[LONGEST * DEPTH];
    int count = 0, depth = DEPTH;
    uint32_t length = filter->length;
    memset(seen, 0, length);
    memset(filter->table, 0, sizeof filter->table);
#define FOLLOW(to, d)                                                                        \
    do {                                                                                     \
        uint32_t to_ = (to);                                                                 \
        if (to_ >= length) { depth = 0; break; }                                             \
        if ((d) < DEPTH && !(seen[to_] & 1 << (d))) {                                        \
            seen[to_] |= 1 << (d);                                                           \
            left[count++] = (uint16_t)(to_ * DEPTH + (d));                                   \
        }                                                                                    \
    } while (0)
    FOLLOW(SEARCH, 0);
    while (count > 0 && depth > 0) {
        uint32_t at = left[--count] / DEPTH;
        int d = left[count] % DEPTH;
        // What is only reached beyond the shortest known match says nothing.
        if (d >= depth) continue;
        const uint8_t *op = code + at;
        uint32_t size = at < length ? reopcode_info[op[0]].size : 0;
        switch (op[0]) {
        case REOP_range: case REOP_range_i:
            size += get_u16(op + 1) * 4;
            goto one;
        case REOP_range32: case REOP_range32_i:
            size += get_u16(op + 1) * 8;
            goto one;
        case REOP_char: case REOP_char_i: case REOP_char32: case REOP_char32_i:
        case REOP_dot: case REOP_any: case REOP_space: case REOP_not_space:
        one:
            for (uint32_t c = 0; c < 256; c++) {
                if (takes(op, c, is_unicode)) filter->table[c] |= 1 << d;
            }
            FOLLOW(at + size, d + 1);
            break;
        case REOP_save_start: case REOP_save_end: case REOP_save_reset: case REOP_set_i32: case REOP_set_char_pos:
        // Conditions are taken as met.
        case REOP_line_start: case REOP_line_start_m: case REOP_line_end: case REOP_line_end_m:
        case REOP_word_boundary: case REOP_word_boundary_i: case REOP_not_word_boundary: case REOP_not_word_boundary_i:
        case REOP_check_advance:
            FOLLOW(at + size, d);
            break;
        case REOP_goto:
            FOLLOW(at + 5 + (int)get_u32(op + 1), d);
            break;
        case REOP_split_goto_first: case REOP_split_next_first:
            FOLLOW(at + 5, d);
            FOLLOW(at + 5 + (int)get_u32(op + 1), d);
            break;
        default:
            // A match, or something that is not followed: from here on anything may come.
            depth = d;
        }
    }
#undef FOLLOW
    // Any other character is let through.
    filter->table[256] = 0xff;
    filter->depth = depth;
    filter->made = true;
}

// The filter of an expression; NULL when it has none. `code` is its bytecode behind the header.
static struct filter *filter_of(const uint8_t *code, uint32_t length)
{
    static const uint8_t search[SEARCH] = { REOP_split_goto_first, 6, 0, 0, 0, REOP_any, REOP_goto, 0xf5, 0xff, 0xff, 0xff };
    if (length > LONGEST || length < SEARCH + 3 || memcmp(code, search, SEARCH)) return NULL;
    struct filter *filter = &filters[((uintptr_t)code >> 4 ^ (uintptr_t)code >> 9) % CACHED];
    // Another expression may lie where one lay before.
    if (filter->code == code && filter->length == length && !memcmp(filter->copy, code, length)) return filter;
    filter->code = code;
    filter->length = length;
    filter->uses = 0;
    filter->depth = 0;
    filter->made = false;
    filter->anchored = code[SEARCH] == REOP_save_start && code[SEARCH + 2] == REOP_line_start;
    memcpy(filter->copy, code, length);
    return filter;
}

static intptr_t attempt(REExecContext *s, uint8_t **capture, const uint8_t *code, const uint8_t *place)
{
    // An attempt that failed leaves what it captured.
    for (int i = 0; i < s->capture_count * 2; i++) capture[i] = NULL;
    return lre_exec_backtrack(s, capture, code, place);
}

// Tries the positions that the filter lets through. `code` is the bytecode without its search.
#define TRY(type, index)                                                                     \
    for (int i = from; i < clen; i++) {                                                      \
        type c = ((const type *)cbuf)[i];                                                    \
        state = (state << 1 | 1) & filter->table[index];                                     \
        if (state & goal) {                                                                  \
            int ret = attempt(s, capture, code, cbuf + ((i + 1 - filter->depth) << cbuf_type));  \
            if (ret) return ret;                                                             \
        }                                                                                    \
    }                                                                                        \
    return 0

static int search(REExecContext *s, uint8_t **capture, const struct filter *filter, const uint8_t *code, const uint8_t *cbuf, int from,
                  int clen, int cbuf_type)
{
    uint32_t state = 0, goal = 1 << (filter->depth - 1);
    if (cbuf_type == 0) {
        TRY(uint8_t, c);
    } else {
        TRY(uint16_t, c < 256 ? c : 256);
    }
}

// Returns 1 if match, 0 if not match or < 0 if error (see LRE_RET_x). 0 <= cindex <= clen.
int lre_exec(uint8_t **capture, const uint8_t *bc_buf, const uint8_t *cbuf, int cindex, int clen, int cbuf_type, void *opaque)
{
    int flags = lre_get_flags(bc_buf);
    bool is_unicode = (flags & (LRE_FLAG_UNICODE | LRE_FLAG_UNICODE_SETS)) != 0;
    // Pairs of surrogates are left to the original.
    if (cbuf_type == 1 && is_unicode) return original_lre_exec(capture, bc_buf, cbuf, cindex, clen, cbuf_type, opaque);
    const uint8_t *code = bc_buf + RE_HEADER_LEN;
    struct filter *filter = filter_of(code, get_u32(bc_buf + RE_HEADER_BYTECODE_LEN));
    if (filter && !filter->made && !filter->anchored && (clen - cindex >= MUCH_TEXT || ++filter->uses > MANY_USES)) {
        make(filter, code, is_unicode);
    }
    if (!filter || !(filter->anchored || filter->depth)) {
        return original_lre_exec(capture, bc_buf, cbuf, cindex, clen, cbuf_type, opaque);
    }
    REExecContext context, *s = &context;
    s->is_unicode = is_unicode;
    s->capture_count = bc_buf[RE_HEADER_CAPTURE_COUNT];
    s->cbuf = cbuf;
    s->cbuf_end = cbuf + (clen << cbuf_type);
    s->cbuf_type = cbuf_type;
    s->interrupt_counter = INTERRUPT_COUNTER_INIT;
    s->opaque = opaque;
    s->stack_buf = s->static_stack_buf;
    s->stack_size = countof(s->static_stack_buf);
    int ret;
    if (filter->anchored) {
        ret = cindex == 0 ? attempt(s, capture, code + SEARCH, cbuf) : 0;
    } else {
        ret = search(s, capture, filter, code + SEARCH, cbuf, cindex, clen, cbuf_type);
    }
    if (s->stack_buf != s->static_stack_buf) lre_realloc(s->opaque, s->stack_buf, 0);
    return ret;
}
