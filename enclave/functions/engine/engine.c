// The JavaScript engine as a WebAssembly reactor: QuickJS-ng with the few entry points that the function service calls.
//
// QuickJS is included as one translation unit with this file, because two of its fields have no setter: the stack limit, which QuickJS
// switches off on WASI, and the state of Math.random, which must differ in every instance although all start from one frozen image.
#include "instead.h"
#include "quickjs.c"
#undef js_for_of_start
#undef js_for_of_next
#undef JS_IteratorClose
#undef JS_ConcatString
#undef JS_GetPropertyValue
#undef js_new_string_char
#undef js_regexp_test
#undef js_regexp_Symbol_match
#undef js_regexp_Symbol_replace
#undef js_array_join
#undef js_array_from
#undef JS_DefinePropertyValue
#undef js_closure
#undef js_arena_malloc
#undef js_arena_free
#undef JS_CallInternal
#undef JS_GetPropertyInternal
#include "memory.c"
#include "iteration.c"
#include "strings.c"
#include "arrays.c"
#include "patterns.c"
#include "calls.c"
#include "objects.c"

#define EXPORT(name) __attribute__((export_name(name)))
#define HOST(name) __attribute__((import_module("teemate"), import_name(name)))

// What the engine asks of the service. `file`, `fetch` and `hash` leave a reply with the service and return its length, or -1 - length
// when the reply is the sentence of an error; `take` copies the reply.
HOST("log") extern void host_log(const char *text, size_t length);
HOST("sleep") extern void host_sleep(double ms);
HOST("now") extern double host_now(void);
HOST("random") extern void host_random(void *buffer, size_t length);
HOST("file") extern int32_t host_file(const char *path, size_t length);
HOST("fetch") extern int32_t host_fetch(const char *head, size_t head_length, const uint8_t *body, size_t body_length);
HOST("hash") extern int32_t host_hash(const char *name, size_t name_length, const uint8_t *data, size_t length);
HOST("take") extern void host_take(void *buffer);
// Another slice of fuel. What calls it is the meter, which the build puts in.
HOST("slice") extern void host_slice(void);

// Answers of `te_compile` and `te_run`. From FAILED on, the prelude's `describe` says which.
enum { OK = 0, FAILED = 1 };

// How deep QuickJS may use the stack that the linker lays out (-z stack-size in the build) before it throws RangeError. A frame takes two to
// four times as much of the machine's stack, of which there are 512 KiB: this one must end first.
#define STACK_LIMIT (112 * 1024)
// A short call never collects; a long one soon does.
#define COLLECT_AFTER (4 * 1024 * 1024)

static JSRuntime *runtime;
static JSContext *context;
static JSValue prelude_call, prelude_describe, prelude_fire, prelude_environment;
static const char *out;
static size_t out_length;
// The string that `out` is, if it is one of QuickJS's.
static const char *owned;

EXPORT("te_alloc") void *te_alloc(size_t length) { return malloc(length ? length : 1); }
EXPORT("te_free") void te_free(void *place, size_t length) { memset(place, 0, length); free(place); }
EXPORT("te_out") const char *te_out(void) { return out; }
// What a null pointer to a function points to: the build puts it into entry 0 of the table. Nothing has this type, so a call by such a
// pointer traps before it gets here.
EXPORT("te_null") void te_null(double a, float b, double c, float d, double e, float f, double g, float h) { __builtin_trap(); }
EXPORT("te_out_length") size_t te_out_length(void) { return out_length; }


// Turns a reply of the service into a Uint8Array, or into an exception whose message it is. The first character of an error's reply
// is its kind, which ends up in the error's property `teemate`.
static JSValue reply(JSContext *ctx, int32_t length)
{
    bool error = length < 0;
    size_t size = error ? (size_t)(-1 - length) : (size_t)length;
    uint8_t *bytes = js_malloc(ctx, size + 1);
    if (!bytes) return JS_EXCEPTION;
    host_take(bytes);
    JSValue value;
    if (error) {
        value = JS_NewError(ctx);
        size_t skip = size ? 1 : 0;
        JS_DefinePropertyValueStr(ctx, value, "message", JS_NewStringLen(ctx, (char *)bytes + skip, size - skip),
                                  JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
        JS_DefinePropertyValueStr(ctx, value, "teemate", JS_NewStringLen(ctx, (char *)bytes, skip), 0);
        js_free(ctx, bytes);
        return JS_Throw(ctx, value);
    }
    value = JS_NewUint8ArrayCopy(ctx, bytes, size);
    js_free(ctx, bytes);
    return value;
}

static JSValue native_log(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, argv[0]);
    if (!text) return JS_EXCEPTION;
    host_log(text, length);
    JS_FreeCString(ctx, text);
    return JS_UNDEFINED;
}

static JSValue native_now(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    return JS_NewFloat64(ctx, host_now());
}

static JSValue native_random(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    uint8_t *bytes = JS_GetUint8Array(ctx, &length, argv[0]);
    if (!bytes && length) return JS_ThrowTypeError(ctx, "a Uint8Array is needed");
    if (length) host_random(bytes, length);
    return JS_UNDEFINED;
}

