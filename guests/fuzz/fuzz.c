/*
 * Short pieces of code in L1 and in L2, from a program that stands in this image: turducken fuzz
 * writes it there (src/turducken/fuzz/sequence.py), and compares what is said here on two machines.
 *
 * Each slot is one piece. For each there is a line: what ended it, and a sum over all that can be
 * seen afterwards. With `seed=2` the line names all of it.
 */
#include "lib/print.h"
#include "lib/string.h"
#include "test/options.h"
#include "test/test.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

enum { SLOTS = 48, CODE = 24, WRITES = 2, REGISTERS = 8, MOST_EXITS = 8, SCRATCH = 512 };
enum kind { NOTHING, IN_L1, IN_L2 };
enum { VERBOSE = 2 }; /* in `seed` */

struct write {
    u32 field, flip; /* flip: the value is for XOR */
    u64 value;
};

struct slot {
    u32 kind, length;
    u8 code[CODE];
    u64 registers[REGISTERS]; /* RAX, RCX, RDX, RBX, RSI, RDI, R8, R9 */
    struct write writes[WRITES];
};

struct program {
    char marker[24];
    u32 slots, reserved;
    struct slot slot[SLOTS];
};

static volatile struct program program = { .marker = "TURDUCKEN FUZZ PROGRAM" };

/* Registers and operands with this tag stand for an address of `place`. */
enum { TAG_SHIFT = 16 };
#define TAG 0xfa57fa57fa57ull

static u8 scratch[PAGE_SIZE] ALIGNED(PAGE_SIZE);
static u8 pieces[SLOTS][64] ALIGNED(PAGE_SIZE);
static u64 operands[8] ALIGNED(64); /* physical addresses, and a descriptor */

static u64 address(u64 value)
{
    static void *const place[] = { scratch,      scratch + PAGE_SIZE - 4, &operands[0],
                                   &operands[1], &operands[2],            pieces };
    if (value >> TAG_SHIFT != TAG || (value & 0xffff) >= ARRAY_LEN(place))
        return value;
    return (word)place[value & 0xffff];
}

/* ---- what is seen ---- */

static u64 sum;

static void see(const char *name, u64 value)
{
    sum = (sum ^ value) * 0x100000001b3ull;
    if (options.seed == VERBOSE)
        print(" %s=%llx", name, value);
}

static void see_memory(void)
{
    u64 of_scratch = 0;
    for (unsigned i = 0; i < SCRATCH / 8; i++)
        of_scratch = (of_scratch ^ ((u64 *)scratch)[i]) * 0x100000001b3ull;
    see("memory", of_scratch);
}

static void begin(unsigned number, const char *level)
{
    sum = 0xcbf29ce484222325ull;
    print("%02u %s", number, level);
}

static void end(void) { print(" %08x\n", (u32)(sum ^ sum >> 32)); }

/* ---- in L1: as it is entered, and left by falling off its end or by an exception ---- */

struct frame {
    u64 registers[REGISTERS], flags, vector, error, ip;
};

struct frame fuzz_in, fuzz_out;
u64 fuzz_stack, fuzz_code;
void fuzz_enter(void);
extern const u8 fuzz_back[], fuzz_traps[];

asm(".pushsection .text\n"
    ".global fuzz_enter, fuzz_back, fuzz_traps\n"
    "fuzz_enter: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp, fuzz_stack\n"
    "mov fuzz_in+8, %rcx; mov fuzz_in+16, %rdx; mov fuzz_in+24, %rbx; mov fuzz_in+32, %rsi\n"
    "mov fuzz_in+40, %rdi; mov fuzz_in+48, %r8; mov fuzz_in+56, %r9; mov fuzz_in, %rax\n"
    "jmp *fuzz_code\n"
    "fuzz_save: mov %rax, fuzz_out; mov %rcx, fuzz_out+8; mov %rdx, fuzz_out+16\n"
    "mov %rbx, fuzz_out+24; mov %rsi, fuzz_out+32; mov %rdi, fuzz_out+40\n"
    "mov %r8, fuzz_out+48; mov %r9, fuzz_out+56; ret\n"
    "fuzz_back: pushf; popq fuzz_out+64; movq $-1, fuzz_out+72; movq $0, fuzz_out+80\n"
    "movq $0, fuzz_out+88; call fuzz_save\n"
    "fuzz_leave: mov fuzz_stack, %rsp; pushq $2; popf\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
    "fuzz_trap: call fuzz_save; popq fuzz_out+72; popq fuzz_out+80; popq fuzz_out+88\n"
    "pop %rax; popq fuzz_out+64; jmp fuzz_leave\n"
    ".balign 16\n"
    "fuzz_traps:\n"
    ".set vector, 0\n"
    ".rept 256\n"
    ".balign 16\n"
    ".if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17))\n"
    "push $0\n"
    ".endif\n"
    "pushq $vector\n"
    "jmp fuzz_trap\n"
    ".set vector, vector + 1\n"
    ".endr\n"
    ".popsection\n");

