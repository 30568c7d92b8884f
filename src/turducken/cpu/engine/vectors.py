"""x87 and SSE registers, for who looks at a processor between two instructions."""

import ctypes
from dataclasses import dataclass

from unicorn import x86_const

from turducken.cpu.engine import library


@dataclass(frozen=True, slots=True)
class _Place:
    number: int
    size: int


_PLACES = {
    **{f"st{n}": _Place(x86_const.UC_X86_REG_FP0 + n, 10) for n in range(8)},
    **{f"xmm{n}": _Place(x86_const.UC_X86_REG_XMM0 + n, 16) for n in range(16)},
    "fctrl": _Place(x86_const.UC_X86_REG_FPCW, 2),
    "fstat": _Place(x86_const.UC_X86_REG_FPSW, 2),
    "ftag": _Place(x86_const.UC_X86_REG_FPTAG, 2),
    "mxcsr": _Place(x86_const.UC_X86_REG_MXCSR, 4),
}
"""By the names that debuggers use."""


class Vectors:
    """The registers by name, as numbers; what the engine has not reads as 0."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._room = ctypes.create_string_buffer(16)

    def read(self, name: str) -> int:
        """Return a register."""
        place = _PLACES.get(name)
        if place is None:
            return 0
        ctypes.memset(self._room, 0, 16)
        library.reg_read(self._handle, place.number, self._room)
        return int.from_bytes(self._room.raw[: place.size], "little")

    def write(self, name: str, value: int) -> bool:
        """Set a register; False where there is none of that name."""
        place = _PLACES.get(name)
        if place is None:
            return False
        self._room.raw = value.to_bytes(16, "little")
        library.reg_write(self._handle, place.number, self._room)
        return True
