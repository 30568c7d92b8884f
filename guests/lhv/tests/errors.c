/*
 * How VMX instructions fail: with an error number (SDM 3C, "VM instruction error numbers"), with CF
 * because there is no current VMCS, or with an exception.
 *
 * Error numbers that need system-management mode (15 to 25 but for 15 itself) cannot be had here.
 */
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"
#include "x86/user.h"

enum error {
    NO_ERROR = 0,
    VMCALL_IN_ROOT = 1,
    VMCLEAR_ADDRESS = 2,
    VMCLEAR_VMXON = 3,
    VMLAUNCH_NOT_CLEAR = 4,
    VMRESUME_NOT_LAUNCHED = 5,
    VMPTRLD_ADDRESS = 9,
    VMPTRLD_VMXON = 10,
    VMPTRLD_REVISION = 11,
    UNSUPPORTED_FIELD = 12,
    READ_ONLY_FIELD = 13,
    VMXON_IN_ROOT = 15,
    BLOCKED_BY_MOV_SS = 26,
    INVALIDATION_OPERAND = 28,
};

static void check_failed(enum vmx_status status, u32 error)
{
    if (status != VMX_FAIL_VALID)
        fail("expected to fail with error %u, ended with status %u", error, status);
    else
        check_equal("error number", vmread(VMCS_INSTRUCTION_ERROR), error);
}

static void check_failed_invalid(enum vmx_status status)
{
    check_equal("status", status, VMX_FAIL_INVALID);
}

/* Addresses that no VMX structure can have. */
static const struct {
    const char *name;
    u64 bits; /* set in a good address; TOO_WIDE: the first bit beyond the physical addresses */
} bad_addresses[] = {
    { "bit 0", 1 },          { "bit 4", 0x10 },
    { "bit 11", 0x800 },     { "beyond the physical addresses", 0 },
    { "bit 63", BIT64(63) },
};

static u64 bad_address(unsigned i, void *page)
{
    u64 bits = bad_addresses[i].bits ? bad_addresses[i].bits : BIT64(caps.physical_bits);
    return physical(page) | bits;
}

TEST("errors", vmcall, "error-vmcall-in-root", 0) { check_failed(try_vmcall(), VMCALL_IN_ROOT); }

TEST("errors", vmclear, "error-vmclear", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(bad_addresses); i++) {
        row(bad_addresses[i].name);
        check_failed(vmclear(bad_address(i, vmcs_region(1))), VMCLEAR_ADDRESS);
    }
    row("VMXON region");
    check_failed(vmclear(physical(vm->vmxon_region)), VMCLEAR_VMXON);
}

TEST("errors", vmptrld, "error-vmptrld", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(bad_addresses); i++) {
        row(bad_addresses[i].name);
        check_failed(vmptrld(bad_address(i, vmcs_region(1))), VMPTRLD_ADDRESS);
    }
    row("VMXON region");
    check_failed(vmptrld(physical(vm->vmxon_region)), VMPTRLD_VMXON);
    row("wrong revision");
    *(u32 *)vmcs_region(1) = caps.revision ^ 1;
    check_failed(vmptrld(physical(vmcs_region(1))), VMPTRLD_REVISION);
    row("shadow VMCS");
    *(u32 *)vmcs_region(1) = caps.revision | BIT(31);
    if (!may_set(CPU2, CPU2_VMCS_SHADOWING))
        check_failed(vmptrld(physical(vmcs_region(1))), VMPTRLD_REVISION);
    row("the current VMCS stays");
    u64 current = 0;
    vmptrst(&current);
    check_equal("VMPTRST", current, physical(vm->vmcs));
}

static const struct {
    const char *name;
    u32 encoding;
} unsupported[] = {
    { "bit 12", VMCS_GUEST_RIP | BIT(12) },
    { "bit 15", VMCS_GUEST_RIP | BIT(15) },
    { "index 511", VMCS_HOST_RIP | 511 << 1 },
};

/* Only 64-bit fields have an upper half. */
static const u32 no_upper_half[] = { VMCS_EXIT_REASON, VMCS_GUEST_RIP, VMCS_GUEST_ES };

