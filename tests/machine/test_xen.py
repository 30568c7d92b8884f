"""Somebody else's hypervisor: Debian's Xen boots, likes the VMX it finds, and is judged clean."""

import re
from pathlib import Path

import pytest

from turducken.check import Sanitizer
from turducken.machine.boot import Module, load_image
from turducken.machine.machine import Outcome
from turducken.system import Stops, System, SystemOptions

IMAGE = Path("/boot/xen-4.17-amd64.gz")
GIB = 1 << 30
LIMIT = 400_000_000

pytestmark = [
    pytest.mark.xen,
    pytest.mark.skipif(
        not IMAGE.exists(), reason="Debian's package xen-hypervisor-4.17-amd64 is not installed"
    ),
]


def test_xen_boots_and_enables_hvm() -> None:
    options = SystemOptions(
        load_image(IMAGE),
        cpus=2,
        memory=GIB,
        text="com1=115200 console=com1",
        # Xen takes the last four bytes for the size of the unpacked kernel.
        modules=[Module("dom0", bytes(4096))],
        observed=True,
    )
    system = System(options)
    sanitizer = Sanitizer(system.machine, system.hypervisor)
    stops = Stops(re.compile(r"Brought up \d+ CPUs"), re.compile("Panic"), LIMIT)
    result = system.run(stops)
    assert (result.outcome, result.matched) == (Outcome.UNTIL, "(XEN) Brought up 2 CPUs")
    for line in (
        "HVM: VMX enabled",
        "HVM: Hardware Assisted Paging (HAP) detected",
        "HVM: HAP page sizes: 4kB, 2MB, 1GB",
        " - Extended Page Tables (EPT)",
        " - Virtual-Processor Identifiers (VPID)",
        " - Unrestricted Guest",
        "HVM: ASIDs enabled.",
    ):
        assert f"(XEN) {line}\r\n" in result.console, line
    # It splits large pages under its own feet, and flushes afterwards.
    assert [one.rule for one in sanitizer.findings if one.kind == "missing"] == []
