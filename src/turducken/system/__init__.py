"""Whole systems: the only place that assembles machine, firmware, image and hypervisor."""

from turducken.machine.machine import Outcome, Unclaimed
from turducken.system.assembly import Stops, System
from turducken.system.errors import SetupError
from turducken.system.images import DEFAULT_IMAGE, find_image, shipped_images
from turducken.system.options import DEFAULT_MODE, Mode, SystemOptions, parse_size
from turducken.system.result import ExitCount, ProcessorResult, Result, TlbTotals

__all__ = [
    "DEFAULT_IMAGE",
    "DEFAULT_MODE",
    "ExitCount",
    "Mode",
    "Outcome",
    "ProcessorResult",
    "Result",
    "SetupError",
    "Stops",
    "System",
    "SystemOptions",
    "TlbTotals",
    "Unclaimed",
    "find_image",
    "parse_size",
    "shipped_images",
]
