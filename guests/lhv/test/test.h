/*
 * Tests.  A file in tests/ treats one subject and declares its tests with TEST(); each runs once on
 * every processor, in a freshly reset virtual machine.
 *
 * A test ends in one of four ways: it passed; it failed, because the processor did not do what the
 * manual says; it is broken, because something before the point in question went wrong; or it was
 * skipped, because the processor does not offer its subject.
 */
#pragma once
#include "lib/types.h"
#include "vmx/vm.h"

enum test_flags {
    TEST_PAIR = 1,  /* needs a second processor */
    TEST_ALONE = 2, /* not while other processors run tests: uses what they share */
    TEST_EPT = 4,   /* skip without EPT */
};

struct test {
    const char *subject, *name;
    void (*run)(struct vm *vm);
    u32 flags;
};

#define TEST(subject_, id_, name_, flags_)                                                         \
    static void test_##id_(struct vm *vm);                                                         \
    static const struct test record_##id_ = { subject_, name_, test_##id_, flags_ };               \
    static const struct test *const entry_##id_ __attribute__((section(".tests"), used)) =         \
        &record_##id_;                                                                             \
    static void test_##id_(struct vm *vm __attribute__((unused)))

extern const struct test *const tests_start[], *const tests_end[];

/* A row of a test's table begins: its name goes before the notes of failures. */
void row(const char *name);

/* The processor did wrong; the test goes on. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* More about a failure */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* These end the test. */
void broken(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void skip(const char *reason) __attribute__((noreturn));
void test_abort(void) __attribute__((noreturn));

/* Compare; a difference is a failure. */
bool check_equal(const char *what, u64 got, u64 expected);
bool check(bool condition, const char *what);

/* The instruction that was just tried (x86/try.h) must have faulted like this. */
void check_fault(u8 vector, u32 error);
