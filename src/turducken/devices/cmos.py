"""The CMOS RAM and real-time clock: MC146818 data sheet, and the PC's use of the RAM.

The date at power-on is fixed; seconds pass with guest time.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime, timedelta

from turducken.address import KIB, MIB
from turducken.bits import Layout, bit, bits, reserved
from turducken.devices.clock import NANOSECONDS, Clock, Event
from turducken.devices.lines import LineDriver, unconnected

INDEX_PORT = 0x70
DATA_PORT = 0x71
CMOS_SIZE = 128

POWER_ON_DATE = datetime(2024, 1, 1, tzinfo=UTC)

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
WEEKDAY, DAY, MONTH, YEAR = 6, 7, 8, 9
STATUS_A, STATUS_B, STATUS_C, STATUS_D = 10, 11, 12, 13
SHUTDOWN_STATUS = 0x0F
EQUIPMENT = 0x14
BASE_MEMORY = 0x15
EXTENDED_MEMORY = (0x17, 0x30)
MEMORY_ABOVE_16_MIB = 0x34
MEMORY_ABOVE_4_GIB = 0x5B
PROCESSORS_BEYOND_FIRST = 0x5F
CENTURY = 0x32
BOOT_ORDER = 0x3D
"""Two devices, the first in the lower half: 2 stands for a disk, 3 for a CD."""

A = Layout(
    "RTC register A",
    8,
    bits("RATE", 3, 0, "rate of the periodic interrupt"),
    bits("DIVIDER", 6, 4),
    bit("UIP", 7, "update in progress"),
    source='MC146818 data sheet, "Register A"',
)
B = Layout(
    "RTC register B",
    8,
    bit("DSE", 0, "daylight saving"),
    bit("24H", 1, "hours run from 0 to 23"),
    bit("BINARY", 2, "numbers are binary, not BCD"),
    bit("SQWE", 3),
    bit("UIE", 4, "update-ended interrupt enable"),
    bit("AIE", 5, "alarm interrupt enable"),
    bit("PIE", 6, "periodic interrupt enable"),
    bit("SET", 7, "updates are halted"),
    source='MC146818 data sheet, "Register B"',
)
C = Layout(
    "RTC register C",
    8,
    reserved(3, 0),
    bit("UF", 4, "an update has ended"),
    bit("AF", 5, "the alarm's time has come"),
    bit("PF", 6, "a period has ended"),
    bit("IRQF", 7, "the interrupt is requested"),
    source='MC146818 data sheet, "Register C"',
)

_FLAGS = C.mask("UF", "AF", "PF")
_IRQF = C.mask("IRQF")
_VALID_RAM_AND_TIME = 0x80
_UPDATE_TIME = 244_000
"""Nanoseconds before each second for which UIP is set ("Update Cycle")."""
_DATE_REGISTERS = frozenset({SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY})
_PM = 0x80
_DO_NOT_CARE = 0xC0


@dataclass(frozen=True, slots=True)
class MemorySizes:
    """RAM in bytes as a BIOS reports it: below and above the 32-bit device hole."""

    low: int
    high: int = 0


class Cmos:
    """CMOS RAM and clock; ``line`` is the RTC's interrupt line."""

    ports = (range(INDEX_PORT, DATA_PORT + 1),)
    widest_access = 1

    def __init__(self, clock: Clock, line: LineDriver = unconnected) -> None:
        self._clock = clock
        self._line = line
        self._index = 0
        self._ram = bytearray(CMOS_SIZE)
        self._ram[STATUS_A] = A.make(RATE=6, DIVIDER=2)
        self._ram[STATUS_B] = B.mask("24H")
        self._base = POWER_ON_DATE
        self._base_time = 0
        """Guest time at which the date was ``_base``."""
        self._halted_at: datetime | None = None
        self._flags = 0
        self._periodic: Event | None = None
        self._update: Event | None = None

    def set_memory(self, sizes: MemorySizes, processors: int) -> None:
        """Fill in what a BIOS leaves of memory sizes and processors."""
        self._put(BASE_MEMORY, 640, 2)
        extended = min(max(sizes.low - MIB, 0) // KIB, 0xFFFF)
        for register in EXTENDED_MEMORY:
            self._put(register, extended, 2)
        self._put(MEMORY_ABOVE_16_MIB, min(max(sizes.low - 16 * MIB, 0) // (64 * KIB), 0xFFFF), 2)
        self._put(MEMORY_ABOVE_4_GIB, min(sizes.high // (64 * KIB), 0xFF_FFFF), 3)
        self._ram[PROCESSORS_BEYOND_FIRST] = processors - 1 & 0xFF
        self._ram[EQUIPMENT] = 0x06  # an FPU and a mouse port; no diskette drive

    def set_boot_order(self) -> None:
        """Let a BIOS try the first disk, then the CD."""
        self._ram[BOOT_ORDER] = 0x32

    def _put(self, register: int, value: int, size: int) -> None:
        self._ram[register : register + size] = value.to_bytes(size, "little")

    @property
    def shutdown_status(self) -> int:
        """The byte that tells a BIOS what to do after a reset (0Ah: jump through 40h:67h)."""
        return self._ram[SHUTDOWN_STATUS]

    # -- ports -------------------------------------------------------------------------------------

    def port_read(self, port: int, size: int) -> int:
        """Return the selected register; the index register is write-only."""
        if port == INDEX_PORT:
            return 0xFF
        register = self._index
        if register in _DATE_REGISTERS:
            return self._read_date(register)
        if register == STATUS_A:
            return self._ram[STATUS_A] | A.make(UIP=self._is_updating)
        if register == STATUS_C:
            return self._read_flags()
        if register == STATUS_D:
            return _VALID_RAM_AND_TIME
        return self._ram[register]

    def port_write(self, port: int, size: int, value: int) -> None:
        """Select a register (bit 7, the NMI mask, is ignored) or write the selected one."""
        value &= 0xFF
        if port == INDEX_PORT:
            self._index = value % CMOS_SIZE
        elif self._index in _DATE_REGISTERS:
            self._write_date(self._index, value)
        elif self._index == STATUS_A:
            self._ram[STATUS_A] = value & ~A.mask("UIP")
            self._schedule_periodic()
        elif self._index == STATUS_B:
            self._write_status_b(value)
        elif self._index not in (STATUS_C, STATUS_D):
            self._ram[self._index] = value

    def _write_status_b(self, value: int) -> None:
        halt = bool(value & B.mask("SET"))
        if halt:
            value &= ~B.mask("UIE")
        if halt and self._halted_at is None:
            self._halted_at = self.date
        elif not halt and self._halted_at is not None:
            self._set_date(self._halted_at)
            self._halted_at = None
        self._ram[STATUS_B] = value
        self._schedule_periodic()
        self._schedule_update()
        self._drive()

    # -- the date ----------------------------------------------------------------------------------

    @property
    def date(self) -> datetime:
        """The date and time now, in whole seconds."""
        if self._halted_at is not None:
            return self._halted_at
        seconds = (self._clock.now - self._base_time) // NANOSECONDS
        try:
            return self._base + timedelta(seconds=seconds)
        except OverflowError:
            return self._base

    def _set_date(self, date: datetime) -> None:
        self._base = date
        self._base_time = self._clock.now

    @property
    def _is_updating(self) -> bool:
        if self._halted_at is not None:
            return False
        return (self._clock.now - self._base_time) % NANOSECONDS >= NANOSECONDS - _UPDATE_TIME

    def _read_date(self, register: int) -> int:
        date = self.date
        match register:
            case 0:
                return self._encode(date.second)
            case 2:
                return self._encode(date.minute)
            case 4:
                return self._encode_hours(date.hour)
            case 6:
                return self._encode(date.isoweekday() % 7 + 1)
            case 7:
                return self._encode(date.day)
            case 8:
                return self._encode(date.month)
            case 9:
                return self._encode(date.year % 100)
            case _:
                return self._encode(date.year // 100)

    def _write_date(self, register: int, value: int) -> None:
        """Replace a part of the date; what no calendar has becomes the nearest that it has."""
        date = self.date
        year, month, day = date.year, date.month, date.day
        hour, minute, second = date.hour, date.minute, date.second
        number = self._decode(value)
        match register:
            case 0:
                second = min(number, 59)
            case 2:
                minute = min(number, 59)
            case 4:
                hour = self._decode_hours(value)
            case 7:
                day = max(number, 1)
            case 8:
                month = min(max(number, 1), 12)
            case 9:
                year = max(year // 100 * 100 + number % 100, 1)
            case 0x32:
                year = min(max(number * 100 + year % 100, 1), MAXYEAR)
            case _:
                return  # the day of the week follows from the date
        day = min(day, monthrange(year, month)[1])
        changed = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        if self._halted_at is not None:
            self._halted_at = changed
        else:
            self._set_date(changed)

    @property
    def _is_binary(self) -> bool:
        return bool(self._ram[STATUS_B] & B.mask("BINARY"))

    def _encode(self, number: int) -> int:
        return number if self._is_binary else number // 10 << 4 | number % 10

    def _decode(self, value: int) -> int:
        return value if self._is_binary else (value >> 4) * 10 + (value & 0xF)

    def _encode_hours(self, hour: int) -> int:
        if self._ram[STATUS_B] & B.mask("24H"):
            return self._encode(hour)
        return self._encode(hour % 12 or 12) | (_PM if hour >= 12 else 0)

    def _decode_hours(self, value: int) -> int:
        if self._ram[STATUS_B] & B.mask("24H"):
            return min(self._decode(value), 23)
        return self._decode(value & ~_PM) % 12 + (12 if value & _PM else 0)

    # -- interrupts --------------------------------------------------------------------------------

    def _read_flags(self) -> int:
        flags = self._flags | (_IRQF if self._is_requesting else 0)
        self._flags = 0
        self._drive()
        return flags

    @property
    def _is_requesting(self) -> bool:
        # Register B enables in the same bits in which register C reports.
        return bool(self._flags & self._ram[STATUS_B] & _FLAGS)

    def _drive(self) -> None:
        self._line(level=self._is_requesting)

    def _raise_flag(self, name: str) -> None:
        self._flags |= C.mask(name)
        self._drive()

    @property
    def _period(self) -> int | None:
        """Nanoseconds between periodic interrupts ("Register A", table of rates)."""
        rate = A["RATE"].get(self._ram[STATUS_A])
        if rate == 0 or not self._ram[STATUS_B] & B.mask("PIE"):
            return None
        shift = rate - 1 if rate > 2 else rate + 6
        return (NANOSECONDS << shift) // 32_768

    def _schedule_periodic(self) -> None:
        if self._periodic is not None:
            self._periodic.cancel()
        period = self._period
        self._periodic = None
        if period is not None:
            now = self._clock.now
            self._periodic = self._clock.at((now // period + 1) * period, self._end_period)

    def _end_period(self) -> None:
        self._raise_flag("PF")
        self._schedule_periodic()

    def _schedule_update(self) -> None:
        if self._update is not None:
            self._update.cancel()
        self._update = None
        if self._ram[STATUS_B] & B.mask("UIE", "AIE") and self._halted_at is None:
            passed = (self._clock.now - self._base_time) % NANOSECONDS
            self._update = self._clock.after(NANOSECONDS - passed, self._end_update)

    def _end_update(self) -> None:
        self._raise_flag("UF")
        if self._is_alarm_time:
            self._raise_flag("AF")
        self._schedule_update()

    @property
    def _is_alarm_time(self) -> bool:
        for alarm, register in (
            (SECONDS_ALARM, SECONDS),
            (MINUTES_ALARM, MINUTES),
            (HOURS_ALARM, HOURS),
        ):
            wanted = self._ram[alarm]
            if wanted & _DO_NOT_CARE != _DO_NOT_CARE and wanted != self._read_date(register):
                return False
        return True
