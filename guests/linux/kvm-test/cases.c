#include "kvm-test/cases.h"
#include "kvm-test/threads.h"
#include "kvm-test/vm.h"
#include "lib/print.h"
#include "lib/program.h"
#include "lib/string.h"

enum {
    MADV_DONTNEED = 4,
    MREMAP_MAYMOVE = 1,
    PROT_READ_WRITE = 3,
    MAP_SHARED = 1,
    MAP_PRIVATE = 2,
    MAP_FIXED_ANONYMOUS = 0x30,
    DIRTY_WORDS = MEMORY_SIZE / 4096 / 64,
};

static struct vm vm;
static struct vcpu vcpus[2];

#define START(vcpu, mode, name) vcpu_start(vcpu, &vm, mode, name##_start, name##_end)

static volatile u32 *guest_long(u32 address) { return (volatile u32 *)(vm.memory + address); }

static bool is(const char *what, u64 found, u64 expected)
{
    if (found != expected)
        print("# %s: %llx, not %llx\n", what, found, expected);
    return found == expected;
}

static bool told(struct vcpu *vcpu, unsigned count, const u64 *expected)
{
    bool good = is("values told", vcpu->talk.result_count, count);
    for (unsigned i = 0; good && i < count; i++)
        good = is("value", vcpu->talk.results[i], expected[i]);
    return good;
}

#define TOLD(vcpu, ...)                                                                            \
    told(vcpu, sizeof((u64[]){ __VA_ARGS__ }) / sizeof(u64), (u64[]){ __VA_ARGS__ })

/* -- one virtual processor ------------------------------------------------------------------------ */

static bool real_mode(void)
{
    START(&vcpus[0], REAL, real);
    struct kvm_regs regs = { 0 };
    kvm_call(vcpus[0].file, KVM_GET_REGS, &regs, "KVM_GET_REGS");
    regs.rbx = 0x2222;
    regs.rdi = 0x10;
    kvm_call(vcpus[0].file, KVM_SET_REGS, &regs, "KVM_SET_REGS");
    return vcpu_run(&vcpus[0]) & TOLD(&vcpus[0], 0x3333) &
           is("memory", *guest_long(0x3010) & 0xffff, 0x3333);
}

static bool ports(void)
{
    struct talk *talk = &vcpus[0].talk;
    const u64 answers[] = { 0xa1, 0xb1b2, 0xc1c2c3c4, 1, 2, 3, 4, 5, 6, 7, 8 };
    memcpy(talk->answers, answers, sizeof answers);
    START(&vcpus[0], PROTECTED, ports);
    return vcpu_run(&vcpus[0]) &
           TOLD(&vcpus[0], 0xa1, 0xb1b2, 0xc1c2c3c4, 1, 2, 3, 4, 5, 6, 7, 8);
}

static bool mmio(void)
{
    enum { NOWHERE = 0xd0000000u };
    struct talk *talk = &vcpus[0].talk;
    talk->answers[0] = 0xabcd0001;
    talk->answers[1] = 1;
    START(&vcpus[0], PROTECTED, mmio);
    vcpu_set(&vcpus[0], NOWHERE, 0, 0);
    const u64 written[] = { NOWHERE, 0x11223344, NOWHERE + 4, 0x55, NOWHERE + 12, 0xabcd0002 };
    bool good = vcpu_run(&vcpus[0]) & TOLD(&vcpus[0], 0xabcd0001);
    good &= is("written", talk->written_count, ARRAY_LEN(written));
    for (unsigned i = 0; good && i < ARRAY_LEN(written); i++)
        good = is("write", talk->written[i], written[i]);
    return good;
}

static bool long_mode(void)
{
    START(&vcpus[0], LONG, long);
    return vcpu_run(&vcpus[0]) & TOLD(&vcpus[0], 0x11223344) &
           is("memory", *guest_long(DATA), 0x55667788);
}

/* -- memory that comes and goes ------------------------------------------------------------------- */

static void take_away(u32 address, u32 size)
{
    syscall3(SYS_madvise, vm.memory + address, size, MADV_DONTNEED);
}

static bool fill(u32 pages)
{
    vcpus[0].talk.result_count = 0;
    START(&vcpus[0], LONG, fill);
    vcpu_set(&vcpus[0], PAGES, pages, 0);
    bool good = vcpu_run(&vcpus[0]) & TOLD(&vcpus[0], (u64)pages * (pages + 1) / 2);
    for (u32 i = 0; good && i < pages; i++)
        good = is("page", *guest_long(PAGES + i * PAGE_SIZE), pages - i);
    return good;
}

/* Pages come with the guest's first access to each, and again after they have been taken away. */
static bool page_faults(void)
{
    if (!fill(512))
        return false;
    take_away(PAGES, 512 * PAGE_SIZE);
    return is("a page that was taken away", *guest_long(PAGES), 0) & fill(100);
}

static u64 dirty[DIRTY_WORDS];

static void read_dirty_log(void)
{
    struct kvm_dirty_log log = { MEMORY_SLOT, 0, dirty };
    memset(dirty, 0, sizeof dirty);
    kvm_call(vm.file, KVM_GET_DIRTY_LOG, &log, "KVM_GET_DIRTY_LOG");
}

static bool is_dirty(u32 address)
{
    u32 page = address / PAGE_SIZE;
    return dirty[page / 64] >> page % 64 & 1;
}

