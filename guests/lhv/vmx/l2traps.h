/* L2 with handlers of its own for exceptions and interrupts; lhv's IDT is not for L2. */
#pragma once
#include "vmx/vm.h"

/* What an event pushed onto L2's stack, as the handler finds it. */
struct l2_frame {
    u32 error; /* if the vector has an error code */
    word ip, cs, flags;
};

/*
 * Give L2 an IDT, in a page of its own (returned), and let no exception exit.  `vm_expect_trap`:
 * run until L2's handler for the vector has started.
 */
void *l2_use_idt(struct vm *vm);
const u8 *l2_trap_entry(u8 vector); /* where the handler begins */
struct l2_frame vm_expect_trap(struct vm *vm, u8 vector);

/* The gate of a vector: change its privilege level, whether it is present, or its type. */
enum { GATE_PRESENT = BIT(15), GATE_DPL3 = 3 << 13, GATE_TRAP = BIT(8) };
void l2_change_gate(void *idt, u8 vector, u16 set, u16 clear);

/* Take the frame of the handler that runs from L2's stack. */
struct l2_frame l2_read_frame(struct vm *vm, u8 vector);
bool is_trap(const struct vm *vm, u8 vector);
