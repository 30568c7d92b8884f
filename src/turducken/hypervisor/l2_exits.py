"""VM exits of L2: who gets each, as a table, and what L0 does with those it keeps."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from turducken.address import PAGE_SIZE, Gpa1, Gpa2
from turducken.hypervisor import stopping
from turducken.hypervisor.diagnosing import tell_misconfiguration
from turducken.hypervisor.events import ShadowFilled
from turducken.hypervisor.l1_exits import on_rdmsr, on_wrmsr
from turducken.hypervisor.shadow.compose import (
    Denied01,
    Denied12,
    Filled,
    LogFull,
    Misconfigured12,
    Unwatched,
)
from turducken.hypervisor.virtualization_exception import convert_to_ve
from turducken.hypervisor.vmx_instructions import field_encoding, finish
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Primary
from turducken.vmx.exit_information import EPT_QUALIFICATION
from turducken.vmx.exit_reasons import ENTRY_FAILURE
from turducken.vmx.exit_reasons import ExitReason as R

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Handling, Vcpu

_ACCESS = EPT_QUALIFICATION.mask("READ", "WRITE", "FETCH")
_WRITE = EPT_QUALIFICATION.mask("WRITE")
_ALLOWED = EPT_QUALIFICATION.mask("READABLE", "WRITABLE", "EXECUTABLE", "USER_EXECUTABLE")
_RWX = 7
_ALLOWED_SHIFT = EPT_QUALIFICATION["READABLE"].low
_USER_EXECUTE = 1 << 10
_ALL_RIGHTS = _RWX | _USER_EXECUTE
_NMI_UNBLOCKING = EPT_QUALIFICATION.mask("NMI_UNBLOCKING")
_LINEAR_VALID = EPT_QUALIFICATION.mask("LINEAR_VALID")
_USER_EXECUTABLE = EPT_QUALIFICATION.mask("USER_EXECUTABLE")
_LOW = 0xFFFF_FFFF
_RCX = 1
_LOW_MSRS, _HIGH_MSRS = range(0x2000), range(0xC000_0000, 0xC000_2000)


def on_exit(vcpu: "Vcpu") -> "Handling":
    """Handle a VM exit of L2: keep it or give it to L1."""
    context = vcpu.nested.current
    assert context is not None
    slots = context.vmcs02.slots
    reason = slots[f.EXIT_REASON.slot]
    counts = vcpu.statistics.exits_l2
    basic = reason & 0xFFFF
    counts[basic] = counts.get(basic, 0) + 1
    if reason & ENTRY_FAILURE:
        vcpu.nested.entry_failed(reason & 0xFFFF, slots[f.EXIT_QUALIFICATION.slot])
        return None
    context.is_launched = True
    route = _ROUTES.get(reason)
    if route is not None:
        return route(vcpu)
    reflect(vcpu, reason, slots[f.EXIT_QUALIFICATION.slot])
    return None


def reflect(vcpu: "Vcpu", reason: int, qualification: int) -> None:
    """Give the exit to L1."""
    vcpu.count_reflected(reason)
    if vcpu.events.subscribers:
        vcpu.publish_exit(2, "L1")
    vcpu.nested.exit_to_l1(reason, qualification)


def _keep(vcpu: "Vcpu") -> None:
    """L0 keeps the exit: what was being delivered goes on when L2 does."""
    if vcpu.events.subscribers:
        vcpu.publish_exit(2, "L0")
    vcpu.nested.keep()
    vcpu.inject_again()


# Events


def _on_init(vcpu: "Vcpu") -> "Handling":
    """INIT: L0's own, or L1's."""
    if vcpu.was_kicked():
        _keep(vcpu)
        vcpu.trap_again()
    else:
        reflect(vcpu, R.INIT, 0)
    return None


# MSRs: L1's where its bitmaps say so, L0's where only L0's do


def _l1_wants_msr(vcpu: "Vcpu", *, write: bool) -> bool:
    context = vcpu.nested.current
    assert context is not None
    if not context.controls.has_primary(Primary.USE_MSR_BITMAPS):
        return True
    index = vcpu.processor.gpr[_RCX] & _LOW
    if index in _LOW_MSRS:
        place = index
    elif index in _HIGH_MSRS:
        place = 0x2000 + (index & 0x1FFF)
    else:
        return True
    address = context.vmcs12.read(f.MSR_BITMAPS) + (2048 if write else 0) + (place >> 3)
    return bool(vcpu.memory.load(address, 1) >> (place & 7) & 1)


def _on_rdmsr(vcpu: "Vcpu") -> "Handling":
    if _l1_wants_msr(vcpu, write=False):
        reflect(vcpu, R.RDMSR, 0)
        return None
    _keep(vcpu)
    return on_rdmsr(vcpu)


def _on_wrmsr(vcpu: "Vcpu") -> "Handling":
    if _l1_wants_msr(vcpu, write=True):
        reflect(vcpu, R.WRMSR, 0)
        return None
    _keep(vcpu)
    return on_wrmsr(vcpu)


def _on_vmcall(vcpu: "Vcpu") -> "Handling":
    """A hypapp's, or L1's."""
    if vcpu.system.apps:
        handling = vcpu.system.hypercall(vcpu)
        if handling is not False:
            vcpu.nested.keep()
            return handling
    reflect(vcpu, R.VMCALL, 0)
    return None


# VM functions and VMCS shadowing, which L0 emulates where the processor does not do it


def _on_vmfunc(vcpu: "Vcpu") -> "Handling":
    """EPTP switching; any other function, and a bad EPTP, is L1's."""
    gpr = vcpu.processor.gpr
    found = vcpu.unit.vmfunc(gpr[0] & _LOW, gpr[_RCX] & _LOW)
    if isinstance(found, int):
        _keep(vcpu)
        vcpu.nested.switch_ept12(found)
        vcpu.skip()
    else:
        reflect(vcpu, R.VMFUNC, 0)
    return None


