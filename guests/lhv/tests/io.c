/* I/O instructions: the bitmaps, strings, and ports at the end of the space. */
#include "lib/string.h"
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/instructions.h"

/* The exit qualification */
enum {
    IO_IN = BIT(3),
    IO_STRING = BIT(4),
    IO_REP = BIT(5),
    IO_IMMEDIATE = BIT(6),
    IO_PORT_SHIFT = 16,
};

L2_CODE(l2_in8, "mov " BX ", " DX, "in %dx, %al");
L2_CODE(l2_in16, "mov " BX ", " DX, "in %dx, %ax");
L2_CODE(l2_in32, "mov " BX ", " DX, "in %dx, %eax");
L2_CODE(l2_out8, "mov " BX ", " DX "; mov $0, %al", "out %al, %dx");
L2_CODE(l2_out8_imm, "mov $0, %al", "out %al, $0x80");

/* Bitmap A is of ports 0 to 7FFFh, B of the rest; they lie in two pages that follow each other. */
static u8 *use_bitmaps(struct vm *vm)
{
    vm_needs(CPU, CPU_IO_BITMAPS);
    u8 *bitmaps = pages_alloc(2);
    vmwrite(VMCS_IO_BITMAP_A, physical(bitmaps));
    vmwrite(VMCS_IO_BITMAP_B, physical(bitmaps + PAGE_SIZE));
    vm_control(vm, CPU, CPU_IO_BITMAPS, 0);
    return bitmaps;
}

/* The ports at which an access happens are harmless: nothing, or the port of POST codes. */
static const struct {
    const char *name;
    const struct code *code;
    u32 port, bit;
    bool exits;
    u32 qualification;
} bitmap_rows[] = {
    { "byte, its bit", &l2_out8, 0x80, 0x80, true, 0 },
    { "byte, the bit before", &l2_out8, 0x80, 0x7f, false, 0 },
    { "byte, the bit behind", &l2_out8, 0x80, 0x81, false, 0 },
    { "immediate port", &l2_out8_imm, 0x80, 0x80, true, IO_IMMEDIATE },
    { "input", &l2_in8, 0x80, 0x80, true, IO_IN },
    { "word, first bit", &l2_in16, 0x5678, 0x5678, true, IO_IN | 1 },
    { "word, second bit", &l2_in16, 0x5678, 0x5679, true, IO_IN | 1 },
    { "word, the bit behind", &l2_in16, 0x5678, 0x567a, false, 0 },
    { "doubleword, last bit", &l2_in32, 0x5678, 0x567b, true, IO_IN | 3 },
    { "doubleword, the bit behind", &l2_in32, 0x5678, 0x567c, false, 0 },
    { "bitmap B", &l2_in8, 0x9abc, 0x9abc, true, IO_IN },
    { "bitmap B, another bit", &l2_in8, 0x9abc, 0x1abc, false, 0 },
    { "across the bitmaps, bit in A", &l2_in16, 0x7fff, 0x7fff, true, IO_IN | 1 },
    { "across the bitmaps, bit in B", &l2_in16, 0x7fff, 0x8000, true, IO_IN | 1 },
    { "last port", &l2_in8, 0xffff, 0xffff, true, IO_IN },
    { "around the end of the space, no bit", &l2_in16, 0xffff, 0x1234, true, IO_IN | 1 },
    { "around the end of the space, doubleword", &l2_in32, 0xfffd, 0x1234, true, IO_IN | 3 },
};

TEST("io", bitmaps, "io-bitmaps", 0)
{
    u8 *bitmaps = use_bitmaps(vm);
    for (unsigned i = 0; i < ARRAY_LEN(bitmap_rows); i++) {
        const struct code *code = bitmap_rows[i].code;
        row(bitmap_rows[i].name);
        memset(bitmaps, 0, 2 * PAGE_SIZE);
        bitmaps[bitmap_rows[i].bit / 8] = (u8)BIT(bitmap_rows[i].bit % 8);
        vm_start(vm, code->start, 0);
        vm->regs.bx = bitmap_rows[i].port;
        if (!bitmap_rows[i].exits) {
            vm_expect_done(vm);
            continue;
        }
        vm_expect(vm, REASON_IO);
        check_equal("qualification", vm->qualification,
                    bitmap_rows[i].port << IO_PORT_SHIFT | bitmap_rows[i].qualification);
        check_equal("IP", vm->ip, (word)code->at);
        check_equal("length", vmread(VMCS_EXIT_LENGTH), (u64)(code->next - code->at));
    }
}

