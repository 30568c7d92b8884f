#include "x86/cpu.h"
#include "x86/bits.h"
#include "x86/instructions.h"

struct cpu cpus[MAX_CPUS];
unsigned cpu_count = 1;

/* Descriptors (SDM 3A, "Segment descriptors"): base 0, limit 4 GiB, accessed. */
#define DESC_CODE64 0x00af9b000000ffffull
#define DESC_CODE32 0x00cf9b000000ffffull
#define DESC_DATA32 0x00cf93000000ffffull
#define DESC_CODE16 0x00009b000000ffffull
#define DESC_DATA16 0x000093000000ffffull
#define DESC_RING_3 (3ull << 45)
#define DESC_TSS 0x0000890000000000ull

static u64 with_base(u64 descriptor, u32 base)
{
    return descriptor | (u64)(base & 0xffffff) << 16 | (u64)(base >> 24) << 56;
}

static void build_gdt(struct cpu *cpu)
{
    u64 native = IS_64BIT ? DESC_CODE64 : DESC_CODE32;
    cpu->gdt[SEL_CODE / 8] = native;
    cpu->gdt[SEL_DATA / 8] = DESC_DATA32;
    cpu->gdt[SEL_USER_CODE / 8] = native | DESC_RING_3;
    cpu->gdt[SEL_USER_DATA / 8] = DESC_DATA32 | DESC_RING_3;
    cpu->gdt[SEL_CPU / 8] = with_base(DESC_DATA32 | DESC_RING_3, (u32)(word)cpu);
    cpu->gdt[SEL_TSS / 8] = with_base(DESC_TSS | (sizeof(struct tss) - 1), (u32)(word)&cpu->tss);
    cpu->gdt[SEL_CODE32 / 8] = DESC_CODE32;
    cpu->gdt[SEL_CODE16 / 8] = DESC_CODE16;
    cpu->gdt[SEL_DATA16 / 8] = DESC_DATA16;
    cpu->gdt[SEL_USER_CODE32 / 8] = DESC_CODE32 | DESC_RING_3;
}

static void load_gdt(struct cpu *cpu)
{
    struct table_register gdtr = { sizeof cpu->gdt - 1, (word)cpu->gdt };
    asm volatile("lgdt %0" : : "m"(gdtr));
#ifdef __x86_64__
    asm volatile("push %0\n\t"
                 "lea 1f(%%rip), %%rax\n\t"
                 "push %%rax\n\t"
                 "lretq\n"
                 "1:"
                 :
                 : "i"(SEL_CODE)
                 : "rax", "memory");
#else
    asm volatile("ljmp %0, $1f\n1:" : : "i"(SEL_CODE) : "memory");
#endif
    asm volatile("mov %0, %%ds\n\t"
                 "mov %0, %%es\n\t"
                 "mov %0, %%ss\n\t"
                 "mov %0, %%fs"
                 :
                 : "r"(SEL_DATA));
}

void load_gs(struct cpu *cpu)
{
    /* A return to ring 3 drops selectors of ring 0, and with them the base: null has none to drop. */
    u32 selector = IS_64BIT ? 0 : SEL_CPU;
    asm volatile("mov %0, %%gs" : : "r"(selector));
    if (IS_64BIT)
        wrmsr(MSR_GS_BASE, (word)cpu);
}

static void load_tss(struct cpu *cpu)
{
    word stack = (word)(cpu->stack + STACK_SIZE);
#ifdef __x86_64__
    cpu->tss.rsp[0] = stack;
#else
    cpu->tss.esp0 = stack;
    cpu->tss.ss0 = SEL_DATA;
#endif
    cpu->tss.io_map = sizeof(struct tss);
    asm volatile("ltr %0" : : "r"((u16)SEL_TSS));
}

void cpu_set_up(struct cpu *cpu, unsigned index)
{
    cpu->self = cpu;
    cpu->index = index;
    build_gdt(cpu);
    load_gdt(cpu);
    load_gs(cpu);
    load_tss(cpu);
    idt_load();
}
