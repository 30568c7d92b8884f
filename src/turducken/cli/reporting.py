"""The report of a run: ``--report FILE.html``."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from turducken.system import Result, System

if TYPE_CHECKING:
    from turducken.cli.findings import Findings


class Report:
    """Gathers what a report tells of the course of a run, from its beginning."""

    def __init__(self, system: System, arguments: Sequence[str]) -> None:
        from turducken.report.page import Gathered

        self._system = system
        self._command = shlex.join(["turducken", "run", *arguments])
        self._gathered = Gathered(system)

    def render(self, result: Result, findings: "Findings | None") -> bytes:
        """Return the page, once the run has ended."""
        from turducken.report.page import Extras, page

        self._gathered.finish()
        found = None if findings is None else findings.texts()
        extras = Extras(self._command, found)
        return page(self._system, result, self._gathered, extras).encode()