static u32 gates[256][4] ALIGNED(16);

static void fill_gates(void)
{
    for (unsigned v = 0; v < 256; v++) {
        u32 entry = (u32)(word)(fuzz_traps + 16 * v);
        gates[v][0] = (entry & 0xffff) | SEL_CODE << 16;
        gates[v][1] = (entry & 0xffff0000) | 0x8e00;
    }
}

/* The code of every piece, before any of it runs: no code is changed here. */
static void put_code(unsigned number, const u8 *after, unsigned length)
{
    volatile const struct slot *slot = &program.slot[number];
    for (unsigned i = 0; i < CODE; i++)
        pieces[number][i] = i < slot->length ? slot->code[i] : 0x90;
    for (unsigned i = 0; i < length; i++)
        pieces[number][CODE + i] = after[i];
}

static void put_all_code(void)
{
    static const u8 vmcall[] = { 0x0f, 0x01, 0xc1 };
    u8 leave[14] = { 0xff, 0x25 }; /* jmp *0(%rip) */
    *(u64 *)(leave + 6) = (word)fuzz_back;
    for (unsigned i = 0; i < SLOTS; i++) {
        if (program.slot[i].kind == IN_L1)
            put_code(i, leave, sizeof leave);
        else
            put_code(i, vmcall, sizeof vmcall);
    }
}

static void run_in_l1(struct vm *vm, volatile const struct slot *slot, const u8 *code)
{
    for (unsigned i = 0; i < REGISTERS; i++)
        fuzz_in.registers[i] = address(slot->registers[i]);
    fuzz_code = (word)code;
    word cr0 = read_cr0(), cr4 = read_cr4();
    struct table_register idtr = { sizeof gates - 1, (word)gates };
    asm volatile("lidt %0" : : "m"(idtr));
    fuzz_enter();
    idt_load();
    see("vector", fuzz_out.vector);
    see("error", fuzz_out.error);
    see("ip", fuzz_out.ip ? fuzz_out.ip - (word)code : 0);
    see("flags", fuzz_out.flags);
    for (unsigned i = 0; i < REGISTERS; i++)
        see("r", fuzz_out.registers[i]);
    see("cr0", read_cr0());
    see("cr2", read_cr2());
    see("cr4", read_cr4());
    see("efer", rdmsr(MSR_EFER));
    write_cr0(cr0);
    write_cr4(cr4);
    asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" : : "r"(SEL_DATA));
    load_gs(this_cpu());
    vmptrld(physical(vm->vmcs));
}

/* ---- in L2 ---- */

static const u32 seen_fields[] = {
    VMCS_GUEST_RSP,         VMCS_GUEST_CR0,      VMCS_GUEST_CR3,           VMCS_GUEST_CR4,
    VMCS_GUEST_INTERRUPTIBILITY, VMCS_GUEST_ACTIVITY, VMCS_GUEST_PENDING_DEBUG, VMCS_GUEST_DR7,
    VMCS_GUEST_CS_AR,       VMCS_GUEST_SS_AR,    VMCS_ENTRY_EVENT,
};

static bool is_instruction(u32 reason)
{
    return reason == REASON_CPUID || (reason >= 11 && reason <= 32 && reason != REASON_VMCALL) ||
           reason == 36 || reason == 39 || reason == 40 || reason == 46 || reason == 47 ||
           (reason >= 50 && reason <= 59 && reason != 52 && reason != 56);
}

static void see_event(const char *name, u32 field, u32 error_field)
{
    u32 event = (u32)vmread(field);
    if (!(event & EVENT_VALID))
        event = 0;
    see(name, event);
    if (event & EVENT_ERROR_CODE)
        see("code", vmread(error_field));
}

