//! A small enclave, assembled by hand, and processes that enter it.
#![allow(dead_code, missing_docs, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

use std::arch::global_asm;

use teemate_abi::layout::{ELRANGE_BASE, ENCLU_GATE_BYTES, PAGE_SIZE, tcs_block};
use teemate_image::{Attributes, Content, Image, PageKind, PageRun};
use teemate_sgx::simulator::{SimulatedEnclave, Simulator, SimulatorOptions};
use teemate_sgx::{Attachment, BuildOptions, DeviceKind, Enclave};

pub const SIZE: u64 = 64 << 20;
pub const TCS_COUNT: u32 = 8;
pub const TCS_START: u64 = ELRANGE_BASE + tcs_block::STRIDE;
pub const CODE: u64 = ELRANGE_BASE + 0x10_0000;
pub const DATA: u64 = ELRANGE_BASE + 0x12_0000;
pub const HEAP: u64 = ELRANGE_BASE + 0x20_0000;

/// What the enclave does, by RDI at EENTER.
pub mod act {
    /// EEXIT with RDI = 77, RSI = a + b.
    pub const ADD: u64 = 0;
    /// `syscall`.
    pub const SYSCALL: u64 = 1;
    /// Writes 1 to address a.
    pub const STORE: u64 = 2;
    /// Fills registers from a pattern, spins checking them until DATA[a * 8] is 1; EEXITs with the error count.
    pub const SPIN: u64 = 3;
    /// ENCLU leaf b with RBX, RCX, RDX from the block at address a (4 words: rax out, rbx, rcx, rdx; flags out at 32).
    pub const LEAF: u64 = 4;
    /// Exception handler: SSA[0].rip += a, EEXIT.
    pub const SKIP: u64 = 5;
    /// int3
    pub const INT3: u64 = 6;
    /// Reads address a.
    pub const LOAD: u64 = 7;
    /// Kills at random: EACCEPTs pages from a, b of them, counting at DATA.
    pub const GROW: u64 = 8;
    /// Calls a.
    pub const CALL: u64 = 9;
    /// jumps to a.
    pub const JUMP: u64 = 10;
}

