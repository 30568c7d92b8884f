/* Controls, entries and exits. */
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/vm.h"
#include "x86/bits.h"

int vm_enter(struct registers *regs, bool launched);
extern const u8 l2_done[];

static const u16 control_field[CONTROL_WORDS] = {
    [PIN] = VMCS_PIN_CONTROLS,   [CPU] = VMCS_CPU_CONTROLS,     [CPU2] = VMCS_CPU2_CONTROLS,
    [EXIT] = VMCS_EXIT_CONTROLS, [ENTRY] = VMCS_ENTRY_CONTROLS,
};

void vm_needs(enum control_word word, u32 bits)
{
    if (!may_set(word, bits))
        skip("not offered by this processor");
}

void vm_control(struct vm *vm, enum control_word word, u32 set, u32 clear)
{
    u32 value = (vm->controls[word] | set) & ~clear;
    if (word == CPU2 && !may_set(CPU, CPU_SECONDARY)) {
        if (value)
            broken("no secondary controls");
        return;
    }
    vm->controls[word] = value;
    vmwrite(control_field[word], value);
}

/* The stack looks as if l2_done had called `code`. */
void vm_start(struct vm *vm, const void *code, word argument)
{
    word *stack = (word *)(vm->stack - 64);
    stack[0] = (word)l2_done;
    stack[1] = argument; /* i386 passes it here, amd64 in RDI */
    vm->regs.di = argument;
    stack -= IS_64BIT ? 1 : 0; /* RSP + 8 is a multiple of 16 at a function's start */
    stack[0] = (word)l2_done;
    vmwrite(VMCS_GUEST_RIP, (word)code);
    vmwrite(VMCS_GUEST_RSP, (word)stack);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
}

enum vmx_status vm_try_run(struct vm *vm)
{
    int failed = vm_enter(&vm->regs, vm->launched);
    if (failed)
        return failed == 1 ? VMX_FAIL_INVALID : VMX_FAIL_VALID;
    vm->reason = (u32)vmread(VMCS_EXIT_REASON);
    vm->qualification = (word)vmread(VMCS_EXIT_QUALIFICATION);
    vm->ip = (word)vmread(VMCS_GUEST_RIP);
    if (!(vm->reason & REASON_ENTRY_FAILURE))
        vm->launched = true;
    return VMX_OK;
}

u32 vm_run(struct vm *vm)
{
    enum vmx_status status = vm_try_run(vm);
    if (status == VMX_FAIL_INVALID)
        fail("VM entry failed: no current VMCS");
    if (status == VMX_FAIL_VALID)
        fail("VM entry failed: error %u", (u32)vmread(VMCS_INSTRUCTION_ERROR));
    if (status != VMX_OK)
        test_abort();
    return vm->reason;
}

void vm_describe(const struct vm *vm)
{
    note("exit reason %u%s, qualification %lx, L2's IP %lx", vm->reason & 0xffff,
         vm->reason & REASON_ENTRY_FAILURE ? " (failed entry)" : "", vm->qualification, vm->ip);
    if (vm->reason == REASON_VMCALL)
        note("VMCALL with EAX %x", (u32)vm->regs.ax);
    if (vm->reason == REASON_EXCEPTION)
        note("exception %x, error code %x", (u32)vmread(VMCS_EXIT_EVENT),
             (u32)vmread(VMCS_EXIT_EVENT_ERROR));
    if (vm->reason == REASON_EPT_VIOLATION || vm->reason == REASON_EPT_MISCONFIG)
        note("guest-physical %llx, guest-linear %lx", vmread(VMCS_GUEST_PHYSICAL),
             (word)vmread(VMCS_GUEST_LINEAR));
}

void vm_expect(struct vm *vm, u32 reason)
{
    if (vm_run(vm) == reason)
        return;
    fail("expected exit reason %u", reason & 0xffff);
    vm_describe(vm);
    test_abort();
}

void vm_expect_done(struct vm *vm)
{
    vm_expect(vm, REASON_VMCALL);
    if ((u32)vm->regs.ax == DONE)
        return;
    fail("expected the end of L2's code, met another VMCALL");
    vm_describe(vm);
    test_abort();
}

void vm_skip(struct vm *vm) { vmwrite(VMCS_GUEST_RIP, vm->ip + (word)vmread(VMCS_EXIT_LENGTH)); }
