"""Garbage in: findings or one clear line, never a traceback, never endless."""

import random
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turducken.inspect.samples import SAMPLES_DIRECTORY

PATIENCE = 30.0  # seconds of processor time: the machine may be busy with other things
ROOT_FORMATS = ("ept", "4-level", "5-level", "pae", "32-bit")


def self_referencing(flags, size=8, count=512):
    """Return a page at 0x1000 whose every entry references the page itself."""
    return bytes(4096) + struct.pack("<Q" if size == 8 else "<I", 0x1000 | flags) * count


def plausible_garbage(seed, pages=64):
    """Return pages of entries that point at each other at random: the worst kind."""
    dice = random.Random(seed)
    return b"".join(
        struct.pack("<Q", dice.randrange(pages) << 12 | dice.choice((0x7, 0x7, 0x67, 0xB7, 0x3)))
        for _ in range(512 * pages)
    )


GARBAGE = {
    "random": random.Random(0).randbytes(1 << 18),
    "zeros": bytes(1 << 16),
    "ones": b"\xff" * (1 << 16),
    "loop-ept": self_referencing(7),
    "loop-guest": self_referencing(0x67),
    "loop-narrow": self_referencing(7, 4, 1024),
    "tangle": plausible_garbage(1),
    "odd-size": random.Random(2).randbytes(12345),
    "tiny": b"x",
}

COMMANDS = {
    "walk": ("0x1234",),
    "dump": ("--limit", "20"),
    "check": ("--limit", "5"),
    "read": ("0x1234", "64"),
    "compose": ("--limit", "20"),
}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("command", COMMANDS)
def test_garbage_as_tables(pt, tmp_path, garbage, command):
    path = tmp_path / "dump"
    path.write_bytes(GARBAGE[garbage])
    start = time.process_time()
    first, *rest = (*COMMANDS[command], "")
    positional = [first] if command in ("walk", "read") else []
    options = [one for one in (rest if positional else (first, *rest)) if one]
    for form in ROOT_FORMATS:
        status, output, errors = pt(
            command, path, *positional, *options, "--via", f"x:{form}=0x1000"
        )
        assert status in (0, 1, 2)
        assert output or errors.count("\n") == 1
    assert time.process_time() - start < PATIENCE


@pytest.mark.parametrize("garbage", ["loop-ept", "tangle", "random"])
def test_garbage_behind_garbage(pt, tmp_path, garbage):
    path = tmp_path / "dump"
    path.write_bytes(GARBAGE[garbage])
    start = time.process_time()
    for command in ("walk", "read"):
        pt(command, path, "0x1234", "--via", "cr3=0x1000,ept12=0x1000,ept01=0x1000")
    pt("compose", path, "--via", "ept12=0x1000,ept01=0x1000", "--limit", "5")
    pt("check", path, "--ept01", "0x1000", "--ept12", "0x1000", "--ept02", "0x1000")
    assert time.process_time() - start < PATIENCE


@pytest.mark.parametrize("garbage", GARBAGE)
def test_searching_garbage(pt, tmp_path, garbage):
    path = tmp_path / "dump"
    path.write_bytes(GARBAGE[garbage])
    start = time.process_time()
    status, output, errors = pt("find", path)
    assert status == 0
    assert output or errors
    assert time.process_time() - start < PATIENCE


def test_a_loop_is_a_finding(pt_json, tmp_path):
    path = tmp_path / "dump"
    path.write_bytes(GARBAGE["loop-ept"])
    _, record = pt_json("check", path, "--via", "ept=0x1000")
    assert {"loop", "truncated"} <= {one["rule"] for one in record["findings"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ("walk", "0x10000000000000000", "--via", "ept12"),
        ("walk", "-5", "--via", "ept12"),
        ("walk", "0x1000000000000", "--via", "ept12"),
        ("walk", "0x800000000000", "--via", "cr3=0x1000"),
        ("walk", "frob", "--via", "ept12"),
        ("walk", "0x0", "--via", "ept12", "--maxphyaddr", "99"),
        ("walk", "0x0", "--via", "ept12", "--pat", "x"),
        ("walk", "0x0", "--via", "cr3=0", "--paging", "6-level"),
        ("walk", "0x0", "--via", ""),
        ("read", "0xffffffffffffffff", "4G"),
        ("read", "0x0", "1x"),
        ("check", "--via", "ept12", "--ram", "5"),
        ("check", "--via", "ept12", "--ram", "5-4"),
        ("check", "--ept01", "0x1000"),
        ("find", "--format", "frob"),
        ("diff", "--via", "ept12"),
        ("render", "/nowhere/at/all.svg", "--via", "ept12"),
    ],
)
def test_absurd_arguments_are_one_clear_line(pt, samples, arguments):
    command, *rest = arguments
    if command == "render":
        rest = [rest[0], *rest[1:]]
    first = [one for one in rest[:1] if not one.startswith("--")]
    status, _, errors = pt(
        command, *["--"] * 0, samples / "lhv-fixed.core", *first, *rest[len(first) :]
    )
    assert status == 2
    assert "Traceback" not in errors


def test_addresses_at_the_end_of_everything(pt, samples):
    sample = samples / "lhv-fixed.core"
    assert pt("walk", sample, "0xffffffffffff", "--via", "ept12=0xfffffffff000")[0] == 0
    assert pt("walk", sample, "0xffffffffffffffff", "--via", "cr3=0x8bb4000")[0] == 0
    assert pt("read", sample, "0xfffffffffffffff8", "64")[0] == 1
    assert pt("dump", sample, "--via", "ept=0xffffffffff000")[0] == 0


@pytest.mark.parametrize("cut", [1, 63, 64, 100, 4096, 5000, 9000, 20479])
def test_truncated_dumps(pt, tmp_path, samples, cut):
    path = tmp_path / "dump"
    path.write_bytes((samples / "lhv-fixed.core").read_bytes()[:cut])
    status, _, errors = pt("walk", path, "0x1234000", "--via", "ept12=0x8bb401e")
    assert status in (0, 2)
    assert errors.count("\n") <= 6


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bits_never_crash_anything(pt, tmp_path, data):
    original = (SAMPLES_DIRECTORY / "nested.core").read_bytes()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 30))):
        at = data.draw(st.integers(0, len(original) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "dump"
    path.write_bytes(changed)
    command = data.draw(st.sampled_from(["walk", "dump", "check", "compose"]))
    arguments = ["0x400010"] if command == "walk" else []
    via = "cr3=0x100000,ept12=0x80001e,ept01=0x400001e"
    assert pt(command, path, *arguments, "--via", via)[0] in (0, 1, 2)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(min_size=1, max_size=600))
def test_headers_of_any_bytes(pt, tmp_path, data):
    path = tmp_path / "dump"
    for magic in (b"", b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x01\x01", b"EMiL"):
        path.write_bytes(magic + data)
        assert pt("read", path, "0", "16")[0] in (0, 1, 2)
