// Array.from({ length }, fill): an array of what a function gives, without defining each element as a property. And `join` of strings.

// More elements are left to the original, which takes memory as they come.
#define MOST_ELEMENTS 65536

// Whether reading `name` of `p` finds nothing, and no script runs for it.
static bool lacks(const JSObject *p, JSAtom name)
{
    for (; p; p = p->shape->proto) {
        if (p->is_exotic || find_own_property1((JSObject *)p, name)) return false;
    }
    return true;
}

// Whether `p` has a length and nothing else, and Object.prototype is behind it and has no elements.
static inline bool is_length_only(JSContext *ctx, const JSObject *p)
{
    const JSShape *shape = p->shape;
    return shape->prop_count == 1 && get_shape_prop((JSShape *)shape)->atom == JS_ATOM_length &&
           shape->proto == JS_VALUE_GET_OBJ(ctx->class_proto[JS_CLASS_OBJECT]) && ctx->std_array_prototype;
}

static JSValue js_array_from(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv)
{
    JSProperty *length;
    JSShapeProperty *shape;
    if (argc < 2 || JS_VALUE_GET_TAG(this_val) != JS_TAG_OBJECT || JS_VALUE_GET_OBJ(this_val) != JS_VALUE_GET_OBJ(ctx->array_ctor) ||
        JS_VALUE_GET_TAG(argv[0]) != JS_TAG_OBJECT || !JS_IsFunction(ctx, argv[1]) ||
        JS_VALUE_GET_OBJ(argv[0])->class_id != JS_CLASS_OBJECT || !lacks(JS_VALUE_GET_OBJ(argv[0]), JS_ATOM_Symbol_iterator) ||
        !(shape = find_own_property(&length, JS_VALUE_GET_OBJ(argv[0]), JS_ATOM_length)) || shape->flags & JS_PROP_TMASK ||
        JS_VALUE_GET_TAG(length->u.value) != JS_TAG_INT || JS_VALUE_GET_INT(length->u.value) <= 0 ||
        JS_VALUE_GET_INT(length->u.value) > MOST_ELEMENTS) {
        return original_js_array_from(ctx, this_val, argc, argv);
    }
    uint32_t count = JS_VALUE_GET_INT(length->u.value), done = 0;
    JSValueConst receiver = argc > 2 ? argv[2] : JS_UNDEFINED;
    // Nobody sees the array before it is full, so its elements need not be in it.
    JSValue *elements = js_malloc(ctx, count * sizeof *elements), array = JS_NewArray(ctx);
    if (!elements || JS_IsException(array)) goto fail;
    for (; done < count; done++) {
        // The function may have given the object elements, or its prototype.
        const JSObject *object = JS_VALUE_GET_OBJ(argv[0]);
        bool none = is_length_only(ctx, object) || lacks(object, __JS_AtomFromUInt32(done));
        JSValue element = none ? JS_UNDEFINED : JS_GetPropertyUint32(ctx, argv[0], done);
        if (JS_IsException(element)) goto fail;
        JSValueConst arguments[2] = { element, js_int32(done) };
        elements[done] = JS_Call(ctx, argv[1], receiver, 2, arguments);
        JS_FreeValue(ctx, element);
        if (JS_IsException(elements[done])) goto fail;
    }
    JSObject *p = JS_VALUE_GET_OBJ(array);
    p->u.array.u.values = elements;
    p->u.array.count = p->u.array.u1.size = count;
    p->prop[0].u.value = js_int32(count);
    return array;
fail:
    while (done > 0) JS_FreeValue(ctx, elements[--done]);
    js_free(ctx, elements);
    JS_FreeValue(ctx, array);
    return JS_EXCEPTION;
}

// An array of strings of 8 bits, with a separator of that kind, is put together in one piece of memory. Reading such elements calls nobody.
static JSValue js_array_join(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv, int toLocaleString)
{
    JSValue *elements;
    uint32_t count;
    if (toLocaleString || argc < 1 || JS_VALUE_GET_TAG(argv[0]) != JS_TAG_STRING || JS_VALUE_GET_STRING(argv[0])->is_wide_char ||
        !js_get_fast_array(ctx, this_val, &elements, &count) || count == 0 ||
        JS_VALUE_GET_TAG(JS_VALUE_GET_OBJ(this_val)->prop[0].u.value) != JS_TAG_INT ||
        (uint32_t)JS_VALUE_GET_INT(JS_VALUE_GET_OBJ(this_val)->prop[0].u.value) != count) {
        return original_js_array_join(ctx, this_val, argc, argv, toLocaleString);
    }
    const JSString *between = JS_VALUE_GET_STRING(argv[0]);
    uint64_t length = (uint64_t)between->len * (count - 1);
    for (uint32_t i = 0; i < count; i++) {
        if (JS_VALUE_GET_TAG(elements[i]) != JS_TAG_STRING || JS_VALUE_GET_STRING(elements[i])->is_wide_char) {
            return original_js_array_join(ctx, this_val, argc, argv, toLocaleString);
        }
        length += JS_VALUE_GET_STRING(elements[i])->len;
    }
    if (length == 0) return js_empty_string(ctx->rt);
    if (count == 1) return js_dup(elements[0]);
    if (length > JS_STRING_LEN_MAX) return original_js_array_join(ctx, this_val, argc, argv, toLocaleString);
    JSString *joined = js_alloc_string(ctx, (int)length, false);
    if (!joined) return JS_EXCEPTION;
    uint8_t *at = str8(joined);
    for (uint32_t i = 0; i < count; i++) {
        if (i > 0 && between->len > 0) at = (uint8_t *)memcpy(at, str8((JSString *)between), between->len) + between->len;
        JSString *piece = JS_VALUE_GET_STRING(elements[i]);
        if (piece->len == 1) {
            *at++ = str8(piece)[0];
        } else {
            memcpy(at, str8(piece), piece->len);
            at += piece->len;
        }
    }
    *at = 0;
    return JS_MKPTR(JS_TAG_STRING, joined);
}
