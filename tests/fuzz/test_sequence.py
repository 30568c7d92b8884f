"""Sequences: programs of the image `fuzz-amd64`, bare and nested; that a planted fault is found."""

import pytest
from iced_x86 import Decoder

from turducken.cli.entry import run
from turducken.fuzz import TrialOptions, run_sequence
from turducken.fuzz.pieces import INSTRUCTIONS, make_program
from turducken.fuzz.program import CODE, IMAGE, MARKER, SLOTS, Level, Place, put_into
from turducken.fuzz.sequence import compare_seed, in_words, run_bare, run_nested
from turducken.hypervisor import Vcpu, l1_exits
from turducken.hypervisor.vcpu import Handling
from turducken.system import shipped_images
from turducken.vmx.exit_reasons import ExitReason

DISASSEMBLED = {"pushf": "pushfq", "popf": "popfq", "int3": "int"}


@pytest.mark.parametrize("row", INSTRUCTIONS, ids=lambda row: row[1])
def test_every_row_is_the_instructions_that_it_names(
    row: tuple[tuple[Level, ...], str, str, dict[int, object]],
) -> None:
    code = bytes.fromhex(row[2])
    found = list(Decoder(64, code))
    assert sum(one.len for one in found) == len(code) <= CODE
    assert [str(one).split()[0] for one in found] == [
        DISASSEMBLED.get(one.split()[0], one.split()[0]) for one in row[1].split("; ")
    ]


def test_the_image_has_room_for_a_program() -> None:
    image = shipped_images()[IMAGE].read_bytes()
    assert image.count(MARKER) == 1
    changed = put_into(image, make_program(5))
    assert len(changed) == len(image)
    assert changed.count(MARKER) == 1


def test_a_program_runs_to_its_end_and_again_the_same() -> None:
    program = make_program(0)
    first, again = run_bare(program), run_bare(program)
    assert first == again
    assert sorted(first.lines) == list(range(SLOTS))


def test_a_piece_tells_all_that_it_saw() -> None:
    said = run_nested(make_program(0), verbose=True)
    of_l1 = next(line for line in said.lines.values() if line.startswith("L1"))
    assert "vector=" in of_l1
    assert "cr0=80010031" in of_l1


def test_addresses_are_the_images() -> None:
    assert len({one.value_in_program for one in Place}) == len(Place)


@pytest.mark.parametrize("seed", range(5))
def test_bare_and_nested_are_one(seed: int) -> None:
    assert compare_seed(seed) is None


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 600, 50))
def test_bare_and_nested_are_one_in_many_programs(first: int) -> None:
    found = {seed: run_sequence(seed) for seed in range(first, first + 50)}
    assert {seed: one for seed, one in found.items() if one is not None} == {}


def plant(monkeypatch: pytest.MonkeyPatch) -> None:
    right = l1_exits.on_cpuid

    def wrong(vcpu: Vcpu) -> Handling:
        handling = right(vcpu)
        vcpu.processor.gpr[3] ^= 0x100
        return handling

    monkeypatch.setitem(l1_exits.HANDLERS, ExitReason.CPUID, wrong)


def seed_with(text: str) -> int:
    return next(
        seed
        for seed in range(1000)
        if any((one.level, one.text) == (Level.L1, text) for one in make_program(seed))
    )


def test_a_planted_fault_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    difference = compare_seed(seed_with("cpuid"))
    assert difference is not None
    assert [(one.level, one.text) for one in difference.pieces] == [(Level.L1, "cpuid")]
    assert "L1: cpuid" in next(iter(in_words(difference)))


def test_what_l0_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_vcpu: Vcpu) -> Handling:
        raise ZeroDivisionError

    monkeypatch.setitem(l1_exits.HANDLERS, ExitReason.CPUID, fail)
    finding = run_sequence(0, TrialOptions(shadow="lazy", tlb="keep"))
    assert finding is not None
    assert finding.kind == "error"


# The command


def test_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", "--against", "bare", "--seed", "20", "--iterations", "2"]) == 0
    assert capfd.readouterr().out == "2 trials, 0 findings\n"


def test_the_command_tells_a_difference(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch)
    seed = seed_with("cpuid")
    assert run(["fuzz", "--against", "bare", "--seed", str(seed), "--iterations", "1"]) == 1
    told = capfd.readouterr().out
    assert told.startswith("difference: L1: cpuid")
    assert f"turducken fuzz --seed {seed} --iterations 1 --against bare" in told


def test_one_processor_only(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", "--against", "bare", "--cpus", "2"]) == 2
    assert "one processor" in capfd.readouterr().err
