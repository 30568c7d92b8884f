"""Checks on guest RIP and RFLAGS, on guest non-register state, and on the PDPTEs."""

from turducken.address import PAGE_OFFSET_MASK
from turducken.arch.debug import DEBUGCTL_BTF
from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, CR3, CR4, RFLAGS
from turducken.paging.entries import PAE_PDPTE
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks.rules import Check, EntryContext, Rule, Section
from turducken.vmx.controls import PinBased, Secondary
from turducken.vmx.exit_information import (
    ACCESS_RIGHTS,
    BLOCKING_BY_MOV_SS,
    BLOCKING_BY_NMI,
    BLOCKING_BY_SMI,
    BLOCKING_BY_STI,
    ENCLAVE_INTERRUPTION,
    ENTRY_INTERRUPTION,
    INTERRUPTIBILITY,
    INTERRUPTION_VALID,
    PENDING_DEBUG,
    Activity,
    EntryFailureQualification,
    EventType,
)
from turducken.vmx.vmcs import REVISION_MASK, SHADOW_INDICATOR

_RIP = Section("guest.rip-rflags", 'SDM 3C, "Checks on Guest RIP, RFLAGS, and SSP"')
_STATE = Section("guest.non-register", 'SDM 3C, "Checks on Guest Non-Register State"')
_PDPTES = Section("guest.pdptes", 'SDM 3C, "Checks on Guest Page-Directory-Pointer-Table Entries"')

_PE, _PG, _PAE = CR0.mask("PE"), CR0.mask("PG"), CR4.mask("PAE")
_VM, _IF, _TF = RFLAGS.mask("VM"), RFLAGS.mask("IF"), RFLAGS.mask("TF")
_ONE = RFLAGS.mask("ONE")
RFLAGS_FIXED = RFLAGS.reserved_mask | _ONE
"""Bits of RFLAGS that have one value only."""
RFLAGS_FIXED_VALUE = _ONE
_CS_L = ACCESS_RIGHTS.mask("L")
_DPL = ACCESS_RIGHTS["DPL"]
_BS, _RTM = PENDING_DEBUG.mask("BS"), PENDING_DEBUG.mask("RTM")
_ENABLED = PENDING_DEBUG.mask("ENABLED")
_TYPE, _VECTOR = ENTRY_INTERRUPTION["TYPE"], ENTRY_INTERRUPTION["VECTOR"]
NO_LINK = 0xFFFF_FFFF_FFFF_FFFF
_PDPTE_PRESENT = PAE_PDPTE.mask("P")
_PAE_BASE = CR3.mask("PAE_ADDRESS")


# RIP and RFLAGS


def is_64bit_mode(c: EntryContext) -> bool:
    """Tell whether the guest will be in 64-bit mode."""
    return c.is_ia32e_guest and bool(c[f.GUEST_CS_ACCESS_RIGHTS] & _CS_L)


def _rip_is_in_width(c: EntryContext) -> bool:
    """In 64-bit mode, bits 63:N are identical, N being the linear-address width.

    This is one bit less than canonical: the first fetch faults where bit N-1 differs.
    """
    if not is_64bit_mode(c):
        return True
    width = c.capabilities.linear_width
    return c[f.GUEST_RIP] >> width in (0, (1 << (64 - width)) - 1)


def _event_type(c: EntryContext) -> int | None:
    """Return the type of the event that is injected, or None."""
    information = c[f.ENTRY_INTERRUPTION_INFORMATION]
    return _TYPE.get(information) if information & INTERRUPTION_VALID else None


