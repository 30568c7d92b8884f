/*
 * What a test tells Turducken's sanitizer: between mark_stale_use(true) and mark_stale_use(false) it
 * changes tables and means to leave stale what was known of them.  Nothing happens elsewhere.
 */
#pragma once
#include "x86/instructions.h"

enum { STALE_USE_PORT = 0xea };

static inline void mark_stale_use(bool begins) { outb(STALE_USE_PORT, begins); }
