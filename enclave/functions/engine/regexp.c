// Regular expressions: before QuickJS-ng's matcher a filter that finds the places where a match can begin, and an automaton.
//
// QuickJS-ng looks for a match by trying each position of the text in turn with its backtracking interpreter, some thirty instructions of
// bytecode machinery for a position that the first character already rules out. Here the expression's bytecode is looked at once: which
// characters can be the first, second, ... of a match, up to eight. A shift-and automaton over these sets then runs over the text, 16
// characters at a time, and only where it says so a match is tried, there and nowhere else. An expression that begins with `^` is tried
// at the start of the text only.
//
// The sets are supersets: what the analysis does not know ends them, so a filter can let too much through, never too little. Order and
// result of the attempts are those of the original, which begins with `split, any, goto` to try positions one after the other.
//
// An attempt is first made with the automaton of dfa.c, if the expression has one and the text is one of bytes. The interpreter is
// started for the captures of a match alone.
#include "libregexp.c"
#include "regexp.h"
#ifdef __wasm_simd128__
#include <wasm_simd128.h>
#endif

// Characters that the filter looks at: one bit of a byte each.
#define DEPTH 8
// Bytecode of an expression that is worth the work.
#define LONGEST 1024
// Expressions that are remembered, and places to look for one.
#define REMEMBERED 32
#define PROBES 4
// Text, or uses of an expression with less text, from which on it is analysed: that takes as long as some hundred attempts.
#define MUCH_TEXT 256
#define MANY_USES 16
// Attempts behind a filter, from which on there is an automaton for them.
#define MANY_ATTEMPTS 8
// `split_goto_first +6, any, goto -11`: what lre_compile puts before an expression that is not sticky.
#define SEARCH 11
// Of a search: the automaton was given up, and there is nothing else. LRE_RET_x are others.
#define NOT_KNOWN (-100)

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

#include "dfa.c"

struct plan {
    const uint8_t *code;
    uint32_t length;
    // Where the bytecode of a match begins: behind the search, or at 0 for a sticky expression.
    uint32_t begin, attempts;
    bool is_unicode, anchored, automaton_tried;
    // Characters that the filter looks at. 0: it rules nothing out.
    uint8_t depth;
    struct automaton *automaton;
    // At which places a character with these low and these high four bits can be: the table's supersets, for 16 characters at a time.
    uint8_t low[16], high[16];
    // For each character below 256, at which places it can be; the last entry for all others.
    uint8_t table[257];
};

static struct remembered {
    const void *owner;
    struct plan *plan;
    uint32_t uses;
} remembered[REMEMBERED];

// The sets of the first characters.
static void make_filter(struct plan *plan)
{
    // Where the interpreter can be after so many characters: a bit of `seen` for each, and the ones that are still to be followed.
    uint8_t seen[LONGEST];
    uint16_t left[LONGEST * DEPTH];
    int count = 0, depth = DEPTH;
    const uint8_t *code = plan->code;
    uint32_t length = plan->length;
    memset(seen, 0, length);
#define FOLLOW(to, d)                                                                        \
    do {                                                                                     \
        uint32_t to_ = (to);                                                                 \
        if (to_ >= length) { depth = 0; break; }                                             \
        if ((d) < DEPTH && !(seen[to_] & 1 << (d))) {                                        \
            seen[to_] |= 1 << (d);                                                           \
            left[count++] = (uint16_t)(to_ * DEPTH + (d));                                   \
        }                                                                                    \
    } while (0)
    FOLLOW(plan->begin, 0);
    while (count > 0 && depth > 0) {
        uint32_t at = left[--count] / DEPTH;
        int d = left[count] % DEPTH;
        // What is only reached beyond the shortest known match says nothing.
        if (d >= depth) continue;
        const uint8_t *op = code + at;
        uint32_t size = size_of(op);
        if (is_character(op[0])) {
            for (uint32_t c = 0; c < 256; c++) {
                if (takes(op, c, plan->is_unicode)) plan->table[c] |= 1 << d;
            }
            FOLLOW(at + size, d + 1);
            continue;
        }
        switch (op[0]) {
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
        case REOP_loop:
            // A turn more or the end: which one depends on the count, and both are let through.
            FOLLOW(at + size, d);
            FOLLOW(at + size + (int)get_u32(op + 2), d);
            break;
        case REOP_loop_split_goto_first: case REOP_loop_split_next_first:
        case REOP_loop_check_adv_split_goto_first: case REOP_loop_check_adv_split_next_first:
            FOLLOW(at + size, d);
            FOLLOW(at + size + (int)get_u32(op + 6), d);
            break;
        default:
            // A match, or something that is not followed: from here on anything may come.
            depth = d;
        }
    }
#undef FOLLOW
    // Any other character is let through.
    plan->table[256] = 0xff;
    plan->depth = depth;
    for (int c = 0; c < 256; c++) {
        plan->low[c & 15] |= plan->table[c];
        plan->high[c >> 4] |= plan->table[c];
    }
}

