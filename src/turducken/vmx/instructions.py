"""The VMX instructions' own semantics, once mode and privilege are right (`turducken.vmx.gates`).

SDM 3C, "VMX Instruction Reference". `VmxUnit` is what one logical processor knows of VMX operation;
the memory it works on is a parameter, so that the machine's processor and a hypervisor that
emulates VMX for its guest use the same one. Invalidation and VM entry themselves are the caller's.
"""

from typing import NamedTuple

from turducken.address import PAGE_OFFSET_MASK, Hpa
from turducken.memory import Memory
from turducken.vmx import vmcs_fields as f
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.capability_msrs import EPT_VPID_CAP
from turducken.vmx.controls import Primary, Secondary, VmFunction
from turducken.vmx.gates import Outcome, ungated
from turducken.vmx.instruction_errors import InstructionError
from turducken.vmx.interface import VmStatus
from turducken.vmx.vmcs import REVISION_MASK, SHADOW_INDICATOR, Vmcs

NO_POINTER = 0xFFFF_FFFF_FFFF_FFFF
"""The current-VMCS pointer, or a VMCS link pointer, that points nowhere."""

_MAX_VIEWS = 256
_VPID_MASK = 0xFFFF
_FUNCTIONS = 64
_EPTP_LIST_ENTRIES = 512


class VmResult(NamedTuple):
    """How an instruction ended: SDM 3C, "Conventions" (of the VMX instruction reference)."""

    status: VmStatus
    error: int
    """The number in the VM-instruction error field, for VMfailValid; else 0."""


SUCCEED = VmResult(VmStatus.SUCCEED, 0)
FAIL_INVALID = VmResult(VmStatus.FAIL_INVALID, 0)
_FAIL_VALID = {int(one): VmResult(VmStatus.FAIL_VALID, one) for one in InstructionError}

INVEPT_SINGLE_CONTEXT, INVEPT_ALL_CONTEXTS = 1, 2
_INVEPT_TYPES = {
    INVEPT_SINGLE_CONTEXT: EPT_VPID_CAP.mask("INVEPT_SINGLE_CONTEXT"),
    INVEPT_ALL_CONTEXTS: EPT_VPID_CAP.mask("INVEPT_ALL_CONTEXTS"),
}
INVVPID_INDIVIDUAL_ADDRESS, INVVPID_SINGLE_CONTEXT = 0, 1
INVVPID_ALL_CONTEXTS, INVVPID_RETAINING_GLOBALS = 2, 3
_INVVPID_TYPES = {
    INVVPID_INDIVIDUAL_ADDRESS: EPT_VPID_CAP.mask("INVVPID_INDIVIDUAL_ADDRESS"),
    INVVPID_SINGLE_CONTEXT: EPT_VPID_CAP.mask("INVVPID_SINGLE_CONTEXT"),
    INVVPID_ALL_CONTEXTS: EPT_VPID_CAP.mask("INVVPID_ALL_CONTEXTS"),
    INVVPID_RETAINING_GLOBALS: EPT_VPID_CAP.mask("INVVPID_RETAINING_GLOBALS"),
}


