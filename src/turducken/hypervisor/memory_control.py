"""Changing EPT01 while guests run: the API for hypapps.

A change takes effect on every processor it is for before the call returns: EPT01 is written, what
the processors hold of it is invalidated, EPT02s and the translated addresses in VMCS02s follow, and
a processor that runs a guest at that moment is made to leave it first. So every call may have to
wait, and is a generator: ``yield from control.unmap(vcpu, ...)``.

>>> def on_hypercall(self, vcpu):                                       # doctest: +SKIP
...     yield from self.control.unmap(vcpu, Gpa1(0x5000), 0x1000)
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turducken.address import PAGE_SIZE, Gpa1, Hpa
from turducken.arch.memory_types import EPT_MEMORY_TYPES, MemoryType
from turducken.hypervisor.ept01 import Ept01, R, W
from turducken.hypervisor.events import Ept01Changed, Shootdown
from turducken.hypervisor.hypapp import Ept01Sharing
from turducken.hypervisor.interprocessor import send_init
from turducken.vmx.interface import Wait

if TYPE_CHECKING:
    from turducken.hypervisor.hypervisor import Hypervisor
    from turducken.hypervisor.vcpu import Vcpu

Waiting = Generator[Wait, None, None]


@dataclass(frozen=True, slots=True)
class Map:
    """Map ``size`` bytes at ``start`` to ``target``; ``kind`` None: the type that MTRRs give it."""

    start: Gpa1
    size: int
    target: Hpa
    rights: int
    kind: MemoryType | None = None


@dataclass(frozen=True, slots=True)
class Unmap:
    """Take ``size`` bytes at ``start`` away."""

    start: Gpa1
    size: int


@dataclass(frozen=True, slots=True)
class Protect:
    """Give ``size`` mapped bytes at ``start`` other rights (R, W, X; W needs R)."""

    start: Gpa1
    size: int
    rights: int


@dataclass(frozen=True, slots=True)
class SetType:
    """Give ``size`` mapped bytes at ``start`` another memory type."""

    start: Gpa1
    size: int
    kind: MemoryType


@dataclass(frozen=True, slots=True)
class Restore:
    """Give ``size`` bytes at ``start`` back as the identity has them."""

    start: Gpa1
    size: int


Change = Map | Unmap | Protect | SetType | Restore


class MemoryControl:
    """EPT01 changes for an application of ``hypervisor``.

    ``by`` is the processor on which the application runs; ``processors`` are the ones whose EPT01
    changes (default: all). Addresses and sizes are whole pages; `ValueError` where they are not,
    where a mapping would reach L0's own memory, or where rights or type are none that EPT has.
    """

    def __init__(self, hypervisor: "Hypervisor") -> None:
        self._hypervisor = hypervisor

    def map(
        self,
        by: "Vcpu",
        start: Gpa1,
        size: int,
        target: Hpa,
        rights: int,
        *,
        kind: MemoryType | None = None,
        processors: Iterable[int] | None = None,
    ) -> Waiting:
        """See `Map`."""
        return self.apply(by, [Map(start, size, target, rights, kind)], processors)

    def unmap(
        self, by: "Vcpu", start: Gpa1, size: int, *, processors: Iterable[int] | None = None
    ) -> Waiting:
        """See `Unmap`."""
        return self.apply(by, [Unmap(start, size)], processors)

    def protect(
        self,
        by: "Vcpu",
        start: Gpa1,
        size: int,
        rights: int,
        *,
        processors: Iterable[int] | None = None,
    ) -> Waiting:
        """See `Protect`."""
        return self.apply(by, [Protect(start, size, rights)], processors)

    def set_type(
        self,
        by: "Vcpu",
        start: Gpa1,
        size: int,
        kind: MemoryType,
        *,
        processors: Iterable[int] | None = None,
    ) -> Waiting:
        """See `SetType`."""
        return self.apply(by, [SetType(start, size, kind)], processors)

    def restore(
        self, by: "Vcpu", start: Gpa1, size: int, *, processors: Iterable[int] | None = None
    ) -> Waiting:
        """See `Restore`."""
        return self.apply(by, [Restore(start, size)], processors)

    def apply(
        self,
        by: "Vcpu",
        changes: Sequence[Change],
        processors: Iterable[int] | None = None,
        *,
        omit_shootdown: bool = False,
    ) -> Waiting:
        """Make all ``changes`` on each processor, with one round of invalidation after them.

        ``omit_shootdown`` plants a mistake: the other processors are told nothing, and go on with
        what they have cached.
        """
        for change in changes:
            self._check(change)
        targets = self._targets(processors)
        if any(isinstance(one, Map) for one in changes):
            self._hypervisor.watch_tables.has_aliases = True
        for ept01 in {id(one.ept01): one.ept01 for one in targets}.values():
            for change in changes:
                _write(ept01, change)
        self._publish(by, targets, changes)
        return self._settle(by, [by] if omit_shootdown else targets)

    def _targets(self, processors: Iterable[int] | None) -> "list[Vcpu]":
        vcpus = self._hypervisor.vcpus
        if processors is None:
            return vcpus
        if self._hypervisor.ept01_sharing is not Ept01Sharing.OWN:
            raise ValueError("the processors share one EPT01: no change can be for some of them")
        wanted = frozenset(processors)
        return [one for one in vcpus if one.index in wanted]

    def _check(self, change: Change) -> None:
        if change.start % PAGE_SIZE or change.size % PAGE_SIZE or change.size <= 0:
            raise ValueError(f"{change}: not whole pages")
        hidden = self._hypervisor.frames.region
        if change.start < hidden.stop and change.start + change.size > hidden.start:
            raise ValueError(f"{change}: L0's own memory")
        if isinstance(change, Map):
            if change.target % PAGE_SIZE:
                raise ValueError(f"{change}: not whole pages")
            if change.target < hidden.stop and change.target + change.size > hidden.start:
                raise ValueError(f"{change}: leads to L0's own memory")
        if isinstance(change, Map | Protect) and change.rights & W and not change.rights & R:
            raise ValueError(f"{change}: there is no writing without reading in EPT")
        kind = change.kind if isinstance(change, Map | SetType) else None
        if kind is not None and kind not in EPT_MEMORY_TYPES:
            raise ValueError(f"{change}: no memory type of EPT")

    def _publish(self, by: "Vcpu", targets: "list[Vcpu]", changes: Sequence[Change]) -> None:
        events = self._hypervisor.events
        if not events.subscribers:
            return
        numbers = tuple(one.index for one in targets)
        for one in changes:
            name = type(one).__name__.lower()
            events.publish(Ept01Changed(by.index, numbers, one.start, one.size, name))

    # Following

    def _settle(self, by: "Vcpu", targets: "list[Vcpu]") -> Waiting:
        """Invalidate everywhere; return when no processor can use what was there before."""
        others = [one for one in targets if one is not by and one.is_ept01_stale]
        if by in targets:
            by.settle_ept01()
        yield from self.on_others(by, others, type(by).settle_ept01)

    def on_others(
        self, by: "Vcpu", others: "Sequence[Vcpu]", request: "Callable[[Vcpu], None]"
    ) -> Waiting:
        """Have ``request`` done on other processors, and wait for those that run a guest.

        A processor that runs L0 now, or whose guest cannot execute anything before the next VM
        exit, does it before it runs a guest again, and is not waited for.
        """
        waited = []
        for vcpu in others:
            vcpu.requests.append(request)
            if vcpu.runs_guest_code:
                waited.append(vcpu)
                if not vcpu.is_kicked:
                    vcpu.is_kicked = True
                    by.statistics.kicks += 1
                    send_init(by.processor, vcpu.index)
        events = self._hypervisor.events
        if events.subscribers and others:
            numbers = tuple(one.index for one in others)
            events.publish(Shootdown(by.index, numbers, tuple(one.index for one in waited)))
        while any(one.requests and one.runs_guest_code for one in waited):
            # Two processors may wait for each other: each serves the other meanwhile.
            by.serve_requests()
            yield Wait.OTHERS

    def quiesce(self, by: "Vcpu", work: "Callable[[], None]") -> Waiting:
        """Do ``work`` at a moment when no other processor runs a guest.

        ``work`` must not wait. For whatever a change of EPT01 is not enough for.
        """
        others = [one for one in self._hypervisor.vcpus if one is not by]
        while any(one.is_held for one in self._hypervisor.vcpus):
            # Somebody else quiesces; this processor may be one of those it waits for.
            by.serve_requests()
            yield Wait.OTHERS
        for one in others:
            one.is_held = True
        yield from self.on_others(by, others, lambda _vcpu: None)
        work()
        for one in others:
            one.is_held = False


def _write(ept01: Ept01, change: Change) -> None:
    for offset in range(0, change.size, PAGE_SIZE):
        page = Gpa1(change.start + offset)
        match change:
            case Map():
                ept01.map(page, Hpa(change.target + offset), change.rights, change.kind)
            case Unmap():
                ept01.unmap(page)
            case Protect():
                ept01.protect(page, change.rights)
            case SetType():
                ept01.set_type(page, change.kind)
            case Restore():
                ept01.restore(page)
