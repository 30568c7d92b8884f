"""Contexts that note what a rule looks at, and contexts in which a field is supposed to differ."""

from collections.abc import Iterator
from copy import copy
from typing import Any, SupportsIndex, cast

from turducken.diagnosis import Reading
from turducken.memory import Memory
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks.controls import VTPR_RULE
from turducken.vmx.checks.guest_state import LINK_RULES, PDPTE_RULE
from turducken.vmx.checks.rules import EntryContext
from turducken.vmx.explain.fields import reading_of
from turducken.vmx.gates import Mode
from turducken.vmx.vmcs import Slots
from turducken.vmx.vmcs_fields import END_SLOT

_WORDS = {
    "pin": f.PIN_BASED_CONTROLS,
    "primary": f.PRIMARY_CONTROLS,
    "secondary": f.SECONDARY_CONTROLS,
    "exit": f.EXIT_CONTROLS,
    "entry": f.ENTRY_CONTROLS,
}


class _NotingMemory:
    """Memory whose loads are noted."""

    def __init__(self, memory: Memory, noted: dict[str, Reading]) -> None:
        self._memory = memory
        self._noted = noted

    def load(self, address: int, size: int) -> int | None:
        """Load, and note what was read."""
        value = self._memory.load(address, size)
        name = f"memory at {address:#x}"
        ones = (1 << 8 * size) - 1
        decoded = "" if value is not None else "nothing there"
        self._noted[name] = Reading(name, ones if value is None else value, 2 * size, decoded)
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


class NotingContext(EntryContext):
    """The context of a VM entry; ``noted`` has what was looked at since it was made, in order."""

    __slots__ = ("fields", "noted")

    def __init__(self, context: EntryContext) -> None:
        self.noted: dict[str, Reading] = {}
        self.fields: dict[f.VmcsField, int] = {}
        for name in EntryContext.__slots__:
            setattr(self, name, getattr(context, name))
        self.memory = _NotingMemory(context.memory, self.noted)

    def __getitem__(self, field: f.VmcsField) -> int:
        value = super().__getitem__(field)
        self.fields[field] = value
        self.noted[field.name] = reading_of(field, value)
        return value

    def __getattribute__(self, name: str) -> Any:
        field = _WORDS.get(name)
        if field is not None:
            self[field]  # noted
        value = super().__getattribute__(name)
        if name == "is_ia32e_mode":
            self.noted[name] = Reading(
                "IA-32e mode of the processor", int(value), 1, "yes" if value else "no"
            )
        elif name == "pointer":
            self.noted[name] = Reading("current-VMCS pointer", value, 16)
        return value


_READING_MEMORY = (VTPR_RULE, *LINK_RULES, PDPTE_RULE)


class _FrozenMemory:
    """What memory held where rules of VM entry look at it."""

    def __init__(self, context: EntryContext) -> None:
        self._memory: Memory | None = context.memory
        self._loads: dict[tuple[int, int], int | None] = {}
        looking = copy(context)
        looking.memory = cast(Memory, self)
        for rule in _READING_MEMORY:
            rule.check(looking)
        self._memory = None

    def load(self, address: int, size: int) -> int | None:
        """Load as at the time when this was made."""
        if self._memory is not None:
            self._loads[address, size] = self._memory.load(address, size)
        return self._loads.get((address, size))


class _FrozenSlots(tuple[int, ...]):
    """A VMCS's words as they were."""

    __slots__ = ()

    def __setitem__(self, slot: SupportsIndex, value: int, /) -> None:
        raise NotImplementedError


def frozen(context: EntryContext) -> EntryContext:
    """Return a context that will be as this one is now, whatever becomes of VMCS and memory."""
    same = context.over(_FrozenSlots(context.slots[slot] for slot in range(END_SLOT)))
    same.memory = cast(Memory, _FrozenMemory(context))
    return same


class _Overlay:
    """A VMCS's slots with one of them different."""

    def __init__(self, slots: Slots, slot: int, value: int) -> None:
        self._slots, self._slot, self._value = slots, slot, value

    def __getitem__(self, slot: SupportsIndex, /) -> int:
        return self._value if slot.__index__() == self._slot else self._slots[slot]

    def __setitem__(self, slot: SupportsIndex, value: int, /) -> None:
        raise NotImplementedError


def supposing(context: EntryContext, field: f.VmcsField, value: int) -> EntryContext:
    """Return the context in which one field has another value."""
    return context.over(_Overlay(context.slots, field.slot, value))


# Modes

_MODE_NAMES = {
    "cr0": ("CR0", 16),
    "cr4": ("CR4", 16),
    "rflags": ("RFLAGS", 16),
    "efer": ("IA32_EFER", 16),
    "cpl": ("CPL", 1),
    "is_cs_long": ("CS.L", 1),
    "in_operation": ("in VMX operation", 1),
    "in_guest": ("in VMX non-root operation", 1),
    "feature_control": ("IA32_FEATURE_CONTROL", 16),
    "in_smx": ("in SMX operation", 1),
    "is_a20_masked": ("A20M", 1),
}


class NotingMode:
    """A `Mode` whose reads are noted, in ``names``."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self.names: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._mode, name)
        self.names[name] = int(value)
        return value

    def readings(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield attribute, name for people, value and hexadecimal digits of what was read."""
        for name, value in self.names.items():
            text, digits = _MODE_NAMES[name]
            yield name, text, value, digits
