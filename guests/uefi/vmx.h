// VMX as the application uses it: one guest, which runs with the tables of its host.
#ifndef VMX_H
#define VMX_H

#include "efi.h"

#define VMCS_INSTRUCTION_ERROR 0x4400
#define EXIT_CPUID 10
#define EXIT_VMCALL 18

struct vmx_exit {
    int failed; // VMLAUNCH or VMRESUME failed: there was no guest
    u64 reason;
};

struct vmx_registers {
    u64 rax, rbx, rcx, rdx;
};

extern struct vmx_registers vmx_guest;

int vmx_is_offered(void);
u64 vmx_enter(void);   // VMXON; 0: done
u64 vmx_prepare(void); // the VMCS of the guest; 0: done
struct vmx_exit vmx_run(void);
void vmx_skip(void); // the guest goes on behind the instruction that caused the exit
u64 vmx_read(u64 field);
void vmx_leave(void);

#endif
