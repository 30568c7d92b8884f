"""Mistakes of real hypervisors, planted in L0: each is L0 with a method overridden.

`PLANTED` has them by name: a class to use in the place of `Hypervisor` (`SystemOptions.l0`). L0
itself knows nothing of them. That a test which plants one notices it shows that the test sees.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from turducken.address import Gpa1, Gpa2
from turducken.arch.exceptions import Vector
from turducken.arch.memory_types import MemoryType
from turducken.hypervisor import Hypervisor, MemoryControl, ShadowPolicyName, Vcpu
from turducken.hypervisor.context import Context
from turducken.hypervisor.memory_control import Change
from turducken.hypervisor.nested import Nested
from turducken.hypervisor.shadow import SHADOWS, ShadowPolicy
from turducken.hypervisor.shadow.cached import CachedShadow
from turducken.hypervisor.shadow.compose import (
    Composer,
    Composition,
    Denied12,
    EptView,
    Filled,
    Leaf12,
)
from turducken.hypervisor.shadow.policy import ShadowParts
from turducken.hypervisor.vmx_unit import GuestVmxUnit
from turducken.hypervisor.vpids import Vpids
from turducken.paging import entries as e
from turducken.paging.walker import Walk
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import EPT_QUALIFICATION, INTERRUPTION_VALID
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.instructions import (
    INVEPT_ALL_CONTEXTS,
    INVEPT_SINGLE_CONTEXT,
    SUCCEED,
    VmResult,
)
from turducken.vmx.interface import VmStatus, Wait
from turducken.vmx.vmcs import Slots

if TYPE_CHECKING:
    from turducken.hypervisor.ept01 import Place
    from turducken.hypervisor.vcpu import Handling

_R, _W, _X = (e.EPT_PTE.mask(one) for one in "RWX")
_RWX = _R | _W | _X
_LOW = 0xFFFF_FFFF
_WALK_LENGTH = 3
"""The only one that an EPTP may have: one less than the number of levels."""
_LINEAR_VALID = EPT_QUALIFICATION.mask("LINEAR_VALID")
_ACCESS = EPT_QUALIFICATION.mask("READ", "WRITE", "FETCH")
_INVALID_OPERAND = 28

PLANTED: dict[str, type[Hypervisor]] = {}
"""By the mistake's name."""


def _with(name: str, **parts: Any) -> None:
    """Plant by replacing parts of the processors (`Vcpu`'s class attributes)."""
    vcpu = type("PlantedVcpu", (Vcpu,), parts)
    PLANTED[name] = type("Planted", (Hypervisor,), {"vcpu_type": vcpu})


# EPT02's entries


def _spoiled(spoil: Callable[[int], int]) -> type[Composer]:
    class Spoiled(Composer):
        """Leaves of EPT02 with something wrong with them."""

        def combine(self, view: EptView, gpa2: Gpa2, leaf12: Leaf12, place: "Place") -> Composition:
            """See `Composer.combine`."""
            found = super().combine(view, gpa2, leaf12, place)
            return found._replace(entry=spoil(found.entry)) if isinstance(found, Filled) else found

    return Spoiled


_with(
    "wrong_memory_type",
    composer_type=_spoiled(lambda entry: e.EPT_MEMORY_TYPE.put(entry, MemoryType.UC)),
)
"""EPT02's leaves are UC, whatever EPT12 says."""
_with("dropped_permission", composer_type=_spoiled(lambda entry: entry & ~_W))
"""EPT02's leaves are not writable."""
_with(
    "execute_only_readable",
    composer_type=_spoiled(lambda entry: entry | (_R if entry & _X else 0)),
)
"""EPT02's entries have no way to say that R is missing where X is given."""
_with("narrow_type_setter", composer_type=_spoiled(lambda entry: entry & _LOW))
"""What puts the memory type into EPT02's leaves returns 32 bits of them."""


class _LeafRights(Composer):
    """Only the permissions of EPT12's leaf count, not those of the levels above."""

    def rights_of(self, found: Walk) -> int:
        """See `Composer.rights_of`."""
        return found.leaf


