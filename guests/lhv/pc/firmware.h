/* The processors of this PC, as its firmware lists them. */
#pragma once
#include "lib/types.h"

/* Fill in the APIC ids of the processors that may be used, at most `max`; returns how many. */
unsigned firmware_processors(u32 *apic_ids, unsigned max);
