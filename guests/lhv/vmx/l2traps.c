#include "vmx/l2traps.h"
#include "test/test.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"

enum { L2_TRAP = 0xe000, ENTRY_SIZE = 16, GATE_TYPE_INTERRUPT = 0x8e00 };
extern const u8 l2_trap_entries[];

static u32 *gate(void *idt, u8 vector) { return (u32 *)idt + vector * (IS_64BIT ? 4 : 2); }

void l2_change_gate(void *idt, u8 vector, u16 set, u16 clear)
{
    gate(idt, vector)[1] = (gate(idt, vector)[1] | set) & ~(u32)clear;
}

const u8 *l2_trap_entry(u8 vector) { return l2_trap_entries + ENTRY_SIZE * vector; }

void *l2_use_idt(struct vm *vm __attribute__((unused)))
{
    void *idt = page_alloc();
    for (unsigned v = 0; v < 256; v++) {
        u32 entry = (u32)(word)l2_trap_entry((u8)v);
        gate(idt, (u8)v)[0] = (entry & 0xffff) | SEL_CODE << 16;
        gate(idt, (u8)v)[1] = (entry & 0xffff0000) | GATE_TYPE_INTERRUPT;
    }
    vmwrite(VMCS_GUEST_IDTR_BASE, (word)idt);
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 256 * (IS_64BIT ? 16 : 8) - 1);
    vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    return idt;
}

static bool has_error_code(u8 vector)
{
    return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

struct l2_frame l2_read_frame(struct vm *vm __attribute__((unused)), u8 vector)
{
    const word *stack = (const word *)(word)vmread(VMCS_GUEST_RSP);
    struct l2_frame frame = { 0 };
    stack++; /* the handler's own push */
    if (has_error_code(vector))
        frame.error = (u32)*stack++;
    frame.ip = stack[0];
    frame.cs = stack[1];
    frame.flags = stack[2];
    return frame;
}

bool is_trap(const struct vm *vm, u8 vector)
{
    return vm->reason == REASON_VMCALL && (u32)vm->regs.ax == (u32)(L2_TRAP + vector);
}

struct l2_frame vm_expect_trap(struct vm *vm, u8 vector)
{
    vm_run(vm);
    if (!is_trap(vm, vector)) {
        fail("expected L2's handler of vector %u", vector);
        vm_describe(vm);
        test_abort();
    }
    return l2_read_frame(vm, vector);
}
