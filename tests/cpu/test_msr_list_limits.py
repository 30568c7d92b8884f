"""MSR lists longer than IA32_VMX_MISC recommends: an outcome, and in bounded time."""

import pytest
from cpu_support import Pc

from turducken.arch import msr
from turducken.cpu.msr_lists import load_msrs, store_msrs
from turducken.vmx import vmcs_fields as f
from turducken.vmx.msr_lists import MSR_ENTRY
from turducken.vmx.vmcs import Vmcs

AREA, REGION, LIMIT = 0x10_0000, 0x20_0000, 512
ENTRY = MSR_ENTRY.make(INDEX=msr.IA32_KERNEL_GS_BASE, DATA=0x1234).to_bytes(16, "little")


@pytest.fixture
def machine():
    pc = Pc()
    pc.memory.write(AREA, ENTRY * (LIMIT + 8))
    vmcs = Vmcs(pc.memory, REGION)
    vmcs.write(f.ENTRY_MSR_LOAD_ADDRESS, AREA)
    vmcs.write(f.EXIT_MSR_STORE_ADDRESS, AREA)
    return pc.p, vmcs


def load(machine, count):
    p, vmcs = machine
    vmcs.write(f.ENTRY_MSR_LOAD_COUNT, count)
    return load_msrs(p, vmcs, f.ENTRY_MSR_LOAD_ADDRESS, f.ENTRY_MSR_LOAD_COUNT)


def store(machine, count):
    p, vmcs = machine
    vmcs.write(f.EXIT_MSR_STORE_COUNT, count)
    return store_msrs(p, vmcs)


def test_a_list_of_the_recommended_size_is_used(machine):
    assert load(machine, LIMIT) is None
    assert store(machine, LIMIT)


@pytest.mark.parametrize("count", [LIMIT + 1, LIMIT + 5, 0xFFFF_FFFF])
def test_the_first_entry_beyond_it_fails(machine, count):
    assert load(machine, count) == LIMIT + 1
    assert not store(machine, count)
