"""Page tables inside a stock gdb: ``source`` this file, then ``help pt``.

Works on any remote whose stub reads physical memory (QEMU's and turducken's do, by
``qqemu.PhyMemMode``), also for an address inside a nested guest:

    (gdb) source .../turducken/gdb/extension/pt.py
    (gdb) pt walk $rip
    (gdb) pt walk 0x400010 --via cr3=0x100000,ept12=0x80001e,ept01=0x400001e
    (gdb) pt dump --via ept=0x400001e
    (gdb) pt read 0x70000000 64 --via cr3,ept12=0x80001e,ept01=0x400001e
    (gdb) pt decode 0x1234037 --as ept.pte

``python -m turducken.gdb.extension`` prints where this file is.
"""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import gdb

_ROOT = str(Path(__file__).resolve().parents[3])
if _ROOT not in sys.path:
    sys.path.append(_ROOT)  # last: nothing but turducken is wanted from there

from turducken.arch.registers import CR0, CR4, EFER  # noqa: E402 - needs the path above
from turducken.inspect.chain import (  # noqa: E402
    ChainOptions,
    Stage,
    below,
    is_canonical_for,
    parse_chain,
    walk_chain,
)
from turducken.inspect.decode import decode  # noqa: E402
from turducken.inspect.errors import InspectError  # noqa: E402
from turducken.inspect.text import hexdump, size_text, walk_lines  # noqa: E402
from turducken.memory import MemoryHoleError  # noqa: E402
from turducken.paging import rights  # noqa: E402
from turducken.paging.scan import ScannedEntry, linear_address, scan  # noqa: E402
from turducken.paging.walker import Stop  # noqa: E402

PAGE = 4096
PACKET = 1024
"""Bytes asked for at once: within what every stub answers."""

MAX_ENTRIES = 1 << 20


class Physical:
    """The remote's physical memory, for the length of one command. Pages are read once."""

    def __init__(self) -> None:
        self._pages: dict[int, bytes | None] = {}
        self._before = "0"

    def __enter__(self) -> "Physical":
        self._before = _packet("qqemu.PhyMemMode")
        if self._before not in ("0", "1"):
            raise gdb.GdbError(
                "this remote's stub does not read physical memory (it has no qqemu.PhyMemMode)"
            )
        _packet("Qqemu.PhyMemMode:1")
        return self

    def __exit__(self, *_: object) -> None:
        _packet(f"Qqemu.PhyMemMode:{self._before}")

    def _page(self, base: int) -> bytes | None:
        if base not in self._pages:
            parts = [_packet(f"m{base + at:x},{PACKET:x}") for at in range(0, PAGE, PACKET)]
            try:
                data = bytes.fromhex("".join(parts))
            except ValueError:
                data = b""
            self._pages[base] = data if len(data) == PAGE else None
        return self._pages[base]

    def load(self, address: int, size: int) -> int | None:
        """See `turducken.memory.Memory`."""
        page = self._page(address & -PAGE)
        at = address % PAGE
        return None if page is None else int.from_bytes(page[at : at + size], "little")

    def read(self, address: int, length: int) -> bytes:
        """See `turducken.memory.Memory`."""
        out = b""
        while len(out) < length:
            at = address + len(out)
            page = self._page(at & -PAGE)
            if page is None:
                raise MemoryHoleError(at)
            out += page[at % PAGE : at % PAGE + length - len(out)]
        return out

    def store(self, address: int, size: int, value: int) -> None:
        """Refuse."""
        raise gdb.GdbError("tables are only read here")

    def write(self, address: int, data: bytes) -> None:
        """Refuse."""
        raise gdb.GdbError("tables are only read here")


def _packet(text: str) -> str:
    """Send a packet of the remote protocol and return the answer."""
    connection = getattr(gdb.selected_inferior(), "connection", None)
    if connection is None or "remote" not in str(connection.type):
        raise gdb.GdbError("there is no remote target: connect with 'target remote' first")
    if hasattr(connection, "send_packet"):  # gdb 12 and later
        answer = connection.send_packet(text)
        return bytes(answer or b"").decode("latin-1")
    output = gdb.execute(f"maintenance packet {text}", to_string=True)
    return str(output.partition('received: "')[2].rpartition('"')[0])


