"""TrustVisor: pieces of an application's code (PALs) that no other software can read or change.

Reading order: `abi`, `descriptor`, `pal`; `lending` and `registration` (how pages go and come
back); `space`, `guest_state`, `parameters` and `calls` (how a PAL runs); `measuring`; `app` (the
hooks).
"""

from turducken.apps.trustvisor.app import TrustVisor, TrustVisorOptions

__all__ = ["TrustVisor", "TrustVisorOptions"]
