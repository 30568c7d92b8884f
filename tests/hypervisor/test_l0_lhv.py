"""lhv nested: the same TAP lines as bare."""

import functools

import pytest
from nested_rig import Rig, Run

from turducken.hypervisor import Offer
from turducken.machine.machine import Outcome
from turducken.system import Stops, SystemOptions, find_image
from turducken.system.comparison import compare

SMALL = "tests=ept-*,vmcall,cpuid-exit,msr-*,cr-*,interrupt-*,exception-*,error-*"


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
    rig = Rig(Run(text=SMALL, offer=Offer(vmcs_shadowing=False)))
    assert rig.run() == bare("lhv-amd64", SMALL)
    assert rig.hypervisor.vcpus[0].statistics.exits_l1[23] > 100


@pytest.mark.parametrize(
    ("image", "offer"),
    [
        ("lhv-amd64", Offer(ept=False, unrestricted_guest=False)),
        ("lhv-i386", Offer(vpid=False)),
        ("lhv-i386-pae", Offer(ept=False, unrestricted_guest=False, vpid=False)),
        ("lhv-amd64", Offer(accessed_dirty=False)),
        ("lhv-i386-pae", Offer(unrestricted_guest=False)),
    ],
    ids=["ept", "vpid", "ept-and-vpid-pae", "accessed-dirty", "unrestricted-guest-pae"],
)
def test_l1_without(image: str, offer: Offer) -> None:
    """What L0 withholds, L1 does without, as on a processor that does not have it."""
    found = compare(SystemOptions(find_image(image), offer=offer), Stops())
    assert found.is_same
    assert "not ok" not in found.nested.result.console
