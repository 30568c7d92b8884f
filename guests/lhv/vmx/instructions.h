/*
 * The VMX instructions (SDM 3C, "VMX instruction reference").  Each tells how it ended: it
 * succeeded, failed without a current VMCS (CF), failed with one (ZF; the error number is in the
 * VMCS), or faulted.
 */
#pragma once
#include "vmx/fields.h"
#include "x86/try.h"

enum vmx_status { VMX_OK, VMX_FAIL_INVALID, VMX_FAIL_VALID, VMX_FAULT };

#define VMX_INSTRUCTION(text, ...)                                                                 \
    ({                                                                                             \
        bool cf_ = false, zf_ = false;                                                             \
        try_begin();                                                                               \
        asm volatile("test %%al, %%al\n" /* CF = 0; */                                             \
                     "or $1, %%al\n"     /* and ZF = 0, also if the next one faults */             \
                     TRY(text)                                                                     \
                     : "=@ccc"(cf_), "=@ccz"(zf_)                                                  \
                     : __VA_ARGS__                                                                 \
                     : "memory", "eax");                                                           \
        try_result().happened ? VMX_FAULT                                                          \
        : cf_                 ? VMX_FAIL_INVALID                                                   \
        : zf_                 ? VMX_FAIL_VALID                                                     \
                              : VMX_OK;                                                                            \
    })

static inline enum vmx_status vmxon(u64 region) { return VMX_INSTRUCTION("vmxon %2", "m"(region)); }
static inline enum vmx_status vmxoff(void) { return VMX_INSTRUCTION("vmxoff", "i"(0)); }
static inline enum vmx_status vmclear(u64 vmcs) { return VMX_INSTRUCTION("vmclear %2", "m"(vmcs)); }
static inline enum vmx_status vmptrld(u64 vmcs) { return VMX_INSTRUCTION("vmptrld %2", "m"(vmcs)); }
static inline enum vmx_status vmptrst(u64 *vmcs)
{
    return VMX_INSTRUCTION("vmptrst %2", "m"(*vmcs));
}

/* These two only for entries that must fail: the way back from a guest is in vmx/enter.S. */
static inline enum vmx_status try_vmlaunch(void) { return VMX_INSTRUCTION("vmlaunch", "i"(0)); }
static inline enum vmx_status try_vmresume(void) { return VMX_INSTRUCTION("vmresume", "i"(0)); }
static inline enum vmx_status try_vmcall(void) { return VMX_INSTRUCTION("vmcall", "i"(0)); }

/* One VMREAD or VMWRITE: of 64-bit fields, 32-bit code reaches one half at a time. */
static inline enum vmx_status try_vmread(word encoding, word *value)
{
    return VMX_INSTRUCTION("vmread %3, %2", "m"(*value), "r"(encoding));
}

static inline enum vmx_status try_vmwrite(word encoding, word value)
{
    return VMX_INSTRUCTION("vmwrite %2, %3", "rm"(value), "r"(encoding));
}

struct invept_operand {
    u64 eptp, reserved;
};

struct invvpid_operand {
    u16 vpid, reserved[3];
    u64 linear;
};

enum { INVEPT_SINGLE = 1, INVEPT_ALL = 2 };
enum { INVVPID_ADDRESS = 0, INVVPID_SINGLE = 1, INVVPID_ALL = 2, INVVPID_KEEP_GLOBALS = 3 };

static inline enum vmx_status try_invept(word type, struct invept_operand operand)
{
    return VMX_INSTRUCTION("invept %2, %3", "m"(operand), "r"(type));
}

static inline enum vmx_status try_invvpid(word type, struct invvpid_operand operand)
{
    return VMX_INSTRUCTION("invvpid %2, %3", "m"(operand), "r"(type));
}

/* Whole fields, of any width.  A failure of these is a broken set-up and gives up the test. */
u64 vmread(u32 encoding);
void vmwrite(u32 encoding, u64 value);
