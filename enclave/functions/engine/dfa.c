// A deterministic automaton for the regular part of expressions, over text of one byte a character. Included by regexp.c.
//
// A state is the list of places in the expression's bytecode where the backtracking interpreter could be after the same text, in the order in
// which it would get there. So the first place of the list that reaches the end of the expression is the match that the
// interpreter would find, and what comes after it in the list is given up: alternatives and lazy repetition come out as the
// standard wants them. A transition is computed when it is first taken, with the characters before and after known, which answers
// `^ $ \b \B` too. States are forgotten when there is no more room.
//
// What does not fit in (references back, looking ahead and behind, repetitions of what can be empty, counted repetitions within counted ones) has
// no automaton. A counted repetition is a place for each count.

// Transitions of an automaton, and places in all its lists: its memory, some 7 KiB.
#define TRANSITIONS 2048
#define PLACES 512
#define STATES 128
// Classes of characters that an expression may tell apart.
#define CLASSES 64
// Places that are looked at for one transition.
#define VISITED 256
// An automaton that forgets its states this often does not pay.
#define FORGETS 8
// The most that is counted.
#define MOST_TURNS 1000

// A transition: the row of the next state, and flags. SPECIAL is in all that need a look: not known yet, dead, or a match before the character.
#define SPECIAL 0x8000
#define MATCH 0x4000
#define UNKNOWN SPECIAL
#define DEAD (SPECIAL | 1)
#define ROW 0x3fff
#define GIVEN_UP 0x10000

// What is before a state, as far as the expression asks for it.
enum { OTHER, WORD, LINE, START };

struct state {
    uint16_t first, count;
    uint8_t before;
};

struct automaton {
    const uint8_t *code;
    uint32_t length, begin;
    bool is_unicode, given_up;
    // Kinds of `before` that make a difference: a bit each.
    uint8_t asks;
    uint8_t classes, forgets;
    uint16_t states, places;
    uint16_t start[4];
    uint8_t class_of[256], member[CLASSES];
    struct state state[STATES];
    // Place in the bytecode, and above 16 bits the count that is left.
    uint32_t place[PLACES];
    uint16_t next[TRANSITIONS];
};

static uint32_t size_of(const uint8_t *op)
{
    switch (op[0]) {
    case REOP_range: case REOP_range_i: return 3 + get_u16(op + 1) * 4;
    case REOP_range32: case REOP_range32_i: return 3 + get_u16(op + 1) * 8;
    default: return reopcode_info[op[0]].size;
    }
}

// Of a counted repetition without an end, `{n,}`, only how many turns must still come is counted. Gives n, or -1 for one with an end.
// `op` is its beginning; the counted parts lie one behind the other.
static int64_t least_turns(const uint8_t *op)
{
    if (get_u32(op + 2) != INT32_MAX) return -1;
    do op += size_of(op);
    while (op[0] != REOP_loop_split_goto_first && op[0] != REOP_loop_split_next_first);
    return (int64_t)INT32_MAX - get_u32(op + 2);
}

static bool is_character(uint8_t op)
{
    switch (op) {
    case REOP_char: case REOP_char_i: case REOP_char32: case REOP_char32_i: case REOP_dot: case REOP_any: case REOP_space: case REOP_not_space:
    case REOP_range: case REOP_range_i: case REOP_range32: case REOP_range32_i:
        return true;
    default:
        return false;
    }
}

// Splits each class into those characters that the instruction takes and those that it does not.
static bool split(struct automaton *a, const uint8_t *op)
{
    uint8_t to[CLASSES];
    bool takes_class[CLASSES], seen[CLASSES] = { 0 };
    memset(to, 0xff, sizeof to);
    for (uint32_t c = 0; c < 256; c++) {
        uint8_t class = a->class_of[c];
        bool taken = takes(op, c, a->is_unicode);
        if (!seen[class]) {
            seen[class] = true;
            takes_class[class] = taken;
        } else if (taken != takes_class[class]) {
            if (to[class] == 0xff) {
                if (a->classes == CLASSES) return false;
                to[class] = a->classes++;
            }
            a->class_of[c] = to[class];
        }
    }
    return true;
}

