"""A checker that remembers what has passed, because VM entry is a hot path.

It gives the answers of `check_entry`. All checked fields but RIP, RFLAGS, CR3 and event injection
are one run of slots: where its bytes have passed before, in whatever VMCS, only the others are
looked at. Else each group of rules is skipped whose own fields have passed before.
"""

from collections.abc import Callable
from dataclasses import dataclass

from turducken.arch.registers import CR0, RFLAGS
from turducken.memory import Memory
from turducken.vmx import vmcs_fields as f
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.checks.controls import CONTROL_RULES, VTPR_RULE, reads_vtpr
from turducken.vmx.checks.entry import Area, EntryFailure
from turducken.vmx.checks.guest_registers import CR3_RULE, REGISTER_RULES
from turducken.vmx.checks.guest_segments import SEGMENT_RULES
from turducken.vmx.checks.guest_state import (
    LINK_RULES,
    NO_LINK,
    PDPTE_RULE,
    RFLAGS_FIXED,
    RFLAGS_FIXED_VALUE,
    RIP_RULES,
    STATE_RULES,
    is_64bit_mode,
    reads_pdptes,
    uses_pae,
)
from turducken.vmx.checks.host import HOST_RULES
from turducken.vmx.checks.injection import INJECTION_RULES
from turducken.vmx.checks.rules import EntryContext, Rule, first_broken
from turducken.vmx.exit_information import INTERRUPTION_VALID
from turducken.vmx.vmcs import Slots, Vmcs

