"""The engine's native functions: one unit, compiled when the first engine is made."""

from turducken.native import Unit

HOT = Unit()
"""Functions register themselves with `Unit.compiled`."""
