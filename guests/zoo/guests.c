/* Mistakes of L2, and what L1 must give an L2. */
#include "test/pair.h"
#include "vmx/l2traps.h"
#include "vmx/modes.h"
#include "x86/cpu.h"
#include "x86/instructions.h"
#include "zoo.h"

enum { RIGHTS = PTE_PRESENT | PTE_WRITE | PTE_USER };

/* What the kernel in L2 does: it moves one of its linear pages. */
struct move {
    struct space *space;
    void *entry;
    u64 value;
    bool flush;
    word before, after;
};

static word read_note(void) { return *(volatile word *)PAGE_VALUE; }
static void invlpg_note(void) { asm volatile("invlpg (%0)" : : "r"((word)NOTE_PAGE) : "memory"); }

static void l2_moves_page(struct move *move)
{
    move->before = read_note();
    *(volatile u64 *)move->entry = move->value;
    if (move->flush)
        invlpg_note();
    move->after = read_note();
}

SCENARIO(invlpg, "invlpg-forgotten")
{
    struct space space;
    struct move *move = (void *)vm->shared;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, NOTE_PAGE, physical(access_page(OLD)), RIGHTS);
    vm_use_space(vm, &space);
    move->entry = space_entry(&space, NOTE_PAGE, 1);
    move->value = physical(access_page(NEW)) | RIGHTS;
    move->flush = !faulty;
    vm_start(vm, l2_moves_page, (word)move);
    vm_expect_done(vm);
    check_equal("before", move->before, OLD);
    check_equal("after", move->after, NEW);
}

/* A global page outlives MOV to CR3. */
static void l2_moves_global_page(struct move *move)
{
    word cr4 = read_cr4();
    move->before = read_note();
    *(volatile u64 *)move->entry = move->value;
    write_cr3(read_cr3());
    if (move->flush) {
        write_cr4(cr4 & ~(word)CR4_PGE);
        write_cr4(cr4);
    }
    move->after = read_note();
}

SCENARIO(global, "global-page-and-cr3")
{
    struct space space;
    struct move *move = (void *)vm->shared;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, NOTE_PAGE, physical(access_page(OLD)), RIGHTS | PTE_GLOBAL);
    vm_use_space(vm, &space);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_PGE);
    move->entry = space_entry(&space, NOTE_PAGE, 1);
    move->value = physical(access_page(NEW)) | RIGHTS | PTE_GLOBAL;
    move->flush = !faulty;
    vm_start(vm, l2_moves_global_page, (word)move);
    vm_expect_done(vm);
    check_equal("before", move->before, OLD);
    check_equal("after", move->after, NEW);
}

/* One process has ended, the next one gets its PCID; bit 63 of the value for CR3 asks to keep what is
   cached.  RCX: that value. */
L2_CODE(l2_changes_space, "mov (%rbx), %rsi; mov %rcx, %cr3", "mov (%rbx), %rdi");

SCENARIO(pcid, "pcid-reused-without-flush")
{
    enum { PCID = 5 };
    struct space first, second;
    if (!caps.pcid)
        skip("no PCID");
    space_create(&first, PAGING_NATIVE);
    space_create(&second, PAGING_NATIVE);
    space_map(&first, NOTE_PAGE, physical(access_page(OLD)), RIGHTS);
    space_map(&second, NOTE_PAGE, physical(access_page(NEW)), RIGHTS);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_PCIDE);
    vmwrite(VMCS_GUEST_CR3, (word)first.root | PCID);
    vm_start(vm, l2_changes_space.start, 0);
    vm->regs.bx = PAGE_VALUE;
    vm->regs.cx = (word)second.root | PCID | (word)faulty << 63;
    vm_expect_done(vm);
    check_equal("read by the first process", vm->regs.si, OLD);
    check_equal("read by the next one", vm->regs.di, NEW);
}

/* ---- a kernel on two processors, in two L2s with the same page tables ---- */

struct kernel {
    struct ept *ept;
    struct space *space;
    void *entry;
    u64 value;
    volatile word *freed;     /* the page that is free afterwards, by its own address */
    volatile word rounds;     /* of the other processor */
    volatile word leaks;      /* how often it has read the secret */
    volatile word requests;   /* for INVLPG there */
    volatile word flushes;    /* that were done */
    volatile word stop;
};

static void l2_goes_on(struct kernel *kernel)
{
    while (!kernel->stop) {
        if (read_note() == SECRET)
            kernel->leaks++;
        if (kernel->flushes != kernel->requests) {
            invlpg_note();
            kernel->flushes = kernel->requests;
        }
        kernel->rounds++;
    }
}

static void l2_waits(const volatile word *counter, word value)
{
    for (unsigned i = 0; i < PATIENCE && *counter < value; i++)
        cpu_pause();
}

