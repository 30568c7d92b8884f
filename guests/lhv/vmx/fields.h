/*
 * The VMCS as one table (SDM 3D, "Field encoding in VMCS").
 *
 * FIELD(name, encoding, word, bit): the field exists where `bit` of the control word `word` may be
 * set; word ALWAYS: on every processor.  An encoding tells width and kind by itself: bits 14:13 are
 * the width (16, 64, 32, natural), bits 11:10 the kind (control, read-only data, guest, host).
 */
#pragma once
#include "vmx/controls.h"

#define ALWAYS CONTROL_WORDS

#define FOR_EACH_FIELD(FIELD)                                                                      \
    FIELD(VPID, 0x0000, CPU2, CPU2_VPID)                                                           \
    FIELD(POSTED_INTERRUPT_VECTOR, 0x0002, PIN, PIN_POSTED_INTERRUPTS)                             \
    FIELD(EPTP_INDEX, 0x0004, CPU2, CPU2_VE)                                                       \
    FIELD(GUEST_ES, 0x0800, ALWAYS, 0)                                                             \
    FIELD(GUEST_CS, 0x0802, ALWAYS, 0)                                                             \
    FIELD(GUEST_SS, 0x0804, ALWAYS, 0)                                                             \
    FIELD(GUEST_DS, 0x0806, ALWAYS, 0)                                                             \
    FIELD(GUEST_FS, 0x0808, ALWAYS, 0)                                                             \
    FIELD(GUEST_GS, 0x080a, ALWAYS, 0)                                                             \
    FIELD(GUEST_LDTR, 0x080c, ALWAYS, 0)                                                           \
    FIELD(GUEST_TR, 0x080e, ALWAYS, 0)                                                             \
    FIELD(GUEST_INTERRUPT_STATUS, 0x0810, CPU2, CPU2_VIRTUAL_INTERRUPTS)                           \
    FIELD(PML_INDEX, 0x0812, CPU2, CPU2_PML)                                                       \
    FIELD(HOST_ES, 0x0c00, ALWAYS, 0)                                                              \
    FIELD(HOST_CS, 0x0c02, ALWAYS, 0)                                                              \
    FIELD(HOST_SS, 0x0c04, ALWAYS, 0)                                                              \
    FIELD(HOST_DS, 0x0c06, ALWAYS, 0)                                                              \
    FIELD(HOST_FS, 0x0c08, ALWAYS, 0)                                                              \
    FIELD(HOST_GS, 0x0c0a, ALWAYS, 0)                                                              \
    FIELD(HOST_TR, 0x0c0c, ALWAYS, 0)                                                              \
    FIELD(IO_BITMAP_A, 0x2000, ALWAYS, 0)                                                          \
    FIELD(IO_BITMAP_B, 0x2002, ALWAYS, 0)                                                          \
    FIELD(MSR_BITMAP, 0x2004, CPU, CPU_MSR_BITMAPS)                                                \
    FIELD(EXIT_MSR_STORE, 0x2006, ALWAYS, 0)                                                       \
    FIELD(EXIT_MSR_LOAD, 0x2008, ALWAYS, 0)                                                        \
    FIELD(ENTRY_MSR_LOAD, 0x200a, ALWAYS, 0)                                                       \
    FIELD(EXECUTIVE_VMCS, 0x200c, ALWAYS, 0)                                                       \
    FIELD(PML_ADDRESS, 0x200e, CPU2, CPU2_PML)                                                     \
    FIELD(TSC_OFFSET, 0x2010, ALWAYS, 0)                                                           \
    FIELD(VIRTUAL_APIC, 0x2012, CPU, CPU_TPR_SHADOW)                                               \
    FIELD(APIC_ACCESS, 0x2014, CPU2, CPU2_APIC_ACCESSES)                                           \
    FIELD(POSTED_INTERRUPT_DESCRIPTOR, 0x2016, PIN, PIN_POSTED_INTERRUPTS)                         \
    FIELD(VMFUNC_CONTROLS, 0x2018, CPU2, CPU2_VMFUNC)                                              \
    FIELD(EPT_POINTER, 0x201a, CPU2, CPU2_EPT)                                                     \
    FIELD(EOI_EXIT_0, 0x201c, CPU2, CPU2_VIRTUAL_INTERRUPTS)                                       \
    FIELD(EOI_EXIT_1, 0x201e, CPU2, CPU2_VIRTUAL_INTERRUPTS)                                       \
    FIELD(EOI_EXIT_2, 0x2020, CPU2, CPU2_VIRTUAL_INTERRUPTS)                                       \
    FIELD(EOI_EXIT_3, 0x2022, CPU2, CPU2_VIRTUAL_INTERRUPTS)                                       \
    FIELD(EPTP_LIST, 0x2024, CPU2, CPU2_VMFUNC)                                                    \
    FIELD(VMREAD_BITMAP, 0x2026, CPU2, CPU2_VMCS_SHADOWING)                                        \
    FIELD(VMWRITE_BITMAP, 0x2028, CPU2, CPU2_VMCS_SHADOWING)                                       \
    FIELD(VE_INFORMATION, 0x202a, CPU2, CPU2_VE)                                                   \
    FIELD(XSS_EXITING, 0x202c, CPU2, CPU2_XSAVES)                                                  \
    FIELD(TSC_MULTIPLIER, 0x2032, CPU2, CPU2_TSC_SCALING)                                          \
    FIELD(GUEST_PHYSICAL, 0x2400, CPU2, CPU2_EPT)                                                  \
    FIELD(VMCS_LINK, 0x2800, ALWAYS, 0)                                                            \
    FIELD(GUEST_DEBUGCTL, 0x2802, ALWAYS, 0)                                                       \
    FIELD(GUEST_PAT, 0x2804, ENTRY, ENTRY_LOAD_PAT)                                                \
    FIELD(GUEST_EFER, 0x2806, ENTRY, ENTRY_LOAD_EFER)                                              \
    FIELD(GUEST_PERF_GLOBAL_CTRL, 0x2808, ENTRY, ENTRY_LOAD_PERF)                                  \
    FIELD(GUEST_PDPTE0, 0x280a, CPU2, CPU2_EPT)                                                    \
    FIELD(GUEST_PDPTE1, 0x280c, CPU2, CPU2_EPT)                                                    \
    FIELD(GUEST_PDPTE2, 0x280e, CPU2, CPU2_EPT)                                                    \
    FIELD(GUEST_PDPTE3, 0x2810, CPU2, CPU2_EPT)                                                    \
    FIELD(HOST_PAT, 0x2c00, EXIT, EXIT_LOAD_PAT)                                                   \
    FIELD(HOST_EFER, 0x2c02, EXIT, EXIT_LOAD_EFER)                                                 \
    FIELD(HOST_PERF_GLOBAL_CTRL, 0x2c04, EXIT, EXIT_LOAD_PERF)                                     \
    FIELD(PIN_CONTROLS, 0x4000, ALWAYS, 0)                                                         \
    FIELD(CPU_CONTROLS, 0x4002, ALWAYS, 0)                                                         \
    FIELD(EXCEPTION_BITMAP, 0x4004, ALWAYS, 0)                                                     \
    FIELD(PF_ERROR_MASK, 0x4006, ALWAYS, 0)                                                        \
    FIELD(PF_ERROR_MATCH, 0x4008, ALWAYS, 0)                                                       \
    FIELD(CR3_TARGET_COUNT, 0x400a, ALWAYS, 0)                                                     \
    FIELD(EXIT_CONTROLS, 0x400c, ALWAYS, 0)                                                        \
    FIELD(EXIT_MSR_STORE_COUNT, 0x400e, ALWAYS, 0)                                                 \
    FIELD(EXIT_MSR_LOAD_COUNT, 0x4010, ALWAYS, 0)                                                  \
    FIELD(ENTRY_CONTROLS, 0x4012, ALWAYS, 0)                                                       \
    FIELD(ENTRY_MSR_LOAD_COUNT, 0x4014, ALWAYS, 0)                                                 \
    FIELD(ENTRY_EVENT, 0x4016, ALWAYS, 0)                                                          \
    FIELD(ENTRY_EVENT_ERROR, 0x4018, ALWAYS, 0)                                                    \
    FIELD(ENTRY_LENGTH, 0x401a, ALWAYS, 0)                                                         \
    FIELD(TPR_THRESHOLD, 0x401c, CPU, CPU_TPR_SHADOW)                                              \
    FIELD(CPU2_CONTROLS, 0x401e, CPU, CPU_SECONDARY)                                               \
    FIELD(PLE_GAP, 0x4020, CPU2, CPU2_PAUSE_LOOP)                                                  \
    FIELD(PLE_WINDOW, 0x4022, CPU2, CPU2_PAUSE_LOOP)                                               \
    FIELD(INSTRUCTION_ERROR, 0x4400, ALWAYS, 0)                                                    \
    FIELD(EXIT_REASON, 0x4402, ALWAYS, 0)                                                          \
    FIELD(EXIT_EVENT, 0x4404, ALWAYS, 0)                                                           \
    FIELD(EXIT_EVENT_ERROR, 0x4406, ALWAYS, 0)                                                     \
    FIELD(IDT_VECTORING, 0x4408, ALWAYS, 0)                                                        \
    FIELD(IDT_VECTORING_ERROR, 0x440a, ALWAYS, 0)                                                  \
    FIELD(EXIT_LENGTH, 0x440c, ALWAYS, 0)                                                          \
    FIELD(INSTRUCTION_INFO, 0x440e, ALWAYS, 0)                                                     \
    FIELD(GUEST_ES_LIMIT, 0x4800, ALWAYS, 0)                                                       \
    FIELD(GUEST_CS_LIMIT, 0x4802, ALWAYS, 0)                                                       \
    FIELD(GUEST_SS_LIMIT, 0x4804, ALWAYS, 0)                                                       \
    FIELD(GUEST_DS_LIMIT, 0x4806, ALWAYS, 0)                                                       \
    FIELD(GUEST_FS_LIMIT, 0x4808, ALWAYS, 0)                                                       \
    FIELD(GUEST_GS_LIMIT, 0x480a, ALWAYS, 0)                                                       \
    FIELD(GUEST_LDTR_LIMIT, 0x480c, ALWAYS, 0)                                                     \
    FIELD(GUEST_TR_LIMIT, 0x480e, ALWAYS, 0)                                                       \
    FIELD(GUEST_GDTR_LIMIT, 0x4810, ALWAYS, 0)                                                     \
    FIELD(GUEST_IDTR_LIMIT, 0x4812, ALWAYS, 0)                                                     \
    FIELD(GUEST_ES_AR, 0x4814, ALWAYS, 0)                                                          \
    FIELD(GUEST_CS_AR, 0x4816, ALWAYS, 0)                                                          \
    FIELD(GUEST_SS_AR, 0x4818, ALWAYS, 0)                                                          \
    FIELD(GUEST_DS_AR, 0x481a, ALWAYS, 0)                                                          \
    FIELD(GUEST_FS_AR, 0x481c, ALWAYS, 0)                                                          \
    FIELD(GUEST_GS_AR, 0x481e, ALWAYS, 0)                                                          \
    FIELD(GUEST_LDTR_AR, 0x4820, ALWAYS, 0)                                                        \
    FIELD(GUEST_TR_AR, 0x4822, ALWAYS, 0)                                                          \
    FIELD(GUEST_INTERRUPTIBILITY, 0x4824, ALWAYS, 0)                                               \
    FIELD(GUEST_ACTIVITY, 0x4826, ALWAYS, 0)                                                       \
    FIELD(GUEST_SMBASE, 0x4828, ALWAYS, 0)                                                         \
    FIELD(GUEST_SYSENTER_CS, 0x482a, ALWAYS, 0)                                                    \
    FIELD(PREEMPTION_TIMER, 0x482e, PIN, PIN_PREEMPTION_TIMER)                                     \
    FIELD(HOST_SYSENTER_CS, 0x4c00, ALWAYS, 0)                                                     \
    FIELD(CR0_MASK, 0x6000, ALWAYS, 0)                                                             \
    FIELD(CR4_MASK, 0x6002, ALWAYS, 0)                                                             \
    FIELD(CR0_SHADOW, 0x6004, ALWAYS, 0)                                                           \
    FIELD(CR4_SHADOW, 0x6006, ALWAYS, 0)                                                           \
    FIELD(CR3_TARGET_0, 0x6008, ALWAYS, 0)                                                         \
    FIELD(CR3_TARGET_1, 0x600a, ALWAYS, 0)                                                         \
    FIELD(CR3_TARGET_2, 0x600c, ALWAYS, 0)                                                         \
    FIELD(CR3_TARGET_3, 0x600e, ALWAYS, 0)                                                         \
    FIELD(EXIT_QUALIFICATION, 0x6400, ALWAYS, 0)                                                   \
    FIELD(IO_RCX, 0x6402, ALWAYS, 0)                                                               \
    FIELD(IO_RSI, 0x6404, ALWAYS, 0)                                                               \
    FIELD(IO_RDI, 0x6406, ALWAYS, 0)                                                               \
    FIELD(IO_RIP, 0x6408, ALWAYS, 0)                                                               \
    FIELD(GUEST_LINEAR, 0x640a, ALWAYS, 0)                                                         \
    FIELD(GUEST_CR0, 0x6800, ALWAYS, 0)                                                            \
    FIELD(GUEST_CR3, 0x6802, ALWAYS, 0)                                                            \
    FIELD(GUEST_CR4, 0x6804, ALWAYS, 0)                                                            \
    FIELD(GUEST_ES_BASE, 0x6806, ALWAYS, 0)                                                        \
    FIELD(GUEST_CS_BASE, 0x6808, ALWAYS, 0)                                                        \
    FIELD(GUEST_SS_BASE, 0x680a, ALWAYS, 0)                                                        \
    FIELD(GUEST_DS_BASE, 0x680c, ALWAYS, 0)                                                        \
    FIELD(GUEST_FS_BASE, 0x680e, ALWAYS, 0)                                                        \
    FIELD(GUEST_GS_BASE, 0x6810, ALWAYS, 0)                                                        \
    FIELD(GUEST_LDTR_BASE, 0x6812, ALWAYS, 0)                                                      \
    FIELD(GUEST_TR_BASE, 0x6814, ALWAYS, 0)                                                        \
    FIELD(GUEST_GDTR_BASE, 0x6816, ALWAYS, 0)                                                      \
    FIELD(GUEST_IDTR_BASE, 0x6818, ALWAYS, 0)                                                      \
    FIELD(GUEST_DR7, 0x681a, ALWAYS, 0)                                                            \
    FIELD(GUEST_RSP, 0x681c, ALWAYS, 0)                                                            \
    FIELD(GUEST_RIP, 0x681e, ALWAYS, 0)                                                            \
    FIELD(GUEST_RFLAGS, 0x6820, ALWAYS, 0)                                                         \
    FIELD(GUEST_PENDING_DEBUG, 0x6822, ALWAYS, 0)                                                  \
    FIELD(GUEST_SYSENTER_ESP, 0x6824, ALWAYS, 0)                                                   \
    FIELD(GUEST_SYSENTER_EIP, 0x6826, ALWAYS, 0)                                                   \
    FIELD(HOST_CR0, 0x6c00, ALWAYS, 0)                                                             \
    FIELD(HOST_CR3, 0x6c02, ALWAYS, 0)                                                             \
    FIELD(HOST_CR4, 0x6c04, ALWAYS, 0)                                                             \
    FIELD(HOST_FS_BASE, 0x6c06, ALWAYS, 0)                                                         \
    FIELD(HOST_GS_BASE, 0x6c08, ALWAYS, 0)                                                         \
    FIELD(HOST_TR_BASE, 0x6c0a, ALWAYS, 0)                                                         \
    FIELD(HOST_GDTR_BASE, 0x6c0c, ALWAYS, 0)                                                       \
    FIELD(HOST_IDTR_BASE, 0x6c0e, ALWAYS, 0)                                                       \
    FIELD(HOST_SYSENTER_ESP, 0x6c10, ALWAYS, 0)                                                    \
    FIELD(HOST_SYSENTER_EIP, 0x6c12, ALWAYS, 0)                                                    \
    FIELD(HOST_RSP, 0x6c14, ALWAYS, 0)                                                             \
    FIELD(HOST_RIP, 0x6c16, ALWAYS, 0)

#define FIELD(name, encoding, word, bit) VMCS_##name = encoding,
enum vmcs_field { FOR_EACH_FIELD(FIELD) };
#undef FIELD

enum field_width { WIDTH_16, WIDTH_64, WIDTH_32, WIDTH_NATURAL };
enum field_kind { KIND_CONTROL, KIND_READ_ONLY, KIND_GUEST, KIND_HOST };

static inline enum field_width field_width(u32 encoding) { return encoding >> 13 & 3; }
static inline enum field_kind field_kind(u32 encoding) { return encoding >> 10 & 3; }

struct vmcs_field_row {
    const char *name;
    u32 encoding;
    u8 word;
    u32 bit;
};
extern const struct vmcs_field_row vmcs_fields[];
extern const unsigned vmcs_field_count;

/* Does this processor offer the field? */
bool field_exists(const struct vmcs_field_row *field);
