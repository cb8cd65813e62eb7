// Small blocks that were freed are the next to be given out.
//
// QuickJS-ng keeps small blocks in arenas of a size each, and gives an arena back with its last block. Of what a script makes and drops again
// in each turn of its loop, most fits here, and is neither looked up in its arena nor counted there.

#define KEPT_BLOCKS 32

static struct {
    // Each block begins with the address of the next.
    void *first;
    unsigned count;
} freed[JS_ARENA_BLOCK_SIZE_COUNT];

static inline void *js_arena_malloc(JSRuntime *rt, size_t size)
{
    size_t total = ((size + JS_ARENA_ALIGN - 1) & ~(size_t)(JS_ARENA_ALIGN - 1)) + sizeof(JSMallocBlockHeader);
    if (size > 0 && total <= JS_ARENA_MAX_SMALL_SIZE) {
        int index = arena_get_size_index(total);
        void *block = freed[index].first;
        if (block) {
            freed[index].first = *(void **)block;
            freed[index].count--;
            return block;
        }
    }
    return original_js_arena_malloc(rt, size);
}

static inline void js_arena_free(JSRuntime *rt, void *ptr)
{
    if (ptr) {
        JSMallocBlockHeader *header = container_of(ptr, JSMallocBlockHeader, user_data);
        if (header->u.block_idx != JS_ARENA_FREE_NIL && freed[header->block_size_idx].count < KEPT_BLOCKS) {
            *(void **)ptr = freed[header->block_size_idx].first;
            freed[header->block_size_idx].first = ptr;
            freed[header->block_size_idx].count++;
            return;
        }
    }
    original_js_arena_free(rt, ptr);
}
