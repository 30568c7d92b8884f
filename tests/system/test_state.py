"""Where the processors stand at the end of a run."""

import pytest

from turducken.report.state import screen_of
from turducken.system import Mode, Stops, System, SystemOptions, find_image
from turducken.system.state import ProcessorState, states_of

FRAMES = 0x20_0000
"""Where lhv has nothing of its own, and maps addresses to themselves."""


def ended(mode: Mode, text: str = "mistake=vpid-zero") -> System:
    system = System(SystemOptions(find_image("mistakes-amd64"), mode=mode, text=text))
    system.run(Stops(max_instructions=3_000_000))
    return system


@pytest.mark.parametrize(("mode", "name"), [(Mode.BARE, "VMCS"), (Mode.NESTED, "VMCS12")])
def test_level_mode_registers_and_vmcs(mode: Mode, name: str) -> None:
    system = ended(mode)
    state = states_of(system)[0]
    assert (state.level, state.mode) == ("L1", "64-bit mode")
    assert dict(state.registers)["RIP"] == state.rip
    assert "leave" in (system.names.describe(state.backtrace[0]) or "")
    assert state.vmcs is not None
    assert state.vmcs.name == name
    assert not state.vmcs.is_launched
    values = {one.name: one for one in state.vmcs.fields}
    assert values["VM-instruction error"].value == 7
    assert "invalid control" in values["VM-instruction error"].decoded
    assert values["Virtual-processor identifier (VPID)"].value == 0


def test_the_guest_that_runs_is_told() -> None:
    state = states_of(ended(Mode.NESTED, "mistake=l2-jumps-to-itself"))[0]
    assert state.level == "L2"


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_backtrace_by_frame_pointers(mode: Mode) -> None:
    system = ended(mode)
    memory, processor = system.machine.memory, system.machine.processors[0]
    for number, address in enumerate((0x10_0010, 0x10_0020)):
        frame = FRAMES + 0x100 * number
        memory.store(frame, 8, frame + 0x100 if number == 0 else 0)
        memory.store(frame + 8, 8, address)
    processor.state.gpr[5] = FRAMES
    assert frames(states_of(system)[0]) == [0x10_0010, 0x10_0020]
    processor.state.gpr[5] = 0x7FFF_FFFF_F000
    assert frames(states_of(system)[0]) == []


def frames(state: ProcessorState) -> list[int]:
    return list(state.backtrace[1:])


def test_the_screen_is_shown_once_it_was_written() -> None:
    system = ended(Mode.BARE)
    assert screen_of(system) == ""
    system.machine.memory.write(0xB8000, b"h\x07i\x07")
    assert screen_of(system) == "hi"
