"""An obvious model of a processor's two-stage translation. It shares no code with the package.

Every access walks everything again; nothing is cached. Masks are typed here from the manual on
purpose: this is what the MMU is judged by. Memory is one bytearray, host-physical.
"""

from dataclasses import dataclass, field

PHYS = 46
ADDRESS = (1 << 52) - 0x1000
BEYOND = ((1 << 52) - 1) >> PHYS << PHYS
P, RW, US, A, D, PS = 1, 2, 4, 0x20, 0x40, 0x80
XD = 1 << 63
READ, WRITE, FETCH = 0, 1, 2


@dataclass
class Registers:
    """The paging-mode bits. ``format`` None is CR0.PG = 0; ``eptp`` None is EPT off."""

    format: str | None
    root: int = 0
    pdptes: tuple[int, ...] = ()
    wp: bool = False
    smep: bool = False
    smap: bool = False
    nxe: bool = False
    pke: bool = False
    pkru: int = 0
    eptp: int | None = None
    mode_based: bool = False
    execute_only: bool = True


@dataclass
class Ram:
    """``data`` from address ``base`` on; reads as ones where there is none."""

    data: bytearray
    base: int = 0
    log: list[int] = field(default_factory=list)

    def load(self, at: int, size: int) -> int:
        at -= self.base
        if not 0 <= at < len(self.data):
            return (1 << 8 * size) - 1
        return int.from_bytes(self.data[at : at + size], "little")

    def store(self, at: int, size: int, value: int) -> None:
        at -= self.base
        if 0 <= at < len(self.data):
            self.data[at : at + size] = value.to_bytes(size, "little")


class Stop(Exception):  # noqa: N818
    """Carries the fault out of the nested walks."""


Outcome = tuple[object, ...]


def translate(
    ram: Ram, r: Registers, address: int, kind: int, *, user: bool, ac: bool = False
) -> Outcome:
    """Return ("page", host address), or a fault and its details."""
    try:
        if r.format is None:
            gpa = address % (1 << 32)
            return ("page", physical(ram, r, gpa, kind, address, final=True, user_page=True))
        gpa, user_page = linear(ram, r, address, kind, user=user, ac=ac)
        return ("page", physical(ram, r, gpa, kind, address, final=True, user_page=user_page))
    except Stop as stop:
        return stop.args


SHAPES = {
    "32-bit": (4, [22, 12], 10),
    "PAE": (8, [21, 12], 9),
    "4-level": (8, [39, 30, 21, 12], 9),
    "5-level": (8, [48, 39, 30, 21, 12], 9),
}


def linear(
    ram: Ram, r: Registers, address: int, kind: int, *, user: bool, ac: bool
) -> tuple[int, bool]:
    """Walk the guest's tables; return the guest-physical address and whether it is a user page."""
    assert r.format
    size, shifts, index_bits = SHAPES[r.format]

    def fail(code: int) -> None:
        code |= 2 if kind == WRITE else 0
        code |= 4 if user else 0
        code |= 16 if kind == FETCH and (r.smep or (r.nxe and size == 8)) else 0
        raise Stop("page fault", address, code)

    table = r.root & (ADDRESS if size == 8 else 0xFFFF_F000)
    if r.format == "PAE":
        pdpte = r.pdptes[address >> 30 & 3]
        if not pdpte & P:
            fail(0)
        table = pdpte & ADDRESS
    path: list[tuple[int, int]] = []
    for shift in shifts:
        at = table + (address >> shift) % (1 << index_bits) * size
        host = physical(ram, r, at, READ, address, final=False, user_page=False)
        entry = ram.load(host, size)
        if not entry & P:
            fail(0)
        path.append((at, entry))
        can_be_page = shift in (12, 21, 22, 30)
        is_page = shift == 12 or bool(can_be_page and entry & PS)
        if is_reserved(r, size, shift, entry, is_page=is_page):
            fail(1 | 8)
        if is_page:
            break
        table = entry & (ADDRESS if size == 8 else 0xFFFF_F000)
    entries = [entry for _, entry in path]
    verdict = judge(r, entries, kind, user=user, ac=ac, wide=size == 8)
    if verdict is not None:
        fail(verdict)
    for number, (at, entry) in enumerate(path):
        new = entry | A | (D if kind == WRITE and number == len(path) - 1 else 0)
        if new != entry:
            host = physical(ram, r, at, WRITE, address, final=False, user_page=False)
            ram.store(host, size, new)
    page = entries[-1] & (ADDRESS if size == 8 else 0xFFFF_F000) >> shift << shift
    if shift == 22:
        page |= (entries[-1] >> 13 & 0xFF) << 32
    return page | address % (1 << shift), all(one & US for one in entries)


