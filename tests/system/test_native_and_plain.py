"""A run is the same with and without the native part, and however much of its memory is lost.

The same instructions, VM exits, contents of the TLBs, and bytes in RAM.
"""

import ctypes
import hashlib
from typing import Any

import pytest

from turducken.machine.machine import Machine
from turducken.system import Mode, Stops, System, SystemOptions, find_image

_SOME = "tests=vmcall,vpid,ept-accessed-dirty,exceptions,cr3-targets,msr,io seed=7"


class _Forgetful:
    """Empties the native tables of what has been granted at some turns of a machine."""

    def __init__(self, machine: Machine, every: int) -> None:
        self._grants = [one.engine.grants for one in machine.processors]
        self._every, self._turns, self._turn = every, 0, machine.turn

    def turn(self) -> None:
        """Stand for `Machine.turn`."""
        self._turns += 1
        if self._turns % self._every == 0:
            for one in self._grants:
                ctypes.memset(one.words.pages[0].address, 0, ctypes.sizeof(one.words.pages))
                ctypes.memset(one.words.large[0].address, 0, ctypes.sizeof(one.words.large))
        self._turn()


def _run(
    image: str, mode: Mode, text: str, *, forgets: int = 0, limit: int = 20_000_000, **more: Any
) -> dict[str, object]:
    system = System(SystemOptions(find_image(image), mode=mode, text=text, **more))
    machine = system.machine
    if forgets:
        machine.turn = _Forgetful(machine, forgets).turn  # type: ignore[method-assign]
    result = system.run(Stops(max_instructions=limit))
    return {
        "console": result.console,
        "instructions": [one.engine.executed for one in machine.processors],
        "exits": [dict(one.statistics.exits) for one in machine.processors],
        "tlb": [_tlb(one) for one in machine.processors],
        "registers": [(list(one.state.gpr), one.state.rip) for one in machine.processors],
        "now": machine.now,
        "memory": hashlib.blake2b(machine.memory.bytes).hexdigest(),
    }


def _tlb(processor: Any) -> list[object]:
    return [(tag, space.pages, space.structures) for tag, space in processor.tlb.spaces()]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("image", ["lhv-amd64", "lhv-i386", "lhv-i386-pae"])
def test_native_and_plain(image: str, mode: Mode) -> None:
    more: dict[str, Any] = {"memory": 64 << 20}
    native = _run(image, mode, "tests=vmcall seed=7", **more)
    assert native == _run(image, mode, "tests=vmcall seed=7", native=False, **more)


@pytest.mark.parametrize("every", [1, 3])
def test_native_memory_that_is_lost(every: int) -> None:
    kept = _run("lhv-amd64", Mode.NESTED, _SOME, cpus=2)
    lost = _run("lhv-amd64", Mode.NESTED, _SOME, cpus=2, forgets=every)
    assert kept == lost


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("image", ["lhv-amd64", "lhv-i386", "lhv-i386-pae"])
@pytest.mark.parametrize("tlb", ["keep", "finite", "random"])
def test_everything_native_and_plain(image: str, mode: Mode, tlb: str) -> None:
    runs = [
        _run(image, mode, "", native=native, tlb=tlb, cpus=2, limit=10**9)
        for native in (True, False)
    ]
    assert runs[0] == runs[1]
