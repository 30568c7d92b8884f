"""The i8042 keyboard controller with a keyboard: what a PC's software expects of ports 60h and 64h.

The processor's reset line and gate A20 hang on it. A20 is recorded, but memory does not wrap: no
machine with VMX has the gate.
"""

from collections import deque
from collections.abc import Callable

from turducken.bits import Layout, bit, reserved
from turducken.devices.lines import LineDriver, unconnected

DATA_PORT = 0x60
COMMAND_PORT = 0x64

STATUS = Layout(
    "i8042 status",
    8,
    bit("OBF", 0, "the output buffer is full: there is a byte to read"),
    bit("IBF", 1, "the input buffer is full"),
    bit("SYSTEM", 2, "the self-test has passed"),
    bit("COMMAND", 3, "the last write was a command"),
    bit("UNLOCKED", 4, "the keyboard is not locked"),
    bit("MOUSE", 5, "the byte to read is from the mouse"),
    bit("TIMEOUT", 6),
    bit("PARITY", 7),
)
CONFIGURATION = Layout(
    "i8042 command byte",
    8,
    bit("KEYBOARD_IRQ", 0),
    bit("MOUSE_IRQ", 1),
    bit("SYSTEM", 2),
    reserved(3),
    bit("KEYBOARD_OFF", 4),
    bit("MOUSE_OFF", 5),
    bit("TRANSLATE", 6, "scan code set 2 becomes set 1"),
    reserved(7),
)
OUTPUT_PORT = Layout(
    "i8042 output port",
    8,
    bit("RUN", 0, "0 resets the processors"),
    bit("A20", 1),
    reserved(3, 2),
    bit("KEYBOARD_FULL", 4),
    bit("MOUSE_FULL", 5),
    reserved(7, 6),
)

_RUN_AND_A20 = OUTPUT_PORT.mask("RUN", "A20")
_BUFFER_LIMIT = 64
_ACK = 0xFA
_KEYBOARD_COMMANDS_WITH_DATA = frozenset({0xED, 0xF0, 0xF3, 0xFB, 0xFC, 0xFD})
_MOUSE_COMMANDS_WITH_DATA = frozenset({0xE8, 0xF3})
_WRITE_CONFIGURATION, _WRITE_OUTPUT_PORT, _LOOP_KEYBOARD, _LOOP_MOUSE, _TO_MOUSE = (
    0x60,
    0xD1,
    0xD2,
    0xD3,
    0xD4,
)
_COMMANDS_WITH_DATA = frozenset(
    {_WRITE_CONFIGURATION, _WRITE_OUTPUT_PORT, _LOOP_KEYBOARD, _LOOP_MOUSE, _TO_MOUSE}
)


def _ignore() -> None:
    """Take an event that nobody wants."""


