"""The VMCS, as one table: SDM 3C, "Field Encoding in VMCS".

Every field is a module constant with its encoding, its name in the manual, its width, its kind, the
capability under which it exists, and the slot of 8 bytes in the VMCS region where we keep it (the
format of the region is the processor's own affair; this one is ours). The order of the declarations
is the order of the slots: each kind is one run, and within a kind what VM entry checks stands apart
from what it does not, so that a run of slots can be packed, compared and restored at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from turducken.bits import Layout, bit, bits, reserved
from turducken.vmx.controls import Entry, Exit, PinBased, Primary, Secondary, VmFunction


class Width(IntEnum):
    """Bits 14:13 of an encoding."""

    WORD = 0
    QUAD = 1
    DOUBLE = 2
    NATURAL = 3

    @property
    def bits(self) -> int:
        """Number of bits of a field (natural width is 64 on a processor with Intel 64)."""
        return (16, 64, 32, 64)[self]


class FieldKind(IntEnum):
    """Bits 11:10 of an encoding."""

    CONTROL = 0
    EXIT_INFORMATION = 1
    GUEST = 2
    HOST = 3


ENCODING = Layout(
    "VMCS-field encoding",
    32,
    bit("HIGH", 0, "access the high 32 bits of a 64-bit field"),
    bits("INDEX", 9, 1, "index among the fields of the same width and kind"),
    bits("KIND", 11, 10, "type", values={int(one): one.name for one in FieldKind}),
    reserved(12),
    bits("WIDTH", 14, 13, "width", values={int(one): one.name for one in Width}),
    reserved(31, 15),
    source='SDM 3C, "VMREAD, VMWRITE, and Encodings of VMCS Fields"',
)
HIGH = ENCODING.mask("HIGH")


def encode(width: Width, kind: FieldKind, index: int) -> int:
    """Return the encoding (full access type) of a field."""
    return ENCODING.make(WIDTH=width, KIND=kind, INDEX=index)


class Settings(Protocol):
    """The allowed 1-settings of one word of controls."""

    @property
    def allowed1(self) -> int:
        """Bits that may be 1."""


class Offers(Protocol):
    """What of a processor's capabilities decides which fields exist."""

    @property
    def pin(self) -> Settings:
        """Pin-based controls."""

    @property
    def primary(self) -> Settings:
        """Primary processor-based controls."""

    @property
    def secondary(self) -> Settings:
        """Secondary processor-based controls."""

    @property
    def exit(self) -> Settings:
        """VM-exit controls."""

    @property
    def entry(self) -> Settings:
        """VM-entry controls."""

    @property
    def vm_functions(self) -> Settings:
        """VM-function controls."""

    @property
    def cr3_targets(self) -> int:
        """Number of CR3-target values."""


@dataclass(frozen=True, slots=True)
class Needs:
    """A field exists if any of these controls has a 1-setting."""

    pin: int = 0
    primary: int = 0
    secondary: int = 0
    exit: int = 0
    entry: int = 0
    vm_functions: int = 0
    cr3_targets: int = 0
    """The number of CR3-target values at which the field begins to exist."""

    def met_by(self, offers: Offers) -> bool:
        """Tell whether a processor has the capability."""
        return bool(
            self.pin & offers.pin.allowed1
            or self.primary & offers.primary.allowed1
            or self.secondary & offers.secondary.allowed1
            or self.exit & offers.exit.allowed1
            or self.entry & offers.entry.allowed1
            or self.vm_functions & offers.vm_functions.allowed1
            or 0 < self.cr3_targets <= offers.cr3_targets
        )


@dataclass(frozen=True, slots=True, eq=False)
class VmcsField:
    """One field of the VMCS. Fields are compared and hashed by identity."""

    encoding: int
    name: str
    width: Width
    kind: FieldKind
    slot: int
    """Index of the field's 8 bytes in the VMCS region."""
    mask: int
    """All bits of the field set."""
    needs: Needs | None

    @property
    def has_high(self) -> bool:
        """Tell whether the field has a second encoding, for its bits 63:32."""
        return self.width is Width.QUAD

    @property
    def is_read_only(self) -> bool:
        """Tell whether the field is a VM-exit information field (read-only on some processors)."""
        return self.kind is FieldKind.EXIT_INFORMATION

    def exists(self, offers: Offers) -> bool:
        """Tell whether a processor with these capabilities has the field."""
        return self.needs is None or self.needs.met_by(offers)

    def __repr__(self) -> str:
        return f"<VmcsField {self.encoding:#06x} {self.name}>"


