/* A guest of KVM in user mode, whose memory is the process's, at the same addresses. */
#pragma once
#include "lib/types.h"

#define WINDOW 0x10000000
enum {
    CODE_PAGE,
    DATA_PAGE,
    PARAMETER_PAGE,
    STACK_PAGE,
    PAL_PAGES,
    L2_TABLES = PAL_PAGES, /* three pages */
    L2_STACK = L2_TABLES + 3,
    WINDOW_SIZE = (L2_STACK + 4) * 4096,
};

/* Run a function there until it calls l2_end; the window must be mapped. */
void l2_run(void (*function)(void));
void l2_end(void);
