"""L0: a hypervisor that runs another hypervisor, in the role of XMHF.

`Hypervisor` drives processors only through the VMX instructions, VMCS fields and physical memory
(`turducken.vmx.interface`); docs/hypervisor.md tells how it works.
"""

from turducken.hypervisor.boot import BootRegisters
from turducken.hypervisor.capabilities import Offer, UnsuitableProcessorError
from turducken.hypervisor.hypapp import Hypapp
from turducken.hypervisor.hypervisor import Hypervisor
from turducken.hypervisor.memory_control import MemoryControl
from turducken.hypervisor.shadow import POLICIES, ShadowPolicyName
from turducken.hypervisor.vcpu import HypervisorError, Vcpu

__all__ = [
    "POLICIES",
    "BootRegisters",
    "Hypapp",
    "Hypervisor",
    "HypervisorError",
    "MemoryControl",
    "Offer",
    "ShadowPolicyName",
    "UnsuitableProcessorError",
    "Vcpu",
]
