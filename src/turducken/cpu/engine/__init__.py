"""The instruction engine: Unicorn as a machine that traps every sensitive instruction.

Unicorn runs in AMD SVM guest mode with every intercept set, so that each instruction whose meaning
is the processor's (ours) stops before it has an effect. Nothing outside this package knows that.
"""

from turducken.cpu.engine.engine import LONGEST_BLOCK, Engine, EngineHost, Trap
from turducken.cpu.engine.library import EngineError
from turducken.cpu.engine.segments import Segment, SegmentIndex
from turducken.cpu.engine.state import State

__all__ = [
    "LONGEST_BLOCK",
    "Engine",
    "EngineError",
    "EngineHost",
    "Segment",
    "SegmentIndex",
    "State",
    "Trap",
]
