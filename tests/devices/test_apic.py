import itertools

import pytest
from pc_support import Line, Processor

from turducken.devices.apic_core import ApicFeatures
from turducken.devices.apic_fabric import ApicFabric, Destination, Message
from turducken.devices.apic_timer import NominalTsc
from turducken.devices.clock import Clock
from turducken.devices.io_apic import IoApic
from turducken.devices.local_apic import LocalApic
from turducken.devices.pic import PicPair

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR, ESR = (
    0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0, 0x280,
)  # fmt: skip
ISR, TMR, IRR = 0x100, 0x180, 0x200
ICR_LOW, ICR_HIGH = 0x300, 0x310
TIMER, LINT0, LINT1, ERROR = 0x320, 0x350, 0x360, 0x370
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0

BASE = 0xFEE0_0000
EN, EXTD, BSP = 0x800, 0x400, 0x100


class System:
    def __init__(self, count=1, **features):
        self.clock = Clock()
        self.fabric = ApicFabric()
        self.processors = [Processor() for _ in range(count)]
        self.apics = [
            LocalApic(index, processor, self.fabric, self.clock, features=ApicFeatures(**features))
            for index, processor in enumerate(self.processors)
        ]
        for apic in self.apics:
            apic.mmio_write(SVR, 4, 0x1FF)

    def pending(self):
        return [apic.pending_vector() for apic in self.apics]

    def ipi(self, low, destination=0, sender=0):
        self.apics[sender].mmio_write(ICR_HIGH, 4, destination << 24)
        self.apics[sender].mmio_write(ICR_LOW, 4, low)


@pytest.fixture
def system():
    return System()


@pytest.fixture
def apic(system):
    return system.apics[0]


def to_x2apic(apic):
    assert apic.write_base(apic.base_msr | EXTD)


def accept(apic, vector, *, level=False):
    apic.receive(Message(0, vector, level))


# -- priorities ------------------------------------------------------------------------------------


def test_reset_state(system):
    apic = LocalApic(3, Processor(), system.fabric, system.clock)
    read = {
        name: apic.mmio_read(name, 4)
        for name in (ID, VERSION, TPR, LDR, DFR, SVR, LINT0, TIMER, ERROR)
    }
    assert read == {
        ID: 3 << 24, VERSION: 0x50014, TPR: 0, LDR: 0, DFR: 0xFFFF_FFFF, SVR: 0xFF,
        LINT0: 0x10000, TIMER: 0x10000, ERROR: 0x10000,
    }  # fmt: skip
    assert apic.base_msr == BASE | EN


def test_the_highest_vector_is_taken_first_and_nests(apic):
    accept(apic, 0x31)
    accept(apic, 0x45)
    assert apic.acknowledge() == 0x45
    assert apic.pending_vector() is None
    accept(apic, 0x4F)  # the same class waits
    assert apic.pending_vector() is None
    accept(apic, 0x50)
    assert apic.acknowledge() == 0x50
    assert apic.mmio_read(ISR + 0x20, 4) == 1 << 5 | 1 << 16
    for expected in (None, 0x4F):
        apic.mmio_write(EOI, 4, 0)
        assert apic.pending_vector() == expected
    assert apic.acknowledge() == 0x4F
    apic.mmio_write(EOI, 4, 0)
    assert apic.acknowledge() == 0x31


@pytest.mark.parametrize(
    ("tpr", "in_service", "ppr"),
    [(0x00, None, 0x00), (0x35, None, 0x35), (0x35, 0x42, 0x40), (0x45, 0x42, 0x45),
     (0x52, 0x42, 0x52)],
)  # fmt: skip
def test_processor_priority(apic, tpr, in_service, ppr):
    if in_service is not None:
        accept(apic, in_service)
        apic.acknowledge()
    apic.mmio_write(TPR, 4, tpr)
    assert apic.mmio_read(PPR, 4) == ppr


def test_the_task_priority_holds_its_own_class_back(apic):
    apic.tpr = 0x30
    accept(apic, 0x3F)
    assert apic.pending_vector() is None
    apic.tpr = 0x2F
    assert apic.pending_vector() == 0x3F


def test_an_illegal_vector_is_an_error_and_not_delivered(apic):
    apic.mmio_write(ERROR, 4, 0xFE)
    accept(apic, 0x0F)
    assert apic.mmio_read(ESR, 4) == 0
    apic.mmio_write(ESR, 4, 0)
    assert apic.mmio_read(ESR, 4) == 0x40
    assert apic.acknowledge() == 0xFE
    apic.mmio_write(ESR, 4, 0)
    assert apic.mmio_read(ESR, 4) == 0


