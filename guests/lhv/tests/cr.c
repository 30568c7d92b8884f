/*
 * Control registers: guest/host masks and read shadows, CLTS, LMSW and SMSW, CR3 targets, bits that
 * are fixed in VMX operation (SDM 3C, "Guest/host masks and read shadows for CR0 and CR4").
 */
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"
#include "x86/instructions.h"

/* The kinds of access in the qualification */
enum { CR_MOV_TO = 0 << 4, CR_MOV_FROM = 1 << 4, CR_CLTS = 2 << 4, CR_LMSW = 3 << 4 };
enum { CR_LMSW_MEMORY = BIT(6), CR_REGISTER_SHIFT = 8, CR_LMSW_DATA_SHIFT = 16 };
enum {
    IN_AX = 0 << CR_REGISTER_SHIFT,
    IN_CX = 1 << CR_REGISTER_SHIFT,
    IN_BX = 3 << CR_REGISTER_SHIFT
};

/* L2 flips bits of CR0, and says in DX what it then reads.  BX: the bits. */
L2_CODE(l2_flip_cr0, "mov %cr0, " CX "; xor " BX ", " CX, "mov " CX ", %cr0; mov %cr0, " DX);
L2_CODE(l2_flip_cr4, "mov %cr4, " CX "; xor " BX ", " CX, "mov " CX ", %cr4; mov %cr4, " DX);

/*
 * A bit of CR0 or CR4 under the mask: L2 reads the shadow, and exits if it writes something else
 * than the shadow.  A bit that is not: L2 reads and writes the register.
 */
static const struct {
    const char *name;
    u32 mask, shadow, real, flip;
    bool exits;
    u32 read, becomes; /* of the flipped register, if it does not exit */
} mask_rows[] = {
    { "own bit, 0 to 1", 0, 0, 0, 1, false, 1, 1 },
    { "own bit, 1 to 0", 0, 0, 1, 1, false, 0, 0 },
    { "own bit, shadow does not matter", 0, 1, 0, 0, false, 0, 0 },
    { "masked, writes what it reads", 1, 0, 1, 0, false, 0, 1 },
    { "masked, writes what it reads, 1", 1, 1, 0, 0, false, 1, 0 },
    { "masked, 0 to 1", 1, 0, 0, 1, true, 0, 0 },
    { "masked, 1 to 0", 1, 1, 1, 1, true, 0, 0 },
    { "masked, register agrees with the new value", 1, 0, 1, 1, true, 0, 0 },
};

/* One bit of a register through all rows */
static void check_mask(struct vm *vm, bool cr4, u32 bit)
{
    u32 guest = cr4 ? VMCS_GUEST_CR4 : VMCS_GUEST_CR0;
    u32 mask = cr4 ? VMCS_CR4_MASK : VMCS_CR0_MASK,
        shadow = cr4 ? VMCS_CR4_SHADOW : VMCS_CR0_SHADOW;
    const struct code *code = cr4 ? &l2_flip_cr4 : &l2_flip_cr0;
    word others = (word)vmread(guest) & ~(word)bit;
    for (unsigned i = 0; i < ARRAY_LEN(mask_rows); i++) {
        row(mask_rows[i].name);
        vmwrite(mask, mask_rows[i].mask * bit);
        vmwrite(shadow, mask_rows[i].shadow * bit);
        vmwrite(guest, others | mask_rows[i].real * bit);
        vm_start(vm, code->start, 0);
        vm->regs.bx = mask_rows[i].flip * bit;
        if (mask_rows[i].exits) {
            vm_expect(vm, REASON_CR);
            check_equal("qualification", vm->qualification, (cr4 ? 4 : 0) | CR_MOV_TO | IN_CX);
            check_equal("IP", vm->ip, (word)code->at);
            check_equal("register", vmread(guest), others | mask_rows[i].real * bit);
            continue;
        }
        vm_expect_done(vm);
        check_equal("read", vm->regs.dx & bit, mask_rows[i].read * bit);
        check_equal("register", vmread(guest), others | mask_rows[i].becomes * bit);
    }
}

TEST("cr", cr0_mask, "cr0-mask-and-shadow", 0) { check_mask(vm, false, CR0_TS); }
TEST("cr", cr4_mask, "cr4-mask-and-shadow", 0) { check_mask(vm, true, CR4_PCE); }

/* The bits that VMX fixes look like the shadow too. */
L2_CODE(l2_read_crs, "mov %cr0, " BX, "mov %cr4, " CX);

TEST("cr", hidden, "cr-fixed-bits-hidden", 0)
{
    vmwrite(VMCS_CR0_MASK, CR0_NE);
    vmwrite(VMCS_CR4_MASK, CR4_VMXE);
    vm_start(vm, l2_read_crs.start, 0);
    vm_expect_done(vm);
    check_equal("CR0.NE as L2 sees it", vm->regs.bx & CR0_NE, 0);
    check_equal("CR4.VMXE as L2 sees it", vm->regs.cx & CR4_VMXE, 0);
}

