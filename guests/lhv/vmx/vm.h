/*
 * A virtual machine for a test: one VMCS, one EPT, the guest's registers.  "L2" is the code that
 * runs in it.
 *
 * Unless a test says otherwise, L2 runs in the same mode, with the same page tables, GDT and segments
 * as lhv itself, with its own stack and interrupts off; its EPT maps lhv's image and nothing else,
 * page by page, to itself with type WB.  L2 has no IDT, but every exception of L2 exits; all other
 * optional controls are off.
 */
#pragma once
#include "vmx/ept.h"
#include "vmx/fields.h"

/* L2's general registers, in the order in which vmx/enter.S pushes and pops them. */
struct registers {
#ifdef __x86_64__
    word r15, r14, r13, r12, r11, r10, r9, r8;
#endif
    word di, si, bp, bx, dx, cx, ax;
    word l1_stack; /* lhv's own stack pointer while L2 runs; HOST_RSP points here */
};

struct vm {
    struct registers regs ALIGNED(16);
    bool launched; /* the VMCS's launch state */
    bool vmx_on;   /* this processor is in VMX operation; kept over tests */
    void *vmxon_region;
    void *vmcs; /* the first of this processor's VMCS regions */
    struct ept ept;
    u32 controls[CONTROL_WORDS]; /* as written to the VMCS */
    u8 *stack;                   /* L2's: the end of a page */
    u64 *shared;                 /* a page for L2 and the test to talk */

    /* The last exit */
    u32 reason;
    word qualification, ip;
};

/* The VMCALL with which L2 says that it is done; vm_start() arranges for it. */
#define DONE 0xd07e

/* Everything as described above; the VMCS is cleared, current, and never launched. */
void vm_reset(struct vm *vm);

/* L2 will begin at `code`, a C function of one argument or assembly that ends with RET. */
void vm_start(struct vm *vm, const void *code, word argument);

/* Change a control word.  vm_needs() skips the test where the processor does not offer the bits. */
void vm_control(struct vm *vm, enum control_word word, u32 set, u32 clear);
void vm_needs(enum control_word word, u32 bits);

/* Enter L2 until the next exit; returns the exit reason.  A failed entry gives up the test. */
u32 vm_run(struct vm *vm);

/* The same, but returns how VMLAUNCH or VMRESUME ended. */
enum vmx_status vm_try_run(struct vm *vm);

/* A table as L2's is at the beginning, for tests that want several. */
void vm_create_ept(struct ept *ept);
void vm_use_ept(const struct ept *ept);

/* Run, and give up the test if the exit is another one. */
void vm_expect(struct vm *vm, u32 reason);
void vm_expect_done(struct vm *vm); /* the VMCALL at L2's end */

/* Go on behind the instruction that caused the exit. */
void vm_skip(struct vm *vm);

/* Describe the last exit in the test's notes. */
void vm_describe(const struct vm *vm);

/* VMX operation on and off */
void vmx_turn_on(struct vm *vm);
void vmx_turn_off(struct vm *vm);

/*
 * The VMCS regions of this processor: pages that are never anything else, because the processor may
 * write to the region of an active VMCS whenever it likes.  vm_reset() clears them all.
 */
enum { VMCS_REGIONS = 4 };
void *vmcs_region(unsigned which);
void vmcs_reset(void *region);

/* Write the host state for the processor that executes. */
void vm_load_host(struct vm *vm);

/* The fields of the segment registers follow each other in this order. */
enum segment { ES, CS, SS, DS, FS, GS, LDTR, TR };
void vm_set_segment(enum segment segment, u16 selector, word base, u32 limit, u32 rights);
