"""The packet layer of the remote protocol, as a stub speaks it. gdb manual, "Overview"."""

MAX_PACKET = 1 << 16
INTERRUPT = 0x03
_ESCAPED = b"#$}*"


def escape(payload: bytes) -> bytes:
    """Return binary data as a packet may carry it."""
    if not any(one in payload for one in _ESCAPED):
        return payload
    out = bytearray()
    for byte in payload:
        if byte in _ESCAPED:
            out += bytes((ord("}"), byte ^ 0x20))
        else:
            out.append(byte)
    return bytes(out)


def unescape(payload: bytes) -> bytes:
    """Return what `escape` was given."""
    out, at = bytearray(), 0
    while at < len(payload):
        if payload[at] == ord("}") and at + 1 < len(payload):
            out.append(payload[at + 1] ^ 0x20)
            at += 2
        else:
            out.append(payload[at])
            at += 1
    return bytes(out)


def frame(payload: bytes) -> bytes:
    """Return a payload (already escaped) as a packet."""
    return b"$%s#%02x" % (payload, sum(payload) & 0xFF)


class Reader:
    """Takes bytes as they come, and gives packets; garbage between packets is passed over.

    ``acknowledges`` says whether packets are answered with ``+`` and ``-``.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.acknowledges = True
        self.is_interrupted = False
        """An interrupt has come between packets."""

    @property
    def holds_interrupt(self) -> bool:
        """An interrupt has come behind the last packet."""
        return INTERRUPT in self._buffer.partition(b"$")[0]

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection."""
        self._buffer += data

    def next(self) -> tuple[bytes | None, bytes]:
        """Return (payload of the next packet or None, bytes to answer)."""
        answer = b""
        while True:
            start = self._buffer.find(b"$")
            between = self._buffer if start < 0 else self._buffer[:start]
            if INTERRUPT in between:
                self.is_interrupted = True
            if start < 0:
                self._buffer.clear()
                return None, answer
            del self._buffer[:start]
            end = self._buffer.find(b"#")
            if end < 0 or len(self._buffer) < end + 3:
                if len(self._buffer) > MAX_PACKET:
                    del self._buffer[:1]
                    continue
                return None, answer
            payload, check = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
            again = payload.rfind(b"$")
            if again >= 0:  # a packet that was cut off, and another one
                del self._buffer[: again + 1]
                continue
            del self._buffer[: end + 3]
            if not self.acknowledges:
                return payload, answer
            if check.lower() == b"%02x" % (sum(payload) & 0xFF):
                return payload, answer + b"+"
            answer += b"-"
