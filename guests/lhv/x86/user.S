/* To ring 3 and back; see x86/user.h. */
#include "x86/asm.h"

        .text
        .global user_enter

/* void user_enter(const void *code, word argument, word user_stack, word *ring0_stack): tells the
   TSS to come back onto this stack, and goes to ring 3. */
#ifdef __x86_64__
user_enter:
        mov %rsp, (%rcx)
        mov %rsi, %rax
        push $(SEL_USER_DATA | 3)
        push %rdx
        push $2                         /* RFLAGS: interrupts off */
        push $(SEL_USER_CODE | 3)
        push %rdi
        iretq
#else
user_enter:
        mov 4(%esp), %edx
        mov 8(%esp), %eax
        mov 12(%esp), %ebx
        mov 16(%esp), %ecx
        mov %esp, (%ecx)
        push $(SEL_USER_DATA | 3)
        push %ebx
        push $2
        push $(SEL_USER_CODE | 3)
        push %edx
        mov $(SEL_USER_DATA | 3), %ebx
        mov %ebx, %ds
        mov %ebx, %es
        iret
#endif

        .section .note.GNU-stack, "", @progbits
