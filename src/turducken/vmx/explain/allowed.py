"""What a rule of VM entry would have accepted: the processor's limits, and a value that passes."""

from collections.abc import Callable, Iterator

from turducken.arch import msr
from turducken.arch.memory_types import PAT_RESET
from turducken.bits import Layout
from turducken.vmx import vmcs_fields as f
from turducken.vmx.capabilities import UNRESTRICTED_CR0, Capabilities
from turducken.vmx.capability_msrs import PLAIN_MSRS, TRUE_MSRS, AllowedSettings
from turducken.vmx.checks import ALL_RULES
from turducken.vmx.checks.rules import EntryContext, Rule
from turducken.vmx.controls import CONTROL_SETS
from turducken.vmx.exit_information import UNUSABLE
from turducken.vmx.explain.fields import decode_field
from turducken.vmx.explain.recording import supposing

_WORDS = {
    "pin": f.PIN_BASED_CONTROLS,
    "primary": f.PRIMARY_CONTROLS,
    "secondary": f.SECONDARY_CONTROLS,
    "exit": f.EXIT_CONTROLS,
    "entry": f.ENTRY_CONTROLS,
    "vm_functions": f.VM_FUNCTION_CONTROLS,
}
_KEYS = {field: key for key, field in _WORDS.items()}
_MOST_NAMES = 6


def allowed_by(
    rule: Rule, context: EntryContext, subjects: list[f.VmcsField]
) -> tuple[str, f.VmcsField | None]:
    """Return what would have passed: the limits of this processor, and an example.

    The second value is the field that the example changes: probably the one that is wrong.
    """
    parts = [text for field in subjects for text in _limits(rule, context, field)]
    example = _example(rule, context, subjects)
    if example is None:
        return "; ".join(dict.fromkeys(parts)), None
    field, value = example
    decoded = decode_field(field, value)
    digits = field.width.bits // 4
    text = f"for example {field.name} = {value:#0{digits + 2}x}"
    parts.append(f"{text} ({decoded})" if decoded else text)
    return "; ".join(dict.fromkeys(parts)), field


# Limits


def _limits(rule: Rule, context: EntryContext, field: f.VmcsField) -> Iterator[str]:
    capabilities = context.capabilities
    if "reserved" in rule.id and field in _KEYS:
        yield _settings(_KEYS[field], capabilities, context[field])
    elif field in (f.GUEST_CR0, f.HOST_CR0) and rule.id.endswith(".cr0"):
        free = UNRESTRICTED_CR0 if rule.id.startswith("guest") and context.is_unrestricted else 0
        fixed0 = capabilities.cr0_fixed0 & ~free
        yield fixed_bits("IA32_VMX_CR0_FIXED", fixed0, capabilities.cr0_fixed1, context[field])
    elif field in (f.GUEST_CR4, f.HOST_CR4) and rule.id.endswith(".cr4"):
        yield fixed_bits(
            "IA32_VMX_CR4_FIXED", capabilities.cr4_fixed0, capabilities.cr4_fixed1, context[field]
        )
    else:
        limit = next((text for end, text in _BY_RULE.items() if rule.id.endswith(end)), None)
        if limit is not None:
            yield limit(capabilities)
        elif "width" in rule.text:
            yield _width(capabilities)


def _settings(key: str, capabilities: Capabilities, value: int) -> str:
    """Return which bits of a word of controls must and may be 1, and which of these are wrong."""
    settings: AllowedSettings = getattr(capabilities, key)
    word = CONTROL_SETS[key]
    index = _settings_msr(key, capabilities)
    parts = [f"by MSR {index:#x}, {settings.fixed1:#x} must be 1 and {settings.allowed1:#x} may be"]
    missing, stray = settings.fixed1 & ~value, value & ~settings.allowed1
    if missing:
        parts.append(f"missing: {_bits(missing, word.layout)}")
    if stray:
        parts.append(f"not allowed: {_bits(stray, word.layout)}")
    return ", ".join(parts)


def _settings_msr(key: str, capabilities: Capabilities) -> int:
    if key == "secondary":
        return msr.IA32_VMX_PROCBASED_CTLS2
    if key == "vm_functions":
        return msr.IA32_VMX_VMFUNC
    true = TRUE_MSRS[key]
    return true if true in capabilities.msrs else PLAIN_MSRS[key]


def fixed_bits(name: str, fixed0: int, fixed1: int, value: int) -> str:
    """Return which bits of CR0 or CR4 VMX operation fixes, and which of these are wrong."""
    parts = [f"{fixed0:#x} must be 1 ({name}0) and {fixed1:#x} may be ({name}1)"]
    if fixed0 & ~value:
        parts.append(f"missing: {fixed0 & ~value:#x}")
    if value & ~fixed1:
        parts.append(f"not allowed: {value & ~fixed1:#x}")
    return ", ".join(parts)


