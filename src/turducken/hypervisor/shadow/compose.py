"""One entry of EPT02 from EPT12 and EPT01, or why there is none.

Permissions are those that all levels of both tables give; the page is the largest that both sides
and the processor allow; the memory type is EPT12's under EPT01's
(`turducken.paging.rights.combine`). Accessed and dirty flags of EPT12 are set here, as the
processor would: before the entry exists, and for the dirty flag before the entry is writable.
"""

from dataclasses import dataclass
from typing import NamedTuple

from turducken.address import Gpa1, Gpa2, Hpa
from turducken.hypervisor.ept01 import Ept01, Place
from turducken.hypervisor.ept_table import USER_EXECUTE, leaf_for
from turducken.hypervisor.guest_memory import GuestMemory
from turducken.paging import entries as e
from turducken.paging import rights
from turducken.paging.formats import EPT, EPT_5LEVEL, BoundFormat, Features
from turducken.paging.walker import Stop, Walk, walk

READ, WRITE, EXECUTE = (e.EPT_PTE.mask(one) for one in "RWX")
_RWX = READ | WRITE | EXECUTE
_TYPE_BITS = e.EPT_PTE.mask("MT", "IPAT")
_TYPE = e.EPT_MEMORY_TYPE
_SUPPRESS_VE = e.EPT_PTE.mask("SVE")


class Filled(NamedTuple):
    """EPT02 maps ``1 << shift`` bytes from ``gpa2`` on by the leaf ``entry``."""

    gpa2: Gpa2
    shift: int
    entry: int
    gpa1: Gpa1
    tables: tuple[Gpa1, ...]
    """The pages of EPT12 that were read."""


class Leaf12(NamedTuple):
    """A leaf of EPT12, for one address: where it leads, what all levels give, the pages read."""

    gpa1: Gpa1
    shift: int
    entry: int
    all_of: int
    tables: tuple[Gpa1, ...]


class Denied12(NamedTuple):
    """EPT12 does not allow the access: an EPT violation for L1; ``allowed`` are its rights."""

    allowed: int
    suppresses_ve: bool = True
    """Bit 63 of the entry that decided."""


class Misconfigured12(NamedTuple):
    """EPT12 is misconfigured there: an EPT misconfiguration for L1."""


class Denied01(NamedTuple):
    """EPT12 allows it, but EPT01 does not: a matter for L0 or a hypapp."""

    gpa1: Gpa1
    allowed: int


_LOG_ENTRIES = 512


class LogFull(NamedTuple):
    """No flag can be set while the log is full: "page-modification log full" for L1."""


class Unwatched(NamedTuple):
    """These pages of EPT12 must be watched first; then L2 tries again."""

    tables: frozenset[Gpa1]


Composition = Filled | Denied12 | Misconfigured12 | Denied01 | LogFull | Unwatched


@dataclass(slots=True)
class Log12:
    """L1's page-modification log: SDM 3C, "Page-Modification Logging"."""

    address: Gpa1
    index: int


@dataclass(frozen=True, slots=True)
class EptView:
    """How EPT12 is to be read: L1's capabilities, and the controls in force for its L2."""

    features: Features
    accessed_dirty: bool = False
    has_five_levels: bool = False

    @property
    def format(self) -> BoundFormat:
        """The bound format of EPT12."""
        return (EPT_5LEVEL if self.has_five_levels else EPT).bind(self.features)


