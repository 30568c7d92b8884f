// u64 enter_guest(int resume): run the guest until it exits; 1 where it was not entered.
// Registers that the application's code wants kept are pushed; RSP goes to the host-state area.

    .text
    .globl enter_guest, host_continues, guest_begins
enter_guest:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov $0x6c14, %eax               // host RSP
    vmwrite %rsp, %rax
    mov %edi, %ecx
    lea vmx_guest(%rip), %r15
    mov 0(%r15), %rax
    mov 8(%r15), %rbx
    mov 24(%r15), %rdx
    test %ecx, %ecx
    mov 16(%r15), %rcx
    jnz 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  mov $1, %eax                    // VMfail: the guest was not entered
    jmp 3f

host_continues:
    lea vmx_guest(%rip), %r15
    mov %rax, 0(%r15)
    mov %rbx, 8(%r15)
    mov %rcx, 16(%r15)
    mov %rdx, 24(%r15)
    xor %eax, %eax
    // VM exits leave GDTR and IDTR with a limit of FFFFh; the tables are the same.
3:  popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

// The guest: CPUID, whose answer the host gives, then VMCALL with one more than that.
guest_begins:
    xor %eax, %eax
    xor %ecx, %ecx
    cpuid
    inc %eax
    vmcall
4:  hlt
    jmp 4b

// Firmware loads only what can be relocated: there is nothing to do, but a section must say so.
    .section .reloc, "a"
    .long 0, 12
    .word 0, 0
    .section .note.GNU-stack, "", @progbits
