"""VMCS12 -> VMCS02, as one table that has a rule for every field of the VMCS.

`RULES` says for each field where VMCS02's value comes from, and `turducken.hypervisor.nested` does
what the table says: the fields that are copied lie in runs that are moved at once; those that are
computed or translated are worked out again only when a control of VMCS12 has changed since.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Entry, Exit, PinBased, Primary, Secondary
from turducken.vmx.vmcs import Vmcs
from turducken.vmx.vmcs_fields import FIELDS, FieldKind, VmcsField

NO_LINK = 0xFFFF_FFFF_FFFF_FFFF


class How(Enum):
    """Where VMCS02's value of a field comes from."""

    COPIED = "copied"
    """VMCS12's value at each entry."""
    COMPUTED = "computed"
    """Worked out from VMCS12 and from what L0 needs, when a control has changed."""
    TRANSLATED = "translated"
    """VMCS12's Gpa1 as host-physical address, again after each change of EPT01."""
    CARRIED = "carried"
    """Worked out at each entry, from VMCS12 or from what L1 itself runs with."""
    OWN = "own"
    """L0's own, set once when VMCS02 is made."""
    PROCESSOR = "processor"
    """Written by the processor; given to L1 with the exits that L1 gets."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One field's rule."""

    how: How
    why: str = ""


_P, _C, _O = How.PROCESSOR, How.COPIED, How.OWN
_HOST = Rule(_O, "VM exits of L2 lead to L0; L1's host state is loaded by L0")

_EXCEPTIONS: dict[VmcsField, Rule] = {
    # Controls that L0 adds to, takes from, or answers for itself
    f.PIN_BASED_CONTROLS: Rule(How.COMPUTED, "and what the processor demands"),
    f.PRIMARY_CONTROLS: Rule(How.COMPUTED, "and secondary controls"),
    f.SECONDARY_CONTROLS: Rule(How.COMPUTED, "and EPT and VPID, without what L0 emulates"),
    f.EXIT_CONTROLS: Rule(How.COMPUTED, "L0's own, and what concerns events"),
    f.ENTRY_CONTROLS: Rule(How.COMPUTED, "and registers that L0 always loads"),
    f.MSR_BITMAPS: Rule(How.COMPUTED, "a page of L0's: L1's bitmaps and L0's, merged"),
    f.VPID: Rule(How.COMPUTED, "one that no other guest has"),
    f.EPTP: Rule(How.CARRIED, "EPT02, or EPT01 for an L2 without EPT"),
    f.ENTRY_MSR_LOAD_ADDRESS: Rule(_O, "L0 goes through L1's lists"),
    f.ENTRY_MSR_LOAD_COUNT: Rule(_O, "likewise"),
    f.EXIT_MSR_STORE_ADDRESS: Rule(_O, "likewise"),
    f.EXIT_MSR_STORE_COUNT: Rule(_O, "likewise"),
    f.EXIT_MSR_LOAD_ADDRESS: Rule(_O, "likewise"),
    f.EXIT_MSR_LOAD_COUNT: Rule(_O, "likewise"),
    # Addresses
    f.IO_BITMAP_A: Rule(How.TRANSLATED),
    f.IO_BITMAP_B: Rule(How.TRANSLATED),
    f.VIRTUAL_APIC_ADDRESS: Rule(How.TRANSLATED),
    f.APIC_ACCESS_ADDRESS: Rule(How.TRANSLATED),
    f.POSTED_INTERRUPT_DESCRIPTOR: Rule(How.TRANSLATED),
    # Features that L0 emulates or does not offer: off in VMCS02
    f.VM_FUNCTION_CONTROLS: Rule(_O, "VMFUNC exits to L0, which switches EPT12"),
    f.EPTP_LIST_ADDRESS: Rule(_O, "likewise"),
    f.PML_ADDRESS: Rule(_O, "L0 logs when it sets a dirty flag in EPT12"),
    f.VE_INFORMATION_ADDRESS: Rule(_O, "L0 turns violations into #VE"),
    f.VMREAD_BITMAP: Rule(How.COMPUTED, "a page of L0's: L1's, and what L1 does not have"),
    f.VMWRITE_BITMAP: Rule(How.COMPUTED, "likewise"),
    # Guest state that depends on L1's VM-entry controls
    f.GUEST_DR7: Rule(How.CARRIED, "L1's own unless VMCS12 loads debug controls"),
    f.GUEST_DEBUGCTL: Rule(How.CARRIED, "likewise"),
    f.GUEST_PAT: Rule(How.CARRIED, "L1's own unless VMCS12 loads IA32_PAT"),
    f.GUEST_EFER: Rule(How.CARRIED, "L1's own unless VMCS12 loads IA32_EFER"),
    f.VMCS_LINK_POINTER: Rule(How.CARRIED, "L1's shadow VMCS for its L2, translated, or none"),
    **{one: Rule(How.CARRIED, "read at L2's CR3 where L2 has no EPT") for one in f.GUEST_PDPTES},
}


