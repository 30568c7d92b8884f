"""The pair of 8259A interrupt controllers: 8259A data sheet."""

from turducken.devices.lines import LineDriver, unconnected

MASTER_PORT = 0x20
SLAVE_PORT = 0xA0
ELCR_PORT = 0x4D0
"""Edge/level control registers of the pair, as in EISA chip sets."""

CASCADE = 2
"""The master's input that the slave's output is wired to."""

SPURIOUS = 7
"""8259A data sheet, "Edge and Level Triggered Modes": the default when a request went away."""

_ICW1 = 0x10
_ICW1_NEEDS_ICW4 = 0x01
_ICW1_SINGLE = 0x02
_ICW1_LEVEL = 0x08
_ICW4_AUTO_EOI = 0x02
_ICW4_SPECIAL_FULLY_NESTED = 0x10
_OCW3 = 0x08
_OCW3_POLL = 0x04


class _Controller:
    """One 8259A.

    ``lines`` are the levels of the inputs; in edge mode a rise sets the request bit, and the input
    must stay high until it is acknowledged.
    """

    def __init__(self, *, is_master: bool) -> None:
        self.is_master = is_master
        self.lines = 0
        self.level_triggered = 0
        self.base = 0
        self._requested = 0
        self.in_service = 0
        self.mask = 0
        self._lowest = 7
        self._expecting = 0
        self._single = False
        self._needs_icw4 = False
        self._all_level = False
        self._auto_eoi = False
        self._rotate_on_auto_eoi = False
        self._special_mask = False
        self._special_fully_nested = False
        self._read_in_service = False
        self._poll = False

    # -- inputs and output -------------------------------------------------------------------------

    def set_line(self, number: int, *, level: bool) -> None:
        bit = 1 << number
        if level:
            if not self.lines & bit:
                self._requested |= bit
            self.lines |= bit
        else:
            self.lines &= ~bit
            self._requested &= ~bit

    @property
    def requests(self) -> int:
        """The interrupt request register."""
        level = 0xFF if self._all_level else self.level_triggered
        if self.is_master:
            level |= 1 << CASCADE  # so that no request of the slave is ever lost between two edges
        return (self._requested & ~level) | (self.lines & level)

    def highest(self) -> int | None:
        """Return the request that the output announces, if any."""
        waiting = self.requests & ~self.mask
        if not waiting:
            return None
        for number in self._by_priority():
            bit = 1 << number
            if self.in_service & bit and not self._lets_pass(number):
                return None
            if waiting & bit:
                return number
        return None

    def _by_priority(self) -> list[int]:
        return [(self._lowest + 1 + index) % 8 for index in range(8)]

    def _lets_pass(self, number: int) -> bool:
        """Tell whether ``number``, in service, does not hold back requests from itself down."""
        # 8259A data sheet, "Special Mask Mode": a level that is masked while in service inhibits
        # nothing but itself.
        if self._special_mask and self.mask & 1 << number:
            return True
        return self._special_fully_nested and self.is_master and number == CASCADE

    def acknowledge(self, number: int | None) -> int:
        """Answer INTA: put ``number`` into service and return it, or the spurious number."""
        if number is None:
            return SPURIOUS
        bit = 1 << number
        self._requested &= ~bit
        if self._auto_eoi:
            if self._rotate_on_auto_eoi:
                self._lowest = number
        else:
            self.in_service |= bit
        return number

    # -- registers ---------------------------------------------------------------------------------

    def read_command(self) -> int:
        if self._poll:
            return self._answer_poll()
        return self.in_service if self._read_in_service else self.requests

    def read_data(self) -> int:
        return self._answer_poll() if self._poll else self.mask

    def _answer_poll(self) -> int:
        # 8259A data sheet, "Poll Command": the read is an interrupt acknowledge.
        self._poll = False
        number = self.highest()
        return 0 if number is None else 0x80 | self.acknowledge(number)

    def write_command(self, value: int) -> None:
        if value & _ICW1:
            self._start_initialisation(value)
        elif value & _OCW3:
            self._write_ocw3(value)
        else:
            self._write_ocw2(value)

    def write_data(self, value: int) -> None:
        match self._expecting:
            case 2:
                self.base = value & 0xF8
                self._expecting = 3 if not self._single else self._after_icw3()
            case 3:
                self._expecting = self._after_icw3()
            case 4:
                self._auto_eoi = bool(value & _ICW4_AUTO_EOI)
                self._special_fully_nested = bool(value & _ICW4_SPECIAL_FULLY_NESTED)
                self._expecting = 0
            case _:
                self.mask = value

    def _after_icw3(self) -> int:
        return 4 if self._needs_icw4 else 0

    def _start_initialisation(self, value: int) -> None:
        # 8259A data sheet, "Initialization Command Words 1 and 2".
        self._requested = 0
        self.in_service = 0
        self.mask = 0
        self._lowest = 7
        self._special_mask = False
        self._read_in_service = False
        self._poll = False
        self._auto_eoi = False
        self._rotate_on_auto_eoi = False
        self._special_fully_nested = False
        self._single = bool(value & _ICW1_SINGLE)
        self._all_level = bool(value & _ICW1_LEVEL)
        self._needs_icw4 = bool(value & _ICW1_NEEDS_ICW4)
        self._expecting = 2

    def _write_ocw2(self, value: int) -> None:
        number = value & 7
        match value >> 5:
            case 1:
                self._end(self._highest_in_service())
            case 3:
                self._end(number)
            case 5:
                self._end_and_rotate(self._highest_in_service())
            case 7:
                self._end_and_rotate(number)
            case 4:
                self._rotate_on_auto_eoi = True
            case 0:
                self._rotate_on_auto_eoi = False
            case 6:
                self._lowest = number

    def _write_ocw3(self, value: int) -> None:
        if value & _OCW3_POLL:
            self._poll = True
        if value & 0x02:
            self._read_in_service = bool(value & 0x01)
        if value & 0x40:
            self._special_mask = bool(value & 0x20)

    def _highest_in_service(self) -> int | None:
        for number in self._by_priority():
            bit = 1 << number
            if self.in_service & bit and not (self._special_mask and self.mask & bit):
                return number
        return None

    def _end(self, number: int | None) -> None:
        if number is not None:
            self.in_service &= ~(1 << number)

    def _end_and_rotate(self, number: int | None) -> None:
        self._end(number)
        if number is not None:
            self._lowest = number