// RDI act, RSI a, RDX b, R8 exit address, RBX TCS, RAX CSSA. GS: local page. Uses the entry stack below CSSA's half.
global_asm!(
    ".pushsection .rodata.test_enclave, \"a\"",
    ".globl test_enclave_start",
    "test_enclave_start:",
    "lea r10, [rbx + {stack_top}]",
    "test eax, eax",
    "jz 1f",
    "sub r10, 0x1000",
    "1: mov rsp, r10",
    "push rsp",
    "mov gs:[16], rax",
    "test eax, eax",
    "jnz 2f",
    "mov gs:[8], r8",
    "2:",
    "cmp rdi, 0", "je 10f",
    "cmp rdi, 1", "je 11f",
    "cmp rdi, 2", "je 12f",
    "cmp rdi, 3", "je 13f",
    "cmp rdi, 4", "je 14f",
    "cmp rdi, 5", "je 15f",
    "cmp rdi, 6", "je 16f",
    "cmp rdi, 7", "je 17f",
    "cmp rdi, 8", "je 18f",
    "cmp rdi, 9", "je 19f",
    "cmp rdi, 10", "je 20f",
    "ud2",
    "10: lea rsi, [rsi + rdx]",
    "mov edi, 77",
    "jmp 99f",
    "11: mov eax, 39",
    "syscall",
    "mov esi, eax",
    "mov edi, 78",
    "jmp 99f",
    "12: mov qword ptr [rsi], 1",
    "mov edi, 79",
    "jmp 99f",
    // SPIN: rsi = index of the stop word; rdx = seed.
    "13:",
    "lea rax, [rip + test_enclave_start]",
    "add rax, {data_from_code}",
    "lea rsi, [rax + rsi * 8]",
    "mov gs:[24], rsi",
    "mov gs:[32], rdx",
    "mov qword ptr gs:[40], 0",
    "movq xmm0, rdx", "pinsrq xmm0, rdx, 1",
    "movdqa xmm1, xmm0", "paddq xmm1, xmm0",
    "movdqa xmm2, xmm1", "paddq xmm2, xmm0",
    "movdqa xmm3, xmm2", "paddq xmm3, xmm0",
    "movdqa xmm4, xmm3", "paddq xmm4, xmm0",
    "movdqa xmm5, xmm4", "paddq xmm5, xmm0",
    "movdqa xmm6, xmm5", "paddq xmm6, xmm0",
    "movdqa xmm7, xmm6", "paddq xmm7, xmm0",
    "movdqa xmm8, xmm7", "paddq xmm8, xmm0",
    "movdqa xmm9, xmm8", "paddq xmm9, xmm0",
    "movdqa xmm15, xmm9", "paddq xmm15, xmm0",
    "lea rbx, [rdx + 1]", "lea rcx, [rdx + 2]", "lea rbp, [rdx + 3]", "lea rdi, [rdx + 4]",
    "lea r8, [rdx + 5]", "lea r9, [rdx + 6]", "lea r10, [rdx + 7]", "lea r11, [rdx + 8]",
    "lea r12, [rdx + 9]", "lea r13, [rdx + 10]", "lea r14, [rdx + 11]", "lea r15, [rdx + 12]",
    "30:",
    "mov rdx, gs:[32]",
    "lea rax, [rdx + 1]", "cmp rax, rbx", "jne 31f",
    "lea rax, [rdx + 2]", "cmp rax, rcx", "jne 31f",
    "lea rax, [rdx + 3]", "cmp rax, rbp", "jne 31f",
    "lea rax, [rdx + 4]", "cmp rax, rdi", "jne 31f",
    "lea rax, [rdx + 5]", "cmp rax, r8", "jne 31f",
    "lea rax, [rdx + 6]", "cmp rax, r9", "jne 31f",
    "lea rax, [rdx + 7]", "cmp rax, r10", "jne 31f",
    "lea rax, [rdx + 8]", "cmp rax, r11", "jne 31f",
    "lea rax, [rdx + 9]", "cmp rax, r12", "jne 31f",
    "lea rax, [rdx + 10]", "cmp rax, r13", "jne 31f",
    "lea rax, [rdx + 11]", "cmp rax, r14", "jne 31f",
    "lea rax, [rdx + 12]", "cmp rax, r15", "jne 31f",
    "mov rax, rsp", "add rax, 8", "cmp rax, [rsp]", "jne 31f",
    "movq rax, xmm0", "cmp rax, rdx", "jne 31f",
    "movdqa xmm10, xmm9", "psubq xmm10, xmm8", "movq rax, xmm10", "cmp rax, rdx", "jne 31f",
    "pextrq rax, xmm10, 1", "cmp rax, rdx", "jne 31f",
    "movdqa xmm10, xmm15", "psubq xmm10, xmm9", "movq rax, xmm10", "cmp rax, rdx", "jne 31f",
    "movdqa xmm10, xmm7", "psubq xmm10, xmm6", "psubq xmm10, xmm5", "paddq xmm10, xmm4", "movq rax, xmm10", "test rax, rax", "jne 31f",
    "rdfsbase rax", "mov rsi, gs:[0]", "cmp rax, rsi", "jne 31f",
    "mov rsi, gs:[24]",
    "inc qword ptr gs:[48]",
    "cmp qword ptr [rsi], 0",
    "je 30b",
    "xor esi, esi",
    "mov edi, 80",
    "jmp 99f",
    "31: mov esi, 1",
    "mov edi, 81",
    "jmp 99f",
    "14: mov r12, rsi",
    "mov rax, rdx",
    "mov rbx, [r12 + 8]",
    "mov rcx, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "call 90f",
    "pushfq",
    "pop [r12 + 32]",
    "mov [r12], rax",
    "mov rsi, rax",
    "mov edi, 82",
    "jmp 99f",
    "15: lea rax, [rbx + {ssa_end}]",
    "add [rax - 184 + 136], rsi",
    "mov edi, 83",
    "jmp 99f",
    "16: int3",
    "nop",
    "mov edi, 84",
    "jmp 99f",
    "17: mov rsi, [rsi]",
    "mov edi, 85",
    "jmp 99f",
    // GROW: EACCEPT pages one by one; the number done is in DATA + 0x800; each accepted page is written to.
    "18: mov r12, rsi",
    "mov r13, rdx",
    "lea r14, [rip + test_enclave_start]",
    "add r14, {data_from_code}",
    "40: cmp qword ptr [r14 + 0x800], r13",
    "jae 41f",
    "mov rcx, [r14 + 0x800]",
    "shl rcx, 12",
    "add rcx, r12",
    "mov r15, rcx",
    "lea rbx, [r14 + 0x840]",
    "mov eax, 5",
    "call 90f",
    "test eax, eax",
    "jnz 42f",
    "mov rcx, [r14 + 0x800]",
    "inc rcx",
    "mov [r15], rcx",
    "mov [r14 + 0x800], rcx",
    "jmp 40b",
    "41: mov edi, 86",
    "mov rsi, [r14 + 0x800]",
    "jmp 99f",
    "42: mov edi, 87",
    "mov esi, eax",
    "jmp 99f",
    "19: call rsi",
    "mov edi, 88",
    "mov rsi, rax",
    "jmp 99f",
    "20: jmp rsi",
    "99: mov rbx, gs:[8]",
    "mov eax, 4",
    "jmp 90f",
    ".balign 16",
    "90: .byte 0x0f, 0x01, 0xd7, 0xc3",
    ".fill 12, 1, 0xcc",
    ".globl test_enclave_end",
    "test_enclave_end:",
    ".popsection",
    stack_top = const tcs_block::STACK_TOP,
    ssa_end = const tcs_block::SSA + PAGE_SIZE,
    data_from_code = const DATA - CODE,
);