class Composer:
    """Composes for one processor. ``sizes`` are the shifts of leaves the processor has."""

    def __init__(
        self,
        ept01: Ept01,
        memory: GuestMemory,
        *,
        sizes: tuple[int, ...],
        execute_only: bool,
    ) -> None:
        self._ept01 = ept01
        self.memory = memory
        """L1's memory, where EPT12 is."""
        self._sizes = sizes
        self._execute_only = execute_only
        self._types: dict[tuple[int, int], int] = {}
        self.log: Log12 | None = None

    def walk12(self, view: EptView, eptp12: int, gpa2: Gpa2) -> Walk:
        """Walk EPT12 for ``gpa2``."""
        return walk(view.format, self.memory, eptp12, gpa2)

    def compose(self, view: EptView, eptp12: int, gpa2: Gpa2, access: int) -> Composition:
        """Return EPT02's entry for an ``access`` (its R, W and X) to ``gpa2``."""
        if gpa2 >> 48:
            return Denied12(0)
        found = walk(view.format, self.memory, eptp12, gpa2)
        if found.stop is Stop.MALFORMED:
            return self.malformed(found)
        if found.stop is not Stop.PAGE:
            return Denied12(0, bool(found.leaf & _SUPPRESS_VE))
        all_of = self.rights_of(found)
        if access & ~all_of & _RWX and not (
            view.features.mode_based_execute and access == EXECUTE and all_of & USER_EXECUTE
        ):
            return Denied12(all_of & (_RWX | USER_EXECUTE), bool(found.leaf & _SUPPRESS_VE))
        gpa1 = Gpa1(found.output(gpa2))
        place = self._ept01.find(gpa1)
        allowed = place.entry & _RWX if place is not None else 0
        if place is None or access & ~allowed:
            return Denied01(gpa1, allowed)
        leaf = found.leaf
        if view.accessed_dirty:
            is_write = bool(access & WRITE)
            if self._is_log_full() and _lacks_flags(found, dirty=is_write):
                return LogFull()
            if is_write and not leaf & e.EPT_D:
                self._log(gpa2)
            leaf = self._set_flags(found, dirty=is_write)
        tables = tuple(Gpa1(step.address & -4096) for step in found.steps)
        return self.combine(view, gpa2, Leaf12(gpa1, found.shift, leaf, all_of, tables), place)

    def compose_leaf(self, view: EptView, gpa2: Gpa2, leaf12: Leaf12) -> Composition:
        """Return EPT02's entry for a leaf of EPT12 that somebody else has walked to.

        Its accessed flag is set where flags are on. Used ahead of any access.
        """
        place = self._ept01.find(leaf12.gpa1)
        if place is None:
            return Denied01(leaf12.gpa1, 0)
        return self.combine(view, gpa2, leaf12, place)

    def combine(self, view: EptView, gpa2: Gpa2, leaf12: Leaf12, place: Place) -> Composition:
        """Return EPT02's entry for a leaf of EPT12 and the place in EPT01 that it leads to."""
        gpa1, shift12, leaf, all_of, tables = leaf12
        allowed = place.entry & _RWX
        shift = min(shift12, place.shift)
        if shift not in self._sizes:
            shift = max(size for size in self._sizes if size < shift)
        if view.features.mode_based_execute:
            rights02 = all_of & (_RWX | USER_EXECUTE) & (allowed | self._user_execute(allowed))
        else:
            rights02 = all_of & allowed
        if view.accessed_dirty and not leaf & e.EPT_D:
            rights02 &= ~WRITE
        if not rights02 & READ:
            rights02 &= ~WRITE
            if not rights02 or not self._execute_only:
                return Denied01(gpa1, allowed)
        mask = (1 << shift) - 1
        page = (place.page + (gpa1 & (1 << place.shift) - 1)) & ~mask
        entry = leaf_for(page | rights02 | self._type(leaf, place.entry), shift)
        return Filled(Gpa2(gpa2 & ~mask), shift, entry, Gpa1(gpa1 & ~mask), tables)

    def rights_of(self, found: Walk) -> int:
        """Return what the entries of EPT12 on the way to a page allow together."""
        return found.all_of

    def malformed(self, found: Walk) -> Composition:
        """Return what a walk that met a misconfigured entry of EPT12 comes to."""
        return Misconfigured12()

    @staticmethod
    def _user_execute(allowed: int) -> int:
        return USER_EXECUTE if allowed & EXECUTE else 0

    def _type(self, leaf12: int, leaf01: int) -> int:
        """Return the memory-type and ignore-PAT bits of EPT02's leaf."""
        key = leaf12 & _TYPE_BITS, leaf01 & _TYPE_BITS
        known = self._types.get(key)
        if known is None:
            inner, outer = (_attributes(one) for one in key)
            both = rights.combine(inner, outer)
            known = _TYPE.put(0, rights.MEMORY_TYPE.get(both))
            known |= e.EPT_IPAT if both & rights.IPAT else 0
            self._types[key] = known
        return known

    def _set_flags(self, found: Walk, *, dirty: bool) -> int:
        """SDM 3C, "Accessed and Dirty Flags for EPT"; return the leaf as it is now."""
        last = len(found.steps) - 1
        leaf = found.leaf
        for number, step in enumerate(found.steps):
            wanted = _wanted_flags(number == last and dirty)
            if step.entry & wanted != wanted:
                self.memory.store_flags(step.address, step.entry | wanted)
                if number == last:
                    leaf = step.entry | wanted
        return leaf

    def _is_log_full(self) -> bool:
        """SDM 3C, "Page-Modification Logging": the log is full for an accessed flag, too."""
        return self.log is not None and not 0 <= self.log.index < _LOG_ENTRIES

    def _log(self, gpa2: Gpa2) -> None:
        """Log a write in L1's page-modification log, if it has one."""
        log = self.log
        if log is not None:
            self.memory.store(log.address + 8 * log.index, 8, gpa2 & -4096)
            log.index = (log.index - 1) & 0xFFFF


def _wanted_flags(dirty: bool) -> int:
    return e.EPT_A | (e.EPT_D if dirty else 0)


def _lacks_flags(found: Walk, *, dirty: bool) -> bool:
    """Tell whether an access has to set a flag in EPT12."""
    last = len(found.steps) - 1
    return any(
        _wanted_flags(number == last and dirty) & ~step.entry
        for number, step in enumerate(found.steps)
    )


def _attributes(leaf: int) -> int:
    word = rights.make_attributes("RWX")
    word = rights.MEMORY_TYPE.put(word, _TYPE.get(leaf))
    return word | (rights.IPAT if leaf & e.EPT_IPAT else 0)


def host_page(filled: Filled) -> Hpa:
    """Return the host-physical page that a composed leaf maps."""
    return Hpa(filled.entry & e.EPT_PTE.mask("ADDRESS") & -(1 << filled.shift))
