"""The notes' worked examples, as shipped dumps."""

import pytest

from turducken.inspect.samples import SAMPLES, write_samples


def test_the_shipped_samples_are_what_the_command_writes(tmp_path, samples):
    write_samples(tmp_path)
    assert sorted(one.name for one in samples.iterdir()) == sorted(SAMPLES)
    for name in SAMPLES:
        assert (tmp_path / name).read_bytes() == (samples / name).read_bytes(), name


def walked(pt_json, sample, address, via):
    status, record = pt_json("walk", sample, hex(address), "--via", via)
    assert status == 0
    return record


def test_lhv_maps_its_page_uncached_before_the_fix(pt_json, samples):
    record = walked(pt_json, samples / "lhv-before-fix.core", 0x1234000, "ept12")
    entries = record["stages"][0]["entries"]
    assert [one["address"] for one in entries] == [
        "0x8bb4000",
        "0x8bbc000",
        "0x8bbd048",
        "0x8bbe1a0",
    ]
    assert [one["value"] for one in entries] == ["0x8bbc007", "0x8bbd007", "0x8bbe007", "0x1234007"]
    assert record["output"] == "0x1234000"
    assert record["effective"]["rights"] == "RWX"
    assert record["effective"]["memory_type"] == "UC"


def test_lhv_maps_its_page_write_back_after_the_fix(pt_json, samples):
    record = walked(pt_json, samples / "lhv-fixed.core", 0x1234567, "ept12=0x8bb401e")
    assert record["output"] == "0x1234567"
    assert record["effective"]["memory_type"] == "WB"


def test_the_check_points_at_the_uncached_leaf(pt_json, samples):
    _, before = pt_json("check", samples / "lhv-before-fix.core", "--via", "ept12")
    (finding,) = [one for one in before["findings"] if one["rule"] == "uc-over-ram"]
    assert finding["entry_address"] == "0x8bbe1a0"
    _, after = pt_json("check", samples / "lhv-fixed.core", "--via", "ept12")
    assert "uc-over-ram" not in [one["rule"] for one in after["findings"]]


def test_the_diff_is_the_fix(pt_json, samples):
    status, record = pt_json(
        "diff",
        samples / "lhv-before-fix.core",
        "--via",
        "ept12",
        "--in",
        samples / "lhv-fixed.core",
    )
    assert status == 1
    (one,) = record["differences"]
    assert (one["start"], one["a"]["memory_type"], one["b"]["memory_type"]) == (
        "0x1234000",
        "UC",
        "WB",
    )


def test_trustvisor_eptp_fields(pt_json):
    _, record = pt_json("decode", "0x1467401e", "--as", "eptp")
    fields = {one["name"]: one["text"] for one in record["fields"]}
    assert (fields["MT"], fields["WALK"], fields["ADDRESS"]) == ("WB", "0x3", "0x14674000")


@pytest.mark.parametrize("page", [0, 1])
def test_trustvisor_maps_the_first_pages(pt_json, samples, page):
    record = walked(pt_json, samples / "trustvisor.core", page << 12, "ept.main=0x1467401e")
    assert record["stages"][0]["entries"][-1]["value"] == hex(page << 12 | 0x37)
    assert record["output"] == hex(page << 12)
    assert record["effective"]["rights"] == "RWX"
    assert record["effective"]["memory_type"] == "WB"


def test_the_pal_sees_its_own_pages_only(pt_json, samples):
    _, record = pt_json("dump", samples / "trustvisor.core", "--via", "ept.pal")
    found = [
        (one["start"], one["rights"], one["memory_type"], one["entry_address"])
        for one in record["ranges"]
    ]
    assert found == [
        ("0x950a000", "R-X", "WB", "0x10313850"),
        ("0x9526000", "RW-", "WB", "0x10313930"),
        ("0x9529000", "RW-", "WB", "0x10313948"),
    ]


def test_an_address_inside_the_inner_guest_is_read_through_all_its_tables(pt, samples):
    status, output, _ = pt(
        "read", samples / "nested.core", "0x70000000", "32", "--via", "cr3,ept12,ept01"
    )
    assert status == 0
    assert "L2 greets from p" in output


def test_the_right_shadow_has_no_errors_and_the_bad_one_has_each_kind(pt_json, samples):
    tables = ("--ept01", "ept01", "--ept12", "ept12", "--ept02")
    own = ("--hypervisor", "64M-72M")
    status, good = pt_json("check", samples / "nested.core", *tables, "ept02", *own)
    assert status == 0
    assert {one["severity"] for one in good["findings"]} == {"note"}
    status, bad = pt_json("check", samples / "nested.core", *tables, "ept02.bad", *own)
    assert status == 1
    shadow = {
        one["rule"]: one["start"] for one in bad["findings"] if one["rule"].startswith("shadow")
    }
    assert shadow == {
        "shadow-elsewhere": "0x5000",
        "shadow-allows-more": "0x400000",
        "shadow-extra": "0x800000",
        "shadow-type": "0x200000",
    }
