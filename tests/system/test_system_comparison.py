"""Bare against nested: nothing where L0 is right, the first difference where it is not."""

import json
import re

import pytest

from turducken.cli.entry import run
from turducken.hypervisor import Vcpu
from turducken.system import Stops, SystemOptions, find_image
from turducken.system.comparison import Comparison, SeenExit, Tolerance, compare
from turducken.vmx.exit_reasons import ExitReason
from turducken.zoo.planted import PLANTED

IMAGES = ["lhv-amd64", "lhv-i386", "lhv-i386-pae"]
FEW = "tests=ept-identity,vmcall,cpuid-exit,ept-rights-level-2,error-*"


def compared(text: str, image: str = "lhv-amd64", **options: object) -> Comparison:
    system = SystemOptions(find_image(image), text=text, **options)  # type: ignore[arg-type]
    return compare(system, Stops(max_instructions=200_000_000))


@pytest.mark.parametrize("image", IMAGES)
def test_no_difference(image: str) -> None:
    found = compared(FEW, image)
    assert found.is_same
    assert [len(one) for one in found.bare.exits] == [len(one) for one in found.nested.exits]
    assert sum(len(one) for one in found.bare.exits) > 10


def test_a_trap_behind_an_event_that_l0_injects_again() -> None:
    """Nested, the event's delivery meets EPT violations; bare it does not."""
    assert compared("tests=monitor-trap-*").is_same


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("image", IMAGES)
def test_no_difference_in_all_tests(image: str, cpus: int) -> None:
    assert compared("", image, cpus=cpus).is_same


def test_each_processor_has_its_own_exits() -> None:
    found = compared("tests=vmcall,cpuid-exit", cpus=2)
    assert found.is_same
    assert len(found.bare.exits) == 2
    assert all(found.bare.exits)


def test_a_difference_in_the_output_and_in_the_exits() -> None:
    """L0 takes a misconfiguration for a violation: the first exit that differs says so."""
    found = compared("tests=ept-misconfig", l0=PLANTED["write_only_is_violation"])
    assert not found.is_same
    assert found.output is not None
    assert isinstance(found.output.bare, str)
    assert found.output.bare.startswith("ok")
    (first,) = found.exits
    assert isinstance(first.bare, SeenExit)
    assert isinstance(first.nested, SeenExit)
    assert first.bare.reason == ExitReason.EPT_MISCONFIGURATION
    assert first.nested.reason == ExitReason.EPT_VIOLATION
    before = [run.exits[0][: first.number - 1] for run in (found.bare, found.nested)]
    assert before[0] == before[1]


def test_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "lhv-i386", "--cmdline", "tests=vmcall"]) == 0
    assert "no difference" in capfd.readouterr().out


def test_the_command_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "lhv-amd64", "--cmdline", "tests=vmcall", "--json", "-"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert set(found) == {"same", "output", "exits", "bare", "nested"}
    assert found["same"] is True
    assert (found["output"], found["exits"]) == (None, [])
    keys = {"outcome", "guest_exit_code", "instructions", "exits", "host_seconds", "console"}
    assert set(found["bare"]) == set(found["nested"]) == keys
    assert found["bare"]["exits"] == found["nested"]["exits"]


def test_the_command_that_finds_a_difference(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The fault is planted where L0 looks; no option plants it."""
    monkeypatch.setattr(Vcpu, "invalidate_ept12", lambda *_operands: None)
    arguments = ["compare", "--cmdline", "tests=ept-remap-invept"]
    assert run([*arguments, "--json", "-"]) == 1
    found = json.loads(capfd.readouterr().out)
    assert found["same"] is False
    assert found["output"]["bare"].startswith("ok")
    assert found["output"]["nested"].startswith("not ok")
    assert run(arguments) == 1
    assert "the output differs in line" in capfd.readouterr().out


def test_a_missing_image_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "/no/such/image"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_time_stamps_and_order_may_be_no_difference() -> None:
    stamp = re.compile(r"^\[ *[0-9.]+\] ")
    exact, tolerant = Tolerance([stamp]), Tolerance([stamp], unordered=True)
    first, second = "[ 0.1] b\r\n[ 12.3] a\n", "[ 0.2] a\n[ 12.4] b\r\n"
    assert exact.lines(first) == ["b", "a", ""]
    assert exact.lines(first) != exact.lines(second)
    assert tolerant.lines(first) == tolerant.lines(second)


def test_exits_may_be_no_difference() -> None:
    """The same fault as above, where only the exits show it."""
    system = SystemOptions(
        find_image("lhv-amd64"),
        text="tests=ept-misconfig",
        l0=PLANTED["write_only_is_violation"],
    )
    tolerance = Tolerance([re.compile("(not )?ok.*|#.*")], console_only=True)
    found = compare(system, Stops(max_instructions=200_000_000), tolerance)
    assert not found.exits
