"""Numbers and outcomes in words."""

import signal

from turducken.hypervisor.events import StopKind
from turducken.machine.machine import Outcome
from turducken.system import Result

_OUTCOMES = {
    Outcome.TRIPLE_FAULT: "triple fault",
    Outcome.HALTED: "all processors halted for good",
    Outcome.LIMIT: "the limit of instructions was reached",
    Outcome.STUCK: "stuck: VM exits or waits without an instruction between them",
    Outcome.TIMEOUT: "the time that --timeout gives was over",
}

_REQUESTS = {
    Outcome.RESET: "the guest reset the machine: port {:#x}",
    Outcome.SLEEP: "the guest let the machine sleep, which nothing ends: ACPI sleep type {}",
}


def outcome_in_words(result: Result) -> str:
    """Return how a run ended."""
    if result.outcome is Outcome.GUEST_EXIT:
        verdict = "success" if result.code == result.success_code else "failure"
        return f"the guest ended the run with {result.code} ({verdict}{_of_qemu(result.code)})"
    if result.outcome in (Outcome.UNTIL, Outcome.FAIL_ON):
        return f"--{result.outcome.value} matched: {result.matched}"
    if result.outcome in _REQUESTS:
        return _REQUESTS[result.outcome].format(result.code) + _requester(result)
    if result.outcome is Outcome.INTERRUPTED:
        return f"interrupted ({signal_name(result.code)})"
    told = [one for one in result.stopped if one.kind is not StopKind.TRIPLE_FAULT]
    if result.outcome is Outcome.TRIPLE_FAULT and told:
        return "; ".join(f"processor {one.processor} was stopped: {one.why}" for one in told)
    return _OUTCOMES[result.outcome]


def _requester(result: Result) -> str:
    by = result.requested_by
    if by is None:
        return ""
    return f", processor {by.cpu} at {by.rip:#x}" + (f" ({by.place})" if by.place else "")


def _of_qemu(code: int) -> str:
    """Return the status that test suites' own scripts know a debug-exit value by."""
    return f"; QEMU's status would be {code << 1 & 0xFF | 1}" if code else ""


def signal_name(number: int) -> str:
    """Return SIGINT, SIGTERM ..."""
    return signal.Signals(number).name


def short_number(value: float) -> str:
    """Return a number with three figures or so: 7, 12.3 k, 4.56 M."""
    for factor, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}" if value < 999.5 * factor else _large(value)
    return f"{value:.3g}"


def _large(value: float) -> str:
    return f"{value / 1e9:,.0f} G"


def short_time(seconds: float) -> str:
    """Return a time with its unit: 12.3 ms, 4.56 s."""
    for factor, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def plural(number: int, noun: str) -> str:
    """Return ``1 processor``, ``2 processors``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def visible(code: int) -> str:
    """Return a control code in caret notation (``^[`` is ESC), from 80H on with ``M-`` before."""
    return f"^{chr(code ^ 0x40)}" if code < 0x80 else f"M-^{chr(code ^ 0xC0)}"
