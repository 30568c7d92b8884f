"""Checks on the host-state area; where one fails, VM entry is VMfailValid 8."""

from collections.abc import Iterator

from turducken.arch.memory_types import is_valid_pat
from turducken.arch.registers import CR4, EFER
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks.rules import Check, EntryContext, Rule, Section
from turducken.vmx.controls import Entry, Exit

_REGISTERS = Section("host.registers", 'SDM 3C, "Checks on Host Control Registers, MSRs, and SSP"')
_SEGMENTS = Section(
    "host.segments", 'SDM 3C, "Checks on Host Segment and Descriptor-Table Registers"'
)
_SIZE = Section("host.address-space", 'SDM 3C, "Checks Related to Address-Space Size"')

_LMA, _LME = EFER.mask("LMA"), EFER.mask("LME")
_PAE, _PCIDE = CR4.mask("PAE"), CR4.mask("PCIDE")
_RPL_AND_TI = 7


def _is_64bit(c: EntryContext) -> bool:
    return bool(c.exit & Exit.HOST_ADDRESS_SPACE_SIZE)


def _if_exit(control: int, check: Check) -> Check:
    return lambda c: not c.exit & control or check(c)


def _efer_matches(c: EntryContext) -> bool:
    wanted = _LMA | _LME if _is_64bit(c) else 0
    return c[f.HOST_EFER] & (_LMA | _LME) == wanted


REGISTER_RULES: tuple[Rule, ...] = (
    _REGISTERS.rule(
        "cr0",
        "CR0 must not set any bit to a value not supported in VMX operation",
        lambda c: c.capabilities.accepts_cr0(c[f.HOST_CR0]),
    ),
    _REGISTERS.rule(
        "cr4",
        "CR4 must not set any bit to a value not supported in VMX operation",
        lambda c: c.capabilities.accepts_cr4(c[f.HOST_CR4]),
    ),
    _REGISTERS.rule(
        "cr3",
        "CR3 bits beyond the physical-address width must be 0",
        lambda c: not c[f.HOST_CR3] & c.capabilities.physical_reserved,
    ),
    _REGISTERS.rule(
        "sysenter-esp",
        "IA32_SYSENTER_ESP must be canonical",
        lambda c: c.is_canonical(f.HOST_SYSENTER_ESP),
    ),
    _REGISTERS.rule(
        "sysenter-eip",
        "IA32_SYSENTER_EIP must be canonical",
        lambda c: c.is_canonical(f.HOST_SYSENTER_EIP),
    ),
    _REGISTERS.rule(
        "perf-global-ctrl",
        '"load IA32_PERF_GLOBAL_CTRL": its reserved bits must be 0',
        _if_exit(
            Exit.LOAD_PERF_GLOBAL_CTRL,
            lambda c: not c[f.HOST_PERF_GLOBAL_CTRL] & ~c.capabilities.cpu.perf_global_ctrl,
        ),
    ),
    _REGISTERS.rule(
        "pat",
        '"load IA32_PAT": each byte must be a memory type',
        _if_exit(Exit.LOAD_PAT, lambda c: is_valid_pat(c[f.HOST_PAT])),
    ),
    _REGISTERS.rule(
        "efer-reserved",
        '"load IA32_EFER": its reserved bits must be 0',
        _if_exit(Exit.LOAD_EFER, lambda c: not c[f.HOST_EFER] & ~c.capabilities.cpu.efer),
    ),
    _REGISTERS.rule(
        "efer-mode",
        '"load IA32_EFER": LMA and LME must each equal "host address-space size"',
        _if_exit(Exit.LOAD_EFER, _efer_matches),
    ),
)

_SELECTORS = (
    ("cs", f.HOST_CS_SELECTOR),
    ("ss", f.HOST_SS_SELECTOR),
    ("ds", f.HOST_DS_SELECTOR),
    ("es", f.HOST_ES_SELECTOR),
    ("fs", f.HOST_FS_SELECTOR),
    ("gs", f.HOST_GS_SELECTOR),
    ("tr", f.HOST_TR_SELECTOR),
)
_BASES = (
    ("fs", f.HOST_FS_BASE),
    ("gs", f.HOST_GS_BASE),
    ("gdtr", f.HOST_GDTR_BASE),
    ("idtr", f.HOST_IDTR_BASE),
    ("tr", f.HOST_TR_BASE),
)


def _selector_check(field: f.VmcsField) -> Check:
    return lambda c: not c[field] & _RPL_AND_TI


def _canonical_check(field: f.VmcsField) -> Check:
    return lambda c: c.is_canonical(field)


def _segment_rules() -> Iterator[Rule]:
    for name, field in _SELECTORS:
        text = f"{name.upper()} selector: RPL and TI must be 0"
        yield _SEGMENTS.rule(f"{name}-selector", text, _selector_check(field))
    yield _SEGMENTS.rule(
        "cs-null", "the CS selector cannot be 0000H", lambda c: c[f.HOST_CS_SELECTOR] != 0
    )
    yield _SEGMENTS.rule(
        "tr-null", "the TR selector cannot be 0000H", lambda c: c[f.HOST_TR_SELECTOR] != 0
    )
    yield _SEGMENTS.rule(
        "ss-null",
        'the SS selector cannot be 0000H if "host address-space size" is 0',
        lambda c: _is_64bit(c) or c[f.HOST_SS_SELECTOR] != 0,
    )
    for name, field in _BASES:
        text = f"the {name.upper()} base must be canonical"
        yield _SEGMENTS.rule(f"{name}-base", text, _canonical_check(field))


SEGMENT_RULES: tuple[Rule, ...] = tuple(_segment_rules())

ADDRESS_SPACE_RULES: tuple[Rule, ...] = (
    _SIZE.rule(
        "legacy-processor-guest",
        'outside IA-32e mode, "IA-32e mode guest" must be 0',
        lambda c: c.is_ia32e_mode or not c.is_ia32e_guest,
    ),
    _SIZE.rule(
        "legacy-processor-host",
        'outside IA-32e mode, "host address-space size" must be 0',
        lambda c: c.is_ia32e_mode or not _is_64bit(c),
    ),
    _SIZE.rule(
        "ia32e-processor-host",
        'in IA-32e mode, "host address-space size" must be 1',
        lambda c: not c.is_ia32e_mode or _is_64bit(c),
    ),
    _SIZE.rule(
        "legacy-host-guest",
        'a host of 32 bits: "IA-32e mode guest" must be 0',
        lambda c: _is_64bit(c) or not c.entry & Entry.IA32E_MODE_GUEST,
    ),
    _SIZE.rule(
        "legacy-host-pcide",
        "a host of 32 bits: CR4.PCIDE must be 0",
        lambda c: _is_64bit(c) or not c[f.HOST_CR4] & _PCIDE,
    ),
    _SIZE.rule(
        "legacy-host-rip",
        "a host of 32 bits: bits 63:32 of RIP must be 0",
        lambda c: _is_64bit(c) or not c[f.HOST_RIP] >> 32,
    ),
    _SIZE.rule(
        "ia32e-host-pae",
        "a host of 64 bits: CR4.PAE must be 1",
        lambda c: not _is_64bit(c) or bool(c[f.HOST_CR4] & _PAE),
    ),
    _SIZE.rule(
        "ia32e-host-rip",
        "a host of 64 bits: RIP must be canonical",
        lambda c: not _is_64bit(c) or c.is_canonical(f.HOST_RIP),
    ),
)

HOST_RULES = (*REGISTER_RULES, *SEGMENT_RULES, *ADDRESS_SPACE_RULES)
