"""The layer, and the stacker that puts it on top of a dump's physical layer.

Volatility 3 documentation, "Creating New Translation Layers" and "Layers" (automagic stacking).
"""

import os
from collections.abc import Iterator

import numpy as np
from volatility3.framework import constants, exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import linear

from turducken.inspect.chain import ANY_PROCESSOR, ChainOptions, parse_chain
from turducken.inspect.errors import InspectError
from turducken.inspect.through import ChainMap
from turducken.inspect.volatility import VIA_VARIABLE
from turducken.memory import MemoryHoleError
from turducken.paging.ranges import RangeTable

Piece = tuple[int, int, int, int, str]


class LayerMemory:
    """A Volatility layer as our tools read memory. See `turducken.memory.Memory`."""

    def __init__(self, layer: "interfaces.layers.DataLayerInterface") -> None:
        self._layer = layer

    def load(self, address: int, size: int) -> int | None:
        """Return the little-endian word, or None where the layer has none."""
        try:
            return int.from_bytes(self.read(address, size), "little")
        except MemoryHoleError:
            return None

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes; raise `MemoryHoleError` where the layer has none."""
        try:
            return bytes(self._layer.read(address, length))
        except exceptions.InvalidAddressException as error:
            raise MemoryHoleError(error.invalid_address) from None

    def store(self, address: int, size: int, value: int) -> None:
        """Refuse."""
        raise InspectError("tables are only read here")

    def write(self, address: int, data: bytes) -> None:
        """Refuse."""
        raise InspectError("tables are only read here")


class EptLayer(linear.LinearlyMappedLayer):  # type: ignore[misc,unused-ignore]  # may be untyped
    """Guest-physical memory, read through the tables of ``via`` from ``base_layer``."""

    def __init__(
        self,
        context: "interfaces.context.ContextInterface",
        config_path: str,
        name: str,
        metadata: dict[str, object] | None = None,
    ) -> None:
        super().__init__(context, config_path, name, metadata)
        self._base_layer = str(self.config["base_layer"])
        via = str(self.config["via"])
        self._ranges = self._map(via)
        if not len(self._ranges):
            raise InspectError(f"{via} maps nothing")

    def _map(self, via: str) -> RangeTable:
        memory = LayerMemory(self.context.layers[self._base_layer])
        stages = parse_chain(via, ChainOptions(ANY_PROCESSOR))
        return ChainMap(memory, stages).composed().ranges.without(0xFFFF_FFFF)

    def mapping(self, offset: int, length: int, ignore_errors: bool = False) -> Iterator[Piece]:
        """Yield (offset, length, mapped offset, mapped length, layer), as Volatility wants it."""
        end = offset + max(length, 1)
        at = offset
        index = int(np.searchsorted(self._ranges.last, np.uint64(offset)))
        for one in self._ranges.take(slice(index, None)):
            if one.start >= end:
                break
            low, high = max(at, one.start), min(end, one.end)
            if low > at and not ignore_errors:
                break
            place = one.target + low - one.start
            size = high - low if length else 0
            yield low, size, place, size, self._base_layer
            at = high
        if at < end and not ignore_errors:
            raise exceptions.InvalidAddressException(
                self.name, at, f"{self.name} maps nothing at {at:#x}"
            )

    def is_valid(self, offset: int, length: int = 1) -> bool:
        """Tell whether all of the range is mapped, and is in the layer below."""
        below = self.context.layers[self._base_layer]
        try:
            pieces = list(self.mapping(offset, length))
        except exceptions.InvalidAddressException:
            return False
        return all(below.is_valid(place, size) for _, _, place, size, _ in pieces)

    @property
    def dependencies(self) -> list[str]:
        """Return the names of the layers below."""
        return [self._base_layer]

    @property
    def minimum_address(self) -> int:
        """Return the first mapped address."""
        return int(self._ranges.start[0])

    @property
    def maximum_address(self) -> int:
        """Return the last mapped address."""
        return int(self._ranges.last[-1])

    @classmethod
    def get_requirements(cls) -> "list[interfaces.configuration.RequirementInterface]":
        """Return what the layer must be configured with."""
        return [
            requirements.TranslationLayerRequirement(
                name="base_layer", description="The physical layer of the dump", optional=False
            ),
            requirements.StringRequirement(
                name="via", description="The translations, as in turducken pt --via", optional=False
            ),
        ]


class EptStacker(interfaces.automagic.StackerLayerInterface):  # type: ignore[misc,unused-ignore]
    """Stacks an `EptLayer` on a dump's physical layer, if the environment names a chain."""

    stack_order = 20
    """After the file formats (10), before operating systems look for their kernels (40 up)."""

    @classmethod
    def stack(
        cls,
        context: "interfaces.context.ContextInterface",
        layer_name: str,
        progress_callback: "constants.ProgressCallback" = None,
    ) -> "interfaces.layers.DataLayerInterface | None":
        """Return the layer to put on top of ``layer_name``, or None."""
        via = os.environ.get(VIA_VARIABLE)
        if not via or isinstance(context.layers[layer_name], EptLayer):
            return None
        name = context.layers.free_layer_name("EptLayer")
        join = interfaces.configuration.path_join
        context.config[join(name, "base_layer")] = layer_name
        context.config[join(name, "via")] = via
        return EptLayer(context, name, name)