RIP_RULES: tuple[Rule, ...] = (
    _RIP.rule(
        "rip-32",
        "outside 64-bit mode, bits 63:32 of RIP must be 0",
        lambda c: is_64bit_mode(c) or not c[f.GUEST_RIP] >> 32,
    ),
    _RIP.rule(
        "rip-64",
        "in 64-bit mode, RIP bits beyond the linear-address width must be identical",
        _rip_is_in_width,
    ),
    _RIP.rule(
        "rflags-reserved",
        "RFLAGS bits 63:22, 15, 5 and 3 must be 0, bit 1 must be 1",
        lambda c: c[f.GUEST_RFLAGS] & RFLAGS_FIXED == RFLAGS_FIXED_VALUE,
    ),
    _RIP.rule(
        "rflags-vm",
        "RFLAGS.VM must be 0 in an IA-32e mode guest, and if CR0.PE is 0",
        lambda c: (
            not c[f.GUEST_RFLAGS] & _VM or (not c.is_ia32e_guest and bool(c[f.GUEST_CR0] & _PE))
        ),
    ),
    _RIP.rule(
        "rflags-if",
        "RFLAGS.IF must be 1 if an external interrupt is injected",
        lambda c: _event_type(c) != EventType.EXTERNAL_INTERRUPT or bool(c[f.GUEST_RFLAGS] & _IF),
    ),
)


# Activity state


def _activity_is_supported(c: EntryContext) -> bool:
    activity = c[f.GUEST_ACTIVITY]
    return activity <= Activity.WAIT_FOR_SIPI and bool(
        c.capabilities.activity_states >> activity & 1
    )


def _hlt_is_privileged(c: EntryContext) -> bool:
    if c[f.GUEST_ACTIVITY] != Activity.HLT:
        return True
    return _DPL.get(c[f.GUEST_SS_ACCESS_RIGHTS]) == 0


def _is_blocked(c: EntryContext) -> bool:
    return bool(c[f.GUEST_INTERRUPTIBILITY] & (BLOCKING_BY_STI | BLOCKING_BY_MOV_SS))


def _event_wakes(c: EntryContext) -> bool:
    """The injected event must be one that the activity state does not block."""
    kind, activity = _event_type(c), c[f.GUEST_ACTIVITY]
    if kind is None or activity == Activity.ACTIVE:
        return True
    vector = _VECTOR.get(c[f.ENTRY_INTERRUPTION_INFORMATION])
    is_exception = kind == EventType.HARDWARE_EXCEPTION
    if activity == Activity.HLT:
        if is_exception:
            return vector in (Vector.DB, Vector.MC)
        waking = (EventType.EXTERNAL_INTERRUPT, EventType.NMI, EventType.OTHER_EVENT)
        return kind in waking
    if activity == Activity.SHUTDOWN:
        return kind == EventType.NMI or (is_exception and vector == Vector.MC)
    return False


_ACTIVITY_RULES = (
    _STATE.rule(
        "activity-supported", "the activity state must be a supported one", _activity_is_supported
    ),
    _STATE.rule("activity-hlt", "HLT needs SS.DPL = 0", _hlt_is_privileged),
    _STATE.rule(
        "activity-blocking",
        "the activity state must be active if blocking by STI or MOV SS is in effect",
        lambda c: c[f.GUEST_ACTIVITY] == Activity.ACTIVE or not _is_blocked(c),
    ),
    _STATE.rule(
        "activity-event",
        "the injected event must not be one that the activity state blocks",
        _event_wakes,
    ),
)


# Interruptibility state


def _interruptibility(bits: int) -> Check:
    return lambda c: not c[f.GUEST_INTERRUPTIBILITY] & bits


def _when_injecting(kind: EventType, check: Check) -> Check:
    return lambda c: _event_type(c) != kind or check(c)


def _not_both_blockings(c: EntryContext) -> bool:
    both = BLOCKING_BY_STI | BLOCKING_BY_MOV_SS
    return c[f.GUEST_INTERRUPTIBILITY] & both != both


def _sti_needs_if(c: EntryContext) -> bool:
    sti = c[f.GUEST_INTERRUPTIBILITY] & BLOCKING_BY_STI
    return not sti or bool(c[f.GUEST_RFLAGS] & _IF)


def _nmi_finds_no_sti(c: EntryContext) -> bool:
    """A processor may demand this; the profile chooses."""
    if not c.capabilities.cpu.nmi_injection_needs_no_sti_blocking:
        return True
    return not c[f.GUEST_INTERRUPTIBILITY] & BLOCKING_BY_STI


def _nmi_finds_no_virtual_blocking(c: EntryContext) -> bool:
    virtual = c.pin & PinBased.VIRTUAL_NMIS
    return not virtual or not c[f.GUEST_INTERRUPTIBILITY] & BLOCKING_BY_NMI


