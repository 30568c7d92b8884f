"""The conversation with gdb while the machine stands still: gdb manual, "Remote Protocol"."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from turducken.cpu.processor import Processor
from turducken.gdb.stub import registers
from turducken.gdb.stub.debugger import SIGTRAP, Debugger, Kind, Point, Stop
from turducken.gdb.stub.levels import LEVELS, Levels
from turducken.gdb.stub.monitor import Monitor
from turducken.gdb.stub.packets import MAX_PACKET, escape, unescape
from turducken.system import System

_FEATURES = (
    f"PacketSize={MAX_PACKET:x};QStartNoAckMode+;qXfer:features:read+;qXfer:threads:read+;"
    "vContSupported+;swbreak+;hwbreak+"
)
_MAX_READ = MAX_PACKET // 2 - 16
_NUMBER = re.compile(rb"[0-9a-f]+\Z")
_OK, _ERROR, _UNKNOWN = b"OK", b"E01", b""
_BAD_ADDRESS = b"E14"


class MalformedError(ValueError):
    """A packet that is none."""


@dataclass(slots=True)
class Selected:
    """The processor that packets speak of, and the level (None: the one that runs)."""

    cpu: int = 0
    level: str | None = None


def number(text: bytes) -> int:
    """Return a hexadecimal number of a packet."""
    if not _NUMBER.match(text):
        raise MalformedError(text)
    return int(text, 16)


class Session:
    """Answers packets; `handle` says when the machine is to run on."""

    def __init__(
        self, system: System, levels: Levels, debugger: Debugger, *, wide: bool | None = None
    ) -> None:
        self._system = system
        self._levels = levels
        self._debugger = debugger
        self._processors = system.machine.processors
        self.selected = Selected()
        self.is_physical = False
        self.monitor = Monitor(self, system, levels)
        self.stop = Stop(0, SIGTRAP)
        self.is_over = False
        """gdb has detached, or killed the run."""
        self.is_killed = False
        self.wants_no_acknowledgements = False
        self._wide = wide
        self._commands: dict[bytes, Callable[[bytes], bytes | None]] = {
            b"?": lambda _: self.stop_reply(),
            b"g": lambda _: self._read_registers(),
            b"G": self._write_registers,
            b"p": self._read_register,
            b"P": self._write_register,
            b"m": self._read_memory,
            b"M": self._write_memory,
            b"X": self._write_binary,
            b"c": self._continue,
            b"C": lambda rest: self._continue(rest.partition(b";")[2]),
            b"s": self._step,
            b"S": lambda rest: self._step(rest.partition(b";")[2]),
            b"Z": self._insert,
            b"z": self._remove,
            b"H": self._select_thread,
            b"T": self._is_alive,
            b"D": self._detach,
            b"k": self._kill,
            b"v": self._verbose,
            b"q": self._query,
            b"Q": self._set,
            b"!": lambda _: _OK,
        }

    def handle(self, packet: bytes) -> bytes | None:
        """Return the answer to a packet; None: the machine runs on, the answer is its next stop."""
        command = self._commands.get(packet[:1])
        if command is None:
            return _UNKNOWN
        try:
            return command(packet[1:])
        except (MalformedError, ValueError, IndexError):
            return _ERROR

    @property
    def processor(self) -> Processor:
        """The processor that packets speak of."""
        return self._processors[self.selected.cpu]

    @property
    def level(self) -> str:
        """The level that packets speak of."""
        return self.selected.level or self._levels.running(self.selected.cpu)

    @property
    def description(self) -> registers.Description:
        """The registers as gdb was told of them, which does not change once it was.

        A gdb that has been given a 32-bit file refuses 64-bit registers, and the other way round.
        """
        if self._wide is None:
            elf = self._system.options.image.elf
            is_narrow = elf is not None and not elf.is_64
            self._wide = not is_narrow or self.processor.state.is_64bit
        return registers.WIDE if self._wide else registers.NARROW

    # Stops

    def stopped(self, stop: Stop) -> bytes:
        """Take a stop of the machine; return the stop reply."""
        self.stop = stop
        self.selected = Selected(stop.cpu)
        return self.stop_reply()

    def stop_reply(self) -> bytes:
        """Return the stop reply for the last stop."""
        stop = self.stop
        parts = f"T{stop.signal:02x}thread:{stop.cpu + 1:x};"
        if stop.watch is not None:
            names = {Kind.WRITE: "watch", Kind.READ: "rwatch", Kind.ACCESS: "awatch"}
            parts += f"{names[stop.watch.kind]}:{stop.at:x};"
        elif stop.is_break:
            parts += "swbreak:;"
        return parts.encode()

    # Registers

    def _read_registers(self) -> bytes:
        if self.selected.level not in (None, self._levels.running(self.selected.cpu)):
            return self._saved_registers()
        p = self.processor
        return b"".join(registers.read(p, one).hex().encode() for one in self._core_registers())

    def _core_registers(self) -> list[registers.Register]:
        return self.description.registers

    def _saved_registers(self) -> bytes:
        """Return what is known of a level that does not run: what its VMCS has of it."""
        known = self.monitor.saved(self.selected.cpu, self.level)
        parts = []
        for one in self._core_registers():
            size = one.bits // 8
            value = known.get(one.name)
            parts.append(
                b"xx" * size
                if value is None
                else value.to_bytes(16, "little")[:size].hex().encode()
            )
        return b"".join(parts)

    def _write_registers(self, rest: bytes) -> bytes:
        data = bytes.fromhex(rest.decode("latin-1"))
        at = 0
        for one in self._core_registers():
            size = one.bits // 8
            part = data[at : at + size]
            if len(part) < size:
                break
            registers.write(self.processor, one, part)
            at += size
        return _OK

    def _register(self, text: bytes) -> registers.Register:
        return self.description.registers[number(text)]

    def _read_register(self, rest: bytes) -> bytes:
        return registers.read(self.processor, self._register(rest)).hex().encode()

    def _write_register(self, rest: bytes) -> bytes:
        which, _, value = rest.partition(b"=")
        data = bytes.fromhex(value.decode("latin-1"))
        one = self._register(which)
        if len(data) != one.bits // 8:
            return _ERROR
        return _OK if registers.write(self.processor, one, data) else _ERROR

    # Memory

    def _read_memory(self, rest: bytes) -> bytes:
        address, _, length = rest.partition(b",")
        wanted = min(number(length), _MAX_READ)
        read = self._levels.read_physical if self.is_physical else self._levels.read
        data = read(self.selected.cpu, self.level, number(address), wanted)
        return data.hex().encode() if data or not wanted else _BAD_ADDRESS

    def _write_memory(self, rest: bytes) -> bytes:
        where, _, text = rest.partition(b":")
        return self._store(where, bytes.fromhex(text.decode("latin-1")))

    def _write_binary(self, rest: bytes) -> bytes:
        where, _, data = rest.partition(b":")
        return self._store(where, unescape(data))

    def _store(self, where: bytes, data: bytes) -> bytes:
        address, _, length = where.partition(b",")
        if number(length) != len(data):
            return _ERROR
        write = self._levels.write_physical if self.is_physical else self._levels.write
        done = write(self.selected.cpu, self.level, number(address), data)
        return _OK if done else _BAD_ADDRESS

    # Running

    def _continue(self, rest: bytes) -> None:
        self._go_to(rest)

    def _step(self, rest: bytes) -> None:
        self._go_to(rest)
        self._debugger.stepping = self.selected.cpu

    def _go_to(self, rest: bytes) -> None:
        if rest:
            self.processor.state.rip = number(rest)

    def _verbose(self, rest: bytes) -> bytes | None:
        if rest == b"Cont?":
            return b"vCont;c;C;s;S;r"
        if rest.startswith(b"Cont;"):
            return self._resume(rest[5:].split(b";"))
        if rest.startswith(b"Kill"):
            self._kill(b"")
            return _OK
        return _UNKNOWN

    def _resume(self, actions: list[bytes]) -> bytes | None:
        for action in actions:
            what, _, thread = action.partition(b":")
            if what[:1] in b"sSr" and what:
                cpu = self.selected.cpu if thread in (b"", b"-1", b"0") else number(thread) - 1
                if not 0 <= cpu < len(self._processors):
                    return _ERROR
                self._debugger.stepping = cpu
                if what[:1] == b"r":
                    first, _, end = what[1:].partition(b",")
                    self._debugger.step_range = number(first), number(end)
                break
            if what[:1] not in b"cC":
                return _ERROR
        return None

    def _insert(self, rest: bytes) -> bytes:
        self._debugger.insert(self._point(rest))
        return _OK

    def _remove(self, rest: bytes) -> bytes:
        point = self._point(rest)
        for level in LEVELS:
            self._debugger.remove(Point(point.kind, level, point.address, point.size))
        return _OK

    def _point(self, rest: bytes) -> Point:
        kind, address, size = rest.partition(b";")[0].split(b",")
        what = Kind(number(kind))
        length = number(size) if what.is_watch else 1
        return Point(what, self.level, number(address), max(1, length))

    # Threads

    def _select_thread(self, rest: bytes) -> bytes:
        thread = rest[1:]
        if thread in (b"0", b"-1", b""):
            return _OK
        cpu = number(thread) - 1
        if not 0 <= cpu < len(self._processors):
            return _ERROR
        if cpu != self.selected.cpu:
            self.selected = Selected(cpu)
        return _OK

    def _is_alive(self, rest: bytes) -> bytes:
        return _OK if 1 <= number(rest) <= len(self._processors) else _ERROR

    def thread_name(self, cpu: int) -> str:
        """Return what gdb shows of a processor."""
        return f"cpu{cpu} {self._levels.running(cpu)} {self._processors[cpu].activity.name.lower()}"

    # Ends

    def _detach(self, _rest: bytes) -> bytes:
        self.is_over = True
        return _OK

    def _kill(self, _rest: bytes) -> None:
        self.is_over = self.is_killed = True

    # Queries

    def _query(self, rest: bytes) -> bytes | None:
        if rest.startswith(b"Rcmd,"):
            text = bytes.fromhex(rest[5:].decode("latin-1")).decode("utf-8", "replace")
            return self.monitor.run(text).encode().hex().encode() or _OK
        if rest.startswith(b"Xfer:"):
            return self._transfer(rest[5:])
        name = rest.partition(b":")[0]
        name, comma, more = name.partition(b",")
        if name == b"ThreadExtraInfo" and comma:
            return self.thread_name(number(more) - 1).encode().hex().encode()
        answers: dict[bytes, Callable[[], bytes]] = {
            b"Supported": _FEATURES.encode,
            b"Attached": lambda: b"1",
            b"C": lambda: b"QC%x" % (self.selected.cpu + 1),
            b"fThreadInfo": lambda: b"m" + b",".join(
                b"%x" % (n + 1) for n in range(len(self._processors))
            ),
            b"sThreadInfo": lambda: b"l",
            b"Symbol": lambda: _OK,
            b"qemu.PhyMemMode": lambda: b"1" if self.is_physical else b"0",
        }  # fmt: skip
        answer = answers.get(name)
        return _UNKNOWN if answer is None else answer()

    def _set(self, rest: bytes) -> bytes:
        if rest == b"StartNoAckMode":
            self.wants_no_acknowledgements = True
            return _OK
        if rest in (b"qemu.PhyMemMode:0", b"qemu.PhyMemMode:1"):
            self.is_physical = rest.endswith(b"1")
            return _OK
        return _UNKNOWN

    def _transfer(self, rest: bytes) -> bytes:
        kind, action, annex, where = rest.split(b":", 3)
        if action != b"read":
            return _UNKNOWN
        if kind == b"features" and annex == b"target.xml":
            whole = self.description.xml()
        elif kind == b"threads":
            whole = self._threads()
        else:
            return b"E00"
        first, _, length = where.partition(b",")
        at, most = number(first), min(number(length), _MAX_READ)
        part = whole[at : at + most]
        return (b"m" if at + len(part) < len(whole) else b"l") + escape(part)

    def _threads(self) -> bytes:
        rows = "".join(
            f'<thread id="{n + 1:x}" core="{n}" name="{self.thread_name(n)}"/>'
            for n in range(len(self._processors))
        )
        return f"<threads>{rows}</threads>".encode()
