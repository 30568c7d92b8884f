"""Running PALs: a call, its return, and everything else that ends it.

A caller fetches at the entry point, which EPT01 refuses; the PAL then runs under a VMCS of
TrustVisor's in the caller's place, whose own state rests. The PAL returns to an address that is
mapped nowhere in it: that fetch is a page fault, which exits.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turducken.apps.trustvisor.abi import RETURN_ADDRESS, Status
from turducken.apps.trustvisor.guest_state import enter_space, make_pal_vmcs
from turducken.apps.trustvisor.pal import Pal, PalMemory, PalState
from turducken.apps.trustvisor.parameters import (
    Parameters,
    pass_in,
    pass_out,
    read_frame,
    set_up_stack,
)
from turducken.arch.exceptions import Vector
from turducken.arch.registers import RFLAGS
from turducken.hypervisor.current_guest import CurrentGuest
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import (
    BLOCKING_BY_MOV_SS,
    BLOCKING_BY_STI,
    INTERRUPTION_VALID,
    INTERRUPTION_VECTOR,
)
from turducken.vmx.exit_reasons import ENTRY_FAILURE
from turducken.vmx.exit_reasons import ExitReason as R
from turducken.vmx.interface import Wait

if TYPE_CHECKING:
    from turducken.apps.trustvisor.app import TrustVisor
    from turducken.hypervisor import Vcpu
    from turducken.hypervisor.vcpu import Handling

_CF, _RF, _VM = (RFLAGS.mask(one) for one in ("CF", "RF", "VM"))
_RAX = 0
_LOW = 0xFFFF_FFFF
_USER = 3
_REGISTERS = 16


@dataclass(slots=True)
class Call:
    """A call that goes on: who called, with which registers, and what comes back."""

    pal: Pal
    registers: list[int]
    return_address: int
    stack_after: int
    passed: Parameters


class PalGuest:
    """The PALs of one processor, one at a time: an `AppGuest`."""

    def __init__(self, app: "TrustVisor", vcpu: "Vcpu") -> None:
        self._app = app
        self.vmcs = make_pal_vmcs(vcpu, vcpu.vpids.reserve())
        self.is_launched = False
        self._call: Call | None = None

    # Calls

    def call(self, vcpu: "Vcpu", guest: CurrentGuest, pal: Pal) -> bool:
        """Let a PAL run for the guest that fetched at its entry; False where it is no such call."""
        gpr = vcpu.processor.gpr
        stack = guest.vmcs.read(f.GUEST_RSP)
        if vcpu.in_l2:
            vcpu.nested.keep()
        frame = read_frame(guest, pal, stack, gpr)
        if frame is None or not guest.is_canonical(frame.return_address):
            return False
        memory = PalMemory(vcpu.system.memory, pal)
        passed = pass_in(guest, pal, memory, frame.words)
        width = 8 if pal.is_64bit else 4
        call = Call(
            pal,
            [gpr[number] for number in range(_REGISTERS)],
            frame.return_address,
            stack + width if pal.is_64bit else stack + width & _LOW,
            passed or Parameters(),
        )
        if passed is None:
            _return(vcpu, call, Status.BAD_ADDRESS, failed=True)
            return True
        self._begin(vcpu, call, memory)
        return True

    def _begin(self, vcpu: "Vcpu", call: Call, memory: PalMemory) -> None:
        pal, gpr, vmcs = call.pal, vcpu.processor.gpr, self.vmcs
        assert pal.space is not None
        for number in range(_REGISTERS):
            gpr[number] = 0
        enter_space(vcpu, vmcs, pal.space, is_64bit=pal.is_64bit)
        vmcs.write(f.GUEST_RSP, set_up_stack(pal, memory, call.passed.words, gpr))
        vmcs.write(f.GUEST_RIP, pal.descriptor.entry)
        pal.state = PalState.RUNNING
        pal.calls += 1
        pal.ran_on.add(vcpu.index)
        self._call = call
        vcpu.run_app_guest(self)

    # Exits

    def on_exit(self, vcpu: "Vcpu") -> "Handling":
        """The PAL has exited."""
        reason = self.vmcs.read(f.EXIT_REASON)
        assert not reason & ENTRY_FAILURE, f"a PAL's state was refused: {reason:#x}"
        self.is_launched = True
        handler = {
            R.EXCEPTION_OR_NMI: self._on_exception,
            R.VMCALL: self._on_hypercall,
            R.CPUID: self._on_cpuid,
            R.INIT: self._on_init,
        }.get(R(reason & 0xFFFF), self._fault)
        return handler(vcpu)

    def _on_exception(self, vcpu: "Vcpu") -> "Handling":
        information = self.vmcs.read(f.EXIT_INTERRUPTION_INFORMATION)
        returned = (
            information & INTERRUPTION_VECTOR == Vector.PF
            and self.vmcs.read(f.GUEST_RIP) == RETURN_ADDRESS
        )
        return self._returned(vcpu) if returned else self._fault(vcpu)

    def _on_hypercall(self, vcpu: "Vcpu") -> "Handling":
        assert self._call is not None
        self._app.on_pal_hypercall(vcpu, self._call.pal)
        vcpu.skip()
        return None

    def _on_cpuid(self, vcpu: "Vcpu") -> "Handling":
        gpr = vcpu.processor.gpr
        answer = vcpu.processor.cpuid(gpr[0] & _LOW, gpr[1] & _LOW)
        gpr[0], gpr[3], gpr[1], gpr[2] = answer
        vcpu.skip()
        return None

    # Ends

    def _end(self, vcpu: "Vcpu") -> Call:
        call, self._call = self._call, None
        assert call is not None
        call.pal.state = PalState.READY
        for number, value in enumerate(call.registers):
            vcpu.processor.gpr[number] = value
        return call

    def _returned(self, vcpu: "Vcpu") -> "Handling":
        result = vcpu.processor.gpr[_RAX]
        call = self._end(vcpu)
        vcpu.end_app_guest()
        memory = PalMemory(vcpu.system.memory, call.pal)
        if pass_out(CurrentGuest(vcpu), memory, call.passed):
            _return(vcpu, call, result, failed=False)
        else:
            _return(vcpu, call, Status.BAD_ADDRESS, failed=True)
        return None

    def _fault(self, vcpu: "Vcpu") -> "Handling":
        """The PAL did what no PAL may: its caller learns of it, and the PAL is no more."""
        call = self._end(vcpu)
        vcpu.end_app_guest()
        _return(vcpu, call, Status.PAL_FAULT, failed=True)
        self._app.statistics.faults += 1
        return self._retire(vcpu, call.pal)

    def _retire(self, vcpu: "Vcpu", pal: Pal) -> Generator[Wait, None, None]:
        yield from self._app.registry.unregister(vcpu, pal)

    def _on_init(self, vcpu: "Vcpu") -> "Handling":
        """INIT is L0's own, or the end of the call, not of the PAL; L1 may have it wait."""
        if vcpu.was_kicked():
            return None
        if vcpu.blocks_init:
            vcpu.init_pending = True
        else:
            self._end(vcpu)
            vcpu.take_init()
        return None


