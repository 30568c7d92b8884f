"""Applications on L0 ("hypapps"), and how users name and set them up.

An application sees the hypervisor's API and nothing of the emulator below it; an import contract
holds that. docs/hypapps.md tells how to write one, docs/trustvisor.md what TrustVisor does.
"""

from turducken.apps.errors import AppError
from turducken.apps.finding import BUILT_IN, AppRequest, load_app, parse_request

__all__ = ["BUILT_IN", "AppError", "AppRequest", "load_app", "parse_request"]
