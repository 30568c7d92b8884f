"""Judges one processor's accesses: whether a translation should have been invalidated.

The rules are those of docs/sanitizer.md.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from turducken.address import Gpa1
from turducken.arch.registers import CR4
from turducken.check.changes import Actor, Change, Source
from turducken.check.findings import Entry, Finding, Use, missing
from turducken.check.records import GUEST, Now, Record, Regime
from turducken.check.rules import EPT_RULES, INVVPID_GUIDELINES, OTHER_RULES, Rule, rule_of
from turducken.check.views import View
from turducken.check.virtual import VirtualView
from turducken.mmu.faults import Fault
from turducken.mmu.mmu import Access
from turducken.mmu.observed import ObservedMmu
from turducken.mmu.rights import EPT_NEEDED, WRITE, is_allowed
from turducken.mmu.tlb import Mapping
from turducken.paging import entries as e

if TYPE_CHECKING:
    from turducken.check.sanitizer import Sanitizer
    from turducken.cpu.processor import Processor

_PGE = CR4.mask("PGE")
_EPT_TYPE = e.EPT_PTE.mask("MT", "IPAT")
_TYPE = e.PTE.mask("PWT", "PCD", "PAT")


class Examiner:
    """One processor's judge: an `AccessObserver`."""

    def __init__(self, sanitizer: "Sanitizer", processor: "Processor", mmu: ObservedMmu) -> None:
        self._s = sanitizer
        self._p = processor
        self._mmu = mmu
        self._watch = sanitizer.watch
        self.hardware = View(self._watch, processor.memory)
        self.virtual: VirtualView | None = None
        mmu.observer = self

    def aim(self) -> None:
        """Let the views follow the registers."""
        mmu, p = self._mmu, self._p
        has_globals = bool(p.state.cr4 & _PGE)
        pdptes = mmu.pdptes if mmu.is_pae else None
        stage = self._s.stage_of_ept(p)
        self.hardware.regime = Regime(
            mmu.paging, mmu.root, pdptes, mmu.tag, mmu.ept, stage, has_globals
        )
        if self._s.is_nested:
            if self.virtual is None:
                self.virtual = self._s.make_virtual(p.index)
            if self.virtual is not None:
                self.virtual.aim(mmu, has_globals=has_globals)

    def _address(self, access: Access) -> int:
        if self._mmu.paging is None:
            return access.address & 0xFFFF_FFFF
        return access.address & self._mmu.address_mask

    # The observer

    def before(self, access: Access) -> None:
        """Judge what a processor would use that keeps everything."""
        watch = self._watch
        watch.settle()
        self.aim()
        if access.user:
            self._s.ran_as_user(self._p.index)
        address = self._address(access)
        if self.virtual is not None:
            self._look(self.virtual, address, access)
        self._look(self.hardware, address, access)

    def _look(self, view: View, address: int, access: Access) -> None:
        record = view.find(address)
        if record is None:
            return
        regime = view.regime
        assert regime is not None
        if record.epoch == self._watch.epoch and self._is_same_root(regime, record, address):
            return
        self._judge(view, record, address, access)

    @staticmethod
    def _is_same_root(regime: Regime, record: Record, address: int) -> bool:
        if regime.ept is not None and regime.ept.accessed_dirty > record.flags:
            return False
        return regime.paging is None or record.root == regime.root_for(address)

    def after(self, access: Access, found: Mapping | Fault) -> None:
        """Cache what the access has used."""
        if not isinstance(found, Mapping):
            return
        address = self._address(access)
        for view in (self.virtual, self.hardware):
            if view is None or view.regime is None:
                continue
            record = view.find(address)
            if record is None:
                record = view.record(address)
                if record is not None:
                    self._s.touched(self._p.index, record)
                    same = self._is_same_root(view.regime, record, address)
                    if not same or not record.is_current:
                        self._judge(view, record, address, access)
        if self.virtual is not None and self.virtual.root12 is not None:
            self._compare(self.virtual, address, access)

    # One translation

    def _judge(self, view: View, record: Record, address: int, access: Access) -> None:
        regime = view.regime
        assert regime is not None
        if not self._allows(record, access):
            return  # the processor would fault, and drop it
        now: Now | None = None
        if not self._is_same_root(regime, record, address):
            self._judge_root(view, record, address, access)
            return
        stale = [one for one in record.sources if one.change is not None]
        if not stale:
            record.epoch = self._watch.epoch
            return
        now = view.now(address)
        for source in sorted(stale, key=_is_not_reuse):
            if self._is_fault(view, source, record, now, address, access):
                self._report(view, source, address, record, access)
                view.drop(address, record)
                return

    def _allows(self, record: Record, access: Access) -> bool:
        _, kind, user, ac = access
        mode = self._mmu.mode
        if self._mmu.paging is not None and not is_allowed(
            mode, record.all_of, record.any_of, record.leaf, kind, user=user, ac=ac
        ):
            return False
        return self._mmu.ept is None or bool(record.ept_all_of & EPT_NEEDED[kind])

    def _is_fault(
        self,
        view: View,
        source: Source,
        record: Record,
        now: Now | None,
        address: int,
        access: Access,
    ) -> bool:
        """Tell whether this use of a changed entry is somebody's mistake."""
        change = source.change
        assert change is not None
        if change.is_reported or change.by.is_deliberate:
            return False
        if not self._matters(rule_of(source.stage, change.rule), source, record, now, access):
            return False
        if source.stage == GUEST and view is self.hardware and self.virtual is not None:
            theirs = self.virtual.find(address)
            return theirs is None or theirs.is_current
        return self._s.has_moved_on(change, source.stage, self._p.index)

    def _matters(
        self, rule: Rule, source: Source, record: Record, now: Now | None, access: Access
    ) -> bool:
        """Tell whether the access comes out otherwise than the tables have it now."""
        if rule.only_writes:
            return access.kind == WRITE
        if rule.is_lasting or now is None:
            return True
        offset = self._address(access) & (1 << record.shift) - 1
        if source.stage == GUEST:
            if (record.gpa + offset) & -4096 != now.gpa or (record.leaf ^ now.leaf) & _TYPE:
                return True
            _, kind, user, ac = access
            mode = self._mmu.mode
            return not is_allowed(mode, now.all_of, now.any_of, now.leaf, kind, user=user, ac=ac)
        if (record.page + offset) & -4096 != now.page:
            return True
        if (record.ept_leaf ^ now.ept_leaf) & _EPT_TYPE:
            return True
        return not now.ept_all_of & EPT_NEEDED[access.kind]

    # Roots

    def _judge_root(self, view: View, record: Record, address: int, access: Access) -> None:
        """The same tag was used with other tables."""
        regime = view.regime
        assert regime is not None
        if regime.ept is not None and regime.ept.accessed_dirty > record.flags:
            self._report_flags(view, record, address, access)
            return
        now = view.now(address)
        offset = address & (1 << record.shift) - 1
        same = now is not None and (record.gpa + offset) & -4096 == now.gpa
        if same and now is not None:
            _, kind, user, ac = access
            same = is_allowed(
                self._mmu.mode, now.all_of, now.any_of, now.leaf, kind, user=user, ac=ac
            )
        if same:
            return
        rule = OTHER_RULES["vpid-reused" if regime.tag.vpid else "pcid-reused"]
        level = "L1" if regime.tag.vpid else self._s.level(self._p)
        if view is self.hardware and self.virtual is not None:
            theirs = self.virtual.find(address)
            if theirs is not None and self.virtual.regime is not None:
                return  # L1's own, and judged there
            rule, level = OTHER_RULES["flush-left-out"], "L0"
        by = Actor(self._p.index, level, None)
        one = missing(rule, GUEST, by, self._use(view, address, record, access))
        one.before = Entry(record.root)
        one.after = Entry(regime.root_for(address))
        self._s.report(one)
        view.drop(address, record)

    def _report_flags(self, view: View, record: Record, address: int, access: Access) -> None:
        """An EPT is used with accessed and dirty flags that was used without."""
        regime = view.regime
        assert regime is not None
        assert regime.ept is not None
        level = "L1" if regime.ept_stage == "ept12" else "L0"
        by = Actor(self._p.index, level, None)
        rule = EPT_RULES["flags-enabled"]
        use = self._use(view, address, record, access)
        one = missing(rule, regime.ept_stage, by, use)
        one.before = Entry(regime.ept.ep4ta)
        one.after = Entry(regime.ept.ep4ta | e.EPTP_AD)
        self._s.report(one)
        view.drop(address, record)

    # EPT02 against EPT01(EPT12(x))

    def _compare(self, virtual: VirtualView, address: int, access: Access) -> None:
        """L0's duty: what it has made of EPT12 and EPT01 must go when they say so."""
        theirs, own = virtual.find(address), self.hardware.find(address)
        epoch = self._watch.epoch
        if theirs is None or own is None:
            return
        if own.composed_epoch != epoch:
            own.composed_epoch, own.composed_kinds = epoch, 0
        if own.composed_kinds >> access.kind & 1 or not theirs.is_current:
            return
        if _page(theirs.gpa, theirs.shift, address) != _page(own.gpa, own.shift, address):
            return  # they differ in the guest's own tables
        regime = virtual.regime
        assert regime is not None
        assert regime.ept is not None
        gpa1 = virtual.output(theirs, address)
        theirs.below = self._s.sources01(virtual.vcpu, gpa1)
        if self._is_composed(virtual, theirs, own, address, access):
            own.composed_kinds |= 1 << access.kind
            return
        below = self._s.places01(virtual.vcpu, gpa1)
        last = self._last_change(theirs.sources, below)
        if last is None:
            return
        change, stage = last
        if stage == "ept12":
            if not virtual.invalidated_since(regime.ept.ep4ta, change.by.moment):
                return
        elif not self._s.has_moved_on(change, stage, self._p.index):
            return
        use = self._use(self.hardware, address, own, access)
        rule = OTHER_RULES["shadow-left-behind"]
        one = missing(rule, "ept02", change.by, use, place=change.place)
        fmt, level = change.fmt, change.level
        one.before, one.after = Entry(change.before, fmt, level), Entry(change.after, fmt, level)
        self._s.report(one)
        own.composed_kinds |= 1 << access.kind

    def _is_composed(
        self,
        virtual: VirtualView,
        theirs: Record,
        own: Record,
        address: int,
        access: Access,
    ) -> bool:
        """Tell whether the page is where EPT12 and EPT01 lead, or led before a harmless change."""
        page = _page(own.page, own.shift, address)
        needed = EPT_NEEDED[access.kind]
        leaf01 = theirs.below[-1].value if theirs.below else 0
        gpa1, rights = virtual.output(theirs, address), theirs.ept_all_of
        for _ in range(2):
            if virtual.place(gpa1) == page and rights & leaf01 & needed:
                return True
            now = virtual.now(address)
            if now is None:
                return False
            gpa1, rights = Gpa1(now.page), now.ept_all_of
        return False

    def _last_change(
        self, sources: tuple[Source, ...], below: list[int]
    ) -> tuple[Change, str] | None:
        """Return the last change of EPT12's entries or, at places ``below``, of EPT01's."""
        history = self._watch.history
        places = [(one.place, one.stage) for one in sources if one.stage != GUEST]
        places += [(place, "ept01") for place in below]
        found = [(history[place], stage) for place, stage in places if place in history]
        return max(found, key=lambda one: one[0].by.moment) if found else None

    # Reporting

    def _use(self, view: View, address: int, record: Record, access: Access) -> Use:
        regime = view.regime
        assert regime is not None
        gpa = None
        if regime.ept is not None:
            gpa = record.gpa + (address & (1 << record.shift) - 1)
        return Use(self._s.actor(self._p), access.address, gpa, access.kind)

    def _report(
        self, view: View, source: Source, address: int, record: Record, access: Access
    ) -> None:
        change = source.change
        assert change is not None
        rule = rule_of(source.stage, change.rule)
        if source.stage == GUEST:
            if view is self.hardware and self.virtual is not None:
                rule = OTHER_RULES["flush-left-out"]
            elif change.by.level != self._s.level(self._p):
                # A hypervisor has changed its guest's tables.
                rule = replace(rule, missing="INVVPID", citation=INVVPID_GUIDELINES)
        use = self._use(view, address, record, access)
        one: Finding = missing(rule, source.stage, change.by, use, place=change.place)
        one.before = Entry(change.before, change.fmt, change.level)
        one.after = Entry(change.after, change.fmt, change.level)
        for each in (source, *source.above):
            if each.change is not None:
                each.change.is_reported = True  # the same invalidation would have done
        self._s.report(one)


def _page(base: int, shift: int, address: int) -> int:
    """Return the 4-KiB page of ``address`` in a larger one."""
    return (base + (address & (1 << shift) - 1)) & -4096


def _is_not_reuse(source: Source) -> bool:
    return source.change is None or source.change.rule != "table-reused"
