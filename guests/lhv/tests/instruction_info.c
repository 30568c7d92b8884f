/*
 * The VM-exit instruction-information field (SDM 3C, "Information for VM exits due to instruction
 * execution"): which operand the instruction had, so that L1 need not decode it.
 */
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "x86/instructions.h"

enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };
enum { REG_AX, REG_CX, REG_DX, REG_BX, REG_SP, REG_BP, REG_SI, REG_DI };

/* The parts of the field */
#define SCALE(log2) (log2)
#define REG1(r) ((r) << 3)
#define ADDRESS_SIZE ((IS_64BIT ? 2 : 1) << 7)
#define IN_REGISTER BIT(10)
#define SEGMENT(s) ((s) << 15)
#define INDEX(r) ((r) << 18)
#define NO_INDEX BIT(22)
#define BASE(r) ((r) << 23)
#define NO_BASE BIT(27)
#define REG2(r) ((u32)(r) << 28)
#define WHICH(n) ((n) << 28) /* of four instructions that share an exit reason */

/* The parts that say something: of a memory operand with and without index, of a register, and
   REG2 or WHICH in addition */
#define MEMORY_PARTS (7u << 7 | IN_REGISTER | 7u << 15 | NO_INDEX | 15u << 23 | NO_BASE)
#define INDEXED_PARTS (MEMORY_PARTS | 3u | 15u << 18)
#define NO_BASE_PARTS (INDEXED_PARTS & ~(15u << 23))
#define REGISTER_PARTS (15u << 3 | IN_REGISTER)
#define REG2_PART (15u << 28)
#define WHICH_PART (3u << 28)

L2_CODE(l2_vmread_mem, "", "vmread " CX ", 24(" AX ")");
L2_CODE(l2_vmread_reg, "", "vmread " CX ", " DX);
L2_CODE(l2_vmwrite_reg, "", "vmwrite " SI ", " BX);
L2_CODE(l2_vmptrld, "", "vmptrld %fs:8(" AX ", " CX ", 4)");
L2_CODE(l2_vmptrst, "", "vmptrst (" SP ")");
L2_CODE(l2_vmclear, "", "vmclear 0x123456(, " DX ", 8)");
L2_CODE(l2_vmxon, "", "vmxon %es:(" DI ")");
L2_CODE(l2_invept, "", "invept (" AX "), " CX);
L2_CODE(l2_invvpid, "", "invvpid (" BX ", " SI "), " DX);
L2_CODE(l2_sgdt, "", "sgdt (" AX ")");
L2_CODE(l2_sidt, "", "sidt 0x10(" AX ", " AX ", 2)");
L2_CODE(l2_lgdt, "", "lgdt (" AX ")");
L2_CODE(l2_lidt, "", "lidt (" AX ")");
L2_CODE(l2_sldt, "", "sldt %ecx");
L2_CODE(l2_str, "", "str (" AX ")");
L2_CODE(l2_lldt, "", "lldt %dx");
L2_CODE(l2_ltr, "", "ltr %bx");
#ifdef __x86_64__
L2_CODE(l2_vmread_high, "", "vmread %r9, %r10");
L2_CODE(l2_vmread_indexed, "", "vmread %r15, (%r12, %r13, 2)");
#endif

