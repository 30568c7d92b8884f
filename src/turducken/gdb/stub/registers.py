"""The registers as gdb numbers them: target descriptions and their values.

gdb manual, "Standard Target Features", "i386 Features". Besides the core and SSE features there is
one of our own, with the control and base registers.
"""

from collections.abc import Callable
from dataclasses import dataclass

from turducken.cpu.engine import SegmentIndex
from turducken.cpu.processor import Processor

_GENERAL_64 = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
_GENERAL_32 = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
_ORDER = {name: number for number, name in enumerate(
    ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
)}  # fmt: skip
_SEGMENTS = {
    "cs": SegmentIndex.CS,
    "ss": SegmentIndex.SS,
    "ds": SegmentIndex.DS,
    "es": SegmentIndex.ES,
    "fs": SegmentIndex.FS,
    "gs": SegmentIndex.GS,
}
_X87_CONTROL = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")


@dataclass(frozen=True, slots=True)
class Register:
    """A register of a description: ``bits`` wide, of gdb's ``type``."""

    name: str
    bits: int
    type: str = "int"
    group: str = ""


def _core(*, is_wide: bool) -> list[Register]:
    if is_wide:
        general = [Register(name, 64, "int64") for name in _GENERAL_64]
        general[6:8] = [Register("rbp", 64, "data_ptr"), Register("rsp", 64, "data_ptr")]
        general += [Register(f"r{n}", 64, "int64") for n in range(8, 16)]
        general.append(Register("rip", 64, "code_ptr"))
    else:
        general = [Register(name, 32, "int32") for name in _GENERAL_32]
        general[4:6] = [Register("esp", 32, "data_ptr"), Register("ebp", 32, "data_ptr")]
        general.append(Register("eip", 32, "code_ptr"))
    general.append(Register("eflags", 32, "i386_eflags"))
    general += [Register(name, 32, "int32") for name in _SEGMENTS]
    general += [Register(f"st{n}", 80, "i387_ext") for n in range(8)]
    general += [Register(name, 32, "int", "float") for name in _X87_CONTROL]
    return general


def _sse(*, is_wide: bool) -> list[Register]:
    count = 16 if is_wide else 8
    vectors = [Register(f"xmm{n}", 128, "vec128") for n in range(count)]
    return [*vectors, Register("mxcsr", 32, "i386_mxcsr", "vector")]


