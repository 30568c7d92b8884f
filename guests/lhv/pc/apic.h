/* The local APIC of the processor that executes. */
#pragma once
#include "lib/types.h"

void apic_start(void); /* enable it */
u32 apic_id(void);
void apic_end_of_interrupt(void);
void apic_send(u32 apic_id, u8 vector);
void apic_send_self(u8 vector);
void apic_send_nmi(u32 apic_id);

/* INIT, then start-up IPIs: the processor begins in real mode at `page`, below 1 MiB. */
void apic_start_other(u32 apic_id, u32 page);