FIELDS: dict[int, VmcsField] = {}
"""Every field by its encoding (full access type)."""

HEADER_SLOT = 0
"""VMCS revision identifier with the shadow-VMCS indicator, and the VMX-abort indicator."""
LAUNCH_SLOT = 1
"""Our launch state."""
_FIRST_SLOT = 8

_next_slot = _FIRST_SLOT


def _field(encoding: int, name: str, needs: Needs | None = None) -> VmcsField:
    global _next_slot  # noqa: PLW0603 - slots are counted by the declarations below
    width = Width(ENCODING["WIDTH"].get(encoding))
    kind = FieldKind(ENCODING["KIND"].get(encoding))
    one = VmcsField(encoding, name, width, kind, _next_slot, (1 << width.bits) - 1, needs)
    if encoding in FIELDS:
        raise ValueError(f"two VMCS fields have the encoding {encoding:#x}")
    FIELDS[encoding] = one
    _next_slot += 1
    return one


_TPR_SHADOW = Needs(primary=Primary.USE_TPR_SHADOW)
_MSR_BITMAPS = Needs(primary=Primary.USE_MSR_BITMAPS)
_SECONDARY = Needs(primary=Primary.ACTIVATE_SECONDARY_CONTROLS)
_APIC_ACCESS = Needs(secondary=Secondary.VIRTUALIZE_APIC_ACCESSES)
_VID = Needs(secondary=Secondary.VIRTUAL_INTERRUPT_DELIVERY)
_POSTED = Needs(pin=PinBased.PROCESS_POSTED_INTERRUPTS)
_VM_FUNCTIONS = Needs(secondary=Secondary.ENABLE_VM_FUNCTIONS)
_EPTP_SWITCHING = Needs(vm_functions=VmFunction.EPTP_SWITCHING)
_EPT = Needs(secondary=Secondary.ENABLE_EPT)
_VPID = Needs(secondary=Secondary.ENABLE_VPID)
_SHADOWING = Needs(secondary=Secondary.VMCS_SHADOWING)
_VE = Needs(secondary=Secondary.EPT_VIOLATION_VE)
_XSAVES = Needs(secondary=Secondary.ENABLE_XSAVES)
_TSC_SCALING = Needs(secondary=Secondary.USE_TSC_SCALING)
_PML = Needs(secondary=Secondary.ENABLE_PML)
_PAUSE_LOOP = Needs(secondary=Secondary.PAUSE_LOOP_EXITING)
_TIMER = Needs(pin=PinBased.ACTIVATE_PREEMPTION_TIMER)
_GUEST_PAT = Needs(entry=Entry.LOAD_PAT, exit=Exit.SAVE_PAT)
_GUEST_EFER = Needs(entry=Entry.LOAD_EFER, exit=Exit.SAVE_EFER)
_GUEST_PERF = Needs(entry=Entry.LOAD_PERF_GLOBAL_CTRL)
_GUEST_BNDCFGS = Needs(entry=Entry.LOAD_BNDCFGS, exit=Exit.CLEAR_BNDCFGS)

# VM-exit information fields

VM_INSTRUCTION_ERROR = _field(0x4400, "VM-instruction error")
EXIT_REASON = _field(0x4402, "Exit reason")
EXIT_QUALIFICATION = _field(0x6400, "Exit qualification")
GUEST_LINEAR_ADDRESS = _field(0x640A, "Guest-linear address")
GUEST_PHYSICAL_ADDRESS = _field(0x2400, "Guest-physical address", _EPT)
EXIT_INTERRUPTION_INFORMATION = _field(0x4404, "VM-exit interruption information")
EXIT_INTERRUPTION_ERROR_CODE = _field(0x4406, "VM-exit interruption error code")
IDT_VECTORING_INFORMATION = _field(0x4408, "IDT-vectoring information field")
IDT_VECTORING_ERROR_CODE = _field(0x440A, "IDT-vectoring error code")
EXIT_INSTRUCTION_LENGTH = _field(0x440C, "VM-exit instruction length")
EXIT_INSTRUCTION_INFORMATION = _field(0x440E, "VM-exit instruction information")
IO_RCX = _field(0x6402, "I/O RCX")
IO_RSI = _field(0x6404, "I/O RSI")
IO_RDI = _field(0x6406, "I/O RDI")
IO_RIP = _field(0x6408, "I/O RIP")
_end_of_exit_information = _next_slot

