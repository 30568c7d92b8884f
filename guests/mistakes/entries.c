/* Fields that VM entry checks: SDM 3C, "VM Entries". */
#include "mistakes.h"

/* ---- controls ---- */

WRONG_FIELD(pin_zero, "pin-controls-zero", PIN_CONTROLS, 0xffffffff, 0)
WRONG_FIELD(pin_reserved, "pin-controls-reserved-bit", PIN_CONTROLS, 0, BIT(30))
WRONG_FIELD(primary_zero, "primary-controls-zero", CPU_CONTROLS, 0x7fffffff, 0)
WRONG_FIELD(primary_reserved, "primary-controls-reserved-bit", CPU_CONTROLS, 0, BIT(0))
WRONG_FIELD(secondary_reserved, "secondary-controls-reserved-bit", CPU2_CONTROLS, 0, BIT(31))
WRONG_FIELD(exit_zero, "exit-controls-zero", EXIT_CONTROLS, 0xfdff, 0)
WRONG_FIELD(exit_reserved, "exit-controls-reserved-bit", EXIT_CONTROLS, 0, BIT(30))
WRONG_FIELD(entry_zero, "entry-controls-zero", ENTRY_CONTROLS, 0xfdff, 0)
WRONG_FIELD(entry_smm, "entry-controls-smm", ENTRY_CONTROLS, 0, ENTRY_TO_SMM)
WRONG_FIELD(cr3_targets, "too-many-cr3-targets", CR3_TARGET_COUNT, 0, 256)
WRONG_FIELD_IF(io_bitmap, "io-bitmap-unaligned", CPU, CPU_IO_BITMAPS, IO_BITMAP_B, 0, 1)
WRONG_FIELD_IF(msr_bitmap, "msr-bitmap-too-wide", CPU, CPU_MSR_BITMAPS, MSR_BITMAP, 0, TOO_HIGH)
WRONG_FIELD_IF(virtual_apic, "virtual-apic-unaligned", CPU, CPU_TPR_SHADOW, VIRTUAL_APIC, 0, 4)
WRONG_FIELD_IF(apic_access, "apic-access-unaligned", CPU2, CPU2_APIC_ACCESSES, APIC_ACCESS, 0, 32)
WRONG_FIELD(nmi_window, "nmi-window-without-virtual-nmis", CPU_CONTROLS, 0, CPU_NMI_WINDOW)
WRONG_FIELD(virtual_nmis, "virtual-nmis-without-nmi-exiting", PIN_CONTROLS, 0, PIN_VIRTUAL_NMIS)
WRONG_FIELD_IF(vpid_zero, "vpid-zero", CPU2, CPU2_VPID, VPID, 0xffff, 0)
WRONG_FIELD(eptp_type, "eptp-type-write-combining", EPT_POINTER, 7, 1)
WRONG_FIELD(eptp_walk, "eptp-walk-length", EPT_POINTER, 7 << 3, 4 << 3)
WRONG_FIELD(eptp_bare, "eptp-is-the-root-address", EPT_POINTER, 0xfff, 0)
WRONG_FIELD(eptp_reserved, "eptp-reserved-bit", EPT_POINTER, 0, BIT(9))
WRONG_FIELD(eptp_wide, "eptp-too-wide", EPT_POINTER, 0, TOO_HIGH)
WRONG_FIELD(unrestricted, "unrestricted-without-ept", CPU2_CONTROLS, CPU2_EPT, CPU2_UNRESTRICTED)
WRONG_FIELD(timer_save, "timer-saved-but-not-used", EXIT_CONTROLS, 0, EXIT_SAVE_TIMER)

MISTAKE(tpr_threshold, "tpr-threshold-too-high")
{
    start_nothing(vm);
    vmwrite(VMCS_VIRTUAL_APIC, physical(page_alloc()));
    vm_control(vm, CPU, CPU_TPR_SHADOW, 0);
    vmwrite(VMCS_TPR_THRESHOLD, 0x20);
    vm_expect_done(vm);
}

MISTAKE(store_area, "msr-store-area-unaligned")
{
    start_nothing(vm);
    vmwrite(VMCS_EXIT_MSR_STORE, physical(page_alloc()) + 8);
    vmwrite(VMCS_EXIT_MSR_STORE_COUNT, 1);
    vm_expect_done(vm);
}

MISTAKE(load_area, "msr-load-area-too-wide")
{
    start_nothing(vm);
    vmwrite(VMCS_ENTRY_MSR_LOAD, TOO_HIGH);
    vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 1);
    vm_expect_done(vm);
}

/* ---- injections ---- */

static void inject_wrongly(struct vm *vm, u32 event)
{
    start_nothing(vm);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | event);
    vm_expect_done(vm);
}