unsafe extern "C" {
    static test_enclave_start: u8;
    static test_enclave_end: u8;
}

pub fn image() -> Image {
    let code = unsafe {
        let start = &raw const test_enclave_start;
        std::slice::from_raw_parts(start, &raw const test_enclave_end as usize - start as usize)
    };
    let mut text = code.to_vec();
    let gate = CODE + text.len() as u64 - 16;
    assert_eq!(text[text.len() - 16..], ENCLU_GATE_BYTES);
    assert!(text.len() <= 4096);
    text.resize(4096, 0xcc);
    let mut data = vec![0u8; 0x2000];
    // SECINFO for EACCEPT of an EAUGed page: R W PENDING, PT_REG.
    data[0x840] = 0x0b;
    data[0x841] = 0x02;
    let mut pages = vec![PageRun { offset: 0, count: 1, kind: PageKind::READ, content: Content::Zero }];
    for index in 0..TCS_COUNT as u64 {
        let block = tcs_block::STRIDE * (1 + index);
        let mut tcs = vec![0u8; 4096];
        tcs[16..24].copy_from_slice(&(block + tcs_block::SSA).to_le_bytes());
        tcs[28..32].copy_from_slice(&3u32.to_le_bytes());
        tcs[32..40].copy_from_slice(&(CODE - ELRANGE_BASE).to_le_bytes());
        tcs[48..56].copy_from_slice(&(block + tcs_block::LOCAL).to_le_bytes());
        tcs[56..64].copy_from_slice(&(block + tcs_block::LOCAL).to_le_bytes());
        tcs[64..68].copy_from_slice(&0xfffu32.to_le_bytes());
        tcs[68..72].copy_from_slice(&0xfffu32.to_le_bytes());
        pages.push(PageRun { offset: block, count: 1, kind: PageKind::Tcs, content: Content::Bytes(tcs) });
        let mut writable = vec![0u8; 6 * 4096];
        let local = (tcs_block::LOCAL - tcs_block::SSA) as usize;
        writable[local..local + 8].copy_from_slice(&(ELRANGE_BASE + block + tcs_block::LOCAL).to_le_bytes());
        pages.push(PageRun { offset: block + tcs_block::SSA, count: 6, kind: PageKind::READ_WRITE, content: Content::Bytes(writable) });
    }
    pages.push(PageRun { offset: CODE - ELRANGE_BASE, count: 1, kind: PageKind::READ_EXECUTE, content: Content::Bytes(text) });
    pages.push(PageRun { offset: DATA - ELRANGE_BASE, count: 2, kind: PageKind::READ_WRITE, content: Content::Bytes(data) });
    Image {
        elrange_size: SIZE,
        ssa_frame_pages: 1,
        pages,
        gate,
        tcs_start: TCS_START,
        tcs_count: TCS_COUNT,
        heap_start: HEAP,
        attributes: Attributes { flags: 4, xfrm: 0xe7 },
        miscselect: 1,
        isv_prod_id: 0,
        isv_svn: 0,
        report: Default::default(),
        sigstruct: None,
    }
}

