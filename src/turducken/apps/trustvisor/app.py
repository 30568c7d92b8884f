"""TrustVisor as an application on L0: its options, and which hook does what."""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Literal

from turducken.address import Gpa1
from turducken.apps.trustvisor import abi
from turducken.apps.trustvisor.abi import Function, Status
from turducken.apps.trustvisor.calls import PalGuest, is_call
from turducken.apps.trustvisor.measuring import extend
from turducken.apps.trustvisor.pal import Pal, PalMemory, PalState
from turducken.apps.trustvisor.registration import Registry
from turducken.hypervisor import Hypapp
from turducken.hypervisor.current_guest import CurrentGuest
from turducken.hypervisor.hypapp import Ept01Sharing
from turducken.vmx.interface import Wait

if TYPE_CHECKING:
    from turducken.hypervisor import Hypervisor, Vcpu
    from turducken.hypervisor.vcpu import Handling

_RAX, _RCX, _RDX, _RBX = 0, 1, 2, 3
_LOW = 0xFFFF_FFFF
_FETCH = 4


class Sharing(Enum):
    """How the processors share EPT01."""

    ONE = "one"
    """One root for all processors, as in the original."""
    COPIED = "copied"
    """A root for each processor: the upper levels are copies, as in the later fix."""


@dataclass(frozen=True, slots=True)
class TrustVisorOptions:
    """What a user can choose."""

    sharing: Sharing = Sharing.ONE
    shootdown: bool = True
    """Off: a PAL's pages are taken away without INVEPT on the other processors."""


@dataclass(slots=True)
class Statistics:
    """What TrustVisor counts."""

    registered: int = 0
    calls: int = 0
    faults: int = 0
    refused: int = 0
    """Accesses to PALs from outside that were refused."""


