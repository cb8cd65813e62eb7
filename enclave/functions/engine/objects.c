// Objects that are made again and again, as literals and functions within functions are, without looking for their properties each time.
//
// What properties an object has is its shape, which objects share. QuickJS-ng forgets a shape with its last object: the literal of a loop made
// its shape anew in each turn. Here a few shapes are kept. None is ever changed while something else holds it.

#define KEPT_SHAPES 16
// Shapes of more properties are not kept: adding one to a shape that is held means a copy of it.
#define MOST_PROPERTIES 8

static struct {
    // Of functions that cannot be constructors: length and name.
    JSShape *function;
    JSShape *kept[KEPT_SHAPES];
    unsigned next;
} shapes;

static void keep_shape(JSRuntime *rt, JSShape *shape)
{
    if (!shape->is_hashed || JS_REF_COUNT(shape) != 1 || shape->prop_count > MOST_PROPERTIES) return;
    JSShape *old = shapes.kept[shapes.next];
    shapes.kept[shapes.next] = js_dup_shape(shape);
    shapes.next = (shapes.next + 1) % KEPT_SHAPES;
    if (old) js_free_shape(rt, old);
}

// A property of an object's literal. Such an object has no such property yet, or the way is the original's.
int JS_DefinePropertyValue(JSContext *ctx, JSValueConst this_obj, JSAtom prop, JSValue val, int flags)
{
    if (flags == (JS_PROP_C_W_E | JS_PROP_THROW) && JS_VALUE_GET_TAG(this_obj) == JS_TAG_OBJECT) {
        JSObject *p = JS_VALUE_GET_OBJ(this_obj);
        JSProperty *property;
        if (p->class_id == JS_CLASS_OBJECT && p->extensible && !p->is_exotic && !p->is_prototype && !find_own_property(&property, p, prop)) {
            property = add_property(ctx, p, prop, JS_PROP_C_W_E);
            if (!property) {
                JS_FreeValue(ctx, val);
                return -1;
            }
            property->u.value = val;
            keep_shape(ctx->rt, p->shape);
            return true;
        }
    }
    return original_JS_DefinePropertyValue(ctx, this_obj, prop, val, flags);
}

// Whether this is the shape of a function with just `length` and `name`, as js_function_set_properties makes them.
static bool is_function_shape(JSContext *ctx, const JSShape *shape)
{
    const JSShapeProperty *property = get_shape_prop((JSShape *)shape);
    return shape->is_hashed && shape->proto == JS_VALUE_GET_OBJ(ctx->function_proto) && shape->prop_count == 2 && shape->deleted_prop_count == 0 &&
           property[0].atom == JS_ATOM_length && property[0].flags == JS_PROP_CONFIGURABLE && property[1].atom == JS_ATOM_name &&
           property[1].flags == JS_PROP_CONFIGURABLE;
}

static JSValue js_closure(JSContext *ctx, JSValue bfunc, JSVarRef **cur_var_refs, JSStackFrame *sf)
{
    JSFunctionBytecode *b = JS_VALUE_GET_PTR(bfunc);
    if (b->func_kind != JS_FUNC_NORMAL || b->has_prototype) return original_js_closure(ctx, bfunc, cur_var_refs, sf);
    if (!shapes.function || shapes.function->proto != JS_VALUE_GET_OBJ(ctx->function_proto)) {
        JSValue function = original_js_closure(ctx, bfunc, cur_var_refs, sf);
        if (!shapes.function && !JS_IsException(function) && is_function_shape(ctx, JS_VALUE_GET_OBJ(function)->shape)) {
            shapes.function = js_dup_shape(JS_VALUE_GET_OBJ(function)->shape);
        }
        return function;
    }
    JSValue name = b->func_name == JS_ATOM_NULL ? js_empty_string(ctx->rt) : JS_AtomToString(ctx, b->func_name);
    JSProperty properties[2] = { { .u.value = js_int32(b->defined_arg_count) }, { .u.value = name } };
    JSValue function = JS_NewObjectFromShape(ctx, js_dup_shape(shapes.function), JS_CLASS_BYTECODE_FUNCTION, properties);
    if (JS_IsException(function)) {
        JS_FreeValue(ctx, bfunc);
        return function;
    }
    return js_closure2(ctx, function, b, cur_var_refs, sf);
}
