/* xAPIC registers in memory, or the same as MSRs if the firmware left the APIC in x2APIC mode. */
#include "pc/apic.h"
#include "x86/asm.h"
#include "x86/bits.h"
#include "x86/instructions.h"

enum {
    APIC_ID = 0x020,
    APIC_TPR = 0x080,
    APIC_EOI = 0x0b0,
    APIC_SPURIOUS = 0x0f0,
    APIC_IRR = 0x200,
    APIC_ICR_LOW = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_TIMER_COUNT = 0x380,
    APIC_TIMER_DIVIDE = 0x3e0,

    SPURIOUS_ENABLE = 0x100,
    ICR_NMI = 0x400,
    ICR_INIT = 0x500,
    ICR_STARTUP = 0x600,
    ICR_ASSERT = 0x4000,
    ICR_PENDING = 0x1000,
    LVT_MASKED = 0x10000,
    DIVIDE_BY_1 = 0xb,

    BASE_X2APIC = 0x400,
    BASE_ENABLE = 0x800,
    MSR_X2APIC = 0x800,
};

static word apic_base;
static bool x2apic;

static u32 read(u32 offset)
{
    if (x2apic)
        return (u32)rdmsr(MSR_X2APIC + offset / 16);
    return *(volatile u32 *)(apic_base + offset);
}

static void write(u32 offset, u32 value)
{
    if (x2apic)
        wrmsr(MSR_X2APIC + offset / 16, value);
    else
        *(volatile u32 *)(apic_base + offset) = value;
}

void apic_start(void)
{
    u64 base = rdmsr(MSR_APIC_BASE);
    x2apic = base & BASE_X2APIC;
    apic_base = (word)(base & 0xfffff000);
    write(APIC_TPR, 0);
    write(APIC_SPURIOUS, SPURIOUS_ENABLE | VECTOR_SPURIOUS);
}

u32 apic_id(void) { return x2apic ? read(APIC_ID) : read(APIC_ID) >> 24; }

void apic_end_of_interrupt(void) { write(APIC_EOI, 0); }

static void send(u32 target, u32 command)
{
    if (x2apic) {
        wrmsr(MSR_X2APIC + APIC_ICR_LOW / 16, (u64)target << 32 | command);
        return;
    }
    write(APIC_ICR_HIGH, target << 24);
    write(APIC_ICR_LOW, command);
    for (unsigned i = 0; i < 1000000 && (read(APIC_ICR_LOW) & ICR_PENDING); i++)
        cpu_pause();
}

void apic_send(u32 target, u8 vector) { send(target, ICR_ASSERT | vector); }
void apic_send_self(u8 vector) { apic_send(apic_id(), vector); }
void apic_send_nmi(u32 target) { send(target, ICR_ASSERT | ICR_NMI); }
void apic_send_init(u32 target) { send(target, ICR_ASSERT | ICR_INIT); }
void apic_send_startup(u32 target, u8 page) { send(target, ICR_ASSERT | ICR_STARTUP | page); }

u64 apic_address(void) { return x2apic ? 0 : apic_base; }

void apic_timer(u8 vector, u32 ticks)
{
    write(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
    write(APIC_LVT_TIMER, vector);
    write(APIC_TIMER_COUNT, ticks);
}

void apic_timer_stop(void)
{
    write(APIC_LVT_TIMER, LVT_MASKED | VECTOR_TEST);
    write(APIC_TIMER_COUNT, 0);
}

bool apic_is_pending(u8 vector) { return read(APIC_IRR + vector / 32 * 16) >> vector % 32 & 1; }

/* About a microsecond each on a PC: a read of a port that nothing answers. */
static void delay(unsigned microseconds)
{
    while (microseconds--)
        inb(0x80);
}

void apic_start_other(u32 target, u32 address)
{
    apic_send_init(target);
    delay(1000);
    for (unsigned i = 0; i < 2; i++) {
        apic_send_startup(target, (u8)(address >> 12));
        delay(200);
    }
}
