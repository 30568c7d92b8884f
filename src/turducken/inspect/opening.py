"""Opening what commands call a source, and reading the chain that ``--via`` gives."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from turducken.address import Hpa
from turducken.arch.memory_types import PAT_RESET, is_valid_pat
from turducken.inspect.chain import ANY_PROCESSOR, ChainOptions, Stage, parse_chain
from turducken.inspect.containers import open_file
from turducken.inspect.errors import InspectError
from turducken.inspect.numbers import parse_number
from turducken.inspect.remote import RemoteMemory, open_remote
from turducken.inspect.source import FileSource, Region
from turducken.paging.formats import FORMATS, Features
from turducken.vmx.controls import Primary, Secondary
from turducken.vmx.vmcs import Vmcs
from turducken.vmx.vmcs_fields import PRIMARY_CONTROLS, SECONDARY_CONTROLS

AnySource = FileSource | RemoteMemory

SOURCE_HELP = (
    "A memory dump (PATH: what it is, its first bytes tell; raw:PATH@BASE, or pieces: "
    "raw:PATH,offset=N,size=N,at=N,...) or a stopped machine (gdb:HOST:PORT)."
)


@contextmanager
def open_source(name: str, *, base: str = "0", resume: bool = False) -> Iterator[AnySource]:
    """Open the source that ``name`` gives; see `SOURCE_HELP`. ``base`` is for raw dumps."""
    if name.startswith("gdb:"):
        remote = open_remote(name[4:], resume=resume)
        try:
            yield remote
        finally:
            remote.close()
        return
    yield open_file(name, base=parse_number(base, "--base"))


@dataclass(frozen=True, slots=True)
class Reading:
    """How a user says that tables are to be read; texts as the command line has them."""

    paging: str | None = None
    maxphyaddr: int | None = None
    pat: str | None = None
    no_execute_only: bool = False
    no_1gib: bool = False
    no_2mib: bool = False
    mode_based_execute: bool = False
    no_nx: bool = False

    def options(self, source: AnySource) -> ChainOptions:
        """Return the options, with what ``source`` itself tells."""
        bits = self.maxphyaddr or source.maxphyaddr or ANY_PROCESSOR.maxphyaddr
        if not 32 <= bits <= 52:
            raise InspectError(f"--maxphyaddr {bits}: processors have 32 to 52 bits")
        features = Features(
            maxphyaddr=bits,
            execute_only=not self.no_execute_only and "execute_only" not in source.lacks,
            pages_1gib=not self.no_1gib and "pages_1gib" not in source.lacks,
            pages_2mib=not self.no_2mib and "pages_2mib" not in source.lacks,
            mode_based_execute=self.mode_based_execute,
            nx=not self.no_nx,
        )
        pat = PAT_RESET if self.pat is None else _parse_pat(self.pat)
        return ChainOptions(features, self.paging or source.paging or "4-level", pat)

    def chain(self, text: str, source: AnySource) -> list[Stage]:
        """Return the stages that ``text`` names.

        An EPT that the source names is read in the mode that the source's VMCS for it says.
        """
        stages = parse_chain(text, self.options(source), source.roots)
        return [_in_its_mode(one, source) for one in stages]


_VMCS_OF = {"ept": "vmcs", "ept01": "vmcs01", "ept12": "vmcs12", "ept02": "vmcs02"}


def _in_its_mode(stage: Stage, source: AnySource) -> Stage:
    cpu, _, name = stage.name.rpartition(".")
    region = source.roots.get(f"{cpu}.{_VMCS_OF.get(name)}")
    if region is None or source.roots.get(stage.name) != stage.root:
        return stage
    read = Vmcs(source, Hpa(region)).read
    if not read(PRIMARY_CONTROLS) & Primary.ACTIVATE_SECONDARY_CONTROLS:
        return stage
    if not read(SECONDARY_CONTROLS) & Secondary.MODE_BASED_EXECUTE:
        return stage
    features = dataclasses.replace(stage.fmt.features, mode_based_execute=True)
    return dataclasses.replace(stage, fmt=FORMATS[stage.fmt.name].bind(features))


def _parse_pat(text: str) -> int:
    pat = parse_number(text, "--pat")
    if not is_valid_pat(pat):
        raise InspectError(f"--pat {text}: each byte has to be a memory type: 0, 1, 4, 5, 6 or 7")
    return pat


def machine_roots(source: AnySource, cpu: str, *, is_ept: bool) -> str:
    """Return, as ``--via`` takes it, what the processor ``cpu`` (``cpu0``) translates with.

    For an EPT that is the one in force (the shadow, while an inner guest has run, L1's, or a bare
    hypervisor's own); else its CR3 through that EPT, if there is one.
    """
    names = [
        f"{cpu}.{name}" for name in ("ept02", "ept", "ept01") if f"{cpu}.{name}" in source.roots
    ]
    if is_ept:
        if not names:
            raise InspectError(f"{source.name} has no EPT of {cpu}")
        return names[0]
    if f"{cpu}.cr3" not in source.roots:
        raise InspectError(f"{source.name} has no CR3 of {cpu}")
    return f"{cpu}.cr3"


def parse_regions(texts: Sequence[str], what: str) -> list[Region]:
    """Return the regions that ``texts`` give as ``FIRST-END`` or ``FIRST+SIZE``.

    >>> parse_regions(["0x1000-0x3000", "1M+4K"], "--ram")
    [Region(base=4096, size=8192), Region(base=1048576, size=4096)]
    """
    regions = []
    for text in texts:
        sign = "+" if "+" in text else "-"
        first, found, rest = text.partition(sign)
        if not found:
            raise InspectError(f"{what} {text!r}: write FIRST-END or FIRST+SIZE")
        base, value = parse_number(first, what), parse_number(rest, what)
        size = value if sign == "+" else value - base
        if size <= 0:
            raise InspectError(f"{what} {text!r}: the region is empty")
        regions.append(Region(base, size))
    return regions
