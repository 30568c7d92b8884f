"""What VM entry injects is delivered without what the processor does for events of its own."""

import pytest
from cpu_support import CODE, Pc

from turducken.cpu.events import Event, EventKind

GP, DB, PF = 13, 1, 14
SOFTWARE = 0x21


@pytest.mark.parametrize(("injected", "vector"), [(True, SOFTWARE), (False, GP)])
def test_iopl_keeps_int_n_from_virtual_8086_mode_but_not_an_injected_one(injected, vector):
    pc = Pc().virtual_8086("f4", iopl=0)
    pc.gate(SOFTWARE, 8, dpl=3)
    pc.p.raise_event(Event(EventKind.SOFTWARE_INTERRUPT, SOFTWARE, None, 2, is_injected=injected))
    assert pc.event() == vector


@pytest.mark.parametrize("injected", [True, False])
def test_debug_registers_and_cr2_follow_real_exceptions_only(injected):
    pc = Pc().long("f4")
    pc.p.dr[7] = 0x2400
    pc.p.msrs.debugctl = 2
    before = pc.p.dr[6]
    pc.p.raise_event(Event(EventKind.HARDWARE, DB, payload=1 << 14, is_injected=injected))
    assert pc.event() == DB
    assert (pc.p.dr[6] == before) == injected
    assert bool(pc.p.dr[7] & 0x2000) == injected
    assert bool(pc.p.msrs.debugctl & 2) == injected
    pc = Pc().long("f4")
    pc.p.raise_event(Event(EventKind.HARDWARE, PF, 0, payload=0x1234, is_injected=injected))
    assert pc.event() == PF
    assert pc.state.cr2 == (0 if injected else 0x1234)


def test_an_event_that_is_taken_ends_blocking_by_sti_and_halting():
    pc = Pc().long("f4")
    pc.state.in_shadow = True
    pc.p.raise_event(Event(EventKind.HARDWARE, GP, 0))
    assert not pc.state.in_shadow
    assert pc.event() == GP
    assert pc.words(pc.state.gpr[4] + 8, 1, 8) == [CODE]
