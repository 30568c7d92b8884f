"""Hostile guests: L0 stands, and where it does not, the trial says so."""

import json
from collections.abc import Callable

import pytest

from turducken.address import Gpa1, Gpa2
from turducken.cli.entry import run
from turducken.fuzz import Finding, Trial, TrialOptions, run_trial
from turducken.hypervisor import POLICIES, HypervisorError, Vcpu
from turducken.hypervisor.ept01 import Ept01, Place
from turducken.hypervisor.guest_memory import GuestMemory
from turducken.hypervisor.shadow.cached import CachedShadow
from turducken.hypervisor.shadow.compose import Composition, Filled
from turducken.hypervisor.vcpu import Handling

SEEDS = range(40)


@pytest.mark.parametrize("shadow", POLICIES)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_found(seed: int, shadow: str) -> None:
    assert run_trial(seed, TrialOptions(shadow=shadow)) is None


@pytest.mark.parametrize("shadow", POLICIES)
def test_nothing_is_found_with_two_processors(shadow: str) -> None:
    assert run_trial(77, TrialOptions(shadow=shadow, cpus=2)) is None


@pytest.mark.parametrize("seed", [1135, 5103])
def test_what_was_found_once(seed: int) -> None:
    assert run_trial(seed) is None


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 50))
def test_nothing_is_found_in_many_trials(first: int) -> None:
    found = {seed: run_trial(seed) for seed in range(first, first + 50)}
    assert {seed: one for seed, one in found.items() if one is not None} == {}


def test_a_trial_makes_noise() -> None:
    trial = Trial(1)
    trial.run()
    assert trial.entries > 5


def test_a_trial_is_the_same_again() -> None:
    first, second = Trial(3), Trial(3)
    for one in first, second:
        one.run()
    assert first.system.console.text == second.system.console.text
    assert first.system.machine.instructions == second.system.machine.instructions


# Each thing that is looked for is seen where it is planted


def found() -> Finding:
    """Return the first finding of a few trials."""
    for seed in SEEDS:
        finding = run_trial(seed, TrialOptions(shadow="cached", cpus=1))
        if finding is not None:
            return finding
    raise AssertionError("nothing found")


def test_an_ept01_that_maps_l0_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """EPT02 is composed through an EPT01 that gives everything."""
    find = Ept01.find

    def generous(self: Ept01, address: Gpa1) -> Place | None:
        if address in self.hidden:
            page = address & -4096
            return Place(page, 12, page | 0x37)  # type: ignore[arg-type]
        return find(self, address)

    monkeypatch.setattr(Ept01, "find", generous)
    assert found().kind == "containment"


def test_writing_around_ept01_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MSR-store list, a log, a table: whatever L1 names is written where it says."""

    def write(self: GuestMemory, address: int, data: bytes) -> None:
        self._memory.write(address, data)

    def store(self: GuestMemory, address: int, size: int, value: int) -> None:
        self._memory.store(address & -size, size, value)

    monkeypatch.setattr(GuestMemory, "write", write)
    monkeypatch.setattr(GuestMemory, "store", store)
    assert found().kind in ("containment", "error")


def test_a_mistake_of_l0_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Vcpu) -> None:
        raise HypervisorError("planted")

    monkeypatch.setattr(Vcpu, "skip", fail)
    finding = found()
    assert finding.kind == "error"
    assert "HypervisorError" in finding.detail
    assert "planted" in finding.detail


def test_an_exit_that_is_handled_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = CachedShadow.fill

    def forget(self: CachedShadow, gpa2: Gpa2, access: int) -> Composition:
        found = fill(self, gpa2, access)
        if isinstance(found, Filled):
            self.ept01_changed()
        return found

    monkeypatch.setattr(CachedShadow, "fill", forget)
    finding = found()
    assert finding.kind == "progress"
    assert "for ever" in finding.detail


# The command


def test_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", "--seed", "2", "--iterations", "2"]) == 0
    assert capfd.readouterr().out == "2 trials, 0 findings\n"


def planted(name: str) -> Callable[[Vcpu], Handling]:
    def fail(vcpu: Vcpu) -> Handling:
        raise HypervisorError(name)

    return fail


def test_findings_can_be_run_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Vcpu, "skip", planted("one\nmistake"))
    arguments = ["fuzz", "--seed", "5", "--iterations", "2", "--shadow", "lazy"]
    assert run(arguments) == 1
    out, err = capfd.readouterr()
    assert "   turducken fuzz --seed 5 --iterations 1 --shadow lazy\n" in out
    assert out.endswith("2 trials, 2 findings\n")
    assert err == ""
    assert run([*arguments, "--json", "-"]) == 1
    record = json.loads(capfd.readouterr().out)
    assert set(record) == {"seed", "iterations", "findings"}
    assert [one["seed"] for one in record["findings"]] == [5, 6]
    for one in record["findings"]:
        assert set(one) == {"seed", "kind", "detail", "command"}
        assert run(one["command"].split()[1:]) == 1


@pytest.mark.parametrize(
    "arguments", [["--shadow", "none"], ["--tlb", "none"], ["--cpus", "0"], ["--iterations", "0"]]
)
def test_bad_options_are_one_line(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
