/* VMCS shadowing: L2 reads and writes the fields of a shadow VMCS without exits. */
#include "lib/string.h"
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"

#define SHADOW_INDICATOR BIT(31)

static u8 *read_bitmap(struct vm *vm) { return (u8 *)vm->shared; }
static u8 *write_bitmap(struct vm *vm) { return (u8 *)vm->shared + PAGE_SIZE; }

/* A shadow VMCS in region 1, linked to the current VMCS; the bitmaps, in two pages that follow each
   other, let everything exit at first. */
static void use_shadow(struct vm *vm)
{
    vm_needs(CPU2, CPU2_VMCS_SHADOWING);
    u32 *region = vmcs_region(1);
    vm->shared = pages_alloc(2);
    memset(vm->shared, 0xff, 2 * PAGE_SIZE);
    *region = caps.revision | SHADOW_INDICATOR;
    vmwrite(VMCS_VMCS_LINK, physical(region));
    vmwrite(VMCS_VMREAD_BITMAP, physical(read_bitmap(vm)));
    vmwrite(VMCS_VMWRITE_BITMAP, physical(write_bitmap(vm)));
    vm_control(vm, CPU2, CPU2_VMCS_SHADOWING, 0);
}

/* Look into the shadow VMCS from outside: it can be made current, though not entered. */
static u64 shadow_field(struct vm *vm, u32 encoding)
{
    vmptrld(physical(vmcs_region(1)));
    u64 value = vmread(encoding);
    vmclear(physical(vmcs_region(1)));
    vmptrld(physical(vm->vmcs));
    return value;
}

static void set_shadow_field(struct vm *vm, u32 encoding, u64 value)
{
    vmptrld(physical(vmcs_region(1)));
    vmwrite(encoding, value);
    vmclear(physical(vmcs_region(1)));
    vmptrld(physical(vm->vmcs));
}

static void let_pass(u8 *bitmap, u32 encoding) { bitmap[encoding / 8] &= (u8)~BIT(encoding % 8); }

/* CX: field, DX: value.  The flags after the instruction go to SI. */
L2_CODE(l2_vmread, "", "vmread " CX ", " DX "; pushf; pop " SI);
L2_CODE(l2_vmwrite, "", "vmwrite " DX ", " CX "; pushf; pop " SI);

static void start(struct vm *vm, const struct code *code, word encoding, word value)
{
    vm_start(vm, code->start, 0);
    vm->regs.cx = encoding;
    vm->regs.dx = value;
}

TEST("shadowing", taken, "vmcs-shadowing-exits", 0)
{
    use_shadow(vm);
    start(vm, &l2_vmread, VMCS_GUEST_RIP, 0);
    vm_expect(vm, REASON_VMREAD);
    start(vm, &l2_vmwrite, VMCS_GUEST_RIP, 0);
    vm_expect(vm, REASON_VMWRITE);
    row("bits beyond the bitmap");
    memset(vm->shared, 0, 2 * PAGE_SIZE);
    start(vm, &l2_vmread, 0x8000 | VMCS_GUEST_ES, 0);
    vm_expect(vm, REASON_VMREAD);
    row("without the control");
    vm_control(vm, CPU2, 0, CPU2_VMCS_SHADOWING);
    vmwrite(VMCS_VMCS_LINK, ~0ull);
    start(vm, &l2_vmread, VMCS_GUEST_RIP, 0);
    vm_expect(vm, REASON_VMREAD);
}

TEST("shadowing", reads, "vmcs-shadowing-reads", 0)
{
    use_shadow(vm);
    set_shadow_field(vm, VMCS_GUEST_RIP, 0x51ad);
    set_shadow_field(vm, VMCS_GUEST_ES, 0x77);
    let_pass(read_bitmap(vm), VMCS_GUEST_RIP);
    let_pass(read_bitmap(vm), VMCS_GUEST_ES);
    start(vm, &l2_vmread, VMCS_GUEST_RIP, 0);
    vm_expect_done(vm);
    check_equal("field", vm->regs.dx, 0x51ad);
    check_equal("flags", vm->regs.si & (RFLAGS_CF | RFLAGS_ZF), 0);
    start(vm, &l2_vmread, VMCS_GUEST_ES, ~(word)0);
    vm_expect_done(vm);
    check_equal("16-bit field", vm->regs.dx, 0x77);
    row("another field");
    start(vm, &l2_vmread, VMCS_GUEST_RSP, 0);
    vm_expect(vm, REASON_VMREAD);
}

TEST("shadowing", writes, "vmcs-shadowing-writes", 0)
{
    use_shadow(vm);
    let_pass(write_bitmap(vm), VMCS_GUEST_RSP);
    u64 rip = vmread(VMCS_GUEST_RSP);
    start(vm, &l2_vmwrite, VMCS_GUEST_RSP, 0x6e0);
    vm_expect_done(vm);
    check_equal("flags", vm->regs.si & (RFLAGS_CF | RFLAGS_ZF), 0);
    check_equal("in the shadow VMCS", shadow_field(vm, VMCS_GUEST_RSP), 0x6e0);
    check(vmread(VMCS_GUEST_RSP) != 0x6e0 || rip == 0x6e0, "not in the VMCS itself");
}

/* No shadow VMCS is linked: VMfailInvalid for L2. */
TEST("shadowing", none, "vmcs-shadowing-without-vmcs", 0)
{
    use_shadow(vm);
    vmwrite(VMCS_VMCS_LINK, ~0ull);
    let_pass(read_bitmap(vm), VMCS_GUEST_RIP);
    start(vm, &l2_vmread, VMCS_GUEST_RIP, 0);
    vm_expect_done(vm);
    check_equal("flags", vm->regs.si & (RFLAGS_CF | RFLAGS_ZF), RFLAGS_CF);
}

/* A field that does not exist fails for L2 with ZF; the error number is in the current VMCS. */
TEST("shadowing", unsupported, "vmcs-shadowing-unsupported-field", 0)
{
    const u32 encoding = VMCS_HOST_RIP + 0x100;
    use_shadow(vm);
    let_pass(read_bitmap(vm), encoding);
    let_pass(write_bitmap(vm), encoding);
    const struct code *const codes[] = { &l2_vmread, &l2_vmwrite };
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        row(i ? "VMWRITE" : "VMREAD");
        vmclear(1); /* error 2 */
        start(vm, codes[i], encoding, 0);
        vm_expect_done(vm);
        check_equal("flags", vm->regs.si & (RFLAGS_CF | RFLAGS_ZF), RFLAGS_ZF);
        check_equal("error", vmread(VMCS_INSTRUCTION_ERROR), 12);
    }
    check_equal("error in the shadow VMCS", shadow_field(vm, VMCS_INSTRUCTION_ERROR), 0);
}

/* A shadow VMCS cannot be entered, and an ordinary one cannot be linked. */
TEST("shadowing", misuse, "vmcs-shadowing-misuse", 0)
{
    use_shadow(vm);
    row("VMLAUNCH of the shadow VMCS");
    vmptrld(physical(vmcs_region(1)));
    check_equal("status", try_vmlaunch(), VMX_FAIL_INVALID);
    vmclear(physical(vmcs_region(1)));
    vmptrld(physical(vm->vmcs));
    row("an ordinary VMCS linked");
    *(u32 *)vmcs_region(1) = caps.revision;
    vm_start(vm, l2_vmread.start, 0);
    vm_expect(vm, REASON_ENTRY_FAILURE | REASON_BAD_GUEST);
    check_equal("qualification", vm->qualification, 4);
}
