"""Debian's Linux boots, and its KVM works; where `make debian` unpacks it, or installed."""

from pathlib import Path

import pytest

from turducken.apps import parse_request
from turducken.check import Sanitizer
from turducken.machine.boot import ImageError, load_image
from turducken.system import Mode, Outcome, Stops, System, SystemOptions
from turducken.system.linux import (
    Userland,
    find_kernel,
    find_module,
    leave_out_calls,
)

MODULES = ("virt/lib/irqbypass.ko", "arch/x86/kvm/kvm.ko", "arch/x86/kvm/kvm-intel.ko")
FUNCTION, FLUSH = "kvm_mmu_notifier_invalidate_range_start", "kvm_flush_remote_tlbs"
LIMIT = Stops(max_instructions=4_000_000_000)


def kernel():
    unpacked = Path(__file__).parents[2] / "build" / "debian"
    for root in (unpacked, Path("/")):
        try:
            return find_kernel(root)
        except ImageError:
            continue
    return None


KERNEL = kernel()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        KERNEL is None,
        reason="Debian's package linux-image-cloud-amd64 is neither installed nor unpacked "
        "(make debian)",
    ),
]


def options(command, mode, cpus, *, modules=(), **further):
    userland = Userland(modules=modules, command=command)
    return SystemOptions(
        load_image(KERNEL.image),
        mode=mode,
        cpus=cpus,
        memory=512 << 20,
        text="console=ttyS0 quiet cryptomgr.notests",
        initrd=userland.build(),
        **further,
    )


@pytest.mark.parametrize(("mode", "cpus"), [(Mode.BARE, 1), (Mode.NESTED, 4)])
def test_it_boots_to_the_first_process(mode, cpus):
    result = System(options("/turducken/none", mode, cpus)).run(LIMIT)
    assert "init: /turducken/none: no such program" in result.console
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 127)


def modules(*, changed=False):
    found = [find_module(KERNEL.modules / "kernel", one) for one in MODULES]
    return [
        leave_out_calls(one, FUNCTION, FLUSH) if changed and one.name == "kvm.ko" else one
        for one in found
    ]


@pytest.mark.parametrize("shadow", ["lazy", "cached", "eager", "writeprotect"])
def test_kvm_passes_its_tests(shadow):
    system = System(options("kvm-test", Mode.NESTED, 2, modules=modules(), shadow=shadow))
    result = system.run(LIMIT)
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 0), result.console
    assert "# kvm-test: 0 of 10 failed" in result.console


@pytest.mark.parametrize("changed", [False, True])
def test_the_sanitizer_says_nothing_of_kvm_unless_a_flush_is_left_out(changed):
    command = "kvm-test replaced-page" if changed else "kvm-test"
    wanted = options(command, Mode.BARE, 2, modules=modules(changed=changed), observed=True)
    system = System(wanted)
    sanitizer = Sanitizer(system.machine, system.hypervisor)
    system.run(LIMIT)
    missing = [one for one in sanitizer.findings if one.kind == "missing"]
    assert bool(missing) is changed
    for one in missing:
        text = one.text(system.names.describe)
        assert "tdp_mmu" in text
        assert "[kvm]" in text


@pytest.mark.parametrize("where", ["", " l2"], ids=["L1", "L2"])
@pytest.mark.parametrize("bits", [64, 32])
def test_pals_of_processes_are_isolated(bits, where):
    command, apps = f"pal-demo-{bits}{where}", [parse_request("trustvisor")]
    wanted = options(command, Mode.NESTED, 1, modules=modules() if where else (), apps=apps)
    result = System(wanted).run(LIMIT)
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 0), result.console
    assert f"# a process of {bits} bits" in result.console
    assert "# pal-demo: 0 failed" in result.console