def test_an_unknown_register_is_an_error(apic):
    assert apic.mmio_read(0x3F0, 4) == 0
    apic.mmio_write(ESR, 4, 0)
    assert apic.mmio_read(ESR, 4) == 0x80


def test_software_disabling_masks_the_lvt_and_refuses_fixed_interrupts(system, apic):
    apic.mmio_write(LINT0, 4, 0x700)
    apic.mmio_write(SVR, 4, 0xFF)
    assert apic.mmio_read(LINT0, 4) == 0x10700
    apic.mmio_write(LINT0, 4, 0x700)
    assert apic.mmio_read(LINT0, 4) == 0x10700
    accept(apic, 0x40)
    assert apic.pending_vector() is None
    apic.receive(Message(4, 0))
    assert system.processors[0].log == ["nmi"]


# -- interprocessor interrupts -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("shorthand", "expected"),
    [(1, [None, 0x40, None]), (2, [0x40, 0x40, 0x40]), (3, [0x40, None, 0x40])],
)
def test_shorthands(shorthand, expected):
    system = System(3)
    system.ipi(shorthand << 18 | 0x4040, sender=1)
    assert system.pending() == expected


@pytest.mark.parametrize("destination", [0, 1, 2, 0xFF, 7])
def test_physical_destinations(destination):
    system = System(3)
    system.ipi(0x4040, destination)
    expected = [0x40 if destination in (index, 0xFF) else None for index in range(3)]
    assert system.pending() == expected


def test_flat_logical_destinations():
    system = System(3)
    for index, apic in enumerate(system.apics):
        apic.mmio_write(LDR, 4, 1 << index + 24)
    system.ipi(0x4840, 0b101)
    assert system.pending() == [0x40, None, 0x40]


@pytest.mark.parametrize(
    ("destination", "expected"),
    [(0x11, [1, 0, 0]), (0x13, [1, 1, 0]), (0x21, [0, 0, 1]), (0xF1, [1, 0, 1]), (0xFF, [1, 1, 1])],
)
def test_cluster_logical_destinations(destination, expected):
    system = System(3)
    for apic, logical_id in zip(system.apics, (0x11, 0x12, 0x21), strict=True):
        apic.mmio_write(DFR, 4, 0)
        apic.mmio_write(LDR, 4, logical_id << 24)
    system.ipi(0x4840, destination)
    assert [int(vector is not None) for vector in system.pending()] == expected


def test_lowest_priority_goes_to_the_least_busy_then_to_the_lowest_id():
    system = System(3)
    system.ipi(0x4940, 0xFF)
    assert system.pending() == [0x40, None, None]
    system.apics[0].tpr = 0x20
    system.apics[1].tpr = 0x10
    system.ipi(0x4942, 0xFF)
    assert system.pending() == [0x40, None, 0x42]


def test_init_and_startup_to_all_others():
    system = System(3)
    system.ipi(0xC4500)
    system.ipi(0xC8500)  # level de-assert: nothing
    system.ipi(0xC4608)
    system.ipi(0xC0608)
    assert system.processors[0].log == []
    assert system.processors[2].log == ["init", ("sipi", 8), ("sipi", 8)]


def test_nmi_by_ipi():
    system = System(2)
    system.ipi(0x4400, 1)
    assert [processor.log for processor in system.processors] == [[], ["nmi"]]


def test_a_disabled_apic_receives_nothing():
    system = System(2)
    assert system.apics[1].write_base(BASE)
    system.ipi(0xC4500)
    system.ipi(0xC4040)
    assert system.processors[1].log == []
    assert system.pending() == [None, None]


def test_sending_an_illegal_vector_is_an_error():
    system = System(2)
    system.ipi(0x4005, 1)
    for apic in system.apics:
        apic.mmio_write(ESR, 4, 0)
    assert [apic.mmio_read(ESR, 4) for apic in system.apics] == [0x20, 0x40]


@pytest.mark.parametrize("mode", [2, 3, 7])
def test_modes_without_effect(mode):
    system = System(2)
    system.ipi(0xC4000 | mode << 8)
    assert system.pending() == [None, None]
    assert system.processors[1].log == []


# -- x2APIC mode ----------------------------------------------------------------------------------


DISABLED, XAPIC, X2APIC, INVALID = BASE, BASE | EN, BASE | EN | EXTD, BASE | EXTD
PATHS = {DISABLED: (), XAPIC: (XAPIC,), X2APIC: (XAPIC, X2APIC)}
LEGAL = {(DISABLED, XAPIC), (XAPIC, DISABLED), (XAPIC, X2APIC), (X2APIC, DISABLED)}


