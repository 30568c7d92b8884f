"""What L0 offers L1 of what the processor has."""

from dataclasses import replace

import pytest

from turducken.hypervisor import Offer
from turducken.hypervisor.capabilities import offered_to_l1
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.capability_msrs import EPT_VPID_CAP
from turducken.vmx.controls import PinBased, Secondary
from turducken.vmx.profile import load_profile


@pytest.mark.parametrize(("bits", "is_offered"), [(46, True), (48, True), (49, False), (52, False)])
def test_five_levels_of_ept_are_for_addresses_that_four_reach(bits: int, is_offered: bool) -> None:
    profile = load_profile("icelake")
    profile = replace(profile, cpu=replace(profile.cpu, physical_address_bits=bits))
    offered = offered_to_l1(Capabilities.from_profile(profile), Offer())
    assert offered.has(EPT_VPID_CAP.mask("WALK_LENGTH_5")) == is_offered
    assert offered.has(EPT_VPID_CAP.mask("WALK_LENGTH_4"))


def test_apic_virtualization_is_offered_whole() -> None:
    offered = offered_to_l1(Capabilities.from_profile(load_profile()), Offer())
    wanted = (
        Secondary.VIRTUALIZE_APIC_ACCESSES
        | Secondary.VIRTUALIZE_X2APIC_MODE
        | Secondary.APIC_REGISTER_VIRTUALIZATION
        | Secondary.VIRTUAL_INTERRUPT_DELIVERY
    )
    assert offered.secondary.allowed1 & wanted == wanted
    assert offered.pin.allowed1 & PinBased.PROCESS_POSTED_INTERRUPTS
