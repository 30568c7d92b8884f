"""The instruction engine alone: what everything else is measured against."""

import time
from collections.abc import Callable

from turducken.address import PAGE_SIZE
from turducken.cpu.engine import library
from turducken.cpu.engine.grants import Answer

_CODE, _DATA, _SIZE = 0x10_0000, 0x100_0000, 0x200_0000
_HLT = b"\xf4"
_ALL = 7
_TLB_FILL_HOOK = 1 << 17
_COUNT = b"\x48\xb9"  # mov rcx, imm64

SHORT_LOOP = bytes.fromhex("48ffc9 75fb")
"""dec rcx; jnz: as guests/bench has it."""
LONG_LOOP = bytes.fromhex(
    "4801c8 4889c2 48c1e203 4831d0 488d740807 81e6ffff000083ce01 4829f2 4801d0 48c1c005 48ffc9 75d6"
)
"""Twelve instructions, ten of them arithmetic: as guests/bench has it."""
LOOP_LENGTHS = {SHORT_LOOP: 2, LONG_LOOP: 12}
_TOUCH = bytes.fromhex("488b07 4881c700100000 48ffce 75f1")
"""mov rax, [rdi]; add rdi, 4096; dec rsi; jnz"""


class RawEngine:
    """An engine whose addresses are physical, with memory for code and data."""

    def __init__(self) -> None:
        self._engine, self._handle = library.open_engine()
        self._engine.mem_map(0, _SIZE, _ALL)
        self._fill = library.FILL_HOOK(self._on_fill)
        library.add_hook(self._handle, _TLB_FILL_HOOK, self._fill)

    def _on_fill(
        self,
        _engine: int,
        page: int,
        _access: int,
        result: int,
        _data: int,
    ) -> bool:
        answer = Answer.at(result)
        answer.target, answer.rights = page, _ALL
        return True

    def _time(self, code: bytes, prepare: Callable[[], None] | None = None) -> float:
        """Return the seconds that ``code`` takes, which ends with HLT."""
        self._engine.mem_write(_CODE, code + _HLT)
        library.flush_code(self._handle)
        if prepare is not None:
            prepare()
        began = time.process_time()
        library.emu_start(self._handle, _CODE, 0, 0, 0)
        return time.process_time() - began

    def loop(self, body: bytes, rounds: int) -> float:
        """Return instructions a second of a loop that counts RCX down."""
        seconds = self._time(_COUNT + rounds.to_bytes(8, "little") + body)
        return rounds * LOOP_LENGTHS[body] / seconds

    def fill_seconds(self, pages: int, times: int) -> float:
        """Return the seconds that one miss of the engine's TLB takes, answered at once."""
        code = (
            b"\xbf" + _DATA.to_bytes(4, "little") + b"\xbe" + pages.to_bytes(4, "little") + _TOUCH
        )
        assert pages * PAGE_SIZE <= _SIZE - _DATA
        best = min(self._time(code, self._flush) for _ in range(times))
        return best / pages

    def _flush(self) -> None:
        library.flush_tlb(self._handle)
