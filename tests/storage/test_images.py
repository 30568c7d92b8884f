"""Disk images as the machine's disks use them, judged by qemu-img and mtools where those are."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turducken.storage import (
    DiskImageError,
    MediumError,
    MemoryImage,
    Overlay,
    open_cdrom,
    open_disk,
    parse_disk,
)
from turducken.storage.fat import fat_image

CONTENT = bytes(range(256)) * 1024
needs_qemu_img = pytest.mark.skipif(
    shutil.which("qemu-img") is None, reason="Debian's package qemu-utils is not installed"
)
needs_mtools = pytest.mark.skipif(
    shutil.which("mcopy") is None, reason="Debian's package mtools is not installed"
)


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


def opened(text):
    return open_disk(parse_disk(str(text)))


def test_what_is_written_stays_in_memory_unless_asked(raw):
    image = opened(raw)
    image.write(1000, b"changed")
    assert image.read(998, 11) == CONTENT[998:1000] + b"changed" + CONTENT[1007:1009]
    image.flush()
    assert raw.read_bytes() == CONTENT
    image = opened(f"{raw}:rw")
    image.write(1000, b"changed")
    image.flush()
    assert raw.read_bytes()[1000:1007] == b"changed"


def test_read_only(raw):
    image = opened(f"{raw}:ro")
    assert not image.is_writable
    with pytest.raises(MediumError):
        image.write(0, b"x")
    assert image.read(0, 256) == bytes(range(256))


def test_a_file_with_a_colon_is_meant_where_it_exists(tmp_path):
    path = tmp_path / "a:ro"
    path.write_bytes(CONTENT)
    request = parse_disk(str(path))
    assert (request.path, request.access) == (str(path), "")
    assert parse_disk(f"{path}:rw").access == "rw"
    assert parse_disk("none.img:ro").path == "none.img"


def test_the_last_sector_is_filled_up(tmp_path):
    path = tmp_path / "odd.img"
    path.write_bytes(b"x" * 700)
    image = opened(path)
    assert image.size == 1024
    assert image.read(512, 512) == b"x" * 188 + bytes(324)
    assert open_cdrom(str(path)).size == 2048


@pytest.mark.parametrize("text", ["missing.img", "/", "{raw}:fast", "{empty}"])
def test_mistakes_are_one_clear_line(raw, tmp_path, text):
    empty = tmp_path / "empty.img"
    empty.touch()
    with pytest.raises(DiskImageError) as error:
        opened(text.format(raw=raw, empty=empty))
    assert "\n" not in str(error.value)


@given(st.lists(st.tuples(st.integers(0, 19_999), st.binary(min_size=1, max_size=9000))))
@settings(max_examples=60, deadline=None)
def test_an_overlay_is_like_the_image_written(writes):
    base = bytes(CONTENT[:20_000])
    image, model = Overlay(MemoryImage(base)), bytearray(base)
    for offset, wanted in writes:
        data = wanted[: len(model) - offset]
        image.write(offset, data)
        model[offset : offset + len(data)] = data
        assert image.read(offset // 2, len(data)) == model[offset // 2 : offset // 2 + len(data)]
    assert image.read(0, len(model)) == model


def make_qcow2(raw, path, *options):
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, path],
        check=True,
        capture_output=True,
    )


@needs_qemu_img
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-c",),
        ("-o", "compat=0.10"),
        ("-o", "cluster_size=512"),
        ("-c", "-o", "cluster_size=2M"),
    ],
)
def test_qcow2_is_what_it_was_made_from(tmp_path, options):
    raw = tmp_path / "raw"
    raw.write_bytes(CONTENT + bytes(300_000) + CONTENT[::-1] + bytes(4096))
    path = tmp_path / "disk.qcow2"
    make_qcow2(raw, path, *options)
    image = opened(path)
    assert image.read(0, image.size) == raw.read_bytes().ljust(image.size, b"\0")
    assert image.read(70_000, 5) == CONTENT[70_000:70_005]


@needs_qemu_img
def test_qcow2_with_a_backing_file(raw, tmp_path):
    path = tmp_path / "top.qcow2"
    command = ["qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", str(raw), str(path), "1M"]
    subprocess.run(command, check=True, capture_output=True)
    image = opened(path)
    assert image.size == 1 << 20
    assert image.read(0, image.size) == CONTENT.ljust(1 << 20, b"\0")
    raw.unlink()
    with pytest.raises(DiskImageError, match=r"disk\.img"):
        opened(path)


@needs_qemu_img
def test_qcow2_is_not_written(raw, tmp_path):
    path = tmp_path / "disk.qcow2"
    make_qcow2(raw, path)
    with pytest.raises(DiskImageError, match="qemu-img convert"):
        opened(f"{path}:rw")
    before = path.read_bytes()
    opened(path).write(0, b"overlay")
    assert path.read_bytes() == before


@needs_qemu_img
def test_a_damaged_qcow2_is_an_error_and_nothing_worse(raw, tmp_path):
    path = tmp_path / "disk.qcow2"
    make_qcow2(raw, path, "-c")
    good = path.read_bytes()
    for at in [*range(4, 120, 3), *range(65536, 65536 + 64, 5), *range(196608, 196608 + 64, 7)]:
        path.write_bytes(good[:at] + b"\xff\xfe\xfd" + good[at + 3 :])
        try:
            image = opened(path)
            image.read(0, min(image.size, 1 << 16))
        except (DiskImageError, MediumError):
            pass
    path.write_bytes(good[:60])
    with pytest.raises(DiskImageError):
        opened(path)


@needs_mtools
def test_mtools_reads_our_file_system(tmp_path):
    files = {
        "STARTUP.NSH": b"hello\r\n",
        "EFI/BOOT/BOOTX64.EFI": CONTENT,
        "EFI/EMPTY": b"",
        "BIG": b"\xa5" * 3_000_000,
    }
    path = tmp_path / "fat.img"
    path.write_bytes(fat_image(files))
    for name, content in files.items():
        target = tmp_path / "out"
        command = ["mcopy", "-n", "-o", "-i", str(path), f"::{name}", str(target)]
        subprocess.run(command, check=True, capture_output=True)
        assert target.read_bytes() == content
    check = shutil.which("fsck.fat")
    if check is not None:
        assert subprocess.run([check, "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize("name", ["longer-than-8.efi", "a.html", "", "b d", "x/y/very.long"])
def test_names_that_do_not_fit(name):
    with pytest.raises(ValueError, match="8 and 3"):
        fat_image({name: b""})


def test_a_large_file_gets_large_clusters(tmp_path):
    image = fat_image({"BIG": bytes(70_000_000)})
    assert 70_000_000 < len(image) < 80_000_000