/* With the bitmaps in use, "unconditional I/O exiting" does not count. */
TEST("io", both, "io-bitmaps-win", 0)
{
    use_bitmaps(vm);
    vm_control(vm, CPU, CPU_IO_EXITING, 0);
    vm_start(vm, l2_out8.start, 0);
    vm->regs.bx = 0x80;
    vm_expect_done(vm);
}

TEST("io", not_taken, "io-not-taken", 0)
{
    vm_start(vm, l2_out8.start, 0);
    vm->regs.bx = 0x80;
    vm_expect_done(vm);
}

/* ---- strings ---- */

L2_CODE(l2_outsb, "mov $0x80, %edx", "outsb");
L2_CODE(l2_rep_outsb, "mov $0x80, %edx; mov $3, %ecx", "rep outsb");
L2_CODE(l2_insw, "mov $0x5678, %edx", "insw");
L2_CODE(l2_rep_insl, "mov $0x5678, %edx; mov $2, %ecx", "rep insl");
L2_CODE(l2_outsb_fs, "mov $0x80, %edx", "fs outsb");

/* Instruction information: address size in bits 9:7, segment in bits 17:15 (of OUTS). */
enum { INFO_SIZE = (IS_64BIT ? 2 : 1) << 7, INFO_SIZE_MASK = 7 << 7, INFO_SEGMENT_SHIFT = 15 };

static const struct {
    const char *name;
    const struct code *code;
    u32 qualification;
    int segment; /* -1: not told */
} string_rows[] = {
    { "OUTSB", &l2_outsb, 0x80 << IO_PORT_SHIFT | IO_STRING, DS },
    { "OUTSB from FS", &l2_outsb_fs, 0x80 << IO_PORT_SHIFT | IO_STRING, FS },
    { "REP OUTSB", &l2_rep_outsb, 0x80 << IO_PORT_SHIFT | IO_STRING | IO_REP, DS },
    { "INSW", &l2_insw, 0x5678 << IO_PORT_SHIFT | IO_STRING | IO_IN | 1, -1 },
    { "REP INSL", &l2_rep_insl, 0x5678 << IO_PORT_SHIFT | IO_STRING | IO_REP | IO_IN | 3, -1 },
};

#define BASIC_STRING_INFO BIT64(54) /* of IA32_VMX_BASIC: instruction information for strings */

TEST("io", strings, "io-strings", 0)
{
    bool info = rdmsr(MSR_VMX_BASIC) & BASIC_STRING_INFO;
    vm_control(vm, CPU, CPU_IO_EXITING, 0);
    for (unsigned i = 0; i < ARRAY_LEN(string_rows); i++) {
        const struct code *code = string_rows[i].code;
        row(string_rows[i].name);
        vm_start(vm, code->start, 0);
        vm->regs.si = (word)vm->shared + 0x10;
        vm->regs.di = (word)vm->shared + 0x20;
        vm_expect(vm, REASON_IO);
        check_equal("qualification", vm->qualification, string_rows[i].qualification);
        check_equal("IP", vm->ip, (word)code->at);
        check_equal("length", vmread(VMCS_EXIT_LENGTH), (u64)(code->next - code->at));
        check_equal("guest-linear address", vmread(VMCS_GUEST_LINEAR),
                    string_rows[i].segment < 0 ? vm->regs.di : vm->regs.si);
        if (!info)
            continue;
        u32 told = (u32)vmread(VMCS_INSTRUCTION_INFO);
        check_equal("address size", told & INFO_SIZE_MASK, INFO_SIZE);
        if (string_rows[i].segment >= 0)
            check_equal("segment", told >> INFO_SEGMENT_SHIFT & 7, (u32)string_rows[i].segment);
    }
}

TEST("io", strings_run, "io-strings-not-taken", 0)
{
    vm_start(vm, l2_rep_outsb.start, 0);
    vm->regs.si = (word)vm->shared;
    vm_expect_done(vm);
    check_equal("SI", vm->regs.si, (word)vm->shared + 3);
    check_equal("CX", vm->regs.cx, 0);
    memset(vm->shared, 0x55, 16);
    vm_start(vm, l2_rep_insl.start, 0);
    vm->regs.di = (word)vm->shared;
    vm_expect_done(vm);
    check_equal("DI", vm->regs.di, (word)vm->shared + 8);
    check_equal("behind", vm->shared[1], 0x5555555555555555);
}
