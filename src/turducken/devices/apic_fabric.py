"""What connects the APICs: messages from local APICs and I/O APICs to local APICs.

Delivery is immediate and deterministic. Where several processors could take a lowest-priority
message, the one with the lowest processor priority does, of those the one with the lowest ID: the
manual leaves the tie open (SDM 3A, "Lowest Priority Delivery Mode").
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from turducken.devices.apic_registers import Delivery, Shorthand

XAPIC_BROADCAST = 0xFF
X2APIC_BROADCAST = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Destination:
    """Whom a message is for: an APIC ID, a logical destination, or everybody."""

    value: int
    is_logical: bool = False
    is_x2apic: bool = False
    """The sender wrote a 32-bit destination."""

    @property
    def is_broadcast(self) -> bool:
        """Tell whether the destination is everybody, in either destination mode."""
        return self.value == (X2APIC_BROADCAST if self.is_x2apic else XAPIC_BROADCAST)


@dataclass(frozen=True, slots=True)
class Message:
    """An interrupt on its way to local APICs."""

    mode: int
    """A `Delivery`; the value 3 is reserved and reaches nobody."""
    vector: int
    level_triggered: bool = False


class Receiver(Protocol):
    """A local APIC, as the fabric sees it."""

    @property
    def is_enabled(self) -> bool:
        """Tell whether the APIC is globally enabled; else it takes no message."""

    @property
    def accepts_fixed(self) -> bool:
        """Tell whether fixed and lowest-priority messages are taken (software-enabled)."""

    @property
    def processor_priority(self) -> int:
        """The PPR, which arbitrates lowest-priority messages."""

    def matches(self, destination: Destination) -> bool:
        """Tell whether the destination includes this APIC."""

    def receive(self, message: Message) -> None:
        """Take a message."""


class EoiListener(Protocol):
    """An I/O APIC, as the fabric sees it."""

    def end_of_interrupt(self, vector: int) -> None:
        """Learn that the service of a level-triggered interrupt has ended."""


class ApicFabric:
    """All local and I/O APICs of the machine; local APICs in the order of their IDs."""

    def __init__(self) -> None:
        self._receivers: list[Receiver] = []
        self._listeners: list[EoiListener] = []
        self.on_ipi: Callable[[Message, Destination | Shorthand], None] | None = None
        """Told of each interprocessor interrupt when it is sent."""

    def connect(self, receiver: Receiver) -> None:
        """Add a local APIC; the order of connection is the order of delivery."""
        self._receivers.append(receiver)

    def connect_listener(self, listener: EoiListener) -> None:
        """Add an I/O APIC."""
        self._listeners.append(listener)

    def send(self, message: Message, destination: Destination) -> None:
        """Deliver to the destination."""
        self._deliver(message, [one for one in self._receivers if one.matches(destination)])

    def send_shorthand(self, message: Message, shorthand: Shorthand, sender: Receiver) -> None:
        """Deliver to the sender itself, to all, or to all others."""
        if shorthand is Shorthand.SELF:
            self._deliver(message, [sender])
        elif shorthand is Shorthand.ALL:
            self._deliver(message, list(self._receivers))
        else:
            self._deliver(message, [one for one in self._receivers if one is not sender])

    def _deliver(self, message: Message, targets: list[Receiver]) -> None:
        targets = [one for one in targets if one.is_enabled]
        if message.mode == Delivery.LOWEST_PRIORITY:
            willing = [one for one in targets if one.accepts_fixed]
            targets = [min(willing, key=lambda one: one.processor_priority)] if willing else []
        for one in targets:
            one.receive(message)

    def broadcast_eoi(self, vector: int) -> None:
        """Tell the I/O APICs of the end of a level-triggered interrupt."""
        for one in self._listeners:
            one.end_of_interrupt(vector)