static void prepare_automaton(struct plan *plan, void *opaque)
{
    plan->automaton_tried = true;
    plan->automaton = automaton_make(plan->code, plan->length, plan->begin, plan->is_unicode, opaque);
}

// NULL: there is no memory.
static struct plan *plan_make(const uint8_t *code, uint32_t length, bool is_unicode, void *opaque)
{
    static const uint8_t search[SEARCH] = { REOP_split_goto_first, 6, 0, 0, 0, REOP_any, REOP_goto, 0xf5, 0xff, 0xff, 0xff };
    struct plan *plan = lre_realloc(opaque, NULL, sizeof *plan);
    if (!plan) return NULL;
    memset(plan, 0, sizeof *plan);
    plan->code = code;
    plan->length = length;
    plan->is_unicode = is_unicode;
    if (length > LONGEST || length < SEARCH + 3) return plan;
    plan->begin = memcmp(code, search, SEARCH) ? 0 : SEARCH;
    plan->anchored = code[plan->begin] == REOP_save_start && code[plan->begin + 2] == REOP_line_start;
    if (plan->begin && !plan->anchored) make_filter(plan);
    if (!plan->depth) prepare_automaton(plan, opaque);
    return plan;
}

static void plan_drop(struct plan *plan, void *opaque)
{
    if (!plan) return;
    if (plan->automaton) lre_realloc(opaque, plan->automaton, 0);
    lre_realloc(opaque, plan, 0);
}

static struct remembered *remember(const void *owner, void *opaque)
{
    static uint32_t turn;
    uint32_t first = (uint32_t)((uintptr_t)owner >> 3 ^ (uintptr_t)owner >> 8);
    struct remembered *free = NULL;
    for (int i = 0; i < PROBES; i++) {
        struct remembered *it = &remembered[(first + i) % REMEMBERED];
        if (it->owner == owner) return it;
        if (!it->owner && !free) free = it;
    }
    if (!free) {
        free = &remembered[(first + turn++ % PROBES) % REMEMBERED];
        plan_drop(free->plan, opaque);
        expression_release(free->owner, opaque);
    }
    expression_hold(owner);
    *free = (struct remembered){ .owner = owner };
    return free;
}

// One search.
struct search {
    struct plan *plan;
    uint8_t **capture;
    const uint8_t *text, *end;
    int type;
    bool wants_end_only, is_ready;
    void *opaque;
    REExecContext context;
};

static int interpret(struct search *s, const uint8_t *place)
{
    REExecContext *context = &s->context;
    if (!s->is_ready) {
        s->is_ready = true;
        context->is_unicode = s->plan->is_unicode;
        context->capture_count = (s->plan->code - RE_HEADER_LEN)[RE_HEADER_CAPTURE_COUNT];
        context->cbuf = s->text;
        context->cbuf_end = s->end;
        context->cbuf_type = s->type;
        context->interrupt_counter = INTERRUPT_COUNTER_INIT;
        context->opaque = s->opaque;
        context->stack_buf = context->static_stack_buf;
        context->stack_size = countof(context->static_stack_buf);
    }
    // An attempt that failed leaves what it captured.
    for (int i = 0; i < context->capture_count * 2; i++) s->capture[i] = NULL;
    return (int)lre_exec_backtrack(context, s->capture, s->plan->code + s->plan->begin, place);
}

static void give_up_automaton(struct search *s)
{
    lre_realloc(s->opaque, s->plan->automaton, 0);
    s->plan->automaton = NULL;
}

// A match that the automaton has found.
static int found(struct search *s, const uint8_t *from, const uint8_t *to)
{
    if (!s->wants_end_only) return interpret(s, from);
    s->capture[0] = (uint8_t *)from;
    s->capture[1] = (uint8_t *)to;
    return 1;
}

// Whether there is a match at `place`: 1, 0 or an error.
static int attempt(struct search *s, const uint8_t *place)
{
    struct plan *plan = s->plan;
    if (s->type == 0) {
        if (!plan->automaton_tried && ++plan->attempts > MANY_ATTEMPTS) prepare_automaton(plan, s->opaque);
        if (plan->automaton) {
            const uint8_t *to = automaton_match(plan->automaton, s->text, place, s->end);
            if (to) return found(s, place, to);
            if (!plan->automaton->given_up) return 0;
            give_up_automaton(s);
        }
    }
    return interpret(s, place);
}

// Tries the positions that the filter lets through, from `from` on, with nothing known about what is before.
#define TRY(type_, index)                                                                    \
    for (int i = from; i < length; i++) {                                                    \
        type_ c = ((const type_ *)s->text)[i];                                               \
        state = (state << 1 | 1) & plan->table[index];                                       \
        if (state & goal) {                                                                  \
            int ret = attempt(s, s->text + ((i + 1 - plan->depth) << s->type));              \
            if (ret) return ret;                                                             \
        }                                                                                    \
    }                                                                                        \
    return 0

static int filtered_words(struct search *s, int from, int length)
{
    const struct plan *plan = s->plan;
    uint32_t state = 0, goal = 1 << (plan->depth - 1);
    TRY(uint16_t, c < 256 ? c : 256);
}

