"""Results as plain records: what ``--json`` prints. The keys are described in docs/pt.md.

Addresses and entry values are strings with 0x (JSON readers lose bits of large numbers); sizes and
counts are numbers.
"""

from typing import Any

from turducken.inspect.chain import ChainWalk, StageWalk
from turducken.inspect.decode import Decoded, decode_as
from turducken.inspect.findings import Finding, Report
from turducken.inspect.search.chains import Chain
from turducken.inspect.search.roots import Candidate
from turducken.inspect.search.vmcs import FoundVmcs
from turducken.paging import rights
from turducken.paging.compare import Difference
from turducken.paging.ranges import Mapping, Range, RangeTable
from turducken.paging.survey import State
from turducken.paging.walker import Stop

Record = dict[str, Any]

_PROBLEMS = {State.MALFORMED: "malformed", State.MISSING: "table not in memory"}


def number(value: int | None) -> str | None:
    """Return an address or entry as JSON holds it."""
    return None if value is None else f"{value:#x}"


def attributes(word: int) -> Record:
    """Return an attribute word's permissions, type and flags."""
    return {
        "rights": rights.rights_text(word),
        "memory_type": rights.MEMORY_TYPE.describe(word),
        "ignore_pat": bool(word & rights.IPAT),
        "user": bool(word & rights.U),
        "global": bool(word & rights.G),
        "protection_key": rights.PROTECTION_KEY.get(word),
    }


def stage_walk(one: StageWalk) -> Record:
    """Return a stage of a walk with every entry."""
    steps = []
    for step, place in zip(one.walk.steps, one.places, strict=True):
        layout = one.stage.fmt.entry_layout(step.level, step.entry)
        readable = not (one.walk.stop is Stop.NO_MEMORY and step is one.walk.steps[-1])
        steps.append(
            {
                "level": layout.name,
                "address": number(step.address),
                "memory_address": number(place),
                "value": number(step.entry) if readable else None,
                "fields": fields_of(decode_as(step.entry, layout)) if readable else None,
            }
        )
    found = one.walk.stop is Stop.PAGE
    return {
        "stage": one.stage.name,
        "format": one.stage.fmt.name,
        "root": number(one.stage.root),
        "input": number(one.address),
        "entries": steps,
        "stop": one.walk.stop.value,
        "page_size": 1 << one.walk.shift,
        "output": number(one.walk.output(one.address)) if found else None,
        "effective": attributes(one.attributes) if found else None,
    }


def fields_of(decoded: Decoded) -> Record:
    """Return the fields of a value: addresses as strings, named values by name."""
    return {
        one.name: one.text
        if one.name.startswith("ADDRESS") or not one.text.isdigit()
        else one.value
        for one in decoded.fields
    }


def chain_walk(way: ChainWalk) -> Record:
    """Return a whole walk."""
    found = way.output is not None
    return {
        "address": number(way.address),
        "output": number(way.output),
        "reason": way.reason,
        "stopped_in": way.stopped.stage.name if way.stopped else None,
        "page_size": 1 << way.shift,
        "effective": attributes(way.attributes) if found else None,
        "stages": [stage_walk(one) for one in way.stages],
    }


def mapped_range(one: Range) -> Record:
    """Return one merged range."""
    return {
        "start": number(one.start),
        "size": one.size,
        "target": number(one.target),
        **attributes(one.attributes),
        "leaf_sizes": [1 << shift for shift in range(64) if one.shifts >> shift & 1],
        "leaves": one.leaves,
        "entry_address": number(one.entry_address),
    }


def ranges(table: RangeTable, limit: int | None = None) -> list[Record]:
    """Return merged ranges, at most ``limit``."""
    return [mapped_range(one) for one in table.take(slice(0, limit))]


def problems(mapping: Mapping, limit: int | None = None) -> list[Record]:
    """Return what is present in a table but maps nothing."""
    rows = mapping.problems
    count = len(rows) if limit is None else min(limit, len(rows))
    return [
        {
            "start": number(mapping.problem_address(index)),
            "size": mapping.problem_size(index),
            "kind": _PROBLEMS[State(int(rows.state[index]))],
            "level": mapping.fmt.levels[int(rows.level[index])].name,
            "entry": number(int(rows.entry[index])),
            "entry_address": number(int(rows.entry_address[index])),
        }
        for index in range(count)
    ]


def difference(one: Difference) -> Record:
    """Return one difference between two tables."""

    def side(target: int | None, word: int | None) -> Record | None:
        return None if target is None else {"target": number(target), **attributes(word or 0)}

    return {
        "kind": one.change.value,
        "start": number(one.start),
        "size": one.size,
        "a": side(one.target_a, one.attributes_a),
        "b": side(one.target_b, one.attributes_b),
    }


def finding(one: Finding) -> Record:
    """Return one finding."""
    return {
        "severity": one.severity.value,
        "rule": one.rule.name,
        "stage": one.stage,
        "message": one.message,
        "start": number(one.start),
        "size": one.size,
        "entry_address": number(one.entry_address),
        "summary": one.rule.summary,
        "source": one.rule.source,
    }


def report(one: Report) -> Record:
    """Return all findings, and how many more there are of each rule."""
    return {
        "findings": [finding(each) for each in one.findings],
        "omitted": [
            {"stage": stage, "rule": rule, "count": count}
            for (stage, rule), count in sorted(one.omitted.items())
        ],
    }


def candidate(one: Candidate) -> Record:
    """Return a plausible root."""
    return {
        "root": number(one.root),
        "format": one.format,
        "also": list(one.also),
        "score": one.score,
        "tables": one.tables,
        "leaves": one.leaves,
        "mapped_bytes": one.mapped,
        "malformed": one.malformed,
        "in_memory": one.in_memory,
        "attribute_kinds": one.attributes,
        "fault": one.fault or None,
        "near_miss": one.is_near_miss,
        "evidence": one.evidence,
    }


def found_vmcs(one: FoundVmcs) -> Record:
    """Return a VMCS that was found."""
    return {
        "address": number(one.address),
        "revision": number(one.revision),
        "layout": one.layout,
        "eptp": number(one.eptp),
        "guest_cr3": number(one.guest_cr3),
        "guest_rip": number(one.guest_rip),
        "host_cr3": number(one.host_cr3),
        "host_rip": number(one.host_rip),
        "evidence": one.evidence,
    }


def found_chain(one: Chain) -> Record:
    """Return a root in a guest's memory, with the EPTs around it."""
    return {"via": one.via, "outer": [number(root) for root in one.outer], **candidate(one.found)}
