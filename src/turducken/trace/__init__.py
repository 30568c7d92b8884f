"""What happens in a run, event by event, for people and for trace viewers: docs/trace.md."""

from turducken.trace.recorder import Recorder
from turducken.trace.records import KINDS, Record, Selection
from turducken.trace.writers import SINKS, Sink, make_sink

__all__ = ["KINDS", "SINKS", "Record", "Recorder", "Selection", "Sink", "make_sink"]
