"""Initial RAM disks: cpio archives as the kernel unpacks them.

Linux documentation, "initramfs buffer format". The same files give the same bytes: all belong to
root, and none has a date.
"""

import stat
from dataclasses import dataclass, field

ALIGN = 4
_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of any kind: ``mode`` as `stat` has it, ``device`` for device nodes."""

    path: str
    """Relative to the root, without a slash before it."""
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Entry:
    """Return a directory that all may read."""
    return Entry(path, stat.S_IFDIR | 0o755)


def regular(path: str, content: bytes, *, executable: bool = False) -> Entry:
    """Return a file that nobody may write."""
    return Entry(path, stat.S_IFREG | (0o555 if executable else 0o444), content)


def link(path: str, to: str) -> Entry:
    """Return a symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, to.encode("utf-8", "surrogateescape"))


def character_device(path: str, major: int, minor: int) -> Entry:
    """Return a device node for root."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


@dataclass(slots=True)
class Archive:
    """Entries in the order in which the kernel makes them; parents are added by themselves."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Add an entry, in the place of one with the same path."""
        parts = entry.path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            self.entries.setdefault(parent, directory(parent))
        self.entries[entry.path] = entry

    def encode(self) -> bytes:
        """Return the archive in the format "newc", its end aligned for another to follow."""
        numbered = enumerate((*self.entries.values(), Entry(_TRAILER, 0)), start=1)
        return b"".join(_encode(entry, number) for number, entry in numbered)


def padded(data: bytes) -> bytes:
    """Return ``data`` with zeros up to where another archive may begin."""
    return data + bytes(-len(data) % ALIGN)


def _encode(entry: Entry, number: int) -> bytes:
    name = entry.path.encode("utf-8", "surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    size, (major, minor) = len(entry.content), entry.device
    fields = (number, entry.mode, 0, 0, links, 0, size, 0, 0, major, minor, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % one for one in fields)
    return padded(head + name) + padded(entry.content)
