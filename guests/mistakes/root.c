/* What goes wrong in the hypervisor itself: its IDT, its loops, its waiting. */
#include "mistakes.h"

struct idtr {
    u16 limit;
    u64 base;
} __attribute__((packed));

static void load_idt(const void *base, u16 limit)
{
    struct idtr idtr = { limit, (word)base };
    asm volatile("lidt %0" : : "m"(idtr));
}

MISTAKE(no_idt, "l1-without-idt")
{
    load_idt(NULL, 0);
    asm volatile("ud2");
}

/* All entries are there, and none is present. */
MISTAKE(empty_idt, "l1-idt-of-zeros")
{
    load_idt(page_alloc(), PAGE_SIZE - 1);
    asm volatile("ud2");
}

struct gate {
    u16 low, selector, kind, middle;
    u32 high, zero;
};

static struct gate *gates(u16 selector, u16 kind)
{
    extern const u8 vm_exited[];
    struct gate *table = page_alloc();
    word address = (word)vm_exited;
    for (unsigned i = 0; i < 32; i++)
        table[i] = (struct gate){ (u16)address, selector, kind, (u16)(address >> 16), 0, 0 };
    return table;
}

MISTAKE(absent_gates, "l1-idt-not-present")
{
    load_idt(gates(SEL_CODE, 0x0e00), 32 * sizeof(struct gate) - 1);
    asm volatile("ud2");
}

MISTAKE(data_gates, "l1-idt-with-a-data-selector")
{
    load_idt(gates(SEL_DATA, 0x8e00), 32 * sizeof(struct gate) - 1);
    asm volatile("ud2");
}

MISTAKE(no_stack, "l1-stack-not-mapped")
{
    asm volatile("mov %0, %%rsp\n\tud2" : : "r"(0x7ffffffff000ull));
}

MISTAKE(spin, "l1-spins-with-interrupts-off")
{
    interrupts_off();
    for (;;)
        asm volatile("");
}

MISTAKE(halt, "l1-halts-with-interrupts-off")
{
    interrupts_off();
    for (;;)
        cpu_halt();
}

/* The handler goes back to the instruction that faulted. */
extern const u8 back_to_it[];
asm(".pushsection .text\nback_to_it: iretq\n.popsection");

MISTAKE(again, "l1-handler-changes-nothing")
{
    struct gate *table = gates(SEL_CODE, 0x8e00);
    word address = (word)back_to_it;
    table[6].low = (u16)address;
    table[6].middle = (u16)(address >> 16);
    load_idt(table, 32 * sizeof(struct gate) - 1);
    asm volatile("ud2");
}

/* VMRESUME fails, and nobody looks. */
MISTAKE(resume_loop, "l1-never-looks-at-the-flags")
{
    start_nothing(vm);
    for (;;)
        try_vmresume();
}
