"""The application on L0 of the scenarios in which L0 changes EPT01 (guests/zoo/under_l0.c)."""

from typing import Literal

from turducken.address import PAGE_SIZE, Gpa1, Hpa
from turducken.hypervisor import Hypapp, Vcpu
from turducken.hypervisor.ept01 import RWX, R
from turducken.hypervisor.memory_control import Waiting

_MOVE, _TAKE, _GUARD = 0x200A_0001, 0x200A_0002, 0x200A_0003
_RAX, _RCX, _RBX = 0, 1, 3
_LOW = 0xFFFF_FFFF
_VALUE = 8
"""Where L2 looks in a page."""


class ZooApp(Hypapp):
    """Does what L1 asks for: EAX the function, RBX a page of L1's, RCX an argument; EAX = 0."""

    name = "zoo"

    def __init__(self) -> None:
        self._guarded: set[int] = set()

    def on_hypercall(self, vcpu: Vcpu) -> Waiting | Literal[False]:
        """Move, take or guard a page."""
        gpr = vcpu.processor.gpr
        page, argument = Gpa1(gpr[_RBX]), gpr[_RCX]
        match gpr[_RAX] & _LOW:
            case _ if page % PAGE_SIZE:
                return False
            case function if function == _MOVE:
                work = self._move(vcpu, page, argument)
            case function if function == _TAKE:
                work = self._take(vcpu, page, argument)
            case function if function == _GUARD:
                work = self._guard(vcpu, page)
            case _:
                return False
        gpr[_RAX] = 0
        vcpu.skip()
        return work

    @staticmethod
    def _move(vcpu: Vcpu, page: Gpa1, target: int) -> Waiting:
        """Let L1 have another of its pages in the place of one (EPT01 is the identity so far)."""
        return vcpu.system.control.map(vcpu, page, PAGE_SIZE, Hpa(target), RWX)

    @staticmethod
    def _take(vcpu: Vcpu, page: Gpa1, secret: int) -> Waiting:
        """Take a page from L1, and keep a secret in it."""
        yield from vcpu.system.control.unmap(vcpu, page, PAGE_SIZE)
        vcpu.system.memory.store(page + _VALUE, 8, secret)

    def _guard(self, vcpu: Vcpu, page: Gpa1) -> Waiting:
        """Let the next store to a page exit."""
        self._guarded.add(page)
        return vcpu.system.control.protect(vcpu, page, PAGE_SIZE, R)

    def on_violation(self, vcpu: Vcpu, gpa1: Gpa1, access: int) -> Waiting | Literal[False]:
        """Do the store, which is an INC of 32 bits, and give the page back."""
        page = Gpa1(gpa1 & -PAGE_SIZE)
        if page not in self._guarded:
            return False
        self._guarded.discard(page)
        memory = vcpu.system.memory
        memory.store(gpa1, 4, memory.load(gpa1, 4) + 1 & _LOW)
        vcpu.skip()
        return vcpu.system.control.restore(vcpu, page, PAGE_SIZE)
