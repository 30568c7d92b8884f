"""What a hostile L1 does: noise in everything of its own that L0 reads."""

import random

from turducken.address import MIB, PAGE_SIZE
from turducken.hypervisor import Hypervisor, Vcpu
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import CONTROL_SETS
from turducken.vmx.vmcs_fields import FIELDS, FieldKind

_CONTROLS = {
    f.PIN_BASED_CONTROLS: "pin",
    f.PRIMARY_CONTROLS: "primary",
    f.SECONDARY_CONTROLS: "secondary",
    f.EXIT_CONTROLS: "exit",
    f.ENTRY_CONTROLS: "entry",
}
_ADDRESSES = [
    one
    for one in FIELDS.values()
    if "address" in one.name.lower() or "bitmap" in one.name.lower() or one is f.EPTP
]
_MSR_LISTS = (
    (f.ENTRY_MSR_LOAD_ADDRESS, f.ENTRY_MSR_LOAD_COUNT),
    (f.EXIT_MSR_LOAD_ADDRESS, f.EXIT_MSR_LOAD_COUNT),
    (f.EXIT_MSR_STORE_ADDRESS, f.EXIT_MSR_STORE_COUNT),
)
_MSRS = (
    0x10,
    0x1B,
    0x174,
    0x175,
    0x176,
    0x200,
    0x277,
    0x2FF,
    0x480,
    0x802,
    0xC000_0080,
    0xC000_0100,
)
_USED = (
    f.GUEST_RIP,
    f.GUEST_RSP,
    f.GUEST_CR3,
    f.GUEST_IDTR_BASE,
    f.GUEST_GDTR_BASE,
    f.GUEST_PHYSICAL_ADDRESS,
)
"""Where L2 is, more or less: lhv's L2s have linear addresses equal to physical ones."""
_FATAL = (
    *(one for one in FIELDS.values() if one.kind is FieldKind.HOST),
    f.EXIT_CONTROLS,
    f.EXIT_MSR_LOAD_ADDRESS,
    f.EXIT_MSR_LOAD_COUNT,
)
"""What L1 does not survive: noise there is rare, or most trials would be short."""
_APIC = 0xFEE0_0000
_ADDRESS_MASK = (1 << 46) - 1 & -PAGE_SIZE
_ENTRIES = 512


class Noise:
    """Noise from ``random`` in the L1 of ``hypervisor``, whose memory has ``memory`` bytes."""

    def __init__(self, hypervisor: Hypervisor, memory: int, source: random.Random) -> None:
        self._private = hypervisor.frames.region
        self._memory = memory
        self._random = source
        self._kinds = (
            self._a_field,
            self._a_control,
            self._an_address,
            self._an_entry,
            self._an_entry,
            self._a_page,
            self._an_msr_list,
        )

    def disturb(self, vcpu: Vcpu) -> None:
        """Change a few things that the current VMCS12 says or points to."""
        current = vcpu.unit.current
        if current is None:
            return
        kept = {field: current.read(field) for field in _FATAL}
        for _ in range(self._random.choice((1, 1, 2, 5))):
            self._random.choice(self._kinds)(vcpu)
        if self._random.randrange(30):
            for field, value in kept.items():
                current.write(field, value)

    def misdirect(self, vcpu: Vcpu) -> None:
        """Execute a VMX instruction of L1's with an address that it should not have."""
        address = self._address()
        unit = vcpu.unit
        self._random.choice((unit.vmptrld, unit.vmclear, unit.vmxon))(address)
        vcpu.follow_vmcs12()

    def _address(self) -> int:
        """Return an address: L0's memory and its edges, beyond all memory, or L1's own."""
        private, pick = self._private, self._random
        return pick.choice(
            (
                pick.randrange(private.start, private.stop) & -PAGE_SIZE,
                private.start - PAGE_SIZE,
                private.stop - 16,
                pick.randrange(1 << 46) & -PAGE_SIZE,
                pick.randrange(self._memory) & -PAGE_SIZE,
                pick.getrandbits(64),
                _APIC,
            )
        )

    def _a_field(self, vcpu: Vcpu) -> None:
        field = self._random.choice(list(FIELDS.values()))
        old = vcpu.unit.current12.read(field)
        bits = self._random.getrandbits(64)
        flipped = old ^ 1 << self._random.randrange(64)
        vcpu.unit.current12.write(field, self._random.choice((0, field.mask, bits, flipped)))

    def _a_control(self, vcpu: Vcpu) -> None:
        """Flip a control, and let it be one that VM entry accepts."""
        field, key = self._random.choice(list(_CONTROLS.items()))
        bit = self._random.choice(list(CONTROL_SETS[key].masks.values()))
        value = vcpu.unit.current12.read(field) ^ bit
        vcpu.unit.current12.write(field, getattr(vcpu.capabilities12, key).adjust(value))

    def _an_address(self, vcpu: Vcpu) -> None:
        field = self._random.choice(_ADDRESSES)
        value = self._address() & _ADDRESS_MASK
        if field is f.EPTP:
            value |= 0x1E | self._random.choice((0, 0x40))
        vcpu.unit.current12.write(field, value)

    def _an_entry(self, vcpu: Vcpu) -> None:
        """Write an entry of EPT12, at some level on the way of what L2 uses, or anywhere."""
        table = vcpu.unit.current12.read(f.EPTP) & _ADDRESS_MASK
        used = vcpu.unit.current12.read(self._random.choice(_USED))
        where = table
        for shift in (39, 30, 21, 12)[: self._random.choice((1, 2, 3, 4, 4))]:
            where = table + 8 * (used >> shift & 511)
            entry = vcpu.memory.load(where, 8)
            if not entry & 7 or entry & 0x80:
                break
            table = entry & _ADDRESS_MASK
        if not self._random.randrange(4):
            where = where & -PAGE_SIZE | 8 * self._random.randrange(_ENTRIES)
        low = self._random.choice((7, 7, 0x37, 0xB7, 0x77, self._random.getrandbits(12)))
        target = self._random.choice((table, self._address() & -PAGE_SIZE))
        vcpu.memory.store(where, 8, target & (1 << 52) - 1 | low)

    def _a_page(self, vcpu: Vcpu) -> None:
        """Fill what some address in VMCS12 points to."""
        page = vcpu.unit.current12.read(self._random.choice(_ADDRESSES)) & _ADDRESS_MASK
        if page > MIB:
            vcpu.memory.write(page, self._random.randbytes(PAGE_SIZE))

    def _an_msr_list(self, vcpu: Vcpu) -> None:
        """Let an MSR list have entries of some sense."""
        address, count = self._random.choice(_MSR_LISTS)
        place = self._address() & _ADDRESS_MASK
        length = self._random.choice((1, 2, 8, _ENTRIES, self._random.getrandbits(32)))
        for number in range(min(length, 8)):
            index = self._random.choice((*_MSRS, self._random.getrandbits(32)))
            vcpu.memory.store(place + 16 * number, 8, index)
            vcpu.memory.store(place + 16 * number + 8, 8, self._random.getrandbits(64))
        vcpu.unit.current12.write(address, place)
        vcpu.unit.current12.write(count, length)
