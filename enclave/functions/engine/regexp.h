// What regexp.c offers engine.c, and what it asks of it.
#include <stdbool.h>
#include <stdint.h>

// Looks for a match as lre_exec does, with its answers. `owner` is the string that holds the bytecode `bc_buf`. Without `captures` only the
// first capture, the match itself, is there afterwards.
int expression_exec(const void *owner, bool captures, uint8_t **capture, const uint8_t *bc_buf, const uint8_t *cbuf, int cindex, int clen,
                    int cbuf_type, void *opaque);

// Keeps `owner` as long as its expression is remembered, and lets go of it.
void expression_hold(const void *owner);
void expression_release(const void *owner, void *opaque);
