"""Exception vectors: SDM 3A, "Exception and Interrupt Reference"."""

from enum import IntEnum


class Vector(IntEnum):
    """The architectural exceptions, by the manual's mnemonics."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    MF = 16
    AC = 17
    MC = 18
    XM = 19
    VE = 20
    CP = 21


HAS_ERROR_CODE = frozenset(
    {Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC, Vector.CP}
)

CONTRIBUTORY = frozenset({Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.CP})
"""SDM 3A, "Interrupt 8 - Double Fault Exception": the class of contributory exceptions."""

TRAPS = frozenset({Vector.BP, Vector.OF})
"""Exceptions that are reported after the instruction (INT3, INTO), whatever else #DB does."""
