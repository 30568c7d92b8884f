/*
 * Workloads to be timed from outside.  bench-amd64 is lhv with these in the place of its tests; each
 * says on the console when its work begins and when it has ended:
 *
 *     # begin NAME COUNT
 *     # end NAME
 *
 * COUNT is the number of rounds, in units that the workload's comment names.  Choose a workload with
 * the option `tests`, and how many units of work with the option `seed` (the number that lhv leaves
 * to its tests).
 */
#include "lib/print.h"
#include "test/code.h"
#include "test/options.h"
#include "test/test.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"

#define BENCH(id, name) TEST("bench", id, name, TEST_EPT)

/* Far from lhv and from whatever the tables of L2 map besides */
#define AREA 0x40000000ull
enum { AREA_PAGES = 512 };

int vm_enter(struct registers *regs, bool launched);

static void begin(const char *name, u32 count) { print("# begin %s %u\n", name, count); }
static void end(const char *name) { print("# end %s\n", name); }

/* ---- loops of two and of twelve instructions ---- */

L2_CODE(short_loop, "mov %rdi, %rcx; 1: dec %rcx; jnz 1b", "");
L2_CODE(long_loop,
        "mov %rdi, %rcx; xor %eax, %eax; 1: add %rcx, %rax; mov %rax, %rdx; shl $3, %rdx;"
        "xor %rdx, %rax; lea 7(%rax, %rcx), %rsi; and $0xffff, %esi; or $1, %esi; sub %rsi, %rdx;"
        "add %rdx, %rax; rol $5, %rax; dec %rcx; jnz 1b", "");

enum { MILLION = 1000000 };

typedef void (*loop)(word count);

static void loop_in_l1(const char *name, const struct code *code, u32 count)
{
    begin(name, count);
    ((loop)(word)code->start)(count);
    end(name);
}

static void loop_in_l2(struct vm *vm, const char *name, const struct code *code, u32 count)
{
    vm_start(vm, code->start, count);
    begin(name, count);
    vm_expect_done(vm);
    end(name);
}

/* Rounds of the loop */
BENCH(l1_short, "l1-short") { loop_in_l1("l1-short", &short_loop, options.seed * MILLION); }
BENCH(l1_long, "l1-long") { loop_in_l1("l1-long", &long_loop, options.seed * MILLION); }
BENCH(l2_short, "l2-short") { loop_in_l2(vm, "l2-short", &short_loop, options.seed * MILLION); }
BENCH(l2_long, "l2-long") { loop_in_l2(vm, "l2-long", &long_loop, options.seed * MILLION); }

/* ---- exits to L1 ---- */

L2_CODE(l2_calls, "1: vmcall; dec %rdi; jnz 1b", "");

/* Plain instructions: no test may fail here. */
static inline word quick_read(word field)
{
    word value;
    asm volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc");
    return value;
}

static inline void quick_write(word field, word value)
{
    asm volatile("vmwrite %1, %0" : : "r"(field), "r"(value) : "cc");
}

static void enter(struct vm *vm)
{
    if (vm_enter(&vm->regs, vm->launched))
        broken("VM entry failed");
    vm->launched = true;
}

/* Ten accesses to the VMCS, of the kind that a hypervisor makes for an exit that it handles */
static word handle_call(void)
{
    word reason = quick_read(VMCS_EXIT_REASON);
    word qualification = quick_read(VMCS_EXIT_QUALIFICATION);
    word ip = quick_read(VMCS_GUEST_RIP);
    word length = quick_read(VMCS_EXIT_LENGTH);
    word flags = quick_read(VMCS_GUEST_RFLAGS);
    word vectoring = quick_read(VMCS_IDT_VECTORING);
    quick_write(VMCS_GUEST_RIP, ip + length);
    quick_write(VMCS_GUEST_RFLAGS, flags);
    quick_write(VMCS_GUEST_INTERRUPTIBILITY, 0);
    quick_write(VMCS_ENTRY_EVENT, 0);
    return reason | qualification | vectoring;
}

enum { CALLS = 1000, REMAPS = 10 };

/* Round trips */
BENCH(calls, "calls")
{
    u32 count = options.seed * CALLS;
    vm_start(vm, l2_calls.start, count);
    begin("calls", count);
    for (u32 i = 0; i < count; i++) {
        enter(vm);
        if (handle_call() != REASON_VMCALL)
            broken("another exit");
    }
    vm_expect_done(vm);
    end("calls");
}

/* ---- memory ---- */

/* Read the first word of `RSI` pages from RDI on. */
L2_CODE(touch, "1: mov (%rdi), %rax; add $4096, %rdi; dec %rsi; jnz 1b", "");

