"""Hostile guests by the thousand: whether L0 stands whatever L1 and L2 do.

A trial runs one of lhv's tests nested, and while it runs puts noise into whatever L1 owns (VMCS12s,
EPT12s, bitmaps, MSR lists, roots, VMX operands). All of a trial follows from its seed.

A sequence is a program of instructions in L1 and L2, which must do the same bare and nested.
"""

from turducken.fuzz.judge import Finding
from turducken.fuzz.sequence import run_sequence
from turducken.fuzz.trial import DEFAULT_LIMIT, Trial, TrialOptions, run_trial

__all__ = ["DEFAULT_LIMIT", "Finding", "Trial", "TrialOptions", "run_sequence", "run_trial"]
