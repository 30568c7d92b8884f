"""Whether L0 stood: its memory untouched, no mistake of its own, nothing handled for ever."""

from dataclasses import dataclass

from turducken.cpu.processor import Processor
from turducken.hypervisor import Vcpu
from turducken.hypervisor.ept_table import EptTable, page_of
from turducken.hypervisor.events import Event, L1Stopped, ShadowFilled
from turducken.mmu.faults import Fault
from turducken.mmu.mmu import Access
from turducken.mmu.observed import ObservedMmu
from turducken.mmu.tlb import Mapping
from turducken.system import System
from turducken.vmx import vmcs_fields as f

SAME_PLACE = 5_000
"""So many exits that L0 handles at one instruction of a guest are no progress."""
WAITING_TURNS = 5_000
"""So many turns in L0 are a wait for ever."""

_SECRET = b"what only L0 may know, and none may change. And a page's worth!!"
"""64 bytes, so that a page has whole ones."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was wrong, in a word and in a sentence."""

    kind: str
    detail: str


class FoundError(Exception):
    """Ends a trial with a finding."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.finding = Finding(kind, detail)


class _Watcher:
    """Sees every linear access of one processor: none of a guest's reaches L0's memory."""

    def __init__(self, processor: Processor, private: range) -> None:
        self._processor = processor
        self._private = private

    def before(self, access: Access) -> None:
        """See `turducken.mmu.observed.AccessObserver`."""

    def after(self, access: Access, found: Mapping | Fault) -> None:
        """See `turducken.mmu.observed.AccessObserver`."""
        if not isinstance(found, Mapping) or self._processor.guest is None:
            return
        page = found.page | access.address & ((1 << found.shift) - 1)
        if page in self._private:
            raise FoundError("containment", f"a guest's {access.address:#x} is L0's {page:#x}")


class Judge:
    """Looks at one system while it runs, and when it has."""

    def __init__(self, system: System) -> None:
        hypervisor = system.hypervisor
        assert hypervisor is not None
        self._system = system
        self._hypervisor = hypervisor
        self._private = hypervisor.frames.region
        untouched = hypervisor.frames.untouched
        hypervisor.memory.write(untouched.start, _SECRET * (len(untouched) // len(_SECRET)))
        for processor in system.machine.processors:
            assert isinstance(processor.mmu, ObservedMmu)
            processor.mmu.observer = _Watcher(processor, self._private)
        hypervisor.events.subscribers.append(self._look_at_event)
        self._places: dict[int, tuple[bool, int, int]] = {}
        self._waits: dict[int, int] = {}

    def exited(self, vcpu: Vcpu) -> None:
        """A guest has left, and L0 is about to handle it."""
        rip = vcpu.current.read(f.GUEST_RIP)
        in_l2, before, count = self._places.get(vcpu.index, (False, -1, 0))
        count = count + 1 if (in_l2, before) == (vcpu.in_l2, rip) else 0
        if count > SAME_PLACE:
            reason = vcpu.current.read(f.EXIT_REASON)
            level = 2 if vcpu.in_l2 else 1
            raise FoundError("progress", f"L{level} exits at {rip:#x} for ever (reason {reason})")
        self._places[vcpu.index] = (vcpu.in_l2, rip, count)

    def turn(self) -> None:
        """Every processor has had a turn."""
        for vcpu in self._hypervisor.vcpus:
            is_waiting = not vcpu.in_guest and vcpu.stopped is None
            count = self._waits.get(vcpu.index, 0) + 1 if is_waiting else 0
            self._waits[vcpu.index] = count
            if count > WAITING_TURNS:
                raise FoundError("progress", f"L0 waits for ever on processor {vcpu.index}")

    def _look_at_event(self, event: Event) -> None:
        if isinstance(event, ShadowFilled):
            self._leads_elsewhere(event.entry, event.shift, "EPT02")
        elif isinstance(event, L1Stopped) and event.kind.is_mistake:
            raise FoundError(event.kind.value, event.why)

    # Afterwards

    def look(self) -> None:
        """Look at what there is at the end."""
        memory = self._hypervisor.memory
        untouched = self._hypervisor.frames.untouched
        if memory.read(untouched.start, len(untouched)) != _SECRET * (
            len(untouched) // len(_SECRET)
        ):
            raise FoundError("containment", "memory of L0's that it does not use has been written")
        if memory.read(0, self._system.options.memory).find(_SECRET) >= 0:
            raise FoundError("containment", "what is in L0's memory is in L1's")
        for vcpu in self._hypervisor.vcpus:
            self._look_at_table(vcpu.ept01.table, "EPT01")
            context = vcpu.nested.current
            root12 = context.root12 if context is not None else None
            table = vcpu.shadow.table_of(root12) if root12 is not None else None
            if table is not None:
                self._look_at_table(table, "EPT02")

    def _look_at_table(self, table: EptTable, name: str) -> None:
        for _, entry in table.leaves():
            if entry.is_present:
                self._leads_elsewhere(entry.value, entry.shift, name)

    def _leads_elsewhere(self, entry: int, shift: int, name: str) -> None:
        page = page_of(entry, shift)
        if page < self._private.stop and page + (1 << shift) > self._private.start:
            raise FoundError("containment", f"a leaf of {name}, {entry:#x}, leads to L0's memory")
