#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/ept.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"

/* BX: the address.  The value read goes to SI, which nothing else changes. */
L2_CODE(code_read, "", "mov (" BX "), " SI);
L2_CODE(code_write, "", "movl $0x60c3, (" BX ")");
L2_CODE(code_fetch, "", "call *" BX);

enum { OPCODE_RET = 0xc3 };

void start_access(struct vm *vm, enum access access, word address)
{
    const struct code *code = access == READ    ? &code_read
                              : access == WRITE ? &code_write
                                                : &code_fetch;
    vm_start(vm, code->start, 0);
    vm->regs.bx = address;
}

const char *access_name(enum access access)
{
    return access == READ ? "read" : access == WRITE ? "write" : "fetch";
}

word read_value(const struct vm *vm) { return vm->regs.si; }

word l2_reads(struct vm *vm, word address)
{
    start_access(vm, READ, address);
    vm_expect_done(vm);
    return read_value(vm);
}

void l2_writes(struct vm *vm, word address)
{
    start_access(vm, WRITE, address);
    vm_expect_done(vm);
}

/* Bits that newer processors may add to the qualification are left out. */
enum { KNOWN_QUALIFICATION = 0x1bf };

void check_violation(struct vm *vm, u32 access, u32 allowed, u64 physical_, word linear)
{
    check_equal("qualification", vm->qualification & KNOWN_QUALIFICATION,
                access | allowed << VIOLATION_ALLOWS_SHIFT | VIOLATION_LINEAR_VALID |
                    VIOLATION_FINAL);
    check_equal("guest-physical address", vmread(VMCS_GUEST_PHYSICAL), physical_);
    check_equal("guest-linear address", vmread(VMCS_GUEST_LINEAR), linear);
}

void expect_violation(struct vm *vm, u32 access, u32 allowed, u64 physical_, word linear)
{
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_violation(vm, access, allowed, physical_, linear);
}

void *access_page(word value)
{
    word *page = page_alloc();
    *(u8 *)page = OPCODE_RET;
    page[1] = value;
    return page;
}

bool rights_misconfigured(u32 rights)
{
    if ((rights & EPT_WRITE) && !(rights & EPT_READ))
        return true;
    return rights == EPT_EXEC && !has_ept_cap(EPT_CAP_EXECUTE_ONLY);
}