static void check_unsupported(word encoding)
{
    word value = 0x77;
    check_failed(try_vmread(encoding, &value), UNSUPPORTED_FIELD);
    check_equal("operand", value, 0x77);
    check_failed(try_vmwrite(encoding, 1), UNSUPPORTED_FIELD);
}

TEST("errors", field, "error-unsupported-field", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(unsupported); i++) {
        row(unsupported[i].name);
        check_unsupported(unsupported[i].encoding);
    }
}

TEST("errors", upper_half, "error-no-upper-half", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(no_upper_half); i++)
        check_unsupported(no_upper_half[i] | 1);
}

#ifdef __x86_64__
/* In 64-bit mode the register that holds the encoding counts as a whole. */
TEST("errors", wide, "error-field-beyond-32-bits", 0)
{
    check_unsupported(BIT64(32) | VMCS_GUEST_RIP);
}
#endif

enum { MISC_WRITE_ALL_FIELDS = BIT(29) };

TEST("errors", read_only, "error-read-only-field", 0)
{
    if (caps.misc & MISC_WRITE_ALL_FIELDS)
        skip("this processor lets VMWRITE change every field");
    check_failed(try_vmwrite(VMCS_EXIT_REASON, 1), READ_ONLY_FIELD);
    check_failed(try_vmwrite(VMCS_EXIT_QUALIFICATION, 1), READ_ONLY_FIELD);
    check_failed(try_vmwrite(VMCS_INSTRUCTION_ERROR, 1), READ_ONLY_FIELD);
}

TEST("errors", vmxon_in_root, "error-vmxon-in-root", 0)
{
    check_failed(vmxon(physical(vmcs_region(1))), VMXON_IN_ROOT);
}

extern const u8 l2_done[];

TEST("errors", launch_state, "error-launch-state", 0)
{
    vm_start(vm, l2_done, 0);
    row("VMRESUME of a clear VMCS");
    vm->launched = true;
    check_failed(vm_try_run(vm), VMRESUME_NOT_LAUNCHED);
    row("VMLAUNCH of a launched VMCS");
    vm->launched = false;
    vm_expect_done(vm);
    vm->launched = false;
    check_failed(vm_try_run(vm), VMLAUNCH_NOT_CLEAR);
    row("VMRESUME after VMCLEAR");
    vmclear(physical(vm->vmcs));
    vmptrld(physical(vm->vmcs));
    vm->launched = true;
    check_failed(vm_try_run(vm), VMRESUME_NOT_LAUNCHED);
}

/* The instruction after a MOV to SS cannot enter L2.  Neither of the two faults here. */
static enum vmx_status launch_after_mov_ss(void)
{
    u16 ss = read_ss();
    return VMX_INSTRUCTION("mov %w2, %%ss\nvmlaunch", "r"(ss));
}

TEST("errors", mov_ss, "error-blocked-by-mov-ss", 0)
{
    vm_start(vm, l2_done, 0);
    check_failed(launch_after_mov_ss(), BLOCKED_BY_MOV_SS);
}

TEST("errors", no_vmcs, "error-no-current-vmcs", 0)
{
    word value;
    u64 pointer = 0;
    vmclear(physical(vm->vmcs)); /* the current VMCS: now there is none */
    row("VMPTRST");
    check_equal("status", vmptrst(&pointer), VMX_OK);
    check_equal("pointer", pointer, ~0ull);
    row("VMREAD");
    check_failed_invalid(try_vmread(VMCS_GUEST_RIP, &value));
    row("VMWRITE");
    check_failed_invalid(try_vmwrite(VMCS_GUEST_RIP, 0));
    row("VMLAUNCH");
    check_failed_invalid(try_vmlaunch());
    row("VMRESUME");
    check_failed_invalid(try_vmresume());
    row("VMCALL");
    check_failed_invalid(try_vmcall());
    row("VMPTRLD");
    check_failed_invalid(vmptrld(physical(vm->vmxon_region)));
    row("VMCLEAR");
    check_failed_invalid(vmclear(1));
    row("VMXON");
    check_failed_invalid(vmxon(physical(vmcs_region(1))));
    row("VMREAD of an unsupported field");
    check_failed_invalid(try_vmread(VMCS_GUEST_RIP | BIT(12), &value));
}

