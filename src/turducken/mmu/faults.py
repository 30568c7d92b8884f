"""How a translation can fail: the architectural outcomes, as values."""

from typing import NamedTuple


class PageFault(NamedTuple):
    """A page fault (#PF) at linear ``address`` with the manual's error code."""

    address: int
    error_code: int


class EptViolation(NamedTuple):
    """An EPT violation for guest-physical ``gpa``.

    ``address`` is the linear address being translated, or None where there is none (qualification
    bit 7 clear). ``qualification`` is complete but for NMI unblocking. ``suppresses_ve`` is bit 63
    of the entry that was not present, or else of the leaf.
    """

    gpa: int
    address: int | None
    qualification: int
    suppresses_ve: bool = False


class EptMisconfiguration(NamedTuple):
    """An EPT misconfiguration met for guest-physical ``gpa``; it has no qualification.

    ``is_final`` is false where the access was to a guest paging structure.
    """

    gpa: int
    address: int | None
    is_final: bool


class PmlFull(NamedTuple):
    """The page-modification log is full: the access must be retried after the VM exit."""

    gpa: int


class ApicAccess(NamedTuple):
    """An access to the APIC-access page at ``offset``; ``kind`` is 0 read, 1 write, 2 fetch.

    ``is_physical``: it is a guest-physical access, to a guest paging structure.
    """

    address: int
    offset: int
    kind: int
    is_physical: bool = False


Fault = PageFault | EptViolation | EptMisconfiguration | PmlFull | ApicAccess
