/* Exceptions and interrupts of lhv itself. */
#pragma once
#include "lib/types.h"

/* What traps.S pushes, lowest address first. */
struct trap_frame {
#ifdef __x86_64__
    word r15, r14, r13, r12, r11, r10, r9, r8;
#endif
    word di, si, bp, bx, dx, cx, ax;
    word vector, error;
    word ip, cs, flags;
#ifdef __x86_64__
    word sp, ss;
#endif
};

/* How an instruction run by try_... (x86/try.h) ended. */
struct fault {
    bool happened;
    u8 vector;
    u32 error;
};

/* The registers that a C function must preserve: a place to go back to. */
struct context {
    word saved[8];
};

/* Like setjmp and longjmp: context_save() returns false, and true when context_restore() brings
   one back to it. */
bool context_save(struct context *context) __attribute__((returns_twice));
void context_restore(struct context *context) __attribute__((noreturn));

void idt_load(void);
extern word idt_base(void);

/* The IDT is one for all processors. */
void idt_build(void);

/* Give up the test that runs; never returns. */
void test_abort(void) __attribute__((noreturn));
