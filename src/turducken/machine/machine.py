"""The machine: processors, RAM and devices, sharing one count of time.

Time is counted in instructions: each one takes 10 ns, whoever executes it, and some operations take
more (a port access takes a microsecond, as on real hardware). Processors take turns, in an order
and for lengths that the schedule fixes, so the same inputs give the same run.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from turducken.cpu.engine import LONGEST_BLOCK
from turducken.cpu.intercepts import HANDLERS
from turducken.cpu.processor import Parts, Processor
from turducken.cpu.surroundings import Activity
from turducken.devices.apic_core import ApicFeatures
from turducken.devices.bus import Access
from turducken.devices.chipset import Chipset, ChipsetOptions, Outputs
from turducken.devices.clock import Clock
from turducken.devices.cmos import MemorySizes
from turducken.devices.disk.taskfile import Drive
from turducken.devices.mtrr import Mtrrs
from turducken.devices.rom import Rom
from turducken.machine.code_pages import CodePages
from turducken.memory import PhysicalMemory
from turducken.memory.physical import LOW_LIMIT
from turducken.mmu.followed import FollowedTlb, broadcast
from turducken.mmu.mmu import Mmu
from turducken.mmu.observed import ObservedMmu
from turducken.mmu.policy import Broadcast, make_policy
from turducken.mmu.tlb import Tlb
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.profile import Profile

NANOSECONDS_PER_INSTRUCTION = 10
QUANTUM = 10_000
"""Instructions in a processor's turn."""
QUANTUM_ALONE = 1_000_000
"""The same, on a machine with one processor."""
PORT_NANOSECONDS = 1000
BLOCK_NANOSECONDS = 120
"""For each word but the first that a device transfers in one piece."""
MMIO_NANOSECONDS = 100
STUCK_TURNS = 5_000
"""Turns of busy processors in which none executes an instruction, after which none ever will."""


class Outcome(Enum):
    """How a run ended."""

    GUEST_EXIT = "guest-exit"
    UNTIL = "until"
    FAIL_ON = "fail-on"
    RESET = "reset"
    SLEEP = "sleep"
    TRIPLE_FAULT = "triple-fault"
    HALTED = "halted"
    LIMIT = "limit"
    STUCK = "stuck"
    """VM exit follows VM exit, or a wait another, and no processor executes an instruction."""
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """What a machine is made of.

    ``memory`` is RAM in bytes; CMOS and fw_cfg do not tell of the last ``concealed`` bytes of it.
    ``quantum`` is in instructions per turn; 0 stands for what suits the number of processors.
    ``observed``: each access and invalidation can be followed (`turducken.mmu.observed`). ``rom``
    ends at 4 GiB. ``ide`` are the drives of the two channels, masters before slaves.
    """

    profile: Profile
    memory: int = 256 << 20
    concealed: int = 0
    cpus: int = 1
    tlb: str = "keep"
    seed: int = 0
    quantum: int = 0
    native: bool = True
    observed: bool = False
    rom: bytes = b""
    ide: Sequence[Drive | None] = ()
    serial: Sequence[Callable[[int], None]] = ()
    """What takes the bytes of COM2, COM3 and COM4, as many as there are."""


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """An access that nothing in the machine answers, when it is met first; and who made it."""

    kind: Access
    address: int
    size: int
    value: int
    cpu: int
    rip: int


@dataclass(slots=True)
class Stop:
    """Why the run is over, once it is.

    ``code`` is the guest's own for `Outcome.GUEST_EXIT`, the signal's number for
    `Outcome.INTERRUPTED`, the port for `Outcome.RESET`, the sleep type for `Outcome.SLEEP`. For the
    last two, ``cpu`` and ``rip`` tell who asked for it.
    """

    outcome: Outcome | None = None
    code: int = 0
    cpu: int = 0
    rip: int = 0


