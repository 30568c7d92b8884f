"""Makes records of what the processors, the hypervisor and the APICs tell."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, CR4, EFER
from turducken.cpu.events import Event as DeliveredEvent
from turducken.cpu.events import EventKind
from turducken.cpu.processor import Processor
from turducken.devices.apic_fabric import Destination, Message
from turducken.devices.apic_registers import Delivery, Shorthand
from turducken.diagnosis import Sighting, one_line
from turducken.hypervisor import events as l0
from turducken.system import System
from turducken.trace.exits import Described, described_exit
from turducken.trace.records import Record, Selection
from turducken.vmx.exit_reasons import name_of

_PE, _PG = CR0.mask("PE"), CR0.mask("PG")
_PAE, _LA57 = CR4.mask("PAE"), CR4.mask("LA57")
_LMA = EFER.mask("LMA")
_INVEPT_KINDS = {1: "single context", 2: "all contexts"}
_INVVPID_KINDS = {0: "address", 1: "single context", 2: "all contexts", 3: "retaining globals"}


class Recorder:
    """Follows a system from its beginning; ``on_record`` gets each record that is wanted.

    ``last`` keeps the most recent ones, as many as asked for.
    """

    def __init__(
        self,
        system: System,
        selection: Selection,
        on_record: Callable[[Record], None] | None = None,
        last: int | None = None,
    ) -> None:
        self._system = system
        self._machine = system.machine
        self._selection = selection
        self._on_record = on_record
        self._modes: dict[tuple[int, int], str] = {}
        self._exits: dict[int, tuple[int, Described]] = {}
        """Exits to L0, by processor, while L0 has not told whom they are for: level and what."""
        self._held: dict[int, list[Record]] = {}
        """What followed from them, and comes after them in the trace."""
        self.last: deque[Record] = deque(maxlen=last or 0)
        self._next: dict[int, Any] = {}
        for processor in self._machine.processors:
            self._next[processor.index] = processor.on_event
            processor.on_event = self._on_event
        fabric = self._machine.chipset.fabric
        self._next_ipi, fabric.on_ipi = fabric.on_ipi, self._on_ipi
        if system.hypervisor is not None:
            system.hypervisor.events.subscribers.append(self._on_l0)
        if system.diagnoses is not None:
            system.diagnoses.on_new.append(self._on_diagnosis)

    def finish(self) -> None:
        """Record what has been held back, once the run is over."""
        for cpu in list(self._exits):
            self._release(cpu, "L0")

    # Records

    def _record(
        self,
        cpu: int,
        kind: str,
        level: int,
        name: str,
        rip: int | None = None,
        details: Mapping[str, Any] | None = None,
        addresses: Mapping[str, int] | None = None,
        runs: int | None = None,
    ) -> None:
        selection = self._selection
        if not selection.wants(kind, cpu):
            return
        addresses = addresses or {}
        if not selection.covers((rip, *addresses.values())):
            return
        symbol = None if rip is None else self._system.names.describe(rip)
        record = Record(
            self._machine.now, cpu, kind, level, name, rip, symbol, details or {}, addresses, runs
        )
        if cpu in self._exits:
            self._held.setdefault(cpu, []).append(record)
        else:
            self._emit(record)

    def _emit(self, record: Record) -> None:
        self.last.append(record)
        if self._on_record is not None:
            self._on_record(record)

    def _level(self, processor: Processor) -> int:
        """Return who runs on a processor: 0 to 2."""
        hypervisor = self._system.hypervisor
        if hypervisor is None:
            return 1 if processor.guest is None else 2
        if processor.guest is None:
            return 0
        return 2 if hypervisor.vcpus[processor.index].in_l2 else 1

    # What processors tell

    def _on_event(self, name: str, processor: Processor, told: tuple[Any, ...]) -> None:
        _HARDWARE[name](self, processor, told)
        following = self._next[processor.index]
        if following is not None:
            following(name, processor, told)

    def _on_exit(self, p: Processor, told: tuple[Any, ...]) -> None:
        described = described_exit(p, told[0], told[1])
        if self._system.hypervisor is None:
            self._exit(described, p.index, 2, "L1")
        else:
            self._exits[p.index] = self._level(p), described

    def _release(self, cpu: int, handler: str) -> None:
        """Record an exit to L0, now that it is known who handles it, and what was held back."""
        known = self._exits.pop(cpu, None)
        if known is not None:
            level, described = known
            self._exit(described, cpu, level, handler)
            for one in self._held.pop(cpu, ()):
                self._emit(one)

    def _exit(self, what: Described, cpu: int, level: int, handler: str) -> None:
        """Record an exit that has changed who runs: L0, or bare L1."""
        name, rip, details, addresses = what
        runs = 1 if self._system.hypervisor is None else 0
        details = {"for": handler, **details}
        self._record(cpu, "exit", level, name, rip, details, addresses, runs)

    def _on_entry(self, p: Processor, told: tuple[Any, ...]) -> None:
        self._release(p.index, "L0")
        to = self._level(p)
        by = "L1" if self._system.hypervisor is None else "L0"
        addresses = {"vmcs": told[0]}
        self._record(p.index, "entry", to, f"to L{to}", p.state.rip, {"by": by}, addresses, runs=to)

    def _on_injected(self, p: Processor, told: tuple[Any, ...]) -> None:
        name, details = _event_in_words(told[0])
        self._record(p.index, "injection", self._level(p), name, p.state.rip, details)

    def _on_delivered(self, p: Processor, told: tuple[Any, ...]) -> None:
        event, rip = told
        name, details = _event_in_words(event)
        addresses = {"cr2": event.payload} if _is_page_fault(event) else {}
        self._record(p.index, "interrupt", self._level(p), name, rip, details, addresses)

    def _on_invept(self, p: Processor, told: tuple[Any, ...]) -> None:
        if self._system.hypervisor is None or p.guest is None:
            kind, eptp = told
            self._invalidation(p.index, self._level(p), "INVEPT", (kind, eptp, 0), p.state.rip)

    def _on_invvpid(self, p: Processor, told: tuple[Any, ...]) -> None:
        self._invalidation(p.index, self._level(p), "INVVPID", told, p.state.rip)

    def _invalidation(
        self, cpu: int, level: int, name: str, operands: tuple[int, int, int], rip: int | None
    ) -> None:
        kind, operand, address = operands
        is_ept = name == "INVEPT"
        words = (_INVEPT_KINDS if is_ept else _INVVPID_KINDS).get(kind, str(kind))
        details = {} if is_ept else {"vpid": operand & 0xFFFF}
        addresses = {"eptp": operand} if is_ept else {"linear": address} if kind == 0 else {}
        at = rip if level else None
        self._record(cpu, "invalidation", level, f"{name} {words}", at, details, addresses)

    def _on_mode(self, p: Processor, _told: tuple[Any, ...]) -> None:
        level, mode = self._level(p), _mode_in_words(p)
        if self._modes.get((p.index, level)) != mode:
            self._modes[p.index, level] = mode
            self._record(p.index, "mode", level, mode, p.state.rip)

    # What the APICs tell

    def _on_ipi(self, message: Message, to: Destination | Shorthand) -> None:
        sender = self._machine.running
        if self._next_ipi is not None:
            self._next_ipi(message, to)
        if sender is None:
            return
        mode = Delivery(message.mode).name.lower().replace("_", " ") if message.mode != 3 else "?"
        if isinstance(to, Shorthand):
            whom = to.name.lower().replace("_", " ")
        else:
            whom = f"{'logical ' if to.is_logical else ''}{to.value:#x}"
        details = {"vector": message.vector, "to": whom}
        level, rip = self._level(sender), sender.state.rip
        self._record(sender.index, "ipi", level, f"IPI {mode}", rip if level else None, details)

    # What L0 tells

    def _on_l0(self, event: l0.Event) -> None:
        tell = _OF_L0.get(type(event))
        if tell is not None:
            tell(self, event)

    def _on_exited(self, event: l0.Exited) -> None:
        self._release(event.processor, event.handler)

    def _on_given(self, event: l0.GivenToL1) -> None:
        details = {"qualification": f"{event.qualification:#x}"} if event.qualification else {}
        name = f"{name_of(event.reason)}, as L1 sees it"
        self._record(event.processor, "exit", 2, name, event.rip, details)

    def _on_nested_entry(self, event: l0.NestedEntry) -> None:
        addresses = {"vmcs12": event.vmcs12}
        if event.eptp12 is not None:
            addresses["eptp12"] = event.eptp12
        self._record(event.processor, "entry", 1, "to L2", None, {"by": "L1"}, addresses)

    def _on_filled(self, event: l0.ShadowFilled) -> None:
        addresses = {"gpa2": event.gpa2, "gpa1": event.gpa1, "entry": event.entry}
        size = {12: "4 KiB", 21: "2 MiB", 30: "1 GiB"}.get(event.shift, str(event.shift))
        self._record(event.processor, "ept02", 0, f"fill of {size}", None, {}, addresses)

    def _on_dropped(self, event: l0.ShadowDropped) -> None:
        self._record(event.processor, "ept02", 0, "drop", None, {}, {"eptp02": event.eptp02})

    def _on_invalidated(self, event: l0.Invalidated) -> None:
        operands = (event.kind, event.operand, event.address)
        self._invalidation(event.processor, 1, event.instruction, operands, None)

    def _on_ept01(self, event: l0.Ept01Changed) -> None:
        details = {"processors": " ".join(map(str, event.processors)), "bytes": event.size}
        addresses = {"gpa1": event.start}
        self._record(event.processor, "ept01", 0, event.what, None, details, addresses)

    def _on_shootdown(self, event: l0.Shootdown) -> None:
        details = {"waited for": " ".join(map(str, event.waited)) or "none"}
        self._record(event.processor, "ept01", 0, "shootdown", None, details)

    def _on_stopped(self, event: l0.L1Stopped) -> None:
        self._record(event.processor, "stop", 1, event.why)

    # What is explained

    def _on_diagnosis(self, sighting: Sighting) -> None:
        place = sighting.place
        text = one_line(sighting, self._system.names.describe)
        self._record(place.cpu, "diagnosis", place.level, text, place.linear)


_HARDWARE: dict[str, Callable[[Recorder, Processor, tuple[Any, ...]], None]] = {
    "vm-exit": Recorder._on_exit,
    "vm-entry": Recorder._on_entry,
    "injected": Recorder._on_injected,
    "delivered": Recorder._on_delivered,
    "invept": Recorder._on_invept,
    "invvpid": Recorder._on_invvpid,
    "mode": Recorder._on_mode,
}
_OF_L0: dict[type, Callable[[Recorder, Any], None]] = {
    l0.Exited: Recorder._on_exited,
    l0.GivenToL1: Recorder._on_given,
    l0.NestedEntry: Recorder._on_nested_entry,
    l0.ShadowFilled: Recorder._on_filled,
    l0.ShadowDropped: Recorder._on_dropped,
    l0.Invalidated: Recorder._on_invalidated,
    l0.Ept01Changed: Recorder._on_ept01,
    l0.Shootdown: Recorder._on_shootdown,
    l0.L1Stopped: Recorder._on_stopped,
}


def _is_page_fault(event: DeliveredEvent) -> bool:
    return event.kind is EventKind.HARDWARE and event.vector == Vector.PF


def _event_in_words(event: DeliveredEvent) -> tuple[str, dict[str, Any]]:
    """Return an event's name, and its error code."""
    details = {} if event.error_code is None else {"error code": f"{event.error_code:#x}"}
    if event.kind is EventKind.EXTERNAL:
        return f"interrupt {event.vector}", details
    if event.kind is EventKind.SOFTWARE_INTERRUPT:
        return f"INT {event.vector:#x}", details
    known = event.vector in Vector.__members__.values()
    return f"#{Vector(event.vector).name}" if known else f"exception {event.vector}", details


def _mode_in_words(p: Processor) -> str:
    state = p.state
    if not state.cr0 & _PE:
        return "real mode"
    if state.efer & _LMA:
        return "IA-32e mode, " + ("5-level paging" if state.cr4 & _LA57 else "4-level paging")
    if not state.cr0 & _PG:
        return "protected mode, no paging"
    return "protected mode, " + ("PAE paging" if state.cr4 & _PAE else "32-bit paging")