class PicPair:
    """Master and slave 8259A with the edge/level control registers.

    ``output`` learns every change of the level of the master's INTR output.
    """

    ports = (
        range(MASTER_PORT, MASTER_PORT + 2),
        range(SLAVE_PORT, SLAVE_PORT + 2),
        range(ELCR_PORT, ELCR_PORT + 2),
    )
    widest_access = 1
    _ELCR_WRITABLE = (0xF8, 0xDE)
    """IRQ 0, 1, 2, 8 and 13 are always edge-triggered."""

    def __init__(self, output: LineDriver = unconnected) -> None:
        self._master = _Controller(is_master=True)
        self._slave = _Controller(is_master=False)
        self._pair = (self._master, self._slave)
        self._output = output
        self._level = False

    def set_line(self, number: int, *, level: bool) -> None:
        """Drive ISA interrupt line ``number`` (0 to 15; line 2 is the cascade and not there)."""
        if number == CASCADE or not 0 <= number < 16:
            return
        self._pair[number >> 3].set_line(number & 7, level=level)
        self._settle()

    @property
    def is_requesting(self) -> bool:
        """The level of the INTR output."""
        return self._level

    def peek_vector(self) -> int:
        """Return the vector that an acknowledge cycle would give now."""
        number = self._master.highest()
        if number != CASCADE:
            return self._master.base | (SPURIOUS if number is None else number)
        inner = self._slave.highest()
        return self._slave.base | (SPURIOUS if inner is None else inner)

    def acknowledge(self) -> int:
        """Run an interrupt-acknowledge cycle and return the vector (a spurious one if need be)."""
        number = self._master.acknowledge(self._master.highest())
        vector = self._master.base | number
        if number == CASCADE:
            vector = self._slave.base | self._slave.acknowledge(self._slave.highest())
        self._settle()
        return vector

    @property
    def masks(self) -> int:
        """The two interrupt mask registers, the slave's in bits 15:8."""
        return self._slave.mask << 8 | self._master.mask

    def port_read(self, port: int, size: int) -> int:
        """Return a register, or the answer to a poll command."""
        if port >= ELCR_PORT:
            return self._pair[port & 1].level_triggered
        controller = self._slave if port >= SLAVE_PORT else self._master
        value = controller.read_data() if port & 1 else controller.read_command()
        self._settle()
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write a command word, the mask or an edge/level register."""
        value &= 0xFF
        if port >= ELCR_PORT:
            self._pair[port & 1].level_triggered = value & self._ELCR_WRITABLE[port & 1]
        else:
            controller = self._slave if port >= SLAVE_PORT else self._master
            if port & 1:
                controller.write_data(value)
            else:
                controller.write_command(value)
        self._settle()

    def _settle(self) -> None:
        """Let the slave's output reach the master, and the master's the processor."""
        self._master.set_line(CASCADE, level=self._slave.highest() is not None)
        level = self._master.highest() is not None
        if level != self._level:
            self._level = level
            self._output(level=level)