/* Bits that are fixed in VMX operation: L2's own attempt to change them is #GP(0). */
static const struct {
    const char *name;
    bool cr4;
    u32 flip;
} fixed_rows[] = {
    { "CR0.NE", false, CR0_NE },
    { "CR4.VMXE", true, CR4_VMXE },
};

TEST("cr", fixed, "cr-fixed-bits-fault", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(fixed_rows); i++) {
        row(fixed_rows[i].name);
        vm_start(vm, (fixed_rows[i].cr4 ? l2_flip_cr4 : l2_flip_cr0).start, 0);
        vm->regs.bx = fixed_rows[i].flip;
        vm_expect(vm, REASON_EXCEPTION);
        check_equal("exception", vmread(VMCS_EXIT_EVENT),
                    EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
        check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), 0);
    }
}

/* ---- CLTS: exits if TS is masked and its shadow 1; if the shadow is 0, it does nothing ---- */

L2_CODE(l2_clts, "", "clts");

static const struct {
    const char *name;
    u32 mask, shadow;
    bool exits;
    u32 ts_after;
} clts_rows[] = {
    { "own", 0, 0, false, 0 },
    { "own, shadow 1", 0, 1, false, 0 },
    { "masked, shadow 1", 1, 1, true, 1 },
    { "masked, shadow 0", 1, 0, false, 1 },
};

TEST("cr", clts, "clts", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(clts_rows); i++) {
        row(clts_rows[i].name);
        vmwrite(VMCS_CR0_MASK, clts_rows[i].mask * CR0_TS);
        vmwrite(VMCS_CR0_SHADOW, clts_rows[i].shadow * CR0_TS);
        vmwrite(VMCS_GUEST_CR0, vmread(VMCS_GUEST_CR0) | CR0_TS);
        vm_start(vm, l2_clts.start, 0);
        if (clts_rows[i].exits) {
            vm_expect(vm, REASON_CR);
            check_equal("qualification", vm->qualification, CR_CLTS);
        } else {
            vm_expect_done(vm);
        }
        check_equal("CR0.TS", vmread(VMCS_GUEST_CR0) & CR0_TS, clts_rows[i].ts_after * CR0_TS);
    }
}

/* ---- LMSW and SMSW ---- */

L2_CODE(l2_lmsw, "", "lmsw %cx");
L2_CODE(l2_lmsw_memory, "", "lmsw (" BX ")");
L2_CODE(l2_smsw, "", "smsw %ecx");

/* LMSW cannot clear PE, so PE counts only when it would be set. */
static const struct {
    const char *name;
    u32 mask, shadow, source;
    bool exits;
} lmsw_rows[] = {
    { "nothing masked", 0, 0, CR0_PE | CR0_TS, false },
    { "TS masked, same as shadow", CR0_TS, CR0_TS, CR0_PE | CR0_TS, false },
    { "TS masked, differs", CR0_TS, 0, CR0_PE | CR0_TS, true },
    { "MP masked, differs", CR0_MP, CR0_MP, CR0_PE, true },
    { "PE masked, shadow 0, would set", CR0_PE, 0, CR0_PE, true },
    { "PE masked, shadow 1, would set", CR0_PE, CR0_PE, CR0_PE, false },
    { "PE masked, shadow 1, would clear", CR0_PE, CR0_PE, 0, false },
    { "NE masked: not a bit of LMSW", CR0_NE, 0, CR0_PE, false },
};

TEST("cr", lmsw, "lmsw", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(lmsw_rows); i++) {
        row(lmsw_rows[i].name);
        vmwrite(VMCS_CR0_MASK, lmsw_rows[i].mask);
        vmwrite(VMCS_CR0_SHADOW, lmsw_rows[i].shadow);
        vm_start(vm, l2_lmsw.start, 0);
        vm->regs.cx = lmsw_rows[i].source;
        if (!lmsw_rows[i].exits) {
            vm_expect_done(vm);
            continue;
        }
        vm_expect(vm, REASON_CR);
        check_equal("qualification", vm->qualification,
                    CR_LMSW | lmsw_rows[i].source << CR_LMSW_DATA_SHIFT);
    }
    row("from memory");
    vmwrite(VMCS_CR0_MASK, CR0_TS);
    vmwrite(VMCS_CR0_SHADOW, 0);
    *vm->shared = CR0_PE | CR0_TS;
    vm_start(vm, l2_lmsw_memory.start, 0);
    vm->regs.bx = (word)vm->shared;
    vm_expect(vm, REASON_CR);
    check_equal("qualification", vm->qualification & 0xffff007f, /* bits 11:8 say nothing here */
                CR_LMSW | CR_LMSW_MEMORY | (u32)*vm->shared << CR_LMSW_DATA_SHIFT);
    check_equal("guest-linear address", vmread(VMCS_GUEST_LINEAR), (word)vm->shared);
}

TEST("cr", smsw, "smsw-reads-shadow", 0)
{
    vmwrite(VMCS_CR0_MASK, CR0_TS | CR0_MP | CR0_NE);
    vmwrite(VMCS_CR0_SHADOW, CR0_TS);
    vmwrite(VMCS_GUEST_CR0, vmread(VMCS_GUEST_CR0) | CR0_MP);
    vm_start(vm, l2_smsw.start, 0);
    vm_expect_done(vm);
    check_equal("MP, TS and NE", vm->regs.cx & (CR0_TS | CR0_MP | CR0_NE), CR0_TS);
}