/* ---- INVEPT and INVVPID ---- */

static const struct {
    const char *name;
    word type;
    u64 eptp_flip, reserved;
} invept_rows[] = {
    { "type 0", 0, 0, 0 },
    { "type 3", 3, 0, 0 },
    { "type 2^31", BIT(31), 0, 0 },
    { "memory type 1", INVEPT_SINGLE, TYPE_WB ^ TYPE_WC, 0 },
    { "memory type 7", INVEPT_SINGLE, TYPE_WB ^ 7, 0 },
    { "walk length 3", INVEPT_SINGLE, 1 << 3, 0 },
    { "bit 11", INVEPT_SINGLE, BIT(11), 0 },
    { "bit 63", INVEPT_SINGLE, BIT64(63), 0 },
};

TEST("errors", invept, "error-invept", TEST_EPT)
{
    for (unsigned i = 0; i < ARRAY_LEN(invept_rows); i++) {
        row(invept_rows[i].name);
        u64 eptp = physical(vm->ept.root) | EPTP_WALK_4 | TYPE_WB;
        struct invept_operand operand = { eptp ^ invept_rows[i].eptp_flip,
                                          invept_rows[i].reserved };
        if (invept_rows[i].type == INVEPT_SINGLE && !has_ept_cap(EPT_CAP_INVEPT_SINGLE))
            continue;
        check_failed(try_invept(invept_rows[i].type, operand), INVALIDATION_OPERAND);
    }
    row("A/D flags where they are not offered");
    if (!has_ept_cap(EPT_CAP_AD) && has_ept_cap(EPT_CAP_INVEPT_SINGLE)) {
        struct invept_operand operand = { vm->ept.eptp | EPTP_AD, 0 };
        check_failed(try_invept(INVEPT_SINGLE, operand), INVALIDATION_OPERAND);
    }
}

static const struct {
    const char *name;
    u8 type;
    struct invvpid_operand operand;
} invvpid_rows[] = {
    { "type 4", 4, { 1, { 0, 0, 0 }, 0 } },
    { "type 255", 255, { 1, { 0, 0, 0 }, 0 } },
    { "by address, VPID 0", 0, { 0, { 0, 0, 0 }, 0 } },
    { "one VPID, VPID 0", 1, { 0, { 0, 0, 0 }, 0 } },
    { "all but globals, VPID 0", 3, { 0, { 0, 0, 0 }, 0 } },
    { "by address, bit 16", 0, { 1, { 1, 0, 0 }, 0 } },
    { "one VPID, bit 40", 1, { 1, { 0, 0x100, 0 }, 0 } },
    { "all VPIDs, bit 63", 2, { 0, { 0, 0, 0x8000 }, 0 } },
    { "all but globals, bit 63", 3, { 1, { 0, 0, 0x8000 }, 0 } },
#ifdef __x86_64__
    { "by address, not canonical", 0, { 1, { 0, 0, 0 }, 0x8000000000000000 } },
#endif
};

TEST("errors", invvpid, "error-invvpid", 0)
{
    vm_needs(CPU2, CPU2_VPID);
    for (unsigned i = 0; i < ARRAY_LEN(invvpid_rows); i++) {
        u8 type = invvpid_rows[i].type;
        if (type < 4 && !(caps.ept_vpid & VPID_CAP_TYPE(type)))
            continue;
        row(invvpid_rows[i].name);
        check_failed(try_invvpid(type, invvpid_rows[i].operand), INVALIDATION_OPERAND);
    }
}

#ifdef __x86_64__
/* A type that is not offered fails before the descriptor is read: this one cannot be. */
TEST("errors", type_first, "error-invalidation-type-first", 0)
{
    const word nowhere = BIT64(63), type = 99;
    row("INVEPT");
    if (has_ept_cap(EPT_CAP_INVEPT))
        check_failed(VMX_INSTRUCTION("invept (%2), %3", "r"(nowhere), "r"(type)),
                     INVALIDATION_OPERAND);
    row("INVVPID");
    if (has_ept_cap(VPID_CAP_INVVPID))
        check_failed(VMX_INSTRUCTION("invvpid (%2), %3", "r"(nowhere), "r"(type)),
                     INVALIDATION_OPERAND);
}
#endif

