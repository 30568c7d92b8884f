"""What one key of a processor profile demands of another."""

from collections.abc import Mapping
from dataclasses import fields

from turducken.vmx.controls import CONTROL_SETS, DEPENDENCIES
from turducken.vmx.profile_records import Profile, ProfileError, Setting

_FEATURE_NEEDS = (
    ("secondary.enable_rdtscp", "rdtscp"),
    ("secondary.rdrand_exiting", "rdrand"),
    ("secondary.rdseed_exiting", "rdseed"),
    ("secondary.enable_invpcid", "invpcid"),
    ("secondary.enable_xsaves", "xsaves"),
    ("secondary.virtualize_x2apic_mode", "x2apic"),
    ("entry.load_bndcfgs", "mpx"),
    ("exit.clear_bndcfgs", "mpx"),
)
"""The control cannot be set to 1 unless CPUID reports the feature."""


_NO_SMM = "there is no system-management mode"
_NO_COMPACTION = "the compacted format of XSAVE is not executed"
_NO_BOUNDS = "there are no bound registers"


def check_consistency(profile: Profile) -> None:
    """Raise `ProfileError` at the first contradiction between two keys."""
    _check_classes(profile)
    _check_controls(profile)
    _check_ept(profile)
    _check_vpid(profile)
    _check_rest(profile)


NOT_MODELLED: Mapping[str, str] = {
    **dict.fromkeys(
        ("features.avx", "features.avx2", "features.f16c", "features.fma"),
        "no instruction with 256-bit registers is executed",
    ),
    "features.xsavec": _NO_COMPACTION,
    "features.xsaves": _NO_COMPACTION,
    "vmx.controls.secondary.enable_xsaves": _NO_COMPACTION,
    "features.rtm": "there are no transactions",
    "features.mpx": _NO_BOUNDS,
    "vmx.controls.entry.load_bndcfgs": _NO_BOUNDS,
    "vmx.controls.exit.clear_bndcfgs": _NO_BOUNDS,
    "vmx.misc.rdmsr_smbase": _NO_SMM,
    "vmx.controls.entry.entry_to_smm": _NO_SMM,
    "vmx.controls.entry.deactivate_dual_monitor": _NO_SMM,
}
"""Keys of the file that a profile cannot have true, and why."""


def check_modelled(profile: Profile) -> None:
    """Raise `ProfileError` at the first thing offered that the machine does not model."""
    for key, why in NOT_MODELLED.items():
        table, _, name = key.rpartition(".")
        word = table.removeprefix("vmx.controls.")
        if word in CONTROL_SETS:
            offered = profile.offers(word, name.upper())
        else:
            offered = getattr(getattr(profile, table.removeprefix("vmx.")), name)
        if offered:
            raise ProfileError(f"{profile.source}: {key}: not modelled: {why}")


def _demand(profile: Profile, key: str, holds: object, contradicts: str) -> None:
    if not holds:
        raise ProfileError(f"{profile.source}: {key}: contradicts {contradicts}")


def _has(profile: Profile, path: str) -> bool:
    word, _, name = path.partition(".")
    return profile.offers(word, name.upper())


def _check_classes(profile: Profile) -> None:
    """A default1 control has a 1-setting, the others a 0-setting: SDM 3D, "Reserved Controls"."""
    for word in CONTROL_SETS.values():
        for name, mask in word.masks.items():
            setting = profile.controls[word.key][name]
            key = f"vmx.controls.{word.key}.{name.lower()}"
            if mask & word.default1:
                _demand(profile, key, setting is not Setting.HIDDEN, "its default1 class")
                needs_true = setting is Setting.OPTIONAL
                holds = profile.misc.true_controls or not needs_true
                _demand(profile, key, holds, "vmx.misc.true_controls = false")
            else:
                _demand(profile, key, setting is not Setting.ALWAYS, "its default0 class")


def _check_controls(profile: Profile) -> None:
    for needing, needed in DEPENDENCIES:
        holds = _has(profile, needed) or not _has(profile, needing)
        _demand(profile, f"vmx.controls.{needing}", holds, f"vmx.controls.{needed} = false")
    gate = "primary.activate_secondary_controls"
    for name in CONTROL_SETS["secondary"].masks:
        holds = _has(profile, gate) or not profile.offers("secondary", name)
        key = f"vmx.controls.secondary.{name.lower()}"
        _demand(profile, key, holds, f"vmx.controls.{gate} = false")
    for needing, feature in _FEATURE_NEEDS:
        holds = getattr(profile.features, feature) or not _has(profile, needing)
        _demand(profile, f"vmx.controls.{needing}", holds, f"features.{feature} = false")


def _check_ept(profile: Profile) -> None:
    ept, control = profile.ept, "vmx.controls.secondary.enable_ept"
    enabled = _has(profile, "secondary.enable_ept")
    for one in fields(ept):
        holds = enabled or not getattr(ept, one.name)
        _demand(profile, f"vmx.ept.{one.name}", holds, f"{control} = false")
    if enabled:
        _demand(profile, control, ept.walk_length_4, "vmx.ept.walk_length_4 = false")
        types = ept.uncacheable or ept.write_back
        none = "vmx.ept.uncacheable = false and vmx.ept.write_back = false"
        _demand(profile, control, types, none)
    for kind in ("invept_single_context", "invept_all_contexts"):
        holds = ept.invept or not getattr(ept, kind)
        _demand(profile, f"vmx.ept.{kind}", holds, "vmx.ept.invept = false")
    key = "vmx.controls.secondary.enable_pml"
    holds = ept.accessed_dirty or not _has(profile, "secondary.enable_pml")
    _demand(profile, key, holds, "vmx.ept.accessed_dirty = false")


def _check_vpid(profile: Profile) -> None:
    vpid = profile.vpid
    enabled = _has(profile, "secondary.enable_vpid")
    for one in fields(vpid):
        key, used = f"vmx.vpid.{one.name}", getattr(vpid, one.name)
        _demand(profile, key, enabled or not used, "vmx.controls.secondary.enable_vpid = false")
        _demand(profile, key, vpid.invvpid or not used, "vmx.vpid.invvpid = false")


def _check_rest(profile: Profile) -> None:
    misc, cpu, features = profile.misc, profile.cpu, profile.features
    _demand(
        profile,
        "vmx.misc.saves_lma",
        misc.saves_lma or not _has(profile, "secondary.unrestricted_guest"),
        "vmx.controls.secondary.unrestricted_guest = true",
    )
    _demand(
        profile,
        "vmx.misc.msr_list_limit",
        misc.msr_list_limit % 512 == 0,
        "the manual: it is a multiple of 512",
    )
    for word in ("exit", "entry"):
        key = f"{word}.load_perf_global_ctrl"
        holds = cpu.performance_counters or not _has(profile, key)
        _demand(profile, f"vmx.controls.{key}", holds, "cpu.performance_counters = 0")
    width = 57 if features.la57 else 48
    _demand(
        profile,
        "cpu.linear_address_bits",
        cpu.linear_address_bits == width,
        f"features.la57 = {str(features.la57).lower()}",
    )
