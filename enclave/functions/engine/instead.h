// Functions of QuickJS-ng that are replaced by own ones.
//
// They are static, so their callers cannot be led elsewhere by a name at link time. Between `#include "instead.h"` and the #undefs at the end
// of engine.c each name is a macro that tells a definition or declaration from a call by the first argument: `JSContext *ctx` (or `JSRuntime
// *rt`) becomes a definition of `original_NAME`, `ctx` a call of ours. Where the name stands alone, as in a table of functions, it is ours too.
#include "quickjs.h"

#define js_arena_malloc(runtime, ...) js_arena_malloc_##runtime, __VA_ARGS__)
#define js_arena_malloc_JSRuntime original_js_arena_malloc(JSRuntime
#define js_arena_malloc_rt (js_arena_malloc)(rt
static inline void *(js_arena_malloc)(JSRuntime *rt, size_t size);

#define js_arena_free(runtime, ...) js_arena_free_##runtime, __VA_ARGS__)
#define js_arena_free_JSRuntime original_js_arena_free(JSRuntime
#define js_arena_free_rt (js_arena_free)(rt
static inline void (js_arena_free)(JSRuntime *rt, void *ptr);

#define js_for_of_start(context, ...) js_for_of_start_##context, __VA_ARGS__)
#define js_for_of_start_JSContext original_js_for_of_start(JSContext
#define js_for_of_start_ctx (js_for_of_start)(ctx
static int (js_for_of_start)(JSContext *ctx, JSValue *sp, bool is_async);

#define js_for_of_next(context, ...) js_for_of_next_##context, __VA_ARGS__)
#define js_for_of_next_JSContext original_js_for_of_next(JSContext
#define js_for_of_next_ctx (js_for_of_next)(ctx
static int (js_for_of_next)(JSContext *ctx, JSValue *sp, int offset);

#define JS_IteratorClose(context, ...) JS_IteratorClose_##context, __VA_ARGS__)
#define JS_IteratorClose_JSContext original_JS_IteratorClose(JSContext
#define JS_IteratorClose_ctx (JS_IteratorClose)(ctx
static int (JS_IteratorClose)(JSContext *ctx, JSValueConst enum_obj, bool is_exception_pending);

#define JS_ConcatString(context, ...) JS_ConcatString_##context, __VA_ARGS__)
#define JS_ConcatString_JSContext original_JS_ConcatString(JSContext
#define JS_ConcatString_ctx (JS_ConcatString)(ctx
static JSValue (JS_ConcatString)(JSContext *ctx, JSValue op1, JSValue op2);

#define JS_GetPropertyValue(context, ...) JS_GetPropertyValue_##context, __VA_ARGS__)
#define JS_GetPropertyValue_JSContext original_JS_GetPropertyValue(JSContext
#define JS_GetPropertyValue_ctx (JS_GetPropertyValue)(ctx
static JSValue (JS_GetPropertyValue)(JSContext *ctx, JSValueConst this_obj, JSValue prop);

#define js_new_string_char(context, ...) js_new_string_char_##context, __VA_ARGS__)
#define js_new_string_char_JSContext original_js_new_string_char(JSContext
#define js_new_string_char_ctx (js_new_string_char)(ctx
static JSValue (js_new_string_char)(JSContext *ctx, uint16_t c);

// Its definition calls the context `caller_ctx`.
#define JS_CallInternal(context, ...) JS_CallInternal_##context, __VA_ARGS__)
#define JS_CallInternal_JSContext original_JS_CallInternal(JSContext
#define JS_CallInternal_ctx (JS_CallInternal)(ctx
static inline JSValue (JS_CallInternal)(JSContext *ctx, JSValueConst func_obj, JSValueConst this_obj, JSValueConst new_target, int argc,
                                        JSValueConst *argv, int flags);

#define JS_GetPropertyInternal(context, ...) JS_GetPropertyInternal_##context, __VA_ARGS__)
#define JS_GetPropertyInternal_JSContext original_JS_GetPropertyInternal(JSContext
#define JS_GetPropertyInternal_ctx (JS_GetPropertyInternal)(ctx
static inline JSValue (JS_GetPropertyInternal)(JSContext *ctx, JSValueConst obj, JSAtom prop, JSValueConst this_obj, bool throw_ref_error);

// Declared by quickjs.h.
#define JS_DefinePropertyValue(context, ...) JS_DefinePropertyValue_##context, __VA_ARGS__)
#define JS_DefinePropertyValue_JSContext original_JS_DefinePropertyValue(JSContext
#define JS_DefinePropertyValue_ctx (JS_DefinePropertyValue)(ctx

#define js_closure(context, ...) js_closure_##context, __VA_ARGS__)
#define js_closure_JSContext original_js_closure(JSContext
#define js_closure_ctx (js_closure)(ctx
struct JSVarRef;
struct JSStackFrame;
static JSValue (js_closure)(JSContext *ctx, JSValue bfunc, struct JSVarRef **cur_var_refs, struct JSStackFrame *sf);

// Entries of tables only.
#define js_regexp_test(context, ...) js_regexp_test_##context, __VA_ARGS__)
#define js_regexp_test_JSContext original_js_regexp_test(JSContext
static JSValue (js_regexp_test)(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv);

#define js_regexp_Symbol_match(context, ...) js_regexp_Symbol_match_##context, __VA_ARGS__)
#define js_regexp_Symbol_match_JSContext original_js_regexp_Symbol_match(JSContext
static JSValue (js_regexp_Symbol_match)(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv);

#define js_regexp_Symbol_replace(context, ...) js_regexp_Symbol_replace_##context, __VA_ARGS__)
#define js_regexp_Symbol_replace_JSContext original_js_regexp_Symbol_replace(JSContext
static JSValue (js_regexp_Symbol_replace)(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv);

#define js_array_join(context, ...) js_array_join_##context, __VA_ARGS__)
#define js_array_join_JSContext original_js_array_join(JSContext
static JSValue (js_array_join)(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv, int toLocaleString);

#define js_array_from(context, ...) js_array_from_##context, __VA_ARGS__)
#define js_array_from_JSContext original_js_array_from(JSContext
static JSValue (js_array_from)(JSContext *ctx, JSValueConst this_val, int argc, JSValueConst *argv);

// Expressions are matched by regexp.c. Both callers have the object in `re`.
#include "libregexp.h"
#include "regexp.h"
#define lre_exec(...) expression_exec(re->bytecode, true, __VA_ARGS__)