def _bits(mask: int, layout: Layout) -> str:
    """Name the bits of a mask."""
    found = []
    for one in layout:
        if mask >> one.low & 1:
            is_reserved = one.name.startswith("reserved")
            name = "" if is_reserved else " (" + one.name.replace("_", " ").lower() + ")"
            found.append(f"bit {one.low}{name}")
    more = len(found) - _MOST_NAMES
    return ", ".join(found[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _width(capabilities: Capabilities) -> str:
    return f"physical addresses have {capabilities.cpu.physical_address_bits} bits"


def _canonical(capabilities: Capabilities) -> str:
    return f"linear addresses have {capabilities.linear_width} bits"


def _states(capabilities: Capabilities) -> str:
    numbers = [str(one) for one in range(4) if capabilities.activity_states >> one & 1]
    return f"activity states {', '.join(numbers)}"


_BY_RULE: dict[str, Callable[[Capabilities], str]] = {
    "cr3-target-count": lambda c: f"at most {c.cr3_targets}",
    "eptp-memory-type": lambda c: f"types {', '.join(str(one) for one in sorted(c.eptp_types))}",
    "efer-reserved": lambda c: f"bits {c.cpu.efer:#x}",
    "debugctl": lambda c: f"bits {c.cpu.debugctl:#x}",
    "perf-global-ctrl": lambda c: f"bits {c.cpu.perf_global_ctrl:#x}",
    "activity-supported": _states,
    "link-revision": lambda c: f"revision {c.revision:#x} at the address",
    "link-shadow": lambda _: "bit 31 of the first 4 bytes there equal to the control",
    "-cr3": _width,
    ".cr3": _width,
    "sysenter-esp": _canonical,
    "sysenter-eip": _canonical,
    "-base": _canonical,
    "host-rip": _canonical,
    "rip-64": _canonical,
    "pat": lambda _: "bytes of 0, 1, 4, 5, 6 or 7",
    "pdptes.reserved": _width,
}
"""By the end of the rule's id."""


# An example


def _example(
    rule: Rule, context: EntryContext, subjects: list[f.VmcsField]
) -> tuple[f.VmcsField, int] | None:
    """Return the nearest value with which this rule holds and the fewest others break."""
    found: list[tuple[int, int, f.VmcsField, int]] = []
    for order, field in enumerate(subjects):
        value = context[field]
        for candidate in _candidates(context, field, value):
            if candidate != value and rule.check(supposing(context, field, candidate)):
                found.append((_distance(field, value, candidate), order, field, candidate))
    if not found:
        return None
    found.sort(key=lambda one: one[:2])
    nearest = found[:_MOST_TRIED]
    broken = [_count_broken(supposing(context, field, value)) for *_, field, value in nearest]
    return nearest[broken.index(min(broken))][2:]


_MOST_TRIED = 16


def _distance(field: f.VmcsField, value: int, candidate: int) -> int:
    """Return in how many bits two values differ; to make a segment unusable is the last resort."""
    distance = (value ^ candidate).bit_count()
    is_rights = field.name.endswith("access rights")
    return distance + 64 if is_rights and candidate & ~value & UNUSABLE else distance


def _count_broken(context: EntryContext) -> int:
    return sum(not rule.check(context) for rule in ALL_RULES)


def _candidates(context: EntryContext, field: f.VmcsField, value: int) -> Iterator[int]:
    """Yield values that might pass: those that differ in one bit or two, and well-known ones."""
    capabilities = context.capabilities
    for bit in range(field.width.bits):
        yield value ^ 1 << bit
    key = _KEYS.get(field)
    if key is not None:
        settings: AllowedSettings = getattr(capabilities, key)
        yield settings.adjust(value)
    if field in (f.GUEST_CR0, f.HOST_CR0):
        yield (value | capabilities.cr0_fixed0) & capabilities.cr0_fixed1
    if field in (f.GUEST_CR4, f.HOST_CR4):
        yield (value | capabilities.cr4_fixed0) & capabilities.cr4_fixed1
    if field in (f.GUEST_EFER, f.HOST_EFER):
        yield from (value | 0x500, value & ~0x500, value & capabilities.cpu.efer)
    if field in (f.GUEST_PAT, f.HOST_PAT):
        yield PAT_RESET
    yield from _address_candidates(capabilities, field, value)
    if field.name.endswith("access rights"):
        low = value & 0xF
        yield from (value & 0xF0FF, value & 0x1_FFFF, 0x10000, 0xF3)
        yield from (value & ~0xF | kind for kind in range(16))
        yield value & ~0x60
        yield (value & ~0xF | (11 if low in (1, 3, 9) else low)) & 0x1_F0FF
    if field.name.endswith("selector"):
        yield from (value & ~7, 8, 0)
    if field.name.endswith("limit"):
        yield from (value | 0xFFF, value & 0xF_FFFF, 0xFFFF)
    yield from (0, 1)


def _address_candidates(
    capabilities: Capabilities, field: f.VmcsField, value: int
) -> Iterator[int]:
    if field.width.bits != 64:
        return
    low = (1 << capabilities.linear_width - 1) - 1
    yield from (value & low, value | ~low & (1 << 64) - 1)
    inside = ~capabilities.address_reserved & (1 << 64) - 1
    for reserved in (0xFFF, 0xF, 0x3F):
        yield value & inside & ~reserved
    yield value & inside
    yield value & 0xFFFF_FFFF
    # EPTP: write-back structures, four levels.
    yield value & inside & ~0xFFF | 0x1E
    yield value & ~0x3F | 0x1E
