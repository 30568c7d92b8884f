/* EPT entries that are malformed, and violations that nobody handles. */
#include "mistakes.h"

/* L2 reads NOTE_PAGE, whose entry of a level has bits changed. */
static void read_through(struct vm *vm, unsigned level, u64 clear, u64 set)
{
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(1)), 1, EPT_RWX | EPT_WB);
    u64 *entry = ept_entry(&vm->ept, NOTE_PAGE, level);
    ept_write(entry, (*entry & ~clear) | set);
    l2_reads(vm, NOTE_PAGE);
}

#define WRONG_ENTRY(id, name, level, clear, set)                                                   \
    MISTAKE(id, name) { read_through(vm, level, clear, set); }

WRONG_ENTRY(write_only_4, "ept-pml4e-write-only", 4, EPT_READ | EPT_EXEC, EPT_WRITE)
WRONG_ENTRY(write_only_3, "ept-pdpte-write-only", 3, EPT_READ | EPT_EXEC, EPT_WRITE)
WRONG_ENTRY(write_only_2, "ept-pde-write-only", 2, EPT_READ | EPT_EXEC, EPT_WRITE)
WRONG_ENTRY(write_only_1, "ept-pte-write-only", 1, EPT_READ | EPT_EXEC, EPT_WRITE)
WRONG_ENTRY(write_exec, "ept-pte-write-and-execute", 1, EPT_READ, 0)
WRONG_ENTRY(reserved_4, "ept-pml4e-with-a-memory-type", 4, 0, EPT_WB)
WRONG_ENTRY(large_4, "ept-pml4e-large", 4, 0, EPT_LARGE)
WRONG_ENTRY(reserved_3, "ept-pdpte-with-a-memory-type", 3, 0, EPT_WB)
WRONG_ENTRY(reserved_2, "ept-pde-ignores-pat", 2, 0, EPT_IGNORE_PAT)
WRONG_ENTRY(large_3, "ept-1-gib-page-unaligned", 3, 0, EPT_LARGE | EPT_WB | BIT(12))
WRONG_ENTRY(large_2, "ept-2-mib-page-unaligned", 2, 0, EPT_LARGE | EPT_WB | BIT(13))
WRONG_ENTRY(type_2, "ept-pte-type-2", 1, 7 << 3, 2 << 3)
WRONG_ENTRY(type_3, "ept-pte-type-3", 1, 7 << 3, 3 << 3)
WRONG_ENTRY(type_7, "ept-pte-type-7", 1, 7 << 3, 7 << 3)
WRONG_ENTRY(wide_4, "ept-pml4e-too-wide", 4, 0, TOO_HIGH)
WRONG_ENTRY(wide_1, "ept-pte-too-wide", 1, 0, TOO_HIGH)

/* A handler that resumes L2 whatever the exit was */
static void resume_for_ever(struct vm *vm)
{
    for (;;)
        vm_run(vm);
}

MISTAKE(never_mapped, "ept-violation-never-mapped")
{
    start_access(vm, READ, VIOLATION_PAGE);
    resume_for_ever(vm);
}

MISTAKE(never_writable, "ept-violation-stays-read-only")
{
    ept_map(&vm->ept, VIOLATION_PAGE, physical(access_page(1)), 1, EPT_READ | EPT_WB);
    start_access(vm, WRITE, VIOLATION_PAGE);
    resume_for_ever(vm);
}

MISTAKE(never_executable, "ept-violation-stays-unexecutable")
{
    ept_map(&vm->ept, VIOLATION_PAGE, physical(access_page(1)), 1, EPT_READ | EPT_WRITE | EPT_WB);
    start_access(vm, FETCH, VIOLATION_PAGE);
    resume_for_ever(vm);
}

L2_CODE(l2_cpuid, "xor %eax, %eax", "cpuid");

MISTAKE(no_skip, "cpuid-exit-never-skipped")
{
    vm_start(vm, l2_cpuid.start, 0);
    resume_for_ever(vm);
}

MISTAKE(no_case, "cpuid-exit-not-handled")
{
    vm_start(vm, l2_cpuid.start, 0);
    vm_expect_done(vm);
}

MISTAKE(unhandled, "ept-violation-not-handled")
{
    start_access(vm, WRITE, VIOLATION_PAGE);
    vm_expect_done(vm);
}

L2_CODE(l2_self, "", "1: jmp 1b");

MISTAKE(l2_loop, "l2-jumps-to-itself")
{
    vm_start(vm, l2_self.start, 0);
    vm_expect_done(vm);
}

L2_CODE(l2_ud2, "", "ud2");

MISTAKE(l2_triple, "l2-without-idt")
{
    vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    vm_start(vm, l2_ud2.start, 0);
    vm_expect_done(vm);
}

/* The interrupt's delivery meets a page that is not mapped; the handler maps it and goes on. */
MISTAKE(lost_interrupt, "interrupt-not-injected-again")
{
    start_nothing(vm);
    change(VMCS_GUEST_RFLAGS, 0, RFLAGS_IF);
    vmwrite(VMCS_GUEST_IDTR_BASE, NOTE_PAGE);
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0xfff);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_EXTERNAL | 0x50);
    vm_expect(vm, REASON_EPT_VIOLATION);
    ept_map(&vm->ept, NOTE_PAGE, physical(page_alloc()), 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
    fail("L2 never got its interrupt");
}
