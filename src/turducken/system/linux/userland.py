"""The files that a Linux guest finds: the user's initial RAM disks, and what we add to them.

The kernel unpacks one archive after the other into one file system, so what is added comes last.
"""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from turducken.machine.boot import ImageError
from turducken.machine.boot.container import read_file
from turducken.system.linux.archive import (
    Archive,
    Entry,
    character_device,
    directory,
    link,
    padded,
    regular,
)
from turducken.system.linux.busybox import NAME, busybox_archive, find_busybox, is_program
from turducken.system.linux.kernel_module import KernelModule

SHARE = "share"
"""Where a shared folder appears, below the root."""
_OWN = "turducken"
SHIPPED = ("kvm-test", "pal-demo-32", "pal-demo-64")
"""Programs for Linux that come with the package."""
_PROGRAMS = Path(str(resources.files("turducken"))) / "images" / "linux"


@dataclass(frozen=True, slots=True)
class Userland:
    """What a Linux guest is to find; ``command`` is run by a first process of ours.

    With a command, the programs for Linux that come with the package are there, too.
    """

    initrds: Sequence[bytes] = ()
    share: Path | None = None
    modules: Sequence[KernelModule] = ()
    command: str | None = None

    def build(self) -> bytes | None:
        """Return the initial RAM disk, or None where nothing is asked for.

        Raises ImageError where a file cannot be read.
        """
        parts = [*self.initrds]
        added = self._added()
        if added.entries:
            parts.append(added.encode())
        return b"".join(padded(one) for one in parts) or None

    def _added(self) -> Archive:
        archive = Archive()
        if self.share is not None:
            for entry in shared_entries(self.share):
                archive.add(entry)
        if self.command is not None:
            self._add_first_process(archive, self.command)
        elif self.modules:
            raise ImageError("--insmod: the first process of --run loads modules; give --run, too")
        return archive

    def _add_first_process(self, archive: Archive, command: str) -> None:
        archive.add(regular("init", shipped_program("init"), executable=True))
        for name in SHIPPED:
            archive.add(regular(f"{_OWN}/{name}", shipped_program(name), executable=True))
        archive.add(character_device("dev/console", 5, 1))
        lines = []
        for number, one in enumerate(self.modules):
            path = f"{_OWN}/{number:02}-{one.name}"
            archive.add(regular(path, one.content))
            lines.append(f"/{path} {one.parameters}\n")
        archive.add(regular(f"{_OWN}/insmod", _text("".join(lines))))
        archive.add(regular(f"{_OWN}/run", _text(command)))


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def shipped_program(name: str) -> bytes:
    """Return a program for Linux guests that comes with the package."""
    return (_PROGRAMS / name).read_bytes()


def read_initrd(argument: str) -> bytes:
    """Return the archive that an option names: a file, or one of ours with a busybox in it."""
    if argument == NAME and not Path(argument).exists():
        return busybox_archive(find_busybox(), argument)
    content = read_file(argument)
    return busybox_archive(content, argument) if is_program(content) else content


def shared_entries(folder: Path) -> Iterator[Entry]:
    """Yield a folder's files, folders and links, in the order of their names."""
    if not folder.is_dir():
        raise ImageError(f"--share {folder}: no such folder")
    yield directory(SHARE)
    yield from _entries_below(folder, SHARE)


def _entries_below(folder: Path, path: str) -> Iterator[Entry]:
    try:
        children = sorted(folder.iterdir())
        for child in children:
            yield from _entry(child, f"{path}/{child.name}")
    except OSError as error:
        raise ImageError(f"--share {error.filename}: {error.strerror}") from None


def _entry(child: Path, path: str) -> Iterator[Entry]:
    """Yield what one name stands for; what is no file, folder or link (a socket) is left out."""
    mode = child.lstat().st_mode
    if stat.S_ISLNK(mode):
        yield link(path, str(child.readlink()))
    elif stat.S_ISDIR(mode):
        yield directory(path)
        yield from _entries_below(child, path)
    elif stat.S_ISREG(mode):
        yield regular(path, read_file(child), executable=bool(mode & 0o111))
