"""One processor's engine: run until something happens that is ours to decide."""

import ctypes
from enum import IntEnum
from typing import Any, Protocol

from iced_x86 import Instruction
from unicorn import unicorn_const, x86_const

from turducken.address import PAGE_OFFSET_MASK, PAGE_SIZE
from turducken.cpu.engine import library
from turducken.cpu.engine.blocks import Blocks
from turducken.cpu.engine.budget import Budget
from turducken.cpu.engine.code import TranslatedCode
from turducken.cpu.engine.field_access import FieldAccess
from turducken.cpu.engine.grants import EXECUTE, LARGE_SHIFT, Answer, Grants
from turducken.cpu.engine.guestmode import enter_guest_mode
from turducken.cpu.engine.selfcheck import check_layout
from turducken.cpu.engine.state import CS_BASE, RIP, Checkpoint, State
from turducken.cpu.engine.traps import Traps
from turducken.cpu.engine.vectors import Vectors
from turducken.memory import PhysicalMemory

_DEVICE_WINDOW = 1 << 46
"""Engine-physical: where host-physical addresses without RAM appear, so that accesses ask us."""

_EMPTY_BUS = 1 << 47
"""Engine-physical: a page of ones, for code where there is no RAM (the engine runs none of a
device's, nor does it say so)."""

LONGEST_BLOCK = 512
"""Instructions that a block has at most: a run may go on for so many beyond its budget."""

READ, WRITE, FETCH = 0, 1, 2
"""Kinds of access."""

_KINDS = {
    unicorn_const.UC_MEM_READ: READ,
    unicorn_const.UC_MEM_WRITE: WRITE,
    unicorn_const.UC_MEM_FETCH: FETCH,
}
_GRANT = (
    unicorn_const.UC_PROT_READ,
    unicorn_const.UC_PROT_READ | unicorn_const.UC_PROT_WRITE,
    unicorn_const.UC_PROT_EXEC,
)


_FCW_AT_RESET, _MXCSR_AT_RESET = 0x40, 0x1F80

_SINGLE_STEP = 0x141
"""#DB after an instruction under RFLAGS.TF."""

_NEEDED = (
    unicorn_const.UC_PROT_READ,
    unicorn_const.UC_PROT_WRITE,
    unicorn_const.UC_PROT_EXEC,
)


class Trap(IntEnum):
    """Why a run ended; values from 100h to 1FFh are SVM exit codes (`turducken.cpu.intercepts`)."""

    BUDGET = 0
    """The budget is used up; the processor stands before the next block."""
    FAULT = 0x2000
    """`EngineHost.fill` refused; ``fault_address`` has the exact linear address."""
    IO = 0x2001
    """`EngineHost.port_in` or `port_out` refused; the instruction has not begun."""
    SPECIAL = 0x2002
    """The next block has an instruction that the engine must not execute; it has not begun."""
    SOFTWARE_INTERRUPT = 0x1000
    """Plus the vector: INT n, INT3, INTO; RIP is behind the instruction."""


