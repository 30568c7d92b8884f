/*
 * What the tests of VM-entry checks share.  A row breaks one thing in a VMCS that is otherwise good;
 * the entry must then fail with error 7 (controls), with error 8 (host state), or, as a VM exit with
 * reason 33, for guest state (SDM 3C, "VM entries").
 */
#pragma once
#include "test/code.h"
#include "vmx/vm.h"

enum { BAD_CONTROL = 7, BAD_HOST = 8 };

struct entry_row {
    const char *name;
    u32 field;
    u64 clear, set;         /* what is changed in the field */
    enum control_word word; /* control bits that the row needs on */
    u32 controls;
    u32 also; /* more of them, in the secondary word */
};

/* In `set`: the first address bit that this processor has not */
#define TOO_WIDE 0x8000000000000001ull

/* Start L2 with code that does nothing but end. */
void start_nothing(struct vm *vm);
word nothing_ip(void);

/* The entry must fail with this error, or as a VM exit with reason 33 and this qualification. */
void expect_error(struct vm *vm, u32 error);
void expect_bad_guest(struct vm *vm, u32 qualification);

/* All rows, each undone afterwards, and the proof that the VMCS was good but for the changes */
void check_rows(struct vm *vm, const struct entry_row *rows, unsigned count,
                void (*expect)(struct vm *, u32), u32 argument);
