"""Makes a page of L1's memory read-only for every processor, at the page's own request.

A guest (L1, or its L2) executes VMCALL with EAX = 0x57310000 and an L1-physical address in (R)BX.
From the moment the VMCALL returns no processor can write the page any more, whatever its TLB held;
a write is #GP for L1, an EPT violation for L1's L2. EAX = 0x57310001 takes it back.

    turducken run my-hypervisor.elf --app docs/examples/write_once.py

An example of an application on turducken's L0: see docs/hypapps.md.
"""

from collections.abc import Generator
from typing import Literal

from turducken.address import PAGE_SIZE, Gpa1
from turducken.hypervisor import Hypapp, Hypervisor, Vcpu
from turducken.vmx.interface import Wait

SEAL, UNSEAL = 0x5731_0000, 0x5731_0001
READ, EXECUTE = 1, 4
RAX, RBX = 0, 3
DONE, REFUSED = 0, 1


class WriteOnce(Hypapp):
    """Hooks that change EPT01, and therefore wait for other processors."""

    name = "write-once"

    def __init__(self) -> None:
        self.sealed: set[Gpa1] = set()
        self.refused = 0

    def on_start(self, hypervisor: Hypervisor) -> None:
        """Remember the way to EPT01."""
        self.control = hypervisor.control

    def on_hypercall(self, vcpu: Vcpu) -> Generator[Wait, None, None] | Literal[False] | None:
        """Ours, by its number, or somebody else's."""
        number = vcpu.processor.gpr[RAX] & 0xFFFF_FFFF
        if number not in (SEAL, UNSEAL):
            return False
        page = Gpa1(vcpu.processor.gpr[RBX] & -PAGE_SIZE)
        return self._seal(vcpu, page) if number == SEAL else self._unseal(vcpu, page)

    def _seal(self, vcpu: Vcpu, page: Gpa1) -> Generator[Wait, None, None]:
        if vcpu.ept01.find(page) is None or page in self.sealed:
            self._answer(vcpu, REFUSED)
            return
        self.sealed.add(page)
        # Returns when no processor can use a translation that allowed writing.
        yield from self.control.protect(vcpu, page, PAGE_SIZE, READ | EXECUTE)
        self._answer(vcpu, DONE)

    def _unseal(self, vcpu: Vcpu, page: Gpa1) -> Generator[Wait, None, None]:
        if page not in self.sealed:
            self._answer(vcpu, REFUSED)
            return
        self.sealed.remove(page)
        yield from self.control.restore(vcpu, page, PAGE_SIZE)
        self._answer(vcpu, DONE)

    def on_violation(self, vcpu: Vcpu, gpa1: Gpa1, access: int) -> Literal[False]:
        """Somebody wrote a sealed page (or met something else): count, and let L0 refuse it."""
        self.refused += Gpa1(gpa1 & -PAGE_SIZE) in self.sealed
        return False

    def _answer(self, vcpu: Vcpu, status: int) -> None:
        vcpu.processor.gpr[RAX] = status
        vcpu.skip()
