"""EPT misconfigurations and violations: the entries of the walk, and the bits at fault.

SDM 3C, "EPT Misconfigurations" and "EPT Violations".
"""

from collections.abc import Iterator

from turducken.diagnosis import BrokenRule, Diagnosis, Kind, Reading, decoded_text
from turducken.memory import TableMemory
from turducken.paging.formats import BoundFormat, BoundLevel
from turducken.paging.walker import Stop, Walk, walk

_MISCONFIGURATIONS = 'SDM 3C, "EPT Misconfigurations"'
_VIOLATIONS = 'SDM 3C, "EPT Violations"'
_READ, _WRITE, _EXECUTE = 1, 2, 4
_NAMES = {_READ: "read", _WRITE: "write", _EXECUTE: "fetch"}
_RIGHTS = {_READ: "R", _WRITE: "W", _EXECUTE: "X"}
_LEAF = 1 << 7
_TYPE_SHIFT = 3


def misconfigured(
    fmt: BoundFormat, memory: TableMemory, eptp: int, gpa: int, *, table: str
) -> Diagnosis:
    """Explain an EPT misconfiguration at guest-physical ``gpa``; ``table`` names the EPT."""
    found = walk(fmt, memory, eptp, gpa)
    rules = tuple(_rules(fmt, found, gpa))
    outcome = f"EPT misconfiguration (exit reason 49) at guest-physical {gpa:#x} in {table}"
    return Diagnosis(
        Kind.MISCONFIGURATION, "memory access", outcome, rules, walk_notes(fmt, found, table)
    )


def entry_reading(fmt: BoundFormat, found: Walk) -> Reading:
    """Return the entry at which a walk ended."""
    step = found.steps[-1]
    decoded = decoded_text(fmt.entry_layout(step.level, step.entry), step.entry)
    name = f"{fmt.levels[step.level].name} at {step.address:#x}"
    return Reading(name, step.entry, 16, decoded or "nothing set")


def _rules(fmt: BoundFormat, found: Walk, gpa: int) -> Iterator[BrokenRule]:
    if found.stop is not Stop.MALFORMED:
        return  # somebody has changed the entry since
    entry, level = found.leaf, fmt.levels[found.steps[-1].level]
    readings = (entry_reading(fmt, found), Reading("guest-physical address", gpa, 16))
    first = True
    for name, text, allowed in _faults(fmt, level, entry):
        yield BrokenRule(
            f"ept.{name}", text, _MISCONFIGURATIONS, readings, allowed, is_reported=first
        )
        first = False


def _faults(fmt: BoundFormat, level: BoundLevel, entry: int) -> Iterator[tuple[str, str, str]]:
    """Yield what makes an entry malformed: name, text, what is allowed."""
    rights = entry & 7
    if fmt.bad_permissions >> rights & 1:
        if rights & _READ == 0 and rights & _WRITE:
            yield (
                "write-without-read",
                "an entry that allows writes (bit 1) must allow reads (bit 0)",
                f"bit 0 set: {entry | _READ:#x}; or no right at all, for an EPT violation",
            )
        else:
            yield (
                "execute-only",
                "an entry that allows execution alone needs a processor that offers that",
                f"IA32_VMX_EPT_VPID_CAP bit 0 is 0 here; bit 0 set: {entry | _READ:#x}",
            )
    is_leaf = bool(entry & level.leaf_mask)
    reserved = entry & (level.leaf_reserved if is_leaf else level.table_reserved)
    width = (1 << 52) - (1 << fmt.features.maxphyaddr)
    if reserved & width:
        yield (
            "address-width",
            "address bits beyond the physical-address width are reserved",
            f"physical addresses have {fmt.features.maxphyaddr} bits: {reserved & width:#x} is set",
        )
    if reserved & ~width:
        yield _reserved(level, entry, reserved & ~width, is_leaf=is_leaf)
    kind = entry >> _TYPE_SHIFT & 7
    if is_leaf and fmt.bad_types >> kind & 1:
        yield (
            "memory-type",
            "bits 5:3 of an entry that maps a page must be a memory type: 0, 1, 4, 5 or 6",
            f"{kind} is reserved; write-back: {entry & ~0x38 | 6 << _TYPE_SHIFT:#x}",
        )


def _reserved(
    level: BoundLevel, entry: int, reserved: int, *, is_leaf: bool
) -> tuple[str, str, str]:
    clear = f"the bits clear: {entry & ~reserved:#x}"
    if not is_leaf and reserved & _LEAF:
        if level.layout_table is not None and "LEAF" in level.layout_table:
            size = {30: "1-GiB", 21: "2-MiB"}[level.shift]
            return (
                "large-page",
                f"bit 7 ({size} page) needs a processor that offers such pages",
                f"IA32_VMX_EPT_VPID_CAP does not offer them; {clear}",
            )
        return "bit-7", f"bit 7 of an {level.name} must be 0: it maps no page", clear
    what = "page's address below its size" if is_leaf else "bits 6:3 of a table reference"
    return "reserved", f"reserved bits ({reserved:#x}) must be 0: {what}", clear


def walk_notes(fmt: BoundFormat, found: Walk, table: str) -> tuple[str, ...]:
    """Return the entries of a walk, a line each."""
    lines = []
    for step in found.steps:
        decoded = decoded_text(fmt.entry_layout(step.level, step.entry), step.entry)
        lines.append(
            f"{table} {fmt.levels[step.level].name.removeprefix('EPT ')} at {step.address:#x}: "
            f"{step.entry:#018x} ({decoded or 'not present'})"
        )
    return tuple(lines)


def refused_access(
    fmt: BoundFormat, memory: TableMemory, eptp: int, gpa: int, access: int, *, table: str
) -> tuple[tuple[BrokenRule, ...], tuple[str, ...]]:
    """Explain an EPT violation: which entry lacks which right. ``access``: bits R, W, X."""
    found = walk(fmt, memory, eptp, gpa)
    wanted = [bit for bit in (_READ, _WRITE, _EXECUTE) if access & bit]
    names = " and ".join(_NAMES[bit] for bit in wanted)
    notes = walk_notes(fmt, found, table)
    if found.stop is Stop.NOT_PRESENT:
        rule = BrokenRule(
            "ept.not-present",
            f"a {names} needs entries that are present on the whole way",
            _VIOLATIONS,
            (entry_reading(fmt, found), Reading("guest-physical address", gpa, 16)),
            "the entry present; the walk ends there",
        )
        return (rule,), notes
    lacking = [step for step in found.steps if any(not step.entry & bit for bit in wanted)]
    if found.stop is not Stop.PAGE or not lacking:
        return (), notes
    step = lacking[0]
    decoded = decoded_text(fmt.entry_layout(step.level, step.entry), step.entry)
    reading = Reading(
        f"{fmt.levels[step.level].name} at {step.address:#x}", step.entry, 16, decoded
    )
    missing = "".join(_RIGHTS[bit] for bit in wanted if not step.entry & bit)
    rule = BrokenRule(
        "ept.right-missing",
        f"a {names} needs the right in every entry of the walk: {missing} is missing",
        _VIOLATIONS,
        (reading, Reading("guest-physical address", gpa, 16)),
        f"{missing} set in that entry",
    )
    return (rule,), notes
