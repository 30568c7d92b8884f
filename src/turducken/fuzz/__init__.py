"""Hostile guests by the thousand: whether L0 stands whatever L1 and L2 do.

A trial runs one of lhv's tests nested, and while it runs puts noise into whatever L1 owns (VMCS12s,
EPT12s, bitmaps, MSR lists, roots, VMX operands). All of a trial follows from its seed.
"""

from turducken.fuzz.judge import Finding
from turducken.fuzz.trial import DEFAULT_LIMIT, Trial, TrialOptions, run_trial

__all__ = ["DEFAULT_LIMIT", "Finding", "Trial", "TrialOptions", "run_trial"]
