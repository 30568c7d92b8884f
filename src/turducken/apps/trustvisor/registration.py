"""Registering PALs and taking them back."""

from collections.abc import Generator
from typing import TYPE_CHECKING

from turducken.address import PAGE_SIZE, Gpa1, Hpa
from turducken.apps.trustvisor import abi
from turducken.apps.trustvisor.abi import SectionKind, Status
from turducken.apps.trustvisor.descriptor import Descriptor, Section, parse_descriptor
from turducken.apps.trustvisor.lending import Lending
from turducken.apps.trustvisor.measuring import extend, measure
from turducken.apps.trustvisor.pal import LentPage, Owner, Pal, PalState, is_writable
from turducken.apps.trustvisor.space import PalSpace
from turducken.hypervisor.current_guest import CurrentGuest
from turducken.hypervisor.ept01 import OWNED
from turducken.paging import entries as e
from turducken.vmx import vmcs_fields as f
from turducken.vmx.interface import Wait

if TYPE_CHECKING:
    from turducken.hypervisor import Hypervisor, Vcpu

_TYPE_BITS = e.EPT_PTE.mask("MT", "IPAT")
_CR3_ADDRESS = ~0xFFF & (1 << 52) - 1
_SPARE_FRAMES = 256
"""Frames of L0's that a registration leaves for everything else."""
_FRAMES_PER_PAGE = 4
"""More than a page needs for its own tables, and for a large page split in each EPT01."""
_CLEARED_FIRST = (SectionKind.PARAMETERS, SectionKind.STACK)

Answer = Generator[Wait, None, Status]


def owner_of(guest: CurrentGuest) -> Owner:
    """Return who the guest that has exited is, as an owner of PALs."""
    return Owner(guest.level, guest.vmcs.read(f.GUEST_CR3) & _CR3_ADDRESS)


