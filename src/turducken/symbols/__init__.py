"""Names and source lines for addresses: of the image, and of symbol files that a user brings."""

from turducken.symbols.files import SymbolFile, parse_request, read_symbols
from turducken.symbols.linux import RunningKernel
from turducken.symbols.names import Names
from turducken.symbols.unwind import Frame

__all__ = ["Frame", "Names", "RunningKernel", "SymbolFile", "parse_request", "read_symbols"]
