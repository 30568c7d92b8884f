"""``monitor`` commands: what gdb has no words for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from turducken.diagnosis.text import one_line
from turducken.gdb.stub.levels import LEVELS, Levels
from turducken.inspect.chain import walk_chain
from turducken.inspect.text import walk_lines
from turducken.system import System
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from turducken.gdb.stub.session import Session

_SAVED_L1 = {
    "rip": f.HOST_RIP,
    "rsp": f.HOST_RSP,
    "cr0": f.HOST_CR0,
    "cr3": f.HOST_CR3,
    "cr4": f.HOST_CR4,
    "fs_base": f.HOST_FS_BASE,
    "gs_base": f.HOST_GS_BASE,
    "cs": f.HOST_CS_SELECTOR,
    "ss": f.HOST_SS_SELECTOR,
    "ds": f.HOST_DS_SELECTOR,
    "es": f.HOST_ES_SELECTOR,
}
_SAVED_L2 = {
    "rip": f.GUEST_RIP,
    "rsp": f.GUEST_RSP,
    "eflags": f.GUEST_RFLAGS,
    "cr0": f.GUEST_CR0,
    "cr3": f.GUEST_CR3,
    "cr4": f.GUEST_CR4,
    "fs_base": f.GUEST_FS_BASE,
    "gs_base": f.GUEST_GS_BASE,
    "cs": f.GUEST_CS_SELECTOR,
    "ss": f.GUEST_SS_SELECTOR,
    "ds": f.GUEST_DS_SELECTOR,
    "es": f.GUEST_ES_SELECTOR,
}
_NARROW = {"rip": "eip", "rsp": "esp"}


class Monitor:
    """The commands; each is a method called ``_do_NAME`` whose first line is its help."""

    def __init__(self, session: "Session", system: System, levels: Levels) -> None:
        self._session = session
        self._system = system
        self._levels = levels
        self._commands: dict[str, Callable[[list[str]], str]] = {
            "help": self._help,
            "level": self._level,
            "where": self._where,
            "vmcs": self._vmcs,
            "walk": self._walk,
            "exits": self._exits,
            "time": self._time,
            "diagnoses": self._diagnoses,
        }

    def run(self, text: str) -> str:
        """Return what a command has to say; a mistake is one line."""
        words = text.split()
        if not words:
            return self._help([])
        matching = [one for one in self._commands if one.startswith(words[0])]
        if len(matching) != 1 and words[0] not in self._commands:
            return f"{words[0]}: not a command; monitor help lists them\n"
        command = self._commands.get(words[0]) or self._commands[matching[0]]
        return command(words[1:])

    def _help(self, _words: list[str]) -> str:
        """List the commands."""
        rows = ((name, (one.__doc__ or "").strip()) for name, one in self._commands.items())
        return "".join(f"{name:10} {text}\n" for name, text in rows)

    def _level(self, words: list[str]) -> str:
        """Show the level looked at, or look at another: level L1|L2|running."""
        selected = self._session.selected
        if words:
            wanted = words[0].upper()
            if wanted == "RUNNING":
                selected.level = None
            elif wanted in LEVELS:
                selected.level = wanted
            else:
                return f"{words[0]}: not a level (L1, L2, running); L0 is Python and has no code\n"
        running = self._levels.running(selected.cpu)
        return f"cpu {selected.cpu}: looking at {self._session.level}, {running} runs\n"

    def _where(self, _words: list[str]) -> str:
        """Show each processor's level, mode and place."""
        lines = []
        for p in self._system.machine.processors:
            place = self._system.names.describe(p.state.rip) or ""
            bits = 64 if p.state.is_64bit else 32 if p.state.is_32bit_code else 16
            level = self._levels.running(p.index)
            activity = p.activity.name.lower()
            lines.append(f"cpu {p.index}: {level} {bits}-bit {activity} {p.state.rip:#x} {place}\n")
        return "".join(lines)

    def _vmcs(self, words: list[str]) -> str:
        """Show the VMCS that L1 keeps for its guest: vmcs [PART OF A FIELD'S NAME]."""
        vmcs = self._levels.vmcs_of_l2(self._session.selected.cpu)
        if vmcs is None:
            return "no VMCS is current\n"
        wanted = " ".join(words).lower()
        rows = []
        for field in f.FIELDS.values():
            if wanted in field.name.lower():
                value = vmcs.read(field)
                if value or wanted:
                    rows.append(f"{field.encoding:#06x} {field.name:45} {value:#x}\n")
        return "".join(rows) or f"no field's name has {wanted!r} in it\n"

    def _walk(self, words: list[str]) -> str:
        """Walk an address through all translations of the level looked at: walk ADDRESS."""
        if len(words) != 1:
            return "walk ADDRESS\n"
        try:
            address = int(words[0], 0)
        except ValueError:
            return f"{words[0]}: not an address\n"
        stages = self._levels.stages(self._session.selected.cpu, self._session.level)
        if not stages:
            return f"{address:#x}: no translation is in force\n"
        way = walk_chain(self._system.machine.memory, stages, address)
        return "".join(f"{line}\n" for line in walk_lines(way))

    def _exits(self, _words: list[str]) -> str:
        """Count the VM exits so far."""
        rows = []
        for one in self._system.exit_counts():
            try:
                name = ExitReason(one.reason).name
            except ValueError:
                name = str(one.reason)
            rows.append(f"{one.count:8} {name} from L{one.level} to {one.handler}\n")
        return "".join(rows) or "no VM exit yet\n"

    def _time(self, _words: list[str]) -> str:
        """Show the instructions executed and the guest time so far."""
        machine = self._system.machine
        return f"{machine.instructions} instructions, {machine.now} ns of guest time\n"

    def _diagnoses(self, _words: list[str]) -> str:
        """Show what went wrong so far."""
        known = self._system.diagnoses
        if known is None or not known.sightings:
            return "none\n"
        describe = self._system.names.describe
        return "".join(f"{one_line(one, describe)}\n" for one in known.sightings)

    def saved(self, cpu: int, level: str) -> dict[str, int]:
        """Return the registers of a level that does not run, as far as its VMCS has them."""
        vmcs = self._levels.vmcs_of_l2(cpu)
        if vmcs is None:
            return {}
        fields = _SAVED_L1 if level == "L1" else _SAVED_L2
        known = {name: vmcs.read(field) for name, field in fields.items()}
        return known | {_NARROW[name]: known[name] for name in _NARROW}