def _on_field_access(vcpu: "Vcpu") -> "Handling":
    """VMREAD or VMWRITE of L2: L1's, or of a field that L1 does not have."""
    reason = vcpu.current.slots[f.EXIT_REASON.slot]
    is_write = reason == R.VMWRITE
    encoding = field_encoding(vcpu)
    unit = vcpu.unit
    # What exists for L1 the processor would have done itself, had L1 not wanted it at the entry.
    exists = unit.can_access(encoding, write=is_write)
    if exists or unit.shadow_access_exits(encoding, is_write=is_write):
        reflect(vcpu, reason, vcpu.current.slots[f.EXIT_QUALIFICATION.slot])
        return None
    _keep(vcpu)
    result = unit.shadow_vmwrite(encoding, 0) if is_write else unit.shadow_vmread(encoding)
    if not isinstance(result, int):
        vcpu.current.slots[f.VM_INSTRUCTION_ERROR.slot] = result.error
        finish(vcpu, result)
    return None


# EPT


def _on_ept_violation(vcpu: "Vcpu") -> "Handling":
    """EPT02 lacks what L2 wants: the heart of the shadow."""
    context = vcpu.nested.current
    assert context is not None
    slots = context.vmcs02.slots
    qualification = slots[f.EXIT_QUALIFICATION.slot]
    gpa2 = Gpa2(slots[f.GUEST_PHYSICAL_ADDRESS.slot])
    if vcpu.app_table is not None:
        _keep(vcpu)
        return vcpu.system.refuse_access(vcpu, Gpa1(gpa2), qualification & _ACCESS)
    if context.root12 is None:
        return _without_ept12(vcpu, gpa2, qualification)
    before = _leaf02(vcpu, gpa2) if context.root12.view.features.mode_based_execute else None
    found = vcpu.shadow.fill(gpa2, qualification & _ACCESS)
    if before is not None and isinstance(found, Filled) and found.entry == before:
        # The leaf was there: it is the page's being user or supervisor mode that is refused.
        found = Denied12(before & _ALL_RIGHTS)
    if isinstance(found, Filled):
        if vcpu.system.watched:
            vcpu.note_fill(gpa2)
        if vcpu.events.subscribers:
            vcpu.events.publish(
                ShadowFilled(vcpu.index, found.gpa2, found.shift, found.entry, found.gpa1)
            )
        _keep(vcpu)
        return None
    if isinstance(found, Denied12):
        qualification = _as_l1_sees(qualification, found.allowed)
        if found.suppresses_ve or not convert_to_ve(vcpu, qualification):
            reflect(vcpu, R.EPT_VIOLATION, qualification)
    elif isinstance(found, Misconfigured12):
        tell_misconfiguration(vcpu, gpa2)
        reflect(vcpu, R.EPT_MISCONFIGURATION, 0)
    elif isinstance(found, LogFull):
        reflect(vcpu, R.PML_FULL, qualification & _NMI_UNBLOCKING)
    elif isinstance(found, Unwatched):
        _keep(vcpu)
        return vcpu.system.watch_tables.watch(vcpu, found.tables)
    else:
        return _denied_by_ept01(vcpu, found, qualification)
    return None


