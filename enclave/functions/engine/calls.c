// Calls of built-in functions, without the way through the interpreter.
//
// QuickJS-ng's interpreter is one function, which calls itself for each call; that it shall run no bytecode it notices behind the prologue of a
// function of thousands of instructions. And each function in C gets a frame, which is there for what it throws, and for what it calls.

// Math.floor of a number and the like, and Math.random: they throw nothing and call nobody. Anything else is JS_UNINITIALIZED. It has no more
// parameters than there are registers for: from memory they come late.
static JSValue call_simple(const JSObject *function, int argc, JSValueConst *argv)
{
    if (function->u.cfunc.cproto == JS_CFUNC_f_f && argc > 0) {
        int tag = JS_VALUE_GET_TAG(argv[0]);
        double d;
        if (JS_TAG_IS_FLOAT64(tag)) d = JS_VALUE_GET_FLOAT64(argv[0]);
        else if (tag == JS_TAG_INT) d = JS_VALUE_GET_INT(argv[0]);
        else return JS_UNINITIALIZED;
        // An instruction of WebAssembly, where others are functions.
        return js_number(function->u.cfunc.c_function.f_f == floor ? __builtin_floor(d) : function->u.cfunc.c_function.f_f(d));
    }
    if (function->u.cfunc.cproto == JS_CFUNC_generic && function->u.cfunc.c_function.generic == js_math_random) {
        return js_math_random(function->u.cfunc.realm, JS_UNDEFINED, 0, NULL);
    }
    return JS_UNINITIALIZED;
}

static inline JSValue JS_CallInternal(JSContext *ctx, JSValueConst func_obj, JSValueConst this_obj, JSValueConst new_target, int argc,
                                      JSValueConst *argv, int flags)
{
    if (JS_VALUE_GET_TAG(func_obj) == JS_TAG_OBJECT && JS_VALUE_GET_OBJ(func_obj)->class_id == JS_CLASS_C_FUNCTION) {
        JSValue result = call_simple(JS_VALUE_GET_OBJ(func_obj), argc, argv);
        return JS_VALUE_GET_TAG(result) != JS_TAG_UNINITIALIZED ? result : js_call_c_function(ctx, func_obj, this_obj, argc, argv, flags);
    }
    return original_JS_CallInternal(ctx, func_obj, this_obj, new_target, argc, argv, flags);
}

// The length of a string, where the property's name is known when this is compiled.
static inline JSValue JS_GetPropertyInternal(JSContext *ctx, JSValueConst obj, JSAtom prop, JSValueConst this_obj, bool throw_ref_error)
{
    if (__builtin_constant_p(prop) && prop == JS_ATOM_length && JS_VALUE_GET_TAG(obj) == JS_TAG_STRING) {
        return js_int32(JS_VALUE_GET_STRING(obj)->len);
    }
    return original_JS_GetPropertyInternal(ctx, obj, prop, this_obj, throw_ref_error);
}
