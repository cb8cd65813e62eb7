//! The end of the enclave's life: the payload exits, or something is broken beyond repair.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use teemate_abi::transition::exit;

use crate::{entry, local::Local};

static DEAD: AtomicBool = AtomicBool::new(false);

/// Whether the payload has ended. Every entry is refused from then on.
pub fn is_dead() -> bool {
    DEAD.load(Ordering::Relaxed)
}

/// exit_group.
pub fn exit(status: u64) -> ! {
    DEAD.store(true, Ordering::Relaxed);
    // SAFETY: this thread never runs again.
    unsafe { entry::leave(exit::PAYLOAD_EXIT, status) }
}

/// Ends the enclave with a message for the host's log. The message must hold nothing of a user.
pub fn panic(message: fmt::Arguments<'_>) -> ! {
    let length = record(message);
    // SAFETY: this thread never runs again.
    unsafe { entry::leave(exit::PANIC, length) }
}

/// Marks the enclave dead and puts the message into the mailbox; its length.
pub fn record(message: fmt::Arguments<'_>) -> u64 {
    DEAD.store(true, Ordering::Relaxed);
    let mut text = Text { bytes: [0; 512], length: 0 };
    let _ = text.write_fmt(message);
    let mailbox = Local::current().mailbox();
    for (i, byte) in text.bytes.iter().enumerate().take(text.length) {
        // SAFETY: the mailbox lies in the host area, whose place is a constant outside ELRANGE, and has room for 512 bytes.
        unsafe { (&raw mut (*mailbox).data).cast::<u8>().add(i).write_volatile(*byte) };
    }
    text.length as u64
}

/// Stops this thread without another word.
pub fn stop() -> ! {
    loop {
        // SAFETY: UD2 has no effect but an exception; the host may resume it as often as it likes.
        unsafe { core::arch::asm!("ud2", options(nomem, nostack)) }
    }
}

struct Text {
    bytes: [u8; 512],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            if self.length < self.bytes.len() {
                self.bytes[self.length] = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}