@pytest.mark.parametrize(
    ("start", "end"), list(itertools.product(PATHS, (DISABLED, XAPIC, X2APIC, INVALID)))
)
def test_mode_transitions(apic, start, end):
    assert apic.write_base(DISABLED | BSP)
    for step in PATHS[start]:
        assert apic.write_base(step | BSP)
    is_legal = (start, end) in LEGAL or start == end
    assert apic.write_base(end | BSP) == is_legal
    assert apic.base_msr == (end if is_legal else start) | BSP


@pytest.mark.parametrize("bad", [1, 0x200, 1 << 46, 1 << 63])
def test_reserved_bits_of_the_base(apic, bad):
    assert not apic.write_base(apic.base_msr | bad)


def test_a_processor_without_x2apic(system):
    apic = System(x2apic=False).apics[0]
    assert not apic.write_base(X2APIC | BSP)


def test_the_base_moves_the_page_and_x2apic_hides_it(apic):
    assert apic.write_base(0xFED0_0000 | EN | BSP)
    assert apic.region.base == 0xFED0_0000
    to_x2apic(apic)
    assert apic.region is None


def test_registers_survive_the_change_to_x2apic_and_not_disabling(apic):
    apic.mmio_write(TPR, 4, 0x20)
    to_x2apic(apic)
    assert apic.read_msr(0x808) == 0x20
    assert apic.write_base(DISABLED | BSP)
    assert apic.write_base(XAPIC | BSP)
    assert apic.mmio_read(TPR, 4) == 0
    assert apic.mmio_read(SVR, 4) == 0xFF


def test_x2apic_ids():
    system = System(20)
    to_x2apic(system.apics[18])
    assert system.apics[18].read_msr(0x802) == 18
    assert system.apics[18].read_msr(0x80D) == 0x0001_0004


def test_x2apic_ipis():
    system = System(20)
    for apic in system.apics:
        to_x2apic(apic)
    assert system.apics[0].write_msr(0x830, 19 << 32 | 0x4040)
    assert system.apics[0].write_msr(0x830, 0x0001_0006 << 32 | 0x4841)  # logical: 17, 18
    assert system.apics[0].write_msr(0x83F, 0x42)
    assert {index: vector for index, vector in enumerate(system.pending()) if vector} == {
        0: 0x42, 17: 0x41, 18: 0x41, 19: 0x40,
    }  # fmt: skip
    assert system.apics[0].write_msr(0x830, 0xFFFF_FFFF << 32 | 0x4050)
    assert system.pending() == [0x50] * 20


X2APIC_MSRS = {
    "read-write": {0x808, 0x80F, 0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838,
                   0x83E},
    "read-only": {0x802, 0x803, 0x80A, 0x80D, 0x839, *range(0x810, 0x828)},
    "write-only": {0x80B, 0x83F},
}  # fmt: skip


@pytest.mark.parametrize("index", range(0x800, 0x900))
def test_which_msrs_x2apic_mode_has(apic, index):
    assert apic.read_msr(index) is None
    assert not apic.write_msr(index, 0)
    to_x2apic(apic)
    readable = index in X2APIC_MSRS["read-write"] | X2APIC_MSRS["read-only"]
    writable = index in X2APIC_MSRS["read-write"] | X2APIC_MSRS["write-only"]
    assert (apic.read_msr(index) is not None) == readable
    assert apic.write_msr(index, 0) == writable


@pytest.mark.parametrize(
    ("index", "value"),
    [(0x808, 0x100), (0x80B, 1), (0x80F, 0x1000), (0x828, 1), (0x830, 0x1000), (0x830, 0x100000),
     (0x832, 0x80000), (0x835, 0x800), (0x837, 0x700), (0x838, 1 << 32), (0x83E, 4),
     (0x83F, 0x100)],
)  # fmt: skip
def test_reserved_bits_in_x2apic_mode(apic, index, value):
    to_x2apic(apic)
    assert not apic.write_msr(index, value)


def test_init_keeps_mode_and_id(system, apic):
    to_x2apic(apic)
    apic.write_msr(0x808, 0x30)
    apic.init_reset()
    assert apic.is_x2apic
    assert (apic.read_msr(0x802), apic.read_msr(0x808), apic.read_msr(0x80D)) == (0, 0, 1)


# -- timer -----------------------------------------------------------------------------------------


def start_timer(apic, *, mode=0, count=1000, divide=0xB, vector=0x60):
    apic.mmio_write(DIVIDE, 4, divide)
    apic.mmio_write(TIMER, 4, mode << 17 | vector)
    apic.mmio_write(INITIAL, 4, count)