def _enclave_is_possible(c: EntryContext) -> bool:
    state = c[f.GUEST_INTERRUPTIBILITY]
    if not state & ENCLAVE_INTERRUPTION:
        return True
    return c.capabilities.cpu.sgx and not state & BLOCKING_BY_MOV_SS


_INTERRUPTIBILITY_RULES = (
    _STATE.rule(
        "interruptibility-reserved",
        "bits 31:5 of the interruptibility state must be 0",
        _interruptibility(INTERRUPTIBILITY.reserved_mask),
    ),
    _STATE.rule(
        "interruptibility-both",
        "blocking by STI and by MOV SS cannot both be in effect",
        _not_both_blockings,
    ),
    _STATE.rule("sti-if", "blocking by STI needs RFLAGS.IF", _sti_needs_if),
    _STATE.rule(
        "interrupt-blocked",
        "an external interrupt cannot be injected under blocking by STI or MOV SS",
        _when_injecting(
            EventType.EXTERNAL_INTERRUPT, _interruptibility(BLOCKING_BY_STI | BLOCKING_BY_MOV_SS)
        ),
    ),
    _STATE.rule(
        "nmi-mov-ss",
        "an NMI cannot be injected under blocking by MOV SS",
        _when_injecting(EventType.NMI, _interruptibility(BLOCKING_BY_MOV_SS)),
    ),
    _STATE.rule(
        "smi", "outside SMM, there is no blocking by SMI", _interruptibility(BLOCKING_BY_SMI)
    ),
    _STATE.rule(
        "nmi-sti",
        "an NMI cannot be injected under blocking by STI, on processors that demand it",
        _when_injecting(EventType.NMI, _nmi_finds_no_sti),
        EntryFailureQualification.NMI,
    ),
    _STATE.rule(
        "nmi-virtual",
        'with "virtual NMIs", an NMI cannot be injected under blocking by NMI',
        _when_injecting(EventType.NMI, _nmi_finds_no_virtual_blocking),
    ),
    _STATE.rule(
        "enclave",
        "enclave interruption needs SGX, and no blocking by MOV SS",
        _enclave_is_possible,
    ),
)


# Pending debug exceptions


def _traps_may_pend(c: EntryContext) -> bool:
    return _is_blocked(c) or c[f.GUEST_ACTIVITY] == Activity.HLT


def _single_stepping(c: EntryContext) -> bool:
    """RFLAGS.TF is 1 and IA32_DEBUGCTL.BTF is 0."""
    return bool(c[f.GUEST_RFLAGS] & _TF) and not c[f.GUEST_DEBUGCTL] & DEBUGCTL_BTF


def _bs_is_not_missing(c: EntryContext) -> bool:
    needed = _traps_may_pend(c) and _single_stepping(c)
    return not needed or bool(c[f.GUEST_PENDING_DEBUG] & _BS)


def _bs_is_not_stray(c: EntryContext) -> bool:
    forbidden = _traps_may_pend(c) and not _single_stepping(c)
    return not forbidden or not c[f.GUEST_PENDING_DEBUG] & _BS


def _if_rtm(check: Check) -> Check:
    return lambda c: not c[f.GUEST_PENDING_DEBUG] & _RTM or check(c)


_PENDING_RULES = (
    _STATE.rule(
        "pending-reserved",
        "bits 11:4, 13, 15 and 63:17 of the pending debug exceptions must be 0",
        lambda c: not c[f.GUEST_PENDING_DEBUG] & PENDING_DEBUG.reserved_mask,
    ),
    _STATE.rule(
        "pending-bs-missing",
        "under STI or MOV SS blocking, or in HLT: BS must be 1 if TF = 1 and BTF = 0",
        _bs_is_not_missing,
    ),
    _STATE.rule(
        "pending-bs-stray",
        "under STI or MOV SS blocking, or in HLT: BS must be 0 if TF = 0 or BTF = 1",
        _bs_is_not_stray,
    ),
    _STATE.rule(
        "pending-rtm-bits",
        "with the RTM bit, bit 12 must be 1 and all others 0",
        _if_rtm(lambda c: c[f.GUEST_PENDING_DEBUG] == _RTM | _ENABLED),
    ),
    _STATE.rule(
        "pending-rtm-support",
        "the RTM bit needs a processor with RTM",
        _if_rtm(lambda c: c.capabilities.cpu.rtm),
    ),
    _STATE.rule(
        "pending-rtm-blocking",
        "the RTM bit excludes blocking by MOV SS",
        _if_rtm(_interruptibility(BLOCKING_BY_MOV_SS)),
    ),
)