MISTAKE(inject_type, "injection-reserved-type") { inject_wrongly(vm, 1 << 8 | 32); }
MISTAKE(inject_nmi, "injection-nmi-of-another-vector") { inject_wrongly(vm, EVENT_NMI | 3); }
MISTAKE(inject_vector, "injection-exception-32") { inject_wrongly(vm, EVENT_HARDWARE | 32); }
MISTAKE(inject_no_code, "injection-without-error-code") { inject_wrongly(vm, EVENT_HARDWARE | 13); }
MISTAKE(inject_code, "injection-with-stray-error-code")
{
    inject_wrongly(vm, EVENT_HARDWARE | EVENT_ERROR_CODE | 6);
}
MISTAKE(inject_if, "injection-while-interrupts-are-off") { inject_wrongly(vm, EVENT_EXTERNAL | 80); }

MISTAKE(inject_length, "injection-without-length")
{
    start_nothing(vm);
    vmwrite(VMCS_ENTRY_LENGTH, 16);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_SOFTWARE | 0x80);
    vm_expect_done(vm);
}

/* ---- host state ---- */

WRONG_FIELD(host_cr0, "host-cr0-zero", HOST_CR0, ~0ull, 0)
WRONG_FIELD(host_cr3, "host-cr3-too-wide", HOST_CR3, 0, TOO_HIGH)
WRONG_FIELD(host_cr4, "host-cr4-without-vmxe", HOST_CR4, CR4_VMXE, 0)
WRONG_FIELD(host_pae, "host-cr4-without-pae", HOST_CR4, CR4_PAE, 0)
WRONG_FIELD(host_cs_rpl, "host-cs-of-ring-3", HOST_CS, 0, 3)
WRONG_FIELD(host_cs_null, "host-cs-null", HOST_CS, 0xffff, 0)
WRONG_FIELD(host_ds_ldt, "host-ds-local", HOST_DS, 0, 4)
WRONG_FIELD(host_tr_null, "host-tr-null", HOST_TR, 0xffff, 0)
WRONG_FIELD(host_gs, "host-gs-base-not-canonical", HOST_GS_BASE, 0, BIT64(63))
WRONG_FIELD(host_idtr, "host-idtr-base-not-canonical", HOST_IDTR_BASE, 0, BIT64(50))
WRONG_FIELD(host_rip, "host-rip-not-canonical", HOST_RIP, 0, BIT64(62))
WRONG_FIELD(host_size, "host-of-32-bits", EXIT_CONTROLS, EXIT_HOST_64BIT, 0)
WRONG_FIELD_IF(host_pat, "host-pat-zero-byte-2", EXIT, EXIT_LOAD_PAT, HOST_PAT, ~0ull, 2)
WRONG_FIELD_IF(host_efer, "host-efer-zero", EXIT, EXIT_LOAD_EFER, HOST_EFER, ~0ull, 0)

/* ---- guest state ---- */

WRONG_FIELD(guest_cr0, "guest-cr0-zero", GUEST_CR0, ~0ull, 0)
WRONG_FIELD(guest_ne, "guest-cr0-without-ne", GUEST_CR0, CR0_NE, 0)
WRONG_FIELD(guest_cr3, "guest-cr3-too-wide", GUEST_CR3, 0, TOO_HIGH)
WRONG_FIELD(guest_cr4, "guest-cr4-without-vmxe", GUEST_CR4, CR4_VMXE, 0)
WRONG_FIELD(guest_pae, "guest-cr4-without-pae", GUEST_CR4, CR4_PAE, 0)
WRONG_FIELD_IF(guest_debugctl, "guest-debugctl-reserved", ENTRY, ENTRY_LOAD_DEBUG, GUEST_DEBUGCTL, 0,
               BIT(3))
