"""VPIDs: no two guests ever share one.

L1 has one of L0's own; each VPID that L1 gives an L2 becomes another; an L2 without VPID has a
third.
"""

from collections.abc import Callable

L1_VPID = 1
UNTAGGED_L2 = 2
"""Of L2s to which L1 gives no VPID."""
_FIRST = 3
_LAST = 0xFFFF


class Vpids:
    """One processor's VPIDs; ``flush`` drops everything under one (INVVPID, single context)."""

    def __init__(self, flush: Callable[[int], None]) -> None:
        self.own = L1_VPID
        self._flush = flush
        self._known: dict[int, int] = {}
        self._next = _FIRST

    def of(self, vpid12: int) -> int:
        """Return the VPID for an L2 to which L1 gives ``vpid12`` (0: none)."""
        if not vpid12:
            return UNTAGGED_L2
        known = self._known.get(vpid12)
        return known if known is not None else self._assign(vpid12)

    def known(self, vpid12: int) -> int | None:
        """Return the VPID that stands for ``vpid12``, if an L2 has ever had it."""
        return self._known.get(vpid12)

    def all_known(self) -> list[int]:
        """Return every VPID that stands for one of L1's."""
        return list(self._known.values())

    def reserve(self) -> int:
        """Return a VPID for an application's own guest, which no L2 ever gets."""
        vpid = self._next
        self._next += 1
        return vpid

    def _assign(self, vpid12: int) -> int:
        if self._next > _LAST:
            # Used up (L1 has 65535, two fewer are left): take the one that was given first.
            oldest = next(iter(self._known))
            vpid = self._known.pop(oldest)
            self._flush(vpid)
        else:
            vpid = self._next
            self._next += 1
        self._known[vpid12] = vpid
        return vpid
