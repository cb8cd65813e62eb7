//! The freestanding binary that the image builder puts into ELRANGE. It has no entry of its own: threads come in by EENTER at
//! `teemate_entry`, which the library defines.
#![no_std]
#![no_main]

// The library's symbols are the program.
#[used]
static ENTRY: unsafe extern "C" fn() -> ! = teemate_libos::entry::teemate_entry;
#[used]
static SYSCALL: unsafe extern "C" fn() = teemate_libos::entry::teemate_syscall;

/// A bug in the LibOS: nothing inside can be trusted to go on. The host gets the message; every later entry is refused.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    teemate_libos::end::panic(format_args!("{info}"))
}

/// liballoc is compiled for unwinding and names this function; the LibOS aborts on panic and never calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    teemate_libos::end::stop()
}
