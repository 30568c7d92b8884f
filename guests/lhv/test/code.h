/*
 * L2 code in assembly: what leads up to an instruction, and the instruction that matters.  The
 * labels tell the address at which an exit must be reported, and the instruction's length.
 */
#pragma once
#include "lib/types.h"

struct code {
    const u8 *start, *at, *next, *end;
};

/* Only the start is a symbol of the image; the other labels (.L...) would make it much larger. */
#define L2_CODE_IN(id, bits, before, instruction, after)                                           \
    asm(".pushsection .text\n\t.code" bits "\n" #id "_start:\n" before "\n.L" #id                  \
        "_at:\n" instruction "\n.L" #id "_next:\n" after "\n.L" #id "_end:\n\t.code" NATIVE_BITS   \
        "\n.popsection\n");                                                                        \
    extern const u8 id##_start[];                                                                  \
    extern const u8 id##_at[] asm(".L" #id "_at");                                                 \
    extern const u8 id##_next[] asm(".L" #id "_next");                                             \
    extern const u8 id##_end[] asm(".L" #id "_end");                                               \
    static const struct code id                                                                    \
        __attribute__((unused)) = { id##_start, id##_at, id##_next, id##_end }

/* Code in lhv's own mode; it returns, and so ends with the VMCALL at l2_done (vmx/enter.S). */
#define L2_CODE(id, before, instruction) L2_CODE_IN(id, NATIVE_BITS, before, instruction, "ret")

/* Code in another mode (vmx/modes.h) must end by itself. */
#define L2_END "mov $0xd07e, %eax; vmcall"
#define L2_CODE32(id, before, instruction) L2_CODE_IN(id, "32", before, instruction, L2_END)
#define L2_CODE16(id, before, instruction) L2_CODE_IN(id, "16", before, instruction, L2_END)

/* Registers of the natural width, for the text of such code */
#ifdef __x86_64__
#define NATIVE_BITS "64"
#define AX "%rax"
#define BX "%rbx"
#define CX "%rcx"
#define DX "%rdx"
#define SI "%rsi"
#define DI "%rdi"
#define SP "%rsp"
#else
#define NATIVE_BITS "32"
#define AX "%eax"
#define BX "%ebx"
#define CX "%ecx"
#define DX "%edx"
#define SI "%esi"
#define DI "%edi"
#define SP "%esp"
#endif
