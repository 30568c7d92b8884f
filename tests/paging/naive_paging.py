"""An obvious model of paging that shares no code with the package.

Masks are typed here again from the manual on purpose: this is what the package is judged by.
Memory is a dict of naturally aligned words.
"""

import random
from dataclasses import dataclass, field

PHYS = 46
ADDRESS = (1 << PHYS) - 0x1000
BEYOND = ((1 << 52) - 1) & ~((1 << PHYS) - 1)


@dataclass
class DictMemory:
    """Bytes by naturally aligned word; whatever was never written does not exist."""

    pages: dict[int, bytearray] = field(default_factory=dict)

    def load(self, address, size):
        page = self.pages.get(address >> 12)
        if page is None:
            return None
        return int.from_bytes(page[address & 0xFFF : (address & 0xFFF) + size], "little")

    def store(self, address, size, value):
        page = self.pages.setdefault(address >> 12, bytearray(4096))
        page[address & 0xFFF : (address & 0xFFF) + size] = value.to_bytes(size, "little")

    def read(self, address, length):
        from turducken.memory import MemoryHoleError

        out = bytearray()
        while length:
            page = self.pages.get(address >> 12)
            if page is None:
                raise MemoryHoleError(address)
            count = min(length, 4096 - (address & 0xFFF))
            out += page[address & 0xFFF : (address & 0xFFF) + count]
            address += count
            length -= count
        return bytes(out)

    def write(self, address, data):
        for at in range(len(data)):
            page = self.pages.setdefault(address + at >> 12, bytearray(4096))
            page[address + at & 0xFFF] = data[at]


def translate(fmt, memory, root, address):
    """Return (target, page size, R, W, X, U, memory type or PAT index, flag) or why not."""
    return {
        "EPT": _ept,
        "4-level": _long,
        "5-level": _long5,
        "PAE": _pae,
        "32-bit": _legacy,
    }[fmt](memory, root, address)


def _ept(memory, root, address):
    table = root & ADDRESS
    r = w = x = True
    for shift in (39, 30, 21, 12):
        entry = memory.load(table + (address >> shift) % 512 * 8, 8)
        if entry is None:
            return "no memory"
        if entry % 8 == 0:
            return "not present"
        if entry % 8 in (2, 6):
            return "malformed"
        r, w, x = r and entry & 1, w and entry & 2, x and entry & 4
        if entry & BEYOND:
            return "malformed"
        if shift == 12 or (entry & 0x80 and shift != 39):
            mask = (1 << shift) - 1
            if (entry >> 3) % 8 in (2, 3, 7) or (entry & ADDRESS & mask and shift > 12):
                return "malformed"
            target = (entry & ADDRESS) | (address & mask)
            kind = (entry >> 3) % 8, bool(entry & 0x40)
            return (target, shift, bool(r), bool(w), bool(x), True, *kind)
        if entry & 0xF8:
            return "malformed"
        table = entry & ADDRESS
    raise AssertionError


def _wide(memory, table, address, shifts, flags):
    w, u, nx = flags
    for shift in shifts:
        entry = memory.load(table + (address >> shift) % 512 * 8, 8)
        if entry is None:
            return "no memory"
        if not entry & 1:
            return "not present"
        if entry & BEYOND:
            return "malformed"
        if len(shifts) == 2 and entry >> 52 & 0x7FF:
            return "malformed"  # PAE: bits 62:52
        w, u, nx = w and entry & 2, u and entry & 4, nx or entry >> 63
        if shift == 12 or (entry & 0x80 and shift < 39):
            mask = (1 << shift) - 1
            if shift > 12 and entry & ADDRESS & mask & ~0x1000:
                return "malformed"
            pat = entry >> (7 if shift == 12 else 12) & 1
            target = (entry & ADDRESS & ~mask) | (address & mask)
            index = pat * 4 + (entry >> 4 & 1) * 2 + (entry >> 3 & 1)
            return (target, shift, True, bool(w), not nx, bool(u), index, bool(entry & 0x100))
        if entry & 0x80:
            return "malformed"
        table = entry & ADDRESS
    raise AssertionError


def _long(memory, root, address):
    return _wide(memory, root & ADDRESS, address, (39, 30, 21, 12), (True, True, False))


def _long5(memory, root, address):
    return _wide(memory, root & ADDRESS, address, (48, 39, 30, 21, 12), (True, True, False))


def _pae(memory, root, address):
    entry = memory.load((root & 0xFFFFFFE0) + (address >> 30) * 8, 8)
    if entry is None:
        return "no memory"
    if not entry & 1:
        return "not present"
    if entry & (BEYOND | 0x1E6 | 0xFFF << 52):
        return "malformed"
    return _wide(memory, entry & ADDRESS, address, (21, 12), (True, True, False))


