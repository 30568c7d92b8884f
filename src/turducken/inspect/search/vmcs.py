"""Finding VMCSs in memory: by the layouts that are known, and by what must be in any layout.

A VMCS region begins with a revision identifier (bit 31 clear, or set in a shadow VMCS) and the
VMX-abort indicator; what follows is the processor's own. Known are our machine's layout and the one
in which KVM keeps the VMCS of a guest hypervisor. In any other, fields are recognised by their
values: the link pointer is all ones, an EPT pointer or a CR3 leads to a root that was found, the
host's RIP is executable under the host's CR3.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from turducken.arch.registers import CR0
from turducken.inspect.chain import ANY_PROCESSOR
from turducken.inspect.search.pages import PageSpace
from turducken.inspect.search.roots import Candidate
from turducken.memory import Memory
from turducken.paging import entries as e
from turducken.paging import rights
from turducken.paging.formats import FORMATS
from turducken.paging.readers import Words
from turducken.paging.walker import Stop, walk
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import REVISION_MASK

MAX_FOUND = 256
_ONES = 0xFFFF_FFFF_FFFF_FFFF
_FEWEST, _MOST = 12, 300
"""Words of 8 bytes that are not zero in a VMCS that somebody uses."""
_ABORT_LIMIT = 16
"""VMX-abort indicators are small numbers."""

_KVM_REVISION = 0x11E5_7ED0
_KVM = {
    "eptp": 120,
    "link": 176,
    "guest_cr3": 432,
    "guest_rip": 544,
    "host_cr0": 584,
    "host_cr3": 592,
    "host_rip": 672,
}
"""Offsets in the VMCS12 that KVM keeps for a guest hypervisor; they never change."""

_OWN = {
    name: field.slot * 8
    for name, field in {
        "eptp": f.EPTP,
        "link": f.VMCS_LINK_POINTER,
        "guest_cr3": f.GUEST_CR3,
        "guest_rip": f.GUEST_RIP,
        "host_cr0": f.HOST_CR0,
        "host_cr3": f.HOST_CR3,
        "host_rip": f.HOST_RIP,
    }.items()
}
_PROTECTED = CR0.mask("PE", "PG")


@dataclass(frozen=True, slots=True)
class FoundVmcs:
    """A VMCS, and what could be read of it; None where the layout does not tell."""

    address: int
    revision: int
    layout: str
    eptp: int | None = None
    guest_cr3: int | None = None
    guest_rip: int | None = None
    host_cr3: int | None = None
    host_rip: int | None = None
    evidence: str = ""


def find_vmcs(memory: Memory, space: PageSpace, candidates: Sequence[Candidate]) -> list[FoundVmcs]:
    """Return the VMCSs in ``space``, ascending; ``candidates`` are the roots that were found.

    ``memory`` has the same addresses as ``space``.
    """
    guess = _Guess(memory, candidates)
    found: list[FoundVmcs] = []
    for address, words in _regions(space):
        one = guess.known(address, words) or guess.read(address, words)
        if one is not None:
            found.append(one)
            if len(found) >= MAX_FOUND:
                break
    return sorted(found, key=lambda one: one.address)


def _regions(space: PageSpace) -> Iterator[tuple[int, Words]]:
    """Yield (address, words) of every page that begins as a VMCS does and has few fields in it."""
    for first, words in space.blocks():
        revision = words[:, 0] & np.uint64(REVISION_MASK)
        abort = words[:, 0] >> np.uint64(32)
        rows = np.flatnonzero((revision != 0) & (abort < _ABORT_LIMIT))
        if not len(rows):
            continue
        used = np.count_nonzero(words[rows], axis=1)
        rows = rows[(used >= _FEWEST) & (used <= _MOST)]
        numbers = space.address_of(first + rows)
        for row, address in zip(rows.tolist(), numbers.tolist(), strict=True):
            yield address, words[row]


def _reader(places: Mapping[str, int], words: Words) -> Callable[[str], int]:
    return lambda name: int(words[places[name] // 8])


class _Guess:
    """Fields of an unknown layout, by their values."""

    def __init__(self, memory: Memory, candidates: Sequence[Candidate]) -> None:
        self._memory = memory
        self._epts: set[int] = set()
        self._tables: dict[int, str] = {}
        for one in candidates:
            for name in (one.format, *one.also):
                if FORMATS[name].is_ept:
                    self._epts.add(one.root)
                else:
                    self._tables.setdefault(one.root, name)

    def known(self, address: int, words: Words) -> FoundVmcs | None:
        """Return the VMCS by a known layout; None where it makes no sense in any.

        The host's state must be one that could run; a VMCS of our own hypervisor has none, since
        that is no machine code, but an EPTP that leads to an EPT.
        """
        revision = int(words[0]) & REVISION_MASK
        is_kvm = revision == _KVM_REVISION
        places = _KVM if is_kvm else _OWN
        read = _reader(places, words)
        runs = read("host_cr0") & _PROTECTED == _PROTECTED and bool(read("host_rip"))
        runs = runs and bool(read("host_cr3")) and not read("host_cr3") >> 52
        linked = is_kvm or read("link") == _ONES
        if not (runs and linked) and (is_kvm or not self._is_eptp(read("eptp"))):
            return None
        layout = "KVM's for a guest hypervisor" if is_kvm else "turducken's"
        return FoundVmcs(
            address,
            revision,
            layout,
            read("eptp") or None,
            read("guest_cr3"),
            read("guest_rip"),
            read("host_cr3") if runs else None,
            read("host_rip") if runs else None,
            "fields by a known layout",
        )

    def read(self, address: int, words: Words) -> FoundVmcs | None:
        """Return what can be recognised; None where it is too little to call it a VMCS."""
        values = self._values(words)
        if _ONES not in values:
            return None
        eptp = next((one for one in values if self._is_eptp(one)), None)
        tables = [one for one in values if one & ~0xFFF in self._tables and not one & 0xFE7]
        if eptp is None and not tables:
            return None
        revision = int(words[0]) & REVISION_MASK
        signs = ["a link pointer of all ones"]
        signs += ["an EPTP that leads to an EPT"] if eptp is not None else []
        signs += [f"{len(tables)} CR3s that lead to tables"] if tables else []
        found = FoundVmcs(address, revision, "unknown: by values", eptp)
        for cr3 in tables:
            rip = next((one for one in values if self._is_code(cr3, one)), None)
            if rip is not None:
                signs.append("a RIP that is executable under one of them")
                found = replace(found, host_cr3=cr3, host_rip=rip)
                break
        guest = next((one for one in tables if one != found.host_cr3), None)
        return replace(found, guest_cr3=guest, evidence=", ".join(signs))

    @staticmethod
    def _values(words: Words) -> list[int]:
        """Return the different values of 8 bytes at multiples of 4, in their order."""
        octets = words.tobytes()
        odd = np.frombuffer(octets[4:-4], dtype="<u8")
        both = [int(one) for one in words[1:] if one] + [int(one) for one in odd if one]
        return list(dict.fromkeys(both))

    def _is_eptp(self, value: int) -> bool:
        walk_length = e.EPTP["WALK"].get(value)
        kind = e.EPTP["MT"].get(value)
        reserved = value & e.EPTP.reserved_mask
        return (
            value & e.EP4TA_MASK in self._epts
            and walk_length in (3, 4)
            and kind in (0, 6)
            and not reserved
        )

    def _is_code(self, cr3: int, value: int) -> bool:
        if not 0xFFFF_8000 <= value >> 32 <= 0xFFFF_FFFF or value == _ONES:
            return False  # kernels and hypervisors run in the upper half
        fmt = FORMATS[self._tables[cr3 & ~0xFFF]].bind(ANY_PROCESSOR)
        if fmt.address_bits < 48:
            return False
        way = walk(fmt, self._memory, cr3, value)
        return way.stop is Stop.PAGE and bool(rights.attributes_of(fmt, way) & rights.X)
