"""lhv nested: the same TAP lines as bare."""

import functools

import pytest
from nested_rig import Rig, Run

from turducken.machine.machine import Outcome

SMALL = "tests=ept-*,vmcall,cpuid-exit,msr-*,cr-*,interrupt-*,exception-*,error-*,no-ept*"


@functools.cache
def bare(image: str, text: str, cpus: int = 1) -> str:
    rig = Rig(Run(image, text, cpus, nested=False))
    return rig.run()


@pytest.mark.parametrize("image", ["lhv-amd64", "lhv-i386", "lhv-i386-pae"])
def test_every_test_of_lhv_passes_nested_as_bare(image: str) -> None:
    rig = Rig(Run(image))
    assert rig.run() == bare(image, "")
    assert rig.outcome is Outcome.GUEST_EXIT
    assert "not ok" not in rig.console.text


@pytest.mark.parametrize("cpus", [2, 4])
def test_several_processors(cpus: int) -> None:
    rig = Rig(Run(text=SMALL, cpus=cpus))
    assert rig.run() == bare("lhv-amd64", SMALL, cpus)


@pytest.mark.parametrize("shadow", ["lazy", "cached", "eager", "writeprotect"])
@pytest.mark.parametrize("tlb", ["keep", "drop"])
def test_policies(shadow: str, tlb: str) -> None:
    rig = Rig(Run(text=SMALL, shadow=shadow, tlb=tlb))
    assert rig.run() == bare("lhv-amd64", SMALL)


def test_without_vmcs_shadowing() -> None:
    from turducken.hypervisor import Offer

    rig = Rig(Run(text=SMALL, offer=Offer(vmcs_shadowing=False)))
    assert rig.run() == bare("lhv-amd64", SMALL)
    assert rig.hypervisor.vcpus[0].statistics.exits_l1[23] > 100


def test_l1_without_ept() -> None:
    from turducken.hypervisor import Offer

    text = "tests=vmcall,cpuid-exit,msr-exit,cr-exit,exception-exit,io-exit"
    rig = Rig(Run(text=text, offer=Offer(ept=False, unrestricted_guest=False)))
    assert "not ok" not in rig.run()