def _rule(field: VmcsField) -> Rule:
    if field in _EXCEPTIONS:
        return _EXCEPTIONS[field]
    if field.kind is FieldKind.EXIT_INFORMATION:
        return Rule(_P)
    return _HOST if field.kind is FieldKind.HOST else Rule(_C)


RULES: dict[VmcsField, Rule] = {field: _rule(field) for field in FIELDS.values()}
"""Where each field of VMCS02 comes from."""


def _runs(fields: Iterable[VmcsField]) -> tuple[range, ...]:
    """Return the slots of fields as runs without gaps."""
    runs: list[range] = []
    for slot in sorted(one.slot for one in fields):
        if runs and runs[-1].stop == slot:
            runs[-1] = range(runs[-1].start, slot + 1)
        else:
            runs.append(range(slot, slot + 1))
    return tuple(runs)


COPIED_CONTROL_SLOTS = _runs(
    field
    for field, rule in RULES.items()
    if rule.how is How.COPIED and field.kind is FieldKind.CONTROL
)
"""Controls that are copied at each entry, event injection among them."""


EXIT_OWN = (
    Exit.HOST_ADDRESS_SPACE_SIZE
    | Exit.SAVE_EFER
    | Exit.LOAD_EFER
    | Exit.SAVE_PAT
    | Exit.LOAD_PAT
    | Exit.SAVE_DEBUG_CONTROLS
)
_EXIT_OF_L1 = Exit.ACKNOWLEDGE_INTERRUPT_ON_EXIT
ENTRY_OWN = Entry.LOAD_EFER | Entry.LOAD_PAT | Entry.LOAD_DEBUG_CONTROLS
_NOT_IN_02 = Secondary.ENABLE_PML | Secondary.EPT_VIOLATION_VE


@dataclass(frozen=True, slots=True)
class Controls12:
    """VMCS12's words of controls; the secondary ones 0 where they are not activated."""

    pin: int
    primary: int
    secondary: int
    exit: int
    entry: int

    @classmethod
    def of(cls, vmcs12: Vmcs) -> "Controls12":
        """Read them."""
        primary = vmcs12.read(f.PRIMARY_CONTROLS)
        active = primary & Primary.ACTIVATE_SECONDARY_CONTROLS
        return cls(
            vmcs12.read(f.PIN_BASED_CONTROLS),
            primary,
            vmcs12.read(f.SECONDARY_CONTROLS) if active else 0,
            vmcs12.read(f.EXIT_CONTROLS),
            vmcs12.read(f.ENTRY_CONTROLS),
        )

    @property
    def uses_ept(self) -> bool:
        """L1 gives its L2 an EPT."""
        return bool(self.secondary & Secondary.ENABLE_EPT)

    @property
    def uses_vpid(self) -> bool:
        """L1 gives its L2 a VPID."""
        return bool(self.secondary & Secondary.ENABLE_VPID)

    def has_primary(self, control: int) -> bool:
        """Tell whether a primary control is 1."""
        return bool(self.primary & control)

    def has_secondary(self, control: int) -> bool:
        """Tell whether a secondary control is 1."""
        return bool(self.secondary & control)


@dataclass(frozen=True, slots=True)
class Pages02:
    """L0's pages that a VMCS02 points to."""

    msr_bitmaps: int
    vmread_bitmap: int
    vmwrite_bitmap: int


@dataclass(frozen=True, slots=True)
class Adjust:
    """The processor's settings: what must be 1 and what may be."""

    pin: Callable[[int], int]
    primary: Callable[[int], int]
    secondary: Callable[[int], int]
    exit: Callable[[int], int]
    entry: Callable[[int], int]


def merge_controls(
    vmcs02: Vmcs,
    vmcs12: Vmcs,
    controls: Controls12,
    adjust: Adjust,
    *,
    translate: Callable[[VmcsField, int], int],
    pages: Pages02,
    vpid: int,
) -> None:
    """Write the fields of VMCS02 that are computed from VMCS12's controls, or translated."""
    vmcs02.write(f.PIN_BASED_CONTROLS, adjust.pin(controls.pin))
    primary = controls.primary | Primary.ACTIVATE_SECONDARY_CONTROLS
    vmcs02.write(f.PRIMARY_CONTROLS, adjust.primary(primary))
    secondary = controls.secondary & ~_NOT_IN_02 | Secondary.ENABLE_EPT | Secondary.ENABLE_VPID
    vmcs02.write(f.SECONDARY_CONTROLS, adjust.secondary(secondary))
    leave = EXIT_OWN | controls.exit & _EXIT_OF_L1
    if controls.pin & PinBased.ACTIVATE_PREEMPTION_TIMER:
        # What is left of the timer must outlast the exits that L0 handles itself.
        leave |= Exit.SAVE_PREEMPTION_TIMER
    vmcs02.write(f.EXIT_CONTROLS, adjust.exit(leave))
    vmcs02.write(f.ENTRY_CONTROLS, adjust.entry(controls.entry | ENTRY_OWN))
    for one, word, control in _TRANSLATED:
        used = getattr(controls, word) & control
        vmcs02.write(one, translate(one, vmcs12.read(one)) if used else 0)
    vmcs02.write(f.VPID, vpid)
    vmcs02.write(f.MSR_BITMAPS, pages.msr_bitmaps)
    vmcs02.write(f.VMREAD_BITMAP, pages.vmread_bitmap)
    vmcs02.write(f.VMWRITE_BITMAP, pages.vmwrite_bitmap)


_TRANSLATED = (
    (f.IO_BITMAP_A, "primary", Primary.USE_IO_BITMAPS),
    (f.IO_BITMAP_B, "primary", Primary.USE_IO_BITMAPS),
    (f.VIRTUAL_APIC_ADDRESS, "primary", Primary.USE_TPR_SHADOW),
    (f.APIC_ACCESS_ADDRESS, "secondary", Secondary.VIRTUALIZE_APIC_ACCESSES),
    (f.POSTED_INTERRUPT_DESCRIPTOR, "pin", PinBased.PROCESS_POSTED_INTERRUPTS),
)
"""Fields with addresses, and the control under which each is used."""

TRANSLATED_FIELDS = tuple(one for one, _, _ in _TRANSLATED)


def kept_by_exit(controls: Controls12) -> tuple[VmcsField, ...]:
    """Return the guest-state fields of VMCS12 that a VM exit to L1 leaves as they are.

    SDM 3C, "Saving Guest State".
    """
    kept = [
        f.VMCS_LINK_POINTER,
        f.GUEST_SMBASE,
        f.GUEST_PERF_GLOBAL_CTRL,
        f.GUEST_BNDCFGS,
        f.PML_INDEX,
    ]
    if not controls.exit & Exit.SAVE_DEBUG_CONTROLS:
        kept += [f.GUEST_DR7, f.GUEST_DEBUGCTL]
    if not controls.exit & Exit.SAVE_PAT:
        kept.append(f.GUEST_PAT)
    if not controls.exit & Exit.SAVE_EFER:
        kept.append(f.GUEST_EFER)
    if not controls.exit & Exit.SAVE_PREEMPTION_TIMER:
        kept.append(f.PREEMPTION_TIMER_VALUE)
    if not controls.has_secondary(Secondary.VIRTUAL_INTERRUPT_DELIVERY):
        kept.append(f.GUEST_INTERRUPT_STATUS)
    if not controls.uses_ept:
        kept += f.GUEST_PDPTES
    return tuple(kept)
