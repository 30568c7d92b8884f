/*
 * L2 code in assembly: what leads up to an instruction, and the instruction that matters.  The
 * labels tell the address at which an exit must be reported, and the instruction's length.
 */
#pragma once
#include "lib/types.h"

struct code {
    const u8 *start, *at, *next;
};

#define L2_CODE(id, before, instruction)                                                           \
    asm(".pushsection .text\n" #id "_start:\n" before "\n" #id "_at:\n" instruction "\n" #id      \
        "_next:\n\tret\n.popsection\n");                                                           \
    extern const u8 id##_start[], id##_at[], id##_next[];                                          \
    static const struct code id __attribute__((unused)) = { id##_start, id##_at, id##_next }

/* Registers of the natural width, for the text of such code */
#ifdef __x86_64__
#define AX "%rax"
#define BX "%rbx"
#define CX "%rcx"
#define DX "%rdx"
#define SI "%rsi"
#define DI "%rdi"
#define SP "%rsp"
#else
#define AX "%eax"
#define BX "%ebx"
#define CX "%ecx"
#define DX "%edx"
#define SI "%esi"
#define DI "%edi"
#define SP "%esp"
#endif