static uint8_t kind_of(const struct automaton *a, uint32_t c)
{
    uint8_t kind = is_line_terminator(c) ? LINE : lre_is_word_byte(c) ? WORD : OTHER;
    return a->asks & 1 << kind ? kind : OTHER;
}

// Splits classes by what `kind_of` says. Must come last.
static bool split_kinds(struct automaton *a)
{
    for (uint8_t kind = WORD; kind <= LINE; kind++) {
        if (!(a->asks & 1 << kind)) continue;
        uint8_t to[CLASSES], first[CLASSES];
        bool seen[CLASSES] = { 0 };
        memset(to, 0xff, sizeof to);
        for (uint32_t c = 0; c < 256; c++) {
            uint8_t class = a->class_of[c], is = kind_of(a, c) == kind;
            if (!seen[class]) {
                seen[class] = true;
                first[class] = is;
            } else if (is != first[class]) {
                if (to[class] == 0xff) {
                    if (a->classes == CLASSES) return false;
                    to[class] = a->classes++;
                }
                a->class_of[c] = to[class];
            }
        }
    }
    return true;
}

static void forget(struct automaton *a)
{
    // Row 0 stands for UNKNOWN.
    a->states = 1;
    a->places = 0;
    memset(a->start, 0, sizeof a->start);
    for (int i = 0; i < TRANSITIONS; i++) a->next[i] = UNKNOWN;
}

// Looks whether there can be an automaton, and finds the classes of characters.
static bool analyse(struct automaton *a)
{
    int counted = -1;
    uint32_t turns = 0;
    a->classes = 1;
    for (uint32_t at = a->begin; at < a->length; at += size_of(a->code + at)) {
        const uint8_t *op = a->code + at;
        switch (op[0]) {
        case REOP_save_start: case REOP_save_end: case REOP_save_reset: case REOP_goto: case REOP_match:
        case REOP_split_goto_first: case REOP_split_next_first:
            break;
        case REOP_line_end:
            break;
        case REOP_line_end_m: // Asks for the kind of the character behind.
            a->asks |= 1 << LINE;
            break;
        case REOP_line_start:
            a->asks |= 1 << START;
            break;
        case REOP_line_start_m:
            a->asks |= 1 << START | 1 << LINE;
            break;
        case REOP_word_boundary: case REOP_word_boundary_i: case REOP_not_word_boundary: case REOP_not_word_boundary_i:
            a->asks |= 1 << WORD;
            break;
        case REOP_set_i32:
            if (counted >= 0 || (get_u32(op + 2) > MOST_TURNS && get_u32(op + 2) != INT32_MAX)) return false;
            counted = op[1];
            turns = get_u32(op + 2);
            break;
        case REOP_loop:
            if (counted != op[1] || turns > MOST_TURNS) return false;
            counted = -1;
            break;
        case REOP_loop_split_goto_first: case REOP_loop_split_next_first:
            if (counted != op[1] || (turns == INT32_MAX && turns - get_u32(op + 2) > MOST_TURNS)) return false;
            counted = -1;
            break;
        default:
            if (!is_character(op[0]) || !split(a, op)) return false;
        }
    }
    if (!split_kinds(a)) return false;
    for (int c = 255; c >= 0; c--) a->member[a->class_of[c]] = (uint8_t)c;
    return (a->classes + 1) * 8 <= TRANSITIONS;
}

// NULL: the expression has none, or there is no memory. `begin`: where the bytecode of a match begins.
static struct automaton *automaton_make(const uint8_t *code, uint32_t length, uint32_t begin, bool is_unicode, void *opaque)
{
    struct automaton *a = lre_realloc(opaque, NULL, sizeof *a);
    if (!a) return NULL;
    memset(a, 0, offsetof(struct automaton, state));
    a->code = code;
    a->length = length;
    a->begin = begin;
    a->is_unicode = is_unicode;
    if (length > 0xffff || !analyse(a)) {
        lre_realloc(opaque, a, 0);
        return NULL;
    }
    forget(a);
    return a;
}

