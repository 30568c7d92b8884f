"""Pages of EPT12 that L1 must not write unseen: for the `writeprotect` policy.

EPT01 withholds the write right of a watched page on every processor. Watching a page and releasing
it both wait for the other processors, so both are generators.
"""

from typing import TYPE_CHECKING

from turducken.address import Gpa1
from turducken.hypervisor.frames import OutOfFramesError
from turducken.hypervisor.memory_control import Waiting
from turducken.vmx.interface import Wait

if TYPE_CHECKING:
    from turducken.hypervisor.hypervisor import Hypervisor
    from turducken.hypervisor.vcpu import Vcpu


_PATIENCE = 4
"""Turns that a processor gives another to write what it has been given leave to write."""


class TableWatch:
    """The watched pages of all processors.

    A page that is released for a write is open until the processor that writes it has left its
    guest again. While it is open, no other processor watches it: it would read what is about to be
    replaced, and keep the writer from ever getting on.
    """

    def __init__(self, hypervisor: "Hypervisor") -> None:
        self._hypervisor = hypervisor
        self.pages: set[Gpa1] = set()
        self._open: dict[Gpa1, Vcpu] = {}
        self.is_exhausted = False
        """There is no memory to split EPT01's large pages with: nothing more can be watched."""
        self.has_aliases = False
        """A page may be written under another address: the API has mapped some."""

    def watch(self, by: "Vcpu", pages: frozenset[Gpa1]) -> Waiting:
        """Withhold L1's write right to ``pages`` on every processor."""
        yield from self._wait_for_writers(by, pages)
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
        # Meanwhile somebody may have begun to write one of them.
        self.pages |= {
            page
            for page in pages
            if page not in self._open and all(one.ept01.is_withheld(page) for one in vcpus)
        }

    def _wait_for_writers(self, by: "Vcpu", pages: frozenset[Gpa1]) -> Waiting:
        for _ in range(_PATIENCE):
            if not self._writers(by, pages):
                return
            by.serve_requests()
            yield Wait.OTHERS
        writers = self._writers(by, pages)
        yield from self._hypervisor.control.on_others(by, writers, self.close)

    def _writers(self, by: "Vcpu", pages: frozenset[Gpa1]) -> "list[Vcpu]":
        found = {self._open[one].index: self._open[one] for one in pages if one in self._open}
        return [one for index, one in sorted(found.items()) if one is not by]

    def release(self, by: "Vcpu", pages: frozenset[Gpa1]) -> Waiting:
        """Somebody writes ``pages``: drop what was made of them, then let the write happen."""
        vcpus = self._hypervisor.vcpus
        self._open.update(dict.fromkeys(pages, by))
        by.has_open_tables = True
        self.pages -= pages

        def drop(vcpu: "Vcpu") -> None:
            vcpu.shadow.tables_changed(pages)

        drop(by)
        others = [one for one in vcpus if one is not by]
        yield from self._hypervisor.control.on_others(by, others, drop)
        for vcpu in vcpus:
            for page in pages:
                vcpu.ept01.give_writing_back(page)

    def close(self, vcpu: "Vcpu") -> None:
        """The processor has left its guest, and has written what it had leave to write."""
        vcpu.has_open_tables = False
        for page in [page for page, writer in self._open.items() if writer is vcpu]:
            del self._open[page]