def is_reserved(r: Registers, size: int, shift: int, entry: int, *, is_page: bool) -> bool:
    if size == 4:
        return is_page and shift == 22 and bool(entry & 1 << 21)
    bad = BEYOND
    if not r.nxe:
        bad |= XD
    if r.format == "PAE":
        bad |= 0x7FF << 52
    elif shift >= 39:
        bad |= PS
    if is_page and shift > 12:
        bad |= (1 << shift) - (1 << 13)
    return bool(entry & bad)


def judge(
    r: Registers, entries: list[int], kind: int, *, user: bool, ac: bool, wide: bool
) -> int | None:
    """Return the P and PK bits of the page fault that access rights cause, or None."""
    user_page = all(one & US for one in entries)
    writable = all(one & RW for one in entries)
    executable = not (wide and r.nxe and any(one & XD for one in entries))
    key = entries[-1] >> 59 & 15
    key_forbids = False
    if r.pke and r.format in ("4-level", "5-level") and user_page and kind != FETCH:
        access_disabled = r.pkru >> 2 * key & 1
        write_disabled = r.pkru >> 2 * key + 1 & 1
        key_forbids = bool(access_disabled) or bool(
            write_disabled and kind == WRITE and (user or r.wp)
        )
    if kind == FETCH:
        right = executable and (user_page if user else not (user_page and r.smep))
    elif user:
        right = user_page and (kind == READ or writable)
    else:
        right = (not user_page or not r.smap or ac) and (kind == READ or writable or not r.wp)
    if right and not key_forbids:
        return None
    return 1 | (32 if key_forbids else 0)


def physical(
    ram: Ram,
    r: Registers,
    gpa: int,
    kind: int,
    address: int | None,
    *,
    final: bool,
    user_page: bool,
) -> int:
    """Walk the EPT, if there is one; ``address`` is None for a load of PDPTEs."""
    if r.eptp is None:
        return gpa
    accessed_dirty = bool(r.eptp & 1 << 6)
    is_structure = not final and address is not None
    kinds = {kind}
    if is_structure and (accessed_dirty or kind == WRITE):
        kinds = {READ, WRITE}
    needed = 0
    for one in kinds if accessed_dirty or not is_structure else {kind}:
        needed |= 1 << one
    if kind == FETCH and r.mode_based and user_page:
        needed = 1 << 10

    def violate(rights: int, entry: int) -> None:
        word = sum(1 << one for one in kinds) | (rights & 7) << 3
        if r.mode_based and rights & 1 << 10:
            word |= 1 << 6
        if address is not None:
            word |= 1 << 7 | (1 << 8 if final else 0)
        raise Stop("violation", gpa, address, word, bool(entry >> 63))

    rights = 7 | 1 << 10
    table = r.eptp & ADDRESS
    path: list[tuple[int, int]] = []
    for shift in (39, 30, 21, 12):
        at = table + (gpa >> shift) % 512 * 8
        entry = ram.load(at, 8)
        path.append((at, entry))
        if not entry & (7 | (1 << 10 if r.mode_based else 0)):
            violate(0, entry)
        is_page = shift == 12 or bool(shift < 39 and entry & PS)
        if is_misconfigured(r, shift, entry, is_page=is_page):
            raise Stop("misconfiguration", gpa, address, final)
        rights &= entry
        if is_page:
            break
        table = entry & ADDRESS
    if needed & ~rights:
        violate(rights, entry)
    if accessed_dirty:
        for number, (at, entry) in enumerate(path):
            new = entry | 1 << 8
            if number == len(path) - 1 and needed & 2:
                new |= 1 << 9
                if new & ~entry & 1 << 9:
                    ram.log.append(gpa & ~0xFFF)
            if new != entry:
                ram.store(at, 8, new)
    mask = (1 << shift) - 1
    return path[-1][1] & ADDRESS & ~mask | gpa & mask


def is_misconfigured(r: Registers, shift: int, entry: int, *, is_page: bool) -> bool:
    if entry & 3 == 2 or entry & BEYOND:
        return True
    if not r.execute_only and not entry & 1:
        return True
    if is_page:
        return (entry >> 3) % 8 in (2, 3, 7) or bool(entry & (1 << shift) - 0x1000)
    return bool(entry & (0xF8 if shift == 39 else 0x78))
