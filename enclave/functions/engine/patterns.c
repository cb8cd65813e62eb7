// RegExp.prototype's test, @@match and @@replace for an ordinary RegExp: without an object for each match.
//
// As the standard has it, these methods read `flags`, call `exec` and look at what it returns, and each of them may be a script's own. Where
// all of them are the built-in ones, nobody sees the objects between. Then the matches are taken from the matcher as two numbers.

static struct {
    JSObject *prototype;
    // The prototype's shape and values as they were at the beginning, of which the methods read some.
    JSShape *shape;
    int count;
    JSProperty *values;
    JSObject *exec;
} patterns;

// Notes how things are. To be called before any script runs. -1: they are not as expected.
static int patterns_begin(JSContext *ctx)
{
    JSObject *p = prototype(ctx, JS_CLASS_REGEXP);
    int count = p->shape->prop_count;
    // Functions come into being when they are first asked for.
    for (int i = 0; i < count; i++) {
        if ((get_shape_prop(p->shape)[i].flags & JS_PROP_TMASK) != JS_PROP_AUTOINIT) continue;
        JSValue value = JS_GetProperty(ctx, ctx->class_proto[JS_CLASS_REGEXP], get_shape_prop(p->shape)[i].atom);
        if (JS_IsException(value)) return -1;
        JS_FreeValue(ctx, value);
    }
    JSValue exec = JS_GetProperty(ctx, ctx->class_proto[JS_CLASS_REGEXP], JS_ATOM_exec);
    patterns.values = js_malloc(ctx, sizeof(JSProperty) * count);
    if (!patterns.values || !JS_IsObject(exec)) return -1;
    memcpy(patterns.values, p->prop, sizeof(JSProperty) * count);
    // The functions that are compared are held for good, so that no other is found where they were. Getters are held by nothing else.
    for (int i = 0; i < count; i++) {
        int kind = get_shape_prop(p->shape)[i].flags & JS_PROP_TMASK;
        if (kind == JS_PROP_GETSET) {
            if (p->prop[i].u.getset.getter) JS_REF_COUNT(p->prop[i].u.getset.getter)++;
            if (p->prop[i].u.getset.setter) JS_REF_COUNT(p->prop[i].u.getset.setter)++;
        } else if (kind == JS_PROP_NORMAL) {
            js_dup(p->prop[i].u.value);
        } else {
            return -1;
        }
    }
    patterns.prototype = p;
    patterns.shape = js_dup_shape(p->shape);
    patterns.count = count;
    patterns.exec = JS_VALUE_GET_OBJ(exec);
    return 0;
}

// The expression of an object that has `lastIndex` and nothing else of its own, with an integer there. NULL: it is anything else.
static JSRegExp *plain(JSContext *ctx, JSValueConst this_val)
{
    if (JS_VALUE_GET_TAG(this_val) != JS_TAG_OBJECT) return NULL;
    JSObject *p = JS_VALUE_GET_OBJ(this_val);
    if (p->class_id != JS_CLASS_REGEXP || p->shape != ctx->regexp_shape || JS_VALUE_GET_TAG(p->prop[0].u.value) != JS_TAG_INT) return NULL;
    return &p->u.regexp;
}

static void set_last_index(JSValueConst this_val, int index)
{
    JS_VALUE_GET_OBJ(this_val)->prop[0].u.value = js_int32(index);
}

// Whether RegExp.prototype is as it was.
static bool untouched(void)
{
    const JSObject *p = patterns.prototype;
    return p->shape == patterns.shape && p->shape->prop_count == patterns.count &&
           !memcmp(p->prop, patterns.values, sizeof(JSProperty) * patterns.count);
}

// What one pass over a text needs.
struct pass {
    JSContext *ctx;
    JSRegExp *re;
    const uint8_t *code;
    JSString *text;
    const uint8_t *bytes;
    uint8_t **capture;
    uint8_t *few[16];
    bool captures;
    // The match.
    int from, to;
};

// The text must stay where it is as long as the pass. False: an exception is pending.
static bool pass_begin(struct pass *pass, JSContext *ctx, JSRegExp *re, JSString *text, bool captures)
{
    pass->ctx = ctx;
    pass->re = re;
    pass->code = str8(re->bytecode);
    pass->text = text;
    pass->bytes = str8(text);
    pass->captures = captures;
    pass->capture = pass->few;
    int count = lre_get_alloc_count(pass->code);
    if (count > (int)countof(pass->few)) pass->capture = js_malloc(ctx, sizeof *pass->capture * count);
    return pass->capture != NULL;
}