_with("leaf_permissions_only", composer_type=_LeafRights)


class _SharedOverRights(Composer):
    """What was worked out for a table of EPT12 serves wherever the table is.

    Whatever rights the entries above it give there.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._first: dict[int, int] = {}

    def rights_of(self, found: Walk) -> int:
        """See `Composer.rights_of`."""
        above = _RWX
        for step in found.steps[:-1]:
            above &= step.entry
        return found.leaf & self._first.setdefault(found.steps[-1].address & -4096, above)


_with("shared_over_rights", composer_type=_SharedOverRights)


class _WriteOnlyIsViolation(Composer):
    """An entry of EPT12 with W but not R is taken for a violation."""

    def malformed(self, found: Walk) -> Composition:
        """See `Composer.malformed`."""
        return Denied12(0) if found.leaf & _RWX == _W else super().malformed(found)


_with("write_only_is_violation", composer_type=_WriteOnlyIsViolation)


# EPT02s


def _shadows(mixin: type[CachedShadow]) -> Callable[[ShadowPolicyName, ShadowParts], ShadowPolicy]:
    """Return what makes shadows with ``mixin`` over every policy that keeps its EPT02s."""

    def make(name: ShadowPolicyName, parts: ShadowParts) -> ShadowPolicy:
        base = SHADOWS[name]
        if not issubclass(base, CachedShadow):
            return base(parts)
        planted = type("Planted", (mixin, base), {}) if base is not CachedShadow else mixin
        made: ShadowPolicy = planted(parts)
        return made

    return make


class _AbsenceKept(CachedShadow):
    """What EPT12 did not map is remembered until INVEPT, which L1 need not execute for that."""

    def __init__(self, parts: ShadowParts) -> None:
        super().__init__(parts)
        self._absent: dict[int, set[int]] = {}

    def fill(self, gpa2: Gpa2, access: int) -> Composition:
        """See `CachedShadow.fill`."""
        current = self._current
        assert current is not None
        absent = self._absent.setdefault(current.eptp, set())
        if gpa2 >> 12 in absent:
            return Denied12(0)
        found = super().fill(gpa2, access)
        if isinstance(found, Denied12):
            absent.add(gpa2 >> 12)
        return found

    def invept(self, ep4ta: int | None) -> None:
        """See `CachedShadow.invept`."""
        self._absent.clear()
        super().invept(ep4ta)


_with("absence_kept", make_shadow=staticmethod(_shadows(_AbsenceKept)))


class _OneOfSeveral(CachedShadow):
    """INVEPT drops one of the shadows that share an EPT12 root."""

    def invept(self, ep4ta: int | None) -> None:
        """See `CachedShadow.invept`."""
        for shadow in list(self._shadows.values()):
            if ep4ta is None or shadow.root12.ep4ta == ep4ta:
                self._empty(shadow)
                return


_with("one_of_several_shadows", make_shadow=staticmethod(_shadows(_OneOfSeveral)))


# L1's invalidations


def _skipped(_vcpu: Vcpu, _kind: int, _eptp: int) -> None:
    """L1's INVEPT does nothing."""


def _of_current(vcpu: Vcpu, kind: int, eptp: int) -> None:
    """L1's INVEPT acts on the EPTP of the current VMCS12 instead of its operand."""
    current = vcpu.unit.current
    Vcpu.invalidate_ept12(vcpu, kind, eptp if current is None else current.read(f.EPTP))


def _by_whole_eptp(vcpu: Vcpu, kind: int, eptp: int) -> None:
    """INVEPT compares all bits of its operand with the EPTP, not only bits 51:12."""
    current = vcpu.unit.current
    difference = 0 if current is None else current.read(f.EPTP) ^ eptp
    if not difference or difference & e.EP4TA_MASK:
        Vcpu.invalidate_ept12(vcpu, kind, eptp)


def _known_types_only(vcpu: Vcpu, kind: int, eptp: int) -> None:
    if kind in (INVEPT_SINGLE_CONTEXT, INVEPT_ALL_CONTEXTS):
        Vcpu.invalidate_ept12(vcpu, kind, eptp)