_VM, _IF = RFLAGS.mask("VM"), RFLAGS.mask("IF")
_FLAGS = RFLAGS.mask("VM", "IF", "TF")
"""The bits of RFLAGS that rules other than RFLAGS' own look at."""
_PE = CR0.mask("PE")
_RIP, _RFLAGS, _CR3 = f.GUEST_RIP.slot, f.GUEST_RFLAGS.slot, f.GUEST_CR3.slot
_EVENT = f.ENTRY_INTERRUPTION_INFORMATION.slot
_ERROR_CODE = f.ENTRY_EXCEPTION_ERROR_CODE.slot
_LENGTH = f.ENTRY_INSTRUCTION_LENGTH.slot
_MAX_REMEMBERED = 256


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rules that depend on one run of slots and on what ``context_of`` returns."""

    area: Area
    rules: tuple[Rule, ...]
    run: range
    context_of: Callable[[EntryContext], tuple[int, ...]]


STABLE_GROUPS = (
    Group(Area.CONTROLS, CONTROL_RULES, f.CHECKED_CONTROL_SLOTS, lambda c: ()),
    Group(Area.HOST, HOST_RULES, f.HOST_SLOTS, lambda c: (c.exit, c.entry, c.is_ia32e_mode)),
    Group(
        Area.GUEST,
        REGISTER_RULES,
        f.GUEST_REGISTER_SLOTS,
        lambda c: (c.entry, c.is_unrestricted),
    ),
    Group(
        Area.GUEST,
        SEGMENT_RULES,
        f.GUEST_SEGMENT_SLOTS,
        lambda c: (
            c[f.GUEST_RFLAGS] & _VM,
            c[f.GUEST_CR0] & _PE,
            c.is_ia32e_guest,
            c.is_unrestricted,
        ),
    ),
)
_CONTROLS, _HOST, _REGISTERS, _SEGMENTS = STABLE_GROUPS


def _has_plain_state(c: EntryContext) -> bool:
    """Tell whether the guest is active, with nothing blocked or pending: `STATE_RULES` hold."""
    return not (c[f.GUEST_ACTIVITY] or c[f.GUEST_INTERRUPTIBILITY] or c[f.GUEST_PENDING_DEBUG])


def changing_rules(c: EntryContext) -> tuple[tuple[Area, tuple[Rule, ...]], ...]:
    """Return the rules outside the stable groups that could fail for this VMCS, in order."""
    injecting = c[f.ENTRY_INTERRUPTION_INFORMATION] & INTERRUPTION_VALID
    return (
        (Area.CONTROLS, INJECTION_RULES if injecting else ()),
        (Area.CONTROLS, (VTPR_RULE,) if reads_vtpr(c) else ()),
        (Area.GUEST, (CR3_RULE, *RIP_RULES)),
        (Area.GUEST, () if _has_plain_state(c) else STATE_RULES),
        (Area.GUEST, () if c[f.VMCS_LINK_POINTER] == NO_LINK else LINK_RULES),
        (Area.GUEST, (PDPTE_RULE,) if uses_pae(c) else ()),
    )


class _Passed:
    """What a VMCS held when it passed every rule."""

    __slots__ = (
        "checked",
        "events",
        "flags",
        "flags_mask",
        "ia32e_mode",
        "memory_rules",
        "rip_shift",
        "rip_tops",
    )

    def __init__(self, checked: bytes, context: EntryContext) -> None:
        self.checked = checked
        # Where nothing is blocked or pending, IF and TF matter to injected events only.
        self.flags_mask = _VM if _has_plain_state(context) else _FLAGS
        self.flags = context[f.GUEST_RFLAGS] & self.flags_mask
        self.ia32e_mode = context.is_ia32e_mode
        # RIP shifted right by this is one of these.
        wide = is_64bit_mode(context)
        self.rip_shift = context.capabilities.linear_width if wide else 32
        self.rip_tops = (0, (1 << (64 - self.rip_shift)) - 1 if wide else 0)
        self.memory_rules = _memory_rules(context)
        """Those that depend on memory outside the VMCS."""
        self.events: set[tuple[int, int, int, int]] = set()
        """Injections that passed, as `_event_key` returns them."""


def _event_key(slots: Slots) -> tuple[int, int, int, int]:
    """Return what the rules of an injected event look at, beyond the checked slots."""
    return (slots[_EVENT], slots[_ERROR_CODE], slots[_LENGTH], slots[_RFLAGS] & _IF)


def _memory_rules(context: EntryContext) -> tuple[tuple[Area, tuple[Rule, ...]], ...]:
    rules: list[tuple[Area, tuple[Rule, ...]]] = []
    if reads_vtpr(context):
        rules.append((Area.CONTROLS, (VTPR_RULE,)))
    if context[f.VMCS_LINK_POINTER] != NO_LINK:
        rules.append((Area.GUEST, LINK_RULES))
    if reads_pdptes(context):
        rules.append((Area.GUEST, (PDPTE_RULE,)))
    return tuple(rules)


def _check(
    rules: tuple[tuple[Area, tuple[Rule, ...]], ...], context: EntryContext
) -> EntryFailure | None:
    for area, some in rules:
        broken = first_broken(some, context)
        if broken is not None:
            return EntryFailure(area, broken)
    return None


class EntryChecker:
    """`check_entry` for one processor's VM entries."""

    __slots__ = ("_capabilities", "_cr3_reserved", "_groups", "_last", "_passed")

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._cr3_reserved = capabilities.physical_reserved
        self._passed: dict[bytes, _Passed] = {}
        self._last: _Passed | None = None
        self._groups: dict[Group, set[tuple[bytes, tuple[int, ...]]]] = {
            group: set() for group in STABLE_GROUPS
        }

    def check(
        self, vmcs: Vmcs, memory: Memory, *, is_ia32e_mode: bool, pointer: int | None = None
    ) -> EntryFailure | None:
        """Return a failure, or None; the parameters are those of `EntryContext`.

        Where several rules are broken, it is one of the area that `check_entry` names.
        """
        slots = vmcs.slots
        checked = vmcs.pack(f.CHECKED_SLOTS)
        passed = self._last
        if passed is None or passed.checked != checked:
            passed = self._last = self._passed.get(checked)
        if passed is not None:
            rflags = slots[_RFLAGS]
            if (
                rflags & RFLAGS_FIXED == RFLAGS_FIXED_VALUE
                and rflags & passed.flags_mask == passed.flags
                and slots[_RIP] >> passed.rip_shift in passed.rip_tops
                and not slots[_CR3] & self._cr3_reserved
                and passed.ia32e_mode == is_ia32e_mode
                and (not slots[_EVENT] & INTERRUPTION_VALID or _event_key(slots) in passed.events)
            ):
                if not passed.memory_rules:
                    return None
                context = self._context(vmcs, memory, pointer, is_ia32e_mode=is_ia32e_mode)
                return _check(passed.memory_rules, context)
        context = self._context(vmcs, memory, pointer, is_ia32e_mode=is_ia32e_mode)
        failure = self._check_groups(vmcs, context)
        if failure is None:
            self._remember(checked, context, slots)
        return failure

    def _context(
        self, vmcs: Vmcs, memory: Memory, pointer: int | None, *, is_ia32e_mode: bool
    ) -> EntryContext:
        return EntryContext(
            vmcs, self._capabilities, memory, is_ia32e_mode=is_ia32e_mode, pointer=pointer
        )

    def _check_groups(self, vmcs: Vmcs, context: EntryContext) -> EntryFailure | None:
        """Check in the order controls, host, guest, skipping groups that passed before."""
        changing = changing_rules(context)
        return (
            self._check_group(_CONTROLS, vmcs, context)
            or _check(changing[:2], context)
            or self._check_group(_HOST, vmcs, context)
            or self._check_group(_REGISTERS, vmcs, context)
            or self._check_group(_SEGMENTS, vmcs, context)
            or _check(changing[2:], context)
        )

    def _check_group(self, group: Group, vmcs: Vmcs, context: EntryContext) -> EntryFailure | None:
        remembered = self._groups[group]
        key = (vmcs.pack(group.run), group.context_of(context))
        if key in remembered:
            return None
        failure = _check(((group.area, group.rules),), context)
        if failure is None:
            if len(remembered) >= _MAX_REMEMBERED:
                remembered.clear()
            remembered.add(key)
        return failure

    def _remember(self, checked: bytes, context: EntryContext, slots: Slots) -> None:
        passed = _Passed(checked, context)
        known = self._passed.get(checked)
        if known is not None and known.flags == passed.flags:
            passed.events = known.events
        if slots[_EVENT] & INTERRUPTION_VALID:
            if len(passed.events) >= _MAX_REMEMBERED:
                passed.events.clear()
            passed.events.add(_event_key(slots))
        if len(self._passed) >= _MAX_REMEMBERED:
            self._passed.clear()
        self._passed[checked] = self._last = passed
