"""A Volatility 3 layer that shows a guest's physical memory through its EPT.

Needs the extra ``turducken[volatility]``. ``python -m turducken.inspect.volatility`` prints the
folder for Volatility's ``--plugin-dirs``; the chain is given in the environment, because Volatility
hands no options to stackers:

    TURDUCKEN_VIA=ept12=0x80001e,ept01=0x400001e vol -p FOLDER -f dump.core linux.pslist
"""

from pathlib import Path

PLUGIN_DIRECTORY = Path(__file__).with_name("plugins")
"""What ``--plugin-dirs`` (``-p``) must name."""

VIA_VARIABLE = "TURDUCKEN_VIA"
"""The environment variable that holds the chain, as ``turducken pt --via`` takes it."""
