// `for (... of array)` and `[a, b] = array` without a new iterator each.
//
// The iterator of such a loop can be seen by nobody as long as the built-in functions are where they were. So it is taken from a few that
// are kept, its next value is read here, and when the loop ends and nobody else holds it, it is kept again. Whatever is not as it was at
// the beginning (an array with properties of its own, a changed Array.prototype or iterator prototype) goes the way of the original.

#define SPARES 8

static struct {
    // %Array.prototype.values% and %ArrayIteratorPrototype%.next.
    JSObject *values, *next;
    // What a new iterator has.
    JSShape *shape;
    JSObject *spare[SPARES];
    int spares;
} iteration;

// Whether `p` has this property, as a plain value, and it is `wanted`.
static inline bool has(JSObject *p, JSAtom name, const JSObject *wanted)
{
    JSProperty *property;
    JSShapeProperty *shape = find_own_property(&property, p, name);
    return shape && !(shape->flags & JS_PROP_TMASK) && JS_VALUE_GET_TAG(property->u.value) == JS_TAG_OBJECT &&
           JS_VALUE_GET_OBJ(property->u.value) == wanted;
}

static inline JSObject *prototype(JSContext *ctx, int class_id)
{
    return JS_VALUE_GET_OBJ(ctx->class_proto[class_id]);
}

// Ends an iterator that nobody but the caller holds, and keeps it. False: it cannot be kept.
static bool keep(JSContext *ctx, JSObject *iterator)
{
    if (JS_REF_COUNT(iterator) != 1 || iteration.spares == SPARES || iterator->shape != iteration.shape || iterator->first_weak_ref ||
        !iterator->extensible) {
        return false;
    }
    JSArrayIteratorData *data = iterator->u.array_iterator_data;
    JSValue array = data->obj;
    data->obj = JS_UNDEFINED;
    iteration.spare[iteration.spares++] = iterator;
    JS_FreeValue(ctx, array);
    return true;
}

// The reference that `keep` took over may have got company: a generator that was thrown away, say, closes its iterator and holds it still.
static JSObject *spare(JSContext *ctx)
{
    while (iteration.spares > 0) {
        JSObject *iterator = iteration.spare[--iteration.spares];
        if (JS_REF_COUNT(iterator) == 1) return iterator;
        JS_FreeValue(ctx, JS_MKPTR(JS_TAG_OBJECT, iterator));
    }
    return NULL;
}

// Notes how things are. To be called before any script runs. -1: they are not as expected.
static int iteration_begin(JSContext *ctx)
{
    JSValue array = JS_NewArray(ctx);
    JSValue next = JS_GetProperty(ctx, ctx->class_proto[JS_CLASS_ARRAY_ITERATOR], JS_ATOM_next);
    JSValue iterator = JS_GetIterator(ctx, array, false);
    JS_FreeValue(ctx, array);
    if (!JS_IsObject(next) || !JS_IsObject(iterator) || !JS_IsObject(ctx->array_proto_values)) return -1;
    // All are held for good.
    iteration.values = JS_VALUE_GET_OBJ(js_dup(ctx->array_proto_values));
    iteration.next = JS_VALUE_GET_OBJ(next);
    iteration.shape = js_dup_shape(JS_VALUE_GET_OBJ(iterator)->shape);
    return keep(ctx, JS_VALUE_GET_OBJ(iterator)) ? 0 : -1;
}

static int js_for_of_start(JSContext *ctx, JSValue *sp, bool is_async)
{
    JSValue array = sp[-1];
    if (!is_async && JS_VALUE_GET_TAG(array) == JS_TAG_OBJECT) {
        JSObject *p = JS_VALUE_GET_OBJ(array), *iterator;
        if (p->class_id == JS_CLASS_ARRAY && p->shape == ctx->array_shape &&
            has(prototype(ctx, JS_CLASS_ARRAY), JS_ATOM_Symbol_iterator, iteration.values) &&
            has(prototype(ctx, JS_CLASS_ARRAY_ITERATOR), JS_ATOM_next, iteration.next) && (iterator = spare(ctx))) {
            JSArrayIteratorData *data = iterator->u.array_iterator_data;
            data->obj = array;
            data->kind = JS_ITERATOR_KIND_VALUE;
            data->idx = 0;
            sp[-1] = JS_MKPTR(JS_TAG_OBJECT, iterator);
            sp[0] = js_dup(JS_MKPTR(JS_TAG_OBJECT, iteration.next));
            return 0;
        }
    }
    return original_js_for_of_start(ctx, sp, is_async);
}

static int js_for_of_next(JSContext *ctx, JSValue *sp, int offset)
{
    JSValue of = sp[offset], next = sp[offset + 1];
    if (JS_VALUE_GET_TAG(of) != JS_TAG_OBJECT || JS_VALUE_GET_TAG(next) != JS_TAG_OBJECT || JS_VALUE_GET_OBJ(next) != iteration.next) {
        return original_js_for_of_next(ctx, sp, offset);
    }
    JSObject *iterator = JS_VALUE_GET_OBJ(of);
    if (iterator->class_id != JS_CLASS_ARRAY_ITERATOR) return original_js_for_of_next(ctx, sp, offset);
    JSArrayIteratorData *data = iterator->u.array_iterator_data;
    if (JS_VALUE_GET_TAG(data->obj) != JS_TAG_OBJECT || data->kind != JS_ITERATOR_KIND_VALUE) return original_js_for_of_next(ctx, sp, offset);
    JSObject *array = JS_VALUE_GET_OBJ(data->obj);
    if (array->class_id != JS_CLASS_ARRAY || !array->fast_array) return original_js_for_of_next(ctx, sp, offset);
    if (data->idx < array->u.array.count) {
        sp[0] = js_dup(array->u.array.u.values[data->idx++]);
        sp[1] = JS_FALSE;
        return 0;
    }
    // The first property of an array is its length; it can be more than the elements that are there.
    JSValue length = array->prop[0].u.value;
    if (JS_VALUE_GET_TAG(length) != JS_TAG_INT || data->idx < (uint32_t)JS_VALUE_GET_INT(length) || !keep(ctx, iterator)) {
        return original_js_for_of_next(ctx, sp, offset);
    }
    sp[offset] = JS_UNDEFINED;
    sp[0] = JS_UNDEFINED;
    sp[1] = JS_TRUE;
    return 0;
}

// Whether an iterator of an array has a method `return`, which normally it has not.
static bool has_return(JSObject *iterator)
{
    for (JSObject *p = iterator; p; p = p->shape->proto) {
        if (p->is_exotic || find_own_property1(p, JS_ATOM_return)) return true;
    }
    return false;
}

static int JS_IteratorClose(JSContext *ctx, JSValueConst of, bool is_exception_pending)
{
    if (JS_VALUE_GET_TAG(of) == JS_TAG_OBJECT) {
        JSObject *iterator = JS_VALUE_GET_OBJ(of);
        if (iterator->class_id == JS_CLASS_ARRAY_ITERATOR && !has_return(iterator)) {
            // The caller still has its reference, and lets go of it next.
            if (keep(ctx, iterator)) JS_REF_COUNT(iterator)++;
            return is_exception_pending ? -1 : 0;
        }
    }
    return original_JS_IteratorClose(ctx, of, is_exception_pending);
}