/* ---- exceptions ---- */

/* Every VMX instruction once, with operands that would do. */
static void try_instruction(unsigned which)
{
    static const struct invept_operand ept;
    static const struct invvpid_operand vpid;
    word value;
    u64 pointer;
    switch (which) {
    case 0: vmclear(physical(vmcs_region(1))); break;
    case 1: vmptrld(physical(vmcs_region(1))); break;
    case 2: vmptrst(&pointer); break;
    case 3: try_vmread(VMCS_GUEST_RIP, &value); break;
    case 4: try_vmwrite(VMCS_GUEST_RIP, 0); break;
    case 5: try_vmlaunch(); break;
    case 6: try_vmresume(); break;
    case 7: vmxoff(); break;
    case 8: try_vmcall(); break;
    case 9: try_invept(INVEPT_ALL, ept); break;
    case 10: try_invvpid(INVVPID_ALL, vpid); break;
    }
}

static const char *const instruction_names[] = {
    "VMCLEAR",  "VMPTRLD", "VMPTRST", "VMREAD", "VMWRITE", "VMLAUNCH",
    "VMRESUME", "VMXOFF",  "VMCALL",  "INVEPT", "INVVPID",
};

TEST("errors", ud_outside, "error-ud-outside-vmx", 0)
{
    vmx_turn_off(vm);
    for (unsigned i = 0; i < ARRAY_LEN(instruction_names); i++) {
        row(instruction_names[i]);
        try_instruction(i);
        check_fault(EXC_UD, 0);
    }
    row("VMXON without CR4.VMXE");
    write_cr4(read_cr4() & ~(word)CR4_VMXE);
    vmxon(physical(vm->vmxon_region));
    check_fault(EXC_UD, 0);
    write_cr4(read_cr4() | CR4_VMXE);
}

TEST("errors", vmxon, "error-vmxon", 0)
{
    vmx_turn_off(vm);
    void *region = vm->vmxon_region;
    for (unsigned i = 0; i < ARRAY_LEN(bad_addresses); i++) {
        row(bad_addresses[i].name);
        check_failed_invalid(vmxon(bad_address(i, region)));
    }
    row("wrong revision");
    *(u32 *)region = caps.revision ^ 1;
    check_failed_invalid(vmxon(physical(region)));
    row("bit 31 of the revision");
    *(u32 *)region = caps.revision | BIT(31);
    check_failed_invalid(vmxon(physical(region)));
    *(u32 *)region = caps.revision;
    row("CR0.NE clear");
    write_cr0(read_cr0() & ~(word)CR0_NE);
    vmxon(physical(region));
    check_fault(EXC_GP, 0);
    write_cr0(read_cr0() | CR0_NE);
}

/* In VMX operation some bits of CR0 and CR4 are fixed. */
static void try_write_cr0(word value)
{
    try_begin();
    asm volatile(TRY("mov %0, %%cr0") : : "r"(value) : "memory");
}

static void try_write_cr4(word value)
{
    try_begin();
    asm volatile(TRY("mov %0, %%cr4") : : "r"(value) : "memory");
}

TEST("errors", fixed_bits, "error-fixed-bits", 0)
{
    row("CR0.NE");
    try_write_cr0(read_cr0() & ~(word)CR0_NE);
    check_fault(EXC_GP, 0);
    row("CR0.PG");
    try_write_cr0(read_cr0() & ~(word)CR0_PG);
    check_fault(EXC_GP, 0);
    row("CR4.VMXE");
    try_write_cr4(read_cr4() & ~(word)CR4_VMXE);
    check_fault(EXC_GP, 0);
}