# Control fields: those with no rule at VM entry

EXCEPTION_BITMAP = _field(0x4004, "Exception bitmap")
PAGE_FAULT_ERROR_CODE_MASK = _field(0x4006, "Page-fault error-code mask")
PAGE_FAULT_ERROR_CODE_MATCH = _field(0x4008, "Page-fault error-code match")
CR0_GUEST_HOST_MASK = _field(0x6000, "CR0 guest/host mask")
CR4_GUEST_HOST_MASK = _field(0x6002, "CR4 guest/host mask")
CR0_READ_SHADOW = _field(0x6004, "CR0 read shadow")
CR4_READ_SHADOW = _field(0x6006, "CR4 read shadow")
CR3_TARGET_VALUE_0 = _field(0x6008, "CR3-target value 0", Needs(cr3_targets=1))
CR3_TARGET_VALUE_1 = _field(0x600A, "CR3-target value 1", Needs(cr3_targets=2))
CR3_TARGET_VALUE_2 = _field(0x600C, "CR3-target value 2", Needs(cr3_targets=3))
CR3_TARGET_VALUE_3 = _field(0x600E, "CR3-target value 3", Needs(cr3_targets=4))
TSC_OFFSET = _field(0x2010, "TSC offset")
EXECUTIVE_VMCS_POINTER = _field(0x200C, "Executive-VMCS pointer")
EPTP_INDEX = _field(0x0004, "EPTP index", _VE)
EOI_EXIT_BITMAP_0 = _field(0x201C, "EOI-exit bitmap 0", _VID)
EOI_EXIT_BITMAP_1 = _field(0x201E, "EOI-exit bitmap 1", _VID)
EOI_EXIT_BITMAP_2 = _field(0x2020, "EOI-exit bitmap 2", _VID)
EOI_EXIT_BITMAP_3 = _field(0x2022, "EOI-exit bitmap 3", _VID)
XSS_EXITING_BITMAP = _field(0x202C, "XSS-exiting bitmap", _XSAVES)
PLE_GAP = _field(0x4020, "PLE_Gap", _PAUSE_LOOP)
PLE_WINDOW = _field(0x4022, "PLE_Window", _PAUSE_LOOP)

# Control fields: event injection, which changes from one VM entry to the next

ENTRY_INTERRUPTION_INFORMATION = _field(0x4016, "VM-entry interruption-information field")
ENTRY_EXCEPTION_ERROR_CODE = _field(0x4018, "VM-entry exception error code")
ENTRY_INSTRUCTION_LENGTH = _field(0x401A, "VM-entry instruction length")

# Control fields: the rest

PIN_BASED_CONTROLS = _field(0x4000, "Pin-based VM-execution controls")
PRIMARY_CONTROLS = _field(0x4002, "Primary processor-based VM-execution controls")
SECONDARY_CONTROLS = _field(0x401E, "Secondary processor-based VM-execution controls", _SECONDARY)
EXIT_CONTROLS = _field(0x400C, "VM-exit controls")
ENTRY_CONTROLS = _field(0x4012, "VM-entry controls")
CR3_TARGET_COUNT = _field(0x400A, "CR3-target count")
IO_BITMAP_A = _field(0x2000, "Address of I/O bitmap A")
IO_BITMAP_B = _field(0x2002, "Address of I/O bitmap B")
MSR_BITMAPS = _field(0x2004, "Address of MSR bitmaps", _MSR_BITMAPS)
EXIT_MSR_STORE_ADDRESS = _field(0x2006, "VM-exit MSR-store address")
EXIT_MSR_STORE_COUNT = _field(0x400E, "VM-exit MSR-store count")
EXIT_MSR_LOAD_ADDRESS = _field(0x2008, "VM-exit MSR-load address")
EXIT_MSR_LOAD_COUNT = _field(0x4010, "VM-exit MSR-load count")
ENTRY_MSR_LOAD_ADDRESS = _field(0x200A, "VM-entry MSR-load address")
ENTRY_MSR_LOAD_COUNT = _field(0x4014, "VM-entry MSR-load count")
TPR_THRESHOLD = _field(0x401C, "TPR threshold", _TPR_SHADOW)
VIRTUAL_APIC_ADDRESS = _field(0x2012, "Virtual-APIC address", _TPR_SHADOW)
APIC_ACCESS_ADDRESS = _field(0x2014, "APIC-access address", _APIC_ACCESS)
POSTED_INTERRUPT_VECTOR = _field(0x0002, "Posted-interrupt notification vector", _POSTED)
POSTED_INTERRUPT_DESCRIPTOR = _field(0x2016, "Posted-interrupt descriptor address", _POSTED)
VPID = _field(0x0000, "Virtual-processor identifier (VPID)", _VPID)
EPTP = _field(0x201A, "EPT pointer (EPTP)", _EPT)
VM_FUNCTION_CONTROLS = _field(0x2018, "VM-function controls", _VM_FUNCTIONS)
EPTP_LIST_ADDRESS = _field(0x2024, "EPTP-list address", _EPTP_SWITCHING)
PML_ADDRESS = _field(0x200E, "PML address", _PML)
VMREAD_BITMAP = _field(0x2026, "VMREAD-bitmap address", _SHADOWING)
VMWRITE_BITMAP = _field(0x2028, "VMWRITE-bitmap address", _SHADOWING)
TSC_MULTIPLIER = _field(0x2032, "TSC multiplier", _TSC_SCALING)
VE_INFORMATION_ADDRESS = _field(0x202A, "Virtualization-exception information address", _VE)
_end_of_controls = _next_slot

