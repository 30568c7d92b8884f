"""A small client of the remote protocol, and a system that runs beside it."""

import re
import socket
import threading

from turducken.gdb.stub.packets import escape, frame
from turducken.gdb.stub.server import Address, Server
from turducken.system import Mode, System, SystemOptions, find_image

PATIENCE = 60.0


def options(**changes):
    return SystemOptions(
        image=find_image("lhv-amd64"),
        **{"mode": Mode.BARE, "text": "tests=ept-note-page", **changes},
    )


class Client:
    """What a gdb would say."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.buffer = b""

    def send(self, payload):
        self.socket.sendall(frame(payload))

    def receive(self):
        while not (found := re.search(rb"\$([^#]*)#[0-9a-f]{2}", self.buffer)):
            data = self.socket.recv(1 << 16)
            assert data, "the stub has closed the connection"
            self.buffer += data
        self.buffer = self.buffer[found.end() :]
        self.socket.sendall(b"+")
        return found[1]

    def ask(self, payload):
        self.send(payload)
        return self.receive()

    def monitor(self, text):
        return bytes.fromhex(self.ask(b"qRcmd," + text.encode().hex().encode()).decode()).decode()

    def registers(self):
        return bytes.fromhex(self.ask(b"g").decode())

    def rip(self):
        return int.from_bytes(self.registers()[128:136], "little")

    def write_binary(self, address, data):
        return self.ask(b"X%x,%x:" % (address, len(data)) + escape(data))


class Run:
    """A system under a stub; it runs in a thread of its own."""

    def __init__(self, *, waits=True, wide=True, **changes):
        self.system = System(options(**changes))
        self.told = []
        self.server = Server(
            self.system, Address.parse("127.0.0.1:0"), self.told.append, waits=waits, wide=wide
        )
        self.result = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        self.result = self.system.run()
        self.server.finish(self.result)

    def connect(self):
        return Client(self.server.port)

    def join(self):
        self._thread.join(PATIENCE)
        assert self.result is not None, "the run has not ended"
        return self.result

    def symbol(self, name):
        return self.system.options.image.symbols.address_of(name)
