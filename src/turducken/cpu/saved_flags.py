"""RFLAGS as a VM exit saves it: SDM 3C, "Saving RIP, RSP, RFLAGS, and SSP"."""

from typing import TYPE_CHECKING

from turducken.arch.registers import RFLAGS
from turducken.cpu.delivery import saved_flags
from turducken.cpu.events import Event
from turducken.vmx.exit_reasons import ExitReason as R

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_RF = RFLAGS.mask("RF")
INSTRUCTION_EXITS = frozenset(
    {
        *range(R.CPUID, R.WRMSR + 1),
        R.MWAIT,
        R.MONITOR,
        R.PAUSE,
        R.GDTR_OR_IDTR_ACCESS,
        R.LDTR_OR_TR_ACCESS,
        R.INVEPT,
        R.RDTSCP,
        R.INVVPID,
        R.WBINVD,
        R.XSETBV,
        R.RDRAND,
        R.INVPCID,
        R.VMFUNC,
        R.RDSEED,
    }
)
"""Exits that an instruction causes, always or because a control says so."""
_ACCESSES = frozenset({R.EPT_VIOLATION, R.EPT_MISCONFIGURATION, R.PML_FULL, R.APIC_ACCESS})


def flags_at_exit(p: "Processor", reason: int, event: Event | None, during: Event | None) -> int:
    """Return RFLAGS with RF as the exit saves it; ``event`` is what causes it, if one does.

    Where none of the rules applies, RF is what it was.
    """
    flags = p.state.rflags
    if event is not None:
        return saved_flags(p.state, event)
    if reason in INSTRUCTION_EXITS:
        return flags & ~_RF
    if during is not None:
        return saved_flags(p.state, during)
    return flags | _RF if reason in _ACCESSES else flags