def _system(*, is_wide: bool) -> list[Register]:
    bits = 64 if is_wide else 32
    names = ["fs_base", "gs_base", "gdtr_base", "idtr_base", "ldtr_base", "tr_base"]
    names += ["cr0", "cr2", "cr3", "cr4", "efer", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7"]
    return [Register(name, bits, f"int{bits}", "system") for name in names]


_FLAGS = """<flags id="i386_eflags" size="4">
  <field name="" start="22" end="31"/>
  <field name="CF" start="0" end="0"/><field name="" start="1" end="1"/>
  <field name="PF" start="2" end="2"/><field name="AF" start="4" end="4"/>
  <field name="ZF" start="6" end="6"/><field name="SF" start="7" end="7"/>
  <field name="TF" start="8" end="8"/><field name="IF" start="9" end="9"/>
  <field name="DF" start="10" end="10"/><field name="OF" start="11" end="11"/>
  <field name="NT" start="14" end="14"/><field name="RF" start="16" end="16"/>
  <field name="VM" start="17" end="17"/><field name="AC" start="18" end="18"/>
  <field name="VIF" start="19" end="19"/><field name="VIP" start="20" end="20"/>
  <field name="ID" start="21" end="21"/>
</flags>"""
_VECTORS = """<vector id="v4f" type="ieee_single" count="4"/>
<vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/>
<vector id="v4i32" type="int32" count="4"/>
<vector id="v2i64" type="int64" count="2"/>
<union id="vec128">
  <field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>
  <field name="v16_int8" type="v16i8"/><field name="v4_int32" type="v4i32"/>
  <field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/>
</union>
<flags id="i386_mxcsr" size="4">
  <field name="IE" start="0" end="0"/><field name="DE" start="1" end="1"/>
  <field name="ZE" start="2" end="2"/><field name="OE" start="3" end="3"/>
  <field name="UE" start="4" end="4"/><field name="PE" start="5" end="5"/>
  <field name="DAZ" start="6" end="6"/><field name="FZ" start="15" end="15"/>
</flags>"""


class Description:
    """All registers of one width, and the XML that tells gdb of them."""

    def __init__(self, *, is_wide: bool) -> None:
        self.is_wide = is_wide
        self.features = (
            ("org.gnu.gdb.i386.core", _core(is_wide=is_wide), _FLAGS),
            ("org.gnu.gdb.i386.sse", _sse(is_wide=is_wide), _VECTORS),
            ("org.turducken.system", _system(is_wide=is_wide), ""),
        )
        self.registers = [one for _, registers, _ in self.features for one in registers]

    def xml(self) -> bytes:
        """Return the target description."""
        architecture = "i386:x86-64" if self.is_wide else "i386"
        parts = ['<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd">', "<target>"]
        parts.append(f"<architecture>{architecture}</architecture>")
        for name, registers, types in self.features:
            parts.append(f'<feature name="{name}">{types}')
            for one in registers:
                group = f' group="{one.group}"' if one.group else ""
                parts.append(
                    f'<reg name="{one.name}" bitsize="{one.bits}" type="{one.type}"{group}/>'
                )
            parts.append("</feature>")
        parts.append("</target>")
        return "\n".join(parts).encode()


WIDE, NARROW = Description(is_wide=True), Description(is_wide=False)


def read(p: Processor, one: Register) -> bytes:
    """Return the value of a register of the level that runs, as many bytes as it has bits."""
    return _value(p, one.name).to_bytes(16, "little")[: one.bits // 8]


def write(p: Processor, one: Register, data: bytes) -> bool:
    """Set a register; False for one that cannot be set from here."""
    value = int.from_bytes(data, "little")
    state, name = p.state, one.name
    number = _general(name)
    if number is not None:
        state.gpr[number] = value
    elif name in ("rip", "eip"):
        state.rip = value
    elif name == "eflags":
        state.rflags = value & 0x3F_7FD5 | 2
    elif name == "cr2":
        state.cr2 = value
    else:
        return p.engine.vectors.write(name, value)
    return True


def _general(name: str) -> int | None:
    if name[0] == "r" and name[1:].isdigit():
        return int(name[1:])
    return _ORDER.get("r" + name[1:]) if name[0] in "re" else None


def _value(p: Processor, name: str) -> int:
    state = p.state
    number = _general(name)
    if number is not None:
        return int(state.gpr[number])
    if name in _SEGMENTS:
        return state.segment(_SEGMENTS[name]).selector
    reader = _READERS.get(name)
    if reader is not None:
        return reader(p)
    if name.startswith("dr"):
        return p.dr[int(name[2:])]
    return p.engine.vectors.read(name)


_READERS: dict[str, Callable[[Processor], int]] = {
    "rip": lambda p: p.state.rip,
    "eip": lambda p: p.state.rip,
    "eflags": lambda p: p.state.rflags,
    "fs_base": lambda p: p.state.segment_base(SegmentIndex.FS),
    "gs_base": lambda p: p.state.segment_base(SegmentIndex.GS),
    "gdtr_base": lambda p: p.state.table(SegmentIndex.GDTR)[0],
    "idtr_base": lambda p: p.state.table(SegmentIndex.IDTR)[0],
    "ldtr_base": lambda p: p.state.segment_base(SegmentIndex.LDTR),
    "tr_base": lambda p: p.state.segment_base(SegmentIndex.TR),
    "cr0": lambda p: p.state.cr0,
    "cr2": lambda p: p.state.cr2,
    "cr3": lambda p: p.state.cr3,
    "cr4": lambda p: p.state.cr4,
    "efer": lambda p: p.state.efer,
}
