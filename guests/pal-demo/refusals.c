/* What TrustVisor refuses, in L1 and in L2. */
#include "lib/string.h"
#include "session.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/try.h"

enum { APIC_PAGE = 0xfee00000u, NOWHERE = 0xffff0000u };

static struct attempt {
    struct pal pal, other;
    u32 status, second, unregistered;
    word called;
    u8 buffer[PAL_BUFFER];
} attempts[MAX_CPUS];

static struct attempt *new_attempt(void)
{
    struct attempt *attempt = &attempts[this_cpu()->index];
    memset(attempt, 0, sizeof *attempt);
    tv_begin();
    pal_prepare(&attempt->pal, 0);
    pal_prepare(&attempt->other, 1);
    return attempt;
}

/* ---- descriptors ---- */

static void spoil_version(struct tv_descriptor *d) { d->version = 2; }
static void spoil_zero(struct tv_descriptor *d) { d->zero = 1; }
static void no_sections(struct tv_descriptor *d) { d->sections = 0; }
static void many_sections(struct tv_descriptor *d) { d->sections = 9; }
static void many_parameters(struct tv_descriptor *d) { d->parameters = 7; }
static void parameter_kind(struct tv_descriptor *d) { d->parameter[0].kind = 5; }
static void integer_with_size(struct tv_descriptor *d) { d->parameter[0].size = 4; }
static void empty_buffer(struct tv_descriptor *d) { d->parameter[2].size = 0; }
static void long_buffer(struct tv_descriptor *d) { d->parameter[2].size = PAGE_SIZE + 1; }
static void section_kind(struct tv_descriptor *d) { d->section[1].kind = 6; }
static void no_stack(struct tv_descriptor *d) { d->section[STACK_PAGE].kind = TV_DATA; }
static void two_stacks(struct tv_descriptor *d) { d->section[DATA_PAGE].kind = TV_STACK; }
static void no_pages(struct tv_descriptor *d) { d->section[1].pages = 0; }
static void many_pages(struct tv_descriptor *d) { d->section[1].pages = 65; }
static void page_zero(struct tv_descriptor *d) { d->section[1].address = 0; }
static void unaligned(struct tv_descriptor *d) { d->section[1].address += 8; }
static void wraps(struct tv_descriptor *d)
{
    d->section[1].address = IS_64BIT ? 0xfffffffffffff000ull : 0xfffff000u;
    d->section[1].pages = 2;
}
static void entry_in_data(struct tv_descriptor *d) { d->entry += PAGE_SIZE; }
static void entry_nowhere(struct tv_descriptor *d) { d->entry = 0x1000; }
static void same_address(struct tv_descriptor *d) { d->section[2].address = d->section[1].address; }
static void overlapping(struct tv_descriptor *d) { d->section[0].pages = 2; }
static void not_ram(struct tv_descriptor *d) { d->section[1].address = APIC_PAGE; }
static void nowhere(struct tv_descriptor *d) { d->section[1].address = NOWHERE; }

static const struct refusal {
    const char *name;
    void (*spoil)(struct tv_descriptor *descriptor);
    u32 status, also; /* what L2 may get instead: its EPT maps less */
} refusals[] = {
    { "version", spoil_version, TV_BAD_DESCRIPTOR, 0 },
    { "reserved word", spoil_zero, TV_BAD_DESCRIPTOR, 0 },
    { "no sections", no_sections, TV_BAD_DESCRIPTOR, 0 },
    { "too many sections", many_sections, TV_BAD_DESCRIPTOR, 0 },
    { "too many parameters", many_parameters, TV_BAD_PARAMETERS, 0 },
    { "kind of parameter", parameter_kind, TV_BAD_PARAMETERS, 0 },
    { "integer with a size", integer_with_size, TV_BAD_PARAMETERS, 0 },
    { "empty buffer", empty_buffer, TV_BAD_PARAMETERS, 0 },
    { "buffer longer than its section", long_buffer, TV_BAD_PARAMETERS, 0 },
    { "kind of section", section_kind, TV_BAD_SECTION, 0 },
    { "no stack", no_stack, TV_BAD_SECTION, 0 },
    { "two stacks", two_stacks, TV_BAD_SECTION, 0 },
    { "no pages", no_pages, TV_BAD_SECTION, 0 },
    { "too many pages", many_pages, TV_BAD_SECTION, 0 },
    { "page of the return address", page_zero, TV_BAD_SECTION, 0 },
    { "unaligned", unaligned, TV_BAD_SECTION, 0 },
    { "wraps around", wraps, TV_BAD_SECTION, 0 },
    { "entry in data", entry_in_data, TV_BAD_ENTRY, 0 },
    { "entry nowhere", entry_nowhere, TV_BAD_ENTRY, 0 },
    { "two sections at one address", same_address, TV_OVERLAP, 0 },
    { "sections overlap", overlapping, TV_OVERLAP, 0 },
    { "not RAM", not_ram, TV_NOT_OWNED, TV_BAD_ADDRESS },
    { "no memory there", nowhere, TV_NOT_OWNED, TV_BAD_ADDRESS },
};

