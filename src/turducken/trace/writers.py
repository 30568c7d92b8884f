"""Traces as files: JSON lines, and what chrome://tracing and ui.perfetto.dev open.

The second format is the "Trace Event Format" of Chromium's documentation: each processor is a
thread; L1 is a slice, L2 is a slice in it while L2 runs or L0 works for it, and what L0 does from
an exit to the next entry is a slice in either. All else are instants.
"""

import json
from collections.abc import Callable
from pathlib import PurePath
from typing import IO, Any, Protocol

from turducken.trace.records import Record


class Sink(Protocol):
    """Takes records in the order of their times."""

    def write(self, record: Record) -> None:
        """Take one."""

    def close(self, time: int) -> None:
        """Take no more: the run has ended at ``time`` (the file itself stays open)."""


class JsonLines:
    """One JSON object in each line."""

    def __init__(self, file: IO[bytes], title: str) -> None:
        self._file = file

    def write(self, record: Record) -> None:
        """Write one line."""
        self._file.write(json.dumps(record.as_dict()).encode() + b"\n")

    def close(self, time: int) -> None:
        """There is nothing left to write."""


class ChromeTrace:
    """One JSON object for trace viewers."""

    def __init__(self, file: IO[bytes], title: str) -> None:
        self._file = file
        self._open: dict[int, list[str]] = {}
        """The slices that are open on each processor, innermost last: ``L1``, ``L2``, ``L0``."""
        file.write(b'{"displayTimeUnit":"ns","traceEvents":[\n')
        self._put({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": title}}, "")

    def _put(self, event: dict[str, Any], separator: str = ",\n") -> None:
        self._file.write((separator + json.dumps(event)).encode())

    def _event(self, phase: str, cpu: int, time: int, **more: Any) -> None:
        self._put({"ph": phase, "pid": 1, "tid": cpu + 1, "ts": time / 1000, **more})

    def write(self, record: Record) -> None:
        """Write one instant, and the slices that begin or end there."""
        stack = self._open.get(record.cpu)
        if stack is None:
            stack = self._begin_processor(record)
        if record.runs is not None:
            self._change(record, stack)
        self._event(
            "i",
            record.cpu,
            record.time,
            s="t",
            cat=record.kind,
            name=f"{record.kind}: {record.name}",
            args={"level": f"L{record.level}", **record.arguments()},
        )

    def _change(self, record: Record, stack: list[str]) -> None:
        """Begin and end slices: another level runs from now on."""
        cpu, time = record.cpu, record.time
        self._pop(cpu, time, stack, "L0")
        if record.runs == 0:
            self._push(cpu, time, stack, "L0", f"L0: {record.name}")
        elif record.runs == 1:
            self._pop(cpu, time, stack, "L2")
        elif "L2" not in stack:
            self._push(cpu, time, stack, "L2", "L2")

    def _begin_processor(self, record: Record) -> list[str]:
        name = {"name": f"processor {record.cpu}"}
        self._put({"ph": "M", "pid": 1, "tid": record.cpu + 1, "name": "thread_name", "args": name})
        stack = self._open[record.cpu] = []
        self._push(record.cpu, record.time, stack, "L1", "L1")
        return stack

    def _push(self, cpu: int, time: int, stack: list[str], what: str, name: str) -> None:
        stack.append(what)
        self._event("B", cpu, time, cat=what, name=name)

    def _pop(self, cpu: int, time: int, stack: list[str], what: str) -> None:
        if stack and stack[-1] == what:
            stack.pop()
            self._event("E", cpu, time)

    def close(self, time: int) -> None:
        """End what is open."""
        for cpu, stack in self._open.items():
            for _ in stack:
                self._event("E", cpu, time)
        self._file.write(b"\n]}\n")


SINKS: dict[str, Callable[[IO[bytes], str], Sink]] = {
    ".json": ChromeTrace,
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
}
"""Formats by the ending of the file's name."""


def make_sink(name: str, file: IO[bytes], title: str) -> Sink:
    """Return what writes ``file`` in the format that its ``name`` ends with, a key of `SINKS`."""
    return SINKS[PurePath(name).suffix.lower()](file, title)
