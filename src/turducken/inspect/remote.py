"""Physical memory of a machine behind a gdb remote stub.

The gdb remote protocol reads linear addresses. QEMU's stub (and turducken's) offers
``qqemu.PhyMemMode``, after which the same packets read physical memory. Bochs' stub has nothing of
the kind: what it reads is right only while paging is off, which the user must say.

gdb manual, "Remote Protocol"; QEMU documentation, "Examining physical memory" in "GDB usage".
"""

import socket
from collections.abc import Sequence

from turducken.address import PAGE_SIZE
from turducken.inspect.errors import InspectError
from turducken.inspect.source import Region
from turducken.memory import MemoryHoleError

DEFAULT_PACKET = 0x1000
TIMEOUT = 10.0


class Packets:
    """The packet layer: sends a packet, returns the reply's payload."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection = connection
        self._name = name
        self._buffer = b""
        self._acknowledge = True

    def ask(self, payload: str) -> str:
        """Send ``payload`` and return the answer; raise `InspectError` if none comes."""
        data = payload.encode("latin-1")
        try:
            self._connection.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))
            reply = self._reply()
        except OSError as error:
            raise InspectError(f"{self._name}: no answer from the stub ({error})") from None
        return reply.decode("latin-1")

    def stop_acknowledging(self) -> None:
        """Agree with the stub to leave out acknowledgements, if it can."""
        if self.ask("QStartNoAckMode") == "OK":
            self._acknowledge = False

    def _reply(self) -> bytes:
        while True:
            start = self._buffer.find(b"$")
            end = self._buffer.find(b"#", start)
            if start >= 0 and 0 <= end <= len(self._buffer) - 3:
                payload = self._buffer[start + 1 : end]
                self._buffer = self._buffer[end + 3 :]
                if self._acknowledge:
                    self._connection.sendall(b"+")
                return _unescape(payload)
            more = self._connection.recv(1 << 16)
            if not more:
                raise OSError("the connection was closed")
            self._buffer += more
            if len(self._buffer) > 1 << 22:
                raise OSError("the answer is not a gdb packet")


def _unescape(payload: bytes) -> bytes:
    """Undo escapes and run-length encoding: gdb manual, "Overview" of the remote protocol."""
    if b"}" not in payload and b"*" not in payload:
        return payload
    out = bytearray()
    at = 0
    while at < len(payload):
        byte = payload[at]
        if byte == ord("}") and at + 1 < len(payload):
            out.append(payload[at + 1] ^ 0x20)
            at += 1
        elif byte == ord("*") and at + 1 < len(payload) and out:
            out += bytes([out[-1]]) * (payload[at + 1] - 29)
            at += 1
        else:
            out.append(byte)
        at += 1
    return bytes(out)


class RemoteMemory:
    """Physical memory behind the stub at ``host:port``. See `turducken.inspect.source.Source`.

    The machine stops when a debugger connects. It stays stopped, unless ``resume``, which lets it
    run on when the source is closed. Pages are read once and kept.
    """

    def __init__(
        self, host: str, port: int, *, linear_is_physical: bool = False, resume: bool = False
    ) -> None:
        self.name = f"gdb:{host}:{port}"
        self.kind = "gdb remote"
        self.regions: Sequence[Region] | None = None
        self.roots: dict[str, int] = {}
        self.warnings: list[str] = []
        self.maxphyaddr: int | None = None
        self.paging: str | None = None
        self.ram: Sequence[Region] | None = None
        self.mtrrs: Sequence[tuple[int, int, int]] | None = None
        self.lacks: frozenset[str] = frozenset()
        self._pages: dict[int, bytes | None] = {}
        self._resume = resume
        try:
            self._connection = socket.create_connection((host, port), timeout=TIMEOUT)
        except OSError as error:
            raise InspectError(f"{self.name}: cannot connect ({error})") from None
        self._packets = Packets(self._connection, self.name)
        self._physical = False
        try:
            self._start(linear_is_physical=linear_is_physical)
        except BaseException:
            self._connection.close()
            raise

    def _start(self, *, linear_is_physical: bool) -> None:
        features = self._packets.ask("qSupported:").split(";")
        self._most = _packet_size(features) // 2
        if "QStartNoAckMode+" in features:
            self._packets.stop_acknowledging()
        if self._packets.ask("qqemu.PhyMemMode") in ("0", "1"):
            if self._packets.ask("Qqemu.PhyMemMode:1") != "OK":
                raise InspectError(f"{self.name}: the stub refuses to read physical memory")
            self._physical = True
        elif not linear_is_physical:
            raise InspectError(
                f"{self.name}: the stub reads linear addresses only (it has no qqemu.PhyMemMode; "
                "Bochs' stub has none); if paging is off in the machine, say gdb:HOST:PORT,linear"
            )

    def close(self) -> None:
        """Leave physical mode and the connection."""
        try:
            if self._physical:
                self._packets.ask("Qqemu.PhyMemMode:0")
            if self._resume:
                self._packets.ask("D")
        except InspectError:
            pass  # the stub has gone away; there is nothing to restore
        finally:
            self._connection.close()

    def load(self, address: int, size: int) -> int | None:
        """Return the little-endian word at ``address``, or None if the stub refuses to read it."""
        try:
            return int.from_bytes(self.read(address, size), "little")
        except MemoryHoleError:
            return None

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes; raise `MemoryHoleError` for pages that the stub refuses."""
        parts = []
        while length > 0:
            base = address - address % PAGE_SIZE
            page = self._page(base)
            if page is None:
                raise MemoryHoleError(address)
            part = page[address - base : address - base + length]
            parts.append(part)
            address += len(part)
            length -= len(part)
        return b"".join(parts)

    def _page(self, base: int) -> bytes | None:
        if base not in self._pages:
            self._pages[base] = self._fetch(base)
        return self._pages[base]

    def _fetch(self, base: int) -> bytes | None:
        # Never across a page: Bochs' stub reads the wrong bytes there.
        parts = []
        step = max(8, min(self._most, PAGE_SIZE) & ~7)
        for at in range(base, base + PAGE_SIZE, step):
            count = min(step, base + PAGE_SIZE - at)
            reply = self._packets.ask(f"m{at:x},{count:x}")
            try:
                data = bytes.fromhex(reply)
            except ValueError:
                return None
            if len(data) != count:
                return None
            parts.append(data)
        return b"".join(parts)

    def store(self, address: int, size: int, value: int) -> None:
        """Refuse: sources are read-only."""
        raise InspectError(f"{self.name} is read-only here")

    def write(self, address: int, data: bytes) -> None:
        """Refuse: sources are read-only."""
        raise InspectError(f"{self.name} is read-only here")


def _packet_size(features: list[str]) -> int:
    for feature in features:
        name, _, value = feature.partition("=")
        if name == "PacketSize":
            try:
                return max(64, min(int(value, 16), 1 << 20))
            except ValueError:
                break
    return DEFAULT_PACKET // 4


def open_remote(text: str, *, resume: bool = False) -> RemoteMemory:
    """Open what ``gdb:[HOST:]PORT[,linear]`` names (without the ``gdb:``)."""
    place, *options = text.split(",")
    host, _, port = place.rpartition(":")
    if any(one != "linear" for one in options) or not port.isdigit() or int(port) > 65535:
        raise InspectError(f"gdb:{text}: a remote is named gdb:HOST:PORT, or gdb:HOST:PORT,linear")
    linear = "linear" in options
    return RemoteMemory(host or "localhost", int(port), linear_is_physical=linear, resume=resume)
