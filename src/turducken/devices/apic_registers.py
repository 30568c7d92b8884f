"""Registers of the local APIC and the I/O APIC: layouts and offsets only.

SDM 3A, "Advanced Programmable Interrupt Controller (APIC)"; 82093AA data sheet, "Register
Description".
"""

from enum import IntEnum

from turducken.bits import Layout, bit, bits, reserved

APIC_DEFAULT_BASE = 0xFEE0_0000
IO_APIC_DEFAULT_BASE = 0xFEC0_0000
X2APIC_MSR_BASE = 0x800

APIC_BASE = Layout(
    "IA32_APIC_BASE",
    64,
    reserved(7, 0),
    bit("BSP", 8, "this is the boot processor"),
    reserved(9),
    bit("EXTD", 10, "x2APIC mode"),
    bit("EN", 11, "the local APIC is enabled"),
    bits("BASE", 51, 12, "physical address of the registers (bits above MAXPHYADDR reserved)"),
    reserved(63, 52),
    source='SDM 3A, "Local APIC Status and Location"',
)


class Offset(IntEnum):
    """Where the registers are in the 4 KiB page; the x2APIC MSR is 800h plus a sixteenth of it."""

    ID = 0x020
    VERSION = 0x030
    TPR = 0x080
    APR = 0x090
    PPR = 0x0A0
    EOI = 0x0B0
    RRD = 0x0C0
    LDR = 0x0D0
    DFR = 0x0E0
    SVR = 0x0F0
    ISR = 0x100
    TMR = 0x180
    IRR = 0x200
    ESR = 0x280
    LVT_CMCI = 0x2F0
    ICR_LOW = 0x300
    ICR_HIGH = 0x310
    LVT_TIMER = 0x320
    LVT_THERMAL = 0x330
    LVT_PERFORMANCE = 0x340
    LVT_LINT0 = 0x350
    LVT_LINT1 = 0x360
    LVT_ERROR = 0x370
    INITIAL_COUNT = 0x380
    CURRENT_COUNT = 0x390
    DIVIDE = 0x3E0
    SELF_IPI = 0x3F0


class Delivery(IntEnum):
    """Delivery modes of the ICR, of LVT entries and of redirection entries."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


class Shorthand(IntEnum):
    """Destination shorthands of the ICR."""

    NONE = 0
    SELF = 1
    ALL = 2
    OTHERS = 3


SVR = Layout(
    "SVR",
    32,
    bits("VECTOR", 7, 0, "spurious vector"),
    bit("ENABLE", 8, "APIC software enable"),
    bit("FOCUS_OFF", 9, "focus processor checking is disabled"),
    reserved(11, 10),
    bit("NO_EOI_BROADCAST", 12, "offered where the version register says so: not here"),
    reserved(31, 13),
    source='SDM 3A, "Spurious Interrupt"',
)
ICR = Layout(
    "ICR",
    32,
    bits("VECTOR", 7, 0),
    bits("MODE", 10, 8, "delivery mode"),
    bit("LOGICAL", 11, "destination mode"),
    bit("PENDING", 12, "delivery status (xAPIC): never seen set here"),
    reserved(13),
    bit("ASSERT", 14, "level"),
    bit("LEVEL", 15, "trigger mode"),
    reserved(17, 16),
    bits("SHORTHAND", 19, 18),
    reserved(31, 20),
    source='SDM 3A, "Interrupt Command Register (ICR)"',
)
LVT = Layout(
    "LVT",
    32,
    bits("VECTOR", 7, 0),
    bits("MODE", 10, 8, "delivery mode (not in the timer's and the error entry)"),
    reserved(11),
    bit("PENDING", 12, "delivery status"),
    bit("ACTIVE_LOW", 13, "LINT0, LINT1"),
    bit("REMOTE_IRR", 14, "LINT0, LINT1: a level-triggered interrupt awaits its EOI"),
    bit("LEVEL", 15, "LINT0, LINT1: trigger mode"),
    bit("MASKED", 16),
    bits("TIMER_MODE", 18, 17, "timer: one-shot, periodic, TSC-deadline"),
    reserved(31, 19),
    source='SDM 3A, "Local Vector Table"',
)
ESR = Layout(
    "ESR",
    32,
    bit("SEND_CHECKSUM", 0),
    bit("RECEIVE_CHECKSUM", 1),
    bit("SEND_ACCEPT", 2),
    bit("RECEIVE_ACCEPT", 3),
    bit("REDIRECTABLE", 4),
    bit("SEND_ILLEGAL_VECTOR", 5),
    bit("RECEIVE_ILLEGAL_VECTOR", 6),
    bit("ILLEGAL_REGISTER", 7),
    reserved(31, 8),
    source='SDM 3A, "Error Handling"',
)
REDIRECTION = Layout(
    "I/O APIC redirection entry",
    64,
    bits("VECTOR", 7, 0),
    bits("MODE", 10, 8, "delivery mode"),
    bit("LOGICAL", 11, "destination mode"),
    bit("PENDING", 12, "delivery status (read-only)"),
    bit("ACTIVE_LOW", 13, "pin polarity"),
    bit("REMOTE_IRR", 14, "a level-triggered interrupt awaits its EOI (read-only)"),
    bit("LEVEL", 15, "trigger mode"),
    bit("MASKED", 16),
    reserved(55, 17),
    bits("DESTINATION", 63, 56),
    source='82093AA data sheet, "I/O Redirection Table Registers"',
)

ONE_SHOT, PERIODIC, TSC_DEADLINE = 0, 1, 2
"""Values of the timer entry's mode; 3 is reserved."""

_ALL = LVT.mask("VECTOR", "MASKED")
LVT_WRITABLE = {
    Offset.LVT_TIMER: _ALL | LVT.mask("TIMER_MODE"),
    Offset.LVT_THERMAL: _ALL | LVT.mask("MODE"),
    Offset.LVT_PERFORMANCE: _ALL | LVT.mask("MODE"),
    Offset.LVT_LINT0: _ALL | LVT.mask("MODE", "ACTIVE_LOW", "LEVEL"),
    Offset.LVT_LINT1: _ALL | LVT.mask("MODE", "ACTIVE_LOW", "LEVEL"),
    Offset.LVT_ERROR: _ALL,
}
"""The writable bits of each entry of the local vector table that the APIC has."""

LVT_READ_ONLY = LVT.mask("PENDING")
LVT_READ_ONLY_LINT = LVT.mask("PENDING", "REMOTE_IRR")