/* In ring 3, every VMX instruction but VMFUNC is refused; AX points to an operand. */
#define USER_CODE(id, instruction)                                                                 \
    asm(".pushsection .text\n" #id ":\n" TRY(instruction) "\t" LEAVE_USER "\n.popsection\n");      \
    extern const u8 id[]

#ifdef __x86_64__
#define AX_ "%rax"
#else
#define AX_ "%eax"
#endif

USER_CODE(user_vmxon, "vmxon (" AX_ ")");
USER_CODE(user_vmclear, "vmclear (" AX_ ")");
USER_CODE(user_vmptrld, "vmptrld (" AX_ ")");
USER_CODE(user_vmptrst, "vmptrst (" AX_ ")");
USER_CODE(user_vmread, "vmread " AX_ ", " AX_);
USER_CODE(user_vmwrite, "vmwrite " AX_ ", " AX_);
USER_CODE(user_vmlaunch, "vmlaunch");
USER_CODE(user_vmresume, "vmresume");
USER_CODE(user_vmxoff, "vmxoff");
USER_CODE(user_vmcall, "vmcall");
USER_CODE(user_invept, "invept (" AX_ "), " AX_);
USER_CODE(user_invvpid, "invvpid (" AX_ "), " AX_);

static const struct {
    const char *name;
    const u8 *code;
} user_rows[] = {
    { "VMXON", user_vmxon },       { "VMCLEAR", user_vmclear },   { "VMPTRLD", user_vmptrld },
    { "VMPTRST", user_vmptrst },   { "VMREAD", user_vmread },     { "VMWRITE", user_vmwrite },
    { "VMLAUNCH", user_vmlaunch }, { "VMRESUME", user_vmresume }, { "VMXOFF", user_vmxoff },
    { "VMCALL", user_vmcall },     { "INVEPT", user_invept },     { "INVVPID", user_invvpid },
};

TEST("errors", user, "error-gp-in-user-mode", TEST_EPT)
{
    vm_needs(CPU2, CPU2_VPID);
    static const u64 operand[2];
    for (unsigned i = 0; i < ARRAY_LEN(user_rows); i++) {
        row(user_rows[i].name);
        try_begin();
        user_call(user_rows[i].code, (word)operand);
        check_fault(EXC_GP, 0);
    }
}

#ifdef __x86_64__
/* In compatibility mode they are undefined.  A far return leads there, a far jump back; the code
   finds an operand's address in EAX. */
#define COMPATIBILITY_CODE(id, instruction)                                                        \
    asm(".pushsection .text\n\t.code32\n" #id                                                      \
        ":\n" TRY(instruction) "\tljmp $0x08, $from_compatibility\n\t.code64\n.popsection\n");     \
    extern const u8 id[]

COMPATIBILITY_CODE(compatibility_vmread, "vmread %eax, %ecx");
COMPATIBILITY_CODE(compatibility_vmptrst, "vmptrst (%eax)");
COMPATIBILITY_CODE(compatibility_vmcall, "vmcall");
COMPATIBILITY_CODE(compatibility_vmxoff, "vmxoff");
COMPATIBILITY_CODE(compatibility_invept, "invept (%eax), %ecx");

/* void call_compatibility(const u8 *code, void *operand): 40h is SEL_CODE32 */
void call_compatibility(const u8 *code, void *operand);
asm(".pushsection .text\n"
    "call_compatibility:\n"
    "\tmov %rsi, %rax\n"
    "\tpush $0x40\n"
    "\tpush %rdi\n"
    "\tlretq\n"
    "from_compatibility:\n"
    "\tret\n"
    ".popsection\n");

TEST("errors", compatibility, "error-ud-in-compatibility-mode", 0)
{
    static const struct {
        const char *name;
        const u8 *code;
    } rows[] = {
        { "VMREAD", compatibility_vmread }, { "VMPTRST", compatibility_vmptrst },
        { "VMCALL", compatibility_vmcall }, { "VMXOFF", compatibility_vmxoff },
        { "INVEPT", compatibility_invept },
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].code == compatibility_invept && !may_set(CPU2, CPU2_EPT))
            continue;
        row(rows[i].name);
        try_begin();
        call_compatibility(rows[i].code, vm->shared);
        check_fault(EXC_UD, 0);
    }
}
#endif
