/*
 * Places where PALs are used from: ring 3 of L1 and ring 3 of L2; and the memory of PALs.
 *
 * Every processor has a few slots for PALs of its own, which are no other test's: a page that is
 * still lent would be missed by whoever gets it next.
 */
#pragma once
#include "pals.h"
#include "vmx/vm.h"

enum { PAL_SLOTS = 3, PAL_PAGES = 5 };

/* Pages of a slot, in this order; the last is for shared code. */
enum { CODE_PAGE, DATA_PAGE, PARAMETER_PAGE, STACK_PAGE, SHARED_PAGE };

struct pal {
    u8 *base;
    u32 id;
    struct tv_descriptor descriptor;
};

/* Skip the test where there is no TrustVisor; end what earlier tests have left registered. */
void tv_begin(void);

/* A slot of this processor with the PAL's code in it, and its descriptor; not registered yet. */
void pal_prepare(struct pal *pal, unsigned slot);
extern u8 pal_slots[][PAL_SLOTS][PAL_PAGES * PAGE_SIZE];
u8 *pal_slot(unsigned cpu, unsigned slot);
void pal_add_shared(struct pal *pal, const u8 *page);
static inline word pal_entry(const struct pal *pal) { return (word)pal->base; }

/* For ring 3 */
u32 pal_register(struct pal *pal);
u32 pal_unregister(const struct pal *pal);
word pal_call(const struct pal *pal, enum pal_operation operation, word value, void *buffer);

/* Run a C function in ring 3: of L1, or of L2, whose end is waited for. */
typedef void (*user_function)(void *arg);
void in_l1(struct vm *vm, user_function function, void *arg);
void in_l2(struct vm *vm, user_function function, void *arg);

/* The same in steps, for an L2 that will exit on the way */
void l2_user_begin(struct vm *vm, user_function function, void *arg);

struct place {
    const char *name;
    void (*run)(struct vm *vm, user_function function, void *arg);
};
extern const struct place places[2];