class KeyboardController:
    """The i8042: ``on_reset`` is called when the guest pulls the processors' reset line."""

    ports = (range(DATA_PORT, DATA_PORT + 1), range(COMMAND_PORT, COMMAND_PORT + 1))
    widest_access = 1

    def __init__(
        self,
        on_reset: Callable[[], None] = _ignore,
        keyboard_line: LineDriver = unconnected,
        mouse_line: LineDriver = unconnected,
    ) -> None:
        self._on_reset = on_reset
        self._keyboard_line = keyboard_line
        self._mouse_line = mouse_line
        self._output: deque[tuple[int, bool]] = deque()
        """Bytes to read, each with whether it is from the mouse."""
        self._configuration = CONFIGURATION.mask("KEYBOARD_IRQ", "MOUSE_IRQ", "SYSTEM", "TRANSLATE")
        self._output_port = _RUN_AND_A20
        self._awaiting: int | None = None
        self._last_was_command = False
        self._keyboard_awaits_data = False
        self._mouse_awaits_data = False

    @property
    def is_a20_enabled(self) -> bool:
        """The gate as the guest has set it."""
        return bool(self._output_port & OUTPUT_PORT.mask("A20"))

    def feed(self, scan_codes: bytes) -> None:
        """Let the keyboard send scan codes (of set 1)."""
        if not self._configuration & CONFIGURATION.mask("KEYBOARD_OFF"):
            self._send(scan_codes)

    def port_read(self, port: int, size: int) -> int:
        """Return the status, or take a byte from the output buffer (0 where it is empty)."""
        if port == COMMAND_PORT:
            return self._status()
        byte = self._output.popleft()[0] if self._output else 0
        # Between two bytes the line is low for a moment, so that each gives an edge.
        self._keyboard_line(level=False)
        self._mouse_line(level=False)
        self._drive()
        return byte

    def port_write(self, port: int, size: int, value: int) -> None:
        """Take a command, a command's data, or a byte for the keyboard."""
        value &= 0xFF
        self._last_was_command = port == COMMAND_PORT
        if port == COMMAND_PORT:
            self._awaiting = value if value in _COMMANDS_WITH_DATA else None
            if self._awaiting is None:
                self._execute(value)
        elif self._awaiting is not None:
            command, self._awaiting = self._awaiting, None
            self._execute_with_data(command, value)
        else:
            self._tell_keyboard(value)
        self._drive()

    def _status(self) -> int:
        return STATUS.make(
            OBF=bool(self._output),
            SYSTEM=CONFIGURATION["SYSTEM"].get(self._configuration),
            COMMAND=self._last_was_command,
            UNLOCKED=1,
            MOUSE=bool(self._output) and self._output[0][1],
        )

    def _execute(self, command: int) -> None:
        match command:
            case 0x20:
                self._send(bytes([self._configuration]))
            case 0xA7:
                self._configuration |= CONFIGURATION.mask("MOUSE_OFF")
            case 0xA8:
                self._configuration &= ~CONFIGURATION.mask("MOUSE_OFF")
            case 0xA9 | 0xAB:
                self._send(b"\x00")  # the interface works
            case 0xAA:
                self._send(b"\x55")  # the self-test has passed
                self._configuration |= CONFIGURATION.mask("SYSTEM")
            case 0xAD:
                self._configuration |= CONFIGURATION.mask("KEYBOARD_OFF")
            case 0xAE:
                self._configuration &= ~CONFIGURATION.mask("KEYBOARD_OFF")
            case 0xC0:
                self._send(b"\x80")  # the input port: keyboard not inhibited
            case 0xD0:
                self._send(bytes([self._output_port]))
            case 0xDD:
                self._output_port &= ~OUTPUT_PORT.mask("A20")
            case 0xDF:
                self._output_port |= OUTPUT_PORT.mask("A20")
            case _ if command >= 0xF0 and not command & OUTPUT_PORT.mask("RUN"):
                # F0h to FFh pulse the output port's lines whose bits are 0.
                self._on_reset()

    def _execute_with_data(self, command: int, value: int) -> None:
        match command:
            case 0x60:
                self._configuration = value & ~CONFIGURATION.reserved_mask
            case 0xD1:
                self._output_port = value & _RUN_AND_A20
                if not value & OUTPUT_PORT.mask("RUN"):
                    self._output_port |= OUTPUT_PORT.mask("RUN")
                    self._on_reset()
            case 0xD2:
                self._send(bytes([value]))
            case 0xD3:
                self._send(bytes([value]), from_mouse=True)
            case 0xD4:
                self._tell_mouse(value)

    def _tell_keyboard(self, value: int) -> None:
        if self._keyboard_awaits_data:
            self._keyboard_awaits_data = False
            self._send(bytes([_ACK]))
            return
        self._keyboard_awaits_data = value in _KEYBOARD_COMMANDS_WITH_DATA
        match value:
            case 0xFF:
                self._send(bytes([_ACK, 0xAA]))
            case 0xF2:
                self._send(bytes([_ACK, 0xAB, 0x83]))
            case 0xEE:
                self._send(b"\xee")
            case _:
                self._send(bytes([_ACK]))

    def _tell_mouse(self, value: int) -> None:
        if self._mouse_awaits_data:
            self._mouse_awaits_data = False
            self._send(bytes([_ACK]), from_mouse=True)
            return
        self._mouse_awaits_data = value in _MOUSE_COMMANDS_WITH_DATA
        match value:
            case 0xFF:
                self._send(bytes([_ACK, 0xAA, 0x00]), from_mouse=True)
            case 0xF2:
                self._send(bytes([_ACK, 0x00]), from_mouse=True)
            case 0xE9:
                self._send(bytes([_ACK, 0x00, 0x02, 0x64]), from_mouse=True)
            case _:
                self._send(bytes([_ACK]), from_mouse=True)

    def _send(self, data: bytes, *, from_mouse: bool = False) -> None:
        for byte in data:
            if len(self._output) < _BUFFER_LIMIT:
                self._output.append((byte, from_mouse))
        self._drive()

    def _drive(self) -> None:
        waiting = self._output[0] if self._output else None
        keyboard = waiting is not None and not waiting[1]
        mouse = waiting is not None and waiting[1]
        enabled = self._configuration
        self._keyboard_line(level=keyboard and bool(enabled & CONFIGURATION.mask("KEYBOARD_IRQ")))
        self._mouse_line(level=mouse and bool(enabled & CONFIGURATION.mask("MOUSE_IRQ")))
