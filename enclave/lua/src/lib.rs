//! Lua 5.1 for the database, as Redis's scripts need it: the interpreter is C and runs in WebAssembly, so that a fault of it stays in there.
#![forbid(unsafe_code)]
