"""Source lines of addresses, from DWARF's line tables."""

from bisect import bisect_right
from pathlib import PurePosixPath

from elftools.common.exceptions import ELFError
from elftools.dwarf.dwarfinfo import DWARFInfo

from turducken.machine.boot.elf import ElfImage


class Lines:
    """An ELF file's line tables; they are read when the first line is asked for."""

    def __init__(self, elf: ElfImage | None) -> None:
        self._elf = elf
        self._lines: list[tuple[int, str | None]] | None = None

    def at(self, address: int) -> str | None:
        """Return ``file.c:34`` for an address as the file was linked, or None."""
        if self._lines is None:
            self._lines = sorted(self._read(), key=lambda one: one[0])
        index = bisect_right(self._lines, address, key=lambda one: one[0]) - 1
        return self._lines[index][1] if index >= 0 else None

    def _read(self) -> list[tuple[int, str | None]]:
        dwarf = None if self._elf is None else self._elf.debug_information()
        if dwarf is None:
            return []
        try:
            return _line_table(dwarf)
        except (ELFError, ValueError, KeyError, IndexError, AttributeError, TypeError):
            return []  # what cannot be read is not there: names will do


def _line_table(dwarf: DWARFInfo) -> list[tuple[int, str | None]]:
    table: list[tuple[int, str | None]] = []
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        files = program["file_entry"]
        first = 0 if program["version"] >= 5 else 1
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if state.end_sequence:
                table.append((state.address, None))
                continue
            name = files[state.file - first].name.decode("utf-8", "replace")
            table.append((state.address, f"{PurePosixPath(name).name}:{state.line}"))
    return table
