"""The guest pal-demo, which tests TrustVisor from inside L1 and L2."""

import pytest
from pal_demo import IMAGES, SHARINGS, Demo, assert_passed

from turducken.apps.trustvisor.app import Sharing
from turducken.hypervisor import POLICIES, ShadowPolicyName
from turducken.mmu.policy import POLICIES as TLB_POLICIES


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_pals_from_l1_and_l2(image: str, sharing: Sharing) -> None:
    assert_passed(Demo("pal,cost", image, sharing=sharing).run())


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("shadow", [one for one in POLICIES if one != "cached"])
def test_under_every_shadow_policy(image: str, shadow: ShadowPolicyName) -> None:
    assert_passed(Demo("pal-l*,pal-shared*,pal-par*", image, shadow=shadow).run())


@pytest.mark.parametrize("tlb", [one for one in TLB_POLICIES if one != "keep"])
def test_under_every_tlb_policy(tlb: str) -> None:
    assert_passed(Demo("pal-life*,pal-shared*,shootdown", tlb=tlb, seed=9).run())


@pytest.mark.slow
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("shadow", POLICIES)
@pytest.mark.parametrize("tlb", TLB_POLICIES)
def test_everything_with_everything(
    image: str, sharing: Sharing, shadow: ShadowPolicyName, tlb: str
) -> None:
    for cpus in (1, 3):
        demo = Demo("pal", image, cpus=cpus, sharing=sharing, shadow=shadow, tlb=tlb, seed=cpus)
        assert_passed(demo.run())


def test_nothing_is_left_behind() -> None:
    """After everything is unregistered, L0 has all its frames back, and L1 all its pages."""
    demo = Demo("pal-life,pal-life-l2,pal-misdeeds,pal-shared*")
    assert_passed(demo.run())
    hypervisor = demo.system.hypervisor
    assert hypervisor is not None
    assert not demo.app.registry.pals
    assert demo.app.statistics.faults == 2 * 12
    once = hypervisor.frames.in_use
    again = Demo("pal-life,pal-life-l2,pal-misdeeds,pal-shared*,pal-registered-twice")
    assert_passed(again.run())
    assert again.system.hypervisor is not None
    assert again.system.hypervisor.frames.in_use <= once + 8


def test_without_trustvisor_everything_is_skipped(capfd: pytest.CaptureFixture[str]) -> None:
    from turducken.cli.entry import run

    assert (
        run(
            [
                "run",
                IMAGES[0],
                "--cpus",
                "2",
                "--console",
                "-",
                "--cmdline",
                "tests=pal-l*,shootdown",
            ]
        )
        == 0
    )
    out = capfd.readouterr().out
    assert out.count("# SKIP no TrustVisor here") == out.count("\nok ")
