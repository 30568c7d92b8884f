"""Random guest tables under random EPTs, against a model that walks everything every time."""

import random
from dataclasses import dataclass

import naive_mmu as naive
import pytest
from mmu_support import GUEST, MIB, Rig, features

from turducken.mmu import mmu as mmu_module
from turducken.mmu.faults import EptMisconfiguration, EptViolation, Fault, PageFault
from turducken.mmu.mmu import AccessMode, EptSetup
from turducken.mmu.policy import make_policy
from turducken.mmu.tlb import Mapping
from turducken.paging.encode import eptp
from turducken.paging.formats import (
    EPT,
    PAGING_4LEVEL,
    PAGING_5LEVEL,
    PAGING_32,
    PAGING_PAE,
    BoundFormat,
    Format,
)
from turducken.paging.rights import XU, X, make_attributes
from turducken.paging.table import PageTable

FORMATS: tuple[Format | None, ...] = (
    PAGING_4LEVEL,
    PAGING_PAE,
    PAGING_32,
    PAGING_5LEVEL,
    None,
)
ACCESSES = 150


@dataclass
class Case:
    """One set of tables and registers, for the MMU and for the model."""

    rig: Rig
    registers: naive.Registers
    ram: naive.Ram
    pages: list[int]

    def check(self, choose: random.Random) -> str:
        address = choose.choice(self.pages) + choose.randrange(4096)
        kind = choose.choice((naive.READ, naive.READ, naive.WRITE, naive.FETCH))
        user, ac = choose.random() < 0.4, choose.random() < 0.3
        expected = naive.translate(self.ram, self.registers, address, kind, user=user, ac=ac)
        found = self.rig.access(address, kind, user=user, ac=ac)
        assert describe(found, address) == expected, (address, kind, user, ac)
        return str(expected[0])


def describe(found: Mapping | Fault, address: int) -> naive.Outcome:
    if isinstance(found, Mapping):
        return ("page", found.page | address & ((1 << found.shift) - 1))
    if isinstance(found, PageFault):
        return ("page fault", *found)
    if isinstance(found, EptViolation):
        return ("violation", *found)
    assert isinstance(found, EptMisconfiguration)
    return ("misconfiguration", *found)


def random_rights(choose: random.Random, fmt: BoundFormat) -> int:
    letters = choose.choice(("RWX", "RWX", "RWX", "RX", "RW", "R"))
    if fmt.entry_size == 4 or not fmt.features.nx:
        letters = "RX" if "W" not in letters else "RWX"
    has_keys = fmt.address_bits >= 48
    return make_attributes(
        letters,
        user=choose.random() < 0.6,
        global_=choose.random() < 0.2,
        protection_key=choose.randrange(16) if has_keys else 0,
    )


def fill_guest(choose: random.Random, table: PageTable) -> list[int]:
    """Map some pages of every size; return linear addresses worth an access."""
    fmt = table.fmt
    bits = fmt.address_bits
    top = 1 << bits
    sizes = [level.shift for level in fmt.levels if level.leaf_mask]
    pages = []
    bases = [choose.randrange(top) for _ in range(3)]
    for _ in range(14):
        shift = choose.choice(sizes)
        near = choose.choice(bases) + choose.randrange(1 << 24)
        gva = canonical(near % top >> shift << shift, bits)
        gpa = choose.randrange(40 * MIB) >> shift << shift
        table.map(gva, gpa, 1 << shift, random_rights(choose, fmt), max_shift=shift)
        pages += [gva + choose.randrange(1 << shift) & ~0xFFF for _ in range(2)]
    unmapped = (canonical(one & ~0xFFF, bits) for one in (choose.randrange(top), bases[0]))
    return [*pages, *pages, *unmapped]


def canonical(address: int, bits: int) -> int:
    """Extend the sign of a linear address with four or five levels."""
    if bits < 48 or not address >> (bits - 1):
        return address
    return address | (1 << 64) - (1 << bits)


def fill_ept(choose: random.Random, table: PageTable) -> None:
    """Map the guest's memory in pages of all sizes, with holes; its tables in small pages."""
    for gpa in range(0, 48 * MIB, 2 * MIB):
        if choose.random() < 0.05:
            continue
        shift = choose.choice((12, 21))
        rights = make_attributes(choose.choice(("RWX", "RWX", "RWX", "RWX", "RX", "RW", "R", "X")))
        if choose.random() < 0.3:
            rights ^= choose.choice((X, XU))
        table.map(gpa, GUEST + gpa, 2 * MIB, rights, max_shift=shift)
    # The guest's tables lie in its second MiB.
    table.map(0, GUEST, 2 * MIB, make_attributes("RWX"), max_shift=12)
    if choose.random() < 0.3:
        table.map(GUEST << 6, GUEST << 7, 1 << 30, make_attributes("RWX"))