class Registry:
    """The PALs there are. ``omit_shootdown`` plants TrustVisor's hole."""

    def __init__(self, hypervisor: "Hypervisor", *, omit_shootdown: bool) -> None:
        self._hypervisor = hypervisor
        self._omit_shootdown = omit_shootdown
        self._next = 1
        self.lending = Lending()
        self.pals: dict[int, Pal] = {}

    # Registering

    def register(self, vcpu: "Vcpu", pal: Pal) -> Answer:
        """Take the pages of a PAL from every guest, then measure it and make it ready.

        Nothing is measured before no processor can change it any more.
        """
        self.pals[pal.number] = pal
        changes = self.lending.lend(pal)
        control, memory = self._hypervisor.control, self._hypervisor.memory
        yield from control.apply(vcpu, changes, omit_shootdown=self._omit_shootdown)
        for page in pal.pages:
            if page.kind in _CLEARED_FIRST:
                memory.write(page.hpa, bytes(PAGE_SIZE))
        pal.measurement = measure(memory, pal)
        pal.pcr = extend(pal.pcr, pal.measurement)
        pal.space = PalSpace(memory, self._hypervisor.frames, pal, vcpu.maxphyaddr)
        pal.state = PalState.READY
        return Status.SUCCESS

    def make(self, vcpu: "Vcpu", guest: CurrentGuest, address: int) -> Pal | Status:
        """Return the PAL that the descriptor at a linear address describes, or what is wrong."""
        if guest.privilege != 3:
            return Status.NOT_ALLOWED
        data = guest.read(address, abi.DESCRIPTOR_SIZE)
        if data is None:
            return Status.BAD_ADDRESS
        descriptor = parse_descriptor(data, is_64bit=guest.is_64bit)
        if isinstance(descriptor, Status):
            return descriptor
        if not self._has_room(descriptor):
            return Status.NO_ROOM
        pages = self._find_pages(vcpu, guest, descriptor)
        if isinstance(pages, Status):
            return pages
        if not self.lending.accepts(pages):
            return Status.OVERLAP
        number, self._next = self._next, self._next + 1
        return Pal(number, owner_of(guest), guest.is_64bit, descriptor, pages)

    def _has_room(self, descriptor: Descriptor) -> bool:
        pages = sum(one.pages for one in descriptor.sections)
        needed = pages * (_FRAMES_PER_PAGE + self._hypervisor.count) + _SPARE_FRAMES
        return len(self.pals) < abi.MOST_PALS and self._hypervisor.frames.available >= needed

    def _find_pages(
        self, vcpu: "Vcpu", guest: CurrentGuest, descriptor: Descriptor
    ) -> tuple[LentPage, ...] | Status:
        found = []
        for section in descriptor.sections:
            for linear in range(section.range.start, section.range.stop, PAGE_SIZE):
                page = self._find_page(vcpu, guest, section, linear)
                if isinstance(page, Status):
                    return page
                found.append(page)
        return tuple(found)

    def _find_page(
        self, vcpu: "Vcpu", guest: CurrentGuest, section: Section, linear: int
    ) -> LentPage | Status:
        """A page is the caller's if its user mode can use it so, and L1 has it as RAM of its own.

        What is taken away from everybody must be the caller's to write, code too: or a PAL could
        be made of what a process merely shares. Code that is lent shared stays where it is.
        """
        is_shared = section.kind is SectionKind.SHARED_CODE
        gpa1 = guest.translate(linear, write=not is_shared)
        if gpa1 is None:
            readable = guest.translate(linear, write=False)
            lent = readable is None and self._is_lent(guest, linear)
            if lent:
                return Status.OVERLAP
            return Status.BAD_ADDRESS if readable is None else Status.NOT_OWNED
        place = vcpu.ept01.find(gpa1)
        assert place is not None
        hpa = Hpa(place.page + (gpa1 & (1 << place.shift) - 1))
        is_known = is_shared and self.lending.is_shared(gpa1)
        if (place.entry & OWNED and not is_known) or not self._is_ram(hpa):
            return Status.NOT_OWNED
        return LentPage(linear, Gpa1(gpa1), hpa, section.kind, place.entry & _TYPE_BITS)

    def _is_lent(self, guest: CurrentGuest, linear: int) -> bool:
        gpa1 = guest.locate(linear, write=False)
        return gpa1 is not None and self.lending.owner_of(gpa1) is not None

    def _is_ram(self, hpa: Hpa) -> bool:
        return self._hypervisor.memory.is_ram(hpa, PAGE_SIZE)

    # Taking back

    def may_unregister(self, guest: CurrentGuest, pal: Pal) -> bool:
        """Its owner may; so may the kernel of the same level, and L1's for a PAL of L2's."""
        if guest.privilege == 3:
            return owner_of(guest) == pal.owner
        return guest.level <= pal.owner.level

    def unregister(self, vcpu: "Vcpu", pal: Pal) -> Answer:
        """Wipe what a PAL could write, then give its pages back; nothing of it is left."""
        pal.state = PalState.CHANGING
        memory, control = self._hypervisor.memory, self._hypervisor.control
        for page in pal.pages:
            if is_writable(page.kind):
                memory.write(page.hpa, bytes(PAGE_SIZE))
        yield from self._forget_space(vcpu, pal)
        yield from control.apply(vcpu, self.lending.give_back(pal))
        del self.pals[pal.number]
        return Status.SUCCESS

    def _forget_space(self, vcpu: "Vcpu", pal: Pal) -> Generator[Wait, None, None]:
        """Free the PAL's own tables, once no processor has them cached any more."""
        space = pal.space
        assert space is not None
        eptp = space.eptp
        others = [
            one for one in self._hypervisor.vcpus if one is not vcpu and one.index in pal.ran_on
        ]
        if vcpu.index in pal.ran_on:
            vcpu.invept(eptp)
        yield from self._hypervisor.control.on_others(vcpu, others, lambda one: one.invept(eptp))
        pal.space = None
        space.destroy()