class EngineHost(Protocol):
    """What the engine asks while it runs: the processor answers."""

    def fill(self, page: int, kind: int) -> int | None:
        """Translate the linear ``page`` for an access; return a host-physical page or None."""

    def is_special(self, address: int, size: int) -> bool:
        """Tell whether a block of code has an instruction that the engine must not execute."""

    def starts_of(self, address: int, size: int) -> list[int]:
        """Return the linear addresses of the instructions of a block."""

    def port_in(self, port: int, size: int) -> int | None:
        """Return what IN reads, or None to stop before the instruction."""

    def port_out(self, port: int, size: int, value: int) -> bool:
        """Execute OUT and return True, or return False to stop before the instruction."""

    def mmio_read(self, address: int, size: int) -> int:
        """Read from a host-physical address that is not RAM."""

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write to a host-physical address that is not RAM."""


class Engine:
    """Executes one processor's instructions over the machine's RAM.

    ``state`` is the register file between runs. Set ``is_switched`` when ``grants`` answer
    otherwise than before, from other tables or because something was dropped; ``is_stale`` when
    none of their answers holds: the next run then asks `EngineHost.fill` again for everything;
    ``is_code_stale`` when somebody else wrote to code that this engine has translated.
    ``fault_address`` and ``fault_kind`` describe the access that `EngineHost.fill` refused,
    ``executed`` the number of instructions begun so far.
    """

    def __init__(self, memory: PhysicalMemory, host: EngineHost, *, native: bool = True) -> None:
        check_layout()
        self._engine, self._handle = library.open_engine()
        self._memory = memory
        self._ram = memory.host_pointer
        self._host = host
        self._trap = 0
        self._aborted = False
        self._is_entering = True
        self._error: BaseException | None = None
        self.fault_kind = 0
        self.executed = 0
        self.is_switched = False
        self.is_stale = False
        self.is_code_stale = False
        self.code = TranslatedCode(self._handle)
        self._blocks = Blocks()
        self._rests: dict[int, dict[int, int]] = {}
        self.branches: dict[int, Instruction] = {}
        """By the linear address of a block: what ended it, where somebody has looked."""
        self._running_budget = 0
        self._is_stepping = False
        self._map_memory()
        self.state = State(self._handle)
        self.vectors = Vectors(self._handle)
        self._budget = Budget(self.state.address, self._new_block, native=native)
        self._checkpoint = Checkpoint(self._handle)
        self.grants = Grants(self.state, library.FILL_HOOK(self._on_fill), native=native)
        self.traps = Traps(
            self.state.address,
            self._budget.words,
            self.grants.words,
            self._on_interrupt,
            native=native,
        )
        self.traps.know_ram(self._ram, memory.regions[0].size)
        self.fields = FieldAccess(self.traps.words)
        self._add_hooks()
        self._budget.left = 1 << 62
        enter_guest_mode(self._engine, self._handle, self.state)
        # SDM 3A, "Processor State After Reset"; INIT leaves them as they are.
        self._engine.reg_write(x86_const.UC_X86_REG_FPCW, _FCW_AT_RESET)
        self._engine.reg_write(x86_const.UC_X86_REG_MXCSR, _MXCSR_AT_RESET)
        self._is_entering = False
        library.flush_tlb(self._handle)

    def ask(self, host: EngineHost) -> None:
        """Ask ``host`` from now on, who stands between this engine and its processor."""
        self._host = host

    def _map_memory(self) -> None:
        for region in self._memory.regions:
            self._engine.mem_map_ptr(
                region.base,
                region.size,
                unicorn_const.UC_PROT_ALL,
                self._ram + region.offset,
            )
        rom = self._memory.rom_region
        if rom.size:
            prot = unicorn_const.UC_PROT_READ | unicorn_const.UC_PROT_EXEC
            self._engine.mem_map_ptr(rom.base, rom.size, prot, self._ram + rom.offset)
        self._engine.mem_map(_EMPTY_BUS, PAGE_SIZE)
        self._engine.mem_write(_EMPTY_BUS, b"\xff" * PAGE_SIZE)
        self._mmio = (
            library.MMIO_READ_HOOK(self._on_mmio_read),
            library.MMIO_WRITE_HOOK(self._on_mmio_write),
        )
        read, write = (ctypes.cast(one, ctypes.c_void_p) for one in self._mmio)
        library.mmio_map(self._handle, _DEVICE_WINDOW, _DEVICE_WINDOW, read, None, write, None)

    def _add_hooks(self) -> None:
        for kind, owner in (
            (unicorn_const.UC_HOOK_TLB_FILL, self.grants),
            (unicorn_const.UC_HOOK_INTR, self.traps),
            (unicorn_const.UC_HOOK_BLOCK, self._budget),
        ):
            library.add_hook(self._handle, kind, owner.hook, owner.data)
        self._translated = library.EDGE_HOOK(self._on_translated)
        library.add_hook(
            self._handle,
            unicorn_const.UC_HOOK_EDGE_GENERATED,
            self._translated,
        )
        self._in = library.IN_HOOK(self._on_in)
        self._out = library.OUT_HOOK(self._on_out)
        library.add_instruction_hook(self._handle, x86_const.UC_X86_INS_IN, self._in)
        library.add_instruction_hook(self._handle, x86_const.UC_X86_INS_OUT, self._out)

    def run(self, budget: int, watched: int = 0) -> int:
        """Run for at least one block and about ``budget`` instructions.

        The run also ends before a block where one of the ``watched`` bits of RFLAGS is set (none
        that could be is when it begins). Returns a `Trap` or an SVM exit code.
        """
        limit = self._budget
        limit.watch(watched)
        limit.left = self._running_budget = budget
        self.traps.allow()
        trap = self._run()
        left = limit.left  # read first: a signal's handler may call `request_stop` just before
        self.executed += self._running_budget - left
        if trap and trap != Trap.SPECIAL:
            self.executed -= self._not_begun()
        self._running_budget = left
        return trap

    def _not_begun(self) -> int:
        """Return how many instructions of the last block are behind the one that trapped."""
        begin, rip = self._budget.last.value, self.state.words[RIP]
        known = self._rests.get(begin)
        rest = None if known is None else known.get(rip)
        if rest is None:
            known = self._rests.setdefault(begin, {})
            linear = rip + self.state.words[CS_BASE]
            if not self.state.is_64bit:
                linear &= 0xFFFF_FFFF
            starts = self._host.starts_of(begin, self._budget.size_of(begin))
            rest = known[rip] = len(starts) - starts.index(linear) - 1 if linear in starts else 0
        return rest

    @property
    def last_block(self) -> int:
        """The linear address of the block that was begun last."""
        return self._budget.last.value

    def step(self) -> int:
        """Run one instruction (one iteration of a repeated one); return as `run` does.

        As if it stood in the shadow of STI: then the engine's block is no longer than that.
        """
        state = self.state
        begin, was_in_shadow = state.rip, state.in_shadow
        state.in_shadow = self._is_stepping = True
        self._budget.watch(0)
        self._budget.left = self._running_budget = 0
        self.traps.forbid()
        trap = self._run()
        self._is_stepping = False
        if trap and not _is_after_instruction(trap):
            if state.rip != begin:
                # The instruction is complete; what stopped the engine is the next one's trap.
                trap = Trap.BUDGET
            else:
                state.in_shadow = was_in_shadow
        self.executed += 1
        self._running_budget = self._budget.left
        return trap

    @property
    def fault_address(self) -> int:
        """The exact linear address of the access that `EngineHost.fill` refused last."""
        return library.refused_address(self._handle)

    @property
    def instructions(self) -> int:
        """Instructions begun so far, those of a run in progress included."""
        return self.executed + self._running_budget - self._budget.left

    def request_stop(self) -> None:
        """End a run in progress at the end of the current block.

        Stopping the engine in the middle would leave an access to device memory half done.
        """
        left = self._budget.left
        if left >= 0:
            self._running_budget -= left + 1
            self._budget.left = -1

    def _run(self) -> int:
        state, handle = self.state, self._handle
        if self.is_code_stale:
            self.is_code_stale = self.is_stale = self.is_switched = False
            self.flush_code()
        elif self.is_stale:
            self.is_stale = self.is_switched = False
            self.flush_tlb()
        elif self.is_switched:
            self.is_switched = False
            library.flush_tlb(handle)
        state.forget_exception()
        self._trap = Trap.BUDGET
        self._aborted = False
        library.emu_start(handle, state.words[RIP], 0, 0, 0)
        if self._aborted:
            self.grants.resume()
            library.flush_tlb(handle)
            self._checkpoint.restore()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._trap

    def flush_tlb(self) -> None:
        """Make every access ask `EngineHost.fill` again."""
        self.grants.forget()
        library.flush_tlb(self._handle)

    def refill(self) -> None:
        """Ask for each access again; what `EngineHost.fill` granted last holds."""
        library.flush_tlb(self._handle)

    def flush_code(self) -> None:
        """Forget translated code: someone else wrote to a page that this engine has executed."""
        library.flush_code(self._handle)
        self.flush_tlb()
        self._budget.forget_blocks()
        self._blocks.forget()
        self._rests.clear()
        self.branches.clear()
        self.code.forget()

    def _stop(self, trap: int) -> None:
        self._trap = trap
        library.emu_stop(self._handle)

    def _abort(self, trap: int) -> None:
        """Stop before the current instruction: its block's rest runs without any effect.

        The registers are saved as they are now, and every memory access of the rest of the block
        stops the engine, because no translation succeeds any more.
        """
        self._checkpoint.take()
        self._aborted = True
        self.grants.suspend()
        library.flush_tlb(self._handle)
        self._stop(trap)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._stop(Trap.BUDGET)

    def _on_interrupt(self, _engine: int, number: int, _data: int) -> None:
        if not self._aborted:
            self._stop(number if number >= 0x100 else Trap.SOFTWARE_INTERRUPT + number)

    def _on_fill(
        self,
        _engine: int,
        page: int,
        access: int,
        result: int,
        _data: int,
    ) -> bool:
        answer = Answer.at(result)
        if self._is_entering:
            answer.target, answer.rights = page, unicorn_const.UC_PROT_ALL
            return True
        if self.code.asked is not None:
            answer.target, answer.rights = self.code.asked, EXECUTE
            return True
        kind = _KINDS[access]
        target = None
        if not self._aborted:
            key = self.grants.key(page)
            known = self.grants.find(key, _NEEDED[kind])
            if known is not None:
                answer.target, answer.rights = known
                return True
            try:
                target = self._host.fill(page, kind)
            except BaseException as error:
                self._fail(error)
        if target is None:
            # The engine leaves the instruction at once, as if it had not begun.
            self.fault_kind = kind
            if not self._aborted and self._error is None:
                self._trap = Trap.FAULT
            return False
        is_there = self._memory.is_ram if kind == WRITE else self._memory.is_readable
        if not is_there(target):
            if kind == FETCH:
                answer.target, answer.rights = _EMPTY_BUS, _GRANT[kind]
                return True
            target = _DEVICE_WINDOW + min(target, _DEVICE_WINDOW - PAGE_SIZE)
        elif kind == WRITE:
            self.code.store(self.grants.source, page, target, self.grants.local)
        answer.target, answer.rights = target, self.grants.add(key, target, _GRANT[kind])
        if self.is_stale or self.is_code_stale or self.is_switched:
            self.traps.forbid()
        return True

    def prefetch(self, address: int) -> None:
        """Ask where loads from a linear address go, as if the engine had; nothing if they fault."""
        page = address & ~PAGE_OFFSET_MASK
        key = self.grants.key(page)
        if self.grants.find(key, _NEEDED[READ]) is None and not self.is_stale:
            target = self._host.fill(page, READ)
            if target is not None and self._memory.is_ram(target):
                self.grants.add(key, target, _GRANT[READ])

    def grant_large(self, page: int, target: int, kind: int) -> None:
        """Grant what `EngineHost.fill` is about to grant to the 2 MiB around the page, not fetches.

        That saves asking for the rest of it. All of it must be RAM.
        """
        if kind == WRITE and not self.code.store_large(self.grants.source, target):
            return
        if self._memory.is_ram(target >> LARGE_SHIFT << LARGE_SHIFT, 1 << LARGE_SHIFT):
            self.grants.add_large(self.grants.key(page), target, _GRANT[kind])

    def fetched(self, page: int) -> int | None:
        """Return the host-physical page that the engine fetches from at the linear ``page``.

        None if it has not been told; this is what `EngineHost.fill` would answer.
        """
        if self.is_stale or self.is_code_stale:
            return None
        found = self.grants.find(self.grants.key(page), EXECUTE)
        return None if found is None else found[0]

    def _host_address(self, place: int) -> int:
        """Return where the RAM or ROM at host-physical ``place`` is in this process."""
        offset = self._memory.readable_offset(place)
        assert offset is not None
        return self._ram + offset

    def open_fields(self, region: int, bitmaps: tuple[int, int] | None = None) -> None:
        """Let code access the VMCS at host-physical ``region``: see `FieldAccess.open`."""
        places = (region, *(bitmaps or ()))
        if all(self._memory.is_ram(one, PAGE_SIZE) for one in places):
            host = [self._host_address(one) for one in places]
            self.fields.open(host[0], (host[1], host[2]) if bitmaps else None)
        else:
            self.fields.close()

    def _on_in(self, _engine: int, port: int, size: int, _data: int) -> int:
        self.traps.forbid()
        if self._aborted:
            return 0
        try:
            value = self._host.port_in(port, size)
        except BaseException as error:
            self._fail(error)
            return 0
        if value is None:
            self._abort(Trap.IO)
            return 0
        return value

    def _on_out(self, _engine: int, port: int, size: int, value: int, _data: int) -> None:
        self.traps.forbid()
        if self._aborted:
            return
        try:
            if not self._host.port_out(port, size, value):
                self._abort(Trap.IO)
        except BaseException as error:
            self._fail(error)

    def _on_mmio_read(self, _engine: int, offset: int, size: int, _data: int) -> int:
        self.traps.forbid()
        try:
            return self._host.mmio_read(offset, size)
        except BaseException as error:
            self._fail(error)
            return 0

    def _on_mmio_write(self, _engine: int, offset: int, size: int, value: int, _data: int) -> None:
        self.traps.forbid()
        try:
            self._host.mmio_write(offset, size, value)
        except BaseException as error:
            self._fail(error)

    def _new_block(self, address: int, size: int) -> tuple[int | None, bool]:
        """Count a block's instructions; stop before it, uncounted, if it is not for the engine."""
        if self._is_entering or self._aborted:
            return None, False
        place = self._watch_code(address, size)
        if self._is_stepping:
            return 1, False
        try:
            if self._host.is_special(address, size):
                self._blocks.learn(address, size, place, -1)
                self._stop(Trap.SPECIAL)
                return None, False
        except BaseException as error:
            self._fail(error)
        if self.is_stale or self.is_code_stale or self.is_switched:
            self.traps.forbid()
        if self._blocks.is_full:
            self.is_code_stale = True
        count = library.block_instructions(self._handle, address)
        return count, self._blocks.learn(address, size, place, count)

    def _on_translated(self, _engine: int, block: Any, _before: Any, _data: int) -> None:
        """Learn that the engine has translated a block of code."""
        if not self._is_entering:
            found = block[0]
            self._budget.forget_block(found.pc, found.size)
            self._rests.pop(found.pc, None)
            self.branches.pop(found.pc, None)
            self._watch_code(found.pc, found.size)

    def _watch_code(self, address: int, size: int) -> int | None:
        """Have stores to a block's pages noticed that are made through other linear addresses.

        Returns the host-physical page that the block begins in.
        """
        first, last = address & ~PAGE_OFFSET_MASK, address + size - 1 & ~PAGE_OFFSET_MASK
        begin = self._watch_page(first)
        if last != first:
            self._watch_page(last)
        return begin

    def _watch_page(self, page: int) -> int | None:
        found = self.grants.find(self.grants.key(page), EXECUTE)
        if found is None:
            return None
        if self.code.translate(page, found[0], self.grants.local):
            self.refill()
        return found[0]


def _is_after_instruction(trap: int) -> bool:
    """Tell whether a trap is reported with RIP behind its instruction."""
    is_software = Trap.SOFTWARE_INTERRUPT <= trap < Trap.SOFTWARE_INTERRUPT + 0x100
    return is_software or trap == _SINGLE_STEP
