import pytest
from tiny_images import SPIN, tiny

from turducken.machine.boot import ImageError
from turducken.system import Mode, SetupError, SystemOptions, find_image, parse_size, shipped_images


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("64K", 64 << 10),
        ("512M", 512 << 20),
        ("4g", 4 << 30),
        ("1T", 1 << 40),
        ("256MiB", 256 << 20),
        ("256mb", 256 << 20),
        (" 2M ", 2 << 20),
        ("0x200000", 2 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1X", "12Q", "one", "1.5G", "-", "0x", "1 2"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(SetupError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cpus": 0}, "0 processors: a machine has 1 to 255"),
        ({"cpus": 256}, "256 processors"),
        ({"cpus": -1}, "-1 processors"),
        ({"memory": 0}, "at least 2 MiB"),
        ({"memory": (2 << 20) - 4096}, "at least 2 MiB"),
        ({"memory": (16 << 20) + 1}, "multiple of 4 KiB"),
        ({"memory": 1 << 46}, "at most 16 TiB"),
        ({"tlb": "forgetful"}, "not one of keep, drop"),
        ({"shadow": "dark"}, "not one of lazy, cached"),
    ],
)
def test_options_that_no_machine_can_have(change: dict[str, object], complaint: str) -> None:
    options = SystemOptions(tiny(SPIN), **change)  # type: ignore[arg-type]
    with pytest.raises(SetupError, match=complaint) as caught:
        options.check()
    assert "\n" not in str(caught.value)


def test_every_shipped_image_is_found_by_its_name() -> None:
    assert {"lhv-amd64", "lhv-i386", "lhv-i386-pae"} <= set(shipped_images())
    for name in shipped_images():
        assert find_image(name).segments


def test_an_image_that_is_not_there() -> None:
    with pytest.raises(ImageError, match=r"no such file, nor one of the images .*lhv-amd64"):
        find_image("lhv-amd65")


def test_modes_have_the_names_that_the_command_line_uses() -> None:
    assert [one.value for one in Mode] == ["bare", "nested"]