static JSValue native_file(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    const char *path = JS_ToCStringLen(ctx, &length, argv[0]);
    if (!path) return JS_EXCEPTION;
    int32_t size = host_file(path, length);
    JS_FreeCString(ctx, path);
    return reply(ctx, size);
}

static JSValue native_fetch(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t head_length, length = 0;
    uint8_t *body = NULL;
    if (!JS_IsUndefined(argv[1])) {
        body = JS_GetUint8Array(ctx, &length, argv[1]);
        if (!body && length) return JS_ThrowTypeError(ctx, "the body must be a Uint8Array");
    }
    const char *head = JS_ToCStringLen(ctx, &head_length, argv[0]);
    if (!head) return JS_EXCEPTION;
    int32_t size = host_fetch(head, head_length, body, length);
    JS_FreeCString(ctx, head);
    return reply(ctx, size);
}

static JSValue native_hash(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t name_length, length;
    uint8_t *data = JS_GetUint8Array(ctx, &length, argv[1]);
    if (!data && length) return JS_ThrowTypeError(ctx, "a Uint8Array is needed");
    const char *name = JS_ToCStringLen(ctx, &name_length, argv[0]);
    if (!name) return JS_EXCEPTION;
    int32_t size = host_hash(name, name_length, data, length);
    JS_FreeCString(ctx, name);
    return reply(ctx, size);
}

static JSValue native_encode(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, argv[0]);
    if (!text) return JS_EXCEPTION;
    JSValue bytes = JS_NewUint8ArrayCopy(ctx, (const uint8_t *)text, length);
    JS_FreeCString(ctx, text);
    return bytes;
}

static JSValue native_decode(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    uint8_t *bytes = JS_GetUint8Array(ctx, &length, argv[0]);
    if (!bytes && length) return JS_ThrowTypeError(ctx, "a Uint8Array is needed");
    return JS_NewStringLen(ctx, (const char *)bytes, length);
}

static const JSCFunctionListEntry natives[] = {
    JS_CFUNC_DEF("log", 1, native_log),       JS_CFUNC_DEF("now", 0, native_now),
    JS_CFUNC_DEF("random", 1, native_random), JS_CFUNC_DEF("file", 1, native_file),
    JS_CFUNC_DEF("fetch", 2, native_fetch),   JS_CFUNC_DEF("hash", 2, native_hash),
    JS_CFUNC_DEF("encode", 1, native_encode), JS_CFUNC_DEF("decode", 1, native_decode),
};

// Compiles a script to bytecode without its source text. NULL when it has a syntax error, which is then pending.
static uint8_t *compile(const char *source, size_t length, const char *name, size_t *size)
{
    JSValue script = JS_Eval(context, source, length, name, JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_COMPILE_ONLY);
    if (JS_IsException(script)) return NULL;
    uint8_t *code = JS_WriteObject(context, size, script, JS_WRITE_OBJ_BYTECODE | JS_WRITE_OBJ_STRIP_SOURCE);
    JS_FreeValue(context, script);
    return code;
}

static JSValue evaluate(const uint8_t *code, size_t length)
{
    JSValue script = JS_ReadObject(context, code, length, JS_READ_OBJ_BYTECODE);
    if (JS_IsException(script)) return script;
    return JS_EvalFunction(context, script);
}

static void answer(JSValueConst value)
{
    out = owned = JS_ToCStringLen(context, &out_length, value);
    if (!out) {
        JS_FreeValue(context, JS_GetException(context));
        out = "";
        out_length = 0;
    }
}

// Leaves the description of an error with the caller. Consumes `error`.
static int fail(JSValue error)
{
    JSValueConst argv[] = { error };
    JSValue text = JS_Call(context, prelude_describe, JS_UNDEFINED, 1, argv);
    if (JS_IsException(text)) {
        JS_FreeValue(context, JS_GetException(context));
        out = "a{\"message\":\"the error could not be described: out of memory or stack\"}";
        out_length = strlen(out);
    } else {
        answer(text);
    }
    return FAILED;
}

// Makes the runtime. Runs once, when the image is built; so does `te_init`.
EXPORT("te_begin") int te_begin(void)
{
    // For the linker, which keeps no import that nothing calls.
    host_slice();
    runtime = JS_NewRuntime();
    if (!runtime) return 1;
    JS_SetGCThreshold(runtime, (size_t)-1);
    context = JS_NewContext(runtime);
    return !context || iteration_begin(context) || patterns_begin(context) ? 2 : OK;
}

