"""`run --sanitize`: findings of EPT12 and EPT02, their JSON, statuses, and what is printed."""

import json
from pathlib import Path
from typing import Any

import pytest

from turducken.check import Sanitizer
from turducken.check.findings import Finding
from turducken.cli.entry import run
from turducken.hypervisor import POLICIES, ShadowPolicyName
from turducken.mmu.policy import POLICIES as TLB_POLICIES
from turducken.system import Mode, System, SystemOptions, find_image
from turducken.zoo.planted import PLANTED

LHV, ZOO = "lhv-amd64", "zoo-amd64"
SHRUNK = "scenario=shrink-without-remote-invept form="
SUBSET = "tests=ept-remap-invept,ept-table-freed,ept-rights-removed,invvpid-*,no-vpid-forgets"


def sanitized(text: str, **options: Any) -> tuple[System, list[Finding]]:
    """Run a system; return it and the missing invalidations."""
    image = find_image(options.pop("image", LHV))
    system = System(SystemOptions(image, text=text, observed=True, **options))
    sanitizer = Sanitizer(system.machine, system.hypervisor)
    system.run()
    return system, [one for one in sanitizer.findings if one.kind == "missing"]


@pytest.mark.parametrize("shadow", POLICIES)
def test_what_lhv_does_is_clean_nested(shadow: ShadowPolicyName) -> None:
    system, found = sanitized(SUBSET, mode=Mode.NESTED, shadow=shadow)
    assert not found
    assert system.result().exit_status == 0


@pytest.mark.parametrize("tlb", TLB_POLICIES)
def test_what_lhv_does_is_clean_bare(tlb: str) -> None:
    _, found = sanitized(SUBSET, tlb=tlb)
    assert not found


def test_the_sanitizer_does_not_change_the_run() -> None:
    plain = System(SystemOptions(find_image(LHV), text=SUBSET)).run()
    watched, _ = sanitized(SUBSET)
    assert watched.result().instructions == plain.instructions
    assert watched.console.text == plain.console


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("tlb", TLB_POLICIES)
def test_ept12_shrunk_without_remote_invept(mode: Mode, tlb: str) -> None:
    """Found under every TLB policy, those that hide it from the guest too."""
    _, found = sanitized(SHRUNK + "faulty", image=ZOO, cpus=2, mode=mode, tlb=tlb)
    assert [(one.stage, one.rule) for one in found] == [("ept12", "permission-cleared")]
    (one,) = found
    assert one.use is not None
    assert one.modifier.level == "L1"
    assert one.use.by.level == "L2"
    assert one.modifier.cpu != one.use.by.cpu
    assert one.missing == "INVEPT"


@pytest.mark.parametrize("mode", Mode)
def test_ept12_shrunk_with_a_shootdown(mode: Mode) -> None:
    _, found = sanitized(SHRUNK + "fixed", image=ZOO, cpus=2, mode=mode)
    assert not found


MISTAKES = [
    ("skipped_invept", "tests=ept-remap-invept", "ept02", "shadow-left-behind"),
    ("flush_of_wrong_root", "tests=ept-remap-invept", "ept02", "permission-cleared"),
    ("no_transition_flush", "tests=no-vpid-forgets", "guest", "flush-left-out"),
]


@pytest.mark.parametrize(("fault", "text", "stage", "rule"), MISTAKES)
def test_faults_of_l0(fault: str, text: str, stage: str, rule: str) -> None:
    _, found = sanitized(text, mode=Mode.NESTED, l0=PLANTED[fault])
    assert (stage, rule) in [(one.stage, one.rule) for one in found]
    assert all(one.stage != "ept12" for one in found)


# The command


def test_strict_fails_where_an_invalidation_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.json"
    code = "scenario=memory-type-changed-without-invept form="
    faulty = ["run", ZOO, "--mode", "bare", "--cmdline", code + "faulty"]
    assert run([*faulty, "--quiet"]) == 0
    assert run([*faulty, "--sanitize", "--quiet"]) == 0
    assert run([*faulty, "--sanitize=strict", "--json", str(out)]) == 1
    assert run([*faulty[:-1], code + "fixed", "--sanitize=strict", "--quiet"]) == 0
    printed = capfd.readouterr().out
    assert "Missing INVEPT: L2 on processor 0" in printed
    assert "sanitizer: 1 missing" in printed
    (one,) = [each for each in json.loads(out.read_text())["findings"] if each["kind"] == "missing"]
    assert one["rule"] == "type-changed"
    assert one["stage"] == "ept12"
    assert one["modifier"]["symbol"].startswith("ept_map")
    assert one["modifier"]["level"] == "L1"
    assert one["user"]["access"] == "read"
    assert one["user"]["guest_physical"] == one["user"]["linear"]
    assert one["entry_before"]["decoded"] != one["entry_after"]["decoded"]
    assert int(one["entry_before"]["hex"], 16) == one["entry_before"]["value"]
    assert one["missing"] == "INVEPT"
    assert one["citation"].startswith("SDM 3C")
    assert one["count"] >= 1


@pytest.mark.parametrize("tlb", ["keep", "transitions", "broadcast"])
@pytest.mark.parametrize("sharing", ["one", "copied"])
def test_trustvisor_without_its_shootdown(tlb: str, sharing: str, tmp_path: Path) -> None:
    """The hole of the notes is seen, also where the TLB policy hides it."""
    out = tmp_path / "run.json"
    arguments = ["run", "pal-demo-amd64", "--cpus", "2", "--cmdline", "tests=shootdown-leak"]
    arguments += ["--tlb", tlb, "--sanitize=strict", "--json", str(out), "--quiet", "--app"]
    assert run([*arguments, f"trustvisor:sharing={sharing},shootdown=off"]) == 1
    findings = json.loads(out.read_text())["findings"]
    missing = [one for one in findings if one["kind"] == "missing"]
    assert {one["stage"] for one in missing} == {"ept01"}
    assert {one["missing"] for one in missing} == {"INVEPT"}
    assert all(one["modifier"]["symbol"].startswith("apps.trustvisor") for one in missing)
    assert all(one["modifier"]["cpu"] != one["user"]["cpu"] for one in missing)
    assert run([*arguments, f"trustvisor:sharing={sharing}"]) == 0


def test_useless_invalidations_are_advice(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    text = "scenario=invept-executed-twice form=faulty"
    arguments = ["run", ZOO, "--mode", "bare", "--cmdline", text, "--sanitize=strict"]
    assert run([*arguments, "--json", str(out), "--quiet"]) == 0
    findings = json.loads(out.read_text())["findings"]
    assert {one["kind"] for one in findings} == {"useless"}
    assert all(one["user"] is None and one["entry_before"] is None for one in findings)


def test_without_the_sanitizer_there_are_no_findings(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    run(["run", LHV, "--cmdline", "tests=ept-map-on-violation", "--json", str(out), "--quiet"])
    assert json.loads(out.read_text())["findings"] is None


def test_a_wrong_way_to_sanitize(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", LHV, "--sanitize=hard"]) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_a_machine_that_is_not_observed_is_refused() -> None:
    system = System(SystemOptions(find_image(LHV)))
    with pytest.raises(ValueError, match="observed"):
        Sanitizer(system.machine, system.hypervisor)
