/* 32-bit code under a 64-bit kernel: L2 in compatibility mode registers and calls a 32-bit PAL. */
#include "lib/string.h"
#include "session.h"
#include "test/test.h"
#include "vmx/controls.h"
#include "vmx/instructions.h"
#include "x86/cpu.h"

#ifdef __x86_64__

extern const u8 pal32[], pal32_end[], visitor32[];

/* The PAL: its first parameter and twice its second.  The visitor: EBX points to a struct visit32. */
asm(".pushsection .text\n"
    ".code32\n"
    "pal32: mov 4(%esp), %eax; add 8(%esp), %eax; add 8(%esp), %eax; ret\n"
    "pal32_end:\n"
    "visitor32: mov %ebx, %esi\n"
    "mov (%esi), %ebx; mov $0x54560001, %eax; vmcall\n" /* register */
    "mov %eax, 8(%esi); mov %edx, %edi\n"
    "push $5; push $30; mov 4(%esi), %eax; call *%eax\n"
    "setc 16(%esi); mov %eax, 12(%esi); add $8, %esp\n"
    "mov %edi, %ebx; mov $0x54560002, %eax; vmcall\n" /* unregister */
    "mov %eax, 20(%esi)\n"
    "mov $0xd07e, %eax; vmcall\n"
    ".code64\n"
    ".popsection\n");

struct visit32 {
    u32 descriptor, entry, registered, result, carry, unregistered;
};

static struct visit32 visits[MAX_CPUS];

TEST("pal", compatibility, "pal-compatibility-mode-l2", TEST_EPT)
{
    struct visit32 *visit = &visits[this_cpu()->index];
    static struct pal pals[MAX_CPUS];
    struct pal *pal = &pals[this_cpu()->index];
    tv_begin();
    pal_prepare(pal, 0);
    memcpy(pal->base, pal32, (word)(pal32_end - pal32));
    pal->descriptor.parameters = 2;
    memset(visit, 0, sizeof *visit);
    visit->descriptor = (u32)(word)&pal->descriptor;
    visit->entry = (u32)pal_entry(pal);
    l2_user_begin(vm, NULL, NULL);
    vm_set_segment(CS, SEL_USER_CODE32 | 3, 0, 0xffffffff,
                   AR_CODE | AR_DPL3 | AR_32BIT | AR_PAGES);
    vmwrite(VMCS_GUEST_RIP, (word)visitor32);
    vm->regs.bx = (word)visit;
    vm_expect_done(vm);
    check_equal("status of registration", visit->registered, TV_SUCCESS);
    check_equal("result", visit->result, 40);
    check_equal("carry flag", visit->carry, 0);
    check_equal("status of unregistration", visit->unregistered, TV_SUCCESS);
}
#endif
