"""Where did this L2 address go? Through EPT12, EPT01 and EPT02, entry by entry.

For summaries, reports and debuggers: it reads the tables as they are and changes nothing.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from turducken.address import Gpa1, Gpa2, Hpa
from turducken.memory import TableMemory
from turducken.paging import rights
from turducken.paging.entries import EP4TA_MASK
from turducken.paging.formats import EPT, BoundFormat, Features
from turducken.paging.walker import Stop, walk

if TYPE_CHECKING:
    from turducken.hypervisor.hypervisor import Hypervisor
    from turducken.hypervisor.vcpu import Vcpu


@dataclass(frozen=True, slots=True)
class EntryRead:
    """One entry of a table: its level's name, where it is (in the table's own space), its value."""

    level: str
    address: int
    value: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One table's part: ``output`` is None where it maps nothing, and ``outcome`` says why.

    ``rights`` and ``memory_type`` are the mapping's, of all levels together.
    """

    table: str
    root: int
    address: int
    entries: tuple[EntryRead, ...]
    outcome: str
    output: int | None
    rights: str
    memory_type: str
    page_size: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """The stages of one Gpa2, in order: EPT12 (where L2 has one), EPT01, EPT02."""

    processor: int
    address: Gpa2
    stages: tuple[Stage, ...]
    is_past: bool = False
    """The tables were so when L2 used the address last; EPT02 has dropped it since."""

    @property
    def host_physical(self) -> Hpa | None:
        """Where the address leads by EPT12 and EPT01."""
        outputs = [one.output for one in self.stages if one.table != "EPT02"]
        return None if None in outputs or not outputs else Hpa(outputs[-1] or 0)


def read_stage(name: str, fmt: BoundFormat, memory: TableMemory, root: int, address: int) -> Stage:
    """Follow an address through one table, whose entries are in ``memory``."""
    found = walk(fmt, memory, root, address)
    entries = tuple(
        EntryRead(fmt.levels[one.level].name, one.address, one.entry) for one in found.steps
    )
    attributes = rights.attributes_of(fmt, found)
    is_page = found.stop is Stop.PAGE
    return Stage(
        name,
        root & EP4TA_MASK,
        address,
        entries,
        found.stop.value,
        found.output(address) if is_page else None,
        rights.rights_text(attributes) if is_page else "---",
        rights.type_text(attributes) if is_page else "",
        1 << found.shift if is_page else 0,
    )


def explain(hypervisor: "Hypervisor", gpa2: Gpa2, processor: int = 0) -> Explanation:
    """Explain an address of the L2 that ran last on a processor (L1's own, where none has run).

    Where EPT02 no longer has it but `Hypervisor.watch` was told of it, the explanation is the one
    of the moment when L2 used it last.
    """
    vcpu = hypervisor.vcpus[processor]
    now = explain_now(vcpu, gpa2)
    past = vcpu.explained.get(gpa2)
    if past is None or now.stages[-1].output is not None:
        return now
    return replace(past, is_past=True)


def explain_now(vcpu: "Vcpu", gpa2: Gpa2) -> Explanation:
    """Explain an address by the tables as they are at this moment."""
    memory = vcpu.system.memory
    fmt01 = EPT.bind(Features(maxphyaddr=vcpu.maxphyaddr))
    context = vcpu.nested.current
    root12 = context.root12 if context is not None else None
    if root12 is None:
        stage = read_stage("EPT01", fmt01, memory, vcpu.eptp01, gpa2)
        return Explanation(vcpu.index, gpa2, (stage,))
    stages = [read_stage("EPT12", root12.view.format, vcpu.memory, root12.eptp, gpa2)]
    gpa1 = stages[0].output
    if gpa1 is not None:
        vcpu.ept01.find(Gpa1(gpa1))
        stages.append(read_stage("EPT01", fmt01, memory, vcpu.eptp01, gpa1))
    table = vcpu.shadow.table_of(root12)
    if table is not None:
        fmt02 = EPT.bind(
            Features(
                maxphyaddr=vcpu.maxphyaddr,
                mode_based_execute=root12.view.features.mode_based_execute,
            )
        )
        stages.append(read_stage("EPT02", fmt02, memory, table.root, gpa2))
    return Explanation(vcpu.index, gpa2, tuple(stages))
