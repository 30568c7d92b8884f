"""A gdb stub of a few lines: enough of the protocol to read memory, as QEMU's or Bochs' answer."""

import socket
import threading


class FakeStub:
    """Serves ``memory`` on a local port; ``physical`` offers QEMU's mode for reading."""

    def __init__(self, memory, *, physical=True, packet_size=0x400, no_ack=True, hole=None):
        self.memory = memory
        self.physical = physical
        self.packet_size = packet_size
        self.no_ack = no_ack
        self.hole = hole
        self.mode = 0
        self.asked = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        self._server.close()
        self._thread.join(5)

    def _serve(self):
        try:
            while True:
                connection, _ = self._server.accept()
                with connection:
                    self._session(connection)
        except OSError:
            pass

    def _session(self, connection):
        buffer, acknowledge = b"", True
        while True:
            while b"#" not in buffer or len(buffer) < buffer.index(b"#") + 3:
                data = connection.recv(4096)
                if not data:
                    return
                buffer += data
            start, end = buffer.index(b"$"), buffer.index(b"#")
            packet, buffer = buffer[start + 1 : end].decode(), buffer[end + 3 :]
            self.asked.append(packet)
            answer = self._answer(packet).encode()
            if acknowledge:
                connection.sendall(b"+")
            connection.sendall(b"$%s#%02x" % (answer, sum(answer) & 0xFF))
            if packet == "QStartNoAckMode":
                acknowledge = False

    def _answer(self, packet):
        if packet.startswith("qSupported"):
            return f"PacketSize={self.packet_size:x}" + (";QStartNoAckMode+" if self.no_ack else "")
        if packet in ("QStartNoAckMode", "D"):
            return "OK"
        if packet == "qqemu.PhyMemMode":
            return str(self.mode) if self.physical else ""
        if packet.startswith("Qqemu.PhyMemMode:"):
            self.mode = int(packet[-1])
            return "OK"
        if packet.startswith("m"):
            address, length = (int(one, 16) for one in packet[1:].split(","))
            if length * 2 > self.packet_size or (self.hole and address in self.hole):
                return "E14"
            assert self.mode or not self.physical
            assert address // 4096 == (address + length - 1) // 4096
            return self.memory.read(address, length).hex()
        return ""
