"""Finding a Linux kernel with its modules, installed or unpacked from a distribution's package."""

import re
from dataclasses import dataclass
from pathlib import Path

from turducken.machine.boot import ImageError

_PREFIX = "vmlinuz-"
_HOW = (
    "as root: apt install linux-image-cloud-amd64; without: apt-cache depends "
    "linux-image-cloud-amd64 (it names the package), apt-get download THAT-PACKAGE, "
    "dpkg -x THAT-PACKAGE*.deb debian, and --root debian"
)


@dataclass(frozen=True, slots=True)
class DebianKernel:
    """A kernel's file, and the folder of its modules."""

    image: Path
    modules: Path

    @property
    def version(self) -> str:
        """The kernel's release."""
        return self.image.name.removeprefix(_PREFIX)


def find_kernel(root: Path) -> DebianKernel:
    """Return the kernel below ``root`` that boots quickest: one for clouds, the newest of several.

    Raises ImageError, which says how to get one, where there is none with its modules.
    """
    found = []
    for image in sorted((root / "boot").glob(_PREFIX + "*")):
        version = image.name.removeprefix(_PREFIX)
        for folder in (root / "lib" / "modules", root / "usr" / "lib" / "modules"):
            if (folder / version).is_dir():
                found.append(DebianKernel(image, folder / version))
                break
    if not found:
        raise ImageError(f"no Linux kernel with its modules below {root}: {_HOW}")
    return max(found, key=lambda one: ("cloud" in one.version, _numbers(one.version)))


def _numbers(version: str) -> list[int]:
    return [int(one) for one in re.findall(r"\d+", version)]