// The places that are followed for a transition.
struct walk {
    int left, visited, out;
    uint32_t stack[VISITED], seen[VISITED], list[VISITED];
};

// False when there is no more room.
static bool push(struct walk *w, uint32_t place)
{
    if (w->left == VISITED) return false;
    w->stack[w->left++] = place;
    return true;
}

// Row of the state with this list, which is made if there is none. 0: no room.
static uint32_t state_of(struct automaton *a, const uint32_t *list, int count, uint8_t before)
{
    uint32_t width = a->classes + 1;
    for (uint32_t i = 1; i < a->states; i++) {
        const struct state *state = &a->state[i];
        if (state->count == count && state->before == before && !memcmp(a->place + state->first, list, count * sizeof *list)) return i * width;
    }
    if (a->states == STATES || (a->states + 1) * width > TRANSITIONS || a->places + count > PLACES) return 0;
    a->state[a->states] = (struct state){ .first = a->places, .count = (uint16_t)count, .before = before };
    memcpy(a->place + a->places, list, count * sizeof *list);
    a->places += count;
    return a->states++ * width;
}

// Follows a place up to the characters behind it. 1: it reaches the end of the expression; -1: no more room.
static int follow(struct automaton *a, struct walk *w, uint32_t place, uint8_t before, int c)
{
    uint32_t at = place & 0xffff, count = place >> 16;
    bool start = before == START, line = start || before == LINE, line_end = c < 0 || is_line_terminator(c);
    bool boundary = (before == WORD) != (c >= 0 && lre_is_word_byte(c));
    for (;;) {
        const uint8_t *op = a->code + at;
        uint32_t size = size_of(op);
        switch (op[0]) {
        case REOP_match: return 1;
        case REOP_save_start: case REOP_save_end: case REOP_save_reset: at += size; continue;
        case REOP_goto: at += 5 + (int)get_u32(op + 1); continue;
        case REOP_set_i32: count = least_turns(op) < 0 ? get_u32(op + 2) : (uint32_t)least_turns(op); at += size; continue;
        case REOP_line_start: if (!start) return 0; at += size; continue;
        case REOP_line_start_m: if (!line) return 0; at += size; continue;
        case REOP_line_end: if (c >= 0) return 0; at += size; continue;
        case REOP_line_end_m: if (!line_end) return 0; at += size; continue;
        case REOP_word_boundary: case REOP_word_boundary_i: if (!boundary) return 0; at += size; continue;
        case REOP_not_word_boundary: case REOP_not_word_boundary_i: if (boundary) return 0; at += size; continue;
        default: break;
        }
        place = at | count << 16;
        for (int i = 0; i < w->visited; i++) {
            if (w->seen[i] == place) return 0;
        }
        if (w->visited == VISITED) return -1;
        w->seen[w->visited++] = place;
        uint32_t target, limit;
        bool endless;
        switch (op[0]) {
        case REOP_split_goto_first: case REOP_split_next_first:
            target = at + 5 + (int)get_u32(op + 1);
            at += 5;
            if (op[0] == REOP_split_goto_first) {
                uint32_t swap = at;
                at = target;
                target = swap;
            }
            if (!push(w, target | count << 16)) return -1;
            continue;
        case REOP_loop:
            count--;
            at += size + (count ? (int)get_u32(op + 2) : 0);
            continue;
        case REOP_loop_split_goto_first: case REOP_loop_split_next_first:
            if (count) count--;
            target = at + size + (int)get_u32(op + 6);
            at += size;
            limit = get_u32(op + 2);
            endless = limit > MOST_TURNS;
            if (endless ? count > 0 : count > limit) {
                at = target;
            } else if ((count || endless) && op[0] == REOP_loop_split_goto_first) {
                if (!push(w, at)) return -1;
                at = target;
            } else if (count || endless) {
                if (!push(w, target | count << 16)) return -1;
                count = 0;
            }
            continue;
        default:
            if (c < 0 || !takes(op, c, a->is_unicode)) return 0;
            place = (at + size) | count << 16;
            for (int i = 0; i < w->out; i++) {
                if (w->list[i] == place) return 0;
            }
            w->list[w->out++] = place;
            return 0;
        }
    }
}

