#include "vmx/vm.h"
#include "lib/string.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

int vm_enter(struct registers *regs, bool launched);
extern const u8 vm_exited[], l2_done[];
extern u8 image_start[], image_end[];

/* ---- VMX operation ---- */

static u8 vmxon_regions[MAX_CPUS][PAGE_SIZE] ALIGNED(4096);
static u8 vmcs_regions[MAX_CPUS][VMCS_REGIONS][PAGE_SIZE] ALIGNED(4096);

void *vmcs_region(unsigned which) { return vmcs_regions[this_cpu()->index][which]; }

static void clear_vmcs(void *region)
{
    if (vmclear(physical(region)) != VMX_OK)
        broken("VMCLEAR failed");
}

/* The first VMCLEAR lets go of the region, the second makes its state "clear" again. */
static void reset_vmcs(void *region)
{
    clear_vmcs(region);
    memset(region, 0, PAGE_SIZE);
    *(u32 *)region = caps.revision;
    clear_vmcs(region);
}

void vmx_turn_on(struct vm *vm)
{
    if (vm->vmx_on)
        return;
    write_cr0((read_cr0() | caps.cr0_fixed0) & caps.cr0_fixed1);
    write_cr4((read_cr4() | caps.cr4_fixed0 | CR4_VMXE) & caps.cr4_fixed1);
    *(u32 *)vm->vmxon_region = caps.revision;
    enum vmx_status status = vmxon(physical(vm->vmxon_region));
    if (status != VMX_OK)
        broken("VMXON: status %u", status);
    vm->vmx_on = true;
}

void vmx_turn_off(struct vm *vm)
{
    if (vm->vmx_on && vmxoff() != VMX_OK)
        broken("VMXOFF failed");
    vm->vmx_on = false;
    vm->launched = false;
}

/* ---- controls ---- */

static const u16 control_field[CONTROL_WORDS] = {
    [PIN] = VMCS_PIN_CONTROLS, [CPU] = VMCS_CPU_CONTROLS, [CPU2] = VMCS_CPU2_CONTROLS,
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

static void reset_host(struct vm *vm)
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

/* The fields of the segment registers follow each other in the order ES CS SS DS FS GS LDTR TR. */
enum segment { ES, CS, SS, DS, FS, GS, LDTR, TR };

static void set_segment(enum segment segment, u16 selector, word base, u32 limit, u32 rights)
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
    set_segment(CS, SEL_CODE, 0, 0xffffffff, AR_CODE | code_size | AR_PAGES);
    set_segment(SS, SEL_DATA, 0, 0xffffffff, data);
    set_segment(DS, SEL_DATA, 0, 0xffffffff, data);
    set_segment(ES, SEL_DATA, 0, 0xffffffff, data);
    set_segment(FS, SEL_DATA, 0, 0xffffffff, data);
    set_segment(GS, IS_64BIT ? SEL_DATA : SEL_CPU, (word)cpu, 0xffffffff, data);
    set_segment(LDTR, 0, 0, 0, AR_UNUSABLE);
    set_segment(TR, SEL_TSS, (word)&cpu->tss, sizeof(struct tss) - 1, AR_TSS_BUSY);
    vmwrite(VMCS_GUEST_GDTR_BASE, (word)cpu->gdt);
    vmwrite(VMCS_GUEST_GDTR_LIMIT, sizeof cpu->gdt - 1);
    vmwrite(VMCS_GUEST_IDTR_BASE, idt_base());
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 256 * (IS_64BIT ? 16 : 8) - 1);
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

static void reset_ept(struct vm *vm)
{
    if (!may_set(CPU2, CPU2_EPT))
        return;
    ept_create(&vm->ept);
    ept_map_identity(&vm->ept, physical(image_start), physical(image_end), EPT_RWX | EPT_WB);
    ept_invalidate(&vm->ept); /* the pages may have been other tables before */
    vmwrite(VMCS_EPT_POINTER, vm->ept.eptp);
}

void vm_reset(struct vm *vm)
{
    pages_free_all();
    vm->vmxon_region = vmxon_regions[this_cpu()->index];
    vmx_turn_on(vm);
    for (unsigned i = 0; i < VMCS_REGIONS; i++)
        reset_vmcs(vmcs_region(i));
    vm->vmcs = vmcs_region(0);
    vm->launched = false;
    if (vmptrld(physical(vm->vmcs)) != VMX_OK)
        broken("VMPTRLD failed");
    vm->stack = (u8 *)page_alloc() + PAGE_SIZE;
    vm->shared = page_alloc();
    memset(&vm->regs, 0, sizeof vm->regs);
    reset_controls(vm);
    reset_host(vm);
    reset_guest();
    reset_ept(vm);
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

/* ---- running ---- */

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

void vm_skip(struct vm *vm)
{
    vmwrite(VMCS_GUEST_RIP, vm->ip + (word)vmread(VMCS_EXIT_LENGTH));
}