static void attempt_once(void *arg)
{
    struct attempt *attempt = arg;
    attempt->status = pal_register(&attempt->pal);
}

static void check_refusals(struct vm *vm, const struct place *place)
{
    for (unsigned i = 0; i < ARRAY_LEN(refusals); i++) {
        const struct refusal *refusal = &refusals[i];
        struct attempt *attempt = new_attempt();
        row(refusal->name);
        refusal->spoil(&attempt->pal.descriptor);
        place->run(vm, attempt_once, attempt);
        if (!refusal->also || attempt->status != refusal->also)
            check_equal("status", attempt->status, refusal->status);
        memset(attempt->pal.base, 0x5a, PAL_PAGES * PAGE_SIZE); /* nothing was taken */
    }
}

TEST("pal", refused, "pal-refused-descriptors", 0) { check_refusals(vm, &places[0]); }
TEST("pal", refused_l2, "pal-refused-descriptors-l2", TEST_EPT) { check_refusals(vm, &places[1]); }

/* ---- pages that are lent already ---- */

static void attempt_twice(void *arg)
{
    struct attempt *attempt = arg;
    attempt->status = pal_register(&attempt->pal);
    attempt->second = pal_register(&attempt->other);
    struct tv_answer again = tv_hypercall(TV_REGISTER, (word)&attempt->pal.descriptor, 0);
    attempt->called = again.status;
    attempt->unregistered = pal_unregister(&attempt->pal);
}

static void check_twice(struct vm *vm, const struct place *place)
{
    struct attempt *attempt = new_attempt();
    row(place->name);
    attempt->other.descriptor.section[1].address = attempt->pal.descriptor.section[1].address;
    place->run(vm, attempt_twice, attempt);
    check_equal("status of the first", attempt->status, TV_SUCCESS);
    check_equal("status of another with one of its pages", attempt->second, TV_OVERLAP);
    check_equal("status of the first again", attempt->called, TV_OVERLAP);
    check_equal("status of unregistration", attempt->unregistered, TV_SUCCESS);
}

TEST("pal", twice, "pal-registered-twice", TEST_EPT)
{
    check_twice(vm, &places[0]);
    check_twice(vm, &places[1]);
}

/* Pages that L1 lends and L2 wants, and the other way round */
static void unregister_other(void *arg)
{
    struct attempt *attempt = arg;
    attempt->second = pal_register(&attempt->other);
    attempt->unregistered = pal_unregister(&attempt->pal);
}

TEST("pal", foreign, "pal-of-another-level", TEST_EPT)
{
    for (unsigned first = 0; first < 2; first++) {
        struct attempt *attempt = new_attempt();
        row(places[first].name);
        attempt->other.descriptor.section[1].address = attempt->pal.descriptor.section[1].address;
        places[first].run(vm, attempt_once, attempt);
        check_equal("status", attempt->status, TV_SUCCESS);
        places[!first].run(vm, unregister_other, attempt);
        check_equal("status of one with its page", attempt->second, TV_OVERLAP);
        check_equal("status of unregistration", attempt->unregistered, TV_NOT_ALLOWED);
        check_equal("status of unregistration by L1's ring 0", pal_unregister(&attempt->pal),
                    TV_SUCCESS);
    }
}

/* ---- who may ---- */

TEST("pal", privilege, "pal-privilege", 0)
{
    struct attempt *attempt = new_attempt();
    check_equal("status in ring 0", pal_register(&attempt->pal), TV_NOT_ALLOWED);
    check_equal("an unknown function", tv_hypercall(TV_PCR_EXTEND + 1, 0, 0).status,
                TV_UNKNOWN_FUNCTION);
    check_equal("extending a PCR from outside", tv_hypercall(TV_PCR_EXTEND, 0, 0).status,
                TV_NOT_ALLOWED);
    check_equal("no such PAL", tv_hypercall(TV_UNREGISTER, 12345, 0).status, TV_NO_SUCH_PAL);
    check_equal("no such PCR", tv_hypercall(TV_PCR_READ, 12345, 0).status, TV_NO_SUCH_PAL);
    check_equal("a list nowhere", tv_hypercall(TV_LIST, (word)attempt->buffer, 0).status,
                TV_SUCCESS);
}

