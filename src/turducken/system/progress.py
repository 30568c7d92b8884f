"""Notices that a system does the same for ever, at no cost while it does not.

After turns of the machine, a sample is taken of every processor: where it is, and its guest's last
VM exit. Where samples repeat, the guest's next exits are followed one by one for a while; only
exits that all find the very same state are told of.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from turducken.cpu.processor import Processor
from turducken.diagnosis import BrokenRule, Diagnosis, Key, Kind, Place
from turducken.hypervisor import Hypervisor, Vcpu
from turducken.hypervisor.events import Event, GivenToL1
from turducken.machine.machine import Machine
from turducken.mmu.mmu import EptSetup
from turducken.system.places import linear_of, place_of
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_reasons import ExitReason, name_of
from turducken.vmx.explain import read_field, refused_access
from turducken.vmx.interface import Registers
from turducken.vmx.vmcs import Vmcs

_INTERVAL = 100_000
"""Nanoseconds of guest time between samples, at least: turns may be short."""
_SUSPICIOUS_SAMPLES = 3
_BUSY = 16
"""VM exits in a turn below which nothing is suspicious."""
_FOLLOWED = 200
"""Exits that have to be the same before that is told."""
_LONGEST_PAUSE = 1 << 10
"""Turns without a new suspicion after the last one; it doubles up to this."""
_LAST = 6
_ASYNCHRONOUS = frozenset(
    {
        *(ExitReason.EXTERNAL_INTERRUPT, ExitReason.PREEMPTION_TIMER, ExitReason.INIT),
        *(ExitReason.INTERRUPT_WINDOW, ExitReason.NMI_WINDOW, ExitReason.SIPI),
    }
)
_PROGRESS = 'SDM 3C, "VM Exits"'

Told = Callable[[Place, Key, Callable[[], Diagnosis]], None]


class LastExit(NamedTuple):
    """The last VM exit of a guest, as its hypervisor finds it in the VMCS."""

    region: int
    reason: int
    qualification: int
    rip: int
    gpa: int


def last_exit(vmcs: Vmcs) -> LastExit:
    """Return it."""
    read = vmcs.read
    reason = read(f.EXIT_REASON)
    gpa = read(f.GUEST_PHYSICAL_ADDRESS) if reason in _WITH_ADDRESS else 0
    return LastExit(vmcs.region, reason, read(f.EXIT_QUALIFICATION), read(f.GUEST_RIP), gpa)


_WITH_ADDRESS = frozenset({ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIGURATION})


@dataclass(slots=True)
class _Suspicion:
    """What is known of one processor's guest."""

    last: LastExit | None = None
    exits: int = 0
    repeats: int = 0
    pause: int = 1
    wait: int = 0
    is_followed: bool = False


class Progress:
    """Samples a machine; ``told`` takes what is found."""

    def __init__(self, machine: Machine, hypervisor: Hypervisor | None, told: Told) -> None:
        self._machine, self._hypervisor, self._told = machine, hypervisor, told
        self._clock, self._next = machine.clock, 0
        self._guests = [_Suspicion() for _ in machine.processors]
        self._places: list[deque[Place]] = [deque(maxlen=_LAST) for _ in machine.processors]
        self._executed = [0] * len(machine.processors)

    def turn(self) -> None:
        """Take a sample after a turn of the machine, unless the last one is still fresh."""
        now = self._clock.now
        if now < self._next:
            return
        self._next = now + _INTERVAL
        for processor in self._machine.processors:
            executed = processor.engine.executed
            if executed != self._executed[processor.index]:
                self._executed[processor.index] = executed
                self._places[processor.index].append(place_of(processor, self._hypervisor))
                self._look(processor)

    # Guests that exit for ever

    def _vmcs_of(self, processor: Processor) -> tuple[Vmcs | None, int]:
        """Return the VMCS whose guest exits to L1, and the number of its exits so far."""
        if self._hypervisor is None:
            return processor.vmx.current, sum(processor.statistics.exits.values())
        vcpus = self._hypervisor.vcpus
        if processor.index >= len(vcpus):
            return None, 0
        vcpu = vcpus[processor.index]
        context = vcpu.nested.current
        exits = sum(vcpu.statistics.reflected.values())
        return (None if context is None else context.vmcs12), exits

    def _look(self, processor: Processor) -> None:
        guest = self._guests[processor.index]
        vmcs, exits = self._vmcs_of(processor)
        if vmcs is None or guest.is_followed or exits - guest.exits < _BUSY:
            guest.repeats, guest.exits = 0, exits
            return
        guest.exits = exits
        now = last_exit(vmcs)
        guest.repeats = guest.repeats + 1 if now == guest.last else 0
        guest.last = now
        if guest.wait:
            guest.wait -= 1
        elif guest.repeats >= _SUSPICIOUS_SAMPLES and now.reason not in _ASYNCHRONOUS:
            self._follow(processor, guest, now)

    def _follow(self, processor: Processor, guest: _Suspicion, expected: LastExit) -> None:
        guest.is_followed = True
        follower = _Follower(processor, expected, lambda same: self._judge(processor, guest, same))
        if self._hypervisor is None:
            follower.attach_to_processor()
        else:
            follower.attach_to_hypervisor(self._hypervisor)

    def _judge(self, processor: Processor, guest: _Suspicion, same: LastExit | None) -> None:
        guest.is_followed, guest.repeats = False, 0
        guest.wait, guest.pause = guest.pause, min(2 * guest.pause, _LONGEST_PAUSE)
        if same is None:
            return
        vmcs, exits = self._vmcs_of(processor)
        assert vmcs is not None
        place = Place(processor.index, 2, same.rip, linear_of(vmcs, same.rip))
        count = max(guest.exits, exits)
        self._told(
            place,
            ("no-progress", same.reason, same.gpa),
            lambda: _no_progress(self._hypervisor, processor, vmcs, same, count),
        )

    def last_places(self, processor: int) -> list[Place]:
        """Return where a processor was at the end of its last turns (none where it had few)."""
        places = self._places[processor]
        return list(places) if len(places) == _LAST else []


