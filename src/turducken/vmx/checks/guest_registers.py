"""Checks on guest control and debug registers, MSRs and descriptor-table registers.

Where one fails, VM entry ends in a VM exit with reason 33.
"""

from turducken.arch.memory_types import is_valid_pat
from turducken.arch.registers import CR0, CR4, EFER
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks.rules import Check, EntryContext, Rule, Section
from turducken.vmx.controls import Entry

_REGISTERS = Section(
    "guest.registers", 'SDM 3C, "Checks on Guest Control Registers, Debug Registers, and MSRs"'
)
_TABLES = Section("guest.descriptor-tables", 'SDM 3C, "Checks on Guest Descriptor-Table Registers"')

_PE, _PG = CR0.mask("PE"), CR0.mask("PG")
_PAE, _PCIDE = CR4.mask("PAE"), CR4.mask("PCIDE")
_LMA, _LME = EFER.mask("LMA"), EFER.mask("LME")
_BNDCFGS_RESERVED = 0xFFC
"""Bits 11:2 of IA32_BNDCFGS; bits 63:12 are the base of the bound directory."""


def _if_entry(control: int, check: Check) -> Check:
    return lambda c: not c.entry & control or check(c)


def _lma_matches(c: EntryContext) -> bool:
    """LMA must equal "IA-32e mode guest"."""
    return bool(c[f.GUEST_EFER] & _LMA) == c.is_ia32e_guest


def _lme_matches(c: EntryContext) -> bool:
    """LMA must be identical to LME if CR0.PG = 1."""
    efer = c[f.GUEST_EFER]
    return not c[f.GUEST_CR0] & _PG or bool(efer & _LMA) == bool(efer & _LME)


REGISTER_RULES: tuple[Rule, ...] = (
    _REGISTERS.rule(
        "cr0",
        "CR0 must not set any bit to a value not supported in VMX operation (PE and PG may be 0 "
        "in an unrestricted guest)",
        lambda c: c.capabilities.accepts_cr0(c[f.GUEST_CR0], unrestricted=c.is_unrestricted),
    ),
    _REGISTERS.rule(
        "cr0-paging",
        "CR0.PG needs CR0.PE",
        lambda c: c[f.GUEST_CR0] & (_PE | _PG) != _PG,
    ),
    _REGISTERS.rule(
        "cr4",
        "CR4 must not set any bit to a value not supported in VMX operation",
        lambda c: c.capabilities.accepts_cr4(c[f.GUEST_CR4]),
    ),
    _REGISTERS.rule(
        "debugctl",
        '"load debug controls": reserved bits of IA32_DEBUGCTL must be 0',
        _if_entry(
            Entry.LOAD_DEBUG_CONTROLS,
            lambda c: not c[f.GUEST_DEBUGCTL] & ~c.capabilities.cpu.debugctl,
        ),
    ),
    _REGISTERS.rule(
        "ia32e-paging",
        '"IA-32e mode guest": CR0.PG must be 1',
        _if_entry(Entry.IA32E_MODE_GUEST, lambda c: bool(c[f.GUEST_CR0] & _PG)),
    ),
    _REGISTERS.rule(
        "ia32e-pae",
        '"IA-32e mode guest": CR4.PAE must be 1',
        _if_entry(Entry.IA32E_MODE_GUEST, lambda c: bool(c[f.GUEST_CR4] & _PAE)),
    ),
    _REGISTERS.rule(
        "legacy-pcide",
        'without "IA-32e mode guest", CR4.PCIDE must be 0',
        lambda c: c.is_ia32e_guest or not c[f.GUEST_CR4] & _PCIDE,
    ),
    _REGISTERS.rule(
        "dr7",
        '"load debug controls": bits 63:32 of DR7 must be 0',
        _if_entry(Entry.LOAD_DEBUG_CONTROLS, lambda c: not c[f.GUEST_DR7] >> 32),
    ),
    _REGISTERS.rule(
        "sysenter-esp",
        "IA32_SYSENTER_ESP must be canonical",
        lambda c: c.is_canonical(f.GUEST_SYSENTER_ESP),
    ),
    _REGISTERS.rule(
        "sysenter-eip",
        "IA32_SYSENTER_EIP must be canonical",
        lambda c: c.is_canonical(f.GUEST_SYSENTER_EIP),
    ),
    _REGISTERS.rule(
        "perf-global-ctrl",
        '"load IA32_PERF_GLOBAL_CTRL": its reserved bits must be 0',
        _if_entry(
            Entry.LOAD_PERF_GLOBAL_CTRL,
            lambda c: not c[f.GUEST_PERF_GLOBAL_CTRL] & ~c.capabilities.cpu.perf_global_ctrl,
        ),
    ),
    _REGISTERS.rule(
        "pat",
        '"load IA32_PAT": each byte must be a memory type',
        _if_entry(Entry.LOAD_PAT, lambda c: is_valid_pat(c[f.GUEST_PAT])),
    ),
    _REGISTERS.rule(
        "efer-reserved",
        '"load IA32_EFER": its reserved bits must be 0',
        _if_entry(Entry.LOAD_EFER, lambda c: not c[f.GUEST_EFER] & ~c.capabilities.cpu.efer),
    ),
    _REGISTERS.rule(
        "efer-lma",
        '"load IA32_EFER": LMA must equal "IA-32e mode guest"',
        _if_entry(Entry.LOAD_EFER, _lma_matches),
    ),
    _REGISTERS.rule(
        "efer-lme",
        '"load IA32_EFER": with CR0.PG = 1, LMA must equal LME',
        _if_entry(Entry.LOAD_EFER, _lme_matches),
    ),
    _REGISTERS.rule(
        "bndcfgs-reserved",
        '"load IA32_BNDCFGS": its reserved bits must be 0',
        _if_entry(Entry.LOAD_BNDCFGS, lambda c: not c[f.GUEST_BNDCFGS] & _BNDCFGS_RESERVED),
    ),
    _REGISTERS.rule(
        "bndcfgs-base",
        '"load IA32_BNDCFGS": the linear address in bits 63:12 must be canonical',
        _if_entry(Entry.LOAD_BNDCFGS, lambda c: c.is_canonical(f.GUEST_BNDCFGS)),
    ),
    _TABLES.rule(
        "gdtr-base", "the GDTR base must be canonical", lambda c: c.is_canonical(f.GUEST_GDTR_BASE)
    ),
    _TABLES.rule(
        "idtr-base", "the IDTR base must be canonical", lambda c: c.is_canonical(f.GUEST_IDTR_BASE)
    ),
    _TABLES.rule(
        "gdtr-limit",
        "bits 31:16 of the GDTR limit must be 0",
        lambda c: not c[f.GUEST_GDTR_LIMIT] >> 16,
    ),
    _TABLES.rule(
        "idtr-limit",
        "bits 31:16 of the IDTR limit must be 0",
        lambda c: not c[f.GUEST_IDTR_LIMIT] >> 16,
    ),
)
"""Rules on fields that seldom change."""

CR3_RULE = _REGISTERS.rule(
    "cr3",
    "CR3 bits beyond the physical-address width must be 0",
    lambda c: not c[f.GUEST_CR3] & c.capabilities.physical_reserved,
)
