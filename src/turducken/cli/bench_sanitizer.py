"""The group ``sanitizer`` of ``turducken bench``: what it costs to be watched."""

from collections.abc import Iterator
from dataclasses import replace

from turducken.check import Sanitizer
from turducken.report.bench.records import Aim, Measurement
from turducken.report.bench.workloads import bench_options, best_of
from turducken.system import Mode, System

_TIMES = 2
_WORKLOADS = (("l2-short", 10), ("calls", 2), ("remapping", 10))
_AIM = Aim(2, is_upper=True)


def sanitizer() -> Iterator[Measurement]:
    """Time workloads with the sanitizer on, against the same with it off."""
    group, unit = "sanitizer", "us/round"
    for mode in Mode:
        for name, units in _WORKLOADS:
            options = bench_options(mode)
            off = best_of(options, name, units, _TIMES)
            on = best_of(replace(options, observed=True), name, units, _TIMES, _attach)
            base, value = (each.seconds / each.rounds * 1e6 for each in (off, on))
            title = f"{name}, {mode.value}"
            yield Measurement(group, f"{title}, off", base, unit)
            yield Measurement(group, title, value, unit, to="off", ratio=value / base, aim=_AIM)


def _attach(system: System) -> Sanitizer:
    return Sanitizer(system.machine, system.hypervisor)
