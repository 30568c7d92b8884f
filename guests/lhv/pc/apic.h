/* The local APIC of the processor that executes. */
#pragma once
#include "lib/types.h"

void apic_start(void); /* enable it */
u32 apic_id(void);
void apic_end_of_interrupt(void);
void apic_send(u32 apic_id, u8 vector);
void apic_send_self(u8 vector);
void apic_send_nmi(u32 apic_id);
void apic_send_init(u32 apic_id);
void apic_send_startup(u32 apic_id, u8 page);

/* Where its registers are in memory, or 0 if it is in x2APIC mode. */
u64 apic_address(void);

/* The timer: one interrupt after `ticks`. */
void apic_timer(u8 vector, u32 ticks);
void apic_timer_stop(void);

/* Is an interrupt waiting to be taken? */
bool apic_is_pending(u8 vector);

/* INIT, then start-up IPIs: the processor begins in real mode at `address`, below 1 MiB. */
void apic_start_other(u32 apic_id, u32 address);
