/*
 * The PAL's code.  It runs where it was copied to: no addresses of its own, no library, no tables
 * made by the compiler.
 */
#include "pals.h"
#include "x86/bits.h"

#define INLINE inline __attribute__((always_inline))
#define PAL_TEXT                                                                                   \
    __attribute__((section(".text.pal"), used, noinline, optimize("no-jump-tables")))

asm(".pushsection .text.pal, \"ax\"\n"
    ".globl pal_code\n"
    "pal_code: jmp pal_main\n"
    ".popsection");

static INLINE u8 *pal_page(void)
{
    word here;
    asm volatile("call 1f\n1: pop %0" : "=r"(here));
    return (u8 *)(here & ~(word)0xfff);
}

static INLINE struct pal_data *pal_data(void) { return (void *)(pal_page() + PAGE_SIZE); }

static INLINE word mark(const u8 *page) { return *(const volatile word *)(page + PAL_MARK); }

/* The marks of three pages: code, data, parameters */
static INLINE word marks(void)
{
    const u8 *page = pal_page();
    return mark(page) ^ mark(page + PAGE_SIZE) << 1 ^ mark(page + 2 * PAGE_SIZE) << 2;
}

static INLINE word guard(word rounds)
{
    word first = marks();
    for (word i = 0; i < rounds; i++)
        if (marks() != first)
            return ~first;
    return first;
}

/* Whoever comes between the reading and the writing makes the sum wrong. */
static INLINE word add(word value)
{
    struct pal_data *data = pal_data();
    word old = data->secret;
    for (volatile unsigned i = 0; i < 20; i++)
        ;
    return data->secret = old + value;
}

static INLINE word echo(word value, u8 *buffer)
{
    word sum = 0;
    for (volatile unsigned i = 0; i < PAL_BUFFER; i++) {
        buffer[i] ^= (u8)value;
        sum += buffer[i];
    }
    return sum;
}


static INLINE word misdeed(word which)
{
    if (which == PAL_UNDEFINED)
        asm volatile("ud2");
    if (which == PAL_HALT)
        asm volatile("hlt");
    if (which == PAL_INTERRUPT)
        asm volatile("int $0x80");
    if (which == PAL_WRITE_CODE)
        *(volatile word *)(pal_page() + PAL_MARK) = 1;
    if (which == PAL_READ_OUTSIDE)
        return *(volatile word *)0x100000;
    if (which == PAL_PORT)
        asm volatile("out %%al, $0x80" : : "a"(0));
    if (which == PAL_FLOAT)
        asm volatile("fld1");
    if (which == PAL_INVLPG)
        asm volatile("invlpg (%0)" : : "r"((word)0));
    if (which == PAL_OVERFLOW)
        asm volatile("1: push $0\n jmp 1b" ::: "memory");
    if (which == PAL_JUMP_OUTSIDE)
        asm volatile("jmp *%0" : : "r"((word)0x100000));
    if (which == PAL_LOAD_CR3)
        asm volatile("mov %0, %%cr3" : : "r"((word)0));
    if (which == PAL_SEGMENT)
        asm volatile("mov %0, %%ds" : : "r"(0x23));
    return 0;
}

static PAL_TEXT word pal_main(word operation, word value, u8 *buffer)
{
    if (operation == PAL_STORE)
        return pal_data()->secret = value;
    if (operation == PAL_LOAD)
        return pal_data()->secret;
    if (operation == PAL_ADD)
        return add(value);
    if (operation == PAL_ECHO)
        return echo(value, buffer);
    if (operation == PAL_GUARD)
        return guard(value);
    if (operation == PAL_EXTEND)
        return tv_hypercall(TV_PCR_EXTEND, (word)buffer, 0).status;
    if (operation == PAL_READ_PCR)
        return tv_hypercall(TV_PCR_READ, 0, (word)buffer).status;
    if (operation == PAL_SHARED)
        return ((word(*)(word))value)(*(word *)buffer);
    return misdeed(value);
}

asm(".pushsection .text.pal, \"ax\"\n"
    ".globl pal_code_end\n"
    "pal_code_end:\n"
    ".popsection");

/* A library function that several PALs, and everybody else, can call: three times the argument */
#ifdef __x86_64__
asm(".globl shared_code, shared_code_end\n"
    "shared_code: lea (%rdi, %rdi, 2), %rax; ret\n"
    "shared_code_end:");
#else
asm(".globl shared_code, shared_code_end\n"
    "shared_code: mov 4(%esp), %eax; lea (%eax, %eax, 2), %eax; ret\n"
    "shared_code_end:");
#endif