class TrustVisor(Hypapp):
    """Registers PALs, isolates them, and runs them when they are called."""

    name = "trustvisor"
    Options: ClassVar[type | None] = TrustVisorOptions
    registry: Registry

    def __init__(self, options: TrustVisorOptions | None = None) -> None:
        self.options = options or TrustVisorOptions()
        self.ept01_sharing = Ept01Sharing(self.options.sharing.value)
        self.statistics = Statistics()
        self._guests: dict[int, PalGuest] = {}

    def on_start(self, hypervisor: "Hypervisor") -> None:
        """See `Hypapp.on_start`."""
        self.registry = Registry(hypervisor, omit_shootdown=not self.options.shootdown)

    # Hypercalls

    def on_hypercall(self, vcpu: "Vcpu") -> "Handling | Literal[False]":
        """See `Hypapp.on_hypercall`."""
        gpr = vcpu.processor.gpr
        number = gpr[_RAX] & _LOW
        if number & abi.FUNCTION_MASK != abi.FUNCTION_BASE:
            return False
        guest = CurrentGuest(vcpu)
        mask = (1 << 64) - 1 if guest.is_64bit else _LOW
        operands = gpr[_RBX] & mask, gpr[_RCX] & mask
        if number == Function.REGISTER:
            return self._register(vcpu, guest, operands[0])
        if number == Function.UNREGISTER:
            return self._unregister(vcpu, guest, operands[0])
        _answer(vcpu, *self._quick(guest, number, *operands))
        return None

    def _quick(
        self, guest: CurrentGuest, number: int, first: int, second: int
    ) -> tuple[Status, int]:
        """Do what never waits; return status and value."""
        match number:
            case Function.PING:
                return Status.SUCCESS, abi.SIGNATURE
            case Function.LIST:
                return self._list(guest, first, second)
            case Function.PCR_READ:
                return self._read_pcr(guest, first, second)
            case Function.PCR_EXTEND:
                return Status.NOT_ALLOWED, 0
        return Status.UNKNOWN_FUNCTION, 0

    def _register(
        self, vcpu: "Vcpu", guest: CurrentGuest, address: int
    ) -> Generator[Wait, None, None]:
        pal = self.registry.make(vcpu, guest, address)
        if isinstance(pal, Status):
            _answer(vcpu, pal, 0)
            return
        status = yield from self.registry.register(vcpu, pal)
        self.statistics.registered += 1
        _answer(vcpu, status, pal.number)

    def _unregister(
        self, vcpu: "Vcpu", guest: CurrentGuest, number: int
    ) -> Generator[Wait, None, None]:
        pal = self.registry.pals.get(number)
        if pal is None:
            status = Status.NO_SUCH_PAL
        elif not self.registry.may_unregister(guest, pal):
            status = Status.NOT_ALLOWED
        elif pal.state is not PalState.READY:
            status = Status.BUSY
        else:
            status = yield from self.registry.unregister(vcpu, pal)
        _answer(vcpu, status, 0)

    def _list(self, guest: CurrentGuest, address: int, most: int) -> tuple[Status, int]:
        ready = [one for one in self.registry.pals.values() if one.space is not None]
        data = b"".join(_record(one) for one in ready[:most])
        if not guest.write(address, data):
            return Status.BAD_ADDRESS, 0
        return Status.SUCCESS, len(ready)

    def _read_pcr(self, guest: CurrentGuest, number: int, address: int) -> tuple[Status, int]:
        pal = self.registry.pals.get(number)
        if pal is None:
            return Status.NO_SUCH_PAL, 0
        return (Status.SUCCESS if guest.write(address, pal.pcr) else Status.BAD_ADDRESS), 0

    def on_pal_hypercall(self, vcpu: "Vcpu", pal: Pal) -> None:
        """A PAL executed VMCALL: it can read its own PCR and extend it."""
        gpr = vcpu.processor.gpr
        memory = PalMemory(vcpu.system.memory, pal)
        status, value = Status.UNKNOWN_FUNCTION, 0
        number = gpr[_RAX] & _LOW
        if number == Function.PING:
            status, value = Status.SUCCESS, abi.SIGNATURE
        elif number == Function.PCR_READ:
            status = Status.SUCCESS if memory.write(gpr[_RCX], pal.pcr) else Status.BAD_ADDRESS
        elif number == Function.PCR_EXTEND:
            digest = memory.read(gpr[_RBX], abi.DIGEST_SIZE)
            status = Status.BAD_ADDRESS if digest is None else Status.SUCCESS
            pal.pcr = pal.pcr if digest is None else extend(pal.pcr, digest)
        gpr[_RAX], gpr[_RDX] = status, value

    # Calls

    def on_violation(self, vcpu: "Vcpu", gpa1: Gpa1, access: int) -> "Handling | Literal[False]":
        """See `Hypapp.on_violation`: a call of a PAL, or an access that nobody may make."""
        pal = self.registry.lending.owner_of(gpa1)
        if pal is None:
            return False
        guest = CurrentGuest(vcpu)
        if access & _FETCH and is_call(guest, pal):
            if pal.state is not PalState.READY:
                return _later(vcpu)
            if self._guest(vcpu).call(vcpu, guest, pal):
                self.statistics.calls += 1
                return _nothing()
        self.statistics.refused += 1
        return False

    def _guest(self, vcpu: "Vcpu") -> PalGuest:
        guest = self._guests.get(vcpu.index)
        if guest is None:
            guest = self._guests[vcpu.index] = PalGuest(self, vcpu)
        return guest


def _record(pal: Pal) -> bytes:
    flags = abi.FLAG_64BIT if pal.is_64bit else 0
    flags |= abi.FLAG_L2 if pal.owner.level == 2 else 0
    entry = pal.descriptor.entry
    return abi.LIST_RECORD.pack(pal.number, flags, entry, pal.measurement, pal.pcr, pal.calls)


def _answer(vcpu: "Vcpu", status: Status, value: int) -> None:
    gpr = vcpu.processor.gpr
    gpr[_RAX], gpr[_RDX] = status, value
    vcpu.skip()


def _nothing() -> Generator[Wait, None, None]:
    """Everything is done: a PAL runs, and the guest's own event state is not to be touched."""
    yield from ()


def _later(vcpu: "Vcpu") -> Generator[Wait, None, None]:
    """Somebody else uses the PAL: the caller tries again, and takes its interrupts meanwhile."""
    if vcpu.in_l2:
        vcpu.nested.keep()
    vcpu.inject_again()
    yield Wait.OTHERS
