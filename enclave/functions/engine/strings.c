// `text += piece`, again and again, without a copy each.
//
// QuickJS-ng copies strings up to 8 KiB, and then up to 512 characters, with each `+`. Here a string that is added to lies in a buffer with room
// behind it, and what scripts see are slices of that buffer, which QuickJS-ng has anyway. The slice that reaches up to the buffer's end
// is extended by writing behind it; shorter ones, which are values of before, do not notice.

// Strings from this length on get a buffer. Shorter ones are copied faster.
#define BUFFERED 256
// In `hash_next` of a string that is a buffer. Strings that are no atoms have 0 there.
#define BUFFER 0xb0ffe4u

static inline JSStringSlice *slice_of(JSString *p)
{
    return (JSStringSlice *)(void *)&p[1];
}

// The buffer of which `p` is the end, or NULL.
static inline JSString *buffer_of(JSString *p)
{
    if (p->kind != JS_STRING_KIND_SLICE) return NULL;
    JSString *buffer = slice_of(p)->parent;
    if (buffer->hash_next != BUFFER || buffer->atom_type) return NULL;
    return slice_of(p)->start + (p->len << p->is_wide_char) == buffer->len << buffer->is_wide_char ? buffer : NULL;
}

static void put(JSString *buffer, uint32_t at, JSString *piece)
{
    if (buffer->is_wide_char) copy_str16(str16(buffer) + at, piece, 0, piece->len);
    else memcpy(str8(buffer) + at, str8(piece), piece->len);
}

// A string that is a buffer's, with `piece` added. Consumes neither. NULL: out of memory, and an exception is pending.
static JSString *extended(JSContext *ctx, JSString *p, JSString *piece)
{
    JSString *buffer = buffer_of(p);
    uint32_t start = 0, length = p->len + piece->len;
    int shift = p->is_wide_char;
    if (buffer && js_malloc_usable_size(ctx, buffer) >= sizeof(JSString) + ((size_t)(buffer->len + piece->len) << shift)) {
        start = slice_of(p)->start;
        put(buffer, buffer->len, piece);
        buffer->len += piece->len;
        JS_REF_COUNT(buffer)++;
    } else {
        buffer = js_alloc_string(ctx, length < JS_STRING_LEN_MAX / 2 ? length * 2 : length, shift);
        if (!buffer) return NULL;
        put(buffer, 0, p);
        put(buffer, p->len, piece);
        buffer->len = length;
        buffer->hash_next = BUFFER;
    }
    // One that is not wide has a byte more, which a slice does not need.
    JSString *slice = js_alloc_string(ctx, sizeof(JSStringSlice) / 2, true);
    if (!slice) {
        js_free_string(ctx->rt, buffer);
        return NULL;
    }
    slice->kind = JS_STRING_KIND_SLICE;
    slice->is_wide_char = shift;
    slice->len = length;
    slice_of(slice)->parent = buffer;
    slice_of(slice)->start = start;
    return slice;
}

// Whether adding `piece` to `p` is for a buffer.
static inline bool grows(JSString *p, JSString *piece)
{
    return p->len >= BUFFERED && piece->len > 0 && piece->len <= JS_STRING_ROPE_SHORT_LEN && p->is_wide_char >= piece->is_wide_char &&
           p->len + piece->len <= JS_STRING_LEN_MAX;
}

static JSValue JS_ConcatString(JSContext *ctx, JSValue op1, JSValue op2)
{
    if (JS_VALUE_GET_TAG(op2) != JS_TAG_STRING) return original_JS_ConcatString(ctx, op1, op2);
    JSString *piece = JS_VALUE_GET_STRING(op2), *sum;
    JSValue result;
    if (JS_VALUE_GET_TAG(op1) == JS_TAG_STRING) {
        JSString *p = JS_VALUE_GET_STRING(op1);
        // What is long and has no buffer yet becomes the left side of a rope, uncopied.
        if (!grows(p, piece) || (p->len > JS_STRING_ROPE_SHORT2_LEN && !buffer_of(p))) return original_JS_ConcatString(ctx, op1, op2);
        sum = extended(ctx, p, piece);
        result = sum ? JS_MKPTR(JS_TAG_STRING, sum) : JS_EXCEPTION;
    } else if (JS_VALUE_GET_TAG(op1) == JS_TAG_STRING_ROPE) {
        JSStringRope *rope = JS_VALUE_GET_STRING_ROPE(op1);
        if (JS_VALUE_GET_TAG(rope->right) != JS_TAG_STRING) return original_JS_ConcatString(ctx, op1, op2);
        JSString *p = JS_VALUE_GET_STRING(rope->right);
        if (!grows(p, piece) || (p->len > JS_STRING_ROPE_SHORT_LEN && !buffer_of(p))) return original_JS_ConcatString(ctx, op1, op2);
        sum = extended(ctx, p, piece);
        result = sum ? js_new_string_rope(ctx, js_dup(rope->left), JS_MKPTR(JS_TAG_STRING, sum)) : JS_EXCEPTION;
    } else {
        return original_JS_ConcatString(ctx, op1, op2);
    }
    JS_FreeValue(ctx, op1);
    JS_FreeValue(ctx, op2);
    return result;
}

// ---- text[index], charAt, fromCharCode ------------------------------------------------------------------------------------------------
// The strings of one character that were asked for, so that each is made once.
static JSString *characters[256];

static JSValue js_new_string_char(JSContext *ctx, uint16_t c)
{
    if (c >= countof(characters)) return original_js_new_string_char(ctx, c);
    if (!characters[c]) {
        JSValue made = original_js_new_string_char(ctx, c);
        if (JS_IsException(made)) return made;
        characters[c] = JS_VALUE_GET_STRING(made);
    }
    return js_dup(JS_MKPTR(JS_TAG_STRING, characters[c]));
}

static JSValue JS_GetPropertyValue(JSContext *ctx, JSValueConst this_obj, JSValue prop)
{
    if (JS_VALUE_GET_TAG(this_obj) == JS_TAG_STRING && JS_VALUE_GET_TAG(prop) == JS_TAG_INT) {
        JSString *p = JS_VALUE_GET_STRING(this_obj);
        uint32_t index = JS_VALUE_GET_INT(prop);
        if (index < p->len) return js_new_string_char(ctx, string_get(p, index));
    }
    return original_JS_GetPropertyValue(ctx, this_obj, prop);
}
