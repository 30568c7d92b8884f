"""One event of a trace, and which of them are wanted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS: Mapping[str, str] = {
    "exit": "a VM exit: reason, qualification, and whom it is for",
    "entry": "a VM entry: of L1 or L2 by L0, of L2 by L1",
    "injection": "an event that a VM entry injects",
    "interrupt": "an interrupt, NMI, exception or INT n, delivered through the IDT",
    "ipi": "an interprocessor interrupt, when it is sent",
    "invalidation": "INVEPT or INVVPID, of L1 or of L0",
    "ept02": "a leaf that L0 put into EPT02, or an EPT02 that it dropped",
    "ept01": "a change of EPT01 by an application, and the shootdowns for it",
    "mode": "real, protected, 64-bit mode; 32-bit, PAE, 4-level paging",
    "diagnosis": "a failure that is explained, when it comes up first",
    "stop": "a processor of L1's that stopped for good",
}
"""What there is to record."""


@dataclass(frozen=True, slots=True)
class Record:
    """An event at ``time`` (nanoseconds of guest time) on processor ``cpu``.

    ``level`` is who was running, or whose event it is: 0, 1 or 2. ``rip`` is an address of that
    level's code, where there is one. ``details`` are words and numbers, ``addresses`` are
    addresses of any space.
    """

    time: int
    cpu: int
    kind: str
    level: int
    name: str
    rip: int | None = None
    symbol: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    addresses: Mapping[str, int] = field(default_factory=dict)
    runs: int | None = None
    """The level that runs on the processor from then on, where that changes."""

    def as_dict(self) -> dict[str, Any]:
        """Return the record for JSON: addresses are strings with 0x."""
        named = {"time": self.time, "cpu": self.cpu, "level": self.level}
        return {**named, "kind": self.kind, "name": self.name, **self.arguments()}

    def arguments(self) -> dict[str, Any]:
        """Return all but who and when."""
        told: dict[str, Any] = {}
        if self.rip is not None:
            told["rip"] = f"{self.rip:#x}"
        if self.symbol is not None:
            told["symbol"] = self.symbol
        told.update(self.details)
        told.update({name: f"{value:#x}" for name, value in self.addresses.items()})
        return told

    def line(self) -> str:
        """Return the record as one line for people."""
        parts = [f"{self.time / 1000:>14,.2f} us  cpu{self.cpu}  L{self.level}  {self.kind:12}"]
        parts.append(f"  {self.name}")
        told = {key: value for key, value in self.arguments().items() if value is not None}
        rip, symbol = told.pop("rip", None), told.pop("symbol", None)
        parts += [f", {key} {value}" for key, value in told.items()]
        if rip is not None:
            parts.append(f" at {rip}" + (f" ({symbol})" if symbol else ""))
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events are recorded; what is empty selects all.

    ``ranges`` are of addresses, first and last: an event is in one by its RIP or by any address
    that it tells.
    """

    kinds: frozenset[str] = frozenset()
    cpus: frozenset[int] = frozenset()
    ranges: tuple[tuple[int, int], ...] = ()

    def wants(self, kind: str, cpu: int) -> bool:
        """Tell whether an event of this kind on this processor may be wanted."""
        return (not self.kinds or kind in self.kinds) and (not self.cpus or cpu in self.cpus)

    def covers(self, addresses: tuple[int | None, ...]) -> bool:
        """Tell whether one of the addresses is in a range."""
        if not self.ranges:
            return True
        told = [one for one in addresses if one is not None]
        return any(first <= one <= last for one in told for first, last in self.ranges)