class _AnyType(GuestVmxUnit):
    """INVEPT of a type that does not exist succeeds, and does nothing."""

    def refuse_invept_type(self, kind: int) -> VmResult | None:
        """See `VmxUnit.refuse_invept_type`."""
        return None

    def check_invept(self, kind: int, eptp: int, reserved: int = 0) -> VmResult:
        """See `VmxUnit.check_invept`."""
        result = super().check_invept(kind, eptp, reserved)
        return SUCCEED if result.status is not VmStatus.SUCCEED else result


class _LowerHalfOnly(GuestVmxUnit):
    """INVVPID by address refuses addresses in the upper half."""

    def check_invvpid(self, kind: int, descriptor: int, address: int) -> VmResult:
        """See `VmxUnit.check_invvpid`."""
        if address >> 47:
            return self.fail(_INVALID_OPERAND)
        return super().check_invvpid(kind, descriptor, address)


_with("skipped_invept", invalidate_ept12=_skipped)
_with("invept_of_current", invalidate_ept12=_of_current)
_with("invept_by_whole_eptp", invalidate_ept12=_by_whole_eptp)
_with("invept_type_unchecked", unit_type=_AnyType, invalidate_ept12=_known_types_only)
_with("canonical_lower_half_only", unit_type=_LowerHalfOnly)


# What L0 invalidates


def _wrong_root(vcpu: Vcpu, _eptp: int) -> None:
    """A dropped EPT02 is invalidated under EPT01's EPTP."""
    Vcpu.invept(vcpu, vcpu.eptp01)


def _forgotten_root(vcpu: Vcpu, eptp: int) -> None:
    """Invalidating an EPT02 forgets EPT01's root too."""
    vcpu.vmcs01.write(f.EPTP, 0)
    Vcpu.invept(vcpu, eptp)


class _SharedVpid(Vpids):
    """L2 runs under L1's own VPID."""

    def of(self, vpid12: int) -> int:
        """See `Vpids.of`."""
        return self.own


class _NoTransitionFlush(Nested):
    """Nothing is flushed at transitions where L1 uses no VPID."""

    def flush_transition(self, context: Context) -> None:
        """See `Nested.flush_transition`."""


_with("flush_of_wrong_root", invept=_wrong_root)
_with("forgotten_root", invept=_forgotten_root)
_with("shared_vpid", vpids_type=_SharedVpid)
_with("no_transition_flush", nested_type=_NoTransitionFlush)


# What must follow EPT01


def _shadow_left_behind(vcpu: Vcpu) -> None:
    """EPT01 changes, but EPT02 stays as it is."""
    if vcpu.is_ept01_stale:
        vcpu.is_ept01_stale = False
        vcpu.invept(vcpu.eptp01)
        vcpu.nested.ept01_changed()


class _AddressesLeftBehind(Nested):
    """EPT01 changes, but the translated addresses in VMCS02 stay as they are."""

    def ept01_changed(self) -> None:
        """See `Nested.ept01_changed`."""


class _OneProcessorOnly(MemoryControl):
    """EPT01 changes on the processor that asks for it, and on no other."""

    def apply(
        self,
        by: Vcpu,
        changes: Sequence[Change],
        processors: Iterable[int] | None = None,
        *,
        omit_shootdown: bool = False,
    ) -> Generator[Wait, None, None]:
        """See `MemoryControl.apply`."""
        return super().apply(by, changes, [by.index], omit_shootdown=omit_shootdown)


class _WaitsForNobody(MemoryControl):
    """A change of EPT01 does not wait for the processors that it was announced to."""

    def on_others(
        self, by: Vcpu, others: Sequence[Vcpu], request: Callable[[Vcpu], None]
    ) -> Generator[Wait, None, None]:
        """See `MemoryControl.on_others`."""
        for vcpu in others:
            vcpu.requests.append(request)
        yield from ()


