"""The options for a machine that begins with firmware, and for its disks."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import IO, Annotated

import typer

from turducken.cli.errors import InputError
from turducken.cli.output import output_file
from turducken.machine.firmware.rom import FIRMWARE_NAMES, RomImage, find_rom
from turducken.storage import parse_disk
from turducken.system import DEFAULT_IMAGE, SystemOptions

PC = "Firmware and disks"

FirmwareOption = Annotated[
    str | None,
    typer.Option(
        "--firmware",
        metavar=f"FILE|{'|'.join(FIRMWARE_NAMES)}",
        rich_help_panel=PC,
        help="Switch the machine on and let this firmware boot from its disks, instead of an "
        "image; the names stand for Debian's packages.",
    ),
]
Disks = Annotated[
    list[str],
    typer.Option(
        "--disk",
        metavar="FILE[:ro|:rw][:virtio]",
        rich_help_panel=PC,
        help="A disk image, raw or qcow2. What the guest writes stays in memory; :rw writes it to "
        "the file, :ro makes it an error that the guest sees. On IDE, or :virtio. Repeatable.",
    ),
]
Cdroms = Annotated[
    list[str],
    typer.Option(
        "--cdrom", metavar="FILE", rich_help_panel=PC, help="An image of a CD. Repeatable."
    ),
]
FirmwareLog = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-",
        rich_help_panel=PC,
        help="Write there what the firmware tells of its progress (port 402h).",
    ),
]
SerialPorts = Annotated[
    list[str],
    typer.Option(
        "--serial",
        metavar="FILE|-",
        rich_help_panel=PC,
        help="A further serial port (COM2, then COM3 and COM4), and where what the guest sends "
        "there is written. Repeatable.",
    ),
]
_MOST_SERIAL = 3


@dataclass(frozen=True, slots=True)
class PcChoices:
    """The options as the user wrote them; ``image`` is that of the command."""

    image: str = DEFAULT_IMAGE
    firmware: str | None = None
    disks: Sequence[str] = ()
    cdroms: Sequence[str] = ()

    def apply(self, options: SystemOptions) -> SystemOptions:
        """Return the options with what is asked for here; raise what the user is to be told."""
        image = options.image
        if self.firmware is not None:
            rom = find_rom(self.firmware)
            if isinstance(image, RomImage):  # a UEFI application, with its disk
                image = replace(image, data=rom.data)
            elif self.image == DEFAULT_IMAGE:
                image = rom
            else:
                raise InputError(
                    f"--firmware {self.firmware}: boots from --disk or --cdrom; "
                    f"it does not load {self.image}"
                )
        disks = [parse_disk(one) for one in self.disks]
        return replace(options, image=image, disks=disks, cdroms=tuple(self.cdroms))


def with_outputs(
    options: SystemOptions, files: ExitStack, firmware_log: str | None, serial: Sequence[str]
) -> SystemOptions:
    """Return the options with the files open that these options name."""
    if len(serial) > _MOST_SERIAL:
        raise InputError(f"--serial {serial[_MOST_SERIAL]}: there are COM2, COM3 and COM4")
    log = files.enter_context(output_file("--firmware-log", firmware_log))
    ports = [files.enter_context(output_file("--serial", one)) for one in serial]
    return replace(
        options,
        firmware_log=None if log is None else byte_writer(log),
        serial=[byte_writer(one) for one in ports if one is not None],
    )


def byte_writer(file: IO[bytes]) -> Callable[[int], None]:
    """Return what writes single bytes, whole lines at once."""

    def write(byte: int) -> None:
        file.write(bytes((byte,)))
        if byte == ord("\n"):
            file.flush()

    return write
