"""A 16550A UART: PC16550D data sheet, "Registers".

The transmitter is always ready: a byte that the guest writes goes to the host at once. The line
never loses a byte on its way to the guest either; what does not fit the FIFO waits on the host's
side.
"""

from collections import deque
from collections.abc import Callable

from turducken.bits import Layout, bit, bits, reserved
from turducken.devices.lines import LineDriver, unconnected

COM_PORTS = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
COM1 = COM_PORTS[0]
FIFO_SIZE = 16

DATA, INTERRUPT_ENABLE, INTERRUPT_ID, LINE_CONTROL = 0, 1, 2, 3
MODEM_CONTROL, LINE_STATUS, MODEM_STATUS, SCRATCH = 4, 5, 6, 7

IER = Layout(
    "IER",
    8,
    bit("ERBFI", 0, "received data available"),
    bit("ETBEI", 1, "transmitter holding register empty"),
    bit("ELSI", 2, "receiver line status"),
    bit("EDSSI", 3, "modem status"),
    reserved(7, 4),
    source='PC16550D data sheet, "Interrupt Enable Register"',
)
IIR = Layout(
    "IIR",
    8,
    bit("NONE", 0, "no interrupt is pending"),
    bits("ID", 3, 1),
    reserved(5, 4),
    bits("FIFOS", 7, 6, "both set while the FIFOs are enabled"),
    source='PC16550D data sheet, "Interrupt Identification Register"',
)
FCR = Layout(
    "FCR",
    8,
    bit("ENABLE", 0),
    bit("RESET_RECEIVER", 1),
    bit("RESET_TRANSMITTER", 2),
    bit("DMA", 3),
    reserved(5, 4),
    bits("TRIGGER", 7, 6, "receiver trigger level"),
    source='PC16550D data sheet, "FIFO Control Register"',
)
MCR = Layout(
    "MCR",
    8,
    bit("DTR", 0),
    bit("RTS", 1),
    bit("OUT1", 2),
    bit("OUT2", 3, "on a PC: connects the interrupt output to the line"),
    bit("LOOP", 4, "loopback"),
    reserved(7, 5),
    source='PC16550D data sheet, "Modem Control Register"',
)
LSR = Layout(
    "LSR",
    8,
    bit("DR", 0, "data ready"),
    bit("OE", 1, "overrun error"),
    bit("PE", 2, "parity error"),
    bit("FE", 3, "framing error"),
    bit("BI", 4, "break interrupt"),
    bit("THRE", 5, "transmitter holding register empty"),
    bit("TEMT", 6, "transmitter empty"),
    bit("FIFO_ERROR", 7),
    source='PC16550D data sheet, "Line Status Register"',
)
MSR = Layout(
    "MSR",
    8,
    bit("DCTS", 0),
    bit("DDSR", 1),
    bit("TERI", 2),
    bit("DDCD", 3),
    bit("CTS", 4),
    bit("DSR", 5),
    bit("RI", 6),
    bit("DCD", 7),
    source='PC16550D data sheet, "Modem Status Register"',
)

LCR = Layout(
    "LCR",
    8,
    bits("WORD_LENGTH", 1, 0, "data bits, less 5"),
    bit("STOP_BITS", 2),
    bits("PARITY", 5, 3),
    bit("BREAK", 6, "the line is held in the break condition: nothing can be sent"),
    bit("DLAB", 7, "the divisor latch takes the place of the first two registers"),
    source='PC16550D data sheet, "Line Control Register"',
)
DLAB = LCR.mask("DLAB")

_ERBFI, _ETBEI, _ELSI, _EDSSI = (IER.mask(name) for name in ("ERBFI", "ETBEI", "ELSI", "EDSSI"))
_TRANSMITTER_READY = LSR.mask("THRE", "TEMT")
_DELTAS = MSR.mask("DCTS", "DDSR", "TERI", "DDCD")
_CONNECTED = MSR.mask("CTS", "DSR", "DCD")
_TRIGGER_LEVELS = (1, 4, 8, 14)

# PC16550D data sheet, "Interrupt Control Functions": IIR bits 3:1.
_ID_LINE_STATUS, _ID_DATA, _ID_TIMEOUT, _ID_TRANSMITTER, _ID_MODEM = 3, 2, 6, 1, 0


def _discard(byte: int) -> None:
    """Take a byte that nobody wants."""


