"""What a VM-entry check is, and what it looks at."""

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass

from turducken.address import PAGE_OFFSET_MASK
from turducken.memory import Memory
from turducken.vmx import vmcs_fields as f
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.controls import Entry, Primary, Secondary
from turducken.vmx.exit_information import EntryFailureQualification
from turducken.vmx.vmcs import Slots, Vmcs
from turducken.vmx.vmcs_fields import VmcsField


class EntryContext:
    """What the checks of one VM entry look at: ``context[FIELD]`` is a field of the VMCS.

    ``is_ia32e_mode``: the logical processor is in IA-32e mode (IA32_EFER.LMA = 1) as it executes
    VMLAUNCH or VMRESUME. ``memory`` is what the addresses in the VMCS mean. ``pointer`` is the
    current-VMCS pointer, where that is not the address at which ``vmcs`` is kept.
    """

    __slots__ = (
        "capabilities",
        "entry",
        "exit",
        "is_ia32e_mode",
        "memory",
        "pin",
        "pointer",
        "primary",
        "secondary",
        "slots",
    )

    def __init__(
        self,
        vmcs: Vmcs,
        capabilities: Capabilities,
        memory: Memory,
        *,
        is_ia32e_mode: bool,
        pointer: int | None = None,
    ) -> None:
        self.capabilities = capabilities
        self.memory = memory
        self.is_ia32e_mode = is_ia32e_mode
        self.pointer = vmcs.region if pointer is None else pointer
        self._look_at(vmcs.slots)

    def _look_at(self, slots: Slots) -> None:
        self.slots = slots
        self.pin = self[f.PIN_BASED_CONTROLS]
        self.primary = self[f.PRIMARY_CONTROLS]
        self.exit = self[f.EXIT_CONTROLS]
        self.entry = self[f.ENTRY_CONTROLS]
        # "The logical processor operates as if all the secondary processor-based VM-execution
        # controls were 0" where the primary control does not activate them.
        active = self.primary & Primary.ACTIVATE_SECONDARY_CONTROLS
        self.secondary = self[f.SECONDARY_CONTROLS] if active else 0

    def over(self, slots: Slots) -> "EntryContext":
        """Return the same context with other values in the VMCS."""
        other = copy(self)
        other._look_at(slots)
        return other

    def __getitem__(self, field: VmcsField) -> int:
        return self.slots[field.slot] & field.mask

    @property
    def is_ia32e_guest(self) -> bool:
        """The "IA-32e mode guest" VM-entry control."""
        return bool(self.entry & Entry.IA32E_MODE_GUEST)

    @property
    def is_unrestricted(self) -> bool:
        """The "unrestricted guest" VM-execution control."""
        return bool(self.secondary & Secondary.UNRESTRICTED_GUEST)

    def is_structure_address(self, field: VmcsField) -> bool:
        """Tell whether a field is the address of a page: aligned, and within the width."""
        return not self[field] & (PAGE_OFFSET_MASK | self.capabilities.address_reserved)

    def is_canonical(self, field: VmcsField) -> bool:
        """Tell whether a field is a canonical linear address."""
        return self.capabilities.is_canonical(self[field])


Check = Callable[[EntryContext], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One check: VM entry fails where ``check`` is false."""

    id: str
    citation: str
    text: str
    """What the manual demands, in short."""
    check: Check
    qualification: EntryFailureQualification = EntryFailureQualification.OTHER
    """The exit qualification, for checks on the guest-state area."""

    def __repr__(self) -> str:
        return f"<Rule {self.id}>"


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the manual, from which the rules of one table take their id and citation."""

    prefix: str
    citation: str

    def rule(
        self,
        name: str,
        text: str,
        check: Check,
        qualification: EntryFailureQualification = EntryFailureQualification.OTHER,
    ) -> Rule:
        """Make a rule of this section."""
        return Rule(f"{self.prefix}.{name}", self.citation, text, check, qualification)


def first_broken(rules: Iterable[Rule], context: EntryContext) -> Rule | None:
    """Return the first rule that does not hold, or None."""
    for rule in rules:
        if not rule.check(context):
            return rule
    return None
