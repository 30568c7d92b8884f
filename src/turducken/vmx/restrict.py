"""Taking capabilities away: for a hypervisor that offers its guest less than it has."""

from collections.abc import Mapping
from dataclasses import dataclass

from turducken.arch import msr
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.capability_msrs import (
    BASIC,
    EPT_CAPABILITIES,
    EPT_VPID_CAP,
    PLAIN_MSRS,
    TRUE_MSRS,
    with_enumeration,
)
from turducken.vmx.controls import CONTROL_SETS, DEPENDENCIES, Primary, Secondary, control_bit

_ALL = (1 << 64) - 1
_LOW = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Limits:
    """What to keep of a processor's capabilities: masks of controls and of capability bits.

    Controls of the default1 class stay, and what depends on something taken away goes with it.
    """

    pin: int = _ALL
    primary: int = _ALL
    secondary: int = _ALL
    exit: int = _ALL
    entry: int = _ALL
    vm_functions: int = _ALL
    ept_vpid: int = _ALL
    misc: int = _ALL
    basic: int = _ALL


def restrict(capabilities: Capabilities, limits: Limits) -> Capabilities:
    """Return capabilities without what ``limits`` does not keep."""
    offered = {
        key: getattr(capabilities, key).allowed1 & (getattr(limits, key) | word.default1)
        for key, word in CONTROL_SETS.items()
    }
    ept_vpid = _settle(offered, capabilities.ept_vpid & limits.ept_vpid)
    old = capabilities.msrs
    msrs = dict(old)
    msrs[msr.IA32_VMX_MISC] &= limits.misc
    msrs[msr.IA32_VMX_BASIC] &= limits.basic | BASIC.mask("REVISION", "SIZE", "MEMORY_TYPE")
    for table in (PLAIN_MSRS, TRUE_MSRS):
        for key, index in table.items():
            if index in old:
                msrs[index] = offered[key] << 32 | old[index] & _LOW
    if not msrs[msr.IA32_VMX_BASIC] & BASIC.mask("TRUE_CONTROLS"):
        for index in TRUE_MSRS.values():
            msrs.pop(index, None)
    _put(msrs, msr.IA32_VMX_PROCBASED_CTLS2, offered["secondary"] << 32, _has_secondary(offered))
    tagged = offered["secondary"] & (Secondary.ENABLE_EPT | Secondary.ENABLE_VPID)
    _put(msrs, msr.IA32_VMX_EPT_VPID_CAP, ept_vpid, tagged)
    functions = offered["secondary"] & Secondary.ENABLE_VM_FUNCTIONS
    _put(msrs, msr.IA32_VMX_VMFUNC, offered["vm_functions"], functions)
    return Capabilities(with_enumeration(msrs), capabilities.cpu)


def _has_secondary(offered: Mapping[str, int]) -> int:
    return offered["primary"] & Primary.ACTIVATE_SECONDARY_CONTROLS


def _put(msrs: dict[int, int], index: int, value: int, exists: int) -> None:
    if exists:
        msrs[index] = value
    else:
        msrs.pop(index, None)


def _settle(offered: dict[str, int], ept_vpid: int) -> int:
    """Take away what has lost what it depends on; return what is left of the EPT and VPID bits."""
    if not _has_secondary(offered):
        offered["secondary"] = 0
    if not ept_vpid & EPT_VPID_CAP.mask("ACCESSED_DIRTY"):
        offered["secondary"] &= ~Secondary.ENABLE_PML
    if not ept_vpid & EPT_VPID_CAP.mask("UNCACHEABLE", "WRITE_BACK"):
        offered["secondary"] &= ~Secondary.ENABLE_EPT
    for _ in DEPENDENCIES:
        for needing, needed in DEPENDENCIES:
            word, mask = control_bit(needed)
            if not offered[word] & mask:
                dependent, lost = control_bit(needing)
                offered[dependent] &= ~lost
    if not offered["secondary"] & Secondary.ENABLE_EPT:
        ept_vpid &= ~EPT_CAPABILITIES
    if not offered["secondary"] & Secondary.ENABLE_VPID:
        ept_vpid &= EPT_CAPABILITIES
    return ept_vpid
