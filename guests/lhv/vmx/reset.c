/* What a virtual machine is like when a test begins. */
#include "lib/string.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "vmx/vm.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

extern const u8 vm_exited[];
extern u8 image_start[], image_end[];

static void reset_controls(struct vm *vm)
{
    for (enum control_word word = 0; word < CONTROL_WORDS; word++)
        vm->controls[word] = caps.must_be_1[word];
    vm_control(vm, PIN, 0, 0);
    vm_control(vm, CPU, may_set(CPU, CPU_SECONDARY) ? CPU_SECONDARY : 0, 0);
    vm_control(vm, CPU2, may_set(CPU2, CPU2_EPT) ? CPU2_EPT : 0, 0);
    vm_control(vm, EXIT, IS_64BIT ? EXIT_HOST_64BIT : 0, 0);
    vm_control(vm, ENTRY, IS_64BIT ? ENTRY_GUEST_64BIT : 0, 0);

    vmwrite(VMCS_EXCEPTION_BITMAP, 0xffffffff);
    vmwrite(VMCS_PF_ERROR_MASK, 0);
    vmwrite(VMCS_PF_ERROR_MATCH, 0);
    vmwrite(VMCS_CR0_MASK, 0);
    vmwrite(VMCS_CR4_MASK, 0);
    vmwrite(VMCS_CR0_SHADOW, 0);
    vmwrite(VMCS_CR4_SHADOW, 0);
    vmwrite(VMCS_CR3_TARGET_COUNT, 0);
    vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 0);
    vmwrite(VMCS_EXIT_MSR_LOAD_COUNT, 0);
    vmwrite(VMCS_EXIT_MSR_STORE_COUNT, 0);
    vmwrite(VMCS_ENTRY_EVENT, 0);
    vmwrite(VMCS_TSC_OFFSET, 0);
}

/* ---- host state: where and how a VM exit arrives ---- */

void vm_load_host(struct vm *vm)
{
    struct cpu *cpu = this_cpu();
    vmwrite(VMCS_HOST_CR0, read_cr0());
    vmwrite(VMCS_HOST_CR3, read_cr3());
    vmwrite(VMCS_HOST_CR4, read_cr4());
    vmwrite(VMCS_HOST_CS, SEL_CODE);
    vmwrite(VMCS_HOST_SS, SEL_DATA);
    vmwrite(VMCS_HOST_DS, SEL_DATA);
    vmwrite(VMCS_HOST_ES, SEL_DATA);
    vmwrite(VMCS_HOST_FS, SEL_DATA);
    vmwrite(VMCS_HOST_GS, IS_64BIT ? SEL_DATA : SEL_CPU);
    vmwrite(VMCS_HOST_TR, SEL_TSS);
    vmwrite(VMCS_HOST_FS_BASE, 0);
    vmwrite(VMCS_HOST_GS_BASE, (word)cpu);
    vmwrite(VMCS_HOST_TR_BASE, (word)&cpu->tss);
    vmwrite(VMCS_HOST_GDTR_BASE, (word)cpu->gdt);
    vmwrite(VMCS_HOST_IDTR_BASE, idt_base());
    vmwrite(VMCS_HOST_SYSENTER_CS, 0);
    vmwrite(VMCS_HOST_SYSENTER_ESP, 0);
    vmwrite(VMCS_HOST_SYSENTER_EIP, 0);
    vmwrite(VMCS_HOST_RIP, (word)vm_exited);
    vmwrite(VMCS_HOST_RSP, (word)&vm->regs.l1_stack);
}

/* ---- guest state ---- */

void vm_set_segment(enum segment segment, u16 selector, word base, u32 limit, u32 rights)
{
    vmwrite(VMCS_GUEST_ES + 2 * segment, selector);
    vmwrite(VMCS_GUEST_ES_BASE + 2 * segment, base);
    vmwrite(VMCS_GUEST_ES_LIMIT + 2 * segment, limit);
    vmwrite(VMCS_GUEST_ES_AR + 2 * segment, rights);
}

