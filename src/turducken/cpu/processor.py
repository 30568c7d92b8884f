"""One logical processor: its registers, its run loop, and what happens to events.

The engine runs guest code until something is ours to decide (a trap); the handlers of
`turducken.cpu.intercepts` decide it. In VMX non-root operation each decision first asks whether it
is a VM exit. In VMX root operation the processor runs machine code, or a `RootSoftware` in Python.
"""

import random
from collections.abc import Callable, Generator
from collections.abc import Mapping as Handlers
from dataclasses import dataclass, field

from turducken.address import PAGE_OFFSET_MASK, PAGE_SIZE
from turducken.arch import xcr0
from turducken.arch.debug import DEBUGCTL_BTF
from turducken.arch.exceptions import Vector
from turducken.arch.msr import IA32_APIC_BASE
from turducken.arch.registers import CR0, RFLAGS
from turducken.arch.tasks import TaskSwitchSource
from turducken.cpu import alignment, apic_access, boundary, branch_stepping, vm_exit
from turducken.cpu.accesses import Accesses
from turducken.cpu.breakpoints import ENABLED, Breakpoints
from turducken.cpu.control_registers import Key, cr4_writable, sync_mmu
from turducken.cpu.cpuid import Cpuid
from turducken.cpu.decoder import (
    Instruction,
    code_bits,
    decode,
    linear_address,
    memory_size,
)
from turducken.cpu.delivery import Failure, TaskSwitch, deliver
from turducken.cpu.diagnosing import tell_repeated_exception, tell_triple_fault
from turducken.cpu.engine import LONGEST_BLOCK, Engine, Segment, SegmentIndex, Trap
from turducken.cpu.events import Event, EventKind, combine, exception
from turducken.cpu.guest_controls import GuestControls, Primary
from turducken.cpu.guest_image import GuestImage, Saved
from turducken.cpu.host_image import HostImage
from turducken.cpu.linear import LinearMemory
from turducken.cpu.msrs import MsrFile
from turducken.cpu.surroundings import (
    Activity,
    DebuggerPort,
    LocalApicPort,
    MtrrPort,
    NoApic,
    Platform,
)
from turducken.cpu.transfers import tasks
from turducken.cpu.triple_fault import Chain
from turducken.cpu.vmx_operations import field_table, update_intercepts
from turducken.diagnosis import Report
from turducken.memory import PhysicalMemory
from turducken.mmu.context import Context
from turducken.mmu.faults import ApicAccess, Fault, PageFault
from turducken.mmu.mmu import Mmu
from turducken.mmu.policy import TlbPolicy
from turducken.mmu.tlb import Tlb
from turducken.paging.formats import Features
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.checks import EntryChecker
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.instructions import VmxUnit
from turducken.vmx.interface import Wait
from turducken.vmx.profile import Profile

_PE = CR0.mask("PE")
_IF, _TF, _RF, _AC, _VM = (RFLAGS.mask(one) for one in ("IF", "TF", "RF", "AC", "VM"))
_DR6_RESET, _DR7_RESET = 0xFFFF_0FF0, 0x400
_DR6_BS = 1 << 14
_DR7_GD = 1 << 13
_APIC_ENABLED = 1 << 11
_XCR0_STATES = 3
"""What XCR0 can have set: x87 and SSE state."""


MAX_INSTRUCTION = 15
"""Bytes that an instruction has at most."""

MOST_IDLE_EXITS = 16
"""VM exits without an instruction between them after which a processor's turn is over."""
ENDLESS_EXCEPTIONS = 1000
"""Times that the same exception comes up at the same instruction before that is told."""

SPIN_COST = 1000
"""Nanoseconds that a turn of busy waiting in root software takes."""


@dataclass(slots=True)
class Statistics:
    """What a processor did: VM exits by reason and, of those, who runs in root operation then."""

    exits: dict[int, int] = field(default_factory=dict)
    traps: int = 0
    triple_faults: int = 0