static void pass_end(struct pass *pass)
{
    if (pass->capture != pass->few) js_free(pass->ctx, pass->capture);
}

// 1: a match, 0: none, -1: an exception is pending.
static int pass_next(struct pass *pass, int at)
{
    int shift = pass->text->is_wide_char;
    int ret = expression_exec(pass->re->bytecode, pass->captures, pass->capture, pass->code, pass->bytes, at, pass->text->len, shift, pass->ctx);
    if (ret == 1) {
        pass->from = (int)(pass->capture[0] - pass->bytes) >> shift;
        pass->to = (int)(pass->capture[1] - pass->bytes) >> shift;
        return 1;
    }
    if (ret >= 0) return 0;
    if (ret == LRE_RET_TIMEOUT) JS_ThrowInterrupted(pass->ctx);
    else if (ret == LRE_RET_MEMORY_ERROR) JS_ThrowInternalError(pass->ctx, "out of memory in regexp execution");
    else JS_ThrowInternalError(pass->ctx, "corrupted bytecode in regexp execution");
    return -1;
}

// Where to go on behind a match.
static int pass_after(const struct pass *pass)
{
    if (pass->to > pass->from) return pass->to;
    bool unicode = lre_get_flags(pass->code) & (LRE_FLAG_UNICODE | LRE_FLAG_UNICODE_SETS);
    return (int)string_advance_index(pass->text, pass->to, unicode);
}

static JSValue js_regexp_test(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv)
{
    JSRegExp *re = plain(ctx, this_val);
    if (!re || JS_VALUE_GET_TAG(argv[0]) != JS_TAG_STRING || !has(patterns.prototype, JS_ATOM_exec, patterns.exec)) {
        return original_js_regexp_test(ctx, this_val, argc, argv);
    }
    struct pass pass;
    if (!pass_begin(&pass, ctx, re, JS_VALUE_GET_STRING(argv[0]), false)) return JS_EXCEPTION;
    bool keeps = lre_get_flags(pass.code) & (LRE_FLAG_GLOBAL | LRE_FLAG_STICKY);
    int at = keeps ? JS_VALUE_GET_INT(JS_VALUE_GET_OBJ(this_val)->prop[0].u.value) : 0;
    // A negative one counts as 0.
    if (at < 0) at = 0;
    int ret = at > (int)pass.text->len ? 0 : pass_next(&pass, at);
    if (ret >= 0 && keeps) set_last_index(this_val, ret ? pass.to : 0);
    pass_end(&pass);
    return ret < 0 ? JS_EXCEPTION : js_bool(ret);
}

static JSValue js_regexp_Symbol_match(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv)
{
    JSRegExp *re = plain(ctx, this_val);
    if (!re || !(lre_get_flags(str8(re->bytecode)) & LRE_FLAG_GLOBAL) || !tag_is_string(JS_VALUE_GET_TAG(argv[0])) || !untouched()) {
        return original_js_regexp_Symbol_match(ctx, this_val, argc, argv);
    }
    JSValue text = JS_ToString(ctx, argv[0]);
    if (JS_IsException(text)) return JS_EXCEPTION;
    struct pass pass;
    JSValue list = JS_NewArray(ctx);
    int ret = -1;
    uint32_t count = 0;
    if (!JS_IsException(list) && pass_begin(&pass, ctx, re, JS_VALUE_GET_STRING(text), false)) {
        set_last_index(this_val, 0);
        for (int at = 0; (ret = at > (int)pass.text->len ? 0 : pass_next(&pass, at)) > 0; at = pass_after(&pass)) {
            JSValue piece = js_sub_string(ctx, pass.text, pass.from, pass.to);
            if (JS_IsException(piece) || JS_DefinePropertyValueUint32(ctx, list, count++, piece, JS_PROP_C_W_E | JS_PROP_THROW) < 0) {
                ret = -1;
                break;
            }
        }
        pass_end(&pass);
    }
    JS_FreeValue(ctx, text);
    if (ret == 0 && count > 0) return list;
    JS_FreeValue(ctx, list);
    return ret < 0 ? JS_EXCEPTION : JS_NULL;
}

