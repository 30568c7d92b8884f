"""``turducken demo kvm``: Linux's own hypervisor as L1, with a program of ours that tests it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from turducken.cli import choices, run
from turducken.cli.errors import InputError
from turducken.cli.teaching import command_with
from turducken.system import DEFAULT_MODE, Mode
from turducken.system.linux import KernelModule, find_kernel, find_module, leave_out_calls

EXAMPLES = """\
 Examples

   turducken demo kvm                                Debian's kernel with KVM, under our hypervisor
   turducken demo kvm --mode bare --cpus 4           on the machine itself, four processors
   turducken demo kvm --shadow lazy --tests 'd*'     another policy; the tests whose names match
   turducken demo kvm --sanitize                     KVM's own EPT code under the sanitizer: clean
   turducken demo kvm --cpus 2 --sanitize --leave-out-flush --tests replaced-page
                                                     and with one remote flush left out: caught

 What it takes: a Linux kernel for x86-64 with the modules kvm and kvm_intel, of any distribution.
 Debian's, as root: apt install linux-image-cloud-amd64. Without root, or without installing it:

   apt-cache depends linux-image-cloud-amd64         names the package, linux-image-VERSION
   apt-get download linux-image-VERSION
   dpkg -x linux-image-VERSION*.deb debian
   turducken demo kvm --root debian

 Exit status: 0 all tests passed, 1 one failed (or, with --sanitize=strict, an invalidation is
 missing), 2 bad usage or no kernel
"""

MODULES = (
    "kernel/virt/lib/irqbypass.ko",
    "kernel/arch/x86/kvm/kvm.ko",
    "kernel/arch/x86/kvm/kvm-intel.ko",
)
FLUSH = "kvm_flush_remote_tlbs"
FUNCTION = "kvm_mmu_notifier_invalidate_range_start"
"""Where KVM takes pages from its guests that its host takes from the monitor."""
COMMAND_LINE = "console=ttyS0 quiet cryptomgr.notests"

RootOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Where the kernel is installed or unpacked.")
]
TestsOption = Annotated[
    str, typer.Option(metavar="PATTERNS", help="Which tests, as patterns with * and ?.")
]
LeaveOutOption = Annotated[
    str | None,
    typer.Option(
        "--leave-out-flush",
        metavar="[FUNCTION]",
        help=f"Load a kvm module that does not call {FLUSH} in FUNCTION (without a name: "
        f"{FUNCTION}).",
    ),
]


def mount(app: typer.Typer) -> None:
    """Add the command."""
    implied = {"--sanitize": "report", "--leave-out-flush": FUNCTION}
    app.command("kvm", cls=command_with(EXAMPLES, implied))(kvm)


def kvm(
    context: typer.Context,
    root: RootOption = Path("/"),
    tests: TestsOption = "*",
    mode: choices.ModeOption = DEFAULT_MODE,
    cpus: choices.Cpus = 2,
    profile: choices.ProfileOption = "default",
    tlb: choices.Tlb = "keep",
    shadow: choices.Shadow = "cached",
    seed: choices.Seed = 0,
    cmdline: choices.Cmdline = COMMAND_LINE,
    leave_out_flush: LeaveOutOption = None,
    sanitize: choices.Sanitize = None,
    json: run.JsonOption = None,
) -> int:
    """Run KVM as the guest hypervisor: Debian's kernel, and a small monitor that tests it."""
    kernel = find_kernel(root)
    modules = [find_module(kernel.modules, one) for one in MODULES]
    if leave_out_flush is not None:
        modules = [_without(one, leave_out_flush) for one in modules]
    if "'" in tests:
        raise InputError(f"--tests {tests}: no quotes in patterns")
    with TemporaryDirectory() as folder:
        return run.run(
            context,
            image=str(kernel.image),
            mode=Mode(mode),
            cpus=cpus,
            memory="512M",
            cmdline=cmdline,
            profile=profile,
            tlb=tlb,
            shadow=shadow,
            seed=seed,
            sanitize=sanitize,
            json=json,
            insmod=[_write(Path(folder), one) for one in modules],
            run_command=" ".join(["kvm-test", *(f"'{one}'" for one in tests.split())]),
        )


def _without(module: KernelModule, function: str) -> KernelModule:
    if module.name != "kvm.ko":
        return module
    return leave_out_calls(module, function, FLUSH)


def _write(folder: Path, module: KernelModule) -> str:
    path = folder / module.name
    path.write_bytes(module.content)
    return str(path)