static int filtered_bytes(struct search *s, int from, int length)
{
    const struct plan *plan = s->plan;
    uint32_t state = 0, goal = 1 << (plan->depth - 1);
#ifdef __wasm_simd128__
    // In each of 16 lanes what `state` would be behind that character, and the same with shorter memories: of 1, 2 and 4 characters.
    const v128_t low = wasm_v128_load(plan->low), high = wasm_v128_load(plan->high), goals = wasm_i8x16_splat((int8_t)goal);
    v128_t last1 = wasm_i8x16_splat(0), last2 = last1, last4 = last1;
    int i = from;
    for (; i + 16 <= length; i += 16) {
        v128_t c = wasm_v128_load(s->text + i);
        v128_t one = wasm_v128_and(wasm_i8x16_swizzle(low, wasm_v128_and(c, wasm_i8x16_splat(15))), wasm_i8x16_swizzle(high, wasm_u8x16_shr(c, 4)));
#define BEFORE(last, now, n) wasm_i8x16_shuffle(last, now, 16 - n, 17 - n, 18 - n, 19 - n, 20 - n, 21 - n, 22 - n, 23 - n, 24 - n, 25 - n,  \
                                                26 - n, 27 - n, 28 - n, 29 - n, 30 - n, 31 - n)
#define JOIN(last, now, n) wasm_v128_and(now, wasm_v128_or(wasm_i8x16_shl(BEFORE(last, now, n), n), wasm_i8x16_splat((1 << n) - 1)))
        v128_t two = JOIN(last1, one, 1), four = JOIN(last2, two, 2), eight = JOIN(last4, four, 4);
        last1 = one;
        last2 = two;
        last4 = four;
        v128_t reached = wasm_v128_and(eight, goals);
        if (!wasm_v128_any_true(reached)) continue;
        uint32_t places = wasm_i8x16_bitmask(wasm_i8x16_ne(reached, wasm_i8x16_splat(0)));
        while (places) {
            int ret = attempt(s, s->text + i + __builtin_ctz(places) + 1 - plan->depth);
            if (ret) return ret;
            places &= places - 1;
        }
#undef JOIN
#undef BEFORE
    }
    // The rest begins with the characters that a match across the border needs; none shorter is found twice.
    from = i - from >= plan->depth ? i - plan->depth + 1 : from;
#endif
    TRY(uint8_t, c);
}

static int search(struct search *s, int from, int length)
{
    struct plan *plan = s->plan;
    if (plan->anchored && plan->begin) return from == 0 ? attempt(s, s->text) : 0;
    if (!plan->begin) return attempt(s, s->text + (from << s->type));
    if (plan->depth) return s->type ? filtered_words(s, from, length) : filtered_bytes(s, from, length);
    const uint8_t *begin, *to;
    if (automaton_search(plan->automaton, s->text, s->text + from, s->end, &begin, &to)) return found(s, begin, to);
    return plan->automaton->given_up ? NOT_KNOWN : 0;
}

int expression_exec(const void *owner, bool captures, uint8_t **capture, const uint8_t *bc_buf, const uint8_t *cbuf, int cindex, int clen,
                    int cbuf_type, void *opaque)
{
    int flags = lre_get_flags(bc_buf);
    bool is_unicode = (flags & (LRE_FLAG_UNICODE | LRE_FLAG_UNICODE_SETS)) != 0;
    // Pairs of surrogates are left to the original.
    if (cbuf_type == 1 && is_unicode) return lre_exec(capture, bc_buf, cbuf, cindex, clen, cbuf_type, opaque);
    struct remembered *it = remember(owner, opaque);
    bool much = clen - cindex >= MUCH_TEXT && !(flags & LRE_FLAG_STICKY);
    if (!it->plan && (much || ++it->uses > MANY_USES)) {
        it->plan = plan_make(bc_buf + RE_HEADER_LEN, get_u32(bc_buf + RE_HEADER_BYTECODE_LEN), is_unicode, opaque);
    }
    struct plan *plan = it->plan;
    // Without a filter, without `^`: it is the automaton or nothing.
    if (!plan || !(plan->depth || (plan->anchored && plan->begin) || (plan->automaton && cbuf_type == 0))) {
        return lre_exec(capture, bc_buf, cbuf, cindex, clen, cbuf_type, opaque);
    }
    struct search s;
    s.plan = plan;
    s.capture = capture;
    s.text = cbuf;
    s.end = cbuf + (clen << cbuf_type);
    s.type = cbuf_type;
    s.wants_end_only = !captures || lre_get_capture_count(bc_buf) == 1;
    s.is_ready = false;
    s.opaque = opaque;
    int ret = search(&s, cindex, clen);
    if (s.is_ready && s.context.stack_buf != s.context.static_stack_buf) lre_realloc(opaque, s.context.stack_buf, 0);
    if (ret == NOT_KNOWN) {
        give_up_automaton(&s);
        return lre_exec(capture, bc_buf, cbuf, cindex, clen, cbuf_type, opaque);
    }
    return ret;
}
