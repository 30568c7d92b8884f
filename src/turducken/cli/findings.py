"""The sanitizer of a run: its findings while they come, and at the end."""

from collections.abc import Callable
from typing import Any

from turducken.check import Finding, Sanitizer
from turducken.system import System

_MOST_ADVICE = 8


class Findings:
    """Attaches a sanitizer to a system that was made with ``observed``.

    ``show`` prints a paragraph while the system runs.
    """

    def __init__(self, system: System) -> None:
        self._names = system.names
        self._sanitizer = Sanitizer(system.machine, system.hypervisor)
        self._sanitizer.on_finding = self._on_finding
        self.show: Callable[[str], None] | None = None

    def _on_finding(self, finding: Finding) -> None:
        if self.show is not None and finding.kind == "missing":
            self.show(finding.text(self._names.describe))

    @property
    def has_failed(self) -> bool:
        """Tell whether an invalidation is missing."""
        return self._sanitizer.has_failed

    def as_list(self) -> list[dict[str, Any]]:
        """Return what `--json` has under ``findings``."""
        return self._sanitizer.as_list(self._names.describe)

    def texts(self) -> list[str]:
        """Return all findings as paragraphs, the missing invalidations first."""
        ordered = sorted(self._sanitizer.findings, key=lambda one: one.kind != "missing")
        return [one.text(self._names.describe) for one in ordered]

    @property
    def summary(self) -> str:
        """All findings, the missing invalidations first; advice is cut off after a few."""
        found = self._sanitizer.findings
        missing = [one for one in found if one.kind == "missing"]
        useless = [one for one in found if one.kind == "useless"]
        lines = [f"sanitizer: {len(missing)} missing, {len(useless)} useless invalidations"]
        for number, one in enumerate([*missing, *useless[:_MOST_ADVICE]], 1):
            times = f" (and {one.count - 1} times more)" if one.count > 1 else ""
            lines.append(f"  {number}. {one.text(self._names.describe)}{times}")
        if len(useless) > _MOST_ADVICE:
            lines.append(f"  and {len(useless) - _MOST_ADVICE} more useless ones (--json has all)")
        return "\n".join(lines)
