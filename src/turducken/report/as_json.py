"""A result as JSON: the keys are documented in docs/json.md."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from turducken.machine.machine import Outcome
from turducken.report import diagnoses
from turducken.report.journey import journeys_as_list
from turducken.report.state import screen_of, state_as_dict
from turducken.report.words import signal_name
from turducken.system import ExitCount, Mode, ProcessorResult, Result, System
from turducken.system.state import states_of
from turducken.vmx.exit_reasons import name_of


def _requester(result: Result) -> dict[str, Any] | None:
    by = result.requested_by
    if by is None:
        return None
    what = "port" if result.outcome is Outcome.RESET else "sleep_type"
    return {"cpu": by.cpu, "rip": f"{by.rip:#x}", "place": by.place, what: result.code}


def result_as_dict(system: System, result: Result, *, whole_vmcs: bool = False) -> dict[str, Any]:
    """Return what `--json` writes."""
    options = system.options
    return {
        "outcome": result.outcome.value,
        "guest_exit_code": result.code if result.outcome is Outcome.GUEST_EXIT else None,
        "signal": signal_name(result.code) if result.outcome is Outcome.INTERRUPTED else None,
        "requested_by": _requester(result),
        "matched": result.matched,
        "image": options.image.name,
        "mode": options.mode.value,
        "profile": options.profile.name,
        "tlb_policy": options.tlb,
        "shadow_policy": options.shadow if options.mode is Mode.NESTED else None,
        "apps": [one.text for one in options.apps],
        "seed": options.seed,
        "memory": options.memory,
        "command_line": system.boot_state.command_line,
        "instructions": result.instructions,
        "guest_seconds": result.guest_nanoseconds / 1e9,
        "host_seconds": round(result.host_seconds, 6),
        "mips": round(result.mips, 3),
        "cpus": [
            {**_cpu(one), **state_as_dict(state, system, whole_vmcs=whole_vmcs)}
            for one, state in zip(result.cpus, states_of(system), strict=True)
        ],
        "screen": screen_of(system),
        "exits": exits_by_level(result.exits),
        "tlb": {
            "hits": result.tlb.hits,
            "misses": result.tlb.misses,
            "dropped": result.tlb.dropped,
            "invalidations": dict(sorted(result.tlb.invalidations.items())),
        },
        "stopped": [
            {
                "cpu": one.processor,
                "kind": one.kind.value,
                "why": one.why,
                "guest": one.guest,
                "exit_reason": one.reason,
                "qualification": one.qualification,
                "rip": one.rip,
                "rule": one.rule,
            }
            for one in result.stopped
        ],
        "diagnoses": diagnoses.as_list(system, result),
        "journeys": journeys_as_list(result),
        "unclaimed": [
            {
                "kind": one.kind.value,
                "address": one.address,
                "size": one.size,
                "value": one.value,
                "cpu": one.cpu,
                "rip": one.rip,
            }
            for one in result.unclaimed
        ],
        "console": result.console,
    }


def _cpu(cpu: ProcessorResult) -> dict[str, Any]:
    return {
        "instructions": cpu.instructions,
        "exits": exits_by_name(cpu.exits),
        "triple_faults": cpu.triple_faults,
        "state": cpu.state,
        "rip": cpu.rip,
        "symbol": cpu.place,
    }


def exits_by_name(exits: Mapping[int, int]) -> dict[str, int]:
    """Return counts by the reason's name, in the order of the reasons' numbers."""
    return {name_of(reason): count for reason, count in sorted(exits.items())}


def exits_by_level(exits: Iterable[ExitCount]) -> dict[str, dict[str, dict[str, int]]]:
    """Return counts by the level they came from, who handled them, and the reason's name."""
    levels: dict[str, dict[str, dict[str, int]]] = {}
    for one in exits:
        handlers = levels.setdefault(f"L{one.level}", {})
        handlers.setdefault(one.handler, {})[name_of(one.reason)] = one.count
    return levels


def dump(value: object) -> str:
    """Return JSON text that ends with a line feed."""
    return json.dumps(value, indent=2) + "\n"
