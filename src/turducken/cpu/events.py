"""Events on their way to the guest: what they are, how two of them combine.

SDM 3A, "Interrupt and Exception Handling"; the kinds are those of VM-entry interruption information
(SDM 3C, "VM-Entry Controls for Event Injection").
"""

from dataclasses import dataclass
from enum import IntEnum

from turducken.arch.exceptions import CONTRIBUTORY, Vector


class EventKind(IntEnum):
    """Interruption types."""

    EXTERNAL = 0
    NMI = 2
    HARDWARE = 3
    SOFTWARE_INTERRUPT = 4
    PRIVILEGED_SOFTWARE = 5
    SOFTWARE_EXCEPTION = 6
    OTHER = 7


_SOFTWARE = frozenset(
    {EventKind.SOFTWARE_INTERRUPT, EventKind.PRIVILEGED_SOFTWARE, EventKind.SOFTWARE_EXCEPTION}
)


@dataclass(frozen=True, slots=True)
class Event:
    """An interrupt or exception to deliver.

    ``length`` is the instruction's length for software events, whose return address is behind it.
    ``payload`` is the faulting linear address of #PF, or the DR6 bits of #DB. ``is_injected``: VM
    entry delivers it, which changes neither CR2 nor debug registers and asks no control.
    """

    kind: EventKind
    vector: int
    error_code: int | None = None
    length: int = 0
    payload: int = 0
    is_injected: bool = False

    @property
    def is_software(self) -> bool:
        """INT n, INT1, INT3 or INTO: the instruction has been executed."""
        return self.kind in _SOFTWARE

    @property
    def external(self) -> int:
        """The EXT bit of error codes of faults that the delivery meets."""
        return 0 if self.kind in (EventKind.SOFTWARE_INTERRUPT, EventKind.SOFTWARE_EXCEPTION) else 1

    @property
    def information(self) -> int:
        """The event in the format of the interruption-information fields, valid bit set."""
        code = 1 << 11 if self.error_code is not None else 0
        return self.vector | self.kind << 8 | code | 1 << 31


def exception(vector: int, error_code: int | None = None, payload: int = 0) -> Event:
    """Return a hardware exception."""
    return Event(EventKind.HARDWARE, vector, error_code, 0, payload)


def combine(first: Event, second: Event) -> Event | None:
    """Return what becomes of ``second`` met while ``first`` was delivered; None is a shutdown.

    SDM 3A, "Interrupt 8 - Double Fault Exception", table of conditions for a double fault.
    """
    if first.kind is not EventKind.HARDWARE:
        return second
    if first.vector == Vector.DF:
        is_benign = second.vector not in CONTRIBUTORY and second.vector != Vector.PF
        return second if is_benign else None
    contributory = second.vector in CONTRIBUTORY
    if first.vector in CONTRIBUTORY and contributory:
        return exception(Vector.DF, 0)
    if first.vector in (Vector.PF, Vector.VE) and (contributory or second.vector == Vector.PF):
        return exception(Vector.DF, 0)
    return second