/* Another page in the place of one that is free from now on; its next owner writes a secret. */
static void l2_frees_page(struct kernel *kernel)
{
    l2_waits(&kernel->rounds, 2);
    *(volatile u64 *)kernel->entry = kernel->value;
    invlpg_note();
    if (!faulty) {
        kernel->requests++;
        l2_waits(&kernel->flushes, kernel->requests);
    }
    read_note(); /* it relies on the new page */
    kernel->freed[VALUE / sizeof(word)] = SECRET;
    l2_waits(&kernel->rounds, kernel->rounds + 100);
    kernel->stop = 1;
}

static void run_other_processor(struct vm *vm, void *arg)
{
    struct kernel *kernel = arg;
    vm_reset(vm);
    ept_invalidate(kernel->ept); /* it is another processor's */
    vm_use_ept(kernel->ept);
    vm_use_space(vm, kernel->space);
    vm_start(vm, l2_goes_on, (word)kernel);
    vm_expect_done(vm);
}

SCENARIO(remote, "invlpg-on-one-processor")
{
    struct space space;
    struct kernel *kernel = (void *)vm->shared;
    struct pair pair = { .work = run_other_processor, .arg = kernel };
    if (pair_other() == this_cpu())
        skip("needs two processors");
    space_create(&space, PAGING_NATIVE);
    kernel->ept = &vm->ept;
    kernel->space = &space;
    kernel->freed = access_page(OLD);
    space_map(&space, NOTE_PAGE, physical((void *)kernel->freed), RIGHTS);
    vm_use_space(vm, &space);
    kernel->entry = space_entry(&space, NOTE_PAGE, 1);
    kernel->value = physical(access_page(NEW)) | RIGHTS;
    pair_begin(&pair);
    vm_start(vm, l2_frees_page, (word)kernel);
    vm_expect_done(vm);
    pair_end(&pair);
    if (kernel->leaks)
        fail("L2 on the other processor has read the secret of a page that was freed");
}

/* ---- PAE ---- */

L2_CODE32(l2_reads_pae, "mov 0x1234008, %esi", "nop");

/* With EPT the four PDPTEs are fields of the VMCS, and nobody else fills them in. */
SCENARIO(pdptes, "pdptes-not-loaded")
{
    struct space space;
    vm_start_mode(vm, MODE_PAE, &space, &l2_reads_pae);
    space_map(&space, NOTE_PAGE, physical(access_page(OLD)), PTE_PRESENT);
    vm_use_space(vm, &space);
    for (unsigned i = 0; i < 4 && faulty; i++)
        vmwrite(VMCS_GUEST_PDPTE0 + 2 * i, 0);
    vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    vm_expect_done(vm);
    check_equal("read by L2", (u32)vm->regs.si, OLD);
}

/* L2 changes a PDPTE in memory and goes on: without MOV to CR3 the processor has the old one. */
L2_CODE32(l2_changes_pdpte,
          "mov 0x1234008, %esi; mov %ecx, (%ebx); test %edx, %edx; jz 1f; mov %ebx, %eax;"
          "and $0xfffff000, %eax; mov %eax, %cr3; 1: mov 0x1234008, %edi",
          "nop");

SCENARIO(pdpte_memory, "pdpte-changed-without-cr3")
{
    struct space space, other;
    vm_start_mode(vm, MODE_PAE, &space, &l2_changes_pdpte);
    space_create(&other, PAGING_PAE);
    space_map(&space, NOTE_PAGE, physical(access_page(OLD)), PTE_PRESENT);
    space_map(&other, NOTE_PAGE, physical(access_page(NEW)), PTE_PRESENT);
    vm_use_space(vm, &space);
    vm->regs.bx = (word)space.root;
    vm->regs.cx = (word)((u64 *)other.root)[0];
    vm->regs.dx = !faulty;
    vm_expect_done(vm);
    check_equal("before", (u32)vm->regs.si, OLD);
    check_equal("after", (u32)vm->regs.di, NEW);
}

/* ---- events ---- */

L2_CODE(l2_breakpoint, "", "int3");

/* L1 looks at a breakpoint of L2's and lets it go on, without the instruction's length. */
SCENARIO(length, "length-missing-on-injection")
{
    l2_use_idt(vm);
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_BP));
    vm_start(vm, l2_breakpoint.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_SOFT_EXCEPTION | EXC_BP);
    vmwrite(VMCS_ENTRY_LENGTH, faulty ? 0 : vmread(VMCS_EXIT_LENGTH));
    struct l2_frame frame = vm_expect_trap(vm, EXC_BP);
    check_equal("where L2 is to go on", frame.ip, (word)l2_breakpoint.next);
}
