/* PALs that are registered, called and taken back: from L1 and from L2, with the same code. */
#include "lib/string.h"
#include "session.h"
#include "test/test.h"
#include "x86/cpu.h"

enum { SECRET = 0x5ec2e75, BYTES = 7 };

struct story {
    struct pal pal, other;
    u32 registered, other_registered, extended, read, listed, unregistered;
    word stored, loaded, echoed, shared;
    u8 buffer[PAL_BUFFER], pcr[PAL_BUFFER];
    struct tv_record records[4];
    u32 records_known;
};

static struct story stories[MAX_CPUS];

static struct story *new_story(void)
{
    struct story *story = &stories[this_cpu()->index];
    memset(story, 0, sizeof *story);
    tv_begin();
    pal_prepare(&story->pal, 0);
    return story;
}

/* ---- a whole life ---- */

static void live(void *arg)
{
    struct story *story = arg;
    struct pal *pal = &story->pal;
    story->registered = pal_register(pal);
    if (story->registered != TV_SUCCESS)
        return;
    story->stored = pal_call(pal, PAL_STORE, SECRET, story->buffer);
    story->loaded = pal_call(pal, PAL_LOAD, 0, story->buffer);
    story->unregistered = pal_unregister(pal);
}

static void check_life(struct vm *vm, const struct place *place)
{
    struct story *story = new_story();
    row(place->name);
    place->run(vm, live, story);
    check_equal("status of registration", story->registered, TV_SUCCESS);
    check_equal("stored", story->stored, SECRET);
    check_equal("loaded in another call", story->loaded, SECRET);
    check_equal("status of unregistration", story->unregistered, TV_SUCCESS);
    const struct pal_data *data = (const void *)(story->pal.base + DATA_PAGE * PAGE_SIZE);
    check_equal("what is left of the secret", data->secret, 0);
    check_equal("what is left of the stack",
                *(word *)(story->pal.base + SHARED_PAGE * PAGE_SIZE - sizeof(word)), 0);
    check_equal("the code", (u64)memcmp(story->pal.base, pal_code, 16), 0);
}

TEST("pal", life, "pal-life", 0) { check_life(vm, &places[0]); }
TEST("pal", life_l2, "pal-life-l2", TEST_EPT) { check_life(vm, &places[1]); }

/* ---- parameters ---- */

static void pass(void *arg)
{
    struct story *story = arg;
    story->registered = pal_register(&story->pal);
    /* across a page boundary of the caller */
    for (unsigned i = 0; i < PAL_BUFFER; i++)
        story->buffer[i] = (u8)i;
    story->echoed = pal_call(&story->pal, PAL_ECHO, BYTES, story->buffer);
    story->unregistered = pal_unregister(&story->pal);
}

static void check_parameters(struct vm *vm, const struct place *place)
{
    struct story *story = new_story();
    word sum = 0, wrong = 0;
    row(place->name);
    place->run(vm, pass, story);
    for (unsigned i = 0; i < PAL_BUFFER; i++) {
        sum += i ^ BYTES;
        wrong += story->buffer[i] != (i ^ BYTES);
    }
    check_equal("status of registration", story->registered, TV_SUCCESS);
    check_equal("sum of what the PAL saw", story->echoed, sum);
    check_equal("bytes that came back wrong", wrong, 0);
}

TEST("pal", parameters, "pal-parameters", 0) { check_parameters(vm, &places[0]); }
TEST("pal", parameters_l2, "pal-parameters-l2", TEST_EPT) { check_parameters(vm, &places[1]); }

/* A buffer that the caller does not have: the call fails, the PAL does not run. */
static void pass_nothing(void *arg)
{
    struct story *story = arg;
    story->registered = pal_register(&story->pal);
    story->stored = pal_call(&story->pal, PAL_STORE, SECRET, story->pal.base);
    story->loaded = pal_call(&story->pal, PAL_LOAD, 0, story->buffer);
    story->unregistered = pal_unregister(&story->pal);
}

static void check_bad_buffer(struct vm *vm, const struct place *place)
{
    struct story *story = new_story();
    row(place->name);
    place->run(vm, pass_nothing, story);
    check_equal("status of the call", ~story->stored, TV_BAD_ADDRESS);
    check_equal("not stored", story->loaded, 0);
    check_equal("status of unregistration", story->unregistered, TV_SUCCESS);
}

TEST("pal", bad_buffer, "pal-bad-buffer", TEST_EPT)
{
    check_bad_buffer(vm, &places[0]);
    check_bad_buffer(vm, &places[1]);
}

/* ---- measurements ---- */

static const struct tv_record *find(const struct story *story, const struct pal *pal)
{
    for (u32 i = 0; i < story->records_known && i < ARRAY_LEN(story->records); i++)
        if (story->records[i].id == pal->id)
            return &story->records[i];
    broken("the PAL is not in the list");
}

static void measure(void *arg)
{
    struct story *story = arg;
    story->registered = pal_register(&story->pal);
    struct tv_answer answer =
        tv_hypercall(TV_LIST, (word)story->records, ARRAY_LEN(story->records));
    story->listed = answer.status;
    story->records_known = answer.value;
    story->extended = (u32)pal_call(&story->pal, PAL_EXTEND, 0, story->buffer);
    story->read = (u32)pal_call(&story->pal, PAL_READ_PCR, 0, story->pcr);
    story->unregistered = pal_unregister(&story->pal);
}

