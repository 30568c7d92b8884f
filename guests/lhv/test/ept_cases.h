/* What the tests of EPT share: pages at which L2 accesses memory, and how violations look. */
#pragma once
#include "test/code.h"
#include "vmx/vm.h"

/* L2-physical and, unless a test says otherwise, L2-linear addresses of pages to try things with;
   nothing is there when a test begins. */
enum { NOTE_PAGE = 0x1234000, VIOLATION_PAGE = 0x12340000, OTHER_PAGE = 0x52340000 };

/* The three kinds of access; the values are those of the qualification and of the rights. */
enum access { READ = 1, WRITE = 2, FETCH = 4 };

/* Start L2 with one access to an address.  It reads into AX; writes WRITTEN; calls a RET. */
enum { WRITTEN = 0x60c3 }; /* its first byte is a RET */
void start_access(struct vm *vm, enum access access, word address);
const char *access_name(enum access access);

/* L2's last read, after vm_expect_done(). */
word read_value(const struct vm *vm);

/* One word of L2, read or written to the end of L2's code */
word l2_reads(struct vm *vm, word address);
void l2_writes(struct vm *vm, word address);

/* The last exit must have been such a violation. */
void check_violation(struct vm *vm, u32 access, u32 allowed, u64 physical, word linear);
void expect_violation(struct vm *vm, u32 access, u32 allowed, u64 physical, word linear);

/* A page that can be accessed in all three ways: a RET, and a value behind it. */
void *access_page(word value);

/* Which accesses do rights that are no misconfiguration allow?  Are they one? */
bool rights_misconfigured(u32 rights);
