"""All benchmarks, group by group. Figures mean little alone: look at the ratios."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from turducken.hypervisor import POLICIES
from turducken.inspect import bench as tables
from turducken.report.bench import bochs
from turducken.report.bench.pals import pals
from turducken.report.bench.raw import LONG_LOOP, LOOP_LENGTHS, SHORT_LOOP, RawEngine
from turducken.report.bench.records import Aim, Measurement
from turducken.report.bench.workloads import Timing, bench_options, best_of, run_workload
from turducken.system import Mode, Stops, System, SystemOptions, find_image
from turducken.system.offered import profile_of_l1

_LOOPS = (("short", SHORT_LOOP, 40, Aim(0.6)), ("long", LONG_LOOP, 60, Aim(0.9)))
_CALLS, _FILLS, _VIOLATIONS, _WORKLOAD_UNITS = 2, 2, 1, 20
_TIMES = 3
_MILLION = 1e6
_WORKLOADS = ("static", "remapping", "roots")


def measure() -> Iterator[Measurement]:
    """Measure everything, yielding each figure as it is known."""
    for group in GROUPS.values():
        yield from group()


def _mips(group: str, name: str, rate: float, **more: object) -> Measurement:
    return Measurement(group, name, rate / _MILLION, "M instructions/s", **more)  # type: ignore[arg-type]


def loops() -> Iterator[Measurement]:
    """Compute loops in L1 and L2, against the engine alone, and on Bochs."""
    group = "compute loops"
    raw = RawEngine()
    for name, body, units, aim in _LOOPS:
        base = max(raw.loop(body, units * 1_000_000) for _ in range(_TIMES))
        title = f"{LOOP_LENGTHS[body]}-instruction blocks"
        yield _mips(group, f"{title}, engine alone", base)
        l2 = 0.0
        for mode, level in ((Mode.BARE, 1), (Mode.BARE, 2), (Mode.NESTED, 2)):
            timing = best_of(bench_options(mode), f"l{level}-{name}", units, _TIMES)
            rate = timing.instruction_rate
            where = f"{title}, L{level} {mode.value}"
            yield _mips(group, where, rate, to="engine alone", ratio=rate / base, aim=aim)
            if mode is Mode.NESTED:
                yield _mips(
                    group, f"{title}, L2 nested", rate, to="L2 bare", ratio=rate / l2, aim=Aim(0.98)
                )
            elif level == 2:
                l2 = rate
        there = bochs.rate(f"l2-{name}", units) if bochs.is_installed() else None
        if there is not None:
            there *= LOOP_LENGTHS[body]
            yield _mips(group, f"{title}, L2 on Bochs", there)
            yield _mips(group, f"{title}, L2 bare", l2, to="Bochs", ratio=l2 / there, aim=Aim(4))


def calls() -> Iterator[Measurement]:
    """Round trips of a VMCALL of L2 whose handler in L1 makes ten VMREADs and VMWRITEs."""
    group, unit = "exits to L1", "round trips/s"
    bare = best_of(bench_options(Mode.BARE), "calls", _CALLS, _TIMES)
    yield Measurement(group, "VMCALL, 10 VMREADs and VMWRITEs, bare", bare.rate, unit)
    nested = best_of(bench_options(Mode.NESTED), "calls", _CALLS, _TIMES)
    yield Measurement(
        group,
        "the same, nested",
        nested.rate,
        unit,
        to="bare, in time",
        ratio=bare.rate / nested.rate,
        aim=Aim(3, is_upper=True),
    )
    each = nested.exits / nested.rounds
    yield Measurement(group, "exits to L0 for each, nested", each, "exits")
    there = bochs.rate("calls", _CALLS * 40) if bochs.is_installed() else None
    if there is not None:
        yield Measurement(group, "the same, on Bochs", there, unit)
        for name, rate in (("bare", bare.rate), ("nested", nested.rate)):
            yield Measurement(group, name, rate, unit, to="Bochs", ratio=rate / there)


_TRAPS = {
    "rdtsc": "RDTSC",
    "cpuid": "CPUID",
    "rdmsr": "RDMSR",
    "port": "IN",
    "invlpg": "INVLPG",
    "cr3": "MOV to CR3, and the translations lost",
    "undefined": "#UD and IRET",
    "fault": "#PF and IRET",
    "syscalls": "SYSCALL",
}
"""Workloads of guests/bench/traps.c."""
_TRAP_UNITS, _BOCHS_TRAP_UNITS = 2, 200


def traps() -> Iterator[Measurement]:
    """Measure one trap in L1 of each kind, bare to Bochs and nested to bare."""
    group, unit = "traps in L1", "us"
    for name, title in _TRAPS.items():
        there = bochs.rate(name, _BOCHS_TRAP_UNITS) if bochs.is_installed() else None
        bare = _microseconds(best_of(bench_options(Mode.BARE), name, _TRAP_UNITS, _TIMES))
        to, ratio = ("Bochs", bare * there / _MILLION) if there is not None else ("", None)
        aim = None if ratio is None else Aim(2, is_upper=True)
        yield Measurement(group, f"{title}, bare", bare, unit, to=to, ratio=ratio, aim=aim)
        nested = _microseconds(best_of(bench_options(Mode.NESTED), name, _TRAP_UNITS, _TIMES))
        yield Measurement(group, f"{title}, nested", nested, unit, to="bare", ratio=nested / bare)


def _microseconds(timing: Timing) -> float:
    return timing.seconds / timing.rounds * _MILLION


def memory() -> Iterator[Measurement]:
    """TLB misses, pages of EPT02 filled, and EPT violations served by L1."""
    group, unit = "memory", "us"
    callback = RawEngine().fill_seconds(512, 10) * _MILLION
    yield Measurement(group, "engine TLB miss, bare callback", callback, unit)
    bare = bench_options(Mode.BARE)
    for name, title in (
        ("refills", "TLB fill in L1 (one of 2 MiB, by 4 KiB), bare"),
        ("fills", "TLB fill in L2 (4 KiB, by two walks), bare"),
    ):
        cost = _microseconds(best_of(bare, name, _FILLS, _TIMES))
        yield Measurement(group, title, cost, unit, to="the callback", ratio=cost / callback)
    for name, units, title in (
        ("fills", _FILLS, "first access since INVEPT in L2"),
        ("violations", _VIOLATIONS, "EPT violation served by L1"),
    ):
        base = _microseconds(best_of(bare, name, units, _TIMES))
        yield Measurement(group, f"{title}, bare", base, unit)
        for shadow in POLICIES:
            timing = best_of(bench_options(Mode.NESTED, shadow), name, units, _TIMES)
            value = _microseconds(timing)
            yield Measurement(
                group, f"{title}, {shadow}", value, unit, to="bare", ratio=value / base
            )


def policies() -> Iterator[Measurement]:
    """Compare the shadow policies on three workloads: time, exits, and memory for EPT02."""
    for name in _WORKLOADS:
        group = f"policies: {name}"
        bare = run_workload(bench_options(Mode.BARE), name, _WORKLOAD_UNITS)
        yield Measurement(group, "bare", _microseconds(bare), "us/round")
        yield Measurement(group, "bare, exits", bare.exits / bare.rounds, "exits/round")
        for shadow in POLICIES:
            one = run_workload(bench_options(Mode.NESTED, shadow), name, _WORKLOAD_UNITS)
            ratio = one.seconds / bare.seconds
            yield Measurement(group, shadow, _microseconds(one), "us/round", "bare", ratio)
            yield Measurement(group, f"{shadow}, exits", one.exits / one.rounds, "exits/round")
            yield Measurement(group, f"{shadow}, memory for EPT02", 4 * one.frames, "KiB")


def boot() -> Iterator[Measurement]:
    """From nothing to L2's first instruction, and lhv with all its tests."""
    group = "boot"
    options = SystemOptions(find_image("lhv-amd64"), text="tests=vmcall")
    for mode in Mode:
        best = min(_seconds_to_first_l2(replace(options, mode=mode)) for _ in range(_TIMES))
        yield Measurement(group, f"to L2's first exit, {mode.value}", best * 1e3, "ms")
    whole = replace(options, text="")
    shown = profile_of_l1(whole.profile, whole.offer)
    bare = _seconds(replace(whole, profile=shown))
    yield Measurement(group, "lhv-amd64, all tests, bare", bare, "s")
    nested = _seconds(replace(whole, mode=Mode.NESTED))
    yield Measurement(
        group,
        "lhv-amd64, all tests, nested",
        nested,
        "s",
        to="bare",
        ratio=nested / bare,
        aim=Aim(1.5, is_upper=True),
    )