/* ---- calls that are none ---- */

/* Jump to an address of this processor's first slot, and come back if that is #GP; its offset there
   is one of two that are known here. */
#define JUMP_ROWS(slot)                                                                            \
    ".pushsection .try, \"a\"\n"                                                                   \
    ".long pal_slots + " #slot ", 772b\n"                                                          \
    ".long pal_slots + " #slot " + 16, 772b\n"                                                     \
    ".popsection\n"

static void jump_to(word address)
{
    try_begin();
#ifdef __x86_64__
    asm volatile("mov %%rsp, %%rbx\n\tcall *%0\n772: mov %%rbx, %%rsp\n" JUMP_ROWS(0)
                 : "+a"(address)
                 :
                 : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
#else
    asm volatile("mov %%esp, %%ebx\n\tcall *%0\n772: mov %%ebx, %%esp\n" JUMP_ROWS(0)
                 : "+a"(address)
                 :
                 : "ebx", "ecx", "edx", "memory", "cc");
#endif
}

static void jump_inside(void *arg)
{
    struct attempt *attempt = arg;
    attempt->status = pal_register(&attempt->pal);
    jump_to(pal_entry(&attempt->pal) + 16);
}

TEST("pal", entry_only, "pal-entry-only", 0)
{
    struct attempt *attempt = new_attempt();
    if (this_cpu()->index)
        skip("the boot processor's slot is what it knows");
    in_l1(vm, jump_inside, attempt);
    check_equal("status", attempt->status, TV_SUCCESS);
    check_fault(EXC_GP, 0);
    row("from ring 0");
    jump_to(pal_entry(&attempt->pal));
    check_fault(EXC_GP, 0);
    check_equal("status of unregistration", pal_unregister(&attempt->pal), TV_SUCCESS);
}

/* L2 maps the PAL's page at another linear address, too, and jumps to it there. */
static void call_elsewhere(void *arg)
{
    struct attempt *attempt = arg;
    attempt->status = pal_register(&attempt->pal);
    tv_call(NOTE_PAGE, PAL_LOAD, 0, (word)attempt->buffer);
}

TEST("pal", elsewhere, "pal-mapped-elsewhere", TEST_EPT)
{
    struct attempt *attempt = new_attempt();
    struct space space;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, NOTE_PAGE, physical(attempt->pal.base),
              PTE_PRESENT | PTE_WRITE | PTE_USER);
    vm_use_space(vm, &space);
    l2_user_begin(vm, call_elsewhere, attempt);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("status", attempt->status, TV_SUCCESS);
    check_equal("L2's IP", vm->ip, NOTE_PAGE);
    check_equal("physical address", vmread(VMCS_GUEST_PHYSICAL), physical(attempt->pal.base));
    check_equal("status of unregistration", pal_unregister(&attempt->pal), TV_SUCCESS);
}

/* ---- too many ---- */

enum { MOST_PALS = 32 };

static u32 many[MOST_PALS + 1], registered_many, last_status;

static void register_many(void *arg)
{
    struct tv_descriptor *descriptor = &((struct attempt *)arg)->pal.descriptor;
    u8 *page = pal_slot(0, 0);
    registered_many = 0;
    for (unsigned i = 0; i <= MOST_PALS; i++, page += 2 * PAGE_SIZE) {
        descriptor->entry = descriptor->section[0].address = (word)page;
        descriptor->section[1].address = (word)page + PAGE_SIZE;
        descriptor->section[1].kind = TV_STACK;
        struct tv_answer answer = tv_hypercall(TV_REGISTER, (word)descriptor, 0);
        last_status = answer.status;
        if (answer.status != TV_SUCCESS)
            return;
        many[registered_many++] = answer.value;
    }
}

TEST("pal", many, "pal-too-many", TEST_ALONE)
{
    struct attempt *attempt = new_attempt();
    attempt->pal.descriptor.sections = 2;
    attempt->pal.descriptor.parameters = 0;
    in_l1(vm, register_many, attempt);
    check_equal("registered", registered_many, MOST_PALS);
    check_equal("status of one more", last_status, TV_NO_ROOM);
    for (u32 i = 0; i < registered_many; i++)
        check_equal("status of unregistration", tv_hypercall(TV_UNREGISTER, many[i], 0).status,
                    TV_SUCCESS);
}
