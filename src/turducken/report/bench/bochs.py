"""The same workloads on Bochs, where it is installed: an emulator made for exactness, not speed.

GRUB boots the image from a CD; the guest's console is a file, which is watched for the marks that
workloads leave there. Time is that which Bochs has spent on a processor, as for our own workloads.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from turducken.report.bench.workloads import IMAGE
from turducken.system import shipped_images

_NEEDED = ("bochs", "grub-mkimage", "xorriso")
_FILES = (Path("/usr/share/bochs/BIOS-bochs-latest"), Path("/usr/share/vgabios/vgabios.bin"))
_MODEL = "corei7_haswell_4770"
_GRUB_MODULES = ("biosdisk", "iso9660", "multiboot", "normal", "serial", "configfile")
_POLL = 0.002
_CONFIGURATION = """\
display_library: rfb, options="timeout=0"
sound: driver=dummy
cpu: model={model}, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=0
memory: guest=256, host=256
romimage: file={bios}
vgaromimage: file={vgabios}
clock: sync=none, time0=0
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path="{work}/cd.iso", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={work}/com1
log: {work}/log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""


def is_installed() -> bool:
    """Tell whether everything is there that a run needs."""
    return all(shutil.which(one) for one in _NEEDED) and all(one.exists() for one in _FILES)


def rate(name: str, units: int, timeout: float = 60) -> float | None:
    """Return rounds a second of one workload, or None where Bochs does not get through it."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _make_cd(work, f"tests={name} seed={units}")
        files = dict(zip(("bios", "vgabios"), _FILES, strict=True))
        (work / "bochsrc").write_text(_CONFIGURATION.format(model=_MODEL, work=work, **files))
        (work / "commands").write_text("c\n")
        (work / "com1").touch()
        return _watch(work, timeout)


def _make_cd(work: Path, text: str) -> None:
    grub = work / "cd" / "boot" / "grub"
    grub.mkdir(parents=True)
    shutil.copy(shipped_images()[IMAGE], work / "cd" / "boot" / "image.elf")
    (grub / "grub.cfg").write_text(f"set timeout=0\nmultiboot /boot/image.elf {text}\nboot\n")
    core = ["grub-mkimage", "-O", "i386-pc-eltorito", "-p", "/boot/grub"]
    core += ["-o", str(grub / "core.img"), *_GRUB_MODULES]
    subprocess.run(core, check=True, capture_output=True)
    cd = ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-b", "boot/grub/core.img"]
    cd += ["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]
    cd += ["-o", str(work / "cd.iso"), str(work / "cd")]
    subprocess.run(cd, check=True, capture_output=True)


def _watch(work: Path, timeout: float) -> float | None:
    command = ["bochs", "-q", "-f", "bochsrc", "-rc", "commands"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=work, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        return _time_marks(work / "com1", process, timeout)
    finally:
        process.kill()
        process.wait()


def _time_marks(console: Path, process: subprocess.Popen[bytes], timeout: float) -> float | None:
    deadline = time.perf_counter() + timeout
    began, rounds = 0.0, 0
    while time.perf_counter() < deadline and process.poll() is None:
        text = console.read_text(errors="replace")
        spent = _seconds_of(process.pid)
        begin = re.search(r"^# begin \S+ (\d+)\r?\n", text, re.MULTILINE)
        if begin and not rounds:
            began, rounds = spent, int(begin[1])
        if rounds and re.search(r"^# end", text, re.MULTILINE):
            return rounds / (spent - began) if spent > began else None
        time.sleep(_POLL)
    return None


def _seconds_of(process: int) -> float:
    """Return the time that a process has spent: user and system time of proc(5)'s stat."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