def _value(expression: str) -> int:
    try:
        return int(expression, 0)
    except ValueError:
        pass
    try:
        value = gdb.parse_and_eval(f"(unsigned long long)({expression})")
        return int(value) & 0xFFFF_FFFF_FFFF_FFFF
    except gdb.error as error:
        raise gdb.GdbError(f"{expression}: {error}") from None


def _register(name: str) -> int | None:
    try:
        return _value(f"${name}")
    except gdb.GdbError:
        return None


def _paging() -> str | None:
    """Return how the selected processor reads CR3; None if paging is off."""
    cr0, cr4, efer = (_register(name) or 0 for name in ("cr0", "cr4", "efer"))
    if not cr0 & CR0.mask("PG"):
        return None
    if efer & EFER.mask("LMA"):
        return "5-level" if cr4 & CR4.mask("LA57") else "4-level"
    return "pae" if cr4 & CR4.mask("PAE") else "32-bit"


def _stages(options: dict[str, str]) -> list[Stage]:
    """Return the chain of ``--via``; without it the selected processor's own tables."""
    paging = options.get("paging") or _paging() or "4-level"
    known = {}
    cr3 = _register("cr3")
    if cr3 is not None:
        known["cr3"] = cr3
    via = options.get("via")
    if via is None:
        if _paging() is None:
            return []
        via = "cr3"
    parts = []
    for part in via.split(","):
        name, equals, value = part.partition("=")
        parts.append(f"{name}={_value(value):#x}" if equals else name)
    return parse_chain(",".join(parts), ChainOptions(paging=paging), known)


