"""The systems as a table: a row has what to install, the command, and what it is judged by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from turducken.machine.boot import ImageError
from turducken.system.linux import find_kernel

_SHIPPED = Path(str(resources.files("turducken"))) / "images"
_KERNEL = "{kernel}"


class Missing(Exception):  # noqa: N818 - that something is not installed is no error
    """A system's file is not there; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class KnownSystem:
    """A system: ``arguments`` of `turducken`, in which ``{name}`` stands for a file of ``files``.

    A file is a pattern below the root of what is installed; of several the last by name is taken.
    ``{kernel}`` is a Linux kernel with its modules. The run must end with status 0.
    """

    name: str
    what: str
    packages: str
    """Debian's packages."""
    arguments: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    cpus: tuple[int, ...] = (1, 2, 4)
    modes: tuple[str, ...] = ("bare", "nested")

    def command(self, root: Path, mode: str, cpus: int) -> list[str]:
        """Return the arguments with everything filled in; Missing where a file is not there."""
        found = {name: str(self._find(root, pattern)) for name, pattern in self.files.items()}
        if any(_KERNEL in one for one in self.arguments):
            found["kernel"] = str(self._find_kernel(root))
        told = {**found, "root": str(root), "images": str(_SHIPPED)}
        filled = [one.format_map(told) for one in self.arguments]
        return [*filled, "--mode", mode, "--cpus", str(cpus)]

    def _find(self, root: Path, pattern: str) -> Path:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise Missing(f"apt install {self.packages}")
        return paths[-1]

    def _find_kernel(self, root: Path) -> Path:
        try:
            return find_kernel(root).image
        except ImageError:
            raise Missing(f"apt install {self.packages}") from None


_LINUX_PACKAGES = "linux-image-cloud-amd64 busybox-static"
_BUSYBOX = {"busybox": "bin/busybox"}
_XEN = {"xen": "boot/xen-*.gz"}
_XEN_PACKAGE = "xen-hypervisor-4.17-amd64"
_XEN_LINE = "com1=115200 console=com1"
_XEN_LINUX_LINE = f"{_XEN_LINE} dom0_mem=512M xpti=0 spec-ctrl=no"
_OVMF = {"ovmf": "usr/share/ovmf/OVMF.fd"}

KNOWN = (
    KnownSystem(
        "linux",
        "Debian's Linux, to a shell's command in its initrd",
        _LINUX_PACKAGES,
        ("run", _KERNEL, "--memory", "512M", "--initrd", "{busybox}", "--run", "uname -a"),
        _BUSYBOX,
    ),
    KnownSystem(
        "kvm",
        "Linux with kvm_intel, and our monitor with its tests",
        "linux-image-cloud-amd64",
        ("demo", "kvm", "--root", "{root}"),
        {"kvm": "lib/modules/*/kernel/arch/x86/kvm/kvm-intel.ko*"},
    ),
    KnownSystem(
        "xen",
        "Xen with a domain 0 of ours",
        _XEN_PACKAGE,
        ("run", "{xen}", "--memory", "1G", "--cmdline", _XEN_LINE, "--module", "{images}/xen/dom0"),
        _XEN,
    ),
    KnownSystem(
        "xen-linux",
        "Xen with Linux as its domain 0, to the kernel's start (it stops before its initrd)",
        f"{_XEN_PACKAGE} {_LINUX_PACKAGES}",
        (
            *("run", "{xen}", "--memory", "1G", "--cmdline", _XEN_LINUX_LINE),
            *("--module", "{kernel}:console=hvc0 earlyprintk=xen", "--initrd", "{busybox}"),
            *("--run", "cat /sys/hypervisor/type", "--until", "Booting kernel on Xen"),
        ),
        {**_XEN, **_BUSYBOX},
        cpus=(1, 2),
    ),
    KnownSystem(
        "seabios",
        "SeaBIOS from the reset vector on, until it finds nothing to boot",
        "seabios",
        ("run", "--firmware", "{seabios}", "--until", "No bootable device"),
        {"seabios": "usr/share/seabios/bios-256k.bin"},
    ),
    KnownSystem(
        "ovmf",
        "UEFI firmware (EDK II) to its shell",
        "ovmf",
        ("run", "--firmware", "{ovmf}", "--until", "Shell>"),
        _OVMF,
    ),
    KnownSystem(
        "uefi-vmx",
        "a UEFI application of ours that enters VMX operation and runs a guest",
        "ovmf",
        ("run", "uefi-vmx", "--firmware", "{ovmf}"),
        _OVMF,
    ),
)
