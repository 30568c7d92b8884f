"""Pages of EPT12 that L1 must not write unseen: for the `writeprotect` policy.

EPT01 withholds the write right of a watched page on every processor. Watching a page and releasing
it both wait for the other processors, so both are generators.
"""

from typing import TYPE_CHECKING

from turducken.address import Gpa1
from turducken.hypervisor.frames import OutOfFramesError
from turducken.hypervisor.memory_control import Waiting

if TYPE_CHECKING:
    from turducken.hypervisor.hypervisor import Hypervisor
    from turducken.hypervisor.vcpu import Vcpu


class TableWatch:
    """The watched pages of all processors."""

    def __init__(self, hypervisor: "Hypervisor") -> None:
        self._hypervisor = hypervisor
        self.pages: set[Gpa1] = set()
        self.is_exhausted = False
        """There is no memory to split EPT01's large pages with: nothing more can be watched."""
        self.has_aliases = False
        """A page may be written under another address: the API has mapped some."""

    def watch(self, by: "Vcpu", pages: frozenset[Gpa1]) -> Waiting:
        """Withhold L1's write right to ``pages`` on every processor."""
        vcpus = self._hypervisor.vcpus
        try:
            for vcpu in vcpus:
                for page in pages:
                    vcpu.ept01.withhold_writing(page)
        except OutOfFramesError:
            self.is_exhausted = True
            return
        by.settle_ept01()
        others = [one for one in vcpus if one is not by]
        yield from self._hypervisor.control.on_others(by, others, type(by).settle_ept01)
        self.pages |= pages

    def release(self, by: "Vcpu", pages: frozenset[Gpa1]) -> Waiting:
        """Somebody writes ``pages``: drop what was made of them, then let the write happen."""
        vcpus = self._hypervisor.vcpus
        self.pages -= pages

        def drop(vcpu: "Vcpu") -> None:
            vcpu.shadow.tables_changed(pages)

        drop(by)
        others = [one for one in vcpus if one is not by]
        yield from self._hypervisor.control.on_others(by, others, drop)
        for vcpu in vcpus:
            for page in pages:
                vcpu.ept01.give_writing_back(page)