class Machine:
    """An emulated multi-processor PC.

    ``on_console`` receives every byte that COM1 transmits, ``on_firmware_log`` what firmware tells
    of its progress.
    """

    def __init__(
        self,
        options: MachineOptions,
        on_console: Callable[[int], None] | None = None,
        on_firmware_log: Callable[[int], None] | None = None,
    ) -> None:
        self.on_firmware_log = on_firmware_log
        self.options = options
        self.memory = PhysicalMemory(options.memory, options.rom)
        self.clock = Clock(self._on_deadline)
        self.stop = Stop()
        self.unclaimed: list[Unclaimed] = []
        self.on_stale_use_mark: Callable[[int], None] | None = None
        self.capabilities = Capabilities.from_profile(options.profile)
        self._running: Processor | None = None
        self._started_at = self._turn_began = self._turn_ends = 0
        self._random = random.Random(options.seed)
        self._limit: int | None = None
        self._idle_turns = self._last_instructions = 0
        self.mtrrs = [
            Mtrrs(maxphyaddr=options.profile.cpu.physical_address_bits) for _ in range(options.cpus)
        ]
        self.processors = [self._make_processor(index) for index in range(options.cpus)]
        if options.tlb == Broadcast.name:
            broadcast([one.tlb for one in self.processors if isinstance(one.tlb, FollowedTlb)])
        self.chipset = self._make_chipset(on_console)
        if options.rom:
            self.chipset.attach_memory(Rom(self.memory))
        for processor, apic in zip(self.processors, self.chipset.apics, strict=True):
            processor.apic = apic
            processor.handlers = HANDLERS
        self.code_pages = CodePages(self.memory, [one.engine for one in self.processors])
        if options.cpus > 1:
            for processor in self.processors:
                processor.accesses.code_watch = self.code_pages.touch
        else:
            self.processors[0].accesses.code_watch = self.code_pages.touch_alone
            self.processors[0].accesses.watches_stores = False

    def _make_processor(self, index: int) -> Processor:
        options = self.options
        parts = Parts(
            memory=self.memory,
            profile=options.profile,
            capabilities=self.capabilities,
            platform=self,
            mtrrs=self.mtrrs[index],
            policy=make_policy(options.tlb, options.seed, index),
            native=options.native,
            tlb=FollowedTlb if options.observed or options.tlb == Broadcast.name else Tlb,
            mmu=ObservedMmu if options.observed else Mmu,
        )
        return Processor(index, options.cpus, parts)

    def _make_chipset(self, on_console: Callable[[int], None] | None) -> Chipset:
        told = self.memory.size - self.options.concealed
        low = min(told, LOW_LIMIT)
        outputs = Outputs(
            console=on_console or (lambda _byte: None),
            serial=self.options.serial,
            debug_exit=self._on_debug_exit,
            stale_use_mark=self._on_stale_use_mark,
            power_off=lambda: self.end(Outcome.GUEST_EXIT, 0),
            reset=self._on_reset,
            sleep=self._on_sleep,
            wait=self._wait,
            unclaimed=self._on_unclaimed,
            firmware_log=self.on_firmware_log,
        )
        sizes = MemorySizes(low=low, high=told - low)
        profile = self.options.profile
        apic = ApicFeatures(
            x2apic=profile.features.x2apic,
            tsc_deadline=profile.features.tsc_deadline,
            maxphyaddr=profile.cpu.physical_address_bits,
            timer_hertz=profile.cpu.apic_timer_hertz,
        )
        return Chipset(
            self.memory,
            sizes,
            self.clock,
            self.processors,
            outputs=outputs,
            options=ChipsetOptions(apic=apic, ide=self.options.ide),
        )

    def _on_unclaimed(self, kind: Access, address: int, size: int, value: int) -> None:
        running = self._running
        cpu, rip = (running.index, running.state.rip) if running is not None else (0, 0)
        self.unclaimed.append(Unclaimed(kind, address, size, value, cpu, rip))

    def _on_debug_exit(self, value: int) -> None:
        self.end(Outcome.GUEST_EXIT, value)

    def _on_reset(self, port: int) -> None:
        self._end_by_request(Outcome.RESET, port)

    def _on_sleep(self, kind: int) -> None:
        self._end_by_request(Outcome.SLEEP, kind)

    def _end_by_request(self, outcome: Outcome, code: int) -> None:
        if self.stop.outcome is None and self._running is not None:
            self.stop.cpu, self.stop.rip = self._running.index, self._running.state.rip
        self.end(outcome, code)

    def _on_stale_use_mark(self, value: int) -> None:
        if self.on_stale_use_mark is not None:
            self.on_stale_use_mark(value)

    def end(self, outcome: Outcome, code: int = 0) -> None:
        """End the run after the current instruction."""
        if self.stop.outcome is None:
            self.stop.outcome, self.stop.code = outcome, code
        if self._running is not None:
            self._running.yielded = True
            self._running.engine.request_stop()

    # Time (`Platform`)

    ticks_per_instruction = NANOSECONDS_PER_INSTRUCTION

    @property
    def now(self) -> int:
        """Guest time in nanoseconds, the running processor's turn included."""
        running = self._running
        if running is None:
            return self.clock.now
        executed = running.engine.instructions - self._started_at
        return max(self.clock.now, self._turn_began + executed * NANOSECONDS_PER_INSTRUCTION)

    def tsc(self, processor: int) -> int:
        """Return the time-stamp counter: 1 GHz, the same on every processor."""
        return self.now

    def spend(self, processor: int, nanoseconds: int) -> None:
        """Let time pass beyond the instructions'."""
        self._turn_began += nanoseconds
        self.clock.advance_to(self.now)

    def _wait(self, nanoseconds: int) -> None:
        """Let time pass within an access to a device."""
        if self._running is None:
            self.clock.advance(nanoseconds)
        else:
            self.spend(self._running.index, nanoseconds)

    # Accesses (`Platform`)

    def port_in(self, processor: int, port: int, size: int) -> int:
        """IN."""
        self.spend(processor, PORT_NANOSECONDS)
        value = self.chipset.ports.read(port, size)
        self._look_at_signals()
        return value

    def port_out(self, processor: int, port: int, size: int, value: int) -> None:
        """OUT."""
        self.spend(processor, PORT_NANOSECONDS)
        self.chipset.ports.write(port, size, value)
        self._look_at_signals()

    def port_in_block(self, processor: int, port: int, size: int, count: int) -> bytes:
        """REP INS, a piece of it."""
        self.spend(processor, PORT_NANOSECONDS)
        data = self.chipset.ports.read_block(port, size, count)
        self._spend_on_block(processor, len(data) // size)
        return data

    def port_out_block(self, processor: int, port: int, size: int, data: bytes) -> int:
        """REP OUTS, a piece of it."""
        self.spend(processor, PORT_NANOSECONDS)
        written = self.chipset.ports.write_block(port, size, data)
        self._spend_on_block(processor, written // size)
        return written

    def _spend_on_block(self, processor: int, count: int) -> None:
        if count > 1:
            self.spend(processor, (count - 1) * BLOCK_NANOSECONDS)
        self._look_at_signals()

    def mmio_read(self, processor: int, address: int, size: int) -> int:
        """Read device memory."""
        self.spend(processor, MMIO_NANOSECONDS)
        value = self.chipset.mmio_of(processor).read(address, size)
        self._look_at_signals()
        return value

    def mmio_write(self, processor: int, address: int, size: int, value: int) -> None:
        """Write device memory."""
        self.spend(processor, MMIO_NANOSECONDS)
        self.chipset.mmio_of(processor).write(address, size, value)
        self._look_at_signals()

    def _look_at_signals(self) -> None:
        """End the engine's run where an access has sent the running processor a signal."""
        running = self._running
        if running is not None and running.attention:
            running.engine.request_stop()

    def _on_deadline(self, deadline: int) -> None:
        """End a turn that would go on beyond a deadline that was not known when it began."""
        running = self._running
        if running is not None and deadline < self._turn_ends:
            running.yielded = True
            running.engine.request_stop()

    # Running

    @property
    def running(self) -> Processor | None:
        """The processor whose turn it is."""
        return self._running

    @property
    def instructions(self) -> int:
        """Instructions executed by all processors so far."""
        return sum(one.engine.executed for one in self.processors)

    def limit_instructions(self, number: int | None) -> None:
        """Let the run end after exactly so many more instructions of all processors together."""
        self._limit = None if number is None else self.instructions + number

    def run(self, max_instructions: int | None = None) -> Outcome:
        """Run until something ends the run; return why."""
        self.limit_instructions(max_instructions)
        while self.stop.outcome is None:
            self.turn()
        return self.stop.outcome

    def turn(self) -> None:
        """Give every processor one turn; skip time while all are idle."""
        busy = False
        for processor in self._order():
            if processor.is_idle and not self._timer_wakes(processor):
                continue
            busy = True
            self._give_turn(processor)
            if self.stop.outcome is not None:
                return
        if not busy:
            self._skip_idle_time()
        elif self._is_stuck():
            self.end(Outcome.STUCK)

    def _is_stuck(self) -> bool:
        """Tell, after a turn of busy processors, whether nothing will come of it any more."""
        instructions = self.instructions
        if instructions != self._last_instructions:
            self._last_instructions, self._idle_turns = instructions, 0
            return False
        self._idle_turns += 1
        return self._idle_turns >= STUCK_TURNS

    def _timer_wakes(self, processor: Processor) -> bool:
        """Tell an idle processor whose VMX-preemption timer has expired; return if it has."""
        due = processor.timer_due
        if due is None or due > self.clock.now:
            return False
        processor.attention = True
        return True

    def _order(self) -> list[Processor]:
        if not self.options.seed or len(self.processors) == 1:
            return self.processors
        order = list(self.processors)
        self._random.shuffle(order)
        return order

    def _quantum(self) -> int:
        """Return the length of the turn that begins, and note when it ends."""
        quantum = self.options.quantum or (QUANTUM if len(self.processors) > 1 else QUANTUM_ALONE)
        if self.options.seed and len(self.processors) > 1:
            quantum = self._random.randint(1, quantum)
        deadline = self._next_deadline()
        now = self.clock.now
        self._turn_ends = now + quantum * NANOSECONDS_PER_INSTRUCTION
        if deadline is not None and deadline < self._turn_ends:
            self._turn_ends = deadline
            quantum = max(0, deadline - now) // NANOSECONDS_PER_INSTRUCTION + 1
        return quantum

    def _next_deadline(self) -> int | None:
        """Return when a device or an idle processor's VMX-preemption timer is due next."""
        timers = (one.timer_due for one in self.processors if one.is_idle)
        due = [one for one in (self.clock.next_deadline(), *timers) if one is not None]
        return min(due, default=None)

    def _give_turn(self, processor: Processor) -> None:
        self._running = processor
        self._started_at = processor.engine.executed
        self._turn_began = self.clock.now
        quantum = self._quantum()
        if self._limit is not None:
            left = self._limit - self.instructions
            processor.is_exact = left <= quantum + LONGEST_BLOCK
            quantum = min(quantum, left)
        processor.run(quantum)
        now = self.now
        self._running = None
        self.clock.advance_to(now)
        if processor.activity is Activity.SHUTDOWN and processor.guest is None:
            self.end(Outcome.TRIPLE_FAULT)
        elif self._limit is not None and self.instructions >= self._limit:
            self.end(Outcome.LIMIT)

    def _skip_idle_time(self) -> None:
        """Go to the next moment at which something can happen; none is the end of the run."""
        deadline = self._next_deadline()
        if deadline is None:
            self.end(Outcome.HALTED)
            return
        self.clock.advance_to(deadline)
        for processor in self.processors:
            self._timer_wakes(processor)
        if all(one.is_idle and not one.can_wake for one in self.processors):
            self.end(Outcome.HALTED)