def is_call(guest: CurrentGuest, pal: Pal) -> bool:
    """Tell whether the fetch that EPT01 has refused is a call of ``pal`` by its entry point.

    The caller must be what the PAL was registered for: L1 or L2, 32-bit or 64-bit code, in user
    mode with flat segments; and it must have the PAL at the PAL's own linear addresses.
    """
    vmcs = guest.vmcs
    is_flat = not any(vmcs.read(one) for one in (f.GUEST_CS_BASE, f.GUEST_SS_BASE))
    return (
        vmcs.read(f.GUEST_RIP) == pal.descriptor.entry
        and guest.locate(pal.descriptor.entry, write=False)
        == pal.entry_page.gpa1 + pal.descriptor.entry % 4096
        and guest.level == pal.owner.level
        and guest.is_64bit == pal.is_64bit
        and guest.privilege == _USER
        and not vmcs.read(f.GUEST_RFLAGS) & _VM
        and not vmcs.read(f.IDT_VECTORING_INFORMATION) & INTERRUPTION_VALID
        and is_flat
    )


def _return(vcpu: "Vcpu", call: Call, result: int, *, failed: bool) -> None:
    """Let the caller go on behind its call, with ``result`` in RAX and CF telling of failure."""
    slots = vcpu.current.slots
    vcpu.processor.gpr[_RAX] = result if call.pal.is_64bit else result & _LOW
    slots[f.GUEST_RIP.slot] = call.return_address
    slots[f.GUEST_RSP.slot] = call.stack_after
    flags = slots[f.GUEST_RFLAGS.slot] & ~(_CF | _RF)
    slots[f.GUEST_RFLAGS.slot] = flags | (_CF if failed else 0)
    slots[f.GUEST_INTERRUPTIBILITY.slot] &= ~(BLOCKING_BY_STI | BLOCKING_BY_MOV_SS)