def spoil(choose: random.Random, table: PageTable, addresses: list[int], chance: float) -> None:
    """Change random bits of random entries on the way to some addresses, mostly leaves."""
    size = table.fmt.entry_size
    if table.fmt.is_ept:
        bits = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 20, 47, 63]
    else:
        bits = [0, 1, 2, 5, 6, 7, 12, 13, 21, 47, 52, 60, 63]
    for address in addresses:
        for step in table.walk(address).steps:
            # The higher an entry is, the more depends on it.
            rarely = chance / 20 ** (len(table.fmt.levels) - 1 - step.level)
            if choose.random() < rarely and not (table.fmt.name == "PAE" and step.level == 0):
                flipped = 1 << choose.choice([one for one in bits if one < 8 * size])
                table.memory.store(step.address, size, step.entry ^ flipped)


def make_case(seed: int, fmt: Format | None, *, has_ept: bool, tlb: str) -> Case:
    choose = random.Random(seed)
    rig = Rig(make_policy(tlb, seed, 0))
    mode = AccessMode(*(choose.random() < 0.35 for _ in range(5)), pkru=choose.getrandbits(32))
    mode.pke = mode.pke and fmt in (PAGING_4LEVEL, PAGING_5LEVEL)
    mode.nx = mode.nx and fmt is not None and fmt is not PAGING_32
    registers = naive.Registers(
        fmt.name if fmt else None,
        wp=mode.wp,
        smep=mode.smep,
        smap=mode.smap,
        nxe=mode.nx,
        pke=mode.pke,
        pkru=mode.pkru,
    )
    table, setup = None, None
    pages = [choose.randrange(48 * MIB) & ~0xFFF for _ in range(20)]
    if fmt is not None:
        bound = fmt.bind(features(nx=mode.nx))
        table = rig.guest_table(bound) if has_ept else rig.table(bound)
        pages = fill_guest(choose, table)
        spoil(choose, table, pages, 0.15)
        registers.root = table.root
    if has_ept:
        mode_based, only = choose.random() < 0.3, choose.random() < 0.6
        bound = EPT.bind(features(mode_based_execute=mode_based, execute_only=only))
        ept = rig.table(bound)
        fill_ept(choose, ept)
        spoil(choose, ept, [choose.randrange(48 * MIB) for _ in range(80)], 0.5)
        spoil(choose, ept, [MIB + choose.randrange(64) * 4096 for _ in range(5)], 0.05)
        registers.eptp = eptp(ept.root, accessed_dirty=choose.random() < 0.5)
        registers.mode_based, registers.execute_only = mode_based, only
        setup = EptSetup(bound, 0, False).with_eptp(registers.eptp)
    rig.mmu.enable_globals(enabled=True)
    rig.mmu.configure(
        paging=table.fmt if table else None,
        root=registers.root,
        mode=mode,
        vpid=1,
        pcid=0,
        ept=setup,
    )
    if fmt is PAGING_PAE:
        assert table is not None
        registers.pdptes = tuple(table.memory.load(table.root + 8 * n, 8) for n in range(4))
        rig.mmu.pdptes = registers.pdptes
    return Case(rig, registers, naive.Ram(bytearray(rig.memory.bytes)), pages)


def run(seed: int, fmt: Format | None, *, has_ept: bool, tlb: str) -> dict[str, int]:
    """Compare many accesses; return how many there were of each outcome."""
    case = make_case(seed, fmt, has_ept=has_ept, tlb=tlb)
    choose = random.Random(seed + 1)
    outcomes: dict[str, int] = {}
    for _ in range(ACCESSES):
        outcome = case.check(choose)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        case.rig.policy.stopped(case.rig.tlb)
    is_same = bytes(case.rig.memory.bytes) == case.ram.data
    assert is_same  # all accessed and dirty flags
    return outcomes


@pytest.mark.parametrize("has_ept", [True, False], ids=["EPT", "no EPT"])
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda one: one.name if one else "unpaged")
def test_any_access_to_any_tables(fmt: Format | None, has_ept: bool) -> None:
    seen: dict[str, int] = {}
    for seed in range(8):
        # Nothing changes the tables but the walks, so all policies give the model's outcome.
        tlb = ("keep", "drop", "finite", "random")[seed % 4]
        for outcome, count in run(seed, fmt, has_ept=has_ept, tlb=tlb).items():
            seen[outcome] = seen.get(outcome, 0) + count
    expected = {"page"}
    expected |= {"page fault"} if fmt else set()
    expected |= {"violation", "misconfiguration"} if has_ept else set()
    assert set(seen) == expected


PLANTED = {
    "write needs only the leaf": ("EPT_NEEDED", (1, 1, 4)),
    "no user fetch": ("EPT_USER_FETCH", 4),
    "guest tables are read, not written": ("_BOTH", 1),
    "accessed flag of EPT": ("_EPT_A", 1 << 11),
    "final bit": ("QUALIFICATION_FINAL_ACCESS", 0),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmu_module, *PLANTED[name])
    with pytest.raises(AssertionError):  # noqa: PT012
        for seed in range(20):
            run(seed, PAGING_4LEVEL, has_ept=True, tlb="keep")