# Host-state area

HOST_CR0 = _field(0x6C00, "Host CR0")
HOST_CR3 = _field(0x6C02, "Host CR3")
HOST_CR4 = _field(0x6C04, "Host CR4")
HOST_ES_SELECTOR = _field(0x0C00, "Host ES selector")
HOST_CS_SELECTOR = _field(0x0C02, "Host CS selector")
HOST_SS_SELECTOR = _field(0x0C04, "Host SS selector")
HOST_DS_SELECTOR = _field(0x0C06, "Host DS selector")
HOST_FS_SELECTOR = _field(0x0C08, "Host FS selector")
HOST_GS_SELECTOR = _field(0x0C0A, "Host GS selector")
HOST_TR_SELECTOR = _field(0x0C0C, "Host TR selector")
HOST_FS_BASE = _field(0x6C06, "Host FS base")
HOST_GS_BASE = _field(0x6C08, "Host GS base")
HOST_TR_BASE = _field(0x6C0A, "Host TR base")
HOST_GDTR_BASE = _field(0x6C0C, "Host GDTR base")
HOST_IDTR_BASE = _field(0x6C0E, "Host IDTR base")
HOST_SYSENTER_CS = _field(0x4C00, "Host IA32_SYSENTER_CS")
HOST_SYSENTER_ESP = _field(0x6C10, "Host IA32_SYSENTER_ESP")
HOST_SYSENTER_EIP = _field(0x6C12, "Host IA32_SYSENTER_EIP")
HOST_PAT = _field(0x2C00, "Host IA32_PAT", Needs(exit=Exit.LOAD_PAT))
HOST_EFER = _field(0x2C02, "Host IA32_EFER", Needs(exit=Exit.LOAD_EFER))
HOST_PERF_GLOBAL_CTRL = _field(
    0x2C04, "Host IA32_PERF_GLOBAL_CTRL", Needs(exit=Exit.LOAD_PERF_GLOBAL_CTRL)
)
HOST_RIP = _field(0x6C16, "Host RIP")
HOST_RSP = _field(0x6C14, "Host RSP")
_end_of_host = _next_slot

# Guest-state area: control registers, MSRs and descriptor tables

GUEST_CR0 = _field(0x6800, "Guest CR0")
GUEST_CR4 = _field(0x6804, "Guest CR4")
GUEST_DR7 = _field(0x681A, "Guest DR7")
GUEST_DEBUGCTL = _field(0x2802, "Guest IA32_DEBUGCTL")
GUEST_SYSENTER_ESP = _field(0x6824, "Guest IA32_SYSENTER_ESP")
GUEST_SYSENTER_EIP = _field(0x6826, "Guest IA32_SYSENTER_EIP")
GUEST_PAT = _field(0x2804, "Guest IA32_PAT", _GUEST_PAT)
GUEST_EFER = _field(0x2806, "Guest IA32_EFER", _GUEST_EFER)
GUEST_PERF_GLOBAL_CTRL = _field(0x2808, "Guest IA32_PERF_GLOBAL_CTRL", _GUEST_PERF)
GUEST_BNDCFGS = _field(0x2812, "Guest IA32_BNDCFGS", _GUEST_BNDCFGS)
GUEST_GDTR_BASE = _field(0x6816, "Guest GDTR base")
GUEST_IDTR_BASE = _field(0x6818, "Guest IDTR base")
GUEST_GDTR_LIMIT = _field(0x4810, "Guest GDTR limit")
GUEST_IDTR_LIMIT = _field(0x4812, "Guest IDTR limit")
_end_of_guest_registers = _next_slot

