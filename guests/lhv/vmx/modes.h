/*
 * L2 in other modes than lhv's own.  Real and virtual-8086 mode have their code in the page at
 * REAL_CODE and data and stack in the page at REAL_DATA, both addresses being L2's.
 */
#pragma once
#include "test/code.h"
#include "vmx/space.h"

enum mode {
    MODE_REAL, /* 16 bits, neither protection nor paging: needs "unrestricted guest" */
    MODE_V86,
    MODE_FLAT, /* 32 bits, protection without paging: needs "unrestricted guest" */
    MODE_32,   /* 32 bits, 32-bit paging */
    MODE_PAE,
    MODE_COMPAT, /* 32-bit code in IA-32e mode: amd64 only */
    MODE_NATIVE, /* lhv's own */
};

enum { REAL_CODE = 0x7000, REAL_DATA = 0x8000 };

/*
 * Put L2 into `mode`, at the beginning of `code`, in ring 0 (virtual-8086 mode: 3).  Paged modes get
 * a fresh `space`.  Skips the test if the processor does not offer the mode.
 */
void vm_start_mode(struct vm *vm, enum mode mode, struct space *space, const struct code *code);
void vm_need_mode(enum mode mode);

/* Real and virtual-8086 mode: the data page, as lhv sees it; fresh with every vm_start_mode(). */
u8 *real_data(struct vm *vm);
