/* Between ring 0, ring 3 and PALs; see tv.h and session.h. */
#include "x86/asm.h"

        .text
        .global user_start, user_start_l2, tv_call

#ifdef __x86_64__
/* In ring 3: RAX points to a struct user_work.  Runs it on its own stack. */
user_start:
        mov 16(%rax), %rsp
        mov 8(%rax), %rdi
        xor %ebp, %ebp
        call *(%rax)
        int $0x42

/* The same in L2, which ends with a VMCALL to L1 (vmx/vm.h). */
user_start_l2:
        mov 16(%rax), %rsp
        mov 8(%rax), %rdi
        xor %ebp, %ebp
        call *(%rax)
        mov $0xd07e, %eax
        vmcall

/* struct tv_result tv_call(word entry, word first, word second, word third) */
tv_call:
        mov %rdi, %rax
        mov %rsi, %rdi
        mov %rdx, %rsi
        mov %rcx, %rdx
        sub $8, %rsp
        call *%rax
        setc %dl
        movzbl %dl, %edx
        add $8, %rsp
        ret
#else
/* In ring 3: EAX points to a struct user_work.  Runs it on its own stack. */
user_start:
        mov 8(%eax), %esp
        xor %ebp, %ebp
        sub $12, %esp
        push 4(%eax)
        call *(%eax)
        int $0x42

user_start_l2:
        mov 8(%eax), %esp
        xor %ebp, %ebp
        sub $12, %esp
        push 4(%eax)
        call *(%eax)
        mov $0xd07e, %eax
        vmcall

/* struct tv_result tv_call(word entry, word first, word second, word third): the result's address
   is a hidden first parameter, which the callee takes off the stack. */
tv_call:
        push 20(%esp)
        push 20(%esp)
        push 20(%esp)
        call *20(%esp)
        setc %dl
        add $12, %esp
        mov 4(%esp), %ecx
        mov %eax, (%ecx)
        mov %dl, 4(%ecx)
        mov %ecx, %eax
        ret $4
#endif

        .section .note.GNU-stack, "", @progbits