# Guest-state area: segments

GUEST_ES_SELECTOR = _field(0x0800, "Guest ES selector")
GUEST_CS_SELECTOR = _field(0x0802, "Guest CS selector")
GUEST_SS_SELECTOR = _field(0x0804, "Guest SS selector")
GUEST_DS_SELECTOR = _field(0x0806, "Guest DS selector")
GUEST_FS_SELECTOR = _field(0x0808, "Guest FS selector")
GUEST_GS_SELECTOR = _field(0x080A, "Guest GS selector")
GUEST_LDTR_SELECTOR = _field(0x080C, "Guest LDTR selector")
GUEST_TR_SELECTOR = _field(0x080E, "Guest TR selector")
GUEST_ES_BASE = _field(0x6806, "Guest ES base")
GUEST_CS_BASE = _field(0x6808, "Guest CS base")
GUEST_SS_BASE = _field(0x680A, "Guest SS base")
GUEST_DS_BASE = _field(0x680C, "Guest DS base")
GUEST_FS_BASE = _field(0x680E, "Guest FS base")
GUEST_GS_BASE = _field(0x6810, "Guest GS base")
GUEST_LDTR_BASE = _field(0x6812, "Guest LDTR base")
GUEST_TR_BASE = _field(0x6814, "Guest TR base")
GUEST_ES_LIMIT = _field(0x4800, "Guest ES limit")
GUEST_CS_LIMIT = _field(0x4802, "Guest CS limit")
GUEST_SS_LIMIT = _field(0x4804, "Guest SS limit")
GUEST_DS_LIMIT = _field(0x4806, "Guest DS limit")
GUEST_FS_LIMIT = _field(0x4808, "Guest FS limit")
GUEST_GS_LIMIT = _field(0x480A, "Guest GS limit")
GUEST_LDTR_LIMIT = _field(0x480C, "Guest LDTR limit")
GUEST_TR_LIMIT = _field(0x480E, "Guest TR limit")
GUEST_ES_ACCESS_RIGHTS = _field(0x4814, "Guest ES access rights")
GUEST_CS_ACCESS_RIGHTS = _field(0x4816, "Guest CS access rights")
GUEST_SS_ACCESS_RIGHTS = _field(0x4818, "Guest SS access rights")
GUEST_DS_ACCESS_RIGHTS = _field(0x481A, "Guest DS access rights")
GUEST_FS_ACCESS_RIGHTS = _field(0x481C, "Guest FS access rights")
GUEST_GS_ACCESS_RIGHTS = _field(0x481E, "Guest GS access rights")
GUEST_LDTR_ACCESS_RIGHTS = _field(0x4820, "Guest LDTR access rights")
GUEST_TR_ACCESS_RIGHTS = _field(0x4822, "Guest TR access rights")
_end_of_guest_segments = _next_slot

# Guest-state area: what changes from one VM entry to the next

GUEST_INTERRUPTIBILITY = _field(0x4824, "Guest interruptibility state")
GUEST_ACTIVITY = _field(0x4826, "Guest activity state")
GUEST_PENDING_DEBUG = _field(0x6822, "Guest pending debug exceptions")
VMCS_LINK_POINTER = _field(0x2800, "VMCS link pointer")
GUEST_PDPTE0 = _field(0x280A, "Guest PDPTE0", _EPT)
GUEST_PDPTE1 = _field(0x280C, "Guest PDPTE1", _EPT)
GUEST_PDPTE2 = _field(0x280E, "Guest PDPTE2", _EPT)
GUEST_PDPTE3 = _field(0x2810, "Guest PDPTE3", _EPT)
_end_of_guest_conditions = _next_slot
GUEST_RIP = _field(0x681E, "Guest RIP")
GUEST_RFLAGS = _field(0x6820, "Guest RFLAGS")
GUEST_CR3 = _field(0x6802, "Guest CR3")

# Guest-state area: those with no rule at VM entry

