/* struct tv_result tv_call(word entry, word first, word second, word third): see tv.h */
        .text
        .global tv_call
#ifdef __x86_64__
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
/* The result's address is a hidden first parameter, which the callee takes off the stack. */
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
