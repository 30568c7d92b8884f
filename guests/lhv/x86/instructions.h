/* Single instructions as C functions.  Those here are expected not to fault; see x86/try.h. */
#pragma once
#include "lib/types.h"

static inline u8 inb(u16 port)
{
    u8 value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void outb(u16 port, u8 value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(u16 port, u32 value)
{
    asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline u64 rdmsr(u32 index)
{
    u32 low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
    return (u64)high << 32 | low;
}

static inline void wrmsr(u32 index, u64 value)
{
    asm volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

struct cpuid {
    u32 eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid r;
    asm volatile("cpuid"
                 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                 : "a"(leaf), "c"(subleaf));
    return r;
}

#define DEFINE_REGISTER(name)                                                                      \
    static inline word read_##name(void)                                                           \
    {                                                                                              \
        word value;                                                                                \
        asm volatile("mov %%" #name ", %0" : "=r"(value) : : "memory");                            \
        return value;                                                                              \
    }                                                                                              \
    static inline void write_##name(word value)                                                    \
    {                                                                                              \
        asm volatile("mov %0, %%" #name : : "r"(value) : "memory");                                \
    }

DEFINE_REGISTER(cr0)
DEFINE_REGISTER(cr2)
DEFINE_REGISTER(cr3)
DEFINE_REGISTER(cr4)
DEFINE_REGISTER(dr0)
DEFINE_REGISTER(dr6)
DEFINE_REGISTER(dr7)

#define DEFINE_SELECTOR(name)                                                                      \
    static inline u16 read_##name(void)                                                            \
    {                                                                                              \
        u16 value;                                                                                 \
        asm volatile("mov %%" #name ", %0" : "=r"(value));                                         \
        return value;                                                                              \
    }

DEFINE_SELECTOR(cs)
DEFINE_SELECTOR(ss)
DEFINE_SELECTOR(ds)
DEFINE_SELECTOR(es)
DEFINE_SELECTOR(fs)
DEFINE_SELECTOR(gs)

static inline u16 read_tr(void)
{
    u16 value;
    asm volatile("str %0" : "=r"(value));
    return value;
}

/* The operand of LGDT, SGDT, LIDT and SIDT. */
struct table_register {
    u16 limit;
    word base;
} __attribute__((packed));

static inline void invlpg(const void *address)
{
    asm volatile("invlpg %0" : : "m"(*(const u8 *)address) : "memory");
}

static inline void cpu_pause(void) { asm volatile("pause" : : : "memory"); }
static inline void cpu_halt(void) { asm volatile("hlt" : : : "memory"); }
static inline void interrupts_off(void) { asm volatile("cli" : : : "memory"); }
static inline void interrupts_on(void) { asm volatile("sti" : : : "memory"); }

/* Take the interrupts that are pending. */
static inline void interrupts_take(void)
{
    asm volatile("sti\n\tnop\n\tnop\n\tcli" : : : "memory");
}

/* STI holds interrupts back for one instruction: nothing can be missed before the HLT. */
static inline void interrupts_on_and_halt(void)
{
    asm volatile("sti\n\thlt\n\tcli" : : : "memory");
}