@pytest.mark.parametrize(
    ("divide", "divisor"),
    [(0xB, 1), (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xA, 128)],
)
def test_a_one_shot_expires_once_after_its_count(system, apic, divide, divisor):
    start_timer(apic, divide=divide)
    system.clock.advance(1000 * divisor - 1)
    assert apic.mmio_read(CURRENT, 4) == 1
    assert apic.pending_vector() is None
    system.clock.advance(1)
    assert apic.mmio_read(CURRENT, 4) == 0
    assert apic.acknowledge() == 0x60
    apic.mmio_write(EOI, 4, 0)
    system.clock.advance(10**9)
    assert apic.pending_vector() is None


def test_a_periodic_timer_repeats(system, apic):
    start_timer(apic, mode=1, count=5000)
    for _ in range(3):
        assert system.clock.next_deadline() == (system.clock.now // 5000 + 1) * 5000
        system.clock.advance(5000)
        assert apic.acknowledge() == 0x60
        apic.mmio_write(EOI, 4, 0)
    apic.mmio_write(INITIAL, 4, 0)
    assert system.clock.next_deadline() is None


def test_a_very_short_period_costs_few_events(system, apic):
    start_timer(apic, mode=1, count=1)
    system.clock.advance(100_000)
    assert system.processors[0].changes < 250
    assert apic.pending_vector() == 0x60


def test_a_masked_timer_counts_without_interrupt(system, apic):
    apic.mmio_write(TIMER, 4, 0x10060)
    apic.mmio_write(DIVIDE, 4, 0xB)
    apic.mmio_write(INITIAL, 4, 1000)
    system.clock.advance(400)
    assert apic.mmio_read(CURRENT, 4) == 600
    assert system.clock.next_deadline() is None
    apic.mmio_write(TIMER, 4, 0x60)
    system.clock.advance(600)
    assert apic.acknowledge() == 0x60


def test_tsc_deadline(system, apic):
    apic.mmio_write(TIMER, 4, 2 << 17 | 0x61)
    apic.mmio_write(INITIAL, 4, 5)
    assert apic.mmio_read(CURRENT, 4) == 0
    assert apic.write_msr(0x6E0, 5000)
    assert apic.read_msr(0x6E0) == 5000
    system.clock.advance(4999)
    assert apic.pending_vector() is None
    system.clock.advance(1)
    assert apic.acknowledge() == 0x61
    assert apic.read_msr(0x6E0) == 0


def test_tsc_deadline_is_disarmed_by_zero_and_by_another_mode(system, apic):
    apic.write_msr(0x6E0, 100)
    assert apic.read_msr(0x6E0) == 0
    apic.mmio_write(TIMER, 4, 2 << 17 | 0x61)
    apic.write_msr(0x6E0, 100)
    apic.write_msr(0x6E0, 0)
    assert system.clock.next_deadline() is None
    apic.write_msr(0x6E0, 100)
    apic.mmio_write(TIMER, 4, 0x61)
    assert apic.read_msr(0x6E0) == 0
    system.clock.advance(1000)
    assert apic.pending_vector() is None


def test_a_deadline_follows_a_written_tsc():
    class Tsc(NominalTsc):
        offset = 0

        def read(self):
            return super().read() + self.offset

        def time_of(self, value):
            return super().time_of(value - self.offset)

    clock, fabric = Clock(), ApicFabric()
    tsc = Tsc(clock)
    apic = LocalApic(0, Processor(), fabric, clock, tsc=tsc)
    apic.mmio_write(SVR, 4, 0x1FF)
    apic.mmio_write(TIMER, 4, 2 << 17 | 0x61)
    apic.write_msr(0x6E0, 10_000)
    tsc.offset = 9_000
    apic.tsc_changed()
    clock.advance(1_000)
    assert apic.pending_vector() == 0x61


# -- local interrupts and the 8259 pair ------------------------------------------------------------


class WithPics(System):
    def __init__(self):
        super().__init__()
        line = Line()
        self.pics = PicPair(self.drive)
        self.line = line
        self.apics = [LocalApic(0, self.processors[0], self.fabric, self.clock, external=self.pics)]
        self.apics[0].mmio_write(SVR, 4, 0x1FF)
        for register, value in ((0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, 0)):
            self.pics.port_write(0x20 + register, 1, value)

    def drive(self, *, level):
        self.apics[0].set_lint(0, level=level)


def test_extint_passes_all_priorities():
    system = WithPics()
    apic = system.apics[0]
    system.pics.set_line(4, level=True)
    assert apic.pending_vector() is None
    apic.mmio_write(LINT0, 4, 0x700)
    apic.tpr = 0xFF
    assert apic.pending_vector() == 0x24
    assert apic.acknowledge() == 0x24
    assert apic.mmio_read(ISR + 0x10, 4) == 0
    assert apic.pending_vector() is None


def test_without_an_apic_the_pics_reach_the_processor():
    system = WithPics()
    apic = system.apics[0]
    assert apic.write_base(BASE | BSP)
    system.pics.set_line(1, level=True)
    assert apic.acknowledge() == 0x21


def test_lint0_as_a_fixed_interrupt():
    system = WithPics()
    apic = system.apics[0]
    apic.mmio_write(LINT0, 4, 0x77)
    system.pics.set_line(1, level=True)
    assert apic.acknowledge() == 0x77


def test_a_level_lint0_repeats_until_it_falls():
    system = WithPics()
    apic = system.apics[0]
    apic.mmio_write(LINT0, 4, 0x8077)
    system.pics.set_line(1, level=True)
    assert apic.acknowledge() == 0x77
    assert apic.mmio_read(LINT0, 4) == 0xC077
    apic.mmio_write(EOI, 4, 0)
    assert apic.acknowledge() == 0x77
    system.pics.set_line(1, level=False)
    apic.mmio_write(EOI, 4, 0)
    assert apic.acknowledge() is None
    assert apic.mmio_read(LINT0, 4) == 0x8077


def test_lint1_as_nmi(system, apic):
    apic.set_lint(1, level=True)
    apic.mmio_write(LINT1, 4, 0x400)
    assert system.processors[0].log == []
    apic.set_lint(1, level=False)
    apic.set_lint(1, level=True)
    assert system.processors[0].log == ["nmi"]


# -- I/O APIC --------------------------------------------------------------------------------------


@pytest.fixture
def io_apic(system):
    return IoApic(system.fabric, apic_id=2)


def redirect(io_apic, pin, entry):
    for half in (1, 0):
        io_apic.mmio_write(0x00, 4, 0x10 + 2 * pin + half)
        io_apic.mmio_write(0x10, 4, entry >> 32 * half & 0xFFFF_FFFF)


def test_io_apic_identity(io_apic):
    io_apic.mmio_write(0, 4, 0)
    assert io_apic.mmio_read(0x10, 4) == 2 << 24
    io_apic.mmio_write(0, 4, 1)
    assert io_apic.mmio_read(0x10, 4) == 0x0017_0020
    assert io_apic.mmio_read(0x12, 1) == 0x17


def test_an_edge_is_sent_once_and_lost_while_masked(apic, io_apic):
    redirect(io_apic, 4, 0x10044)
    io_apic.set_line(4, level=True)
    redirect(io_apic, 4, 0x44)
    assert apic.pending_vector() is None
    io_apic.set_line(4, level=False)
    io_apic.set_line(4, level=True)
    assert apic.acknowledge() == 0x44
    apic.mmio_write(EOI, 4, 0)
    assert apic.pending_vector() is None


def test_a_level_is_sent_again_after_its_end_of_interrupt(apic, io_apic):
    redirect(io_apic, 9, 0x18055)
    io_apic.set_line(9, level=True)
    redirect(io_apic, 9, 0x8055)
    assert io_apic.entry(9) == 0xC055
    assert apic.acknowledge() == 0x55
    assert apic.mmio_read(TMR + 0x20, 4) == 1 << 0x15
    assert apic.pending_vector() is None
    apic.mmio_write(EOI, 4, 0)
    assert apic.acknowledge() == 0x55
    io_apic.set_line(9, level=False)
    apic.mmio_write(EOI, 4, 0)
    assert apic.pending_vector() is None
    assert io_apic.entry(9) == 0x8055


def test_the_eoi_register_ends_a_level_directly(apic, io_apic):
    redirect(io_apic, 9, 0x8055)
    io_apic.set_line(9, level=True)
    io_apic.set_line(9, level=False)
    io_apic.mmio_write(0x40, 4, 0x55)
    assert io_apic.entry(9) == 0x8055


def test_read_only_bits_of_an_entry(io_apic):
    redirect(io_apic, 0, (1 << 64) - 1)
    assert io_apic.entry(0) == 0xFF00_0000_0001_AFFF


def test_an_nmi_pin(system, io_apic):
    redirect(io_apic, 3, 0x400)
    io_apic.set_line(3, level=True)
    assert system.processors[0].log == ["nmi"]


def test_a_logical_destination_reaches_x2apics():
    system = System(2)
    for apic in system.apics:
        to_x2apic(apic)
    system.fabric.send(Message(0, 0x40), Destination(0b10, is_logical=True))
    assert system.pending() == [None, 0x40]
