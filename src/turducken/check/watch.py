"""Table entries under watch: every write to one is seen, whoever makes it.

Processors write to watched pages through an alias where the engine asks us (`WatchedHost`); the
hypervisor, the processors' own steps and devices write through `PhysicalMemory`, which tells.
"""

import weakref
from collections.abc import Callable, Sequence

from turducken.address import PAGE_SHIFT
from turducken.check.changes import Actor, Change, Source
from turducken.check.rules import classify
from turducken.cpu.engine import Engine, EngineHost
from turducken.memory import PhysicalMemory
from turducken.mmu.rights import WRITE
from turducken.paging import entries as e
from turducken.paging.formats import BoundFormat

_EPT_FLAGS = e.EPT_A | e.EPT_D
_MANY = 256
_MOST_WRITES = 4
"""So many writes to a page are seen one by one; then it is opened."""

_Entries = dict[int, list["weakref.ref[Source]"]]


class EntryWatch:
    """All entries that live translations were made of.

    ``who`` tells who writes at present. ``epoch`` changes whenever a judgement may come out
    differently, ``version`` whenever an entry in use has been written. ``changed`` is called with
    every new change; ``history`` holds for every place the last change of an entry in use.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        engines: Sequence[Engine],
        who: Callable[[], Actor],
        changed: Callable[[Source, Change], None],
    ) -> None:
        self.memory = memory
        self.epoch = 0
        self.version = 0
        self.moment = 0
        self.history: dict[int, Change] = {}
        self._engines = engines
        self._who = who
        self._changed = changed
        self._watch = memory.watch_writes(self._written)
        self._frames: dict[int, _Entries] = {}
        self._writers: dict[int, set[int]] = {}
        self._touched: dict[int, Actor] = {}
        self._seen: dict[int, int] = {}
        self._open: dict[int, tuple[int, Actor]] = {}
        self.running: Engine | None = None
        """The engine that asks us at this moment."""

    # Entries in use

    def source(
        self,
        place: int,
        value: int,
        stage: str,
        fmt: BoundFormat,
        level: int,
        *,
        parent: Source | None,
        flags: bool = False,
    ) -> Source:
        """Return the record of an entry that has just been read, and watch it from now on."""
        frame = place >> PAGE_SHIFT
        entries = self._frames.get(frame)
        if entries is None:
            entries = self._frames[frame] = {}
            self._begin(frame)
        for one in self._alive(entries, place):
            if one.is_as(value, stage, parent, flags=flags):
                return one
        made = Source(place, value, stage, fmt, level, parent, flags)
        entries.setdefault(place, []).append(weakref.ref(made))
        return made

    def _begin(self, frame: int) -> None:
        self._watch.add(frame)
        for number in self._writers.pop(frame, ()):
            self.forget_grants(number)

    def forget_grants(self, number: int) -> None:
        """Make a processor ask again for every translation."""
        engine = self._engines[number]
        if engine is self.running:
            engine.flush_tlb()
        else:
            engine.is_stale = True

    def forget_all_grants(self) -> None:
        """Make every processor ask again."""
        for number in range(len(self._engines)):
            self.forget_grants(number)

    # Writes

    def grant_write(self, cpu: int, place: int) -> bool:
        """Tell whether a processor may write a page without being seen; note that it does."""
        frame = place >> PAGE_SHIFT
        if frame in self._frames and frame not in self._open:
            return False
        self._writers.setdefault(frame, set()).add(cpu)
        return True

    def write(self, cpu: int, address: int, data: bytes) -> None:
        """Let a processor write to a watched page.

        A page that is being rewritten is opened after a few writes: the processor writes without
        being seen, and what it has changed is found by comparing (`settle`), until `close`.
        """
        self.memory.write(address, data)
        frame = address >> PAGE_SHIFT
        if frame not in self._frames:
            return
        seen = self._seen[frame] = self._seen.get(frame, 0) + 1
        if seen >= _MOST_WRITES:
            self._open[frame] = (cpu, self._who())
            self.forget_grants(cpu)

    def _written(self, address: int, count: int) -> None:
        """Somebody wrote to a watched page."""
        entries = self._frames[address >> PAGE_SHIFT]
        if count > _MANY:
            hits = [one for one in entries if address - 8 < one < address + count]
        else:
            hits = [one for one in range(address & ~7, address + count, 4) if one in entries]
        if not hits:
            return
        self.version += 1
        actor = self._who()
        for place in hits:
            self._touched[place] = actor
        self.forget_all_grants()

    def close(self) -> None:
        """See each write again: the processor that was rewriting tables has stopped."""
        self.settle()
        self._seen.clear()
        if not self._open:
            return
        opened, self._open = self._open, {}
        for frame, (cpu, _) in opened.items():
            self._writers.pop(frame, None)
            if not self._frames[frame]:
                del self._frames[frame]
                self._watch.discard(frame)
            self.forget_grants(cpu)

    def _look_at_open(self) -> None:
        for frame, (_, actor) in self._open.items():
            entries = self._frames[frame]
            for place in list(entries):
                alive = self._alive(entries, place)
                if not alive:
                    del entries[place]
                for source in alive:
                    now = self.memory.load(place, source.fmt.entry_size)
                    if now != source.value or source.change is not None:
                        self.version += 1
                        self._compare(source, now, actor)

    @staticmethod
    def _alive(entries: _Entries, place: int) -> list[Source]:
        known = entries.get(place, [])
        alive = [one for one in (reference() for reference in known) if one is not None]
        if len(alive) != len(known):
            entries[place] = [weakref.ref(one) for one in alive]
        return alive

    def settle(self) -> None:
        """Compare what was written with what is cached.

        Late, so that an entry written in two halves counts as it is in the end.
        """
        if not self._touched and not self._open:
            return
        touched, self._touched = self._touched, {}
        self.moment += 1
        for place, actor in touched.items():
            entries = self._frames.get(place >> PAGE_SHIFT)
            for source in self._alive(entries, place) if entries is not None else ():
                self._compare(source, self.memory.load(place, source.fmt.entry_size), actor)
        if self._open:
            self._look_at_open()

    def _compare(self, source: Source, now: int, actor: Actor) -> None:
        fmt, before = source.fmt, source.value
        flags = _EPT_FLAGS if fmt.is_ept else fmt.accessed | fmt.dirty
        if now != before and not (now ^ before) & ~flags and not before & ~now:
            source.value = now  # flags that a processor, or L0 in its place, has set
            return
        rule = classify(fmt, source.level, before, now, flags=source.flags)
        old = source.change
        if rule is None:
            source.change = None
        elif old is None:
            self._note(source, now, rule, actor)
        elif old.after != now:
            old.after = now
        else:
            return
        if rule is not None or old is not None:
            self.epoch += 1

    def _note(self, source: Source, now: int, rule: str, actor: Actor) -> None:
        reused = bool(now & source.fmt.present) and source.is_unlinked
        change = Change(
            source.place,
            source.fmt,
            source.level,
            source.value,
            now,
            "table-reused" if reused else rule,
            actor,
            has_moved_on=reused,
        )
        source.change = self.history[source.place] = change
        self._changed(source, change)


class WatchedHost:
    """Stands between an engine and its processor: writes to watched pages come here."""

    ALIAS = 1 << 45
    """Added to the address of a watched page, so that nothing is there for the engine."""

    def __init__(self, number: int, engine: Engine, inner: EngineHost, watch: EntryWatch) -> None:
        self._number = number
        self._engine = engine
        self._inner = inner
        self._watch = watch
        self.is_special = inner.is_special
        self.starts_of = inner.starts_of
        self.port_in = inner.port_in
        self.port_out = inner.port_out

    def fill(self, page: int, kind: int) -> int | None:
        """See `EngineHost.fill`."""
        watch = self._watch
        watch.running = self._engine
        target = self._inner.fill(page, kind)
        watch.running = None
        if kind != WRITE or target is None or not watch.memory.is_ram(target):
            return target
        return target if watch.grant_write(self._number, target) else target | self.ALIAS

    def mmio_read(self, address: int, size: int) -> int:
        """Read a watched page, or a device."""
        if address & self.ALIAS:
            return int.from_bytes(self._watch.memory.read(address & ~self.ALIAS, size), "little")
        return self._inner.mmio_read(address, size)

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write a watched page, or a device."""
        if not address & self.ALIAS:
            self._inner.mmio_write(address, size, value)
            return
        watch, engine = self._watch, self._engine
        watch.running = engine
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        watch.write(self._number, address & ~self.ALIAS, data)
        watch.running = None
        # The next write has to be asked for again: only then is its instruction known.
        engine.refill()
        if engine.is_code_stale:
            engine.request_stop()
