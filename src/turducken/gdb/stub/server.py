"""Listening for gdb, and carrying packets between it and a session."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from turducken.errors import UserError
from turducken.gdb.stub.debugger import Debugger, Stop
from turducken.gdb.stub.levels import Levels
from turducken.gdb.stub.packets import Reader, frame
from turducken.gdb.stub.session import Session
from turducken.system import Outcome, Result, System

LOCAL = "127.0.0.1"
_AGAIN = 0.02
"""Seconds between two requests to stop: one that comes just before the engine starts is lost."""


class GdbError(UserError):
    """The stub cannot listen as asked for."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a TCP port on a host, or a socket in the file system."""

    host: str = LOCAL
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``[HOST:]PORT`` or ``unix:PATH``; raise `GdbError` for anything else."""
        if text.startswith("unix:"):
            if not text[5:]:
                raise GdbError("--gdb unix: needs a path behind it")
            return cls(path=text[5:])
        host, _, port = text.rpartition(":")
        if not port.isdigit() or not 0 <= int(port) < 1 << 16:
            raise GdbError(f"--gdb {text!r}: write [HOST:]PORT or unix:PATH")
        return cls(host.strip("[]") or LOCAL, int(port))

    def listen(self) -> socket.socket:
        """Return a socket that listens there."""
        try:
            if self.path:
                with contextlib.suppress(FileNotFoundError):
                    if Path(self.path).is_socket():
                        os.unlink(self.path)
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(self.path)
            else:
                family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
                listener = socket.socket(family)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((self.host, self.port))
            listener.listen(1)
        except OSError as error:
            raise GdbError(f"--gdb: cannot listen there ({error.strerror or error})") from None
        return listener


class Server:
    """A stub for one system: one client at a time, which may leave and come again.

    ``tell`` is given a line for the user when there is something to know. ``wide`` says whether gdb
    is told of 64-bit registers; None leaves that to the image and the mode at the first stop.
    """

    def __init__(
        self,
        system: System,
        address: Address,
        tell: Callable[[str], None],
        *,
        waits: bool = True,
        wide: bool | None = None,
    ) -> None:
        self._system = system
        self._tell = tell
        self._listener = address.listen()
        self._address = address
        self.levels = Levels(system)
        self._debugger = Debugger(system.machine.processors, self.levels, self._talk)
        self._debugger.is_interrupted = waits
        self._session = Session(system, self.levels, self._debugger, wide=wide)
        self._connection: socket.socket | None = None
        self._reader = Reader()
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._is_running = False
        self._debugger.attach()
        where = address.path or "{}:{}".format(*self._listener.getsockname()[:2])
        tell(f"gdb: waiting at {where}" if waits else f"gdb: listening at {where}")
        if not waits:
            threading.Thread(target=self._welcome, daemon=True).start()

    @property
    def port(self) -> int:
        """The TCP port, where there is one."""
        return int(self._listener.getsockname()[1]) if not self._address.path else 0

    # The connection

    def _welcome(self) -> None:
        """Let a client in while the machine runs: that stops it."""
        if self._accept():
            self._interrupt()

    def _accept(self) -> bool:
        try:
            self._connection, _ = self._listener.accept()
        except OSError:
            return False  # closed
        if not self._address.path:
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader, self._queue = Reader(), SimpleQueue()
        self._session.is_over = False
        arguments = self._connection, self._queue
        threading.Thread(target=self._receive, args=arguments, daemon=True).start()
        return True

    def _receive(self, connection: socket.socket, queue: SimpleQueue[bytes | None]) -> None:
        """Take what the client sends, while the machine runs too."""
        while True:
            try:
                data = connection.recv(1 << 16)
            except OSError:
                data = b""
            queue.put(data or None)
            if queue is self._queue and self._is_running:
                self._interrupt()
            if not data:
                return

    def _interrupt(self) -> None:
        """Stop the machine where it is: gdb sends nothing while it runs, but to stop it."""
        self._debugger.is_interrupted = True
        while self._debugger.is_interrupted and self._is_running:
            running = self._system.machine.running
            if running is not None:
                running.engine.request_stop()
            time.sleep(_AGAIN)

    def _send(self, payload: bytes) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.sendall(frame(payload))

    # The conversation

    def _talk(self, stop: Stop) -> None:
        """Hold the machine until gdb lets it go."""
        self._is_running = False
        if self._connection is None:
            if not self._accept():
                self._debugger.detach()
                return
            self._session.stopped(stop)
        else:
            self._send(self._session.stopped(stop))
        self._reader.is_interrupted = False
        while not self._serve_one():
            pass
        self._is_running = True
        if self._reader.holds_interrupt or not self._queue.empty():
            self._debugger.is_interrupted = True  # it came together with the last packet

    def _serve_one(self) -> bool:
        """Answer what has come; return whether the machine is to run on."""
        payload, answer = self._reader.next()
        if answer and self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.sendall(answer)
        if payload is None:
            data = self._queue.get()
            if data is None:
                return self._left()
            self._reader.feed(data)
            return False
        reply = self._session.handle(payload)
        if reply is not None:
            self._send(reply)
        if self._session.wants_no_acknowledgements:
            self._session.wants_no_acknowledgements = False
            self._reader.acknowledges = False
        if self._session.is_over:
            return self._ended()
        return reply is None

    def _left(self) -> bool:
        """The client has gone without a word: the machine stands and waits for another."""
        self._close()
        self._debugger.clear()
        self._tell("gdb: the connection was closed; waiting for another")
        return not self._accept()

    def _ended(self) -> bool:
        self._close()
        self._debugger.clear()
        if self._session.is_killed:
            self._system.machine.end(Outcome.INTERRUPTED, 9)
            self._debugger.detach()
        else:
            self._session.is_over = False
            threading.Thread(target=self._welcome, daemon=True).start()
        return True

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._queue = SimpleQueue()

    def finish(self, result: Result) -> None:
        """Tell the client how the run has ended, and close."""
        self._is_running = False
        self._send(b"W%02x" % (result.exit_status & 0xFF))
        self._close()
        self._listener.close()
        if self._address.path:
            with contextlib.suppress(OSError):
                os.unlink(self._address.path)
