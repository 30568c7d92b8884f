"""Instructions that the engine would execute by itself, wrongly or not repeatably.

RDRAND and RDSEED would read the host's randomness; INS stores to memory before it asks; XGETBV,
XSETBV, INVD and INT1 would not stop. Blocks that contain one are executed one instruction at a time.
"""

import re

from iced_x86 import Decoder, Mnemonic

_SUSPECTS = re.compile(rb"[\x6c\x6d\xf1]|\x0f(?:\x08|\xc7[\xf0-\xff]|\x01[\xd0\xd1])", re.DOTALL)

SPECIAL = frozenset(
    {
        Mnemonic.RDRAND,
        Mnemonic.RDSEED,
        Mnemonic.INSB,
        Mnemonic.INSW,
        Mnemonic.INSD,
        Mnemonic.XGETBV,
        Mnemonic.XSETBV,
        Mnemonic.INVD,
        Mnemonic.INT1,
    }
)


def has_special(code: bytes, bits: int) -> bool:
    """Tell whether a block of ``bits``-bit code has an instruction of `SPECIAL`."""
    if _SUSPECTS.search(code) is None:
        return False
    return any(one.mnemonic in SPECIAL for one in Decoder(bits, code))