class _Follower:
    """Follows a guest's exits one by one until one differs, or enough were the same."""

    def __init__(
        self,
        processor: Processor,
        expected: LastExit,
        done: Callable[[LastExit | None], None],
    ) -> None:
        self._processor, self._expected, self._done = processor, expected, done
        self._registers: tuple[int, ...] | None = None
        self._left = _FOLLOWED
        self._detach: Callable[[], None] = lambda: None

    def attach_to_processor(self) -> None:
        """Bare: the processor's own exits."""
        processor, before = self._processor, self._processor.on_event

        def on_event(name: str, p: Processor, details: tuple[object, ...]) -> None:
            if before is not None:
                before(name, p, details)
            if name == "vm-exit" and p.vmx.current is not None:
                reason, qualification = details
                assert isinstance(reason, int)
                assert isinstance(qualification, int)
                gpa = p.vmx.current.read(f.GUEST_PHYSICAL_ADDRESS)
                gpa = gpa if reason in _WITH_ADDRESS else 0
                region = p.vmx.current.region
                self._see(LastExit(region, reason, qualification, p.state.rip, gpa), p.state.gpr)

        def detach() -> None:
            if processor.on_event is on_event:
                processor.on_event = before

        processor.on_event = on_event
        self._detach = detach

    def attach_to_hypervisor(self, hypervisor: Hypervisor) -> None:
        """Nested: what L1 gets of its guest's exits."""
        vcpu = hypervisor.vcpus[self._processor.index]

        def on_event(event: Event) -> None:
            if isinstance(event, GivenToL1) and event.processor == vcpu.index:
                context = vcpu.nested.current
                assert context is not None
                self._see(last_exit(context.vmcs12), vcpu.processor.gpr)

        subscribers = hypervisor.events.subscribers
        subscribers.append(on_event)

        def detach() -> None:
            # Whoever publishes is going through the list.
            hypervisor.events.subscribers = [
                one for one in hypervisor.events.subscribers if one is not on_event
            ]

        self._detach = detach

    def _see(self, now: LastExit, gpr: Registers) -> None:
        registers = tuple(gpr[number] for number in range(16))
        if self._registers is None:
            self._registers = registers
        if now != self._expected or registers != self._registers:
            self._end(None)
            return
        self._left -= 1
        if not self._left:
            self._end(now)

    def _end(self, same: LastExit | None) -> None:
        self._detach()
        self._done(same)


def _no_progress(
    hypervisor: Hypervisor | None,
    processor: Processor,
    vmcs: Vmcs,
    same: LastExit,
    count: int,
) -> Diagnosis:
    name = name_of(same.reason)
    readings = (
        read_field(vmcs, f.GUEST_RIP),
        read_field(vmcs, f.EXIT_REASON),
        read_field(vmcs, f.EXIT_QUALIFICATION),
    )
    note = f"{count:,} VM exits by now; the last {_FOLLOWED} found RIP and all registers the same"
    if same.reason == ExitReason.EPT_VIOLATION:
        rules, walk = refused_violation(hypervisor, processor, same)
        outcome = f"the same EPT violation at guest-physical {same.gpa:#x} again and again"
        return Diagnosis(Kind.ENDLESS_VIOLATION, "memory access", outcome, rules, (note, *walk))
    length = vmcs.read(f.EXIT_INSTRUCTION_LENGTH)
    rule = BrokenRule(
        "progress.same-exit",
        "whoever handles a VM exit must complete the guest's instruction or remove what caused it",
        _PROGRESS,
        (*readings, read_field(vmcs, f.EXIT_INSTRUCTION_LENGTH)),
        f"guest RIP increased by the instruction's length: {same.rip + length:#x}",
    )
    return Diagnosis(Kind.NO_PROGRESS, name, "the same VM exit again and again", (rule,), (note,))


def refused_violation(
    hypervisor: Hypervisor | None, processor: Processor, same: LastExit
) -> tuple[tuple[BrokenRule, ...], tuple[str, ...]]:
    """Explain an EPT violation by the EPT in force: the rules, and the walk's entries."""
    access = same.qualification & 7
    if hypervisor is None:
        ept = _ept_of(processor)
        if ept is None:
            return (), ()
        return refused_access(
            ept.format, processor.memory, ept.ep4ta, same.gpa, access, table="EPT"
        )
    vcpu: Vcpu = hypervisor.vcpus[processor.index]
    context = vcpu.nested.current
    root12 = context.root12 if context is not None else None
    if root12 is None:
        return (), ()
    fmt = root12.view.format
    return refused_access(fmt, vcpu.memory, root12.eptp, same.gpa, access, table="EPT12")


def _ept_of(processor: Processor) -> EptSetup | None:
    vmcs = processor.vmx.current
    cached = processor.controls_cache.get(vmcs.region) if vmcs is not None else None
    return cached[1].ept if cached is not None else None
