"""The shootdown demonstration: TrustVisor's hole under TLB policies side by side.

Each case is a run of pal-demo with two processors (`guests/pal-demo/shootdown.c`), which says on
its console what the other processor met.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAVY
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from turducken.apps import parse_request
from turducken.system import Mode, Stops, System, SystemOptions, find_image
from turducken.system.errors import SetupError

IMAGE = "pal-demo-amd64"
POLICIES = {
    "keep": "the manual",
    "transitions": "Bochs",
    "broadcast": "KVM",
}
"""The TLB policies compared, and what they stand for."""

_LIMIT = Stops(max_instructions=500_000_000)
_SAID = re.compile(r"# shootdown: (\w+) (\w+)")


@dataclass(frozen=True, slots=True)
class Sighting:
    """What happened in one run; values are None where the access was refused."""

    shootdown: bool
    policy: str
    secret: int
    before: int
    """What processor 1 read while the page was ordinary memory."""
    read: int | None
    """What processor 1 read while processor 0's PAL had the secret in it."""
    is_written: bool
    """Processor 1 then wrote over it."""
    inside: int
    """What the PAL itself finds at the end."""
    missing: int
    """Missing invalidations that the sanitizer found."""

    @property
    def is_leak(self) -> bool:
        """The secret was seen, or changed."""
        return self.read == self.secret or self.inside != self.secret


Attach = Callable[[System], Callable[[], int]]
"""Lets the sanitizer follow a system; what it returns tells how many invalidations are missing."""


def watch(attach: Attach, *, sharing: str = "one", seed: int = 0) -> Iterator[Sighting]:
    """Run every case, without the shootdown first."""
    for shootdown in (False, True):
        for policy in POLICIES:
            system = System(_options(policy, shootdown=shootdown, sharing=sharing, seed=seed))
            count = attach(system)
            result = system.run(_LIMIT)
            yield _sighting(result.console, policy, count(), shootdown=shootdown)


def _options(policy: str, *, shootdown: bool, sharing: str, seed: int) -> SystemOptions:
    switch = "on" if shootdown else "off"
    return SystemOptions(
        find_image(IMAGE),
        mode=Mode.NESTED,
        cpus=2,
        text="tests=shootdown",
        tlb=policy,
        seed=seed,
        apps=[parse_request(f"trustvisor:sharing={sharing},shootdown={switch}")],
        observed=True,
    )


def _sighting(console: str, policy: str, missing: int, *, shootdown: bool) -> Sighting:
    said = dict(reversed(_SAID.findall(console)))  # the boot processor's, which come first
    if len(said) != 5:
        raise SetupError(f"{IMAGE} did not get to its end: {console.strip()[-200:]}")
    return Sighting(
        shootdown=shootdown,
        policy=policy,
        secret=int(said["secret"], 16),
        before=int(said["before"], 16),
        read=None if said["read"] == "refused" else int(said["read"], 16),
        is_written=said["write"] == "done",
        inside=int(said["inside"], 16),
        missing=missing,
    )


def sightings_as_list(sightings: list[Sighting]) -> list[dict[str, Any]]:
    """Return what `demo shootdown --json` writes."""
    return [
        {
            "shootdown": one.shootdown,
            "tlb_policy": one.policy,
            "secret": one.secret,
            "before": one.before,
            "read": one.read,
            "written": one.is_written,
            "inside": one.inside,
            "leak": one.is_leak,
            "missing_invalidations": one.missing,
        }
        for one in sightings
    ]


_SHOWN_BY = {"one": {"keep"}, "copied": {"keep", "broadcast"}}
"""With a root for each processor, INVEPT for one root is nothing to the others, even everywhere."""


def is_as_told(sightings: list[Sighting], sharing: str) -> bool:
    """Tell whether the hole showed without the shootdown where it must, and nowhere else.

    The sanitizer must have found it wherever it is, shown or not.
    """
    shown_by = _SHOWN_BY[sharing]
    return all(
        one.is_leak == (one.policy in shown_by and not one.shootdown)
        and bool(one.missing) == (not one.shootdown)
        for one in sightings
    )


_STORY = """\
A PAL is a piece of an application that TrustVisor, a small program on the hypervisor, locks
away: when it is registered, its pages are taken out of the table (EPT01) through which every
processor sees memory. Here processor 0 registers a PAL and lets it keep a secret. Processor 1 has
used the page before. A processor remembers translations in its TLB, so taking the page out of the
table is not enough: processor 1 must be told to forget (a "shootdown": an interrupt, then INVEPT
over there). The original TrustVisor executed INVEPT on processor 0 only.

What happens when processor 1 then reads the page, and writes to it?"""

_MORAL = """\
By the manual a processor may keep a translation until INVEPT is executed on that processor (keep).
Without the shootdown the hole is there; whether it shows is up to the TLB. Who forgets more than
they must hide it: everything at each VM entry and exit, as Bochs (transitions), or INVEPT for all
processors, as KVM effectively does (broadcast). That is why the engineer whose notes began this
could not see it. With the shootdown on, no TLB that obeys the manual can show it. The sanitizer
(turducken run --sanitize) goes by the manual, not by what the TLB keeps: it finds the hole under
any TLB."""


def story() -> RenderableType:
    """Return what to know before looking at the table."""
    return Text(_STORY + "\n")


_MORAL_COPIED = """
Here each processor has a root of its own: INVEPT for processor 0's root, even where it acts on all
processors, says nothing about what processor 1 has cached under another root."""


def table(sightings: list[Sighting], sharing: str) -> RenderableType:
    """Return the cases side by side, and what follows from them."""
    view = Table(box=SIMPLE_HEAVY, pad_edge=False)
    for title in ("shootdown", "TLB", "like", "processor 1 reads", "writes"):
        view.add_column(title)
    view.add_column("the PAL finds")
    view.add_column("sanitizer")
    for number, one in enumerate(sightings):
        if number and one.shootdown != sightings[number - 1].shootdown:
            view.add_section()
        view.add_row(*_cells(one), style="bold red" if one.is_leak else "")
    return Group(view, Text(_MORAL + (_MORAL_COPIED if sharing == "copied" else "")))


def _cells(one: Sighting) -> tuple[str, ...]:
    if one.read is None:
        read = "refused"
    else:
        read = f"{one.read:x}: the secret" if one.read == one.secret else f"{one.read:x}"
    intact = one.inside == one.secret
    return (
        "on" if one.shootdown else "left out",
        one.policy,
        POLICIES[one.policy],
        read,
        "done" if one.is_written else "refused",
        f"{one.inside:x}: its secret" if intact else f"{one.inside:x}: what was written",
        "missing INVEPT" if one.missing else "clean",
    )
