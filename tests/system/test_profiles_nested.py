"""What each profile offers works for lhv, and L0 gives the same to L1."""

import pytest

from turducken.system import Stops, SystemOptions, find_image
from turducken.system.comparison import compare
from turducken.vmx.profile import load_profile

OFFERED = "tests=ept-five-levels,vapic,ve,event-state,error-inv*,pml,vmfunc,fields quiet"


@pytest.mark.parametrize("profile", ["icelake", "skylake", "haswell"])
def test_lhv_sees_what_the_profile_offers_bare_and_nested(profile: str) -> None:
    options = SystemOptions(find_image("lhv-amd64"), text=OFFERED, profile=load_profile(profile))
    found = compare(options, Stops())
    assert found.is_same
    assert "not ok" not in found.nested.result.console
    assert "# lhv: all " in found.nested.result.console
