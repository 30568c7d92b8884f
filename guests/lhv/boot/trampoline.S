/*
 * Where the other processors start: real mode, CS:IP = TRAMPOLINE:0.  This code is copied to that
 * page; it takes the processor to 32-bit mode and then joins boot/entry.S.  It uses no stack until
 * then: the boot processor starts one processor at a time and leaves its stack in `ap_stack`.
 */
#include "x86/asm.h"

#define HERE(label) (TRAMPOLINE + label - trampoline)

        .section .rodata
        .global trampoline, trampoline_end
trampoline:
        .code16
        cli
        cld
        xor %ax, %ax
        mov %ax, %ds
        lgdtl HERE(temporary_gdtr)
        mov %cr0, %eax
        and $0x9fffffff, %eax           /* INIT leaves the caches off: clear CD and NW */
        or $1, %eax                     /* PE */
        mov %eax, %cr0
        ljmpl $0x08, $HERE(protected)

        .code32
protected:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $ap_continue, %esi
        mov $mode_on, %eax
        jmp *%eax

        .balign 8
temporary_gdt:
        .quad 0
        .quad 0x00cf9b000000ffff        /* flat 32-bit code */
        .quad 0x00cf93000000ffff        /* flat data */
temporary_gdtr:
        .word temporary_gdtr - temporary_gdt - 1
        .long HERE(temporary_gdt)
trampoline_end:

        .text
#ifdef __x86_64__
        .code64
ap_continue:
        mov ap_stack, %rsp
        xor %ebp, %ebp
        call ap_main
#else
        .code32
ap_continue:
        mov ap_stack, %esp
        xor %ebp, %ebp
        call ap_main
#endif
1:      hlt
        jmp 1b

        .section .note.GNU-stack, "", @progbits