typedef void (*toucher)(const void *start, word pages);

/* Translations that L1 lost with its CR3 and needs again */
BENCH(refills, "refills")
{
    const u8 *start = (const u8 *)(word)(16 << 20);
    u32 rounds = options.seed * REMAPS;
    word cr3;
    asm volatile("mov %%cr3, %0" : "=r"(cr3));
    begin("refills", rounds * AREA_PAGES);
    for (u32 i = 0; i < rounds; i++) {
        asm volatile("mov %0, %%cr3" : : "r"(cr3) : "memory");
        ((toucher)(word)touch.start)(start, AREA_PAGES);
    }
    end("refills");
}

static void map_area(struct ept *ept, const void *page, u64 flags)
{
    for (u32 i = 0; i < AREA_PAGES; i++)
        ept_map(ept, AREA + i * PAGE_SIZE, physical(page), 1, flags);
}

static void touch_area(struct vm *vm, word pages)
{
    vm_start(vm, touch.start, AREA);
    vm->regs.si = pages;
}

/* Pages of L2 touched for the first time since INVEPT, all mapped by L1 */
BENCH(fills, "fills")
{
    const void *page = page_alloc();
    u32 rounds = options.seed * REMAPS;
    map_area(&vm->ept, page, EPT_RWX | EPT_WB);
    begin("fills", rounds * AREA_PAGES);
    for (u32 i = 0; i < rounds; i++) {
        ept_invalidate(&vm->ept);
        touch_area(vm, AREA_PAGES);
        vm_expect_done(vm);
    }
    end("fills");
}

/* Violations that L1 serves, by mapping the page; then it takes all of them away again */
BENCH(violations, "violations")
{
    const void *page = page_alloc();
    u32 rounds = options.seed;
    map_area(&vm->ept, page, EPT_RWX | EPT_WB); /* all tables are there */
    begin("violations", rounds * AREA_PAGES);
    for (u32 i = 0; i < rounds; i++) {
        for (u32 n = 0; n < AREA_PAGES; n++)
            ept_write(ept_entry(&vm->ept, AREA + n * PAGE_SIZE, 1), 0);
        ept_invalidate(&vm->ept);
        touch_area(vm, AREA_PAGES);
        while (vm_run(vm) == REASON_EPT_VIOLATION)
            ept_map(&vm->ept, vmread(VMCS_GUEST_PHYSICAL) & ~0xfffull, physical(page), 1,
                    EPT_RWX | EPT_WB);
    }
    end("violations");
}

/* Static tables: L2 touches the same pages again and again, with an exit between */
BENCH(still, "static")
{
    const void *page = page_alloc();
    u32 rounds = options.seed * REMAPS;
    map_area(&vm->ept, page, EPT_RWX | EPT_WB);
    begin("static", rounds);
    for (u32 i = 0; i < rounds; i++) {
        touch_area(vm, 64);
        vm_expect_done(vm);
    }
    end("static");
}

/* Steady remapping: one page in eight changes, with INVEPT, before L2 touches 64 */
BENCH(remapping, "remapping")
{
    const void *pages[2] = { page_alloc(), page_alloc() };
    u32 rounds = options.seed * REMAPS;
    map_area(&vm->ept, pages[0], EPT_RWX | EPT_WB);
    begin("remapping", rounds);
    for (u32 i = 0; i < rounds; i++) {
        for (u32 n = i & 7; n < 64; n += 8)
            ept_map(&vm->ept, AREA + n * PAGE_SIZE, physical(pages[i & 1]), 1, EPT_RWX | EPT_WB);
        ept_invalidate(&vm->ept);
        touch_area(vm, 64);
        vm_expect_done(vm);
    }
    end("remapping");
}

/* Many roots: each round L2 runs under the next of 16 tables; those share all but the root */
enum { ROOTS = 16 };

BENCH(roots, "roots")
{
    struct ept epts[ROOTS];
    const void *page = page_alloc();
    u32 rounds = options.seed * REMAPS;
    map_area(&vm->ept, page, EPT_RWX | EPT_WB);
    for (u32 i = 0; i < ROOTS; i++) {
        ept_create(&epts[i]);
        for (u32 n = 0; n < 512; n++)
            epts[i].root[n] = vm->ept.root[n];
        ept_invalidate(&epts[i]);
    }
    begin("roots", rounds);
    for (u32 i = 0; i < rounds; i++) {
        vm_use_ept(&epts[i % ROOTS]);
        touch_area(vm, 64);
        vm_expect_done(vm);
    }
    end("roots");
}