static void reset_segments(void)
{
    struct cpu *cpu = this_cpu();
    u32 code_size = IS_64BIT ? AR_LONG : AR_32BIT, data = AR_DATA | AR_32BIT | AR_PAGES;
    vm_set_segment(CS, SEL_CODE, 0, 0xffffffff, AR_CODE | code_size | AR_PAGES);
    vm_set_segment(SS, SEL_DATA, 0, 0xffffffff, data);
    vm_set_segment(DS, SEL_DATA, 0, 0xffffffff, data);
    vm_set_segment(ES, SEL_DATA, 0, 0xffffffff, data);
    vm_set_segment(FS, SEL_DATA, 0, 0xffffffff, data);
    vm_set_segment(GS, IS_64BIT ? SEL_DATA : SEL_CPU, (word)cpu, 0xffffffff, data);
    vm_set_segment(LDTR, 0, 0, 0, AR_UNUSABLE);
    vm_set_segment(TR, SEL_TSS, (word)&cpu->tss, sizeof(struct tss) - 1, AR_TSS_BUSY);
    vmwrite(VMCS_GUEST_GDTR_BASE, (word)cpu->gdt);
    vmwrite(VMCS_GUEST_GDTR_LIMIT, sizeof cpu->gdt - 1);
    vmwrite(VMCS_GUEST_IDTR_BASE, 0); /* no IDT; see vmx/l2traps.h */
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0);
}

/* With PAE paging and EPT, the processor takes the PDPTEs from the VMCS, not from memory. */
static void load_pdptes(void)
{
    if (!IS_PAE || !may_set(CPU2, CPU2_EPT))
        return;
    const u64 *pdpt = (const u64 *)(read_cr3() & ~(word)31);
    for (unsigned i = 0; i < 4; i++)
        vmwrite(VMCS_GUEST_PDPTE0 + 2 * i, pdpt[i]);
}

static void reset_guest(void)
{
    vmwrite(VMCS_GUEST_CR0, read_cr0());
    vmwrite(VMCS_GUEST_CR3, read_cr3());
    vmwrite(VMCS_GUEST_CR4, read_cr4());
    vmwrite(VMCS_GUEST_DR7, 0x400);
    reset_segments();
    load_pdptes();
    vmwrite(VMCS_GUEST_DEBUGCTL, 0);
    vmwrite(VMCS_GUEST_SYSENTER_CS, 0);
    vmwrite(VMCS_GUEST_SYSENTER_ESP, 0);
    vmwrite(VMCS_GUEST_SYSENTER_EIP, 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    vmwrite(VMCS_GUEST_ACTIVITY, ACTIVITY_ACTIVE);
    vmwrite(VMCS_GUEST_PENDING_DEBUG, 0);
    vmwrite(VMCS_VMCS_LINK, ~0ull);
}

void vm_create_ept(struct ept *ept)
{
    ept_create(ept);
    ept_map_identity(ept, physical(image_start), physical(image_end), EPT_RWX | EPT_WB);
    ept_invalidate(ept); /* the pages may have been other tables before */
}

void vm_use_ept(const struct ept *ept) { vmwrite(VMCS_EPT_POINTER, ept->eptp); }

static void reset_ept(struct vm *vm)
{
    if (!may_set(CPU2, CPU2_EPT))
        return;
    vm_create_ept(&vm->ept);
    vm_use_ept(&vm->ept);
}

void vm_reset(struct vm *vm)
{
    pages_free_all();
    vmx_turn_on(vm);
    for (unsigned i = 0; i < VMCS_REGIONS; i++)
        vmcs_reset(vmcs_region(i));
    vm->vmcs = vmcs_region(0);
    vm->launched = false;
    if (vmptrld(physical(vm->vmcs)) != VMX_OK)
        broken("VMPTRLD failed");
    vm->stack = (u8 *)page_alloc() + PAGE_SIZE;
    vm->shared = page_alloc();
    memset(&vm->regs, 0, sizeof vm->regs);
    reset_controls(vm);
    vm_load_host(vm);
    reset_guest();
    reset_ept(vm);
}
