// Lua asks for it; no jump is made here (see engine.c).
typedef int jmp_buf[1];
