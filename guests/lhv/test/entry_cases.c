#include "test/entry_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"

L2_CODE(l2_nothing, "", "nop");

void start_nothing(struct vm *vm) { vm_start(vm, l2_nothing.start, 0); }
word nothing_ip(void) { return (word)l2_nothing.start; }

static u64 changed(const struct entry_row *it, u64 value)
{
    u64 set = it->set == TOO_WIDE ? BIT64(caps.physical_bits) : it->set;
    return (value & ~it->clear) | set;
}

static bool applicable(const struct entry_row *it)
{
    if (it->word < CONTROL_WORDS && !may_set(it->word, it->controls))
        return false;
    return may_set(CPU2, it->also);
}

void expect_error(struct vm *vm, u32 error)
{
    enum vmx_status status = vm_try_run(vm);
    if (status == VMX_FAIL_VALID) {
        check_equal("error number", vmread(VMCS_INSTRUCTION_ERROR), error);
        return;
    }
    fail("expected the entry to fail with error %u", error);
    if (status == VMX_OK)
        vm_describe(vm);
}

void expect_bad_guest(struct vm *vm, u32 qualification)
{
    if (vm_try_run(vm) != VMX_OK) {
        fail("expected a failure with exit reason 33, met error %u",
             (u32)vmread(VMCS_INSTRUCTION_ERROR));
        return;
    }
    if (check_equal("exit reason", vm->reason, REASON_ENTRY_FAILURE | REASON_BAD_GUEST))
        check_equal("qualification", vm->qualification, qualification);
}

/* Do something with the row's change in place, then undo it. */
static void with_change(struct vm *vm, const struct entry_row *it, void (*expect)(struct vm *, u32),
                        u32 argument)
{
    if (!applicable(it))
        return;
    row(it->name);
    u32 old_word = it->word < CONTROL_WORDS ? vm->controls[it->word] : 0;
    u32 old_cpu2 = vm->controls[CPU2];
    if (it->word < CONTROL_WORDS)
        vm_control(vm, it->word, it->controls, 0);
    vm_control(vm, CPU2, it->also, 0);
    u64 ip = vmread(VMCS_GUEST_RIP), sp = vmread(VMCS_GUEST_RSP), old = vmread(it->field);
    vmwrite(it->field, changed(it, old));
    expect(vm, argument);
    vmwrite(VMCS_GUEST_RIP, ip); /* if L2 ran, against all expectation */
    vmwrite(VMCS_GUEST_RSP, sp);
    vmwrite(it->field, old);
    vm_control(vm, CPU2, 0, ~old_cpu2);
    if (it->word < CONTROL_WORDS)
        vm_control(vm, it->word, 0, ~old_word);
}

void check_rows(struct vm *vm, const struct entry_row *rows, unsigned count,
                void (*expect)(struct vm *, u32), u32 argument)
{
    for (unsigned i = 0; i < count; i++)
        with_change(vm, &rows[i], expect, argument);
    row("with nothing changed");
    vm_expect_done(vm);
}
