"""A registered PAL, and the pages that it has been lent."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from turducken.address import PAGE_SIZE, Gpa1, Hpa
from turducken.apps.trustvisor.abi import DIGEST_SIZE, SectionKind
from turducken.apps.trustvisor.descriptor import Descriptor, Section
from turducken.memory import PhysicalMemory

if TYPE_CHECKING:
    from turducken.apps.trustvisor.space import PalSpace


class PalState(Enum):
    """What may be done with a PAL."""

    CHANGING = auto()
    """It is being registered or unregistered."""
    READY = auto()
    RUNNING = auto()


class Owner(NamedTuple):
    """Who registered a PAL: L1 or L2 (1, 2), and the address space in which."""

    level: int
    cr3: int


class LentPage(NamedTuple):
    """One page of a PAL."""

    linear: int
    gpa1: Gpa1
    hpa: Hpa
    kind: SectionKind
    memory_type: int
    """The type bits of EPT01's entry, which the PAL's own has too."""


@dataclass(slots=True, eq=False)
class Pal:
    """One PAL."""

    number: int
    owner: Owner
    is_64bit: bool
    descriptor: Descriptor
    pages: tuple[LentPage, ...]
    state: PalState = PalState.CHANGING
    space: "PalSpace | None" = None
    measurement: bytes = bytes(DIGEST_SIZE)
    pcr: bytes = bytes(DIGEST_SIZE)
    calls: int = 0
    ran_on: set[int] = field(default_factory=set)
    """Processors that may have cached its own tables."""

    @property
    def entry_page(self) -> LentPage:
        """The page in which the PAL begins."""
        return next(one for one in self.pages if one.linear == self.descriptor.entry & -PAGE_SIZE)

    @property
    def stack(self) -> Section:
        """Its stack."""
        stack = self.descriptor.section(SectionKind.STACK)
        assert stack is not None
        return stack


class PalMemory:
    """A PAL's memory by its own linear addresses, for TrustVisor."""

    def __init__(self, memory: PhysicalMemory, pal: Pal) -> None:
        self._memory = memory
        self._pages = {one.linear: one for one in pal.pages}

    def read(self, address: int, length: int) -> bytes | None:
        """Return bytes; None where the PAL has no such memory."""
        places = self._places(address, length, writable=False)
        if places is None:
            return None
        return b"".join(self._memory.read(hpa, count) for hpa, count in places)

    def write(self, address: int, data: bytes) -> bool:
        """Replace bytes; False, and nothing done, where the PAL may not."""
        places = self._places(address, len(data), writable=True)
        if places is None:
            return False
        done = 0
        for hpa, count in places:
            self._memory.write(hpa, data[done : done + count])
            done += count
        return True

    def _places(self, address: int, length: int, *, writable: bool) -> list[tuple[int, int]] | None:
        places = []
        while length > 0:
            offset = address % PAGE_SIZE
            page = self._pages.get(address - offset)
            if page is None or (writable and not is_writable(page.kind)):
                return None
            count = min(length, PAGE_SIZE - offset)
            places.append((page.hpa + offset, count))
            address += count
            length -= count
        return places


def is_writable(kind: SectionKind) -> bool:
    """Tell whether a PAL may write a section of this kind."""
    return kind not in (SectionKind.CODE, SectionKind.SHARED_CODE)