static void see_exit(struct vm *vm)
{
    see("reason", vm->reason);
    see("qualification", vm->qualification);
    see("ip", vm->ip);
    if (vm->reason & REASON_ENTRY_FAILURE)
        return;
    /* A hypervisor below that lets the delivery of an event go on has changed RF before. */
    see("flags", vmread(VMCS_GUEST_RFLAGS) &
                     ~(vm->reason == REASON_TRIPLE_FAULT ? (u64)RFLAGS_RF : 0));
    for (unsigned i = 0; i < ARRAY_LEN(seen_fields); i++)
        see("field", vmread(seen_fields[i]));
    const u64 registers[] = { vm->regs.ax, vm->regs.cx, vm->regs.dx, vm->regs.bx,
                              vm->regs.si, vm->regs.di, vm->regs.r8, vm->regs.r9 };
    for (unsigned i = 0; i < REGISTERS; i++)
        see("r", registers[i]);
    see_event("event", VMCS_EXIT_EVENT, VMCS_EXIT_EVENT_ERROR);
    see_event("vectoring", VMCS_IDT_VECTORING, VMCS_IDT_VECTORING_ERROR);
    if (is_instruction(vm->reason))
        see("length", vmread(VMCS_EXIT_LENGTH));
    if (vm->reason == REASON_EPT_VIOLATION || vm->reason == REASON_EPT_MISCONFIG)
        see("physical", vmread(VMCS_GUEST_PHYSICAL));
}

static void run_until_end(struct vm *vm)
{
    for (unsigned exits = 0; exits < MOST_EXITS; exits++) {
        enum vmx_status status = vm_try_run(vm);
        if (status != VMX_OK) {
            see("failed", status);
            if (status == VMX_FAIL_VALID)
                see("error", vmread(VMCS_INSTRUCTION_ERROR));
            return;
        }
        see_exit(vm);
        if (!is_instruction(vm->reason))
            return;
        vm_skip(vm);
        vmwrite(VMCS_GUEST_INTERRUPTIBILITY, vmread(VMCS_GUEST_INTERRUPTIBILITY) & ~3ull);
    }
}

static void run_in_l2(struct vm *vm, volatile const struct slot *slot, const u8 *code)
{
    u64 kept[WRITES];
    u64 registers[REGISTERS];
    for (unsigned i = 0; i < REGISTERS; i++)
        registers[i] = address(slot->registers[i]);
    vm->regs.ax = registers[0];
    vm->regs.cx = registers[1];
    vm->regs.dx = registers[2];
    vm->regs.bx = registers[3];
    vm->regs.si = registers[4];
    vm->regs.di = registers[5];
    vm->regs.r8 = registers[6];
    vm->regs.r9 = registers[7];
    vmwrite(VMCS_GUEST_RIP, (word)code);
    vmwrite(VMCS_GUEST_RSP, (word)(vm->stack - 64));
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    vmwrite(VMCS_GUEST_ACTIVITY, 0);
    vmwrite(VMCS_GUEST_PENDING_DEBUG, 0);
    for (unsigned i = 0; i < WRITES; i++) {
        u32 field = slot->writes[i].field;
        if (!field)
            continue;
        kept[i] = vmread(field);
        vmwrite(field, slot->writes[i].flip ? kept[i] ^ slot->writes[i].value
                                            : address(slot->writes[i].value));
    }
    run_until_end(vm);
    for (unsigned i = WRITES; i-- > 0;)
        if (slot->writes[i].field)
            vmwrite(slot->writes[i].field, kept[i]);
    vmwrite(VMCS_ENTRY_EVENT, 0);
}

TEST("fuzz", sequence, "sequence", TEST_EPT)
{
    fill_gates();
    put_all_code();
    operands[0] = physical(vmcs_region(1));
    operands[1] = 0xfffffffffffff000ull;
    operands[2] = vm->ept.eptp;
    for (unsigned i = 0; i < program.slots && i < SLOTS; i++) {
        volatile const struct slot *slot = &program.slot[i];
        if (slot->kind == NOTHING)
            continue;
        begin(i, slot->kind == IN_L1 ? "L1" : "L2");
        if (slot->kind == IN_L1)
            run_in_l1(vm, slot, pieces[i]);
        else
            run_in_l2(vm, slot, pieces[i]);
        see_memory();
        end();
    }
}
