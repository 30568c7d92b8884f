"""Makes Volatility load our layer: it imports every file in ``--plugin-dirs``."""

from turducken.inspect.volatility.layer import EptLayer, EptStacker

__all__ = ["EptLayer", "EptStacker"]
