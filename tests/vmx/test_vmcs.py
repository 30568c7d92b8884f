import pytest
from hypothesis import given
from hypothesis import strategies as st

from turducken.address import MIB, Hpa
from turducken.memory import PhysicalMemory
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import Vmcs
from turducken.vmx.vmcs_fields import ACCESSES, FIELDS

WORD = st.integers(0, (1 << 64) - 1)


class LoadedMemory:
    """The same bytes behind nothing but the memory protocol."""

    def __init__(self) -> None:
        self.ram = PhysicalMemory(MIB)

    def load(self, address, size):
        return self.ram.load(address, size)

    def store(self, address, size, value):
        self.ram.store(address, size, value)

    def read(self, address, length):
        return self.ram.read(address, length)

    def write(self, address, data):
        self.ram.write(address, data)


@pytest.fixture(params=[lambda: PhysicalMemory(MIB), LoadedMemory], ids=["ram", "protocol"])
def vmcs(request):
    return Vmcs(request.param(), Hpa(0x5000))


def test_a_zero_region_reads_as_zero_fields(vmcs):
    vmcs.set_header(0x12)
    assert not any(vmcs.read(one) for one in FIELDS.values())
    assert vmcs.revision == 0x12
    assert not vmcs.is_shadow
    assert not vmcs.is_launched


def test_fields_do_not_disturb_one_another(vmcs):
    vmcs.set_header(0x12)
    expected = {}
    for number, one in enumerate(FIELDS.values()):
        vmcs.write(one, 0x0123_4567_89AB_CDEF * (number + 3))
        expected[one] = 0x0123_4567_89AB_CDEF * (number + 3) & one.mask
    assert {one: vmcs.read(one) for one in FIELDS.values()} == expected
    assert vmcs.revision == 0x12
    assert not vmcs.is_launched


def test_the_region_is_the_memory(vmcs):
    vmcs.write(f.GUEST_RIP, 0x1122334455667788)
    vmcs.set_header(0x7FFF_FFFF, shadow=True)
    vmcs.set_abort(4)
    again = Vmcs(vmcs.memory, Hpa(0x5000))
    assert again.read(f.GUEST_RIP) == 0x1122334455667788
    assert vmcs.memory.load(0x5000, 4) == 0xFFFF_FFFF
    assert vmcs.memory.load(0x5004, 4) == 4
    assert again.is_shadow
    assert again.revision == 0x7FFF_FFFF


def test_launch_state(vmcs):
    vmcs.set_launched(7)
    assert vmcs.is_launched
    assert vmcs.launch_cycle == 7
    vmcs.set_clear()
    assert not vmcs.is_launched


def test_high_access(vmcs):
    vmcs.write_encoding(0x2800, 0x1111_2222_3333_4444)
    assert vmcs.read_encoding(0x2801) == 0x1111_2222
    vmcs.write_encoding(0x2801, 0xAAAA_BBBB_CCCC_DDDD)
    assert vmcs.read(f.VMCS_LINK_POINTER) == 0xCCCC_DDDD_3333_4444


def test_pack_and_unpack(vmcs):
    vmcs.write(f.GUEST_CR0, 0x8000_0031)
    data = vmcs.pack(f.GUEST_SLOTS)
    vmcs.write(f.GUEST_CR0, 0)
    vmcs.write(f.HOST_CR0, 5)
    vmcs.unpack(f.GUEST_SLOTS, data)
    assert vmcs.read(f.GUEST_CR0) == 0x8000_0031
    assert vmcs.read(f.HOST_CR0) == 5


def test_copy_fields(vmcs):
    other = Vmcs(PhysicalMemory(MIB), Hpa(0))
    other.write(f.GUEST_RIP, 1)
    other.write(f.GUEST_RSP, 2)
    vmcs.copy_fields(other, (f.GUEST_RIP,))
    assert (vmcs.read(f.GUEST_RIP), vmcs.read(f.GUEST_RSP)) == (1, 0)


def test_normalize_removes_what_no_field_has(vmcs):
    vmcs.memory.write(0x5000, b"\xff" * 4096)
    before = {one: vmcs.read(one) for one in FIELDS.values()}
    vmcs.normalize()
    assert {one: vmcs.slots[one.slot] for one in FIELDS.values()} == before
    assert before == {one: one.mask for one in FIELDS.values()}


def test_a_region_outside_ram_neither_raises_nor_keeps():
    vmcs = Vmcs(PhysicalMemory(MIB), Hpa(1 << 40))
    vmcs.write(f.GUEST_RIP, 5)
    assert vmcs.read(f.GUEST_RIP) == f.GUEST_RIP.mask


@given(st.lists(st.tuples(st.sampled_from(sorted(ACCESSES)), WORD), max_size=30))
def test_accesses_follow_a_naive_model(operations):
    vmcs = Vmcs(PhysicalMemory(MIB), Hpa(0x1000))
    model = dict.fromkeys(FIELDS, 0)
    for encoding, value in operations:
        vmcs.write_encoding(encoding, value)
        full = encoding & ~1
        if encoding & 1:
            model[full] = (value % 2**32) * 2**32 + model[full] % 2**32
        else:
            model[full] = value % 2 ** FIELDS[full].width.bits
    for encoding in ACCESSES:
        full = model[encoding & ~1]
        assert vmcs.read_encoding(encoding) == (full >> 32 if encoding & 1 else full)