// Evaluates the prelude. Its bytecode was made by another instance, so that what a compilation leaves behind is in no image.
EXPORT("te_init") int te_init(const uint8_t *code, size_t length)
{
    JSValue install = evaluate(code, length);
    if (JS_IsException(install)) return 4;
    JSValue host = JS_NewObject(context);
    JS_SetPropertyFunctionList(context, host, natives, sizeof natives / sizeof *natives);
    JSValueConst argv[] = { host };
    JSValue parts = JS_Call(context, install, JS_UNDEFINED, 1, argv);
    JS_FreeValue(context, host);
    JS_FreeValue(context, install);
    if (JS_IsException(parts)) {
        JSValue error = JS_GetException(context);
        answer(error);
        return 5;
    }
    prelude_call = JS_GetPropertyStr(context, parts, "call");
    prelude_describe = JS_GetPropertyStr(context, parts, "describe");
    prelude_fire = JS_GetPropertyStr(context, parts, "fire");
    prelude_environment = JS_GetPropertyStr(context, parts, "environment");
    JS_FreeValue(context, parts);
    JS_RunGC(runtime);
    JS_SetGCThreshold(runtime, COLLECT_AFTER);
    return OK;
}

static void begin(void)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    runtime->stack_top = here;
    runtime->stack_limit = here > STACK_LIMIT ? here - STACK_LIMIT : 1;
}

// Source -> bytecode, left in `te_out`. On a syntax error the description.
EXPORT("te_compile") int te_compile(const char *source, size_t length, const char *name)
{
    begin();
    size_t size;
    uint8_t *code = compile(source, length, name, &size);
    if (!code) return fail(JS_GetException(context));
    out = (const char *)code;
    out_length = size;
    return OK;
}

// Makes the environment known and evaluates a script, whose bytecode is `code`.
static int load(const uint8_t *code, size_t length, const char *environment, size_t environment_length)
{
    JSValue text = JS_NewStringLen(context, environment, environment_length);
    JSValue done = JS_Call(context, prelude_environment, JS_UNDEFINED, 1, (JSValueConst[]){ text });
    JS_FreeValue(context, text);
    if (JS_IsException(done)) return fail(JS_GetException(context));
    JSValue value = evaluate(code, length);
    if (JS_IsException(value)) return fail(JS_GetException(context));
    JS_FreeValue(context, value);
    return OK;
}

// Calls the entry point, drives promises and timers until the result is there, and leaves it as JSON. `parameters` are zero-terminated.
static int invoke(const char *entry, const char *parameters, size_t parameters_length)
{
    JSValue arguments = JS_ParseJSON(context, parameters, parameters_length, "parameters");
    if (JS_IsException(arguments)) return fail(JS_GetException(context));
    JSValue name = JS_NewString(context, entry);
    JSValue value = JS_Call(context, prelude_call, JS_UNDEFINED, 2, (JSValueConst[]){ name, arguments });
    JS_FreeValue(context, arguments);
    JS_FreeValue(context, name);
    if (JS_IsException(value)) return fail(JS_GetException(context));

    while (JS_IsPromise(value) && JS_PromiseState(context, value) == JS_PROMISE_PENDING) {
        JSContext *where;
        int jobs = JS_ExecutePendingJob(runtime, &where);
        if (jobs < 0) return fail(JS_GetException(where));
        if (jobs > 0) continue;
        JSValue next = JS_Call(context, prelude_fire, JS_UNDEFINED, 0, NULL);
        if (JS_IsException(next)) return fail(JS_GetException(context));
        double ms = 0;
        JS_ToFloat64(context, &ms, next);
        if (ms < 0) {
            JS_ThrowTypeError(context, "the function's promise can never settle: no timer and no request is left to wait for");
            return fail(JS_GetException(context));
        }
        if (ms > 0) host_sleep(ms);
    }
    if (JS_IsPromise(value)) {
        JSValue settled = JS_PromiseResult(context, value);
        if (JS_PromiseState(context, value) == JS_PROMISE_REJECTED) return fail(settled);
        JS_FreeValue(context, value);
        value = settled;
    }
    answer(value);
    JS_FreeValue(context, value);
    return OK;
}

// One call in an instance of its own: evaluates the script and calls its entry point.
EXPORT("te_run") int te_run(const uint8_t *code, size_t length, const char *entry, const char *environment, size_t environment_length,
                            const char *parameters, size_t parameters_length)
{
    begin();
    host_random(&context->random_state, sizeof context->random_state);
    context->random_state |= 1;
    int status = load(code, length, environment, environment_length);
    return status == OK ? invoke(entry, parameters, parameters_length) : status;
}

// The first half of `te_run`, for an instance that is called more than once. `seed` is for Math.random.
EXPORT("te_load") int te_load(const uint8_t *code, size_t length, const char *environment, size_t environment_length, uint64_t seed)
{
    begin();
    context->random_state = seed | 1;
    return load(code, length, environment, environment_length);
}

// The second half. Without an environment that of before stays.
EXPORT("te_call") int te_call(const char *entry, const char *environment, size_t environment_length, const char *parameters,
                              size_t parameters_length, uint64_t seed)
{
    begin();
    context->random_state = seed | 1;
    if (owned) {
        JS_FreeCString(context, owned);
        owned = NULL;
    }
    if (environment_length) {
        JSValue text = JS_NewStringLen(context, environment, environment_length);
        JSValue done = JS_Call(context, prelude_environment, JS_UNDEFINED, 1, (JSValueConst[]){ text });
        JS_FreeValue(context, text);
        if (JS_IsException(done)) return fail(JS_GetException(context));
    }
    return invoke(entry, parameters, parameters_length);
}