@dataclass(slots=True)
class Pending:
    """Signals that wait for the next instruction boundary."""

    init: bool = False
    sipi: int | None = None
    nmi: bool = False
    monitor_trap: bool = False
    debug: int = 0
    """DR6 bits of a trap-class debug exception."""
    exit: tuple[ExitReason, int] | None = None
    """A VM exit behind the instruction that has been executed: its reason and qualification."""
    virtual_interrupt: bool = False
    """A virtual interrupt has been recognized."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a processor is built from: see `turducken.machine`."""

    memory: PhysicalMemory
    profile: Profile
    capabilities: Capabilities
    platform: Platform
    mtrrs: MtrrPort
    policy: TlbPolicy
    native: bool = True
    tlb: type[Tlb] = Tlb
    mmu: type[Mmu] = Mmu


class Processor:
    """A logical processor of the machine, number ``index`` of ``count``."""

    def __init__(self, index: int, count: int, parts: Parts) -> None:
        self.index = index
        self.memory = parts.memory
        self.profile = parts.profile
        self.capabilities = parts.capabilities
        self.platform = parts.platform
        self.apic: LocalApicPort = NoApic()
        self.mtrrs = parts.mtrrs
        self.maxphyaddr = parts.profile.cpu.physical_address_bits
        self.cr4_writable = cr4_writable(parts.profile.features)
        self.accesses = Accesses(self)
        self.engine = Engine(parts.memory, self.accesses, native=parts.native)
        self.state = self.engine.state
        self.tlb = parts.tlb(self._forget_translations)
        self.policy = parts.policy
        self.mmu = parts.mmu(parts.memory, self.tlb, parts.policy)
        self.linear = LinearMemory(self.mmu, parts.memory, self.accesses)
        self.vmx = VmxUnit(parts.capabilities, parts.memory)
        self._prepare_traps()
        self.cpuid = Cpuid(parts.profile, index, count)
        self.ept_features = Features(
            maxphyaddr=self.maxphyaddr,
            pages_1gib=parts.profile.ept.pages_1gib,
            pages_2mib=parts.profile.ept.pages_2mib,
            execute_only=parts.profile.ept.execute_only,
        )
        self.guest: GuestControls | None = None
        self.entry_checker = EntryChecker(parts.capabilities)
        self.controls_cache: dict[int, tuple[bytes, GuestControls]] = {}
        self.contexts: dict[tuple[Key, int], Context] = {}
        self.host_images: dict[tuple[object, ...], HostImage] = {}
        self.guest_images: dict[tuple[object, ...], GuestImage] = {}
        self.saved_guests: dict[int, Saved] = {}
        self.pause_loop = (0, 0)
        self.random = random.Random(index)
        self.unblocking_iret: int | None = None
        self.is_aborted = False
        self.timer_deadline: int | None = None
        self.dr = [0, 0, 0, 0, 0, 0, _DR6_RESET, _DR7_RESET]
        self.state.xcr0 = 1
        self.pkru = 0
        self.pending = Pending()
        self.breakpoints = Breakpoints(self)
        self._nmi_blocked = False
        self.stack_shadow: int | None = None
        self.activity = Activity.ACTIVE if index == 0 else Activity.WAIT_FOR_SIPI
        self.attention = True
        self.awaited_flags = 0
        self.statistics = Statistics()
        self.root: Generator[Wait, None, None] | None = None
        self.root_wait: Wait | None = None
        self.on_event: Callable[[str, Processor, tuple[object, ...]], None] | None = None
        self.on_diagnosis: Report | None = None
        self.handlers: Handlers[int, Callable[[Processor], None]] = {}
        self.msrs = MsrFile(self)
        self.reset()

    def _prepare_traps(self) -> None:
        """Tell the engine which traps it may handle by itself."""
        self.engine.fields.use_table(field_table(self.vmx))
        is_unseen = self.mmu.keeps_answers and not self.policy.acts_when_stopped
        self.engine.traps.words.is_unseen = int(is_unseen)

    # Reset and start

    def reset(self) -> None:
        """SDM 3A, "Processor State After Reset" (after INIT: TLBs and most MSRs stay)."""
        state = self.state
        for number in range(16):
            state.gpr[number] = 0
        state.gpr[2] = self.cpuid.signature()
        state.efer, state.cr0, state.cr2, state.cr3, state.cr4 = 0, 0x6000_0010, 0, 0, 0
        state.rflags = 2
        state.set_segment(SegmentIndex.CS, Segment(0xF000, 0xFFFF_0000, 0xFFFF, 0x9B))
        for one in (0, 2, 3, 4, 5):
            state.set_segment(one, Segment(0, 0, 0xFFFF, 0x93))
        state.set_segment(SegmentIndex.LDTR, Segment(0, 0, 0xFFFF, 0x82))
        state.set_segment(SegmentIndex.TR, Segment(0, 0, 0xFFFF, 0x8B))
        state.set_table(SegmentIndex.GDTR, 0, 0xFFFF)
        state.set_table(SegmentIndex.IDTR, 0, 0xFFFF)
        state.rip = 0xFFF0
        self.dr[:] = [0, 0, 0, 0, 0, 0, _DR6_RESET, _DR7_RESET]
        self.nmi_blocked = False
        self.stack_shadow = None
        self.state.in_shadow = False
        state.update_mode(0)
        self.tlb.forget_everything()
        update_intercepts(self)
        sync_mmu(self)

    def start_at(self, vector: int) -> None:
        """Begin at a startup IPI's page: real mode, CS:IP = ``vector`` * 100h : 0."""
        self.state.set_segment(SegmentIndex.CS, Segment(vector << 8, vector << 12, 0xFFFF, 0x9B))
        self.state.rip = 0
        self.state.update_mode(0)
        self.activity = Activity.ACTIVE

    # Inputs (from the local APIC)

    def raise_init(self) -> None:
        """Learn of an INIT signal."""
        self.pending.init = True
        self.attention = True

    def raise_sipi(self, vector: int) -> None:
        """Learn of a startup IPI: lost unless the processor waits for one."""
        if self.activity is Activity.WAIT_FOR_SIPI or self.pending.init:
            self.pending.sipi = vector
            self.attention = True

    def raise_nmi(self) -> None:
        """Learn of an NMI."""
        self.pending.nmi = True
        self.attention = True

    def interrupt_changed(self) -> None:
        """Learn that another interrupt may be pending now."""
        self.attention = True

    # Running

    @property
    def is_idle(self) -> bool:
        """Nothing can happen until a signal arrives."""
        if self.root is not None and self.guest is None:
            return self.root_wait is Wait.HALT and not self.attention
        return self.activity is not Activity.ACTIVE and not self.attention

    @property
    def can_wake(self) -> bool:
        """Tell whether an interrupt from a device could end the processor's idleness."""
        if self.activity is Activity.HLT:
            accepts = bool(self.state.rflags & _IF)
            return accepts or (self.guest is not None and bool(self.guest.pin & 1))
        return self.root is not None and self.guest is None

    @property
    def timer_due(self) -> int | None:
        """Return when the VMX-preemption timer expires, in the board's time-stamp counter.

        It counts in every activity state but wait-for-SIPI.
        """
        if self.timer_deadline is None or self.activity is Activity.WAIT_FOR_SIPI:
            return None
        return self.timer_deadline - self.msrs.tsc_adjust

    def run(self, budget: int) -> None:
        """Run for about ``budget`` instructions, or until the processor has nothing to do."""
        engine = self.engine
        executed = engine.executed
        end = executed + budget
        exits = 0
        while engine.executed < end:
            if self.root is not None and self.guest is None:
                if engine.executed != executed:
                    executed, exits = engine.executed, 0
                elif exits == MOST_IDLE_EXITS:
                    return
                exits += 1
                if not self._run_root():
                    return
                continue
            if self.attention:
                if not boundary.attend(self):
                    return
                if self.root is not None and self.guest is None:
                    continue  # what was due was a VM exit
            if self.activity is not Activity.ACTIVE:
                return
            self._run_code(end - engine.executed)
            if self.yielded:
                self.yielded = False
                return

    at_every_boundary = True
    """Something waits for the next instruction boundary."""
    interrupted: tuple[int, int, int] | None = None
    """Until the next VM entry: region, IDT-vectoring information and reason of a VM exit."""
    last_exception: Event | None = None
    """The last hardware exception, whatever became of it; it came up at `last_exception_rip`."""
    _last_exception = (-1, 0, 0, 0)
    _same_exceptions = 0
    yielded = False
    """Set by a handler that ends the processor's turn (PAUSE)."""
    is_monitoring = False
    """MONITOR has armed the hardware that MWAIT asks."""
    stepped_from: tuple[int, int] | None = None
    """RIP at and behind the instruction that was executed alone last."""

    is_exact = False
    """Run exactly as many instructions as the budget says: the last ones go one by one."""

    debugger: DebuggerPort | None = None

    def _run_code(self, budget: int) -> None:
        alone = self.debugger is not None and self.debugger.before_code(self.index)
        guest = self.guest
        self.statistics.traps += 1
        if self.dr[7] & ENABLED or self.breakpoints.enabled:
            self.breakpoints.update()
        if self.is_exact:
            budget -= LONGEST_BLOCK
        if budget < 0 or alone or self.breakpoints.has_ports:
            trap: int = Trap.SPECIAL
        elif guest is not None and guest.primary & Primary.MONITOR_TRAP_FLAG:
            # A single instruction, whoever executes it; a VM exit cancels the trap.
            trap = Trap.SPECIAL
            self.pending.monitor_trap = self.attention = True
        else:
            watched = alignment.flags_to_watch(self.state)
            branches = branch_stepping.flags_to_watch(self)
            if watched is None or branches is None:
                trap = Trap.SPECIAL
            else:
                trap = self.engine.run(self._slice(budget), self.awaited_flags | watched | branches)
                if self.debugger is not None:
                    trap = self._debugged(trap)
        self.policy.stopped(self.tlb)
        if trap:
            self.handlers[trap](self)

    def _debugged(self, trap: int) -> int:
        """Ask the debugger before an instruction that runs alone; return the trap to handle."""
        assert self.debugger is not None
        if self.accesses.is_guarded:
            self.accesses.is_guarded = False
            trap = Trap.SPECIAL
        if trap == Trap.SPECIAL:
            self.debugger.before_alone(self.index)
        return trap

    def _slice(self, budget: int) -> int:
        """Shorten a run so that it stops where something may become due."""
        if self.attention and self.at_every_boundary:
            return 0
        if self.timer_deadline is not None:
            left = self.timer_deadline - self.read_tsc()
            return max(0, min(budget, left // self.platform.ticks_per_instruction))
        return budget

    def _run_root(self) -> bool:
        """Let the root software run; return whether the processor has something to do."""
        assert self.root is not None
        if self.root_wait is Wait.HALT and not self._root_has_signal():
            self.attention = False
            return False
        self.root_wait = None
        try:
            self.root_wait = next(self.root)
        except StopIteration:
            self.root = None
            self.activity = Activity.SHUTDOWN
            return False
        if self.root_wait is Wait.OTHERS:
            # A turn of spinning costs time, or nothing would ever become due.
            self.platform.spend(self.index, SPIN_COST)
            return False
        return True

    def _root_has_signal(self) -> bool:
        pending = self.pending
        return (
            pending.nmi
            or pending.init
            or pending.sipi is not None
            or self.apic.pending_vector() is not None
        )

    # Raising events

    def raise_exception(self, vector: int, error_code: int | None = None) -> None:
        """Cause a hardware exception at the current instruction."""
        self.raise_event(exception(vector, error_code))

    def general_protection(self) -> None:
        """Cause #GP(0)."""
        self.raise_event(exception(Vector.GP, 0))

    def raise_event(self, event: Event) -> None:
        """Deliver ``event`` through the IDT or turn it into a VM exit, and so on what follows.

        An event that VM entry injects does not itself cause an exit, whatever the controls say.

        SDM 3C, "Information for VM Exits During Event Delivery": what is being delivered when an
        exit strikes is recorded as the vectored event.
        """
        during: Event | None = None
        chain: Chain = []
        if event.kind is EventKind.HARDWARE:
            self._note_exception(event)
        while True:
            guest = self.guest
            if guest is not None and not event.is_injected and guest.exits_on(event):
                vm_exit.exit_for_event(self, event, during)
                return
            failure = self._deliver(event)
            if failure is None:
                return
            second: Event
            if isinstance(failure, Event):
                second = failure
            elif isinstance(failure, PageFault):
                second = exception(Vector.PF, failure.error_code, failure.address)
            elif isinstance(failure, TaskSwitch):
                source = TaskSwitchSource.IDT_GATE
                length = event.length if event.is_software else 0
                refusal = tasks.switch(self, failure.selector, source, length, event)
                if refusal is None:
                    return
                if not isinstance(refusal, Event):
                    self.take_fault(refusal, event)
                    return
                second = refusal
            else:
                self.take_fault(failure, event)
                return
            chain.append((event, failure))
            if guest is not None and guest.exits_on(second):
                vm_exit.exit_for_event(self, second, event)
                return
            combined = combine(event, second)
            if combined is None:
                self.triple_fault(chain)
                return
            during = None if combined.vector == Vector.DF else event
            event = combined

    @property
    def last_exception_rip(self) -> int:
        """RIP of the instruction at which the last hardware exception came up."""
        return self._last_exception[1]

    def _note_exception(self, event: Event) -> None:
        """Tell where the same exception comes up at the same instruction for ever."""
        same = event.vector, self.state.rip, event.payload, self.state.gpr[4]
        self.last_exception = event
        if same != self._last_exception:
            self._last_exception, self._same_exceptions = same, 0
        self._same_exceptions += 1
        if not self._same_exceptions % ENDLESS_EXCEPTIONS:
            tell_repeated_exception(self, event, ENDLESS_EXCEPTIONS)

    def _deliver(self, event: Event) -> Failure | None:
        """Deliver one event, and update what that updates even where it leads to a VM exit.

        SDM 3C, "Architectural State Before a VM Exit": events that cause one indirectly.
        """
        state = self.state
        is_debug = event.vector == Vector.DB and not event.is_injected
        if event.kind is EventKind.HARDWARE and not event.is_injected:
            if event.vector == Vector.PF:
                state.cr2 = event.payload
            elif is_debug:
                self.dr[6] |= event.payload
                self.msrs.debugctl &= ~DEBUGCTL_BTF
        state.in_shadow = False
        self.activity = Activity.ACTIVE
        self.is_monitoring = False
        rip = 0 if self.on_event is None else state.rip
        failure = deliver(state, self.linear, event)
        if failure is None:
            if is_debug:
                self.dr[7] &= ~_DR7_GD
            self.attention = True
            if self.on_event is not None:
                self.on_event("delivered", self, (event, rip))
        return failure

    def take_fault(self, fault: Fault, during: Event | None = None) -> None:
        """Cause what a failed translation causes; ``during`` is the event being delivered."""
        if isinstance(fault, PageFault):
            self.raise_event(exception(Vector.PF, fault.error_code, fault.address))
        elif isinstance(fault, ApicAccess):
            if during is None and apic_access.virtualize(self, fault):
                return
            vm_exit.exit_for_apic_access(self, fault, during)
        else:
            vm_exit.exit_for_translation(self, fault, during)

    def triple_fault(self, chain: Chain) -> None:
        """SDM 3A, "Interrupt 8 - Double Fault Exception": shutdown, or a VM exit in non-root."""
        tell_triple_fault(self, chain)
        self.statistics.triple_faults += 1
        if self.guest is not None:
            vm_exit.exit_to_host(self, ExitReason.TRIPLE_FAULT)
        else:
            self.activity = Activity.SHUTDOWN

    def exit_at_boundary(self, reason: ExitReason, qualification: int) -> None:
        """Cause a VM exit behind the current instruction."""
        self.pending.exit = reason, qualification
        self.attention = True

    def refuse(self, refusal: Event | Fault) -> None:
        """Cause what an instruction's check returned."""
        if isinstance(refusal, Event):
            self.raise_event(refusal)
        else:
            self.take_fault(refusal)

    def instruction(self) -> Instruction | None:
        """Decode the instruction at RIP; None where fetching it caused an exception or exit."""
        code = self._fetch()
        if not isinstance(code, bytes):
            self.take_fault(code)
            return None
        return decode(code, code_bits(self.state))

    def instruction_bytes(self) -> bytes:
        """Return the bytes at RIP, at most 15 and fewer where a page cannot be fetched."""
        code = self._fetch()
        return code if isinstance(code, bytes) else b""

    def peek(self) -> Instruction | None:
        """Decode the instruction at RIP; None, and nothing else, where it cannot be fetched."""
        code = self._fetch()
        return decode(code, code_bits(self.state)) if isinstance(code, bytes) else None

    def instruction_length(self) -> int:
        """Return the length of the instruction at RIP, 0 where it cannot be fetched."""
        instruction = self.peek()
        return 0 if instruction is None else instruction.len

    def operand_size(self) -> int:
        """Return the size in bytes of the memory operand of the instruction at RIP."""
        instruction = self.peek()
        return 0 if instruction is None else memory_size(instruction.memory_size)

    def _fetch(self) -> bytes | Fault:
        """Return the bytes at RIP, as many as an instruction can have (fewer at a fault)."""
        state = self.state
        linear = linear_address(state, SegmentIndex.CS, state.rip)
        offset = linear & PAGE_OFFSET_MASK
        place = self.engine.fetched(linear - offset)
        if place is not None and offset <= PAGE_SIZE - MAX_INSTRUCTION:
            # The engine fetches from this page, so it has been translated.
            return self.memory.read(place + offset, MAX_INSTRUCTION)
        return self.linear.fetch(linear, MAX_INSTRUCTION, user=state.cpl == 3)

    def cpuid_leaf(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """Return what CPUID reports at present."""
        base = self.apic.read_msr(IA32_APIC_BASE)
        enabled = base is not None and bool(base & _APIC_ENABLED)
        return self.cpuid.leaf(leaf, subleaf, cr4=self.state.cr4, is_apic_enabled=enabled)

    def set_xcr(self, index: int, value: int) -> bool:
        """XSETBV: False for #GP."""
        if not xcr0.is_accepted(index, value, _XCR0_STATES):
            return False
        self.state.xcr0 = value
        return True

    def advance(self, length: int) -> None:
        """Complete an instruction of ``length`` bytes: RIP, RF, interrupt shadow, single step."""
        flags = self.state.advance(length)
        if flags & (_TF | _RF):
            self.state.rflags = flags & ~_RF
            if flags & _TF and not branch_stepping.is_on(self):
                self.pending.debug |= _DR6_BS
                self.attention = True

    def complete_iteration(self) -> None:
        """Complete an iteration of a repeated instruction, which is to go on: single step."""
        state = self.state
        state.in_shadow = False
        if state.rflags & _TF and not branch_stepping.is_on(self):
            self.pending.debug |= _DR6_BS
            self.attention = True

    @property
    def nmi_blocked(self) -> bool:
        """NMIs (or virtual NMIs) are blocked until IRET."""
        return self._nmi_blocked

    @nmi_blocked.setter
    def nmi_blocked(self, value: bool) -> None:
        if value != self._nmi_blocked:
            self._nmi_blocked = value
            self.engine.traps.words.blocks_nmi = int(value)
            self.attention = True
            update_intercepts(self)

    def advance_into_shadow(self, length: int) -> None:
        """Complete a load of SS: events are held back until the next instruction is complete.

        SDM 3A, "Masking Exceptions and Interrupts When Switching Stacks"; of several such loads in
        a row, only the first is sure to do it.
        """
        was_in_shadow = self.state.in_shadow
        self.advance(length)
        if not was_in_shadow:
            self.block_by_mov_ss()

    def block_by_mov_ss(self) -> None:
        """Hold events back as after a load of SS that ends at RIP."""
        self.state.in_shadow = True
        self.stack_shadow = linear_address(self.state, SegmentIndex.CS, self.state.rip)

    def is_blocked_by_sti(self) -> bool:
        """Tell, while interrupts are blocked for one instruction, whether STI did it or MOV SS."""
        here = linear_address(self.state, SegmentIndex.CS, self.state.rip)
        return self.stack_shadow != here

    # Time

    def read_tsc(self) -> int:
        """Return the time-stamp counter as root operation reads it."""
        return (self.platform.tsc(self.index) + self.msrs.tsc_adjust) & 0xFFFF_FFFF_FFFF_FFFF

    @property
    def vpid(self) -> int:
        """The current VPID: 0000H in root operation and without VPID."""
        return self.guest.vpid if self.guest is not None else 0

    def _forget_translations(self) -> None:
        if self.mmu.keeps_answers:
            self.engine.is_switched = True
        else:
            self.engine.is_stale = True
