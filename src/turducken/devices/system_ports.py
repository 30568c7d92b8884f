"""Small ports of a PC: reset and A20 at 92h, POST codes, the debug console, exits, and latches."""

from collections.abc import Callable, Sequence

SYSTEM_CONTROL_A = 0x92
POST_PORT = 0x80
DEBUG_CONSOLE_PORT = 0xE9
FIRMWARE_LOG_PORT = 0x402
DEBUG_EXIT_PORT = 0xF4
STALE_USE_PORT = 0xEA
SHUTDOWN_PORT = 0x8900
SHUTDOWN_WORD = b"Shutdown"

_FAST_RESET = 0x01
_A20 = 0x02


def _ignore() -> None:
    """Take an event that nobody wants."""


def _discard(value: int) -> None:
    """Take a value that nobody wants."""


class SystemControlA:
    """Port 92h: bit 0 resets the processors when it rises, bit 1 is gate A20."""

    ports = (range(SYSTEM_CONTROL_A, SYSTEM_CONTROL_A + 1),)
    widest_access = 1

    def __init__(self, on_reset: Callable[[], None] = _ignore) -> None:
        self._on_reset = on_reset
        self._value = _A20

    @property
    def is_a20_enabled(self) -> bool:
        """The gate as the guest has set it; memory does not wrap in either case."""
        return bool(self._value & _A20)

    def port_read(self, port: int, size: int) -> int:
        """Return what was written."""
        return self._value

    def port_write(self, port: int, size: int, value: int) -> None:
        """Set the gate, or reset."""
        rises = value & ~self._value & _FAST_RESET
        self._value = value & (_A20 | _FAST_RESET)
        if rises:
            self._on_reset()


class PostCodes:
    """Port 80h: the progress codes of firmware, which many use only as a short delay."""

    ports = (range(POST_PORT, POST_PORT + 1),)
    widest_access = 4

    def __init__(self, on_code: Callable[[int], None] = _discard) -> None:
        self._on_code = on_code
        self.last = 0

    def port_read(self, port: int, size: int) -> int:
        """Return the last code."""
        return self.last

    def port_write(self, port: int, size: int, value: int) -> None:
        """Show a code."""
        self.last = value
        self._on_code(value)


class DebugConsole:
    """Port E9h: every byte written is shown; it reads as E9h, which says that it is there."""

    widest_access = 1

    def __init__(
        self, output: Callable[[int], None] = _discard, port: int = DEBUG_CONSOLE_PORT
    ) -> None:
        self.ports = (range(port, port + 1),)
        self._output = output

    def port_read(self, port: int, size: int) -> int:
        """Return the mark of presence."""
        return DEBUG_CONSOLE_PORT

    def port_write(self, port: int, size: int, value: int) -> None:
        """Show a byte."""
        self._output(value & 0xFF)


class DebugExit:
    """A port (four ports wide) that ends the run with the value written, in any width."""

    widest_access = 4

    def __init__(
        self, on_exit: Callable[[int], None] = _discard, port: int = DEBUG_EXIT_PORT
    ) -> None:
        self.ports = (range(port, port + 4),)
        self._on_exit = on_exit

    def port_read(self, port: int, size: int) -> int:
        """Return 0."""
        return 0

    def port_write(self, port: int, size: int, value: int) -> None:
        """End the run."""
        self._on_exit(value)


class StaleUseMark:
    """Port EAh: 1 before a guest changes tables without invalidation on purpose, 0 behind it.

    The sanitizer reports no use of what such changes leave stale; without it nothing happens.
    """

    ports = (range(STALE_USE_PORT, STALE_USE_PORT + 1),)
    widest_access = 1

    def __init__(self, on_mark: Callable[[int], None] = _discard) -> None:
        self._on_mark = on_mark

    def port_read(self, port: int, size: int) -> int:
        """Return all ones."""
        return 0xFF

    def port_write(self, port: int, size: int, value: int) -> None:
        """Begin or end."""
        self._on_mark(value & 1)


class ShutdownPort:
    """Port 8900h: the letters "Shutdown", one after the other, switch the machine off."""

    ports = (range(SHUTDOWN_PORT, SHUTDOWN_PORT + 1),)
    widest_access = 1

    def __init__(self, on_shutdown: Callable[[], None] = _ignore) -> None:
        self._on_shutdown = on_shutdown
        self._matched = 0

    def port_read(self, port: int, size: int) -> int:
        """Return all ones."""
        return 0xFF

    def port_write(self, port: int, size: int, value: int) -> None:
        """Take a letter."""
        if value & 0xFF != SHUTDOWN_WORD[self._matched]:
            self._matched = int(value & 0xFF == SHUTDOWN_WORD[0])
            return
        self._matched += 1
        if self._matched == len(SHUTDOWN_WORD):
            self._matched = 0
            self._on_shutdown()


class Latches:
    """Registers that keep what is written and do nothing else, a byte each.

    They stand for devices that software sets up but that have nothing to do here, like the DMA
    controllers.
    """

    widest_access = 1

    def __init__(self, ports: Sequence[range], initial: int = 0) -> None:
        self.ports = tuple(ports)
        self._initial = initial & 0xFF
        self._values: dict[int, int] = {}

    def port_read(self, port: int, size: int) -> int:
        """Return what was written last."""
        return self._values.get(port, self._initial)

    def port_write(self, port: int, size: int, value: int) -> None:
        """Keep the value."""
        self._values[port] = value & 0xFF


DMA_PORTS = (range(0x10), range(0x81, 0x90), range(0xC0, 0xE0))
"""The two 8237 DMA controllers and their page registers."""
