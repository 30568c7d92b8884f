"""The processor that L1 sees under L0, as a profile: what to compare a bare run on."""

from collections.abc import Mapping
from dataclasses import fields, replace

from turducken.hypervisor import Offer
from turducken.hypervisor.capabilities import offered_to_l1
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.capability_msrs import EPT_VPID_CAP
from turducken.vmx.controls import CONTROL_SETS
from turducken.vmx.profile import Profile, Setting
from turducken.vmx.profile_records import Ept, Vpid


def profile_of_l1(profile: Profile, offer: Offer) -> Profile:
    """Return the profile whose capability MSRs are those that L0 shows L1 on ``profile``."""
    offered = offered_to_l1(Capabilities.from_profile(profile), offer)
    bits = offered.ept_vpid
    return replace(
        profile,
        controls={
            word: _remaining(settings, word, getattr(offered, word).allowed1)
            for word, settings in profile.controls.items()
        },
        ept=Ept(**_remaining_bits(Ept, profile.ept, bits)),
        vpid=Vpid(**_remaining_bits(Vpid, profile.vpid, bits)),
    )


def _remaining(settings: Mapping[str, Setting], word: str, allowed1: int) -> dict[str, Setting]:
    masks = CONTROL_SETS[word].masks
    return {
        name: setting if allowed1 & masks[name] else Setting.HIDDEN
        for name, setting in settings.items()
    }


def _remaining_bits(kind: type[Ept] | type[Vpid], record: Ept | Vpid, bits: int) -> dict[str, bool]:
    return {
        one.name: getattr(record, one.name) and bool(bits & EPT_VPID_CAP.mask(one.name.upper()))
        for one in fields(kind)
    }
