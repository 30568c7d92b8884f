"""What a user can choose about a system, checked before anything is built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from turducken.address import GIB, KIB, MIB, PAGE_SIZE
from turducken.apps import AppRequest
from turducken.hypervisor import POLICIES as SHADOW_POLICIES
from turducken.hypervisor import Hypervisor, Offer, ShadowPolicyName
from turducken.machine.boot import AnyImage, Module
from turducken.machine.firmware.install import MOST_PROCESSORS
from turducken.machine.firmware.memory_map import SMALLEST_RAM
from turducken.machine.firmware.rom import RomImage
from turducken.memory.physical import HIGH_BASE, LOW_LIMIT
from turducken.mmu.policy import POLICIES as TLB_POLICIES
from turducken.storage import DiskRequest
from turducken.symbols import SymbolFile
from turducken.system.errors import SetupError
from turducken.vmx.profile import Profile, load_profile

DEFAULT_MEMORY = 256 * MIB
NOTED_ADDRESSES = (0x10_0000, 0x123_4000, 0x1234_0000)
"""Where lhv begins, and the pages of its EPT tests, which are those of the notes."""
TIB = 1024 * GIB
MOST_MEMORY = 16 * TIB
_SUFFIXES = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}


class Mode(Enum):
    """Where the image runs."""

    BARE = "bare"
    """Directly on the emulated VMX: the image is the hypervisor."""
    NESTED = "nested"
    """As L1, under our own hypervisor."""


DEFAULT_MODE = Mode.NESTED


@dataclass(frozen=True, slots=True)
class SystemOptions:
    """What a system is made of; ``memory`` in bytes is what the image gets.

    ``seed`` chooses the schedule of the processors (0: strictly in turn) and the choices of the
    TLB policy ``random``. ``text`` is the command line after the image's name.
    """

    image: AnyImage | RomImage
    mode: Mode = Mode.BARE
    cpus: int = 1
    memory: int = DEFAULT_MEMORY
    text: str = ""
    modules: Sequence[Module] = ()
    initrd: bytes | None = None
    """The initial RAM disk of a Linux kernel."""
    profile: Profile = field(default_factory=load_profile)
    tlb: str = "keep"
    seed: int = 0
    shadow: ShadowPolicyName = "cached"
    """How L0 keeps EPT02 (nested mode)."""
    watch: Sequence[int] = NOTED_ADDRESSES
    """L2-physical addresses whose way through the tables is to be told (nested mode)."""
    private: int | None = None
    """Bytes that L0 gets for itself (nested mode); None: enough for anything."""
    offer: Offer = field(default_factory=Offer)
    """What L0 shows L1 of the processor's VMX (nested mode)."""
    l0: type[Hypervisor] = Hypervisor
    """L0, or one with a mistake planted in it (`turducken.zoo.planted`)."""
    apps: Sequence[AppRequest] = ()
    """Applications on L0 (nested mode)."""
    native: bool = True
    """Whether the engine's preemption may use generated machine code; the run is the same."""
    diagnose: bool = True
    """Whether failures are explained; the run is the same."""
    symbols: Sequence[SymbolFile] = ()
    """Symbol files besides the image, for whatever names addresses."""
    disks: Sequence[DiskRequest] = ()
    cdroms: Sequence[str] = ()
    """Paths of images of CDs."""
    serial: Sequence[Callable[[int], None]] = ()
    """What takes the bytes of COM2, COM3 and COM4, as many as there are."""
    firmware_log: Callable[[int], None] | None = None
    """Receives what firmware in a ROM tells of its progress (port 402h)."""
    observed: bool = False
    """Whether translations can be followed, as the sanitizer does; the run is the same."""

    def check(self) -> None:
        """Raise SetupError where there can be no such system."""
        if not 1 <= self.cpus <= MOST_PROCESSORS:
            raise SetupError(f"{self.cpus} processors: a machine has 1 to {MOST_PROCESSORS}")
        if self.tlb not in TLB_POLICIES:
            raise SetupError(f"TLB policy {self.tlb!r}: not one of {', '.join(TLB_POLICIES)}")
        if self.shadow not in SHADOW_POLICIES:
            known = ", ".join(SHADOW_POLICIES)
            raise SetupError(f"shadow policy {self.shadow!r}: not one of {known}")
        if self.apps and self.mode is not Mode.NESTED:
            raise SetupError(f"--app {self.apps[0].text}: applications need L0: --mode nested")
        self._check_memory()

    def _check_memory(self) -> None:
        if self.memory < SMALLEST_RAM:
            raise SetupError(
                f"{self.memory} bytes of memory: a machine has at least {SMALLEST_RAM // MIB} MiB"
            )
        if self.memory > MOST_MEMORY:
            raise SetupError(
                f"{self.memory} bytes of memory: a machine has at most {MOST_MEMORY // TIB} TiB"
            )
        if self.memory % PAGE_SIZE:
            raise SetupError(f"{self.memory} bytes of memory: not a multiple of 4 KiB")
        bits = self.profile.cpu.physical_address_bits
        if self.memory + HIGH_BASE - LOW_LIMIT > 1 << bits:
            raise SetupError(
                f"{self.memory} bytes of memory: the profile {self.profile.name} has physical "
                f"addresses of {bits} bits"
            )


def parse_size(text: str) -> int:
    """Return the number of bytes that ``512M``, ``4G``, ``0x1000`` and the like stand for."""
    digits = text.strip().upper().removesuffix("IB").removesuffix("B")
    suffix = digits[-1:] if digits[-1:].isalpha() else ""
    if digits.startswith("0X"):
        suffix = ""
    try:
        number = int(digits.removesuffix(suffix), 0)
        return number * _SUFFIXES[suffix]
    except (ValueError, KeyError):
        raise SetupError(
            f"{text!r} is no size: write a number of bytes, or one with K, M or G after it"
        ) from None
