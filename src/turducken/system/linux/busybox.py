"""An initial RAM disk of a static busybox: a shell and the usual programs."""

from pathlib import Path

from turducken.machine.boot import ImageError
from turducken.machine.boot.container import read_file
from turducken.machine.boot.elf import ELF_MAGIC, ElfImage
from turducken.system.linux.archive import Archive, character_device, link, regular

NAME = "busybox"
PLACES = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
_HOW = (
    "Debian's package busybox-static has one: apt install busybox-static, or without root: "
    "apt-get download busybox-static, dpkg -x, and the path of its bin/busybox"
)

_PROGRAMS = """
[ ash awk base64 basename cat chmod chown chroot clear cmp cp cut date dd df diff dirname dmesg du
echo egrep env expr false fgrep find free grep gunzip gzip halt head hexdump hostname id insmod
kill killall ln ls lsmod md5sum mkdir mkfifo mknod mktemp modinfo modprobe more mount mv nproc od
pidof poweroff printf ps pwd readlink realpath reboot rm rmdir rmmod sed seq setsid sh sha256sum
sleep sort stat strings stty sync sysctl tac tail tar taskset tee test time timeout top touch tr
true tty umount uname uniq uptime usleep vi wc which xargs xxd yes zcat
"""
"""The names under which busybox is found in /bin."""

_INIT = b"""#!/bin/sh
mkdir -p /proc /sys /dev /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec /bin/sh
"""


def is_program(content: bytes) -> bool:
    """Tell whether a file is a program, to make an archive of, rather than an archive."""
    return content.startswith(ELF_MAGIC)


def find_busybox() -> bytes:
    """Return this computer's static busybox; ImageError where there is none."""
    for path in PLACES:
        if path.exists():
            content = read_file(path)
            if _is_static(content):
                return content
    raise ImageError(f"--initrd {NAME}: no static busybox here; {_HOW}")


def busybox_archive(content: bytes, name: str) -> bytes:
    """Return an archive with this busybox, links to it, and an init that starts a shell."""
    if not _is_static(content):
        raise ImageError(f"--initrd {name}: a program, but no static one; {_HOW}")
    archive = Archive()
    archive.add(regular("bin/busybox", content, executable=True))
    for program in _PROGRAMS.split():
        archive.add(link(f"bin/{program}", "busybox"))
    archive.add(character_device("dev/console", 5, 1))
    archive.add(regular("init", _INIT, executable=True))
    return archive.encode()


def _is_static(content: bytes) -> bool:
    """Tell whether this is a program for x86 that needs no interpreter."""
    try:
        return not ElfImage(content, NAME).has_interpreter
    except ImageError:
        return False