// Computes a transition. GIVEN_UP: the expression is too much for an automaton.
static uint32_t transition(struct automaton *a, uint32_t row, uint32_t class)
{
    struct walk w;
    w.visited = w.out = 0;
    uint32_t width = a->classes + 1, flags = 0;
    const struct state *state = &a->state[row / width];
    uint8_t before = state->before;
    int c = class < a->classes ? a->member[class] : -1;
    for (int i = 0; i < state->count && !flags; i++) {
        w.left = 0;
        push(&w, a->place[state->first + i]);
        while (w.left > 0) {
            int ret = follow(a, &w, w.stack[--w.left], before, c);
            if (ret < 0) {
                a->given_up = true;
                return GIVEN_UP;
            }
            if (ret) {
                flags = SPECIAL | MATCH;
                break;
            }
        }
    }
    uint32_t next;
    if (w.out == 0) {
        next = DEAD | flags;
    } else {
        next = state_of(a, w.list, w.out, kind_of(a, c));
        if (!next) {
            if (++a->forgets > FORGETS) {
                a->given_up = true;
                return GIVEN_UP;
            }
            forget(a);
            row = 0;
            next = state_of(a, w.list, w.out, kind_of(a, c));
            if (!next) {
                a->given_up = true;
                return GIVEN_UP;
            }
        }
        next |= flags;
    }
    if (row) a->next[row + class] = (uint16_t)next;
    return next;
}

// Row of the state at `p`. 0: given up.
static uint32_t start_of(struct automaton *a, const uint8_t *text, const uint8_t *p)
{
    uint8_t before = p > text ? kind_of(a, p[-1]) : a->asks & 1 << START ? START : OTHER;
    if (!a->start[before]) {
        uint32_t row = state_of(a, &a->begin, 1, before);
        if (!row) {
            forget(a);
            row = state_of(a, &a->begin, 1, before);
        }
        a->start[before] = (uint16_t)row;
    }
    return a->start[before];
}

// End of the match that begins at `p`; NULL when there is none, or when `given_up` is set.
static const uint8_t *automaton_match(struct automaton *a, const uint8_t *text, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *last = NULL;
    uint32_t row = start_of(a, text, p);
    for (;;) {
        uint32_t class, next;
        for (;;) {
            if (p == end) {
                class = a->classes;
                next = a->next[row + class];
                break;
            }
            class = a->class_of[*p];
            next = a->next[row + class];
            if (next & SPECIAL) break;
            row = next;
            p++;
        }
        if (next == UNKNOWN) {
            next = transition(a, row, class);
            if (next == GIVEN_UP) return NULL;
        }
        if (next & MATCH) last = p;
        if (p == end || (next & ROW) == (DEAD & ROW)) return last;
        row = next & ROW;
        p++;
    }
}

// The first match from `p` on, as the interpreter would find it. False when there is none, or when `given_up` is set.
static bool automaton_search(struct automaton *a, const uint8_t *text, const uint8_t *p, const uint8_t *end, const uint8_t **from, const uint8_t **to)
{
    for (;; p++) {
        if (!a->asks) {
            uint32_t row = start_of(a, text, p);
            while (p < end && a->next[row + a->class_of[*p]] == DEAD) p++;
        }
        *to = automaton_match(a, text, p, end);
        if (*to) {
            *from = p;
            return true;
        }
        if (p == end || a->given_up) return false;
    }
}