pub fn simulator(gate: bool) -> (Simulator, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let options = SimulatorOptions { gate, allow_unsigned: true, ..SimulatorOptions::new(dir.path()) };
    (Simulator::new(options).unwrap(), dir)
}

pub fn build(gate: bool) -> (SimulatedEnclave, tempfile::TempDir) {
    build_limited(gate, 0)
}

pub fn build_limited(gate: bool, epc_limit_pages: u64) -> (SimulatedEnclave, tempfile::TempDir) {
    let (simulator, dir) = simulator(gate);
    (simulator.build_enclave(&image(), &BuildOptions { epc_limit_pages }).unwrap(), dir)
}

pub fn attach(enclave: &SimulatedEnclave) -> Attachment {
    Attachment::attach(DeviceKind::Simulator, enclave.share().unwrap()).unwrap()
}

/// Runs `work` in a forked child; gives its pid.
pub fn spawn(work: impl FnOnce() -> i32) -> i32 {
    unsafe {
        match libc::fork() {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                // Whoever spins in it when its test has failed does not spin for ever.
                libc::alarm(300);
                let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101);
                libc::_exit(code)
            }
            pid => pid,
        }
    }
}

/// Waits for a child; exit code, or minus the signal.
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    unsafe {
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
    }
}

/// `work` in a child; panics unless it succeeds.
pub fn in_child(work: impl FnOnce()) {
    assert_eq!(
        wait(spawn(|| {
            work();
            0
        })),
        0,
        "the child failed"
    );
}

/// A child that the guard has seized before it starts to `work`.
pub fn spawn_guarded(enclave: &SimulatedEnclave, work: impl FnOnce() -> i32) -> i32 {
    spawn_guarded_and(enclave, |_| {}, work)
}

/// The same, with something to do between the two.
pub fn spawn_guarded_and(enclave: &SimulatedEnclave, ready: impl FnOnce(i32), work: impl FnOnce() -> i32) -> i32 {
    let mut pipe = [0; 2];
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let pid = spawn(|| {
        let mut byte = 0u8;
        assert_eq!(unsafe { libc::read(pipe[0], (&raw mut byte).cast(), 1) }, 1);
        work()
    });
    enclave.guard(pid).unwrap();
    ready(pid);
    assert_eq!(unsafe { libc::write(pipe[1], c"g".as_ptr().cast(), 1) }, 1);
    unsafe {
        libc::close(pipe[0]);
        libc::close(pipe[1]);
    }
    pid
}

/// A small random number generator, so that a failure can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

pub fn sleep_us(us: u64) {
    let until = std::time::Instant::now() + std::time::Duration::from_micros(us);
    while std::time::Instant::now() < until {
        std::hint::spin_loop();
    }
}
