/*
 * L2's own exception and interrupt handlers, one per vector, 32 bytes each.  A handler tells lhv
 * its vector with a VMCALL (EAX = L2_TRAP + vector), and returns when it is entered again.
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

        .balign 32
        .global l2_trap_entries
l2_trap_entries:
        .set vector, 0
        .rept 256
        .balign 32
        push AX
        mov $(0xe000 + vector), %eax
        vmcall
        pop AX
        .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17)
        lea WORD(SP), SP                /* the error code; flags stay */
        .endif
        IRET
        .set vector, vector + 1
        .endr

        .section .note.GNU-stack, "", @progbits
