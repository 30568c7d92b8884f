"""Where the processors stand: level, mode, registers, backtrace and the VMCS in force.

For summaries and reports of a run that is over: nothing is changed, not even an accessed flag.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from turducken.arch.registers import CR0, CR4, EFER, GPR_NAMES, RFLAGS
from turducken.arch.segments import SegmentIndex
from turducken.cpu.processor import Processor
from turducken.cpu.triple_fault import event_name
from turducken.diagnosis import Reading
from turducken.hypervisor import Hypervisor, Vcpu
from turducken.inspect.chain import Stage, Through, below
from turducken.memory import Memory, MemoryHoleError
from turducken.paging.formats import (
    EPT,
    PAGING_4LEVEL,
    PAGING_5LEVEL,
    PAGING_32,
    PAGING_PAE,
    Features,
    Format,
)
from turducken.symbols import Frame, Names
from turducken.system.assembly import System, level_of
from turducken.system.places import linear_of, place_of
from turducken.vmx import vmcs_fields as f
from turducken.vmx.explain import read_field
from turducken.vmx.vmcs import Vmcs

_PE, _PG, _PAE, _LA57 = CR0.mask("PE"), CR0.mask("PG"), CR4.mask("PAE"), CR4.mask("LA57")
_LMA, _VM = EFER.mask("LMA"), RFLAGS.mask("VM")
_LONG, _DEFAULT_32 = 1 << 13, 1 << 14
_RSP, _RBP = 4, 5
_MOST_FRAMES = 24
_EPTP_WALK_4 = 0x1E


@dataclass(frozen=True, slots=True)
class VmcsState:
    """A VMCS at the end of a run: ``name`` is VMCS, or VMCS12 in nested mode."""

    name: str
    region: int
    is_launched: bool
    fields: tuple[Reading, ...]
    """Every field that the processor (nested: the one that L1 is offered) has."""

    def only(self, fields: frozenset[f.VmcsField]) -> tuple[Reading, ...]:
        """Return some of the fields."""
        names = {one.name for one in fields}
        return tuple(one for one in self.fields if one.name in names)


@dataclass(frozen=True, slots=True)
class ProcessorState:
    """One processor's guest code at the end of a run.

    ``backtrace`` holds linear addresses: RIP, and where the functions above return to, as far as
    call frame information or frame pointers tell.
    """

    index: int
    level: str
    mode: str
    rip: int
    registers: tuple[tuple[str, int], ...]
    backtrace: tuple[int, ...]
    vmcs: VmcsState | None
    last_exception: tuple[str, int] | None
    """The last hardware exception on the processor, at any level, and the RIP at which it came."""


def states_of(system: System) -> tuple[ProcessorState, ...]:
    """Return where every processor stands."""
    return tuple(_state(system, one) for one in system.machine.processors)


def _state(system: System, processor: Processor) -> ProcessorState:
    vcpu = _vcpu_of(system.hypervisor, processor)
    if vcpu is not None and processor.guest is None:
        # L0 runs: the guest that it handles is in its VMCS.
        registers = dict(_registers_in(vcpu.current, processor))
        access = vcpu.current.read(f.GUEST_CS_ACCESS_RIGHTS)
        linear = linear_of(vcpu.current, registers["RIP"])
        level = "L2" if vcpu.in_l2 else "L1"
    else:
        registers = dict(_registers_of(processor))
        access = processor.state.segment(SegmentIndex.CS).access
        linear = place_of(processor, system.hypervisor).linear
        level = level_of(system, processor)
    memory = _linear_memory(system, processor, vcpu, level, registers)
    return ProcessorState(
        processor.index,
        level,
        mode_name(registers, access),
        registers["RIP"],
        tuple(registers.items()),
        (linear, *_return_addresses(system.names, memory, registers, linear, access)),
        vmcs_of(system, processor),
        _last_exception(processor),
    )


def _last_exception(processor: Processor) -> tuple[str, int] | None:
    event = processor.last_exception
    return None if event is None else (event_name(event), processor.last_exception_rip)


def _vcpu_of(hypervisor: Hypervisor | None, processor: Processor) -> Vcpu | None:
    vcpus = () if hypervisor is None else hypervisor.vcpus
    return next((one for one in vcpus if one.index == processor.index), None)


def _registers_of(processor: Processor) -> Iterator[tuple[str, int]]:
    state = processor.state
    yield from (("RIP", state.rip), ("RFLAGS", state.rflags))
    for number, name in enumerate(GPR_NAMES):
        yield name, state.gpr[number]
    yield from (("CR0", state.cr0), ("CR2", state.cr2), ("CR3", state.cr3), ("CR4", state.cr4))
    yield "EFER", state.efer


def _registers_in(vmcs: Vmcs, processor: Processor) -> Iterator[tuple[str, int]]:
    read = vmcs.read
    yield from (("RIP", read(f.GUEST_RIP)), ("RFLAGS", read(f.GUEST_RFLAGS)))
    for number, name in enumerate(GPR_NAMES):
        yield name, read(f.GUEST_RSP) if number == _RSP else processor.state.gpr[number]
    yield from (("CR0", read(f.GUEST_CR0)), ("CR2", processor.state.cr2))
    yield from (("CR3", read(f.GUEST_CR3)), ("CR4", read(f.GUEST_CR4)))
    yield "EFER", read(f.GUEST_EFER)


def mode_name(registers: dict[str, int], cs_access: int) -> str:
    """Return the processor's mode in words."""
    if not registers["CR0"] & _PE:
        return "real mode"
    paging = "" if registers["CR0"] & _PG else ", paging off"
    if registers["EFER"] & _LMA:
        return ("64-bit mode" if cs_access & _LONG else "compatibility mode") + paging
    if registers["RFLAGS"] & _VM:
        return "virtual-8086 mode" + paging
    return f"protected mode of {32 if cs_access & _DEFAULT_32 else 16} bits{paging}"


