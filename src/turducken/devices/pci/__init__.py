"""PCI: configuration space, functions with base address registers, and the PC's own functions."""

from turducken.devices.pci.configuration import (
    ADDRESS_PORT,
    DATA_PORT,
    RESET_PORT,
    PciConfiguration,
)
from turducken.devices.pci.function import (
    Bar,
    IoBar,
    MemoryBar,
    PciFunction,
    PciIdentity,
    Registers,
)

__all__ = [
    "ADDRESS_PORT",
    "DATA_PORT",
    "RESET_PORT",
    "Bar",
    "IoBar",
    "MemoryBar",
    "PciConfiguration",
    "PciFunction",
    "PciIdentity",
    "Registers",
]