TEST("pal", measurement, "pal-measurement", 0)
{
    struct tv_record seen[3];
    for (unsigned round = 0; round < 3; round++) {
        struct story *story = new_story();
        if (round == 2)
            story->pal.base[PAL_MARK]++; /* code that never runs counts too */
        in_l1(vm, measure, story);
        check_equal("status of registration", story->registered, TV_SUCCESS);
        check_equal("status of the list", story->listed, TV_SUCCESS);
        check_equal("status of extending", story->extended, TV_SUCCESS);
        check_equal("status of reading", story->read, TV_SUCCESS);
        seen[round] = *find(story, &story->pal);
        check_equal("entry point", seen[round].entry, pal_entry(&story->pal));
        check(memcmp(seen[round].pcr, story->pcr, 32), "the PAL has extended its PCR");
    }
    check(!memcmp(seen[0].measurement, seen[1].measurement, 32), "the same PAL, the same digest");
    check(!memcmp(seen[0].pcr, seen[1].pcr, 32), "the same PAL, the same PCR");
    check(memcmp(seen[0].measurement, seen[2].measurement, 32), "another PAL, another digest");
    check(memcmp(seen[0].pcr, seen[2].pcr, 32), "another PAL, another PCR");
}

/* ---- several PALs, and code that they share ---- */

static void share(void *arg)
{
    struct story *story = arg;
    u8 *library = story->pal.base + SHARED_PAGE * PAGE_SIZE;
    word *number = (word *)story->buffer;
    story->registered = pal_register(&story->pal);
    story->other_registered = pal_register(&story->other);
    *number = 14;
    story->shared = pal_call(&story->pal, PAL_SHARED, (word)library, story->buffer);
    story->echoed = pal_call(&story->other, PAL_SHARED, (word)library, story->buffer);
    story->stored = pal_call(&story->pal, PAL_STORE, 1, story->buffer);
    pal_call(&story->other, PAL_STORE, 2, story->buffer);
    story->loaded = pal_call(&story->pal, PAL_LOAD, 0, story->buffer);
    story->unregistered = pal_unregister(&story->pal);
    /* the other one still has the library */
    story->read = (u32)pal_call(&story->other, PAL_SHARED, (word)library, story->buffer);
    story->extended = ((u32(*)(word))(word)library)(5);
    story->listed = pal_unregister(&story->other);
}

static void check_shared(struct vm *vm, const struct place *place)
{
    struct story *story = new_story();
    row(place->name);
    pal_prepare(&story->other, 1);
    pal_add_shared(&story->pal, story->pal.base + SHARED_PAGE * PAGE_SIZE);
    pal_add_shared(&story->other, story->pal.base + SHARED_PAGE * PAGE_SIZE);
    place->run(vm, share, story);
    check_equal("status of registration", story->registered, TV_SUCCESS);
    check_equal("status of the other's", story->other_registered, TV_SUCCESS);
    check_equal("shared code called by one", story->shared, 42);
    check_equal("shared code called by the other", story->echoed, 42);
    check_equal("each has its own data", story->loaded, 1);
    check_equal("status of unregistration", story->unregistered, TV_SUCCESS);
    check_equal("shared code called by the one that is left", story->read, 42);
    check_equal("shared code called by everybody", story->extended, 15);
    check_equal("status of the other's unregistration", story->listed, TV_SUCCESS);
    story->pal.base[SHARED_PAGE * PAGE_SIZE] = 1; /* writable again */
}

TEST("pal", shared, "pal-shared-code", 0) { check_shared(vm, &places[0]); }
TEST("pal", shared_l2, "pal-shared-code-l2", TEST_EPT) { check_shared(vm, &places[1]); }

/* ---- misdeeds: the PAL is ended and wiped, its caller is told ---- */

static void misdo(void *arg)
{
    struct story *story = arg;
    story->registered = pal_register(&story->pal);
    pal_call(&story->pal, PAL_STORE, SECRET, story->buffer);
    story->echoed = pal_call(&story->pal, PAL_MISDEED, story->echoed, story->buffer);
    story->unregistered = pal_unregister(&story->pal);
}

static void check_misdeeds(struct vm *vm, const struct place *place)
{
    static const char *const names[PAL_MISDEEDS] = {
        "undefined instruction", "HLT",  "INT",      "write to code", "read outside", "OUT",
        "floating point",        "INVLPG", "stack overflow", "jump outside", "MOV CR3",
        "segment load",
    };
    for (word which = 0; which < PAL_MISDEEDS; which++) {
        struct story *story = new_story();
        story->echoed = which;
        row(names[which]);
        place->run(vm, misdo, story);
        check_equal("status of registration", story->registered, TV_SUCCESS);
        check_equal("status of the call", ~story->echoed, TV_PAL_FAULT);
        check_equal("it is gone", story->unregistered, TV_NO_SUCH_PAL);
        const struct pal_data *data = (const void *)(story->pal.base + DATA_PAGE * PAGE_SIZE);
        check_equal("what is left of the secret", data->secret, 0);
    }
}

TEST("pal", misdeeds, "pal-misdeeds", 0) { check_misdeeds(vm, &places[0]); }
TEST("pal", misdeeds_l2, "pal-misdeeds-l2", TEST_EPT) { check_misdeeds(vm, &places[1]); }
