"""What the sanitizer has found: as data for `--json`, and as a paragraph for people."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from turducken.check.changes import Actor
from turducken.check.rules import PROPAGATION, RECOMMENDED, Rule
from turducken.inspect.decode import flags_of
from turducken.paging.formats import BoundFormat

Describe = Callable[[int], str | None]
"""Gives the name of the image's function at an address, with offset and line where known."""

_ACCESSES = ("read", "write", "fetch")
_DID = ("read", "wrote", "fetched code at")


@dataclass(frozen=True, slots=True)
class Use:
    """The access that went through a stale translation; ``gpa`` is None without a second stage."""

    by: Actor
    linear: int
    gpa: int | None
    access: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a table entry, and how it is to be read (None: an EPTP, CR3 or PDPTE)."""

    value: int
    fmt: BoundFormat | None = None
    level: int = 0

    @property
    def decoded(self) -> str:
        """The entry in words."""
        if self.fmt is None:
            return ""
        if not self.value & self.fmt.present:
            return "not present"
        layout = self.fmt.entry_layout(self.level, self.value)
        return flags_of(self.value, layout)


@dataclass(slots=True)
class Finding:
    """A missing invalidation (``use`` and the entries are there), or a useless one (they are not).

    ``place`` is the entry's host-physical address. ``count`` tells how often it came up.
    """

    kind: Literal["missing", "useless"]
    rule: str
    stage: str
    modifier: Actor
    missing: str
    citation: str
    use: Use | None = None
    place: int | None = None
    before: Entry | None = None
    after: Entry | None = None
    count: int = 1

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two findings the same."""
        by, use = self.modifier, self.use
        who = (by.level, by.address, by.function)
        return (self.kind, self.rule, self.stage, *who, use.by.level if use else self.missing)

    def as_dict(self, describe: Describe) -> dict[str, Any]:
        """Return what `--json` writes: docs/json.md."""
        return {
            "kind": self.kind,
            "rule": self.rule,
            "stage": self.stage,
            "modifier": _actor(self.modifier, describe),
            "user": None if self.use is None else _use(self.use, describe),
            "entry_address": self.place,
            "entry_before": _entry(self.before),
            "entry_after": _entry(self.after),
            "missing": self.missing,
            "citation": self.citation,
            "count": self.count,
        }

    def text(self, describe: Describe) -> str:
        """Return a paragraph."""
        if self.use is None:
            return (
                f"Useless {self.missing}: {_who(self.modifier, describe)} executed it although "
                f"nothing could have been cached that it acts on. {self.citation}."
            )
        return _missing_text(self, self.use, describe)


def missing(
    rule: Rule, stage: str, modifier: Actor, use: Use, *, place: int | None = None
) -> Finding:
    """Return a finding without entries."""
    citation = rule.citation
    if citation == RECOMMENDED and modifier.cpu != use.by.cpu:
        citation = PROPAGATION
    return Finding("missing", rule.id, stage, modifier, rule.missing, citation, use, place)


def _actor(by: Actor, describe: Describe) -> dict[str, Any]:
    symbol = by.function if by.address is None else describe(by.address)
    return {"cpu": by.cpu, "level": by.level, "address": by.address, "symbol": symbol}


def _use(use: Use, describe: Describe) -> dict[str, Any]:
    return {
        **_actor(use.by, describe),
        "linear": use.linear,
        "guest_physical": use.gpa,
        "access": _ACCESSES[use.access],
    }


def _entry(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {"value": entry.value, "hex": f"{entry.value:#x}", "decoded": entry.decoded}


def _who(by: Actor, describe: Describe) -> str:
    place = by.function if by.address is None else describe(by.address)
    at = "" if by.address is None else f" at {by.address:#x}"
    return f"{by.level} on processor {by.cpu}{at}" + (f" ({place})" if place else "")


_TABLES = {
    "guest": "page tables",
    "ept01": "EPT01 (our hypervisor's table for L1)",
    "ept12": "EPT12 (L1's table for its guest)",
    "ept02": "EPT02 (our hypervisor's shadow of EPT12)",
}


def _missing_text(one: Finding, use: Use, describe: Describe) -> str:
    by = one.modifier
    gpa = "" if use.gpa is None else f" (guest-physical {use.gpa:#x})"
    parts = [
        f"Missing {one.missing}: {_who(use.by, describe)} {_DID[use.access]} {use.linear:#x}{gpa} "
        f"through a translation that {_TABLES[one.stage]} no longer give"
        + ("." if one.stage == "guest" else "s.")
    ]
    if one.before is not None and one.after is not None:
        place = "" if one.place is None else f" at {one.place:#x}"
        parts.append(
            f"{_who(by, describe)} changed the entry{place} from {_shown(one.before)} to "
            f"{_shown(one.after)}, and went on."
        )
    else:
        parts.append(f"{_who(by, describe)} brought that about, and went on.")
    whose = "the same processor" if by.cpu == use.by.cpu else f"processor {use.by.cpu}"
    parts.append(
        f"What {whose} had cached was never invalidated ({one.rule}). The rule: {one.citation}."
    )
    return " ".join(parts)


def _shown(entry: Entry) -> str:
    decoded = entry.decoded
    return f"{entry.value:#x}" + (f" ({decoded})" if decoded else "")
