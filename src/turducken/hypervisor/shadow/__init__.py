"""EPT02: the table that the processor uses while L2 runs, kept under exchangeable policies.

EPT02(x) = EPT01(EPT12(x)). `compose` works out one entry; a policy (`policy`) decides when entries
are made, how long they stay and what drops them.
"""

from turducken.hypervisor.shadow.cached import CachedShadow
from turducken.hypervisor.shadow.eager import EagerShadow
from turducken.hypervisor.shadow.lazy import LazyShadow
from turducken.hypervisor.shadow.policy import ShadowParts, ShadowPolicy, ShadowPolicyName
from turducken.hypervisor.shadow.writeprotect import WriteProtectShadow

__all__ = ["POLICIES", "SHADOWS", "ShadowPolicy", "ShadowPolicyName", "make_shadow"]

SHADOWS: dict[str, type[CachedShadow] | type[LazyShadow]] = {
    "lazy": LazyShadow,
    "cached": CachedShadow,
    "eager": EagerShadow,
    "writeprotect": WriteProtectShadow,
}
POLICIES: tuple[ShadowPolicyName, ...] = ("lazy", "cached", "eager", "writeprotect")


def make_shadow(name: ShadowPolicyName, parts: ShadowParts) -> ShadowPolicy:
    """Return a new policy by name; `ValueError` for an unknown one."""
    if name not in SHADOWS:
        raise ValueError(f"unknown shadow policy {name!r} (one of {', '.join(POLICIES)})")
    return SHADOWS[name](parts)
