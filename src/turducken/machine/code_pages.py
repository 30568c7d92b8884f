"""Who executes what who writes: keeps translated code true across processors and hypervisor.

Each engine notices its own writes to code that it has translated. For everybody else's, a page is
either writable in some engines or executable in some others: when that changes, the engines that
must notice forget the page, and ask again at their next access.
"""

from collections.abc import Sequence

from turducken.address import PAGE_SHIFT
from turducken.cpu.engine import Engine
from turducken.memory import PhysicalMemory
from turducken.mmu.rights import FETCH, WRITE


class CodePages:
    """Tracks, per host-physical page, the engines that execute it and those that may write it."""

    def __init__(self, memory: PhysicalMemory, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._executed: dict[int, set[int]] = {}
        self._written: dict[int, set[int]] = {}
        self._watched = memory.watch_writes(self._written_outside)

    def touch(self, processor: int, place: int, kind: int) -> None:
        """Learn that ``processor`` was granted an access of ``kind`` to the page at ``place``."""
        frame = place >> PAGE_SHIFT
        if kind == FETCH:
            self._executed.setdefault(frame, set()).add(processor)
            self._watched.add(frame)
            self._revoke(self._written.pop(frame, None), processor, code=False)
        elif kind == WRITE:
            executing = self._executed.get(frame)
            if executing is not None and executing != {processor}:
                self._revoke(executing, processor, code=True)
                executing &= {processor}
            self._written.setdefault(frame, set()).add(processor)

    def touch_alone(self, processor: int, place: int, kind: int) -> None:
        """As `touch`, on a machine with one processor: only writes from outside matter."""
        if kind == FETCH:
            frame = place >> PAGE_SHIFT
            self._executed.setdefault(frame, set()).add(processor)
            self._watched.add(frame)

    def _revoke(self, processors: set[int] | None, but: int, *, code: bool) -> None:
        for number in sorted(processors or ()):
            if number == but:
                continue
            self._engines[number].is_stale = True
            if code:
                self._engines[number].is_code_stale = True

    def _written_outside(self, address: int, _length: int) -> None:
        """A hypervisor, device or processor's own step wrote a page that somebody executes."""
        frame = address >> PAGE_SHIFT
        self._watched.discard(frame)
        for number in sorted(self._executed.pop(frame, ())):
            self._engines[number].is_code_stale = True