/* ---- CR3 targets: values that L2 may load although MOV to CR3 exits ---- */

L2_CODE(l2_load_cr3, "", "mov " CX ", %cr3; mov %cr3, " DX);

TEST("cr", targets, "cr3-targets", 0)
{
    vm_needs(CPU, CPU_CR3_LOAD_EXITING);
    unsigned max = caps.misc >> 16 & 0x1ff;
    if (max > 4)
        max = 4;
    vm_control(vm, CPU, CPU_CR3_LOAD_EXITING,
               may_clear(CPU, CPU_CR3_STORE_EXITING) ? CPU_CR3_STORE_EXITING : 0);
    if (!may_clear(CPU, CPU_CR3_STORE_EXITING))
        skip("MOV from CR3 always exits");
    for (unsigned count = 0; count <= max; count++) {
        for (unsigned target = 0; target < max; target++) {
            word other = (word)vmread(VMCS_GUEST_CR3) ^ 0x8000000;
            for (unsigned i = 0; i < max; i++)
                vmwrite(VMCS_CR3_TARGET_0 + 2 * i, i == target ? read_cr3() : other);
            vmwrite(VMCS_CR3_TARGET_COUNT, count);
            vm_start(vm, l2_load_cr3.start, 0);
            vm->regs.cx = read_cr3();
            row(target < count ? "a target" : "not a target");
            if (target < count) {
                vm_expect_done(vm);
                check_equal("CR3", vm->regs.dx, read_cr3());
            } else {
                vm_expect(vm, REASON_CR);
                check_equal("qualification", vm->qualification, 3 | CR_MOV_TO | IN_CX);
            }
        }
    }
    row("count beyond what is offered");
    vmwrite(VMCS_CR3_TARGET_COUNT, max + 1);
    if (max == (caps.misc >> 16 & 0x1ff))
        check_equal("entry", vm_try_run(vm), VMX_FAIL_VALID);
}

/* L2 changes to another address space by itself, and L1 sees the new CR3. */
TEST("cr", cr3_write, "cr3-written-by-l2", 0)
{
    if (!may_clear(CPU, CPU_CR3_LOAD_EXITING | CPU_CR3_STORE_EXITING))
        skip("MOV CR3 always exits");
    struct space space;
    space_create(&space, PAGING_NATIVE);
    vm_start(vm, l2_load_cr3.start, 0);
    vm->regs.cx = (word)space.root;
    vm_expect_done(vm);
    check_equal("CR3 as L2 reads it", vm->regs.dx, (word)space.root);
    check_equal("CR3 in the VMCS", vmread(VMCS_GUEST_CR3), (word)space.root);
}

#ifdef __x86_64__
L2_CODE(l2_cr8, "mov $5, %ecx; mov %rcx, %cr8", "mov %cr8, %rdx; xor %ecx, %ecx; mov %rcx, %cr8");

/* Without intercepts or a TPR shadow, CR8 is the processor's. */
TEST("cr", cr8, "cr8-passes-through", 0)
{
    if (!may_clear(CPU, CPU_CR8_LOAD_EXITING | CPU_CR8_STORE_EXITING))
        skip("MOV CR8 always exits");
    vm_start(vm, l2_cr8.start, 0);
    vm_expect_done(vm);
    check_equal("CR8", vm->regs.dx, 5);
}

/* With a TPR shadow, CR8 is bits 7:4 of byte 80h of the virtual-APIC page. */
enum { VTPR = 0x80 };
L2_CODE(l2_vtpr, "mov %cr8, %rdx; mov $3, %ecx", "mov %rcx, %cr8");

TEST("cr", tpr_shadow, "tpr-shadow", 0)
{
    vm_needs(CPU, CPU_TPR_SHADOW);
    if (!may_clear(CPU, CPU_CR8_LOAD_EXITING | CPU_CR8_STORE_EXITING))
        skip("MOV CR8 always exits");
    u8 *page = page_alloc();
    vmwrite(VMCS_VIRTUAL_APIC, physical(page));
    vmwrite(VMCS_TPR_THRESHOLD, 4);
    vm_control(vm, CPU, CPU_TPR_SHADOW, 0);
    page[VTPR] = 0x70;
    row("falls below the threshold");
    vm_start(vm, l2_vtpr.start, 0);
    vm_expect(vm, REASON_TPR);
    check_equal("CR8 before", vm->regs.dx, 7);
    check_equal("virtual TPR", page[VTPR], 0x30);
    check_equal("IP: behind the instruction", vm->ip, (word)l2_vtpr.next);
    row("does not");
    vmwrite(VMCS_TPR_THRESHOLD, 3);
    page[VTPR] = 0x70;
    vm_start(vm, l2_vtpr.start, 0);
    vm_expect_done(vm);
    check_equal("virtual TPR", page[VTPR], 0x30);
}
#endif
