"""Whatever L1 and L2 do, L0 neither fails nor lets its memory be touched."""

import pytest
from l0_hostile import Hostile
from nested_rig import StuckError

from turducken.hypervisor import POLICIES, ShadowPolicyName

LIMIT = 2_000_000


@pytest.mark.parametrize("shadow", POLICIES)
@pytest.mark.parametrize("seed", range(10))
def test_noise(seed: int, shadow: ShadowPolicyName) -> None:
    hostile = Hostile(seed, shadow)
    try:
        hostile.run(LIMIT)
    except StuckError:
        hostile.check()  # L1 and L2 may keep each other busy
    assert hostile.entries


def test_a_failed_entry_leaves_efer_to_l1() -> None:
    """A host IA32_EFER that no exit control loads is noise in VMCS12; it must not become L1's."""
    test_noise(481, "cached")
