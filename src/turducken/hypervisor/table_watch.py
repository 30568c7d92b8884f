"""Pages of EPT12 that L1 must not write unseen: for the `writeprotect` policy.

EPT01 withholds the write right of a watched page on every processor. Watching a page and releasing
it both wait for the other processors, so both are generators.

Two processors may want the same page, one to write it and one to translate through it, again and
again. Each takes its turn: a page that was released for a write stays open until its writer has
left its guest again, and who wanted to watch it waits a little for that; whoever was overtaken by
a writer is owed a turn, for which the next writer waits.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from turducken.address import Gpa1
from turducken.hypervisor.frames import OutOfFramesError
from turducken.hypervisor.memory_control import Waiting
from turducken.vmx.interface import Wait

if TYPE_CHECKING:
    from turducken.hypervisor.hypervisor import Hypervisor
    from turducken.hypervisor.vcpu import Vcpu

Pages = frozenset[Gpa1]

_PATIENCE = 8
"""Turns that a processor gives another to do what it has been given leave for."""


class TableWatch:
    """The watched pages of all processors."""

    def __init__(self, hypervisor: "Hypervisor") -> None:
        self._hypervisor = hypervisor
        self.pages: set[Gpa1] = set()
        """No processor writes one of these unless it was released first."""
        self.unwatchable: set[Gpa1] = set()
        """Pages that are not watched again: L2 writes them, or the processor does unseen."""
        self._writers: dict[Gpa1, set[Vcpu]] = {}
        """Released pages, and the processors that may be writing them now."""
        self._owed: dict[Gpa1, Vcpu] = {}
        """Pages whose watching was overtaken by a write, and the processor that wanted it."""
        self.is_exhausted = False
        """There is no memory to split EPT01's large pages with: nothing more can be watched."""
        self.has_aliases = False
        """A page may be written under another address: the API has mapped some."""

    # Watching

    def watch(self, by: "Vcpu", pages: Pages) -> Waiting:
        """Withhold L1's write right to ``pages`` on every processor.

        What somebody has begun to write meanwhile is not in `pages` afterwards.
        """
        self.close(by)
        yield from self._wait_for_writers(by, pages)
        changed = self._withhold(pages)

        def settle(vcpu: "Vcpu") -> None:
            vcpu.settle_withheld(pages)

        if by in changed:
            settle(by)
        others = [one for one in changed if one is not by]
        yield from self._hypervisor.control.on_others(by, others, settle)
        self._begin(by, pages)

    def _withhold(self, pages: Pages) -> "list[Vcpu]":
        """Change every EPT01; return the processors on which that took something away."""
        vcpus = self._hypervisor.vcpus
        changed = set()  # several processors may share one
        try:
            for ept01 in dict.fromkeys(one.ept01 for one in vcpus):
                lost = [page for page in pages if ept01.withhold_writing(page)]
                if lost:
                    changed.add(ept01)
        except OutOfFramesError:
            self.is_exhausted = True
        return [one for one in vcpus if one.ept01 in changed]

    def _begin(self, by: "Vcpu", pages: Pages) -> None:
        """Count the pages as watched that nobody writes, now that EPT01 is settled everywhere."""
        for page in pages:
            if page in self._writers:
                self._owed[page] = by
            elif (
                not self.is_exhausted
                and page not in self.unwatchable
                and all(one.ept01.is_withheld(page) for one in self._hypervisor.vcpus)
            ):
                self.pages.add(page)

    def _wait_for_writers(self, by: "Vcpu", pages: Pages) -> Waiting:
        """Let writers of ``pages`` have their turn, then make them leave their guests."""

        def writers() -> "list[Vcpu]":
            found = {one for page in pages for one in self._writers.get(page, ()) if one is not by}
            return sorted(found, key=lambda one: one.index)

        yield from _patience(by, lambda: all(one.in_guest for one in writers()))
        yield from self._hypervisor.control.on_others(by, writers(), self.close)

    # Releasing

    def release(self, by: "Vcpu", pages: Pages) -> Waiting:
        """Somebody writes ``pages``: drop what was made of them, then let the write happen."""
        yield from self._wait_for_turn(by, pages)
        vcpus = self._hypervisor.vcpus
        for page in pages:
            self._writers.setdefault(page, set()).add(by)
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

    def give_up(self, by: "Vcpu", pages: Pages) -> Waiting:
        """L2 writes ``pages``: release them, and never watch them again.

        L2 could need a page watched and written for one and the same instruction.
        """
        self.unwatchable |= pages
        return self.release(by, pages)

    def _wait_for_turn(self, by: "Vcpu", pages: Pages) -> Waiting:
        """Let those go on that were overtaken by a write of ``pages``."""
        owed = {self._owed[page] for page in pages if page in self._owed}
        yield from _patience(by, lambda: all(one is by or one.in_guest for one in owed))
        for page in pages:
            self._owed.pop(page, None)

    def close(self, vcpu: "Vcpu") -> None:
        """The processor has left its guest, and has written what it had leave to write."""
        if not vcpu.has_open_tables:
            return
        vcpu.has_open_tables = False
        for page, writers in list(self._writers.items()):
            writers.discard(vcpu)
            if not writers:
                del self._writers[page]


def _patience(by: "Vcpu", is_done: Callable[[], bool]) -> Waiting:
    """Wait for others, but not for ever."""
    for _ in range(_PATIENCE):
        if is_done():
            return
        by.serve_requests()
        yield Wait.OTHERS
