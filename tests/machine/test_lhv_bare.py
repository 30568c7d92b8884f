"""lhv as the hypervisor of the bare machine: every test passes, whatever the TLB keeps."""

import functools
from pathlib import Path

import pytest

from turducken.machine.machine import Outcome
from turducken.system import Stops, System, SystemOptions, find_image

BUILDS = ["lhv-i386", "lhv-i386-pae", "lhv-amd64"]
POLICIES = ["keep", "drop", "finite", "random"]
LIMIT = 4_000_000_000


@functools.cache
def tap(build: str, cpus: int, tlb: str = "keep", text: str = "", seed: int = 0) -> str:
    """Run lhv to its end; return what it writes, which must be nothing but successes."""
    options = SystemOptions(find_image(build), cpus=cpus, tlb=tlb, text=text, seed=seed)
    result = System(options).run(Stops(max_instructions=LIMIT))
    assert "not ok" not in result.console, failures(result.console)
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 0), result.console[-2000:]
    assert "# lhv: all " in result.console
    return result.console


def failures(console: str) -> str:
    """Return the failed tests of a report, each with its notes."""
    lines = console.splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("not ok")]
    return "\n".join("\n".join(lines[at : at + 6]) for at in starts)


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return a folder of this run's own, which its workers share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.mark.slow
@pytest.mark.parametrize("tlb", POLICIES)
@pytest.mark.parametrize("cpus", [1, 2, 4], ids=lambda one: f"{one}-processors")
@pytest.mark.parametrize("build", BUILDS)
def test_every_test_of_lhv_passes_and_says_the_same_under_every_policy(
    build: str, cpus: int, tlb: str, reports: Path
) -> None:
    """Each run compares its report with those of the other policies that have come to an end."""
    report = tap(build, cpus, tlb).encode()
    place = reports / f"{build}-{cpus}"
    place.mkdir(exist_ok=True)
    mine = place / f"{tlb}.new"
    mine.write_bytes(report)
    mine.rename(place / tlb)
    for other in POLICIES:
        if (place / other).exists():
            assert report == (place / other).read_bytes(), f"{tlb} and {other} differ"


@pytest.mark.parametrize("tlb", POLICIES[1:])
def test_a_part_of_lhv_on_two_processors(tlb: str) -> None:
    tests = "tests=vpid,smp,ept-note-*"
    assert tap("lhv-i386-pae", 2, tlb, tests) == tap("lhv-i386-pae", 2, "keep", tests)


def test_a_shuffled_schedule_changes_nothing_that_lhv_says() -> None:
    tests = "tests=smp,vmcall"
    assert tap("lhv-amd64", 3, "random", tests, seed=1) == tap("lhv-amd64", 3, "keep", tests)


def test_every_test_of_a_build_on_two_processors() -> None:
    tap("lhv-amd64", 2)


def test_a_soak_on_two_processors() -> None:
    tap("lhv-i386", 2, "random", "tests=smp,vpid soak=20 seed=3")


def test_the_timer_ends_the_halt_of_one_processor_while_another_works() -> None:
    """The soak runs the test on both processors at once; nobody else is idle."""
    tap("lhv-amd64", 2, "keep", "tests=preemption-timer-while-halted soak=3")