class VmxUnit:
    """One logical processor's part in VMX operation.

    ``current`` is the VMCS of the current-VMCS pointer, None where that is not valid; ``readable``
    and ``writable`` are the encodings that VMREAD and VMWRITE accept.
    """

    __slots__ = (
        "_views",
        "capabilities",
        "current",
        "cycle",
        "in_operation",
        "memory",
        "readable",
        "ungated",
        "vmxon_pointer",
        "writable",
    )

    def __init__(self, capabilities: Capabilities, memory: Memory) -> None:
        self.capabilities = capabilities
        self.memory = memory
        self.in_operation = False
        self.vmxon_pointer = NO_POINTER
        self.current: Vmcs | None = None
        self.cycle = 0
        """Counts VMXONs, for error 6."""
        self._views: dict[int, Vmcs] = {}
        self.readable = capabilities.accesses
        self.ungated = ungated(capabilities)
        """Instructions that no rule refuses in 64-bit mode at CPL 0 in root operation."""
        self.writable = {
            encoding: access
            for encoding, access in capabilities.accesses.items()
            if capabilities.writable_exit_information or not access.field.is_read_only
        }

    @property
    def current_pointer(self) -> int:
        """The current-VMCS pointer; `NO_POINTER` where there is no current VMCS."""
        return NO_POINTER if self.current is None else self.current.region

    def vmcs_at(self, region: int) -> Vmcs:
        """Return the VMCS at a physical address of the unit's memory."""
        view = self._views.get(region)
        if view is None:
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            view = self._views[region] = Vmcs(self.memory, Hpa(region))
        return view

    # Failure

    def fail(self, error: int) -> VmResult:
        """VMfail: VMfailValid with an error number where there is a current VMCS."""
        if self.current is None:
            return FAIL_INVALID
        self.current.slots[f.VM_INSTRUCTION_ERROR.slot] = error
        return _FAIL_VALID[error]

    # Entering and leaving VMX operation

    def vmxon(self, pointer: int) -> VmResult:
        """VMXON of a VMXON region at a physical address."""
        if self.in_operation:
            return self.fail(InstructionError.VMXON_IN_ROOT)
        if self._is_bad_pointer(pointer) or self._header(pointer) != self.capabilities.revision:
            return FAIL_INVALID
        self.in_operation = True
        self.vmxon_pointer = pointer
        self.current = None
        self.cycle += 1
        return SUCCEED

    def vmxoff(self) -> VmResult:
        """VMXOFF. Every VMCS keeps its data and launch state, as if VMXOFF had not seen them."""
        self.reset()
        return SUCCEED

    def reset(self) -> None:
        """Leave VMX operation without ceremony (INIT outside it, power-up)."""
        self.in_operation = False
        self.vmxon_pointer = NO_POINTER
        self.current = None

    # VMCS pointers

    def vmclear(self, pointer: int) -> VmResult:
        """VMCLEAR of the VMCS at a physical address."""
        if self._is_bad_pointer(pointer):
            return self.fail(InstructionError.VMCLEAR_INVALID_ADDRESS)
        if pointer == self.vmxon_pointer:
            return self.fail(InstructionError.VMCLEAR_VMXON_POINTER)
        vmcs = self.vmcs_at(pointer)
        vmcs.set_clear()
        vmcs.normalize()
        if self.current is vmcs or self.current_pointer == pointer:
            self.current = None
        return SUCCEED

    def vmptrld(self, pointer: int) -> VmResult:
        """VMPTRLD of the VMCS at a physical address."""
        if self._is_bad_pointer(pointer):
            return self.fail(InstructionError.VMPTRLD_INVALID_ADDRESS)
        if pointer == self.vmxon_pointer:
            return self.fail(InstructionError.VMPTRLD_VMXON_POINTER)
        header = self._header(pointer)
        wrong = header & REVISION_MASK != self.capabilities.revision
        if wrong or (header & SHADOW_INDICATOR and not self._has_shadowing):
            return self.fail(InstructionError.VMPTRLD_WRONG_REVISION)
        self.current = self.vmcs_at(pointer)
        self.current.normalize()
        return SUCCEED

    def vmptrst(self) -> int:
        """Return what VMPTRST stores."""
        return self.current_pointer

    @property
    def _has_shadowing(self) -> bool:
        return bool(self.capabilities.secondary.allowed1 & Secondary.VMCS_SHADOWING)

    def _is_bad_pointer(self, pointer: int) -> bool:
        return bool(pointer & (PAGE_OFFSET_MASK | self.capabilities.address_reserved))

    def _header(self, pointer: int) -> int:
        """Return the first 4 bytes of a region (what no revision is where there is no memory)."""
        header = self.memory.load(pointer, 4)
        return 0xFFFF_FFFF if header is None else header

    # Fields

    def vmread(self, encoding: int) -> int | VmResult:
        """VMREAD in root operation: return the field's value, or how the instruction failed."""
        current = self.current
        if current is None:
            return FAIL_INVALID
        access = self.readable.get(encoding)
        if access is None:
            return self.fail(InstructionError.UNSUPPORTED_COMPONENT)
        if access.is_high:
            return current.slots[access.slot] >> 32
        return current.slots[access.slot] & access.mask

    def vmwrite(self, encoding: int, value: int) -> VmResult:
        """VMWRITE in root operation."""
        current = self.current
        if current is None:
            return FAIL_INVALID
        access = self.writable.get(encoding)
        if access is None:
            return self.fail(self._write_error(encoding))
        if access.is_high:
            current.write_access(access, value)
        else:
            current.slots[access.slot] = value & access.mask
        return SUCCEED

    def _write_error(self, encoding: int) -> InstructionError:
        if encoding in self.readable:
            return InstructionError.VMWRITE_READ_ONLY
        return InstructionError.UNSUPPORTED_COMPONENT

    # VMCS shadowing

    def shadow_access_exits(self, encoding: int, *, is_write: bool) -> bool:
        """Tell whether VMREAD or VMWRITE in non-root operation causes a VM exit.

        ``current`` is the VMCS of the running guest. SDM 3C, "Instructions That Cause VM Exits
        Conditionally".
        """
        assert self.current is not None
        slots = self.current.slots
        if not slots[f.PRIMARY_CONTROLS.slot] & Primary.ACTIVATE_SECONDARY_CONTROLS:
            return True
        if not slots[f.SECONDARY_CONTROLS.slot] & Secondary.VMCS_SHADOWING:
            return True
        if encoding >> 15:
            return True
        bitmap = slots[(f.VMWRITE_BITMAP if is_write else f.VMREAD_BITMAP).slot]
        word = self.memory.load(bitmap + (encoding >> 6 << 3), 8)
        return word is None or bool(word >> (encoding & 63) & 1)

    def shadow_vmread(self, encoding: int) -> int | VmResult:
        """VMREAD in non-root operation that does not exit: of the VMCS the link pointer names.

        VMfailValid writes the VM-instruction error field of the current VMCS, not the linked one's.
        """
        linked = self._linked()
        if linked is None:
            return FAIL_INVALID
        access = self.readable.get(encoding)
        if access is None:
            return self.fail(InstructionError.UNSUPPORTED_COMPONENT)
        return linked.read_access(access)

    def shadow_vmwrite(self, encoding: int, value: int) -> VmResult:
        """VMWRITE in non-root operation that does not exit."""
        linked = self._linked()
        if linked is None:
            return FAIL_INVALID
        access = self.writable.get(encoding)
        if access is None:
            return self.fail(self._write_error(encoding))
        linked.write_access(access, value)
        return SUCCEED

    def _linked(self) -> Vmcs | None:
        """Return the VMCS that the current VMCS's link pointer names."""
        assert self.current is not None
        link = self.current.slots[f.VMCS_LINK_POINTER.slot]
        return None if link == NO_POINTER else self.vmcs_at(link)

    # VM entry

    def entry_precondition(self, *, is_launch: bool, is_blocked_by_mov_ss: bool) -> VmResult | None:
        """Return how VMLAUNCH or VMRESUME fails before it looks at any field; None if it goes on.

        SDM 3C, "Basic VM-Entry Checks".
        """
        current = self.current
        if current is None or current.is_shadow:
            return FAIL_INVALID
        if is_blocked_by_mov_ss:
            return self.fail(InstructionError.ENTRY_BLOCKED_BY_MOV_SS)
        launched = current.is_launched
        if is_launch:
            return self.fail(InstructionError.VMLAUNCH_NON_CLEAR) if launched else None
        if not launched:
            return self.fail(InstructionError.VMRESUME_NON_LAUNCHED)
        if (
            self.capabilities.cpu.vmresume_after_vmxoff_fails
            and current.launch_cycle != self.cycle & 0xFFFF_FFFF
        ):
            return self.fail(InstructionError.VMRESUME_AFTER_VMXOFF)
        return None

    def set_launched(self) -> None:
        """Note that VMLAUNCH of the current VMCS succeeded."""
        assert self.current is not None
        self.current.set_launched(self.cycle)

    def vmcall_in_root(self) -> VmResult:
        """VMCALL in root operation (there is no dual-monitor treatment of SMIs)."""
        return self.fail(InstructionError.VMCALL_IN_ROOT)

    # Invalidation

    def refuse_invept_type(self, kind: int) -> VmResult | None:
        """Return how INVEPT fails for its type, before it reads its descriptor, or None."""
        return self._refuse_type(_INVEPT_TYPES.get(kind))

    def refuse_invvpid_type(self, kind: int) -> VmResult | None:
        """Return how INVVPID fails for its type, before it reads its descriptor, or None."""
        return self._refuse_type(_INVVPID_TYPES.get(kind))

    def _refuse_type(self, needed: int | None) -> VmResult | None:
        if needed is not None and self.capabilities.has(needed):
            return None
        return self.fail(InstructionError.INVALID_INVEPT_INVVPID_OPERAND)

    def check_invept(self, kind: int, eptp: int, reserved: int = 0) -> VmResult:
        """Check INVEPT's operands: its type, and the two halves of its descriptor.

        The manual's figure says that the descriptor's upper half must be zero, its operation
        section does not test it; we do.
        """
        refused = self.refuse_invept_type(kind)
        if refused is not None:
            return refused
        wrong = kind == INVEPT_SINGLE_CONTEXT and not self.capabilities.accepts_eptp(eptp)
        if wrong or reserved:
            return self.fail(InstructionError.INVALID_INVEPT_INVVPID_OPERAND)
        return SUCCEED

    def check_invvpid(self, kind: int, descriptor: int, address: int) -> VmResult:
        """Check INVVPID's operands: its type, and the two halves of its descriptor."""
        refused = self.refuse_invvpid_type(kind)
        if refused is not None:
            return refused
        wrong = (
            descriptor & ~_VPID_MASK
            or (kind != INVVPID_ALL_CONTEXTS and not descriptor)
            or (kind == INVVPID_INDIVIDUAL_ADDRESS and not self.capabilities.is_canonical(address))
        )
        if wrong:
            return self.fail(InstructionError.INVALID_INVEPT_INVVPID_OPERAND)
        return SUCCEED

    # VM functions

    def vmfunc(self, function: int, index: int) -> int | Outcome:
        """VMFUNC in non-root operation, with EAX and ECX: return the EPTP to use from now on.

        Writes it to the current VMCS. SDM 3C, "VM Functions"; any CPL may use them.
        """
        assert self.current is not None
        slots = self.current.slots
        enabled = slots[f.PRIMARY_CONTROLS.slot] & Primary.ACTIVATE_SECONDARY_CONTROLS
        if not enabled or not slots[f.SECONDARY_CONTROLS.slot] & Secondary.ENABLE_VM_FUNCTIONS:
            return Outcome.UD
        if function >= _FUNCTIONS:
            return Outcome.UD
        if not slots[f.VM_FUNCTION_CONTROLS.slot] >> function & 1:
            return Outcome.EXIT
        if 1 << function != VmFunction.EPTP_SWITCHING or index >= _EPTP_LIST_ENTRIES:
            return Outcome.EXIT
        eptp = self.memory.load(slots[f.EPTP_LIST_ADDRESS.slot] + 8 * index, 8)
        if eptp is None or not self.capabilities.accepts_eptp(eptp):
            return Outcome.EXIT
        slots[f.EPTP.slot] = eptp
        if self.capabilities.secondary.allowed1 & Secondary.EPT_VIOLATION_VE:
            slots[f.EPTP_INDEX.slot] = index
        return eptp