GUEST_RSP = _field(0x681C, "Guest RSP")
GUEST_SYSENTER_CS = _field(0x482A, "Guest IA32_SYSENTER_CS")
GUEST_SMBASE = _field(0x4828, "Guest SMBASE")
PREEMPTION_TIMER_VALUE = _field(0x482E, "VMX-preemption timer value", _TIMER)
GUEST_INTERRUPT_STATUS = _field(0x0810, "Guest interrupt status", _VID)
PML_INDEX = _field(0x0812, "PML index", _PML)
_end = _next_slot

EXIT_INFORMATION_SLOTS = range(_FIRST_SLOT, _end_of_exit_information)
CONTROL_SLOTS = range(_end_of_exit_information, _end_of_controls)
CHECKED_CONTROL_SLOTS = range(PIN_BASED_CONTROLS.slot, _end_of_controls)
"""Control fields with rules at VM entry that seldom change."""
HOST_SLOTS = range(_end_of_controls, _end_of_host)
GUEST_SLOTS = range(_end_of_host, _end)
GUEST_REGISTER_SLOTS = range(_end_of_host, _end_of_guest_registers)
"""Guest control and debug registers (but CR3), MSRs and descriptor-table registers."""
GUEST_SEGMENT_SLOTS = range(_end_of_guest_registers, _end_of_guest_segments)
GUEST_CONDITION_SLOTS = range(_end_of_guest_segments, _end_of_guest_conditions)
"""Guest interruptibility and activity, pending debug exceptions, link pointer and PDPTEs."""
CHECKED_SLOTS = range(PIN_BASED_CONTROLS.slot, _end_of_guest_conditions)
"""Everything that has a rule at VM entry, except event injection, RIP, RFLAGS and CR3."""
SLOT_RUNS = {
    FieldKind.EXIT_INFORMATION: EXIT_INFORMATION_SLOTS,
    FieldKind.CONTROL: CONTROL_SLOTS,
    FieldKind.HOST: HOST_SLOTS,
    FieldKind.GUEST: GUEST_SLOTS,
}
"""Each kind's run of slots."""
END_SLOT = _end
"""The first slot that no field uses."""

SLOT_MASKS: tuple[int, ...] = (0,) * _FIRST_SLOT + tuple(one.mask for one in FIELDS.values())
"""For each slot up to `END_SLOT`, the bits that its field has."""

SEGMENTS = ("ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR")
"""The segment registers in the order of their fields (the first six: of their encoding)."""


@dataclass(frozen=True, slots=True, eq=False)
class SegmentFields:
    """The four guest fields of one segment register."""

    name: str
    selector: VmcsField
    base: VmcsField
    limit: VmcsField
    access_rights: VmcsField


GUEST_SEGMENTS: tuple[SegmentFields, ...] = tuple(
    SegmentFields(
        name,
        FIELDS[GUEST_ES_SELECTOR.encoding + 2 * number],
        FIELDS[GUEST_ES_BASE.encoding + 2 * number],
        FIELDS[GUEST_ES_LIMIT.encoding + 2 * number],
        FIELDS[GUEST_ES_ACCESS_RIGHTS.encoding + 2 * number],
    )
    for number, name in enumerate(SEGMENTS)
)
GUEST_PDPTES = (GUEST_PDPTE0, GUEST_PDPTE1, GUEST_PDPTE2, GUEST_PDPTE3)
EOI_EXIT_BITMAPS = (EOI_EXIT_BITMAP_0, EOI_EXIT_BITMAP_1, EOI_EXIT_BITMAP_2, EOI_EXIT_BITMAP_3)
CR3_TARGET_VALUES = (
    CR3_TARGET_VALUE_0,
    CR3_TARGET_VALUE_1,
    CR3_TARGET_VALUE_2,
    CR3_TARGET_VALUE_3,
)


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """What one encoding reaches: a whole field, or the high half of a 64-bit field."""

    field: VmcsField
    slot: int
    mask: int
    """The bits a whole access reads or writes; for a high access, of the upper half."""
    is_high: bool


def _accesses(fields: Iterable[VmcsField]) -> dict[int, Access]:
    table = {}
    for one in fields:
        table[one.encoding] = Access(one, one.slot, one.mask, is_high=False)
        if one.has_high:
            table[one.encoding | HIGH] = Access(one, one.slot, 0xFFFF_FFFF, is_high=True)
    return table


ACCESSES: dict[int, Access] = _accesses(FIELDS.values())
"""Every encoding, the high ones of 64-bit fields included."""


def existing_accesses(offers: Offers) -> dict[int, Access]:
    """Return the encodings that a processor with these capabilities has."""
    return _accesses(one for one in FIELDS.values() if one.exists(offers))
