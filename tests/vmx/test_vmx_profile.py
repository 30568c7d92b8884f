import tomllib
from pathlib import Path

import pytest

from turducken.vmx import profile as module
from turducken.vmx.controls import CONTROL_SETS
from turducken.vmx.profile import ProfileError, Setting, list_profiles, load_profile


def test_shipped_profiles():
    assert list_profiles() == ["default", "haswell", "icelake", "minimal", "sandybridge", "skylake"]
    for name in list_profiles():
        assert load_profile(name).name == name
        assert load_profile(name).description


def test_the_default_profile_spells_out_every_key():
    raw = tomllib.loads((Path(module.__file__).parent / "profiles/default.toml").read_text())
    for key, word in CONTROL_SETS.items():
        assert set(raw["vmx"]["controls"][key]) == {name.lower() for name in word.masks}
    profile = load_profile()
    for table, record in (("cpu", profile.cpu), ("features", profile.features)):
        assert set(raw[table]) == set(record.__slots__)
    for table in ("misc", "ept", "vpid", "choices"):
        assert set(raw["vmx"][table]) == set(getattr(profile, table).__slots__)


def test_a_user_profile_changes_single_keys(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "haswell"\n[vmx.ept]\naccessed_dirty = false\n')
    mine, haswell = load_profile(path), load_profile("haswell")
    assert mine.name == "mine"
    assert mine.ept.accessed_dirty is False
    assert haswell.ept.accessed_dirty is True
    assert mine.ept.pages_1gib is True
    assert mine.cpu == haswell.cpu
    assert mine.controls == haswell.controls
    assert load_profile(str(path)) == mine


def test_a_profile_can_be_based_on_a_file_beside_it(tmp_path):
    (tmp_path / "one.toml").write_text('base = "default"\n[cpu]\nphysical_address_bits = 36\n')
    (tmp_path / "two.toml").write_text('base = "one.toml"\n[cpu]\nmodel = 1\n')
    cpu = load_profile(tmp_path / "two.toml").cpu
    assert (cpu.physical_address_bits, cpu.model) == (36, 1)


def test_controls_are_settings():
    controls = load_profile("minimal").controls
    assert controls["primary"]["CR3_LOAD_EXITING"] is Setting.ALWAYS
    assert controls["primary"]["HLT_EXITING"] is Setting.OPTIONAL
    assert controls["secondary"]["ENABLE_EPT"] is Setting.HIDDEN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cpu]\ncores = 4\n", "cpu.cores: unknown key"),
        ("colour = 1\n", "colour: unknown key"),
        ("[vmx]\nx = 1\n", "vmx.x: unknown key"),
        ("[vmx.ept]\nfast = true\n", "vmx.ept.fast: unknown key"),
        ("[vmx.controls]\nfast = 1\n", "vmx.controls.fast: unknown key"),
        ("[vmx.controls.pin]\nx = true\n", "vmx.controls.pin.x: unknown key"),
        ("cpu = 1\n", "cpu: expected a table"),
        ("vmx = 1\n", "vmx: expected a table"),
        ("description = 1\n", "description: expected text"),
        ("base = 1\n", "base: expected the name of a profile"),
        ('base = "nothing"\n', "base: nothing: no such profile"),
        ('base = "bad.toml"\n', "base: profiles are based on one another in a circle"),
        ("[cpu]\nmodel = true\n", "cpu.model: expected a number, not True"),
        ("[cpu]\nbrand = 1\n", "cpu.brand: expected text, not 1"),
        ("[features]\nsmep = 1\n", "features.smep: expected true or false, not 1"),
        ("[cpu]\nphysical_address_bits = 64\n", "cpu.physical_address_bits: 64 is not between"),
        ("[vmx.controls.pin]\nnmi_exiting = 2\n", "vmx.controls.pin.nmi_exiting: expected true"),
        ("[vmx\n", "not a TOML file"),
        (
            "[vmx.controls.secondary]\nenable_ept = false\n",
            "vmx.controls.secondary.unrestricted_guest: "
            "contradicts vmx.controls.secondary.enable_ept = false",
        ),
        (
            "[vmx.controls.pin]\nnmi_exiting = false\n",
            "vmx.controls.pin.virtual_nmis: contradicts vmx.controls.pin.nmi_exiting = false",
        ),
        (
            "[vmx.ept]\naccessed_dirty = false\n",
            "vmx.controls.secondary.enable_pml: contradicts vmx.ept.accessed_dirty = false",
        ),
        ("[vmx.ept]\nwalk_length_4 = false\n", "contradicts vmx.ept.walk_length_4 = false"),
        (
            "[vmx.ept]\nuncacheable = false\nwrite_back = false\n",
            "vmx.controls.secondary.enable_ept: contradicts vmx.ept.uncacheable = false",
        ),
        ("[vmx.ept]\ninvept = false\n", "vmx.ept.invept_single_context: contradicts"),
        ("[vmx.vpid]\ninvvpid = false\n", "contradicts vmx.vpid.invvpid = false"),
        (
            "[vmx.controls.secondary]\nenable_vpid = false\n",
            "vmx.vpid.invvpid: contradicts vmx.controls.secondary.enable_vpid = false",
        ),
        (
            "[vmx.controls.primary]\nactivate_secondary_controls = false\n",
            "contradicts vmx.controls.primary.activate_secondary_controls = false",
        ),
        ("[features]\ninvpcid = false\n", "contradicts features.invpcid = false"),
        ("[vmx.misc]\ntrue_controls = false\n", "contradicts vmx.misc.true_controls = false"),
        ("[vmx.misc]\nsaves_lma = false\n", "vmx.misc.saves_lma: contradicts"),
        ("[vmx.misc]\nmsr_list_limit = 600\n", "vmx.misc.msr_list_limit: contradicts"),
        (
            "[vmx.controls.exit]\nload_perf_global_ctrl = true\n",
            "contradicts cpu.performance_counters = 0",
        ),
        ("[features]\nla57 = true\n", "cpu.linear_address_bits: contradicts features.la57"),
        (
            "[vmx.controls.primary]\ncr3_load_exiting = false\n",
            "vmx.controls.primary.cr3_load_exiting: contradicts its default1 class",
        ),
        (
            '[vmx.controls.primary]\nhlt_exiting = "always"\n',
            "vmx.controls.primary.hlt_exiting: contradicts its default0 class",
        ),
    ],
)
def test_errors_are_one_line_with_file_and_key(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text if text.startswith("base") else f'base = "default"\n{text}')
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    line = str(caught.value)
    assert message in line
    assert line.startswith(str(path))
    assert "\n" not in line


def test_profiles_that_are_not_there(tmp_path):
    with pytest.raises(ProfileError, match="nowhere: no such profile"):
        load_profile("nowhere")
    with pytest.raises(ProfileError, match="no such profile"):
        load_profile(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match="not UTF-8"):
        load_profile(binary)


def test_a_circle_of_bases(tmp_path):
    (tmp_path / "a.toml").write_text('base = "b.toml"\n')
    (tmp_path / "b.toml").write_text('base = "a.toml"\n')
    with pytest.raises(ProfileError, match="circle"):
        load_profile(tmp_path / "a.toml")
