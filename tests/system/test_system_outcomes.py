"""How runs end, and with which exit status: guests of a few instructions, in both modes."""

import re

import pytest
from tiny_images import SLEEP, SPIN, STOP, UNDEFINED, leave, say, tiny

from turducken.system import Mode, Outcome, Result, Stops, System, SystemOptions, find_image

BOTH = pytest.mark.parametrize("mode", list(Mode), ids=lambda one: one.value)


CPUIDS = b"\x0f\xa2\xeb\xfc"
"""cpuid; and again"""
FLAGS = b"\xfb\xfa\xeb\xfc"
"""sti; cli; and again"""
COUNT, COUNT_AT = b"\x40\x41\xeb\xfc", 0x10_0020
"""inc eax; inc ecx; and again: three instructions, of which two are one byte long"""


def run(code: bytes, mode: Mode, stops: Stops | None = None, cpus: int = 1) -> Result:
    options = SystemOptions(tiny(code), mode=mode, memory=16 << 20, cpus=cpus)
    return System(options).run(stops or Stops(max_instructions=2_000_000))


@BOTH
@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (0x10, 1), (0xFFFF_FFFF, 1)])
def test_debug_exit(mode: Mode, code: int, status: int) -> None:
    result = run(leave(code), mode)
    assert (result.outcome, result.code, result.exit_status) == (Outcome.GUEST_EXIT, code, status)


def test_another_value_may_stand_for_success() -> None:
    stops = Stops(max_instructions=2_000_000, success_code=0x10)
    assert run(leave(0x10), Mode.BARE, stops).exit_status == 0
    assert run(leave(0), Mode.BARE, stops).exit_status == 1


@BOTH
def test_triple_fault(mode: Mode) -> None:
    result = run(UNDEFINED, mode)
    assert (result.outcome, result.exit_status) == (Outcome.TRIPLE_FAULT, 1)


@BOTH
@pytest.mark.parametrize("code", [STOP, SLEEP], ids=["interrupts off", "nothing will come"])
def test_halted_for_good(mode: Mode, code: bytes) -> None:
    result = run(code, mode)
    assert (result.outcome, result.exit_status) == (Outcome.HALTED, 1)


@BOTH
def test_sleeping_with_interrupts_that_no_one_lets_through_is_halted_for_good(mode: Mode) -> None:
    mask = b"\xb0\xff\xe6\x21\xe6\xa1\xfb"  # mask both PICs; sti
    result = run(mask + SLEEP, mode)
    assert (result.outcome, result.exit_status) == (Outcome.HALTED, 1)


@BOTH
@pytest.mark.parametrize("limit", [1, 2, 511, 100_003, 1_000_001])
@pytest.mark.parametrize("code", [SPIN, CPUIDS, FLAGS], ids=["spin", "cpuid", "sti"])
def test_limit(mode: Mode, limit: int, code: bytes) -> None:
    limit = limit if code is SPIN else min(limit, 5003)
    result = run(code, mode, Stops(max_instructions=limit))
    assert (result.outcome, result.exit_status) == (Outcome.LIMIT, 3)
    assert result.instructions == limit


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("limit", [30_000, 200_001])
def test_limit_of_several_processors(limit: int, seed: int) -> None:
    """The others spin in lhv's own code from early on, under L0 and with exits."""
    image = find_image("lhv-amd64")
    options = SystemOptions(image, Mode.NESTED, 3, 32 << 20, "tests=ept-identity", seed=seed)
    result = System(options).run(Stops(max_instructions=limit))
    assert (result.outcome, result.instructions) == (Outcome.LIMIT, limit)


@pytest.mark.parametrize(("limit", "rip"), [(1000, COUNT_AT), (1001, COUNT_AT + 2)])
def test_what_traps_counts_once(limit: int, rip: int) -> None:
    result = run(CPUIDS, Mode.BARE, Stops(max_instructions=limit))
    assert (result.instructions, result.cpus[0].rip) == (limit, rip)


def test_a_limit_does_not_change_what_comes_before_it() -> None:
    def after(instructions: int) -> tuple[int, int]:
        result = run(COUNT, Mode.BARE, Stops(max_instructions=instructions))
        return result.instructions, result.cpus[0].rip

    assert [after(3 * 700 + more) for more in range(3)] == [
        (2100, COUNT_AT),
        (2101, COUNT_AT + 1),
        (2102, COUNT_AT + 2),
    ]


@BOTH
def test_until_and_fail_on(mode: Mode) -> None:
    code = say("one\ntwo\n") + SPIN
    until, fail_on = re.compile("^two$"), re.compile("^one")
    found = run(code, mode, Stops(until=until, max_instructions=2_000_000))
    assert (found.outcome, found.matched, found.exit_status) == (Outcome.UNTIL, "two", 0)
    failed = run(code, mode, Stops(until, fail_on, 2_000_000))
    assert (failed.outcome, failed.matched, failed.exit_status) == (Outcome.FAIL_ON, "one", 1)


@BOTH
def test_a_prompt_is_a_line_when_nothing_follows_it(mode: Mode) -> None:
    stops = Stops(until=re.compile("login: $"), max_instructions=4_000_000)
    result = run(say("login: ") + SPIN, mode, stops)
    assert (result.outcome, result.matched) == (Outcome.UNTIL, "login: ")


def test_the_beginning_of_a_line_is_not_judged() -> None:
    stops = Stops(until=re.compile("^o$"), max_instructions=4_000_000)
    assert run(say("one\n") + SPIN, Mode.BARE, stops).outcome is Outcome.LIMIT


@BOTH
def test_the_result_tells_where_processors_stand(mode: Mode) -> None:
    result = run(STOP, mode, cpus=2)
    assert [one.state for one in result.cpus][
        1
    ] == "waits for a start-up IPI" or mode is Mode.NESTED
    assert result.cpus[0].rip == 0x100022 or mode is Mode.NESTED
    assert result.console == ""


@BOTH
def test_an_access_that_nothing_answers_is_told_with_its_address(mode: Mode) -> None:
    read = b"\x66\xba\x34\x12\xec"  # mov dx, 1234h; in al, dx
    result = run(read + leave(0), mode)
    (one,) = result.unclaimed
    assert (one.address, one.size, one.cpu, one.rip) == (0x1234, 1, 0, 0x100024)
