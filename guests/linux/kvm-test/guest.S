/* What the guests execute, each piece copied to CODE; it says what it found at port RESULT. */
#include "kvm-test/guest.h"

    .section .rodata

/* real: BX and DI are given; adds, stores through ES, and tells the sum. */
    .globl real_start, real_end
real_start:
    .code16
    movw %bx, %ax
    addw $0x1111, %ax
    movw $0x0300, %cx
    movw %cx, %es
    movw %ax, %es:(%di)
    outw %ax, $RESULT
    hlt
real_end:

/* ports: answers come from the monitor: echoes bytes, words and longs, then a string of bytes. */
    .globl ports_start, ports_end
ports_start:
    .code32
    inb $ASK, %al
    outb %al, $RESULT
    inw $ASK, %ax
    outw %ax, $RESULT
    inl $ASK, %eax
    outl %eax, $RESULT
    movl $DATA, %edi
    movl $8, %ecx
    movw $ASK, %dx
    cld
    rep insb
    movl $DATA, %esi
    movl $8, %ecx
    movw $RESULT, %dx
    rep outsb
    hlt
ports_end:

/* mmio: EBX is an address where no memory is. */
    .globl mmio_start, mmio_end
mmio_start:
    .code32
    movl $0x11223344, (%ebx)
    movb $0x55, 4(%ebx)
    movl 8(%ebx), %eax
    addl %eax, 12(%ebx)
    outl %eax, $RESULT
    hlt
mmio_end:

/* fill: write its number into each of ECX pages from EBX on, then tell the sum of them all. */
    .globl fill_start, fill_end
fill_start:
    .code64
    movq %rbx, %rsi
    movl %ecx, %edx
1:  movl %edx, (%rsi)
    addq $4096, %rsi
    decl %edx
    jnz 1b
    xorl %eax, %eax
    movq %rbx, %rsi
2:  addl (%rsi), %eax
    addq $4096, %rsi
    decl %ecx
    jnz 2b
    outl %eax, $RESULT
    hlt
fill_end:

/* long: that this is 64-bit code with paging; the registers of 64 bits hold what they should. */
    .globl long_start, long_end
long_start:
    .code64
    movabsq $0x1122334455667788, %r15
    movq %r15, DATA
    pushq %r15
    popq %rax
    shrq $32, %rax
    outl %eax, $RESULT
    hlt
long_end:

/* watch: tell when the long at EBX is no longer what it was, or after ECX looks that it still is.
 * READY becomes 1 when the first look has been taken. */
    .globl watch_start, watch_end
watch_start:
    .code64
    movl (%rbx), %edx
    movl $1, READY
1:  movl (%rbx), %eax
    testl %eax, %eax
    jz 2f
    cmpl %edx, %eax
    jne 3f
2:  decl %ecx
    jnz 1b
3:  outl %eax, $RESULT
    hlt
watch_end:

/* count: add 1 to the long at EBX until STOP is set, at most ECX times. */
    .globl count_start, count_end
count_start:
    .code64
1:  lock incl (%rbx)
    movl $1, READY
    cmpl $0, STOP
    jne 2f
    decl %ecx
    jnz 1b
2:  movl (%rbx), %eax
    outl %eax, $RESULT
    hlt
count_end:

/* turn: EDX is 0 or 1: ECX times wait until the long at EBX has that parity, and add 1. */
    .globl turn_start, turn_end
turn_start:
    .code64
1:  movl (%rbx), %eax
    movl %eax, %esi
    andl $1, %esi
    cmpl %edx, %esi
    jne 1b
    incl %eax
    movl %eax, (%rbx)
    decl %ecx
    jnz 1b
    outl %eax, $RESULT
    hlt
turn_end:
