"""Single-stepping on branches: RFLAGS.TF with IA32_DEBUGCTL.BTF.

SDM 3B, "Single-Stepping on Branches": the trap comes behind a branch that is taken, not behind
other instructions. While it is on, code is executed one instruction at a time.
"""

from typing import TYPE_CHECKING

from turducken.arch.debug import DEBUGCTL_BTF
from turducken.arch.registers import RFLAGS

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_TF = RFLAGS.mask("TF")


def is_on(p: "Processor") -> bool:
    """Tell whether single steps are taken at branches only."""
    return bool(p.msrs.debugctl & DEBUGCTL_BTF)


def flags_to_watch(p: "Processor") -> int | None:
    """Return the bits of RFLAGS at which code must stop; None: after each instruction."""
    if not is_on(p):
        return 0
    return None if p.state.rflags & _TF else _TF


def has_branched(p: "Processor") -> bool:
    """Tell whether the instruction that has been executed left the straight line.

    A string instruction that is to be repeated has not.
    """
    if p.stepped_from is None:
        return True
    return p.state.rip not in p.stepped_from