def _seconds(options: SystemOptions) -> float:
    system = System(options)
    began = time.process_time()
    system.run(Stops(max_instructions=1_000_000_000))
    return time.process_time() - began


def _seconds_to_first_l2(options: SystemOptions) -> float:
    began = time.process_time()
    system = System(options)
    times: list[float] = []

    def look() -> None:
        if not times and any(one.level == 2 for one in system.exit_counts()):
            times.append(time.process_time() - began)

    system.console.subscribe(lambda _line: look())
    system.run(Stops(max_instructions=1_000_000_000), look)
    return times[0]


def toolbox() -> Iterator[Measurement]:
    """Bulk work on an EPT of two million entries, in passes over its bytes."""
    group = "page-table toolbox, 2 million entries"
    results = tables.measure()
    for key, value in results.items():
        _, order, what = key.split(".")
        if not what.endswith("_seconds") or what.startswith("pass"):
            continue
        name = what.removesuffix("_seconds")
        yield Measurement(
            group,
            f"{name}, {order}",
            value * 1e3,
            "ms",
            to="one NumPy pass",
            ratio=results[f"pt.{order}.{name}_passes"],
            aim=Aim(5, is_upper=True),
        )


GROUPS: dict[str, Callable[[], Iterator[Measurement]]] = {
    "loops": loops,
    "calls": calls,
    "traps": traps,
    "memory": memory,
    "policies": policies,
    "boot": boot,
    "pals": pals,
    "pt": toolbox,
}
"""The groups by the names that the command line knows."""
