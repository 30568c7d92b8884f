"""Instructions that the engine knows and the processor does not have.

Which ones is the profile's affair, but for some of other makers that no profile can offer. For
each feature there is what marks its instructions in code, so that only blocks with such bytes are
decoded.
"""

import re
from collections.abc import Iterable

from iced_x86 import CpuidFeature, Instruction, Mnemonic

from turducken.vmx.profile_records import Features

_ESCAPE = rb"\x0f"
_ANY_38_OR_3A = rb"\x0f[\x38\x3a]"
_VEX = rb"[\xc4\xc5]"
_XOP = rb"\x8f[\x08-\x3f\x48-\x7f\x88-\xbf\xc8-\xff]"
_FEATURES: dict[str, tuple[int, *tuple[bytes, ...]]] = {
    "sse3": (CpuidFeature.SSE3, rb"[\xdb\xdd\xdf]", rb"\x0f[\x12\x16\x7c\x7d\xd0\xf0]"),
    "ssse3": (CpuidFeature.SSSE3, _ANY_38_OR_3A),
    "sse4_1": (CpuidFeature.SSE4_1, _ANY_38_OR_3A),
    "sse4_2": (CpuidFeature.SSE4_2, _ANY_38_OR_3A),
    "aes": (CpuidFeature.AES, _ANY_38_OR_3A),
    "pclmulqdq": (CpuidFeature.PCLMULQDQ, rb"\x0f\x3a\x44"),
    "movbe": (CpuidFeature.MOVBE, rb"\x0f\x38[\xf0\xf1]"),
    "adx": (CpuidFeature.ADX, rb"\x0f\x38\xf6"),
    "popcnt": (CpuidFeature.POPCNT, rb"\x0f\xb8"),
    "bmi1": (CpuidFeature.BMI1, rb"\x0f\xbc", _VEX),
    "bmi2": (CpuidFeature.BMI2, _VEX),
    "lzcnt": (CpuidFeature.LZCNT, rb"\x0f\xbd"),
    "cx16": (CpuidFeature.CMPXCHG16B, rb"\x0f\xc7[\x08-\x0f\x48-\x4f\x88-\x8f]"),
    "clflushopt": (CpuidFeature.CLFLUSHOPT, rb"\x0f\xae[\x38-\x3f\x78-\x7f\xb8-\xbf]"),
    "xsaveopt": (CpuidFeature.XSAVEOPT, rb"\x0f\xae[\x30-\x37\x70-\x77\xb0-\xb7]"),
    "rdtscp": (CpuidFeature.RDTSCP, rb"\x0f\x01\xf9"),
    "smap": (CpuidFeature.SMAP, rb"\x0f\x01[\xca\xcb]"),
}
"""What the engine has of each feature, by its name in profiles."""

_NEVER: tuple[tuple[int, bytes], ...] = (
    (CpuidFeature.SSE4A, rb"\x0f\x2b"),
    (CpuidFeature.SSE4A, rb"[\x66\xf2][\x40-\x4f]?\x0f[\x78\x79]"),  # else it is VMREAD, VMWRITE
    (CpuidFeature.WAITPKG, rb"\x0f\xae[\xf0-\xf7]"),
    (CpuidFeature.XOP, _XOP),
    (CpuidFeature.TBM, _XOP),
    (CpuidFeature.LWP, _XOP),
)
"""Features of which the engine executes something, wrongly or not, and that nobody is offered."""

EARLIER = {Mnemonic.TZCNT: Mnemonic.BSF, Mnemonic.LZCNT: Mnemonic.BSR}
"""Instructions whose prefix a processor without them ignores: what they are then."""


class AbsentInstructions:
    """The instructions that a processor with these features does not have.

    ``patterns`` find bytes that may belong to one, as regular expressions.
    """

    def __init__(self, features: Features) -> None:
        hidden = [row for name, row in _FEATURES.items() if not getattr(features, name)]
        rows = [*hidden, *_NEVER]
        self._kinds = frozenset(kind for kind, *_ in rows)
        self.patterns = frozenset(mark for _, *marks in rows for mark in marks)

    def has(self, instruction: Instruction) -> bool:
        """Tell whether an instruction is one of them."""
        return not self._kinds.isdisjoint(instruction.cpuid_features())


def compile_suspects(patterns: Iterable[bytes]) -> re.Pattern[bytes]:
    """Return what finds any of the patterns in a block of code; most begin with the same byte."""
    two = sorted(one.removeprefix(_ESCAPE) for one in patterns if one.startswith(_ESCAPE))
    others = sorted(one for one in patterns if not one.startswith(_ESCAPE))
    joined = b"|".join(others) + b"|" + _ESCAPE + b"(?:" + b"|".join(two) + b")"
    return re.compile(joined, re.DOTALL)