_with("shadow_left_behind", settle_ept01=_shadow_left_behind)
_with("addresses_left_behind", nested_type=_AddressesLeftBehind)
PLANTED["one_processor_only"] = type("Planted", (Hypervisor,), {"control_type": _OneProcessorOnly})
PLANTED["waits_for_nobody"] = type("Planted", (Hypervisor,), {"control_type": _WaitsForNobody})


# Events, entries and exits


def _lost_vectoring(vcpu: Vcpu) -> None:
    """IDT-vectoring information is dropped when L0 handles an exit."""
    if not vcpu.current.read(f.IDT_VECTORING_INFORMATION) & INTERRUPTION_VALID:
        Vcpu.inject_again(vcpu)


def _lost_length(vcpu: Vcpu) -> None:
    """A software event is injected again without its instruction length."""
    Vcpu.inject_again(vcpu)
    vcpu.current.write(f.ENTRY_INSTRUCTION_LENGTH, 0)


class _PdptesFromWrongCr3(Nested):
    """PDPTEs of an L2 without EPT are read at L1's CR3."""

    def load_pdptes(self, words: Slots) -> None:
        """See `Nested.load_pdptes`."""
        right, words[f.GUEST_CR3.slot] = words[f.GUEST_CR3.slot], self.cr3_of_l1
        super().load_pdptes(words)
        words[f.GUEST_CR3.slot] = right


class _InjectionLeft(Nested):
    """The injection that an entry made stays in VMCS12."""

    def exit_to_l1(self, reason: int, qualification: int) -> None:
        """See `Nested.exit_to_l1`."""
        context = self.current
        assert context is not None
        slots, slot = context.vmcs12.slots, f.ENTRY_INTERRUPTION_INFORMATION.slot
        injected = slots[slot]
        super().exit_to_l1(reason, qualification)
        slots[slot] = injected


class _WalkLengthUnchecked(Nested):
    """The walk length in L1's EPTP is not looked at."""

    def enter(self, *, is_launch: bool) -> VmResult | None:
        """See `Nested.enter`."""
        vmcs12 = self.unit.current
        if vmcs12 is not None:
            vmcs12.write(f.EPTP, e.EPTP["WALK"].put(vmcs12.read(f.EPTP), _WALK_LENGTH))
        return super().enter(is_launch=is_launch)


_with("lost_vectoring", inject_again=_lost_vectoring)
_with("lost_instruction_length", inject_again=_lost_length)
_with("pdptes_from_wrong_cr3", nested_type=_PdptesFromWrongCr3)
_with("injection_left", nested_type=_InjectionLeft)
_with("walk_length_unchecked", nested_type=_WalkLengthUnchecked)


class _PdpteViolationIsGp(Hypervisor):
    """Where L2's MOV to CR cannot read its PDPTEs through EPT12, L2 gets #GP."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._right, self.l2_handler = self.l2_handler, self._handle

    def _handle(self, vcpu: Vcpu) -> "Handling":
        read = vcpu.current.read
        qualification = read(f.EXIT_QUALIFICATION)
        if read(f.EXIT_REASON) != ExitReason.EPT_VIOLATION or qualification & _LINEAR_VALID:
            return self._right(vcpu)
        gpa2 = Gpa2(read(f.GUEST_PHYSICAL_ADDRESS))
        if isinstance(vcpu.shadow.fill(gpa2, qualification & _ACCESS), Filled):
            return self._right(vcpu)
        vcpu.inject(Vector.GP, 0)
        return None


class _StoreDoneTwice(Hypervisor):
    """A store that an application has completed is executed again, because EPT01 changed."""

    def app_violation(self, vcpu: Vcpu, gpa1: Gpa1, access: int) -> "Handling | Literal[False]":
        """See `Hypervisor.app_violation`."""
        rip = vcpu.current.read(f.GUEST_RIP)
        handling = super().app_violation(vcpu, gpa1, access)
        if handling is not False:
            vcpu.current.write(f.GUEST_RIP, rip)
        return handling


PLANTED["pdpte_violation_is_gp"] = _PdpteViolationIsGp
PLANTED["store_done_twice"] = _StoreDoneTwice
