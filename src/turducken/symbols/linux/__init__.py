"""Names in a running Linux kernel and its modules, read from the guest's memory."""

from turducken.symbols.linux.kernel import RunningKernel

__all__ = ["RunningKernel"]
