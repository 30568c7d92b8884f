"""The machine's disks and CDs, from the images that a user names."""

from collections.abc import Sequence

from turducken.devices.disk.ata import AtaDisk
from turducken.devices.disk.atapi import AtapiCdrom
from turducken.devices.disk.taskfile import Drive
from turducken.devices.virtio.block import VirtioBlock
from turducken.machine.firmware.rom import RomImage
from turducken.machine.machine import Machine
from turducken.storage import MemoryImage, open_cdrom, open_disk
from turducken.system.errors import SetupError
from turducken.system.options import SystemOptions

_IDE_DRIVES = 4
_FIRST_VIRTIO_DEVICE, _LAST_DEVICE = 4, 31
"""Numbers of devices on PCI bus 0."""


def ide_drives(options: SystemOptions) -> list[Drive | None]:
    """Return the drives of the two IDE channels: disks from the front, CDs from the back.

    Raises SetupError where there are too many, DiskImageError where an image cannot be used.
    """
    disks: list[Drive] = [
        AtaDisk(open_disk(one), f"TD{number:05}")
        for number, one in enumerate(one for one in options.disks if one.interface == "ide")
    ]
    if isinstance(options.image, RomImage) and options.image.disk:
        disks.insert(0, AtaDisk(MemoryImage(options.image.disk), "TDBOOT"))
    cdroms: list[Drive] = [AtapiCdrom(open_cdrom(one)) for one in options.cdroms]
    if len(disks) + len(cdroms) > _IDE_DRIVES:
        raise SetupError(f"{len(disks)} disks and {len(cdroms)} CDs: IDE has {_IDE_DRIVES} places")
    free = [None] * (_IDE_DRIVES - len(disks) - len(cdroms))
    # A CD is the master of the second channel, where that is free, as in most PCs.
    if len(cdroms) == 1 and len(disks) < _IDE_DRIVES - 1:
        return [*disks, *free, cdroms[0]] if len(disks) > 2 else _with_cdrom(disks, cdroms[0])
    return [*disks, *free, *cdroms]


def _with_cdrom(disks: list[Drive], cdrom: Drive) -> list[Drive | None]:
    first = [*disks, None, None][:2]
    return [*first, cdrom, None]


def bios_disks(drives: Sequence[Drive | None]) -> list[int]:
    """Return the sectors of the disks that a BIOS finds: those of the first channel."""
    found = []
    for drive in drives[:2]:
        if not isinstance(drive, AtaDisk):
            break
        found.append(drive.sectors)
    return found


def attach_virtio(machine: Machine, options: SystemOptions) -> None:
    """Put the virtio disks on the PCI bus; DiskImageError where an image cannot be used."""
    wanted = [one for one in options.disks if one.interface == "virtio"]
    if len(wanted) > _LAST_DEVICE - _FIRST_VIRTIO_DEVICE + 1:
        raise SetupError(f"{len(wanted)} virtio disks: the bus has no room for so many")
    chipset = machine.chipset
    for number, one in enumerate(wanted):
        disk = VirtioBlock(open_disk(one), chipset.dma, f"TDV{number:05}")
        chipset.add_function((_FIRST_VIRTIO_DEVICE + number, 0), disk)
