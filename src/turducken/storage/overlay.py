"""Images whose contents, or whose changes, are in memory."""

from turducken.storage.image import BlockImage, MediumError

_BLOCK = 4096


class Overlay:
    """An image with what has been written to it since in memory; the image is only read."""

    is_writable = True

    def __init__(self, image: BlockImage) -> None:
        self._image = image
        self.size = image.size
        self._blocks: dict[int, bytearray] = {}

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes, the written ones where there are some."""
        data = bytearray(length)
        end, at = offset + length, offset
        while at < end:
            stop = self._run(at, end)
            block = self._blocks.get(at // _BLOCK)
            if block is None:
                data[at - offset : stop - offset] = self._image.read(at, stop - at)
            else:
                first = at % _BLOCK
                data[at - offset : stop - offset] = block[first : first + stop - at]
            at = stop
        return bytes(data)

    def _run(self, at: int, end: int) -> int:
        """Return the end of the written block at ``at``, or of the run of unwritten ones."""
        number = at // _BLOCK
        if number in self._blocks or not self._blocks:
            stop = (number + 1) * _BLOCK if self._blocks else end
            return min(stop, end)
        while number * _BLOCK < end and number not in self._blocks:
            number += 1
        return min(number * _BLOCK, end)

    def write(self, offset: int, data: bytes) -> None:
        """Keep bytes."""
        done = 0
        while done < len(data):
            number, first = divmod(offset + done, _BLOCK)
            count = min(_BLOCK - first, len(data) - done)
            self._block(number)[first : first + count] = data[done : done + count]
            done += count

    def _block(self, number: int) -> bytearray:
        block = self._blocks.get(number)
        if block is None:
            start = number * _BLOCK
            content = self._image.read(start, min(_BLOCK, self.size - start))
            block = self._blocks[number] = bytearray(content.ljust(_BLOCK, b"\0"))
        return block

    def flush(self) -> None:
        """Nothing survives the program."""


class ReadOnly:
    """An image that nobody may write."""

    is_writable = False

    def __init__(self, image: BlockImage) -> None:
        self._image = image
        self.size = image.size

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the image."""
        return self._image.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Refuse."""
        raise MediumError("the image is read-only")

    def flush(self) -> None:
        """Nothing is written."""


class MemoryImage:
    """An image made of bytes at hand, which can be written."""

    is_writable = True

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes."""
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Replace bytes."""
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Nothing survives the program."""
