"""Physical memory: the protocol that walkers and builders take, and the machine's RAM."""

from turducken.memory.physical import PhysicalMemory
from turducken.memory.protocol import Memory, MemoryHoleError, TableMemory

__all__ = ["Memory", "MemoryHoleError", "PhysicalMemory", "TableMemory"]
