"""Putting our hypervisor underneath: its memory beyond L1's, its program on every processor.

L0's memory is RAM that nothing tells L1 of: the machine has it in addition to what L1 gets, so that
L1 finds the same memory map, CMOS and fw_cfg as on a machine of its own.
"""

from turducken.address import MIB
from turducken.cpu.root import RootView
from turducken.hypervisor import BootRegisters, Hypapp, Hypervisor, UnsuitableProcessorError
from turducken.machine.boot import BootState
from turducken.machine.machine import Machine
from turducken.memory.physical import HIGH_BASE, LOW_LIMIT
from turducken.system.errors import SetupError
from turducken.system.options import SystemOptions

_BASE_SIZE, _SIZE_PER_PROCESSOR = 24 * MIB, 4 * MIB


def private_size(options: SystemOptions) -> int:
    """Return how many bytes L0 gets: tables for every processor, of which most are never used."""
    if options.private is not None:
        return options.private
    return _BASE_SIZE + options.cpus * _SIZE_PER_PROCESSOR


def ram_size(options: SystemOptions) -> int:
    """Return the machine's RAM: what L1 gets, and L0's behind it in one piece."""
    size, private = options.memory, private_size(options)
    if size < LOW_LIMIT < size + private:
        size = LOW_LIMIT  # the piece that would reach into the device hole goes above 4 GiB
    return size + private


def private_range(options: SystemOptions) -> range:
    """Return the host-physical addresses that are L0's own."""
    start = ram_size(options) - private_size(options)
    if start >= LOW_LIMIT:
        start += HIGH_BASE - LOW_LIMIT
    return range(start, start + private_size(options))


def install(machine: Machine, boot_state: BootState, options: SystemOptions) -> Hypervisor:
    """Make L0 and let every processor begin in it; L1 begins where the image does."""
    machine.chipset.dma.protected = private_range(options)
    hypervisor = options.l0(
        machine.memory,
        private_range(options),
        options.cpus,
        _boot_registers(boot_state),
        shadow=options.shadow,
        offer=options.offer,
        apps=_make_apps(options),
    )
    for address in options.watch:
        hypervisor.watch(address)
    for processor in machine.processors:
        processor.root = hypervisor.run(RootView(processor))
    return hypervisor


def _make_apps(options: SystemOptions) -> list[Hypapp]:
    apps = [one.make() for one in options.apps]
    wanted = {one.ept01_sharing for one in apps if one.ept01_sharing is not None}
    if len(wanted) > 1:
        names = " and ".join(f"--app {one.text}" for one in options.apps)
        raise SetupError(f"{names}: they want EPT01 shared in different ways")
    return apps


def _boot_registers(boot_state: BootState) -> BootRegisters:
    return BootRegisters(
        eip=boot_state.eip,
        is_reset=boot_state.is_reset,
        eax=boot_state.eax,
        ebx=boot_state.ebx,
        esi=boot_state.esi,
        esp=boot_state.esp,
        ebp=boot_state.ebp,
        eflags=boot_state.eflags,
        cr0=boot_state.cr0,
        gdt_base=boot_state.gdt_base,
        gdt_limit=boot_state.gdt_limit,
        code_selector=boot_state.code_selector,
        data_selector=boot_state.data_selector,
    )


def explain_unsuitable(error: UnsuitableProcessorError, options: SystemOptions) -> SetupError:
    """Return what to tell a user whose profile L0 cannot run on."""
    return SetupError(f"profile {options.profile.name}: {error} (--mode bare runs without L0)")
