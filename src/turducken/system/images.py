"""The images that come with the package, by name."""

from importlib import resources
from pathlib import Path

from turducken.machine.boot import AnyImage, ImageError, load_image
from turducken.machine.firmware.rom import RomImage
from turducken.system.efi import efi_application, is_efi_application

DEFAULT_IMAGE = "lhv-amd64"
_SHIPPED = Path(str(resources.files("turducken"))) / "images"


def shipped_images() -> dict[str, Path]:
    """Return the files of the images that come with the package, by name."""
    return {one.stem: one for one in sorted(_SHIPPED.glob("*.elf"))}


def shipped_applications() -> dict[str, Path]:
    """Return the files of the UEFI applications that come with the package, by name."""
    return {one.stem: one for one in sorted(_SHIPPED.glob("*.efi"))}


def find_image(name_or_path: str, text: str = "") -> AnyImage | RomImage:
    """Return a shipped image by its name, or any bootable image by its path.

    ``text`` is the command line of a UEFI application, whose firmware passes it on.

    Raises ImageError where there is none, or where it cannot be used.
    """
    path = shipped_images().get(name_or_path) or shipped_applications().get(name_or_path)
    if path is None:
        path = Path(name_or_path)
        if "/" not in name_or_path and not path.exists():
            known = ", ".join((*shipped_images(), *shipped_applications()))
            raise ImageError(f"{name_or_path}: no such file, nor one of the images {known}")
    if is_efi_application(path):
        return efi_application(path, text)
    return load_image(path)
