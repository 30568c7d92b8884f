/* Entry points of all 256 vectors, and the two functions that save and restore a context. */
#include "x86/asm.h"

        .text


#ifdef __x86_64__
#define PUSH pushq
#else
#define PUSH pushl
#endif

/* Each entry point is 16 bytes long. */
        .balign 16
        .global trap_entries
trap_entries:
        .set vector, 0
        .rept 256
        .balign 16
        .if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21))
        PUSH $0
        .endif
        PUSH $vector
        jmp trap_common
        .set vector, vector + 1
        .endr

#ifdef __x86_64__

trap_common:
        push %rax
        push %rcx
        push %rdx
        push %rbx
        push %rbp
        push %rsi
        push %rdi
        push %r8
        push %r9
        push %r10
        push %r11
        push %r12
        push %r13
        push %r14
        push %r15
        cld
        mov %rsp, %rdi
        mov %rsp, %rbx
        and $-16, %rsp
        call trap
        mov %rbx, %rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %r11
        pop %r10
        pop %r9
        pop %r8
        pop %rdi
        pop %rsi
        pop %rbp
        pop %rbx
        pop %rdx
        pop %rcx
        pop %rax
        add $16, %rsp                   /* vector and error code */
        iretq

        .global context_save
context_save:
        mov (%rsp), %rax                /* return address */
        mov %rax, 0(%rdi)
        lea 8(%rsp), %rax
        mov %rax, 8(%rdi)
        mov %rbx, 16(%rdi)
        mov %rbp, 24(%rdi)
        mov %r12, 32(%rdi)
        mov %r13, 40(%rdi)
        mov %r14, 48(%rdi)
        mov %r15, 56(%rdi)
        xor %eax, %eax
        ret

        .global context_restore
context_restore:
        mov 16(%rdi), %rbx
        mov 24(%rdi), %rbp
        mov 32(%rdi), %r12
        mov 40(%rdi), %r13
        mov 48(%rdi), %r14
        mov 56(%rdi), %r15
        mov 8(%rdi), %rsp
        mov $1, %eax
        jmp *0(%rdi)

#else

trap_common:
        push %eax
        push %ecx
        push %edx
        push %ebx
        push %ebp
        push %esi
        push %edi
        cld
        mov %esp, %ebx
        and $-16, %esp
        sub $12, %esp
        push %ebx
        call trap
        mov %ebx, %esp
        pop %edi
        pop %esi
        pop %ebp
        pop %ebx
        pop %edx
        pop %ecx
        pop %eax
        add $8, %esp                    /* vector and error code */
        iret

        .global context_save
context_save:
        mov 4(%esp), %ecx
        mov (%esp), %eax                /* return address */
        mov %eax, 0(%ecx)
        lea 4(%esp), %eax
        mov %eax, 4(%ecx)
        mov %ebx, 8(%ecx)
        mov %ebp, 12(%ecx)
        mov %esi, 16(%ecx)
        mov %edi, 20(%ecx)
        xor %eax, %eax
        ret

        .global context_restore
context_restore:
        mov 4(%esp), %ecx
        mov 8(%ecx), %ebx
        mov 12(%ecx), %ebp
        mov 16(%ecx), %esi
        mov 20(%ecx), %edi
        mov 4(%ecx), %esp
        mov $1, %eax
        jmp *0(%ecx)

#endif
        .section .note.GNU-stack, "", @progbits
