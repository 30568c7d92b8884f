#include "vmx/modes.h"
#include "lib/string.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

enum { REAL = 1, PAGED = 2, UNRESTRICTED = 4, LONG = 8 };

static const struct {
    u32 flags;
    enum paging paging;
    u32 cr4;
} modes[] = {
    [MODE_REAL] = { REAL | UNRESTRICTED, 0, 0 },
    [MODE_V86] = { REAL | PAGED, PAGING_32, CR4_PSE },
    [MODE_FLAT] = { UNRESTRICTED, 0, 0 },
    [MODE_32] = { PAGED, PAGING_32, CR4_PSE },
    [MODE_PAE] = { PAGED, PAGING_PAE, CR4_PAE },
    [MODE_COMPAT] = { PAGED | LONG, PAGING_4LEVEL, CR4_PAE },
    [MODE_NATIVE] = { PAGED | (IS_64BIT ? LONG : 0), PAGING_NATIVE,
                      PAGING_NATIVE == PAGING_32 ? CR4_PSE : CR4_PAE },
};

void vm_need_mode(enum mode mode)
{
    u32 flags = modes[mode].flags;
    if ((flags & LONG) && !IS_64BIT)
        skip("64-bit mode: only in the amd64 build");
    if (flags & UNRESTRICTED) {
        vm_needs(CPU2, CPU2_UNRESTRICTED);
        /* EFER.LME is lhv's unless the entry loads another */
        if (IS_64BIT)
            vm_needs(ENTRY, ENTRY_LOAD_EFER);
    }
}

static void set_control_registers(struct vm *vm, enum mode mode)
{
    u32 flags = modes[mode].flags;
    word cr0 = read_cr0() & ~(word)(CR0_PG | CR0_PE);
    if (!(flags & REAL) || mode == MODE_V86)
        cr0 |= CR0_PE;
    if (flags & PAGED)
        cr0 |= CR0_PG;
    vmwrite(VMCS_GUEST_CR0, cr0);
    vmwrite(VMCS_GUEST_CR4, caps.cr4_fixed0 | modes[mode].cr4);
    if (flags & UNRESTRICTED)
        vm_control(vm, CPU2, CPU2_UNRESTRICTED, 0);
    if (!IS_64BIT)
        return;
    vm_control(vm, ENTRY, flags & LONG ? ENTRY_GUEST_64BIT : 0,
               flags & LONG ? 0 : ENTRY_GUEST_64BIT);
    if (may_set(ENTRY, ENTRY_LOAD_EFER)) {
        vm_control(vm, ENTRY, ENTRY_LOAD_EFER, 0);
        vmwrite(VMCS_GUEST_EFER, flags & LONG ? EFER_LME | EFER_LMA : 0);
    }
}

static void set_flat_segments(enum mode mode)
{
    bool native = mode == MODE_NATIVE || !IS_64BIT;
    u32 size = native && IS_64BIT ? AR_LONG : AR_32BIT;
    vm_set_segment(CS, native ? SEL_CODE : SEL_CODE32, 0, 0xffffffff, AR_CODE | size | AR_PAGES);
    for (enum segment s = ES; s <= GS; s++)
        if (s != CS)
            vm_set_segment(s, SEL_DATA, 0, 0xffffffff, AR_DATA | AR_32BIT | AR_PAGES);
}

/* The base of a segment is its selector times 16, as if just loaded. */
static void set_real_segments(enum mode mode)
{
    u32 dpl = mode == MODE_V86 ? AR_DPL3 : 0;
    u32 code = mode == MODE_V86 ? AR_DATA : AR_CODE;
    vm_set_segment(CS, REAL_CODE >> 4, REAL_CODE, 0xffff, code | dpl);
    for (enum segment s = ES; s <= GS; s++)
        if (s != CS)
            vm_set_segment(s, REAL_DATA >> 4, REAL_DATA, 0xffff, AR_DATA | dpl);
}

u8 *real_data(struct vm *vm)
{
    return (u8 *)(word)(*ept_entry(&vm->ept, REAL_DATA, 1) & EPT_ADDRESS);
}

/* Fresh pages below 1 MiB, with the code in the first. */
static void place_real_code(struct vm *vm, const struct code *code)
{
    u8 *pages = pages_alloc(2);
    memcpy(pages, code->start, (word)(code->end - code->start));
    ept_map(&vm->ept, REAL_CODE, physical(pages), 1, EPT_RWX | EPT_WB);
    ept_map(&vm->ept, REAL_DATA, physical(pages + PAGE_SIZE), 1, EPT_RWX | EPT_WB);
    ept_invalidate(&vm->ept);
}

void vm_start_mode(struct vm *vm, enum mode mode, struct space *space, const struct code *code)
{
    u32 flags = modes[mode].flags;
    vm_need_mode(mode);
    set_control_registers(vm, mode);
    if (flags & PAGED) {
        space_create(space, modes[mode].paging);
        vm_use_space(vm, space);
    }
    vm_start(vm, code->start, 0);
    if (flags & REAL) {
        set_real_segments(mode);
        place_real_code(vm, code);
        vmwrite(VMCS_GUEST_RIP, 0);
        vmwrite(VMCS_GUEST_RSP, PAGE_SIZE);
    } else {
        set_flat_segments(mode);
    }
    if (mode == MODE_V86)
        vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_VM);
}
