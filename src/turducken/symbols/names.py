"""One place that names addresses, whoever asks: sanitizer, diagnoses, summary, report."""

from collections.abc import Sequence

from turducken.machine.boot import AnyImage
from turducken.machine.firmware.rom import RomImage
from turducken.symbols.files import SymbolFile
from turducken.symbols.lines import Lines
from turducken.symbols.linux import RunningKernel
from turducken.symbols.unwind import Frame, Unwinder, Word


class Names:
    """Describes addresses by an image's symbols and those of further files, which go first.

    What has been described once is remembered. Last comes ``running``, which reads the names of a
    Linux kernel in the guest's memory, whatever has loaded it.
    """

    def __init__(
        self,
        image: AnyImage | RomImage,
        files: Sequence[SymbolFile] = (),
        running: RunningKernel | None = None,
    ) -> None:
        own = SymbolFile(image.name, image.symbols, Lines(image.elf), unwinder=Unwinder(image.elf))
        self._image = own
        self._files = (*files, own)
        self._known: dict[int, str | None] = {}
        self._running = running

    def describe(self, address: int) -> str | None:
        """Return ``function+0x12, file.c:34``, as much of it as is known."""
        if address not in self._known:
            found = (one.describe(address) for one in self._files)
            named = next((one for one in found if one is not None), None)
            self._known[address] = named or self._image.lines.at(address)
        known = self._known[address]
        if known is None and self._running is not None:
            return self._running.describe(address)
        return known

    def caller(self, frame: Frame, word: Word, *, is_innermost: bool) -> Frame | None:
        """Return the frame that called ``frame``, where some file's call frame information tells.

        Addresses are linear; ``word`` reads words of the code's width there.
        """
        found = (one.caller(frame, word, is_innermost=is_innermost) for one in self._files)
        return next((one for one in found if one is not None), None)
