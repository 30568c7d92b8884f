"""Interrupts between processors, through the local APIC: SDM 3A, "Interrupt Command Register".

L0 makes another processor leave its guest by INIT, which in non-root operation causes a VM exit
whatever the controls say, and nothing else (SDM 3C, "Other Causes of VM Exits"). NMIs remain L1's.
"""

from turducken.arch import msr
from turducken.vmx.interface import VmxProcessor

_BASE_ADDRESS = 0xF_FFFF_F000
_X2APIC_ENABLED, _ENABLED = 1 << 10, 1 << 11
_X2APIC_ICR = 0x830
_ID, _ICR_LOW, _ICR_HIGH = 0x20, 0x300, 0x310
_INIT, _STARTUP = 0x500, 0x600
_ASSERT = 0x4000


def _send(processor: VmxProcessor, target: int, command: int) -> None:
    base = processor.rdmsr(msr.IA32_APIC_BASE) or 0
    if base & _X2APIC_ENABLED:
        processor.wrmsr(_X2APIC_ICR, target << 32 | command)
        return
    registers = base & _BASE_ADDRESS
    # The upper half is L1's too: it may be between its two writes of a command of its own.
    before = processor.memory.load(registers + _ICR_HIGH, 4)
    processor.memory.store(registers + _ICR_HIGH, 4, target << 24)
    processor.memory.store(registers + _ICR_LOW, 4, command)
    processor.memory.store(registers + _ICR_HIGH, 4, before or 0)


def send_init(processor: VmxProcessor, target: int) -> None:
    """Send INIT to the processor with APIC ID ``target``."""
    _send(processor, target, _ASSERT | _INIT)


def reset_apic(processor: VmxProcessor) -> None:
    """Reset the local APIC as INIT does: SDM 3A, "Local APIC State After an INIT Reset".

    An APIC that is disabled and enabled again has its registers reset, the APIC ID too, which INIT
    leaves alone ("Enabling or Disabling the Local APIC").
    """
    base = processor.rdmsr(msr.IA32_APIC_BASE) or 0
    if not base & _ENABLED:
        return
    is_x2apic = bool(base & _X2APIC_ENABLED)
    id_register = (base & _BASE_ADDRESS) + _ID
    number = 0 if is_x2apic else processor.memory.load(id_register, 4) or 0
    processor.wrmsr(msr.IA32_APIC_BASE, base & ~(_ENABLED | _X2APIC_ENABLED))
    processor.wrmsr(msr.IA32_APIC_BASE, base & ~_X2APIC_ENABLED)
    if is_x2apic:
        processor.wrmsr(msr.IA32_APIC_BASE, base)
    else:
        processor.memory.store(id_register, 4, number)


def start_processor(processor: VmxProcessor, target: int) -> None:
    """Start another processor: INIT and two startup IPIs (the vector does not matter to L0)."""
    send_init(processor, target)
    for _ in range(2):
        _send(processor, target, _ASSERT | _STARTUP)
