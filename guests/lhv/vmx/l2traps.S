/*
 * L2's own exception and interrupt handlers, one entry point per vector, 16 bytes each.  A handler
 * tells lhv its vector with a VMCALL (EAX = L2_TRAP + vector), and returns when it is entered again.
 */
        .text

#ifdef __x86_64__
#define AX %rax
#define SP %rsp
#define WORD 8
#define IRET iretq
#else
#define AX %eax
#define SP %esp
#define WORD 4
#define IRET iret
#endif

        .balign 16
        .global l2_trap_entries
l2_trap_entries:
        .set vector, 0
        .rept 256
        .balign 16
        push AX
        mov $(0xe000 + vector), %eax
        .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17)
        jmp l2_trap_error
        .else
        jmp l2_trap
        .endif
        .set vector, vector + 1
        .endr

l2_trap:
        vmcall
        pop AX
        IRET

l2_trap_error:
        vmcall
        pop AX
        lea WORD(SP), SP                /* drop the error code; flags stay */
        IRET

        .section .note.GNU-stack, "", @progbits
