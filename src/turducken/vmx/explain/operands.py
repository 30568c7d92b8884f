"""What VMX instructions were given, for whoever explains how they failed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from turducken.diagnosis import BrokenRule
from turducken.vmx.instructions import VmResult, VmxUnit

REFERENCE = 'SDM 3C, "VMX Instruction Reference"'


@dataclass(frozen=True, slots=True)
class Operands:
    """What an instruction was given: as many of these as it has.

    ``value`` is a pointer, a field's encoding or a type of invalidation; ``descriptor`` the two
    halves of the descriptor of INVEPT or INVVPID (None where the type was refused before).
    ``is_shadowed``: VMREAD or VMWRITE of a guest under VMCS shadowing.
    """

    value: int = 0
    descriptor: tuple[int, int] | None = None
    was_in_operation: bool = True
    is_shadowed: bool = False


Explainer = Callable[[VmxUnit, Operands, VmResult], Iterator[BrokenRule]]
"""Yields the rules that an instruction broke, in the order in which the processor tests."""
