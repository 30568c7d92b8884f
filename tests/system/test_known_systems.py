"""Other people's systems: the table, and how one is tried."""

import pytest

from turducken.systems import KNOWN, KnownSystem, Missing, try_system

BY_NAME = {one.name: one for one in KNOWN}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "boot").mkdir()
    for name in ("xen-4.14-amd64.gz", "xen-4.17-amd64.gz", "vmlinuz-6.1.0-1-cloud-amd64"):
        (tmp_path / "boot" / name).touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").touch()
    folder = tmp_path / "lib/modules/6.1.0-1-cloud-amd64/kernel/arch/x86/kvm"
    folder.mkdir(parents=True)
    (folder / "kvm-intel.ko").touch()
    for name in ("seabios/bios-256k.bin", "ovmf/OVMF.fd"):
        file = tmp_path / "usr/share" / name
        file.parent.mkdir(parents=True)
        file.touch()
    return tmp_path


def test_names_are_unique():
    assert len(BY_NAME) == len(KNOWN)


@pytest.mark.parametrize("system", KNOWN, ids=lambda one: one.name)
def test_every_command_can_be_filled_in(system, root):
    command = system.command(root, "nested", 2)
    assert not any("{" in one for one in command)
    assert command[-4:] == ["--mode", "nested", "--cpus", "2"]


def test_the_newest_file_is_taken(root):
    assert BY_NAME["xen"].command(root, "bare", 1)[1] == str(root / "boot/xen-4.17-amd64.gz")


@pytest.mark.parametrize("system", KNOWN, ids=lambda one: one.name)
def test_what_is_missing_is_told_with_the_package(system, tmp_path):
    with pytest.raises(Missing, match=r"^apt install "):
        system.command(tmp_path, "bare", 1)


def shipped(*arguments):
    return KnownSystem("x", "", "", ("run", *arguments))


def test_a_run_is_judged_by_its_status(tmp_path):
    trial = try_system(shipped("lhv-amd64", "--cmdline", "tests=vmcall"), tmp_path, "bare", 1)
    assert (trial.passed, trial.status) == (True, 0)
    assert trial.instructions > 1000
    assert "passed" in trial.last_line


def test_a_run_that_does_not_come_to_its_end_is_told(tmp_path):
    system = shipped("lhv-amd64", "--max-instructions", "1000")
    trial = try_system(system, tmp_path, "nested", 1)
    assert (trial.passed, trial.status, trial.instructions) == (False, 3, 1000)
