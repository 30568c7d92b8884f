"""Other people's systems that run on the machine: which, how to get them, and how far they go."""

from turducken.systems.known import KNOWN, KnownSystem, Missing
from turducken.systems.trying import Trial, try_system

__all__ = ["KNOWN", "KnownSystem", "Missing", "Trial", "try_system"]
