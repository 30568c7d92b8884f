"""Every test of lhv nested, on every number of processors and under every policy, as bare."""

import functools

import pytest
from nested_rig import Rig, Run

from turducken.hypervisor import POLICIES, ShadowPolicyName
from turducken.machine.machine import Outcome

pytestmark = pytest.mark.slow


@functools.cache
def bare(image: str, cpus: int) -> str:
    return Rig(Run(image, cpus=cpus, nested=False)).run(limit=None)


@pytest.mark.parametrize("tlb", ["keep", "drop"])
@pytest.mark.parametrize("shadow", POLICIES)
@pytest.mark.parametrize("cpus", [1, 2, 4], ids=lambda n: f"{n}cpus")
@pytest.mark.parametrize("image", ["lhv-amd64", "lhv-i386", "lhv-i386-pae"])
def test_lhv_nested_as_bare(image: str, cpus: int, shadow: ShadowPolicyName, tlb: str) -> None:
    rig = Rig(Run(image, cpus=cpus, shadow=shadow, tlb=tlb))
    text = rig.run(limit=None)
    assert rig.outcome is Outcome.GUEST_EXIT
    assert "not ok" not in text
    assert text == bare(image, cpus)