static const struct {
    const char *name;
    const struct code *code;
    u32 reason, mask, info;
} rows[] = {
    { "VMREAD to memory", &l2_vmread_mem, REASON_VMREAD, MEMORY_PARTS | REG2_PART,
      ADDRESS_SIZE | SEGMENT(SEG_DS) | NO_INDEX | BASE(REG_AX) | REG2(REG_CX) },
    { "VMREAD to a register", &l2_vmread_reg, REASON_VMREAD, REGISTER_PARTS | REG2_PART,
      REG1(REG_DX) | IN_REGISTER | REG2(REG_CX) },
    { "VMWRITE from a register", &l2_vmwrite_reg, REASON_VMWRITE, REGISTER_PARTS | REG2_PART,
      REG1(REG_SI) | IN_REGISTER | REG2(REG_BX) },
    { "VMPTRLD, everything", &l2_vmptrld, REASON_VMPTRLD, INDEXED_PARTS,
      SCALE(2) | ADDRESS_SIZE | SEGMENT(SEG_FS) | INDEX(REG_CX) | BASE(REG_AX) },
    { "VMPTRST to the stack", &l2_vmptrst, REASON_VMPTRST, MEMORY_PARTS,
      ADDRESS_SIZE | SEGMENT(SEG_SS) | NO_INDEX | BASE(REG_SP) },
    { "VMCLEAR, index without base", &l2_vmclear, REASON_VMCLEAR, NO_BASE_PARTS,
      SCALE(3) | ADDRESS_SIZE | SEGMENT(SEG_DS) | INDEX(REG_DX) | NO_BASE },
    { "INVEPT", &l2_invept, REASON_INVEPT, MEMORY_PARTS | REG2_PART,
      ADDRESS_SIZE | SEGMENT(SEG_DS) | NO_INDEX | BASE(REG_AX) | REG2(REG_CX) },
    { "INVVPID, index", &l2_invvpid, REASON_INVVPID, INDEXED_PARTS | REG2_PART,
      SCALE(0) | ADDRESS_SIZE | SEGMENT(SEG_DS) | INDEX(REG_SI) | BASE(REG_BX) | REG2(REG_DX) },
    { "SGDT", &l2_sgdt, REASON_GDTR_IDTR, MEMORY_PARTS | WHICH_PART,
      ADDRESS_SIZE | SEGMENT(SEG_DS) | NO_INDEX | BASE(REG_AX) | WHICH(0) },
    { "SIDT, index", &l2_sidt, REASON_GDTR_IDTR, INDEXED_PARTS | WHICH_PART,
      SCALE(1) | ADDRESS_SIZE | SEGMENT(SEG_DS) | INDEX(REG_AX) | BASE(REG_AX) | WHICH(1) },
    { "LGDT", &l2_lgdt, REASON_GDTR_IDTR, MEMORY_PARTS | WHICH_PART,
      ADDRESS_SIZE | SEGMENT(SEG_DS) | NO_INDEX | BASE(REG_AX) | WHICH(2) },
    { "LIDT", &l2_lidt, REASON_GDTR_IDTR, MEMORY_PARTS | WHICH_PART,
      ADDRESS_SIZE | SEGMENT(SEG_DS) | NO_INDEX | BASE(REG_AX) | WHICH(3) },
    { "SLDT to a register", &l2_sldt, REASON_LDTR_TR, REGISTER_PARTS | WHICH_PART,
      REG1(REG_CX) | IN_REGISTER | WHICH(0) },
    { "STR to memory", &l2_str, REASON_LDTR_TR, MEMORY_PARTS | WHICH_PART,
      ADDRESS_SIZE | SEGMENT(SEG_DS) | NO_INDEX | BASE(REG_AX) | WHICH(1) },
    { "LLDT from a register", &l2_lldt, REASON_LDTR_TR, REGISTER_PARTS | WHICH_PART,
      REG1(REG_DX) | IN_REGISTER | WHICH(2) },
    { "LTR from a register", &l2_ltr, REASON_LDTR_TR, REGISTER_PARTS | WHICH_PART,
      REG1(REG_BX) | IN_REGISTER | WHICH(3) },
#ifdef __x86_64__
    { "VMREAD, R9 and R10", &l2_vmread_high, REASON_VMREAD, REGISTER_PARTS | REG2_PART,
      REG1(10) | IN_REGISTER | REG2(9) },
    { "VMREAD, R12, R13, R15", &l2_vmread_indexed, REASON_VMREAD, INDEXED_PARTS | REG2_PART,
      SCALE(1) | ADDRESS_SIZE | SEGMENT(SEG_DS) | INDEX(13) | BASE(12) | REG2(15) },
#else
    { "VMXON from ES", &l2_vmxon, REASON_VMXON, MEMORY_PARTS,
      ADDRESS_SIZE | SEGMENT(SEG_ES) | NO_INDEX | BASE(REG_DI) },
#endif
};

static bool offered(u32 reason)
{
    if (reason == REASON_INVEPT)
        return may_set(CPU2, CPU2_EPT);
    if (reason == REASON_INVVPID)
        return may_set(CPU2, CPU2_VPID);
    if (reason == REASON_GDTR_IDTR || reason == REASON_LDTR_TR)
        return may_set(CPU2, CPU2_DESCRIPTOR_EXITING);
    return true;
}

TEST("intercepts", instruction_info, "instruction-information", 0)
{
    bool descriptors = may_set(CPU2, CPU2_DESCRIPTOR_EXITING);
    vm_control(vm, CPU2, descriptors ? CPU2_DESCRIPTOR_EXITING : 0, 0);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        if (!offered(rows[i].reason))
            continue;
        row(rows[i].name);
        vm_start(vm, rows[i].code->start, 0);
        vm->regs.ax = vm->regs.bx = vm->regs.di = (word)vm->shared;
        vm->regs.cx = vm->regs.dx = vm->regs.si = 0;
        vm_expect(vm, rows[i].reason);
        check_equal("instruction information", vmread(VMCS_INSTRUCTION_INFO) & rows[i].mask,
                    rows[i].info);
    }
}

/* RDRAND and RDSEED: the destination, and the size of the operand in bits 12:11 */
L2_CODE(l2_rdrand16, "", "rdrand %dx");
L2_CODE(l2_rdrand32, "", "rdrand %esi");
#ifdef __x86_64__
L2_CODE(l2_rdrand64, "", "rdrand %r11");
#endif

TEST("intercepts", rdrand_info, "instruction-information-rdrand", 0)
{
    static const struct {
        const struct code *code;
        u32 info;
    } rdrand_rows[] = {
        { &l2_rdrand16, REG1(REG_DX) | 0 << 11 },
        { &l2_rdrand32, REG1(REG_SI) | 1 << 11 },
#ifdef __x86_64__
        { &l2_rdrand64, REG1(11) | 2 << 11 },
#endif
    };
    vm_needs(CPU2, CPU2_RDRAND_EXITING);
    if (!(cpuid(1, 0).ecx & BIT(30)))
        skip("no such instruction");
    vm_control(vm, CPU2, CPU2_RDRAND_EXITING, 0);
    for (unsigned i = 0; i < ARRAY_LEN(rdrand_rows); i++) {
        vm_start(vm, rdrand_rows[i].code->start, 0);
        vm_expect(vm, REASON_RDRAND);
        check_equal("instruction information",
                    vmread(VMCS_INSTRUCTION_INFO) & (15u << 3 | 3u << 11), rdrand_rows[i].info);
    }
}
