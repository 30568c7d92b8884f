"""Instructions that the engine knows and the processor does not have.

Which ones is the profile's affair, but for some of other makers that no profile can offer. For
each feature there is what marks its instructions in code, so that only blocks with such bytes are
decoded.
"""

import re

from iced_x86 import CpuidFeature, Instruction, Mnemonic

from turducken.vmx.profile_records import Features

_REX = rb"[\x40-\x4f]?"
_ANY_38_OR_3A = rb"\x0f[\x38\x3a]"
_FEATURES: dict[str, tuple[int, bytes]] = {
    "sse3": (CpuidFeature.SSE3, rb"[\xdb\xdd\xdf]|\x0f[\x12\x16\x7c\x7d\xd0\xf0]"),
    "ssse3": (CpuidFeature.SSSE3, _ANY_38_OR_3A),
    "sse4_1": (CpuidFeature.SSE4_1, _ANY_38_OR_3A),
    "sse4_2": (CpuidFeature.SSE4_2, _ANY_38_OR_3A),
    "aes": (CpuidFeature.AES, _ANY_38_OR_3A),
    "pclmulqdq": (CpuidFeature.PCLMULQDQ, rb"\x0f\x3a\x44"),
    "movbe": (CpuidFeature.MOVBE, rb"\x0f\x38[\xf0\xf1]"),
    "adx": (CpuidFeature.ADX, rb"\x0f\x38\xf6"),
    "popcnt": (CpuidFeature.POPCNT, rb"\x0f\xb8"),
    "bmi1": (CpuidFeature.BMI1, rb"\x0f\xbc|[\xc4\xc5]"),
    "bmi2": (CpuidFeature.BMI2, rb"[\xc4\xc5]"),
    "lzcnt": (CpuidFeature.LZCNT, rb"\x0f\xbd"),
    "cx16": (CpuidFeature.CMPXCHG16B, rb"\x0f\xc7[\x08-\x0f\x48-\x4f\x88-\x8f]"),
    "clflushopt": (CpuidFeature.CLFLUSHOPT, rb"\x0f\xae[\x38-\x3f\x78-\x7f\xb8-\xbf]"),
    "xsaveopt": (CpuidFeature.XSAVEOPT, rb"\x0f\xae[\x30-\x37\x70-\x77\xb0-\xb7]"),
    "rdtscp": (CpuidFeature.RDTSCP, rb"\x0f\x01\xf9"),
    "smap": (CpuidFeature.SMAP, rb"\x0f\x01[\xca\xcb]"),
}
"""What the engine has of each feature, by its name in profiles."""

_NEVER: dict[int, bytes] = {
    CpuidFeature.SSE4A: rb"[\x66\xf2]%b\x0f[\x78\x79]|[\xf2\xf3]%b\x0f\x2b" % (_REX, _REX),
    CpuidFeature.WAITPKG: rb"[\x66\xf2\xf3]%b\x0f\xae[\xf0-\xf7]" % _REX,
    **dict.fromkeys(
        (CpuidFeature.XOP, CpuidFeature.TBM, CpuidFeature.LWP),
        rb"\x8f[\x08-\x3f\x48-\x7f\x88-\xbf\xc8-\xff]",
    ),
}
"""Features of which the engine executes something, wrongly or not, and that nobody is offered."""

EARLIER = {Mnemonic.TZCNT: Mnemonic.BSF, Mnemonic.LZCNT: Mnemonic.BSR}
"""Instructions whose prefix a processor without them ignores: what they are then."""


class AbsentInstructions:
    """The instructions that a processor with these features does not have.

    ``pattern`` finds bytes that may belong to one, as part of a regular expression.
    """

    def __init__(self, features: Features) -> None:
        hidden = [row for name, row in _FEATURES.items() if not getattr(features, name)]
        self._kinds = frozenset(kind for kind, _ in hidden) | frozenset(_NEVER)
        self.pattern = b"|".join({*(marks for _, marks in hidden), *_NEVER.values()})

    def has(self, instruction: Instruction) -> bool:
        """Tell whether an instruction is one of them."""
        return not self._kinds.isdisjoint(instruction.cpuid_features())


def compile_suspects(*patterns: bytes) -> re.Pattern[bytes]:
    """Return what finds any of the patterns in a block of code."""
    return re.compile(b"|".join(sorted(patterns)), re.DOTALL)