class Uart:
    """One serial port: ``output`` is called with every byte that the guest sends.

    `feed` gives bytes to the guest. ``line`` is the interrupt line.
    """

    widest_access = 1

    def __init__(
        self,
        output: Callable[[int], None] = _discard,
        line: LineDriver = unconnected,
        *,
        base: int = COM1,
    ) -> None:
        self.base = base
        self.ports = (range(base, base + 8),)
        self._output = output
        self._line = line
        self._level = False
        self._waiting: deque[int] = deque()
        self._received: deque[int] = deque()
        self._divisor = 12
        self._interrupt_enable = 0
        self._fifo_control = 0
        self._line_control = 0
        self._modem_control = 0
        self._overrun = self._break = False
        self._modem_deltas = 0
        self._scratch = 0
        self._transmitter_interrupt = False

    def feed(self, data: bytes) -> None:
        """Send bytes to the guest; they wait here until it has room for them."""
        self._waiting.extend(data)
        self._refill()
        self._drive()

    @property
    def unread(self) -> int:
        """How many bytes that were fed the guest has not read yet."""
        return len(self._waiting) + len(self._received)

    # -- registers ---------------------------------------------------------------------------------

    def port_read(self, port: int, size: int) -> int:
        """Return a register."""
        register = (port - self.base) % 8
        if self._line_control & DLAB and register in (DATA, INTERRUPT_ENABLE):
            return self._divisor >> 8 * register & 0xFF
        match register:
            case 0:
                return self._read_data()
            case 1:
                return self._interrupt_enable
            case 2:
                return self._read_interrupt_id()
            case 3:
                return self._line_control
            case 4:
                return self._modem_control
            case 5:
                return self._read_line_status()
            case 6:
                return self._read_modem_status()
            case _:
                return self._scratch

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write a register; the status registers are read-only."""
        register = (port - self.base) % 8
        if self._line_control & DLAB and register in (DATA, INTERRUPT_ENABLE):
            shift = 8 * register
            self._divisor = (self._divisor & ~(0xFF << shift)) | (value & 0xFF) << shift
            return
        match register:
            case 0:
                self._write_data(value & 0xFF)
            case 1:
                self._write_interrupt_enable(value)
            case 2:
                self._write_fifo_control(value)
            case 3:
                self._write_line_control(value & 0xFF)
            case 4:
                self._write_modem_control(value & ~MCR.reserved_mask)
            case 7:
                self._scratch = value & 0xFF
        self._drive()

    def _read_data(self) -> int:
        byte = self._received.popleft() if self._received else 0
        self._refill()
        self._drive()
        return byte

    def _write_data(self, byte: int) -> None:
        # Writing clears the interrupt; the byte leaves at once, so the condition arises again.
        self._transmitter_interrupt = False
        self._drive()
        control = self._line_control
        byte &= (1 << LCR["WORD_LENGTH"].get(control) + 5) - 1
        if control & LCR.mask("BREAK"):
            pass
        elif self._modem_control & MCR.mask("LOOP"):
            self._loop_back(byte)
        else:
            self._output(byte)
        self._transmitter_interrupt = True

    def _write_line_control(self, value: int) -> None:
        begins = value & ~self._line_control & LCR.mask("BREAK")
        self._line_control = value
        if begins and self._modem_control & MCR.mask("LOOP"):
            # "Line Status Register": a break is received as a zero with the break indicator.
            self._loop_back(0)
            self._break = True

    def _loop_back(self, byte: int) -> None:
        if len(self._received) >= self._capacity:
            self._overrun = True
        else:
            self._received.append(byte)

    def _write_interrupt_enable(self, value: int) -> None:
        value &= ~IER.reserved_mask
        if value & ~self._interrupt_enable & _ETBEI:
            self._transmitter_interrupt = True
        self._interrupt_enable = value

    def _read_interrupt_id(self) -> int:
        pending = self._pending()
        if pending == _ID_TRANSMITTER:
            self._transmitter_interrupt = False
            self._drive()
        fifos = 3 if self._fifos_enabled else 0
        if pending is None:
            return IIR.make(NONE=1, FIFOS=fifos)
        return IIR.make(ID=pending, FIFOS=fifos)

    def _write_fifo_control(self, value: int) -> None:
        value &= 0xFF
        if (value ^ self._fifo_control) & FCR.mask("ENABLE") or value & FCR.mask("RESET_RECEIVER"):
            self._received.clear()
        self._fifo_control = value & FCR.mask("ENABLE", "DMA", "TRIGGER")
        self._refill()

    def _read_line_status(self) -> int:
        status = _TRANSMITTER_READY
        if self._received:
            status |= LSR.mask("DR")
        if self._overrun or self._break:
            status |= LSR.make(OE=self._overrun, BI=self._break)
            self._overrun = self._break = False
            self._drive()
        return status

    @property
    def _modem_lines(self) -> int:
        if not self._modem_control & MCR.mask("LOOP"):
            return _CONNECTED
        # PC16550D data sheet, "Modem Control Register": the outputs feed the four inputs.
        control = MCR.decode(self._modem_control)
        return MSR.make(
            CTS=control["RTS"], DSR=control["DTR"], RI=control["OUT1"], DCD=control["OUT2"]
        )

    def _write_modem_control(self, value: int) -> None:
        before = self._modem_lines
        self._modem_control = value
        changed = before ^ self._modem_lines
        self._modem_deltas |= changed >> 4 & ~MSR.mask("TERI")
        if changed & before & MSR.mask("RI"):
            self._modem_deltas |= MSR.mask("TERI")
        self._refill()

    def _read_modem_status(self) -> int:
        status = self._modem_lines | self._modem_deltas
        self._modem_deltas = 0
        self._drive()
        return status

    # -- FIFO and interrupt ------------------------------------------------------------------------

    @property
    def _fifos_enabled(self) -> bool:
        return bool(self._fifo_control & FCR.mask("ENABLE"))

    @property
    def _capacity(self) -> int:
        return FIFO_SIZE if self._fifos_enabled else 1

    def _refill(self) -> None:
        if self._modem_control & MCR.mask("LOOP"):
            return
        while self._waiting and len(self._received) < self._capacity:
            self._received.append(self._waiting.popleft())

    def _pending(self) -> int | None:
        """Return the IIR code of the interrupt of highest priority, if any is pending."""
        enabled = self._interrupt_enable
        if enabled & _ELSI and (self._overrun or self._break):
            return _ID_LINE_STATUS
        if enabled & _ERBFI and self._received:
            trigger = _TRIGGER_LEVELS[FCR["TRIGGER"].get(self._fifo_control)]
            if not self._fifos_enabled or len(self._received) >= trigger:
                return _ID_DATA
            return _ID_TIMEOUT
        if enabled & _ETBEI and self._transmitter_interrupt:
            return _ID_TRANSMITTER
        if enabled & _EDSSI and self._modem_deltas & _DELTAS:
            return _ID_MODEM
        return None

    def _drive(self) -> None:
        connected = self._modem_control & MCR.mask("OUT2", "LOOP") == MCR.mask("OUT2")
        level = connected and self._pending() is not None
        if level != self._level:
            self._level = level
            self._line(level=level)