def _leaf02(vcpu: "Vcpu", gpa2: Gpa2) -> int | None:
    """Return the leaf that EPT02 has for an address, if it has one."""
    context = vcpu.nested.current
    assert context is not None
    assert context.root12 is not None
    table = vcpu.shadow.table_of(context.root12)
    return table.get(gpa2).value or None if table is not None else None


def _as_l1_sees(qualification: int, allowed: int) -> int:
    """Return the qualification with the rights that EPT12's entries give together."""
    qualification &= ~_ALLOWED
    qualification |= (allowed & _RWX) << _ALLOWED_SHIFT
    return qualification | (_USER_EXECUTABLE if allowed & _USER_EXECUTE else 0)


def _denied_by_ept01(vcpu: "Vcpu", found: Denied01, qualification: int) -> "Handling":
    """A hypapp's affair; without one, L1 learns that its mapping leads nowhere."""
    access = qualification & _ACCESS
    if vcpu.ept01.is_withheld(found.gpa1) and access & _WRITE:
        _keep(vcpu)
        return vcpu.system.watch_tables.give_up(vcpu, frozenset({Gpa1(found.gpa1 & -PAGE_SIZE)}))
    handling = vcpu.system.app_violation(vcpu, found.gpa1, qualification & _ACCESS)
    if handling is not False:
        if handling is None:
            _keep(vcpu)
        return handling
    reflect(vcpu, R.EPT_VIOLATION, _as_l1_sees(qualification, 0))
    return None


def _without_ept12(vcpu: "Vcpu", gpa2: Gpa2, qualification: int) -> "Handling":
    """L2 without EPT runs under EPT01: its physical addresses are L1's."""
    gpa1 = Gpa1(gpa2)
    place = vcpu.ept01.find(gpa1)
    access = qualification & _ACCESS
    _keep(vcpu)
    if place is not None and not access & ~place.entry:
        return None
    return vcpu.system.refuse_access(vcpu, gpa1, access)


def _on_ept_misconfiguration(vcpu: "Vcpu") -> "Handling":
    """EPT02 is L0's own: a mistake."""
    address = vcpu.current.read(f.GUEST_PHYSICAL_ADDRESS)
    vcpu.stop_l1(stopping.unexpected_exit(vcpu, f"EPT02 is misconfigured at {address:#x}"))
    return None


_ROUTES: "dict[int, Callable[[Vcpu], Handling]]" = {
    R.INIT: _on_init,
    R.RDMSR: _on_rdmsr,
    R.WRMSR: _on_wrmsr,
    R.VMCALL: _on_vmcall,
    R.VMFUNC: _on_vmfunc,
    R.VMREAD: _on_field_access,
    R.VMWRITE: _on_field_access,
    R.EPT_VIOLATION: _on_ept_violation,
    R.EPT_MISCONFIGURATION: _on_ept_misconfiguration,
}
"""Exits that L0 looks at first; all others are L1's, since only L1's controls ask for them."""