def _legacy(memory, root, address):
    entry = memory.load((root & 0xFFFFF000) + (address >> 22) * 4, 4)
    if entry is None:
        return "no memory"
    if not entry & 1:
        return "not present"
    w, u = entry & 2, entry & 4
    if entry & 0x80:
        if entry & 1 << 21 or entry >> 13 & 0xFF & ~((1 << PHYS - 32) - 1):
            return "malformed"
        target = (entry & 0xFFC00000) | (entry >> 13 & 0xFF) << 32 | address & 0x3FFFFF
        index = (entry >> 12 & 1) * 4 + (entry >> 4 & 1) * 2 + (entry >> 3 & 1)
        return (target, 22, True, bool(w), True, bool(u), index, bool(entry & 0x100))
    entry = memory.load((entry & 0xFFFFF000) + (address >> 12) % 1024 * 4, 4)
    if entry is None:
        return "no memory"
    if not entry & 1:
        return "not present"
    w, u = w and entry & 2, u and entry & 4
    index = (entry >> 7 & 1) * 4 + (entry >> 4 & 1) * 2 + (entry >> 3 & 1)
    target = (entry & 0xFFFFF000) | address & 0xFFF
    return (target, 12, True, bool(w), True, bool(u), index, bool(entry & 0x100))


SHIFTS = {
    "EPT": (39, 30, 21, 12),
    "4-level": (39, 30, 21, 12),
    "5-level": (48, 39, 30, 21, 12),
    "PAE": (30, 21, 12),
    "32-bit": (22, 12),
}
INPUT_BITS = {"EPT": 48, "4-level": 48, "5-level": 57, "PAE": 32, "32-bit": 32}


def _random_flags(fmt, dice, shift, *, leaf):
    if fmt == "EPT":
        word = dice.choice((7, 7, 7, 3, 1, 5, 4))
        if leaf:
            word |= dice.choice((6, 6, 6, 0, 4)) << 3 | dice.choice((0, 0, 0x40))
            word |= dice.choice((0, 0x100, 0x300, 0x800, 1 << 55))
        return word
    word = 1 | dice.choice((2, 2, 0)) | dice.choice((4, 4, 0)) | dice.choice((0, 0x20))
    if fmt == "PAE" and shift == 30:
        return 1
    if fmt != "32-bit":
        word |= dice.choice((0, 0, 1 << 63))
    if leaf:
        word |= dice.choice((0, 0x40, 0x100, 0x18, 0x200))
    return word


def random_tree(fmt, seed, *, garbage=0.1, phys=1 << 34, density=0.05):
    """Return (memory, root) of a random small tree: runs, large leaves, malformed entries."""
    dice = random.Random(seed)
    memory = DictMemory()
    size = 4 if fmt == "32-bit" else 8
    shifts = SHIFTS[fmt]
    pages = iter(dice.sample(range(16, 1024), 400))

    def table(depth):
        page = next(pages) << 12
        memory.pages[page >> 12] = bytearray(4096)
        shift = shifts[depth]
        count = 4 if fmt == "PAE" and depth == 0 else 4096 // size
        index = 0
        while index < count:
            if shift > 12 and dice.random() > density * (8 if depth == 0 else 1):
                index += dice.choice((1, 3, 9, 30))
                continue
            can_leaf = shift in (30, 21, 22, 12) and not (fmt == "PAE" and shift == 30)
            if shift == 12 or (can_leaf and dice.random() < 0.5):
                target = dice.randrange(phys >> shift) << shift
                word = _random_flags(fmt, dice, shift, leaf=True) | (0x80 if shift > 12 else 0)
                for _ in range(dice.choice((1, 1, 2, 5, 40))):
                    if index < count:
                        value = target & 0xFFFFFFFF if size == 4 else target
                        high = (target >> 32 & 0xFF) << 13 if shift == 22 else 0
                        entry = (value | word | high) & ((1 << size * 8) - 1)
                        if dice.random() < garbage / 4:
                            entry = dice.getrandbits(size * 8)
                        memory.store(page + index * size, size, entry)
                    index += 1
                    target += 1 << shift
                index += dice.choice((0, 0, 1, 7))
            else:
                try:
                    child = table(depth + 1)
                except StopIteration:
                    child = 0x7000000
                if dice.random() < garbage:
                    child = 0x7000000  # no such memory
                memory.store(
                    page + index * size, size, child | _random_flags(fmt, dice, shift, leaf=False)
                )
                index += dice.choice((1, 1, 2, 20))
            if dice.random() < garbage / 8 and index < count:
                memory.store(page + index * size, size, dice.getrandbits(size * 8))
                index += 1
        return page

    return memory, table(0)


def edges(fmt, memory, root):
    """Return input addresses at which the mapping may change, found by looking at every entry."""
    size = 4 if fmt == "32-bit" else 8
    shifts = SHIFTS[fmt]
    found = set()

    def look(depth, table, base):
        if table >> 12 not in memory.pages:
            return
        shift = shifts[depth]
        count = 4 if fmt == "PAE" and depth == 0 else 4096 // size
        for index in range(count):
            entry = memory.load(table + index * size, size)
            at = base + (index << shift)
            if not entry:
                continue
            found.update((at, at + (1 << shift) - 1, at + (1 << shift)))
            if depth + 1 < len(shifts) and not entry & 0x80:
                look(depth + 1, entry & ADDRESS, at)

    look(0, root & ADDRESS, 0)
    limit = 1 << INPUT_BITS[fmt]
    return sorted(one for one in found if one < limit)


def linear(fmt, address):
    """Return the canonical form of an offset into the translated space."""
    bits = INPUT_BITS[fmt]
    if fmt in ("4-level", "5-level") and address >> (bits - 1):
        return address | ((1 << 64) - (1 << bits))
    return address