# VMCS link pointer


def _if_linked(check: Check) -> Check:
    return lambda c: c[f.VMCS_LINK_POINTER] == NO_LINK or check(c)


def _linked_header(c: EntryContext) -> int:
    """Return the first 4 bytes that the link pointer references."""
    header = c.memory.load(c[f.VMCS_LINK_POINTER], 4)
    return 0xFFFF_FFFF if header is None else header


def _shadow_indicator_matches(c: EntryContext) -> bool:
    shadowing = bool(c.secondary & Secondary.VMCS_SHADOWING)
    return bool(_linked_header(c) & SHADOW_INDICATOR) == shadowing


_LINK = EntryFailureQualification.LINK_POINTER
LINK_RULES: tuple[Rule, ...] = (
    _STATE.rule(
        "link-alignment",
        "bits 11:0 of the VMCS link pointer must be 0",
        _if_linked(lambda c: not c[f.VMCS_LINK_POINTER] & PAGE_OFFSET_MASK),
        _LINK,
    ),
    _STATE.rule(
        "link-width",
        "the VMCS link pointer must not set bits beyond the physical-address width",
        _if_linked(lambda c: not c[f.VMCS_LINK_POINTER] & c.capabilities.address_reserved),
        _LINK,
    ),
    _STATE.rule(
        "link-revision",
        "the linked VMCS must have the processor's revision identifier",
        _if_linked(lambda c: _linked_header(c) & REVISION_MASK == c.capabilities.revision),
        _LINK,
    ),
    _STATE.rule(
        "link-shadow",
        'the linked VMCS\'s shadow indicator must equal the "VMCS shadowing" control',
        _if_linked(_shadow_indicator_matches),
        _LINK,
    ),
    _STATE.rule(
        "link-current",
        "the VMCS link pointer must not be the current-VMCS pointer",
        _if_linked(lambda c: c[f.VMCS_LINK_POINTER] != c.pointer),
        _LINK,
    ),
)

STATE_RULES: tuple[Rule, ...] = (*_ACTIVITY_RULES, *_INTERRUPTIBILITY_RULES, *_PENDING_RULES)
"""Rules on activity, interruptibility and pending debug exceptions."""


# PDPTEs


def uses_pae(c: EntryContext) -> bool:
    """Tell whether the guest will use PAE paging."""
    return bool(c[f.GUEST_CR0] & _PG and c[f.GUEST_CR4] & _PAE) and not c.is_ia32e_guest


def reads_pdptes(c: EntryContext) -> bool:
    """Tell whether the PDPTEs come from memory: PAE paging without EPT."""
    return uses_pae(c) and not c.secondary & Secondary.ENABLE_EPT


def _pdptes(c: EntryContext) -> list[int]:
    if c.secondary & Secondary.ENABLE_EPT:
        return [c[one] for one in f.GUEST_PDPTES]
    table = c[f.GUEST_CR3] & _PAE_BASE
    loaded = (c.memory.load(table + 8 * number, 8) for number in range(4))
    return [0 if one is None else one for one in loaded]


def _pdptes_are_valid(c: EntryContext) -> bool:
    """Each entry that is present has no reserved bit set.

    Without EPT they are those in memory that CR3 references, as for MOV to CR3.
    """
    if not uses_pae(c):
        return True
    bad = PAE_PDPTE.reserved_mask | c.capabilities.physical_reserved
    return all(not one & _PDPTE_PRESENT or not one & bad for one in _pdptes(c))


PDPTE_RULE = _PDPTES.rule(
    "reserved",
    "PAE paging: no PDPTE that is present sets a reserved bit",
    _pdptes_are_valid,
    EntryFailureQualification.PDPTE,
)
