"""Who runs guest code, and where: the places that diagnoses are about."""

from turducken.cpu.decoder import linear_address
from turducken.cpu.engine import SegmentIndex
from turducken.cpu.processor import Processor
from turducken.diagnosis import Place
from turducken.hypervisor import Hypervisor, Vcpu
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import Vmcs


def place_of(processor: Processor, hypervisor: Hypervisor | None) -> Place:
    """Return who runs guest code on a processor, and where."""
    state = processor.state
    linear = linear_address(state, SegmentIndex.CS, state.rip)
    if hypervisor is None:
        return Place(processor.index, 1 if processor.guest is None else 2, state.rip, linear)
    vcpu = next((one for one in hypervisor.vcpus if one.index == processor.index), None)
    level = 2 if vcpu is not None and vcpu.in_l2 else 1
    return Place(processor.index, level, state.rip, linear)


def place_of_vcpu(vcpu: Vcpu) -> Place:
    """Return where the guest is whose exit L0 handles."""
    rip = vcpu.current.read(f.GUEST_RIP)
    return Place(vcpu.index, 2 if vcpu.in_l2 else 1, rip, linear_of(vcpu.current, rip))


def linear_of(vmcs: Vmcs, rip: int) -> int:
    """Return the linear address of an instruction of the guest of a VMCS."""
    read = vmcs.read
    is_64bit = read(f.GUEST_CS_ACCESS_RIGHTS) & _LONG and read(f.GUEST_EFER) & _LMA
    return rip if is_64bit else rip + read(f.GUEST_CS_BASE) & 0xFFFF_FFFF


_LONG = 1 << 13
_LMA = 1 << 10