def _arguments(text: str, names: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    plain: list[str] = []
    options: dict[str, str] = {}
    words = iter(gdb.string_to_argv(text))
    for word in words:
        if not word.startswith("--"):
            plain.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name not in names:
            raise gdb.GdbError(f"--{name}: not known; one of {', '.join('--' + n for n in names)}")
        options[name] = value if equals else next(words, "")
    return plain, options


class _Command(gdb.Command):  # type: ignore[misc]  # gdb has no types
    """Shared by all: one clear line instead of a traceback."""

    def __init__(self) -> None:
        super().__init__(self.name, gdb.COMMAND_DATA)

    name = ""

    def invoke(self, text: str, _from_tty: bool) -> None:
        try:
            self._run(text)
        except InspectError as error:
            raise gdb.GdbError(str(error)) from None
        except MemoryHoleError as hole:
            raise gdb.GdbError(f"no memory at {hole.address:#x}") from None

    def _run(self, text: str) -> None:
        """Do what the command is for: each command has its own."""
        raise NotImplementedError


class Pt(gdb.Command):  # type: ignore[misc]  # gdb has no types
    """Look at page tables and EPTs: pt walk, pt dump, pt read, pt decode."""

    def __init__(self) -> None:
        super().__init__("pt", gdb.COMMAND_DATA, prefix=True)


class PtWalk(_Command):
    """Follow an address through its translations: pt walk ADDRESS [--via CHAIN] [--paging MODE].

    CHAIN is inner to outer, such as cr3=0x1000,ept12=0x201e,ept01=0x301e; values may be
    expressions. Without it: the selected processor's CR3.
    """

    name = "pt walk"

    def _run(self, text: str) -> None:
        plain, options = _arguments(text, ("via", "paging"))
        if len(plain) != 1:
            raise gdb.GdbError("usage: pt walk ADDRESS [--via CHAIN] [--paging MODE]")
        address, stages = _value(plain[0]), _stages(options)
        if not stages:
            gdb.write(f"paging is off: {address:#x} is the physical address\n")
            return
        if not is_canonical_for(stages[0], address):
            raise gdb.GdbError(f"{address:#x} is not an address that {stages[0].name} translates")
        with Physical() as memory:
            way = walk_chain(memory, stages, address)
        gdb.write("\n".join(walk_lines(way)) + "\n")


class PtRead(_Command):
    """Read bytes through translations: pt read ADDRESS [LENGTH] [--via CHAIN] [--paging MODE]."""

    name = "pt read"

    def _run(self, text: str) -> None:
        plain, options = _arguments(text, ("via", "paging"))
        if len(plain) not in (1, 2):
            raise gdb.GdbError("usage: pt read ADDRESS [LENGTH] [--via CHAIN] [--paging MODE]")
        address = _value(plain[0])
        length = _value(plain[1]) if len(plain) == 2 else 64
        stages = _stages(options)
        with Physical() as memory:
            try:
                data, hole = below(memory, stages).read(address, length), None
            except MemoryHoleError as stop:
                data, hole = below(memory, stages).read(address, stop.address - address), stop
            reason = walk_chain(memory, stages, hole.address).reason if hole else ""
        for line in hexdump(address, data):
            gdb.write(line + "\n")
        if hole:
            gdb.write(f"{hole.address:#x}: {reason}\n")


class PtDump(_Command):
    """List what a table maps: pt dump [--via CHAIN] [--paging MODE] [--limit N].

    The first of CHAIN is listed, read through the others.
    """

    name = "pt dump"

    def _run(self, text: str) -> None:
        plain, options = _arguments(text, ("via", "paging", "limit"))
        if plain:
            raise gdb.GdbError("usage: pt dump [--via CHAIN] [--paging MODE] [--limit N]")
        limit = _value(options.get("limit", "200"))
        stages = _stages(options)
        if not stages:
            gdb.write("paging is off: there is no table\n")
            return
        with Physical() as memory:
            tables = below(memory, stages[1:])
            entries = islice(scan(stages[0].fmt, tables, stages[0].root), MAX_ENTRIES)
            for number, line in enumerate(_merged(stages[0], entries)):
                if number == limit:
                    gdb.write("... and more (--limit)\n")
                    break
                gdb.write(line + "\n")


def _merged(stage: Stage, entries: Any) -> Any:
    """Yield one line per run of pages that continue each other with the same rights."""
    run: tuple[int, int, int, int] | None = None  # start, size, target, attributes
    for one in entries:
        if one.stop is None:
            continue
        if one.stop is not Stop.PAGE:
            if run:
                yield _line(run)
            run = None
            yield _problem(stage, one)
            continue
        start = linear_address(stage.fmt, one.start)
        size = 1 << stage.fmt.levels[one.level].shift
        word = _attributes(stage, one)
        if run and (run[0] + run[1], run[2] + run[1], run[3]) == (start, one.page, word):
            run = run[0], run[1] + size, run[2], word
            continue
        if run:
            yield _line(run)
        run = start, size, one.page, word
    if run:
        yield _line(run)


def _attributes(stage: Stage, one: ScannedEntry) -> int:
    shift = stage.fmt.levels[one.level].shift
    word = rights.leaf_attributes(
        stage.fmt, shift, one.entry, one.all_of, one.any_of, pat=stage.pat
    )
    return word & ~(rights.A | rights.D)


def _line(run: tuple[int, int, int, int]) -> str:
    start, size, target, word = run
    last = start + size - 1
    text = f"{start:#018x}-{last:#018x} -> {target:#014x}  {size_text(size):>10}"
    return f"{text}  {rights.describe(word)}"


def _problem(stage: Stage, one: ScannedEntry) -> str:
    start = linear_address(stage.fmt, one.start)
    if one.stop is Stop.NO_MEMORY:
        return f"{start:#018x} the table at {one.address & -PAGE:#x} cannot be read"
    name = stage.fmt.entry_layout(one.level, one.entry).name
    return f"{start:#018x} malformed {name} at {one.address:#x}: {one.entry:#x}"


class PtDecode(_Command):
    """Take an entry or register apart: pt decode VALUE --as KIND (ept.pte, eptp, cr3, pde ...)."""

    name = "pt decode"

    def _run(self, text: str) -> None:
        plain, options = _arguments(text, ("as",))
        if len(plain) != 1 or "as" not in options:
            raise gdb.GdbError("usage: pt decode VALUE --as KIND")
        found = decode(_value(plain[0]), options["as"])
        gdb.write(f"{found.value:#x} as {found.layout}\n")
        for one in found.fields:
            bits = str(one.low) if one.high == one.low else f"{one.high}:{one.low}"
            gdb.write(f"  {bits:>6}  {one.name:<8} {one.text:<14} {one.doc}\n")
        if found.reserved:
            gdb.write(f"  reserved bits set: {found.reserved:#x}\n")


for _command in (Pt, PtWalk, PtRead, PtDump, PtDecode):
    _command()
