# Stands in for the LibOS in tests: the same symbols, and a teemate_syscall that asks the kernel.
# With it an image's programs run as an ordinary process, every rewritten site through its trampoline.
    .text
    .globl teemate_entry
# As a process: points the auxiliary vector to the payload's own program headers, as EnclaveInfo gives them, and starts it.
teemate_entry:
    movabs $0x100000000000, %rbx
    mov (%rsp), %rax
    lea 16(%rsp,%rax,8), %rdi
6:  mov (%rdi), %rax            # the environment
    add $8, %rdi
    test %rax, %rax
    jnz 6b
7:  mov (%rdi), %rax            # the auxiliary vector
    cmp $3, %rax                # AT_PHDR
    cmove 72(%rbx), %rcx
    je 8f
    cmp $5, %rax                # AT_PHNUM
    cmove 80(%rbx), %rcx
    jne 9f
8:  mov %rcx, 8(%rdi)
9:  add $16, %rdi
    test %rax, %rax
    jnz 7b
    xor %edx, %edx
    jmp *64(%rbx)

    .p2align 4
    .globl teemate_enclu_gate
teemate_enclu_gate:
    .byte 0x0f, 0x01, 0xd7, 0xc3
    .fill 12, 1, 0xcc

    .globl teemate_syscall
teemate_syscall:
    lock incq calls(%rip)
    cmp $15, %eax               # rt_sigreturn: the frame is where the payload's stack pointer is
    je 1f
    cmp $435, %eax              # clone3
    je 2f
    cmp $231, %eax              # exit_group
    je 3f
    syscall
    ret
1:  lea 136(%rsp), %rsp
    syscall
    ud2
    # The child starts at our return address, 128 below the top of its stack.
2:  mov 40(%rdi), %r11
    add 48(%rdi), %r11
    mov (%rsp), %rcx
    mov %rcx, -136(%r11)
    syscall
    test %rax, %rax
    jnz 4f
    lea -136(%rsp), %rsp
4:  ret
    # Status 0 with many calls counted becomes 77: the test then knows that they came this way.
3:  test %edi, %edi
    jnz 5f
    cmpq $10, calls(%rip)
    jb 5f
    mov $77, %edi
5:  syscall
    ud2

    .data
calls:
    .quad 0
    .section .data.rel.ro, "aw"
    .globl pointer
pointer:
    .quad teemate_syscall
    .bss
    .zero 20000