/* The log names the pages that were written since it was read last, and no others. */
static bool dirty_logging(void)
{
    bool good = fill(20);
    vm_set_memory(&vm, KVM_MEM_LOG_DIRTY_PAGES);
    read_dirty_log();
    for (u32 pages = 3; good && pages <= 5; pages += 2) {
        good = fill(pages);
        read_dirty_log();
        for (u32 i = 0; good && i < 20; i++)
            good = is("page is dirty", is_dirty(PAGES + i * PAGE_SIZE), i < pages);
    }
    return good;
}

/* -- several processors ---------------------------------------------------------------------------- */

/* One virtual processor, on each processor in turn: its VMCS moves with it. */
static bool moving(void)
{
    unsigned processors = processor_count();
    START(&vcpus[0], LONG, count);
    bool good = true;
    for (u32 round = 1; good && round <= 3 * processors; round++) {
        move_to(round % processors);
        vcpus[0].talk.result_count = 0;
        vcpu_set(&vcpus[0], PAGES, 10, 0);
        good = vcpu_run(&vcpus[0]) & TOLD(&vcpus[0], 10 * round);
    }
    move_to(0);
    return good;
}

static void run_on_last(void *argument)
{
    move_to(processor_count() - 1);
    if (!vcpu_run(argument))
        print("# the other virtual processor failed\n");
}

/* Two virtual processors, which take turns with one word in memory. */
static bool two_processors(void)
{
    enum { TURNS = 20 };
    struct thread other;
    START(&vcpus[0], LONG, turn);
    START(&vcpus[1], LONG, turn);
    vcpu_set(&vcpus[0], PAGES, TURNS, 0);
    vcpu_set(&vcpus[1], PAGES, TURNS, 1);
    thread_start(&other, run_on_last, &vcpus[1]);
    bool good = vcpu_run(&vcpus[0]);
    thread_join(&other);
    return good & TOLD(&vcpus[0], 2 * TURNS - 1) & TOLD(&vcpus[1], 2 * TURNS);
}

static void wait_until_ready(void)
{
    while (!__atomic_load_n(guest_long(READY), __ATOMIC_ACQUIRE))
        give_way();
}

static void map_page(u32 address, long flags)
{
    long page = (long)(vm.memory + address);
    syscall(SYS_mmap, page, PAGE_SIZE, PROT_READ_WRITE, MAP_FIXED_ANONYMOUS | flags, -1, 0);
}

/* Let a page be a shared one with a second place, where it stays when it is replaced here. */
static void give_second_place(u32 address)
{
    map_page(address, MAP_SHARED);
    syscall4(SYS_mremap, vm.memory + address, 0, PAGE_SIZE, MREMAP_MAYMOVE);
}

/* A page is replaced by another while a guest looks at it on another processor, which must see the
 * new one; the second virtual processor looks on the processor that has replaced it. */
static bool replaced_page(void)
{
    enum { OLD = 0x01d01d, NEW = 0x2e32e3, MOST_LOOKS = 300000 };
    struct thread other;
    START(&vcpus[1], LONG, watch);
    vcpu_set(&vcpus[1], PAGES, 1, 0);
    START(&vcpus[0], LONG, watch);
    vcpu_set(&vcpus[0], PAGES, MOST_LOOKS, 0);
    give_second_place(PAGES);
    *guest_long(PAGES) = OLD;
    thread_start(&other, run_on_last, &vcpus[0]);
    wait_until_ready();
    map_page(PAGES, MAP_PRIVATE);
    *guest_long(PAGES) = NEW;
    bool good = vcpu_run(&vcpus[1]) & TOLD(&vcpus[1], NEW);
    thread_join(&other);
    return good & TOLD(&vcpus[0], NEW);
}

/* Logging begins while a guest writes on another processor: what it writes from then on is seen. */
static bool logging_begins(void)
{
    enum { MOST = 1000000 };
    struct thread other;
    START(&vcpus[0], LONG, count);
    vcpu_set(&vcpus[0], PAGES, MOST, 0);
    thread_start(&other, run_on_last, &vcpus[0]);
    wait_until_ready();
    vm_set_memory(&vm, KVM_MEM_LOG_DIRTY_PAGES);
    read_dirty_log();
    u32 before = *guest_long(PAGES);
    for (unsigned i = 0; i < 5000 && *guest_long(PAGES) == before; i++)
        give_way();
    u32 after = *guest_long(PAGES);
    read_dirty_log();
    *guest_long(STOP) = 1;
    thread_join(&other);
    return is("it went on", after != before, 1) & is("page is dirty", is_dirty(PAGES), 1);
}

/* -- the table ------------------------------------------------------------------------------------ */

const struct kvm_case CASES[] = {
    { "real-mode", real_mode },         { "ports", ports },
    { "mmio", mmio },                   { "long-mode", long_mode },
    { "page-faults", page_faults },     { "dirty-logging", dirty_logging },
    { "moving", moving },               { "two-processors", two_processors },
    { "replaced-page", replaced_page }, { "logging-begins", logging_begins },
};
const unsigned CASE_COUNT = ARRAY_LEN(CASES);

bool run_case(const struct kvm_case *one)
{
    vm_make(&vm);
    vcpu_make(&vcpus[0], &vm, 0);
    vcpu_make(&vcpus[1], &vm, 1);
    bool good = one->run();
    vcpu_end(&vcpus[1]);
    vcpu_end(&vcpus[0]);
    vm_end(&vm);
    return good;
}
