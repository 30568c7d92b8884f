"""``turducken run --trace``: what is in a trace, in both formats, and what is left out."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_images import SPIN, tiny_file

from turducken.cli.entry import run
from turducken.system import Mode, Stops, System, SystemOptions, find_image
from turducken.trace import KINDS, Recorder, Selection
from turducken.trace.records import Record

LHV = ["run", "lhv-amd64", "-q", "--memory", "32M", "--cmdline"]
NOTED = "tests=ept-map-on-violation,interrupt-exit,event-injection"


def traced(tmp_path: Path, *options: str, tests: str = NOTED) -> list[dict[str, Any]]:
    path = tmp_path / "trace.jsonl"
    assert run([*LHV, tests, "--trace", str(path), *options]) == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("mode", ["bare", "nested"])
def test_every_exit_is_in_the_trace(mode: str, tmp_path: Path) -> None:
    result = tmp_path / "result"
    records = traced(tmp_path, "--mode", mode, "--json", str(result), "--cpus", "2")
    counted = Counter(
        (f"L{one['level']}", one["for"], one["name"])
        for one in records
        if one["kind"] == "exit" and "for" in one
    )
    levels = json.loads(result.read_text())["exits"]
    for level, handlers in levels.items():
        for handler, exits in handlers.items():
            for name, count in exits.items():
                assert counted[level, handler, name] == count, (level, handler, name)
    assert sum(counted.values()) == sum(
        count for handlers in levels.values() for one in handlers.values() for count in one.values()
    )


def test_a_nested_violation_from_the_exit_to_the_retry(tmp_path: Path) -> None:
    records = traced(tmp_path, tests="tests=ept-map-on-violation")
    at = next(
        number
        for number, one in enumerate(records)
        if one["name"] == "EPT violation" and one.get("for") == "L0" and "linear" in one
    )
    exit_, fill, entry = records[at : at + 3]
    assert (exit_["level"], exit_["kind"]) == (2, "exit")
    assert exit_["symbol"].startswith("l2_")
    assert "LINEAR_VALID" in exit_["qualification"]
    assert (fill["kind"], fill["level"]) == ("ept02", 0)
    page = int(exit_["physical"], 16) & ~0xFFF
    assert int(fill["gpa2"], 16) == page
    assert (entry["kind"], entry["name"], entry["by"], entry["rip"]) == (
        "entry",
        "to L2",
        "L0",
        exit_["rip"],
    )


def test_all_kinds_of_events_are_told(tmp_path: Path) -> None:
    records = traced(tmp_path, "--cpus", "2", "--shadow", "lazy")
    told = {one["kind"] for one in records}
    assert told >= set(KINDS) - {"ept01", "diagnosis", "stop"}
    names = {(one["kind"], one["name"]) for one in records}
    assert {("ipi", "IPI init"), ("ipi", "IPI startup")} <= names
    assert ("ept02", "drop") in names
    assert ("mode", "IA-32e mode, 4-level paging") in names
    times = [one["time"] for one in records]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("options", "is_wanted"),
    [
        (["--trace-kind", "ept02"], lambda one: one["kind"] == "ept02"),
        (["--trace-kind", "ipi", "--trace-kind", "mode"], lambda one: one["kind"] in "ipi mode"),
        (["--trace-cpu", "1"], lambda one: one["cpu"] == 1),
        (["--trace-range", "12340000-12340fff"], lambda one: "0x12340" in str(one)),
    ],
)
def test_filters_select(options: list[str], is_wanted: Any, tmp_path: Path) -> None:
    everything = traced(tmp_path, "--cpus", "2", tests="tests=ept-map-on-violation")
    some = traced(tmp_path, "--cpus", "2", *options, tests="tests=ept-map-on-violation")
    assert some == [one for one in everything if is_wanted(one)]
    assert 0 < len(some) < len(everything)


def test_a_trace_changes_nothing() -> None:
    def end(*, is_traced: bool) -> tuple[int, int, str]:
        options = SystemOptions(find_image("lhv-amd64"), Mode.NESTED, 2, 32 << 20, NOTED)
        system = System(options)
        if is_traced:
            Recorder(system, Selection(), lambda _record: None)
        result = system.run(Stops(max_instructions=1_500_000))
        return result.instructions, result.guest_nanoseconds, result.console

    assert end(is_traced=False) == end(is_traced=True)


# The format of trace viewers


def complaints(trace: dict[str, Any]) -> list[str]:
    """Check a trace as viewers read it: the Trace Event Format, and that slices are nested."""
    found = []
    named: set[int] = set()
    stacks: dict[int, list[str]] = {}
    times: dict[int, float] = {}
    for number, one in enumerate(trace["traceEvents"]):
        phase, thread = one["ph"], one.get("tid", 0)
        if phase == "M":
            named.add(thread)
            continue
        if thread not in named:
            found.append(f"{number}: thread {thread} has no name")
        if not isinstance(one["ts"], (int, float)) or one["ts"] < times.get(thread, 0):
            found.append(f"{number}: time runs backwards")
        times[thread] = one["ts"]
        stack = stacks.setdefault(thread, [])
        if phase == "B":
            if one["cat"] in stack:
                found.append(f"{number}: {one['cat']} in {one['cat']}")
            stack.append(one["cat"])
        elif phase == "E":
            if not stack:
                found.append(f"{number}: nothing to end")
            else:
                stack.pop()
        elif phase != "i" or one["s"] != "t" or not one["name"]:
            found.append(f"{number}: no phase of ours: {phase}")
    return found + [f"thread {thread}: {stack} open" for thread, stack in stacks.items() if stack]


@pytest.mark.parametrize("options", [["--mode", "bare"], ["--cpus", "2"], ["--shadow", "lazy"]])
def test_trace_viewers_get_nested_slices(options: list[str], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert run([*LHV, NOTED, "--trace", str(path), *options]) == 0
    trace = json.loads(path.read_text())
    assert complaints(trace) == []
    slices = Counter(one["cat"] for one in trace["traceEvents"] if one["ph"] == "B")
    assert slices["L1"] >= 1
    assert slices["L2"] >= 2
    assert (slices["L0"] > slices["L2"]) == ("bare" not in options)


def test_the_check_of_slices_catches_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert run([*LHV, "tests=vmcall", "--trace", str(path)]) == 0
    trace = json.loads(path.read_text())
    events = trace["traceEvents"]
    end = next(number for number, one in enumerate(events) if one["ph"] == "E")
    assert complaints({"traceEvents": events[:end] + events[end + 1 :]})
    assert complaints({"traceEvents": [*events[:-1], {**events[-1], "ts": 0}]})
    assert complaints({"traceEvents": [one for one in events if one["ph"] != "M"]})


def test_a_run_that_is_ended_leaves_a_whole_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    limit = ["--max-instructions", "250000"]
    assert run([*LHV, "", "--trace", str(path), *limit]) == 3
    assert complaints(json.loads(path.read_text())) == []


# The last events


def test_the_last_events_of_a_run_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*LHV, "tests=vmcall", "--last", "5"]) == 0
    assert capsys.readouterr().err == ""
    path = tmp_path / "trace.jsonl"
    options = ["--max-instructions", "250000", "--last", "5", "--trace", str(path)]
    assert run([*LHV, "tests=vmcall", *options]) == 3
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == "the last 5 events:"
    assert len(lines) == len(path.read_text().splitlines()) == 5


def test_a_line_for_people() -> None:
    record = Record(
        1_234_560, 1, "exit", 2, "CPUID", 0x1000, "f", {"for": "L1"}, {"physical": 0x2000}
    )
    assert record.line() == (
        "      1,234.56 us  cpu1  L2  exit          CPUID, for L1, physical 0x2000 at 0x1000 (f)"
    )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--trace", "x.txt"], "--trace x.txt: its name has to end in .json"),
        (["--trace", "/none/x.json"], "--trace /none/x.json: No such file"),
        (["--trace-kind", "exit"], "--trace-kind: there is no --trace or --last"),
        (["--last", "0"], "--last 0"),
        (["--last", "9", "--trace-kind", "exits"], "--trace-kind exits: not one of exit"),
        (["--last", "9", "--trace-cpu", "1"], "--trace-cpu 1: there are 1 processors"),
        (["--last", "9", "--trace-range", "10"], "--trace-range 10: write FIRST-LAST"),
        (["--last", "9", "--trace-range", "20-10"], "--trace-range 20-10: the range is empty"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image"
    image.write_bytes(tiny_file(SPIN))
    assert run(["run", str(image), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"turducken: {complaint}")
    assert err.count("\n") == 1