// Adds what a replacement text stands for. `groups`: how many captures there are, with the whole match.
static void substitute(StringBuffer *out, const struct pass *pass, JSString *with, int groups)
{
    int length = with->len, shift = pass->text->is_wide_char;
    for (int at = 0; at < length;) {
        int dollar = string_indexof_char(with, '$', at);
        if (dollar < 0 || dollar + 1 >= length) {
            string_buffer_concat(out, with, at, length);
            return;
        }
        string_buffer_concat(out, with, at, dollar);
        int c = string_get(with, dollar + 1);
        at = dollar + 2;
        if (c == '$') {
            string_buffer_putc8(out, '$');
        } else if (c == '&') {
            string_buffer_concat(out, pass->text, pass->from, pass->to);
        } else if (c == '`') {
            string_buffer_concat(out, pass->text, 0, pass->from);
        } else if (c == '\'') {
            string_buffer_concat(out, pass->text, pass->to, pass->text->len);
        } else {
            int group = c - '0';
            if (c >= '0' && c <= '9' && at < length) {
                // Two digits if there is such a capture, else one.
                int next = string_get(with, at);
                if (next >= '0' && next <= '9' && group * 10 + next - '0' >= 1 && group * 10 + next - '0' < groups) {
                    group = group * 10 + next - '0';
                    at++;
                }
            }
            if (c < '0' || c > '9' || group < 1 || group >= groups) {
                string_buffer_concat(out, with, dollar, at);
                continue;
            }
            const uint8_t *from = pass->capture[group * 2], *to = pass->capture[group * 2 + 1];
            if (from && to) string_buffer_concat(out, pass->text, (uint32_t)(from - pass->bytes) >> shift, (uint32_t)(to - pass->bytes) >> shift);
        }
    }
}

static JSValue js_regexp_Symbol_replace(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv)
{
    JSRegExp *re = plain(ctx, this_val);
    if (!re || !tag_is_string(JS_VALUE_GET_TAG(argv[0])) || !tag_is_string(JS_VALUE_GET_TAG(argv[1])) || !untouched()) {
        return original_js_regexp_Symbol_replace(ctx, this_val, argc, argv);
    }
    int flags = lre_get_flags(str8(re->bytecode));
    JSValue text = JS_ToString(ctx, argv[0]), with = JS_ToString(ctx, argv[1]), result = JS_EXCEPTION;
    if (JS_IsException(text) || JS_IsException(with)) goto done;
    JSString *replacement = JS_VALUE_GET_STRING(with);
    bool literal = string_indexof_char(replacement, '$', 0) < 0;
    // `$<name>` is left to the original.
    if (!literal && flags & LRE_FLAG_NAMED_GROUPS) {
        result = original_js_regexp_Symbol_replace(ctx, this_val, argc, argv);
        goto done;
    }
    struct pass pass;
    if (!pass_begin(&pass, ctx, re, JS_VALUE_GET_STRING(text), !literal)) goto done;
    bool global = flags & LRE_FLAG_GLOBAL, sticky = flags & LRE_FLAG_STICKY;
    int at = 0, copied = 0, matches = 0, groups = lre_get_capture_count(pass.code), length = pass.text->len, ret;
    if (!global && sticky) at = JS_VALUE_GET_INT(JS_VALUE_GET_OBJ(this_val)->prop[0].u.value);
    if (at < 0) at = 0;
    StringBuffer out;
    string_buffer_init(ctx, &out, 0);
    while ((ret = at > length ? 0 : pass_next(&pass, at)) > 0) {
        matches++;
        string_buffer_concat(&out, pass.text, copied, pass.from);
        if (literal) string_buffer_concat(&out, replacement, 0, replacement->len);
        else substitute(&out, &pass, replacement, groups);
        copied = pass.to;
        if (!global) break;
        at = pass_after(&pass);
    }
    if (ret >= 0 && (global || sticky)) set_last_index(this_val, !global && matches ? pass.to : 0);
    pass_end(&pass);
    if (ret < 0) {
        string_buffer_free(&out);
    } else if (!matches) {
        string_buffer_free(&out);
        result = js_dup(text);
    } else {
        string_buffer_concat(&out, pass.text, copied, length);
        result = string_buffer_end(&out);
    }
done:
    JS_FreeValue(ctx, text);
    JS_FreeValue(ctx, with);
    return result;
}

void expression_hold(const void *owner)
{
    JS_REF_COUNT(owner)++;
}

void expression_release(const void *owner, void *opaque)
{
    js_free_string(((JSContext *)opaque)->rt, (JSString *)owner);
}