WRONG_FIELD_IF(guest_dr7, "guest-dr7-upper-half", ENTRY, ENTRY_LOAD_DEBUG, GUEST_DR7, 0, BIT64(40))
WRONG_FIELD_IF(guest_pat, "guest-pat-of-type-3", ENTRY, ENTRY_LOAD_PAT, GUEST_PAT, ~0ull, 3)
WRONG_FIELD_IF(guest_efer, "guest-efer-zero", ENTRY, ENTRY_LOAD_EFER, GUEST_EFER, ~0ull, 0)
WRONG_FIELD(guest_sysenter, "guest-sysenter-not-canonical", GUEST_SYSENTER_EIP, 0, BIT64(62))
WRONG_FIELD(guest_gdtr, "guest-gdtr-base-not-canonical", GUEST_GDTR_BASE, 0, BIT64(63))
WRONG_FIELD(guest_gdtr_limit, "guest-gdtr-limit-too-large", GUEST_GDTR_LIMIT, 0, BIT(16))
WRONG_FIELD(guest_rip, "guest-rip-not-canonical", GUEST_RIP, 0, BIT64(60))
WRONG_FIELD(guest_rflags, "guest-rflags-zero", GUEST_RFLAGS, ~0ull, 0)
WRONG_FIELD(guest_vm, "guest-rflags-vm", GUEST_RFLAGS, 0, RFLAGS_VM)
WRONG_FIELD(guest_cs_data, "guest-cs-is-data", GUEST_CS_AR, 0xf, 3)
WRONG_FIELD(guest_cs_both, "guest-cs-long-and-32-bit", GUEST_CS_AR, 0, AR_32BIT)
WRONG_FIELD(guest_cs_dpl, "guest-cs-of-ring-3", GUEST_CS_AR, 0, AR_DPL3)
WRONG_FIELD(guest_cs_absent, "guest-cs-not-present", GUEST_CS_AR, BIT(7), 0)
WRONG_FIELD(guest_ss_rpl, "guest-ss-selector-of-ring-3", GUEST_SS, 0, 3)
WRONG_FIELD(guest_ds_limit, "guest-ds-limit-in-bytes", GUEST_DS_LIMIT, 0xfff, 0)
WRONG_FIELD(guest_es_type, "guest-es-not-accessed", GUEST_ES_AR, 1, 0)
WRONG_FIELD(guest_fs_reserved, "guest-fs-rights-as-in-the-gdt", GUEST_FS_AR, 0, 0xf00)
WRONG_FIELD(guest_tr_available, "guest-tr-not-busy", GUEST_TR_AR, 2, 0)
WRONG_FIELD(guest_tr_unusable, "guest-tr-unusable", GUEST_TR_AR, 0, AR_UNUSABLE)
WRONG_FIELD(guest_tr_s, "guest-tr-not-system", GUEST_TR_AR, 0, BIT(4))
WRONG_FIELD(guest_ldtr, "guest-ldtr-usable-by-accident", GUEST_LDTR_AR, AR_UNUSABLE, 0)
WRONG_FIELD(guest_activity, "guest-activity-unknown", GUEST_ACTIVITY, 0, 7)
WRONG_FIELD(guest_sti, "guest-sti-while-interrupts-are-off", GUEST_INTERRUPTIBILITY, 0, BLOCKING_STI)
WRONG_FIELD(guest_smi, "guest-blocked-by-smi", GUEST_INTERRUPTIBILITY, 0, BLOCKING_SMI)
WRONG_FIELD(guest_pending, "guest-pending-debug-reserved", GUEST_PENDING_DEBUG, 0, BIT(5))
WRONG_FIELD(link_zero, "link-pointer-zero", VMCS_LINK, ~0ull, 0)

/* ---- MSR lists ---- */

struct msr_entry {
    u32 index, reserved;
    u64 value;
};

static struct msr_entry *msr_list(u32 index, u32 reserved, u64 value)
{
    struct msr_entry *list = page_alloc();
    list[0] = (struct msr_entry){ index, reserved, value };
    return list;
}

static void enter_loading(struct vm *vm, const struct msr_entry *list)
{
    start_nothing(vm);
    vmwrite(VMCS_ENTRY_MSR_LOAD, physical(list));
    vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 1);
    vm_expect_done(vm);
}

MISTAKE(load_fs, "msr-list-loads-fs-base") { enter_loading(vm, msr_list(0xc0000100, 0, 0)); }
MISTAKE(load_x2apic, "msr-list-loads-x2apic") { enter_loading(vm, msr_list(0x808, 0, 0)); }
MISTAKE(load_unknown, "msr-list-loads-no-msr") { enter_loading(vm, msr_list(0x1f00, 0, 0)); }
MISTAKE(load_value, "msr-list-loads-bad-pat") { enter_loading(vm, msr_list(MSR_PAT, 0, 2)); }
MISTAKE(load_reserved, "msr-list-reserved-bits") { enter_loading(vm, msr_list(MSR_PAT, 1, 0)); }

MISTAKE(store_unknown, "msr-list-stores-no-msr")
{
    start_nothing(vm);
    vmwrite(VMCS_EXIT_MSR_STORE, physical(msr_list(0x1f00, 0, 0)));
    vmwrite(VMCS_EXIT_MSR_STORE_COUNT, 1);
    vm_expect_done(vm);
}

MISTAKE(exit_load_gs, "msr-list-of-exits-loads-gs-base")
{
    start_nothing(vm);
    vmwrite(VMCS_EXIT_MSR_LOAD, physical(msr_list(0xc0000101, 0, 0)));
    vmwrite(VMCS_EXIT_MSR_LOAD_COUNT, 1);
    vm_expect_done(vm);
}
