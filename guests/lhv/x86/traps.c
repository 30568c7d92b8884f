#include "x86/cpu.h"
#include "x86/bits.h"
#include "x86/instructions.h"
#include "x86/try.h"
#include "x86/user.h"
#include "pc/apic.h"
#include "test/test.h"

/* A gate of the interrupt-descriptor table. */
struct gate {
    u16 offset_low, selector;
    u8 stack, type;
    u16 offset_mid;
#ifdef __x86_64__
    u32 offset_high, reserved;
#endif
} __attribute__((packed));

enum { GATE_INTERRUPT = 0x8e, GATE_DPL3 = 0x60 };

static struct gate idt[256] ALIGNED(16);
extern const u8 trap_entries[];

void idt_build(void)
{
    for (unsigned v = 0; v < 256; v++) {
        word entry = (word)trap_entries + 16 * v;
        idt[v] = (struct gate){
            .offset_low = (u16)entry,
            .offset_mid = (u16)(entry >> 16),
            .selector = SEL_CODE,
            .type = v == VECTOR_LEAVE_USER ? GATE_INTERRUPT | GATE_DPL3 : GATE_INTERRUPT,
        };
    }
}

word idt_base(void) { return (word)idt; }

void idt_load(void)
{
    struct table_register idtr = { sizeof idt - 1, (word)idt };
    asm volatile("lidt %0" : : "m"(idtr));
}

/* Is this a fault of an instruction that was expected to fault? */
static bool fix_up(struct trap_frame *frame)
{
    for (const struct try_row *row = try_start; row < try_end; row++) {
        if (row->from != frame->ip)
            continue;
        this_cpu()->fault = (struct fault){ true, (u8)frame->vector, (u32)frame->error };
        frame->ip = row->to;
        return true;
    }
    return false;
}

static void unexpected(struct trap_frame *frame)
{
    fail("lhv met exception %u, error code %x, at %lx, cr2 %lx", (u32)frame->vector,
         (u32)frame->error, frame->ip, read_cr2());
    test_abort();
}

/*
 * Ring 3 is left for good.  Its data segments are still loaded, and the interrupt has left a null
 * selector in SS if this is 64-bit mode.
 */
static void leave_user(struct cpu *cpu)
{
    asm volatile("mov %0, %%ds\n\tmov %0, %%es\n\tmov %0, %%ss" : : "r"(SEL_DATA));
    context_restore(&cpu->leave_user);
}

void trap(struct trap_frame *frame);
void trap(struct trap_frame *frame)
{
    struct cpu *cpu = this_cpu();
    cpu->interrupts[frame->vector]++;
    if (frame->vector == VECTOR_LEAVE_USER)
        leave_user(cpu);
    if (frame->vector >= 32) {
        if (frame->vector != VECTOR_SPURIOUS && frame->vector != VECTOR_NOTHING)
            apic_end_of_interrupt();
    } else if (frame->vector != EXC_NMI && !fix_up(frame)) {
        unexpected(frame);
    }
}
