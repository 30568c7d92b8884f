"""What a run shows of a scenario's mistake: the guest's own words, and what L0's tables say."""

from turducken.hypervisor.explain import Explanation, Stage
from turducken.paging.walker import Stop
from turducken.system import Outcome, Result

_UNTOLD = "# lhv: "


def evidence_of(result: Result, watched: int) -> tuple[str, ...]:
    """Return what is wrong, line by line; nothing where all is well."""
    lines = [_without_hash(one) for one in _complaints(result.console)]
    for journey in result.journeys:
        if journey.address == watched:
            lines += _disagreements(journey)
    if result.outcome is not Outcome.GUEST_EXIT:
        lines.append(f"the guest does not come to its end: {result.outcome.value}")
    return tuple(lines)


def is_skipped(console: str) -> bool:
    """Tell whether the guest left out what it was to do on the boot processor."""
    return any(" cpu0 # SKIP" in line for line in console.splitlines())


def _complaints(console: str) -> list[str]:
    """Return the notes under tests that failed (TAP version 13)."""
    lines = console.replace("\r", "").splitlines()
    return [line for line in lines if line.startswith("#") and not line.startswith(_UNTOLD)]


def _without_hash(line: str) -> str:
    return line.removeprefix("#").strip()


def _disagreements(journey: Explanation) -> list[str]:
    """Compare EPT02 with EPT01(EPT12): where the page leads, and its type if it is of RAM."""
    stages = {one.table: one for one in journey.stages}
    if not {"EPT12", "EPT01", "EPT02"} <= stages.keys():
        return []
    ept12, ept01, ept02 = stages["EPT12"], stages["EPT01"], stages["EPT02"]
    if not all(_is_page(one) for one in (ept12, ept01, ept02)):
        return []
    found = []
    page = f"L2's page {journey.address:#x}"
    if ept02.output != ept01.output:
        found.append(
            f"{page} is {ept01.output:#x} by EPT12 and EPT01, but {ept02.output:#x} by EPT02"
        )
    if ept01.memory_type == "WB" and ept12.memory_type != ept02.memory_type:
        found.append(f"{page} is {ept12.memory_type} in EPT12, but {ept02.memory_type} in EPT02")
    return found


def _is_page(stage: Stage) -> bool:
    return stage.outcome == Stop.PAGE.value
