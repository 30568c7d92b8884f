/* L2 in real mode, which takes "unrestricted guest". */
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/modes.h"
#include "vmx/pages.h"
#include "x86/bits.h"

/* CS is 0700h, the data segments 0800h: a sum through memory, and a far jump to 0700h. */
L2_CODE16(l2_real,
          "movw $0x1200, 0x10; addw $0x34, 0x10; mov 0x10, %bx\n"
          "ljmpw $0x700, $(1f - l2_real_start)\n"
          "1: mov %cs, %si; pushw $0x77; popw %di",
          "cpuid");

TEST("modes", real, "unrestricted-real-mode", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_real);
    vm_expect(vm, REASON_CPUID);
    check_equal("sum", (u16)vm->regs.bx, 0x1234);
    check_equal("in memory", *(u16 *)(real_data(vm) + 0x10), 0x1234);
    check_equal("CS", (u16)vm->regs.si, REAL_CODE >> 4);
    check_equal("stack", (u16)vm->regs.di, 0x77);
    check_equal("IP", vm->ip, (word)(l2_real.at - l2_real.start));
    check_equal("length", vmread(VMCS_EXIT_LENGTH), 2);
    check_equal("CS base", vmread(VMCS_GUEST_CS_BASE), REAL_CODE);
}

/* Segment loads in real mode: base = selector * 16, the limit stays. */
L2_CODE16(l2_real_segments, "mov $0x123, %ax; mov %ax, %es", "cpuid");

TEST("modes", real_segments, "unrestricted-real-segments", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_real_segments);
    vm_expect(vm, REASON_CPUID);
    check_equal("ES", vmread(VMCS_GUEST_ES), 0x123);
    check_equal("ES base", vmread(VMCS_GUEST_ES_BASE), 0x1230);
    check_equal("ES limit", vmread(VMCS_GUEST_ES_LIMIT), 0xffff);
}

/* INT n through the interrupt table at 0, in a page that is missing at first. */
L2_CODE16(l2_real_int,
          "int $0x21; jmp 2f\n"
          "1: mov $0x4321, %bx; iretw\n"
          "2:",
          "cpuid");

TEST("modes", real_int, "unrestricted-real-interrupt", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_real_int);
    vmwrite(VMCS_GUEST_IDTR_BASE, 0);
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x3ff);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("guest-physical address", vmread(VMCS_GUEST_PHYSICAL), 0x21 * 4);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING), EVENT_VALID | EVENT_SOFTWARE | 0x21);
    u16 *table = page_alloc();
    table[0x21 * 2] = 4; /* behind INT and JMP */
    table[0x21 * 2 + 1] = REAL_CODE >> 4;
    ept_map(&vm->ept, 0, physical(table), 1, EPT_RWX | EPT_WB);
    vmwrite(VMCS_ENTRY_EVENT, vmread(VMCS_IDT_VECTORING));
    vmwrite(VMCS_ENTRY_LENGTH, vmread(VMCS_EXIT_LENGTH));
    vm_expect(vm, REASON_CPUID);
    check_equal("the handler ran", (u16)vm->regs.bx, 0x4321);
}

/* An injected interrupt goes through the same table. */
L2_CODE16(l2_real_nop, "nop", "cpuid; iretw");

TEST("modes", real_inject, "unrestricted-real-injection", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_real_nop);
    u16 *table = page_alloc();
    table[0x30 * 2] = (u16)(l2_real_nop.at - l2_real_nop.start);
    table[0x30 * 2 + 1] = REAL_CODE >> 4;
    ept_map(&vm->ept, 0, physical(table), 1, EPT_RWX | EPT_WB);
    vmwrite(VMCS_GUEST_IDTR_BASE, 0);
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x3ff);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_EXTERNAL | 0x30);
    vm_expect(vm, REASON_CPUID);
    check_equal("pushed IP", *(u16 *)(real_data(vm) + PAGE_SIZE - 6), 0);
    check_equal("pushed CS", *(u16 *)(real_data(vm) + PAGE_SIZE - 4), REAL_CODE >> 4);
    check_equal("IF", vmread(VMCS_GUEST_RFLAGS) & RFLAGS_IF, 0);
}

/* From real to protected mode, by L2 itself: LGDT, CR0.PE, a far jump. */
L2_CODE16(l2_to_protected,
          "lgdtl 0x20; mov %cr0, %eax; or $1, %eax; mov %eax, %cr0\n"
          "ljmpl $0x08, $(0x7000 + 1f - l2_to_protected_start)\n"
          ".code32\n"
          "1: mov $0x10, %eax; mov %eax, %ds; mov $0x8040, %ebx; mov (%ebx), %esi",
          "cpuid");

TEST("modes", to_protected, "unrestricted-real-to-protected", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_to_protected);
    u8 *data = real_data(vm);
    u64 *gdt = (u64 *)(data + 0x100);
    gdt[1] = 0x00cf9b000000ffff;
    gdt[2] = 0x00cf93000000ffff;
    *(u16 *)(data + 0x20) = 3 * 8 - 1;
    *(u32 *)(data + 0x22) = REAL_DATA + 0x100;
    *(u32 *)(data + 0x40) = 0x12345678;
    vm_expect(vm, REASON_CPUID);
    check_equal("CR0.PE", vmread(VMCS_GUEST_CR0) & (CR0_PE | CR0_PG), CR0_PE);
    check_equal("CS", vmread(VMCS_GUEST_CS), 8);
    check_equal("CS limit", vmread(VMCS_GUEST_CS_LIMIT), 0xffffffff);
    check_equal("read through DS", (u32)vm->regs.si, 0x12345678);
}
