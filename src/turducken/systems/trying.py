"""Running a known system as a user would, in a process of its own, and what came of it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from turducken.systems.known import KnownSystem

_COMMAND = [sys.executable, "-m", "turducken"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A run: whether it came to its end as it must, its size, and what it cost."""

    system: str
    mode: str
    cpus: int
    passed: bool
    status: int
    instructions: int
    guest_seconds: float
    cpu_seconds: float
    """The host's, of this process."""
    last_line: str
    """The last line of the console, which tells where a run that failed has come to."""


def try_system(system: KnownSystem, root: Path, mode: str, cpus: int) -> Trial:
    """Run a system; Missing where something of it is not installed."""
    command = system.command(root, mode, cpus)
    with TemporaryDirectory() as folder:
        record = Path(folder) / "result.json"
        status, seconds = _run([*_COMMAND, *command, "--json", str(record)])
        told = json.loads(record.read_text()) if record.exists() and record.stat().st_size else {}
    lines = str(told.get("console", "")).strip().splitlines()
    return Trial(
        system.name,
        mode,
        cpus,
        passed=status == 0,
        status=status,
        instructions=int(told.get("instructions", 0)),
        guest_seconds=float(told.get("guest_seconds", 0.0)),
        cpu_seconds=seconds,
        last_line=lines[-1] if lines else "",
    )


def _run(command: list[str]) -> tuple[int, float]:
    """Run to the end; return the exit status and the seconds of the host's processors."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime
