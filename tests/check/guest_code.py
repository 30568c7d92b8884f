"""Guests of a few 64-bit instructions that change their own page tables."""

import struct
from collections.abc import Sequence

from cpu_support import CODE, Pc

from turducken.check import Finding, Sanitizer

PAGE, OTHER = 0x28_0000, 0x29_0000
"""A page whose entry is changed, and another one that it may lead to; code is in other 2 MiB."""
REQUEST, ACKNOWLEDGED, DONE = 0x6000, 0x6008, 0x6010
SECOND_CODE = CODE + 0x1000
HALT = b"\xf4\xeb\xfd"
PAUSE = b"\xf3\x90"
RELOAD_CR3 = b"\x0f\x20\xd8\x0f\x22\xd8"


def _at(opcode: str, address: int, more: bytes = b"") -> bytes:
    return bytes.fromhex(opcode) + struct.pack("<i", address) + more


def read(address: int) -> bytes:
    return _at("488b0425", address)


def write(address: int, value: int) -> bytes:
    """Return MOV of a sign-extended 32-bit value to eight bytes."""
    return _at("48c70425", address, struct.pack("<i", value))


def write_half(address: int, value: int) -> bytes:
    """Return MOV to four bytes."""
    return _at("c70425", address, struct.pack("<I", value))


def invlpg(address: int) -> bytes:
    return _at("0f013c25", address)


def mark(value: int) -> bytes:
    """Return OUT to the port of deliberate changes."""
    return bytes([0xB0, value, 0xE6, 0xEA])


def until(address: int, body: bytes) -> bytes:
    """Return a loop of ``body`` until the word at ``address`` is 1."""
    compare = _at("48833c25", address, b"\x01")
    return body + compare + b"\x75" + struct.pack("b", -len(body) - len(compare) - 2)


class Guests:
    """A machine whose processors run code over one set of page tables, under the sanitizer."""

    def __init__(self, tlb: str = "keep", cpus: int = 1) -> None:
        self.pc = Pc(cpus=cpus, tlb=tlb, quantum=200, observed=True)
        self.sanitizer = Sanitizer(self.pc.machine)
        self.pc.long("f4")
        assert self.pc.table is not None
        walk = self.pc.table.walk(PAGE)
        self.entries = [one.address for one in walk.steps]
        self.values = [one.entry for one in walk.steps]
        self.leaf, self.value = self.entries[-1], self.values[-1]

    def run(self, *codes: Sequence[bytes]) -> list[Finding]:
        """Run one program on each processor; return the missing invalidations."""
        pc = self.pc
        for number, code in reversed(list(enumerate(codes))):
            pc.p = pc.machine.processors[number]
            pc.state = pc.p.state
            pc.long("f4")
            pc.state.rip = SECOND_CODE + 0x1000 * number
            pc.put(pc.state.rip, (b"".join(code) + HALT).hex())
        pc.run(200_000)
        return [one for one in self.sanitizer.findings if one.kind == "missing"]
