#include "session.h"
#include "lib/string.h"
#include "test/test.h"
#include "vmx/controls.h"
#include "x86/cpu.h"
#include "x86/try.h"
#include "x86/user.h"

struct user_work {
    user_function run;
    void *arg;
    u8 *stack;
};

extern const u8 user_start[], user_start_l2[];

u8 pal_slots[MAX_CPUS][PAL_SLOTS][PAL_PAGES * PAGE_SIZE] ALIGNED(4096);
static u8 user_stacks[MAX_CPUS][PAGE_SIZE] ALIGNED(16);
static struct user_work works[MAX_CPUS];

/* ---- where PALs are used ---- */

static struct user_work *prepare_work(user_function function, void *arg)
{
    unsigned index = this_cpu()->index;
    works[index] = (struct user_work){ function, arg, user_stacks[index] + PAGE_SIZE };
    return &works[index];
}

void in_l1(struct vm *vm __attribute__((unused)), user_function function, void *arg)
{
    user_call(user_start, (word)prepare_work(function, arg));
}

void l2_user_begin(struct vm *vm, user_function function, void *arg)
{
    u32 code = AR_CODE | AR_DPL3 | AR_PAGES | (IS_64BIT ? AR_LONG : AR_32BIT);
    u32 data = AR_DATA | AR_DPL3 | AR_PAGES | AR_32BIT;
    vm_start(vm, user_start_l2, 0);
    vm->regs.ax = (word)prepare_work(function, arg);
    vm_set_segment(CS, SEL_USER_CODE | 3, 0, 0xffffffff, code);
    vm_set_segment(SS, SEL_USER_DATA | 3, 0, 0xffffffff, data);
    vm_set_segment(DS, SEL_USER_DATA | 3, 0, 0xffffffff, data);
    vm_set_segment(ES, SEL_USER_DATA | 3, 0, 0xffffffff, data);
}

void in_l2(struct vm *vm, user_function function, void *arg)
{
    l2_user_begin(vm, function, arg);
    vm_expect_done(vm);
}

const struct place places[2] = { { "L1", in_l1 }, { "L2", in_l2 } };

/* ---- the memory of PALs ---- */

static struct tv_answer try_hypercall(enum tv_function function, word first, word second)
{
    u32 ax = function, dx = 0;
    try_begin();
    asm volatile(TRY("vmcall") : "+a"(ax), "+d"(dx) : "b"(first), "c"(second) : "memory", "cc");
    return (struct tv_answer){ ax, dx };
}

/* In ring 0, which may unregister every PAL */
void tv_begin(void)
{
    static struct tv_record records[MAX_CPUS][MAX_CPUS * PAL_SLOTS];
    struct tv_record *mine = records[this_cpu()->index];
    struct tv_answer answer = try_hypercall(TV_PING, 0, 0);
    if (try_result().happened || answer.status != TV_SUCCESS || answer.value != TV_SIGNATURE)
        skip("no TrustVisor here");
    answer = tv_hypercall(TV_LIST, (word)mine, ARRAY_LEN(records[0]));
    for (u32 i = 0; i < answer.value; i++)
        tv_hypercall(TV_UNREGISTER, mine[i].id, 0);
}

u8 *pal_slot(unsigned cpu, unsigned slot) { return pal_slots[cpu][slot]; }

static void add_section(struct tv_descriptor *descriptor, u32 kind, const u8 *page)
{
    u32 n = descriptor->sections++;
    descriptor->section[n].kind = kind;
    descriptor->section[n].pages = 1;
    descriptor->section[n].address = (word)page;
}

void pal_add_shared(struct pal *pal, const u8 *page)
{
    add_section(&pal->descriptor, TV_SHARED_CODE, page);
}

void pal_prepare(struct pal *pal, unsigned slot)
{
    struct tv_descriptor *descriptor = &pal->descriptor;
    u8 *base = pal_slot(this_cpu()->index, slot);
    memset(base, 0, PAL_PAGES * PAGE_SIZE);
    memcpy(base, pal_code, (word)(pal_code_end - pal_code));
    memcpy(base + SHARED_PAGE * PAGE_SIZE, shared_code, (word)(shared_code_end - shared_code));
    memset(pal, 0, sizeof *pal);
    pal->base = base;
    descriptor->version = 1;
    descriptor->entry = (word)base;
    descriptor->parameters = 3;
    descriptor->parameter[0].kind = TV_INTEGER;
    descriptor->parameter[1].kind = TV_INTEGER;
    descriptor->parameter[2].kind = TV_IN_OUT;
    descriptor->parameter[2].size = PAL_BUFFER;
    add_section(descriptor, TV_CODE, base + CODE_PAGE * PAGE_SIZE);
    add_section(descriptor, TV_DATA, base + DATA_PAGE * PAGE_SIZE);
    add_section(descriptor, TV_PARAMETERS, base + PARAMETER_PAGE * PAGE_SIZE);
    add_section(descriptor, TV_STACK, base + STACK_PAGE * PAGE_SIZE);
}

/* ---- in ring 3 ---- */

u32 pal_register(struct pal *pal)
{
    struct tv_answer answer = tv_hypercall(TV_REGISTER, (word)&pal->descriptor, 0);
    pal->id = answer.value;
    return answer.status;
}

u32 pal_unregister(const struct pal *pal)
{
    return tv_hypercall(TV_UNREGISTER, pal->id, 0).status;
}

/* A call that fails gives a status with all upper bits set, which no PAL returns. */
word pal_call(const struct pal *pal, enum pal_operation operation, word value, void *buffer)
{
    struct tv_result result = tv_call(pal_entry(pal), operation, value, (word)buffer);
    return result.failed ? ~result.value : result.value;
}
