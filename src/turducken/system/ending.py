"""What can be said about a run once it is over: who waits for what, and who goes round for ever."""

from collections.abc import Callable, Iterator
from functools import partial

from turducken.cpu.processor import Processor
from turducken.cpu.surroundings import Activity
from turducken.devices.bus import Access
from turducken.diagnosis import BrokenRule, Diagnosis, Key, Kind, Place, Reading
from turducken.hypervisor import Hypervisor
from turducken.machine.machine import Machine, Outcome, Unclaimed
from turducken.system.places import linear_of, place_of
from turducken.system.progress import LastExit, Progress, last_exit, refused_violation
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_reasons import ENTRY_FAILURE, ExitReason, name_of
from turducken.vmx.explain import read_field
from turducken.vmx.vmcs import Vmcs

_SMALL_LOOP = 256
"""Bytes of code within which a processor goes round."""
_IF = 1 << 9
_MASKING = 'SDM 3A, "Masking Maskable Hardware Interrupts"'
_ENDED = frozenset({Outcome.LIMIT, Outcome.TIMEOUT, Outcome.INTERRUPTED, Outcome.STUCK})
"""Outcomes of runs that did not end by themselves."""

Found = tuple[Place, Key, Callable[[], Diagnosis]]


def explain_ending(
    machine: Machine, hypervisor: Hypervisor | None, progress: Progress
) -> Iterator[Found]:
    """Yield what is to be told at the end of a run, as `Diagnoses.report` takes it."""
    for one in machine.unclaimed:
        place = Place(one.cpu, 1, one.rip, one.rip)
        yield place, ("unanswered", one.kind, one.address), partial(_unanswered, one)
    outcome = machine.stop.outcome
    is_success = outcome is Outcome.UNTIL or (
        outcome is Outcome.GUEST_EXIT and machine.stop.code == 0
    )
    if not is_success:
        yield from _unhandled_exits(machine, hypervisor)
    if outcome is Outcome.HALTED:
        # Those that take interrupts may well wait for the others: they are told of first.
        for processor in sorted(machine.processors, key=lambda one: not one.state.rflags & _IF):
            if processor.activity is not Activity.WAIT_FOR_SIPI:
                place = place_of(processor, hypervisor)
                yield place, ("nothing-to-wake",), partial(_nothing_to_wake, processor)
    elif outcome in _ENDED:
        for processor in machine.processors:
            places = progress.last_places(processor.index)
            if processor.activity is Activity.ACTIVE and _is_small_loop(places):
                found = partial(_endless_loop, processor, places)
                yield places[-1], ("endless-loop",), found


def _unhandled_exits(machine: Machine, hypervisor: Hypervisor | None) -> Iterator[Found]:
    """Yield the last VM exit of each guest that has not been entered again."""
    for processor in machine.processors:
        vmcs = _left_by_guest(processor, hypervisor)
        if vmcs is not None and vmcs.is_launched:
            same = last_exit(vmcs)
            if not same.reason & ENTRY_FAILURE:
                place = Place(processor.index, 2, same.rip, linear_of(vmcs, same.rip))
                found = partial(_unhandled, hypervisor, processor, vmcs, same)
                yield place, ("unhandled-exit", same.reason), found


def _left_by_guest(processor: Processor, hypervisor: Hypervisor | None) -> Vmcs | None:
    """Return the VMCS of a guest that L1 has not entered since its last VM exit."""
    if hypervisor is None:
        return processor.vmx.current if processor.guest is None else None
    vcpu = next((one for one in hypervisor.vcpus if one.index == processor.index), None)
    return vcpu.unit.current if vcpu is not None and not vcpu.in_l2 else None


def _unhandled(
    hypervisor: Hypervisor | None, processor: Processor, vmcs: Vmcs, same: LastExit
) -> Diagnosis:
    name = name_of(same.reason)
    rules: tuple[BrokenRule, ...] = ()
    notes: tuple[str, ...] = ()
    if same.reason == ExitReason.EPT_VIOLATION:
        rules, notes = refused_violation(hypervisor, processor, same)
    if not rules:
        fields = [f.EXIT_REASON, f.EXIT_QUALIFICATION, f.GUEST_RIP]
        if same.reason == ExitReason.EXCEPTION_OR_NMI:
            fields[1:1] = [f.EXIT_INTERRUPTION_INFORMATION, f.EXIT_INTERRUPTION_ERROR_CODE]
        rule = BrokenRule(
            "exits.not-handled",
            "whoever gets a VM exit must handle it and enter the guest again, or give it up",
            'SDM 3C, "VM Exits"',
            tuple(read_field(vmcs, one) for one in fields),
        )
        rules = (rule,)
    outcome = "the last VM exit: the guest was not entered again"
    return Diagnosis(Kind.UNHANDLED_EXIT, name, outcome, rules, notes)


def _is_small_loop(places: list[Place]) -> bool:
    if not places or len({one.level for one in places}) > 1:
        return False
    linear = [one.linear for one in places]
    return max(linear) - min(linear) <= _SMALL_LOOP


def _flags(processor: Processor) -> Reading:
    flags = processor.state.rflags
    decoded = "interrupts enabled (IF)" if flags & _IF else "interrupts disabled (no IF)"
    return Reading("RFLAGS", flags, 16, decoded)


def _pending(processor: Processor) -> str:
    vector = processor.apic.pending_vector()
    if vector is None:
        return "no interrupt is pending in its local APIC, and no timer is due"
    return f"interrupt {vector:#x} is pending in its local APIC"


def _endless_loop(processor: Processor, places: list[Place]) -> Diagnosis:
    linear = sorted(one.linear for one in places)
    rule = BrokenRule(
        "progress.endless-loop",
        "a loop that waits must have something that ends it: an interrupt, another processor, a "
        "device",
        _MASKING,
        (
            Reading("lowest RIP at the end of its last turns", linear[0], 16),
            Reading("highest RIP at the end of its last turns", linear[-1], 16),
            _flags(processor),
        ),
    )
    outcome = "went round in a few instructions until the run was ended"
    return Diagnosis(Kind.ENDLESS_LOOP, "execution", outcome, (rule,), (_pending(processor),))


def _nothing_to_wake(processor: Processor) -> Diagnosis:
    is_shut = processor.activity is Activity.SHUTDOWN
    text = (
        "in shutdown, only an NMI, INIT or reset goes on"
        if is_shut
        else (
            "after HLT, a processor goes on at an interrupt that is enabled, an NMI, INIT or reset"
        )
    )
    rule = BrokenRule(
        "progress.nothing-to-wake",
        text,
        'SDM 2A, "HLT - Halt"',
        (_flags(processor), Reading("activity state", processor.activity, 1)),
        "STI before HLT, and a device or another processor that sends the interrupt",
    )
    return Diagnosis(
        Kind.NOTHING_TO_WAKE,
        "shutdown" if is_shut else "HLT",
        "nothing will ever wake the processor",
        (rule,),
        (_pending(processor),),
    )


def _unanswered(one: Unclaimed) -> Diagnosis:
    readings = [Reading("address", one.address, 16 if "memory" in one.kind.value else 4)]
    if one.kind in _WRITES:
        readings.append(Reading("value", one.value, 2 * one.size))
    rule = BrokenRule(
        "machine.unanswered",
        "an access should go to RAM or to a device; reads of anything else give all ones, writes "
        "are lost",
        "",
        tuple(readings),
    )
    return Diagnosis(
        Kind.UNANSWERED, f"{one.kind.value} of {one.size} bytes", "nothing answered", (rule,)
    )


_WRITES = frozenset(one for one in Access if "write" in one.value)