# Memory as the code sees it


def _linear_memory(
    system: System,
    processor: Processor,
    vcpu: Vcpu | None,
    level: str,
    registers: dict[str, int],
) -> Memory:
    bits = system.options.profile.cpu.physical_address_bits
    features = Features(maxphyaddr=bits)
    stages = []
    if registers["CR0"] & _PG:
        stages.append(Stage("cr3", _format_of(registers).bind(features), registers["CR3"]))
    eptp = _eptp_of(processor, vcpu, level)
    if eptp is not None:
        stages.append(Stage("ept", EPT.bind(features), eptp))
    return below(system.machine.memory, stages)


def _format_of(registers: dict[str, int]) -> Format:
    if registers["EFER"] & _LMA:
        return PAGING_5LEVEL if registers["CR4"] & _LA57 else PAGING_4LEVEL
    return PAGING_PAE if registers["CR4"] & _PAE else PAGING_32


def _eptp_of(processor: Processor, vcpu: Vcpu | None, level: str) -> int | None:
    """Return the root of the table that leads from the code's physical addresses to RAM."""
    if vcpu is not None:
        return vcpu.nested.eptp02() if level == "L2" and vcpu.in_l2 else vcpu.eptp01
    guest = processor.guest
    return guest.ept.ep4ta | _EPTP_WALK_4 if guest is not None and guest.ept is not None else None


def _return_addresses(
    names: Names, memory: Memory, registers: dict[str, int], start: int, access: int
) -> Iterator[int]:
    """Yield where the functions above return to: by call frame information, or frame pointers.

    Frame pointers are only believed as long as they lead upwards in memory.
    """
    if not registers["CR0"] & _PE:
        return
    size = 8 if registers["EFER"] & _LMA and access & _LONG else 4
    mask = (1 << 8 * size) - 1

    def word(address: int) -> int | None:
        return _word(memory, address & mask, size)

    frame = Frame(start, registers["RSP"] & mask, registers["RBP"] & mask)
    for number in range(_MOST_FRAMES):
        above = names.caller(frame, word, is_innermost=number == 0) or _by_pointer(
            frame, word, size
        )
        if above is None or above.sp <= frame.sp:
            return
        yield above.pc
        frame = above


def _by_pointer(frame: Frame, word: Callable[[int], int | None], size: int) -> Frame | None:
    """Return the frame above by the frame pointer, as functions push it first."""
    if not frame.fp or frame.fp % size:
        return None
    pointer, address = word(frame.fp), word(frame.fp + size)
    if not address or pointer is None:
        return None
    return Frame(address, frame.fp + 2 * size, pointer)


def _word(memory: Memory, address: int, size: int) -> int | None:
    if isinstance(memory, Through) and memory.translate(address) is None:
        return None
    try:
        return int.from_bytes(memory.read(address, size), "little")
    except MemoryHoleError:
        return None


# VMCSs


def vmcs_of(system: System, processor: Processor) -> VmcsState | None:
    """Return the VMCS that L1 works with on a processor, if there is one."""
    vcpu = _vcpu_of(system.hypervisor, processor)
    if vcpu is not None:
        unit = vcpu.unit
        if unit.current is None:
            return None
        return _vmcs_state("VMCS12", unit.current, unit.pointer, vcpu.capabilities12.accesses)
    current = processor.vmx.current
    if current is None:
        return None
    return _vmcs_state("VMCS", current, current.region, processor.capabilities.accesses)


def _vmcs_state(name: str, vmcs: Vmcs, region: int, accesses: dict[int, f.Access]) -> VmcsState:
    fields = tuple(read_field(vmcs, one.field) for one in accesses.values() if not one.is_high)
    return VmcsState(name, region, vmcs.is_launched, fields)
