"""What translations are made of, and how that changed: the sanitizer's records."""

from dataclasses import dataclass, field

from turducken.paging.formats import BoundFormat


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did something: a processor, the level that ran on it, and where it was.

    ``address`` is the instruction's (None for L0, which has a ``function`` of its own source
    instead). ``moment`` counts the changes of tables; ``entries`` the VM entries that this level
    had made on this processor by then. ``is_deliberate``: it has said that it means to leave
    translations stale (`turducken.devices.system_ports.StaleUseMark`).
    """

    cpu: int
    level: str
    address: int | None
    function: str | None = None
    moment: int = 0
    entries: int = 0
    is_deliberate: bool = False


@dataclass(slots=True, eq=False)
class Change:
    """An entry that was cached has been changed in a way that needs an invalidation."""

    place: int
    fmt: BoundFormat
    level: int
    before: int
    after: int
    rule: str
    by: Actor
    has_moved_on: bool = False
    """The modifier relies on the change already, whatever else it does."""
    is_reported: bool = False


@dataclass(slots=True, eq=False, weakref_slot=True)
class Source:
    """One entry that translations were made of, with the value that was cached.

    ``place`` is host-physical; ``level`` is the number of its level in ``fmt``; ``parent`` is the
    entry that led to its table. ``change`` tells how the entry differs in memory by now.
    """

    place: int
    value: int
    stage: str
    fmt: BoundFormat
    level: int
    parent: "Source | None" = None
    flags: bool = False
    change: Change | None = field(default=None)

    def is_as(self, value: int, stage: str, parent: "Source | None", *, flags: bool) -> bool:
        """Tell whether this stands for an entry that has just been read."""
        same = self.value == value and self.stage == stage and self.flags == flags
        return same and self.parent is parent and self.change is None

    @property
    def above(self) -> "list[Source]":
        """The entries that led here, from the next one up."""
        found = []
        one = self.parent
        while one is not None:
            found.append(one)
            one = one.parent
        return found

    @property
    def is_unlinked(self) -> bool:
        """An entry above no longer leads here."""
        return any(one.change is not None for one in self.above)
