"""The sanitizer of one system: attaches itself to processors, memory and hypervisor."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from turducken.address import Gpa1
from turducken.check.changes import Actor, Change, Source
from turducken.check.examiner import Examiner
from turducken.check.findings import Describe, Finding
from turducken.check.follow import HardwareFollower, L1Follower
from turducken.check.records import GUEST, Record
from turducken.check.virtual import VirtualView
from turducken.check.watch import EntryWatch, WatchedHost
from turducken.cpu.processor import Processor
from turducken.hypervisor import Hypervisor, Vcpu
from turducken.machine.machine import Machine
from turducken.mmu.followed import FollowedTlb
from turducken.mmu.observed import ObservedMmu
from turducken.paging.formats import EPT, Features
from turducken.vmx import vmcs_fields as f

_OURS = ("turducken.hypervisor", "turducken.apps")
_TOOLS = tuple(
    f"hypervisor.{one}."
    for one in ("ept_table", "ept01", "frames", "guest_memory", "memory_control", "events")
)
_EPT01 = EPT.bind(Features())


class Sanitizer:
    """Follows a machine (made with ``observed``) and its hypervisor, if it has one.

    ``findings`` are in the order in which they came up; ``on_finding`` is called with each new one.
    """

    def __init__(self, machine: Machine, hypervisor: Hypervisor | None = None) -> None:
        self._machine = machine
        self._hypervisor = hypervisor
        self.is_nested = hypervisor is not None
        self.findings: list[Finding] = []
        self.on_finding: Callable[[Finding], None] | None = None
        self._known: dict[tuple[object, ...], Finding] = {}
        processors = machine.processors
        engines = [one.engine for one in processors]
        self.watch = EntryWatch(machine.memory, engines, self._writer, self._changed)
        count = len(processors)
        self._entries = [0] * count
        self._entries12 = [0] * count
        self._last_user = [-1] * count
        self._pending: list[list[tuple[str, Change]]] = [[] for _ in processors]
        self._vcpus: list[Vcpu | None] = [None] * count
        self._marked: set[int] = set()
        machine.on_stale_use_mark = self._on_mark
        self.examiners = [self._attach(one) for one in processors]
        for examiner, processor in zip(self.examiners, processors, strict=True):
            HardwareFollower(self, examiner, processor)
        if hypervisor is not None:
            hypervisor.events.subscribers.append(L1Follower(self).on_event)

    def _attach(self, processor: Processor) -> Examiner:
        mmu = processor.mmu
        if not isinstance(mmu, ObservedMmu) or not isinstance(processor.tlb, FollowedTlb):
            raise ValueError("the machine was not made to be observed")
        index, engine = processor.index, processor.engine
        engine.ask(WatchedHost(index, engine, processor.accesses, self.watch))
        return Examiner(self, processor, mmu)

    # Who does what

    def vcpu(self, index: int) -> Vcpu | None:
        """Return L0's part of a processor, once there is one."""
        known = self._vcpus[index]
        if known is None and self._hypervisor is not None:
            for one in self._hypervisor.vcpus:
                self._vcpus[one.index] = one
            known = self._vcpus[index]
        return known

    def level(self, processor: Processor) -> str:
        """Return which level runs on a processor."""
        if not self.is_nested:
            return "L1" if processor.guest is None else "L2"
        if processor.guest is None:
            return "L0"
        vcpu = self.vcpu(processor.index)
        return "L2" if vcpu is not None and vcpu.in_l2 else "L1"

    def stage_of_ept(self, processor: Processor) -> str:
        """Return which EPT a processor's is."""
        if not self.is_nested:
            return "ept12"
        vcpu = self.vcpu(processor.index)
        if vcpu is None or vcpu.app_table is not None or not vcpu.in_l2:
            return "ept01"
        context = vcpu.nested.current
        return "ept01" if context is None or context.root12 is None else "ept02"

    def actor(self, processor: Processor) -> Actor:
        """Return who runs on a processor, and where."""
        level = self.level(processor)
        cpu = processor.index
        if level == "L0":
            return Actor(cpu, level, None, _function(), self.watch.moment, self._entries[cpu])
        entries = self._entries12 if self.is_nested else self._entries
        rip, is_marked = processor.state.rip, cpu in self._marked
        return Actor(cpu, level, rip, None, self.watch.moment, entries[cpu], is_marked)

    def _on_mark(self, value: int) -> None:
        """A guest begins or ends changes that it invalidates nothing after on purpose."""
        running = self._machine.running
        if running is not None:
            self.watch.close()
            (self._marked.add if value else self._marked.discard)(running.index)

    def _writer(self) -> Actor:
        running = self._machine.running
        return self.actor(running if running is not None else self._machine.processors[0])

    # What follows a change

    def _changed(self, source: Source, change: Change) -> None:
        self._pending[change.by.cpu].append((source.stage, change))

    def has_moved_on(self, change: Change, stage: str, user: int) -> bool:
        """Tell whether the modifier relies on its change, so that no stale use may follow."""
        by = change.by
        if change.has_moved_on:
            return True
        if stage == GUEST and by.cpu == user:
            return True
        entries = self._entries12 if self.is_nested and by.level != "L0" else self._entries
        if stage != GUEST or by.level != "L2":
            change.has_moved_on = entries[by.cpu] > by.entries
        if stage == GUEST and self._last_user[by.cpu] > by.moment:
            change.has_moved_on = True
        return change.has_moved_on

    def entered(self, cpu: int, *, by_l1: bool) -> None:
        """Note a VM entry of the hypervisor in root operation, or (nested) of L1's."""
        counts = self._entries12 if by_l1 else self._entries
        counts[cpu] += 1
        if self._pending[cpu]:
            self._judge_again(cpu)

    def ran_as_user(self, cpu: int) -> None:
        """Note that user-mode code runs on a processor."""
        if self._pending[cpu]:
            self._last_user[cpu] = self.watch.moment
            self._judge_again(cpu)

    def touched(self, cpu: int, record: Record) -> None:
        """Note that a processor has used entries that it may have changed itself."""
        pending = self._pending[cpu]
        if not pending:
            return
        places = {one.place for one in record.sources}
        hit = [change for stage, change in pending if stage == GUEST and change.place in places]
        for change in hit:
            change.has_moved_on = True
        if hit:
            self._judge_again(cpu)

    def _judge_again(self, cpu: int) -> None:
        """The modifier has gone on: uses that were allowed until now are to be seen again."""
        waiting = [
            (stage, change)
            for stage, change in self._pending[cpu]
            if not self.has_moved_on(change, stage, -1)
        ]
        if len(waiting) < len(self._pending[cpu]):
            self._pending[cpu] = waiting
            self.watch.epoch += 1
            self.watch.forget_all_grants()

    # For the examiners

    def actor_in_l1(self, index: int) -> Actor:
        """Return L1 on a processor, while L0 does something for it."""
        vcpu = self.vcpu(index)
        rip = None if vcpu is None else vcpu.vmcs01.read(f.GUEST_RIP)
        return Actor(index, "L1", rip, None, self.watch.moment, self._entries12[index])

    def virtual(self, index: int) -> VirtualView | None:
        """Return the processor that L1 sees as this one."""
        examiner = self.examiners[index]
        if examiner.virtual is None:
            examiner.virtual = self.make_virtual(index)
        return examiner.virtual

    def make_virtual(self, index: int) -> VirtualView | None:
        """Return the processor that L1 sees, once L0 has made one."""
        vcpu = self.vcpu(index)
        return None if vcpu is None else VirtualView(self.watch, vcpu)

    def sources01(self, vcpu: Vcpu, gpa1: Gpa1) -> tuple[Source, ...]:
        """Return the entries of EPT01 for an address of L1's."""
        sources: list[Source] = []
        for level, entry in enumerate(vcpu.ept01.table.path(gpa1)):
            if not entry.is_present:
                break
            parent = sources[-1] if sources else None
            where, value = entry.address, entry.value
            sources.append(self.watch.source(where, value, "ept01", _EPT01, level, parent=parent))
        return tuple(sources)

    @staticmethod
    def places01(vcpu: Vcpu, gpa1: Gpa1) -> list[int]:
        """Return where EPT01's entries for an address of L1's are, present or not."""
        return [entry.address for entry in vcpu.ept01.table.path(gpa1)]

    def report(self, finding: Finding) -> None:
        """Add a finding, unless it is known."""
        known = self._known.get(finding.key)
        if known is not None:
            known.count += 1
            return
        self._known[finding.key] = finding
        self.findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)

    # For reports

    @property
    def has_failed(self) -> bool:
        """Tell whether an invalidation is missing."""
        return any(one.kind == "missing" for one in self.findings)

    def as_list(self, describe: Describe) -> list[dict[str, Any]]:
        """Return what `--json` has under ``findings``."""
        return [one.as_dict(describe) for one in self.findings]


def _function() -> str | None:
    """Return the function that is at work in L0: an application's rather than L0's own.

    Of L0's, not one of those that write whatever table they are told to.
    """
    found: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_OURS):
            name = f"{module.removeprefix('turducken.')}.{frame.f_code.co_qualname}"
            found.append(f"{name}:{frame.f_lineno}")
        frame = frame.f_back
    apps = [one for one in found if one.startswith("apps.")]
    telling = [one for one in found if not one.startswith(_TOOLS)]
    return next(iter([*apps, *telling, *found]), None)
